import numpy as np
import pytest

from model_build.training import linear
from model_build.training.temperature import softmax


def blobs(counts, channels, spread=1.0):
    random = np.random.default_rng(0)
    centres = random.normal(0, 2, (len(counts), channels))
    classes = np.repeat(np.arange(len(counts)), counts)
    return centres[classes] + random.normal(0, spread, (len(classes), channels)), classes


@pytest.mark.parametrize("channels", [3, 60], ids=["more pictures than channels", "fewer"])
def test_nothing_fits_better(channels):
    """At the minimum of a convex function its gradient, worked out here on its own, is 0."""
    features, classes = blobs((9, 20, 12), channels)
    features = features * np.linspace(0.01, 50, channels) + 7
    weights = 1 / (3 * np.bincount(classes)[classes])
    mean = weights @ features
    spread = np.sqrt(weights @ (features - mean) ** 2)
    for strength, found in zip((3.0, 0.1), linear.fit(features, classes, 3, (3.0, 0.1)), strict=True):
        errors = (softmax(found(features)) - np.eye(3)[classes]) * weights[:, np.newaxis]
        gradient = ((features - mean) / spread).T @ errors + strength * found.weight * spread[:, np.newaxis]
        assert np.abs(gradient).max() < 1e-4
        assert np.abs(errors.sum(axis=0)).max() < 1e-4


def test_a_rare_class_counts_as_much_as_a_frequent_one():
    features, classes = blobs((400, 8), 2, spread=3.0)
    found = next(linear.fit(features, classes, 2, (0.1,)))
    right = found(features).argmax(axis=1) == classes
    assert right[classes == 1].mean() >= 0.5
    assert right[classes == 0].mean() >= 0.5


def test_silent_channels_have_no_weight():
    features, classes = blobs((10, 10), 4, spread=0.2)
    features[:, 2] = 0.7
    found = next(linear.fit(features, classes, 2, (0.3,)))
    assert (found.weight[2] == 0).all()
    assert np.isfinite(found.weight).all()
    assert (found(features).argmax(axis=1) == classes).all()


def test_features_that_never_differ_give_even_scores():
    found = next(linear.fit(np.full((6, 3), 2.0), np.arange(6) % 2, 2, (1.0,)))
    assert softmax(found(np.full((1, 3), 2.0)))[0] == pytest.approx([0.5, 0.5])


def test_a_picture_that_counts_twice_is_there_twice():
    random = np.random.default_rng(0)
    features, classes = random.normal(size=(20, 6)), np.arange(20) % 2
    (twice,) = linear.fit(np.concatenate([features, features[:5]]), np.concatenate([classes, classes[:5]]), 2, [0.1])
    (weighted,) = linear.fit(features, classes, 2, [0.1], np.where(np.arange(20) < 5, 2.0, 1.0))
    assert np.abs(twice(features) - weighted(features)).max() < 1e-3
