import numpy as np
import pytest

from model_build.dataset import folds


def bursts(seed, counts, spread=0.05):
    """Features ``[N, 40]`` and the scene of each: ``counts`` frames of scenes that have nothing in common."""
    random = np.random.default_rng(seed)
    scenes = np.repeat(np.arange(len(counts)), counts)
    return np.abs(np.eye(40)[scenes] + random.normal(0, spread / 6, (len(scenes), 40))), scenes


def test_frames_of_a_burst_are_one_cluster():
    features, scenes = bursts(0, [5, 1, 3, 1])
    clusters = folds.clusters_of_classes(features, np.array([0] * 6 + [1] * 4))
    assert clusters.tolist() == [0, 0, 0, 0, 0, 5, 6, 6, 6, 9]
    assert (np.unique(clusters, return_inverse=True)[1] == scenes).all()


def test_near_duplicates_of_different_classes_stay_apart():
    features, _ = bursts(0, [4])
    clusters = folds.clusters_of_classes(features, np.array([0, 0, 1, 1]))
    assert not set(clusters[:2]) & set(clusters[2:])


def test_what_is_alike_in_all_classes_makes_no_near_duplicates():
    """A camera that never moves."""
    random = np.random.default_rng(0)
    features = 1 + random.uniform(0, 2, (20, 40))
    features[5] = features[6] * 1.01
    clusters = folds.clusters_of_classes(features, np.arange(20) // 10)
    assert len(np.unique(clusters)) > 15
    assert clusters[5] == clusters[6]


def test_no_cluster_is_in_two_folds_and_every_class_in_two_or_more():
    random = np.random.default_rng(1)
    classes = np.repeat([0, 1, 2], [60, 6, 30])
    clusters = np.concatenate([random.integers(0, 9, 60), [60, 60, 60, 60, 60, 65], 66 + random.integers(0, 30, 30)])
    fold = folds.deal(classes, clusters, 5, 0)
    assert all(len(np.unique(fold[clusters == cluster])) == 1 for cluster in np.unique(clusters))
    assert all(len(np.unique(fold[classes == label])) > 1 for label in range(3))
    assert np.bincount(fold, minlength=5).min() > 8
    assert (folds.deal(classes, clusters, 5, 0) == fold).all()


def test_a_class_of_one_burst_is_dealt_out_by_photos():
    classes, clusters = np.repeat([0, 1], [6, 6]), np.array([0] * 6 + list(range(6, 12)))
    assert folds.alone(classes, clusters).tolist() == [True] * 6 + [False] * 6
    fold = folds.deal(classes, clusters, 3, 0)
    assert np.bincount(fold[:6]).tolist() == [2, 2, 2]


def test_every_class_and_every_cluster_counts_the_same():
    classes, clusters = np.repeat([0, 1], [6, 2]), np.array([0, 0, 0, 0, 0, 5, 6, 7])
    weights = folds.weights(classes, clusters)
    assert weights.sum() == pytest.approx(4)
    assert weights[:5].sum() == pytest.approx(weights[5])
    assert weights[:6].sum() == pytest.approx(weights[6:].sum())
