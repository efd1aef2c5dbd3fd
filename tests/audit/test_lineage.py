"""The way back, read from dvc.lock without DVC: stages, edges, and what dvc.yaml declares."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from seuf.audit import FAIL, NOTE, PASS
from seuf.audit.audited import Stage, recorded_stages, upstream
from seuf.audit.lineage import (
    changed_values,
    check_commit,
    check_edges,
    check_origin,
    check_runs,
    declared_stages,
    difference,
    note_machines,
)
from seuf.inputs import InputError

YAML = """\
stages:
  make:
    cmd: kedro run --nodes make
    deps: [raw]
    outs: [folder]
  train:
    matrix: {method: [a, b]}
    cmd: kedro run --pipelines p --nodes methods.${item.method}.train
    deps: [folder/part]
    params:
    - conf.yml: ["methods.${item.method}"]
    outs:
    - "out/${item.method}": {cache: false}
  other:
    cmd: echo
    outs: [unused]
"""
LOCK = """\
schema: '2.0'
stages:
  make:
    cmd: kedro run --nodes make
    deps: [{path: raw, md5: r, size: 1}]
    outs: [{path: folder, md5: f.dir, size: 2}]
  train@a:
    cmd: kedro run --pipelines p --nodes methods.a.train
    deps: [{path: folder/part, md5: p, size: 1}]
    params: {conf.yml: {methods.a: {lr: 1}}}
    outs: [{path: out/a, md5: o, size: 3}]
  other:
    cmd: echo
    outs: [{path: unused, md5: u, size: 3}]
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "dvc.yaml").write_text(YAML)
    (tmp_path / "dvc.lock").write_text(LOCK)
    (tmp_path / "conf.yml").write_text("methods: {a: {lr: 1}}\n")
    return tmp_path


def test_behind_a_path_are_the_stages_it_comes_from_in_order_and_no_others(files):
    stages = recorded_stages(files / "dvc.lock")

    assert [stage.name for stage in upstream(["out/a"], stages)] == ["make", "train@a"]


def test_a_path_that_no_stage_writes_is_refused_by_name(files):
    with pytest.raises(InputError, match="no stage that writes out/b"):
        upstream(["out/b"], recorded_stages(files / "dvc.lock"))


def test_a_lock_that_leads_in_a_circle_is_followed_once(files):
    """The first stage seems to have read what the last wrote; it ended in a RecursionError."""
    path = files / "dvc.lock"
    path.write_text(path.read_text().replace("path: raw", "path: out/a"))

    stages = upstream(["out/a"], recorded_stages(path))

    assert [stage.name for stage in stages] == ["make", "train@a"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("cmd: echo", "cmd: 5"),
        ("cmd: echo", "cmd: [5]"),
        ("cmd: echo", "cmd: x\n    params: [1]"),
        ("cmd: echo", "cmd: x\n    params: {conf.yml: [a]}"),
        ("cmd: echo", "cmd: x\n    params: {conf.yml: {1: a, b: c}}"),
    ],
)
def test_a_stage_that_is_none_is_one_line(files, old, new):
    path = files / "dvc.lock"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))

    with pytest.raises(InputError, match=r"dvc\.lock cannot be read: other is not a stage"):
        recorded_stages(path)


def test_the_stages_of_a_matrix_are_recorded_as_dvc_yaml_wants_them(files):
    stages, declared = recorded_stages(files / "dvc.lock"), declared_stages(files / "dvc.yaml")

    assert sorted(declared) == ["make", "other", "train@a", "train@b"]
    assert [difference(stage, declared) for stage in stages.values()] == [None, None, None]
    assert stages["train@a"].node == "methods.a.train"
    assert stages["other"].node == "other"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("methods.a.train", "methods.b.train", "command of train@a"),
        ("path: folder/part", "path: folder/piece", "inputs of train@a"),
        ("path: out/a", "path: out/c", "outputs of train@a"),
        ("methods.a:", "methods.c:", "parameters of train@a"),
        ("train@a", "train@c", "dvc.yaml has no stage train@c"),
    ],
)
def test_an_edited_lock_is_told_from_dvc_yaml(files, old, new, told):
    path = files / "dvc.lock"
    path.write_text(path.read_text().replace(old, new))
    declared = declared_stages(files / "dvc.yaml")

    found = [text for one in recorded_stages(path).values() if (text := difference(one, declared))]

    assert found == [told]


