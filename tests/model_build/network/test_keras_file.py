"""Small classifiers in every form of file that Keras writes: read, converted, and beside Keras's own predictions."""

import json
import shutil
import zipfile

import h5py
import numpy as np
import onnxruntime as ort
import pytest

from app.inference.imaging import Resize
from model_build.errors import InputError
from model_build.export.convert import Pixels, convert
from model_build.export.parity import source_scores
from model_build.export.preprocessing import PIXEL_RANGES
from model_build.network import keras_file, weights

# isort: split
import keras
from keras import layers

SIZE = 24
PIXELS = np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
AS_TRAINED = Pixels(PIXEL_RANGES["0..1"], "0..1")


def dense(units, activation=None):
    return layers.Dense(units, activation, kernel_initializer=keras.initializers.RandomNormal(stddev=2.0, seed=4))


def features(tensor):
    start = keras.initializers.RandomNormal(stddev=0.3, seed=3)
    tensor = layers.Conv2D(6, 3, 2, "same", activation="relu", kernel_initializer=start)(tensor)
    tensor = layers.BatchNormalization()(layers.DepthwiseConv2D(3)(tensor))
    return layers.GlobalAveragePooling2D()(layers.ReLU(6.0)(tensor))


def classifier(front=None, head=None, shape=(SIZE, SIZE, 3)):
    keras.utils.set_random_seed(2)
    inputs = keras.Input(shape)
    tensor = features(front(inputs) if front else inputs)
    return keras.Model(inputs, head(tensor) if head else dense(4, "softmax")(tensor))


def load(path, **options):
    return weights.load(str(path), 1.0, options.get("input_size"), None, None, options.get("head")).model


def served(model, images=PIXELS):
    """The scores of the converted graph, which are those of the model; and the graph's operators."""
    made = convert(model, images.shape[1], images.shape[2], AS_TRAINED)
    session = ort.InferenceSession(made.fp32.SerializeToString(), providers=["CPUExecutionProvider"])
    (scores,) = session.run(["scores"], {"image": images})
    assert np.abs(scores - source_scores(model, made.output, made.pixels.map, images)).max() < 1e-5
    assert made.fp32.graph.output[0].name == "scores"
    return scores, [node.op_type for node in made.fp32.graph.node]


