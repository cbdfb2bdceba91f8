"""The branch that explains scores: exact in every form of head, fp32 and int8, and free for whoever asks for scores."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from app.inference.decode_budget import DecodeBudget
from app.inference.imaging import Resize, load
from app.inference.model import Model
from app.registry.source import BUNDLED
from model_build.__main__ import main
from model_build.dataset import photos
from model_build.export import class_activation_map, graph, publish, quantize
from tests import tiny_model
from tests.model_build.export.test_graph import RANGE, TRANSPOSE, ours
from tests.model_build.export.test_graph import network as any_network
from tests.model_build.training.test_teach import network as small

SKIMAGE = Path(__import__("skimage").__file__).parent / "data"


def without(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph as it is before the branch is added."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    kept = [value for value in plain.graph.output if value.name in ("features", "scores")]
    del plain.graph.output[:]
    plain.graph.output.extend(kept)
    del plain.graph.input[1:]
    graph.canonicalise(plain)
    return plain


def classifier_of(model: onnx.ModelProto) -> tuple[np.ndarray, np.ndarray, float]:
    """``weight [D, C]`` and ``bias [C]`` of the last layer, dequantized, and half a step of its input (0 in fp32)."""
    index = graph.Graph(model)
    # What a taught model computes its novelty by is another one.
    layer = index.producer[index.producer["scores"].input[0]]
    while layer.op_type not in ("Gemm", "MatMul", "Conv"):
        layer = index.producer[layer.input[0]]

    def value(name: str) -> np.ndarray:
        if name in index.constants:
            return index.array(name).astype(np.float64)
        tensor, scale, zero = (index.array(part).astype(np.float64) for part in index.producer[name].input)
        shape = [1] * tensor.ndim
        axis = graph.attribute(index.producer[name], "axis", 1) if scale.ndim else 0
        if scale.ndim:
            shape[axis] = -1
        return (tensor - zero.reshape(shape)) * scale.reshape(shape)

    weight = value(layer.input[1])
    weight = weight.reshape(weight.shape[:2]).T if layer.op_type == "Conv" else weight
    weight = weight.T if graph.attribute(layer, "transB", 0) else weight
    bias = value(layer.input[2]) if len(layer.input) > 2 else np.zeros(weight.shape[1])
    dequantize = index.producer[layer.input[0]]
    while dequantize.op_type in ("Squeeze", "Reshape", "Flatten"):
        dequantize = index.producer[dequantize.input[0]]
    step = float(index.array(dequantize.input[1])) if dequantize.op_type == "DequantizeLinear" else 0.0
    return weight, bias, step / 2


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def check(model: onnx.ModelProto, pixels: np.ndarray) -> None:
    """Against NumPy, for the best class and for given ones; the scores are those of the graph without the branch."""
    loaded, (weight, bias, half_step) = session(model), classifier_of(model)
    features, plain = session(without(model)).run(["features", "scores"], {"image": pixels})
    features = features.astype(np.float64)
    logits = {}
    for asked in (None, 0, weight.shape[1] - 1):
        feeds = {"image": pixels} if asked is None else {"image": pixels, "evidence_class": np.array([asked])}
        scores, maps, biases = loaded.run(["scores", "evidence", "evidence_bias"], feeds)
        assert np.array_equal(scores, plain)
        chosen = scores.argmax(axis=1) if asked is None else np.full(len(pixels), asked)
        expected = np.einsum("ndyx,dn->nyx", features, weight[:, chosen])
        assert maps.shape == expected.shape
        assert np.abs(maps - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())
        # int8 rounds the pooled features before it classifies them.
        rounding = half_step * np.abs(weight[:, chosen]).sum(axis=0)
        assert (np.abs(biases - bias[chosen]) <= rounding + 2e-4).all()
        logits[asked] = maps.mean(axis=(1, 2)) + biases
    # Softmax, temperature included: the logarithm of a ratio of scores is the difference of their logits.
    ratio = np.log(plain[:, 0] / plain[:, -1])
    assert np.abs(ratio - (logits[0] - logits[weight.shape[1] - 1])).max() < 1e-4 * max(1, np.abs(ratio).max())


def pictures(side: int, count: int = 4) -> np.ndarray:
    return photos.generated(count, Resize(side, side, 1.0, "bilinear")).pixels


def test_int8_and_fp32_and_what_was_taught(tmp_path):
    fp32, pixels = small(), pictures(32, 12)
    int8 = quantize.quantize(fp32, pixels)
    for k, colour in enumerate([(200, 30, 30), (30, 200, 30)]):
        (tmp_path / "two" / str(k)).mkdir(parents=True)
        for i in range(6):
            picture = np.random.default_rng(i).normal(colour, 40, (40, 40, 3)).clip(0, 255).astype(np.uint8)
            photos.Image.fromarray(picture).save(tmp_path / "two" / str(k) / f"{i}.png")
    for model, precision in ((fp32, "fp32"), (int8, "int8")):
        explained = class_activation_map.add(model)
        check(explained, pixels)
        assert class_activation_map.add(model).SerializeToString(deterministic=True) == explained.SerializeToString(
            deterministic=True
        )
        base = publish.publish(explained, tiny_model.contract(precision=precision, parameters=1000), tmp_path)
        assert main(["teach", str(base), str(tmp_path / "two"), "--output", str(tmp_path / "taught")]) == 0
        taught = onnx.load(tmp_path / "taught" / f"two.{precision}.onnx")
        assert Model(tmp_path / "taught" / f"two.{precision}.onnx").contract.temperature != 1.0
        check(taught, pixels)


def other_form(form: str) -> onnx.ModelProto:
    """The small network with its classifier written otherwise: ``transposed``, ``no bias`` or ``convolution``."""
    model = small()
    index = graph.Graph(model)
    (gemm,) = [node for node in model.graph.node if node.op_type == "Gemm"]
    weight = index.array(gemm.input[1])
    if form == "transposed":
        index.set(gemm.input[1], weight.T)
        graph.set_attribute(gemm, "transB", 1)
    elif form == "no bias":
        gemm.op_type = "MatMul"
        del gemm.input[2]
    else:
        (squeeze,) = [node for node in model.graph.node if node.op_type == "Squeeze"]
        index.set(gemm.input[1], weight.T[..., np.newaxis, np.newaxis])
        gemm.op_type, gemm.input[0], gemm.output[0] = "Conv", squeeze.input[0], squeeze.output[0]
        squeeze.input[0], squeeze.output[0] = gemm.output[0], "flat_logits"
        gemm.output[0] = squeeze.input[0]
        index.producer["scores"].input[0] = "flat_logits"
        model.graph.node.remove(squeeze)
        model.graph.node.insert(len(model.graph.node) - 1, squeeze)
        graph.canonicalise(model)
    return model


@pytest.mark.parametrize("form", ["transposed", "no bias", "convolution"])
def test_other_forms_of_the_classifier(form):
    explained = class_activation_map.add(other_form(form))
    assert len(explained.graph.output) == 4
    check(explained, pictures(32))


def flat() -> onnx.ModelProto:
    """A head that keeps places apart."""
    model = small()
    index = graph.Graph(model)
    (squeeze,) = [node for node in model.graph.node if node.op_type == "Squeeze"]
    squeeze.op_type, squeeze.input[0] = "Flatten", index.producer["features"].input[0]
    del squeeze.input[1:]
    index.set(next(n for n in model.graph.node if n.op_type == "Gemm").input[1], np.ones((12 * 225, 3), np.float32))
    return model


def hidden() -> onnx.ModelProto:
    """A head with an activation between pooling and classifier."""
    model = small()
    (gemm,) = [node for node in model.graph.node if node.op_type == "Gemm"]
    relu = helper.make_node("Relu", [gemm.input[0]], ["hidden"])
    gemm.input[0] = "hidden"
    model.graph.node.insert(list(model.graph.node).index(gemm), relu)
    return model


def scaled() -> onnx.ModelProto:
    """One unit that stands for two classes."""
    model = any_network(TRANSPOSE, outputs=1)
    assert ours(model, RANGE) == 2
    return model


def bare() -> onnx.ModelProto:
    """Exported by an earlier version."""
    model = small()
    model.graph.output.remove(next(value for value in model.graph.output if value.name == "features"))
    graph.canonicalise(model)
    return model


@pytest.mark.parametrize("head", [flat, hidden, scaled, bare])
def test_a_head_that_is_something_else_is_left_alone(head):
    model = head()
    assert class_activation_map.add(model).graph == model.graph


def optimised(model: onnx.ModelProto, folder: Path) -> list[str]:
    """The operators that ONNX Runtime makes of the way to the scores."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    index = graph.Graph(onnx.load(folder / "optimised.onnx"))
    needed, pending = {}, ["scores"]
    while pending:
        node = index.producer.get(pending.pop())
        if node is not None and node.name not in needed:
            needed[node.name] = node.op_type
            pending += node.input
    return sorted(needed.values())


