"""The project's own commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from kedro.framework import project  # noqa: F401 - prints a line when it is first imported

from seuf.cli import cli

ROOT = Path(__file__).parents[1]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one study; returns where its tables lie."""
    for env in ("base", "mine"):
        (tmp_path / "conf" / env).mkdir(parents=True)
        (tmp_path / "conf" / env / "globals.yml").write_text(f"data_root: {env}_data\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "mine_data/08_reporting"


def test_the_table_of_a_study_is_printed(study: Path):
    study.mkdir(parents=True)
    (study / "comparison.md").write_text("| a table |")

    result = CliRunner().invoke(cli, ["show", "--env", "mine"])

    assert (result.exit_code, result.output) == (0, "| a table |\n")


def test_where_there_is_a_report_its_place_is_told(study: Path):
    study.mkdir(parents=True)
    (study / "comparison.md").write_text("| a table |")
    (study / "report.html").write_text("")

    result = CliRunner().invoke(cli, ["show", "--env", "mine"])

    assert result.output.endswith("\nThe report: mine_data/08_reporting/report.html\n")


def test_a_study_of_spread_has_its_own_table(study: Path):
    study.mkdir(parents=True)
    (study / "spread.md").write_text("| spread |")

    assert CliRunner().invoke(cli, ["show", "--env", "mine"]).output == "| spread |\n"


def test_without_a_table_one_line_says_what_to_do(study: Path):
    result = CliRunner().invoke(cli, ["show", "--env", "mine"])

    assert result.exit_code == 1
    line = "error: mine_data/08_reporting has no table: `kedro dvc run --env mine` makes it.\n"
    assert result.output == line


def test_a_picture_that_is_no_svg_is_refused():
    result = CliRunner().invoke(cli, ["show", "--picture", "paths.png"])

    assert result.exit_code == 1
    assert "--picture paths.png: the format is SVG, so name it .svg." in result.output
    assert not Path("paths.png").exists()


@pytest.mark.parametrize(("name", "options"), [("sandbox", ()), ("sandbox_ga", ("ga",))])
def test_the_pictures_of_the_readme_are_drawn_from_the_recorded_numbers(tmp_path, name, options):
    """Byte for byte; `kedro show --picture docs/sandbox_ga.svg --objective ga` draws them anew."""
    picture = tmp_path / "drawn.svg"
    objective = [text for option in options for text in ("--objective", option)]

    result = CliRunner().invoke(cli, ["show", "--picture", str(picture), *objective])

    assert (result.exit_code, result.output) == (0, f"wrote {picture}\n")
    assert picture.read_bytes() == (ROOT / f"docs/{name}.svg").read_bytes()


@pytest.mark.parametrize(
    "options", [["--objective", "ga"], ["--stages", "--picture", "x.svg"]], ids=lambda one: one[0]
)
def test_options_that_would_be_passed_over_are_refused(options):
    result = CliRunner().invoke(cli, ["show", *options])

    assert result.exit_code == 1
    assert result.output.startswith("error: ")
    assert result.output.count("\n") == 1


def test_a_picture_of_what_no_method_has_is_refused(tmp_path):
    options = ["--picture", str(tmp_path / "x.svg"), "--objective", "dpo"]

    result = CliRunner().invoke(cli, ["show", *options])

    line = "error: No method has the objective 'dpo'; there are ga, gdiff, npo, rmu.\n"
    assert (result.exit_code, result.output) == (1, line)


def test_what_each_recorded_stage_took_is_printed(study: Path, tmp_path: Path):
    runs = tmp_path / "evidence/mine/runs"
    runs.mkdir(parents=True)
    for number, memory in enumerate(({}, {"memory": {"resident": 2e9, "on_device": 5e8}})):
        record = {"node": f"stage_{number}", "started": f"2026-11-2{number}T00:00+00:00"}
        record |= {"seconds": 1.5, "commit": None, "clean": True, "environment": "x", "outputs": {}}
        (runs / f"{number}.json").write_text(json.dumps(record | memory))

    (runs / "2.json").write_text('{"seconds": NaN}')

    lines = CliRunner().invoke(cli, ["show", "--env", "mine", "--stages"]).output.splitlines()

    assert lines[2].split() == [
        "|",
        "stage_0",
        "|",
        "2026-11-20",
        "00:00",
        *"| 1.5 | - | - |".split(),
    ]
    assert lines[3].split()[-6:] == ["1.5", "|", "2.00", "|", "0.50", "|"]
    assert lines[5] == "2 stages, 3.0 s. Memory is each stage's peak."
    assert lines[6] == "1 cannot be read: `kedro audit` says why."
    assert lines[7] == "1 are older than the recording of memory."


def test_below_the_project_the_stages_are_those_of_the_project(study: Path, tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text("[tool.kedro]\n")
    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path / "docs")

    result = CliRunner().invoke(cli, ["show", "--env", "mine", "--stages"])

    assert result.output.startswith("error: evidence/mine/runs has no record")


def test_without_a_record_one_line_says_what_to_do(study: Path):
    result = CliRunner().invoke(cli, ["show", "--env", "mine", "--stages"])

    assert result.exit_code == 1
    assert result.output.startswith("error: evidence/mine/runs has no record")


def test_repro_ends_with_the_table():
    """What `make` would run, without running it, also where `make` runs the tests."""
    planned = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", "repro", "STUDY=smoke"],
        cwd=Path(__file__).parents[1],
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
        capture_output=True,
        text=True,
        check=True,
    )

    assert planned.stdout.splitlines()[-1] == "kedro show --env smoke"


def test_no_summary_of_a_command_is_cut():
    """A terminal of 80 columns leaves 63 beside `new-study`."""
    groups = [cli, *(one for one in cli.commands.values() if isinstance(one, click.Group))]
    commands = [one for group in groups for one in group.commands.values()]

    assert [one.name for one in commands if one.get_short_help_str(63).endswith("...")] == []


def test_running_the_package_says_what_to_do():
    told = subprocess.run(
        [sys.executable, "-m", "seuf"], capture_output=True, text=True, check=True
    )

    assert "make repro" in told.stdout
    assert "torch" not in told.stderr
