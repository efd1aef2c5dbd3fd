"""What lies around the stages and can spoil a run."""

from __future__ import annotations

import shutil

import pytest

from kedro_dvc import doctor as surroundings
from kedro_dvc.doctor import cache_place, leftovers, space, unread_configuration


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
    monkeypatch.setattr(surroundings, "device", lambda path: 1 + path.name.startswith("md5"))

    [finding] = project.found(cache_place)
    project.configure("cache", type="hardlink,symlink")

    assert finding.level == "warning"
    assert f"{project.root}/.dvc/cache/files/md5, is on another file system" in finding.text
    assert "`dvc cache dir PATH`" in finding.text
    assert project.bad(cache_place) == []


def test_a_cache_within_the_project_is_on_its_file_system(project):
    assert project.bad(cache_place) == []


def test_a_folder_that_is_not_there_is_where_it_would_be_made(tmp_path):
    assert surroundings.device(tmp_path / "a/b") == tmp_path.stat().st_dev


@pytest.mark.parametrize(("free", "enough"), [(12, True), (11, False)])
def test_room_is_wanted_for_all_outputs_of_a_study(project, monkeypatch, free, enough):
    """`one` twice and `two`, with their line breaks: 3 times 4 bytes."""
    usage = shutil.disk_usage(project.root)._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    [finding] = project.found(space, ("base", "mine"))

    assert finding.level == ("ok" if enough else "warning")
    assert ("all outputs of base take 1.2e-08 GB" in finding.text) is not enough
