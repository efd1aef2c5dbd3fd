"""Make the statement of a passed audit, and sign statements and exported checkpoints.

A statement is an in-toto statement with SLSA provenance (https://in-toto.io/Statement/v1,
https://slsa.dev/provenance/v1). It is plain JSON that in-toto's library only validates: its own
messages would turn every integer into a float. securesystemslib signs it as a DSSE envelope.
model-signing signs an exported checkpoint, which its command `python -m model_signing verify key`
can then verify. Both use the same ECDSA keys, and no server.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from kedro_dvc.files import strict_json, write_text
from seuf.audit import needs_extra
from seuf.audit.verify import MODEL
from seuf.inputs import InputError

if TYPE_CHECKING:
    from model_signing.hashing import Config as Hashing
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner, SSlibKey

STATEMENT = "https://in-toto.io/Statement/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:seuf:unlearning:v1"
BUILDER = "urn:seuf:kedro-dvc"
MODEL_DIGEST = "SHA-256 over the SHA-256 of each tensor of the checkpoint, not of a file"
WITHHELD = "withheld: a small set of records could be guessed from its digest"
EVIDENCE = "evidence"  # the role of files that a report relies on
PAYLOAD_TYPE = "application/vnd.in-toto+json"
PRIVATE, PUBLIC = "seuf.key", "seuf.pub"
SIGNATURE = "model.sig"  # as model-signing names it
Report = Mapping[str, Any]


def statement(report: Report, documents: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the statement about an audited method's delta and the resulting model.

    Args:
        report: The report of a passed audit.
        documents: Texts of the documents that go with the statement, by file name.

    Raises:
        InputError: If a value is not allowed in JSON or by the specification.
    """
    delta = report["delta"]
    subjects = {delta["path"]: delta["sha256"], MODEL: report["changes"]["model"]}
    for name, text in (documents or {}).items():
        subjects[name] = hashlib.sha256(text.encode()).hexdigest()
    parameters = ("study", "method", "settings", "seed", "parameters", "request")
    content = {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": one}} for name, one in subjects.items()],
        "predicateType": PROVENANCE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {key: report[key] for key in parameters},
                "internalParameters": {"experts": report["experts"]},
                "resolvedDependencies": list(_dependencies(report)),
            },
            "runDetails": {
                "builder": {"id": BUILDER},
                **_metadata(report),
                "byproducts": list(_byproducts(report)),
            },
        },
    }
    try:
        return validated(json.loads(json.dumps(content, allow_nan=False)))
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"No statement can be made of this report: {error}") from error


@needs_extra()
def validated(content: Any) -> dict[str, Any]:
    """Return a statement that conforms to the specifications of in-toto and SLSA.

    Raises:
        ValueError: If it does not.
    """
    from google.protobuf.json_format import ParseDict, ParseError
    from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
    from in_toto_attestation.v1.statement import Statement
    from in_toto_attestation.v1.statement_pb2 import Statement as Message

    try:
        message = ParseDict(content, Message())
        Statement.copy_from_pb(message).validate()
        if message.predicate_type != PROVENANCE:
            raise ValueError(f"predicate type is {message.predicate_type!r}, not {PROVENANCE}")
        ParseDict(content["predicate"], Provenance())
    except (ParseError, AttributeError, OverflowError, SystemError, TypeError) as error:
        raise ValueError(str(error)) from error
    return content


def _dependencies(report: Report) -> Iterator[dict[str, Any]]:
    """Yield base model, commit, evidence and materials; confidential materials without a digest."""
    base = report["base"]
    notes = {"digestOf": MODEL_DIGEST, "model": base["name"], "files": base.get("files") or {}}
    yield {"name": "base_model", "digest": {"sha256": base["digest"]}, "annotations": notes}
    commit = {"gitCommit": report["commit"]}
    yield {"name": "code", "digest": commit, "annotations": {"clean": report["clean"]}}
    for one in report["evidence"]:
        notes = {"role": EVIDENCE, **{key: one[key] for key in ("entries",) if key in one}}
        yield {"name": one["path"], "digest": {"sha256": one["sha256"]}, "annotations": notes}
    salted = {"saltedDigest": "externalParameters.request.digest"} if report["request"] else {}
    for one in report["materials"]:
        if one["confidential"]:
            notes = {"role": one["role"], "confidential": True, "digest": WITHHELD, **salted}
            yield {"name": one["path"], "annotations": notes}
            continue
        hashes = {kind: one[kind] for kind in ("sha256", "md5") if one[kind]}
        notes = {"role": one["role"], "size": one["size"], "here": one["here"]}
        yield {"name": one["path"], "digest": hashes, "annotations": notes}


