"""A graph and its contract become one file: complete from the moment it has a model's name."""

import base64
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import onnx

from app import modelfile
from app.contract import Contract
from app.model import Model
from model_build import golden
from model_build.errors import InputError

_MADE: Final = (modelfile.CHECKSUM, modelfile.SIGNATURE)


def with_golden(
    proto: onnx.ModelProto, contract: Contract, folder: Path, photo: bytes | None = None
) -> tuple[Model, Contract]:
    """Loads a model as the service will, and gives its contract the golden sample.

    Args:
        proto: the graph.
        contract: its golden sample is not looked at.
        folder: the model is loaded from a file there.
        photo: the golden picture; None: one is chosen.
    """
    path = folder / f"{contract.precision}.onnx"
    _describe(proto, contract)
    path.write_bytes(proto.SerializeToString(deterministic=True))
    model = Model(path)
    return model, replace(contract, golden=golden.expect(model, photo or golden.choose(model)))


def path_of(contract: Contract, output: Path) -> Path:
    """Where ``publish`` puts a model."""
    return output / f"{contract.name}.{contract.precision}.onnx"


def publish(proto: onnx.ModelProto, contract: Contract, output: Path) -> Path:
    """Writes under a temporary name, then renames: a file with a model's name is always complete.

    Raises:
        InputError: the file cannot be written.
    """
    path = path_of(contract, output)
    _describe(proto, contract)
    replace_file(path, seal(proto))
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


def seal(proto: onnx.ModelProto, sign: Callable[[bytes], bytes] | None = None) -> bytes:
    """The bytes of a model file with its checksum, and its signature where somebody signs.

    Args:
        proto: the model with its metadata; an older checksum and signature are replaced.
        sign: makes a signature of the digest.
    """
    kept = [(entry.key, entry.value) for entry in proto.metadata_props]
    digest, _ = modelfile.digest(proto.SerializeToString(deterministic=True))
    made = {modelfile.CHECKSUM: digest.hex()}
    if sign is not None:
        made[modelfile.SIGNATURE] = base64.b64encode(sign(digest)).decode()
    _set_metadata(proto, {key: value for key, value in kept if key not in _MADE} | made)
    return bytes(proto.SerializeToString(deterministic=True))


def _describe(proto: onnx.ModelProto, contract: Contract) -> None:
    _set_metadata(proto, dict(sorted(contract.to_metadata().items())))


def _set_metadata(proto: onnx.ModelProto, metadata: dict[str, str]) -> None:
    del proto.metadata_props[:]
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=value)
