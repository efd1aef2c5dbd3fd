"""A tiny project of DVC that has run: what the doctor's checks are tried on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from dvc.repo import Repo

from kedro_dvc.disk import Finding, Patient

# `one` and `two` with a line break, by md5sum
ONE, TWO = "5bbf5a52328e7439ae6e719dfe712200", "c193497a1a06b2c72230e6146ff47080"

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

Check = Callable[[Patient], Iterator[Finding]]


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
            return list(check(Patient(self.root, list(studies), repo, whole_cache)))

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