def test_a_parameter_that_has_changed_since_is_named(files):
    stage = recorded_stages(files / "dvc.lock")["train@a"]
    assert list(changed_values(stage, files)) == []

    (files / "conf.yml").write_text("methods: {a: {lr: 2}}\n")

    assert list(changed_values(stage, files)) == [
        "methods.a in conf.yml is not what train@a ran with"
    ]


def test_a_file_of_parameters_or_stages_that_is_gone_is_a_failure_and_no_traceback(files):
    stage = recorded_stages(files / "dvc.lock")["train@a"]
    for name in ("conf.yml", "dvc.yaml"):
        (files / name).unlink()

    assert list(changed_values(stage, files)) == ["conf.yml, with which train@a ran, is missing"]
    assert difference(stage, declared_stages(files / "dvc.yaml")) == "dvc.yaml has no stage train@a"


def edges_of(lock):
    """Return the checks of the edges between all stages in a lock file."""
    recorded = recorded_stages(lock)
    stages = list(recorded.values())
    return check_edges(SimpleNamespace(recorded=recorded, stages=stages, lineage=stages))


def test_an_input_that_is_not_what_its_stage_has_left_is_a_broken_edge(files):
    path = files / "dvc.lock"
    text = path.read_text().replace(
        "{path: folder/part, md5: p, size: 1}", "{path: folder, md5: f.dir, size: 2}"
    )
    path.write_text(text)

    (joined,) = edges_of(path)

    assert (joined.result, joined.text) == (
        PASS,
        "3 stages behind the delta; 1 inputs are as their stages wrote them",
    )

    path.write_text(
        text.replace("deps: [{path: folder, md5: f.dir", "deps: [{path: folder, md5: x.dir")
    )

    (broken,) = edges_of(path)

    assert (broken.result, broken.text) == (
        FAIL,
        "train@a read another folder than make wrote",
    )


@pytest.mark.parametrize("text", ["stages: [", "no: stages\n", "stages: {make: {}}\n"])
def test_a_lock_that_cannot_be_read_is_one_line(tmp_path, text):
    (tmp_path / "dvc.lock").write_text(text)

    with pytest.raises(InputError, match=r"dvc\.lock cannot be read") as error:
        recorded_stages(tmp_path / "dvc.lock")

    assert "\n" not in str(error.value)


CODE, SETTINGS = "src/x/nodes.py", "conf/base/parameters.yml"
RUN = f"""\
stages:
  train:
    cmd: kedro run --env mine --pipelines x --nodes train
    wdir: ../..
    deps: [{CODE}]
    params:
    - {SETTINGS}: [rate]
    outs: [out]
"""


def git(project: Path, *command: str) -> str:
    """Commits are of the time of the records below, however late in a long run a test comes."""
    of = {**os.environ, "GIT_COMMITTER_DATE": NOW.isoformat(timespec="seconds")}
    return subprocess.run(
        ["git", *command], cwd=project, env=of, check=True, capture_output=True, text=True
    ).stdout


