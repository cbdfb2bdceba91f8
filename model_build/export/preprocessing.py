"""From the pixels that the service has to those that a model was trained on, inside the graph.

The service has ``uint8 [batch, H, W, 3]``, RGB. Models want them in another range, in another order (BGR), as grey, or
with the planes first, and mostly bring some of that arithmetic themselves. Whatever of it is the same everywhere in the
picture and linear is one ``Affine``, and goes into the first convolution's weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from model_build.export.graph import BATCH, IMAGE, Graph, attribute, set_attribute
from model_build.network.session import session

#: What computes in double precision too; anything else is measured in single.
_PER_PIXEL: Final = frozenset(
    (
        *("Add", "BatchNormalization", "Cast", "Concat", "ConstantOfShape", "Div", "Expand", "Flatten", "Gather"),
        *("Identity", "Max", "Min", "Mul", "Neg", "Pow", "Reciprocal", "Reshape", "Shape", "Slice", "Split", "Sqrt"),
        *("Squeeze", "Sub", "Transpose", "Unsqueeze"),
    )
)
_LAYERS: Final = (
    "Conv",
    "ConvTranspose",
    "Gemm",
    "MatMul",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "QLinearConv",
)
#: Of single precision, as a share of the largest value.
_ROUNDING: Final = 2e-6
_ARITHMETIC: Final = ("Add", "BatchNormalization", "Div", "Mul", "Sub")


@dataclass(frozen=True)
class Affine:
    """``matrix @ pixel + shift``: what a model makes of a pixel before its first layer.

    Attributes:
        matrix: float64 ``[K, 3]``; ``[K, K]`` where the pixel has been through another one.
        shift: float64 ``[K]``; ``K`` is 3, or 1 for grey.
    """

    matrix: NDArray[np.float64]
    shift: NDArray[np.float64]

    @classmethod
    def per_channel(cls, scale: Any, shift: Any) -> "Affine":
        """``scale * x + shift``, a number or one for each of the three channels."""
        return cls(np.diag(np.broadcast_to(np.asarray(scale, np.float64), 3)), np.zeros(3) + shift)

    def then(self, after: "Affine") -> "Affine":
        """This one, followed by another."""
        return Affine(after.matrix @ self.matrix, after.matrix @ self.shift + after.shift)

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixels as the model wants them: ``float32 [..., K]`` for ``uint8 [..., 3]``."""
        return (pixels.astype(np.float64) @ self.matrix.T + self.shift).astype(np.float32)

    @property
    def is_identity(self) -> bool:
        """Whether pixels stay as they are."""
        return self.matrix.shape == (3, 3) and bool(np.all(self.matrix == np.eye(3)) and np.all(self.shift == 0.0))

    @property
    def reorders(self) -> bool:
        """Whether values stay as they are, though they may be in another order."""
        return bool(np.isin(self.matrix, (0, 1)).all() and (self.shift == 0).all())

    @property
    def centre(self) -> NDArray[np.float64] | None:
        """The pixel, float64 ``[3]``, that becomes zero; None where there is none."""
        if len(self.matrix) == 1:
            total = self.matrix.sum()
            return None if total == 0 else np.full(3, -self.shift[0] / total)
        if np.linalg.matrix_rank(self.matrix) < 3:
            return None
        return np.asarray(np.linalg.solve(self.matrix, -self.shift), np.float64)


#: ITU-R BT.601, as Pillow and OpenCV make grey of RGB.
GREY: Final = Affine(np.array([[0.299, 0.587, 0.114]]), np.zeros(1))
BGR: Final = Affine(np.eye(3)[::-1], np.zeros(3))


