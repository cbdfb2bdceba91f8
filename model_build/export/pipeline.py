"""The export: a Keras classifier to the ONNX files that the service loads, each checked before it is written."""

import platform
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, Final, NamedTuple

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
from model_build.export import class_activation_map, division, graph, parity, publish, quantize
from model_build.export.division import Division
from model_build.export.graph import Affine
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
Say = Callable[[str], None]
#: Makes an int8 graph of an exported fp32 one, and says how, for the contract.
Quantizer = Callable[[onnx.ModelProto], tuple[onnx.ModelProto, dict[str, Any]]]
#: Makes a quantizer of the photos that it may learn from, and the geometry that they are served with.
Quantization = Callable[[Division, Resize, Track], Quantizer]


@dataclass(frozen=True, slots=True)
class Request:
    """What to export. The fields are the command line's options; see ``python -m model_build export --help``.

    ``photos`` is the folder of ``--calibration`` or of ``--distill``.
    """

    weights: str
    architecture: str | None
    alpha: float
    input_size: int | None
    classes: int | None
    labels: Path | None
    groups: Path | None
    precision: str
    photos: Path | None
    evaluation: Path | None
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


class Converted(NamedTuple):
    """A Keras classifier in our form of graph.

    Attributes:
        fp32: without metadata.
        before: what has to be done to pixels before the Keras model sees them.
        classes: how many.
    """

    fp32: onnx.ModelProto
    before: Affine
    classes: int


def gptq(photos: Photos, track: Track) -> Quantizer:
    """Quantization by GPTQ, calibrated on photos."""

    def quantizer(fp32: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, Any]]:
        pixels = photos.for_calibration(CALIBRATION_PHOTOS)
        made = quantize.quantize(fp32, pixels, lambda it: track(it, "Calibrating int8"))
        return made, {"method": "gptq", "calibration_photos": len(pixels)}

    return quantizer


def calibrate(divided: Division, _resize: Resize, track: Track) -> Quantizer:
    """The quantization of those who do not distil: GPTQ on one of each cluster of near-duplicates."""
    return gptq(divided.learning.select(divided.distinct), track)


def export(request: Request, quantization: Quantization, track: Track, say: Say) -> list[Exported]:
    """Loads, converts, checks, quantizes, checks, and only then publishes.

    Args:
        request: what to do.
        quantization: how int8 is made.
        track: ``track(iterable, description)`` shows progress.
        say: prints a line.

    Returns:
        The files written, fp32 first.

    Raises:
        BuildError: as its subclasses say; no model file has been written or changed then.
    """
    if request.precision == "int8" and request.photos is None:
        raise InputError("int8 needs photos; say where with --calibration DIR or --distill DIR")
    if request.evaluation is not None and request.photos is None:
        raise InputError("--evaluation is to measure int8 on, which needs --calibration DIR or --distill DIR")
    say(f"Loading MobileNetV2, weights: {request.weights}")
    source = weights.load(request.weights, request.alpha, request.input_size, request.classes, request.architecture)
    height, width = (int(side or request.input_size or 0) for side in source.model.input_shape[1:3])
    resize = Resize(height, width, request.crop, request.filter, request.fit)
    names = groups.fill(_labels(request, source, say), request.groups)
    name = publish.checked_name(request.name or _default_name(request, source, height))
    converted, quantizer = None, None
    if request.photos is None:
        say("No --calibration DIR with photos: no int8 model is made, and parity is checked on generated pictures")
        evaluation = photos.generated(_GENERATED_PHOTOS, resize)
    else:
        converted = convert(source.model, height, width, request.pixel_range)
        # To random weights all photos look alike.
        judge = None if source.origin == "none" else converted.fp32
        divided = _divided(request.photos, request.evaluation, judge, resize, names, track, say)
        evaluation, quantizer = divided.evaluation, quantization(divided, resize, track)
        # Thousands of photos, of which only the quantizer knows how many it still needs.
        del divided
    target = Target(
        precision=request.precision,
        limits=request.limits,
        output=request.output,
        name=name,
        version=request.version,
        pixel_range=request.pixel_range,
    )
    return publish_checked(source, names, resize, evaluation, quantizer, target, track, converted)


