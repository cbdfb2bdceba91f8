"""A model file's bytes, before anything is computed with them: complete, unchanged and, where a key says so, signed.

The checksum stands in the file itself, so that one file stays the whole contract. An ONNX file is a protobuf message
(ModelProto in onnx.proto): a row of fields, each with its number and length. The digest is the SHA-256 of those fields
as they are, in their order, without the ``metadata_props`` entries ``sha256`` and ``signature``. ``sha256`` holds it in
hexadecimal, ``signature`` an Ed25519 signature (RFC 8032) of its 32 bytes in base64.
"""

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from app.contract import Contract
from app.errors import ModelError

#: What is not part of the digest, because it is made from it.
CHECKSUM: Final = "sha256"
SIGNATURE: Final = "signature"

#: Protobuf's wire types: https://protobuf.dev/programming-guides/encoding/#structure
_VARINT: Final = 0
_BYTES: Final = 2
_FIXED: Final = {1: 8, 5: 4}
#: Tags (number and wire type) in onnx.proto: ModelProto.metadata_props, and key and value of each of its entries.
_METADATA_PROPS: Final = 14 << 3 | _BYTES
_KEY: Final = 1 << 3 | _BYTES
_VALUE: Final = 2 << 3 | _BYTES

#: ``verify(signature, message)``: whether the key that is pinned made the signature.
Verify = Callable[[bytes, bytes], bool]


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file that is what it says it is.

    Attributes:
        path: where it was read from.
        digest: SHA-256 as described above, 32 bytes: the same for the same model, wherever it lies.
        contract: what it says about itself.
        sealed: whether it carries its checksum.
    """

    path: Path
    digest: bytes
    contract: Contract
    sealed: bool

    @classmethod
    def read(cls, path: Path, verify: Verify | None = None) -> tuple[Self, bytes]:
        """Reads and checks a file.

        Args:
            path: an ONNX file that ``model_build`` wrote.
            verify: who must have signed it; None: nobody.

        Returns:
            The file and its bytes.

        Raises:
            ModelError: it is missing, truncated, changed since it was written, or not signed by whom it has to be.
        """
        if not path.is_file():
            raise ModelError(f"there is no model file at {path}")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error}") from error
        try:
            found, metadata = digest(data)
            stated = metadata.get(CHECKSUM)
            if stated is not None and stated != found.hex():
                raise ModelError("it is damaged: its bytes do not have the checksum that stands in it")
            if verify is not None:
                _check_signature(metadata.get(SIGNATURE), found, verify)
            return cls(path, found, Contract.from_metadata(metadata), stated is not None), data
        except ModelError as error:
            raise ModelError(f"{path} cannot be served: {error}") from error


def digest(data: bytes) -> tuple[bytes, dict[str, str]]:
    """The SHA-256 of a model file without its checksum and signature, and all of its metadata.

    Raises:
        ModelError: the bytes are no complete protobuf message.
    """
    hashed = hashlib.sha256()
    metadata: dict[str, str] = {}
    view = memoryview(data)
    try:
        for tag, field, value in _fields(view):
            if tag == _METADATA_PROPS:
                entry = {part: bytes(text).decode() for part, _, text in _fields(value)}
                name = entry.get(_KEY, "")
                if name in metadata:
                    raise ModelError(f"its metadata has {name!r} twice")
                metadata[name] = entry.get(_VALUE, "")
                if name in (CHECKSUM, SIGNATURE):
                    continue
            hashed.update(field)
    except (IndexError, UnicodeDecodeError) as error:
        raise ModelError("it is not a loadable ONNX model: truncated, not yet complete, or something else") from error
    return hashed.digest(), metadata


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
        raise ModelError(f"{path} is not a public key in PEM: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ModelError(f"{path} is not an Ed25519 key; make one with `openssl genpkey -algorithm ed25519`")

    def verify(signature: bytes, message: bytes) -> bool:
        try:
            key.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    return verify


def _check_signature(signature: str | None, message: bytes, verify: Verify) -> None:
    if signature is None:
        raise ModelError("it is not signed; sign it with `python -m model_build sign`")
    try:
        decoded = base64.b64decode(signature, validate=True)
    except binascii.Error as error:
        raise ModelError("its signature is not base64") from error
    if not verify(decoded, message):
        raise ModelError("its signature was not made by the key that this service trusts")


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """The fields of a protobuf message: tag, all bytes of the field, the bytes of its value.

    Raises:
        IndexError: the message ends within a field, or this is none.
    """
    at = 0
    while at < len(message):
        start = at
        tag, at = _varint(message, at)
        wire = tag & 7
        if wire == _VARINT:
            end = _varint(message, at)[1]
        elif wire == _BYTES:
            size, at = _varint(message, at)
            end = at + size
        elif wire in _FIXED:
            end = at + _FIXED[wire]
        else:
            raise IndexError
        if end > len(message):
            raise IndexError
        yield tag, message[start:end], message[at:end]
        at = end


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError
