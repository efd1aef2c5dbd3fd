"""Signatures with a key pair: of a statement (DSSE) and of an exported checkpoint.

Statements go through securesystemslib, checkpoints through model-signing, whose own command
`python -m model_signing verify key` reads them too. Both take the same keys; nothing asks a server.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from seuf.audit.statement import checked
from seuf.errors import InputError
from seuf.kedro_dvc.files import write_text

if TYPE_CHECKING:
    from model_signing.hashing import Config as Hashing
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner, SSlibKey

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
