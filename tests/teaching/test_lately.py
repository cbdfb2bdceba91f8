"""Which photos that came in are kept, and how often; ``tests/http/test_teach.py`` has what becomes of them."""

import numpy as np
import pytest

from app.inference.appearance import Appearance
from app.inference.classifier import Prediction, Result, Sight
from app.inference.decode_budget import DecodeBudget
from app.inference.model import Scored
from app.teaching import lately as lately_module
from app.teaching.lately import Lately
from app.teaching.photos import Photos
from tests import tiny_model
from tests.photos import encode, solid

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


def test_what_waits_for_the_disk_is_bounded(offered):
    assert offered(0, unknown=True, size=20_000_000) is None
    assert offered(1, unknown=True) == "unknown"
