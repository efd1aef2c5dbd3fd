"""What several tests of runs begin with."""

from pathlib import Path

import pytest
from dvc.repo import Repo


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is also the working directory; what DVC keeps outside is beside it."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def empty_project(folder: Path) -> Path:
    """A project of DVC without Kedro, which is also the working directory; it has no stage."""
    Repo.init(no_scm=True).close()
    return folder


@pytest.fixture
def project(empty_project: Path) -> Path:
    """The same with a file `given`, for stages to read."""
    (empty_project / "given").write_text("given\n")
    return empty_project
