"""DeepStack's scene recognition as its clients use it, over a real socket."""

import jsonschema
import pytest

from tests.conftest import serving
from tests.internals import crowded
from tests.photos import encode, png_bomb, solid

RED, GREEN = encode(solid((240, 9, 9)), "JPEG"), encode(solid((9, 240, 9)), "PNG")

# server/response/response.go in https://github.com/johnolafenwa/DeepStack: RecognitionResponse, ErrorResponse.
SCENE = {
    "type": "object",
    "required": ["success", "confidence", "label", "duration"],
    "properties": {
        "success": {"const": True},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
        "label": {"type": "string"},
        "duration": {"type": "number", "exclusiveMinimum": 0},
    },
    "additionalProperties": False,
}
ERROR = {
    "type": "object",
    "required": ["success", "error", "duration"],
    "properties": {
        "success": {"const": False},
        "error": {"type": "string", "minLength": 1},
        "duration": {"type": "number", "exclusiveMinimum": 0},
    },
    "additionalProperties": False,
}


def test_a_photo(client):
    """As the Python clients send it: a part named `image`, and the key in a part of its own, even where it is empty."""
    for form in (
        {"files": {"image": RED}},
        {"files": {"image": ("image", RED)}, "data": {"api_key": ""}},
        {"files": {"image": ("image.jpg", RED, "image/jpeg")}, "data": {"api_key": "secret"}},
    ):
        response = client.post("/v1/vision/scene", **form)
        assert response.status_code == 200, response.text
        jsonschema.validate(response.json(), SCENE)
        best = client.post("/predict", content=RED).json()["predictions"][0]
        assert (response.json()["label"], response.json()["confidence"]) == (best["label"], best["score"])


@pytest.mark.parametrize(
    ("request_", "status", "says"),
    [
        ({"files": {"image": b"hello"}}, 400, "5 bytes"),
        ({"files": {"image": RED[:-50]}}, 400, "truncated"),
        ({"files": {"image": png_bomb()}}, 400, "30000 x 30000"),
        ({"files": {"file": b"rubbish"}}, 400, "'image'"),
        ({"files": [("image", RED), ("image", GREEN)]}, 400, "More than one"),
        ({"data": {"api_key": "secret"}}, 400, "'image'"),
        ({"content": b"x" * 1_000_001}, 413, "1000000"),
    ],
)
def test_errors_have_the_form_and_the_statuses_that_its_clients_know(client, request_, status, says):
    """DeepStack's own SDK tells 400, 403 and 500 apart; everything that is wrong with a picture was 400."""
    response = client.post("/v1/vision/scene", **request_)
    assert response.status_code == status, response.text
    jsonschema.validate(response.json(), ERROR)
    assert says in response.json()["error"]


def test_overload(tiny):
    with serving(tiny) as client, crowded(client):
        response = client.post("/v1/vision/scene", files={"image": RED})
        assert response.status_code == 503
        jsonschema.validate(response.json(), ERROR)
        assert int(response.headers["retry-after"]) > 1


def test_openapi_says_what_can_happen(client):
    scene = client.get("/openapi.json").json()["paths"]["/v1/vision/scene"]["post"]
    assert set(scene["responses"]) == {"200", "400", "408", "413", "415", "503"}
    for status in ("400", "408", "413", "415", "503"):
        content = scene["responses"][status]["content"]["application/json"]
        for example in content["examples"].values():
            jsonschema.validate(example["value"], content["schema"])
            jsonschema.validate(example["value"], ERROR)


@pytest.mark.parametrize("path", ["detection", "face", "face/recognize", "face/list"])
@pytest.mark.parametrize("form", [{"files": {"image": RED}}, {"content": b""}])
def test_what_is_not_offered_is_refused_as_deepstack_does_it(client, path, form):
    """An empty list of objects would be taken for "nobody there"."""
    response = client.post(f"/v1/vision/{path}", **form)
    assert response.status_code == 403
    jsonschema.validate(response.json(), ERROR)
    assert response.json()["error"].endswith("endpoint not activated")
