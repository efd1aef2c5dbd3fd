"""Check where a delta comes from: commit, dvc.yaml and dvc.lock, every input, byte and run.

`report.CHECKS` says what each check proves.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from kedro_dvc.configuration import BASE
from kedro_dvc.dependencies import DECIDING, watched_by
from kedro_dvc.disk import counted, gigabytes, listed
from kedro_dvc.evidence import COMMIT, EVIDENCE, Record, erasures_file, read_record
from kedro_dvc.files import IGNORED, WorkflowError, git, load_yaml
from kedro_dvc.project import dvc_file
from kedro_dvc.stages import expanded, guard_file, paths_of
from kedro_dvc.sync import changes
from seuf.audit import Check, failed, noted, passed
from seuf.audit.audited import REPORTS, AuditedMethod, Stage, producers

CLOCKS = timedelta(minutes=5)  # clocks of two machines may differ by this much
SHA1 = 40  # hexadecimal digits; a git repository may use SHA-256 instead
LINK = "120000"  # git's mode of a symbolic link
# suffixes of files that can change a result, even where git ignores them
DECISIVE = {".json", ".lock", ".py", ".so", ".toml", ".yaml", ".yml"}
CREDENTIALS = "credentials"  # part of the names of files left uncommitted on purpose


def check_commit(audited: AuditedMethod) -> Iterator[Check]:
    """Check that code, configuration, lock and evidence are as they were committed."""
    project, name = audited.project, audited.study.name
    lock = os.path.relpath(audited.lock, project)
    patterns = [*DECIDING, lock, f"{EVIDENCE}/{name}/runs", erasures_file(name)]
    try:
        head = git(project, "rev-parse", "--verify", "HEAD").strip()
        how = ("--porcelain", "--untracked-files=all", "--no-renames", "-z")
        status = git(project, "status", *how, "--", *patterns)
        flagged = git(project, "ls-files", "-v", "-z", "--", *patterns)
    except WorkflowError as error:
        yield failed("commit", f"the commit cannot be read: {error}")
        return
    # `git update-index --assume-unchanged` or `--skip-worktree`
    ignored = [line[2:] for line in flagged.split("\0") if line[:1] not in ("", "H")]
    if ignored:
        yield failed("commit", f"git is set to ignore changes of {listed(ignored)}")
    changed = [line[3:] for line in status.split("\0") if line]
    changed = changed or unlike_commit(project, head, patterns)
    if changed:
        yield failed("commit", f"{listed(changed)} not as in commit {head[:12]}: commit it first")
    else:
        yield passed(
            "commit", f"code, configuration, lock and run records are those of {head[:12]}"
        )


def unlike_commit(project: Path, commit: str, patterns: Sequence[str]) -> list[str]:
    """Return the files that differ from those of a commit, without asking `git status`.

    A filter, a file monitor or an exclude list in git's own configuration can hide a change from
    `git status`. A link counts as committed only if its target is committed too.

    Args:
        project: The project's root.
        commit: The commit.
        patterns: Files, whole folders, and glob patterns, from the root.
    """
    blobs = dict[str, tuple[str, str]]()
    for line in git(project, "ls-tree", "-r", "-z", commit).split("\0"):
        about, _, name = line.partition("\t")
        if name:
            mode, _, digest = about.split(" ")
            blobs[name] = (mode, digest)
    files = {
        file
        for pattern in patterns
        for path in project.glob(pattern)
        for file in (path, *path.rglob("*"))
        if file.is_symlink() or (file.is_file() and file.suffix in DECISIVE)
    }
    present = {str(file.relative_to(project)) for file in files}
    names = {one for one in present if CREDENTIALS not in one and IGNORED not in Path(one).parts}
    names |= {name for name in blobs if any(Path(name).is_relative_to(one) for one in patterns)}
    return sorted(name for name in names if not _is_committed(project, name, blobs))


def _is_committed(project: Path, name: str, blobs: Mapping[str, tuple[str, str]]) -> bool:
    """Return whether a file, and the target of a link, is as in a commit.

    Args:
        project: The project's root.
        name: The file's path from the root.
        blobs: Mode and digest of each file in the commit.
    """
    path, root, (mode, digest) = project / name, project.resolve(), blobs.get(name, ("", ""))
    is_link = path.is_symlink()
    if is_link != (mode == LINK) or not path.is_file():
        return False
    content = os.fsencode(path.readlink()) if is_link else path.read_bytes()
    algorithm = hashlib.sha1 if len(digest) == SHA1 else hashlib.sha256
    if algorithm(b"blob %d\0" % len(content) + content).hexdigest() != digest:
        return False
    if not is_link:
        return True
    target = path.resolve()
    return target.is_relative_to(root) and _is_committed(
        project, str(target.relative_to(root)), blobs
    )


def check_lock(audited: AuditedMethod) -> Iterator[Check]:
    """Check that dvc.yaml is what the project makes, and that dvc.lock is a run of it."""
    file = dvc_file(audited.study.name)
    if changes(audited.study):
        yield failed("dvc.yaml", f"{file} is behind the project: run `kedro dvc sync`")
    else:
        yield passed("dvc.yaml", f"{file} is what the project makes")
    declared = declared_stages(audited.project / file)
    for stage in declared.values():
        stage.deps.pop(guard_file(audited.study.name), None)
    differences = [text for one in audited.stages if (text := difference(one, declared))]
    writers, recorded = producers(declared), producers(audited.recorded)
    differences += [
        f"it has no stage that writes {path}; dvc.yaml has {writers[path].name}"
        for path in sorted({*map(audited.path, REPORTS)}.union(*(s.deps for s in audited.stages)))
        if path in writers and path not in recorded
    ]
    differences += [
        f"{stage.name} writes {path}"
        for stage in audited.stages
        for path in stage.outs
        if Path(path).is_absolute() or ".." in Path(path).parts
    ]
    differences += [text for one in audited.stages for text in changed_values(one, audited.project)]
    if differences:
        yield failed("lock", f"dvc.lock is not a run of this dvc.yaml: {differences[0]}")
    else:
        number = counted(len(audited.stages), "stage")
        text = f"command, inputs, outputs and parameters of {number} are those of dvc.yaml"
        yield passed("lock", text)


def check_edges(audited: AuditedMethod) -> Iterator[Check]:
    """Check that each stage read what an earlier stage had written."""
    producer_of, count, broken = producers(audited.recorded), 0, list[str]()
    for stage in audited.stages:
        for path, file in stage.deps.items():
            producer = producer_of.get(path)
            if producer is None:
                continue
            count += 1
            if producer.outs[path] != file:
                broken.append(f"{stage.name} read another {path} than {producer.name} wrote")
    if broken:
        yield failed("lineage", listed(broken))
    else:
        behind = counted(len(audited.lineage), "stage")
        text = f"{behind} behind the delta; {count} inputs are as their stages wrote them"
        yield passed("lineage", text)


def check_bytes(audited: AuditedMethod) -> Iterator[Check]:
    """Check that all files that the stages read and wrote have the MD5 and size in dvc.lock.

    A missing file with texts to forget, which may be erased, is only noted.
    """
    recorded = {
        path: file
        for stage in audited.stages
        for path, file in (*stage.deps.items(), *stage.outs.items())
    }
    for path, file in recorded.items():
        read = audited.digests.get(path)
        if read is None or file is None:
            continue
        if read.md5 != file.md5:
            yield failed("bytes", f"{path} is not what dvc.lock records")
        elif file.size not in (None, read.size):
            yield failed("bytes", f"{path} has {read.size} bytes, not {file.size} as in dvc.lock")
    missing = [path for path in recorded if path not in audited.digests]
    lost = [path for path in missing if path not in audited.confidential]
    if lost:
        yield failed("bytes", f"{listed(lost)} missing: `dvc pull` restores what a remote has")
    paths_by_reason = dict[str, list[str]]()
    for path in missing:
        if path in audited.confidential:
            why = audited.erased.get(path, "missing, and no erasure is recorded")
            paths_by_reason.setdefault(why, []).append(path)
    for why, paths in paths_by_reason.items():
        yield noted(
            "erased", f"{listed(paths)} can no longer be read, only the hash is known: {why}"
        )
    size = sum(one.size for one in audited.digests.values())
    yield passed("bytes", f"{counted(len(audited.digests), 'file')}, {gigabytes(size)} read")


def check_cache(audited: AuditedMethod) -> Iterator[Check]:
    """Check that the outputs' objects in DVC's cache have the MD5 that is their name."""
    from dvc.repo import Repo

    from kedro_dvc.disk import object_path, objects_of
    from kedro_dvc.hashing import DIRECTORY, file_digests

    with Repo(str(audited.project)) as repo:
        folder = Path(repo.cache.local.path)
    outs = [file for stage in audited.stages for file in stage.outs.values() if file is not None]
    names = dict.fromkeys(name for file in outs for name in objects_of(folder, file.md5))
    read = file_digests((object_path(folder, name) for name in names), tolerant=True)
    for name in names:
        digests = read.get(object_path(folder, name))
        if digests is not None and digests.md5 != name.removesuffix(DIRECTORY):
            yield failed("cache", f"object {name} in DVC's cache is not what its name says")
    yield passed("cache", f"{counted(len(read), 'object')} in DVC's cache match their names")


def check_runs(audited: AuditedMethod) -> Iterator[Check]:
    """Check that the outputs have the SHA-256 that was recorded when they were made.

    Outputs with durations are in no record: a repeated run would change them.
    """
    unrecorded = audited.study.not_reproducible()
    for stage in audited.stages:
        repeat = _repeat_command(audited, stage)
        try:
            record = read_record(audited.project, audited.study.name, stage.node)
        except (ValueError, KeyError, TypeError) as error:
            yield failed("runs", f"the record of {stage.name} is not valid: {error}")
            continue
        if record is None:
            yield failed("runs", f"{stage.name} has no record of its run: {repeat}")
            continue
        if record["node"] != stage.node:
            yield failed("runs", f"the record of {stage.name} is of {record['node']!r}")
        started, duration = datetime.fromisoformat(record["started"]), record["seconds"]
        if started > datetime.now(UTC) + CLOCKS - timedelta(seconds=duration):
            yield failed("runs", f"the record of {stage.name} ends in the future")
        if not record["clean"]:
            text = f"{stage.name} ran with uncommitted changes: commit them, then {repeat}"
            yield failed("runs", text)
        if not _is_valid_torch(record["environment"].get("torch")):
            yield failed("runs", f"the record of {stage.name} has an invalid number of threads")
        if other := record["outputs"].keys() - stage.outs.keys():
            yield failed("runs", f"the record of {stage.name} has {listed(other)}, not its output")
        for path in stage.outs:
            read = audited.digests.get(path) if path not in unrecorded else None
            if read and record["outputs"].get(path) != read.sha256:
                text = f"{path} is not what the run of {stage.name} recorded: {repeat}"
                yield failed("runs", text)
    number = counted(len(audited.stages), "stage")
    yield passed("runs", f"outputs of {number} have the SHA-256 that their runs recorded")


def check_origin(audited: AuditedMethod) -> Iterator[Check]:
    """Check that the recorded commits have the code and parameters that the stages have now.

    A missing commit is only noted: the clone may be shallow, or its history squashed.
    """
    unknown, compared = dict[str, list[str]](), 0
    for stage, record in _readable_records(audited):
        commit = str(record["commit"])
        watched = watched_by(audited.project, audited.study.name, stage.node)
        if not COMMIT.fullmatch(commit):
            yield failed("origin", f"the record of {stage.name} names no commit, but {commit!r}")
        elif not _has_commit(audited.project, commit):
            unknown.setdefault(commit[:12], []).append(stage.name)
        elif watched is not None and watched.edited_since(commit, audited.project):
            text = f"{stage.name} has other code or parameters than commit {commit[:12]}"
            text += f", which its record names: {_repeat_command(audited, stage)}"
            yield failed("origin", text)
        else:
            compared += 1
            yield from _doubts_about_commit(audited, stage, record)
    for short, names in unknown.items():
        text = f"commit {short} is missing, the clone is shallow or its history was rewritten"
        yield noted("origin", f"{text}: the code that {listed(names)} ran with was not compared")
    if compared:
        text = f"code and parameters of {counted(compared, 'stage')} are those of the commits"
        yield passed("origin", f"{text} from which they ran")


def _doubts_about_commit(audited: AuditedMethod, stage: Stage, record: Record) -> Iterator[Check]:
    """Note a run that began before its commit was made, and a study that had another name then."""
    project, commit = audited.project, record["commit"]
    shown = git(project, "show", "--no-show-signature", "--no-patch", "--format=%cI", commit)
    committed = datetime.fromisoformat(shown.strip())
    if datetime.fromisoformat(record["started"]) < committed - CLOCKS:
        text = f"the record of {stage.name} begins on {record['started']}, before commit"
        yield noted("origin", f"{text} {commit[:12]} was made, on {committed.isoformat()}")
    if stage.name != audited.lineage[-1].name:
        return
    then, now = BASE, audited.study.config["globals"].get("study")
    for folder in (BASE, audited.study.name):
        try:
            text = git(project, "show", f"{commit}:./conf/{folder}/globals.yml")
            then = (yaml.load(text, yaml.CSafeLoader) or {}).get("study", then)
        except (WorkflowError, yaml.YAMLError, AttributeError):
            continue
    if then != now:
        yield noted("origin", f"the study was called {then!r} when {stage.name} ran, not {now!r}")


def note_machines(audited: AuditedMethod) -> Iterator[Check]:
    """Note runs with other threads than their settings ask for, or on several kinds of machine."""
    machines = dict[str, list[str]]()
    behind = {stage.name for stage in audited.lineage}
    for stage, record in _readable_records(audited):
        environment = record["environment"]
        facts = environment.get("torch")
        threads = facts.get("threads") if isinstance(facts, dict) else None
        configured = list(_configured_threads(stage))
        if threads is not None and configured and threads not in configured:
            text = f"{stage.name} ran with {threads} threads, by its record; its settings ask for"
            yield noted("threads", f"{text} {' or '.join(map(str, sorted({*configured})))}")
        if stage.name in behind:
            torch = environment["packages"].get("torch", "none")
            machine = f"Python {environment['python']}, torch {torch}, {environment['processor']}"
            machines.setdefault(machine, []).append(stage.name)
    if len(machines) > 1:
        text = "; ".join(f"{listed(names)} on {machine}" for machine, names in machines.items())
        yield noted("machines", f"the stages behind the delta ran on several: {text}")


def record_of(audited: AuditedMethod, stage: Stage) -> Record | None:
    """Return the record of a stage's run; None if missing or invalid, for which `runs` fails."""
    try:
        return read_record(audited.project, audited.study.name, stage.node)
    except (ValueError, KeyError, TypeError):
        return None