def predicted(model):
    """What it says itself, without the graph that ``predict`` would make first."""
    return keras.tree.map_structure(np.asarray, model(PIXELS.astype(np.float32) / 255, training=False))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A folder with one network as ``.keras`` and as ``.h5``, and what it predicts."""
    folder, model = tmp_path_factory.mktemp("plain"), classifier()
    model.save(folder / "plain.keras")
    model.save(folder / "plain.h5")
    return folder, predicted(model)


@pytest.mark.parametrize(
    ("source", "name"),
    [("plain.h5", "Model.H5"), ("plain.keras", "m.h5"), ("plain.h5", "m.keras"), ("plain.keras", "m")],
)
def test_what_is_in_a_file_counts_and_not_its_name(plain, tmp_path, source, name):
    shutil.copy(plain[0] / source, tmp_path / name)
    model = load(tmp_path / name)
    assert np.abs(predicted(model) - plain[1]).max() < 1e-6


def test_an_unpacked_file_and_a_saved_model_are_read(plain, tmp_path):
    shutil.unpack_archive(plain[0] / "plain.keras", tmp_path / "unpacked", "zip")
    scores, _ = served(load(tmp_path / "unpacked"))
    assert np.abs(scores - plain[1]).max() < 1e-5
    model = keras.saving.load_model(plain[0] / "plain.keras")
    model.export(tmp_path / "exported", verbose=False)
    source = weights.load(str(tmp_path / "exported"), 1.0, None, None)
    scores, operators = served(source.model)
    assert np.abs(scores - plain[1]).max() < 1e-5
    assert operators[:3] == ["Transpose", "Cast", "Conv"]
    assert source.model.count_params() == model.count_params()
    assert len(source.sha256) == 64


HEADS = {
    "nested": keras.Sequential([keras.Input((6,)), layers.Dropout(0.2), dense(4, "softmax")]),
    "reshaped": lambda t: layers.Reshape((4,))(dense(4, "softmax")(t)),
    "operation": lambda t: keras.ops.softmax(dense(4)(t)),
    "convolution": lambda t: layers.Flatten()(layers.Conv2D(4, 1, activation="softmax")(layers.Reshape((1, 1, 6))(t))),
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_a_softmax_is_found_wherever_it_stands(head):
    model = classifier(head=head)
    scores, operators = served(model)
    assert np.abs(scores - predicted(model)).max() < 1e-5
    assert operators.count("Softmax") == 1


def test_one_output_among_several_is_chosen(tmp_path):
    inputs = keras.Input((SIZE, SIZE, 3))
    pooled = features(inputs)
    model = keras.Model(inputs, {"species": dense(4, "softmax")(pooled), "age": dense(2)(pooled)})
    model.save(tmp_path / "two.keras")
    with pytest.raises(InputError, match=r"2 outputs: age \[2\], species \[4\]; say which with --head"):
        load(tmp_path / "two.keras")
    with pytest.raises(InputError, match="no output colour; there is age, species"):
        load(tmp_path / "two.keras", head="colour")
    scores, _ = served(load(tmp_path / "two.keras", head="species"))
    assert np.abs(scores - predicted(model)["species"]).max() < 1e-5


def test_a_single_output_in_a_dictionary_is_one(tmp_path):
    inputs = keras.Input((SIZE, SIZE, 3))
    model = keras.Model({"picture": inputs}, {"scores": dense(4, "softmax")(features(inputs))})
    model.save(tmp_path / "one.keras")
    assert served(load(tmp_path / "one.keras"))[0].shape == (3, 4)


def adapted(axis):
    layer = layers.Normalization(axis=axis)
    layer.adapt(np.random.default_rng(0).uniform(0, 1, (10, SIZE, SIZE, 3)) * [1, 0.5, 2])
    return layer


FRONTS = {
    "constants and adapted": lambda t: adapted(-1)(
        layers.Normalization(mean=[0.4, 0.5, 0.6], variance=[0.1, 0.2, 0.3])(t)
    ),
    "scalar": lambda t: adapted(None)(layers.Rescaling([1, 2, 3], [0, 1, 2])(t)),
    "resnet": keras.applications.resnet50.preprocess_input,
}


@pytest.mark.parametrize("front", FRONTS.values(), ids=FRONTS)
def test_preprocessing_goes_into_the_first_convolution(tmp_path, front):
    classifier(front).save(tmp_path / "m.keras")
    model = load(tmp_path / "m.keras")
    scores, operators = served(model)
    assert np.abs(scores - predicted(model)).max() < 1e-5
    assert operators[:4] == ["Transpose", "Cast", "Sub", "Conv"]


def test_what_resizes_a_fixed_size_stays_in_the_graph():
    model = classifier(layers.Resizing(16, 16))
    scores, operators = served(model)
    assert np.abs(scores - predicted(model)).max() < 1e-5
    assert "Resize" in operators


def test_grey(tmp_path):
    classifier(layers.Rescaling(2.0, -1.0), shape=(SIZE, SIZE, 1)).save(tmp_path / "m.keras")
    model = load(tmp_path / "m.keras")
    scores, _ = served(model)
    luma = (PIXELS @ np.array([[0.299], [0.587], [0.114]]) / 255).astype(np.float32)
    assert np.abs(scores - np.asarray(model(luma))).max() < 1e-5


def test_pictures_of_any_size(tmp_path):
    def saved(*front):
        def layer(tensor):
            for each in front:
                tensor = each(tensor)
            return tensor

        classifier(layer, shape=(None, None, 3)).save(tmp_path / "m.keras")
        return tmp_path / "m.keras"

    crop = layers.Resizing(SIZE, SIZE, crop_to_aspect_ratio=True, interpolation="bicubic")
    model = load(saved(crop, layers.Rescaling(2.0)))
    assert keras_file.geometry(model) == Resize(SIZE, SIZE, 1.0, "bicubic", "crop")
    keras_file.leave_geometry_out(model)
    scores, operators = served(model)
    assert operators[:3] == ["Transpose", "Cast", "Conv"]
    assert np.abs(scores - predicted(keras.saving.load_model(tmp_path / "m.keras"))).max() < 1e-4
    small = load(saved(crop, layers.CenterCrop(18, 18)))
    assert keras_file.geometry(small) == Resize(18, 18, 0.75, "bicubic", "crop")
    squeezing = load(saved(layers.Resizing(SIZE, SIZE)))
    assert keras_file.geometry(squeezing) == Resize(SIZE, SIZE, 1.0, "bilinear", "squash")
    with pytest.raises(InputError, match=r"Resizing\) resamples by nearest.* --input-size"):
        load(saved(layers.Resizing(SIZE, SIZE, interpolation="nearest")))
    with pytest.raises(InputError, match=r"Resizing\) pads .* --input-size"):
        load(saved(layers.Resizing(SIZE, SIZE, pad_to_aspect_ratio=True)))
    with pytest.raises(InputError, match="depends on a camera's resolution"):
        load(saved(layers.CenterCrop(SIZE, SIZE)))
    with pytest.raises(InputError, match="say which with --input-size"):
        load(saved())
    assert load(saved(layers.Resizing(SIZE, SIZE)), input_size=SIZE).input_shape == (None, None, None, 3)


@pytest.mark.parametrize(("policy", "ending"), [("mixed_float16", "keras"), ("bfloat16", "h5")])
def test_half_precision_is_loaded_in_single(tmp_path, policy, ending):
    keras.config.set_dtype_policy(policy)
    try:
        model = classifier()
    finally:
        keras.config.set_dtype_policy("float32")
    model.save(tmp_path / f"m.{ending}")
    loaded = load(tmp_path / f"m.{ending}")
    assert {layer.compute_dtype for layer in loaded.layers} == {"float32"}
    scores, _ = served(loaded)
    assert np.abs(scores - predicted(model).astype(np.float32)).max() < 0.02


def test_a_saved_model_in_half_precision_becomes_single(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = classifier()
    finally:
        keras.config.set_dtype_policy("float32")
    model.export(tmp_path / "exported", verbose=False)
    made = convert(load(tmp_path / "exported"), SIZE, SIZE, AS_TRAINED)
    assert (made.coarse, made.quantized) == (True, False)
    session = ort.InferenceSession(made.fp32.SerializeToString(), providers=["CPUExecutionProvider"])
    (scores,) = session.run(["scores"], {"image": PIXELS})
    assert np.abs(scores - predicted(model)).max() < 0.02


@pytest.mark.parametrize("axis", [None, (1, 2, 3)])
def test_hdf5_keeps_the_axes_of_a_normalization(tmp_path, axis):
    model = classifier(adapted(axis))
    model.save(tmp_path / "m.h5")
    assert np.abs(predicted(load(tmp_path / "m.h5")) - predicted(model)).max() < 1e-6


def test_keras_int8_is_undone(tmp_path):
    model = classifier(head=HEADS["nested"])
    before = predicted(model)
    model.quantize("int8")
    model.save(tmp_path / "m.keras")
    scores, operators = served(load(tmp_path / "m.keras"))
    assert np.abs(scores - before).max() < 0.02
    assert not any("Integer" in operator for operator in operators)


def to_keras_2(node):
    """Turns a configuration into the form of Keras 2.15, as far as these layers go."""
    if isinstance(node, list):
        for item in node:
            to_keras_2(item)
    if not isinstance(node, dict):
        return
    config = node.get("config")
    if node.get("class_name") == "Functional":
        node["module"] = "keras.src.engine.functional"
        for end in ("input_layers", "output_layers"):
            config[end] = [config[end]]
        for layer in config["layers"]:
            calls = [call["args"][0]["config"]["keras_history"] for call in layer["inbound_nodes"]]
            layer["inbound_nodes"] = [[[*history, {}]] for history in calls]
    if node.get("class_name") == "InputLayer":
        config["batch_input_shape"] = config.pop("batch_shape")
        config.pop("optional", None)
    if node.get("class_name") == "DepthwiseConv2D":
        config |= {"groups": 1, "kernel_initializer": None, "kernel_regularizer": None, "kernel_constraint": None}
    if isinstance(config, dict) and isinstance(config.get("dtype"), dict):
        config["dtype"] = "float32"
    for item in node.values():
        to_keras_2(item)


def test_a_keras_2_zip(plain, tmp_path):
    with zipfile.ZipFile(plain[0] / "plain.keras") as old, zipfile.ZipFile(tmp_path / "m.keras", "w") as new:
        config = json.loads(old.read("config.json"))
        to_keras_2(config)
        new.writestr("config.json", json.dumps(config))
        new.writestr("metadata.json", json.dumps({"keras_version": "2.15.0"}))
        new.writestr("model.weights.h5", old.read("model.weights.h5"))
    assert np.abs(served(load(tmp_path / "m.keras"))[0] - plain[1]).max() < 1e-5


def test_keras_2_operations_slices_and_slashes(plain, tmp_path):
    """``preprocess_input`` of ResNet as Keras 2 wrote it, and MobileNetV3's names of layers."""
    with h5py.File(shutil.copy(plain[0] / "plain.h5", tmp_path / "m.h5"), "r+") as file:
        config = json.loads(file.attrs["model_config"])
        to_keras_2(config)
        first, second = config["config"]["layers"][:2]
        (old,) = {second["name"]}
        inserted = [("SlicingOpLambda", "__operators__.getitem", {"slice_spec": [{"class_name": "__ellipsis__"}, {
            "start": None, "stop": None, "step": -1}]}),
            ("TFOpLambda", "nn.bias_add", {"bias": [-0.1, -0.2, -0.3], "data_format": "NHWC"}),
            ("SlicingOpLambda", "__operators__.getitem", {"slice_spec": [None, {"class_name": "__ellipsis__"}]}),
            ("TFOpLambda", "compat.v1.squeeze", {"axis": [0], "name": None})]  # fmt: skip
        before = first["name"]
        for at, (kind, function, options) in enumerate(inserted):
            name = f"tf.{function}_{at}"
            made = {"class_name": kind, "config": {"name": name, "function": function}, "name": name}
            config["config"]["layers"].insert(1 + at, made | {"inbound_nodes": [[before, 0, 0, options]]})
            before = name
        second["inbound_nodes"][0][0][0] = before
        text = json.dumps(config).replace(f'"{old}"', '"block/first"')
        file.attrs["model_config"], file.attrs["keras_version"] = text, "2.15.0"
    images = np.ascontiguousarray(PIXELS)
    scores, operators = served(load(tmp_path / "m.h5"), images)
    original = keras.saving.load_model(plain[0] / "plain.h5", compile=False)
    turned = images[..., ::-1].astype(np.float32) / 255 - np.float32([0.1, 0.2, 0.3])
    assert np.abs(scores - np.asarray(original(turned))).max() < 1e-5
    assert operators[:4] == ["Transpose", "Cast", "Sub", "Conv"]


