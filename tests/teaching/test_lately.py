"""Which photos that came in are kept, and how often; ``tests/http/test_teach.py`` has what becomes of them."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from app.inference.appearance import Appearance
from app.inference.classifier import Prediction, Result, Sight
from app.inference.decode_budget import DecodeBudget
from app.inference.imaging import Crop, View
from app.inference.model import Scored
from app.teaching import lately as lately_module
from app.teaching.lately import Lately
from app.teaching.photos import Photos
from tests import tiny_model
from tests.photos import encode, quarters, solid

PHOTO = encode(solid((9, 9, 9)), "PNG")
CONTRACT = tiny_model.contract()
SIGHT = Sight(
    PHOTO, np.zeros((32, 32, 3), np.uint8), Appearance(0, 0, 0), Scored(np.zeros(3, np.float32), unknown=False)
)


@pytest.fixture
def offered(tmp_path, monkeypatch):
    """``offered(at, label, score, ...)``: why a photo is kept that came so many seconds after the start."""
    kept = Lately(Photos(tmp_path, 10**9, 86_400.0), 1000)
    clock = [0.0]
    monkeypatch.setattr(lately_module.time, "monotonic", lambda: 1000.0 + clock[0])

    def offering(at, label="cat", score=0.9, camera="yard", size=100, **more):
        clock[0] = at
        predictions = () if score is None else (Prediction(label, 0, None, score),)
        more = {"unknown": False, "cached": False, **more}
        result = Result(SIGHT, CONTRACT, predictions, decode_s=0.0, infer_s=0.0, **more)
        return kept.offer(camera, lambda: PHOTO, size, result, DecodeBudget(10**6))

    yield offering
    kept.close()


def test_what_is_worth_keeping(offered):
    assert offered(0) is None
    assert offered(1) is None
    assert offered(100, "dog") == "changed"
    assert offered(200, "dog", 0.5) == "uncertain"
    assert offered(300, "dog", unknown=True) == "unknown"
    # Where ?min_score= left nothing.
    assert offered(400, score=None) == "uncertain"
    # What was not computed says nothing new.
    assert offered(500, "owl", 0.2, cached=True) is None
    # Another camera has not changed.
    assert offered(600, "owl", camera="gate") is None


def test_a_camera_that_stares_at_one_strange_thing(offered):
    kept = [at for at in range(7200) if offered(at, unknown=True)]
    # 10 s, 20 s, 40 s ... apart.
    assert kept == [0, 10, 30, 70, 150, 310, 630, 1270, 2550, 5110]
    # Something else is news.
    assert offered(7201, "dog", 0.4) == "uncertain"
    # And then it begins anew: for one that flickers, too.
    assert offered(7202, "cat", 0.4) is None
    assert offered(7203, "dog", 0.4) is None
    assert offered(7211, "dog", 0.4) == "uncertain"


def test_of_a_region_the_region_is_kept_without_what_is_masked(tmp_path):
    """And each region is a camera of its own: two that differ are no change of each other."""
    kept = Lately(Photos(tmp_path, 10**9, 86_400.0), 1000)
    photo = encode(quarters(), "PNG")
    mask = ((0.5, 0.0), (1.0, 0.0), (1.0, 0.5), (0.75, 0.5), (0.75, 0.25), (0.5, 0.25))
    views = [View(Crop(0.0, 0.5, 0.5, 1.0)), View(Crop(0.5, 0.0, 1.0, 0.5), "pad", (mask,))]
    reasons = []
    for label, unknown in (("blue", False), ("green", True)):
        view = views[label == "green"]
        result = Result(
            replace(SIGHT, view=view), CONTRACT, (Prediction(label, 0, None, 0.9),), unknown, False, 0.0, 0.0
        )
        reasons += [kept.offer("yard", lambda: photo, 100, result, DecodeBudget(10**6)) for _ in range(2)]
    kept.close()
    assert reasons == [None, None, "unknown", None]
    (path,) = tmp_path.glob("lately/*/*.jpg")
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert picture.shape == (120, 160, 3)
    assert np.abs(picture[80:110, 10:70] - (0, 255, 0)).max() < 90
    assert np.abs(picture[10:50] - 128).max() < 20
    assert np.abs(picture[70:110, 90:150] - 128).max() < 20


def test_what_waits_for_the_disk_is_bounded(offered):
    assert offered(0, unknown=True, size=20_000_000) is None
    assert offered(1, unknown=True) == "unknown"
