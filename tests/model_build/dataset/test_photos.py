import numpy as np
import pytest

from app.inference.imaging import Resize
from model_build.dataset import photos
from model_build.dataset.labels import Labels
from model_build.errors import InputError
from tests.photos import encode, solid

RULE = Resize(16, 16, 1.0, "bilinear")
LABELS = Labels(("red cat", "dog"), ("n01", "n02"))


def test_classes_are_read_off_names_and_folders(tmp_path):
    photo = encode(solid((9, 9, 9)), "JPEG")
    for name in ("n02_dog.JPEG", "other.jpg", "red_cat/1.jpg", "n02/1.jpg", "red cat.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(photo)
    (tmp_path / "notes.txt").write_text("not a photo")
    found = photos.read(tmp_path, RULE, LABELS)
    assert found.classes.tolist() == [1, 1, -1, 0, 0]
    assert found.pixels.shape == (5, 16, 16, 3)
    assert not found.labelled


def test_unreadable_images_are_named(tmp_path):
    (tmp_path / "n01_x.jpg").write_bytes(encode(solid((9, 9, 9)), "JPEG"))
    (tmp_path / "bad.jpg").write_bytes(b"rubbish")
    found = photos.read(tmp_path, RULE, LABELS)
    assert len(found.pixels) == 1
    assert found.labelled
    assert found.skipped[0].startswith("bad.jpg: ")


def test_unusable_folders(tmp_path):
    with pytest.raises(InputError, match="not a folder"):
        photos.read(tmp_path / "absent", RULE, LABELS)
    with pytest.raises(InputError, match="no images"):
        photos.read(tmp_path, RULE, LABELS)
    (tmp_path / "bad.jpg").write_bytes(b"rubbish")
    with pytest.raises(InputError, match=r"none of the 1 images"):
        photos.read(tmp_path, RULE, LABELS)


def test_generated_pictures_are_always_the_same():
    first, second = photos.generated(3, RULE), photos.generated(3, RULE)
    assert (first.pixels == second.pixels).all()
    assert first.generated
    assert not first.labelled


def test_few_photos_are_mirrored_for_calibration():
    found = photos.generated(3, RULE)
    assert found.for_calibration(2).shape[0] == 2
    more = found.for_calibration(6)
    assert more.shape[0] == 6
    assert (more[3:] == np.flip(more[:3], axis=2)).all()
