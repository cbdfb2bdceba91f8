import numpy as np
import pytest

from app.inference.imaging import Resize
from model_build.dataset import photos
from model_build.dataset.photos import Photos
from model_build.errors import InputError
from model_build.export import division, parity
from model_build.export.division import divide
from model_build.export.parity import Int8Limits

RULE = Resize(16, 16, 1.0, "bilinear")


def some(count, first=0):
    pixels = photos.generated(first + count, RULE).pixels[first:]
    return Photos(pixels, np.arange(count))


def contents(found):
    return {picture.tobytes() for picture in found.pixels}


@pytest.mark.parametrize(("count", "held_out"), [(2, 1), (10, 3), (25, 8), (250, 75), (3000, 750)])
def test_a_part_is_held_out(count, held_out, monkeypatch):
    made = Photos(np.random.default_rng(0).integers(0, 256, (count, 2, 2, 3), np.uint8), np.full(count, -1))
    found = divide(None, made, None)
    assert len(found.evaluation.pixels) == pytest.approx(held_out, abs=1)
    assert len(found.learning.pixels) + len(found.evaluation.pixels) == count
    assert not contents(found.learning) & contents(found.evaluation)


def test_near_duplicates_are_on_one_side(monkeypatch):
    clusters = np.arange(30) // 3
    monkeypatch.setattr(division, "_clusters", lambda *_: clusters)
    found = divide(None, some(30), None)
    # Each of ``some`` has its index as its class.
    assert not set(clusters[found.learning.classes]) & set(clusters[found.evaluation.classes])
    assert found.clusters.tolist() == clusters[found.learning.classes].tolist()
    assert found.learning.classes[found.distinct].tolist() == found.learning.classes[::3].tolist()


def test_where_all_look_the_same_only_copies_are_kept_together(monkeypatch):
    monkeypatch.setattr(division, "_clusters", lambda *_: np.zeros(10, np.int64))
    found = divide(None, some(10), None)
    assert found.alike
    assert len(found.evaluation.pixels) == 3
    assert len(found.distinct) == 7


def test_photos_that_are_measured_on_are_not_learned_from():
    given, others = some(10), some(4, first=8)
    found = divide(None, given, others)
    assert found.learning.classes.tolist() == list(range(8))
    assert found.evaluation is others


def test_nothing_left():
    with pytest.raises(InputError, match="of 1 photos none can be held out"):
        divide(None, some(1), None)
    same = Photos(np.zeros((5, 4, 4, 3), np.uint8), np.full(5, -1))
    with pytest.raises(InputError, match="--evaluation DIR"):
        divide(None, same, None)
    with pytest.raises(InputError, match="all of the 3 photos"):
        divide(None, some(3), some(4))


def scores(top, classes=3):
    return np.eye(classes, dtype=np.float32)[top]


def compared(right, source_right, count=100):
    """int8 right on so many of ``count`` photos, fp32 on so many."""
    held_out = Photos(np.zeros((count, 1, 1, 3), np.uint8), np.zeros(count, np.int64))
    return parity.compare(
        "fp32", scores((np.arange(count) >= right) * 1), scores((np.arange(count) >= source_right) * 1), held_out
    )


def test_figures_have_intervals():
    found = compared(90, 92)
    assert (found.agreement, found.accuracy, found.source_accuracy) == (0.98, 0.9, 0.92)
    assert found.agreement_interval == pytest.approx((0.930, 0.9945), abs=1e-3)
    assert found.accuracy_interval == pytest.approx((0.826, 0.945), abs=1e-3)
    assert found.least_drop < 0.02
    metadata = found.as_metadata()
    assert metadata["held_out"] is True
    assert metadata["agreement_interval"] == [round(end, 6) for end in found.agreement_interval]


@pytest.mark.parametrize(
    ("right", "source_right", "count", "limits", "fails"),
    [
        # One of eight says nothing; ten of a hundred do.
        (7, 8, 8, Int8Limits(0.95, 0.01), False),
        (90, 100, 100, Int8Limits(0.98, 0.5), True),
        (97, 100, 100, Int8Limits(0.98, 0.5), False),
        (98, 100, 100, Int8Limits(0.0, 0.01), False),
        (80, 100, 100, Int8Limits(0.0, 0.01), True),
    ],
)
def test_limits_are_exceeded_where_the_interval_is_beyond_them(right, source_right, count, limits, fails):
    found = compared(right, source_right, count)
    if fails:
        with pytest.raises(parity.ParityError, match=f"held out, n = {count}, 95 % interval"):
            parity.check_int8(found, limits)
    else:
        parity.check_int8(found, limits)
