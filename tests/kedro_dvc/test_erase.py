"""What an erasure finds and deletes, in a small DVC project with a history."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from contextlib import chdir
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from dvc.repo import Repo

from kedro_dvc.cli import dvc
from kedro_dvc.erase import (
    ErasurePlan,
    HashFileDB,
    erase,
    not_reached,
    outputs_named,
    plan_erasure,
)
from kedro_dvc.evidence import read_erasures
from kedro_dvc.files import WorkflowError
from kedro_dvc.project import load_study

ROOT = Path(__file__).parents[2]
WRITE = "  write: {cmd: cp text made.txt, deps: [text], outs: [made.txt]}\n"
COPY = "  copy: {cmd: cp text copied.txt, deps: [text], outs: [copied.txt]}\n"
FOLDER = "  fill: {cmd: mkdir in && cp text in/a, deps: [text], outs: [in]}\n"


class Small:
    """A DVC project whose stage copies a text, and the remote that it pushes to."""

    def __init__(self, root: Path, remote: Path) -> None:
        self.root, self.remote = root, remote

    def git(self, *command: str) -> None:
        """Run a command of git."""
        subprocess.run(["git", *command], cwd=self.root, check=True, capture_output=True)

    def made_of(self, text: str, stages: str = WRITE) -> None:
        """Let the stages run on a text, and push what they make."""
        (self.root / "text").write_text(text)
        (self.root / "dvc.yaml").write_text("stages:\n" + stages)
        with Repo() as repo:
            repo.reproduce()
            repo.push()

    def recorded(self, text: str, stages: str = WRITE) -> None:
        """Do that, and commit it."""
        self.made_of(text, stages)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", text)

    def holding(self, text: str) -> list[str]:
        """Return where DVC still has a text."""
        tops = {"cache": self.root / ".dvc/cache", "remote": self.remote, "here": self.root}
        return [
            name
            for name, top in tops.items()
            for path in (top.glob("*.txt") if name == "here" else top.rglob("*"))
            if path.is_file() and path.read_text() == text
        ]


@pytest.fixture
def small(tmp_path, monkeypatch) -> Small:
    """A project in which nothing has run."""
    project = Small(tmp_path / "project", tmp_path / "remote")
    project.root.mkdir()
    monkeypatch.chdir(project.root)
    project.git("init", "--quiet")
    Repo.init().close()
    with Repo() as repo, repo.config.edit() as config:
        config["remote"]["there"] = {"url": str(project.remote)}
        config["core"]["remote"] = "there"
    return project


def _planned(*paths: str, **options: bool) -> ErasurePlan:
    with Repo() as repo:
        return plan_erasure(repo, paths, **options)


def _erased(*paths: str, **options: bool) -> list[str]:
    with Repo() as repo:
        return erase(repo, plan_erasure(repo, paths, **options))


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def test_each_version_is_listed_with_where_it_is(small):
    small.recorded("first")
    small.recorded("second")

    found = {one.md5: (one.path, one.size, at) for one, at in _planned("made.txt").versions.items()}

    assert found == {
        _md5("first"): ("made.txt", 5, ["cache", "remote there"]),
        _md5("second"): ("made.txt", 6, ["workspace", "cache", "remote there"]),
    }


def test_nothing_is_left_of_any_version_that_git_or_the_run_cache_knows(small):
    """One tagged, one stashed, one whose commit was taken back, one never committed."""
    small.recorded("of the first commit")
    small.git("switch", "--quiet", "--detach")
    small.recorded("of a tag")
    small.git("tag", "kept")
    small.git("switch", "--quiet", "-")
    small.git("reflog", "expire", "--expire=now", "--all")  # that knows the tagged commit, too
    small.made_of("stashed")
    small.git("stash", "--quiet")
    small.recorded("taken back")
    small.git("reset", "--quiet", "--hard", "HEAD~1")
    shutil.rmtree(small.root / ".dvc/cache/runs")  # that knows them all
    small.made_of("never committed")
    small.made_of("of now")
    lock = (small.root / "dvc.lock").read_bytes()
    in_git = ["of the first commit", "of a tag", "stashed", "taken back"]
    texts = [*in_git, "never committed", "of now"]
    assert all({"cache", "remote"} <= set(small.holding(text)) for text in texts)

    assert _erased("made.txt") == []

    assert [small.holding(text) for text in texts] == [[]] * len(texts)
    assert (small.root / "dvc.lock").read_bytes() == lock


def test_a_folder_goes_with_its_listing_and_its_files(small):
    """But for the object of `a`, which another stage has made, too."""
    small.recorded("inside", WRITE + FOLDER.replace("in/a,", "in/a && echo b > in/b,"))
    before = set((small.root / ".dvc/cache/files").rglob("*"))

    assert [one.path for one in _planned("in").versions] == ["in", "in/a", "in/b"]
    assert _erased("in") == []

    gone = before - set((small.root / ".dvc/cache/files").rglob("*"))
    assert sorted(path.suffix for path in gone) == ["", ".dir"]
    assert not (small.root / "in").exists()


def test_what_another_output_holds_too_is_kept_and_named(small):
    """The file `a` of the folder, and another stage's copy."""
    small.recorded("same", WRITE + COPY + FOLDER)

    planned = _planned("made.txt")

    assert list(planned.versions.values()) == [["workspace"]]
    assert [one.path for one in planned.shared] == ["copied.txt", "in/a"]
    assert f"  copied.txt  {_md5('same')}" in str(planned)


