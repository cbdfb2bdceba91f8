"""What a classifier puts out, found by reading its graph from the end; and the scores that it gives out from now on.

There is one answer, an ``Output``: the graph's ``scores`` are made by it, and so are those of the source that they are
compared with. A layer's name or activation says less: a head may be nested, or followed by a ``Reshape``.
"""

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from model_build.errors import InputError
from model_build.export.graph import BATCH, FEATURES, IMAGE, SCORES, Graph, attribute, shapes_of
from model_build.network.session import session

#: What leaves every value as it is, wherever it puts it.
_MOVING: Final = ("Identity", "Cast", "Dropout", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose")
#: Where a layer's own arithmetic begins: what is behind it was computed from its result.
_LAYERS: Final = ("Conv", "Gemm", "MatMul", "MatMulInteger", "ConvInteger", "Einsum")
_POOLING: Final = (
    *("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "AveragePool", "MaxPool"),
    *("ReduceMean", "ReduceMax", "ReduceSum", "ReduceL2"),
)
#: What cuts large values off, which logits need.
_BOUNDING: Final = ("Clip", "Min", "Softsign", "Tanh")
_FLOATS: Final = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
#: Pictures that a graph is tried on, and the version of ONNX's form that it is tried in.
_TRIED: Final = 4
_IR_VERSION: Final = 8
#: How far the sum of a picture's scores may be from 1, in half precision too.
_ROUNDING: Final = 5e-3


@dataclass(frozen=True, slots=True)
class Output:
    """What a model puts out.

    Attributes:
        kind: ``softmax`` (scores), ``log_softmax`` (their logarithms), ``sigmoid`` (of one unit: the score of the
            second of two classes; of several: independent scores) or ``logits`` (what a softmax, or for one unit and
            where they are independent a sigmoid, makes scores of).
        units: values for each picture.
        pooled: whether they come right out of pooling: features that no classifier has looked at, or the classes of a
            network whose classifier is a convolution.
        independent: whether each unit is a score, or a logit, by itself (multi-label), so that a picture may show
            several of the classes.
    """

    kind: str
    units: int
    pooled: bool = False
    independent: bool = False

    @property
    def classes(self) -> int:
        """Number of classes; a single unit stands for two."""
        return max(self.units, 2)

    def scores(self, raw: NDArray[Any]) -> NDArray[np.float32]:
        """The scores that the model's raw output stands for, as the exported graph computes them.

        Args:
            raw: ``[N, units]``, in any shape.

        Returns:
            ``float32 [N, classes]``.

        Raises:
            InputError: the values are none that such an output has, so that the graph was read wrongly.
        """
        values = np.asarray(raw, np.float64).reshape(len(raw), self.units)
        if not np.isfinite(values).all():
            raise InputError("the model puts out values that are infinite or no numbers (NaN) for ordinary pictures")
        sums = (np.exp(values) if self.kind == "log_softmax" else values).sum(axis=1)
        are_scores = self.units > 1 and bool((np.abs(sums - 1) < _ROUNDING).all())
        if self.kind in ("softmax", "log_softmax") and not are_scores:
            raise InputError(f"the model ends in a softmax, but its outputs add up to {sums.max():.4g} instead of 1")
        if (
            self.kind == "logits"
            and not self.independent
            and are_scores
            and bool((values >= 0).all())
            and len(values) > 1
        ):
            raise InputError(
                "the model's outputs add up to 1 for every picture, so they are scores already, but no softmax was "
                "found at its end; export the part in front of what computes them"
            )
        if self.kind == "sigmoid" and not ((values >= 0) & (values <= 1)).all():
            raise InputError(f"the model ends in a sigmoid, but puts out {values.min():.4g} to {values.max():.4g}")
        if self.independent or self.units == 1:
            # Without an overflow, however small a logit is.
            positive = values if self.kind == "sigmoid" else np.exp(-np.logaddexp(0, -values))
            values = positive if self.independent else np.concatenate([1 - positive, positive], axis=1)
        elif self.kind != "softmax":
            exponents = np.exp(values - values.max(axis=1, keepdims=True))
            values = exponents / exponents.sum(axis=1, keepdims=True)
        return values.astype(np.float32)


def add_scores_output(model: onnx.ModelProto, *, multi_label: bool = False) -> Output:
    """Makes the graph's outputs ``scores`` and, where the head averages a feature map, ``features``.

    A head that ends in logits gets its softmax; one with a single unit (binary, sigmoid or logit z) becomes the two
    classes that it stands for: softmax([0, z]) = [1 - sigmoid(z), sigmoid(z)]. A sigmoid over several units stays one:
    the scores are independent.

    Args:
        model: is changed.
        multi_label: whether logits are independent, too, and get a sigmoid each.

    Returns:
        What the model put out before.

    Raises:
        InputError: the model has several outputs, or one that is not ``[batch, classes]``; or it is said to be
            multi-label and has a softmax or a single unit.
    """
    if len(model.graph.output) != 1:
        names = ", ".join(value.name for value in model.graph.output)
        raise InputError(f"the model has {len(model.graph.output)} outputs ({names}); say which with --head NAME")
    graph, shapes = Graph(model), shapes_of(model)
    output, logits = _read(graph, shapes)
    if output.kind == "softmax" and logits == graph.proto.output[0].name:
        # However they were computed: softmax(log(s)) = s.
        smallest = graph.set("smallest_score", np.array(np.finfo(np.float32).tiny))
        logits = graph.add("Log", [graph.add("Max", [logits, smallest], "positive_scores")], "log_scores")
    if multi_label and (output.kind not in ("logits", "sigmoid") or output.units == 1):
        end = "a single unit" if output.units == 1 else "a softmax, which says which one of its classes it is"
        raise InputError(f"--multi-label: the model ends in {end}")
    if output.units > 1 and (multi_label or output.kind == "sigmoid"):
        output = replace(output, independent=True)
    tensor = logits
    if len(shapes.get(tensor, ())) != 2:
        tensor = graph.add("Flatten", [tensor], "flat_logits", axis=1)
    if model.graph.output[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        tensor = graph.add("Cast", [tensor], "float_logits", to=TensorProto.FLOAT)
    if output.units == 1:
        tensor = graph.add("Mul", [tensor, graph.set("binary", np.array([[0.0, 1.0]], np.float32))], "binary_logits")
    if output.independent:
        graph.add("Sigmoid", [tensor], SCORES)
    else:
        graph.add("Softmax", [tensor], SCORES, axis=-1)
    del graph.proto.output[:]
    # First: most servers take a file's first output for its answer.
    graph.proto.output.append(helper.make_tensor_value_info(SCORES, TensorProto.FLOAT, [BATCH, output.classes]))
    if pooling := _head_pooling(graph):
        graph.add("Identity", [pooling.input[0]], FEATURES)
        graph.proto.output.append(helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, [BATCH, None, None, None]))
    return output


def _read(graph: Graph, shapes: dict[str, list[int]]) -> tuple[Output, str]:
    """What the graph's only output is, and the tensor of its logits."""
    value = graph.proto.output[0]
    if value.type.tensor_type.elem_type not in _FLOATS:
        raise InputError(
            "the model puts out something else than numbers with a fraction; scores or logits are expected"
        )
    units = _units(shapes.get(value.name, []))
    tensor = value.name
    node = graph.producer.get(tensor)
    while node is not None and node.op_type in _MOVING:
        tensor = node.input[0]
        node = graph.producer.get(tensor)
    if node is None:
        raise InputError("the model gives its input back; a classifier is expected")
    if softmax := _softmax_input(graph, tensor):
        if units == 1:
            raise InputError("the model ends in a softmax over a single unit, which is 1 for every picture")
        shape, axis = shapes.get(softmax, []), attribute(node, "axis", -1)
        if node.op_type in ("Softmax", "LogSoftmax") and shape and shape[axis] != units:
            raise InputError(f"the model's softmax is over axis {axis} of {shape}, which is not that of its classes")
        return Output("log_softmax" if node.op_type in ("LogSoftmax", "Log") else "softmax", units), softmax
    if node.op_type == "Sigmoid":
        return Output("sigmoid", units), node.input[0]
    if node.op_type in ("ArgMax", "ArgMin", "TopK", "HardSigmoid", "NonMaxSuppression", "OneHot"):
        raise InputError(f"the model ends in {node.op_type}, which leaves no scores; export the part in front of it")
    if units > 1 and _adds_up(graph):
        return Output("softmax", units), value.name
    if softmax_node := _softmax_before(graph, node):
        raise InputError(
            f"the model computes with its softmax ({softmax_node} -> {node.op_type}), so that what it puts out are no "
            "scores of one; export the part in front of that"
        )
    moved = shapes.get(tensor, [])
    if len([side for side in moved[1:] if side != 1]) > 1:
        raise InputError(
            f"the model puts out a feature map of {moved[1:]}; a classifier is expected (a head is missing)"
        )
    if bound := _bound(graph, node):
        raise InputError(
            f"the model ends in {bound}, so that what it puts out are neither scores nor logits; export the part in "
            "front of it, or give its last layer a softmax or a sigmoid"
        )
    return Output("logits", units, pooled=node.op_type in _POOLING), tensor


def _bound(graph: Graph, node: onnx.NodeProto) -> str | None:
    """The operation at the end that cuts values off, whatever constants change them after it; None where there is none.

    Keras's ``hard_sigmoid`` is ``relu6(x + 3) / 6``, in its version 2 ``clip(0.2 x + 0.5, 0, 1)``.
    """
    while node.op_type not in _BOUNDING:
        made = [graph.producer[name] for name in node.input if name in graph.producer]
        if node.op_type not in ("Add", "Sub", "Mul", "Div") or len(made) != 1:
            return None
        (node,) = made
    return str(node.op_type)


def _adds_up(graph: Graph) -> bool:
    """Whether the outputs for a few random pictures are positive and add up to 1, as scores do; not if it cannot run.

    So do those of an ensemble (the mean of several softmaxes), or of a sigmoid beside what it leaves.
    """
    model = helper.make_model(graph.proto, opset_imports=[helper.make_opsetid("", graph.opset)], ir_version=_IR_VERSION)
    try:
        runner = session(model)
        given = runner.get_inputs()[0]
        shape = [_TRIED, *(side if isinstance(side, int) else 1 for side in given.shape[1:])]
        pixels = np.random.default_rng(0).integers(0, 256, shape)
        kind = np.uint8 if "uint8" in given.type else np.float32
        values = np.asarray(runner.run(None, {given.name: pixels.astype(kind)})[0], np.float64).reshape(_TRIED, -1)
    except Exception:  # noqa: BLE001 - then the graph alone has to say what it puts out
        return False
    return bool((values >= 0).all() and (np.abs(values.sum(axis=1) - 1) < _ROUNDING).all())


def _units(shape: list[int]) -> int:
    """Values for each picture, of an output of this shape (0: unknown)."""
    sides = shape[1:]
    if not sides or not all(sides) or len([side for side in sides if side != 1]) > 1:
        shown = ["batch" if i == 0 else side or "?" for i, side in enumerate(shape)]
        raise InputError(f"the model's output has the shape {shown}; a classifier's is [batch, classes]")
    return int(np.prod(sides))


def _softmax_input(graph: Graph, tensor: str) -> str | None:
    """What a softmax that computes ``tensor`` reads; None where there is none. It may be in parts, or a logarithm."""
    node = graph.producer[tensor]
    if node.op_type == "Log":
        node = graph.producer.get(node.input[0], node)
    if node.op_type in ("Softmax", "LogSoftmax"):
        return str(node.input[0])
    # exp(x) / sum(exp(x)), where x may have been made small by subtracting its maximum.
    if node.op_type != "Div":
        return None
    exponent, total = (graph.producer.get(name) for name in node.input)
    if exponent is None or total is None or (exponent.op_type, total.op_type) != ("Exp", "ReduceSum"):
        return None
    if total.input[0] != exponent.output[0]:
        return None
    shift = graph.producer.get(exponent.input[0])
    if shift is not None and shift.op_type == "Sub":
        largest = graph.producer.get(shift.input[1])
        if largest is not None and largest.op_type == "ReduceMax" and largest.input[0] == shift.input[0]:
            return str(shift.input[0])
    return str(exponent.input[0])


def _softmax_before(graph: Graph, node: onnx.NodeProto) -> str | None:
    """The softmax from which ``node`` is computed without a layer between them; None where there is none."""
    pending, seen = [node], set()
    while pending:
        current = pending.pop()
        if current.op_type in ("Softmax", "LogSoftmax"):
            return str(current.op_type)
        if id(current) in seen or current.op_type in _LAYERS or current.op_type in _POOLING[:5]:
            continue
        seen.add(id(current))
        pending += [graph.producer[name] for name in current.input if name in graph.producer]
    return None


def _head_pooling(graph: Graph) -> onnx.NodeProto | None:
    """The global average pooling through which all that the scores see of the picture goes; None where there is none.

    Others pool as well: a squeeze-and-excitation block in the middle of a network.
    """
    poolings: list[onnx.NodeProto] = [node for node in graph.proto.node if node.op_type == "GlobalAveragePool"]
    for pooling in reversed(poolings):
        pending, seen = [SCORES], set()
        while pending:
            name = pending.pop()
            node = graph.producer.get(name)
            if name in seen or node is None or node is pooling:
                continue
            seen.add(name)
            pending += node.input
        if IMAGE not in seen and pooling.output[0] in _read_by(graph, seen):
            return pooling
    return None


def _read_by(graph: Graph, tensors: set[str]) -> set[str]:
    return {name for tensor in tensors for name in graph.producer[tensor].input}
