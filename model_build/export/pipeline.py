"""The export: a classifier of Keras or ONNX to the files that the service loads, each checked before it is written."""

import platform
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, Final

from model_build.network import weights  # first: it sets TensorFlow's environment

# isort: split
import numpy as np
import onnx
import tensorflow as tf

from app.inference.contract import Contract, Golden
from app.inference.imaging import Resize
from app.runtime.memory import trim_heap
from model_build.dataset import groups, intervals, labels, photos
from model_build.dataset.labels import Labels
from model_build.dataset.photos import Photos
from model_build.errors import InputError, reason
from model_build.export import class_activation_map, division, graph, novelty, parity, publish, quantize
from model_build.export.convert import COMMON, Converted, Pixels, convert
from model_build.export.division import Division
from model_build.export.novelty import Refusal
from model_build.export.parity import Int8Limits, Parity
from model_build.export.preprocessing import PIXEL_RANGES, Affine
from model_build.network import keras_file
from model_build.network.architecture import LAYOUTS
from model_build.network.onnx_model import OnnxModel
from model_build.network.tflite import TfliteModel
from model_build.network.weights import Source

#: Photos that calibrate at most; each costs about a tenth of a second, twice.
CALIBRATION_PHOTOS: Final = 200
_GENERATED_PHOTOS: Final = 64
#: Pictures that TensorFlow Lite's interpreter is asked about; it takes one at a time.
_COMPARED_PHOTOS: Final = 24
#: Labelled photos that ranges of pixels are tried on at most.
_TRIED_PHOTOS: Final = 100
_TOOLS: Final = ("keras", "tensorflow-cpu", "tf2onnx", "onnx", "onnxruntime", "numpy", "pillow")

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
    onnx: Path | None
    head: str | None
    layout: str
    architecture: str | None
    alpha: float
    input_size: int | None
    classes: int | None
    multi_label: bool
    threshold: float
    labels: Path | None
    groups: Path | None
    precision: str
    photos: Path | None
    evaluation: Path | None
    known: Path | None
    foreign: Path | None
    refuse: float
    pixels: Pixels | None
    fit: str | None
    crop: float | None
    filter: str | None
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
        pixels: what the model was trained on; None: see ``convert``.
        temperature: what its logits have been divided by.
        unknown_below: see ``contract.Contract``.
    """

    precision: str
    limits: Int8Limits
    output: Path
    name: str
    version: str | None = None
    pixels: Pixels | None = None
    temperature: float = 1.0
    unknown_below: float = 0.0


@dataclass(frozen=True, slots=True)
class Exported:
    """One file that was written."""

    path: Path
    contract: Contract
    parity: Parity


def gptq(photos: Photos, track: Track) -> Quantizer:
    """Quantization by GPTQ, calibrated on photos."""

    def quantizer(fp32: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, Any]]:
        pixels = photos.for_calibration(CALIBRATION_PHOTOS)
        try:
            made = quantize.quantize(fp32, pixels, lambda it: track(it, "Calibrating int8"))
        except Exception as error:
            # Whatever ONNX Runtime's quantizer makes of a graph that it has not been tried with.
            raise InputError(
                f"no int8 model can be made of this graph: {reason(error)}. --precision fp32 does without"
            ) from error
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
    if (request.known or request.foreign) and request.photos is None:
        raise InputError("--known and --foreign need photos of all sorts beside them; say where with --calibration DIR")
    publish.check_writable(request.output)
    labels_given = labels.read(request.labels) if request.labels is not None else None
    source = _load(request, say)
    resize = _geometry(request, source)
    name = publish.checked_name(request.name or _default_name(request, source, resize.height))
    converted = convert(
        source.model,
        resize.height,
        resize.width,
        request.pixels or _known_pixels(source),
        multi_label=request.multi_label,
    )
    if isinstance(source.model, TfliteModel):
        _say_difference(source.model, converted, resize, say)
    several = converted.output.independent
    if several:
        say(f"The scores are independent (multi-label): a photo shows every class from {request.threshold:g} on")
    say(f"Pixels: {converted.pixels.text}{', which is assumed' if converted.pixels.assumed else ''}")
    names = groups.fill(_labels(labels_given, source, converted, say), request.groups)
    quantizer, refusal, precision = None, None, _precision(request.precision, converted, say)
    if request.photos is None:
        say("No --calibration DIR with photos: no int8 model is made, and parity is checked on generated pictures")
        evaluation = photos.generated(_GENERATED_PHOTOS, resize)
    else:
        # To random weights all photos look alike.
        judge = None if source.origin == "none" else converted.fp32
        divided = _divided(request.photos, request.evaluation, judge, resize, names, track, say)
        evaluation, quantizer = divided.evaluation, quantization(divided, resize, track)
        # Of several labels, or none, the scores say by themselves when it is none.
        refusal = None if several else _refusal(request, divided, resize, names, track, say)
        _propose_pixels(source, converted, divided.learning, say)
        # Thousands of photos, of which only the quantizer knows how many it still needs.
        del divided
    target = Target(
        precision=precision,
        limits=request.limits,
        output=request.output,
        name=name,
        version=request.version,
        pixels=request.pixels,
        unknown_below=request.threshold if several else 0.0,
    )
    return publish_checked(source, names, resize, evaluation, quantizer, target, track, converted, refusal)


def publish_checked(
    source: Source,
    names: Labels,
    resize: Resize,
    evaluation: Photos,
    quantizer: Quantizer | None,
    target: Target,
    track: Track,
    converted: Converted | None = None,
    refusal: Refusal | None = None,
) -> list[Exported]:
    """Converts, checks, quantizes, checks, and only then publishes.

    Args:
        source: the classifier.
        names: of its classes.
        resize: the geometry that it is served with.
        evaluation: to compare on, and to measure the accuracy on where they have classes; the quantizer knows none.
        quantizer: makes int8; None where only fp32 is wanted.
        target: what to make of it.
        track: ``track(iterable, description)`` shows progress.
        converted: what ``convert`` made of the model, where that is known already.
        refusal: by which photos the files learn what to refuse; None: they compute no novelty.

    Returns:
        The files written, fp32 first.

    Raises:
        BuildError: as its subclasses say; no model file has been written or changed then.
    """
    with tempfile.TemporaryDirectory() as folder:
        converted = converted or convert(
            source.model, resize.height, resize.width, target.pixels or _known_pixels(source)
        )
        fp32 = converted.fp32
        if len(names.labels) != converted.output.classes:
            raise InputError(
                f"there are {len(names.labels)} labels, but the model has {converted.output.classes} classes"
            )
        served = novelty.refusing(class_activation_map.add(fp32), refusal, lambda it: track(it, "Novelty, fp32"))
        draft = served.contract(_initial_contract(served.proto, source, names, resize, target, converted))
        model, draft = publish.with_golden(served.proto, draft, Path(folder))
        threshold = target.unknown_below if converted.output.independent else None
        expected = parity.source_scores(
            source.model,
            converted.output,
            converted.pixels.map,
            evaluation.pixels,
            lambda it: track(it, f"Scores by the {source.framework} model"),
        )
        scores = parity.onnx_scores(model, evaluation.pixels, lambda it: track(it, "Scores by ONNX fp32"))
        # What TensorFlow has used and freed would else stay with this process while int8 is made.
        trim_heap()
        fp32_parity = parity.compare(source.framework.lower(), scores, expected, evaluation, threshold)
        parity.check_source(fp32_parity, coarse=converted.coarse)
        made = [(served.proto, draft, fp32_parity)]
        if quantizer is not None and target.precision != "fp32":
            quantized, how = quantizer(fp32)
            int8 = novelty.refusing(class_activation_map.add(quantized), refusal, lambda it: track(it, "Novelty, int8"))
            contract = int8.contract(
                replace(
                    draft,
                    precision="int8",
                    version=target.version or graph.digest(int8.proto)[:12],
                    provenance={**draft.provenance, "quantization": how},
                )
            )
            model, contract = publish.with_golden(int8.proto, contract, Path(folder), draft.golden.photo)
            int8_scores = parity.onnx_scores(model, evaluation.pixels, lambda it: track(it, "Scores by ONNX int8"))
            int8_parity = parity.compare("fp32", int8_scores, scores, evaluation, threshold)
            parity.check_int8(int8_parity, target.limits)
            made.append((int8.proto, contract, int8_parity))
    if target.precision == "int8":
        made = made[1:]
    exported = []
    for proto, contract, found in made:
        complete = replace(contract, measured={**found.as_metadata(), **contract.measured})
        exported.append(Exported(publish.publish(proto, complete, target.output), complete, found))
    return exported


def _load(request: Request, say: Callable[[str], None]) -> Source:
    if request.onnx is not None:
        say(f"Loading {request.onnx}")
        if not request.onnx.is_file():
            raise InputError(f"--onnx: there is no file {request.onnx}")
        model = OnnxModel(request.onnx, request.head, request.layout, request.input_size)
        return Source(model, request.onnx.name, weights.sha256(request.onnx), "file", framework="ONNX")
    known = request.weights in ("imagenet", "none")
    say(f"Loading MobileNetV2, weights: {request.weights}" if known else f"Loading {request.weights}")
    return weights.load(
        request.weights, request.alpha, request.input_size, request.classes, request.architecture, request.head
    )


def _geometry(request: Request, source: Source) -> Resize:
    """How photos become the model's input: as the command says, else as the model's own first layers do."""
    height, width = (side or request.input_size for side in source.model.input_shape[1:3])
    own: Resize | None = None
    if height is None or width is None:
        own = keras_file.geometry(source.model)
    if own is not None:
        keras_file.leave_geometry_out(source.model)
        height, width = own.height, own.width
    fit = request.fit or (own.fit if own else "crop")
    crop = request.crop
    if crop is None:
        crop = own.crop if own and fit == own.fit else 0.875 if fit == "crop" else 1.0
    return Resize(int(height or 0), int(width or 0), crop, request.filter or (own.filter if own else "bilinear"), fit)


def _labels(given: Labels | None, source: Source, converted: Converted, say: Callable[[str], None]) -> Labels:
    output = converted.output
    if given is not None:
        if len(given.labels) != output.classes:
            raise InputError(f"--labels has {len(given.labels)} labels, the model {output.classes} classes")
        return given
    if source.origin == "imagenet":
        return labels.imagenet()
    if output.pooled:
        raise InputError(
            f"the model ends in pooling and gives {output.units} features, but no classes: it has no head. Train one "
            "(`python -m model_build train`, or `teach`); if these are its classes, name them with --labels"
        )
    if isinstance(source.model, OnnxModel) and source.model.labels is not None:
        say("No --labels given: the classes are called as the file says")
        return labels.of_lines(source.model.labels)
    say("No --labels given: classes are called 'class 0', 'class 1', ...")
    return labels.numbered(output.classes)


def _known_pixels(source: Source) -> Pixels | None:
    """What Keras's own weights and those that were trained here take; None for others."""
    if source.origin == "imagenet" or source.training:
        return Pixels(PIXEL_RANGES["-1..1"], "-1..1, as keras.applications.mobilenet_v2 takes them")
    return None


