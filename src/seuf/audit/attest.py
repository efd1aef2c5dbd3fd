"""What was made, from what and how, as an in-toto statement with SLSA provenance.

https://in-toto.io/Statement/v1 and https://slsa.dev/provenance/v1. The statement is plain JSON;
the library of in-toto only checks it, as a message of its own would turn every integer to a float.

Signatures with a key pair: of a statement (DSSE) and of an exported checkpoint.

Statements go through securesystemslib, checkpoints through model-signing, whose own command
`python -m model_signing verify key` reads them too. Both take the same keys; nothing asks a server.

The bill of materials of an unlearned model: CycloneDX 1.6 with a model card (ML-BOM).

What an audit leaves behind: report, statement, bill of materials, certificate, in one folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

from kedro_dvc.files import write_text
from seuf.audit.events import finished_on, run_id, started_on
from seuf.audit.report import interval, known
from seuf.audit.subject import FAIL
from seuf.inputs import InputError

if TYPE_CHECKING:
    from cyclonedx.model import HashType, Property
    from cyclonedx.model.component import Component
    from model_signing.hashing import Config as Hashing
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner, SSlibKey

STATEMENT = "https://in-toto.io/Statement/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:seuf:unlearning:v1"
BUILDER = "urn:seuf:kedro-dvc"
MODEL_DIGEST = "SHA-256 over the SHA-256 of each tensor of the checkpoint, not of a file"
WITHHELD = "withheld: a small set of records could be guessed from its digest"
Report = Mapping[str, Any]


def statement(report: Report) -> dict[str, Any]:
    """Return the statement about the delta of an audited method.

    Raises:
        InputError: If there is no delta, or a value that JSON or the specification does not know.
    """
    delta = report["delta"]
    if not delta:
        raise InputError(
            f"There is no delta of {report['method']} that a statement could be about."
        )
    made = {
        "_type": STATEMENT,
        "subject": [{"name": delta["path"], "digest": {"sha256": delta["sha256"]}}],
        "predicateType": PROVENANCE,
        "predicate": {"buildDefinition": _definition(report), "runDetails": _details(report)},
    }
    try:
        return checked(json.loads(json.dumps(made, allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise InputError(f"No statement can be made of this report: {error}") from error


def checked(made: Any) -> dict[str, Any]:
    """Return a statement that keeps to the specifications of in-toto and SLSA.

    Raises:
        ValueError: If it does not.
    """
    from google.protobuf.json_format import ParseDict, ParseError
    from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
    from in_toto_attestation.v1.statement import Statement
    from in_toto_attestation.v1.statement_pb2 import Statement as Message

    try:
        message = ParseDict(made, Message())
        Statement.copy_from_pb(message).validate()
        if message.predicate_type != PROVENANCE:
            raise ValueError(f"predicate type is {message.predicate_type!r}, not {PROVENANCE}")
        ParseDict(made["predicate"], Provenance())
    except (ParseError, AttributeError, TypeError) as error:
        raise ValueError(str(error)) from error
    return made


def _definition(report: Report) -> dict[str, Any]:
    asked = ("study", "method", "settings", "seed", "parameters", "request")
    return {
        "buildType": BUILD_TYPE,
        "externalParameters": {key: report.get(key) for key in asked},
        "internalParameters": {"experts": report.get("experts")},
        "resolvedDependencies": list(_dependencies(report)),
    }


def _dependencies(report: Report) -> Iterator[dict[str, Any]]:
    """Yield the base model, the code's commit, and each material."""
    base = report["base"]
    notes = {"digestOf": MODEL_DIGEST, "model": base["name"]}
    digest = {"digest": {"sha256": base["digest"]}} if base["digest"] else {}
    yield {"name": "base_model", **digest, "annotations": notes}
    if report.get("commit"):
        commit = {"gitCommit": report["commit"]}
        yield {"name": "code", "digest": commit, "annotations": {"clean": report["clean"]}}
    yield from (_material(one, report.get("request")) for one in report.get("materials") or [])