def _readable_records(audited: AuditedMethod) -> Iterator[tuple[Stage, Record]]:
    """Yield each stage that has a valid record, and the record."""
    for stage in audited.stages:
        if (record := record_of(audited, stage)) is not None:
            yield stage, record


def _is_valid_torch(facts: Any) -> bool:
    """Return whether a record's facts about torch are missing or have a valid thread count."""
    if facts is None:
        return True
    threads = facts.get("threads") if isinstance(facts, dict) else 0
    is_count = isinstance(threads, int) and not isinstance(threads, bool) and threads > 0
    return threads is None or is_count


def _configured_threads(stage: Stage) -> Iterator[int]:
    """Yield the thread counts in a stage's recorded settings."""
    for values in stage.params.values():
        for key, value in values.items():
            if isinstance(value, dict) and isinstance(value.get("threads"), int):
                yield value["threads"]
            elif key.endswith(".threads") and isinstance(value, int):
                yield value


def _has_commit(project: Path, commit: str) -> bool:
    try:
        git(project, "cat-file", "-e", f"{commit}^{{commit}}")
    except WorkflowError:
        return False
    return True


def _repeat_command(audited: AuditedMethod, stage: Stage) -> str:
    """Return the command that runs a stage again even if DVC finds nothing changed."""
    return f"`dvc repro --force --single-item {dvc_file(audited.study.name)}:{stage.name}`"


