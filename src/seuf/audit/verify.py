"""Hold a statement against the files it is about, on a machine that has nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kedro_dvc.hashing import digests
from seuf.audit.subject import Check, failed, noted, passed
from seuf.inputs import InputError

BASE = "base_model"


def verify(
    file: Path,
    key: Path | None = None,
    delta: Path | None = None,
    base: Path | None = None,
    checkpoint: Path | None = None,
) -> list[Check]:
    """Return what could be checked of a statement, and what could not.

    Args:
        file: The statement, signed or not.
        key: Public key of who is trusted to have signed it.
        delta: The delta that it should be about.
        base: Folder of the base model that the delta should belong to.
        checkpoint: Folder of an exported model, to be held against base and delta; and against
            its signature, if it has one.

    Raises:
        InputError: If the file is no statement.
    """
    try:
        statement, signature = _opened(_read(file), key)
    except _ForgedError as error:
        return [failed("signature", str(error))]
    checks = [signature, *_signed(checkpoint, key), *_delta(statement, delta)]
    if delta is not None and delta.is_file():
        try:
            checks += _model(statement, delta, base, checkpoint)
        except (ValueError, OSError, KeyError, TypeError) as error:  # InputError is a ValueError
            checks.append(failed("weights", f"{type(error).__name__}: {error}"))
    return checks


class _ForgedError(Exception):
    """The statement is not what the key's owner signed."""


def _opened(content: Any, key: Path | None) -> tuple[dict[str, Any], Check]:
    from seuf.audit.attest import opened

    if "payload" not in content:
        if key is not None:
            raise _ForgedError("the statement is not signed")
        return content, noted("signature", "the statement is not signed: anyone can have made it")
    try:
        statement = opened(content, key)
    except InputError as error:
        raise _ForgedError(str(error)) from error
    if key is None:
        return statement, noted("signature", "not checked: --key names a public key")
    return statement, passed("signature", f"signed with the key of {key.name}")


def _signed(checkpoint: Path | None, key: Path | None) -> Iterator[Check]:
    """Yield whether the checkpoint's files are those that were signed, if it is signed."""
    from seuf.audit.attest import SIGNATURE, verify_folder

    if checkpoint is None or not (checkpoint / SIGNATURE).is_file():
        return
    if key is None:
        yield noted("signature", f"{checkpoint / SIGNATURE} not checked: --key names a public key")
        return
    try:
        verify_folder(checkpoint, checkpoint / SIGNATURE, key)
    except InputError as error:
        yield failed("signature", str(error))
    else:
        yield passed("signature", f"files of {checkpoint} are signed with the key of {key.name}")


def _delta(statement: dict[str, Any], delta: Path | None) -> Iterator[Check]:
    wanted = {one["digest"].get("sha256") for one in statement["subject"]}
    if delta is None:
        yield noted("delta", "not looked at: --delta names it")
    elif not delta.is_file():
        yield failed("delta", f"{delta} is missing")
    elif digests([delta])[delta].sha256 not in wanted:
        yield failed("delta", f"{delta} is not the delta that the statement is about")
    else:
        yield passed("delta", f"{delta} is the delta that the statement is about")


def _model(
    statement: dict[str, Any], path: Path, base: Path | None, checkpoint: Path | None
) -> Iterator[Check]:
    from seuf.audit.exported import files
    from seuf.audit.weights import weights
    from seuf.moe.deltas import Delta
    from seuf.unlearning.settings import Method

    delta = Delta.load(path)
    if delta.base not in _base_digests(statement):
        yield failed("base", "the delta belongs to another base model than the statement names")
    if base is None:
        yield noted("weights", "not looked at: --base names the folder of the base model")
        return
    method = Method.model_validate(delta.about["method"])
    experts = [(layer, expert) for layer, expert in delta.about.get("experts", [])]
    yield from weights(base, delta, method, experts, checkpoint)[0]
    if checkpoint is not None:
        yield from files(base, checkpoint)


def _base_digests(statement: dict[str, Any]) -> set[str]:
    materials = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    return {one["digest"]["sha256"] for one in materials if one.get("name") == BASE}


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read: {error}") from error
    if not isinstance(content, dict) or not {"payload", "predicate"} & content.keys():
        raise InputError(f"{file} is no statement: it has neither a payload nor a predicate.")
    return content
