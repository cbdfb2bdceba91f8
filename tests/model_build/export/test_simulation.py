"""The simulation against ONNX Runtime: each rounding of the graph, and what comes out of it."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from app.inference.imaging import Resize
from model_build.dataset import photos
from model_build.errors import InputError
from model_build.export import pipeline, quantize
from model_build.export.simulation import Simulation
from tests.model_build import small_network

RULE = Resize(small_network.SIDE, small_network.SIDE, 1.0, "bilinear")


@pytest.fixture(scope="module")
def pixels():
    return photos.generated(12, RULE).pixels


@pytest.fixture(scope="module")
def int8(pixels):
    fp32 = pipeline.convert(small_network.make(), RULE.height, RULE.width).fp32
    return quantize.quantize(fp32, pixels)


def run(proto, names, pixels):
    return ort.InferenceSession(proto.SerializeToString()).run(names, {"image": pixels})


def test_it_computes_what_the_file_computes(int8, pixels):
    features, logits = Simulation(int8)(pixels)
    exact, scores = run(int8, ["features", "scores"], pixels)
    assert np.abs(features.numpy() - exact.mean(axis=(2, 3))).max() < 1e-5
    exponents = np.exp(logits.numpy() - logits.numpy().max(axis=1, keepdims=True))
    assert np.abs(exponents / exponents.sum(axis=1, keepdims=True) - scores).max() < 1e-5


def test_every_rounding_is_the_files(int8, pixels):
    """Behind each QuantizeLinear the same integers, but for a step where a sum lies half-way between two."""
    rounded = [node for node in int8.graph.node if node.op_type == "QuantizeLinear"]
    assert len(rounded) > 8
    graph = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in int8.graph.initializer}
    probe = onnx.ModelProto()
    probe.CopyFrom(int8)
    names = [node.output[0] for node in rounded]
    probe.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.UINT8, None) for name in names)
    found = Simulation(int8).steps(pixels)
    for node, integers in zip(rounded, run(probe, names, pixels), strict=True):
        steps = found[node.output[0]].steps.numpy() + graph[node.input[2]]
        if steps.ndim == 4:
            steps = steps.transpose(0, 3, 1, 2)
        apart = np.abs(steps - integers)
        assert apart.max() <= 1
        assert (apart > 0).mean() < 1e-3


def test_untrained_it_writes_the_same_model(int8, pixels):
    written = Simulation(int8).write()
    assert (run(written, ["scores"], pixels)[0] == run(int8, ["scores"], pixels)[0]).all()


def test_what_is_trained_is_written(int8, pixels):
    simulation = Simulation(int8)
    before = simulation(pixels)[1].numpy()
    for layer in simulation.layers:
        layer.weight.assign(layer.weight * 0.9)
        layer.bias.assign_add(np.full(layer.bias.shape, 0.05, np.float32))
    logits = simulation(pixels)[1].numpy()
    assert np.abs(logits - before).max() > 0.01
    written = Simulation(simulation.write())(pixels)[1].numpy()
    # Biases are rounded to much finer steps than the weights.
    assert np.abs(written - logits).max() < 1e-2


def test_an_operator_that_is_not_simulated_is_named(int8, pixels):
    proto = onnx.ModelProto()
    proto.CopyFrom(int8)
    next(node for node in proto.graph.node if node.op_type == "Add").op_type = "Max"
    with pytest.raises(InputError, match="Max"):
        Simulation(proto)(pixels)
