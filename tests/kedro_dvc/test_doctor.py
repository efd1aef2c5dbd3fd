"""What the doctor finds in a small project of DVC that has run: real files and real processes."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from click.testing import CliRunner
from dvc.cli import main
from dvc.repo import Repo

from kedro_dvc import doctor
from kedro_dvc.cli import dvc
from kedro_dvc.disk import StudiesOnDisk
from kedro_dvc.doctor import (
    Finding,
    cache_place,
    leftovers,
    links,
    locks,
    objects,
    orphans,
    outputs,
    space,
    unread_configuration,
)
from kedro_dvc.files import WorkflowError

# `one` and `two` with a line break, by md5sum
ONE, TWO = "5bbf5a52328e7439ae6e719dfe712200", "c193497a1a06b2c72230e6146ff47080"
FOLDER = "b62694f50ab7d312b198d3af525e57aa.dir"  # of `x` that is TWO: see test_hashing
STUDIES = ("base", "mine")
STAGE = "studies/mine/dvc.yaml:make"
SLEEP = "import time; time.sleep(60)"
START = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEP!r}])"

STAGES = """\
stages:
  make:
    cmd: mkdir folder && echo one > file && echo two > folder/x && echo one > metric
    outs: [file, folder]
    metrics:
    - metric: {cache: false}
"""
OF_A_STUDY = """\
stages:
  make:
    cmd: mkdir -p studies/mine/data && echo one > studies/mine/data/file
    wdir: ../..
    outs: [studies/mine/data/file]
"""

Check = Callable[[StudiesOnDisk], Iterator[Finding]]


class Project(NamedTuple):
    """A project, and what its checks find."""

    root: Path

    def object(self, md5: str) -> Path:
        """Return the file of an object in the cache."""
        return self.root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]

    def found(
        self, check: Check, studies: tuple[str, ...] = ("base",), whole_cache: bool = True
    ) -> list[Finding]:
        """Return what a check finds."""
        with Repo(str(self.root)) as repo:
            return list(check(StudiesOnDisk(self.root, list(studies), repo, whole_cache)))

    def bad(self, check: Check, **how: bool) -> list[Finding]:
        """Return what a check finds that is not as it should be."""
        return [finding for finding in self.found(check, **how) if finding.level != "ok"]

    def run(self) -> None:
        """Run all stages that need it."""
        with Repo(str(self.root)) as repo:
            repo.reproduce(all_pipelines=True)

    def status(self) -> dict[str, object]:
        """Return what DVC finds changed."""
        with Repo(str(self.root)) as repo:
            return repo.status()

    def configure(self, section: str, **values: str) -> None:
        """Set what DVC is configured with."""
        with Repo(str(self.root)) as repo, repo.config.edit() as config:
            config[section].update(values)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The project, which is also the working directory, after its stages have run."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    root = tmp_path / "project"
    (root / "studies/mine").mkdir(parents=True)
    monkeypatch.chdir(root)
    Repo.init(no_scm=True).close()
    (root / "dvc.yaml").write_text(STAGES)
    (root / "studies/mine/dvc.yaml").write_text(OF_A_STUDY)
    made = Project(root)
    made.run()
    return made


def tamper(path: Path) -> None:
    """Change a byte of a file; its size, inode, mode and time of change stay as they are.

    It is the fourth from the end, so that a folder's listing goes on being JSON.
    """
    facts = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"X")
    path.chmod(facts.st_mode)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def test_a_dvc_yaml_that_is_behind_or_cannot_be_made_is_an_error(project, monkeypatch):
    def sync(root: Path, study: str, write: bool) -> bool:
        assert not write
        if study == "broken":
            raise WorkflowError("no catalog")
        return study == "mine"

    monkeypatch.setattr(doctor, "sync", sync)

    assert project.found(doctor.stages, ("base", "mine", "broken")) == [
        ("ERROR", "studies/mine/dvc.yaml is behind the project: run `kedro dvc sync`"),
        ("ERROR", "studies/broken/dvc.yaml cannot be made from the project: no catalog"),
    ]
    assert project.found(doctor.stages, ("base",)) == [
        ("ok", "dvc.yaml of base is what the project makes")
    ]


@pytest.mark.parametrize(("level", "code"), [("ok", 0), ("warning", 0), ("ERROR", 1)])
def test_the_command_fails_for_an_error_and_for_nothing_less(project, monkeypatch, level, code):
    findings = [Finding(level, "this"), Finding("ok", "that")]
    monkeypatch.setattr(doctor, "examine", lambda *args, **how: iter(findings))

    ended = CliRunner().invoke(dvc, ["doctor"])

    assert ended.exit_code == code
    assert ended.output.splitlines() == [f"{level:7}  this", "ok       that"]


def test_the_command_makes_every_check_and_mends_nothing(project, monkeypatch):
    monkeypatch.setattr(doctor, "sync", lambda *args, **how: False)
    tamper(project.root / "file")
    before = (project.root / "file").read_bytes()

    ended = CliRunner().invoke(dvc, ["doctor", "--env", "base"])

    assert ended.exit_code == 1
    levels = [line.split()[0] for line in ended.output.splitlines()]
    assert levels == ["ok"] * 3 + ["ERROR"] + ["ok"] * 7
    assert (project.root / "file").read_bytes() == before


def test_a_study_that_does_not_exist_is_refused(project):
    ended = CliRunner().invoke(dvc, ["doctor", "--env", "nowhere"])

    assert ended.exit_code == 1
    assert "There is no study 'nowhere'" in ended.output


def _follow(text: str) -> None:
    """Do what the message says first."""
    for command in text.split("`")[1].split(" && "):
        program, *words = shlex.split(command)
        if program == "dvc":
            assert main(words) == 0
        else:
            subprocess.run([program, *words], check=True)


def test_outputs_as_they_were_made_are_counted(project):
    """Three of base, one of the study, whose paths go from the project's root."""
    assert project.found(outputs, STUDIES) == [
        ("ok", "4 outputs in the workspace as dvc.lock records")
    ]


