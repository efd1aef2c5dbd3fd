"""Verify a statement against the files it is about, on a machine that has nothing else.

A statement names a delta, its base model, the model that they make and the documents beside it by
digest. Whoever has all of them and the signer's public key can check each; what is not given is not
checked, and said to be so, and a verification that leaves anything out does not pass. What is given
and cannot be checked is a failure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kedro_dvc.files import stamp, strict_json
from kedro_dvc.hashing import digests
from seuf.audit import FAIL, NOTE, PASS, Check, MissingExtraError, failed, noted, passed
from seuf.inputs import InputError

BASE = "base_model"  # as a statement calls it among its dependencies
MODEL, CERTIFICATE = "resulting model", "certificate.html"  # and these among its subjects
BOM, REPORT = "bom.cdx.json", "audit.json"
# of those beside the statement, in its folder, the name of the check
DOCUMENTS = {CERTIFICATE: "certificate", BOM: "bill", REPORT: "report"}
REFERENCE = "reference.json"  # where a study's base model is one that lies elsewhere
SHA256 = re.compile("[0-9a-f]{64}")


class _StatedDigests(NamedTuple):
    """SHA-256 digests that a statement names.

    Attributes:
        deltas: Of deltas, by name.
        bases: Of their base models.
        models: Of the models that they make.
        documents: Of those that go with it, by name.
        files: Of the base model's files beside the weights, by name.
        unusable: What it names without a SHA-256 of its own: zeros, a wrong length, a name twice.
    """

    deltas: dict[str, str]
    bases: set[str]
    models: set[str]
    documents: dict[str, str]
    files: dict[str, str]
    unusable: list[str]


def verify(
    file: Path,
    key: Path | None = None,
    delta: Path | None = None,
    base: Path | None = None,
    checkpoint: Path | None = None,
    certificate: Path | None = None,
) -> list[Check]:
    """Return what could be checked of a statement, and what could not.

    Args:
        file: The statement, signed or not.
        key: Public key of the trusted signer.
        delta: The delta that the statement should be about.
        base: Folder of the base model that the delta should belong to.
        checkpoint: Folder of an exported model, to be compared with base and delta; and with its
            signature, if it has one.
        certificate: The page that goes with it; by default the one beside the statement.

    Raises:
        InputError: If the file is no statement, or the extra is missing for a signature.
    """
    content = _read(file)
    if "payload" not in content:
        if key is not None:
            return [failed("signature", "the statement is not signed")]
        statement = content
        signature = noted("signature", "the statement is not signed: anyone can have made it")
    else:
        from seuf.audit.attest import open_envelope

        try:
            statement = open_envelope(content, key)
        except MissingExtraError:
            raise
        except InputError as error:
            return [failed("signature", str(error))]
        if key is None:
            signature = noted("signature", "not checked: --key names a public key")
        else:
            signature = passed("signature", f"signed with the key of {key.name}")
    given = [path for path in (file, certificate, delta, base, checkpoint) if path is not None]
    before = {path: stamp(path) for path in given}
    stated = _stated_digests(file, statement)
    checks = [signature, *_unusable(stated), *_documents(stated, file, certificate)]
    checks += [*_checkpoint_signature(checkpoint, key), *_delta(stated, delta)]
    checks += _unchecked(delta, base, checkpoint)
    if delta is not None and delta.is_file():
        try:
            checks += _weights(stated, delta, base, checkpoint)
        except InputError as error:
            checks.append(failed("weights", str(error)))
        except Exception as error:  # what was tampered with can be wrong in any way
            checks.append(failed("weights", f"{type(error).__name__}: {error}"))
    for path in given:  # each check has read them anew
        if stamp(path) != before[path]:
            checks.append(failed("bytes", f"{path} was written to while it was verified"))
    return checks


def verdict(checks: Sequence[Check]) -> tuple[str, int]:
    """Return the last line of a verification, and its exit code: 0 only if nothing was left out."""
    failure = next((check.text for check in checks if check.result == FAIL), None)
    if failure is not None:
        return f"FAIL: {failure}", 1
    # that documents belong to a statement which anyone can have made shows nothing
    if all(check.name in DOCUMENTS.values() for check in checks if check.result == PASS):
        return "NOTHING VERIFIED: give --key, or --delta and --base", 2
    # an export's page is no part of what is stated
    left_out = [check.name for check in checks if check.result == NOTE and check.name != "files"]
    if left_out:
        return f"NOT ALL VERIFIED: {', '.join(dict.fromkeys(left_out))}: see each NOTE", 2
    return PASS, 0


def _read(file: Path) -> dict[str, Any]:
    try:
        content = strict_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read: {error}") from error
    if not isinstance(content, dict) or not {"payload", "predicate"} & content.keys():
        raise InputError(f"{file} is no statement: it has neither a payload nor a predicate.")
    return content


def _stated_digests(file: Path, statement: dict[str, Any]) -> _StatedDigests:
    try:
        dependencies = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
        bases = [d for d in dependencies if d.get("name") == BASE]
        named = [(str(one.get("name")), _sha256(one)) for one in statement["subject"]]
        names = [name for name, _ in named]
        subjects = {name: sha256 for name, sha256 in named if sha256}
        stated = _StatedDigests(
            {n: sha256 for n, sha256 in subjects.items() if n not in (MODEL, *DOCUMENTS)},
            {sha256 for one in bases if (sha256 := _sha256(one))},
            {sha256 for name, sha256 in subjects.items() if name == MODEL},
            {name: subjects[name] for name in DOCUMENTS if name in subjects},
            {
                str(name): str(sha256)
                for one in bases
                for name, sha256 in (one.get("annotations") or {}).get("files", {}).items()
            },
            [name for name, sha256 in named if not sha256 or names.count(name) > 1],
        )
    except (AttributeError, KeyError, TypeError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else "a field has a wrong type"
        raise InputError(f"{file} is no statement of a delta and its base model: {why}.") from error
    if not (stated.deltas and stated.bases):
        lacking = "subject" if not stated.deltas else f"dependency {BASE}"
        raise InputError(f"{file} is no statement of a delta and its base model: no {lacking}.")
    return stated


def _sha256(resource: dict[str, Any]) -> str | None:
    """Return the digest; what is no SHA-256 of anything, such as zeros, is none."""
    value = resource["digest"].get("sha256")
    usable = isinstance(value, str) and SHA256.fullmatch(value) and set(value) != {"0"}
    return value if usable else None


def _unusable(stated: _StatedDigests) -> Iterator[Check]:
    """Yield what the statement names in a way that nothing can be compared with, or not at all."""
    for name in dict.fromkeys(stated.unusable):
        yield failed("statement", f"it names {name} without one SHA-256 of its own")
    if not stated.models and MODEL not in stated.unusable:
        yield noted("statement", f"it names no {MODEL}: that of base and delta is not compared")
    if not stated.files:
        yield noted("statement", "it names none of the base model's files beside the weights")


def _documents(stated: _StatedDigests, file: Path, certificate: Path | None) -> Iterator[Check]:
    """Yield of each document whether it is the one that the statement names."""
    for name, check in DOCUMENTS.items():
        asked_for = certificate if name == CERTIFICATE else None
        path, sha256 = asked_for or file.with_name(name), stated.documents.get(name)
        if name in stated.unusable:
            continue
        if not path.is_file():
            if asked_for:
                yield failed(check, f"{path} is missing")
            elif sha256:
                yield noted(check, f"{name} is not beside the statement that names it")
            else:
                yield noted("statement", f"it names no {name}")
        elif sha256 is None:
            yield failed(check, f"{path} is not named by the statement: anyone can have made it")
        elif digests([path])[path].sha256 == sha256:
            yield passed(check, f"{path} is the one that the statement names")
        else:
            yield failed(check, f"{path} is not the one that the statement names")


def _unchecked(delta: Path | None, base: Path | None, checkpoint: Path | None) -> Iterator[Check]:
    """Yield a failure for each folder that is given without what it is to be compared with."""
    if base is not None and delta is None:
        yield failed("base", f"{base} was not looked at: that needs --delta")
    if checkpoint is not None and (delta is None or base is None):
        yield failed("checkpoint", f"{checkpoint} was not compared: that needs --delta and --base")


def _checkpoint_signature(checkpoint: Path | None, key: Path | None) -> Iterator[Check]:
    """Yield whether the checkpoint's files are those that were signed, if it is signed."""
    from seuf.audit.attest import SIGNATURE, verify_folder

    if checkpoint is None or not (checkpoint / SIGNATURE).is_file():
        return
    if key is None:
        yield noted("signature", f"{checkpoint / SIGNATURE} not checked: --key names a public key")
        return
    try:
        verify_folder(checkpoint, checkpoint / SIGNATURE, key)
    except MissingExtraError:
        raise
    except InputError as error:
        yield failed("signature", str(error))
    else:
        yield passed("signature", f"files of {checkpoint} are signed with the key of {key.name}")


