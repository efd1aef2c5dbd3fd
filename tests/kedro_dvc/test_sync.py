"""Each dvc.yaml of the project is held against Kedro, without the code that wrote it.

If a test here fails, run `kedro dvc sync`; if it still fails, mend the workflow, not the test.
"""

from __future__ import annotations

import ast
import inspect
import shlex
import shutil
import stat
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.dependency.param import ParamsDependency
from dvc.ignore import DvcIgnoreFilter
from dvc.repo import Repo
from dvc.stage import Stage
from kedro.framework.context import KedroContext
from kedro.framework.project import pipelines
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from kedro.io import AbstractDataset, CatalogProtocol
from kedro.pipeline import Node

from kedro_dvc import sync
from kedro_dvc.files import WorkflowError
from kedro_dvc.project import (
    check_study,
    dvc_file,
    load_study,
    study_names,
    synced_studies,
    take_part,
)

ROOT = Path(__file__).parents[2]
STUDIES = synced_studies(ROOT)


# One of each benchmark and each source of the base model; `make test-all` takes all that wait.
QUICK = {"qwen_wmdp", "deepseek_rwku", "olmoe_tofu", "olmoe_muse"}


# The dearest of those that have run; `kedro dvc sync --check` of `make lint` looks at each.
DEAR = {"sandbox_peers", "smol_cyber", "smol_tofu"}


