"""TensorFlow Lite files of TensorFlow's own converter, float and quantized, through the whole export."""

import numpy as np
import pytest
import tensorflow as tf

from app.inference.model import Model
from model_build.__main__ import main
from model_build.network.tflite import TfliteModel

PIXELS = np.random.default_rng(1).integers(0, 256, (4, 16, 16, 3), np.uint8)


class Net(tf.Module):
    """A convolution, its mean and a dense layer, on pixels of -1 to 1."""

    def __init__(self):
        random = np.random.default_rng(0)
        self.w = tf.constant(random.normal(0, 0.3, (3, 3, 3, 8)), tf.float32)
        self.d = tf.constant(random.normal(0, 2, (8, 3)), tf.float32)

    @tf.function(input_signature=[tf.TensorSpec((1, 16, 16, 3), tf.float32)])
    def __call__(self, pixels):
        values = tf.nn.relu6(tf.nn.conv2d(pixels, self.w, 2, "SAME"))
        return tf.nn.softmax(tf.reduce_mean(values, axis=[1, 2]) @ self.d)


@pytest.fixture(scope="module")
def net():
    return Net()


def written(folder, net, kind):
    converter = tf.lite.TFLiteConverter.from_concrete_functions([net.__call__.get_concrete_function()], net)
    if kind != "float":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([p[np.newaxis] / np.float32(127.5) - 1] for p in PIXELS)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = kind
    path = folder / "net.tflite"
    path.write_bytes(converter.convert())
    return path


@pytest.mark.parametrize(("kind", "tolerance"), [("float", 1e-5), (tf.uint8, 0.05), (tf.int8, 0.05)])
def test_scores_are_those_of_the_network(tmp_path, net, kind, tolerance, capfd):
    path = written(tmp_path, net, kind)
    assert main(["export", "--weights", str(path), "--output", str(tmp_path / "out")]) == 0
    assert "Beside TensorFlow Lite's interpreter" in capfd.readouterr().err
    made = Model(tmp_path / "out" / "net.fp32.onnx")
    expected = np.concatenate([net(p[np.newaxis] / np.float32(127.5) - 1) for p in PIXELS])
    assert np.abs(made(PIXELS) - expected).max() < tolerance
    assumed = "(assumed)" in made.contract.provenance["pixels"]
    assert assumed == (kind == "float"), "a quantized file says what its pixels are"


def test_the_interpreter_is_asked_in_its_own_numbers(tmp_path, net):
    model = TfliteModel(written(tmp_path, net, tf.uint8), None, None)
    scale, zero = model.grid
    given = ((PIXELS - zero) * scale).astype(np.float32)
    assert np.abs(model.by_interpreter(given) - model(given)).max() < 0.05


def test_a_damaged_file_is_refused(tmp_path, net, capsys):
    path = written(tmp_path, net, "float")
    path.write_bytes(path.read_bytes()[:300])
    assert main(["export", "--weights", str(path), "--output", str(tmp_path / "out")]) == 2
    assert "cannot be brought to ONNX by tf2onnx" in capsys.readouterr().err