#: What a model without preprocessing of its own may have been trained on: pixel values of 0 to 255 as ...
PIXEL_RANGES: Final = {
    "-1..1": Affine.per_channel(1 / 127.5, -1.0),
    "0..1": Affine.per_channel(1 / 255, 0.0),
    "0..255": Affine.per_channel(1.0, 0.0),
}
#: torchvision's and timm's: of pixel values of 0 to 1, by channel.
IMAGENET: Final = Affine.per_channel(
    1 / (255 * np.array([0.229, 0.224, 0.225])), -np.array([0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
)


@dataclass(frozen=True)
class Front:
    """What stands in front of a model's layers.

    Attributes:
        own: the model's own arithmetic, as far as it was removed.
        first: the convolution into which it goes; None where nothing was removed.
        arithmetic: whether the model changes its pixels' values itself, removed or not.
    """

    own: Affine
    first: onnx.NodeProto | None
    arithmetic: bool


def remove_preprocessing(model: onnx.ModelProto, height: int, width: int, *, planes_first: bool = False) -> Front:
    """Removes the preprocessing between the graph's input and its first convolution, where it is an ``Affine``.

    It is not read but measured, in double precision where that can be: a black picture and one in each colour say what
    the map is, one of random pixels whether that is all. So it does not matter which operators compute it.

    Args:
        model: its input has 1 or 3 channels.
        height: rows of the input.
        width: columns of the input.
        planes_first: whether the input is NCHW.

    Returns:
        What was removed (a ``Rescaling`` or ``Normalization`` layer, ``preprocess_input``; the identity if there was
        nothing), and the convolution, whose first input is left for the caller to connect.
    """
    graph = Graph(model)
    source = graph.proto.input[0].name
    channels = int(_channels(graph.proto.input[0], planes_first) or 3)
    same = Affine(np.eye(channels), np.zeros(channels))
    front = _front(graph, source)
    if front is None:
        return Front(same, None, _changes_values(graph, source))
    nodes, first = front
    measured = _measure(graph, nodes, source, first, (height, width, channels), planes_first)
    if measured is None:
        return Front(same, None, _changes_values(graph, source))
    for node in nodes:
        graph.proto.node.remove(node)
    for node in graph.consumers(source):
        if _reads_batch(node):
            node.input[0] = IMAGE
    return Front(measured, first, not measured.reorders)


def add_image_input(
    model: onnx.ModelProto, front: Front, pixels: Affine, height: int, width: int, *, planes_first: bool = False
) -> None:
    """Gives the graph its uint8 NHWC input and turns that into what the model was trained on.

    ``matrix @ x + shift`` becomes ``x - centre`` in front of the first convolution and ``matrix`` inside its weights.
    The subtraction stays outside because the convolution pads with zeros, which have to mean the same before and after.

    Args:
        model: its preprocessing has been removed as far as possible.
        front: what was found.
        pixels: what pixels become before anything that is still in the graph.
        height: rows.
        width: columns.
        planes_first: whether the model's own input is NCHW, where it is kept.
    """
    graph = Graph(model)
    old = graph.proto.input[0]
    centre = pixels.centre
    if front.first is not None and centre is not None:
        tensor = graph.add("Transpose", [IMAGE], "image_nchw", perm=[0, 3, 1, 2])
        # NCHW from here on. uint8 is transposed before the cast: a quarter of the bytes.
        tensor = graph.add("Cast", [tensor], "image_float", to=TensorProto.FLOAT)
        if centre.any():
            constant = graph.set("image_centre", centre.astype(np.float32).reshape(1, 3, 1, 1))
            tensor = graph.add("Sub", [tensor, constant], "image_centred")
        weight = np.einsum("okhw,kc->ochw", graph.array(front.first.input[1]).astype(np.float64), pixels.matrix)
        front.first.input[0] = tensor
        front.first.input[1] = graph.set("first_weight", weight.astype(np.float32))
    else:
        tensor = _prepared(graph, pixels, old.type.tensor_type.elem_type, planes_first=planes_first)
        readers = [front.first] if front.first is not None else graph.consumers(old.name)
        for node in readers:
            for i, name in enumerate(node.input):
                if name == old.name or (node is front.first and i == 0):
                    node.input[i] = tensor
    shape: list[str | int | None] = [BATCH, height, width, 3]
    del graph.proto.input[:]
    graph.proto.input.append(helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, shape))


def _prepared(graph: Graph, pixels: Affine, kind: int, *, planes_first: bool) -> str:
    """Adds the arithmetic itself, where no convolution takes it; returns the tensor that the model's layers read."""
    tensor = IMAGE
    if not pixels.is_identity:
        tensor = graph.add("Cast", [tensor], "image_float", to=TensorProto.FLOAT)
        matrix = graph.set("image_matrix", pixels.matrix.T.astype(np.float32))
        tensor = graph.add("MatMul", [tensor, matrix], "image_mixed")
        tensor = graph.add("Add", [tensor, graph.set("image_shift", pixels.shift.astype(np.float32))], "image_shifted")
    if planes_first:
        tensor = graph.add("Transpose", [tensor], "image_nchw", perm=[0, 3, 1, 2])
    if kind != (TensorProto.UINT8 if pixels.is_identity else TensorProto.FLOAT):
        tensor = graph.add("Cast", [tensor], "image_cast", to=kind)
    return tensor


def _channels(value: onnx.ValueInfoProto, planes_first: bool) -> int:
    dims = value.type.tensor_type.shape.dim
    return int(dims[1 if planes_first else -1].dim_value) if len(dims) == 4 else 0


def _changes_values(graph: Graph, source: str) -> bool:
    """Whether there is arithmetic with constants between the input and the first layers."""
    pending, seen = [source], {source}
    while pending:
        for node in graph.consumers(pending.pop()):
            if node.op_type in (*_LAYERS, "Shape"):
                continue
            if node.op_type in _ARITHMETIC and any(name in graph.constants for name in node.input):
                return True
            pending += [name for name in node.output if name not in seen]
            seen.update(node.output)
    return False


def _front(graph: Graph, source: str) -> tuple[list[onnx.NodeProto], onnx.NodeProto] | None:
    """The nodes between the input and the convolution that alone reads their result; None where it is otherwise."""
    outputs = {value.name for value in graph.proto.output}
    reached, pending, layers = {source}, [source], []
    nodes: list[onnx.NodeProto] = []
    while pending:
        name = pending.pop()
        if name in outputs:
            return None
        for node in graph.consumers(name):
            if name == source and _reads_batch(node):
                continue
            if node.op_type == "Conv":
                layers.append((name, node))
            elif node.op_type in _LAYERS:
                return None
            elif node not in nodes:
                nodes.append(node)
                pending += [output for output in node.output if output and output not in reached]
                reached.update(node.output)
    if len(layers) != 1 or layers[0][1].input[0] != layers[0][0] or attribute(layers[0][1], "group", 1) != 1:
        return None
    return (nodes, layers[0][1]) if layers[0][1].input[1] in graph.constants else None


def _reads_batch(node: onnx.NodeProto) -> bool:
    """Whether a node only asks how many pictures there are, which is the same in front of all preprocessing."""
    return bool(node.op_type == "Shape" and attribute(node, "start", 0) == 0 and attribute(node, "end", None) == 1)


def _measure(
    graph: Graph,
    nodes: list[onnx.NodeProto],
    source: str,
    first: onnx.NodeProto,
    shape: tuple[int, int, int],
    planes_first: bool,
) -> Affine | None:
    """The map from the input's pixels to those that ``first`` reads; None where there is none."""
    height, width, channels = shape

    def run(picture: NDArray[np.float64]) -> NDArray[np.float64]:
        """``[K, H, W]`` for ``[H, W, C]``."""
        fed = picture.transpose(2, 0, 1) if planes_first else picture
        return np.asarray(front(fed[np.newaxis])[0])

    try:
        front = _Part(graph, source, first.input[0], doubles=all(node.op_type in _PER_PIXEL for node in nodes))
        black = run(np.zeros(shape))
        if black.ndim != 3 or black.shape[1:] != (height, width) or len(black) not in (1, 3):
            return None
        shift = black[:, 0, 0]
        columns = [(run(np.broadcast_to(255.0 * row, shape))[:, 0, 0] - shift) / 255.0 for row in np.eye(channels)]
        found = Affine(np.stack(columns, axis=1), shift)
        # Below zero too: whatever the pixels become before they come here.
        random = np.random.default_rng(0).uniform(-256, 256, shape)
        expected = np.einsum("kc,hwc->khw", found.matrix, random) + shift[:, np.newaxis, np.newaxis]
        measured = run(random)
    except Exception:  # noqa: BLE001 - whatever the evaluator cannot compute stays in the graph
        return None
    scale = max(float(np.abs(expected).max()), 1e-6)
    fits = measured.shape == expected.shape and np.isfinite(measured).all()
    return found if fits and float(np.abs(measured - expected).max()) < _ROUNDING * scale else None


class _Part:
    """The part of a graph that computes one tensor from another, on its own, in double or single precision."""

    def __init__(self, graph: Graph, source: str, result: str, *, doubles: bool) -> None:
        needed: list[onnx.NodeProto] = []
        pending = [result]
        while pending:
            node = graph.producer.get(pending.pop())
            if node is not None and node not in needed:
                needed.append(node)
                pending += node.input
        nodes = []
        for node in [node for node in graph.proto.node if node in needed]:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            if (
                doubles
                and copy.op_type == "Cast"
                and attribute(copy, "to", 0) in (TensorProto.FLOAT, TensorProto.FLOAT16)
            ):
                set_attribute(copy, "to", TensorProto.DOUBLE)
            nodes.append(copy)
        nodes.append(helper.make_node("Identity", [result], ["result"]))
        values = {name: graph.array(name) for node in nodes for name in node.input if name in graph.constants}
        constants = [
            numpy_helper.from_array(value.astype(np.float64) if doubles and value.dtype.kind == "f" else value, name)
            for name, value in sorted(values.items())
        ]
        kind = TensorProto.DOUBLE if doubles else TensorProto.FLOAT
        ends = [
            helper.make_tensor_value_info(source, kind, [1, None, None, None]),
            helper.make_tensor_value_info("result", kind, None),
        ]
        made = helper.make_graph(nodes, "part", ends[:1], ends[1:], constants)
        model = helper.make_model(made, opset_imports=[helper.make_opsetid("", graph.opset)], ir_version=8)
        self._source, self._type = source, np.float64 if doubles else np.float32
        self._run: Callable[..., Any] = ReferenceEvaluator(model).run if doubles else session(model).run

    def __call__(self, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(self._run(None, {self._source: pixels.astype(self._type)})[0], np.float64)