def _delta(stated: _StatedDigests, delta: Path | None) -> Iterator[Check]:
    if delta is None:
        yield noted("delta", "not looked at, nor any weights: --delta names it")
        return
    if not delta.is_file():
        yield failed("delta", f"{delta} is missing")
        return
    sha256 = digests([delta])[delta].sha256
    if sha256 not in stated.deltas.values():
        yield failed("delta", f"{delta} is not the delta that the statement is about")
        return
    yield passed("delta", f"{delta} is the delta that the statement is about")
    for name, other in stated.deltas.items():
        if other != sha256:
            yield noted("delta", f"{name}, which it is about too, was not looked at")


def _weights(
    stated: _StatedDigests, path: Path, base: Path | None, checkpoint: Path | None
) -> Iterator[Check]:
    from seuf.audit.exported import check_files
    from seuf.audit.weights import SHORT, check_weights
    from seuf.moe.deltas import Delta
    from seuf.unlearning.settings import Method

    delta = Delta.load(path)
    if delta.base not in stated.bases:
        yield failed("base", "the delta belongs to another base model than the statement names")
    if base is None:
        yield noted("weights", "not looked at: --base names the folder of the base model")
        return
    if (base / REFERENCE).is_file() and not any(base.glob("*.safetensors")):
        path = json.loads((base / REFERENCE).read_text(encoding="utf-8"))["source"]["path"]
        raise InputError(f"{base} only refers to the base model, {path}: give the folder of that")
    try:
        method = Method.model_validate(delta.about["method"])
        experts = [(layer, expert) for layer, expert in delta.about.get("experts", [])]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} does not say which method made it, and of which experts"
        ) from error
    checks, changes = check_weights(base, delta, method, experts, checkpoint)
    yield from checks
    if stated.models and "model" in changes:
        if changes["model"] in stated.models:
            yield passed(
                "model", f"base and delta make model {changes['model'][:SHORT]}, as stated"
            )
        else:
            yield failed("model", "base and delta make another model than the statement names")
    yield from _files_of_base(stated, base)
    if checkpoint is not None:
        yield from check_files(base, checkpoint)


def _files_of_base(stated: _StatedDigests, base: Path) -> Iterator[Check]:
    """Yield whether configuration, tokenizer and code of the base are those that were stated.

    The same weights with another number of experts a token, or another template, are another model.
    """
    from seuf.audit.exported import files_of_model

    if not stated.files:
        return
    here = files_of_model(base)
    names = sorted(here.keys() | stated.files.keys())
    wrong = [name for name in names if here.get(name) != stated.files.get(name)]
    if wrong:
        yield failed("files", f"{base}: {', '.join(wrong)} not as the statement has them")
    else:
        yield passed("files", f"{len(here)} files of {base} beside the weights are as stated")
