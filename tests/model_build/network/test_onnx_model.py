"""ONNX files from elsewhere, as PyTorch and Azure Custom Vision write them, through the whole export."""

import zipfile

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static

from app.inference.model import Model
from model_build.__main__ import main
from model_build.errors import InputError
from model_build.network.onnx_model import OnnxModel
from tests.conftest import serving
from tests.photos import encode, solid

SIZE = 32
MEAN, DEVIATION = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
PIXELS = np.random.default_rng(1).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)


def node(op, inputs, output, **attributes):
    return helper.make_node(op, inputs, [output], **attributes)


#: From the last feature map to ``flat``, as PyTorch's older exporter writes it, and as today's does for one picture.
POOLING = {
    "older": [node("GlobalAveragePool", ["c2"], "pool"), node("Flatten", ["pool"], "flat", axis=1)],
    "today's": [
        node("ReduceMean", ["c2"], "pool", axes=[-1, -2], keepdims=1),
        node("Reshape", ["pool", "flat_shape"], "line"),
        node("Gather", ["line", "every"], "strided", axis=0),
        node("Reshape", ["strided", "one_row"], "flat", allowzero=1),
    ],
}


def pytorch(pooling="older", end=(), batch="batch", opset=17, metadata=None, outputs=None, classes=3):
    """A classifier with planes first and a ``Gemm`` whose weights are the other way round."""
    random = np.random.default_rng(0)
    values = {
        "w1": random.normal(0, 0.3, (6, 3, 3, 3)),
        "w2": random.normal(0, 0.3, (6, 1, 3, 3)),
        "scale": random.uniform(0.5, 1.5, 6),
        "shift": random.normal(size=6),
        "mean": random.normal(size=6),
        "variance": random.uniform(0.5, 1.5, 6),
        "w3": random.normal(0, 2, (classes, 6)),
        "b3": random.normal(size=classes),
    }
    indices = {"flat_shape": [-1], "one_row": [1, 6], "every": np.arange(6).reshape(1, 6, 1, 1)}
    nodes = [
        node("Conv", ["input", "w1"], "c1", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c1", "scale", "shift", "mean", "variance"], "n1"),
        node("Relu", ["n1"], "r1"),
        node("Conv", ["r1", "w2"], "c2", group=6),
        *POOLING[pooling],
        node("Gemm", ["flat", "w3", "b3"], "logits", transB=1),
        *end,
    ]
    given = outputs or [(end[-1].output[0] if end else "logits", TensorProto.FLOAT, [batch, classes])]
    made = helper.make_graph(
        nodes,
        "main_graph",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, SIZE, SIZE])],
        [value if isinstance(value, onnx.ValueInfoProto) else helper.make_tensor_value_info(*value) for value in given],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in values.items()]
        + [numpy_helper.from_array(np.asarray(value, np.int64), name) for name, value in indices.items()],
    )
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(made, opset_imports=domains, ir_version=8, producer_name="pytorch")
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    return model