@pytest.mark.parametrize(
    ("tampered", "output", "right"),
    [("file", "file", ONE), ("folder/x", "folder", FOLDER), ("metric", "metric", ONE)],
)
def test_bytes_that_changed_behind_dvc_are_an_error(project, tampered, output, right):
    tamper(project.root / tampered)

    [finding] = project.bad(outputs)

    assert project.status() == {}
    assert finding.level == "ERROR"
    assert finding.text.startswith(f"{output} is not what its stage wrote (")
    assert f"recorded is {right[:8]}) and DVC does not notice" in finding.text


@pytest.mark.parametrize("tampered", ["file", "folder/x", "metric"])
def test_the_way_out_of_changed_bytes_leads_out(project, tampered):
    """The metric is not cached, though an object with its bytes is."""
    before = (project.root / tampered).read_text()
    tamper(project.root / tampered)

    _follow(project.bad(outputs)[0].text)

    assert (project.root / tampered).read_text() == before
    assert project.bad(outputs) == []


def test_the_way_out_of_a_name_with_spaces_leads_out_and_deletes_nothing_else(project):
    """Unquoted, `rm -rf a file` would delete the output `file`."""
    made = STAGES.replace("[file, folder]", "[file, folder, a file]")
    (project.root / "dvc.yaml").write_text(made.replace("cmd: ", "cmd: echo two > 'a file' && "))
    project.run()
    tamper(project.root / "a file")

    [finding] = project.bad(outputs)
    _follow(finding.text)

    assert "`rm -rf 'a file' && dvc checkout 'a file'`" in finding.text
    assert (project.root / "file").exists()
    assert project.bad(outputs) == []


def test_where_the_cache_is_damaged_as_well_the_way_out_leads_out(project):
    tamper(project.root / "file")
    tamper(project.object(ONE))

    _follow(project.bad(outputs)[0].text)

    assert project.bad(outputs) == []
    assert project.bad(objects) == []


def test_a_change_that_dvc_sees_is_a_warning(project):
    (project.root / "file").write_text("another")

    [finding] = project.bad(outputs)

    assert finding.level == "warning"
    assert "file has changed since its stage ran: `dvc repro dvc.yaml:make`" in finding.text


def test_outputs_that_are_not_there_are_counted_by_study(project):
    (project.root / "file").unlink()
    shutil.rmtree(project.root / "folder")
    (project.root / "studies/mine/data/file").unlink()

    texts = [text for level, text in project.found(outputs, STUDIES) if level == "warning"]

    assert [text.partition(":")[0] for text in texts] == [
        "2 outputs of base not in the workspace",
        "1 output of mine not in the workspace",
    ]
    assert "`dvc pull studies/mine/dvc.yaml`" in texts[1]
    assert "`kedro dvc run --env mine`" in texts[1]


def test_what_dvc_ignores_in_a_folder_does_not_count(project):
    (project.root / ".dvcignore").write_text("__pycache__/\n")
    (project.root / "folder/__pycache__").mkdir()
    (project.root / "folder/__pycache__/a.pyc").write_text("new")

    assert project.bad(outputs) == []


def test_a_stage_that_is_no_more_leaves_no_outputs(project):
    (project.root / "file").unlink()
    (project.root / "dvc.yaml").write_text("stages: {}")

    assert project.found(outputs) == [("ok", "0 outputs in the workspace as dvc.lock records")]


def test_objects_that_are_what_their_names_say_are_counted(project):
    """The file, the folder's listing and its one file; the study's file is the same as base's."""
    assert project.found(objects, STUDIES) == [
        ("ok", "3 objects in DVC's cache as named; the outputs need 3 of 3")
    ]


