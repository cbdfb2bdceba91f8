import numpy as np
import pytest

from model_build.training import temperature


def test_softmax_of_large_logits():
    assert temperature.softmax(np.array([[1000.0, 1000.0, 0.0]])).tolist() == [[0.5, 0.5, 0.0]]


@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_the_temperature_that_labels_were_drawn_with_is_found(true):
    random = np.random.default_rng(0)
    logits = random.normal(0, 3, (20_000, 4))
    scores = temperature.softmax(logits)
    classes = (scores.cumsum(axis=1) < random.random((len(scores), 1))).sum(axis=1)
    assert temperature.fit(logits * true, classes) == pytest.approx(true, rel=0.05)


def test_the_best_of_all_temperatures():
    random = np.random.default_rng(1)
    logits, classes = random.normal(0, 2, (30, 3)), random.integers(0, 3, 30)
    found = temperature.fit(logits, classes)
    losses = [temperature.loss(logits / other, classes) for other in np.geomspace(0.06, 19, 200)]
    assert temperature.loss(logits / found, classes) <= min(losses) + 1e-9


def test_a_few_right_answers_do_not_make_certainty():
    logits = 5.0 * np.eye(3)[np.arange(12) % 3]
    scores = temperature.softmax(logits / temperature.fit(logits, np.arange(12) % 3))
    assert scores.max(axis=1) == pytest.approx(np.full(12, 1 - 1 / 14), abs=1e-4)


def test_the_threshold_leaves_the_share_below():
    best = np.linspace(0.5, 1.0, 101)
    scores = np.stack([best, 1 - best], axis=1)
    below = temperature.unknown_below(scores, 0.05)
    assert (scores.max(axis=1) < below).sum() == 5
    assert temperature.unknown_below(scores, 0.0) == 0.5
