"""The passes over the ONNX graph that tf2onnx writes, one function each.

Every pass changes an ``onnx.ModelProto`` in place. Together they turn "whatever tf2onnx made of a Keras model" into
the one form that the service loads::

    image    uint8   [batch, H, W, 3]  the pixels as the imaging module leaves them
    scores   float32 [batch, C]        softmax over the classes
    features float32 [batch, D, h, w]  the last feature map, where the head is global average pooling

(``preprocessing`` makes the input, ``output`` the outputs, ``class_activation_map`` adds what explains the scores) and
into the same bytes for the same weights: tf2onnx's node names and the order of its constants differ from run to run.
"""

import hashlib
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

IMAGE, FEATURES, SCORES = "image", "features", "scores"
BATCH = "batch"
#: Operators on whole numbers, beside those that make and unmake them.
_INTEGERS = ("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul")


class Graph:
    """An index over a ``GraphProto``: the producer and the consumers of a tensor, and which tensors are constant."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.proto = model.graph
        self.opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 1)
        self.constants = {tensor.name: tensor for tensor in self.proto.initializer}
        self.producer = {name: node for node in self.proto.node for name in node.output if name}

    def consumers(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that read the tensor ``name``."""
        return [node for node in self.proto.node if name in node.input]

    def array(self, name: str) -> NDArray[Any]:
        """The value of the constant ``name``."""
        return numpy_helper.to_array(self.constants[name])

    def set(self, name: str, value: NDArray[Any]) -> str:
        """Adds or replaces the constant ``name``; returns the name."""
        tensor = numpy_helper.from_array(np.asarray(value, order="C"), name)
        if name in self.constants:
            self.constants[name].CopyFrom(tensor)
        else:
            self.proto.initializer.append(tensor)
            self.constants[name] = self.proto.initializer[-1]
        return name

    def reduce(self, op: str, tensor: str, output: str, *axes: int, keep: bool = False) -> str:
        """Adds a reduction over some axes, which are an input from operator set 18 on; returns the output's name."""
        if self.opset < 18:
            return self.add(op, [tensor], output, axes=axes, keepdims=int(keep))
        constant = self.set(f"{output}_axes", np.array(axes, np.int64))
        return self.add(op, [tensor, constant], output, keepdims=int(keep))

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Appends a node that produces ``output``; returns that name. ``canonicalise`` puts it in order."""
        self.proto.node.append(helper.make_node(op, inputs, [output], **attributes))
        self.producer[output] = self.proto.node[-1]
        return output


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """The value of a node's attribute, or ``default`` where it has none."""
    for item in node.attribute:
        if item.name == name:
            return helper.get_attribute_value(item)
    return default


def set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    """Sets a node's attribute, replacing it where it is there already."""
    for item in list(node.attribute):
        if item.name == name:
            node.attribute.remove(item)
    node.attribute.append(helper.make_attribute(name, value))


def is_quantized(model: onnx.ModelProto) -> bool:
    """Whether a graph computes with whole numbers somewhere."""
    return any("QuantizeLinear" in node.op_type or node.op_type in _INTEGERS for node in model.graph.node)


def fold_pads(model: onnx.ModelProto) -> None:
    """Folds each zero ``Pad`` into the convolution that reads it.

    Keras pads explicitly before its stride-2 depthwise convolutions. Left as it is, the ``Pad`` copies the largest
    feature maps once more, and stands between two quantized operators.
    """
    graph = Graph(model)
    for pad in [node for node in graph.proto.node if node.op_type == "Pad"]:
        consumers = graph.consumers(pad.output[0])
        value = graph.array(pad.input[2]).item() if len(pad.input) > 2 and pad.input[2] else 0.0
        amounts = [int(n) for n in graph.array(pad.input[1])]
        foldable = (
            attribute(pad, "mode", b"constant") == b"constant"
            and value == 0.0
            and len(amounts) == 8
            and amounts[0:2] == amounts[4:6] == [0, 0]
            and all(node.op_type == "Conv" and node.input[0] == pad.output[0] for node in consumers)
            and all(attribute(node, "auto_pad", b"NOTSET") in (b"NOTSET", b"VALID") for node in consumers)
        )
        if not foldable:
            continue
        for conv in consumers:
            old = attribute(conv, "pads", [0, 0, 0, 0])
            set_attribute(conv, "auto_pad", "NOTSET")
            set_attribute(conv, "pads", [a + b for a, b in zip(old, amounts[2:4] + amounts[6:8], strict=True)])
            conv.input[0] = pad.input[0]
        graph.proto.node.remove(pad)


