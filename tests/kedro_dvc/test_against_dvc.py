"""`kedro dvc run` held to `dvc repro`, by made-up projects: the same files, locks and decisions.

A project and what is done to it are drawn by Hypothesis. DVC runs one copy of it and we run others,
one after the other and several at once. What may differ is in docs/design.md, "Many ways to run".
More projects: EXAMPLES=100 pytest -m slow tests/kedro_dvc/test_against_dvc.py
"""

from __future__ import annotations

import copy
import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import chdir
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import dvc.repo.reproduce
import dvc.stage.run
import pytest
import yaml
from dvc.exceptions import ReproductionError
from dvc.repo import Repo
from dvc.utils.serialize import modify_yaml, parse_yaml
from dvc.utils.serialize._yaml import _dump
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from kedro_dvc.executors.jobs import Ended, Job, run_job
from kedro_dvc.lock_file import LockFiles, replaced
from kedro_dvc.run import reading_order, reproduce
from kedro_dvc.up_to_date import unchanged_stages
from tests.kedro_dvc.test_run import Notes

Drawn = dict[str, Any]
Outcomes = dict[str, str]  # what became of each stage

FILES = ["dvc.yaml", "studies/x/dvc.yaml"]
PARAMETERS = ["params.yaml", "conf/o d.yaml"]
FAIL = "! grep -q broken in/given"  # ends a stage that reads it
LONG = "n" * 130  # YAML begins a key of more than 128 letters with `?`
NAMES = (
    "plain|with space|ünï 日本|-dash|ha#sh|co:lon|am&per|st*ar|q'uote|dq\"x|[br]|{brace}|per%cent|"
    "~tilde|true|1.0|$dollar|!bang|a,b|@at|x=y"
).split("|")
TEXTS = [
    *" 1 010 0o17 1e-05 1e5 yes on null ~ true 2020-01-01 12:30:45 0x1f 1_000 << &id001 *x %".split(
        " "
    ),
    *["a: b", "a #b", "a\nb", "\na\n\n", " lead", "trail ", "a\tb", "日本 😀", "it's", "- a", "a:"],
    *["word " * 40, ("word " * 30 + "\n") * 3, LONG],
]
# what a program would not write; the number keeps names of values apart
BY_HAND = [
    "base{n}: &b{n} {{lr: 1e-05, on: yes}}\nk{n}: {{<<: *b{n}, of: *b{n}, l: [*b{n}, *b{n}]}}\n",
    "shared{n}: &s{n} [1, 2]\nk{n}:\n  one: *s{n}\n  two: *s{n}\n",
    "k{n}: |\n  line one\n  line two\n",
    "k{n}: >\n  folded text\n  goes on\n\n  and again\n",
    "k{n}: {{2: a, true: b, null: c, 1.5: d}}\n",
    *[f"k{{n}}: {one}\n" for one in "010 0o17 .inf 1_000 1.50 +1 1e3 0x1F ~".split()],
    *["k{n}: {{}}\n", "k{n}: []\n", "k{n}:\n"],
]
DATES = ["k{n}: 2020-01-01\n", "k{n}: 2020-01-01T10:00:00Z\n"]  # DVC allows none in params.yaml
numbers = st.integers(-(10**9), 10**9) | st.sampled_from([1e-05, 1e20, 0.1, -0.0, 1.5e-7, 3.0])
texts = st.sampled_from(TEXTS)
scalars = st.none() | st.booleans() | numbers | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def locked_stages(draw: st.DrawFn) -> list[tuple[str, Drawn]]:
    """Draw what a lock file is told, stage by stage; a name may come again."""
    told = []
    for _ in range(draw(st.integers(1, 5))):
        name = draw(st.sampled_from(["a", "b", "1", "t@true", "t@a b", "t@#", f"t@{LONG}"]))
        stage: Drawn = {"cmd": draw(st.sampled_from(TEXTS) | st.lists(st.sampled_from(TEXTS)))}
        params = draw(st.dictionaries(st.sampled_from(TEXTS), values, max_size=3))
        if draw(st.booleans()):
            shared = draw(st.lists(scalars, max_size=2) | st.dictionaries(scalars, scalars))
            params |= {"one": shared, "two": [shared]}
        told.append((name, {**stage, "params": {"params.yaml": params}}))
    return told