@pytest.mark.parametrize(("md5", "output"), [(ONE, "file"), (TWO, "folder"), (FOLDER, "folder")])
def test_a_read_only_object_with_another_byte_is_an_error(project, md5, output):
    tamper(project.object(md5))

    [finding] = project.bad(objects)

    assert project.status() == {}
    assert finding.level == "ERROR"
    assert f"{md5[2:]} is damaged, and a checkout would make {output} of it" in finding.text


@pytest.mark.parametrize(
    ("md5", "whole"), [(ONE, True), (TWO, True), (FOLDER, True), (ONE, False), (FOLDER, False)]
)
def test_the_way_out_of_a_damaged_object_leads_out(project, md5, whole):
    before = project.object(md5).read_bytes()
    tamper(project.object(md5))
    if not whole:
        for name in ("file", "folder/x"):
            (project.root / name).write_text("another")

    _follow(project.bad(objects)[0].text)

    assert project.object(md5).read_bytes() == before
    assert project.bad(objects) == []
    assert project.status() == {}


def test_an_object_of_no_output_is_a_warning_if_the_whole_cache_is_read(project):
    (project.root / "file").write_text("two\n")
    old = project.object("0123456789abcdef0123456789abcdef")
    old.parent.mkdir()
    old.write_text("of another commit")

    [finding] = project.bad(objects, whole_cache=True)

    assert finding.level == "warning"
    assert old.name in finding.text
    assert project.bad(objects, whole_cache=False) == []


@pytest.mark.parametrize("kind", ["hardlink", "symlink"])
def test_a_link_that_can_be_written_to_is_a_warning(project, kind):
    path = project.root / "file"
    path.unlink()
    getattr(path, f"{kind}_to")(project.object(ONE))
    assert project.bad(links) == []  # DVC has made the object read-only

    path.chmod(0o644)
    [finding] = project.bad(links)
    _follow(finding.text)
    path.write_text("new")

    assert finding.level == "warning"
    assert finding.text.startswith("file is a link into DVC's cache that can be written to")
    assert project.bad(links) == []
    assert project.object(ONE).read_text() == "one\n"


def test_a_file_of_its_own_can_be_written_to(project):
    assert (project.root / "file").stat().st_mode & 0o200
    assert project.found(links) == [("ok", "no output is a writable link into DVC's cache")]


def test_links_that_dvc_made_are_noticed_too(project):
    project.configure("cache", type="hardlink")
    for name in ("file", "folder/x"):
        (project.root / name).unlink()
    project.run()
    assert (project.root / "folder/x").samefile(project.object(TWO))

    Path("folder/x").chmod(0o664)

    assert ["folder" in text for _, text in project.bad(links)] == [True]


def test_a_stage_without_dvc_is_an_error_that_names_it_and_its_processes(project):
    with _started(project, SLEEP, STAGE) as process:
        [finding] = project.found(orphans)

    assert finding == (
        "ERROR",
        f"{STAGE} still runs without DVC and may write its outputs at any time: "
        f"`kill {process.pid}`",
    )
    assert project.found(orphans) == [("ok", "no stage runs without DVC")]


@pytest.mark.parametrize("name", ["dvc", "kedro"])
def test_a_stage_that_dvc_has_started_is_none_until_dvc_dies(project, tmp_path, name):
    script = tmp_path / name
    script.write_text(
        "import os, subprocess, sys\n"
        f"stage = dict(os.environ, DVC_STAGE={STAGE!r}, DVC_ROOT={str(project.root)!r})\n"
        f"subprocess.run([sys.executable, '-c', {SLEEP!r}], env=stage)\n"
    )
    with subprocess.Popen([sys.executable, script]) as runner:
        child = _child(runner.pid)
        try:
            before = project.bad(orphans)
            runner.kill()
            runner.wait()
            after = project.bad(orphans)
        finally:
            child.kill()

    assert before == []
    assert [f"`kill {child.pid}`" in text for _, text in after] == [True]


def test_a_stage_is_not_its_own_runner_though_it_is_a_kedro_run(project, tmp_path):
    """What the stage has started is as lost as the stage."""
    (tmp_path / "kedro").write_text(START)
    with _started(project, tmp_path / "kedro", STAGE) as process:
        child = _child(process.pid)
        [finding] = project.found(orphans)
        child.kill()

    pids = sorted([process.pid, child.pid])
    assert finding.text.endswith(f"`kill {pids[0]} {pids[1]}`")


def test_who_has_locked_files_may_start_stages_under_any_name(project):
    _lock(project, os.getpid())
    with _started(project, SLEEP, STAGE):
        assert project.bad(orphans) == []


