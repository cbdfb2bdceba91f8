"""CodeProject.AI's custom models and status as its clients use them, over a real socket."""

import io

import jsonschema
import pytest
from PIL import Image

from tests.conftest import serving
from tests.internals import crowded
from tests.photos import encode, png_bomb, solid
from tests.tiny_model import contract, write

RED = encode(solid((240, 9, 9)), "JPEG")
#: Between the colours: no score is above 0.5.
GREY = encode(solid((120, 120, 110)), "PNG")

# Custom object detection in the API reference, and DeepStack's duration.
INTEGERS = ("inferenceMs", "processMs", "analysisRoundTripMs")
ANSWER = {
    "type": "object",
    "required": ["success", "message", "predictions", "count", "code", "command", "moduleId", "duration", *INTEGERS],
    "properties": {
        "success": {"const": True},
        "message": {"type": "string"},
        "count": {"type": "integer"},
        "code": {"const": 200},
        "predictions": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["label", "confidence", "x_min", "y_min", "x_max", "y_max"],
                "properties": {
                    "label": {"type": "string", "minLength": 1},
                    "confidence": {"type": "number", "minimum": 0, "maximum": 1},
                    **{side: {"type": "integer", "minimum": 0} for side in ("x_min", "y_min", "x_max", "y_max")},
                },
            },
        },
        **{name: {"type": "integer", "minimum": 0} for name in INTEGERS},
    },
}
ERROR = {
    "type": "object",
    "required": ["success", "error", "duration"],
    "properties": {
        "success": {"const": False},
        "error": {"type": "string", "minLength": 1},
        "duration": {"type": "number"},
    },
    "additionalProperties": False,
}


def ask(client, photo, name="tiny", **fields):
    response = client.post(f"/v1/vision/custom/{name}", files={"image": photo}, data=fields)
    assert response.status_code == 200, response.text
    jsonschema.validate(response.json(), ANSWER)
    assert response.json()["count"] == len(response.json()["predictions"])
    return response.json()["predictions"]


@pytest.mark.parametrize("name", ["tiny", "default"])
def test_a_photo_shows_one_thing_as_large_as_itself(client, name):
    best = client.post("/predict", content=RED).json()["predictions"][0]
    assert ask(client, RED, name, min_confidence="0.4") == [
        {"label": "red", "confidence": best["score"], "x_min": 0, "y_min": 0, "x_max": 64, "y_max": 48}
    ]


def test_the_box_is_that_of_the_upright_photo(client):
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    solid((240, 9, 9)).save(turned, "JPEG", exif=exif)
    (found,) = ask(client, turned.getvalue())
    assert (found["x_max"], found["y_max"]) == (48, 64)


@pytest.mark.parametrize(
    ("fields", "found"),
    [({}, 0), ({"min_confidence": ""}, 0), ({"min_confidence": "0.1"}, 1), ({"min_confidence": "0.99"}, 0)],
)
def test_below_the_least_score_nothing_is_told(client, fields, found):
    assert len(ask(client, GREY, **fields)) == found


def test_unknown_is_no_label(tmp_path):
    with serving(write(tmp_path / "m.onnx", contract(unknown_below=1.0))) as client:
        assert ask(client, RED, min_confidence="0") == []


def test_groups_for_whoever_asks(tmp_path):
    grouped = contract(groups=("warm", "cool", "cool"))
    with serving(write(tmp_path / "m.onnx", grouped)) as client:
        response = client.post("/v1/vision/custom/tiny?view=groups", files={"image": RED})
        assert response.json()["predictions"][0]["label"] == "warm"


@pytest.mark.parametrize(
    ("path", "request_", "status", "says"),
    [
        ("tiny", {"files": {"image": b"hello"}}, 400, "5 bytes"),
        ("tiny", {"files": {"image": RED[:-50]}}, 400, "truncated"),
        ("tiny", {"files": {"image": png_bomb()}}, 400, "30000 x 30000"),
        ("tiny", {"data": {"min_confidence": "0.4"}}, 400, "'image'"),
        ("tiny", {"content": b""}, 400, "empty"),
        ("tiny", {"files": {"image": RED}, "data": {"min_confidence": "45"}}, 400, "from 0 to 1"),
        ("tiny", {"files": {"image": RED}, "data": {"min_confidence": "nan"}}, 400, "from 0 to 1"),
        ("tiny", {"files": {"image": RED}, "data": {"min_confidence": "much " * 10_000}}, 400, "from 0 to 1"),
        ("tiny?view=x", {"files": {"image": RED}}, 400, "groups"),
        ("tiny", {"content": b"x" * 1_000_001}, 413, "1000000"),
        ("plants", {"files": {"image": RED}}, 404, "plants"),
        ("p" * 5000, {"files": {"image": RED}}, 404, "ppp"),
        ("a/b", {"files": {"image": RED}}, 404, "/v1/vision/custom/a/b"),
    ],
)
def test_errors(client, path, request_, status, says):
    response = client.post(f"/v1/vision/custom/{path}", **request_)
    assert response.status_code == status, response.text
    jsonschema.validate(response.json(), ERROR)
    assert says in response.json()["error"]
    assert len(response.content) < 2000


def test_overload(tiny):
    with serving(tiny) as client, crowded(client):
        response = client.post("/v1/vision/custom/tiny", files={"image": RED})
        assert response.status_code == 503
        jsonschema.validate(response.json(), ERROR)


def test_the_list_has_the_models_that_are_served(client):
    assert client.post("/v1/vision/custom/list").json() == {"success": True, "models": ["tiny"]}
    assert client.post("/v1/vision/custom/list", data={"min_confidence": 0.4}).json()["models"] == ["tiny"]


@pytest.mark.parametrize("path", ["/v1/status", "/v1/server/status"])
def test_what_its_clients_ask_first(client, path):
    assert client.get(f"{path}/ping").json()["success"] is True
    version = client.get(f"{path}/version").json()
    assert version["message"] == ".".join(map(str, version["version"].values()))
    assert client.get(f"{path}/updateavailable").json()["updateAvailable"] is False
    jsonschema.validate(client.get(f"{path}/absent").json(), ERROR)
