"""A Keras classifier as a graph of our form."""

from collections.abc import Callable
from typing import Any, Final

from model_build.network import weights  # first: it sets TensorFlow's environment

# isort: split
import onnx
import tensorflow as tf
from tf2onnx import optimizer, tf_loader
from tf2onnx.tfonnx import process_tf_graph

from model_build.errors import InputError
from model_build.export import graph
from model_build.export.output import Output, add_scores_output
from model_build.export.preprocessing import GREY, PIXEL_RANGES, Affine, add_image_input, remove_preprocessing
from model_build.network.weights import Classifier

#: ONNX operator set; the quantizer's uint8 and int8 operators and everything MobileNetV2 needs are in it.
OPSET: Final = 17


def convert(
    model: Classifier, height: int, width: int, pixel_range: str = "auto"
) -> tuple[onnx.ModelProto, Affine, Output]:
    """Converts a Keras classifier to our form of graph.

    Args:
        model: takes ``float32 [batch, height, width, 3]``, or 1 channel of grey.
        height: rows of the input.
        width: columns of the input.
        pixel_range: a key of ``PIXEL_RANGES``, or ``auto``: 0..255 for a model that has preprocessing layers of its
            own, -1..1 (keras.applications.mobilenet_v2.preprocess_input) for one that has none.

    Returns:
        The ONNX model without metadata, what has to be done to pixels before the Keras model sees them, and what the
        Keras model puts out.

    Raises:
        InputError: the model is no classifier of pictures, or has operations that ONNX has not.
    """
    channels = model.input_shape[-1]
    signature = [tf.TensorSpec((None, height, width, channels), tf.float32, name="pixels")]
    proto = _to_onnx(lambda pixels: model(pixels, training=False), signature)
    graph.fold_shapes(proto)
    graph.fold_pads(proto)
    graph.fold_scales(proto)
    graph.fold_dense(proto)
    front = remove_preprocessing(proto, height, width)
    if pixel_range == "auto":
        pixel_range = "-1..1" if front.first is not None and front.own.reorders else "0..255"
    before = PIXEL_RANGES[pixel_range]
    if channels == 1:
        before = GREY.then(Affine(before.matrix[:1, :1], before.shift[:1]))
    add_image_input(proto, front, before.then(front.own), height, width)
    output = add_scores_output(proto)
    graph.canonicalise(proto)
    onnx.checker.check_model(proto, full_check=True)
    return proto, before, output


def _to_onnx(function: Callable[[Any], Any], signature: list[tf.TensorSpec]) -> onnx.ModelProto:
    """What tf2onnx makes of a TensorFlow function.

    Step by step, as its ``from_function`` takes constants that a layer keeps (``Normalization``) for inputs.

    Raises:
        InputError: it contains an operation that ONNX has not.
    """
    concrete = tf.function(function).get_concrete_function(*signature)
    inputs = [tensor.name for tensor in concrete.inputs[: len(signature)]]
    outputs = [tensor.name for tensor in concrete.outputs]
    frozen = tf_loader.from_function(concrete, inputs, outputs)
    with tf.Graph().as_default() as imported:
        tf.import_graph_def(frozen, name="")
        made = process_tf_graph(imported, opset=OPSET, input_names=inputs, output_names=outputs)
        proto = optimizer.optimize_graph(made).make_model("classifier")
    foreign = sorted({node.op_type for node in proto.graph.node if node.domain or not onnx.defs.has(node.op_type)})
    if foreign:
        raise InputError(f"the model uses what ONNX has no operator for: {', '.join(foreign)}")
    return proto
