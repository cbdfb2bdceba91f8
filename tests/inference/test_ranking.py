import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.inference.ranking import Groups, top_k

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


def test_groups_are_summed():
    groups = Groups(["cat", "dog", "cat", "car"])
    assert groups.names == ("cat", "dog", "car")
    assert groups.scores(SCORES) == pytest.approx([0.3, 0.4, 0.3])
    assert groups.scores(SCORES).dtype == np.float32
    assert groups.members(SCORES, 0, 5) == [(2, pytest.approx(0.2)), (0, pytest.approx(0.1))]
    assert [index for index, _ in groups.members(SCORES, 0, 1)] == [2]
    assert groups.members(SCORES, 1, 5, 0.5) == []


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.sampled_from("abc")), min_size=1, max_size=50))
def test_as_adding_one_by_one_would(pairs):
    groups = Groups([name for _, name in pairs])
    scores = np.array([score for score, _ in pairs], np.float32)
    sums = dict.fromkeys(groups.names, 0.0)
    for score, name in pairs:
        sums[name] += score
    assert groups.scores(scores) == pytest.approx([min(1.0, value) for value in sums.values()])