@keras.saving.register_keras_serializable("tests", "Doubled")
class Doubled(layers.Layer):
    def call(self, x):
        return 2 * x


def test_clear_errors(plain, tmp_path):
    whole = (plain[0] / "plain.keras").read_bytes()
    made = {
        "cut.keras": whole[: len(whole) // 2],
        "cut.h5": (plain[0] / "plain.h5").read_bytes()[:9000],
        "empty.keras": b"",
        "text.h5": b"hello",
        "m.tflite": b"\x1c\0\0\0TFL3" + bytes(20),
        "m.onnx": bytes([8, 8, 0x12, 7]) + b"pytorch" + bytes(9),
        "m.pkl": b"\x80\x04cstuff.",
    }
    says = ["damaged zip", "damaged HDF5", "not a Keras file", "not a Keras file", "tf2onnx", "use --onnx", "pickle"]
    for (name, data), expected in zip(made.items(), says, strict=True):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=expected):
            load(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "tm.zip", "w") as archive:
        archive.writestr("keras_model.h5", b"x")
    with pytest.raises(InputError, match=r"not a Keras file: keras_model.h5. Unpack it"):
        load(tmp_path / "tm.zip")
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    with pytest.raises(InputError, match="PyTorch"):
        load(tmp_path / "model.pt")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="no SavedModel"):
        load(tmp_path / "folder")
    classifier(Doubled()).save(tmp_path / "custom.keras")
    del keras.saving.get_custom_objects()["tests>Doubled"]
    with pytest.raises(InputError, match=r"it contains the layer Doubled, whose code is not in the file.*model.export"):
        load(tmp_path / "custom.keras")
    classifier(layers.Lambda(lambda x: x)).save(tmp_path / "lambda.keras")
    with pytest.raises(InputError, match="Lambda layer"):
        load(tmp_path / "lambda.keras")
    keras.Sequential([keras.Input((5,)), dense(3)]).save(tmp_path / "flat.keras")
    with pytest.raises(InputError, match="one picture"):
        load(tmp_path / "flat.keras")