def test_it_is_deleted_everywhere_if_asked_for(small):
    small.recorded("same", WRITE + COPY + FOLDER)

    assert _erased("made.txt", shared=True) == []

    assert small.holding("same") == []
    assert not (small.root / "in/a").exists()


def test_a_file_that_no_lock_knows_is_deleted(small):
    small.recorded("as recorded")
    (small.root / "made.txt").write_text("changed by hand")

    _erased("made.txt")

    assert not (small.root / "made.txt").exists()


def test_what_was_erased_can_be_made_and_pushed_again(small):
    """DVC notes which files of folders a remote has; it must not go on believing that."""
    small.recorded("again", WRITE + FOLDER)
    _erased("made.txt", "in")

    small.made_of("again", WRITE)

    assert small.holding("again") == ["cache", "remote", "here"]


def test_a_remote_that_is_not_there_is_named(small):
    small.recorded("text")
    small.remote.rename(small.remote.with_name("elsewhere"))

    planned = _planned("made.txt")

    assert planned.unsearched == [f"remote there: there is no {small.remote}/files/md5"]


def test_a_store_that_refuses_is_named_with_its_reason(small, monkeypatch):
    def refuse(self: HashFileDB, md5: str) -> None:
        raise PermissionError("Access Denied")

    small.recorded("text")
    monkeypatch.setattr(HashFileDB, "delete", refuse)

    assert _erased("made.txt") == [
        f"{place} still has {_md5('text')}: Access Denied" for place in ("cache", "remote there")
    ]


@pytest.fixture
def fixed(small, monkeypatch):
    """A folder in the workspace from which nothing can be deleted."""
    small.recorded("text", FOLDER)
    refused = PermissionError(13, "Permission denied")

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise refused

    def refuse_tree(path: Path, *args: object, **how: object) -> None:
        if not how.get("ignore_errors", args and args[0]):
            raise refused

    monkeypatch.setattr(Path, "unlink", refuse)
    monkeypatch.setattr(shutil, "rmtree", refuse_tree)
    return small


def test_what_cannot_be_deleted_in_the_workspace_is_named_and_all_else_goes(fixed):
    assert _erased("in") == [
        "workspace still has in/a: Permission denied",
        "workspace still has in: Permission denied",
    ]
    assert not set(fixed.holding("text")) & {"cache", "remote"}


def test_the_command_does_not_say_deleted_of_what_is_still_there(fixed, monkeypatch):
    monkeypatch.setattr("kedro_dvc.project.load_study", lambda *args: None)
    monkeypatch.setattr("kedro_dvc.erase.outputs_named", lambda *args: {"in": True})

    ended = CliRunner().invoke(dvc, ["erase", "anything", "--yes"])

    assert ended.exit_code == 1
    assert "Deleted" not in ended.output
    assert "- workspace still has in: Permission denied" in ended.output


def test_it_is_recorded_what_was_erased_for_whom_and_when(small, monkeypatch):
    """Also if the command that deleted was killed; what is noted so already is not noted twice."""
    monkeypatch.setattr("kedro_dvc.project.load_study", lambda *args: None)
    monkeypatch.setattr("kedro_dvc.erase.outputs_named", lambda *args: {"made.txt": True})
    small.recorded("text")
    today = datetime(2020, 2, 28, tzinfo=UTC)
    monkeypatch.setattr("kedro_dvc.erase.datetime", SimpleNamespace(now=lambda zone: today))

    def erased(*options: str) -> list[tuple[tuple[str, ...], str | None]]:
        ended = CliRunner().invoke(dvc, ["erase", "anything", "--yes", *options])
        assert ended.exit_code == 0, ended.output
        assert "evidence/base/erased.json says when: commit it." in ended.output
        return [(one.paths, one.purpose) for one in read_erasures(small.root, "base")]

    with monkeypatch.context() as patch:
        patch.setattr("kedro_dvc.erase.record_erasure", lambda *args: None)  # as if killed
        assert erased("--for", "17") == []
    first = erased("--for", "17")
    today = datetime(2020, 2, 29, tzinfo=UTC)
    again, other = erased(), erased("--for", "18")
    dates = {one.date for one in read_erasures(small.root, "base")}

    assert first == again == [(("made.txt",), "17")]
    assert other == [(("made.txt",), "17"), (("made.txt",), "18")]
    assert dates == {"2020-02-28T00:00:00+00:00"}


