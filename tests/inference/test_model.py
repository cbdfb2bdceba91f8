import threading

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from app.errors import InvalidParameter, ModelError
from app.inference.classifier import Classifier
from app.inference.contract import Golden
from app.inference.decode_budget import DecodeBudget
from app.inference.imaging import Resize
from app.inference.model import Model
from tests import tiny_model
from tests.photos import encode, solid


def test_scores(tiny):
    model = Model(tiny)
    pixels = np.full((2, 32, 32, 3), (250, 10, 10), np.uint8)
    scores = model(pixels)
    assert scores.dtype == np.float32
    assert scores.shape == (2, 3)
    assert scores[0] == pytest.approx(tiny_model.scores_of(250, 10, 10), abs=1e-5)


def test_missing_and_broken_files(tmp_path, tiny):
    with pytest.raises(ModelError, match="no model file"):
        Model(tmp_path / "absent.onnx")
    for name, data in (("empty", b""), ("text", b"hello"), ("cut", tiny.read_bytes()[:300])):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(data)
        with pytest.raises(ModelError) as error:
            Model(path)
        assert "\n" not in str(error.value)


def test_somebody_elses_onnx(tmp_path):
    with pytest.raises(ModelError, match="no contract"):
        Model(tiny_model.write(tmp_path / "m.onnx", metadata={}))


def test_a_contract_that_does_not_fit_the_graph(tmp_path, tiny):
    two = tiny_model.contract(labels=("a", "b"), ids=(None, None), golden=Golden(b"", {0: 1.0}, 0.01))
    with pytest.raises(ModelError, match="classes"):
        Model(tiny_model.write(tmp_path / "a.onnx", two))
    with pytest.raises(ModelError, match="input"):
        Model(tiny_model.write(tmp_path / "b.onnx", tiny_model.contract(resize=Resize(64, 64, 1.0, "bilinear"))))
    proto = onnx.load(tiny)
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    # Changed on purpose, so not with the checksum of what it was.
    del proto.metadata_props[[entry.key for entry in proto.metadata_props].index("sha256")]
    onnx.save(proto, tmp_path / "c.onnx")
    with pytest.raises(ModelError, match="input"):
        Model(tmp_path / "c.onnx")


def test_the_golden_photo_is_really_compared(tmp_path, tiny):
    Classifier(Model(tiny), DecodeBudget(10**6)).check_golden()
    golden = tiny_model.contract().golden
    for broken in (
        Golden(golden.photo, {0: 0.5}, 0.01),
        Golden(golden.photo, {0: float("nan")}, 0.01),
        Golden(b"not a photo", golden.scores, 0.01),
    ):
        path = tiny_model.write(tmp_path / "m.onnx", tiny_model.contract(golden=broken))
        with pytest.raises(ModelError, match="golden"):
            Classifier(Model(path), DecodeBudget(10**6)).check_golden()


def test_one_call_from_bytes_to_labels(tiny):
    classifier = Classifier(Model(tiny), DecodeBudget(10**6))
    result = classifier(encode(solid((10, 20, 240)), "PNG"), k=2)
    assert [(p.label, p.index, p.id) for p in result.predictions] == [("blue", 2, "n3"), ("green", 1, None)]
    assert result.predictions[0].score == pytest.approx(tiny_model.scores_of(10, 20, 240)[2], abs=1e-4)
    assert result.decode_s > 0
    assert result.infer_s > 0
    classifier.check_k(3)
    with pytest.raises(InvalidParameter, match="1 to 3"):
        classifier.check_k(4)


def test_threads_do_not_get_each_others_answers(tiny):
    classifier = Classifier(Model(tiny), DecodeBudget(10**6))
    colours = {"red": (240, 9, 9), "green": (9, 240, 9), "blue": (9, 9, 240)}
    wrong = []

    def ask(label):
        data = encode(solid(colours[label]), "JPEG")
        wrong.extend(label for _ in range(200) if classifier(data).predictions[0].label != label)

    threads = [threading.Thread(target=ask, args=(label,)) for label in colours]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
