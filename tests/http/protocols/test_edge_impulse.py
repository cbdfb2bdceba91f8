"""Edge Impulse's HTTP server as its clients use it, over a real socket."""

import jsonschema
import pytest

from tests.conftest import serving
from tests.internals import crowded
from tests.photos import encode, png_bomb, solid
from tests.tiny_model import contract, write

RED = encode(solid((240, 9, 9)), "JPEG")

# RunnerClassifyResponseSuccess and ModelInformation of linux-impulse-runner-types, as runner-utils sends them.
SIZES = ("originalWidth", "originalHeight", "newWidth", "newHeight")
ANSWER = {
    "type": "object",
    "required": ["result", "timing"],
    "properties": {
        "result": {
            "type": "object",
            "required": ["classification", "resizeMode", "resized"],
            "properties": {
                "classification": {"type": "object", "additionalProperties": {"type": "number"}},
                "resizeMode": {"enum": ["none", "fit-shortest", "fit-longest", "squash"]},
                "resized": {"type": "object", "required": list(SIZES), "additionalProperties": {"type": "integer"}},
            },
            "additionalProperties": False,
        },
        "timing": {
            "type": "object",
            "required": ["dsp", "classification", "anomaly"],
            "additionalProperties": {"type": "number"},
        },
    },
    "additionalProperties": False,
}
NUMBERS = ("axis_count", "frequency", "has_anomaly", "input_features_count", "image_input_height", "image_input_width")
NUMBERS += ("image_input_frames", "image_channel_count", "interval_ms", "label_count", "sensor")
INFO = {
    "type": "object",
    "required": ["project", "modelParameters"],
    "properties": {
        "project": {
            "type": "object",
            "required": ["deploy_version", "id", "name", "owner"],
            "properties": {"deploy_version": {"type": "integer"}, "id": {"type": "integer"}},
        },
        "modelParameters": {
            "type": "object",
            "required": [*NUMBERS, "labels", "model_type", "sensorType", "thresholds"],
            "properties": {
                **{name: {"type": "number"} for name in NUMBERS},
                "labels": {"type": "array", "items": {"type": "string"}},
                "model_type": {"const": "classification"},
                "sensorType": {"const": "camera"},
            },
        },
    },
    "additionalProperties": False,
}


def ask(client, photo=RED):
    response = client.post("/api/image", files={"file": photo})
    assert response.status_code == 200, response.text
    jsonschema.validate(response.json(), ANSWER)
    return response.json()["result"]


def test_a_photo(client):
    result = ask(client)
    expected = client.post("/predict", content=RED).json()["predictions"]
    assert result["classification"] == {one["label"]: one["score"] for one in expected}
    assert result["resizeMode"] == "fit-shortest"
    assert result["resized"] == {"originalWidth": 64, "originalHeight": 48, "newWidth": 32, "newHeight": 32}


def test_unknown_is_no_label(tmp_path):
    with serving(write(tmp_path / "m.onnx", contract(unknown_below=1.0))) as client:
        assert ask(client)["classification"] == {"red": 0, "green": 0, "blue": 0}


def test_of_two_classes_with_one_label_the_better_one_counts(tmp_path):
    with serving(write(tmp_path / "m.onnx", contract(labels=("crane", "crane", "other")))) as client:
        best = client.post("/predict", content=RED).json()["predictions"][0]["score"]
        assert ask(client)["classification"]["crane"] == best
        assert client.get("/api/info").json()["modelParameters"]["labels"] == ["crane", "other"]


def test_the_model(client):
    info = client.get("/api/info").json()
    jsonschema.validate(info, INFO)
    assert info["project"]["name"] == "tiny"
    assert info["modelParameters"]["labels"] == ["red", "green", "blue"]
    assert info["modelParameters"]["input_features_count"] == 32 * 32


@pytest.mark.parametrize(
    ("request_", "status", "says"),
    [
        ({"files": {"file": b"hello"}}, 400, "5 bytes"),
        ({"files": {"file": RED[:-50]}}, 400, "truncated"),
        ({"files": {"file": png_bomb()}}, 413, "30000 x 30000"),
        ({"data": {"features": "1"}}, 400, "'file'"),
        ({"content": b""}, 400, "empty"),
        ({"content": b"x" * 1_000_001}, 413, "1000000"),
        ({"json": {"features": [1, 2]}}, 400, "image"),
    ],
)
def test_errors_are_a_line_of_text(client, request_, status, says):
    response = client.post("/api/image", **request_)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert says in response.text
    assert response.text.count("\n") == 1


def test_overload(tiny):
    with serving(tiny) as client, crowded(client):
        response = client.post("/api/image", files={"file": RED})
        assert (response.status_code, response.headers["content-type"]) == (503, "text/plain; charset=utf-8")
        assert int(response.headers["retry-after"]) > 0
