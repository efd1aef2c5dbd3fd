"""The stages of a study for dvc.yaml, made from its pipelines, catalog and parameters.

A stage is a Kedro node. Nodes that differ only in their namespace are one stage with a `matrix`,
named after the placeholder in the catalog's dataset factories: `train@large`. A stage runs again
when one of these changes:

1. its input files;
2. its code: the modules of its function and of its data sets' classes, with all they import;
3. its wiring: the `pipeline.py` that holds the node, with all it imports to wire it, and the
   catalog entries that it reads or writes; DVC does not know which file plays which role, so where
   two files could be swapped, the paths in their entries count too;
4. its parameters, key by key: a stage does not see another one's row of a table;
5. its command.

This list depends on the project itself: a new input, import, row of a table or key changes it
without DVC's knowing. So there is a guard, a stage that runs before all others, makes the stages
again and fails if dvc.yaml differs. Its output never changes, so no stage runs because the guard
did. The guard depends on everything that can change the stages: the configuration, the pipelines'
folder, the registry, the settings, and the files that stages depend on, as only these can bring in
another file by an import. An edit of any other file leaves the guard, and so dvc.lock, as it was.
"""

from __future__ import annotations

import inspect
import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any

from kedro.pipeline.node import Node

from kedro_dvc.configuration import BASE, addresses, as_params
from kedro_dvc.files import WorkflowError, write_text
from kedro_dvc.project import Study, for_dvc, package, source_files, wiring_files

GUARD = "in_sync"
STAMP = "dvc.yaml is what `kedro dvc sync` makes of this project.\n"
WIRING = ("pipelines", "pipeline_registry.py", "settings.py")  # in the package

KINDS = ("outs", "metrics", "plots")
FLAGS = ("cache", "persist", "push", "remote", "desc", "type", "labels")
PLOT = ("x", "y", "x_label", "y_label", "title", "template", "header")

PATH = "filepath"
PLACEHOLDER = re.compile(r"\$\{item\.(\w+)\}")

# Keys of a catalog entry that no node sees, or only the node at the other end.
NOT_OF_INPUTS = ("metadata", "save_args")
NOT_OF_OUTPUTS = ("metadata", "load_args")

Stage = dict[str, Any]
Entries = list[dict[str, Any]]  # of the catalog


def stages(study: Study) -> dict[str, Stage]:
    """Return the stages by name, in the order of the pipeline, the guard last.

    Raises:
        WorkflowError: If a data set is in memory or versioned, a parameter is unknown, two stages
            write one path, or nodes with one name differ in more than their namespace.
    """
    by_name: dict[str, list[Node]] = defaultdict(list)
    for node in study.pipelines["__default__"].nodes:
        by_name[node.name.removeprefix(f"{node.namespace}.")].append(node)
    made: dict[str, Stage] = {}
    for name, nodes in by_name.items():
        made |= _stages_of(study, name, nodes)
    check_paths(made)
    return {**_after_guard(made, study), GUARD: _guard(study, made)}


def _stages_of(study: Study, name: str, nodes: list[Node]) -> dict[str, Stage]:
    """Return one stage for the nodes that differ only in their namespace.

    Items that depend on other files than the rest, such as those for which a study overrides some
    parameters, become a numbered stage of their own.
    """
    desc = {"desc": (nodes[0].func.__doc__ or nodes[0].name).strip().splitlines()[0]}
    # the placeholder stands for the innermost namespace; outer ones only group nodes in kedro-viz
    factory = study.factory(nodes[0].outputs[0])
    variable = factory.partition("{")[2].partition("}")[0] if factory else None
    if variable is None and len(nodes) == 1:
        return {name: {**desc, **_stage(study, nodes[0])}}
    if variable is None:
        raise WorkflowError(
            f"{nodes[0].outputs[0]!r} is in a namespace and needs a dataset factory in the catalog."
        )
    groups: list[tuple[Stage, list[str]]] = []  # stages, each with its items
    for node in nodes:
        item = str(node.namespace).rpartition(".")[2]
        stage = _sorted(_with_placeholder(_stage(study, node), item, variable))
        items = next((items for other, items in groups if other == stage), None)
        if items is None:
            groups.append((stage, items := []))
        items.append(item)
        if _without_inputs(stage) != _without_inputs(groups[0][0]):
            raise WorkflowError(
                f"{node.name!r} and {nodes[0].name!r} differ in more than their {variable}, or its "
                "name is that of a folder or parameter: they cannot be one stage."
            )
    return {
        name if number == 1 else f"{name}-{number}": {
            **desc,
            "matrix": {variable: _in_order_of_table(items, study)},
            **stage,
        }
        for number, (stage, items) in enumerate(groups, 1)
    }


