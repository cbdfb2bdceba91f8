"""fp32 to int8: static QDQ with per-channel int8 weights and uint8 activations.

ONNX Runtime's quantizer does the work; two things are done before it and two after.

Before, the weights are put on their integer grid by GPTQ (Frantar et al. 2022, arXiv:2210.17323): column by column,
each column's rounding error is made up for in the columns still to come, given how the inputs vary together on the
calibration photos. What is left of a bias in a layer's mean output goes into its bias (Nagel et al. 2019,
arXiv:1906.04721, section 4.2). The grid of the dense convolutions has 7 bits: x86 processors without VNNI multiply
uint8 by int8 in pairs into 16 bits, and 2 * 255 * 63 is the most that fits. With 8 bits they saturate silently; with
7, every processor computes the same. Depthwise convolutions do not go that way and keep 8 bits.

After, the pixels' detour through float is removed (uint8 pixels are already a quantized tensor), and the logits are
left in float: 256 levels of them would make ties of close classes.
"""

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from model_build.export.graph import IMAGE, SCORES, Graph, attribute, canonicalise
from model_build.network.session import session

_QUANTIZED: Final = ["Conv", "Clip", "Relu", "Add", "GlobalAveragePool", "Gemm", "Squeeze", "Reshape", "Flatten"]
_LAYERS: Final = ("Conv", "Gemm")
#: Largest weight on the grid: 7 bits where products are summed in pairs, 8 elsewhere.
_DENSE_MAX: Final = 63
_DEPTHWISE_MAX: Final = 127
#: Share of the mean diagonal that is added to it, so that the inputs' second moment can be inverted (GPTQ, 3.3).
_DAMPING: Final = 0.01
#: Values that a layer reads at a time; their second moments are that many squared, in double precision.
_MOST_INPUTS: Final = 6000
Float = NDArray[np.float64]


@dataclass(slots=True)
class _Moments:
    """Moments of a layer's inputs: ``mean [K]`` and, for dense layers, ``second [K, K]``, over all positions."""

    mean: Float
    second: Float | None


def unsupported(fp32: onnx.ModelProto) -> str | None:
    """Why ``quantize`` cannot do with a graph what it does, or None where it can."""
    graph = Graph(fp32)
    layers = [node for node in graph.proto.node if node.op_type in _LAYERS]
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in graph.proto.node):
        return "the model is quantized already"
    first = next((node for node in layers if node.op_type == "Conv"), None)
    source = graph.producer.get(first.input[0]) if first is not None else None
    if source is None or source.op_type not in ("Sub", "Cast"):
        return "its first layer is no convolution that reads the pixels themselves"
    for node in layers:
        shape = list(graph.constants[node.input[1]].dims) if node.input[1] in graph.constants else []
        if node.op_type == "Conv" and attribute(node, "group", 1) > 1 and shape[1:2] != [1]:
            return "it has grouped convolutions"
        if node.op_type == "Conv" and (len(shape) != 4 or set(attribute(node, "dilations", [1])) != {1}):
            return "it has convolutions that are dilated, or not of two dimensions"
        inputs = int(np.prod(shape[1:])) if node.op_type == "Conv" else shape[0] if shape else 0
        if attribute(node, "group", 1) == 1 and inputs > _MOST_INPUTS:
            return f"a layer of it reads {inputs} values at a time, too many for GPTQ"
    return None


def quantize(fp32: onnx.ModelProto, pixels: NDArray[np.uint8], track: Any = iter) -> onnx.ModelProto:
    """Quantizes an exported fp32 model.

    Args:
        fp32: as ``export`` makes it.
        pixels: ``uint8 [N, H, W, 3]`` calibration photos; a hundred or two are enough.
        track: wraps an iteration over the photos, to show progress; there are two passes.

    Returns:
        The int8 model, with the same inputs and outputs and no metadata.
    """
    model = onnx.ModelProto()
    model.CopyFrom(fp32)
    del model.metadata_props[:]
    first_input, zero = _integer_zero_point(model)
    overrides = _fit_weights(model, _moments(model, track(pixels)))
    overrides[first_input] = [
        {"scale": np.array(1, np.float32), "zero_point": np.array(zero, np.uint8), "quant_type": QuantType.QUInt8}
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "int8.onnx")
        # It recommends its own preprocessing, which our graph has been through already.
        logging.getLogger().setLevel(logging.ERROR)
        quantize_static(
            model,
            path,
            _Photos(track(pixels)),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_QUANTIZED,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=_after_last_product(model),
            extra_options={"TensorQuantOverrides": overrides},
        )
        quantized = onnx.load(path)
    _remove_float_input(quantized, first_input)
    _keep_float_logits(quantized)
    canonicalise(quantized)
    return quantized


