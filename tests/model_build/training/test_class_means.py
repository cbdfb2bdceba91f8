"""Novelty by the classes' mean features: what it tells apart, and that a graph computes the same."""

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime as ort
import pytest

from app.inference.decode_budget import DecodeBudget
from app.inference.imaging import load
from model_build.export import class_activation_map, quantize
from model_build.training import head
from model_build.training.class_means import DIRECTIONS, ClassMeans
from model_build.training.linear import Linear
from model_build.training.novelty import Novelty
from tests import tiny_model
from tests.model_build.training.test_teach import COLOURS, network, photo


def drawn(mean, count, seed):
    return np.maximum(np.random.default_rng(seed).normal(mean, 0.2, (count, len(mean))), 0)


#: Two classes of one kind, in eight channels of which the first four are the kind's.
KIND = np.array([4.0, 4, 4, 4, 0, 0, 0, 0])
FIRST, SECOND, THIRD = KIND + np.eye(8)[4], KIND + np.eye(8)[5], KIND + 2 * np.eye(8)[6]


@pytest.fixture(scope="module")
def means():
    return ClassMeans.of(np.concatenate([drawn(FIRST, 30, 1), drawn(SECOND, 10, 2)]), np.repeat([0, 1], [30, 10]))


def test_own_photos_are_less_novel_than_their_kind_and_this_less_than_other_things(means):
    own = means(np.concatenate([drawn(FIRST, 50, 3), drawn(SECOND, 50, 4)]))
    kin = means(drawn(THIRD, 50, 5))
    other = means(drawn(KIND[::-1], 50, 6))
    assert own.max() < kin.min()
    assert kin.max() < other.min()


def test_a_mean_is_not_novel_and_lengths_do_not_matter(means):
    own = np.stack([FIRST, SECOND])
    plain = ClassMeans.of(own, np.arange(2))
    assert plain.variety.shape == (8, 0)
    assert plain(own) == pytest.approx([0, 0], abs=1e-12)
    assert ClassMeans.of(own - own.mean(axis=0), np.arange(2))(7 * (own - own.mean(axis=0))) == pytest.approx([0, 0])
    assert np.isfinite(means(np.zeros((1, 8)))).all()


def test_each_class_counts_the_same(means):
    assert means.centre == pytest.approx((means.means[0] + means.means[1]) / 2)


@pytest.mark.parametrize("channels", [8, 200])
def test_what_photos_of_one_class_differ_in_counts_less(channels):
    """More photos than channels, and fewer: the same by the smaller product of matrices."""
    random, along = np.random.default_rng(0), np.eye(channels)[7]
    classes = np.repeat([0, 1], 50)
    features = np.eye(channels)[classes] * 8 + random.normal(0, 0.1, (100, channels))
    features += random.normal(0, 3, (100, 1)) * along
    means = ClassMeans.of(features, classes)
    assert means.variety.shape == (channels, min(DIRECTIONS, channels))
    # Nothing is turned round, and the most varied direction is shrunk the most.
    shrunk = np.linalg.eigvalsh(np.eye(channels) - means.variety @ means.variety.T)
    assert 0 < shrunk.min() == pytest.approx(along @ (along - means.variety @ (means.variety.T @ along)), abs=0.02)
    photo = 8 * np.eye(channels)[:1]
    aside = means(photo + 3 * along) - means(photo)
    elsewhere = means(photo + 3 * np.eye(channels)[2]) - means(photo)
    assert aside < elsewhere / 2


def test_a_weight_counts_as_that_many_photos(means):
    features, classes = np.concatenate([drawn(FIRST, 6, 1), drawn(SECOND, 6, 2)]), np.repeat([0, 1], 6)
    often = np.arange(12) % 3 + 1
    weighted = ClassMeans.of(features, classes, often.astype(float))
    repeated = ClassMeans.of(features.repeat(often, axis=0), classes.repeat(often))
    others = drawn(THIRD, 5, 3)
    assert weighted(others) == pytest.approx(repeated(others))


@pytest.mark.parametrize("precision", ["fp32", "int8", "operator set 18"])
def test_the_graph_computes_the_same(precision):
    rule = tiny_model.contract().resize
    pictures = [photo(colour, seed) for colour in COLOURS.values() for seed in range(5)]
    pixels = np.stack([load(data, rule, DecodeBudget(10**6)) for data in pictures])
    pixels = np.concatenate([pixels, np.zeros_like(pixels[:1])])
    model = network()
    if precision == "int8":
        model = quantize.quantize(model, pixels)
    elif precision == "operator set 18":
        # From there on reductions take their axes as an input.
        model = onnx.version_converter.convert_version(model, 18)
    trunk = head.remove_head(model)

    def run(proto, *outputs):
        options = ort.SessionOptions()
        options.log_severity_level = 3
        return ort.InferenceSession(proto.SerializeToString(), options).run(outputs, {"image": pixels})

    (features,) = run(trunk.proto, head.POOLED)
    classes = np.repeat(np.arange(4), 5)
    linear = Linear(np.random.default_rng(0).normal(size=(features.shape[1], 4)), np.zeros(4))
    means = ClassMeans.of(features[:20], classes)
    novelty, scores = run(
        class_activation_map.add(head.attach_head(trunk, linear, Novelty(means, None))), "novelty", "scores"
    )
    (plain,) = run(class_activation_map.add(head.attach_head(trunk, linear)), "scores")
    assert novelty.shape == (21,)
    assert novelty.dtype == np.float32
    assert np.abs(novelty - means(features)).max() < 1e-5
    assert np.array_equal(scores, plain)
    background = Linear(np.random.default_rng(1).normal(size=(features.shape[1], 5)), np.zeros(5))
    refusal = Novelty(means, background)
    (novelty,) = run(head.attach_head(trunk, linear, refusal), "novelty")
    assert np.abs(novelty - refusal(features)).max() < 1e-5
    assert np.abs(novelty - means(features)).max() > 1e-3
