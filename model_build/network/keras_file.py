"""Whole classifiers in the files and folders that Keras writes, from version 2 to today, told by what is in them.

``.keras`` is a zip, ``.h5`` an HDF5 file, ``SavedModel`` a folder; names and endings are not looked at. Keras 3 reads
most of it. What it stumbles over is put right in a copy of the configuration: Keras 2's names and forms, and layers
that compute in half precision, which the service's processors would only be slower with.
"""

import json
import re
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from shutil import copyfile
from typing import Any, Final

import h5py
import keras
import numpy as np

from app.inference.imaging import FILTERS, Resize
from model_build.errors import InputError

_HALVES: Final = ("mixed_float16", "mixed_bfloat16", "float16", "bfloat16")
#: Layers of a model that only prepare its pixels; augmentation does nothing outside training.
_FRONT: Final = re.compile(
    r"InputLayer|Rescaling|Normalization(OverAxes)?|Resizing|CenterCrop|(Random|Auto|Rand|Aug|Mix|Cut)\w*"
)
#: Keras 2's layers of one TensorFlow operation each.
_OPERATIONS: Final = ("TFOpLambda", "SlicingOpLambda")
_HDF5: Final = b"\x89HDF\r\n\x1a\n"


def kind_of(path: Path) -> str:
    """What a file or folder is: ``zip``, ``h5`` (a whole model), ``weights`` (HDF5 without one), ``saved_model`` or
    ``tflite``.

    Raises:
        InputError: something else, which it names.
    """
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            return "saved_model"
        if (path / "config.json").is_file() and (path / "model.weights.h5").is_file():
            return "unpacked"
        raise InputError(f"{path} is a folder, but no SavedModel: it has no saved_model.pb")
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(_HDF5):
        with _hdf5(path) as weights:
            return "h5" if "model_config" in weights.attrs else "weights"
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_zip(path)
    if head[4:8] == b"TFL3":
        return "tflite"
    if head.startswith(b"\x80") and b"." in head:
        raise InputError(f"{path} is a pickle, of PyTorch or scikit-learn; write it as ONNX there and use --onnx")
    if _is_onnx(head):
        raise InputError(f"{path} is an ONNX model; use --onnx {path}")
    raise InputError(f"{path} is not a Keras file; .keras, .h5, .weights.h5 and SavedModel folders are read")


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{path} is a damaged zip, perhaps cut off: {error}") from error
    if "config.json" in names:
        return "zip"
    if any(name.endswith("data.pkl") for name in names):
        raise InputError(f"{path} is a PyTorch file; write it as ONNX there (torch.onnx.export) and use --onnx")
    inside = [name for name in names if name.endswith((".h5", ".keras", "saved_model.pb", ".tflite"))]
    more = f": {', '.join(inside[:3])}. Unpack it and give that" if inside else ""
    raise InputError(f"{path} is a zip, but not a Keras file{more}")


def _is_onnx(head: bytes) -> bool:
    """Whether a file begins as ONNX's protobuf does: field 1, the version of its form, below 32."""
    return len(head) > 8 and head[0] == 0x08 and head[1] < 32 and head[2] in (0x12, 0x1A, 0x22, 0x3A)


