"""Loads a Keras MobileNetV2, Keras's own or ours, with ImageNet's weights, random ones or those of a file."""

import hashlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import h5py
import keras

from model_build.errors import InputError, WeightsUnavailable
from model_build.network import keras_model
from model_build.network.architecture import LAYOUTS, REFERENCE, SIZES, WIDTHS, plan

IMAGENET_CLASSES: Final = 1000

#: Seconds of silence from a download server before it counts as unreachable.
_NETWORK_TIMEOUT_S: Final = 30


@dataclass(frozen=True)
class Source:
    """A Keras model and where it came from.

    Attributes:
        model: takes ``[batch, H, W, 3]``.
        origin: for the contract: ``imagenet``, ``none`` or the file's name.
        sha256: of the weights file; None for ``none``.
        architecture: ``keras``, a key of ``LAYOUTS``, or ``file`` where a whole model brought its own.
        training: for the contract: what was done to the weights here; empty if nothing.
    """

    model: keras.Model
    origin: str
    sha256: str | None
    architecture: str
    training: Mapping[str, Any] = field(default_factory=dict)


def load(
    weights: str, alpha: float, input_size: int | None, classes: int | None, architecture: str | None = None
) -> Source:
    """Loads a model.

    Args:
        weights: ``imagenet``, ``none`` or a path: a whole model (``.keras``, ``.h5``, also of Keras 2), or bare
            weights (``.weights.h5``, or an ``.h5`` without a model in it) for the MobileNetV2 that the other
            arguments describe.
        alpha: width multiplier; for everything but a whole model.
        input_size: side of the input in pixels; None means 224, or a whole model's own.
        classes: number of classes; None means 1000, or a whole model's own.
        architecture: ``keras`` (keras.applications) or a key of ``LAYOUTS`` (``keras_model``); None means ``keras``, or
            a whole model's own.

    Raises:
        InputError: the arguments contradict each other, or the file is not usable.
        WeightsUnavailable: ImageNet weights are neither cached nor downloadable.
    """
    keras.utils.set_random_seed(0)
    kind, size, count = architecture or "keras", input_size or 224, classes or IMAGENET_CLASSES
    if weights == "imagenet":
        return _imagenet(kind, alpha, size, count)
    if weights == "none":
        return Source(_mobilenet(kind, alpha, size, count), "none", None, kind)
    path = Path(weights)
    if not path.is_file():
        raise InputError(f"--weights: there is no file {path} (or use 'imagenet' or 'none')")
    if path.name.endswith(".keras") or (path.suffix == ".h5" and _holds_a_model(path)):
        if architecture is not None:
            raise InputError(f"{path} is a whole model and brings its own architecture; leave --architecture out")
        model, kind = _whole_model(path, input_size), "file"
        if classes and model.output_shape[-1] not in (classes, 1):
            raise InputError(f"{path} has {model.output_shape[-1]} classes; --classes says {classes}")
    elif path.suffix == ".h5":
        model = _bare_weights(path, kind, alpha, size, count)
    else:
        raise InputError(f"{path} is not a Keras file; .keras, .h5 and .weights.h5 are read")
    return Source(model, path.name, _sha256(path), kind)


def cache() -> Path:
    """Where Keras keeps the weights and class index that it downloads."""
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "models"


def _imagenet(architecture: str, alpha: float, size: int, classes: int) -> Source:
    if architecture not in ("keras", REFERENCE.name):
        raise InputError(
            f"ImageNet weights do not fit --architecture {architecture}, whose layers have other shapes; use --weights "
            f"none or a file, or --architecture {REFERENCE.name}"
        )
    if classes != IMAGENET_CLASSES:
        raise InputError(f"ImageNet weights have {IMAGENET_CLASSES} classes; --classes says {classes}")
    if alpha not in WIDTHS or size not in SIZES:
        raise InputError(
            f"Keras has ImageNet weights for --alpha {', '.join(map(str, WIDTHS))} and --input-size "
            f"{', '.join(map(str, SIZES))}; not for {alpha} at {size}"
        )
    # Keras writes 1.0 as it stands, but 0.5 and 0.75 as Python prints them.
    name = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{float(alpha)}_{size}.h5"
    cached = cache() / name
    with explain_download_errors(f"ImageNet weights {name}", cached):
        model = keras.applications.MobileNetV2(input_shape=(size, size, 3), alpha=alpha, weights="imagenet")
    if architecture == REFERENCE.name:
        ours = _mobilenet(architecture, alpha, size, classes)
        keras_model.copy_weights(ours, model)
        model = ours
    return Source(model, "imagenet", _sha256(cached), architecture)


class explain_download_errors:  # noqa: N801 - a context manager, named like a function
    """Turns a failed download by Keras into a ``WeightsUnavailable`` that says what was tried and what helps."""

    def __init__(self, what: str, cached: Path) -> None:
        self._what = what
        self._cached = cached
        self._timeout = socket.getdefaulttimeout()

    def __enter__(self) -> None:
        socket.setdefaulttimeout(_NETWORK_TIMEOUT_S)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _traceback: Any) -> None:
        socket.setdefaulttimeout(self._timeout)
        if isinstance(error, Exception) and ("URL fetch failure" in str(error) or isinstance(error, OSError)):
            raise WeightsUnavailable(
                f"{self._what}: not in Keras's cache ({self._cached}), and the download failed: {error}. Copy the file "
                "there from a machine that has it, set KERAS_HOME to a cache that does, or pass a local file with "
                "--weights."
            ) from error


