"""Real exports: Keras's ImageNet weights where Keras has them, random ones elsewhere; and a fine-tuned Keras 2 file."""

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import onnx
import pytest

from app.inference.classifier import Classifier
from app.inference.contract import Contract
from app.inference.decode_budget import DecodeBudget
from app.inference.imaging import Resize, load
from app.inference.model import Model
from model_build.__main__ import main
from model_build.dataset import parts, photos
from model_build.export import division
from tests.conftest import ROOT, SHARED, serving

WEIGHTS = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5"
IMAGENET = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"), "models", WEIGHTS).is_file()
KERAS_2_CONFIG = Path(__file__).parent / "keras2_model_config.json.gz"
LABELLED = SHARED / "images" / "imagenet"
SKIMAGE = Path(__import__("skimage").__file__).parent / "data"


def contract_of(path) -> Contract:
    return Contract.from_metadata({p.key: p.value for p in onnx.load(path).metadata_props})


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    arguments = ["export", "--calibration", str(SKIMAGE), "--output", str(folder)]
    if IMAGENET and LABELLED.is_dir():
        arguments += ["--evaluation", str(LABELLED)]
    assert main(arguments if IMAGENET else [*arguments, "--weights", "none", "--min-agreement", "0"]) == 0
    return folder


@pytest.fixture(scope="session")
def fine_tuned(tmp_path_factory) -> Path:
    """A Keras 2 ``.h5``: augmentation, preprocessing, a nested MobileNetV2 at 96x96, a new head with 19 classes."""
    import keras

    keras.utils.set_random_seed(1)
    base = keras.applications.MobileNetV2(input_shape=(96, 96, 3), alpha=0.35, weights=None, include_top=False)
    for layer in base.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            random = np.random.default_rng(len(layer.name))
            size = layer.gamma.shape[0]
            spread = [random.uniform(0.5, 1.5, size), random.normal(0, 0.3, size)]
            layer.set_weights([*spread, random.normal(0, 0.2, size), random.uniform(0.5, 1.5, size)])
    base.trainable = False
    inputs = keras.Input((96, 96, 3))
    tensor = keras.Sequential([keras.layers.RandomFlip("horizontal"), keras.layers.RandomRotation(0.2)])(inputs)
    tensor = keras.layers.GlobalAveragePooling2D()(base(tensor))
    outputs = keras.layers.Dense(19)(keras.layers.Dropout(0.2)(tensor))
    path = tmp_path_factory.mktemp("keras2") / "flowers.h5"
    keras.Model(inputs, outputs).save(path)
    with h5py.File(path, "r+") as file:
        # As tf_keras 2.21 wrote it for the same layers, with preprocess_input between the first two.
        file.attrs["model_config"] = gzip.decompress(KERAS_2_CONFIG.read_bytes()).decode()
        file.attrs["keras_version"] = "2.21.0"
    return path


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_file_is_complete_in_itself(built, precision):
    name = f"mobilenet_v2_1.0_224.{precision}.onnx"
    found = contract_of(built / name)
    assert found.name == "mobilenet_v2_1.0_224"
    assert found.precision == precision
    assert len(found.labels) == 1000
    assert found.multiply_adds == 300_774_272
    assert found.parameters == 3_538_984
    assert found.provenance["tools"]["keras"]
    assert found.measured["against"] == ("keras" if precision == "fp32" else "fp32")
    # Where there are no others, a few of the photos that scikit-image ships are held out; the rest calibrate.
    assert found.measured["held_out"] is True
    assert found.measured["photos"] in ([250] if IMAGENET and LABELLED.is_dir() else range(5, 11))
    if precision == "int8":
        assert found.provenance["quantization"]["method"] == "gptq"
        low, high = found.measured["agreement_interval"]
        assert low <= found.measured["agreement"] <= high
    assert (found.groups is None) == (not IMAGENET)
    if found.groups:
        assert found.groups[found.labels.index("tabby")] == "cat"
    Classifier(Model(built / name), DecodeBudget(10**8)).check_golden()
    assert sorted(path.name for path in built.iterdir()) == [
        "mobilenet_v2_1.0_224.fp32.onnx",
        "mobilenet_v2_1.0_224.int8.onnx",
    ]


def test_fp32_is_keras(built):
    measured = contract_of(built / "mobilenet_v2_1.0_224.fp32.onnx").measured
    assert measured["max_difference"] <= 1e-4
    assert measured["agreement"] == 1.0


