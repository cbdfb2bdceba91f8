import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.inference.ranking import top_k

SCORES = np.array([0.1, 0.4, 0.2, 0.3], np.float32)


@pytest.mark.parametrize(("k", "expected"), [(1, [1]), (3, [1, 3, 2]), (4, [1, 3, 2, 0]), (99, [1, 3, 2, 0])])
def test_best_first(k, expected):
    assert [index for index, _ in top_k(SCORES, k)] == expected


def test_low_scores_are_left_out():
    assert [index for index, _ in top_k(SCORES, 4, 0.25)] == [1, 3]
    assert top_k(SCORES, 4, 0.9) == []


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=50), st.integers(1, 60))
def test_as_sorting_everything_would(scores, k):
    array = np.array(scores, np.float32)
    expected = sorted(array.tolist(), reverse=True)[:k]
    assert [score for _, score in top_k(array, k)] == expected
