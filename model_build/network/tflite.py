"""A classifier in a TensorFlow Lite file, by way of ONNX (tf2onnx)."""

import zipfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from model_build.errors import InputError, reason
from model_build.network.onnx_model import OPSET, OnnxModel

#: How a file begins, from its fifth byte on.
MARK: Final = b"TFL3"
_QUANTIZED: Final = (TensorProto.UINT8, TensorProto.INT8)
_LARGEST_LABELS: Final = 10_000_000


class TfliteModel(OnnxModel):
    """A TFLite file, used as a Keras model is; in half precision or quantized, it is brought to single precision.

    Quantized files keep their weights' grids; the rounding of what is computed between the layers is undone, so that
    scores are nearer to those of the network that was quantized. Everything else is as in ``OnnxModel``.

    Attributes:
        grid: where the file takes quantized pixels, ``(scale, zero point)`` of its input; else None. The model here
            takes ``(pixel - zero point) * scale``, of pixels of 0 to 255.
        quantized: whether anything was.
    """

    def __init__(self, path: Path, head: str | None, input_size: int | None) -> None:
        """Loads a file.

        Args:
            path: a ``.tflite`` file, perhaps with a list of labels inside.
            head: the output that is wanted, where there are several.
            input_size: side of the input in pixels, where the file leaves it open.

        Raises:
            InputError: it cannot be read, has operators that ONNX has not, or is no classifier of pictures.
        """
        # Late: TensorFlow takes seconds, and a file of another kind needs no tf2onnx.
        from tf2onnx import convert

        try:
            proto = convert.from_tflite(str(path), opset=OPSET)[0]
        except Exception as error:
            raise InputError(
                f"{path} cannot be brought to ONNX by tf2onnx: {reason(error)}; export the Keras model or SavedModel "
                "that it was made from"
            ) from error
        self._path = path
        self.quantized = any("QuantizeLinear" in node.op_type for node in proto.graph.node)
        _undo_quantization(proto)
        super().__init__(path, head, "auto", input_size, proto)
        self.labels = self.labels or _labels(path)
        given = self._interpreter().get_input_details()[0]
        scale, zero = given["quantization"]
        # An int8 input takes the pixels less 128.
        self.grid = (scale, zero + (128 if given["dtype"] == np.int8 else 0)) if scale else None

    def by_interpreter(self, pixels: NDArray[np.floating]) -> NDArray[np.float32]:
        """What TensorFlow Lite's own interpreter makes of ``float32 [N, H, W, C]``: ``float32 [N, classes]``."""
        interpreter = self._interpreter()
        given = interpreter.get_input_details()[0]
        interpreter.resize_tensor_input(given["index"], [1, *pixels.shape[1:]])
        interpreter.allocate_tensors()
        found = []
        for picture in pixels:
            interpreter.set_tensor(given["index"], _to_grid(picture[np.newaxis], given))
            interpreter.invoke()
            out = interpreter.get_output_details()[0]
            raw = interpreter.get_tensor(out["index"]).astype(np.float32)
            scale, zero = out["quantization"]
            found.append((raw - zero) * scale if scale else raw)
        return np.concatenate(found)

    def _interpreter(self) -> Any:
        import tensorflow as tf

        return tf.lite.Interpreter(str(self._path))


def _to_grid(values: NDArray[np.floating], details: dict[str, Any]) -> NDArray[Any]:
    scale, zero = details["quantization"]
    if not scale:
        return values.astype(details["dtype"])
    limits = np.iinfo(details["dtype"])
    rounded: NDArray[Any] = np.clip(np.round(values / scale + zero), limits.min, limits.max).astype(details["dtype"])
    return rounded


def _undo_quantization(proto: onnx.ModelProto) -> None:
    """Makes float constants of quantized ones, and leaves the steps between out."""
    graph = proto.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    renamed: dict[str, str] = {}
    kept = []
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
        if node.op_type == "QuantizeLinear":
            renamed[node.output[0]] = node.input[0]
        elif node.op_type == "DequantizeLinear" and node.input[0] in constants:
            constants[node.output[0]] = _dequantized(node, constants)
            graph.initializer.append(constants[node.output[0]])
        elif node.op_type == "DequantizeLinear":
            renamed[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    for value in graph.output:
        value_name = renamed.get(value.name)
        if value_name is not None:
            value.name = value_name
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    if graph.input[0].type.tensor_type.elem_type in _QUANTIZED:
        graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def _dequantized(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> onnx.TensorProto:
    values, scale, *zero = (numpy_helper.to_array(constants[name]).astype(np.float64) for name in node.input)
    axis = next((item.i for item in node.attribute if item.name == "axis"), 1)
    shape = [-1 if i == axis % max(values.ndim, 1) else 1 for i in range(values.ndim)] if scale.ndim else []
    found = (values - (zero[0].reshape(shape) if zero else 0)) * scale.reshape(shape)
    return numpy_helper.from_array(found.astype(np.float32), node.output[0])


def _labels(path: Path) -> tuple[str, ...] | None:
    """The list of labels that TensorFlow Lite's metadata put into the file, which is a zip as well then."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        lists = [info for info in archive.infolist() if info.filename.endswith(".txt")]
        if len(lists) != 1 or lists[0].file_size > _LARGEST_LABELS:
            return None
        lines = archive.read(lists[0]).decode("utf-8", "replace").splitlines()
    return tuple(line.strip() for line in lines if line.strip()) or None
