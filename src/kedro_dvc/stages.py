"""What stages write: as the catalog's `metadata: {dvc: ...}` has it.

The guard: the stage that runs first and stops everything if dvc.yaml is behind the project.

What a stage depends on is read from the project, and an input, an import, a method or a key of a
study that comes or goes changes it. DVC cannot know: so the guard makes the stages anew and fails
if dvc.yaml has others. Its output never changes, so that no other stage runs because the guard did.
It runs when something has changed that can change the stages: the configuration, the folder of the
pipelines, the registry and the settings, or a file that some stage watches, as only such a file can
bring in another by an import. Any other file leaves the guard, and so dvc.lock, as it was.

The stages of a study as DVC runs them, made from its pipelines, catalog and parameters.

A stage is a Kedro node. Nodes that differ in their namespace alone are one stage with a `matrix`,
named after the placeholder in the catalog's dataset factories: `unlearn@seuf_ga`. A stage is run
again when one of these changes:

1. its input files;
2. its code: the module of its function and of its data sets' classes, with all they import;
3. its wiring: the `pipeline.py` that holds the node, with all it imports to know what to wire, and
   the catalog entries that it reads or writes;
4. its parameters, each as its key is written: no stage sees another method's row;
5. its command.

The list itself is read from the project: see `guard` for what happens when it changes.
"""

from __future__ import annotations

import inspect
import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any

from kedro.pipeline.node import Node

from kedro_dvc.configuration import BASE, Address, addresses, as_params
from kedro_dvc.files import WorkflowError, write_text
from kedro_dvc.project import Study, for_dvc, package, place, source_files, wiring_files

Stage = dict[str, Any]
Entries = list[dict[str, Any]]

KINDS = ("outs", "metrics", "plots")
FLAGS = ("cache", "persist", "push", "remote", "desc", "type", "labels")
PLOT = ("x", "y", "x_label", "y_label", "title", "template", "header")


def outputs_of(written: Entries) -> Stage:
    """Return the outputs of a stage, by kind, from the catalog entries that it writes.

    A flag that is null says nothing, as if it were not there.
    """
    found: Stage = {kind: [] for kind in KINDS}
    for entry in written:
        facts, path = for_dvc(entry), entry["filepath"]
        flags = {flag: facts[flag] for flag in (*FLAGS, *PLOT) if facts.get(flag) is not None}
        found[facts.get("kind", "outs")].append({path: flags} if flags else path)
    return {kind: outs for kind, outs in found.items() if outs}


def paths_of(stage: Stage) -> list[str]:
    """Return the paths that a stage writes, with placeholders."""
    outs = [out for kind in KINDS for out in stage.get(kind, [])]
    return [next(iter(out)) if isinstance(out, dict) else out for out in outs]


def check_paths(stages: Mapping[str, Stage]) -> None:
    """Raise if two stages write one path, or one writes inside the folder of another.

    Raises:
        WorkflowError: With the path and both stages.
    """
    owners: dict[str, str] = {}
    every = ((name, path) for name, stage in expanded(stages) for path in paths_of(stage))
    for stage, path in every:
        for other in (path, *map(str, PurePosixPath(path).parents)):
            if other in owners:
                raise WorkflowError(_clash(path, stage, other, owners[other]))
        inside = next((o for o in owners if PurePosixPath(o).is_relative_to(path)), None)
        if inside is not None:
            raise WorkflowError(_clash(inside, owners[inside], path, stage))
        owners[path] = stage


def _clash(path: str, stage: str, other: str, owner: str) -> str:
    if path == other:
        return f"{stage!r} and {owner!r} both write {path}: give one of them another filepath."
    return f"{stage!r} writes {path}, inside {other} of {owner!r}: give it another filepath."


def expanded(made: Mapping[str, Stage]) -> Iterator[tuple[str, Stage]]:
    """Yield the stages as DVC runs them, with their names: of one with a matrix all its items."""
    for name, stage in made.items():
        matrix = stage.get("matrix", {})
        for values in product(*matrix.values()):
            item = dict(zip(matrix, values, strict=True))
            yield "@".join([name, *(["-".join(values)] if item else [])]), _filled(stage, item)


def _filled(value: Any, item: Mapping[str, str]) -> Any:
    """Return a part of a stage with the item in the place of `${item.x}`."""
    if isinstance(value, dict):
        return {_filled(key, item): _filled(one, item) for key, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, item) for one in value]
    if isinstance(value, str):
        for key, text in item.items():
            value = value.replace(f"${{item.{key}}}", text)
    return value


