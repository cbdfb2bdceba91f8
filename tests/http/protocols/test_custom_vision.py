"""Azure Custom Vision's prediction API as its clients use it, over a real socket."""

from uuid import UUID

import jsonschema
import pytest

from tests.conftest import serving
from tests.internals import crowded
from tests.photos import encode, solid
from tests.tiny_model import contract, write

RED = encode(solid((240, 9, 9)), "JPEG")
KEY = "a-key-of-16-letters-or-more"
#: Every path that the container of an export has for photos, and the cloud's.
PATHS = (
    "/image",
    "/8e61ef93/image",
    "/8e61ef93/image/nostore",
    "/8e61ef93/classify/iterations/tiny/image",
    "/8e61ef93/classify/iterations/Iteration5/image/nostore",
    "/customvision/v3.0/prediction/8e61ef93/classify/iterations/tiny/image",
    "/customvision/v3.0/prediction/8e61ef93/classify/iterations/tiny/image/nostore",
)
# predict.py of the Docker export; ImagePrediction of the cloud's Prediction API 3.0.
PREDICTION = {
    "type": "object",
    "required": ["id", "project", "iteration", "created", "predictions"],
    "properties": {
        "id": {"type": "string"},
        "project": {"type": "string"},
        "iteration": {"type": "string"},
        "created": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}"},
        "predictions": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["tagId", "tagName", "probability", "boundingBox"],
                "properties": {
                    "tagId": {"type": "string"},
                    "tagName": {"type": "string"},
                    "probability": {"type": "number", "minimum": 0, "maximum": 1},
                    "boundingBox": {"const": None},
                },
                "additionalProperties": False,
            },
        },
    },
    "additionalProperties": False,
}
ERROR = {
    "type": "object",
    "required": ["code", "message"],
    "properties": {"code": {"const": "ErrorUnknown"}, "message": {"type": "string", "minLength": 1}},
    "additionalProperties": False,
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "form",
    [
        {"content": RED, "headers": {"content-type": "application/octet-stream"}},
        {"files": {"imageData": ("photo.jpg", RED, "image/jpeg")}},
        {"content": RED},
    ],
    ids=["octet-stream", "multipart", "no type"],
)
def test_a_photo(client, path, form):
    response = client.post(path, **form)
    assert response.status_code == 200, response.text
    answer = response.json()
    jsonschema.validate(answer, PREDICTION)
    best = client.post("/predict", content=RED).json()["predictions"]
    assert [(tag["tagName"], tag["probability"]) for tag in answer["predictions"]] == [
        (one["label"], one["score"]) for one in best
    ]
    assert answer["project"] == ("8e61ef93" if "8e61ef93" in path else "")
    assert answer["id"] == response.headers["x-request-id"]
    for text in (answer["id"], answer["iteration"], *(tag["tagId"] for tag in answer["predictions"])):
        UUID(text)
    assert len({tag["tagId"] for tag in answer["predictions"]}) == 3


def test_little_of_a_path_goes_back(client):
    answer = client.post(f"/{'p' * 10_000}/image", content=RED).json()
    assert answer["project"] == "p" * 100


def test_unknown_is_the_tag_that_custom_vision_has_for_it(tmp_path):
    with serving(write(tmp_path / "m.onnx", contract(unknown_below=1.0))) as client:
        tags = client.post("/image", content=RED).json()["predictions"]
        assert (tags[0]["tagName"], tags[0]["probability"]) == ("Negative", 1.0)
        assert tags[1]["tagName"] == "red"


@pytest.mark.parametrize(
    ("path", "form", "status", "says"),
    [
        ("/image", {"content": b"hello"}, 400, "5 bytes"),
        ("/image", {"content": RED[:-50]}, 400, "truncated"),
        ("/p/image", {"files": {"imageData": b"rubbish"}}, 400, "7 bytes"),
        ("/p/image", {"content": b"x" * 1_000_001}, 413, "1000000"),
        ("/url", {"json": {"url": "http://169.254.169.254/"}}, 403, "POST /image"),
        ("/p/url", {"json": {"url": "x"}}, 403, "POST /image"),
        ("/p/classify/iterations/i/url", {"json": {"url": "x"}}, 403, "POST /image"),
        (
            "/customvision/v3.0/prediction/p/classify/iterations/i/url/nostore",
            {"json": {"url": "x"}},
            403,
            "POST /image",
        ),
        ("/customvision/v3.0/prediction/p/detect/iterations/i/image", {"content": RED}, 404, "There is no"),
        ("/p/classify/iterations/i/image", {"content": b""}, 400, "empty"),
    ],
)
def test_errors_have_the_form_that_its_clients_know(client, path, form, status, says):
    response = client.post(path, **form)
    jsonschema.validate(response.json(), ERROR)
    assert says in response.json()["message"]
    assert response.status_code == status


def test_overload(tiny):
    with serving(tiny) as client, crowded(client):
        response = client.post("/image", content=RED)
        assert response.status_code == 503
        jsonschema.validate(response.json(), ERROR)


def test_the_key_comes_as_its_clients_send_it(tiny, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"{KEY}\n")
    with serving(tiny, api_keys_file=keys) as client:
        assert client.post("/image", content=RED).status_code == 401
        assert client.post("/image", content=RED, headers={"Prediction-Key": "wrong"}).status_code == 401
        assert client.post("/image", content=RED, headers={"Prediction-Key": KEY}).status_code == 200
