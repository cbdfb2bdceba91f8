"""The export: a Keras classifier to the ONNX files that the service loads, each checked before it is written."""

import platform
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, Final

from model_build.network import weights  # first: it sets TensorFlow's environment

# isort: split
import keras
import numpy as np
import onnx
import tensorflow as tf
import tf2onnx

from app.inference.contract import Contract, Golden
from app.inference.imaging import Resize
from model_build.dataset import groups, labels, photos
from model_build.dataset.labels import Labels
from model_build.dataset.photos import Photos
from model_build.errors import InputError
from model_build.export import class_activation_map, graph, novelty, parity, publish, quantize
from model_build.export.graph import Affine
from model_build.export.novelty import Refusal
from model_build.export.parity import Int8Limits, Parity
from model_build.network.architecture import LAYOUTS
from model_build.network.weights import Source

#: ONNX operator set; the quantizer's uint8 and int8 operators and everything MobileNetV2 needs are in it.
OPSET: Final = 17
#: Photos that calibrate at most; each costs about a tenth of a second, twice.
CALIBRATION_PHOTOS: Final = 200
_GENERATED_PHOTOS: Final = 64
_TOOLS: Final = ("keras", "tensorflow-cpu", "tf2onnx", "onnx", "onnxruntime", "numpy", "pillow")

#: What a model without preprocessing of its own may have been trained on: pixel values of 0 to 255 as ...
PIXEL_RANGES: Final = {
    "-1..1": Affine(np.full(3, 1 / 127.5), np.full(3, -1.0)),
    "0..1": Affine(np.full(3, 1 / 255), np.zeros(3)),
    "0..255": Affine(np.ones(3), np.zeros(3)),
}

Track = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Request:
    """What to export. The fields are the command line's options; see ``python -m model_build export --help``."""

    weights: str
    architecture: str | None
    alpha: float
    input_size: int | None
    classes: int | None
    labels: Path | None
    groups: Path | None
    precision: str
    calibration: Path | None
    known: Path | None
    foreign: Path | None
    refuse: float
    pixel_range: str
    crop: float
    fit: str
    filter: str
    limits: Int8Limits
    output: Path
    name: str | None
    version: str | None


@dataclass(frozen=True, slots=True)
class Target:
    """What to write, and with which limits.

    Attributes:
        precision: ``fp32``, ``int8`` or ``both``.
        limits: how far int8 may be from fp32.
        output: the folder to write to.
        name: for the contract and the file.
        version: for the contract; None derives it from the graph.
        pixel_range: what the model was trained on, see ``convert``.
        temperature: what its logits have been divided by.
        unknown_below: see ``contract.Contract``.
    """

    precision: str
    limits: Int8Limits
    output: Path
    name: str
    version: str | None = None
    pixel_range: str = "auto"
    temperature: float = 1.0
    unknown_below: float = 0.0


@dataclass(frozen=True, slots=True)
class Exported:
    """One file that was written."""

    path: Path
    contract: Contract
    parity: Parity


def export(request: Request, track: Track, say: Callable[[str], None]) -> list[Exported]:
    """Loads, converts, checks, quantizes, checks, and only then publishes.

    Args:
        request: what to do.
        track: ``track(iterable, description)`` shows progress.
        say: prints a line.

    Returns:
        The files written, fp32 first.

    Raises:
        BuildError: as its subclasses say; no model file has been written or changed then.
    """
    if request.precision == "int8" and request.calibration is None:
        raise InputError("int8 needs photos to calibrate on; say where with --calibration DIR")
    if (request.known or request.foreign) and request.calibration is None:
        raise InputError("--known and --foreign need photos of all sorts beside them; say where with --calibration DIR")
    say(f"Loading MobileNetV2, weights: {request.weights}")
    source = weights.load(request.weights, request.alpha, request.input_size, request.classes, request.architecture)
    height, width = (int(side or request.input_size or 0) for side in source.model.input_shape[1:3])
    resize = Resize(height, width, request.crop, request.filter, request.fit)
    names = groups.fill(_labels(request, source, say), request.groups)
    pictures = _pictures(request.calibration, resize, names, track, say)
    target = Target(
        precision="fp32" if pictures.generated else request.precision,
        limits=request.limits,
        output=request.output,
        name=publish.checked_name(request.name or _default_name(request, source, height)),
        version=request.version,
        pixel_range=request.pixel_range,
    )
    refusal = None if pictures.generated else _refusal(request, pictures, resize, names, track, say)
    return publish_checked(source, names, resize, pictures, pictures, target, track, refusal)


