"""A classifier in an ONNX file from elsewhere: PyTorch's, timm's, Azure Custom Vision's, or a converter's."""

import zipfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnx.inliner
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from model_build.errors import InputError, reason
from model_build.network.session import session

#: Older graphs are brought up to this operator set; newer ones stay as they are.
OPSET: Final = 17
_TYPES: Final = {TensorProto.FLOAT: np.float32, TensorProto.UINT8: np.uint8}
_HALVES: Final = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_OTHER_FLOATS: Final = (*_HALVES, TensorProto.DOUBLE)
#: What decides or repeats while a graph runs, so that it cannot be read from its end.
_CONTROL_FLOW: Final = ("If", "Loop", "Scan")
#: What may stand between a classifier's scores and the outputs that converters for classical models add.
_AFTER: Final = ("ZipMap", "ArgMax", "ArrayFeatureExtractor", "LabelEncoder", "Normalizer")
#: Ranges of pixels as ONNX's metadata call them (docs/MetadataProps.md in onnx's repository).
_RANGES: Final = {"NominalRange_0_255": "0..255", "Normalized_0_1": "0..1", "Normalized_1_1": "-1..1"}
_HINT: Final = "ONNX file of one picture, [batch, 3, H, W] or [batch, H, W, 3]"


class OnnxModel:
    """An ONNX graph, used as a Keras model is.

    Attributes:
        proto: complete in itself, with one input and one output, and a size for each picture but a free batch.
        takes_bytes: whether it takes whole numbers of 0 to 255 (``uint8``), so that nobody has to say what pixels are.
        planes_first: whether it takes ``[batch, C, H, W]``.
        input_shape: ``(None, H, W, C)``, as a Keras model says it, whatever ``planes_first`` is.
        output_shape: ``(None, classes)``.
        labels: what the file calls its classes; None where it does not say.
        bgr, pixel_range: what Windows' metadata in the file say about pixels (``Image.BitmapPixelFormat``,
            ``Image.NominalPixelRange``), the range as ``0..255``; None where there are none.
    """

    def __init__(
        self,
        path: Path,
        head: str | None,
        layout: str,
        input_size: int | None,
        proto: onnx.ModelProto | None = None,
    ) -> None:
        """Loads a file.

        Args:
            path: an ONNX file; weights that it keeps in other files lie beside it.
            head: the output that is wanted, where there are several.
            layout: ``nchw``, ``nhwc``, or ``auto``: what the shape says.
            input_size: side of the input in pixels, where the file leaves it open.
            proto: what was made of the file, where it is of another kind.

        Raises:
            InputError: it cannot be read or run, or is no classifier of pictures.
        """
        self.proto = _with_one_input(path, _read(path) if proto is None else proto)
        metadata = {item.key: item.value for item in self.proto.metadata_props}
        if "schema" in metadata and "golden" in metadata:
            raise InputError(f"{path} is a model file of this project already; serve it as it is")
        self.bgr = _said(metadata.get("Image.BitmapPixelFormat"), "Bgr8")
        self.pixel_range = _range_said(metadata.get("Image.NominalPixelRange"))
        in_single_precision(self.proto)
        self.labels = _keep_one_output(path, self.proto, head)
        self._fix_input(path, layout, input_size)
        self.proto = _upgraded(path, self.proto)
        _undo_strides(self.proto)
        _free_batch(self.proto)
        self._session = _session(path, self.proto)
        self._check_batches(path)

    def __call__(self, pixels: Any, *, training: bool = False) -> NDArray[Any]:
        """The output for ``float32 [N, H, W, C]``."""
        del training
        batch = np.asarray(pixels)
        batch = batch.transpose(0, 3, 1, 2) if self.planes_first else batch
        value = self._session.get_inputs()[0]
        found: NDArray[Any] = self._session.run(None, {value.name: np.ascontiguousarray(batch, self._type)})[0]
        return found

    def count_params(self) -> int:
        """Number of trained values: those in constants with a fraction."""
        return sum(int(np.prod(tensor.dims)) for tensor in self.proto.graph.initializer if tensor.data_type in _TYPES)

    def _fix_input(self, path: Path, layout: str, input_size: int | None) -> None:
        """Finds out how pictures are laid out, and gives them the size that is asked for."""
        value = self.proto.graph.input[0]
        kind, dims = value.type.tensor_type.elem_type, value.type.tensor_type.shape.dim
        if kind not in _TYPES:
            raise InputError(f"{path} takes {TensorProto.DataType.Name(kind).lower()}; an {_HINT}, is expected")
        sides = [dim.dim_value or None for dim in dims]
        if len(sides) != 4:
            raise InputError(f"{path} takes {sides}; an {_HINT}, is expected")
        first, last = sides[1] in (1, 3), sides[3] in (1, 3)
        if layout == "auto" and first == last:
            raise InputError(f"{path} takes {sides}, which does not say how it is laid out; use --layout nchw or nhwc")
        self.planes_first = first if layout == "auto" else layout == "nchw"
        channels = sides[1 if self.planes_first else 3] or 3
        if channels not in (1, 3):
            raise InputError(f"{path} takes {channels} channels; an {_HINT}, is expected")
        height, width = sides[2:] if self.planes_first else sides[1:3]
        if input_size is None and (height is None or width is None):
            raise InputError(f"{path} takes pictures of any size; say which with --input-size")
        if input_size is not None and any(side not in (None, input_size) for side in (height, width)):
            raise InputError(f"{path} takes {height}x{width} pictures; --input-size says {input_size}")
        self._type = _TYPES[kind]
        self.takes_bytes = kind == TensorProto.UINT8
        self.input_shape = (None, height or input_size, width or input_size, channels)
        shape = [self.input_shape[i] for i in ((0, 3, 1, 2) if self.planes_first else (0, 1, 2, 3))]
        value.type.CopyFrom(helper.make_tensor_type_proto(kind, ["batch", *shape[1:]]))

    def _check_batches(self, path: Path) -> None:
        """Raises InputError if the graph does not run, or answers otherwise for two pictures than for each alone."""
        _, height, width, channels = self.input_shape
        pair = np.random.default_rng(0).integers(0, 256, (2, height or 1, width or 1, channels or 3)).astype(np.float32)
        if not self.takes_bytes:
            pair /= 255
        try:
            single = np.concatenate([self(pair[:1]), self(pair[1:])])
        except Exception as error:
            raise InputError(f"{path} cannot be run: {reason(error)}") from error
        try:
            both = self(pair)
            same = both.shape == single.shape and np.allclose(both, single, rtol=1e-2, atol=1e-3, equal_nan=True)
        except Exception:  # noqa: BLE001 - it works for one picture alone
            same = False
        if not same:
            raise InputError(
                f"{path} was written for one picture at a time and gives other scores for two; write it with a free "
                "batch (in torch.onnx.export: dynamic_axes={'input': {0: 'batch'}})"
            )
        self.output_shape = (None, *single.shape[1:])


