"""An int8 model in TensorFlow, so that it can be trained: the graph that ``quantize`` makes, on its own grids.

Every QuantizeLinear becomes a rounding whose gradient is that of the identity within the grid and zero outside it
(straight-through; Jacob et al. 2018, arXiv:1712.05877, section 3). Numbers are float32 multiples of the grids' steps
where ONNX Runtime has integers; where one lies half-way between two steps, the last bit of a float may decide
otherwise than the integers do, and the results are a step apart.
"""

from dataclasses import dataclass
from typing import Any, Final

from model_build.network import weights  # noqa: F401 - first: it sets TensorFlow's environment

# isort: split
import numpy as np
import onnx
import tensorflow as tf
from numpy.typing import NDArray

from model_build.errors import InputError
from model_build.export.graph import FEATURES, IMAGE, SCORES, Graph, attribute
from model_build.export.quantize import most_steps

#: The largest integer of a uint8 tensor.
_LEVELS: Final = 255
_PRODUCTS: Final = ("Conv", "Gemm")


@dataclass(frozen=True, slots=True)
class Steps:
    """A tensor as a number of steps from zero, whole ones behind a QuantizeLinear.

    Attributes:
        steps: float32, channels last.
        scale: float32, what a step means: one number, or one for each channel.
    """

    steps: tf.Tensor
    scale: NDArray[np.float32]

    @property
    def values(self) -> tf.Tensor:
        """The numbers themselves."""
        return self.steps * self.scale


class Layer:
    """A convolution or matrix product of an int8 graph.

    Attributes:
        node: in the graph.
        weight: float32 variable, as the graph stores it: ``[O, I, h, w]`` of a convolution, ``[K, O]`` of a Gemm.
        bias: float32 variable ``[O]``.
        scale: float32, a step of the grid for each output channel, to be broadcast to ``weight``.
        most: float64, how many steps each weight may be from zero.
    """

    def __init__(self, graph: Graph, node: onnx.NodeProto) -> None:
        self.node = node
        dequantize = graph.producer[node.input[1]]
        steps, scale = graph.array(dequantize.input[0]), graph.array(dequantize.input[1])
        axis = attribute(dequantize, "axis", 1)
        self.scale = scale.reshape([-1 if i == axis else 1 for i in range(steps.ndim)])
        self.most = most_steps(node, steps)
        self.weight = tf.Variable(steps.astype(np.float32) * self.scale)
        bias, scale, *_ = (graph.array(name) for name in graph.producer[node.input[2]].input)
        self.bias = tf.Variable((bias.astype(np.float64) * scale).astype(np.float32))

    def __call__(self, values: Steps) -> Steps:
        """The layer's sums of products, as ONNX Runtime has them before it rounds them; channels last."""
        exact = tf.clip_by_value(self.weight / self.scale, -self.most, self.most)
        kernel = _rounded(exact)
        scale = values.scale * self.scale.ravel()
        bias = _rounded(self.bias / scale)
        if self.node.op_type == "Gemm":
            transposed = bool(attribute(self.node, "transB", 0))
            return Steps(tf.matmul(values.steps, kernel, transpose_b=transposed) + bias, scale)
        strides = [1, *attribute(self.node, "strides", [1, 1]), 1]
        steps, padding = _padded(values.steps, self.node, kernel.shape[2:])
        if attribute(self.node, "group", 1) == 1:
            found = tf.nn.conv2d(steps, tf.transpose(kernel, [2, 3, 1, 0]), strides, padding)
        else:
            found = tf.nn.depthwise_conv2d(steps, tf.transpose(kernel, [2, 3, 0, 1]), strides, padding)
        return Steps(tf.nn.bias_add(found, bias), scale)


