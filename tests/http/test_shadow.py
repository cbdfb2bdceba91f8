"""A shadow model and what photos look like, as ``/metrics`` tells it of a real service."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import serving, wait_until, worker_held
from tests.photos import encode, solid
from tests.processes import COMMANDS, failure
from tests.tiny_model import contract, write

RED, DARK = (encode(solid(colour), "JPEG") for colour in ((240, 9, 9), (9, 3, 3)))


def series(client, name: str) -> dict[tuple[str, ...], float]:
    """The values of a metric, by its labels' values."""
    found = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        found |= {tuple(s.labels.values()): s.value for s in family.samples if s.name == name}
    return found


def seen(client) -> float:
    return sum(series(client, "classifier_shadow_photos_total").values())


def test_agreement_is_counted_by_what_photos_are_called(tiny, tmp_path):
    shadow = write(tmp_path / "s.onnx", contract(name="next", version="2", labels=("red", "blue", "green")))
    with serving(tiny, shadow=shadow, shadow_share=1) as client:
        assert series(client, "classifier_shadow_info") == {("next", "2"): 1}
        assert client.get("/models").json()["models"][0]["name"] == "tiny"
        green = encode(solid((9, 240, 9)), "JPEG")
        for photo, number in ((RED, 1), (RED, 2), (green, 3)):
            assert client.post("/predict", content=photo).status_code == 200
            wait_until(lambda number=number: seen(client) == number)
        agreed = {("true", "red", "false"): 2, ("false", "green", "false"): 1}
        assert series(client, "classifier_shadow_photos_total") == agreed


def test_every_protocol_is_seen_and_no_answer_waits(tiny):
    with serving(tiny, shadow=tiny, shadow_share=1, workers=1) as client:
        asked = (
            lambda: client.post("/v1/vision/scene", files={"image": RED}),
            lambda: client.post("/api/image", files={"file": RED}),
            lambda: client.post("/v1/models/tiny:predict", json={"instances": [[[[240, 9, 9]] * 32] * 32]}),
        )
        for number, ask in enumerate(asked, 1):
            assert ask().status_code == 200
            wait_until(lambda number=number: seen(client) == number)
        # Two at once: the first one is answered while the second one waits.
        before = series(client, "classifier_shadow_dropped_total")[()]
        client.post("/predict/batch", files=[("file", RED), ("file", RED)]).raise_for_status()
        wait_until(lambda: series(client, "classifier_shadow_dropped_total")[()] > before)


def test_while_the_worker_is_busy_photos_are_left_out(tiny):
    with serving(tiny, shadow=tiny, shadow_share=1, workers=2) as client:
        with worker_held(client):
            client.post("/predict", content=RED).raise_for_status()
            assert series(client, "classifier_shadow_dropped_total")[()] == 1
        assert series(client, "classifier_shadow_photos_total") == {}


def test_without_one_nothing_is_compared(client):
    client.post("/predict", content=RED).raise_for_status()
    assert series(client, "classifier_shadow_info") == {}
    assert series(client, "classifier_shadow_photos_total") == {}


@pytest.mark.parametrize("content", [None, b"no model"])
def test_a_shadow_that_cannot_be_used_ends_the_start(tiny, tmp_path, content):
    path = tmp_path / "shadow.onnx"
    if content:
        path.write_bytes(content)
    output = failure(COMMANDS["module"], model=tiny, shadow=path)
    assert "CLASSIFIER_SHADOW" in output
    assert str(path) in output


def test_what_photos_look_like_is_counted_by_model_and_by_camera(tiny):
    with serving(tiny, watched_cameras="yard, gate") as client:
        assert series(client, "classifier_camera_brightness_count") == {("yard",): 0, ("gate",): 0}
        client.post("/predict?camera=yard", content=RED).raise_for_status()
        client.post("/predict/batch?camera=yard", files={"file": DARK}).raise_for_status()
        client.post("/v1/vision/scene", files={"image": RED}).raise_for_status()
        # Names that nobody has configured make no time series, however many come.
        for camera in ("a", "b"):
            client.post(f"/predict?camera={camera}", content=RED).raise_for_status()
        assert series(client, "classifier_brightness_count") == {("tiny",): 5}
        assert series(client, "classifier_top_score_count") == {("tiny",): 5}
        assert series(client, "classifier_sharpness_sum")[("tiny",)] == pytest.approx(0, abs=0.01)
        assert series(client, "classifier_camera_brightness_count") == {("yard",): 2, ("gate",): 0}
        assert series(client, "classifier_camera_brightness_sum")[("yard",)] == pytest.approx(0.324, abs=0.01)
        assert series(client, "classifier_camera_unknown_total") == {("yard",): 0, ("gate",): 0}
