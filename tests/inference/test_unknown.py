"""When a photo is unknown: by the best score in files that say no more, by the novelty in those that compute one."""

import numpy as np
import onnx
import pytest
from onnx import helper

from app.errors import ModelError
from app.inference import class_activation_map
from app.inference.classifier import Classifier
from app.inference.decode_budget import DecodeBudget
from app.inference.frame_cache import CameraCache
from app.inference.model import Model
from tests import tiny_model
from tests.photos import encode, solid

#: The tiny model is as sure of the one as of the other, but finds the second novel.
LIT, DARK = (encode(solid(colour), "PNG") for colour in ((200, 100, 100), (110, 10, 10)))


@pytest.fixture(scope="module")
def novel(tmp_path_factory):
    made = tiny_model.contract(unknown_above=0.5, unknown_below=0.99)
    return tiny_model.write(tmp_path_factory.mktemp("models") / "novel.onnx", made, novel=True)


def fixed(path, scores, novelty=None) -> Model:
    """The model, whose session computes these instead."""
    model = Model(path)
    best = np.array([[scores, 0, 0]], np.float32)
    outputs = {"scores": best, "novelty": np.array([novelty], np.float32)}

    class Session:
        def run(self, names, feeds, options):
            return [outputs[name] for name in names]

    model._session = Session()
    return model


@pytest.mark.parametrize(
    ("best", "unknown"),
    [(0.5, False), (np.nextafter(np.float32(0.5), np.float32(0)), True), (0.75, False), (0.0, True)],
)
def test_unknown_is_below_the_score_and_not_at_it(tmp_path, best, unknown):
    path = tiny_model.write(tmp_path / "m.onnx", tiny_model.contract(unknown_below=0.5))
    assert Classifier(fixed(path, best), DecodeBudget(10**6))(LIT).unknown is unknown


@pytest.mark.parametrize(
    ("novelty", "unknown"),
    [
        (0.5, False),
        (np.nextafter(np.float32(0.5), np.float32(1)), True),
        (-3.0, False),
        (float("nan"), True),
        (float("inf"), True),
    ],
)
def test_unknown_is_above_the_novelty_whatever_the_score(novel, novelty, unknown):
    for best in (0.1, 0.999):
        assert Classifier(fixed(novel, best, novelty), DecodeBudget(10**6))(LIT).unknown is unknown


def test_every_way_to_ask_agrees(novel):
    classifier = Classifier(Model(novel), DecodeBudget(10**6))
    camera = CameraCache(60, 3)
    for photo, unknown in ((LIT, False), (DARK, True)):
        assert classifier(photo).unknown is unknown
        assert classifier.scores(photo)[0].scored.unknown is unknown
        assert class_activation_map.explain(classifier, photo).unknown is unknown
        found = [classifier(photo, camera=camera) for _ in range(2)]
        assert [(result.unknown, result.cached) for result in found] == [(unknown, False), (unknown, True)]
    assert classifier(LIT).predictions[0].score == pytest.approx(classifier(DARK).predictions[0].score, abs=1e-4)
    classifier.check_golden()


def test_a_threshold_without_its_output_and_an_output_without_its_threshold(tmp_path):
    with pytest.raises(ModelError, match=r"threshold \(unknown_above\), but it has no output novelty"):
        Model(tiny_model.write(tmp_path / "a.onnx", tiny_model.contract(unknown_above=0.5)))
    with pytest.raises(ModelError, match="output novelty, but its contract no threshold"):
        Model(tiny_model.write(tmp_path / "b.onnx", novel=True))


def test_an_output_of_another_shape(tmp_path):
    proto = tiny_model.proto(tiny_model.contract(unknown_above=0.5), novel=True)
    graph = proto.graph
    graph.node.append(helper.make_node("Flatten", ["novelty"], ["column"]))
    for node in graph.node:
        node.output[:] = [{"novelty": "flat_novelty", "column": "novelty"}.get(name, name) for name in node.output]
        node.input[:] = ["flat_novelty" if name == "novelty" else name for name in node.input]
    output = next(value for value in graph.output if value.name == "novelty")
    output.CopyFrom(helper.make_tensor_value_info("novelty", onnx.TensorProto.FLOAT, ["batch", 1]))
    onnx.save(proto, tmp_path / "c.onnx")
    with pytest.raises(ModelError, match="one float for each picture"):
        Model(tmp_path / "c.onnx")
