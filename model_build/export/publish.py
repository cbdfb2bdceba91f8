"""Writes a graph and its contract as one file, under a temporary name until it is complete."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import onnx

from app.errors import ModelError
from app.inference import model_file
from app.inference.contract import Contract, check_name
from app.inference.model import Model
from model_build.errors import InputError
from model_build.export import golden

_TRAILER_KEYS: Final = (model_file.CHECKSUM, model_file.SIGNATURE)


def with_golden(
    proto: onnx.ModelProto, contract: Contract, folder: Path, photo: bytes | None = None
) -> tuple[Model, Contract]:
    """Loads a model as the service will, and gives its contract the golden sample.

    Args:
        proto: the graph.
        contract: its golden sample is not looked at.
        folder: the model is loaded from a file there.
        photo: the golden picture; None: one is chosen.

    Raises:
        InputError: no service would load it, by what its contract says.
    """
    path = folder / f"{contract.precision}.onnx"
    _describe(proto, contract)
    path.write_bytes(proto.SerializeToString(deterministic=True))
    try:
        model = Model(path)
    except ModelError as error:
        raise InputError(str(error).removeprefix(f"{path} cannot be served: ")) from error
    return model, replace(contract, golden=golden.expect(model, photo or golden.choose(model)))


def checked_name(name: str) -> str:
    """A model's name, before anything is computed for it.

    Raises:
        InputError: no service would serve a model of that name.
    """
    try:
        check_name(name)
    except ModelError as error:
        raise InputError(f"--name: {error}") from error
    return name


def check_writable(output: Path, option: str = "--output") -> None:
    """Looks, before anything is computed, whether a folder can be written to; it may not be there yet.

    Raises:
        InputError: it cannot.
    """
    nearest = output.absolute()
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise InputError(f"{option}: {nearest} is a file; a folder is expected")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"{option}: {nearest} cannot be written to")


def path_of(contract: Contract, output: Path) -> Path:
    """Where ``publish`` puts a model."""
    return output / f"{contract.name}.{contract.precision}.onnx"


def publish(proto: onnx.ModelProto, contract: Contract, output: Path) -> Path:
    """Writes under a temporary name, then renames: a file with a model's name is always complete.

    Raises:
        InputError: the contract is none that a service would accept, or the file cannot be written.
    """
    try:
        contract.check()
    except ModelError as error:
        raise InputError(str(error)) from error
    path = path_of(contract, output)
    _describe(proto, contract)
    replace_file(path, seal(proto.SerializeToString(deterministic=True)))
    return path


def replace_file(path: Path, data: bytes) -> None:
    """Writes under a temporary name, then renames.

    Raises:
        InputError: the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(data)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}") from error


def seal(body: bytes, sign: Callable[[bytes], bytes] | None = None) -> bytes:
    """The bytes of a model file with its trailer: its checksum, and its signature where somebody signs.

    Args:
        body: an ONNX file without a trailer.
        sign: makes a signature of the digest.
    """
    digest = hashlib.sha256(body).digest()
    return body + model_file.trailer(digest, sign(digest) if sign else None)


def without_seal(data: bytes) -> bytes:
    """An ONNX file without the checksum and signature that it may have, wherever they stand in its metadata.

    Where they stand at the end, as ``seal`` puts them, not a byte of the rest changes.

    Raises:
        InputError: it has the checksum of another file.
    """
    seal = model_file.Seal.of(data)
    body = data[: seal.body]
    proto = onnx.load_from_string(body)
    entries = [(entry.key, entry.value) for entry in proto.metadata_props]
    made = dict(entry for entry in entries if entry[0] in _TRAILER_KEYS)
    if made:
        del proto.metadata_props[:]
        for key, value in entries:
            if key not in _TRAILER_KEYS:
                proto.metadata_props.add(key=key, value=value)
        body = proto.SerializeToString(deterministic=True)
    stated = made.get(model_file.CHECKSUM)
    if not seal.has_checksum and stated is not None and stated != hashlib.sha256(body).hexdigest():
        raise InputError("it is damaged: its bytes do not have the checksum that stands in it")
    return body


def _describe(proto: onnx.ModelProto, contract: Contract) -> None:
    del proto.metadata_props[:]
    for key, value in sorted(contract.to_metadata().items()):
        proto.metadata_props.add(key=key, value=value)