def write(project: Path, **files: str) -> str:
    """Write code, settings and dvc.yaml, and commit them; return the commit."""
    for name, text in files.items():
        path = project / {"code": CODE, "settings": SETTINGS, "run": "studies/mine/dvc.yaml"}[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    git(project, "add", "src", "conf", "studies")
    git(project, "commit", "-qm", "x")
    return git(project, "rev-parse", "HEAD").strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    write(tmp_path, code="x = 1\n", settings="rate: 1\nother: 1\n", run=RUN)
    return tmp_path


NOW = datetime.now(UTC)
WHOLE = {"node": "n", "started": NOW.isoformat(timespec="seconds"), "seconds": 1, "commit": None}
WHOLE |= {"clean": True, "outputs": {}}


def audited_of(project: Path, asked: int = 1, **records: dict) -> SimpleNamespace:
    """Return what is audited: a stage for each record, which is written down."""
    for node, record in records.items():
        facts = {"python": "3.11", "platform": "l", "processor": "p", "cores": 1}
        facts["packages"] = {"torch": "2"}
        text = json.dumps(facts | record.pop("machine", {}))
        name = hashlib.sha256(text.encode()).hexdigest()[:32]
        folder = project / "evidence"
        for path, content in (
            (folder / f"environments/{name}.json", text),
            (folder / f"mine/runs/{node}.json", json.dumps(WHOLE | {"environment": name} | record)),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
    settings = {SETTINGS: {"unlearning": {"threads": asked}}}
    stages = [Stage(n, f"kedro run --nodes {n}", {}, {}, settings) for n in records]
    study = SimpleNamespace(name="mine", config={"globals": {"study": "base"}})
    return SimpleNamespace(project=project, study=study, stages=stages, lineage=stages)


def found(checks):
    return [(check.result, check.text) for check in checks]


def test_both_names_of_a_file_that_was_moved_are_told(repository):
    git(repository, "mv", CODE, "src/moved.py")
    audited = audited_of(repository)
    audited.lock = repository / "studies/mine/dvc.lock"

    ((result, text),) = found(check_commit(audited))

    assert (result, text.partition(" not as in commit")[0]) == (FAIL, f"src/moved.py, {CODE}")


def tampered(repository: Path, how: str) -> None:
    """Change or add a file so that `git status` says nothing of it."""
    runs = repository / "evidence/mine/runs"
    runs.mkdir(parents=True)
    (runs / "train.json").write_text("{}")
    if how == "ignored":
        (repository / ".git/info/exclude").write_text("evidence\n")
        return
    if how == "link":
        outside = repository.parent / f"{repository.name}_outside.json"
        outside.write_text("{}")
        (runs / "train.json").unlink()
        (runs / "train.json").symlink_to(outside)
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "x")
    if how == "filter":
        git(repository, "config", "filter.old.clean", "cat > /dev/null; echo x = 1")
        (repository / ".git/info/attributes").write_text("*.py filter=old\n")
        (repository / CODE).write_text("x = 2\n")
    if how == "time":  # of the same size, and not a moment younger
        before = (repository / CODE).stat()
        git(repository, "config", "core.trustctime", "false")
        git(repository, "config", "core.checkStat", "minimal")
        (repository / CODE).write_text("x = 2\n")
        os.utime(repository / CODE, ns=(before.st_atime_ns, before.st_mtime_ns))
    if how == "link":
        outside.write_text('{"other": 1}')


@pytest.mark.parametrize(
    ("how", "name"),
    [
        ("ignored", "evidence/mine/runs/train.json"),
        ("filter", CODE),
        ("time", CODE),
        ("link", "evidence/mine/runs/train.json"),
    ],
)
def test_a_change_of_which_git_says_nothing_is_told(repository, how, name):
    tampered(repository, how)
    audited = audited_of(repository)
    audited.lock = repository / "studies/mine/dvc.lock"

    ((result, text),) = found(check_commit(audited))

    assert (result, text.partition(" not as in commit")[0]) == (FAIL, name)


def test_a_link_to_what_is_committed_and_credentials_that_are_not_are_let_be(repository):
    (repository / "conf/other").mkdir()
    (repository / "conf/other/parameters.yml").symlink_to("../base/parameters.yml")
    (repository / ".gitignore").write_text("credentials.yml\n__pycache__\n")
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "x")
    for name in ("conf/base/credentials.yml", "src/x/__pycache__/a.json"):
        (repository / name).parent.mkdir(exist_ok=True)
        (repository / name).write_text("{}")
    audited = audited_of(repository)
    audited.lock = repository / "studies/mine/dvc.lock"

    assert [check.result for check in check_commit(audited)] == [PASS]


