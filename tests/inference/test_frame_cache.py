"""A quiet camera: which frames share their scores, and that nobody else's do."""

import httpx
import numpy as np
import pytest

from app.inference import frame_cache
from app.inference.frame_cache import CameraCache, FrameCache, cell_means
from app.inference.model import Scored
from tests import tiny_model
from tests.conftest import serving
from tests.photos import encode, solid

CONTRACT = tiny_model.contract()
RED, NEARLY_RED, GREEN = (encode(solid(colour), "PNG") for colour in ((250, 10, 10), (249, 11, 10), (10, 250, 10)))


def scored(camera: CameraCache, pixels: np.ndarray, contract=CONTRACT) -> bool:
    """Whether a frame got an earlier one's scores; checks that they are those of the frame that was scored."""
    scored, cached = camera.scores(contract, pixels, lambda: Scored(pixels.mean((0, 1)).astype(np.float32), False))
    assert cached or np.array_equal(scored.scores, pixels.mean((0, 1)).astype(np.float32))
    return cached


@pytest.mark.parametrize("size", [(224, 224), (160, 96), (100, 37), (16, 16)])
def test_cells_are_means(size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    cells = cell_means(pixels)
    assert cells.shape == (16, 16, 3)
    rows, columns = (np.arange(17) * side // 16 for side in size)
    assert cells[3, 5] == pytest.approx(pixels[rows[3] : rows[4], columns[5] : columns[6]].mean((0, 1)))
    assert cells[15, 15] == pytest.approx(pixels[rows[15] :, columns[15] :].mean((0, 1)))


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (15, 16), (3, 224), (15, 15)])
def test_a_model_of_fewer_pixels_than_cells(size):
    pixels = np.random.default_rng(0).integers(0, 200, (*size, 3), np.uint8)
    cells = cell_means(pixels)
    assert cells.shape == (min(size[0], 16), min(size[1], 16), 3)
    assert np.isfinite(cells).all()
    assert cells.mean((0, 1)) == pytest.approx(pixels.mean((0, 1)), abs=0.01)
    camera = CameraCache(60, 3)
    assert [scored(camera, pixels), scored(camera, pixels), scored(camera, pixels + np.uint8(9))] == [
        False,
        True,
        False,
    ]


def test_noise_is_the_same_frame_and_a_small_thing_is_not():
    random = np.random.default_rng(0)
    scene = random.integers(30, 220, (7, 7, 3)).repeat(32, 0).repeat(32, 1)

    def frame() -> np.ndarray:
        return np.clip(scene + random.normal(0, 6, scene.shape), 0, 255).astype(np.uint8)

    camera = CameraCache(60, 3)
    assert not scored(camera, frame())
    assert all(scored(camera, frame()) for _ in range(20))
    visited = frame()
    visited[100:112, 40:52] = 255 - visited[100:112, 40:52]
    assert not scored(camera, visited)


def test_slow_changes_add_up():
    camera = CameraCache(60, 3)
    cached = [scored(camera, np.full((32, 32, 3), level, np.uint8)) for level in range(100, 112)]
    assert cached == [False, True, True, True] * 3


def test_old_scores_and_other_models_do_not_count(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(frame_cache.time, "monotonic", lambda: now[0])
    camera, pixels = CameraCache(10, 3), np.zeros((32, 32, 3), np.uint8)
    assert not scored(camera, pixels)
    now[0] = 10.0
    assert scored(camera, pixels)
    assert not scored(camera, pixels, tiny_model.contract(version="2"))
    now[0] = 20.1
    assert not scored(camera, pixels, tiny_model.contract(version="2"))


def test_cameras_are_apart_and_bounded():
    remembered = FrameCache(60, 3)
    first = remembered.camera("first")
    assert remembered.camera("first") is first
    for number in range(300):
        assert remembered.camera(str(number)) is not first
    assert remembered.camera("first") is not first
    assert FrameCache(0, 3).camera("first") is None


def outcomes(client: httpx.Client) -> dict[str, float]:
    lines = [
        line for line in client.get("/metrics").text.splitlines() if line.startswith("classifier_cache_requests_total{")
    ]
    return {line.split('"')[1]: float(line.split()[-1]) for line in lines}


def test_a_cached_answer_says_so_and_is_counted(tiny):
    with serving(tiny, cache_seconds=60) as client:
        answers = [client.post("/predict", content=photo).json() for photo in (RED, NEARLY_RED, GREEN)]
        assert [answer["cached"] for answer in answers] == [False, True, False]
        assert answers[0]["predictions"] == answers[1]["predictions"]
        assert answers[2]["predictions"][0]["label"] == "green"
        assert not client.post("/predict?camera=yard", content=GREEN).json()["cached"]
        assert client.post("/predict?camera=yard&top_k=1", content=GREEN).json()["cached"]
        assert outcomes(client) == {"computed": 3, "cached": 2}


def test_it_is_off_by_default(client):
    assert not any(client.post("/predict", content=RED).json()["cached"] for _ in range(2))
    assert outcomes(client) == {}
