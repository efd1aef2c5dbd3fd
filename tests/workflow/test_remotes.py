"""Remotes: a local folder and S3, one for what is to be forgotten alone, and erasure."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from dvc.exceptions import ReproductionError

from kedro_dvc.project import take_part
from tests.workflow.conftest import KEPT, LOCK, RUN, STUDY, Project, World

DATA = "studies/smoke/data"
PRIMARY = f"{DATA}/03_primary"
FORGET = ("forget_set", "questions", "pretraining_texts")
SHOWING = (  # some questions with their answers
    *(f"07_model_output/{method}/scores.json" for method in KEPT),
    "08_reporting/examples.json",
    "08_reporting/report.html",
)
RESTRICTED = {f"{PRIMARY}/{name}.jsonl" for name in FORGET} | {f"{DATA}/{path}" for path in SHOWING}
ON_S3 = """\
['remote "{remote}"']
    url = s3://{remote}/seuf
    endpointurl = {address}
    access_key_id = me
    secret_access_key = hidden
"""
TOP = ("conf/base/parameters_expert_selection.yml", "top: 1", "top: 2")
BATCH = ("conf/base/parameters_routing_capture.yml", "batch_size: 64", "batch_size: 32")
ERASE = ("dvc", "erase", *FORGET, "--env", "smoke")
GATE = ("repro", "--dry", "--allow-missing", STUDY)

pytestmark = pytest.mark.timeout(900)


class Remotes(NamedTuple):
    """A folder with a project and, beside it, its two remotes."""

    root: Path

    @property
    def project(self) -> Project:
        """The project."""
        return Project(self.root / "project")

    def copy(self, root: Path) -> Remotes:
        """Return a copy of the folder."""
        shutil.copytree(self.root, root, symlinks=True)
        return Remotes(root)

    def clone(self, name: str) -> Project:
        """Return a clone beside the project; git holds no data."""
        self.project.done("git", "clone", "--quiet", ".", str(self.root / name))
        take_part(self.root / name, "smoke")
        return Project(self.root / name)

    def objects(self, remote: str) -> set[str]:
        """Return the hashes that a remote holds."""
        return {path.parent.name + path.name for path in _files(self.root / remote / "files")}


@pytest.fixture(scope="module")
def routed(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Remotes, list[str]]:
    """The study with a remote for the forget set, pushed and recorded; what ran for that."""
    remotes = Remotes(tmp_path_factory.mktemp("remotes"))
    project = world.project.copy(remotes.root / "project")
    with (project.root / "conf/smoke/globals.yml").open("a") as settings:
        settings.write("forget_remote: forget\n")
    project.dvc("remote", "add", "--default", "store", "../store")
    project.dvc("remote", "add", "forget", "../forget")
    assert project.invoke("dvc", "sync", "--env", "smoke").exit_code == 0
    ran = project.repro()
    project.dvc("push", "--run-cache", STUDY)
    project.commit()
    return remotes, ran


@pytest.fixture(scope="module")
def remotes(routed: tuple[Remotes, list[str]]) -> Remotes:
    """The study with a remote for the forget set, pushed and recorded."""
    return routed[0]


@pytest.fixture(scope="module")
def erased(remotes: Remotes, tmp_path_factory: pytest.TempPathFactory) -> tuple[Remotes, str]:
    """A copy in which the forget set was erased, and what was printed."""
    copy = remotes.copy(tmp_path_factory.mktemp("erased") / "remotes")
    ended = copy.project.invoke(*ERASE, "--yes")
    assert ended.exit_code == 0, ended.output
    return copy, ended.output


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """An S3 server on this machine with two buckets; its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    for bucket in ("store", "forget"):
        _bucket(address, bucket).create()
    yield address
    server.stop()


def test_the_route_of_an_output_is_no_matter_of_its_stage(routed):
    """The guard runs, as the configuration has changed, and nothing else."""
    assert routed[1] == ["in_sync"]


def test_the_remote_of_the_forget_set_holds_that_alone_and_no_other_holds_it(remotes):
    locked = _locked(remotes.project)

    assert remotes.objects("forget") == {locked[path] for path in RESTRICTED}
    assert remotes.objects("store").isdisjoint(remotes.objects("forget"))


def test_who_has_no_access_to_it_gets_all_else(remotes):
    clone = remotes.clone("colleague")
    clone.dvc("remote", "modify", "--local", "forget", "url", "../nowhere")

    assert "up to date" in clone.dvc(*GATE)
    clone.dvc("pull", "--remote", "store", "--allow-missing", STUDY)

    there = {path for path in _locked(clone) if (clone.root / path).exists()}
    assert set(_locked(clone)) - there == RESTRICTED


def test_the_gate_of_ci_tells_what_the_lock_is_behind_of(remotes):
    clone = remotes.clone("changed")
    clone.replace(*TOP)
    assert clone.repro(f"{STUDY}:in_sync") == ["in_sync"]

    with clone.opened() as repo, pytest.raises(ReproductionError, match=":select_experts'"):
        repo.reproduce([STUDY], dry=True, allow_missing=True)