def declared_stages(file: Path) -> dict[str, Stage]:
    """Return the stages that a dvc.yaml declares by name, matrices expanded; none without it."""
    declared = {}
    content = load_yaml(file) if file.is_file() else {"stages": {}}
    for name, stage in expanded(content["stages"]):
        params: dict[str, dict[str, Any]] = {}
        for entry in stage.get("params", []):
            for path, keys in entry.items():
                params.setdefault(path, {}).update(dict.fromkeys(keys or []))
        inputs, outputs = stage.get("deps", []), paths_of(stage)
        declared[name] = Stage(
            name, stage["cmd"], dict.fromkeys(inputs), dict.fromkeys(outputs), params
        )
    return declared


def difference(stage: Stage, declared: Mapping[str, Stage]) -> str | None:
    """Return how a recorded stage differs from what dvc.yaml declares; None if not at all."""
    if stage.name not in declared:
        return f"dvc.yaml has no stage {stage.name}"

    def compared(one: Stage) -> dict[str, Any]:
        params = {file: set(keys) for file, keys in one.params.items() if keys}
        files = {"inputs": set(one.deps), "outputs": set(one.outs)}
        return {"command": one.cmd, **files, "parameters": params}

    run, wanted = compared(stage), compared(declared[stage.name])
    return next((f"{key} of {stage.name}" for key in run if run[key] != wanted[key]), None)


def changed_values(stage: Stage, project: Path) -> Iterator[str]:
    """Yield a sentence for each parameter whose recorded value differs from its file's."""
    for file, values in stage.params.items():
        if not (project / file).is_file():
            yield f"{file}, with which {stage.name} ran, is missing"
            continue
        content = yaml.load((project / file).read_text(encoding="utf-8"), yaml.CSafeLoader)
        for key, recorded in values.items():
            value = content
            if isinstance(content, dict) and key in content:
                value = content[key]
            else:
                for part in key.split("."):
                    value = value.get(part) if isinstance(value, dict) else None
            if value != recorded:
                yield f"{key} in {file} is not what {stage.name} ran with"