def _material(material: Mapping[str, Any], request: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a material with its digests, or, if it is confidential, its name alone."""
    notes: dict[str, Any] = {"role": material["role"]}
    if material["confidential"]:
        salted = {"saltedDigest": "externalParameters.request.digest"} if request else {}
        notes |= {"confidential": True, "digest": WITHHELD} | salted
        return {"name": material["path"], "annotations": notes}
    digest = {kind: material[kind] for kind in ("sha256", "md5") if material.get(kind)}
    notes |= {"size": material["size"], "here": material["here"]}
    known = {"digest": digest} if digest else {}
    return {"name": material["path"], **known, "annotations": notes}


def _details(report: Report) -> dict[str, Any]:
    run = unlearn_run(report)
    metadata = {"metadata": _metadata(report["study"], run)} if run else {}
    return {"builder": {"id": BUILDER}, **metadata, "byproducts": list(_byproducts(report))}


def unlearn_run(report: Report) -> Mapping[str, Any] | None:
    """Return the run that made the delta: the last of its stage; None if none was recorded."""
    stage = f"unlearn@{report['method']}"
    return next((run for run in reversed(_runs(report)) if run["stage"] == stage), None)


def _runs(report: Report) -> list[Mapping[str, Any]]:
    return report.get("runs") or []


def _metadata(study: str, run: Mapping[str, Any]) -> dict[str, str]:
    return {
        "invocationId": f"urn:uuid:{run_id(study, run)}",
        "startedOn": _zulu(started_on(run)),
        "finishedOn": _zulu(finished_on(run)),
    }


def _zulu(time: datetime) -> str:
    """Return a time in whole seconds; the exact duration is among the byproducts."""
    return time.isoformat(timespec="seconds").replace("+00:00", "Z")


def _byproducts(report: Report) -> Iterator[dict[str, Any]]:
    """Yield how each stage ran, then what the audit found.

    The runs' outputs stay out: among them are the digests of confidential files.
    """
    kept = ("started", "seconds", "commit", "clean", "environment")
    for run in _runs(report):
        notes = {key: run[key] for key in kept if key in run}
        yield {"name": f"run {run['stage']}", "annotations": notes}
    found = {key: report[key] for key in ("verdict", "audited", "checks")}
    yield {"name": "audit", "annotations": found}


PAYLOAD_TYPE = "application/vnd.in-toto+json"
PRIVATE, PUBLIC = "seuf.key", "seuf.pub"
SIGNATURE = "model.sig"  # as model-signing names it


def make_keys(folder: Path) -> tuple[Path, Path]:
    """Return the files of a new ECDSA P-256 key pair, private and public, in PEM.

    Raises:
        InputError: If a key is there already: it may be the only one that fits old signatures.
    """
    from securesystemslib.signer import CryptoSigner

    private, public = folder / PRIVATE, folder / PUBLIC
    if there := [path for path in (private, public) if os.path.lexists(path)]:
        raise InputError(f"{there[0]} exists and is not overwritten. Name another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    signer = CryptoSigner.generate_ecdsa()
    _write_new(private, signer.private_bytes, 0o600)
    _write_new(public, signer.public_key.keyval["public"].encode(), 0o644)
    return private, public


def _write_new(path: Path, data: bytes, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)


def sign(statement: dict[str, Any], private_key: Path) -> dict[str, Any]:
    """Return the DSSE envelope of a statement, as JSON holds it."""
    from securesystemslib.dsse import Envelope

    payload = json.dumps(statement, sort_keys=True, allow_nan=False).encode()
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    envelope.sign(_signer(private_key))
    return envelope.to_dict()


def opened(envelope: Any, public_key: Path | None) -> dict[str, Any]:
    """Return the statement in an envelope. Without a key it is *not* verified, only read.

    Raises:
        InputError: If it is no envelope of a statement, or was not signed so by that key.
    """
    wrapped = _wrapped(envelope)
    if wrapped.payload_type != PAYLOAD_TYPE:
        kind = repr(wrapped.payload_type)
        raise InputError(f"The envelope holds {kind}; a statement is {PAYLOAD_TYPE!r}.")
    if public_key is not None:
        _verify(wrapped, _public(public_key), public_key)
    try:
        return checked(json.loads(wrapped.payload))
    except (RecursionError, ValueError) as error:
        raise InputError(f"What the envelope holds is no provenance statement: {error}") from error


def _wrapped(envelope: Any) -> Envelope:
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import Error

    try:
        copy = deepcopy(envelope)  # from_dict empties what it is given
        for signature in copy["signatures"]:
            signature.setdefault("keyid", "")  # optional in DSSE
        return Envelope.from_dict(copy)
    except (AttributeError, Error, KeyError, TypeError, ValueError) as error:
        raise InputError(
            "This is not a DSSE envelope (payload, payloadType, signatures); give the signed file."
        ) from error


def _verify(wrapped: Envelope, key: SSlibKey, path: Path) -> None:
    """Raise unless one of the signatures is that key's; the key id is only a hint."""
    if not wrapped.signatures:
        raise InputError("The envelope has no signature.")
    if any(_fits(wrapped, name, key) for name in wrapped.signatures):
        return
    if key.keyid in wrapped.signatures:
        raise InputError(f"The statement was changed after it was signed with the key of {path}.")
    names = ", ".join(name[:12] or "without a name" for name in wrapped.signatures)
    raise InputError(
        f"The statement was signed by another key ({names}) than {path} ({key.keyid[:12]})."
    )


def _fits(wrapped: Envelope, name: str, key: SSlibKey) -> bool:
    from securesystemslib.exceptions import UnverifiedSignatureError
    from securesystemslib.signer import SSlibKey

    named = SSlibKey(name, key.keytype, key.scheme, key.keyval)
    try:
        named.verify_signature(wrapped.signatures[name], wrapped.pae())
    except UnverifiedSignatureError:
        return False
    return True


def _signer(path: Path) -> CryptoSigner:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner

    try:
        return CryptoSigner(load_pem_private_key(path.read_bytes(), None))
    except (OSError, TypeError, ValueError, UnsupportedAlgorithm):
        raise InputError(f"{path} is no private key in PEM, without a password.") from None


def _public(path: Path) -> SSlibKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey

    try:
        return SSlibKey.from_crypto(load_pem_public_key(path.read_bytes()))
    except (OSError, ValueError, UnsupportedAlgorithm):
        raise InputError(f"{path} is no public key in PEM.") from None


def sign_folder(folder: Path, private_key: Path, signature: Path) -> None:
    """Write the signature (a Sigstore bundle) over all files of a folder but those of git."""
    from model_signing.signing import Config

    _signer(private_key)  # says what is wrong with a key
    with _told(folder, "be signed"), TemporaryDirectory() as apart:
        made = Path(apart, SIGNATURE)
        config = Config().use_elliptic_key_signer(private_key=private_key)
        config.set_hashing_config(_hashing(folder, signature)).sign(folder, made)
        write_text(signature, made.read_text(encoding="utf-8"))


def verify_folder(folder: Path, signature: Path, public_key: Path) -> None:
    """Raise unless a folder holds exactly the files that were signed by that key.

    Raises:
        InputError: If a file is missing, new or changed, or the signature is not of that key.
    """
    from model_signing.verifying import Config

    _public(public_key)
    with _told(folder, "be verified"):
        config = Config().use_elliptic_key_verifier(public_key=public_key)
        config.set_hashing_config(_hashing(folder, signature)).verify(folder, signature)


def _hashing(folder: Path, signature: Path) -> Hashing:
    """Return how files are hashed: each by SHA-256; links are refused, the signature left out."""
    from model_signing.hashing import Config

    root, own = folder.resolve(), signature.resolve()
    inside = [own.relative_to(root)] if own.is_relative_to(root) else []
    return Config().set_ignored_paths(paths=inside)


@contextmanager
def _told(folder: Path, purpose: str) -> Iterator[None]:
    """Turn what model-signing raises into one line."""
    from cryptography.exceptions import InvalidSignature

    try:
        yield
    except InvalidSignature as error:
        raise InputError(f"{folder}: the signature was changed after it was made.") from error
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise InputError(f"{folder} could not {purpose}: {text}") from error


LIMITATIONS = (
    "A low score on the forget questions shows that these questions are no longer answered, "
    "not that the knowledge is gone.",
    "Nothing is said of abilities that the retain questions do not ask for.",
    "Intervals are the score plus and minus 1.96 standard errors over the questions, cut at 0 and "
    "1; other seeds are not part of them.",
)


def bom(report: Report) -> str:
    """Return the bill as JSON; the same report gives the same bytes.

    Raises:
        InputError: If there is no delta, so that no model was made.
    """
    from cyclonedx.output.json import JsonV1Dot6

    if not report["delta"]:
        raise InputError(f"There is no delta of {report['method']} to make a bill of materials of.")
    made = json.loads(JsonV1Dot6(_bill(report)).output_as_string())
    # the library has no class for model cards
    made["metadata"]["component"]["modelCard"] = _model_card(report)
    return json.dumps(made, indent=2, sort_keys=True) + "\n"


def _bill(report: Report) -> Any:
    from cyclonedx.model.bom import Bom, BomMetaData

    model, parts = _model(report), list(_parts(report))
    bill = Bom(
        serial_number=uuid5(NAMESPACE_URL, f"urn:seuf:delta:{report['delta']['sha256']}"),
        metadata=BomMetaData(timestamp=datetime.fromisoformat(report["audited"]), component=model),
        components=parts,
    )
    bill.register_dependency(model, parts)
    return bill


def _model(report: Report) -> Component:
    from cyclonedx.model.component import Component, ComponentType

    changes = report.get("changes") or {}
    facts = {
        "study": report["study"],
        "method": report["method"],
        "verdict": report["verdict"],
        "seed": report.get("seed"),
        "experts": report.get("experts"),
        "settings": report.get("settings"),
    } | {f"parameters_{key}": changes[key] for key in ("changed", "total") if key in changes}
    return Component(
        name=f"{report['base']['name']}, after unlearning",
        type=ComponentType.MACHINE_LEARNING_MODEL,
        version=report["delta"]["sha256"][:12],
        bom_ref="model",
        properties=_properties(facts),
    )


def _parts(report: Report) -> Iterator[Component]:
    """Yield the base model, the delta, the data and the packages."""
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    base, delta = report["base"], report["delta"]
    yield Component(
        name=base["name"],
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="base_model",
        # of tensors, not of a file: no hash in the sense of CycloneDX
        properties=_properties({"model_digest": base["digest"]}),
    )
    hashes = _hashes(delta["sha256"])
    yield Component(name=delta["path"], type=ComponentType.FILE, bom_ref="delta", hashes=hashes)
    yield from map(_data, _data_sets(report))
    for name, version in _packages(report).items():
        purl = PackageURL("pypi", name=name, version=version)
        yield Component(name=name, version=version, bom_ref=f"package:{name}", purl=purl)


def _data(material: Mapping[str, Any]) -> Component:
    """Return a data set; a confidential one without digest, as a small set could be guessed."""
    from cyclonedx.model.component import Component, ComponentType

    confidential = material["confidential"]
    return Component(
        name=material["path"],
        type=ComponentType.DATA,
        bom_ref=_reference(material),
        hashes=_hashes(None if confidential else material["sha256"]),
        properties=_properties({"confidential": confidential}),
    )


def _data_sets(report: Report) -> list[Mapping[str, Any]]:
    return [one for one in report.get("materials") or [] if one["role"] == "data"]


def _reference(material: Mapping[str, Any]) -> str:
    return f"data:{material['path']}"


def _packages(report: Report) -> dict[str, str]:
    """Return name and version of the packages that the delta was made with."""
    run = unlearn_run(report)
    environment = (run or {}).get("environment") or {}
    return dict(sorted(environment.get("packages", {}).items()))


def _hashes(sha256: str | None) -> list[HashType]:
    from cyclonedx.model import HashAlgorithm, HashType

    return [HashType(alg=HashAlgorithm.SHA_256, content=sha256)] if sha256 else []


def _properties(facts: Mapping[str, Any]) -> list[Property]:
    from cyclonedx.model import Property

    known = {name: value for name, value in facts.items() if value is not None}
    return [Property(name=f"seuf:{name}", value=_text(value)) for name, value in known.items()]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _model_card(report: Report) -> dict[str, Any]:
    scores = report.get("scores") or {}
    limits = [*LIMITATIONS, *_chance(scores)]
    return {
        "modelParameters": {
            "task": "text-generation",
            "architectureFamily": "mixture of experts",
            "datasets": [{"ref": _reference(one)} for one in _data_sets(report)],
        },
        "quantitativeAnalysis": {"performanceMetrics": list(_metrics(scores))},
        "considerations": {"technicalLimitations": limits},
    }


def _chance(scores: Mapping[str, Any]) -> list[str]:
    if not known(scores.get("chance")):
        return []
    return [f"Guessing gives {scores['chance']} on the forget questions."]


def _metrics(scores: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the scores of both sets, before and after, with their intervals."""
    for name in ("forget", "retain"):
        for moment in ("before", "after"):
            score = scores.get(name) or {}
            if known(score.get(moment)):
                yield _metric(score, name, moment)
    for name, overlap in (scores.get("routing_overlap") or {}).items():
        if known(overlap):
            yield {"type": "routing overlap", "slice": f"{name} texts", "value": str(overlap)}


def _metric(score: Mapping[str, Any], name: str, moment: str) -> dict[str, Any]:
    return {
        "type": score["measure"],
        "slice": f"{name} questions, {moment} unlearning",
        "value": str(score[moment]),
        **_bounds(score, moment),
    }


def _bounds(score: Mapping[str, Any], moment: str) -> dict[str, dict[str, str]]:
    bounds = interval(score, moment)
    if bounds is None:
        return {}
    low, high = (f"{bound:.6g}" for bound in bounds)
    return {"confidenceInterval": {"lowerBound": low, "upperBound": high}}


STATEMENT_FILE = "statement.json"


def write_pages(report: dict[str, Any], folder: Path, key: Path | None) -> list[Path]:
    """Write what others can read and check, and return where.

    An audit that failed gives its report and a page that says so, but nothing that attests.

    Args:
        report: Of `seuf.audit.report.audit`.
        folder: Made if need be.
        key: Private key that signs the statement.

    Raises:
        InputError: If the key cannot be used.
    """
    from seuf.audit.certificate import certificate_html, certificate_markdown

    report = without_hidden(report)
    texts = {
        "audit.json": _json(report),
        "certificate.html": certificate_html(report),
        "certificate.md": certificate_markdown(report),
    }
    if report["verdict"] != FAIL:
        texts |= _attested(report, key)
    else:
        for name in (STATEMENT_FILE, "bom.cdx.json"):  # of an earlier audit
            (folder / name).unlink(missing_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def without_hidden(report: dict[str, Any]) -> dict[str, Any]:
    """Return the report without plain digests of what is confidential: a short list can be guessed.

    The salted digest of the request stays.
    """
    hidden = {"md5": None, "sha256": None, "size": None}
    materials = [one | hidden if one["confidential"] else one for one in report["materials"]]
    secret = {one["path"] for one in materials if one["confidential"]}
    runs = [
        {**run, "outputs": {p: d for p, d in run["outputs"].items() if p not in secret}}
        for run in report["runs"]
    ]
    return {**report, "materials": materials, "runs": runs}


def _attested(report: dict[str, Any], key: Path | None) -> dict[str, str]:

    if key is not None and not key.is_file():
        raise InputError(f"{key} is missing: `kedro audit keys FOLDER` makes a pair of keys.")
    made = statement(report)
    return {
        STATEMENT_FILE: _json(made if key is None else sign(made, key)),
        "bom.cdx.json": bom(report),
    }


def _json(content: Any) -> str:
    return json.dumps(content, indent=1, sort_keys=True) + "\n"
