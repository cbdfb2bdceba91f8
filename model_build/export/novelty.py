"""How unlike everything that it knows a photo is to a model, computed by its graph; from where on that is unknown.

A class's weights point to where in the space of features its photos lie. So a photo that lies far from the direction
of all of them shows something else, however large its best score is: softmax only compares the classes. ``add`` gives
a graph the output ::

    novelty float32 [N]  1 - max over c of cos(f - centre, w[c])

``f`` is what the linear classifier reads, behind global average pooling, ``w[c]`` its weights for class ``c``, and
``centre`` the mean of ``f`` over photos of all sorts, without which all photos look alike. With
``logit[c] = f w[c] + b[c]`` the cosine is ``(logit[c] - b[c] - centre w[c]) / (|w[c]| |f - centre|)``, so that no
product of matrices is computed for it. Nothing else is fitted, to photos of known or of other things;
``python -m bench.novelty`` compares it with what others do, docs/unknown.md has the table.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from app.inference.contract import Contract
from app.inference.model import INPUT, NOVELTY
from model_build.dataset import parts
from model_build.dataset.intervals import wilson
from model_build.export import class_activation_map
from model_build.export.graph import BATCH, SCORES, Graph, attribute, canonicalise
from model_build.network.session import session

Float = NDArray[np.float64]

#: Fewer photos say nothing about a share of 5 %.
FEWEST: Final = 50
#: Photos for the centre, at most.
TYPICAL: Final = 200
#: A shorter vector has no direction.
_SHORTEST: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Head:
    """The linear classifier of a graph.

    Attributes:
        pooled: name of the tensor that it reads, ``float32 [N, D]`` or ``[N, D, 1, 1]``.
        logits: name of the tensor that the softmax reads, ``float32 [N, C]``.
        weight: ``float64 [D, C]``.
        bias: ``float64 [C]``.
    """

    pooled: str
    logits: str
    weight: Float
    bias: Float

    @classmethod
    def of(cls, model: onnx.ModelProto) -> "Head | None":
        """That of an exported graph; None where there is no linear classifier behind global average pooling."""
        graph = Graph(model)
        layer = class_activation_map.classifier(graph)
        if layer is None:
            return None
        weight = _value(graph, layer.input[1], layer.op_type == "Conv" or bool(attribute(layer, "transB", 0)))
        bias = _value(graph, layer.input[2], True) if len(layer.input) > 2 else np.zeros(weight.shape[1])
        return cls(layer.input[0], graph.producer[SCORES].input[0], weight, bias.ravel())


@dataclass(frozen=True, slots=True)
class Refusal:
    """By which photos a model learns what to refuse.

    Attributes:
        typical: ``uint8 [N, H, W, 3]``, of all sorts, for the centre.
        known: ``uint8 [N, H, W, 3]``, ``FEWEST`` or more, of what the model knows, for the threshold.
        foreign: ``uint8 [N, H, W, 3]``, of other things, to measure on; None: they are not at hand.
        share: of the known photos that may be refused, 0 to 1.
    """

    typical: NDArray[np.uint8]
    known: NDArray[np.uint8]
    foreign: NDArray[np.uint8] | None
    share: float

    @classmethod
    def of(
        cls,
        typical: NDArray[np.uint8],
        learned: NDArray[np.uint8],
        known: NDArray[np.uint8],
        foreign: NDArray[np.uint8] | None,
        share: float,
    ) -> "Refusal | None":
        """Leaves those of the known photos out that the model has learned from; None where too few are left.

        Args:
            typical: of all sorts, no near-duplicates; at most ``TYPICAL`` of them, at even distances, are taken.
            learned: ``uint8 [M, H, W, 3]``, photos that have calibrated or trained the model.
            known, foreign, share: see ``Refusal``.
        """
        seen = set(parts.digests(learned))
        kept = [digest not in seen for digest in parts.digests(known)]
        evenly = np.linspace(0, len(typical) - 1, min(TYPICAL, len(typical))).round().astype(int)
        return cls(typical[evenly], known[kept], foreign, share) if sum(kept) >= FEWEST else None


@dataclass(frozen=True, slots=True)
class Refusing:
    """A graph that computes how novel a photo is, or one that does not.

    Attributes:
        proto: the graph.
        threshold: a photo of a higher novelty is unknown; None where the graph computes none.
        measured: on how many photos the threshold was chosen, and what it refuses of others.
    """

    proto: onnx.ModelProto
    threshold: float | None = None
    measured: Mapping[str, Any] = field(default_factory=dict)

    def contract(self, draft: Contract) -> Contract:
        """The contract with the threshold; as it is where there is none."""
        if self.threshold is None:
            return draft
        return replace(
            draft,
            unknown_above=self.threshold,
            unknown_below=0.0,
            measured={**draft.measured, "unknown": self.measured},
        )


def refusing(model: onnx.ModelProto, refusal: Refusal | None, track: Any = iter) -> Refusing:
    """Adds the output and chooses its threshold: the quantile of the known photos' novelty.

    Args:
        model: an exported graph; it stays as it is where no linear classifier stands behind global average pooling.
        refusal: the photos; those of what the model knows have calibrated and trained nothing. None: it stays as it is.
        track: wraps an iteration over pictures, to show progress; there are two or three.
    """
    head = Head.of(model)
    if head is None or refusal is None:
        return Refusing(model)
    proto = add(model, outputs(model, [head.pooled], refusal.typical, track)[0].mean(axis=0, dtype=np.float64))
    (known,) = outputs(proto, [NOVELTY], refusal.known, track)
    threshold = round(float(np.quantile(known, 1 - refusal.share)), 6)
    measured: dict[str, Any] = {"chosen_on": len(known), "share": refusal.share}
    if refusal.foreign is not None:
        (foreign,) = outputs(proto, [NOVELTY], refusal.foreign, track)
        refused = int((foreign > threshold).sum())
        interval = [round(end, 6) for end in wilson(refused, len(foreign))]
        measured |= {"foreign": len(foreign), "foreign_refused": round(refused / len(foreign), 6), "interval": interval}
    return Refusing(proto, threshold, measured)


def add(model: onnx.ModelProto, centre: NDArray[np.floating]) -> onnx.ModelProto:
    """A copy of an exported graph with the output ``novelty``.

    Args:
        model: a graph with a ``Head``.
        centre: ``[D]``.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model)
    head = Head.of(proto)
    if head is None:
        raise ValueError("the graph has no linear classifier behind global average pooling")
    graph = Graph(proto)
    lengths = np.maximum(np.linalg.norm(head.weight, axis=0), _SHORTEST)

    def constant(name: str, value: Any) -> str:
        return graph.set(f"novelty_{name}", np.asarray(value, np.float32))

    features = graph.add("Flatten", [head.pooled], "novelty_features", axis=1)
    difference = graph.add("Sub", [features, constant("centre", centre)], "novelty_difference")
    distance = graph.reduce("ReduceL2", difference, "novelty_distance", 1)
    distance = graph.add("Max", [distance, constant("shortest", _SHORTEST)], "novelty_divisor")
    product = graph.add("Sub", [head.logits, constant("shift", head.bias + centre @ head.weight)], "novelty_products")
    product = graph.add("Div", [product, constant("lengths", lengths)], "novelty_projections")
    best = graph.reduce("ReduceMax", product, "novelty_best", 1)
    cosine = graph.add("Div", [best, distance], "novelty_cosine")
    graph.add("Sub", [constant("one", 1), cosine], NOVELTY)
    graph.proto.output.append(helper.make_tensor_value_info(NOVELTY, TensorProto.FLOAT, [BATCH]))
    canonicalise(proto)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def outputs(
    model: onnx.ModelProto, names: list[str], pixels: NDArray[np.uint8], track: Any = iter
) -> list[NDArray[np.float32]]:
    """Tensors of a graph, which may be inside it, picture by picture as in service: ``float32 [N, ...]``, flattened."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    runner = session(probe)
    rows = [runner.run(names, {INPUT: picture[np.newaxis]}) for picture in track(pixels)]
    return [np.stack([value.squeeze() for value in column]) for column in zip(*rows, strict=True)]


def _value(graph: Graph, name: str, classes_first: bool) -> Float:
    """A constant of a linear layer, dequantized where it is quantized, with its classes along the last axis."""
    if name in graph.constants:
        value = graph.array(name).astype(np.float64)
    else:
        node = graph.producer[name]
        stored, *grid = (graph.array(part).astype(np.float64) for part in node.input)
        if grid[0].size > 1:
            shape = [1] * stored.ndim
            shape[attribute(node, "axis", 1)] = -1
            grid = [part.reshape(shape) for part in grid]
        value = (stored - sum(grid[1:])) * grid[0]
    value = value.reshape(value.shape[:2]) if value.ndim > 2 else value
    return value.T if classes_first else value