def test_int8_reads_pixels_directly_and_has_no_float_convolution(built):
    model = onnx.load(built / "mobilenet_v2_1.0_224.int8.onnx")
    nodes = list(model.graph.node)
    readers = [node for node in nodes if "image" in node.input]
    readers += [node for node in nodes if any(reader.output[0] in node.input for reader in readers)]
    assert {node.op_type for node in readers} <= {"Transpose", "DequantizeLinear", "Conv"}
    made = {name: node for node in nodes for name in node.output}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in nodes:
        if node.op_type == "Conv":
            dequantize = [made[name] for name in node.input]
            assert {d.op_type for d in dequantize} == {"DequantizeLinear"}
            assert constants[dequantize[1].input[0]].data_type == onnx.TensorProto.INT8
            group = next((a.i for a in node.attribute if a.name == "group"), 1)
            weight = np.abs(onnx.numpy_helper.to_array(constants[dequantize[1].input[0]]).astype(int))
            if group == 1 and weight.shape[2:] == (1, 1):
                # What x86 without VNNI multiplies at a time, and adds up in 16 bits two by two.
                together = np.sort(weight.reshape(len(weight), -1, 4), axis=2)
                assert together[..., -2:].sum(axis=2).max() * 255 <= 32767
                assert weight.max() > 64
            else:
                assert weight.max() <= (64 if group == 1 else 127)


@pytest.mark.skipif(not IMAGENET, reason="Keras has no ImageNet weights here; random ones know no cat")
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_real_photos_over_http(built, precision):
    with serving(built / f"mobilenet_v2_1.0_224.{precision}.onnx") as client:
        for name, accepted in (("chelsea", {"Egyptian cat", "tabby", "tiger cat"}), ("coffee", {"espresso"})):
            response = client.post("/predict", files={"file": (SKIMAGE / f"{name}.png").read_bytes()})
            assert response.json()["predictions"][0]["label"] in accepted


@pytest.mark.skipif(not (IMAGENET and LABELLED.is_dir()), reason="needs the labelled photos beside the checkout")
def test_labelled_photos(built):
    fp32 = contract_of(built / "mobilenet_v2_1.0_224.fp32.onnx").measured
    int8 = contract_of(built / "mobilenet_v2_1.0_224.int8.onnx").measured
    assert fp32["photos"] == int8["photos"] == 250
    assert fp32["agreement"] == 1.0
    assert fp32["accuracy"] >= 0.88
    assert int8["agreement"] >= 0.95
    assert int8["source_accuracy"] - int8["accuracy"] <= 0.02