def node_of(stage: Stage, name: str) -> str:
    """Return the node that a stage runs; its own name if it runs none."""
    words = shlex.split(stage["cmd"])
    return words[words.index("--nodes") + 1] if "--nodes" in words else name


GUARD = "in_sync"
STAMP = "dvc.yaml is what `kedro dvc sync` makes of this project.\n"


def stamp(study: str) -> str:
    """Return the file that the guard writes when a study's dvc.yaml is current."""
    return f".{GUARD}/{study}"


def write_stamp(project: Path, study: str) -> None:
    """Write what the guard leaves behind."""
    write_text(project / stamp(study), STAMP)


def guard(study: Study, made: Mapping[str, Stage]) -> Stage:
    """Return the guard of a study's stages; it watches all that says what the stages are."""
    conf = [f"conf/{folder}" for folder in dict.fromkeys((BASE, study.name))]
    home = f"src/{package()}"
    wiring = [f"{home}/{name}" for name in ("pipelines", "pipeline_registry.py", "settings.py")]
    wiring = [path for path in wiring if (study.project / path).exists()]
    code = {path for stage in made.values() for path in stage["deps"] if path.startswith("src/")}
    inside = tuple(f"{path}/" for path in wiring)
    return {
        "desc": "Stop if this file is behind the Kedro project.",
        "cmd": f"kedro dvc sync --check --env {study.name} --stamp",
        **place(study.name),
        "deps": [*conf, *wiring, *sorted(path for path in code if not path.startswith(inside))],
        "outs": [stamp(study.name)],
    }


def after_guard(made: dict[str, Stage], study: Study) -> dict[str, Stage]:
    """Let the stages that nothing of the study comes before depend on the guard.

    A `dvc repro` of any stage then begins with it.
    """
    written = [_pattern(path) for stage in made.values() for path in paths_of(stage)]
    return {
        name: stage
        if any(one.fullmatch(path) for one in written for path in stage["deps"])
        else {**stage, "deps": [stamp(study.name), *stage["deps"]]}
        for name, stage in made.items()
    }


def _pattern(path: str) -> re.Pattern[str]:
    """Return what a path with `${item.x}` matches, or what lies in the folder that it is."""
    parts = (re.escape(part) for part in re.split(r"\$\{item\.\w+\}", path))
    return re.compile(".+".join(parts) + "(/.*)?")


# What of a catalog entry no node sees (metadata), the stage names itself (filepath), or the other
# end of the entry goes by.
NOT_OF_INPUTS = ("metadata", "filepath", "save_args")
NOT_OF_OUTPUTS = ("metadata", "filepath", "load_args")


def stages(study: Study) -> dict[str, Stage]:
    """Return the stages by name, in the order of the study's pipeline, the guard last.

    Raises:
        WorkflowError: If a data set is in memory or versioned, a parameter is unknown, two stages
            write one path, or nodes of one name differ in more than their namespace.
    """
    alike: dict[str, list[Node]] = defaultdict(list)
    for node in study.pipelines["__default__"].nodes:
        alike[node.name.removeprefix(f"{node.namespace}.")].append(node)
    made: dict[str, Stage] = {}
    for name, nodes in alike.items():
        made |= _stages_of(study, name, nodes)
    tables = [table for table in study.config["parameters"].values() if isinstance(table, dict)]
    for stage in made.values():
        for variable, items in stage.get("matrix", {}).items():
            stage["matrix"][variable] = _in_order_of_table(items, tables)
    check_paths(made)
    return {**after_guard(made, study), GUARD: guard(study, made)}