@pytest.fixture(
    params=[pytest.param(s, marks=pytest.mark.slow if s in DEAR else ()) for s in STUDIES],
    scope="module",
)
def study(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each study of the project, made known to its pipelines for all tests that take it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setenv("KEDRO_ENV", request.param)
        bootstrap_project(ROOT)
        yield request.param


def test_every_node_is_a_stage_and_every_stage_a_node(study):
    assert set(_stages(study)) == {node.name for node in pipelines["__default__"].nodes}


def test_a_stage_reads_and_writes_what_its_node_does(study):
    catalog = _catalog(study)
    for node in pipelines["__default__"].nodes:
        stage = _stages(study)[node.name]
        declared = set(_declared_sources(catalog, node))

        guard = {f".in_sync/{study}"}
        assert _paths(stage.deps) - declared - guard == _files(catalog, node.inputs), node.name
        assert _paths(stage.outs) == _files(catalog, node.outputs), node.name


def test_every_stage_waits_for_the_guard_or_for_one_that_does(study):
    made = {path for stage in _stages(study).values() for path in _paths(stage.outs)}

    for name, stage in _stages(study).items():
        assert _paths(stage.deps) & {*made, f".in_sync/{study}"}, name


def test_a_stage_watches_all_code_that_its_node_can_run(study):
    """Its module, those of its data sets, those that wire it, with all they import, by reading."""
    catalog = _catalog(study)
    for node in pipelines["__default__"].nodes:
        datasets = [
            catalog[name] for name in [*node.inputs, *node.outputs] if "params:" not in name
        ]
        functions = {node.func.__module__, inspect.unwrap(node.func).__module__}
        modules = functions.union(type(dataset).__module__ for dataset in datasets)
        stage = _stages(study)[node.name]

        code = _paths(stage.deps, code=True)

        assert code == _reachable(modules) | _wiring(node, shlex.split(stage.cmd)), node.name


def test_a_stage_watches_the_values_of_its_parameters(study):
    """What DVC reads in the raw file is what Kedro gives to the node."""
    given = _context(study).config_loader["parameters"]
    for node in pipelines["__default__"].nodes:
        watched = _watched(_stages(study)[node.name])
        for name in node.inputs:
            if name.startswith("params:"):
                key = name.removeprefix("params:")
                seen = _with_globals(_at(watched, key), watched)
                assert seen == _at(given, key), f"{node.name}: {key}"


def test_the_text_is_the_same_each_time(study):
    """As another process once wrote it: so each file is current."""
    assert sync.render(_made(study)) == (ROOT / dvc_file(study)).read_text()


def test_nothing_is_written_by_a_check():
    path = ROOT / dvc_file("smoke")
    before = path.stat().st_mtime_ns

    assert not sync.sync(ROOT, "smoke", write=False)
    assert path.stat().st_mtime_ns == before


def test_what_a_table_shows_is_a_plot_of_the_file_and_no_part_of_a_stage():
    """`paths` of the smoke study lists two under `shown`."""
    made = _made("smoke")

    table = "../../studies/smoke/data/08_reporting/paths.csv"
    drawn = [plot for one in made["plots"] for plot in one.values()]
    assert [plot["y"] for plot in drawn] == [{table: "test_utility"}, {table: "general_loss"}]
    assert {plot["x"] for plot in drawn} == {"test_forgotten"}
    assert {"plots", "shown"}.isdisjoint(made["stages"]["compare_methods"])


def test_a_study_has_one_file_of_metrics(study):
    stages = _made(study)["stages"].values()

    files = [next(iter(one)) for stage in stages for one in stage.get("metrics", [])]

    assert [Path(file).name for file in files] in ([], ["headline.json"])


def test_a_frozen_stage_stays_frozen(tmp_path):
    """Of the stages of smoke the one that the file at hand freezes."""
    study, path = load_study(ROOT, "smoke"), tmp_path / "dvc.yaml"
    path.write_text("stages: {prepare_data: {cmd: x, frozen: true}, gone: {frozen: true}}")

    stages = sync.document(study, path)["stages"]

    assert [name for name, stage in stages.items() if stage.get("frozen")] == ["prepare_data"]
    assert stages["prepare_data"]["cmd"] != "x"


def test_a_file_with_a_merges_conflict_is_written_anew(tmp_path):
    path = tmp_path / "dvc.yaml"
    path.write_text("<<<<<<< HEAD\nstages: {}\n=======\nstages: {a: {}}\n>>>>>>> other\n")

    made = sync.document(load_study(ROOT, "smoke"), path)

    assert "prepare_data" in made["stages"]
    assert sync.nearest_stages(path, "prepare_data") == []


def test_a_study_that_was_not_run_in_a_clone_does_not_speak_until_it_takes_part(
    tmp_path, monkeypatch
):
    """DVC sees base alone, then the study too."""
    stage = "stages: {{{0}: {{cmd: echo, outs: [{0}]}}}}"
    (tmp_path / "studies/mine").mkdir(parents=True)
    (tmp_path / "dvc.yaml").write_text(stage.format("one"))
    (tmp_path / "studies/mine/dvc.yaml").write_text(stage.format("two"))
    shutil.copy(ROOT / ".dvcignore", tmp_path)
    monkeypatch.chdir(tmp_path)
    Repo.init(no_scm=True).close()

    def seen() -> set[str]:
        with Repo(str(tmp_path)) as repo:
            return set(repo.status())

    before = seen()
    take_part(tmp_path, "mine")

    assert before == {"one"}
    assert seen() == {"one", "studies/mine/dvc.yaml:two"}


def test_a_project_that_hides_no_study_is_given_no_file(tmp_path):
    (tmp_path / ".dvcignore").write_text("build/\n")

    take_part(tmp_path, "mine")

    assert not (tmp_path / "studies").exists()


@cache
def _made(study: str) -> dict[str, Any]:
    """Return what the file of a study is to hold; tests that take `study` take its own."""
    return sync.document(load_study(ROOT, study), ROOT / dvc_file(study))


@cache
def _stages(study: str) -> dict[str, Stage]:
    """Return the stages of a study, each matrix written out, by the node that they run.

    Of a study too that this clone's DVC does not see.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DvcIgnoreFilter, "is_ignored_file", lambda *_, **__: False)
        stages = Repo(ROOT).stage.load_file(str(ROOT / dvc_file(study)))
    found = {}
    for stage in stages:
        words = shlex.split(stage.cmd)
        if words[:2] == ["kedro", "run"]:
            assert (words[words.index("--env") + 1] if "--env" in words else "base") == study
            found[words[words.index("--nodes") + 1]] = stage
    return found


@cache
def _context(study: str) -> KedroContext:
    with KedroSession.create(ROOT, env=study) as session:
        context = session.load_context()
    for part in ("parameters", "catalog"):  # `${globals:...}` is that of the last loader made
        assert context.config_loader[part]
    return context


@cache
def _catalog(study: str) -> CatalogProtocol:
    return _context(study).catalog


def _paths(items: list[Any], code: bool = False) -> set[str]:
    paths = {
        str(Path(item.fs_path).relative_to(ROOT))
        for item in items
        if not isinstance(item, ParamsDependency)
    }
    return {path for path in paths if path.startswith("src/") == code}


def _files(catalog: CatalogProtocol, names: list[str]) -> set[str]:
    datasets = [catalog[name] for name in names if not name.startswith("params:")]
    return {str(path.relative_to(ROOT)) for path in map(_file, datasets) if path}


def _file(dataset: AbstractDataset) -> Path | None:
    path = getattr(dataset, "_filepath", None)
    return Path(str(path)) if path else None


def _declared_sources(catalog: CatalogProtocol, node: Node) -> Iterator[str]:
    """Yield what the catalog says that an output, or an input without a file, is made from."""
    read = [name for name in node.inputs if "params:" not in name]
    for name in [*node.outputs, *(name for name in read if not _files(catalog, [name]))]:
        metadata = getattr(catalog[name], "metadata", None) or {}
        yield from metadata.get("dvc", {}).get("deps", [])


def _watched(stage: Stage) -> dict[str, Any]:
    """Return the watched parameters and globals: those of base, over them those of the study."""
    found: dict[str, Any] = {}
    files = [
        one
        for one in stage.deps
        if isinstance(one, ParamsDependency) and "catalog" not in Path(one.fs_path).name
    ]
    for dependency in sorted(files, key=lambda one: "conf/base" not in str(one.fs_path)):
        values = yaml.safe_load(Path(dependency.fs_path).read_text())
        for key in dependency.params:
            part = _at(values, key)
            for step in reversed(key.split(".")):
                part = {step: part}
            _put_over(found, part)
    return found


def _put_over(below: dict[str, Any], values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            _put_over(below[key], value)
        elif key != "_replace_":
            below[key] = value


def _with_globals(value: Any, watched: dict[str, Any]) -> Any:
    """Return a raw value with each `${globals:key}` replaced by that key, if DVC watches it."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if key != "_replace_"}
        return {key: _with_globals(item, watched) for key, item in kept.items()}
    if isinstance(value, str) and value.startswith("${globals:"):
        return watched[value.removeprefix("${globals:").removesuffix("}")]
    return value


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


def _source(module: str) -> str:
    path = Path("src", *module.split("."))
    return f"{path}/__init__.py" if (ROOT / path).is_dir() else f"{path}.py"


@cache
def _imports(path: str) -> set[str]:
    """Return the first-party files that a file imports anywhere but under TYPE_CHECKING."""
    tree = ast.parse((ROOT / path).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in inside if (ROOT / _source(name)).is_file()}
            names |= modules | ({node.module or ""} if modules != inside else set())
    return {_source(name) for name in names if name.partition(".")[0] == "seuf"}


def _reachable(modules: set[str], beside: set[str] | None = None) -> set[str]:
    found: set[str] = set()
    ahead = {_source(module) for module in modules if module.partition(".")[0] == "seuf"}
    while ahead:
        found |= ahead
        ahead = set().union(*map(_imports, ahead)) - found - (beside or set())
    return found


def _wiring(node: Node, command: list[str]) -> set[str]:
    """Return what says how the node is wired: pipelines and what they import beside functions."""
    owner = command[command.index("--pipelines") + 1]
    home = node.func.__module__.rpartition(".")[0]
    functions = {_source(one.func.__module__) for one in pipelines["__default__"].nodes}
    return _reachable({f"{home}.pipeline", f"seuf.pipelines.{owner}.pipeline"}, functions)


def test_a_new_cache_is_the_owners_alone_and_an_old_one_keeps_its_rights(tmp_path):
    cache = tmp_path / ".dvc" / "cache"
    cache.parent.mkdir()

    sync.private_cache(tmp_path)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700

    cache.chmod(0o750)
    sync.private_cache(tmp_path)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o750


def test_a_study_does_not_begin_as_one_that_has_no_place_of_its_own(tmp_path):
    """The two would write the same files."""
    (tmp_path / "conf/base").mkdir(parents=True)

    with pytest.raises(WorkflowError, match=r"conf/base/globals.yml has no 'study'"):
        sync.new_study(tmp_path, "mine", "base")
    assert not (tmp_path / "conf/mine").exists()


@pytest.mark.parametrize("text", ["study: mine\n", "data_root: data\n", ""])
def test_a_study_that_shares_the_artifacts_of_base_is_refused(text, tmp_path):
    _write_globals(tmp_path, base="data_root: data\n", mine=text)

    with pytest.raises(WorkflowError, match=r"Add `data_root: studies/mine/data`") as caught:
        check_study(tmp_path, "mine")
    assert str(caught.value).startswith("conf/mine/globals.yml has no data_root of its own: ")


@pytest.mark.parametrize("place", ["/elsewhere/data", "../data", "out/data"])
def test_a_study_whose_artifacts_would_lie_outside_of_the_project_is_refused(place, tmp_path):
    """DVC would find out after the first stage has run; `out` is a link."""
    project = tmp_path / "project"
    _write_globals(project, base="data_root: data\n", mine=f"data_root: {place}\n")
    (tmp_path / "large").mkdir()
    (project / "out").symlink_to(tmp_path / "large")

    with pytest.raises(WorkflowError, match=f"data_root {place} lies outside .* `dvc cache dir"):
        check_study(project, "mine")


def test_a_study_with_artifacts_of_its_own_is_one(tmp_path):
    """So is any study where base has no `data_root`, as in other projects."""
    _write_globals(tmp_path, base="data_root: data\n", mine="data_root: studies/mine/data\n")
    assert [check_study(tmp_path, name) for name in ("base", "mine")] == ["base", "mine"]

    _write_globals(tmp_path, base="", mine="")
    assert check_study(tmp_path, "mine") == "mine"


def test_a_checkout_has_the_committed_bytes_whatever_git_is_set_to(tmp_path):
    """With CRLF line ends every stage would be out of date, and each audit fail."""
    for command in (
        ["git", "init", "--quiet", "."],
        ["git", "config", "core.autocrlf", "true"],
        ["git", "config", "user.email", "n@n"],
        ["git", "config", "user.name", "n"],
    ):
        subprocess.run(command, cwd=tmp_path, check=True)
    shutil.copyfile(ROOT / ".gitattributes", tmp_path / ".gitattributes")
    (tmp_path / "code.py").write_bytes(b"x = 1\n")
    for command in (["add", "."], ["commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    (tmp_path / "code.py").unlink()

    subprocess.run(["git", "checkout", "--quiet", "code.py"], cwd=tmp_path, check=True)

    assert (tmp_path / "code.py").read_bytes() == b"x = 1\n"


def test_all_studies_have_artifacts_of_their_own():
    for name in study_names(ROOT):
        check_study(ROOT, name)


def _write_globals(project: Path, **texts: str) -> None:
    for study, text in texts.items():
        (project / "conf" / study).mkdir(parents=True, exist_ok=True)
        (project / "conf" / study / "globals.yml").write_text(text)


def test_without_dvc_there_is_no_cache(tmp_path):
    sync.private_cache(tmp_path)

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
        for name in sorted(set(study_names(ROOT)) - set(STUDIES))
    ],
)
def test_a_study_that_waits_to_be_run_can_be_taken_up(name, monkeypatch, tmp_path):
    """Its stages can be made, and a sync of all studies leaves it alone."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("KEDRO_ENV", name)
    bootstrap_project(ROOT)

    study = load_study(ROOT, name)
    made = sync.document(study, tmp_path / "dvc.yaml")["stages"]

    of_spread = "replication" in study.config["parameters"]
    ends = {"try_grid", "summarise_spread"} if of_spread else {"unlearn", "compare_methods"}
    assert {"in_sync", "prepare_data", *ends} <= set(made)
    assert name not in synced_studies(ROOT)
