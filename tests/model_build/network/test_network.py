"""Our own MobileNetV2: beside Keras's, in both layouts, and through the whole export."""

import itertools
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from app.inference.contract import Contract
from app.inference.decode_budget import DecodeBudget
from app.inference.imaging import Resize
from app.inference.model import Model
from model_build.__main__ import main
from model_build.dataset import labels, photos
from model_build.export import graph, parity
from model_build.export.convert import convert
from model_build.export.output import Output
from model_build.export.preprocessing import PIXEL_RANGES
from model_build.network import cost, keras_model, weights
from model_build.network.architecture import ARTICLE, LAYOUTS, REFERENCE, SIZES, WIDTHS, plan
from tests.conftest import SHARED, serving
from tests.model_build.export.test_class_activation_map import check as check_evidence

# isort: split
import keras
import onnxruntime as ort

IMAGENET = (
    Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"), "models")
    / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5"
).is_file()
#: All that is left of a network once normalisation and padding are folded.
OPERATORS = {"Transpose", "Cast", "Sub", "Conv", "Clip", "Add", "GlobalAveragePool", "Reshape", "Softmax", "Identity"}
SKIMAGE = Path(__import__("skimage").__file__).parent / "data"


def trained(model: keras.Model) -> keras.Model:
    """Gives a model weights that are as uneven as training leaves them: fresh ones hide what is mixed up."""
    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            size = layer.gamma.shape[0]
            spread = [random.uniform(0.5, 1.5, size), random.normal(0, 0.3, size)]
            layer.set_weights([*spread, random.normal(0, 0.2, size), random.uniform(0.5, 1.5, size)])
    kernel, *bias = model.get_layer(index=-1 if model.layers[-1].weights else -3).weights
    kernel.assign(random.normal(0, 0.2, kernel.shape))
    for values in bias:
        values.assign(random.normal(0, 0.2, values.shape))
    return model


def pixels(size: int, count: int = 3) -> np.ndarray:
    return photos.generated(count, Resize(size, size, 1.0, "bilinear")).pixels


def scores(model: keras.Model, images: np.ndarray) -> np.ndarray:
    output = Output("softmax", model.output_shape[-1])
    found = parity.source_scores(model, output, PIXEL_RANGES["-1..1"], images)
    assert np.ptp(found, axis=1).min() > 0.01, "all classes alike: nothing could be seen"
    return found


# 0.556 is a width at which rounding the exact number of channels and the cut one differ; 75 is halved with and without
# a rest.
@pytest.mark.parametrize(("alpha", "size"), [(0.556, 75), (1.4, 64)])
def test_keras_weights_give_the_same_scores(alpha, size):
    theirs = trained(keras.applications.MobileNetV2(input_shape=(size, size, 3), alpha=alpha, weights=None, classes=7))
    ours = keras_model.build(plan(REFERENCE, alpha, size, 7))
    keras_model.copy_weights(ours, theirs)
    images = pixels(size)
    assert np.abs(scores(ours, images) - scores(theirs, images)).max() <= 1e-6


@pytest.mark.skipif(not (IMAGENET and SHARED.is_dir()), reason="needs Keras's ImageNet weights and photos")
def test_keras_imagenet_weights_give_the_same_scores_on_photos():
    files = photos.images_in(SHARED / "images" / "imagenet")[::5][:50]
    resize = Resize(224, 224, 0.875, "bilinear")
    images = np.stack([photos.imaging.load(path.read_bytes(), resize, DecodeBudget(10**8)) for path in files])
    theirs, ours = (weights.load("imagenet", 1.0, None, None, name).model for name in ("keras", "reference"))
    assert len(images) == 50
    expected = scores(theirs, images)
    assert np.abs(scores(ours, images) - expected).max() <= 1e-6
    classes = [photos.class_of(path, path.parent, labels.imagenet()) for path in files]
    assert (expected.argmax(axis=1) == classes).mean() > 0.8, "the scores mean something"


#: The layouts in turn: the widths do not know of them.
WIDTHS_AND_SIZES = list(zip(itertools.cycle(LAYOUTS), WIDTHS, (*SIZES, min(SIZES)), strict=False))


