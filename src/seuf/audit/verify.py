"""Verify a statement against the files that it names; the study and its data are not needed.

A statement names by digest a delta, its base model, the resulting model and the documents beside
it. A file that is not given is reported as not checked, and the verification does not pass. A file
that is given and cannot be checked is a failure.
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

BASE = "base_model"  # the dependency's name in a statement
MODEL = "resulting model"  # a subject's name, like the three documents beside the statement
CERTIFICATE, BOM, REPORT = "certificate.html", "bom.cdx.json", "audit.json"
DOCUMENTS = {CERTIFICATE: "certificate", BOM: "bill", REPORT: "report"}  # names of their checks
REFERENCE = "reference.json"  # stands in a study for a base model that lies elsewhere
SHA256 = re.compile("[0-9a-f]{64}")


class _StatedDigests(NamedTuple):
    """The SHA-256 digests in a statement.

    Attributes:
        deltas: Digests of deltas, by name.
        bases: Digests of their base models.
        models: Digests of the resulting models.
        documents: Digests of the documents beside the statement, by name.
        files: Digests of the base model's files beside the weights, by name.
        unusable: Names of subjects without a valid SHA-256, or that occur twice.
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
    """Return the checks of a statement; a NOTE for each that could not be made.

    Args:
        file: The statement, signed or not.
        key: Public key of the trusted signer.
        delta: The delta that the statement should be about.
        base: Folder of the base model that the delta should belong to.
        checkpoint: Folder of an exported model, compared with base and delta, and with its own
            signature if it has one.
        certificate: The certificate; by default the one beside the statement.

    Raises:
        InputError: If the file is not a statement, or the extra for signatures is missing.
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
            signature = noted("signature", "not checked: give the public key with --key")
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
        except Exception as error:  # a forged file can fail in any way
            checks.append(failed("weights", f"{type(error).__name__}: {error}"))
    for path in given:  # each check reads its files again
        if stamp(path) != before[path]:
            checks.append(failed("bytes", f"{path} was written to while it was verified"))
    return checks


def verdict(checks: Sequence[Check]) -> tuple[str, int]:
    """Return a verification's last line and exit code: 0 only if everything was checked."""
    failure = next((check.text for check in checks if check.result == FAIL), None)
    if failure is not None:
        return f"FAIL: {failure}", 1
    # documents that match a statement prove nothing while anyone can have made both
    if all(check.name in DOCUMENTS.values() for check in checks if check.result == PASS):
        return "NOTHING VERIFIED: give --key, or --delta and --base", 2
    # the statement does not cover an export's README.md
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
        raise InputError(f"{file} is not a statement: it has neither payload nor predicate.")
    return content


