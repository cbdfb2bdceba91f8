import numpy as np

from model_build.dataset import folds
from model_build.dataset.image_folder import REFUSED
from model_build.training import cross_validation, temperature
from model_build.training.novelty import Novelty, novelty_of_other_classes, novelty_out_of_fold

STRENGTHS = (1.0, 0.1)


def blobs(seed, counts, apart=2.0):
    """Features ``[N, 8]`` and classes: one cloud a class."""
    random = np.random.default_rng(seed)
    classes = np.repeat(np.arange(len(counts)), counts)
    return random.normal(0, 1, (len(classes), 8)) + apart * np.eye(8)[classes], classes


def found(features, classes, fold, clusters=None):
    clusters = np.arange(len(classes)) if clusters is None else clusters
    weights = folds.weights(classes, clusters)
    return cross_validation.out_of_fold(features, classes, clusters, fold, weights, STRENGTHS, lambda items, _: items)


def test_nothing_is_learned_from_what_it_is_tested_with():
    """Classes that mean nothing are right as often as by chance, however many features there are."""
    random = np.random.default_rng(0)
    features, classes = random.normal(size=(120, 300)), random.permutation(np.repeat([0, 1], 60))
    result = found(features, classes, folds.deal(classes, np.arange(120), 10, 0))
    assert abs((result.scores().argmax(axis=1) == classes).mean() - 0.5) < 0.15


def test_a_folds_photos_choose_nothing_that_they_are_judged_with():
    features, classes = blobs(0, [30, 30])
    fold = folds.deal(classes, np.arange(60), 5, 0)
    result = found(features, classes, fold)
    choices = [result.choose(but=number) for number in range(5)]
    assert len({choice.temperature for choice in choices}) == 5
    own = fold == 2
    expected = temperature.softmax(result.logits[choices[2].strength, own] / choices[2].temperature)
    assert np.array_equal(result.scores()[own], expected)


def test_the_share_of_photos_above_the_threshold():
    features, classes = blobs(0, [40, 40])
    result = found(features, classes, folds.deal(classes, np.arange(80), 5, 0))
    novelty = np.random.default_rng(0).uniform(size=80)
    assert (novelty > result.threshold(novelty, 0.1)).sum() == 8
    assert not (novelty > result.threshold(novelty, 0.0)).any()


def test_one_burst_a_class_is_tested_all_the_same():
    features, classes = blobs(0, [9, 9, 9])
    clusters = np.repeat([0, 9, 18], 9)
    result = found(features, classes, folds.deal(classes, clusters, 10, 0), clusters)
    assert result.scores().shape == (27, 3)
    assert result.choose().temperature > 0


def test_what_was_shown_to_be_refused_is_novel():
    features, classes = blobs(0, [60, 60, 60], 4.0)
    features = np.maximum(features, 0)
    shown = np.where(classes == 2, REFUSED, classes)
    fold = folds.deal(shown, np.arange(180), 5, 0)
    found_novelty = novelty_out_of_fold(features, shown, np.ones(180), fold, 0.1)
    known = shown != REFUSED
    assert found_novelty[known].max() < found_novelty[~known].mean()
    without = Novelty.of(features[known], shown[known], np.ones(120), 0.1)
    assert without.background is None
    assert (Novelty.of(features, shown, np.ones(180), 0.1)(features) >= without(features) - 1e-9).all()
    assert (
        novelty_of_other_classes(features[known], shown[known], np.ones(120), 0.1).mean() > found_novelty[known].mean()
    )
