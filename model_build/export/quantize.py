"""fp32 to int8: static QDQ with per-channel int8 weights and uint8 activations.

ONNX Runtime's quantizer does the work; three things are done before it and two after.

Before, the weights are put on their integer grid by GPTQ (Frantar et al. 2022, arXiv:2210.17323): column by column,
each column's rounding error is made up for in the columns still to come, given how the inputs vary together on the
calibration photos. What is left of a bias in a layer's mean output goes into its bias (Nagel et al. 2019,
arXiv:1906.04721, section 4.2). No two weights that are neighbours in a product may together exceed 128 steps: x86
processors without VNNI multiply uint8 by int8 in pairs and add these up in 16 bits, and 255 * 128 is the most that
fits. Beyond it they saturate silently; below, every processor computes the same. Depthwise convolutions do not go that
way and have 127 steps to each side.

The grids of activations are chosen by the mean squared error of rounding a sample of them (Nagel et al. 2021,
arXiv:2106.08295, section 3.1), not by the largest that occur: few values are far out, and all pay for them.

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
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from model_build.export.graph import IMAGE, SCORES, Graph, attribute, canonicalise, is_quantized
from model_build.network.session import session

_QUANTIZED: Final = ["Conv", "Clip", "Relu", "Add", "GlobalAveragePool", "Gemm", "Squeeze", "Reshape", "Flatten"]
_LAYERS: Final = ("Conv", "Gemm")
#: The most steps from zero that a weight may have, and two that x86 without VNNI adds up in 16 bits.
_MOST_STEPS: Final = 127
_MOST_STEPS_OF_TWO: Final = 128
#: How many inputs that x86 multiplies at a time; which of them make a pair is its own affair.
_MULTIPLIED_TOGETHER: Final = 4
#: Values of each activation that are sampled from a photo, and the shares of the range from the least to the largest
#: that are tried as its grid.
_SAMPLED: Final = 1000
_SHARES_OF_RANGE: Final = np.linspace(0.3, 1.0, 29)
_LEVELS: Final = 255
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
    if is_quantized(fp32):
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
    overrides |= _activation_grids(model, track(pixels))
    overrides[first_input] = [_grid(1.0, zero)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "int8.onnx")
        # It recommends its own preprocessing, which our graph has been through already.
        logging.getLogger().setLevel(logging.ERROR)
        quantize_static(
            model,
            path,
            _Photos(pixels[:1]),
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


def most_steps(layer: onnx.NodeProto, steps: NDArray[Any]) -> NDArray[np.float64]:
    """How far from zero each weight of a layer may be, so that no processor's sums overflow.

    Args:
        layer: a convolution or matrix product.
        steps: its weights in steps of their grid, shaped as the graph stores them; they are within these limits, but
            for rounding.

    Returns:
        Whole numbers of the same shape.
    """
    if attribute(layer, "group", 1) > 1:
        return np.full(steps.shape, float(_MOST_STEPS))
    if not _reads_one_place(layer, steps.shape):
        # Which of its inputs are multiplied together depends on how the processor's kernel walks over the window.
        return np.full(steps.shape, float(_MOST_STEPS_OF_TWO // 2))
    quads = _quads(_rows(layer, np.abs(steps.astype(np.float64))))
    first = quads.argmax(axis=2)[..., np.newaxis]
    largest, second = (np.sort(quads, axis=2)[..., -i, np.newaxis] for i in (1, 2))
    # What is left of the sum is shared by the two that are largest.
    of_largest = np.floor((largest + (_MOST_STEPS_OF_TWO - second)) / 2).clip(_MOST_STEPS_OF_TWO // 2, _MOST_STEPS)
    most = np.broadcast_to(_MOST_STEPS_OF_TWO - of_largest, quads.shape).copy()
    np.put_along_axis(most, first, of_largest, axis=2)
    count = _rows(layer, steps).shape[1]
    return _as_stored(layer, most.reshape(len(most), -1)[:, :count], steps.shape)


def _reads_one_place(layer: onnx.NodeProto, shape: tuple[int, ...]) -> bool:
    return layer.op_type == "Gemm" or set(shape[2:]) == {1}


def _rows(layer: onnx.NodeProto, weight: NDArray[Any]) -> NDArray[Any]:
    """A layer's weights ``[O, K]``, one output channel a row."""
    return weight.T if _is_transposed(layer) else weight.reshape(len(weight), -1)