def fold_scales(model: onnx.ModelProto) -> None:
    """Folds each per-channel ``Mul`` and ``Add`` behind a convolution into its weights and its bias.

    They are what is left of batch normalisation: TensorFlow folds it into standard convolutions, but not into
    depthwise ones, where it would run in float in the middle of an int8 model.
    """
    graph = Graph(model)
    outputs = {value.name for value in graph.proto.output}
    for conv in [node for node in graph.proto.node if node.op_type == "Conv" and node.input[1] in graph.constants]:
        weight = graph.array(conv.input[1]).astype(np.float64)
        bias = np.zeros(len(weight))
        if len(conv.input) > 2:
            if conv.input[2] not in graph.constants:
                continue
            bias = graph.array(conv.input[2]).astype(np.float64)
        folded = False
        while conv.output[0] not in outputs and len(consumers := graph.consumers(conv.output[0])) == 1:
            consumer = consumers[0]
            constant = next((graph.array(name) for name in consumer.input if name in graph.constants), None)
            if consumer.op_type not in ("Mul", "Add") or constant is None or not _per_channel(constant, len(weight)):
                break
            values = np.broadcast_to(constant.astype(np.float64).ravel(), bias.shape)
            if consumer.op_type == "Mul":
                weight, bias = weight * values.reshape(-1, *[1] * (weight.ndim - 1)), bias * values
            else:
                bias = bias + values
            conv.output[0] = consumer.output[0]
            graph.proto.node.remove(consumer)
            folded = True
        if folded:
            # Under names of their own: equal weights may be one constant that several convolutions read.
            inputs = [conv.input[0], graph.set(f"{conv.output[0]}.weight", weight.astype(np.float32))]
            inputs.append(graph.set(f"{conv.output[0]}.bias", bias.astype(np.float32)))
            del conv.input[:]
            conv.input.extend(inputs)


def fold_normalisation(model: onnx.ModelProto) -> None:
    """Makes each ``BatchNormalization`` behind a convolution a ``Mul`` and an ``Add``, for ``fold_scales``."""
    graph = Graph(model)
    for node in [node for node in graph.proto.node if node.op_type == "BatchNormalization"]:
        producer = graph.producer.get(node.input[0])
        if (
            producer is None
            or producer.op_type != "Conv"
            or not all(name in graph.constants for name in node.input[1:])
        ):
            continue
        gamma, beta, mean, variance = (graph.array(name).astype(np.float64) for name in node.input[1:])
        scale = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        shape, name = (1, -1, 1, 1), node.output[0]
        graph.proto.node.remove(node)
        constants = [
            graph.set(f"{name}.{kind}", value.reshape(shape).astype(np.float32))
            for kind, value in (("scale", scale), ("shift", beta - mean * scale))
        ]
        scaled = graph.add("Mul", [node.input[0], constants[0]], f"{name}.scaled")
        graph.add("Add", [scaled, constants[1]], name)