@settings(max_examples=40, derandomize=True, deadline=None, database=None)
@given(told=locked_stages())
def test_a_lock_file_has_the_bytes_of_dvc_whatever_stages_say(tmp_path_factory, told):
    path = tmp_path_factory.mktemp("lock") / "dvc.lock"
    written: list[list[str]] = []
    one_run = LockFiles()
    for way in (lambda: modify_yaml, lambda: one_run.changed, lambda: LockFiles().changed):
        path.unlink(missing_ok=True)
        written.append([])
        for name, says in told:
            with way()(str(path)) as content:
                content.setdefault("schema", "2.0")
                content.setdefault("stages", {})[name] = _as_read(says)
            written[-1].append(path.read_text())

    assert written[1] == written[2]
    for by_dvc, by_us in zip(*written[:2], strict=True):
        assert _rewritten(by_us) == _rewritten(by_dvc)


def _as_read(value: Drawn) -> Any:
    """Return what DVC reads of what YAML writes: a list that stands twice is one list."""
    stream = StringIO()
    _dump(value, stream)
    return parse_yaml(stream.getvalue(), "of a test")


def _rewritten(lock: str) -> str:
    """Return a lock as DVC writes what it has read: it folds a long text in another way."""
    stream = StringIO()
    _dump(parse_yaml(lock, "of a test", typ="rt"), stream)
    return stream.getvalue()


class Threads:
    """An executor whose jobs are at work at once, without the seconds of new processes."""

    copies = False

    def __init__(self, project: Path, jobs: int) -> None:
        self._project, self._jobs = project, jobs
        self._threads = ThreadPoolExecutor(jobs)
        self._given: set[str] = set()

    def check(self, jobs: Any) -> None:
        pass

    def admit(self, waiting: Any) -> list[Job]:
        admitted = list(waiting)[: self._jobs - len(self._given)]
        self._given.update(job.stage for job in admitted)
        return admitted

    def submit(self, job: Job) -> Future[Ended]:
        return self._threads.submit(run_job, self._project, job, lambda command: False)

    def result(self, handle: Future[Ended]) -> Ended:
        return handle.result()

    def release(self, job: Job) -> None:
        self._given.discard(job.stage)

    def stop(self) -> None:
        pass

    def close(self) -> None:
        self._threads.shutdown()


@st.composite
def stage(draw: st.DrawFn, number: int, made: list[str]) -> tuple[Drawn, list[str]]:
    """Draw a stage of a dvc.yaml; return it with what it writes that another one may read."""
    kind = draw(st.sampled_from(["one", "one", "one", "matrix", "list", "mapping"]))
    item = {"one": "", "matrix": "${item.w}", "list": "${item}", "mapping": "${item.v}"}[kind]
    first, second = draw(st.permutations(NAMES))[:2]
    file, folder = f"o{number}/{first}.{item}", f"o{number}/{second}.d{item}"
    reads = draw(st.lists(st.sampled_from(["in/given", "in/dir", *made]), max_size=2, unique=True))
    sums = " ".join(f"$(cat {shlex.quote(one)}{{,/*}} 2>&1 | cksum)" for one in reads)
    commands = [f"mkdir -p o{number}", f"echo {number} '{item}' {sums} > {shlex.quote(file)}"]
    made_one: Drawn = {"deps": reads, "outs": [], "metrics": [], "plots": []}
    how = draw(st.sampled_from(["outs", "outs", "cache", "persist", "metrics", "plots"]))
    flags = {"outs": {}, "persist": {"persist": True}}.get(how, {"cache": False})
    made_one[how if how in ("metrics", "plots") else "outs"].append(
        {file: flags} if flags else file
    )
    written = [file]
    if draw(st.booleans()):
        place = shlex.quote(folder)
        commands += [f"mkdir -p {place}/sub", f"echo {number} '{item}' > {place}/sub/'g ü'"]
        made_one["outs"].append(draw(st.sampled_from([folder, {folder: {"persist": True}}])))
        written.append(folder)
    if "in/given" in reads:
        commands.append(FAIL)
    keys = draw(st.lists(st.sampled_from(["k0", "k1", "k2"]), max_size=3, unique=True))
    others = draw(st.sampled_from([[], [{PARAMETERS[1]: ["k0", "k2"]}], [{PARAMETERS[1]: None}]]))
    joined = " && ".join(commands)
    written_as = [joined, commands, "\n".join(commands), f"{joined} # it's"]
    made_one |= {"cmd": draw(st.sampled_from(written_as)), "params": [*keys, *others]}
    if not draw(st.integers(0, 9)):
        made_one["always_changed"] = True
    made_one = {key: value for key, value in made_one.items() if value}
    if kind == "one":
        return made_one, written
    words = draw(
        st.lists(
            st.sampled_from(["1", "v 2", "ü", "x&id1", LONG]), min_size=1, max_size=2, unique=True
        )
    )
    written = [one.replace(item, words[0]) for one in written]
    if kind == "matrix":
        return {"matrix": {"w": words}, **made_one}, written
    mapping = {f"i{place}": {"v": word} for place, word in enumerate(words)}
    return {"foreach": words if kind == "list" else mapping, "do": made_one}, written