def answers(model, prepared, output="logits"):
    """What the file itself says, picture by picture: ``float32 [N, C]``, softmaxed."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    planes = prepared.astype(np.float32).transpose(0, 3, 1, 2)
    raw = np.concatenate([session.run([output], {"input": planes[i : i + 1]})[0] for i in range(len(planes))])
    exponents = np.exp(raw - raw.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def export(folder, model, *arguments):
    path = folder / "net.onnx"
    onnx.save(model, path)
    return main(["export", "--onnx", str(path), *map(str, arguments), "--output", str(folder / "out")])


@pytest.fixture
def labels(tmp_path):
    (tmp_path / "labels.txt").write_text("0 cat\n1 dog\n2 bird\n")
    return tmp_path / "labels.txt"


@pytest.mark.parametrize(("pooling", "batch"), [("older", "batch"), ("older", 1), ("today's", 1)])
def test_pytorchs_files_become_ours(tmp_path, labels, pooling, batch):
    model = pytorch(pooling, batch=batch)
    options = ["--labels", labels, "--mean", *MEAN, "--std", *DEVIATION]
    assert export(tmp_path, model, *options) == 0
    made = Model(tmp_path / "out" / "net.fp32.onnx")
    expected = answers(model, (PIXELS / 255 - MEAN) / DEVIATION)
    assert np.abs(made(PIXELS) - expected).max() < 1e-5, "also for several at once"
    graph = onnx.load(made.path).graph
    assert [value.name for value in graph.output] == ["scores", "features", "evidence", "evidence_bias"]
    operators = [n.op_type for n in graph.node]
    assert operators[:4] == ["Transpose", "Cast", "Sub", "Conv"]
    assert not {"BatchNormalization", "ReduceMean", "Gather"} & set(operators[: operators.index("Softmax")])
    assert made.contract.labels == ("cat", "dog", "bird")
    assert made.contract.provenance["pixels"].startswith("0..1, mean 0.485 0.456 0.406")
    assert made.contract.measured["against"] == "onnx"
    with serving(made.path) as client:
        assert client.post("/predict", files={"file": encode(solid((250, 10, 10)), "PNG")}).status_code == 200


def test_int8(tmp_path, labels):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, pixels in enumerate(PIXELS):
        (folder / f"{i}.png").write_bytes(encode(solid(tuple(int(v) for v in pixels[0, 0])), "PNG"))
    arguments = ["--labels", labels, "--calibration", folder, "--min-agreement", "0", "--max-drop", "1"]
    assert export(tmp_path, pytorch(), *arguments) == 0
    made = onnx.load(tmp_path / "out" / "net.int8.onnx")
    producers = {name: n.op_type for n in made.graph.node for name in n.output}
    assert {producers[n.input[1]] for n in made.graph.node if n.op_type == "Conv"} == {"DequantizeLinear"}


class Calibration(CalibrationDataReader):
    """Normalised pictures, one at a time."""

    def __init__(self):
        prepared = ((PIXELS / 255 - MEAN) / DEVIATION).astype(np.float32).transpose(0, 3, 1, 2)
        self._pictures = iter(prepared[:, np.newaxis])

    def get_next(self):
        picture = next(self._pictures, None)
        return None if picture is None else {"input": picture}


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_what_is_quantized_already_is_called_int8(tmp_path, labels, capsys, kind):
    onnx.save(pytorch(), tmp_path / "float.onnx")
    if kind == "static":
        quantize_static(tmp_path / "float.onnx", tmp_path / "net.onnx", Calibration())
    else:
        quantize_dynamic(tmp_path / "float.onnx", tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    assert export(tmp_path, model, "--labels", labels, "--mean", *MEAN, "--std", *DEVIATION) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["net.int8.onnx"]
    made = Model(tmp_path / "out" / "net.int8.onnx")
    assert made.contract.precision == "int8"
    assert made.contract.provenance["quantization"] == {"method": "as the file came"}
    assert np.abs(made(PIXELS[:1]) - answers(model, (PIXELS[:1] / 255 - MEAN) / DEVIATION)).max() < 0.05
    assert "quantized already" in capsys.readouterr().err


@pytest.mark.parametrize("end", ["sigmoid", "logits"])
def test_several_labels_a_photo(tmp_path, labels, end, capsys):
    """A file that ends in sigmoids, and one whose logits get them; int8 is compared by what photos show."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, pixels in enumerate(PIXELS):
        (folder / f"{i}.png").write_bytes(encode(solid(tuple(int(v) for v in pixels[0, 0])), "PNG"))
    sigmoids = [node("Sigmoid", ["logits"], "shown")] if end == "sigmoid" else []
    model = pytorch(end=sigmoids)
    options = ["--labels", labels, "--mean", *MEAN, "--std", *DEVIATION, "--calibration", folder]
    options += ["--min-agreement", "0", "--threshold", "0.25", *(["--multi-label"] if end == "logits" else [])]
    assert export(tmp_path, model, *options) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "net.int8.onnx: shows every class from a score of 0.250 on" in said
    session = ort.InferenceSession(pytorch().SerializeToString(), providers=["CPUExecutionProvider"])
    prepared = ((PIXELS / 255 - MEAN) / DEVIATION).astype(np.float32).transpose(0, 3, 1, 2)
    expected = 1 / (1 + np.exp(-session.run(["logits"], {"input": prepared})[0]))
    for precision, tolerance in (("fp32", 1e-5), ("int8", 0.2)):
        made = Model(tmp_path / "out" / f"net.{precision}.onnx")
        assert np.abs(made(PIXELS) - expected).max() < tolerance
        assert (made.contract.multi_label, made.contract.unknown_below) == (True, 0.25)


