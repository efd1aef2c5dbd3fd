"""Stages of a small made-up project; test_sync.py looks at the real one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kedro.pipeline import Node, Pipeline

from kedro_dvc.configuration import StudyConfigLoader
from kedro_dvc.files import WorkflowError
from kedro_dvc.project import Study
from kedro_dvc.stages import check_paths, node_of, outputs_of, stages
from seuf.pipelines.expert_selection.nodes import select_experts

CATALOG = """\
routing: {type: seuf.datasets.tables.CSVDataset, filepath: "${globals:root}/routing.csv"}
chosen:
  type: seuf.datasets.documents.JSONDataset
  filepath: ${globals:root}/chosen.json
  metadata: {dvc: {kind: metrics, cache: false}}
hub: {type: seuf.datasets.records.RecordsDataset, hub: {repo: locuslab/TOFU}}
old: {type: seuf.datasets.tables.CSVDataset, filepath: old.csv, versioned: true}
made: {type: seuf.datasets.tables.CSVDataset, filepath: made.csv, metadata: {dvc: {deps: [there]}}}
both:
  type: seuf.datasets.tables.CSVDataset
  filepath: both.csv
  load_args: {sep: ";"}
  save_args: {sep: ";"}
  metadata: {kedro-viz: {layer: raw}}
_ways:
  other: {type: pandas.ParquetDataset, filepath: there}
  file: {type: seuf.datasets.tables.CSVDataset, filepath: there.csv}
again: {type: seuf.datasets.documents.JSONDataset, filepath: data/chosen.json}
picked: "${_ways[${globals:way}]}"
_log: {type: seuf.datasets.tables.CSVDataset, filepath: "root/{method}/log"}
between: {type: seuf.datasets.tables.CSVDataset, filepath: root/m}
"{method}.log": ${_log}
"{method}.delta": {type: seuf.datasets.tables.CSVDataset, filepath: "root/{method}/delta"}
"""
PARAMETERS = """\
rule: {top: 1, of: "${globals:size}"}
methods: {ga: {rate: 1}, npo: {rate: 2, steps: 1}, rmu: {rate: 3}}
"""
SMALL = "rule: {top: 2}\nmethods: {npo: {rate: 4}}\n"
GLOBALS = "root: data\nway: file\nsize: 4\n"


@pytest.fixture
def study(tmp_path: Path) -> Callable[..., Study]:
    """Make a study of a pipeline; the study `small` overrides a part of its parameters."""
    texts = {"catalog": CATALOG, "parameters": PARAMETERS, "globals": GLOBALS}
    for kind, text in texts.items():
        _write(tmp_path / f"conf/base/{kind}.yml", text)
    _write(tmp_path / "conf/small/parameters.yml", SMALL)
    _write(tmp_path / "conf/small/globals.yml", "root: studies/small/data\n")

    def make(pipeline: Pipeline, name: str = "base") -> Study:
        conf = str(tmp_path / "conf")
        soft = {"parameters": "soft"}
        loader = StudyConfigLoader(conf, name, base_env="base", merge_strategy=soft)
        both = {"expert_selection": pipeline, "__default__": pipeline}
        return Study(tmp_path, name, loader, both)

    return make


def test_a_stage_depends_on_its_inputs_its_code_and_its_wiring(study):
    stage = stages(study(_select("routing", "chosen")))["select"]

    assert stage["deps"] == [
        ".in_sync/base",
        "data/routing.csv",
        "src/seuf/datasets/atomic.py",
        "src/seuf/datasets/documents.py",
        "src/seuf/datasets/tables.py",
        "src/seuf/inputs.py",
        "src/seuf/logs.py",
        "src/seuf/pipelines/expert_selection/nodes.py",
        "src/seuf/pipelines/expert_selection/pipeline.py",
        "src/seuf/unlearning/certainty.py",
        "src/seuf/unlearning/rankings.py",
        "src/seuf/unlearning/selection.py",
    ]


def test_a_stage_runs_its_node_alone(study):
    pipeline = _select("routing", "chosen")

    assert stages(study(pipeline))["select"]["cmd"] == (
        "kedro run --env base --pipelines expert_selection --nodes select"
    )
    assert stages(study(pipeline, "small"))["select"]["cmd"] == (
        "kedro run --env small --pipelines expert_selection --nodes select"
    )


def test_a_study_of_its_own_folder_runs_in_the_root(study):
    pipeline = _select("routing", "chosen")

    assert stages(study(pipeline, "small"))["select"]["wdir"] == "../.."
    assert "wdir" not in stages(study(pipeline))["select"]


def test_parameters_are_traced_to_the_files_that_define_them(study):
    """`rule` refers to the global `size`; what `root` makes of the paths, the stage names."""
    assert stages(study(_select("routing", "chosen", "params:rule")))["select"]["params"] == [
        {"conf/base/catalog.yml": ["chosen.type", "routing.type"]},
        {"conf/base/globals.yml": ["size"]},
        {"conf/base/parameters.yml": ["rule"]},
    ]


def test_what_a_study_leaves_of_a_parameter_is_watched_in_base(study):
    """`small` sets `rule.top`; `rule.of` is base's, and refers to the global `size`."""
    stage = stages(study(_select("routing", "chosen", "params:rule"), "small"))["select"]

    assert stage["params"] == [
        {"conf/base/catalog.yml": ["chosen.type", "routing.type"]},
        {"conf/base/globals.yml": ["size"]},
        {"conf/base/parameters.yml": ["rule.of"]},
        {"conf/small/parameters.yml": ["rule"]},
    ]


