"""A method of a study that has run is unlearned once more, in memory."""

from __future__ import annotations

import os
from contextlib import chdir

import pytest

from kedro_dvc.project import load_study
from seuf.audit import FAIL, PASS
from seuf.audit.replay import replay
from seuf.inputs import InputError
from tests.workflow.conftest import Project

METHOD = "seuf_gdiff"
DELTA = f"studies/smoke/data/06_models/{METHOD}/delta.safetensors"

pytestmark = pytest.mark.timeout(900)


def files(project: Project) -> dict[str, tuple[int, int]]:
    """Return all files of the study, with when they were written and their sizes."""
    below = (path for path in (project.root / "studies").rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in below}


def test_a_delta_is_made_again_to_the_byte_and_nothing_of_the_project_is_written(
    project, tmp_path, monkeypatch
):
    monkeypatch.setenv("KEDRO_ENV", os.environ.get("KEDRO_ENV", "base"))
    with chdir(project.root):
        study, before = load_study(project.root, "smoke"), files(project)

        check, path = replay(study, METHOD, tmp_path)

        assert check.result == PASS, check.text
        assert check.text.endswith("equal to the byte")
        assert path.read_bytes() == (project.root / DELTA).read_bytes()
        assert list(tmp_path.iterdir()) == [path]
        assert files(project) == before
        with pytest.raises(InputError, match="no method 'nobody'"):
            replay(study, "nobody", tmp_path)


def test_under_other_parameters_it_is_another_delta(project, tmp_path, monkeypatch):
    monkeypatch.setenv("KEDRO_ENV", os.environ.get("KEDRO_ENV", "base"))
    project.replace("conf/smoke/parameters.yml", "[1.0e-3]", "[2.0e-3]")

    with chdir(project.root):
        check, _ = replay(load_study(project.root, "smoke"), METHOD, tmp_path)

    assert (check.result, check.text.endswith("its header has another 'about'")) == (FAIL, True)