def _read(path: Path) -> onnx.ModelProto:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            inside = [name for name in archive.namelist() if name.endswith((".onnx", ".txt"))]
        shown = f"; it holds {', '.join(inside[:3])}" if inside else ""
        raise InputError(f"--onnx: {path} is a zip{shown}. Unpack it, and give the model and its --labels")
    try:
        proto = onnx.load(path)
        proto.graph.node[0]
    except FileNotFoundError as error:
        raise InputError(f"--onnx: {path} or a file with its weights is not there: {reason(error)}") from error
    except Exception as error:
        raise InputError(f"--onnx: {path} is not a complete ONNX file: {reason(error)}") from error
    return proto


def _with_one_input(path: Path, proto: onnx.ModelProto) -> onnx.ModelProto:
    known = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in known]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs)
        raise InputError(f"{path} takes {len(inputs)} inputs ({names}); an {_HINT}, is expected")
    if not inputs[0].type.HasField("tensor_type"):
        raise InputError(f"{path} takes no tensor; an {_HINT}, is expected")
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    return proto


def _said(value: str | None, expected: str) -> bool | None:
    return None if value is None else value == expected


def _range_said(value: str | None) -> str | None:
    if value is None:
        return None
    if value not in _RANGES:
        raise InputError(
            f"the file says that its pixels are {value}; {', '.join(_RANGES)} are known. Write it with one of them"
        )
    return _RANGES[value]


