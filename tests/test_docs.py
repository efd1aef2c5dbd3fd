"""What the documents say is so: commands with their options, and the numbers of the real model."""

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pandas as pd
import pytest
import yaml
from dvc.repo import Repo
from kedro.framework import project  # noqa: F401 - prints a line when it is first imported

from seuf.audit.cli import MethodOrCommand
from seuf.cli import cli

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")])
OWN = re.compile(rf"\bkedro ((?:{'|'.join(sorted(cli.commands))})\b[^`\n|;&)]*)")


def commands(page: Path) -> Iterator[str]:
    """Yield the commands in code: in backticks, or on a line of their own."""
    for line in page.read_text(encoding="utf-8").splitlines():
        in_code = [line] if line.startswith("    ") else re.findall(r"`([^`]+)`", line)
        for text in in_code:
            yield from (match.partition(" # ")[0].strip() for match in OWN.findall(text))


def unknown(command: str) -> str | None:
    """Return what of a command is not there; None if all is."""
    words = command.split()
    found: click.Command = cli
    while isinstance(found, click.Group) and words and not words[0].startswith("-"):
        name = words.pop(0)
        if isinstance(found, MethodOrCommand) and name not in found.commands:
            name = "method"  # what names no command is a method to be audited
        if name not in found.commands:
            return name
        found = found.commands[name]
    known = {option for one in found.params for option in (*one.opts, *one.secondary_opts)}
    if found.context_settings.get("ignore_unknown_options"):
        return None
    given = (word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word))
    return next((word for word in given if word not in {*known, "--help"}), None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_command_is_there_with_its_options(page):
    assert {one: what for one in commands(page) if (what := unknown(one))} == {}


def test_dvc_add_tracks_own_texts_and_dvc_sees_them(tmp_path, monkeypatch):
    """DVC tests a folder with a slash at its end, for which its gitignore also takes `/data/*`."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(root)
    for name in (".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, root)
    (root / "data/01_raw/mine").mkdir(parents=True)
    (root / "data/01_raw/mine/forget.jsonl").write_text("{}\n")
    subprocess.run(["git", "init", "--quiet"], check=True)
    with Repo.init() as repo:
        repo.add("data/01_raw/mine")

    with Repo() as repo:
        seen = [stage.addressing for stage in repo.index.stages]
    told = subprocess.run(
        ["git", "status", "--short", "-uall"], check=True, capture_output=True, text=True
    ).stdout

    assert seen == ["data/01_raw/mine.dvc"]
    assert [line.split()[-1] for line in told.splitlines() if "data/" in line] == seen


def test_many_commands_are_found_and_a_wrong_one_is_noticed():
    assert sum(len(list(commands(page))) for page in PAGES) > 80
    assert unknown("dvc rnu --env smoke") == "rnu"
    assert unknown("dvc run --evn smoke") == "--evn"
    assert unknown("export seuf_ga FOLDER --push me/x --public") is None


def test_what_dvc_does_not_keep_may_be_committed():
    """An output with `cache: false` is lost where git ignores it; smoke's mean nothing."""
    outputs = []
    for file in [ROOT / "dvc.yaml", *ROOT.glob("studies/*/dvc.yaml")]:
        stages = yaml.safe_load(file.read_text())["stages"].values()
        outs = [out for stage in stages for out in stage.get("do", stage).get("outs", [])]
        named = (next(iter(out.items())) for out in outs if isinstance(out, dict))
        outputs += [path for path, options in named if not options.get("cache", True)]
    kept = [path for path in outputs if not path.startswith("studies/smoke/")]

    asked = subprocess.run(
        ["git", "check-ignore", "--no-index", *kept], cwd=ROOT, capture_output=True, text=True
    )

    assert len(kept) > 20
    assert (asked.stdout, asked.stderr) == ("", "")


def test_the_picture_of_layers_is_the_recorded_one():
    recorded = ROOT / "studies/smol_cyber/data/08_reporting/layers.svg"

    assert (ROOT / "docs/smol_layers.svg").read_bytes() == recorded.read_bytes()


SCOPES = {"everything": "full", "LoRA": "lora", "ESFT": "esft", "affinity": "seuf"}


@pytest.mark.parametrize("page", ["README.md", "docs/studies.md"])
def test_the_tables_of_the_real_model_are_the_recorded_numbers(page):
    """Of a row `| contrast: ... | .61 · .53 | ...`: UT@.75 and UT@.9 of contrast_ga and so on."""
    table = ROOT / "studies/smol_cyber/data/08_reporting/comparison.csv"
    recorded = pd.read_csv(table).set_index("method")
    objectives = ["ga", "gdiff", "npo", "rmu", "simnpo"]
    text = (ROOT / page).read_text()
    after = text[text.index("| trained | GA | GDiff | NPO | RMU | SimNPO |") :]

    told = {}
    for line in after.split("\n\n")[0].splitlines()[2:]:
        first, *cells = (cell.strip(" *") for cell in line.strip("|").split("|"))
        word = re.match(r"[\w ]+\w", first)[0].replace("*", "")
        who = SCOPES.get(word, word)
        told |= {f"{who}_{one}": cell for one, cell in zip(objectives, cells, strict=False)}

    def number(value: float) -> str:
        return "-" if pd.isna(value) else f"{value:.2f}".lstrip("0")

    found = {name: told[name] for name in told if name in recorded.index}
    assert len(found) >= 25
    assert found == {
        name: f"{number(row.utility_at_75)} · {number(row.utility_at_90)}"
        for name, row in recorded.loc[list(found)].iterrows()
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_make_python_and_pytest_are_given_is_there(page):
    """Targets, modules, files, and studies by name; `mine` and `next` are yet to be made."""
    text, made = page.read_text(encoding="utf-8"), {"mine", "next", "base", "sandbox"}
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8")))
    studies = made | {path.name for path in ROOT.glob("conf/*") if path.is_dir()}
    modules = re.findall(r"python -m (bench[\w.]*)", text)
    files = re.findall(r"(?:python|pytest)(?: -m slow)? ((?:examples|tests|bench)/\S+\.py)", text)

    assert set(re.findall(r"[`$] ?make ([a-z-]+)", text)) <= targets
    assert [one for one in modules if not _module(one)] == []
    assert [one for one in files if not (ROOT / one).is_file()] == []
    assert set(re.findall(r"(?:STUDY=|--env |KEDRO_ENV=)([a-z][a-z_]*)", text)) <= studies


def _module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


@pytest.mark.parametrize("study", ["sandbox_seeds", "sandbox_peers"])
def test_the_tables_of_a_study_of_spread_are_the_recorded_ones(study):
    text = (ROOT / "docs/studies.md").read_text()
    recorded = (ROOT / f"studies/{study}/data/08_reporting/spread.md").read_text()

    tables = [part.strip() for part in recorded.split("\n\n") if part.startswith("|")]

    assert len(tables) == 2
    assert [table for table in tables if table not in text] == []


def test_the_table_of_five_base_models_is_the_recorded_one():
    """Of a row `| contrast | .85 [.77, .94] · .74 | ...`: UT@.75, its interval and UT@.9."""
    recorded = pd.read_csv(ROOT / "studies/sandbox_seeds/data/08_reporting/spread.csv")
    recorded = recorded.set_index("method")
    names = {
        "everything": "full",
        "affinity": "seuf",
        "contrast": "contrast",
        "pilot": "pilot",
        "a random expert": "random",
        "a random expert of the pilot's layer": "random_in_pilot",
    }
    text = (ROOT / "README.md").read_text()
    rows = text[text.index("| trained | GA | GDiff | NPO | RMU | weights |") :].split("\n\n")[0]

    told, expected = {}, {}
    for line in rows.splitlines()[2:]:
        first, *cells = (cell.strip(" *") for cell in line.strip("|").split("|"))
        who = names[re.split(r"[,*:]", first)[0]]
        for objective, cell in zip(["ga", "gdiff", "npo", "rmu"], cells, strict=False):
            if (method := f"{who}_{objective}") in recorded.index:
                told[method] = cell.strip("*")
                expected[method] = _with_interval(recorded.loc[method])

    assert len(told) == 20
    assert told == expected


def _with_interval(row: "pd.Series[float]") -> str:
    def number(value: float) -> str:
        return f"{value:.2f}".removeprefix("0")

    names = ("utility_at_75", "utility_at_75_low", "utility_at_75_high", "utility_at_90")
    at_75, low, high, at_90 = (number(row[name]) for name in names)
    return f"{at_75} [{low}, {high}] · {at_90}"


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))
    headings = re.findall(r"(?m)^#+ (.*)$", text)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", one).lower() for one in headings)
    return {re.sub(r"[^\w -]", "", one).strip().replace(" ", "-") for one in plain}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_each_link_within_the_repository_leads_somewhere(page):
    links = re.findall(r"(?:\]\(|src=\")(?!https?:)([^)\"\s]+)", page.read_text(encoding="utf-8"))
    broken = []
    for link in links:
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)

    assert broken == []


def test_the_picture_of_the_packages_is_what_import_linter_holds():
    text = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    picture = text.partition("not a word of unlearning\n")[2].partition("\n\n")[0].splitlines()
    shown = [line[64:] for line in picture]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    layers = settings["importlinter"]["contracts"][1]["layers"]

    assert shown == [layer.replace("kedro_dvc.", "") for layer in layers]