def largest_step(layer: onnx.NodeProto) -> int:
    """The most steps that the grid of a layer's weights has to each side of zero."""
    return _DENSE_MAX if attribute(layer, "group", 1) == 1 else _DEPTHWISE_MAX


class _Photos(CalibrationDataReader):
    """One photo at a time, as ONNX Runtime's calibration wants them."""

    def __init__(self, pixels: Any) -> None:
        self._pixels = iter(pixels)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        photo = next(self._pixels, None)
        return None if photo is None else {IMAGE: photo[np.newaxis]}


def _integer_zero_point(model: onnx.ModelProto) -> tuple[str, int]:
    """Makes what the first convolution reads representable by the pixels themselves.

    The graph subtracts ``centre`` (127.5 as a rule) from the pixels. An integer ``zero`` next to it makes that a
    quantized tensor of scale 1 whose values are the pixels; ``weight * (zero - centre)`` goes into the bias.

    Returns:
        The name of the tensor that the first convolution reads, and its zero point.
    """
    graph = Graph(model)
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    first_input = first.input[0]
    subtract = graph.producer[first_input]
    if subtract.op_type != "Sub":
        return first_input, 0
    centre = graph.array(subtract.input[1]).astype(np.float64).ravel()
    zero = int(np.clip(np.round(centre.mean() + 1e-9), 0, 255))
    shift = (graph.array(first.input[1]).astype(np.float64) * (zero - centre).reshape(1, -1, 1, 1)).sum(axis=(1, 2, 3))
    _add_to_bias(graph, first, shift)
    graph.set(subtract.input[1], np.full((1, 1, 1, 1), zero, np.float32))
    return first_input, zero


def _remove_float_input(model: onnx.ModelProto, first_input: str) -> None:
    """Lets the first convolution's DequantizeLinear read the uint8 pixels: what Cast, Sub and QuantizeLinear
    between them compute is the pixels again.
    """
    graph = Graph(model)
    quantize_node = next(node for node in graph.consumers(first_input) if node.op_type == "QuantizeLinear")
    source = first_input
    while graph.producer[source].op_type in ("Sub", "Cast"):
        source = graph.producer[source].input[0]
    for node in graph.consumers(quantize_node.output[0]):
        node.input[0] = source


def _after_last_product(model: onnx.ModelProto) -> list[str]:
    """The names of the nodes between the last matrix product or convolution and the softmax."""
    graph = Graph(model)
    names = []
    node = graph.producer[graph.producer[SCORES].input[0]]
    while node.op_type not in (*_LAYERS, "GlobalAveragePool"):
        names.append(node.name)
        node = graph.producer[next(name for name in node.input if name in graph.producer)]
    return names


def _keep_float_logits(model: onnx.ModelProto) -> None:
    """Removes the QuantizeLinear/DequantizeLinear pair from the last product's output."""
    graph = Graph(model)
    consumer = graph.producer[SCORES]
    while True:
        name = next(name for name in consumer.input if name in graph.producer)
        node = graph.producer[name]
        if node.op_type == "DequantizeLinear" and node.input[0] in graph.producer:
            consumer.input[list(consumer.input).index(name)] = graph.producer[node.input[0]].input[0]
            return
        if node.op_type in _LAYERS:
            return
        consumer = node


def _moments(model: onnx.ModelProto, photos: Any) -> dict[str, _Moments]:
    """The input moments of every layer with constant weights, by the name of its weight."""
    graph = Graph(model)
    layers = [n for n in model.graph.node if n.op_type in _LAYERS and n.input[1] in graph.constants]
    names = list(dict.fromkeys(node.input[0] for node in layers))
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    runner = session(probe)
    sums: dict[str, _Moments] = {}
    count = 0
    for photo in photos:
        count += 1
        values = dict(zip(names, runner.run(names, {IMAGE: photo[np.newaxis]}), strict=True))
        for layer in layers:
            columns = _columns(layer, values[layer.input[0]], graph.array(layer.input[1]).shape)
            mean = columns.mean(axis=0, dtype=np.float64)
            dense = attribute(layer, "group", 1) == 1
            second = (columns.T @ columns).astype(np.float64) / len(columns) if dense else None
            if layer.input[1] in sums:
                total = sums[layer.input[1]]
                total.mean += mean
                if total.second is not None and second is not None:
                    total.second += second
            else:
                sums[layer.input[1]] = _Moments(mean, second)
    for moments in sums.values():
        moments.mean /= count
        if moments.second is not None:
            moments.second /= count
    return sums


