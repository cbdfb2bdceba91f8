"""A classifier from Keras or from an ONNX file as a graph of our form."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
import onnx.compose
from numpy.typing import NDArray

from app.runtime.memory import trim_heap
from model_build.errors import BuildError, InputError, reason
from model_build.export import graph
from model_build.export.output import Output, add_scores_output
from model_build.export.preprocessing import (
    BGR,
    GREY,
    IMAGENET,
    PIXEL_RANGES,
    Affine,
    add_image_input,
    remove_preprocessing,
)
from model_build.network.onnx_model import OPSET, OnnxModel, in_single_precision
from model_build.network.tflite import TfliteModel
from model_build.network.weights import Classifier


@dataclass(frozen=True, slots=True)
class Pixels:
    """What the pixels were that a model was trained on.

    Attributes:
        map: from pixel values of 0 to 255, RGB, to what the model takes.
        text: in words, for people and for the contract.
        assumed: whether nobody has said so, neither the model nor whoever exports it.
    """

    map: Affine
    text: str
    assumed: bool = False


@dataclass(frozen=True, slots=True)
class Converted:
    """A classifier in our form of graph.

    Attributes:
        fp32: without metadata; int8 where the classifier is quantized already.
        pixels: what has to be done to pixels before the classifier itself sees them.
        output: what the classifier itself puts out.
        quantized: whether it is quantized already.
        coarse: whether the classifier itself rounds so coarsely (quantized, or in half precision) that its scores
            change visibly with the order of its arithmetic.
    """

    fp32: onnx.ModelProto
    pixels: Pixels
    output: Output
    quantized: bool = False
    coarse: bool = False


_SIMPLER: Final = "Export it once more with constant shapes and nothing but ONNX's own operators (opset 17)"
#: What is tried where nobody has said, by the options that say it.
COMMON: Final = {
    **{f"--pixel-range {name}": made for name, made in PIXEL_RANGES.items()},
    "--mean 0.485 0.456 0.406 --std 0.229 0.224 0.225": IMAGENET,
    "--bgr --mean 103.939 116.779 123.68": BGR.then(Affine.per_channel(1.0, (-103.939, -116.779, -123.68))),
}


def stated_pixels(
    pixel_range: str, mean: Sequence[float] | None, std: Sequence[float] | None, *, bgr: bool = False
) -> Pixels | None:
    """What was said about the pixels that a model was trained on; None where nothing was.

    Args:
        pixel_range: a key of ``PIXEL_RANGES``, or ``auto``: with a mean or deviation, 0..1 or 0..255 by their size.
        mean: subtracted from values in that range; one number, or one a channel in the model's own order.
        std: divided by after that.
        bgr: whether the model takes blue first.

    Raises:
        InputError: it contradicts itself.
    """
    if pixel_range == "auto" and mean is None and std is None and not bgr:
        return None
    if mean is None and std is None:
        pixel_range = "0..255" if pixel_range == "auto" else pixel_range
        normalise, text = Affine.per_channel(1.0, 0.0), pixel_range
    else:
        shift, scale = (
            np.array(default if given is None else given) for given, default in ((mean, [0.0]), (std, [1.0]))
        )
        if not {len(shift), len(scale)} <= {1, 3} or not np.isfinite([*shift, *scale]).all() or (scale <= 0).any():
            raise InputError("--mean and --std take one number or three, and a deviation is above 0")
        if pixel_range == "auto":
            pixel_range = "0..255" if max(*np.abs(shift), *scale) > 2 else "0..1"
        if pixel_range == "-1..1":
            raise InputError(
                "--pixel-range -1..1 is a mean and deviation already; --mean and --std take 0..1 or 0..255"
            )
        normalise = Affine.per_channel(1 / scale, -shift / scale)
        text = f"{pixel_range}, mean {_numbers(shift)}, deviation {_numbers(scale)}"
    order = BGR if bgr else PIXEL_RANGES["0..255"]
    return Pixels(order.then(PIXEL_RANGES[pixel_range]).then(normalise), text + (", BGR" if bgr else ""))


def _numbers(values: NDArray[np.float64]) -> str:
    return " ".join(f"{value:g}" for value in values)


def convert(
    model: Classifier, height: int, width: int, pixels: Pixels | None = None, *, multi_label: bool = False
) -> Converted:
    """Converts a classifier to our form of graph.

    Args:
        model: takes ``float32 [batch, height, width, 3]``, or 1 channel of grey.
        height: rows of the input.
        width: columns of the input.
        pixels: what it was trained on. None: 0..255 for a model that has preprocessing of its own; else what the file
            says; else what is most common: ImageNet's mean and deviation for ONNX with planes first, -1..1
            (keras.applications.mobilenet_v2.preprocess_input) for everything else.
        multi_label: whether its logits, if it ends in logits, are independent of each other.

    Returns:
        The graph, what was done to the pixels, and what the model puts out.

    Raises:
        InputError: the model is no classifier of pictures, or has operations that ONNX has not.
    """
    foreign = isinstance(model, OnnxModel)
    planes_first = isinstance(model, OnnxModel) and model.planes_first
    proto, halves = onnx.ModelProto(), False
    if isinstance(model, OnnxModel):
        proto.CopyFrom(model.proto)
    else:
        proto.CopyFrom(_from_keras(model, height, width))
        # TensorFlow's graphs hold on to each other, with several copies of the weights: 0.8 GB for MobileNetV2.
        gc.collect()
        trim_heap()
        halves = in_single_precision(proto)
    try:
        # Its own tensors may be called as ours are.
        proto = onnx.compose.add_prefix(proto, "source.")
        graph.fold_shapes(proto)
        if foreign:
            graph.fold_normalisation(proto)
            graph.fold_pooling(proto)
        graph.fold_pads(proto)
        graph.fold_scales(proto)
        graph.fold_dense(proto)
        front = remove_preprocessing(proto, height, width, planes_first=planes_first)
    except BuildError:
        raise
    except Exception as error:
        raise InputError(f"the model cannot be brought into our form: {reason(error)}. {_SIMPLER}") from error
    pixels = pixels or _stated(model) or _assumed(own=front.arithmetic, planes_first=planes_first)
    if model.input_shape[-1] == 1:
        before = pixels.map
        pixels = Pixels(
            GREY.then(Affine(before.matrix[:1, :1], before.shift[:1])), f"{pixels.text}, grey", pixels.assumed
        )
    add_image_input(proto, front, pixels.map.then(front.own), height, width, planes_first=planes_first)
    output = add_scores_output(proto, multi_label=multi_label)
    graph.canonicalise(proto)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except Exception as error:
        raise InputError(f"the model cannot be brought into our form: {reason(error)}. {_SIMPLER}") from error
    quantized = graph.is_quantized(proto)
    return Converted(proto, pixels, output, quantized, quantized or halves)


def _stated(model: Classifier) -> Pixels | None:
    """What the file itself says, in its metadata or by what it takes."""
    if isinstance(model, TfliteModel) and model.grid is not None:
        scale, zero = model.grid
        return Pixels(Affine.per_channel(scale, -zero * scale), f"(0..255 - {zero:g}) * {scale:g}, as the file says")
    if not isinstance(model, OnnxModel) or (model.pixel_range is None and model.bgr is None):
        whole = getattr(model, "takes_bytes", False)
        return Pixels(PIXEL_RANGES["0..255"], "0..255, as its uint8 input says") if whole else None
    # Windows' own default, where only the order is said.
    name = model.pixel_range or "0..255"
    order = BGR if model.bgr else PIXEL_RANGES["0..255"]
    return Pixels(order.then(PIXEL_RANGES[name]), f"{name}, {'BGR' if model.bgr else 'RGB'}, as the file says")


def _assumed(*, own: bool, planes_first: bool) -> Pixels:
    if own:
        return Pixels(PIXEL_RANGES["0..255"], "0..255, and the model's own preprocessing")
    if planes_first:
        return Pixels(IMAGENET, "ImageNet's mean and deviation", assumed=True)
    return Pixels(PIXEL_RANGES["-1..1"], "-1..1", assumed=True)


def _from_keras(model: Classifier, height: int, width: int) -> onnx.ModelProto:
    """What tf2onnx makes of a Keras model or SavedModel.

    Step by step, as its ``from_function`` takes constants that a layer keeps (``Normalization``) for inputs.

    Raises:
        InputError: it contains an operation that ONNX has not.
    """
    # Late: a model that is ONNX already needs no TensorFlow.
    import tensorflow as tf
    from tf2onnx import optimizer, tf_loader
    from tf2onnx.tfonnx import process_tf_graph

    signature = [tf.TensorSpec((None, height, width, model.input_shape[-1]), tf.float32, name="pixels")]
    function: Callable[[Any], Any] = tf.function(lambda pixels: model(pixels, training=False))
    try:
        concrete = function.get_concrete_function(*signature)  # type: ignore[attr-defined]
        inputs = [tensor.name for tensor in concrete.inputs[: len(signature)]]
        outputs = [tensor.name for tensor in concrete.outputs]
        frozen = tf_loader.from_function(concrete, inputs, outputs)
        with tf.Graph().as_default() as imported:
            tf.import_graph_def(frozen, name="")
            made = process_tf_graph(imported, opset=OPSET, input_names=inputs, output_names=outputs)
            proto: onnx.ModelProto = optimizer.optimize_graph(made).make_model("classifier")
    except Exception as error:
        raise InputError(f"the model cannot be written as ONNX: {reason(error)}") from error
    foreign = sorted({node.op_type for node in proto.graph.node if node.domain or not onnx.defs.has(node.op_type)})
    if foreign:
        raise InputError(f"the model uses what ONNX has no operator for: {', '.join(foreign)}")
    return proto
