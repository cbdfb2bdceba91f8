"""The head of an exported graph, behind global average pooling: removes it and attaches another."""

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from app.inference.model import NOVELTY
from model_build.errors import InputError
from model_build.export.graph import BATCH, FEATURES, SCORES, Graph, canonicalise
from model_build.training.class_means import SHORTEST
from model_build.training.linear import Linear
from model_build.training.novelty import BACKGROUND, Novelty

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
    trained = _upstream(graph, SCORES)
    removed = 0
    pending = graph.consumers(tensor)
    while pending:
        node = pending.pop()
        if node not in graph.proto.node:
            continue
        if node.op_type in ("Gemm", "MatMul", "Add", "Conv") and node.output[0] in trained:
            removed += sum(_values(graph, name) for name in node.input)
        pending += [consumer for name in node.output for consumer in graph.consumers(name)]
        graph.proto.node.remove(node)
    graph.add("Flatten", [tensor], POOLED, axis=1)
    # What explained the old head's scores went with it.
    del graph.proto.input[1:]
    del graph.proto.output[:]
    graph.proto.output.extend([*kept, helper.make_tensor_value_info(POOLED, TensorProto.FLOAT, [BATCH, None])])
    return Trunk(proto, removed)


def attach_head(trunk: Trunk, head: Linear, refusal: Novelty | None = None) -> onnx.ModelProto:
    """A complete graph again, whose ``scores`` are the softmax of ``head``'s logits.

    Args:
        trunk: what computes the features.
        head: the classifier.
        refusal: where given, the graph also has the output ``novelty`` (``float32 [batch]``), what it says.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(trunk.proto)
    del proto.metadata_props[:]
    graph = Graph(proto)
    weight = graph.set("head_weight", head.weight.astype(np.float32))
    bias = graph.set("head_bias", head.bias.astype(np.float32))
    graph.add("Gemm", [POOLED, weight, bias], "head_logits")
    graph.add("Softmax", ["head_logits"], SCORES, axis=-1)
    novelty = [] if refusal is None else [_add_novelty(graph, refusal)]
    kept = [value for value in graph.proto.output if value.name == FEATURES]
    del graph.proto.output[:]
    classes = len(head.bias)
    # The scores first, as ``output.add_scores_output`` has them.
    scores = helper.make_tensor_value_info(SCORES, TensorProto.FLOAT, [BATCH, classes])
    graph.proto.output.extend([scores, *kept, *novelty])
    canonicalise(proto)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _add_novelty(graph: Graph, refusal: Novelty) -> onnx.ValueInfoProto:
    """Adds the nodes that compute ``Novelty.__call__``, and returns their output."""
    means = refusal.means
    shortest = graph.set("novelty_shortest", np.array(SHORTEST, np.float32))

    def cosines(vectors: str, weight: NDArray[np.float64], name: str) -> str:
        directions = graph.set(f"{name}_means", weight.astype(np.float32))
        length = graph.reduce("ReduceL2", vectors, f"{name}_length", 1, keep=True)
        length = graph.add("Max", [length, shortest], f"{name}_divisor")
        return graph.add("Div", [graph.add("MatMul", [vectors, directions], f"{name}_products"), length], name)

    features = POOLED
    if means.variety.shape[1]:
        variety = graph.set("novelty_variety", means.variety.astype(np.float32))
        along = graph.add("MatMul", [POOLED, variety], "novelty_along")
        features = graph.add("Gemm", [along, variety, POOLED], "novelty_features", alpha=-1.0, transB=1)
    centred, plain = means.weights
    centre = graph.set("novelty_centre", means.centre.astype(np.float32))
    differences = graph.add("Sub", [features, centre], "novelty_differences")
    parts = [cosines(differences, centred, "novelty_centred"), cosines(features, plain, "novelty_plain")]
    best = graph.reduce("ReduceMax", graph.add("Add", parts, "novelty_likeness"), "novelty_best", 1)
    one = graph.set("novelty_one", np.array(1, np.float32))
    if refusal.background is None:
        graph.add("Sub", [one, best], NOVELTY)
    else:
        unlike = graph.add("Sub", [one, best], "novelty_unlike")
        graph.add("Add", [unlike, _background(graph, refusal.background)], NOVELTY)
    return helper.make_tensor_value_info(NOVELTY, TensorProto.FLOAT, [BATCH])


def _background(graph: Graph, background: Linear) -> str:
    """Adds the nodes that compute the weighted probability of showing none of the classes."""
    weight = graph.set("background_weight", background.weight.astype(np.float32))
    bias = graph.set("background_bias", background.bias.astype(np.float32))
    logits = graph.add("Gemm", [POOLED, weight, bias], "background_logits")
    shares = graph.add("Softmax", [logits], "background_shares", axis=-1)
    last = graph.set("background_last", np.array(len(background.bias) - 1, np.int64))
    factor = graph.set("background_factor", np.array(BACKGROUND, np.float32))
    return graph.add("Mul", [graph.add("Gather", [shares, last], "background", axis=1), factor], "novelty_background")


def _upstream(graph: Graph, name: str) -> set[str]:
    """All values that are needed to compute ``name``, itself too."""
    found: set[str] = set()
    pending = [name]
    while pending:
        value = pending.pop()
        if value not in found:
            found.add(value)
            pending += graph.producer[value].input if value in graph.producer else []
    return found


def _values(graph: Graph, name: str) -> int:
    """How many values the constant ``name`` has, quantized or not; 0 if it is none."""
    if name in graph.producer and graph.producer[name].op_type == "DequantizeLinear":
        name = graph.producer[name].input[0]
    return int(np.prod(graph.constants[name].dims)) if name in graph.constants else 0
