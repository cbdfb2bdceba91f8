"""Where in the picture the evidence for a class lies: class activation maps (Zhou et al. 2016, arXiv:1512.04150).

Behind global average pooling a linear classifier's logit is a mean over the cells of the feature map::

    logit[c] = mean over y, x of (sum over d of features[d, y, x] * weight[d, c]) + bias[c]

so what each cell adds to it is known exactly. ``add`` gives a graph the outputs that say so::

    evidence_class int64   [1]        optional input: the class; by default -1, the one with the best score
    evidence       float32 [N, h, w]  sum over d of features[d] * weight[d, class], for each cell
    evidence_bias  float32 [N]        logit[class] - mean over the cells of evidence

The logit is the one that the softmax reads, divided by the temperature already. So ``evidence_bias`` is the
classifier's own bias; in an int8 graph also what rounding the pooled features to 8 bits changes.

Whoever asks for ``scores`` alone pays nothing: the branch reads one column of the weights and changes no other node.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper

from app.inference.model import EVIDENCE, EVIDENCE_BIAS, EVIDENCE_CLASS
from model_build.export.graph import BATCH, FEATURES, SCORES, Graph, attribute, canonicalise

#: What may stand between pooling, classifier and softmax: it moves values or rounds them, and mixes none.
_PASS_THROUGH = ("Identity", "Squeeze", "Reshape", "Flatten", "QuantizeLinear", "DequantizeLinear")


def add(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of an exported graph with the outputs above; without them where its head is no pooling and classifier."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model)
    graph = Graph(proto)
    layer = classifier(graph)
    if layer is None:
        return proto
    class_ = graph.set(EVIDENCE_CLASS, np.array([-1], np.int64))
    # An initializer that is an input too is that input's default.
    graph.proto.input.append(helper.make_tensor_value_info(class_, TensorProto.INT64, [1]))
    best = graph.add("ArgMax", [SCORES], "evidence_best", axis=1, keepdims=0)
    none = graph.add("Less", [class_, graph.set("evidence_zero", np.array(0, np.int64))], "evidence_none")
    chosen = graph.add("Where", [none, best, class_], "evidence_chosen")

    first, last = (graph.set(f"evidence_axes_{n}", np.array(axes, np.int64)) for n, axes in enumerate([[1], [2, 3]]))
    column = graph.add("Mul", [_pooled(graph), _column(graph, layer, chosen, last)], "evidence_products")
    graph.add("ReduceSum", [column, first], EVIDENCE, keepdims=0)

    logits = graph.producer[SCORES].input[0]
    where = graph.add("Unsqueeze", [chosen, first], "evidence_where")
    logit = graph.add("GatherElements", [logits, where], "evidence_logits", axis=1)
    logit = graph.add("Squeeze", [logit, first], "evidence_logit")
    mean = graph.reduce("ReduceMean", EVIDENCE, "evidence_mean", 1, 2)
    graph.add("Sub", [logit, mean], EVIDENCE_BIAS)
    graph.proto.output.append(helper.make_tensor_value_info(EVIDENCE, TensorProto.FLOAT, [BATCH, None, None]))
    graph.proto.output.append(helper.make_tensor_value_info(EVIDENCE_BIAS, TensorProto.FLOAT, [BATCH]))
    canonicalise(proto)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _pooled(graph: Graph) -> str:
    """The tensor that is averaged, behind the graph's output ``features``."""
    tensor: str = graph.producer[FEATURES].input[0]
    return tensor


def classifier(graph: Graph) -> onnx.NodeProto | None:
    """The linear classifier between the pooled features and the softmax; None where there is anything else."""
    if FEATURES not in graph.producer:
        return None
    layer = _producer(graph, graph.producer[SCORES].input[0])
    if layer is None or layer.op_type not in ("Gemm", "MatMul", "Conv"):
        return None
    pool = _producer(graph, layer.input[0])
    if pool is None or pool.op_type != "GlobalAveragePool" or pool.input[0] != _pooled(graph):
        return None
    plain = all(attribute(layer, name, 1) == 1 for name in ("alpha", "group"))
    return layer if plain and _weight(graph, layer) in graph.constants else None


def _producer(graph: Graph, tensor: str) -> onnx.NodeProto | None:
    """The node that computes ``tensor``, past those that only move or round values."""
    node = graph.producer.get(tensor)
    while node is not None and node.op_type in _PASS_THROUGH:
        node = graph.producer.get(node.input[0])
    return node


def _weight(graph: Graph, layer: onnx.NodeProto) -> str:
    """The name of a layer's weights, as they are stored."""
    dequantize = graph.producer.get(layer.input[1])
    name: str = dequantize.input[0] if dequantize is not None else layer.input[1]
    return name


def _column(graph: Graph, layer: onnx.NodeProto, chosen: str, last: str) -> str:
    """The weights of the chosen class: ``float32 [N, D, 1, 1]``. Of int8 weights no others are dequantized."""
    axis = 0 if layer.op_type == "Conv" or attribute(layer, "transB", 0) else 1
    column = graph.add("Gather", [_weight(graph, layer), chosen], "evidence_weight", axis=axis)
    if axis == 1:
        column = graph.add("Transpose", [column], "evidence_row", perm=[1, 0])
    if layer.op_type != "Conv":
        column = graph.add("Unsqueeze", [column, last], "evidence_column")
    dequantize = graph.producer.get(layer.input[1])
    if dequantize is None:
        return column
    # Last: ONNX Runtime moves a DequantizeLinear through a Transpose without its axis.
    names = list(dequantize.input[1:])
    if any(graph.constants[name].dims for name in names if name in graph.constants):
        names = [graph.add("Gather", [name, chosen], f"evidence_grid_{i}", axis=0) for i, name in enumerate(names)]
    return graph.add("DequantizeLinear", [column, *names], "evidence_dequantized", axis=0)