def test_a_file_whose_tensors_are_called_as_ours(tmp_path, labels):
    model = pytorch()
    for old, new in (("r1", "features"), ("c2", "image"), ("logits", "scores"), ("flat", "evidence")):
        for n in model.graph.node:
            n.input[:] = [new if name == old else name for name in n.input]
            n.output[:] = [new if name == old else name for name in n.output]
        for value in model.graph.output:
            value.name = new if value.name == old else value.name
    assert export(tmp_path, model, "--labels", labels) == 0
    made = Model(tmp_path / "out" / "net.fp32.onnx")
    assert np.abs(made(PIXELS) - answers(pytorch(), (PIXELS / 255 - MEAN) / DEVIATION)).max() < 1e-5


def test_whole_numbers_need_no_range_of_pixels(tmp_path, labels):
    """What takes ``uint8`` takes 0 to 255; in double precision it is brought to single."""
    model = pytorch()
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    model.graph.node.insert(0, node("Cast", ["input"], "floats", to=TensorProto.DOUBLE))
    model.graph.node[1].input[0] = "floats"
    assert export(tmp_path, model, "--labels", labels) == 0
    made = Model(tmp_path / "out" / "net.fp32.onnx")
    assert np.abs(made(PIXELS) - answers(pytorch(), PIXELS)).max() < 1e-5
    assert made.contract.provenance["pixels"] == "0..255, as its uint8 input says"


def test_what_decides_while_it_runs_is_refused(tmp_path, labels, capsys):
    model = pytorch()
    branch = helper.make_graph(
        [node("Relu", ["c1"], "b")], "branch", [], [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)]
    )
    (relu,) = [n for n in model.graph.node if n.op_type == "Relu"]
    relu.CopyFrom(node("If", ["always"], "r1", then_branch=branch, else_branch=branch))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "always"))
    assert export(tmp_path, model, "--labels", labels) == 2
    assert "decides while it runs what it computes (If)" in capsys.readouterr().err


def test_the_quantizers_errors_are_said(tmp_path, labels, capsys, monkeypatch):
    def fails(*_args, **_options):
        raise RuntimeError("outer") from KeyError("tensor 7")

    monkeypatch.setattr("model_build.export.quantize.quantize_static", fails)
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, pixels in enumerate(PIXELS):
        (folder / f"{i}.png").write_bytes(encode(solid(tuple(int(v) for v in pixels[0, 0])), "PNG"))
    assert export(tmp_path, pytorch(), "--labels", labels, "--calibration", folder) == 2
    said = capsys.readouterr().err
    assert "no int8 model can be made of this graph: KeyError: 'tensor 7'. --precision fp32 does without" in said
    assert not (tmp_path / "out").exists()


def test_what_is_assumed_is_said(tmp_path, labels, capsys):
    assert export(tmp_path, pytorch(), "--labels", labels) == 0
    assert "Pixels: ImageNet's mean and deviation, which is assumed" in capsys.readouterr().err
    made = Model(tmp_path / "out" / "net.fp32.onnx")
    assert np.abs(made(PIXELS) - answers(pytorch(), (PIXELS / 255 - MEAN) / DEVIATION)).max() < 1e-5
    assert made.contract.provenance["pixels"] == "ImageNet's mean and deviation (assumed)"