def _propose_pixels(source: Source, converted: Converted, pictures: Photos, say: Callable[[str], None]) -> None:
    """Says so where labelled photos fit another range of pixels better than the one that is assumed."""
    if not (converted.pixels.assumed and pictures.labelled) or converted.output.independent:
        return
    if source.model.input_shape[-1] != 3:
        return
    count = min(_TRIED_PHOTOS, len(pictures.pixels))
    chosen = np.linspace(0, len(pictures.pixels) - 1, count).round().astype(int)

    def right(prepare: Affine) -> int:
        scores = parity.source_scores(source.model, converted.output, prepare, pictures.pixels[chosen])
        return int((scores.argmax(axis=1) == pictures.classes[chosen]).sum())

    assumed = right(converted.pixels.map)
    found = {option: right(prepare) for option, prepare in COMMON.items()}
    best = max(found, key=lambda option: found[option])
    if intervals.wilson(found[best], count)[0] > assumed / count:
        say(
            f"Of {count} labelled photos {assumed} are right with the pixels that are assumed, but {found[best]} with "
            f"{best}. If that is what the model was trained on, say so"
        )


def _say_difference(model: TfliteModel, converted: Converted, resize: Resize, say: Callable[[str], None]) -> None:
    """How far what is computed here is from what TensorFlow Lite's own interpreter computes."""
    prepared = converted.pixels.map.apply(photos.generated(_COMPARED_PHOTOS, resize).pixels)
    own, theirs = model(prepared), model.by_interpreter(prepared)
    if converted.output.kind == "logits":
        own, theirs = converted.output.scores(own), converted.output.scores(theirs)
    largest, same = np.abs(own - theirs).max(), int((own.argmax(axis=1) == theirs.argmax(axis=1)).sum())
    if not model.quantized and largest > parity.MAX_DIFFERENCE:
        raise InputError(f"TensorFlow Lite's own interpreter gives other scores, by up to {largest:.2g}")
    steps = "; the file's rounding between layers is undone" if model.quantized else ""
    say(
        f"Beside TensorFlow Lite's interpreter, on {_COMPARED_PHOTOS} generated pictures: scores within {largest:.1e}, "
        f"top-1 the same on {same}{steps}"
    )