EDITS = """parameter input new_file file_gone output_gone output_edited command commit stage_gone
restore lock_gone freeze force cache_gone crlf""".split()


@st.composite
def projects(draw: st.DrawFn, stages: int, edits: int) -> tuple[Drawn, list[tuple[str, int, Any]]]:
    """Draw a project and what is done to it, each with a number that chooses and a new value."""
    made: list[str] = []
    of_files: dict[str, Drawn] = {file: {} for file in FILES}
    for number in range(draw(st.integers(2, stages))):
        one, written = draw(stage(number, made))
        made += written
        file = draw(st.sampled_from(FILES))
        if file == FILES[1]:
            one.get("do", one)["wdir"] = "../.."
        of_files[file][f"s{number}"] = one
    mixed = {
        file: {name: of_files[file][name] for name in draw(st.permutations(list(of_files[file])))}
        for file in FILES
    }
    params = {
        file: draw(st.lists(st.sampled_from(by_hand) | values, min_size=3, max_size=3))
        for file, by_hand in zip(PARAMETERS, [BY_HAND, BY_HAND + DATES], strict=True)
    }
    inputs = {"in/given": "given\n", "in/dir/a": "a\n", "in/dir/b b": "b\n"}
    done = st.tuples(st.sampled_from(EDITS), st.integers(0, 99), values)
    project = {"stages": mixed, "params": params, "inputs": inputs}
    return project, draw(st.lists(done, min_size=1, max_size=edits))


def _write(root: Path, project: Drawn) -> None:
    texts: dict[str, str | None] = dict(project["inputs"])
    for file, stages in project["stages"].items():
        texts[file] = yaml.safe_dump({"stages": stages}, allow_unicode=True, sort_keys=False)
    for file, several in project["params"].items():
        texts[file] = "".join(
            one.format(n=n)
            if one in BY_HAND + DATES
            else yaml.safe_dump({f"k{n}": one}, sort_keys=False)
            for n, one in enumerate(several)
        )
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            path.unlink(missing_ok=True)
        elif not path.exists() or path.read_text() != text:
            path.write_text(text)


def _changed(project: Drawn, edit: tuple[str, int, Any]) -> Drawn:
    """Return a project after an edit of what its user wrote."""
    what, number, value = edit
    new = copy.deepcopy(project)
    names = [(file, name) for file in FILES for name in new["stages"][file]]
    file, name = names[number % len(names)] if names else (FILES[0], "")
    one = new["stages"][file].get(name, {})
    one = one.get("do", one)
    if what in ("parameter", "commit"):
        new["params"][PARAMETERS[number % 2]][number % 3] = value
    elif what == "input":
        new["inputs"]["in/given"] = "broken\n" if number % 5 == 0 else f"given {number}\n"
    elif what == "new_file":
        new["inputs"][f"in/dir/new {number}"] = f"{number}\n"
    elif what == "file_gone":
        new["inputs"]["in/dir/b b"] = None
    elif what == "stage_gone":
        new["stages"][file].pop(name, None)
    elif what == "command" and one:
        commands = one["cmd"]
        one["cmd"] = [*commands, ":"] if isinstance(commands, list) else f": {number}; {commands}"
    elif what == "freeze" and one:
        one["frozen"] = not one.get("frozen", False)
    return new


def _touch(root: Path, what: str, number: int) -> None:
    """Change what runs have written."""
    outputs = sorted(path for path in root.glob("o*/**/*") if path.is_file())
    lock = root / FILES[number % 2].replace(".yaml", ".lock")
    if what == "lock_gone":
        lock.unlink(missing_ok=True)
    elif what == "crlf" and lock.exists():
        lock.write_bytes(lock.read_bytes().replace(b"\n", b"\r\n"))
    elif what == "cache_gone":
        shutil.rmtree(root / ".dvc/cache", ignore_errors=True)
    elif what == "commit":
        with Repo(str(root)) as repo:
            repo.commit(force=True)
    elif what in ("output_gone", "output_edited") and outputs:
        outputs[number % len(outputs)].unlink()
        if what == "output_edited":
            outputs[number % len(outputs)].write_text(f"{number}\n")


