import numpy as np
import pytest

from model_build.training.figures import Figures, warnings


def test_every_class_counts_the_same_and_every_burst_once():
    classes = np.repeat([0, 1], [20, 4])
    clusters = np.array([*range(18), 18, 18, 20, 20, 22, 23])
    right = np.array([True] * 20 + [False, False, True, True])
    figures = Figures.of("tested", np.where(right, classes, 2), ~right, classes, clusters, 3)
    assert figures.accuracy.value == pytest.approx((1 + 2 / 3) / 2)
    assert figures.as_mixed.value == pytest.approx(21 / 22)
    assert figures.unknown.value == pytest.approx(1 / 22)
    assert [share and share.independent for share in figures.classes] == [19, 3, None]
    found = figures.as_json(["a", "b", "c"])
    assert (found["photos"], found["independent"]) == (24, 22)
    assert found["classes"][1]["accuracy"] == pytest.approx(2 / 3, abs=1e-6)
    assert found["classes"][2] == {"label": "c", "accuracy": None, "photos": 0}
    assert "refused" not in found
    assert found["mistakes"] == [{"shows": "b", "said": "c", "photos": 2}]


def test_what_makes_figures_worth_less_is_said():
    labels = ["many", "few", "burst"]
    classes = np.repeat([0, 1, 2], [60, 8, 50])
    clusters = np.array([*range(60), *range(60, 68), *[68] * 50])
    said = "\n".join(warnings(labels, classes, clusters))
    assert "the 118 photos are 69 different ones" in said
    assert "all photos of burst are near-duplicates" in said
    assert "fewer than 10 different photos: few (8)" in said
    assert "imbalance: many has 60 different photos, burst has 1" in said
    assert warnings(labels, np.repeat([0, 1, 2], 20), np.arange(60)) == []


def test_many_classes_are_counted_not_listed():
    classes = np.repeat(np.arange(30), 5)
    (said,) = warnings([f"c{i}" for i in range(30)], classes, np.arange(150))
    assert "c9 (5) and 20 more" in said