def _without_inputs(stage: Stage) -> Stage:
    """Return a stage without its inputs and parameters, but with its code."""
    code = [path for path in stage["deps"] if path.startswith("src/")]
    return {**stage, "deps": code, "params": []}


def _with_placeholder(stage: Stage, item: str, variable: str) -> Stage:
    """Return a stage with `${item.x}` in the place of the item, except in the paths of code."""
    word, placeholder = re.compile(rf"(?<![\w-]){item}(?![\w-])"), f"${{item.{variable}}}"

    def change(text: str) -> str:
        return text if text.startswith("src/") else word.sub(placeholder, text)

    made: Stage = _map_text(stage, change)
    return made


def _map_text(value: Any, change: Callable[[str], str]) -> Any:
    """Return a part of a stage with every text in it changed, keys too."""
    if isinstance(value, dict):
        return {_map_text(key, change): _map_text(one, change) for key, one in value.items()}
    if isinstance(value, list):
        return [_map_text(one, change) for one in value]
    return change(value) if isinstance(value, str) else value


def _sorted(stage: Stage) -> Stage:
    """Return a stage with its files and keys in an order that does not depend on the item."""
    return {
        **stage,
        "deps": sorted(stage["deps"], key=lambda path: (path.startswith("src/"), path)),
        "params": [
            {file: keys and sorted(keys) for file, keys in one.items()} for one in stage["params"]
        ],
    }


def _in_order_of_table(items: list[str], study: Study) -> list[str]:
    """Return the items in the order of the first table of parameters that has a row for each."""
    tables = [table for table in study.config["parameters"].values() if isinstance(table, dict)]
    table = next((one for one in tables if one.keys() >= set(items)), items)
    return [item for item in table if item in items]


def _stage(study: Study, node: Node) -> Stage:
    names = [name for name in node.inputs if not name.startswith("params:")]
    read = [study.dataset(name) for name in names]
    written = [study.dataset(name) for name in node.outputs]
    for name, entry in zip(node.outputs, written, strict=True):
        if "filepath" not in entry:
            raise WorkflowError(f"{name!r} has no file to be written to: give it a filepath.")
    without_file = [entry for entry in read if "filepath" not in entry]
    made_from = [for_dvc(entry).get("deps", []) for entry in [*written, *without_file]]
    files = {entry["filepath"] for entry in read if "filepath" in entry}.union(*made_from)
    # kind, key, and what of it is not watched
    keys: list[tuple[str, str, tuple[str, ...]]] = [
        ("parameters", name[7:], ()) for name in node.inputs if name.startswith("params:")
    ]
    others = study.pipelines["__default__"].all_outputs() - set(node.outputs)
    for ends, unseen in ((names, NOT_OF_INPUTS), (node.outputs, NOT_OF_OUTPUTS)):
        swappable = _swappable(study, ends, others)
        keys += [
            (
                "catalog",
                study.factory(name) or name,
                unseen if name in swappable else (*unseen, PATH),
            )
            for name in ends
        ]
    owner = study.owner(node)
    return {
        # for base too, else KEDRO_ENV could select another study
        "cmd": f"kedro run --env {study.name} --pipelines {owner} --nodes {node.name}",
        **_working_directory(study),
        "deps": sorted(files) + _code(study, node, owner, read + written),
        "params": as_params({one for key in keys for one in addresses(study.defined, *key)}),
        **outputs_of(written),
    }


def _swappable(study: Study, names: list[str], written: set[str]) -> list[str]:
    """Return the inputs, or outputs, of a node that could swap files without DVC's noticing.

    Args:
        study: The study.
        names: All inputs or all outputs of the node.
        written: What other stages write: they run again if these files are swapped.
    """
    files = [one for one in {*names} - written if PATH in study.dataset(one)]
    return files if len(files) > 1 else []


def _working_directory(study: Study) -> Stage:
    """Return the key that makes a stage run in the project's root."""
    return {} if study.name == BASE else {"wdir": "../.."}


def _code(study: Study, node: Node, owner: str, entries: Entries) -> list[str]:
    """Return the source files that the node can run, and those that wire it."""
    functions = {one.func.__module__ for one in study.pipelines["__default__"].nodes}
    home = node.func.__module__.rpartition(".")[0]
    wiring = {f"{home}.pipeline", f"{home.rpartition('.')[0]}.{owner}.pipeline"}
    classes = (entry["type"].rpartition(".")[0] for entry in entries)
    decorated = inspect.unwrap(node.func).__module__  # besides the module of its decorator
    run = source_files([node.func.__module__, decorated, *classes])
    return sorted(wiring_files(wiring, functions).union(run))