def _metadata(report: Report) -> dict[str, Any]:
    """Return when the delta was made, in whole seconds; nothing if no run was recorded."""
    # imported here: these modules need Kedro, which verifying a statement does not
    from seuf.audit.events import finished_on, run_id, started_on
    from seuf.audit.report import unlearn_run

    run = unlearn_run(report)
    if run is None:
        return {}
    started, finished = (
        time.isoformat(timespec="seconds").replace("+00:00", "Z")
        for time in (started_on(run), finished_on(run))
    )
    invocation = f"urn:uuid:{run_id(report['study'], run)}"
    return {"metadata": {"invocationId": invocation, "startedOn": started, "finishedOn": finished}}


def _byproducts(report: Report) -> Iterator[dict[str, Any]]:
    """Yield how each stage ran, then what the audit found.

    The digests of the runs' outputs are left out: some are of confidential files.
    """
    kept = ("started", "seconds", "commit", "clean", "environment")
    for run in report["runs"]:
        yield {"name": f"run {run['stage']}", "annotations": {key: run[key] for key in kept}}
    findings = ("verdict", "audited", "checks", "forgetting", "scores", "repository", "issued")
    notes = {key: report[key] for key in findings if key in report}
    yield {"name": "audit", "annotations": notes}


@needs_extra()
def make_keys(folder: Path) -> tuple[Path, Path]:
    """Write a new ECDSA P-256 key pair in PEM; return the files of the private and public key.

    Raises:
        InputError: If a key exists, which old signatures may need, or git would commit the private
            one.
    """
    from securesystemslib.signer import CryptoSigner

    private, public = folder / PRIVATE, folder / PUBLIC
    if would_be_committed(private):
        raise InputError(
            f"{private} would be committed: name a folder that git ignores, such as keys/, or one "
            "outside the repository."
        )
    if existing := [path for path in (private, public) if os.path.lexists(path)]:
        raise InputError(f"{existing[0]} exists and is not overwritten. Name another folder.")
    signer = CryptoSigner.generate_ecdsa()
    folder.mkdir(parents=True, exist_ok=True)
    for path, data, mode in (
        (private, signer.private_bytes, 0o600),
        (public, signer.public_key.keyval["public"].encode(), 0o644),
    ):
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
    return private, public


@needs_extra()
def fingerprint(private_key: Path) -> str:
    """Return the key id that signatures carry: the SHA-256 of the public key."""
    return str(_signer(private_key).public_key.keyid)


def would_be_committed(path: Path) -> bool:
    """Return whether a file, existing or not, lies in a git repository that does not ignore it."""
    folder = next(one for one in path.absolute().parents if one.is_dir())
    command = ["git", "check-ignore", "--quiet", os.path.relpath(path.absolute(), folder)]
    try:
        return subprocess.run(command, cwd=folder, stderr=subprocess.DEVNULL).returncode == 1
    except FileNotFoundError:  # git is not installed
        return False


@needs_extra()
def sign(statement: dict[str, Any], private_key: Path) -> dict[str, Any]:
    """Return a signed DSSE envelope of a statement, as JSON."""
    from securesystemslib.dsse import Envelope

    payload = json.dumps(statement, sort_keys=True, allow_nan=False).encode()
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    envelope.sign(_signer(private_key))
    return envelope.to_dict()


@needs_extra()
def open_envelope(content: Any, public_key: Path | None) -> dict[str, Any]:
    """Return the statement in an envelope. Without a key it is *not* verified, only read.

    Raises:
        InputError: If this is not a statement's envelope, or that key did not sign it.
    """
    envelope = _parsed(content)
    if envelope.payload_type != PAYLOAD_TYPE:
        kind = repr(envelope.payload_type)
        raise InputError(f"The envelope holds {kind}; a statement is {PAYLOAD_TYPE!r}.")
    if public_key is not None:
        _verify(envelope, _public(public_key), public_key)
    try:
        return validated(strict_json(envelope.payload))
    except InputError:
        raise
    except (RecursionError, ValueError) as error:
        raise InputError(f"The envelope holds no provenance statement: {error}") from error


