import numpy as np
import pytest

from model_build.dataset import duplicates, parts


def features(*directions):
    """Unit vectors in a plane, by their angles in degrees."""
    return np.stack([np.cos(np.deg2rad(directions)), np.sin(np.deg2rad(directions))], axis=1)


@pytest.mark.parametrize(
    ("angles", "clusters"),
    [
        # A cosine of 0.9 is 25.8 degrees.
        ([0, 90], [0, 1]),
        ([0, 25], [0, 0]),
        ([0, 26], [0, 1]),
        # Neighbours of neighbours, whatever their order.
        ([0, 40, 20], [0, 0, 0]),
        ([80, 0, 40, 60, 20], [0, 0, 0, 0, 0]),
        ([0, 80, 10, 90], [0, 1, 0, 1]),
    ],
)
def test_near_duplicates_are_together(angles, clusters):
    # Whatever the length: a brighter photo has longer features.
    lengths = np.arange(1, len(angles) + 1)[:, np.newaxis]
    assert duplicates.clusters(features(*angles) * lengths).tolist() == clusters


def test_more_photos_than_are_compared_at_a_time():
    # 1,200 directions, each twice, the second 1,200 later.
    random = np.random.default_rng(0)
    once = np.abs(random.normal(size=(1200, 400))) * (random.random((1200, 400)) < 0.05)
    found = duplicates.clusters(np.concatenate([once, 2 * once]))
    assert found.tolist() == [*range(1200), *range(1200)]


def test_features_that_are_all_zero_are_alone():
    assert duplicates.clusters(np.zeros((2, 3))).tolist() == [0, 1]


def test_every_photo_is_in_one_part_and_clusters_stay_together():
    random = np.random.default_rng(1)
    clusters = random.integers(0, 60, 400)
    contents = [random.bytes(8).hex() for _ in range(400)]
    found = parts.split(clusters, contents, {"a": 0.7, "b": 0.2, "c": 0.1})
    assert sorted(np.concatenate(list(found.values())).tolist()) == list(range(400))
    assert len({(int(c), name) for name, part in found.items() for c in clusters[part]}) == len(set(clusters.tolist()))
    assert [len(found[name]) for name in "abc"] == pytest.approx([280, 80, 40], abs=15)


def test_the_order_of_the_photos_changes_nothing():
    random = np.random.default_rng(2)
    contents = [random.bytes(8).hex() for _ in range(50)]
    order = random.permutation(50)
    shares = {"a": 0.5, "b": 0.5}
    found = parts.split(np.arange(50), contents, shares)
    again = parts.split(np.arange(50), [contents[i] for i in order], shares)
    assert {contents[i] for i in found["a"]} == {contents[order[i]] for i in again["a"]}


def test_what_is_most_of_all_goes_into_the_largest_part():
    clusters = np.array([0] * 60 + list(range(60, 100)))
    contents = [f"{i:02}" for i in range(100)]
    found = parts.split(clusters, contents, {"small": 0.3, "large": 0.7})
    assert set(range(60)) <= set(found["large"].tolist())
    assert len(found["small"]) == 30


def test_digests_tell_pictures_apart():
    pixels = np.zeros((3, 4, 4, 3), np.uint8)
    pixels[2, 0, 0, 0] = 1
    one, two, three = parts.digests(pixels)
    assert one == two != three
