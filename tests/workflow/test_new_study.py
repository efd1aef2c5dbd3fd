"""A study that begins as another one, in the project's copy."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
import yaml

from tests.workflow.conftest import Project

pytestmark = pytest.mark.timeout(900)
PARAMETERS = "parameters.yml"
NEW = ("dvc", "new-study")


@pytest.fixture
def other(project: Project) -> Iterator[Project]:
    """The project, without the study that a test has made."""
    yield project
    for folder in ("conf/other", "studies/other"):
        shutil.rmtree(project.root / folder, ignore_errors=True)


def test_a_new_study_has_the_configuration_of_another_and_a_place_of_its_own(other):
    ended = other.invoke(*NEW, "other", "--from", "smoke")

    mine, theirs = (other.root / "conf" / name for name in ("other", "smoke"))
    assert ended.exit_code == 0
    assert "wrote studies/other/dvc.yaml" in ended.output
    assert yaml.safe_load((mine / "globals.yml").read_text()) == {
        "study": "other",
        "data_root": "studies/other/data",
        "model": None,
    }
    assert (mine / PARAMETERS).read_text() == (theirs / PARAMETERS).read_text()
    assert other.invoke("dvc", "sync", "--check", "--env", "other").exit_code == 0
    assert _outputs(other, "other").isdisjoint(_outputs(other, "smoke"))
    assert len(_outputs(other, "other")) == len(_outputs(other, "smoke"))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("smoke",), "conf/smoke already exists."),
        (("Other",), "'Other' cannot be a study: start with a letter"),
        (("local",), "'local' cannot be a study"),
        (("other", "--from", "smok"), "There is no study 'smok'"),
    ],
)
def test_what_cannot_be_a_study_is_named_and_nothing_is_written(other, command, message):
    ended = other.invoke(*NEW, *command)

    assert ended.exit_code == 1
    assert message in ended.output.splitlines()[-1]
    assert not (other.root / "conf/other").exists()


def test_nothing_is_left_of_a_study_whose_stages_cannot_be_made(other):
    source = other.root / "conf/smoke/parameters.yml"
    before = source.read_text()
    source.write_text(before + "\nseed: {broken\n")

    ended = other.invoke(*NEW, "other", "--from", "smoke")

    source.write_text(before)
    assert ended.exit_code == 1
    assert "conf/other/parameters.yml is not valid YAML" in ended.output
    assert not (other.root / "conf/other").exists()


def _outputs(project: Project, study: str) -> set[str]:
    made = yaml.safe_load((project.root / f"studies/{study}/dvc.yaml").read_text())
    stages, kinds = made["stages"].values(), ("outs", "metrics")
    return {str(out) for stage in stages for kind in kinds for out in stage.get(kind, [])}
