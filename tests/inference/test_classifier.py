"""What is said about a photo's scores."""

from types import SimpleNamespace

import numpy as np
import pytest

from app.inference.classifier import Classifier
from app.inference.decode_budget import DecodeBudget
from tests import tiny_model
from tests.photos import encode, solid


@pytest.mark.parametrize(
    ("best", "unknown"),
    [(0.5, False), (np.nextafter(np.float32(0.5), np.float32(0)), True), (0.75, False), (0.0, True)],
)
def test_unknown_is_below_the_threshold_and_not_at_it(best, unknown):
    contract = tiny_model.contract(unknown_below=0.5)
    scores = np.zeros((1, len(contract.labels)), np.float32)
    scores[0, 1] = best

    class Fixed(SimpleNamespace):
        def __call__(self, pixels):
            return scores

    result = Classifier(Fixed(contract=contract), DecodeBudget(10**6))(encode(solid((1, 2, 3)), "PNG"))
    assert result.unknown is unknown