def test_a_reference_inside_a_reference_is_followed(study):
    """`way` is `file`: the other way is not watched."""
    params = stages(study(_select("picked", "made")))["select"]["params"]

    assert params == [
        {"conf/base/catalog.yml": ["_ways.file.type", "made.type", "picked"]},
        {"conf/base/globals.yml": ["way"]},
    ]


def test_of_a_catalog_entry_the_own_end_is_watched(study):
    """What it is loaded with where it is read, what it is saved with where it is written."""
    read = stages(study(_select("both", "chosen")))["select"]["params"]
    written = stages(study(_select("routing", "both")))["select"]["params"]

    assert read == [{"conf/base/catalog.yml": ["both.load_args", "both.type", "chosen.type"]}]
    assert written == [{"conf/base/catalog.yml": ["both.save_args", "both.type", "routing.type"]}]


def test_of_files_that_could_change_places_the_paths_are_watched(study):
    """Both are given; were they swapped, DVC would compare the same set of files."""
    made = stages(study(_pipeline("routing", "both", output="chosen")))["select"]

    assert made["params"] == [
        {
            "conf/base/catalog.yml": [
                *("both.filepath", "both.load_args", "both.type", "chosen.type"),
                *("routing.filepath", "routing.type"),
            ]
        },
        {"conf/base/globals.yml": ["root"]},
    ]


def test_outputs_of_one_stage_could_change_places_too(study):
    """The stage that reads them trusts this one: a swap makes only this one stale."""
    nodes = [
        Node(select_experts, ["routing"] * 5, ["both", "made"], name="split"),
        Node(select_experts, ["both", "made"] * 2 + ["both"], "chosen", name="join"),
    ]

    made = stages(study(Pipeline(nodes)))

    paths = ["both.filepath", "made.filepath"]
    assert [key for key in made["split"]["params"][0]["conf/base/catalog.yml"] if key in paths]
    assert not {*paths} & {*made["join"]["params"][0]["conf/base/catalog.yml"]}


def test_methods_that_a_study_changes_in_part_are_a_stage_of_their_own(study):
    """They are watched in two files, the others in one."""
    made = stages(study(_methods("ga", "npo", "rmu"), "small"))

    assert made["select"]["matrix"] == {"method": ["ga", "rmu"]}
    assert made["select-2"]["matrix"] == {"method": ["npo"]}
    assert made["select"]["params"][1:] == [
        {"conf/base/parameters.yml": ["methods.${item.method}"]}
    ]
    assert made["select-2"]["params"][1:] == [
        {"conf/base/parameters.yml": ["methods.${item.method}.steps"]},
        {"conf/small/parameters.yml": ["methods.${item.method}"]},
    ]


def test_a_guard_comes_before_the_stages_that_read_nothing_of_the_study(study):
    last = _pipeline("chosen", output="made", name="count")

    first, then, guard = stages(study(_select("routing", "chosen") + last, "small")).values()

    assert guard["cmd"] == "kedro dvc sync --check --env small --stamp"
    assert guard["outs"] == [".in_sync/small"]
    assert ".in_sync/small" in first["deps"]
    assert ".in_sync/small" not in then["deps"]