def load(path: Path, kind: str, head: str | None) -> keras.Model:
    """Loads a whole model from a file.

    Args:
        path: the file.
        kind: ``zip``, ``h5`` or ``unpacked``, as ``kind_of`` says.
        head: the output that is wanted, where there are several.

    Returns:
        A model that computes in float32, with one input and one output.

    Raises:
        InputError: Keras cannot load it, or it has several inputs or outputs.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            readable = _readable(path, kind, Path(folder))
            model = keras.saving.load_model(readable, compile=False, custom_objects=_custom_objects())
        model = _dequantized(model)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path} cannot be loaded as a Keras model: {reason(error)}") from error
    return _with_one_output(path, model, head)


def load_weights(model: keras.Model, path: Path) -> None:
    """Loads bare weights under any name. Raises whatever Keras does."""
    with _hdf5(path) as file:
        # Keras 3 tells its own form from the older one by the name.
        name = "w.h5" if "layer_names" in file.attrs else "w.weights.h5"
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, name)
        link.symlink_to(path.absolute())
        model.load_weights(link)


def unlike_the_service(model: keras.Model) -> str | None:
    """How a model makes one size of pictures of any size, if otherwise than the service can do it itself.

    The service crops and squeezes; anything else would show the model something else than it was trained on.
    """
    for layer in _front_layers(model):
        kind = type(layer).__name__
        if kind == "CenterCrop":
            return (
                f"its layer {layer.name} (CenterCrop) cuts {layer.height}x{layer.width} pixels out of pictures of any "
                "size, so what it sees depends on a camera's resolution"
            )
        if kind == "Resizing":
            if getattr(layer, "pad_to_aspect_ratio", False):
                return f"its layer {layer.name} (Resizing) pads them with something else than the service's grey"
            if layer.interpolation not in FILTERS:
                known = " and ".join(FILTERS)
                return f"its layer {layer.name} (Resizing) resamples by {layer.interpolation}; the service has {known}"
            return None
    return None


def geometry(model: Any) -> Resize | None:
    """What the layers in front do to pictures of any size; None where they do nothing.

    A ``CenterCrop`` behind ``Resizing`` is a smaller crop. What ``unlike_the_service`` names is not said here.
    """
    found: Resize | None = None
    for layer in _geometry_layers(model):
        if type(layer).__name__ == "Resizing":
            fit = "crop" if layer.crop_to_aspect_ratio else "squash"
            found = Resize(layer.height, layer.width, 1.0, layer.interpolation, fit)
        elif found and layer.height * found.width == layer.width * found.height and layer.height <= found.height:
            crop = found.crop * layer.height / found.height
            found = replace(found, height=layer.height, width=layer.width, crop=crop)
    return found


def leave_geometry_out(model: Any) -> None:
    """Takes those layers out of a model: whoever calls it does what they did."""
    for layer in _geometry_layers(model):
        layer.call = lambda data, *_, **__: data


def _geometry_layers(model: Any) -> list[keras.layers.Layer]:
    front = _front_layers(model) if isinstance(model, keras.Model) else []
    return [layer for layer in front if type(layer).__name__ in ("Resizing", "CenterCrop")]


def _front_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers in front of the first one that is more than preparation, of nested models too."""
    front = []
    for layer in _flat(model):
        if not _FRONT.fullmatch(type(layer).__name__):
            break
        front.append(layer)
    return front


