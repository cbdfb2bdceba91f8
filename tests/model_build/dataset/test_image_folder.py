import numpy as np
import pytest

from app.inference.imaging import Resize
from model_build.dataset import image_folder
from model_build.errors import InputError
from tests.photos import encode, solid

RULE = Resize(8, 8, 1.0, "bilinear")


def fill(folder, count, level=0):
    """``count`` pictures, no two alike for different levels."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (folder / f"{i:02}.png").write_bytes(encode(solid((level, i, 0)), "PNG"))


@pytest.fixture
def folder(tmp_path):
    fill(tmp_path / "n02123045_tabby", 10, 1)
    fill(tmp_path / "red_bin", 6, 2)
    return tmp_path


def decoded(root):
    found = image_folder.find(root)
    means = image_folder.decode(found, RULE, lambda pixels: pixels.mean(axis=(0, 1)).round().tolist())
    image_folder.check_enough(found)
    return found, means


def test_classes_and_pictures(folder):
    found, means = decoded(folder)
    assert found.labels.labels == ("tabby", "red bin")
    assert found.labels.ids == ("n02123045", None)
    assert found.classes.tolist() == [0] * 10 + [1] * 6
    assert means[11] == [2, 1, 0]
    assert (found.left_out, found.found, found.divided) == ([], 16, False)


def test_one_class_is_not_enough(tmp_path):
    with pytest.raises(InputError, match="it has none"):
        image_folder.find(tmp_path)
    fill(tmp_path / "cat", 9)
    with pytest.raises(InputError, match=r"only 'cat'.*everything else"):
        image_folder.find(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        image_folder.find(tmp_path / "absent")


def test_what_cannot_be_read_is_left_out_by_name(folder):
    (folder / "red_bin" / "broken.jpg").write_bytes(b"rubbish")
    (folder / "red_bin" / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "red_bin" / "folder.jpg").mkdir()
    (folder / "loose.png").write_bytes(encode(solid((9, 9, 9)), "PNG"))
    found, means = decoded(folder)
    assert len(found.items) == len(means) == 16
    assert found.found == 20
    lines = dict(line.split(": ", 1) for line in found.left_out)
    assert set(lines) == {"red_bin/broken.jpg", "red_bin/gone.jpg", "red_bin/folder.jpg", "loose.png"}
    assert "not an image" in lines["red_bin/broken.jpg"]
    assert lines["loose.png"] == "in no class's folder"


def test_too_few_pictures(folder):
    fill(folder / "paper", 5, 3)
    decoded(folder)
    (folder / "paper" / "00.png").write_bytes(b"rubbish")
    with pytest.raises(InputError, match=r"at least 5 .*paper \(4\)"):
        decoded(folder)


def test_hidden_folders_are_no_classes(folder):
    fill(folder / ".thumbnails", 5, 3)
    assert image_folder.find(folder).labels.labels == ("tabby", "red bin")


def test_two_folders_for_one_class(folder):
    fill(folder / "red bin", 5, 3)
    with pytest.raises(InputError, match="red bin, red_bin"):
        image_folder.find(folder)


def test_the_same_picture_twice_is_used_once(folder):
    copy = folder / "red_bin" / "zz.png"
    copy.write_bytes((folder / "red_bin" / "03.png").read_bytes())
    found = image_folder.find(folder)
    assert len(found.items) == 16
    assert copy not in [item.path for item in found.items]
    assert found.left_out == ["red_bin/03.png, red_bin/zz.png: the same picture; used once"]


def test_a_picture_in_two_classes_is_not_used(folder):
    shared = (folder / "red_bin" / "03.png").read_bytes()
    (folder / "n02123045_tabby" / "zz.png").write_bytes(shared)
    found = image_folder.find(folder)
    assert len(found.items) == 15
    assert found.found - len(found.items) == 2
    assert found.left_out == ["n02123045_tabby/zz.png, red_bin/03.png: the same picture in different classes"]


def divided(root, test="val"):
    for level, name in enumerate(("cat", "dog")):
        fill(root / "train" / name, 8, level)
        fill(root / test / name, 3, level + 10)
    return root


@pytest.mark.parametrize("name", ["val", "validation", "test"])
def test_a_divided_folder_stays_divided(tmp_path, name):
    found, _ = decoded(divided(tmp_path, name))
    assert found.divided
    assert found.labels.labels == ("cat", "dog")
    parts = image_folder.split(found, 0.25, 0.25, 0)
    assert {found.items[i].path.parts[-3] for i in parts["test"]} == {name}
    assert len(parts["test"]) == 6
    assert found.classes[parts["validation"]].tolist() == [0, 0, 1, 1]
    assert len(parts["train"]) == 12


def test_a_picture_in_both_parts_is_kept_for_testing(tmp_path):
    divided(tmp_path)
    (tmp_path / "train" / "cat" / "zz.png").write_bytes((tmp_path / "val" / "cat" / "01.png").read_bytes())
    found = image_folder.find(tmp_path)
    assert len(found.items) == 22
    assert sum(item.held_out for item in found.items) == 6
    assert found.left_out == ["train/cat/zz.png, val/cat/01.png: the same picture in both parts; kept for testing"]


def test_divided_folders_that_do_not_fit(tmp_path):
    divided(tmp_path)
    divided(tmp_path, "test")
    fill(tmp_path / "test" / "bird", 3, 20)
    with pytest.raises(InputError, match="has not: bird"):
        image_folder.find(tmp_path)


def test_nothing_to_test_with(tmp_path):
    divided(tmp_path)
    for path in (tmp_path / "val").rglob("*.png"):
        path.write_bytes(path.name.encode() + path.parent.name.encode())
    with pytest.raises(InputError, match="no readable picture to test with"):
        decoded(tmp_path)


def test_a_split_takes_the_same_share_of_each_class_and_each_picture_once(folder):
    found, _ = decoded(folder)
    parts = image_folder.split(found, 0.2, 0.2, 0)
    counts = {name: np.bincount(found.classes[indices]).tolist() for name, indices in parts.items()}
    assert counts == {"train": [6, 4], "validation": [2, 1], "test": [2, 1]}
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(16))
    assert all((np.diff(indices) > 0).all() for indices in parts.values())


def test_the_smallest_class_has_something_in_every_part(tmp_path):
    fill(tmp_path / "a", 5, 1)
    fill(tmp_path / "b", 5, 2)
    found, _ = decoded(tmp_path)
    parts = image_folder.split(found, 0.1, 0.1, 0)
    assert [np.bincount(found.classes[parts[name]]).tolist() for name in ("train", "validation", "test")] == [
        [3, 3],
        [1, 1],
        [1, 1],
    ]


def test_the_seed_alone_decides_the_split(folder):
    found, _ = decoded(folder)
    again, _ = decoded(folder)
    assert found.digest == again.digest

    def lists(where, seed):
        return {name: indices.tolist() for name, indices in image_folder.split(where, 0.2, 0.2, seed).items()}

    assert lists(found, 3) == lists(again, 3)
    assert lists(found, 3) != lists(found, 4)


def test_the_digest_tells_contents_and_classes_apart(folder):
    before = image_folder.find(folder).digest
    moved = folder / "red_bin" / "05.png"
    moved.rename(folder / "n02123045_tabby" / "zz.png")
    assert image_folder.find(folder).digest != before


def test_folders_in_folders_are_groups(tmp_path):
    fill(tmp_path / "metal" / "n02747177_tin_can", 5, 1)
    fill(tmp_path / "metal" / "foil", 6, 2)
    fill(tmp_path / "red_glass", 7, 3)
    fill(tmp_path / "red_glass" / "monday", 2, 4)
    (tmp_path / "empty").mkdir()
    found = image_folder.find(tmp_path)
    assert found.labels.labels == ("foil", "tin can", "red glass")
    assert found.labels.groups == ("metal", "metal", "red glass")
    assert found.labels.ids[1] == "n02747177"
    assert found.classes.tolist() == [0] * 6 + [1] * 5 + [2] * 9
    assert found.left_out == ["empty: a folder without pictures"]


def test_no_folder_in_a_folder_no_groups(folder):
    fill(folder / "red_bin" / "tuesday", 2, 5)
    assert image_folder.find(folder).labels.groups is None


def test_groups_of_a_divided_folder(tmp_path):
    for part, count, level in (("train", 6, 1), ("test", 3, 4)):
        fill(tmp_path / part / "metal" / "can", count, level)
        fill(tmp_path / part / "metal" / "foil", count, level + 1)
        fill(tmp_path / part / "paper", count, level + 2)
    fill(tmp_path / "test" / "metal", 1, 9)
    found, _ = decoded(tmp_path)
    assert found.labels.labels == ("can", "foil", "paper")
    assert found.labels.groups == ("metal", "metal", "paper")
    assert sum(item.held_out for item in found.items) == 9
    assert found.left_out == ["test/metal/00.png: in no class's folder"]
    fill(tmp_path / "test" / "metal" / "tin", 1, 10)
    with pytest.raises(InputError, match="metal/tin"):
        image_folder.find(tmp_path)


def test_one_class_name_in_two_groups(tmp_path):
    fill(tmp_path / "metal" / "can", 5, 1)
    fill(tmp_path / "plastic" / "can", 5, 2)
    with pytest.raises(InputError, match="metal/can, plastic/can"):
        image_folder.find(tmp_path)
