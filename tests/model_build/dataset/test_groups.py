"""The groups that come along for ImageNet, and files of one's own."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from model_build.dataset import groups
from model_build.dataset.labels import Labels
from model_build.errors import InputError

INDEX = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"), "models", "imagenet_class_index.json")
NAMES = Labels(("tabby", "crane", "crane"), ("n02123045", "n02012849", "n03126707"))


def written(folder: Path, document) -> Path:
    path = folder / "groups.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def test_every_class_of_imagenet_is_in_one_group():
    found = groups.read(groups.IMAGENET)
    counts = Counter(member for members in found.values() for member in members)
    assert len(counts) == 1000
    assert set(counts.values()) == {1}
    assert len({member.partition("_")[0] for member in counts}) == 1000
    assert 100 <= len(found) <= 150
    assert all(found.values())
    # Dogs are a tenth of ImageNet, birds a twentieth; no other group is a heap.
    assert [name for name, members in found.items() if len(members) > 40] == ["bird", "dog"]


def test_words_that_mean_two_things():
    group_of = {member: name for name, members in groups.read(groups.IMAGENET).items() for member in members}
    expected = {
        "n02012849_crane": "bird",
        "n03126707_crane": "tractor, crane or work machine",
        "n02113186_Cardigan": "dog",
        "n02963159_cardigan": "clothes",
        "n02108089_boxer": "dog",
        "n01608432_kite": "bird of prey",
        "n03793489_mouse": "computer, television or printer",
        "n03804744_nail": "tool, rope or hardware",
        "n03954731_plane": "tool, rope or hardware",
        "n03929855_pickelhaube": "hat, helmet or wig",
        "n03929660_pick": "guitar, violin or harp",
        "n13052670_hen-of-the-woods": "mushroom",
        "n02123597_Siamese_cat": "cat",
        "n02497673_Madagascar_cat": "monkey, ape or lemur",
        "n02412080_ram": "sheep, goat or antelope",
        "n04389033_tank": "tank or army vehicle",
        "n03947888_pirate": "boat, harbour or oil rig",
    }
    assert {member: group_of[member] for member in expected} == expected
    for pair in (
        ("n03710637_maillot", "n03710721_maillot"),
        ("n03773504_missile", "n04008634_projectile"),
        ("n04355933_sunglass", "n04356056_sunglasses"),
        ("n02808440_bathtub", "n04493381_tub"),
        ("n02123045_tabby", "n02124075_Egyptian_cat"),
    ):
        assert len({group_of[member] for member in pair}) == 1


@pytest.mark.skipif(not INDEX.is_file(), reason="Keras has no class index here")
def test_they_are_the_classes_that_keras_has():
    rows = json.loads(INDEX.read_text())
    members = {member for names in groups.read(groups.IMAGENET).values() for member in names}
    assert members == {"_".join(row) for row in rows.values()}


def test_classes_go_by_label_id_or_both(tmp_path):
    path = written(tmp_path, {"cat": ["tabby"], "bird": ["n02012849"], "machine": ["n03126707_crane"]})
    assert groups.fill(NAMES, path).groups == ("cat", "bird", "machine")
    assert groups.fill(NAMES, path) == NAMES


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("{", "cannot be read"),
        ('{"cat": ["tabby"], "cat": []}', "cat more than once"),
        ("[]", "not an object"),
        ({"cat": []}, "not an object"),
        ({"cat": "tabby"}, "not an object"),
        ({"cat": [1]}, "not an object"),
        ({"cat": ["tabby"], "bird": ["n02012849"]}, "lacks crane"),
        ({"cat": ["tabby", "n02012849", "n03126707"], "more": ["tabby"]}, "'tabby' in 'cat' and in 'more'"),
        ({"cat": ["tabby", "n02012849", "n03126707", "lion"]}, "has not: lion"),
        ({"cat": ["tabby", "n02012849", "n03126707_kite"]}, "has not: n03126707_kite"),
        # Which of the two?
        ({"cat": ["tabby", "crane"]}, "has not: crane"),
    ],
    ids=str,
)
def test_files_that_do_not_fit(tmp_path, document, says):
    with pytest.raises(InputError, match=says):
        groups.fill(NAMES, written(tmp_path, document))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        groups.fill(NAMES, tmp_path / "absent.json")


def test_without_a_file_only_imagenet_has_groups():
    assert groups.fill(NAMES, None).groups is None
    rows = [member.split("_", 1) for members in groups.read(groups.IMAGENET).values() for member in members]
    names = Labels(tuple(label.replace("_", " ") for _, label in rows), tuple(wnid for wnid, _ in rows))
    found = groups.fill(names, None).groups
    assert found is not None
    assert found[names.labels.index("tabby")] == "cat"