def publish_checked(
    source: Source,
    names: Labels,
    resize: Resize,
    evaluation: Photos,
    quantizer: Quantizer | None,
    target: Target,
    track: Track,
    converted: Converted | None = None,
) -> list[Exported]:
    """Converts, checks, quantizes, checks, and only then publishes.

    Args:
        source: the Keras model.
        names: of its classes.
        resize: the geometry that it is served with.
        evaluation: to compare on, and to measure the accuracy on where they have classes; the quantizer knows none.
        quantizer: makes int8; None where only fp32 is wanted.
        target: what to make of it.
        track: ``track(iterable, description)`` shows progress.
        converted: what ``convert`` made of the model, where that is known already.

    Returns:
        The files written, fp32 first.

    Raises:
        BuildError: as its subclasses say; no model file has been written or changed then.
    """
    with tempfile.TemporaryDirectory() as folder:
        converted = converted or convert(source.model, resize.height, resize.width, target.pixel_range)
        fp32 = converted.fp32
        if len(names.labels) != converted.classes:
            raise InputError(f"there are {len(names.labels)} labels, but the model has {converted.classes} classes")
        served = class_activation_map.add(fp32)
        draft = _initial_contract(served, source, names, resize, target)
        model, draft = publish.with_golden(served, draft, Path(folder))
        expected = parity.keras_scores(
            source.model, converted.before, evaluation.pixels, lambda it: track(it, "Scores by Keras")
        )
        scores = parity.onnx_scores(model, evaluation.pixels, lambda it: track(it, "Scores by ONNX fp32"))
        fp32_parity = parity.compare("keras", scores, expected, evaluation)
        parity.check_fp32(fp32_parity)
        made = [(served, draft, fp32_parity)]
        if quantizer is not None and target.precision != "fp32":
            quantized, how = quantizer(fp32)
            int8 = class_activation_map.add(quantized)
            contract = replace(
                draft,
                precision="int8",
                version=target.version or graph.digest(int8)[:12],
                provenance={**draft.provenance, "quantization": how},
            )
            model, contract = publish.with_golden(int8, contract, Path(folder), draft.golden.photo)
            int8_scores = parity.onnx_scores(model, evaluation.pixels, lambda it: track(it, "Scores by ONNX int8"))
            int8_parity = parity.compare("fp32", int8_scores, scores, evaluation)
            parity.check_int8(int8_parity, target.limits)
            made.append((int8, contract, int8_parity))
    if target.precision == "int8":
        made = made[1:]
    exported = []
    for proto, contract, found in made:
        complete = replace(contract, measured=found.as_metadata())
        exported.append(Exported(publish.publish(proto, complete, target.output), complete, found))
    return exported


def convert(model: keras.Model, height: int, width: int, pixel_range: str = "auto") -> Converted:
    """Converts a Keras classifier to our form of graph.

    Args:
        model: takes ``float32 [batch, height, width, 3]``.
        height: rows of the input.
        width: columns of the input.
        pixel_range: a key of ``PIXEL_RANGES``, or ``auto``: 0..255 for a model that has preprocessing layers of its
            own, -1..1 (keras.applications.mobilenet_v2.preprocess_input) for one that has none.
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
    return Converted(proto, before, classes)


def _labels(request: Request, source: Source, say: Say) -> Labels:
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


def _divided(
    folder: Path,
    evaluation: Path | None,
    fp32: onnx.ModelProto | None,
    resize: Resize,
    names: Labels,
    track: Track,
    say: Say,
) -> Division:
    """The photos of one or two folders, by what they are for; ``fp32`` says which are nearly the same."""

    def read(source: Path) -> Photos:
        found = photos.read(source, resize, names, lambda it: track(it, "Decoding photos"))
        for line in found.skipped:
            say(f"Skipped {line}")
        return found

    given = read(folder)
    others = None if evaluation is None else read(evaluation)
    made = division.divide(fp32, given, others, lambda it: track(it, "Finding near-duplicates"))
    say(f"{len(made.learning.pixels)} photos to make int8 with, {len(made.evaluation.pixels)} held out to measure on")
    return made


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