def _precision(wanted: str, converted: Converted, say: Callable[[str], None]) -> str:
    """What can be made of what is wanted: ``fp32`` alone where nothing is to be quantized here."""
    if converted.quantized:
        say("The model is quantized already: it is written as it is, as int8")
        return "fp32"
    reason = quantize.unsupported(converted.fp32) if wanted != "fp32" else None
    if reason is None:
        return wanted
    if wanted == "int8":
        raise InputError(f"no int8 model can be made: {reason}; --precision fp32 does without")
    say(f"No int8 model is made: {reason}")
    return "fp32"


def _read(folder: Path, resize: Resize, names: Labels, track: Track, say: Say) -> Photos:
    found = photos.read(folder, resize, names, lambda it: track(it, "Decoding photos"))
    for line in found.skipped:
        say(f"Skipped {line}")
    return found


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
    given = _read(folder, resize, names, track, say)
    others = None if evaluation is None else _read(evaluation, resize, names, track, say)
    made = division.divide(fp32, given, others, lambda it: track(it, "Finding near-duplicates"))
    say(f"{len(made.learning.pixels)} photos to make int8 with, {len(made.evaluation.pixels)} held out to measure on")
    if made.alike:
        say(
            "All photos look nearly the same to this network, so int8 is made with photos like those that are held "
            "out: for other scenes the figures are too good. --evaluation DIR brings others"
        )
    return made