def test_a_stage_of_another_project_is_none_of_ours(project, tmp_path):
    with _started(project._replace(root=tmp_path), SLEEP, STAGE):
        assert project.bad(orphans) == []


def test_locks_of_the_dead_and_of_the_living_are_told_apart(project):
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    _lock(project, ended.pid, os.getpid())

    assert {text for _, text in project.found(locks)} == {
        f"process {ended.pid} (dvc repro) died with files locked, DVC unlocks them",
        f"process {os.getpid()} (dvc repro) is at work: look again when it has ended",
    }


def test_a_table_of_locks_that_dvc_cannot_read_is_an_error(project):
    (project.root / ".dvc/tmp/rwlock").write_text("")

    assert project.found(locks) == [
        ("ERROR", ".dvc/tmp/rwlock is broken, and DVC cannot run: delete it")
    ]
    assert project.bad(orphans) == []


def test_after_a_run_nothing_is_locked(project):
    assert project.found(locks) == [("ok", "no process has files of stages locked")]


@contextmanager
def _started(project: Project, what: str | Path, stage: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run Python as a stage of the project; DVC is not among its parents."""
    environment = {**os.environ, "DVC_STAGE": stage, "DVC_ROOT": str(project.root)}
    options = [str(what)] if isinstance(what, Path) else ["-c", what]
    with subprocess.Popen([sys.executable, *options], env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def _child(pid: int) -> psutil.Process:
    """Return the process that another one starts, once it has an environment of its own."""
    while not (children := psutil.Process(pid).children()) or SLEEP not in children[0].cmdline():
        time.sleep(0.01)
    return children[0]


def _lock(project: Project, *pids: int) -> None:
    """Let processes seem to use files of stages."""
    used = [{"pid": pid, "cmd": "dvc repro"} for pid in pids]
    table = {"write": {"/out": used[0]}, "read": {"/dep": used[1:]}}
    (project.root / ".dvc/tmp/rwlock").write_text(json.dumps(table))


def test_half_written_files_and_folders_beside_outputs_are_told(project):
    (project.root / "file.tmp").touch()
    (project.root / "studies/mine/data/folder.tmp").mkdir()
    (project.root / "studies/elsewhere.tmp").touch()

    [finding] = project.found(leftovers, ("base", "mine"))

    assert finding.level == "warning"
    assert finding.text.endswith(": file.tmp, studies/mine/data/folder.tmp")


def test_without_half_written_files_all_is_well(project):
    assert project.found(leftovers) == [("ok", "no half-written file lies beside an output")]


@pytest.mark.parametrize(
    ("file", "is_told"),
    [
        ("local/parameters.yml", True),
        ("local/deep/anything.yaml", True),
        ("local/.gitkeep", False),
        ("local/credentials.yml", False),
        ("local/credentials_aws.yml", False),
        ("forgotten/catalog_more.yml", True),
        ("forgotten/parameters/deep.yml", True),
        ("forgotten/notes.yml", False),
        ("mine/parameters.yml", False),
        ("base/parameters.yml", False),
        ("logging.yml", False),
    ],
)
def test_configuration_that_no_study_reads_is_told(project, file, is_told):
    for path in ("mine/globals.yml", "base/globals.yml", file):
        (project.root / "conf" / path).parent.mkdir(parents=True, exist_ok=True)
        (project.root / "conf" / path).touch()

    bad = project.bad(unread_configuration)

    assert [f"no study reads conf/{file}:" in text for _, text in bad] == [True] * is_told


def test_a_cache_on_another_file_system_is_told_unless_symlinks_are_used(project, monkeypatch):
    monkeypatch.setattr(doctor, "file_system", lambda path: 1 + path.name.startswith("md5"))

    [finding] = project.found(cache_place)
    project.configure("cache", type="hardlink,symlink")

    assert finding.level == "warning"
    assert f"{project.root}/.dvc/cache/files/md5, is on another file system" in finding.text
    assert "`dvc cache dir PATH`" in finding.text
    assert project.bad(cache_place) == []


def test_a_cache_within_the_project_is_on_its_file_system(project):
    assert project.bad(cache_place) == []


def test_a_folder_that_is_not_there_is_where_it_would_be_made(tmp_path):
    assert doctor.file_system(tmp_path / "a/b") == tmp_path.stat().st_dev


@pytest.mark.parametrize(("free", "enough"), [(12, True), (11, False)])
def test_room_is_wanted_for_all_outputs_of_a_study(project, monkeypatch, free, enough):
    """`one` twice and `two`, with their line breaks: 3 times 4 bytes."""
    usage = shutil.disk_usage(project.root)._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    [finding] = project.found(space, ("base", "mine"))

    assert finding.level == ("ok" if enough else "warning")
    assert ("all outputs of base take 1.2e-08 GB" in finding.text) is not enough