def test_labelled_photos_propose_what_fits_them(tmp_path, labels, capsys):
    """The file was trained on 0 to 1; by its own answers there, photos have their labels."""
    folder, model = tmp_path / "photos", pytorch()
    colours = np.random.default_rng(2).integers(0, 256, (30, 1, 1, 3), np.uint8)
    pixels = np.tile(colours, (1, SIZE, SIZE, 1))
    # No class is the best one everywhere.
    (bias,) = [tensor for tensor in model.graph.initializer if tensor.name == "b3"]
    level = np.log(answers(model, pixels / 255)).mean(axis=0)
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) - level.astype(np.float32), "b3"))
    names = np.array(["cat", "dog", "bird"])[answers(model, pixels / 255).argmax(axis=1)]
    assert len(set(names)) > 1
    for i, (name, each) in enumerate(zip(names, pixels, strict=True)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / f"{i}.png").write_bytes(encode(solid(tuple(int(v) for v in each[0, 0])), "PNG"))
    arguments = ["--labels", labels, "--calibration", folder, "--precision", "fp32"]
    assert export(tmp_path, model, *arguments) == 0
    said = " ".join(capsys.readouterr().err.split())
    # Of thirty, nine are held out.
    assert "but 21 with --pixel-range 0..1" in said


@pytest.mark.parametrize("half", [False, True])
def test_custom_visions_file_says_it_itself(tmp_path, half):
    """Its older form: blue first, 0 to 255, the best class as text, and labels behind a ``ZipMap``; in half precision.

    As Azure-Samples/customvision-export-samples reads it (samples/python/onnx/classification/predict.py).
    """
    classes = ["ok", "scratch", "dent"]
    domain = "ai.onnx.ml"
    end = [
        node("Softmax", ["logits"], "softmax", axis=1),
        node("ArgMax", ["softmax"], "best", axis=1, keepdims=1),
        helper.make_node("ArrayFeatureExtractor", ["classes", "best"], ["classLabel"], domain=domain),
        helper.make_node("ZipMap", ["softmax"], ["loss"], domain=domain, classlabels_strings=classes),
    ]
    mapped = helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    outputs = [
        ("classLabel", TensorProto.STRING, [1, "batch"]),
        helper.make_value_info("loss", helper.make_sequence_type_proto(mapped)),
    ]
    metadata = {"Image.BitmapPixelFormat": "Bgr8", "Image.NominalPixelRange": "NominalRange_0_255"}
    model = pytorch(end=end, outputs=outputs, metadata=metadata, opset=12)
    model.graph.initializer.append(helper.make_tensor("classes", TensorProto.STRING, [3], classes))
    if half:
        for tensor in model.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    assert export(tmp_path, model) == 0
    made = Model(tmp_path / "out" / "net.fp32.onnx")
    assert np.abs(made(PIXELS) - answers(pytorch(), PIXELS[..., ::-1])).max() < (0.05 if half else 1e-5)
    assert made.contract.labels == ("ok", "scratch", "dent")
    assert made.contract.provenance["pixels"] == "0..255, BGR, as the file says"


@pytest.mark.parametrize(("said", "scale", "shift"), [("Normalized_0_1", 255, 0), ("Normalized_1_1", 127.5, -1)])
def test_other_ranges_that_a_file_says(tmp_path, labels, said, scale, shift):
    """Custom Vision's newer form: one output, and its labels beside it."""
    metadata = {"Image.BitmapPixelFormat": "Rgb8", "Image.NominalPixelRange": said}
    assert export(tmp_path, pytorch(metadata=metadata), "--labels", labels) == 0
    made = Model(tmp_path / "out" / "net.fp32.onnx")
    assert np.abs(made(PIXELS) - answers(pytorch(), PIXELS / scale + shift)).max() < 1e-5