def _by_dvc(root: Path, file: str, **options: Any) -> tuple[Outcomes, str]:
    """Run by DVC alone, but in the order in which we do."""
    whats: Outcomes = {}
    ran: set[str] = set()

    def steps(original: Callable[..., Any], stages: Any, graph: Any = None, **how: Any) -> Any:
        return original(reading_order(stages, graph) if stages else stages, graph=graph, **how)

    def command(original: Callable[..., Any], stage: Any, **how: Any) -> Any:
        ran.add(stage.addressing)
        return original(stage, **how)

    def step(stage: Any, **how: Any) -> Any:
        name = stage.addressing
        whats[name] = "failed"
        done = dvc.repo.reproduce._reproduce_stage(stage, **how)
        whats[name] = "unchanged" if done is None else "ran" if name in ran else "restored"
        return done

    with (
        Repo(str(root)) as repo,
        replaced(dvc.repo.reproduce, "_reproduce", steps),
        replaced(dvc.stage.run, "cmd_run", command),
    ):
        return whats, _error(lambda: repo.reproduce([file], repro_fn=step, **options), root)


def _by_us(root: Path, file: str, jobs: int, **options: Any) -> tuple[Outcomes, str]:
    notes, executor = Notes(), Threads(root, jobs) if jobs else None
    told_unchanged = 0 if options["force"] else unchanged_stages(root, file)
    error = _error(lambda: reproduce(root, [file], notes, executor=executor, **options), root)
    whats = {one.stage: one.what for one in notes.outcomes}
    assert told_unchanged in (0, len(whats))
    assert not told_unchanged or {*whats.values()} == {"unchanged"}
    return whats, error


def _error(run: Callable[[], Any], root: Path) -> str:
    try:
        run()
    except ReproductionError:  # the outcomes say of which stages, which come in any order
        return "a stage has failed"
    except Exception as error:
        return f"{type(error).__name__} {error}".replace(str(root), "")
    return ""


class Seen(NamedTuple):
    """What a step has left."""

    outcomes: list[tuple[Outcomes, str]]
    files: dict[str, str]
    locks: dict[str, str]
    status: Any


def _seen(root: Path, outcomes: list[tuple[Outcomes, str]]) -> Seen:
    files, locks = {}, {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.name == "dvc.lock":
            locks[name] = path.read_text()
        elif path.is_file() and not name.startswith((".dvc/tmp", ".dvc/cache/runs")):
            files[name] = "" if name.startswith(".dvc") else path.read_bytes().decode()
    with Repo(str(root)) as repo:
        status = repo.status()
    runs = root / ".dvc/cache/runs"
    files |= {str(path.relative_to(root)): "" for path in runs.rglob("*") if path.is_file()}
    return Seen(outcomes, files, locks, status)


def _compare(
    folder: Path, drawn: tuple[Drawn, list[tuple[str, int, Any]]], ways: list[int]
) -> None:
    """Run a project in all ways after each edit; -1 is DVC, another number that of jobs."""
    project, edits = drawn
    roots = {way: folder / f"way{way}" for way in ways}
    for root in roots.values():
        root.mkdir()
        Repo.init(str(root), no_scm=True).close()
    before = project
    for what, number, value in [("", 0, None), *edits, ("", 0, None)]:
        new = before if what == "restore" else _changed(project, (what, number, value))
        before, project = project, new
        seen = {}
        for way, root in roots.items():
            with chdir(root):
                _write(root, project)
                _touch(root, what, number)
                options = {"on_error": "keep-going", "force": what == "force"}
                outcomes = [
                    _by_dvc(root, file, **options)
                    if way < 0
                    else _by_us(root, file, way, **options)
                    for file in FILES
                ]
                seen[way] = _seen(root, outcomes)
        by_dvc = seen.pop(-1)
        for way, by_us in seen.items():
            assert by_us.outcomes == by_dvc.outcomes, (what, way)
            assert by_us.files == by_dvc.files, (what, way)
            assert by_us.status == by_dvc.status, (what, way)
            assert by_us.locks.keys() == by_dvc.locks.keys(), (what, way)
            for name, lock in by_us.locks.items():
                assert _rewritten(lock) == _rewritten(by_dvc.locks[name]), (what, way)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Path]]:
    """Make a folder for each project; what DVC keeps outside is beside them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path_factory.mktemp("site")))
        patch.setenv("SHELL", shutil.which("bash") or "/bin/sh")
        yield lambda: tmp_path_factory.mktemp("project")


few = settings(
    max_examples=2,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@few
@given(drawn=projects(stages=3, edits=1))
def test_a_run_is_that_of_dvc(folders, drawn):
    _compare(folders(), drawn, [-1, 0, 2])


@pytest.mark.slow
@settings(few, max_examples=int(os.environ.get("EXAMPLES", "5")))
@given(drawn=projects(stages=6, edits=3))
def test_many_runs_are_those_of_dvc(folders, drawn):
    _compare(folders(), drawn, [-1, 0, 2])
