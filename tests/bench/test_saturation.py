"""The model and the photos that cost nothing are ones that the service takes."""

import pytest

from app.inference import imaging
from app.inference.classifier import Classifier
from app.inference.decode_budget import DecodeBudget
from app.inference.model import Model
from bench.saturation import SIDE, SIZES, no_op, picture


def test_the_model_answers_its_golden_photo(tmp_path):
    classifier = Classifier(Model(no_op(tmp_path / "no-op.onnx")), DecodeBudget(10**6))
    classifier.check_golden()
    assert classifier(picture(SIZES[-1])).predictions[0].label == "red"


@pytest.mark.parametrize("size", SIZES)
def test_a_small_picture_of_many_bytes(size):
    photo = picture(size)
    assert size - 4 <= len(photo) <= size
    assert imaging.size(photo) == (SIDE, SIDE)