def test_the_guard_watches_what_can_change_the_stages(study, tmp_path):
    """Of the code in the folder of the pipelines all, of other code what some stage watches."""
    for name in ("pipelines/expert_selection/nodes.py", "settings.py", "cli.py"):
        _write(tmp_path / "src/seuf" / name, "")

    first, guard = stages(study(_select("routing", "chosen"), "small")).values()

    code = [path for path in first["deps"] if path.startswith("src/")]
    assert guard["deps"] == [
        "conf/base",
        "conf/small",
        "src/seuf/pipelines",
        "src/seuf/settings.py",
        *(path for path in code if not path.startswith("src/seuf/pipelines/")),
    ]


def test_the_catalog_tells_what_dvc_does_with_an_output(study):
    stage = stages(study(_select("routing", "chosen")))["select"]

    assert stage["metrics"] == [{"data/chosen.json": {"cache": False}}]
    assert "outs" not in stage


def test_the_catalog_tells_what_else_an_output_is_made_from(study):
    assert "there" in stages(study(_select("routing", "made")))["select"]["deps"]


def test_data_on_the_hub_are_no_file_but_their_entry_is_watched(study):
    stage = stages(study(_select("hub", "chosen")))["select"]

    assert [path for path in stage["deps"] if not path.startswith("src/")] == [".in_sync/base"]
    assert stage["params"][0] == {"conf/base/catalog.yml": ["chosen.type", "hub.hub", "hub.type"]}


def test_nodes_of_namespaces_are_one_stage_with_a_matrix(study):
    stage = stages(study(_methods("ga", "npo")))["select"]

    assert stage["matrix"] == {"method": ["ga", "npo"]}
    assert stage["cmd"].endswith("--nodes ${item.method}.select")
    assert stage["outs"] == ["root/${item.method}/delta"]
    assert stage["params"][-1] == {"conf/base/parameters.yml": ["methods.${item.method}"]}


def test_the_order_of_names_does_not_divide_a_stage(study):
    """`root/m` and `methods.npo` come after those of `ga` and before those of `rmu`."""
    both = sum(
        (
            _pipeline(
                *("between", f"{m}.delta", f"params:methods.{m}", "params:methods.npo"),
                output=f"{m}.log",
                namespace=m,
            )
            for m in ("ga", "rmu")
        ),
        Pipeline([]),
    )

    made = stages(study(both))

    assert list(made) == ["select", "in_sync"]
    assert made["select"]["matrix"] == {"method": ["ga", "rmu"]}
    assert made["select"]["deps"][:3] == [".in_sync/base", "root/${item.method}/delta", "root/m"]


def test_the_items_of_a_matrix_have_the_order_of_the_table_of_parameters(study):
    """Kedro has nodes by name; the table has `npo` first."""
    made = study(_methods("ga", "npo"))
    text = "methods: {npo: {rate: 2, steps: 1}, ga: {rate: 1}}\n"
    _write(made.project / "conf/base/parameters.yml", text)

    assert stages(made)["select"]["matrix"] == {"method": ["npo", "ga"]}


def test_a_dataset_factory_is_watched_with_its_whole_file(study):
    """DVC takes the dot in `{method}.delta` for the way into a mapping."""
    assert stages(study(_methods("ga")))["select"]["params"][0] == {"conf/base/catalog.yml": None}


def test_a_dataset_factory_that_is_a_reference_is_watched_where_it_leads(study):
    made = stages(study(_pipeline("routing", output="ga.log", namespace="ga")))["select"]

    assert made["outs"] == ["root/${item.method}/log"]
    assert made["params"] == [{"conf/base/catalog.yml": ["_log.type", "routing.type"]}]


@pytest.mark.parametrize(
    ("inputs", "output", "message"),
    [
        (["nowhere"], "chosen", "'nowhere' is in memory; DVC tracks files"),
        (["routing"], "nowhere", "'nowhere' is in memory; DVC tracks files"),
        (["old"], "chosen", "'old' is versioned by Kedro"),
        (["params:rule.bottom"], "chosen", "'rule.bottom' is in no parameters file"),
        (["params:rules"], "chosen", "'rules' is in no parameters file"),
        (["routing"], "hub", "'hub' has no file to be written to"),
    ],
)
def test_what_dvc_cannot_track_is_refused(study, inputs, output, message):
    with pytest.raises(WorkflowError, match=message):
        stages(study(_pipeline(*inputs, output=output)))


