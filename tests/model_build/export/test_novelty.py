"""How novel a photo is to an exported graph: exact in every form of head, and free for whoever asks for scores."""

import numpy as np
import onnx
import onnx.version_converter
import pytest

from app.inference.model import Model
from app.registry.source import BUNDLED
from model_build.export import class_activation_map, novelty, publish, quantize
from model_build.export.novelty import FEWEST, Head, Refusal
from tests import tiny_model
from tests.model_build.export.test_class_activation_map import (
    bare,
    classifier_of,
    flat,
    hidden,
    optimised,
    other_form,
    pictures,
    scaled,
    session,
    without,
)
from tests.model_build.training.test_teach import network as small


def expected(model: onnx.ModelProto, pixels: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """By its definition: what is left of 1 for the class whose weights have the smallest angle to the features."""
    weight, _, _ = classifier_of(model)
    head = Head.of(model)
    features = novelty.outputs(model, [head.pooled], pixels)[0].astype(np.float64) - centre
    cosines = features @ weight / np.outer(np.linalg.norm(features, axis=1), np.linalg.norm(weight, axis=0))
    return 1 - cosines.max(axis=1)


@pytest.mark.parametrize("form", ["as exported", "int8", "transposed", "no bias", "convolution", "operator set 18"])
def test_the_graph_computes_it(form):
    pixels = pictures(32, 12)
    model = {
        "as exported": small,
        "int8": lambda: quantize.quantize(small(), pixels),
        # From there on reductions take their axes as an input.
        "operator set 18": lambda: onnx.version_converter.convert_version(small(), 18),
    }.get(form, lambda: other_form(form))()
    centre = np.random.default_rng(0).normal(size=12)
    made = novelty.add(class_activation_map.add(model), centre)
    found, scores = session(made).run(["novelty", "scores"], {"image": pixels})
    assert found.shape == (12,)
    assert found.dtype == np.float32
    assert np.abs(found - expected(model, pixels, centre)).max() < 1e-4
    assert np.array_equal(scores, session(model).run(["scores"], {"image": pixels})[0])


@pytest.mark.parametrize("head", [flat, hidden, scaled, bare])
def test_a_head_that_is_something_else_is_left_alone(head):
    model, pixels = head(), pictures(32, FEWEST)
    refusing = novelty.refusing(model, Refusal(pixels[:2], pixels, None, 0.05))
    assert refusing.proto.graph == model.graph
    draft = tiny_model.contract(unknown_below=0.3)
    assert refusing.contract(draft) == draft


def test_the_threshold_refuses_its_share_of_the_known(tmp_path):
    typical, known, foreign = pictures(32, 8), pictures(32, 68)[8:], 255 - pictures(32, 20)
    refusing = novelty.refusing(class_activation_map.add(small()), Refusal(typical, known, foreign, 0.1))
    contract = refusing.contract(tiny_model.contract(unknown_below=0.3))
    assert contract.unknown_below == 0.0
    model = Model(publish.publish(refusing.proto, contract, tmp_path))
    assert sum(model.judge(picture).unknown for picture in known) == 6
    said = model.contract.measured["unknown"]
    assert (said["chosen_on"], said["share"], said["foreign"]) == (60, 0.1, 20)
    refused = sum(model.judge(picture).unknown for picture in foreign)
    assert said["foreign_refused"] == refused / 20
    assert said["interval"][0] < said["foreign_refused"] < said["interval"][1] or refused in (0, 20)


def test_photos_that_calibrated_choose_nothing():
    pixels = pictures(32, FEWEST + 10)
    assert Refusal.of(pixels, pixels[:11], pixels, None, 0.05) is None
    refusal = Refusal.of(pixels, pixels[:10], pixels, None, 0.05)
    assert np.array_equal(refusal.known, pixels[10:])


def test_the_way_to_the_scores_is_the_same_after_optimisation(tmp_path):
    (bundled,) = BUNDLED.glob("*.onnx")
    for model in (onnx.load(bundled), class_activation_map.add(small())):
        made = novelty.add(model, np.zeros(Head.of(model).weight.shape[0]))
        assert optimised(made, tmp_path) == optimised(without(model), tmp_path)