class Simulation:
    """An int8 graph as a differentiable function.

    Attributes:
        layers: its convolutions and matrix products, in the order of the graph.
    """

    def __init__(self, int8: onnx.ModelProto) -> None:
        """Takes a graph from ``quantize``.

        Raises:
            InputError: it has an operator that is not simulated.
        """
        self._proto = int8
        self._graph = Graph(int8)
        self._logits = self._graph.producer[SCORES].input[0]
        self._features = self._graph.producer[FEATURES].input[0] if FEATURES in self._graph.producer else ""
        self._nodes = self._needed()
        self.layers = [Layer(self._graph, node) for node in self._nodes if node.op_type in _PRODUCTS]
        self._by_name = {layer.node.name: layer for layer in self.layers}

    @property
    def variables(self) -> list[tf.Variable]:
        """What can be trained: weights and biases."""
        return [variable for layer in self.layers for variable in (layer.weight, layer.bias)]

    def __call__(self, pixels: tf.Tensor) -> tuple[tf.Tensor | None, tf.Tensor]:
        """Computes what the graph computes.

        Args:
            pixels: ``uint8 [N, H, W, 3]``.

        Returns:
            Pooled features ``float32 [N, D]``, None where the graph has none, and logits ``float32 [N, C]``.
        """
        found = self.steps(pixels)
        features = tf.reduce_mean(found[self._features].values, axis=[1, 2]) if self._features else None
        return features, found[self._logits].values

    def steps(self, pixels: tf.Tensor) -> dict[str, Steps]:
        """Every tensor between the pixels and the logits, by its name in the graph."""
        # Channels last throughout: TensorFlow's convolutions on a CPU know nothing else.
        found = {IMAGE: Steps(tf.cast(pixels, tf.float32), np.ones((), np.float32))}
        for node in self._nodes:
            found[node.output[0]] = self._compute(node, [found[name] for name in node.input if name in found])
        return found

    def write(self) -> onnx.ModelProto:
        """A copy of the graph with the weights and biases of now."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self._proto)
        graph = Graph(proto)
        for layer in self.layers:
            steps = np.round(layer.weight.numpy() / layer.scale).clip(-layer.most, layer.most)
            _replace(graph, layer.node.input[1], steps.astype(np.int8))
            scale = graph.array(graph.producer[layer.node.input[2]].input[1])
            _replace(
                graph, layer.node.input[2], np.round(layer.bias.numpy().astype(np.float64) / scale).astype(np.int32)
            )
        return proto

    def _needed(self) -> list[onnx.NodeProto]:
        """The nodes between the pixels and what is computed, in order."""
        needed, wanted = [], {self._logits, self._features}
        for node in reversed(self._proto.graph.node):
            if wanted & set(node.output) and node.input[0] not in self._graph.constants:
                needed.append(node)
                wanted |= set(node.input)
        return needed[::-1]

    def _compute(self, node: onnx.NodeProto, inputs: list[Steps]) -> Steps:
        constants = [self._graph.array(name) for name in node.input if name in self._graph.constants]
        steps, scale = inputs[0].steps, inputs[0].scale
        made = None
        match node.op_type:
            case "Conv" | "Gemm":
                made = self._by_name[node.name](inputs[0])
            case "QuantizeLinear":
                zero = float(constants[1])
                made = Steps(_to_grid(steps * (scale / constants[0]), -zero, _LEVELS - zero), constants[0])
            case "DequantizeLinear" if self._graph.producer[node.input[0]].op_type == "QuantizeLinear":
                made = inputs[0]
            case "DequantizeLinear":
                made = Steps(steps - float(constants[1]), constants[0])
            case "Transpose" | "Identity":
                made = inputs[0]
            case "Add" if len(inputs) == 2:
                made = Steps(steps * (scale / inputs[1].scale) + inputs[1].steps, inputs[1].scale)
            case "Mul" if constants:
                made = Steps(steps, scale * constants[0].ravel())
            case "Relu":
                made = Steps(tf.nn.relu(steps), scale)
            case "GlobalAveragePool":
                made = Steps(tf.reduce_mean(steps, axis=[1, 2], keepdims=True), scale)
            case "Squeeze" | "Reshape" | "Flatten" if np.prod(steps.shape[1:-1]) == 1:
                made = Steps(tf.reshape(steps, [-1, steps.shape[-1]]), scale)
        if made is None:
            raise InputError(f"the model has the operator {node.op_type}, which --distill cannot train through")
        return made


def _rounded(exact: tf.Tensor) -> tf.Tensor:
    """Rounds to whole numbers; its gradient is that of the identity."""
    return exact + tf.stop_gradient(tf.round(exact) - exact)


def _to_grid(exact: tf.Tensor, low: float, high: float) -> tf.Tensor:
    """Rounds to whole numbers from ``low`` to ``high``; its gradient is that of the identity there, 0 outside."""

    def rounded(exact: tf.Tensor) -> tuple[tf.Tensor, Any]:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            # One pass over what is large.
            return tf.quantization.fake_quant_with_min_max_args_gradient(upstream, exact, low, high)

        return tf.round(tf.clip_by_value(exact, low, high)), gradient

    return tf.custom_gradient(rounded)(exact)


def _replace(graph: Graph, tensor: str, value: NDArray[Any]) -> None:
    """Gives the DequantizeLinear that makes ``tensor`` another constant, which no other node reads."""
    dequantize = graph.producer[tensor]
    dequantize.input[0] = graph.set(f"{dequantize.name}.trained", value)


def _padded(values: tf.Tensor, conv: onnx.NodeProto, kernel: tuple[int, int]) -> tuple[tf.Tensor, str]:
    """A convolution's input, and the padding for TensorFlow: its own where it comes to the same, which copies less."""
    pads = attribute(conv, "pads", [0, 0, 0, 0])
    if not any(pads):
        return values, "VALID"
    same = []
    for side, width, stride in zip(values.shape[1:3], kernel, attribute(conv, "strides", [1, 1]), strict=True):
        amount = max(0, (-(-side // stride) - 1) * stride + width - side)
        same.append((amount // 2, amount - amount // 2))
    top, left, bottom, right = pads
    if same == [(top, bottom), (left, right)]:
        return values, "SAME"
    return tf.pad(values, [[0, 0], [top, bottom], [left, right], [0, 0]]), "VALID"