def publish_checked(
    source: Source,
    names: Labels,
    resize: Resize,
    pictures: Photos,
    calibration: Photos,
    target: Target,
    track: Track,
    refusal: Refusal | None = None,
) -> list[Exported]:
    """Converts, checks, quantizes, checks, and only then publishes.

    Args:
        source: the Keras model.
        names: of its classes.
        resize: the geometry that it is served with.
        pictures: to compare on, and to measure the accuracy on where they have classes.
        calibration: to calibrate int8 on.
        target: what to make of it.
        track: ``track(iterable, description)`` shows progress.
        refusal: by which photos the files learn what to refuse; None: they compute no novelty.

    Returns:
        The files written, fp32 first.

    Raises:
        BuildError: as its subclasses say; no model file has been written or changed then.
    """
    with tempfile.TemporaryDirectory() as folder:
        fp32, normalise, classes = convert(source.model, resize.height, resize.width, target.pixel_range)
        if len(names.labels) != classes:
            raise InputError(f"there are {len(names.labels)} labels, but the model has {classes} classes")
        served = novelty.refusing(class_activation_map.add(fp32), refusal, lambda it: track(it, "Novelty, fp32"))
        draft = served.contract(_initial_contract(served.proto, source, names, resize, target))
        model, draft = publish.with_golden(served.proto, draft, Path(folder))
        expected = parity.keras_scores(
            source.model, normalise, pictures.pixels, lambda it: track(it, "Scores by Keras")
        )
        scores = parity.onnx_scores(model, pictures.pixels, lambda it: track(it, "Scores by ONNX fp32"))
        fp32_parity = parity.compare("keras", scores, expected, pictures)
        parity.check_fp32(fp32_parity)
        made = [(served.proto, draft, fp32_parity)]
        if target.precision != "fp32":
            quantized = class_activation_map.add(
                quantize.quantize(
                    fp32, calibration.for_calibration(CALIBRATION_PHOTOS), lambda it: track(it, "Calibrating int8")
                )
            )
            int8 = novelty.refusing(quantized, refusal, lambda it: track(it, "Novelty, int8"))
            version = target.version or graph.digest(int8.proto)[:12]
            contract = int8.contract(replace(draft, precision="int8", version=version))
            model, contract = publish.with_golden(int8.proto, contract, Path(folder), draft.golden.photo)
            int8_scores = parity.onnx_scores(model, pictures.pixels, lambda it: track(it, "Scores by ONNX int8"))
            int8_parity = parity.compare("fp32", int8_scores, scores, pictures)
            parity.check_int8(int8_parity, target.limits)
            made.append((int8.proto, contract, int8_parity))
    if target.precision == "int8":
        made = made[1:]
    exported = []
    for proto, contract, found in made:
        complete = replace(contract, measured={**found.as_metadata(), **contract.measured})
        exported.append(Exported(publish.publish(proto, complete, target.output), complete, found))
    return exported


def convert(
    model: keras.Model, height: int, width: int, pixel_range: str = "auto"
) -> tuple[onnx.ModelProto, Affine, int]:
    """Converts a Keras classifier to our form of graph.

    Args:
        model: takes ``float32 [batch, height, width, 3]``.
        height: rows of the input.
        width: columns of the input.
        pixel_range: a key of ``PIXEL_RANGES``, or ``auto``: 0..255 for a model that has preprocessing layers of its
            own, -1..1 (keras.applications.mobilenet_v2.preprocess_input) for one that has none.

    Returns:
        The ONNX model without metadata, what has to be done to pixels before the Keras model sees them, and the
        number of classes.
    """
    signature = [tf.TensorSpec((None, height, width, 3), tf.float32, name="pixels")]
    # Not from_keras: it looks outputs up by the names of Keras's tensors, which a Sequential model does not keep.
    function = tf.function(lambda pixels: model(pixels, training=False), input_signature=signature)
    proto, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=OPSET)
    graph.fold_shapes(proto)
    graph.fold_pads(proto)
    graph.fold_scales(proto)
    graph.fold_dense(proto)
    own, first = graph.remove_preprocessing(proto)
    if pixel_range == "auto":
        pixel_range = "-1..1" if own.is_identity else "0..255"
    before = PIXEL_RANGES[pixel_range]
    graph.add_image_input(
        proto, first, Affine(before.scale * own.scale, before.shift * own.scale + own.shift), height, width
    )
    classes = graph.add_scores_output(proto)
    graph.canonicalise(proto)
    onnx.checker.check_model(proto, full_check=True)
    return proto, before, classes


