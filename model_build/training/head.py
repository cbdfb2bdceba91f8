"""The head of an exported graph, behind global average pooling: removes it and attaches another."""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from model_build.errors import InputError
from model_build.export.graph import BATCH, FEATURES, SCORES, Graph, canonicalise
from model_build.training.linear import Linear

POOLED = "pooled"


@dataclass(frozen=True, slots=True)
class Trunk:
    """A graph without its head.

    Attributes:
        proto: its outputs are ``features`` and ``pooled`` (``float32 [batch, D]``: their mean over height and width).
        removed: number of trained values that the head had.
    """

    proto: onnx.ModelProto
    removed: int


def remove_head(model: onnx.ModelProto) -> Trunk:
    """Cuts a model behind its pooling; in an int8 model, behind the rounding of what was pooled.

    Raises:
        InputError: the model has no output ``features``, or does not average it.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model)
    graph = Graph(proto)
    kept = [value for value in graph.proto.output if value.name == FEATURES]
    if not kept:
        raise InputError(
            f"the model has no output '{FEATURES}', so there is nothing to learn from: it was exported by an earlier "
            "version. Export it again with `python -m model_build export`."
        )
    tensor = FEATURES
    while graph.producer[tensor].op_type == "Identity":
        tensor = graph.producer[tensor].input[0]
    pooling = next((node for node in graph.consumers(tensor) if node.op_type == "GlobalAveragePool"), None)
    if pooling is None:
        raise InputError(f"the model's '{FEATURES}' are not averaged by its head; only such heads can be replaced")
    tensor = pooling.output[0]
    consumers = graph.consumers(tensor)
    if [node.op_type for node in consumers] == ["QuantizeLinear"]:
        tensor = graph.consumers(consumers[0].output[0])[0].output[0]
    removed = 0
    pending = graph.consumers(tensor)
    while pending:
        node = pending.pop()
        if node not in graph.proto.node:
            continue
        if node.op_type in ("Gemm", "MatMul", "Add", "Conv"):
            removed += sum(_values(graph, name) for name in node.input)
        pending += [consumer for name in node.output for consumer in graph.consumers(name)]
        graph.proto.node.remove(node)
    graph.add("Flatten", [tensor], POOLED, axis=1)
    # What explained the old head's scores went with it.
    del graph.proto.input[1:]
    del graph.proto.output[:]
    graph.proto.output.extend([*kept, helper.make_tensor_value_info(POOLED, TensorProto.FLOAT, [BATCH, None])])
    return Trunk(proto, removed)


def attach_head(trunk: Trunk, head: Linear) -> onnx.ModelProto:
    """A complete graph again, whose ``scores`` are the softmax of ``head``'s logits."""
    proto = onnx.ModelProto()
    proto.CopyFrom(trunk.proto)
    del proto.metadata_props[:]
    graph = Graph(proto)
    weight = graph.set("head_weight", head.weight.astype(np.float32))
    bias = graph.set("head_bias", head.bias.astype(np.float32))
    graph.add("Gemm", [POOLED, weight, bias], "head_logits")
    graph.add("Softmax", ["head_logits"], SCORES, axis=-1)
    kept = [value for value in graph.proto.output if value.name == FEATURES]
    del graph.proto.output[:]
    classes = len(head.bias)
    # The scores first, as ``output.add_scores_output`` has them.
    graph.proto.output.extend([helper.make_tensor_value_info(SCORES, TensorProto.FLOAT, [BATCH, classes]), *kept])
    canonicalise(proto)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _values(graph: Graph, name: str) -> int:
    """How many values the constant ``name`` has, quantized or not; 0 if it is none."""
    if name in graph.producer and graph.producer[name].op_type == "DequantizeLinear":
        name = graph.producer[name].input[0]
    return int(np.prod(graph.constants[name].dims)) if name in graph.constants else 0
