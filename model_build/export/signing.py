"""Ed25519 signatures of model files; ``app.inference.model_file`` says what exactly is signed."""

from collections.abc import Callable
from pathlib import Path

from app.errors import ModelError
from app.inference.contract import Contract
from app.inference.model import Model
from app.inference.model_file import ModelFile
from model_build.errors import InputError
from model_build.export import publish

Sign = Callable[[bytes], bytes]


def sign(path: Path, key: Path | None) -> tuple[ModelFile, Contract]:
    """Puts the checksum, and a signature where there is a key, at the end of a model file; replaces it by a rename.

    Args:
        path: a model file of ours, also one that an earlier version signed; one that is damaged is not signed.
        key: Ed25519 private key in PEM, without a password; None: no signature.

    Returns:
        The file as it is now, and its contract.

    Raises:
        InputError: the file or the key cannot be used.
    """
    signer = private_key(key) if key else None
    try:
        _, data = ModelFile.read(path)
        before = Model(path, data=data).contract
        signed = publish.seal(publish.without_seal(data), signer)
        # What is signed is what will be served: the service reads it as it is read here.
        contract = Model(path, data=signed).contract
    except ModelError as error:
        raise InputError(str(error)) from error
    if contract != before:
        raise InputError(f"{path} says something else about itself when it is written again; export it again")
    publish.replace_file(path, signed)
    return ModelFile.read(path)[0], contract


def private_key(path: Path) -> Sign:
    """Makes signatures with an Ed25519 private key.

    Raises:
        InputError: there is no such key, or the package that signs is not installed.
    """
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ModuleNotFoundError as error:
        raise InputError("signing needs the package cryptography: pip install '.[signatures]'") from error
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"--key: {path} is not a private key in PEM without a password: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"--key: {path} is not an Ed25519 key; make one with `openssl genpkey -algorithm ed25519`")
    return key.sign