def _mobilenet(architecture: str, alpha: float, size: int, classes: int) -> keras.Model:
    if architecture in LAYOUTS:
        return keras_model.build(plan(LAYOUTS[architecture], alpha, size, classes))
    return keras.applications.MobileNetV2(input_shape=(size, size, 3), alpha=alpha, weights=None, classes=classes)


def _bare_weights(path: Path, architecture: str, alpha: float, size: int, classes: int) -> keras.Model:
    model = _mobilenet(architecture, alpha, size, classes)
    try:
        model.load_weights(path)
    except Exception as error:
        raise InputError(
            f"{path} does not fit a MobileNetV2 with --architecture {architecture}, --alpha {alpha}, --input-size "
            f"{size} and --classes {classes}: {_one_line(error)}"
        ) from error
    return model


def _holds_a_model(path: Path) -> bool:
    try:
        with h5py.File(path) as file:
            return "model_config" in file.attrs
    except OSError as error:
        raise InputError(f"{path} is not a Keras file: {_one_line(error)}") from error


@keras.saving.register_keras_serializable("edge_classifier")
class Keras2Operation(keras.layers.Layer):
    """The arithmetic of ``preprocess_input`` inside a Keras 2 model, which Keras 2 saved as a ``TFOpLambda``."""

    _OPERATIONS: Final = {
        "math.truediv": keras.ops.true_divide,
        "math.divide": keras.ops.true_divide,
        "math.multiply": keras.ops.multiply,
        "math.subtract": keras.ops.subtract,
        "math.add": keras.ops.add,
        "__operators__.add": keras.ops.add,
    }

    def __init__(self, function: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if function not in self._OPERATIONS:
            raise ValueError(f"the model contains the TensorFlow operation {function}, which Keras 3 cannot load")
        self._function = function

    def call(self, x: Any, y: Any = None, name: str | None = None) -> Any:
        """``function(x, y)``."""
        return self._OPERATIONS[self._function](x, y)


def _whole_model(path: Path, input_size: int | None) -> keras.Model:
    try:
        with tempfile.TemporaryDirectory() as folder:
            readable = _as_keras_3(path, Path(folder)) if path.suffix == ".h5" else path
            model = keras.saving.load_model(readable, compile=False, custom_objects={"TFOpLambda": Keras2Operation})
    except Exception as error:
        raise InputError(f"{path} cannot be loaded as a Keras model: {_one_line(error)}") from error
    shapes = model.input_shape
    if isinstance(shapes, list) or len(shapes) != 4 or shapes[3] != 3:
        raise InputError(f"{path} takes {shapes}; a model of one RGB picture [batch, H, W, 3] is expected")
    if None in shapes[1:3] and input_size is None:
        raise InputError(f"{path} takes pictures of any size; say which with --input-size")
    if input_size is not None and any(side not in (None, input_size) for side in shapes[1:3]):
        raise InputError(f"{path} takes {shapes[1]}x{shapes[2]} pictures; --input-size says {input_size}")
    return model


def _as_keras_3(path: Path, folder: Path) -> Path:
    """A copy of an ``.h5`` model whose layers' configurations Keras 3 accepts."""
    copy = folder / path.name
    shutil.copyfile(path, copy)
    with h5py.File(copy, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        _convert_keras_2_config(config)
        file.attrs["model_config"] = json.dumps(config)
    return copy


def _convert_keras_2_config(node: Any) -> None:
    """Turns a model's Keras 2 configuration into one of Keras 3, in place."""
    if isinstance(node, list):
        for item in node:
            _convert_keras_2_config(item)
    elif isinstance(node, dict):
        config = node.get("config")
        if isinstance(config, dict):
            config.pop("rng_type", None)
            if node.get("class_name") == "DepthwiseConv2D":
                config.pop("groups", None)
            if node.get("class_name") == "BatchNormalization" and isinstance(config.get("axis"), list):
                (config["axis"],) = config["axis"]
            # A single input or output stood in a list of its own; Keras 3 would make a list of tensors of it.
            for end in ("input_layers", "output_layers"):
                if isinstance(config.get(end), list) and len(config[end]) == 1:
                    (config[end],) = config[end]
            for layer in config.get("layers", []):
                if layer.get("class_name") == "TFOpLambda":
                    # One list less around an operation's arguments than around a layer's.
                    layer["inbound_nodes"] = [[call] for call in layer["inbound_nodes"]]
            # The call with which a nested model was built is not counted any more.
            nested = {layer["config"]["name"] for layer in config.get("layers", []) if "layers" in layer["config"]}
            for layer in config.get("layers", []):
                calls = [call for call in layer.get("inbound_nodes", []) if isinstance(call, list)]
                for reference in (reference for call in calls for reference in call):
                    if reference[0] in nested and reference[1] > 0:
                        reference[1] -= 1
        for item in node.values():
            _convert_keras_2_config(item)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__
