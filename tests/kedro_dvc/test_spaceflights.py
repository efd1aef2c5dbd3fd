"""kedro_dvc on another Kedro project, as docs/kedro-dvc.md says: `spaceflights`, without seuf.

Three nodes, two pipelines, CSV files. Each command is what a user types.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import yaml
from dvc.cli import main as dvc

NODES = "src/spaceflights/pipelines/data_science/nodes.py"
COLUMNS = "src/spaceflights/columns.py"
PARAMETERS = "conf/base/parameters.yml"
WAIT = """\
    from pathlib import Path
    from time import sleep

    Path("running").touch()
    while not Path("go").exists():
        sleep(0.05)
    feature, price ="""
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "PYTHONPATH": str(Path(__file__).parents[2] / "src"),
    "KEDRO_DISABLE_TELEMETRY": "1",
    "DVC_NO_ANALYTICS": "1",
}

pytestmark = pytest.mark.timeout(600)


class Spaceflights:
    """A copy of the project, and the commands that a user gives in it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a command whose two outputs are one."""
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str, fails: bool = False) -> str:
        """Return what a command prints."""
        started = self.start(*command)
        output = started.communicate()[0]
        assert (started.returncode != 0) == fails, output
        return output

    def dvc(self, *command: str) -> str:
        """Return what a command of DVC prints, made in this process; its stages are in others."""
        printed = StringIO()
        with chdir(self.root), redirect_stdout(printed), pytest.MonkeyPatch.context() as patch:
            for key in ("PATH", "PYTHONPATH"):
                patch.setenv(key, ENVIRONMENT[key])
            patch.delenv("KEDRO_ENV", raising=False)
            assert dvc([*command]) == 0, printed.getvalue()
        return printed.getvalue()

    def commit(self) -> None:
        """Commit everything."""
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--allow-empty", "--message", "x")

    def ran(self, *command: str) -> set[str]:
        """Return the stages that a `kedro dvc run` has run."""
        lines = self.run("kedro", "dvc", "run", *command).splitlines()
        return {line.split()[0] for line in lines if line.split()[1:2] == ["ran"]}

    def replace(self, file: str, old: str, new: str) -> None:
        """Replace a text in a file."""
        text = (self.root / file).read_text()
        assert old in text
        (self.root / file).write_text(text.replace(old, new))

    def locked_code(self, file: str) -> str:
        """Return the MD5 that dvc.lock has of a file that `fit_prices` watches."""
        lock = yaml.safe_load((self.root / "dvc.lock").read_text())
        return {dep["path"]: dep["md5"] for dep in lock["stages"]["fit_prices"]["deps"]}[file]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Spaceflights:
    """The project after a first run, committed."""
    root = tmp_path_factory.mktemp("other") / "spaceflights"
    shutil.copytree(Path(__file__).parent / "spaceflights", root)
    project = Spaceflights(root)
    project.run("git", "init", "--quiet")
    project.dvc("init", "--quiet")
    project.run("kedro", "dvc", "sync")
    project.commit()
    project.run("kedro", "dvc", "run")
    project.commit()
    return project


@pytest.fixture
def project(finished: Spaceflights) -> Iterator[Spaceflights]:
    """The project; changes to its files are undone after the test."""
    recorded = finished.run("git", "rev-parse", "HEAD").strip()
    yield finished
    finished.run("git", "reset", "--quiet", "--hard", recorded)
    finished.run("git", "clean", "--quiet", "--force", "-d")
    finished.dvc("checkout", "--quiet")


def test_a_first_run_makes_the_metrics_and_leaves_records(project):
    """The price of 1 to 5 engines is 1000, 1900, 3100, 4000, 5200: its slope is 10500 / 10.

    The company whose shuttle has another price is not rated well enough.
    """
    records = sorted(path.stem for path in (project.root / "evidence/base/runs").iterdir())

    assert json.loads((project.root / "data/metrics.json").read_text())["slope"] == 1050
    assert records == ["create_model_input_table", "fit_prices", "preprocess_companies"]
    assert project.ran() == set()


def test_a_parameter_runs_exactly_the_stages_that_depend_on_it(project):
    project.replace(PARAMETERS, "digits: 6", "digits: 1")

    assert project.ran() == {"in_sync", "fit_prices"}


@pytest.mark.parametrize(
    "command",
    [
        ("kedro", "dvc", "run", "-j", "2"),
        pytest.param(("kedro", "dvc", "run"), marks=pytest.mark.slow),
        pytest.param(("dvc", "repro"), marks=pytest.mark.slow),
    ],
)
def test_a_second_run_of_all_leaves_git_clean(project, command):
    """Neither dvc.lock nor a record of a run is another one."""
    project.run(*command, "--force")

    assert project.run("git", "diff") == ""
    assert project.run("git", "status", "--porcelain") == ""


@pytest.mark.slow  # test_parallel.py has a quick one, without a command
@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ("fit_price: {gpu: 1}", "nearest: fit_prices"),
        ("fit_prices: {gpus: 1}", "'gpus' is not a resource"),
        ("fit_prices: {gpu: 99}", "fit_prices asks for gpu: 99; this machine has "),
    ],
)
def test_resources_that_cannot_be_are_refused_before_anything_runs(project, stated, message):
    (project.root / PARAMETERS).open("a").write(f"\nresources: {{{stated}}}\n")

    output = project.run("kedro", "dvc", "run", "-j", "2", fails=True)

    assert message in output.splitlines()[-1]
    assert "in_sync" not in output


def test_code_that_no_stage_can_run_changes_nothing(project):
    (project.root / "src/spaceflights/cli.py").open("a").write("# A comment.\n")

    assert "up to date" in project.dvc("status")


@pytest.mark.slow
def test_an_import_stops_everything_until_a_sync(project):
    (project.root / "src/spaceflights/more.py").write_text('"""More."""\n')
    project.replace(COLUMNS, "\nPRICE", "\nimport spaceflights.more  # noqa: F401\n\nPRICE")

    output = project.run("dvc", "repro", fails=True)
    assert "dvc.yaml is behind: run `kedro dvc sync`" in output
    assert output.count("Running stage") == 1

    project.run("kedro", "dvc", "sync")
    assert project.ran() == {"in_sync", "fit_prices"}


def test_a_new_pipeline_stops_everything_until_a_sync(project):
    folder = project.root / "src/spaceflights/pipelines"
    shutil.copytree(folder / "data_science", folder / "again")
    for name, other in (("fit_prices", "fit_again"), ('"metrics"', '"again"')):
        project.replace("src/spaceflights/pipelines/again/pipeline.py", name, other)
    project.replace("src/spaceflights/pipelines/again/nodes.py", "fit_prices", "fit_again")

    assert "'again' is in memory" in project.run("dvc", "repro", fails=True)


@pytest.mark.slow  # test_records.py has a quick one
@pytest.mark.parametrize("command", [("kedro", "dvc", "run"), ("dvc", "repro")])
@pytest.mark.parametrize(
    ("file", "old", "new", "metric", "value"),
    [
        (COLUMNS, '"price"', '"crew"', "slope", 1.2),
        (PARAMETERS, "digits: 6", "digits: 1", "r2", 1),
    ],
)
def test_an_edit_while_a_stage_runs_fails_the_stage(
    project, command, file, old, new, metric, value
):
    """The lock keeps naming what has run, and the next run is right.

    The crews for 1 to 5 engines are 3, 2, 4, 8, 6: the slope is 12 / 10.
    """
    project.replace(NODES, "    feature, price =", WAIT)
    before = project.locked_code(COLUMNS)

    with _amid(project, *command) as wait:
        project.replace(file, old, new)
        project.commit()
        output = wait()

    assert f"{file}: edited since fit_prices began" in output
    assert project.locked_code(COLUMNS) == before
    project.run("kedro", "dvc", "run")
    assert json.loads((project.root / "data/metrics.json").read_text())[metric] == value
    assert "up to date" in project.dvc("status")


@pytest.mark.slow
def test_a_stage_whose_code_was_edited_during_an_earlier_one_runs_with_the_new_code(project):
    """One process has long imported the module: the stage gets a process of its own."""
    nodes = "src/spaceflights/pipelines/data_processing/nodes.py"
    project.replace(nodes, "    rating =", WAIT.replace("feature, price", "rating"))

    with _amid(project, "kedro", "dvc", "run") as wait:
        project.replace(NODES, '"slope": round(slope', '"slope": -round(slope')
        wait(fails=False)

    assert json.loads((project.root / "data/metrics.json").read_text())["slope"] == -1050
    assert project.ran() <= {"in_sync"}


@pytest.mark.slow  # the contracts of import-linter hold it too
def test_it_imports_nothing_of_seuf_nor_torch(project):
    code = """
import sys
from pathlib import Path
from kedro.framework.startup import bootstrap_project
bootstrap_project(Path.cwd())
import kedro_dvc.cli, kedro_dvc.doctor, kedro_dvc.erase, kedro_dvc.sync, kedro_dvc.watch
kedro_dvc.sync.sync(Path.cwd(), "base", write=False)
print({name.partition(".")[0] for name in sys.modules} & {"seuf", "torch", "transformers"})
"""

    assert project.run(sys.executable, "-c", code).endswith("set()\n")


@contextmanager
def _amid(project: Spaceflights, *command: str) -> Iterator[Callable[..., str]]:
    """Start a command, and enter when the node waits; what is yielded lets it go on to its end."""
    started = project.start(*command)
    while not (project.root / "running").exists():
        assert started.poll() is None, started.communicate()[0]
        time.sleep(0.05)

    def wait(fails: bool = True) -> str:
        (project.root / "go").touch()
        output = started.communicate()[0]
        assert (started.returncode != 0) == fails, output
        return output

    try:
        yield wait
    finally:
        started.kill()
        started.wait()
