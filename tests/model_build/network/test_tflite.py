"""TensorFlow Lite files, float and quantized, beside TensorFlow Lite's own interpreter."""

import zipfile

import numpy as np
import pytest
import tensorflow as tf

from app.inference.model import Model
from model_build.__main__ import main
from model_build.errors import InputError
from model_build.network import keras_file
from model_build.network.tflite import TfliteModel

# isort: split
import keras
from keras import layers

SIZE = 24
PIXELS = np.random.default_rng(1).integers(0, 256, (6, SIZE, SIZE, 3), np.uint8)
PREPARED = PIXELS.astype(np.float32) / 127.5 - 1


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with one small classifier as ``float.tflite`` and ``int8.tflite``, and what Keras predicts."""
    folder = tmp_path_factory.mktemp("tflite")
    keras.utils.set_random_seed(2)
    start = keras.initializers.RandomNormal(stddev=0.3, seed=3)
    model = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            layers.Conv2D(6, 3, 2, "same", activation="relu6", kernel_initializer=start),
            layers.DepthwiseConv2D(3, depthwise_initializer=start),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, "softmax", kernel_initializer=keras.initializers.RandomNormal(stddev=2.0, seed=4)),
        ]
    )
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    (folder / "float.tflite").write_bytes(converter.convert())
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([picture[np.newaxis]] for picture in PREPARED)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.uint8
    (folder / "int8.tflite").write_bytes(converter.convert())
    return folder, np.asarray(model(PREPARED))


def export(path, folder, *arguments):
    return main(["export", "--weights", str(path), "--precision", "fp32", "--output", str(folder), *arguments])


def test_a_float_file_gives_the_interpreters_scores(files, tmp_path, capsys):
    folder, expected = files
    assert keras_file.kind_of(folder / "float.tflite") == "tflite"
    assert export(folder / "float.tflite", tmp_path, "--pixel-range", "-1..1") == 0
    made = Model(tmp_path / "float.fp32.onnx")
    assert np.abs(made(PIXELS) - expected).max() < 1e-5
    assert np.abs(made(PIXELS) - TfliteModel(folder / "float.tflite", None, None).by_interpreter(PREPARED)).max() < 1e-5
    assert "top-1 the same on 24" in capsys.readouterr().err


def test_a_quantized_file_says_what_its_pixels_are(files, tmp_path, capsys):
    folder, expected = files
    model = TfliteModel(folder / "int8.tflite", None, None)
    assert model.quantized
    assert model.grid == (pytest.approx(1 / 127.5, rel=0.02), pytest.approx(128, abs=2))
    assert export(folder / "int8.tflite", tmp_path) == 0
    made = Model(tmp_path / "int8.fp32.onnx")
    assert np.abs(made(PIXELS) - expected).max() < 0.1, "its weights are still on their grid"
    assert made.contract.provenance["pixels"].endswith("as the file says")
    assert "rounding between layers is undone" in capsys.readouterr().err


def test_labels_inside_the_file_are_taken(files, tmp_path):
    """TensorFlow Lite's metadata put them behind the model, as a zip."""
    path = tmp_path / "with_labels.tflite"
    path.write_bytes((files[0] / "float.tflite").read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels.txt", "0 cat\n1 dog\n2 bird\n3 none of these\n")
    assert export(path, tmp_path, "--pixel-range", "-1..1") == 0
    assert Model(tmp_path / "with_labels.fp32.onnx").contract.labels == ("cat", "dog", "bird", "none of these")


def test_what_is_no_tflite_is_said(files, tmp_path):
    (tmp_path / "cut.tflite").write_bytes((files[0] / "float.tflite").read_bytes()[:200])
    with pytest.raises(InputError, match="cannot be brought to ONNX"):
        TfliteModel(tmp_path / "cut.tflite", None, None)
