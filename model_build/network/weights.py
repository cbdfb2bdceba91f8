"""Loads a Keras MobileNetV2, Keras's own or ours, with ImageNet's weights, random ones or those of a file."""

import hashlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import keras

from model_build.errors import InputError, WeightsUnavailable
from model_build.network import keras_file, keras_model
from model_build.network.architecture import LAYOUTS, REFERENCE, SIZES, WIDTHS, plan

IMAGENET_CLASSES: Final = 1000

#: Seconds of silence from a download server before it counts as unreachable.
_NETWORK_TIMEOUT_S: Final = 30


class Classifier(Protocol):
    """What is asked of a model, which is Keras's, or used as one of Keras's."""

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """``(None, H, W, C)``."""

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        """``(None, classes)``, perhaps with sides of 1 around."""

    def __call__(self, pixels: Any, *, training: bool) -> Any:
        """The output for ``float32 [N, H, W, C]``."""

    def count_params(self) -> int:
        """Number of trained values."""


@dataclass(frozen=True)
class Source:
    """A Keras model and where it came from.

    Attributes:
        model: takes ``[batch, H, W, 3]``, or 1 channel of grey.
        origin: for the contract: ``imagenet``, ``none`` or the file's name.
        sha256: of the weights file; None for ``none``.
        architecture: ``keras``, a key of ``LAYOUTS``, or ``file`` where a whole model brought its own.
        training: for the contract: what was done to the weights here; empty if nothing.
        framework: what runs the model, ``Keras`` or ``ONNX``.
    """

    model: Classifier
    origin: str
    sha256: str | None
    architecture: str
    training: Mapping[str, Any] = field(default_factory=dict)
    framework: str = "Keras"


def load(
    weights: str,
    alpha: float,
    input_size: int | None,
    classes: int | None,
    architecture: str | None = None,
    head: str | None = None,
) -> Source:
    """Loads a model.

    Args:
        weights: ``imagenet``, ``none`` or a path: a whole model (``.keras``, ``.h5``, also of Keras 2, or a SavedModel
            folder, or ``.tflite``), or bare weights (``.weights.h5``, or an ``.h5`` without a model in it) for the
            MobileNetV2 that the other arguments describe.
        alpha: width multiplier; for everything but a whole model.
        input_size: side of the input in pixels; None means 224, or a whole model's own.
        classes: number of classes; None means 1000, or a whole model's own.
        architecture: ``keras`` (keras.applications) or a key of ``LAYOUTS`` (``keras_model``); None means ``keras``, or
            a whole model's own.
        head: the output that is wanted, where a whole model has several.

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
    if not path.exists():
        raise InputError(f"--weights: there is no file {path} (or use 'imagenet' or 'none')")
    form = _kind_of(path)
    if form == "weights":
        return Source(_bare_weights(path, kind, alpha, size, count), path.name, sha256(path), kind)
    if architecture is not None:
        raise InputError(f"{path} is a whole model and brings its own architecture; leave --architecture out")
    model = _whole_model(path, form, input_size, head)
    if classes and model.output_shape[-1] not in (classes, 1):
        raise InputError(f"{path} has {model.output_shape[-1]} classes; --classes says {classes}")
    return Source(model, path.absolute().name, sha256(path), "file", framework="ONNX" if form == "tflite" else "Keras")


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
    return Source(model, "imagenet", sha256(cached), architecture)


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


def _kind_of(path: Path) -> str:
    try:
        return keras_file.kind_of(path)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"--weights: {path} cannot be read: {keras_file.reason(error)}") from error


def _bare_weights(path: Path, architecture: str, alpha: float, size: int, classes: int) -> keras.Model:
    model = _mobilenet(architecture, alpha, size, classes)
    try:
        keras_file.load_weights(model, path)
    except Exception as error:
        raise InputError(
            f"{path} does not fit a MobileNetV2 with --architecture {architecture}, --alpha {alpha}, --input-size "
            f"{size} and --classes {classes}: {keras_file.reason(error)}"
        ) from error
    return model


def _whole_model(path: Path, kind: str, input_size: int | None, head: str | None) -> Classifier:
    model: Classifier
    if kind == "tflite":
        from model_build.network.tflite import TfliteModel

        model = TfliteModel(path, head, input_size)
    elif kind == "saved_model":
        from model_build.network.saved_model import SavedModel

        model = SavedModel(path, head)
    else:
        model = keras_file.load(path, kind, head)
    shapes = model.input_shape
    if len(shapes) != 4 or shapes[3] not in (1, 3):
        raise InputError(
            f"{path} takes {shapes}; a model of one picture, [batch, H, W, 3] or grey [batch, H, W, 1], is expected"
        )
    if None in shapes[1:3] and input_size is None:
        reason = keras_file.unlike_the_service(model) if isinstance(model, keras.Model) else None
        if reason:
            raise InputError(f"{path} takes pictures of any size: {reason}. --input-size PIXELS accepts that")
        if not isinstance(model, keras.Model) or keras_file.geometry(model) is None:
            raise InputError(f"{path} takes pictures of any size; say which with --input-size")
    if input_size is not None and any(side not in (None, input_size) for side in shapes[1:3]):
        raise InputError(f"{path} takes {shapes[1]}x{shapes[2]} pictures; --input-size says {input_size}")
    return model


def sha256(path: Path) -> str:
    """Of a file; of a folder, over the names and bytes of all its files."""
    digest = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]:
        if path.is_dir():
            digest.update(str(file.relative_to(path)).encode())
        with file.open("rb") as opened:
            for block in iter(lambda: opened.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()