def _lift_constants(proto: onnx.ModelProto) -> None:
    """Makes an initializer of each ``Constant``: the passes know one form."""
    for node in [node for node in proto.graph.node if node.op_type == "Constant"]:
        (item,) = node.attribute
        value = helper.get_attribute_value(item)
        if isinstance(value, onnx.TensorProto):
            tensor = onnx.TensorProto()
            tensor.CopyFrom(value)
            tensor.name = node.output[0]
        elif item.name.startswith(("value_float", "value_int")):
            kind = np.float32 if "float" in item.name else np.int64
            tensor = numpy_helper.from_array(np.array(value, kind), node.output[0])
        else:
            continue
        proto.graph.initializer.append(tensor)
        proto.graph.node.remove(node)


def in_single_precision(proto: onnx.ModelProto) -> bool:
    """Makes a graph in half or double precision one in single precision, which the service's processors know best.

    Returns:
        Whether any of it was in half precision.
    """
    _lift_constants(proto)
    halves = any(tensor.data_type in _HALVES for tensor in proto.graph.initializer)
    for tensor in proto.graph.initializer:
        if tensor.data_type in _OTHER_FLOATS:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for node in proto.graph.node:
        for item in node.attribute:
            if node.op_type == "Cast" and item.name == "to" and item.i in _OTHER_FLOATS:
                halves = halves or item.i in _HALVES
                item.i = TensorProto.FLOAT
    del proto.graph.value_info[:]
    for value in [*proto.graph.input, *proto.graph.output]:
        if value.type.tensor_type.elem_type in _OTHER_FLOATS:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    return halves


def _keep_one_output(path: Path, proto: onnx.ModelProto, head: str | None) -> tuple[str, ...] | None:
    """Leaves the graph one output: the wanted one, or the only one that scores can be; returns the file's labels."""
    producer = {name: node for node in proto.graph.node for name in node.output}
    outputs = {value.name: value.name for value in proto.graph.output}
    labels: tuple[str, ...] | None = None
    for value in proto.graph.output:
        node = producer.get(value.name)
        if node is not None and node.op_type == "ZipMap":
            outputs[value.name] = node.input[0]
            names = [item for item in node.attribute if item.name == "classlabels_strings"]
            labels = tuple(text.decode(errors="replace") for text in names[0].strings) if names else None
        elif head is None and len(outputs) > 1 and not _is_float(value):
            # Which class it is: follows from the scores.
            del outputs[value.name]
    if head is not None and head not in outputs:
        raise InputError(f"{path} has no output {head}; there is {', '.join(outputs)}")
    if not outputs:
        raise InputError(f"{path} has no output that scores could be")
    if head is None and len(outputs) != 1:
        raise InputError(f"{path} has {len(outputs)} outputs: {', '.join(outputs)}; say which with --head NAME")
    tensor = outputs[head] if head is not None else next(iter(outputs.values()))
    known = {value.name: value for value in proto.graph.output}
    kept = known.get(tensor) or helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None)
    del proto.graph.output[:]
    proto.graph.output.append(kept)
    _drop_unused(proto)
    return labels


def _is_float(value: onnx.ValueInfoProto) -> bool:
    return value.type.HasField("tensor_type") and value.type.tensor_type.elem_type in (
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
        TensorProto.DOUBLE,
    )


def _drop_unused(proto: onnx.ModelProto) -> None:
    """Removes the nodes that the output does not need, and the operator sets that only they did."""
    needed = {value.name for value in proto.graph.output}
    kept = []
    for node in reversed(list(proto.graph.node)):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(_read_names(node))
    del proto.graph.node[:]
    proto.graph.node.extend(reversed(kept))
    domains = {node.domain for node in kept} | {""}
    opsets = [item for item in proto.opset_import if item.domain in domains]
    del proto.opset_import[:]
    proto.opset_import.extend(opsets)


def _read_names(node: onnx.NodeProto) -> set[str]:
    """The tensors that a node reads, in graphs inside it too."""
    names = set(node.input)
    for item in node.attribute:
        for inner in ([item.g] if item.HasField("g") else []) + list(item.graphs):
            for deeper in inner.node:
                names |= _read_names(deeper)
    return names