def outputs_of(written: Entries) -> Stage:
    """Return the outputs of a stage by kind, from the catalog entries it writes.

    A flag that is null counts as absent.
    """
    outputs: Stage = {kind: [] for kind in KINDS}
    for entry in written:
        metadata, path = for_dvc(entry), entry["filepath"]
        flags = {key: metadata[key] for key in (*FLAGS, *PLOT) if metadata.get(key) is not None}
        outputs[metadata.get("kind", "outs")].append({path: flags} if flags else path)
    return {kind: outs for kind, outs in outputs.items() if outs}


def paths_of(stage: Stage) -> list[str]:
    """Return the paths that a stage writes."""
    outs = [out for kind in KINDS for out in stage.get(kind, [])]
    return [next(iter(out)) if isinstance(out, dict) else out for out in outs]


def node_of(stage: Stage, name: str) -> str:
    """Return the node that a stage runs; the stage's name if it runs none."""
    words = words_of(stage["cmd"])
    return words[words.index("--nodes") + 1] if "--nodes" in words else name


def words_of(command: str | Sequence[str]) -> list[str]:
    """Return the words of a command, or of several commands in a row.

    A command that only a shell can split, such as `make # it's quick`, gives no words.
    """
    words = []
    for one in [command] if isinstance(command, str) else command:
        with suppress(ValueError):
            words += shlex.split(one)
    return words


def expanded(made: Mapping[str, Stage]) -> Iterator[tuple[str, Stage]]:
    """Yield the stages that DVC runs, with their names: every item of a stage with a matrix."""
    for name, stage in made.items():
        matrix = stage.get("matrix", {})
        for values in product(*matrix.values()):
            item = dict(zip(matrix, values, strict=True))
            fill = partial(PLACEHOLDER.sub, lambda found, item=item: item[found[1]])
            yield f"{name}@{'-'.join(values)}" if item else name, _map_text(stage, fill)


def check_paths(made: Mapping[str, Stage]) -> None:
    """Raise if two stages write one path, or one writes inside the folder of another.

    Raises:
        WorkflowError: With the path and both stages.
    """
    owners: dict[str, str] = {}
    for stage, path in ((name, path) for name, one in expanded(made) for path in paths_of(one)):
        if path in owners:
            raise WorkflowError(
                f"{stage!r} and {owners[path]!r} both write {path}: give one of them another "
                "filepath."
            )
        owners[path] = stage
    for path, stage in owners.items():
        for folder in map(str, PurePosixPath(path).parents):
            if folder in owners:
                raise WorkflowError(
                    f"{stage!r} writes {path}, inside {folder} of {owners[folder]!r}: give it "
                    "another filepath."
                )


def _guard(study: Study, made: Mapping[str, Stage]) -> Stage:
    """Return the guard, which depends on everything that defines the stages."""
    conf = [f"conf/{folder}" for folder in dict.fromkeys((BASE, study.name))]
    wiring = [f"src/{package()}/{name}" for name in WIRING]
    wiring = [path for path in wiring if (study.project / path).exists()]
    code = {path for stage in made.values() for path in stage["deps"] if path.startswith("src/")}
    inside = tuple(f"{path}/" for path in wiring)
    return {
        "desc": "Stop if this file is behind the Kedro project.",
        "cmd": f"kedro dvc sync --check --env {study.name} --stamp",
        **_working_directory(study),
        "deps": [*conf, *wiring, *sorted(path for path in code if not path.startswith(inside))],
        "outs": [guard_file(study.name)],
    }


def _after_guard(made: dict[str, Stage], study: Study) -> dict[str, Stage]:
    """Make the stages that read no other stage's output depend on the guard.

    `dvc repro` of any stage then begins with the guard.
    """
    # each matches an output, whatever its item, and the files in it if it is a folder
    patterns = [
        re.compile(".+".join(map(re.escape, re.split(r"\$\{item\.\w+\}", path))) + "(/.*)?")
        for stage in made.values()
        for path in paths_of(stage)
    ]
    return {
        name: stage
        if any(pattern.fullmatch(path) for pattern in patterns for path in stage["deps"])
        else {**stage, "deps": [guard_file(study.name), *stage["deps"]]}
        for name, stage in made.items()
    }


def guard_file(study: str) -> str:
    """Return the file that the guard writes when a study's dvc.yaml is up to date."""
    return f".{GUARD}/{study}"


def write_guard_file(project: Path, study: str) -> None:
    """Write the guard's output."""
    write_text(project / guard_file(study), STAMP)