def _columns(layer: onnx.NodeProto, values: NDArray[np.float32], weight: tuple[int, ...]) -> NDArray[np.float32]:
    """A layer's input for one photo as ``[positions, K]``: one row for each place where its weights are applied."""
    if layer.op_type == "Gemm":
        return np.reshape(values, (-1, values.shape[-1]))
    height, width = weight[2:]
    if attribute(layer, "group", 1) > 1 or height == width == 1:
        # Depthwise layers only need each channel's mean; 1 x 1 ones look at single positions.
        return np.reshape(values[0], (values.shape[1], -1)).T
    top, left, bottom, right = attribute(layer, "pads", [0, 0, 0, 0])
    padded = np.pad(values[0], ((0, 0), (top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    down, across = attribute(layer, "strides", [1, 1])
    windows = windows[:, ::down, ::across]
    return np.ascontiguousarray(windows.transpose(1, 2, 0, 3, 4)).reshape(-1, padded.shape[0] * height * width)


def _fit_weights(model: onnx.ModelProto, moments: dict[str, _Moments]) -> dict[str, list[dict[str, Any]]]:
    """Puts every layer's weights on its integer grid and corrects its bias, in place.

    Returns:
        ONNX Runtime's ``TensorQuantOverrides``: the grids, one scale an output channel.
    """
    graph = Graph(model)
    overrides: dict[str, list[dict[str, Any]]] = {}
    for layer in [node for node in model.graph.node if node.op_type in _LAYERS and node.input[1] in moments]:
        weight, inputs = graph.array(layer.input[1]), moments[layer.input[1]]
        transposed = layer.op_type == "Gemm"
        rows = (weight.T if transposed else weight.reshape(len(weight), -1)).astype(np.float64)
        largest = largest_step(layer)
        # A channel that training has switched off has no scale of its own.
        scale = (np.maximum(np.abs(rows).max(axis=1), 1e-6) / largest).astype(np.float32)
        if inputs.second is None:
            grid = _round(rows, scale, largest)
            bias_shift = (rows - grid).sum(axis=1) * inputs.mean
        else:
            grid = _gptq(rows, inputs.second, scale, largest)
            bias_shift = (rows - grid) @ inputs.mean
        graph.set(layer.input[1], (grid.T if transposed else grid).reshape(weight.shape).astype(np.float32))
        _add_to_bias(graph, layer, bias_shift)
        grids = [
            {"quant_type": QuantType.QInt8, "scale": np.array(s), "zero_point": np.array(0, np.int8)} for s in scale
        ]
        grids[0]["axis"] = 1 if transposed else 0
        overrides[layer.input[1]] = grids
    return overrides


def _add_to_bias(graph: Graph, layer: onnx.NodeProto, shift: Float) -> None:
    if len(layer.input) < 3:
        layer.input.append(graph.set(f"{layer.name}.bias", np.zeros(len(shift), np.float32)))
    graph.set(layer.input[2], (graph.array(layer.input[2]).astype(np.float64) + shift).astype(np.float32))


def _round(rows: Float, scale: NDArray[np.float32], largest: int) -> Float:
    steps = scale.astype(np.float64)[:, np.newaxis]
    return np.clip(np.round(rows / steps), -largest, largest) * steps


def _gptq(rows: Float, second: Float, scale: NDArray[np.float32], largest: int) -> Float:
    """Rounds ``rows [O, K]`` to the grid so that ``rows @ inputs`` changes least (GPTQ, algorithm 1).

    Args:
        rows: weights, one output channel a row.
        second: ``[K, K]``, second moment of the inputs.
        scale: ``[O]``, distance of the grid's points.
        largest: the grid reaches from ``-largest`` to ``largest`` steps.
    """
    rows, second = rows.copy(), second.copy()
    diagonal = np.einsum("ii->i", second)
    dead = diagonal == 0
    diagonal[dead] = 1.0
    rows[:, dead] = 0.0
    diagonal += _DAMPING * diagonal.mean()
    upper = np.linalg.cholesky(np.linalg.inv(second)).T
    grid = np.empty_like(rows)
    for k in range(rows.shape[1]):
        grid[:, k] = _round(rows[:, k : k + 1], scale, largest)[:, 0]
        error = (rows[:, k] - grid[:, k]) / upper[k, k]
        rows[:, k + 1 :] -= np.outer(error, upper[k, k + 1 :])
    return grid