def fold_pooling(model: onnx.ModelProto) -> None:
    """Makes each mean over the whole of a feature map a ``GlobalAveragePool``, however it was written."""
    shapes = shapes_of(model)
    graph = Graph(model)
    for node in [node for node in graph.proto.node if node.op_type in ("ReduceMean", "AveragePool")]:
        before, after = shapes.get(node.input[0], []), node.output[0]
        if len(before) != 4:
            continue
        kept = True
        if node.op_type == "AveragePool":
            whole = list(attribute(node, "kernel_shape", [])) == before[2:] and not any(attribute(node, "pads", []))
        else:
            listed = len(node.input) > 1 and node.input[1] in graph.constants
            axes = graph.array(node.input[1]).tolist() if listed else list(attribute(node, "axes", []))
            whole = sorted(axis % 4 for axis in axes) == [2, 3]
            kept = bool(attribute(node, "keepdims", 1))
        if not whole:
            continue
        graph.proto.node.remove(node)
        pooled = graph.add("GlobalAveragePool", [node.input[0]], after if kept else f"{after}.pooled")
        if not kept:
            graph.add("Flatten", [pooled], after, axis=1)


def _sort(model: onnx.ModelProto) -> None:
    """Puts each node behind those whose results it reads, as ONNX wants it; the passes append theirs at the end."""
    nodes = list(model.graph.node)
    made = {name for node in nodes for name in node.output}
    known: set[str] = set()
    ordered: list[onnx.NodeProto] = []
    while nodes:
        left = []
        for node in nodes:
            if all(name in known or name not in made for name in node.input):
                ordered.append(node)
                known.update(node.output)
            else:
                left.append(node)
        if len(left) == len(nodes):
            return
        nodes = left
    del model.graph.node[:]
    model.graph.node.extend(ordered)


