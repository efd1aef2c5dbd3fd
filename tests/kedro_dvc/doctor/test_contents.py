"""Bytes that are not what DVC takes them for, on a real repository of DVC."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kedro_dvc.doctor import links, objects, outputs
from tests.kedro_dvc.doctor.conftest import ONE, TWO, tamper

FOLDER = "b62694f50ab7d312b198d3af525e57aa.dir"  # of `x` that is TWO: see test_integrity
STUDIES = ("base", "mine")


def _follow(text: str) -> None:
    """Do what the message says first."""
    command = text.split("`")[1]
    command = command.replace("dvc ", f"{shlex.quote(sys.executable)} -m dvc ")
    subprocess.run(command, shell=True, check=True, capture_output=True)


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
