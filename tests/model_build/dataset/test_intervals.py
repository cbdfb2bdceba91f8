import numpy as np
import pytest

from model_build.dataset import intervals
from model_build.dataset.intervals import wilson


@pytest.mark.parametrize(
    ("right", "of", "low", "high"),
    # Newcombe (1998), "Two-sided confidence intervals for the single proportion", table I, method 3; one mirrored.
    [(81, 263, 0.2553, 0.3662), (0, 20, 0.0, 0.1611), (20, 20, 0.8389, 1.0), (1, 29, 0.0061, 0.1718)],
)
def test_wilson(right, of, low, high):
    assert wilson(right, of) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_a_burst_is_one_witness():
    right = np.array([True] * 50 + [False, True])
    share = intervals.share(right, np.array([0] * 50 + [50, 51]))
    assert share.value == pytest.approx(2 / 3)
    assert (share.photos, share.independent) == (52, 3)
    assert (share.low, share.high) == pytest.approx(intervals.wilson(2, 3))
    wider = intervals.share(right, np.array([0] * 50 + [50, 51]), intervals.CROSS_VALIDATED)
    assert wider.low < share.low < share.high < wider.high
    assert intervals.share(right[:0], np.array([], np.int64)) is None


def test_a_head_that_has_learned_from_all_photos_may_be_better():
    """Of five photos, each fold's head lacks one."""
    right = np.array([True, True, False, False, False])
    tested = intervals.share(right, np.arange(5))
    folded = intervals.share(right, np.arange(5), folds=10)
    assert (folded.value, folded.low) == (tested.value, tested.low)
    assert folded.high == pytest.approx(wilson(5 - 3 * 4 / 5, 5)[1])
    many = intervals.share(np.ones(100, bool), np.arange(100), folds=10)
    mean = intervals.mean([folded, many], folds=10)
    effective = 4 / (1 / 5 + 1 / 100)
    assert mean.low == intervals.mean([tested, many]).low
    assert mean.high == pytest.approx(wilson((1 - 0.6 * 0.8 + 1) / 2 * effective, effective)[1])


def test_the_mean_of_shares_is_as_uncertain_as_the_least_certain_lets_it_be():
    large = intervals.share(np.ones(100, bool), np.arange(100))
    small = intervals.share(np.zeros(2, bool), np.arange(2))
    mean = intervals.mean([large, small])
    assert (mean.value, mean.photos) == (0.5, 102)
    assert (mean.low, mean.high) == pytest.approx(intervals.wilson(0.5 * 400 / 51, 400 / 51))
    assert intervals.mean([large]).low == pytest.approx(large.low)