def test_an_erasure_tells_what_it_finds_where(erased):
    rows = [line.split(maxsplit=3) for line in erased[1].splitlines() if PRIMARY in line]
    locked = _locked(erased[0].project)

    assert [row[0] for row in rows] == sorted(f"{PRIMARY}/{name}.jsonl" for name in FORGET)
    assert [row[1] for row in rows] == [locked[row[0]] for row in rows]
    assert {row[3] for row in rows} == {"workspace, cache, remote forget"}


def test_no_byte_of_the_forget_set_is_left(remotes, erased):
    lines = (remotes.project.root / PRIMARY / "forget_set.jsonl").read_bytes().splitlines()
    texts = [line.split(b'"')[3] for line in lines]

    assert _with_any(remotes.project.root / ".dvc", texts)
    assert _with_any(erased[0].root, texts) == []


def test_the_evidence_is_left(remotes, erased):
    project = erased[0].project

    assert (project.root / LOCK).read_bytes() == (remotes.project.root / LOCK).read_bytes()
    assert "up to date" in project.dvc(*GATE)
    assert f"not in cache:       {PRIMARY}/forget_set.jsonl" in project.dvc("status", STUDY)


def test_a_second_erasure_finds_nothing(erased):
    ended = erased[0].project.invoke(*ERASE)

    assert ended.output.startswith("Nothing of it is left here.\n")


def test_without_a_yes_nothing_is_erased(remotes):
    ended = remotes.project.invoke(*ERASE)  # no answer either

    assert ended.exit_code == 1
    assert "Delete this for good? [y/N]" in ended.output
    assert remotes.objects("forget")


@pytest.mark.slow
def test_stages_that_do_not_need_it_still_run(erased, tmp_path):
    project = erased[0].copy(tmp_path / "remotes").project
    project.replace(*TOP)
    target = ("--allow-missing", "--pull", "select_experts")

    lines = [line.split()[:2] for line in project.done(*RUN, *target).splitlines()]

    assert ["prepare_data", "unchanged"] in lines
    assert ["select_experts", "ran"] in lines
    assert not (project.root / PRIMARY / "forget_set.jsonl").exists()


@pytest.mark.parametrize("pull", [(), pytest.param(("--pull",), marks=pytest.mark.slow)])
def test_a_stage_that_needs_it_says_what_is_missing(erased, tmp_path, pull):
    project = erased[0].copy(tmp_path / "remotes").project
    project.replace(*BATCH)
    target = ("--allow-missing", *pull, "capture_routing")

    ended = project.run(*RUN, *target)

    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert f"{PRIMARY}/forget_set.jsonl" in ended.stderr.partition("error: ")[2]


@pytest.mark.slow
def test_a_run_that_allows_for_missing_files_is_not_taken_for_a_whole_one(erased, tmp_path):
    """`kedro dvc run` alone would make the forget set anew, as `dvc repro` would."""
    project = erased[0].copy(tmp_path / "remotes").project
    project.done(*RUN, "--allow-missing")
    assert not (project.root / PRIMARY / "forget_set.jsonl").exists()

    project.done(*RUN)

    assert (project.root / PRIMARY / "forget_set.jsonl").exists()


@pytest.mark.slow
def test_s3_gives_back_the_same_bytes_and_is_erased_too(remotes, s3, tmp_path):
    project = remotes.copy(tmp_path / "remotes").project
    here = (ON_S3.format(remote=remote, address=s3) for remote in ("store", "forget"))
    (project.root / ".dvc/config.local").write_text("".join(here))
    project.dvc("push", STUDY)
    before = {path.relative_to(project.root): path for path in _files(project.root / DATA)}
    before = {name: path.read_bytes() for name, path in before.items()}
    for folder in (".dvc/cache", PRIMARY, f"{DATA}/06_models"):
        shutil.rmtree(project.root / folder)

    project.dvc("pull", STUDY)

    assert {name: (project.root / name).read_bytes() for name in before} == before
    assert len(list(_bucket(s3, "forget").objects.all())) == len(RESTRICTED)
    erasure = project.invoke(*ERASE, "--yes").output
    assert erasure.count("workspace, cache, remote forget") == len(FORGET)
    assert len(list(_bucket(s3, "forget").objects.all())) == len(SHOWING)
    assert "up to date" in project.dvc(*GATE)


def _bucket(address: str, name: str) -> Any:
    import boto3

    keys = {"aws_access_key_id": "me", "aws_secret_access_key": "hidden"}
    return boto3.resource("s3", endpoint_url=address, region_name="us-east-1", **keys).Bucket(name)


def _locked(project: Project) -> dict[str, str]:
    """Return the outputs in the lock with their hashes."""
    stages = yaml.safe_load((project.root / LOCK).read_text())["stages"].values()
    return {out["path"]: out["md5"] for stage in stages for out in stage["outs"]}


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _with_any(root: Path, texts: list[bytes]) -> list[Path]:
    """Return the files that hold one of the texts, but for examples: they are of that world too."""
    return [
        path
        for path in _files(root)
        if "examples" not in path.parts
        and (content := path.read_bytes())
        and any(text in content for text in texts)
    ]