def test_pixels_first_in_half_precision(tmp_path):
    """What converters make of Teachable Machine's models, with weights of 16 bits."""
    random = np.random.default_rng(0)
    weights = {"w": random.normal(0, 0.3, (6, 3, 3, 3)), "d": random.normal(0, 2, (6, 3))}
    nodes = [
        node("Transpose", ["input"], "planes", perm=[0, 3, 1, 2]),
        node("Conv", ["planes", "w"], "c"),
        node("Relu", ["c"], "r"),
        node("ReduceMean", ["r"], "pool", axes=[2, 3], keepdims=0),
        node("MatMul", ["pool", "d"], "logits"),
        node("Softmax", ["logits"], "softmax"),
    ]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT16, ["n", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("softmax", TensorProto.FLOAT16, ["n", 3])],
        [numpy_helper.from_array(value.astype(np.float16), name) for name, value in weights.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    assert export(tmp_path, model, "--pixel-range", "-1..1") == 0
    made = Model(tmp_path / "out" / "net.fp32.onnx")
    assert made(PIXELS).sum(axis=1) == pytest.approx([1.0] * 5, abs=1e-3)
    assert made.contract.provenance["pixels"] == "-1..1"
    read = OnnxModel(tmp_path / "net.onnx", None, "auto", None)
    assert (read.planes_first, read.input_shape) == (False, (None, SIZE, SIZE, 3))


def refused(tmp_path, model, **options):
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    with pytest.raises(InputError) as said:
        OnnxModel(path, options.get("head"), options.get("layout", "auto"), options.get("input_size"))
    return str(said.value)


def test_clear_errors(tmp_path, labels, capsys):
    two = [("logits", TensorProto.FLOAT, ["batch", 3]), ("flat", TensorProto.FLOAT, ["batch", 6])]
    assert "2 outputs: logits, flat; say which with --head" in refused(tmp_path, pytorch(outputs=two))
    assert "no output x" in refused(tmp_path, pytorch(), head="x")
    assert "32x32 pictures; --input-size says 64" in refused(tmp_path, pytorch(), input_size=64)
    wide = pytorch()
    wide.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 3
    assert "--layout nchw or nhwc" in refused(tmp_path, wide)
    custom = pytorch(end=[helper.make_node("Secret", ["logits"], ["y"], domain="com.example")])
    assert "not ONNX's own: Secret" in refused(tmp_path, custom)
    ours = pytorch(metadata={"schema": "2", "golden": "{}"})
    assert "model file of this project already" in refused(tmp_path, ours)
    fixed = pytorch(end=[node("ReduceMean", ["logits"], "y", axes=[0])], batch=1)
    assert "written for one picture at a time" in refused(tmp_path, fixed)
    video = pytorch(metadata={"Image.NominalPixelRange": "NominalRange_16_235"})
    assert "pixels are NominalRange_16_235; NominalRange_0_255, " in refused(tmp_path, video)
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.writestr("model.onnx", b"")
    with pytest.raises(InputError, match=r"is a zip; it holds model.onnx. Unpack it"):
        OnnxModel(tmp_path / "export.zip", None, "auto", None)
    (tmp_path / "net.onnx").write_bytes(b"hello")
    out = tmp_path / "out"
    (tmp_path / "file").write_text("")
    cases = [
        (["--onnx", tmp_path / "absent.onnx"], "there is no file"),
        (["--onnx", tmp_path / "net.onnx"], "is not a complete ONNX file"),
        (["--onnx", tmp_path / "net.onnx", "--output", tmp_path / "file"], "is a file; a folder"),
        (["--onnx", tmp_path / "net.onnx", "--mean", "1", "2"], "one number or three"),
        (["--onnx", tmp_path / "net.onnx", "--labels", tmp_path / "absent.txt"], "absent.txt cannot be read"),
    ]
    for arguments, says in cases:
        assert main(["export", "--output", str(out), *map(str, arguments)]) == 2
        assert says in " ".join(capsys.readouterr().err.split())
    assert not out.exists()