def shapes_of(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Shapes by tensor, as far as they can be inferred; 0 where a side is unknown."""
    _sort(model)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    values = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
    return {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}


def _per_channel(constant: NDArray[Any], channels: int) -> bool:
    """Whether a constant has one value, or one for each channel of ``[batch, channels, h, w]``."""
    return constant.size == 1 or (constant.size == channels and constant.shape[-3:] == (channels, 1, 1))


def fold_dense(model: onnx.ModelProto) -> None:
    """Makes each ``MatMul`` with a constant bias behind it one ``Gemm``: the form that is quantized with its bias.

    A ``Gemm`` whose weights are the other way round, as PyTorch writes it, gets them turned.
    """
    graph = Graph(model)
    for gemm in [node for node in graph.proto.node if node.op_type == "Gemm"]:
        if gemm.input[1] in graph.constants and attribute(gemm, "transB", 0):
            set_attribute(gemm, "transB", 0)
            gemm.input[1] = graph.set(f"{gemm.output[0]}.weight", graph.array(gemm.input[1]).T)
    shapes = shapes_of(model)
    for matmul in [node for node in graph.proto.node if node.op_type == "MatMul"]:
        consumers = graph.consumers(matmul.output[0])
        if matmul.input[1] not in graph.constants or len(consumers) != 1 or consumers[0].op_type != "Add":
            continue
        add = consumers[0]
        bias = next((name for name in add.input if name in graph.constants), None)
        weight = graph.array(matmul.input[1])
        if len(shapes.get(matmul.input[0], (0, 0))) != 2:
            continue
        if bias is None or weight.ndim != 2 or graph.array(bias).size != weight.shape[1]:
            continue
        bias = graph.set(f"{bias}_flat", graph.array(bias).reshape(-1))
        graph.proto.node.remove(matmul)
        graph.proto.node.remove(add)
        graph.add("Gemm", [matmul.input[0], matmul.input[1], bias], add.output[0])


def fold_shapes(model: onnx.ModelProto) -> None:
    """Gives each ``Reshape`` that only keeps the batch apart a constant shape.

    TensorFlow's optimiser mostly does it, but gives up when the machine is busy; then the graph would work the shape
    out for each picture, and the same weights would give other bytes.
    """
    shapes = shapes_of(model)
    graph = Graph(model)
    for node in [node for node in graph.proto.node if node.op_type == "Reshape"]:
        shape = shapes.get(node.output[0], [])
        if node.input[1] not in graph.constants and len(shape) > 1 and shape[0] == 0 and all(shape[1:]):
            node.input[1] = graph.set(f"{node.output[0]}_shape", np.array([-1, *shape[1:]], np.int64))


def canonicalise(model: onnx.ModelProto) -> None:
    """Orders and names everything by its place in the graph, so that the same network gives the same bytes.

    Nodes that no output needs, unused and doubled constants and shape annotations go.
    """
    graph = Graph(model)
    ordered: list[onnx.NodeProto] = []
    done: set[int] = set()

    def visit(tensor: str) -> None:
        stack = [tensor]
        while stack:
            node = graph.producer.get(stack[-1])
            if node is None or id(node) in done:
                stack.pop()
                continue
            missing = [name for name in node.input if name in graph.producer and id(graph.producer[name]) not in done]
            if missing:
                stack.extend(reversed(missing))
            else:
                done.add(id(node))
                ordered.append(node)
                stack.pop()

    for output in sorted(graph.proto.output, key=lambda value: value.name):
        visit(output.name)

    interface = {value.name for value in [*graph.proto.input, *graph.proto.output]}
    names = {name: name for name in interface}
    constants: dict[str, onnx.TensorProto] = {}
    by_value: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    counts: dict[str, int] = {}
    nodes: list[onnx.NodeProto] = []
    for old in ordered:
        node = onnx.NodeProto()
        node.CopyFrom(old)
        kind = node.op_type.lower()
        node.name = f"{kind}_{counts.get(kind, 0)}"
        counts[kind] = counts.get(kind, 0) + 1
        for i, name in enumerate(old.input):
            if name in graph.constants and name in interface:
                # The default of an optional input.
                constants[name] = graph.constants[name]
            elif name in graph.constants:
                value = graph.array(name)
                key = (graph.constants[name].data_type, value.shape, hashlib.sha256(value.tobytes()).digest())
                if key not in by_value:
                    by_value[key] = f"{node.name}.{i}"
                    constants[by_value[key]] = numpy_helper.from_array(np.asarray(value, order="C"), by_value[key])
                node.input[i] = by_value[key]
            else:
                node.input[i] = names.get(name, name)
        for i, name in enumerate(old.output):
            if name:
                names.setdefault(name, node.name if i == 0 else f"{node.name}:{i}")
                node.output[i] = names[name]
        node.doc_string = ""
        attributes = sorted(node.attribute, key=lambda item: item.name)
        del node.attribute[:]
        node.attribute.extend(attributes)
        nodes.append(node)
    proto = graph.proto
    for field in ("node", "initializer", "value_info", "sparse_initializer", "quantization_annotation"):
        proto.ClearField(field)
    proto.node.extend(nodes)
    proto.initializer.extend(constants.values())
    proto.name, proto.doc_string = "classifier", ""
    model.producer_name, model.producer_version, model.doc_string = "edge-classifier", "", ""
    used = {node.domain for node in nodes}
    opsets = sorted((o.domain, o.version) for o in model.opset_import if o.domain in used or not o.domain)
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in opsets)


def digest(model: onnx.ModelProto) -> str:
    """SHA-256 (hex) of the graph itself: operators, names and weights, without the metadata."""
    return hashlib.sha256(model.graph.SerializeToString(deterministic=True)).hexdigest()


def multiply_adds(model: onnx.ModelProto) -> int:
    """Multiply-adds of one image, counted over the convolutions and matrix products of the graph.

    A convolution costs ``F * F * (C / groups) * Wo * Ho * Nf``, a matrix product ``in * out`` (Howard et al. 2017,
    "MobileNets", section 3.1). Element-wise operators are not counted, as in the paper.
    """
    inferred = onnx.shape_inference.infer_shapes(model)
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in [*inferred.graph.value_info, *inferred.graph.output]
    }
    weights = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]
    total = 0
    for node in model.graph.node:
        if node.op_type == "Conv":
            # Weights that are computed have a shape all the same, as far as it can be inferred.
            kernel = weights.get(node.input[1]) or shapes.get(node.input[1], [])
            total += int(np.prod(kernel)) * int(np.prod(shapes.get(node.output[0], [])[2:]))
        elif node.op_type in ("MatMul", "Gemm") and node.input[1] in weights:
            total += int(np.prod(weights[node.input[1]]))
    return total