def test_two_stages_that_write_one_path_are_refused(study):
    both = _select("routing", "chosen") + _pipeline("routing", output="again", name="count")

    with pytest.raises(WorkflowError, match=r"'select' and 'count' both write data/chosen.json"):
        stages(study(both))


def test_nodes_that_differ_in_more_than_their_namespace_are_refused(study):
    other = _pipeline("chosen", output="npo.delta", namespace="npo")

    with pytest.raises(WorkflowError, match=r"differ in more than their method"):
        stages(study(_methods("ga") + other))


def test_nodes_that_read_other_data_are_a_stage_of_their_own(study):
    other = _pipeline("routing", "params:methods.npo", output="npo.delta", namespace="npo")

    made = stages(study(_methods("ga", "rmu") + other))

    assert list(made) == ["select", "select-2", "in_sync"]
    assert made["select"]["matrix"] == {"method": ["ga", "rmu"]}
    assert made["select-2"]["matrix"] == {"method": ["npo"]}
    assert "data/routing.csv" in made["select-2"]["deps"]


def _select(data: str, output: str, *parameters: str) -> Pipeline:
    return _pipeline(data, *parameters, output=output)


def _pipeline(
    *inputs: str, output: str, namespace: str | None = None, name: str = "select"
) -> Pipeline:
    filled = [inputs[place % len(inputs)] for place in range(5)]
    return Pipeline([Node(select_experts, filled, output, name=name, namespace=namespace)])


def _methods(*names: str) -> Pipeline:
    return sum(
        (_pipeline(f"params:methods.{m}", output=f"{m}.delta", namespace=m) for m in names),
        Pipeline([]),
    )


def _write(path: Path, text: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _entry(path, **facts):
    return {"filepath": path, "metadata": {"dvc": facts}}


def test_an_output_is_an_out_unless_the_catalog_says_otherwise():
    written = [
        {"filepath": "a"},
        _entry("b", kind="metrics", cache=False),
        _entry("c", kind="plots", x="step", y="loss"),
    ]

    assert outputs_of(written) == {
        "outs": ["a"],
        "metrics": [{"b": {"cache": False}}],
        "plots": [{"c": {"x": "step", "y": "loss"}}],
    }


def test_an_output_can_have_a_remote_of_its_own():
    assert outputs_of([_entry("a", remote="vault", push=False)]) == {
        "outs": [{"a": {"push": False, "remote": "vault"}}]
    }


def test_a_flag_that_is_null_says_nothing():
    """So one catalog serves those who have such a remote and those who have none."""
    assert outputs_of([_entry("a", remote=None), _entry("b", remote=None, push=False)]) == {
        "outs": ["a", {"b": {"push": False}}]
    }


def test_what_is_no_matter_of_the_output_is_left_out():
    assert outputs_of([_entry("a", deps=["b"], artifact={"type": "model"})]) == {"outs": ["a"]}


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"a": {"outs": ["x"]}, "b": {"metrics": ["x"]}}, "'b' and 'a' both write x"),
        ({"a": {"outs": ["x"]}, "b": {"outs": ["x/y"]}}, "'b' writes x/y, inside x of 'a'"),
        ({"a": {"outs": ["x/y"]}, "b": {"outs": ["x"]}}, "'a' writes x/y, inside x of 'b'"),
        (
            {"a": {"matrix": {"m": ["p", "q"]}, "outs": ["x/${item.m}"]}, "b": {"outs": ["x/q"]}},
            "'b' and 'a@q' both write x/q",
        ),
        ({"a": {"matrix": {"m": ["p", "q"]}, "outs": ["x"]}}, "'a@q' and 'a@p' both write x"),
    ],
)
def test_two_stages_that_write_one_place_are_refused(stages, message):
    with pytest.raises(WorkflowError, match=message):
        check_paths(stages)


def test_neighbours_are_allowed():
    check_paths({"a": {"outs": ["x/y", "x/yy"]}, "b": {"outs": ["x/z", {"xx": {"cache": False}}]}})


@pytest.mark.parametrize(
    ("command", "node"),
    [
        ("kedro run --pipelines a --nodes b.c", "b.c"),
        (["echo", "kedro run --nodes b"], "b"),
        ("make # it's quick", "own"),
        (["true", "echo 'a"], "own"),
    ],
)
def test_the_node_of_a_stage_is_in_its_command_whatever_that_is(command, node):
    assert node_of({"cmd": command}, "own") == node