@pytest.mark.parametrize(
    ("record", "called", "remark"),
    [
        ({}, "base", None),
        ({"started": (NOW - timedelta(days=1)).isoformat()}, "base", "before commit"),
        ({}, "tofu", "the study was called 'base' when train ran, not 'tofu'"),
    ],
)
def test_what_does_not_fit_to_the_commit_of_a_run_is_remarked(repository, record, called, remark):
    """Clocks of two machines may differ by five minutes; a study's name is no stage's input."""
    at = git(repository, "rev-parse", "HEAD").strip()
    audited = audited_of(repository, train={"commit": at, **record})
    audited.study.config["globals"]["study"] = called

    checks = found(check_origin(audited))

    assert checks[-1][0] == PASS
    assert [remark in text for result, text in checks if result == NOTE] == [True] * bool(remark)


def test_a_signed_commit_is_read_also_where_git_shows_signatures(repository):
    """Git then prints a line on the signature before what it is asked for."""
    git(repository, "config", "log.showSignature", "true")
    headers, message = git(repository, "cat-file", "commit", "HEAD").split("\n\n", 1)
    sign = "gpgsig -----BEGIN SSH SIGNATURE-----\n U1NIU0lH\n -----END SSH SIGNATURE-----"
    (repository / "signed").write_text(f"{headers}\n{sign}\n\n{message}")
    commit = git(repository, "hash-object", "-t", "commit", "-w", "signed").strip()

    (check,) = check_origin(audited_of(repository, train={"commit": commit}))

    assert check[:2] == ("origin", PASS)


def test_a_commit_with_the_code_of_now_passes_though_others_came_after(repository):
    commit = git(repository, "rev-parse", "HEAD").strip()
    write(repository, settings="rate: 1\nother: 2\n")

    (check,) = check_origin(audited_of(repository, train={"commit": commit}))

    assert check[:2] == ("origin", PASS)


@pytest.mark.parametrize("change", [{"code": "x = 2\n"}, {"settings": "rate: 2\n"}])
def test_a_commit_with_other_code_or_parameters_than_now_fails(repository, change):
    """The record was edited, or is of another run than the lock."""
    before = git(repository, "rev-parse", "HEAD").strip()
    write(repository, **change)

    ((result, text),) = found(check_origin(audited_of(repository, train={"commit": before})))

    assert result == FAIL
    assert f"train has other code or parameters than commit {before[:12]}" in text
    assert "dvc repro --force --single-item studies/mine/dvc.yaml:train" in text


def test_a_commit_that_a_shallow_clone_has_not_is_a_remark(repository, tmp_path_factory):
    before = git(repository, "rev-parse", "HEAD").strip()
    write(repository, settings="rate: 1\nother: 3\n")
    clone = tmp_path_factory.mktemp("clone")
    git(clone, "clone", "-q", "--depth", "1", f"file://{repository}", ".")

    ((result, text),) = found(check_origin(audited_of(clone, train={"commit": before})))

    assert (result, before[:12] in text, "train ran with was not compared" in text) == (
        NOTE,
        True,
        True,
    )


@pytest.mark.parametrize("commit", [None, "HEAD", "--output=stolen", "main"])
def test_what_is_no_commit_fails_and_is_no_option_of_git(repository, commit):
    ((result, text),) = found(check_origin(audited_of(repository, train={"commit": commit})))

    assert (result, "names no commit" in text) == (FAIL, True)
    assert not (repository / "stolen").exists()


