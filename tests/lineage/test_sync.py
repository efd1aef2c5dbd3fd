"""Each dvc.yaml of the project is held against Kedro, without the code that wrote it.

If a test here fails, run `kedro dvc sync`; if it still fails, mend the workflow, not the test.
"""

from __future__ import annotations

import ast
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.dependency.param import ParamsDependency
from dvc.repo import Repo
from dvc.stage import Stage
from kedro.framework.context import KedroContext
from kedro.framework.project import pipelines
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from kedro.io import AbstractDataset, CatalogProtocol
from kedro.pipeline import Node

from seuf.lineage import sync
from seuf.lineage.study import load_study, study_names

ROOT = Path(__file__).parents[2]
STUDIES = study_names(ROOT)


@pytest.fixture(params=STUDIES)
def study(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each study of the project, made known to its pipelines."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("KEDRO_ENV", request.param)
    bootstrap_project(ROOT)
    return request.param


def test_every_node_is_a_stage_and_every_stage_a_node(study):
    assert set(_stages(study)) == {node.name for node in pipelines["__default__"].nodes}


def test_a_stage_reads_and_writes_what_its_node_does(study):
    catalog = _context(study).catalog
    for node in pipelines["__default__"].nodes:
        stage = _stages(study)[node.name]
        declared = set(_declared_sources(catalog, node))

        assert _paths(stage.deps) - declared == _files(catalog, node.inputs), node.name
        assert _paths(stage.outs) == _files(catalog, node.outputs), node.name


def test_a_stage_watches_all_code_that_its_node_can_run(study):
    """The node's module and those of its data sets, with all they import, found by reading."""
    catalog = _context(study).catalog
    for node in pipelines["__default__"].nodes:
        datasets = [
            catalog[name] for name in [*node.inputs, *node.outputs] if "params:" not in name
        ]
        modules = {node.func.__module__, *(type(dataset).__module__ for dataset in datasets)}
        code = _paths(_stages(study)[node.name].deps, code=True)

        wiring = {path for path in code if path.endswith("/pipeline.py")}
        assert code - wiring == _reachable(modules), node.name
        assert str(Path(_source(node.func.__module__)).with_name("pipeline.py")) in wiring


def test_a_stage_watches_the_values_of_its_parameters(study):
    """What DVC reads in the raw file is what Kedro gives to the node."""
    given = _context(study).config_loader["parameters"]
    for node in pipelines["__default__"].nodes:
        watched = dict(_watched_values(_stages(study)[node.name]))
        for name in node.inputs:
            if name.startswith("params:"):
                key = name.removeprefix("params:")
                seen = _with_globals(watched[key], watched)
                assert seen == _at(given, key), f"{node.name}: {key}"


def test_the_files_are_current_and_nothing_is_written_by_a_check(study):
    path = ROOT / sync.dvc_file(study)
    before = path.read_bytes()

    assert not sync.sync(ROOT, study, write=False)
    assert path.read_bytes() == before


def test_the_text_is_the_same_each_time(study):
    made = sync.stages(load_study(ROOT, study))

    assert sync.render(made) == sync.render(sync.stages(load_study(ROOT, study)))
    assert sync.render(made) == (ROOT / sync.dvc_file(study)).read_text()


def test_a_frozen_stage_stays_frozen(tmp_path):
    path = tmp_path / "dvc.yaml"
    path.write_text("stages: {a: {cmd: x, frozen: true}, b: {cmd: y}}")

    assert sync.keep_frozen({"a": {"cmd": "z"}, "b": {"cmd": "y"}}, path) == {
        "a": {"cmd": "z", "frozen": True},
        "b": {"cmd": "y"},
    }


@cache
def _stages(study: str) -> dict[str, Stage]:
    """Return the stages of a study, each matrix written out, by the node that they run."""
    folder = ROOT if study == "base" else ROOT / "studies" / study
    found = {}
    for stage in Repo(ROOT).index.stages:
        words = shlex.split(stage.cmd) if Path(stage.path).parent == folder else []
        if words:
            assert words[:2] == ["kedro", "run"]
            assert (words[words.index("--env") + 1] if "--env" in words else "base") == study
            found[words[words.index("--nodes") + 1]] = stage
    return found


def _context(study: str) -> KedroContext:
    # made anew each time: `${globals:...}` is resolved by the loader that was made last
    with KedroSession.create(ROOT, env=study) as session:
        return session.load_context()


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
    for name in node.outputs:
        metadata = getattr(catalog[name], "metadata", None) or {}
        yield from metadata.get("dvc", {}).get("deps", [])


def _watched_values(stage: Stage) -> Iterator[tuple[str, Any]]:
    for dependency in stage.deps:
        if isinstance(dependency, ParamsDependency):
            values = yaml.safe_load(Path(dependency.fs_path).read_text())
            yield from ((key, _at(values, key)) for key in dependency.params)


def _with_globals(value: Any, watched: dict[str, Any]) -> Any:
    """Return a raw value with each `${globals:key}` replaced by that key, if DVC watches it."""
    if isinstance(value, dict):
        return {key: _with_globals(item, watched) for key, item in value.items()}
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


def _reachable(modules: set[str]) -> set[str]:
    found: set[str] = set()
    ahead = {_source(module) for module in modules if module.partition(".")[0] == "seuf"}
    while ahead:
        found |= ahead
        ahead = set().union(*map(_imports, ahead)) - found
    return found