def test_the_way_to_the_scores_is_the_same_after_optimisation(tmp_path):
    """For whoever asks for scores alone: no node more, none unfused."""
    (bundled,) = BUNDLED.glob("*.onnx")
    for model in (onnx.load(bundled), class_activation_map.add(small())):
        found = optimised(model, tmp_path)
        assert found == optimised(without(model), tmp_path)
        assert "ArgMax" not in found
    assert {"QLinearConv", "QGemm"} <= set(optimised(onnx.load(bundled), tmp_path))


def test_the_model_in_the_box():
    (path,) = BUNDLED.glob("*.onnx")
    model, proto = Model(path), onnx.load(path)
    assert model.contract.version == graph.digest(proto)[:12]
    check(
        proto,
        np.stack(
            [load((SKIMAGE / n).read_bytes(), model.contract.resize, DecodeBudget(10**8)) for n in ("chelsea.png",)]
        ),
    )


def test_a_real_network_with_random_weights():
    import keras

    from model_build.export.convert import convert
    from tests.model_build.network.test_network import trained

    keras.utils.set_random_seed(3)
    network = trained(keras.applications.MobileNetV2((64, 64, 3), alpha=0.35, weights=None, classes=7))
    made = convert(network, 64, 64)
    fp32, classes = made.fp32, made.output.classes
    assert classes == 7
    pixels = pictures(64, 8)
    check(class_activation_map.add(fp32), pixels)
    check(class_activation_map.add(quantize.quantize(fp32, pixels)), pixels)


# Masking.


def test_the_class_is_optional():
    """The optional input's default, as a file says it."""
    explained = class_activation_map.add(small())
    defaults = {tensor.name: numpy_helper.to_array(tensor) for tensor in explained.graph.initializer}
    assert defaults["evidence_class"].tolist() == [-1]
    assert [value.name for value in session(explained).get_overridable_initializers()] == ["evidence_class"]