def test_what_could_not_be_deleted_is_not_recorded_as_erased(fixed, monkeypatch):
    monkeypatch.setattr("kedro_dvc.project.load_study", lambda *args: None)
    monkeypatch.setattr("kedro_dvc.erase.outputs_named", lambda *args: {"in": True})

    CliRunner().invoke(dvc, ["erase", "anything", "--yes"])

    assert read_erasures(fixed.root, "base") == []


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '[{"date": "2026-11-25", "for": null, "paths": []}]', "[" * 9999]
)
def test_a_record_of_erasures_that_is_none_is_one_line(tmp_path, text):
    (tmp_path / "evidence/base").mkdir(parents=True)
    (tmp_path / "evidence/base/erased.json").write_text(text)

    with pytest.raises(
        WorkflowError, match=r"^evidence/base/erased\.json is no record of erasures"
    ):
        read_erasures(tmp_path, "base")


def test_a_refusal_is_told_though_the_store_no_longer_lists_the_object(small, monkeypatch):
    """Who may not delete may not see either: what cannot be seen is not known to be gone."""

    def refuse(self: HashFileDB, md5: str) -> None:
        raise PermissionError("Access Denied")

    small.recorded("text")
    planned = _planned("made.txt")
    monkeypatch.setattr(HashFileDB, "delete", refuse)
    monkeypatch.setattr(HashFileDB, "list_oids_exists", lambda self, md5s: iter(()))

    with Repo() as repo:
        assert [line.partition(":")[2] for line in erase(repo, planned)] == [" Access Denied"] * 2


def test_a_shallow_clone_says_that_it_does_not_know_all(small, tmp_path):
    small.recorded("first")
    small.recorded("second")
    small.git("clone", "--quiet", "--depth", "1", f"file://{small.root}", str(tmp_path / "clone"))

    with chdir(tmp_path / "clone"):
        assert "shallow clone" in _planned("made.txt").unknown[0]


def test_a_folder_whose_listing_is_gone_is_told(small):
    small.recorded("text", FOLDER)
    for path in (small.root / ".dvc/cache", small.remote):
        shutil.rmtree(path / "files")

    assert _planned("in").unknown[0].startswith("the files of in when it was ")


def test_what_dvc_does_not_cache_may_be_in_git(small):
    assert not_reached(_planned("x"), {"x": False, "y": True})[0] == "the commits that hold x"


def test_only_outputs_of_the_study_can_be_erased():
    with chdir(ROOT):
        study = load_study(ROOT, "smoke")

        assert outputs_named(study, ["forget_set", "metrics"]) == {
            "studies/smoke/data/03_primary/forget_set.jsonl": True,
            "studies/smoke/data/08_reporting/metrics.json": False,
        }
        with pytest.raises(WorkflowError, match=r"'forget' is no output .*'smoke'; these are: for"):
            outputs_named(study, ["retain_set", "forget"])


@pytest.mark.parametrize("name", ["raw/mine", "raw/mine/", "raw/mine.dvc"])
def test_own_data_that_dvc_add_tracks_are_erased_by_their_path(small, name):
    """Both versions of the folder: .dvc files of all commits tell of them."""
    with chdir(ROOT):
        study = load_study(ROOT, "smoke")
    (small.root / "raw/mine").mkdir(parents=True)
    for text in ("first", "second"):
        (small.root / "raw/mine/forget.txt").write_text(text)
        with Repo() as repo:
            repo.add("raw/mine")
            repo.push()
        small.git("add", "--all")
        small.git("commit", "--quiet", "--message", text)

    outputs = outputs_named(replace(study, project=small.root), [name])
    failures = _erased(*outputs)

    assert outputs == {"raw/mine": True}
    assert failures == []
    assert small.holding("first") + small.holding("second") == []
    assert not (small.root / "raw/mine").exists()
    assert (small.root / "raw/mine.dvc").exists()


def test_an_erasure_outside_git_says_why_it_cannot_be(small):
    shutil.rmtree(small.root / ".git")
    (small.root / ".dvc/config").write_text("[core]\n    no_scm = true\n")

    with Repo() as repo, pytest.raises(WorkflowError, match="git's history has the versions"):
        plan_erasure(repo, ["made.txt"])


def test_a_lock_with_a_conflict_in_the_history_is_told_and_the_others_are_read(small):
    small.recorded("one")
    lock = small.root / "dvc.lock"
    text = lock.read_text()
    lock.write_text(f"<<<<<<< HEAD\n{text}>>>>>>> other\n")
    small.git("commit", "--quiet", "--all", "--message", "a merge's conflict")
    lock.write_text(text)
    small.recorded("two")

    with Repo() as repo:
        plan = plan_erasure(repo, ["made.txt"])

    assert {one.md5 for one in plan.versions} == {
        hashlib.md5(text.encode()).hexdigest() for text in ("one", "two")
    }
    assert [line for line in plan.unknown if "what dvc.lock in the object" in line]