def _as_stored(layer: onnx.NodeProto, rows: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    return (rows.T if _is_transposed(layer) else rows).reshape(shape)


def _is_transposed(layer: onnx.NodeProto) -> bool:
    return layer.op_type == "Gemm" and not attribute(layer, "transB", 0)


def _quads(rows: Float) -> Float:
    """``[O, K]`` as ``[O, K / 4, 4]``, with zeros where the last four are not full."""
    missing = -rows.shape[1] % _MULTIPLIED_TOGETHER
    return np.pad(rows, ((0, 0), (0, missing))).reshape(len(rows), -1, _MULTIPLIED_TOGETHER)


class _Photos(CalibrationDataReader):
    """One photo at a time, as ONNX Runtime's calibration wants them."""

    def __init__(self, pixels: Any) -> None:
        self._pixels = iter(pixels)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        photo = next(self._pixels, None)
        return None if photo is None else {IMAGE: photo[np.newaxis]}


def _activation_grids(model: onnx.ModelProto, photos: Any) -> dict[str, list[dict[str, Any]]]:
    """ONNX Runtime's ``TensorQuantOverrides`` for all that is computed of the photos."""
    names = [node.output[0] for node in model.graph.node if node.op_type in _QUANTIZED]
    runner = _probe(model, names)
    random = np.random.default_rng(0)
    samples: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    low, high = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for photo in photos:
        for name, found in zip(names, runner.run(names, {IMAGE: photo[np.newaxis]}), strict=True):
            values = found.ravel()
            low[name], high[name] = min(low[name], float(values.min())), max(high[name], float(values.max()))
            samples[name].append(values[random.integers(values.size, size=_SAMPLED)])
    return {name: [_best_grid(np.concatenate(samples[name]), low[name], high[name])] for name in names}


def _best_grid(sample: NDArray[np.float32], low: float, high: float) -> dict[str, Any]:
    """The grid on which rounding a sample has the least mean squared error."""
    best = (np.inf, 1.0, 0)
    for share in _SHARES_OF_RANGE:
        # A tensor that is always zero has no range of its own.
        scale = float(np.float32(max(share * (high - low), 1e-6) / _LEVELS))
        zero = round(-share * low / scale)
        rounded = (np.round(sample / scale).clip(-zero, _LEVELS - zero)) * scale
        best = min(best, (float(np.square(rounded - sample).mean()), scale, zero))
    return _grid(*best[1:])


def _grid(scale: float, zero: int) -> dict[str, Any]:
    return {
        "scale": np.array(scale, np.float32),
        "zero_point": np.array(zero, np.uint8),
        "quant_type": QuantType.QUInt8,
    }


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
    runner = _probe(model, names)
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


def _probe(model: onnx.ModelProto, names: list[str]) -> ort.InferenceSession:
    """A session that gives tensors from within a graph."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    return session(probe)


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
        rows = _rows(layer, weight).astype(np.float64)
        scale = _scale(layer, rows, weight.shape)
        steps = scale.astype(np.float64)[:, np.newaxis]
        most = _rows(layer, most_steps(layer, _as_stored(layer, rows / steps, weight.shape)))
        if inputs.second is None:
            grid = _round(rows, steps, most)
            bias_shift = (rows - grid).sum(axis=1) * inputs.mean
        else:
            grid = _gptq(rows, inputs.second, steps, most)
            bias_shift = (rows - grid) @ inputs.mean
        graph.set(layer.input[1], _as_stored(layer, grid, weight.shape).astype(np.float32))
        _add_to_bias(graph, layer, bias_shift)
        grids = [
            {"quant_type": QuantType.QInt8, "scale": np.array(s), "zero_point": np.array(0, np.int8)} for s in scale
        ]
        grids[0]["axis"] = 1 if _is_transposed(layer) else 0
        overrides[layer.input[1]] = grids
    return overrides


def _add_to_bias(graph: Graph, layer: onnx.NodeProto, shift: Float) -> None:
    if len(layer.input) < 3:
        layer.input.append(graph.set(f"{layer.name}.bias", np.zeros(len(shift), np.float32)))
    graph.set(layer.input[2], (graph.array(layer.input[2]).astype(np.float64) + shift).astype(np.float32))


def _scale(layer: onnx.NodeProto, rows: Float, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """``[O]``: the finest grids whose weights are within ``most_steps``, before they are rounded."""
    largest = np.abs(rows).max(axis=1)
    if attribute(layer, "group", 1) > 1:
        finest = largest / _MOST_STEPS
    elif not _reads_one_place(layer, shape):
        finest = largest / (_MOST_STEPS_OF_TWO // 2)
    else:
        two = np.sort(_quads(np.abs(rows)), axis=2)[..., -2:].sum(axis=2).max(axis=1)
        finest = np.maximum(largest / _MOST_STEPS, two / _MOST_STEPS_OF_TWO)
    # A channel that training has switched off has no scale of its own.
    scale: NDArray[np.float32] = np.maximum(finest, 1e-8).astype(np.float32)
    return scale


def _round(rows: Float, steps: Float, most: Float) -> Float:
    return np.clip(np.round(rows / steps), -most, most) * steps


def _gptq(rows: Float, second: Float, steps: Float, most: Float) -> Float:
    """Rounds ``rows [O, K]`` to the grid so that ``rows @ inputs`` changes least (GPTQ, algorithm 1).

    Args:
        rows: weights, one output channel a row.
        second: ``[K, K]``, second moment of the inputs.
        steps: ``[O, 1]``, distance of the grid's points.
        most: ``[O, K]``, how many steps a weight may be from zero.
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
        grid[:, k] = _round(rows[:, k], steps[:, 0], most[:, k])
        error = (rows[:, k] - grid[:, k]) / upper[k, k]
        rows[:, k + 1 :] -= np.outer(error, upper[k, k + 1 :])
    return grid