def _in_order_of_table(items: list[str], tables: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the items of a matrix as the table of parameters has them that has a row of each."""
    table = next((one for one in tables if one.keys() >= set(items)), items)
    return [item for item in table if item in items]


def _stages_of(study: Study, name: str, nodes: list[Node]) -> dict[str, Stage]:
    """Return one stage for the nodes that are the same up to their namespace.

    Where a study overrides a part of some methods' parameters, these have other files to watch:
    they are a stage of their own, numbered.
    """
    desc = {"desc": (nodes[0].func.__doc__ or nodes[0].name).strip().splitlines()[0]}
    variable = _placeholder(study, nodes[0])
    if variable is None and len(nodes) == 1:
        return {name: {**desc, **_stage(study, nodes[0])}}
    if variable is None:
        raise WorkflowError(
            f"{nodes[0].outputs[0]!r} of a namespace needs a dataset factory in the catalog."
        )
    forms: list[tuple[Stage, list[str]]] = []
    for node in nodes:
        form = _without_namespace(_stage(study, node), node, variable)
        group = next((group for other, group in forms if other == form), None)
        if group is None:
            forms.append((form, group := []))
        group.append(_item(node))
        _check_alike(node, nodes[0], form, forms[0][0], variable)
    return {
        name if place == 1 else f"{name}-{place}": {**desc, "matrix": {variable: group}, **form}
        for place, (form, group) in enumerate(forms, 1)
    }


def _check_alike(node: Node, first: Node, form: Stage, of_first: Stage, variable: str) -> None:
    if {**form, "params": []} != {**of_first, "params": []}:
        raise WorkflowError(
            f"{node.name!r} and {first.name!r} differ in more than their {variable}, or its name "
            "is that of a folder or parameter: they cannot be one stage."
        )


def _placeholder(study: Study, node: Node) -> str | None:
    """Return the placeholder of the factory that makes the node's outputs, None if they have none.

    It stands for the innermost namespace; those around it are boxes of kedro-viz.
    """
    factory = study.factory(node.outputs[0])
    return factory and factory.partition("{")[2].partition("}")[0]


def _item(node: Node) -> str:
    return str(node.namespace).rpartition(".")[2]


def _without_namespace(value: Any, node: Node, variable: str) -> Any:
    """Return the value with the placeholder for the namespace, but in the names of code."""
    if isinstance(value, dict):
        pairs = _without_namespace(list(map(list, value.items())), node, variable)
        return dict(pairs)
    if isinstance(value, list):
        return [_without_namespace(item, node, variable) for item in value]
    if isinstance(value, str) and not value.startswith("src/"):
        return re.sub(rf"(?<![\w-]){_item(node)}(?![\w-])", f"${{item.{variable}}}", value)
    return value


def _stage(study: Study, node: Node) -> Stage:
    owner = study.owner(node)
    read = [study.dataset(name) for name in node.inputs if not name.startswith("params:")]
    written = [_entry_of_output(study, name) for name in node.outputs]
    return {
        "cmd": _command(study, node, owner),
        **place(study.name),
        "deps": _files(read, written) + _code(study, node, owner, read + written),
        "params": as_params(_defined_by(study, node)),
        **outputs_of(written),
    }


def _entry_of_output(study: Study, name: str) -> dict[str, Any]:
    entry = study.dataset(name)
    if "filepath" not in entry:
        raise WorkflowError(f"{name!r} has no file to be written to: give it a filepath.")
    return entry


def _command(study: Study, node: Node, owner: str) -> str:
    env = "" if study.name == BASE else f" --env {study.name}"
    return f"kedro run{env} --pipelines {owner} --nodes {node.name}"


def _files(read: Entries, written: Entries) -> list[str]:
    """Return the files of the inputs, and those that the catalog says a data set is made from."""
    without_file = [entry for entry in read if "filepath" not in entry]
    made_from = (for_dvc(entry).get("deps", []) for entry in [*written, *without_file])
    return sorted({entry["filepath"] for entry in read if "filepath" in entry}.union(*made_from))


def _code(study: Study, node: Node, owner: str, entries: Entries) -> list[str]:
    functions = {one.func.__module__ for one in study.pipelines["__default__"].nodes}
    home = node.func.__module__.rpartition(".")[0]
    wiring = {f"{home}.pipeline", f"{home.rpartition('.')[0]}.{owner}.pipeline"}
    classes = (entry["type"].rpartition(".")[0] for entry in entries)
    wrapped = inspect.unwrap(
        node.func
    ).__module__  # a decorator's code counts, and what it decorates
    run = source_files([node.func.__module__, wrapped, *classes])
    return sorted(wiring_files(wiring, functions).union(run))


def _defined_by(study: Study, node: Node) -> set[Address]:
    """Return where the node's parameters and data sets are defined."""
    parameters = [name for name in node.inputs if name.startswith("params:")]
    read = [name for name in node.inputs if not name.startswith("params:")]
    keys = [
        *(("parameters", name.removeprefix("params:"), ()) for name in parameters),
        *(("catalog", study.factory(name) or name, NOT_OF_INPUTS) for name in read),
        *(("catalog", study.factory(name) or name, NOT_OF_OUTPUTS) for name in node.outputs),
    ]
    return {address for key in keys for address in addresses(study.defined, *key)}