def _upgraded(path: Path, proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with functions written out, in an operator set that the passes know."""
    foreign = sorted({node.op_type for node in proto.graph.node if node.domain not in ("", "ai.onnx")})
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    elif foreign:
        raise InputError(f"{path} has operators that are not ONNX's own: {', '.join(foreign)}")
    if flow := sorted({node.op_type for node in proto.graph.node if node.op_type in _CONTROL_FLOW}):
        raise InputError(
            f"{path} decides while it runs what it computes ({', '.join(flow)}); write it for pictures of one size, "
            "without conditions that depend on them"
        )
    version = next((item.version for item in proto.opset_import if item.domain in ("", "ai.onnx")), 1)
    if version < OPSET:
        try:
            proto = onnx.version_converter.convert_version(proto, OPSET)
        except Exception as error:
            raise InputError(
                f"{path} is in operator set {version}, and cannot be brought up to {OPSET}: {reason(error)}; write it "
                f"with opset_version={OPSET}"
            ) from error
        _lift_constants(proto)
    inferred: onnx.ModelProto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    del proto.graph.value_info[:]
    proto.graph.output[0].CopyFrom(inferred.graph.output[0])
    return proto


def _undo_strides(proto: onnx.ModelProto) -> None:
    """Removes what PyTorch's exporter makes of ``as_strided`` behind its pooling: a tensor is laid out flat, and all of
    it is gathered again in the same order, for a number of pictures that was written down.
    """
    producer = {name: node for node in proto.graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    gathers = [node for node in proto.graph.node if node.op_type == "Gather" and node.input[0] in producer]
    if not gathers:
        return
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in inferred.graph.value_info
    }
    for gather in gathers:
        flat = producer[gather.input[0]]
        if flat.op_type != "Reshape" or flat.input[1] not in constants:
            continue
        target, shape = numpy_helper.to_array(constants[flat.input[1]]), shapes.get(flat.input[0], [])
        if target.tolist() != [-1] or len(shape) < 2 or not all(shape[1:]):
            continue
        if gather.input[1] in constants:
            found = [numpy_helper.to_array(constants[gather.input[1]])]
        else:
            found = [_computed(proto, gather.input[1], count) for count in (2, 3)]
        if all(_counts(indices, shape[1:]) for indices in found):
            position = list(proto.graph.node).index(gather)
            same = helper.make_node("Identity", [flat.input[0]], list(gather.output))
            proto.graph.node.remove(gather)
            proto.graph.node.insert(position, same)
    _drop_unused(proto)


def _counts(indices: NDArray[Any], shape: list[int]) -> bool:
    return list(indices.shape[1:]) == shape and bool((indices.ravel() == np.arange(indices.size)).all())


def _computed(proto: onnx.ModelProto, tensor: str, count: int) -> NDArray[Any]:
    """A tensor that depends on the number of pictures only; an empty one where it cannot be computed."""
    part = onnx.ModelProto()
    part.CopyFrom(proto)
    del part.graph.output[:]
    part.graph.output.append(helper.make_tensor_value_info(tensor, TensorProto.INT64, None))
    _drop_unused(part)
    value = part.graph.input[0]
    shape = [count, *(dim.dim_value for dim in value.type.tensor_type.shape.dim[1:])]
    blank = np.zeros(shape, _TYPES[value.type.tensor_type.elem_type])
    try:
        return np.asarray(session(part).run(None, {value.name: blank})[0])
    except Exception:  # noqa: BLE001 - then it stays as it is
        return np.zeros((0, 0))


def _free_batch(proto: onnx.ModelProto) -> None:
    """Lets a ``Reshape`` that was written for one picture take any number of them."""
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in [node for node in proto.graph.node if node.op_type == "Reshape" and node.input[1] in constants]:
        shape = numpy_helper.to_array(constants[node.input[1]])
        if shape.size > 1 and shape[0] == 1 and 0 not in shape:
            free = np.array([0 if -1 in shape else -1, *shape[1:]], np.int64)
            name = f"{node.output[0]}_free_shape"
            proto.graph.initializer.append(numpy_helper.from_array(free, name))
            node.input[1] = name
            # A side of zero is "as in the input" again.
            kept = [item for item in node.attribute if item.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)
    output = proto.graph.output[0].type.tensor_type
    if output.HasField("shape") and output.shape.dim:
        output.shape.dim[0].Clear()
        output.shape.dim[0].dim_param = "batch"


def _session(path: Path, proto: onnx.ModelProto) -> ort.InferenceSession:
    try:
        return session(proto)
    except Exception as error:
        raise InputError(f"{path} cannot be run by ONNX Runtime: {reason(error)}") from error