def _flat(model: keras.Model) -> Iterable[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _flat(layer)
        else:
            yield layer


def reason(error: BaseException) -> str:
    """Why Keras could not do something, the innermost cause first, on one line."""
    text = " ".join(str(error).split())
    if match := re.search(r"(?:Could not locate class|Unknown layer:?) '?(\w+)", text):
        return (
            f"it contains the layer {match[1]}, whose code is not in the file. Where that code is, write the model "
            "with model.export(FOLDER) and export that folder"
        )
    if "deserialization of a `Lambda`" in text or "Lambda layer" in text:
        return (
            "it contains a Lambda layer, which is a program that would be run from the file. Where the model was made, "
            "write it with model.export(FOLDER) and export that folder"
        )
    if match := re.search(r"the TensorFlow operation \S+, which Keras 3 cannot load", text):
        return (
            f"it contains {match[0]}. Where the model was made, write it with model.export(FOLDER) and export that "
            "folder"
        )
    innermost = text.rsplit("Exception encountered: ", 1)[-1]
    return innermost[:500] or type(error).__name__


def _with_one_output(path: Path, model: keras.Model, head: str | None) -> keras.Model:
    try:
        inputs, outputs = model.inputs, model.outputs
    except AttributeError:
        inputs = outputs = None
    if not inputs or not outputs:
        raise InputError(
            f"{path} has a model that was never built: its input has no shape. Save it after it was trained"
        )
    if len(inputs) != 1:
        raise InputError(f"{path} takes {len(inputs)} inputs; a model of one picture is expected")
    # A Sequential model that was loaded has none, nor structures.
    structure, input_structure = getattr(model, "output", outputs[0]), getattr(model, "input", inputs[0])
    if isinstance(structure, dict):
        names = keras.tree.flatten({key: key for key in structure})
    else:
        names = list(getattr(model, "output_names", ["output"] * len(outputs)))
    if head is not None and head not in names:
        raise InputError(f"{path} has no output {head}; there is {', '.join(names)}")
    if head is None and len(outputs) > 1:
        shown = ", ".join(f"{name} {list(tensor.shape[1:])}" for name, tensor in zip(names, outputs, strict=True))
        raise InputError(f"{path} has {len(outputs)} outputs: {shown}; say which with --head NAME")
    if len(outputs) > 1 or not hasattr(structure, "shape") or not hasattr(input_structure, "shape"):
        return keras.Model(inputs[0], outputs[names.index(head) if head else 0])
    return model


def _dequantized(model: keras.Model) -> keras.Model:
    """A model whose layers compute in float32, of one that Keras quantized to int8."""
    quantized = [layer for layer in _flat(model) if getattr(layer, "quantization_mode", None)]
    if not quantized:
        return model
    modes = {layer.quantization_mode for layer in quantized}
    if modes != {"int8"}:
        raise InputError(f"the model is quantized by Keras ({', '.join(sorted(modes))}); only int8 can be undone")
    config = model.get_config()
    _each(config, _to_float32)
    made = type(model).from_config(config)
    for ours, theirs in zip(_flat(made), _flat(model), strict=True):
        if getattr(theirs, "quantization_mode", None):
            kernel = keras.ops.cast(theirs._kernel, "float32") / keras.ops.cast(theirs.kernel_scale, "float32")
            ours.set_weights([kernel, *([theirs.bias] if theirs.bias is not None else [])])
        else:
            ours.set_weights(theirs.get_weights())
    return made


def _readable(path: Path, kind: str, folder: Path) -> Path:
    """The file, or a copy with a configuration that Keras 3 accepts, under a name that it accepts."""
    if kind == "h5":
        copy = folder / "model.h5"
        copyfile(path, copy)
        with h5py.File(copy, "r+") as file:
            version = file.attrs.get("keras_version", "2")
            config = _converted(json.loads(file.attrs["model_config"]), str(version))
            _each(config, _keep_axes)
            file.attrs["model_config"] = json.dumps(config)
            _read_bfloat16(file)
        return copy
    copy = folder / "model.keras"
    members = _members(path, kind)
    config, metadata = json.loads(members["config.json"]), json.loads(members.get("metadata.json", b"{}"))
    members["config.json"] = json.dumps(_converted(config, str(metadata.get("keras_version", "3")))).encode()
    with zipfile.ZipFile(copy, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return copy


def _read_bfloat16(file: h5py.File) -> None:
    """Widens weights of two bytes whose type HDF5 has no name for: the upper half of a float32."""
    nameless: list[str] = []
    file.visititems(
        lambda name, item: nameless.append(name) if getattr(item, "dtype", None) == np.dtype("V2") else None
    )
    for name in nameless:
        upper = file[name][()]
        values = (np.frombuffer(upper.tobytes(), np.uint16).astype(np.uint32) << 16).view(np.float32)
        del file[name]
        file[name] = values.reshape(upper.shape)


def _members(path: Path, kind: str) -> dict[str, bytes]:
    if kind == "unpacked":
        return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def _converted(config: Any, version: str) -> Any:
    """A model's configuration as Keras 3 accepts it, computing in float32."""
    if not version.startswith("3"):
        names: set[str] = set()
        _each(config, lambda node: names.update(layer["config"]["name"] for layer in _layers_of(node)))
        config = _without_slashes(config, frozenset(name for name in names if "/" in name))
        _each(config, _from_keras_2)
    _each(config, _to_float32_from_half)
    return config


def _each(node: Any, change: Any) -> None:
    """Applies a change to every dictionary in a configuration, from the outermost in."""
    if isinstance(node, dict):
        change(node)
    for item in node.values() if isinstance(node, dict) else node if isinstance(node, list | tuple) else ():
        _each(item, change)


def _keep_axes(node: dict[str, Any]) -> None:
    """Keeps Keras 3, as it reads HDF5, from dropping the axes of a ``Normalization`` unless it is over one of them."""
    config = node.get("config")
    if node.get("class_name") == "Normalization" and isinstance(config, dict):
        axes = config.pop("axis", -1)
        if isinstance(axes, int) or (isinstance(axes, list) and len(axes) == 1):
            config["axis"] = axes
        else:
            config["axes"] = axes
            node.update(class_name="NormalizationOverAxes", registered_name=None)


def _to_float32_from_half(node: dict[str, Any]) -> None:
    dtype = node.get("dtype")
    name = dtype.get("config", {}).get("name") if isinstance(dtype, dict) else dtype
    if name in _HALVES:
        node["dtype"] = "float32"


def _to_float32(node: dict[str, Any]) -> None:
    if isinstance(node.get("dtype"), dict) and str(node["dtype"].get("class_name", "")).endswith("DTypePolicy"):
        node["dtype"] = "float32"
    if "quantization_config" in node:
        node["quantization_config"] = None


def _layers_of(node: dict[str, Any]) -> list[dict[str, Any]]:
    """The layers' configurations in a model's, where each has a name."""
    layers = node.get("layers")
    return [layer for layer in layers if "name" in layer.get("config", {})] if isinstance(layers, list) else []


def _from_keras_2(node: dict[str, Any]) -> None:
    """Turns one object of a Keras 2 configuration into one of Keras 3, in place."""
    config, name = node.get("config"), node.get("class_name")
    if not isinstance(config, dict) or not isinstance(name, str):
        return
    module = node.get("module")
    if isinstance(module, str) and re.match(r"(tf_keras|keras|tensorflow\.(python\.)?keras)\b", module):
        _name_module(node, name)
    config.pop("rng_type", None)
    if "batch_input_shape" in config:
        shape = config.pop("batch_input_shape")
        if name == "InputLayer":
            config["batch_shape"] = shape
        elif shape is not None:
            config["input_shape"] = shape[1:]
    if name in ("DepthwiseConv2D", "SeparableConv2D"):
        for key in ("groups", "kernel_initializer", "kernel_regularizer", "kernel_constraint"):
            config.pop(key, None)
    if name == "BatchNormalization" and isinstance(config.get("axis"), list):
        (config["axis"],) = config["axis"]
    if name == "Normalization" and config.get("axis") == []:
        config["axis"] = None
    if name == "Policy":
        node.update(module="keras", class_name="DTypePolicy")
    # A single input or output stood in a list of its own; Keras 3 would make a list of tensors of it.
    for end in ("input_layers", "output_layers"):
        if isinstance(config.get(end), list) and len(config[end]) == 1:
            (config[end],) = config[end]
    layers = config.get("layers", [])
    for layer in layers:
        if layer.get("class_name") in _OPERATIONS:
            _take_slices(layer)
            # One list less around an operation's arguments than around a layer's.
            layer["inbound_nodes"] = [[call] for call in layer["inbound_nodes"]]
    # The call with which a nested model was built is not counted any more.
    nested = {layer["config"].get("name") for layer in layers if "layers" in layer["config"]}
    for layer in layers:
        calls = [call for call in layer.get("inbound_nodes", []) if isinstance(call, list)]
        for reference in (reference for call in calls for reference in call):
            if isinstance(reference, list) and reference[0] in nested and reference[1] > 0:
                reference[1] -= 1


def _take_slices(layer: dict[str, Any]) -> None:
    """Moves what an operation cuts out (``x[..., ::-1]``) from its call to its configuration."""
    for call in layer["inbound_nodes"]:
        spec = call[3].pop("slice_spec", None) if len(call) > 3 else None
        if spec is not None:
            layer["config"]["slices"] = [_slice(part) for part in (spec if isinstance(spec, list) else [spec])]


def _slice(part: Any) -> Any:
    """One index as it can be written down: of a slice its ends and step; ``...``, a new axis or a number as it is."""
    if not isinstance(part, dict):
        return part
    return "..." if "class_name" in part else [part.get("start"), part.get("stop"), part.get("step")]


def _without_slashes(node: Any, names: frozenset[str]) -> Any:
    """A configuration in which layers' names have no slash, which Keras 3 does not allow."""
    if isinstance(node, dict):
        return {key: _without_slashes(value, names) for key, value in node.items()}
    if isinstance(node, list):
        return [_without_slashes(item, names) for item in node]
    return node.replace("/", "_") if isinstance(node, str) and node in names else node


def _name_module(node: dict[str, Any], name: str) -> None:
    if name in ("Functional", "Model"):
        node.update(module="keras.src.models.functional", class_name="Functional", registered_name="Functional")
    elif name == "Sequential":
        node.update(module="keras", registered_name=None)
    elif hasattr(keras.layers, name):
        node.update(module="keras.layers", registered_name=None)


def _hdf5(path: Path) -> h5py.File:
    try:
        return h5py.File(path)
    except OSError as error:
        raise InputError(f"{path} is a damaged HDF5 file, perhaps cut off: {reason(error)}") from error


def _custom_objects() -> dict[str, Any]:
    return {**dict.fromkeys(_OPERATIONS, Keras2Operation), "NormalizationOverAxes": NormalizationOverAxes}


def _index(part: Any) -> Any:
    return ... if part == "..." else slice(*part) if isinstance(part, list) else part


@keras.saving.register_keras_serializable("edge_classifier")
class NormalizationOverAxes(keras.layers.Normalization):
    """``Normalization`` whose axes go by another name."""

    def __init__(self, axes: Any = None, **kwargs: Any) -> None:
        super().__init__(axis=axes, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """As Keras has it, but for the name of the axes."""
        config = super().get_config()
        axes = config.pop("axis")
        return {**config, "axes": axes}


@keras.saving.register_keras_serializable("edge_classifier")
class Keras2Operation(keras.layers.Layer):
    """An operation inside a Keras 2 model, which Keras 2 saved as a ``TFOpLambda``: mostly of ``preprocess_input``."""

    _OPERATIONS: Final = {
        "math.truediv": keras.ops.true_divide,
        "math.divide": keras.ops.true_divide,
        "math.multiply": keras.ops.multiply,
        "math.subtract": keras.ops.subtract,
        "math.add": keras.ops.add,
        "__operators__.add": keras.ops.add,
        "nn.bias_add": keras.ops.add,
        "nn.softmax": keras.ops.softmax,
        "nn.relu": keras.ops.relu,
        "nn.sigmoid": keras.ops.sigmoid,
        "math.sigmoid": keras.ops.sigmoid,
        "cast": keras.ops.cast,
        "identity": lambda x: x,
        "compat.v1.squeeze": keras.ops.squeeze,
        "squeeze": keras.ops.squeeze,
        "reshape": keras.ops.reshape,
        "__operators__.getitem": lambda x, y: x[y],
    }

    def __init__(self, function: str, slices: list[Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if function not in self._OPERATIONS:
            raise ValueError(f"the model contains the TensorFlow operation {function}, which Keras 3 cannot load")
        self._function = function
        self._slices = slices

    def call(self, x: Any, y: Any = None, name: str | None = None, **others: Any) -> Any:
        """``function(x, y)``, or ``function(x)``."""
        del name
        operation = self._OPERATIONS[self._function]
        if self._slices is not None:
            return operation(x, tuple(_index(part) for part in self._slices))
        if self._function == "cast":
            return operation(x, "float32")
        if self._function == "nn.softmax":
            return operation(x, others.get("axis") or -1)
        second = next((others[key] for key in ("bias", "axis", "shape") if key in others), None) if y is None else y
        return operation(x) if second is None else operation(x, second)
