"""A graph and its contract become one file: complete from the moment it has a model's name."""

import os
from dataclasses import replace
from pathlib import Path

import onnx

from app.contract import Contract
from app.model import Model
from model_build import golden
from model_build.errors import InputError


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
    _write(proto, contract, path)
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
    try:
        output.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            _write(proto, contract, partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}") from error
    return path


def _write(proto: onnx.ModelProto, contract: Contract, path: Path) -> None:
    del proto.metadata_props[:]
    for key, value in sorted(contract.to_metadata().items()):
        proto.metadata_props.add(key=key, value=value)
    path.write_bytes(proto.SerializeToString(deterministic=True))
