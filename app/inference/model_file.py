"""A model file's bytes, before anything is computed with them: complete, unchanged and, where a key says so, signed.

A file with a checksum is its body, any ONNX model, and behind it a trailer whose every byte follows from the body and
the key. The trailer is one or two more entries of the model's ``metadata_props`` (field 14 of ModelProto in
onnx.proto), so the whole is an ONNX model too: ``sha256``, the SHA-256 of the body in hexadecimal, and ``signature``,
an Ed25519 signature (RFC 8032) of that hash's 32 bytes, in base64. Nothing here reads ONNX: what stands before the
trailer is hashed as it is, and whatever a reader finds in it was signed.
"""

import base64
import binascii
import contextlib
import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from .. import BUILDER
from ..errors import ModelError

#: The trailer's keys in ``metadata_props``.
CHECKSUM: Final = "sha256"
SIGNATURE: Final = "signature"
#: Bytes of the largest file that is read where nobody says otherwise.
MOST_BYTES: Final = 100_000_000

#: ``verify(signature, message)``: whether the key that is pinned made the signature.
Verify = Callable[[bytes, bytes], bool]


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file that is what it says it is.

    Attributes:
        path: where it was read from.
        digest: SHA-256 of its body, 32 bytes: the same for the same model, wherever it lies.
        has_checksum: whether it carries its checksum.
    """

    path: Path
    digest: bytes
    has_checksum: bool

    @classmethod
    def read(cls, path: Path, verify: Verify | None = None, most: int = MOST_BYTES) -> tuple[Self, bytes]:
        """Reads and checks a file.

        Args:
            path: a file that ``model_build`` wrote.
            verify: who must have signed it; None: nobody.
            most: bytes that it may have.

        Returns:
            The file and its bytes.

        Raises:
            ModelError: it is missing, too large, changed since it was written, or not signed by whom it has to be.
        """
        data = _bytes(path, most)
        try:
            seal = Seal.of(data)
            if not seal.fits:
                raise ModelError("it is damaged: its bytes do not have the checksum that stands at its end")
            if verify is not None:
                _check_signature(seal, verify)
        except ModelError as error:
            raise ModelError(f"{path} cannot be served: {error}") from error
        return cls(path, seal.digest, seal.has_checksum), data


@dataclass(frozen=True, slots=True)
class Seal:
    """What the end of a file says about the rest.

    Attributes:
        body: number of bytes before the trailer; all of them, where there is none.
        digest: SHA-256 of these, 32 bytes.
        has_checksum: whether a trailer is there.
        signature: the signature in it, 64 bytes; None where there is none.
        fits: False if the trailer is not byte for byte the one that belongs to the body.
    """

    body: int
    digest: bytes
    has_checksum: bool
    signature: bytes | None
    fits: bool

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Reads the end of a file; never fails."""
        signature = None
        if _begins(data, _SIGNED, _CHECKSUM_HEAD) and _begins(data, _SIGNED - _SEALED, _SIGNATURE_HEAD):
            size = _SIGNED
            with contextlib.suppress(binascii.Error, ValueError):
                signature = base64.b64decode(data[-_SIGNATURE_SIZE:], validate=True)
        elif _begins(data, _SEALED, _CHECKSUM_HEAD):
            size = _SEALED
        else:
            return cls(len(data), hashlib.sha256(data).digest(), has_checksum=False, signature=None, fits=True)
        body = len(data) - size
        digest = hashlib.sha256(memoryview(data)[:body]).digest()
        return cls(body, digest, has_checksum=True, signature=signature, fits=data[body:] == trailer(digest, signature))


def trailer(digest: bytes, signature: bytes | None = None) -> bytes:
    """The bytes that seal a body.

    Args:
        digest: the body's SHA-256.
        signature: an Ed25519 signature of it, 64 bytes; None: not signed.
    """
    made = _entry(CHECKSUM, digest.hex())
    return made if signature is None else made + _entry(SIGNATURE, base64.b64encode(signature).decode())


def public_key(path: Path) -> Verify:
    """Whom to believe: an Ed25519 public key in PEM (``openssl pkey -pubout``).

    Raises:
        ModelError: the file has no such key, or the package that verifies is not installed.
    """
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ModuleNotFoundError as error:
        raise ModelError("checking signatures needs the package cryptography: pip install '.[signatures]'") from error
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"CLASSIFIER_MODEL_PUBLIC_KEY: {path} is not a public key in PEM: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        hint = "make one with `openssl genpkey -algorithm ed25519`"
        raise ModelError(f"CLASSIFIER_MODEL_PUBLIC_KEY: {path} is not an Ed25519 key; {hint}")

    def verify(signature: bytes, message: bytes) -> bool:
        try:
            key.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    return verify


def _check_signature(seal: Seal, verify: Verify) -> None:
    if seal.signature is None:
        raise ModelError(
            "it does not end in a signature: it is not signed, truncated, not yet complete, or signed by an earlier "
            f"version, which put the signature elsewhere; `{BUILDER} sign FILE --key KEY` signs a whole one"
        )
    if not verify(seal.signature, seal.digest):
        raise ModelError("its signature was not made by the key that this service trusts")


def _bytes(path: Path, most: int) -> bytes:
    """The content of a regular file; others are not opened, since that alone may wait for ever or do something."""
    try:
        if not path.exists():
            raise ModelError(f"there is no model file at {path}")
        if not path.is_file():
            raise ModelError(f"{path} cannot be served: it is no regular file")
        # Another thing may lie there by now: without waiting for it.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ModelError(f"{path} cannot be served: it is no regular file")
            # A file may also grow while it is read.
            data = b"" if found.st_size > most else file.read(most + 1)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if found.st_size > most or len(data) > most:
        raise ModelError(
            f"{path} cannot be served: it has {max(found.st_size, len(data)) / 1e6:.1f} MB; "
            f"the most is {most / 1e6:.1f}, by CLASSIFIER_MAX_MODEL_BYTES and the memory that is free"
        )
    return data


def _entry(key: str, value: str) -> bytes:
    """One entry of ``metadata_props``; its parts are so short that each length is one byte."""
    inner = b"".join(bytes([tag, len(text)]) + text.encode() for tag, text in ((_KEY, key), (_VALUE, value)))
    return bytes([_METADATA_PROPS, len(inner)]) + inner


def _begins(data: bytes, before_end: int, head: bytes) -> bool:
    at = len(data) - before_end
    return at >= 0 and data.startswith(head, at)


# Protobuf's tags: field number << 3 | 2 (a length and so many bytes follow).
_METADATA_PROPS: Final = 14 << 3 | 2
_KEY: Final = 1 << 3 | 2
_VALUE: Final = 2 << 3 | 2
_SIGNATURE_SIZE: Final = len(base64.b64encode(bytes(64)))
_CHECKSUM_HEAD: Final = trailer(bytes(32))[: -2 * 32]
_SIGNATURE_HEAD: Final = _entry(SIGNATURE, "A" * _SIGNATURE_SIZE)[:-_SIGNATURE_SIZE]
_SEALED: Final = len(trailer(bytes(32)))
_SIGNED: Final = len(trailer(bytes(32), bytes(64)))