def _labels(request: Request, source: Source, say: Callable[[str], None]) -> Labels:
    classes = int(source.model.output_shape[-1])
    # A single unit stands for two classes.
    classes = 2 if classes == 1 else classes
    if request.labels is not None:
        names = labels.read(request.labels)
        if len(names.labels) != classes:
            raise InputError(f"--labels: {request.labels} has {len(names.labels)} labels, the model {classes} classes")
        return names
    if source.origin == "imagenet":
        return labels.imagenet()
    say("No --labels given: classes are called 'class 0', 'class 1', ...")
    return labels.numbered(classes)


def _pictures(folder: Path | None, resize: Resize, names: Labels, track: Track, say: Callable[[str], None]) -> Photos:
    if folder is None:
        say("No --calibration DIR with photos: no int8 model is made, and parity is checked on generated pictures")
        return photos.generated(_GENERATED_PHOTOS, resize)
    pictures = photos.read(folder, resize, names, lambda it: track(it, "Decoding photos"))
    for line in pictures.skipped:
        say(f"Skipped {line}")
    return pictures


def _refusal(
    request: Request, pictures: Photos, resize: Resize, names: Labels, track: Track, say: Callable[[str], None]
) -> Refusal | None:
    """By which photos the model learns what to refuse; None, with a line that says why, where they are too few."""
    known = pictures if request.known is None else _pictures(request.known, resize, names, track, say)
    foreign = None if request.foreign is None else _pictures(request.foreign, resize, names, track, say).pixels
    typical = pictures.for_calibration(CALIBRATION_PHOTOS)
    refusal = Refusal.of(typical, known.pixels, foreign, request.refuse)
    if refusal is None:
        say(
            f"The models will never say unknown: fewer than {novelty.FEWEST} photos of what they know have calibrated "
            "nothing; give more with --known DIR"
        )
    return refusal


def _default_name(request: Request, source: Source, size: int) -> str:
    if source.origin in ("imagenet", "none"):
        layout = f"_{source.architecture}" if source.architecture in LAYOUTS else ""
        return f"mobilenet_v2{layout}_{request.alpha}_{size}"
    return source.origin.removesuffix(".h5").removesuffix(".weights").removesuffix(".keras")


def _initial_contract(fp32: onnx.ModelProto, source: Source, names: Labels, resize: Resize, target: Target) -> Contract:
    """The contract before anything was measured."""
    return Contract(
        name=target.name,
        version=target.version or graph.digest(fp32)[:12],
        precision="fp32",
        labels=names.labels,
        ids=names.ids,
        resize=resize,
        temperature=target.temperature,
        unknown_below=target.unknown_below,
        golden=Golden(b"", {0: 0.0}, 0.0),
        multiply_adds=graph.multiply_adds(fp32),
        parameters=int(source.model.count_params()),
        provenance={
            "weights": source.origin,
            "weights_sha256": source.sha256,
            "architecture": source.architecture,
            **({"training": dict(source.training)} if source.training else {}),
            "tools": {"python": platform.python_version()} | {tool: _installed(tool) for tool in _TOOLS},
        },
        groups=names.groups,
    )


def _installed(tool: str) -> str:
    # TensorFlow goes by another name where there is no -cpu build.
    try:
        return installed(tool)
    except ModuleNotFoundError:
        return tf.__version__ if tool == "tensorflow-cpu" else "unknown"