@pytest.mark.parametrize(("layout", "alpha", "size"), WIDTHS_AND_SIZES)
def test_every_width_exports_and_costs_what_the_formulas_say(layout, alpha, size):
    planned = plan(LAYOUTS[layout], alpha, size, 7)
    model = trained(keras_model.build(planned))
    made = convert(model, size, size)
    proto, classes = made.fp32, made.output.classes
    expected = cost.total(planned)
    assert graph.multiply_adds(proto) == expected.multiply_adds
    assert model.count_params() == expected.parameters
    assert {node.op_type for node in proto.graph.node} <= OPERATORS
    # What is left of the weights once normalisation is folded; the rest of the file is names and shapes.
    assert expected.weight_bytes <= len(proto.SerializeToString()) < expected.weight_bytes + 40_000
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    images = pixels(size)
    features, found = session.run(["features", "scores"], {"image": images})
    assert classes == 7
    assert features.shape == (3, planned.last.filters, planned.last.side, planned.last.side)
    assert np.abs(found - scores(model, images)).max() <= parity.MAX_DIFFERENCE


@pytest.fixture(scope="module")
def article(tmp_path_factory) -> Path:
    """A folder with an article-layout network as bare weights and as a whole model."""
    folder = tmp_path_factory.mktemp("article")
    model = trained(keras_model.build(plan(ARTICLE, 0.35, 96, 7)))
    model.save_weights(folder / "own.weights.h5")
    model.save(folder / "own.keras")
    return folder


def test_own_weights_are_exported_quantized_and_served(article, tmp_path):
    source = ["--architecture", "article", "--weights", str(article / "own.weights.h5"), "--alpha", "0.35"]
    for name in ("chelsea", "coffee", "rocket", "astronaut"):
        shutil.copy(next(SKIMAGE.glob(f"{name}.*")), article)
    shape = ["--input-size", "96", "--classes", "7", "--calibration", str(article), "--min-agreement", "0"]
    assert main(["export", *source, *shape, "--output", str(tmp_path)]) == 0
    int8 = onnx.load(tmp_path / "own.int8.onnx")
    made = {name: node.op_type for node in int8.graph.node for name in node.output}
    convolutions = [node for node in int8.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 54, "two with every block's expansion, and the classifier is one"
    assert {made[name] for node in convolutions for name in node.input} == {"DequantizeLinear"}
    assert {output.name for output in int8.graph.output} == {"features", "scores", "evidence", "evidence_bias"}
    contract = Contract.from_metadata({item.key: item.value for item in int8.metadata_props})
    assert contract.provenance["architecture"] == "article"
    assert contract.multiply_adds == cost.total(plan(ARTICLE, 0.35, 96, 7)).multiply_adds
    fp32, rounded = (Model(tmp_path / f"own.{precision}.onnx") for precision in ("fp32", "int8"))
    images = pixels(96, 8)
    for precision in ("fp32", "int8"):
        check_evidence(onnx.load(tmp_path / f"own.{precision}.onnx"), images)
    assert (parity.onnx_scores(fp32, images).argmax(1) == parity.onnx_scores(rounded, images).argmax(1)).mean() >= 0.75
    with serving(tmp_path / "own.int8.onnx") as client:
        answer = client.post("/predict", files={"file": (SKIMAGE / "chelsea.png").read_bytes()})
        assert answer.status_code == 200
        assert len(answer.json()["predictions"]) == 5


def test_a_saved_network_loads_without_our_code(article):
    whole = keras.saving.load_model(article / "own.keras", custom_objects={}, compile=False)
    assert {type(layer).__module__.split(".")[0] for layer in whole.layers} == {"keras"}
    bare = weights.load(str(article / "own.weights.h5"), 0.35, 96, 7, "article").model
    images = pixels(96)
    assert np.array_equal(scores(whole, images), scores(bare, images))


def test_clear_errors(capsys, article, tmp_path):
    bare, whole = article / "own.weights.h5", article / "own.keras"
    cases = [
        (["--architecture", "article"], "do not fit --architecture article"),
        (["--architecture", "article", "--weights", whole], "leave --architecture out"),
        (["--architecture", "reference", "--weights", bare, "--alpha", "0.35", "--classes", "7"], "does not fit"),
        (["--architecture", "reference", "--weights", "none", "--input-size", "31"], "32 pixels or more"),
    ]
    for arguments, says in cases:
        assert main(["export", *map(str, arguments), "--output", str(tmp_path / "out")]) == 2
        assert says in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