def _stated_digests(file: Path, statement: dict[str, Any]) -> _StatedDigests:
    try:
        dependencies = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
        bases = [d for d in dependencies if d.get("name") == BASE]
        subjects = [(str(one.get("name")), _sha256(one)) for one in statement["subject"]]
        names = [name for name, _ in subjects]
        usable = {name: sha256 for name, sha256 in subjects if sha256}
        stated = _StatedDigests(
            deltas={n: sha256 for n, sha256 in usable.items() if n not in (MODEL, *DOCUMENTS)},
            bases={sha256 for base in bases if (sha256 := _sha256(base))},
            models={sha256 for name, sha256 in usable.items() if name == MODEL},
            documents={name: usable[name] for name in DOCUMENTS if name in usable},
            files={
                str(name): str(sha256)
                for base in bases
                for name, sha256 in (base.get("annotations") or {}).get("files", {}).items()
            },
            unusable=[name for name, sha256 in subjects if not sha256 or names.count(name) > 1],
        )
    except (AttributeError, KeyError, TypeError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else "a field has a wrong type"
        raise InputError(f"{file} does not state a delta and its base model: {why}.") from error
    if not (stated.deltas and stated.bases):
        missing = "subject" if not stated.deltas else f"dependency {BASE}"
        raise InputError(f"{file} does not state a delta and its base model: no {missing}.")
    return stated


def _sha256(resource: dict[str, Any]) -> str | None:
    """Return a resource's SHA-256; None if it is missing, malformed or all zeros."""
    value = resource["digest"].get("sha256")
    valid = isinstance(value, str) and SHA256.fullmatch(value) and set(value) != {"0"}
    return value if valid else None


def _unusable(stated: _StatedDigests) -> Iterator[Check]:
    """Yield what the statement lacks, or names without a digest that files can match."""
    for name in dict.fromkeys(stated.unusable):
        yield failed("statement", f"it names {name} without exactly one SHA-256")
    if not stated.models and MODEL not in stated.unusable:
        yield noted("statement", f"it names no {MODEL}, so none is compared")
    if not stated.files:
        yield noted("statement", "it names none of the base model's files beside the weights")


def _documents(stated: _StatedDigests, file: Path, certificate: Path | None) -> Iterator[Check]:
    """Check each document beside the statement against its digest in the statement."""
    for name, check in DOCUMENTS.items():
        if name in stated.unusable:
            continue
        given = certificate if name == CERTIFICATE else None
        path, sha256 = given or file.with_name(name), stated.documents.get(name)
        if not path.is_file():
            if given:
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
    """Yield a failure for each folder given without the files to compare it with."""
    if base is not None and delta is None:
        yield failed("base", f"{base} was not compared: that needs --delta")
    if checkpoint is not None and (delta is None or base is None):
        yield failed("checkpoint", f"{checkpoint} was not compared: that needs --delta and --base")


def _checkpoint_signature(checkpoint: Path | None, key: Path | None) -> Iterator[Check]:
    """Check that a signed checkpoint's files are the signed ones."""
    from seuf.audit.attest import SIGNATURE, verify_folder

    if checkpoint is None or not (checkpoint / SIGNATURE).is_file():
        return
    if key is None:
        text = f"{checkpoint / SIGNATURE} not checked: give the public key with --key"
        yield noted("signature", text)
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
        yield noted("delta", "not checked, nor any weights: give the delta with --delta")
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
            yield noted("delta", f"{name}, which it is about too, was not checked")


def _weights(
    stated: _StatedDigests, path: Path, base: Path | None, checkpoint: Path | None
) -> Iterator[Check]:
    from seuf.audit.exported import check_files
    from seuf.audit.weights import SHORT, check_weights
    from seuf.moe.deltas import Delta
    from seuf.unlearning.settings import Method

    delta = Delta.load(path)
    if delta.base not in stated.bases:
        yield failed("base", "the delta does not belong to the base model that the statement names")
    if base is None:
        yield noted("weights", "not checked: give the folder of the base model with --base")
        return
    if (base / REFERENCE).is_file() and not any(base.glob("*.safetensors")):
        source = json.loads((base / REFERENCE).read_text(encoding="utf-8"))["source"]["path"]
        raise InputError(f"{base} only refers to the base model: give the folder of {source}")
    try:
        method = Method.model_validate(delta.about["method"])
        experts = [(layer, expert) for layer, expert in delta.about.get("experts", [])]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} does not say which method made it, with which experts") from error
    checks, changes = check_weights(base, delta, method, experts, checkpoint)
    yield from checks
    if stated.models and "model" in changes:
        if changes["model"] in stated.models:
            yield passed(
                "model", f"base and delta make model {changes['model'][:SHORT]}, as stated"
            )
        else:
            yield failed("model", "base and delta do not make the model that the statement names")
    yield from _files_of_base(stated, base)
    if checkpoint is not None:
        yield from check_files(base, checkpoint)


def _files_of_base(stated: _StatedDigests, base: Path) -> Iterator[Check]:
    """Check that configuration, tokenizer and code of the base are the stated ones.

    The same weights with another number of experts per token or another template are another model.
    """
    from seuf.audit.exported import files_of_model

    if not stated.files:
        return
    present = files_of_model(base)
    names = sorted(present.keys() | stated.files.keys())
    wrong = [name for name in names if present.get(name) != stated.files.get(name)]
    if wrong:
        yield failed("files", f"{base}: not as stated: {', '.join(wrong)}")
    else:
        yield passed("files", f"{len(present)} files of {base} beside the weights are as stated")