def _refusal(
    request: Request, divided: Division, resize: Resize, names: Labels, track: Track, say: Say
) -> Refusal | None:
    """By which photos the model learns what to refuse; None, with a line that says why, where they are too few."""
    known = divided.evaluation if request.known is None else _read(request.known, resize, names, track, say)
    foreign = None if request.foreign is None else _read(request.foreign, resize, names, track, say).pixels
    typical = divided.learning.select(divided.distinct).pixels
    refusal = Refusal.of(typical, divided.learning.pixels, known.pixels, foreign, request.refuse)
    if refusal is None:
        say(
            f"The models will never say unknown: there are fewer than {novelty.FEWEST} photos of what they know that "
            "they have not learned from; give more with --known DIR"
        )
    return refusal


def _default_name(request: Request, source: Source, size: int) -> str:
    if source.origin in ("imagenet", "none"):
        layout = f"_{source.architecture}" if source.architecture in LAYOUTS else ""
        return f"mobilenet_v2{layout}_{request.alpha}_{size}"
    return re.sub(r"(?i)(\.weights\.h5|\.(h5|hdf5|keras|onnx|tflite|zip))$", "", source.origin)


def _initial_contract(
    fp32: onnx.ModelProto, source: Source, names: Labels, resize: Resize, target: Target, converted: Converted
) -> Contract:
    """The contract before anything was measured."""
    pixels = converted.pixels
    return Contract(
        name=target.name,
        version=target.version or graph.digest(fp32)[:12],
        precision="int8" if converted.quantized else "fp32",
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
            "pixels": f"{pixels.text} (assumed)" if pixels.assumed else pixels.text,
            **({"quantization": {"method": "as the file came"}} if converted.quantized else {}),
            **({"training": dict(source.training)} if source.training else {}),
            "tools": {"python": platform.python_version()} | {tool: _installed(tool) for tool in _TOOLS},
        },
        groups=names.groups,
        multi_label=converted.output.independent,
    )


def _installed(tool: str) -> str:
    # TensorFlow goes by another name where there is no -cpu build.
    try:
        return installed(tool)
    except ModuleNotFoundError:
        return tf.__version__ if tool == "tensorflow-cpu" else "unknown"