@pytest.mark.parametrize(
    "damage",
    [
        {"seconds": "one"},
        {"started": "yesterday"},
        {"started": "2026-11-25T12:00:00"},
        {"outputs": []},
        {"clean": "yes"},
        {"commit": 7},
        {"seconds": float("inf")},
        {"seconds": float("nan")},
        {"seconds": 1e300},
        {"seconds": True},
        {"memory": {"resident": "much"}},
        {"started": "0001-01-01T00:00:00+14:00"},
        {"outputs": {"out": None}},
        {"packages": []},
        {"machine": {"packages": ["torch"]}},
        {"machine": {"packages": {"torch": 2}}},
        {"machine": {"cores": "two"}},
    ],
)
def test_a_record_that_is_none_cannot_be_trusted_and_is_one_line(repository, damage):
    """It ended in a traceback."""
    audited = audited_of(repository, train=damage)
    audited.study.not_reproducible = lambda: set()

    result, text = found(check_runs(audited))[0]

    assert (result, "the record of train is not valid" in text) == (FAIL, True)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (
            {"outputs": {"other": "0" * 64}},
            "the record of train has other, not its output",
        ),
        ({"torch": "two"}, "the record of train has an invalid number of threads"),
        ({"torch": {"threads": [1]}}, "the record of train has an invalid number of threads"),
        ({"seconds": 1e8}, "the record of train ends in the future"),
        ({"started": (NOW + timedelta(days=9)).isoformat()}, "ends in the future"),
    ],
)
def test_a_record_that_says_what_cannot_be_fails(repository, record, said):
    audited = audited_of(repository, train=record)
    audited.study.not_reproducible = lambda: set()
    audited.digests = {}

    assert (FAIL, said) in [(one, text[-len(said) :]) for one, text in found(check_runs(audited))]
    assert len([*note_machines(audited)]) <= 1  # no traceback


def test_a_clock_that_is_a_little_ahead_is_no_failure(repository):
    soon = (NOW + timedelta(minutes=2)).isoformat()
    audited = audited_of(repository, train={"started": soon, "node": "train"})
    audited.study.not_reproducible = lambda: set()
    audited.digests = {}

    assert [result for result, _ in found(check_runs(audited))] == [PASS]


def test_a_key_that_stands_twice_in_a_record_makes_it_none(repository):
    """Of two readers one takes the first, the other the last."""
    audited = audited_of(repository, train={})
    audited.study.not_reproducible = lambda: set()
    path = repository / "evidence/mine/runs/train.json"
    path.write_text(path.read_text().replace("{", '{"clean": false, ', 1))

    result, text = found(check_runs(audited))[0]

    assert (result, text.endswith("it has the key 'clean' twice")) == (FAIL, True)


def test_a_commit_that_git_shows_as_another_is_told(repository):
    """`git replace` puts another commit in its place, in this repository alone."""
    before = git(repository, "rev-parse", "HEAD").strip()
    after = write(repository, code="x = 2\n")
    git(repository, "replace", before, after)

    ((result, _),) = found(check_origin(audited_of(repository, train={"commit": before})))

    assert result == FAIL


def test_threads_that_settings_did_not_ask_for_are_remarked(repository):
    torch = {"threads": 2}
    for asked, results in ((2, []), (1, [NOTE])):
        audited = audited_of(repository, asked, train={"commit": None, "torch": torch})

        assert [check.result for check in note_machines(audited)] == results


def test_stages_on_several_machines_are_remarked(repository):
    """One processor for both, or two: their last bits may differ."""
    for processor, results in (("p", []), ("q", [NOTE])):
        other = {"commit": None, "machine": {"processor": processor}}
        audited = audited_of(repository, make={"commit": None}, train=other)

        checks = list(note_machines(audited))

        assert [check.result for check in checks] == results
        assert all("make on Python 3.11, torch 2, p; train on" in one.text for one in checks)