def _parsed(content: Any) -> Envelope:
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import Error

    try:
        copy = deepcopy(content)  # from_dict empties its argument
        for signature in copy["signatures"]:
            if not isinstance(signature.setdefault("keyid", ""), str):  # optional in DSSE
                raise TypeError
        return Envelope.from_dict(copy)
    except (AttributeError, Error, KeyError, RecursionError, TypeError, ValueError) as error:
        raise InputError(
            "This is not a DSSE envelope (payload, payloadType, signatures); give the signed file."
        ) from error


def _verify(envelope: Envelope, key: SSlibKey, path: Path) -> None:
    """Raise unless that key made one of the signatures; a signature's key id is only a hint."""
    from securesystemslib.exceptions import UnverifiedSignatureError
    from securesystemslib.signer import SSlibKey

    if not envelope.signatures:
        raise InputError("The envelope has no signature.")
    for name, signature in envelope.signatures.items():
        try:
            same_key = SSlibKey(name, key.keytype, key.scheme, key.keyval)
            same_key.verify_signature(signature, envelope.pae())
            return
        except UnverifiedSignatureError:
            pass
    if key.keyid in envelope.signatures:
        raise InputError(f"The statement was changed after it was signed with the key of {path}.")
    names = ", ".join(name[:12] or "without an id" for name in envelope.signatures)
    raise InputError(
        f"The statement was signed by another key ({names}) than {path} ({key.keyid[:12]})."
    )


def _signer(path: Path) -> CryptoSigner:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner

    try:
        return CryptoSigner(load_pem_private_key(path.read_bytes(), None))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: `kedro audit keys` makes a key.") from None
    except (OSError, TypeError, ValueError, UnsupportedAlgorithm):
        raise InputError(f"{path} is not a private key in PEM without a password.") from None


def _public(path: Path) -> SSlibKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey

    try:
        return SSlibKey.from_crypto(load_pem_public_key(path.read_bytes()))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: ask the signer for the public key.") from None
    except (OSError, ValueError, UnsupportedAlgorithm):
        raise InputError(f"{path} is not a public key in PEM.") from None


@needs_extra()
def sign_folder(folder: Path, private_key: Path, signature: Path) -> None:
    """Write a signature, a Sigstore bundle, of all files in a folder except git's own."""
    from model_signing.signing import Config

    _signer(private_key)  # raises a readable error for an unusable key
    with _errors_in_one_line(folder, "be signed"), TemporaryDirectory() as temporary:
        unfinished = Path(temporary, SIGNATURE)
        config = Config().use_elliptic_key_signer(private_key=private_key)
        config.set_hashing_config(_hashing(folder, signature)).sign(folder, unfinished)
        write_text(signature, unfinished.read_text(encoding="utf-8"))


@needs_extra()
def verify_folder(folder: Path, signature: Path, public_key: Path) -> None:
    """Check that a folder holds exactly the files that were signed with that key.

    Raises:
        InputError: If a file is missing, new or changed, or that key did not make the signature.
    """
    from model_signing.verifying import Config

    _public(public_key)
    with _errors_in_one_line(folder, "be verified"):
        config = Config().use_elliptic_key_verifier(public_key=public_key)
        config.set_hashing_config(_hashing(folder, signature)).verify(folder, signature)


def _hashing(folder: Path, signature: Path) -> Hashing:
    """Return how to hash: each file by SHA-256, refusing links and ignoring the signature."""
    from model_signing.hashing import Config

    root, own = folder.resolve(), signature.resolve()
    inside = [own.relative_to(root)] if own.is_relative_to(root) else []
    return Config().set_ignored_paths(paths=inside)


@contextmanager
def _errors_in_one_line(folder: Path, purpose: str) -> Iterator[None]:
    """Turn the errors of model-signing into an `InputError` of one line."""
    from cryptography.exceptions import InvalidSignature

    try:
        yield
    except InvalidSignature as error:
        raise InputError(f"{folder}: the signature was changed after it was made.") from error
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise InputError(f"{folder} could not {purpose}: {text}") from error
