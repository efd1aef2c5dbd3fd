"""What a command says when DVC fails, and to whom it says nothing."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from sqlite3 import OperationalError
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.stage.exceptions import MissingDataSource, StageNotFound

from kedro_dvc.cli import _cause_alone, dvc
from kedro_dvc.files import WorkflowError
from kedro_dvc.project import check_study

PACKAGES = {"ray": "ray", "slurm": "submitit"}
WATCHING = """
import sys
from kedro_dvc.cli import dvc
from kedro_dvc.watch import watching

@dvc.command()
def watch():
    with watching() as lines:
        lines.waits("x")
    sys.stderr.write("y")

dvc(["watch"])
"""


def test_what_made_dvc_fail_is_raised_with_its_own_cause():
    """The line for a user may stand there: a data set wraps what was wrong with its file."""
    inner = ValueError("the file is empty")
    outer = RuntimeError("cannot load")
    outer.__cause__ = inner

    with pytest.raises(RuntimeError, match="cannot load") as caught, _cause_alone():
        raise DvcException("failed to reproduce") from outer

    assert caught.value.__cause__ is inner


def test_where_dvc_itself_is_the_cause_its_words_are_enough():
    with pytest.raises(WorkflowError, match="is locked"), _cause_alone():
        raise DvcException("failed to reproduce") from DvcException("the file is locked")


def test_data_that_dvc_add_tracks_are_named_with_what_fetches_them():
    with pytest.raises(WorkflowError) as caught, _cause_alone():
        raise DvcException("failed to reproduce") from MissingDataSource(["data/01_raw/mine"])

    said = "missing data 'source': data/01_raw/mine"
    assert str(caught.value) == f"{said}; `dvc pull`, or --pull, fetches it"


def test_who_holds_a_file_is_told_on_one_line_with_what_to_do():
    error = LockError("'data' is busy, it is blocked by:\n  (PID 7): dvc repro\n\nIf there are no")

    with pytest.raises(WorkflowError) as caught, _cause_alone():
        raise DvcException("failed to reproduce") from error

    said = "'data' is busy, it is blocked by: (PID 7): dvc repro"
    assert str(caught.value) == f"{said}; wait for it, as `kedro dvc run --wait` does"


def test_a_stage_that_is_not_there_is_told_with_those_of_like_names(tmp_path):
    file = SimpleNamespace(relpath=str(tmp_path / "dvc.yaml"))
    (tmp_path / "dvc.yaml").write_text("stages: {unlearn-2: {matrix: {m: [mine]}, cmd: x}}")

    with pytest.raises(WorkflowError, match="nearest: unlearn-2@mine"), _cause_alone():
        raise StageNotFound(file, "unlearn@mine")
    with pytest.raises(WorkflowError, match=r"not found inside '.*' file$"), _cause_alone():
        raise StageNotFound(file, "zzz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-j", "two"], "'two' is neither a number of stages from 1 on nor auto"),
        (["-j", "0"], "'0' is neither a number of stages from 1 on nor auto"),
        (["-j", "-1"], "'-1' is neither a number of stages from 1 on nor auto"),
        (["--on", "moon"], "'moon' is not one of 'local', 'ray', 'slurm'"),
        (["--address", "a:1"], "--address is that of a Ray cluster: add --on ray"),
        (["-j", "2", "--copy"], "for the nodes of a Ray cluster: add --on ray"),
        (["--slurm", "a=1"], "add --on slurm"),
        (["--on", "slurm", "--slurm", "partition"], "takes KEY=VALUE, not 'partition'"),
    ],
)
def test_what_does_not_fit_together_is_said_in_a_line(options, message, monkeypatch):
    monkeypatch.setattr("kedro_dvc.cli._check_installed", lambda package: None)
    monkeypatch.setattr("kedro_dvc.up_to_date.unchanged_stages", lambda project, file: 0)

    ended = CliRunner().invoke(dvc, ["run", *options])

    assert ended.exit_code != 0
    assert message in ended.output.splitlines()[-1]


@pytest.mark.parametrize("place", ["ray", "slurm"])
def test_a_cluster_whose_package_is_missing_is_refused(place, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("kedro_dvc.up_to_date.unchanged_stages", lambda project, file: 0)

    ended = CliRunner().invoke(dvc, ["run", "--on", place])

    assert f"is not installed: pip install {PACKAGES[place]}" in ended.output.splitlines()[-1]


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_command_goes_on_where_no_one_can_read_it(closed):
    shell = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, WATCHING]

    assert subprocess.run(shell, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("has_another", [False, True])
def test_stages_find_the_kedro_that_was_called_by_its_path(tmp_path, monkeypatch, has_another):
    """As `.venv/bin/kedro dvc run`, in a shell in which no or another environment is active."""
    if has_another:
        (tmp_path / "kedro").write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "kedro").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    CliRunner().invoke(dvc, ["new-study"])

    assert os.environ["PATH"] == f"{Path(sys.executable).parent}{os.pathsep}{tmp_path}"


def test_a_full_disk_is_one_line_whoever_met_it():
    """DVC wraps what a stage meets, and meets it itself where it fills its cache."""
    full = OSError(errno.ENOSPC, "No space left on device", "data/x")

    with pytest.raises(WorkflowError, match=r"^data/x: No space left on device$"), _cause_alone():
        raise DvcException("failed to run") from full
    with pytest.raises(WorkflowError, match=r"^data/x: No space left on device$"), _cause_alone():
        raise full
    with pytest.raises(WorkflowError, match="disk I/O error; the disk may be full"), _cause_alone():
        raise OperationalError("disk I/O error")  # of the SQLite files in which DVC notes hashes


def test_the_name_of_the_default_study_is_answered_with_what_env_takes(tmp_path):
    (tmp_path / "conf/base").mkdir(parents=True)
    (tmp_path / "conf/base/globals.yml").write_text("study: sandbox\ndata_root: data\n")

    with pytest.raises(WorkflowError, match="the default study: use --env base, or no --env"):
        check_study(tmp_path, "sandbox")
    with pytest.raises(WorkflowError, match="There is no study 'sandbag'"):
        check_study(tmp_path, "sandbag")
