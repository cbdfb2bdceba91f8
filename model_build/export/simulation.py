"""An int8 model in TensorFlow, so that it can be trained: the graph that ``quantize`` makes, on its own grids.

Every QuantizeLinear becomes a rounding whose gradient is that of the identity within the grid and zero outside it
(straight-through; Jacob et al. 2018, arXiv:1712.05877, section 3). Numbers are float32 multiples of the grids' steps
where ONNX Runtime has integers; where one lies half-way between two steps, the last bit of a float may decide
otherwise than the integers do, and the results are a step apart.
"""

from typing import Any, Final

from model_build.network import weights  # noqa: F401 - first: it sets TensorFlow's environment

# isort: split
import numpy as np
import onnx
import tensorflow as tf
from numpy.typing import NDArray

from model_build.errors import InputError
from model_build.export.graph import FEATURES, IMAGE, SCORES, Graph, attribute
from model_build.export.quantize import largest_step

#: The largest integer of a uint8 tensor.
_LEVELS: Final = 255
_PRODUCTS: Final = ("Conv", "Gemm")


class Layer:
    """A convolution or matrix product of an int8 graph.

    Attributes:
        node: in the graph.
        weight: float32 variable, as the graph stores it: ``[O, I, h, w]`` of a convolution, ``[K, O]`` of a Gemm.
        bias: float32 variable ``[O]``.
        scale: float32, a step of the grid for each output channel, to be broadcast to ``weight``.
        largest: the most steps that the grid has to each side.
    """

    def __init__(self, graph: Graph, node: onnx.NodeProto) -> None:
        self.node = node
        dequantize = graph.producer[node.input[1]]
        steps, scale = graph.array(dequantize.input[0]), graph.array(dequantize.input[1])
        axis = attribute(dequantize, "axis", 1)
        self.scale = scale.reshape([-1 if i == axis else 1 for i in range(steps.ndim)])
        self.largest = largest_step(node)
        self.weight = tf.Variable(steps.astype(np.float32) * self.scale)
        bias, scale, *_ = (graph.array(name) for name in graph.producer[node.input[2]].input)
        self.bias = tf.Variable((bias.astype(np.float64) * scale).astype(np.float32))

    def rounded(self) -> tf.Tensor:
        """The weights on their grid, with the straight-through gradient."""
        steps = tf.clip_by_value(self.weight / self.scale, -self.largest, self.largest)
        return (steps + tf.stop_gradient(tf.round(steps) - steps)) * self.scale

    def __call__(self, values: tf.Tensor) -> tf.Tensor:
        """The layer's output in float, as ONNX Runtime has it before it is rounded; channels last."""
        kernel = self.rounded()
        if self.node.op_type == "Gemm":
            return tf.matmul(values, kernel, transpose_b=bool(attribute(self.node, "transB", 0))) + self.bias
        strides = [1, *attribute(self.node, "strides", [1, 1]), 1]
        values, padding = _padded(values, self.node, kernel.shape[2:])
        if attribute(self.node, "group", 1) == 1:
            found = tf.nn.conv2d(values, tf.transpose(kernel, [2, 3, 1, 0]), strides, padding)
        else:
            found = tf.nn.depthwise_conv2d(values, tf.transpose(kernel, [2, 3, 0, 1]), strides, padding)
        return tf.nn.bias_add(found, self.bias)


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
        # Channels last throughout: TensorFlow's convolutions on a CPU know nothing else.
        values: dict[str, tf.Tensor] = {IMAGE: tf.cast(pixels, tf.float32)}
        for node in self._nodes:
            values[node.output[0]] = self._compute(node, [values[name] for name in node.input if name in values])
        features = tf.reduce_mean(values[self._features], axis=[1, 2]) if self._features else None
        return features, values[self._logits]

    def write(self) -> onnx.ModelProto:
        """A copy of the graph with the weights and biases of now."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self._proto)
        graph = Graph(proto)
        for layer in self.layers:
            steps = np.round(layer.weight.numpy() / layer.scale).clip(-layer.largest, layer.largest)
            _replace(graph, layer.node.input[1], steps.astype(np.int8))
            scale = graph.array(graph.producer[layer.node.input[2]].input[1])
            _replace(graph, layer.node.input[2], np.round(layer.bias.numpy().astype(np.float64) / scale).astype(np.int32))
        return proto

    def _needed(self) -> list[onnx.NodeProto]:
        """The nodes between the pixels and what is computed, in order."""
        needed, wanted = [], {self._logits, self._features}
        for node in reversed(self._proto.graph.node):
            if wanted & set(node.output) and node.input[0] not in self._graph.constants:
                needed.append(node)
                wanted |= set(node.input)
        return needed[::-1]

    def _compute(self, node: onnx.NodeProto, inputs: list[tf.Tensor]) -> tf.Tensor:
        constants = [self._graph.array(name) for name in node.input if name in self._graph.constants]
        match node.op_type:
            case "Conv" | "Gemm":
                return self._by_name[node.name](inputs[0])
            case "QuantizeLinear":
                scale, zero = (float(constant) for constant in constants)
                return tf.quantization.fake_quant_with_min_max_args(
                    inputs[0], -zero * scale, (_LEVELS - zero) * scale
                )
            case "DequantizeLinear":
                if self._graph.producer[node.input[0]].op_type == "QuantizeLinear":
                    # What rounded them left them as multiples of its step already.
                    return inputs[0]
                return (inputs[0] - float(constants[1])) * float(constants[0])
            case "Transpose" | "Identity":
                return inputs[0]
            case "Add":
                return inputs[0] + (inputs[1] if len(inputs) == 2 else constants[0])
            case "Mul":
                return inputs[0] * (inputs[1] if len(inputs) == 2 else constants[0])
            case "Relu":
                return tf.nn.relu(inputs[0])
            case "Clip":
                return tf.clip_by_value(inputs[0], *constants)
            case "GlobalAveragePool":
                return tf.reduce_mean(inputs[0], axis=[1, 2], keepdims=True)
            case "Squeeze" | "Reshape" | "Flatten" if np.prod(inputs[0].shape[1:3]) == 1 or len(inputs[0].shape) == 2:
                return tf.reshape(inputs[0], [-1, inputs[0].shape[-1]])
        raise InputError(f"the model has the operator {node.op_type}, which --distill cannot train through")


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
