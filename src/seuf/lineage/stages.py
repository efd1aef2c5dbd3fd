"""The stages of a study as DVC runs them, made from its pipelines, catalog and parameters.

A stage is a Kedro node. Nodes that differ in their namespace alone are one stage with a `matrix`,
named after the placeholder in the catalog's dataset factories: `unlearn@seuf_ga`. A stage is run
again when one of these changes:

1. its input files;
2. its code: the module of its function and of its data sets' classes, with all they import;
3. its wiring: the `pipeline.py` that holds the node, the catalog entries that it reads or writes;
4. its parameters, each as its key is written: no stage sees another method's row;
5. its command.

This list is read from the project too, so `kedro dvc sync` follows each change of what there is to
depend on: an input, an import, a method, a file of a study. A stage that DVC runs first holds its
own entry against the project and stops if that is behind (`Cleanliness` in hooks.py). Two changes
make no stage run, and only `kedro dvc sync` sees them: a new method, and a key that a study newly
takes over from base.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from kedro.pipeline.node import Node

from seuf.errors import InputError
from seuf.lineage.code import source_file, source_files
from seuf.lineage.configuration import BASE, Address, addresses, as_params
from seuf.lineage.study import Study

Stage = dict[str, Any]
Entries = list[dict[str, Any]]

KINDS = ("outs", "metrics", "plots")
FLAGS = ("cache", "persist", "push", "remote", "desc")


def stages(study: Study) -> dict[str, Stage]:
    """Return the stages by name, in the order of the study's pipeline.

    Raises:
        InputError: If a data set is in memory or versioned, a parameter is unknown, or nodes of
            one name differ in more than their namespace.
    """
    alike: dict[str, list[Node]] = defaultdict(list)
    for node in study.pipelines["__default__"].nodes:
        alike[node.name.removeprefix(f"{node.namespace}.")].append(node)
    return {name: _stage_of_all(study, nodes) for name, nodes in alike.items()}


def _stage_of_all(study: Study, nodes: list[Node]) -> Stage:
    """Return one stage for the nodes that are the same up to their namespace."""
    desc = {"desc": (nodes[0].func.__doc__ or nodes[0].name).strip().splitlines()[0]}
    if nodes[0].namespace is None:
        return {**desc, **_stage(study, nodes[0])}
    variable = _placeholder(study, nodes[0])
    forms = [_without_namespace(_stage(study, node), node, variable) for node in nodes]
    for node, form in zip(nodes, forms, strict=True):
        if form != forms[0]:
            raise InputError(
                f"{node.name!r} and {nodes[0].name!r} differ in more than their {variable}, "
                "or its name is that of a folder or parameter: they cannot be one stage."
            )
    return {**desc, "matrix": {variable: [node.namespace for node in nodes]}, **forms[0]}


def _placeholder(study: Study, node: Node) -> str:
    factory = study.factory(node.outputs[0])
    if factory is None:
        raise InputError(
            f"{node.outputs[0]!r} of a namespace needs a dataset factory in the catalog."
        )
    return factory.partition("{")[2].partition("}")[0]


def _without_namespace(value: Any, node: Node, variable: str) -> Any:
    """Return the value with the placeholder for the namespace, but in the names of code."""
    if isinstance(value, dict):
        pairs = _without_namespace(list(map(list, value.items())), node, variable)
        return dict(pairs)
    if isinstance(value, list):
        return [_without_namespace(item, node, variable) for item in value]
    if isinstance(value, str) and not value.startswith("src/"):
        return re.sub(rf"(?<![\w-]){node.namespace}(?![\w-])", f"${{item.{variable}}}", value)
    return value


def _stage(study: Study, node: Node) -> Stage:
    owner = study.owner(node)
    read = [study.dataset(name) for name in node.inputs if not name.startswith("params:")]
    written = [_written(study, name) for name in node.outputs]
    return {
        **_command(study, node, owner),
        "deps": _files(read, written) + _code(node, owner, read + written),
        "params": as_params(_defined_by(study, {*node.inputs, *node.outputs})),
        **_outs(written),
    }


def _written(study: Study, name: str) -> dict[str, Any]:
    entry = study.dataset(name)
    if "filepath" not in entry:
        raise InputError(f"{name!r} has no file to be written to: give it a filepath.")
    return entry


def _command(study: Study, node: Node, owner: str) -> Stage:
    if study.name == BASE:
        return {"cmd": f"kedro run --pipelines {owner} --nodes {node.name}"}
    command = f"kedro run --env {study.name} --pipelines {owner} --nodes {node.name}"
    return {"cmd": command, "wdir": "../.."}


def _files(read: Entries, written: Entries) -> list[str]:
    """Return the files of the inputs, and those that the catalog says an output is made from."""
    made_from = (_for_dvc(entry).get("deps", []) for entry in written)
    return sorted({entry["filepath"] for entry in read if "filepath" in entry}.union(*made_from))


def _code(node: Node, owner: str, entries: Entries) -> list[str]:
    package = node.func.__module__.rpartition(".")[0]
    wiring = {f"{package}.pipeline", f"{package.rpartition('.')[0]}.{owner}.pipeline"}
    classes = (entry["type"].rpartition(".")[0] for entry in entries)
    return sorted({*map(source_file, wiring), *source_files([node.func.__module__, *classes])})


def _defined_by(study: Study, names: set[str]) -> set[Address]:
    """Return where the parameters and the data sets are defined."""
    found: set[Address] = set()
    for name in names:
        if name.startswith("params:"):
            found |= addresses(study.defined, "parameters", name.removeprefix("params:"))
        else:
            found |= addresses(study.defined, "catalog", study.factory(name) or name)
    return found


def _outs(written: Entries) -> Stage:
    found: Stage = {kind: [] for kind in KINDS}
    for entry in written:
        facts, path = _for_dvc(entry), entry["filepath"]
        flags = {flag: facts[flag] for flag in FLAGS if flag in facts}
        found[facts.get("kind", "outs")].append({path: flags} if flags else path)
    return {kind: outs for kind, outs in found.items() if outs}


def _for_dvc(entry: dict[str, Any]) -> dict[str, Any]:
    return (entry.get("metadata") or {}).get("dvc", {})