def test_the_same_weights_give_the_same_bytes(fine_tuned, tmp_path):
    """In processes of their own: hash seeds and TensorFlow's counters differ."""
    for name in ("a", "b"):
        command = [sys.executable, "-m", "model_build", "export", "--weights", str(fine_tuned)]
        command += ["--calibration", str(SKIMAGE), "--min-agreement", "0", "--output", str(tmp_path / name)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    for precision in ("fp32", "int8"):
        first, second = (tmp_path / name / f"flowers.{precision}.onnx" for name in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()


def test_a_fine_tuned_keras_2_model_serves(fine_tuned, tmp_path):
    from model_build.network import weights

    names = [f"flower {i}" for i in range(19)]
    (tmp_path / "flowers.txt").write_text("\n".join(names))
    (tmp_path / "groups.json").write_text(json.dumps({"first": names[:9], "last": names[9:]}))
    arguments = ["export", "--weights", str(fine_tuned), "--labels", str(tmp_path / "flowers.txt")]
    arguments += ["--groups", str(tmp_path / "groups.json")]
    assert main([*arguments, "--precision", "fp32", "--output", str(tmp_path)]) == 0
    path = tmp_path / "flowers.fp32.onnx"
    found = contract_of(path)
    assert (found.labels, found.resize.height) == (tuple(names), 96)
    assert found.groups == ("first",) * 9 + ("last",) * 10
    photo = (SKIMAGE / "coffee.png").read_bytes()
    original = weights.load(str(fine_tuned), 1.0, None, None).model
    logits = np.asarray(original(load(photo, found.resize, DecodeBudget(10**8))[np.newaxis].astype(np.float32)))[0]
    with serving(path) as client:
        answer = client.post("/predict?top_k=1", files={"file": photo}).json()["predictions"][0]
    assert answer["label"] == names[int(logits.argmax())]
    assert answer["score"] == pytest.approx(float(np.exp(logits).max() / np.exp(logits).sum()), abs=1e-4)


def test_known_photos_choose_from_where_on_others_are_unknown(fine_tuned, tmp_path, capsys, monkeypatch):
    # Whether ImageNet's weights are here or not.
    monkeypatch.setattr(division, "_clusters", lambda _fp32, pixels, _track: division._copies(pixels))
    pictures = photos.generated(70, Resize(96, 96, 1.0, "bilinear")).pixels
    for folder, chosen in (("all", pictures[:60]), ("few", pictures[:20]), ("foreign", pictures[60:])):
        (tmp_path / folder).mkdir()
        for i, picture in enumerate(chosen):
            photos.Image.fromarray(picture).save(tmp_path / folder / f"{i:02}.png")

    def export(*more: str) -> str:
        arguments = ["--weights", fine_tuned, "--calibration", tmp_path / "few", "--min-agreement", 0, "--crop", 1]
        assert main(["export", *map(str, [*arguments, *more, "--output", tmp_path / "out"])]) == 0
        said = capsys.readouterr()
        return said.out + said.err

    # Fourteen of them calibrate, so 46 are left.
    assert "fewer than 50 photos" in export("--precision", "fp32", "--known", tmp_path / "all")
    assert contract_of(tmp_path / "out" / "flowers.fp32.onnx").unknown_above is None
    for i, picture in enumerate(pictures[:15]):
        photos.Image.fromarray(picture[::-1]).save(tmp_path / "all" / f"turned{i:02}.png")
    said = export("--known", tmp_path / "all", "--foreign", tmp_path / "foreign", "--refuse", "0.2")
    for precision in ("fp32", "int8"):
        model = Model(tmp_path / "out" / f"flowers.{precision}.onnx")
        found = model.contract.measured["unknown"]
        assert (found["chosen_on"], found["share"], found["foreign"]) == (61, 0.2, 10)
        assert f"flowers.{precision}.onnx: unknown above a novelty of {model.contract.unknown_above:.3f}" in said
        learned = set(
            parts.digests(division.divide(None, photos.Photos(pictures[:20], np.full(20, -1)), None).learning.pixels)
        )
        others = [picture for picture in pictures[:60] if parts.digests(picture[np.newaxis])[0] not in learned]
        known = model.novelty(np.concatenate([others, pictures[:15, ::-1]]))
        assert np.quantile(known, 0.8) == pytest.approx(model.contract.unknown_above, abs=1e-5)
        Classifier(model, DecodeBudget(10**8)).check_golden()


def run(capsys, *arguments) -> tuple[int, str]:
    code = main(["export", *map(str, arguments)])
    return code, re.sub(r"\s+", " ", capsys.readouterr().err)


def test_clear_errors_and_nothing_written(capsys, tmp_path, fine_tuned):
    out = tmp_path / "out"
    (tmp_path / "two.txt").write_text("a\nb\n")
    (tmp_path / "text.h5").write_text("hello")
    (tmp_path / "text.keras").write_text("hello")
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "coffee.png").write_bytes((SKIMAGE / "coffee.png").read_bytes())
    (tmp_path / "groups.json").write_text('{"all": ["class 0", "class 20"]}')
    cases = [
        (["--weights", tmp_path / "absent.h5"], "there is no file"),
        (["--weights", tmp_path / "text.h5"], "is not a Keras file"),
        (["--weights", tmp_path / "text.keras"], "is not a Keras file"),
        (["--weights", tmp_path / "two.txt"], "is not a Keras file"),
        (["--weights", "imagenet", "--alpha", "0.9"], "0.35, 0.5"),
        (["--weights", "imagenet", "--classes", "10"], "1000 classes"),
        (["--weights", fine_tuned, "--classes", "7"], "19 classes"),
        (["--weights", fine_tuned, "--input-size", "224"], "96x96"),
        (["--weights", fine_tuned, "--labels", tmp_path / "two.txt"], "2 labels, the model 19"),
        (["--weights", fine_tuned, "--groups", tmp_path / "groups.json"], "the model has not: class 20"),
        (["--weights", fine_tuned, "--calibration", tmp_path / "absent"], "not a folder"),
        (["--weights", fine_tuned, "--calibration", tmp_path / "empty"], "no images"),
        (["--weights", fine_tuned, "--precision", "int8"], "--calibration DIR"),
        (["--weights", fine_tuned, "--evaluation", tmp_path / "one"], "needs --calibration DIR or --distill DIR"),
        (["--weights", fine_tuned, "--calibration", tmp_path / "one"], "give others with --evaluation DIR"),
        (["--weights", fine_tuned, "--known", SKIMAGE], "--known and --foreign need"),
        (["--weights", fine_tuned, "--calibration", SKIMAGE, "--known", tmp_path / "absent"], "not a folder"),
    ]
    for arguments, says in cases:
        code, output = run(capsys, *arguments, "--output", out)
        assert code == 2, output
        assert says in output, output
        assert "Traceback" not in output
    assert not out.exists()


def test_no_network_for_the_weights(capsys, tmp_path, monkeypatch):
    import urllib.error

    import keras

    def offline(*_args, **_kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(keras.src.utils.file_utils, "urlretrieve", offline)
    code, output = run(capsys, "--alpha", "0.35", "--input-size", "96", "--output", tmp_path / "out")
    assert code == 3
    assert "KERAS_HOME" in output
    assert "--weights" in output
    assert "0.35_96.h5" in output
    assert not (tmp_path / "out").exists()


def test_outside_the_limits_nothing_is_written(capsys, tmp_path, fine_tuned, monkeypatch):
    from model_build.export import parity

    monkeypatch.setattr(parity, "MAX_DIFFERENCE", -1.0)
    code, output = run(capsys, "--weights", fine_tuned, "--precision", "fp32", "--output", tmp_path / "out")
    assert code == 4
    assert "differs from Keras" in output
    assert not (tmp_path / "out").exists()


def test_help(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["export", "--help"])
    assert ended.value.code == 0
    assert "exit codes" in capsys.readouterr().out
