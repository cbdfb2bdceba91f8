"""``?crop=``: a part of a photo, over a real socket, in every form of body and on both routes that take it."""

import base64
import math

import httpx
import pytest
from PIL import Image

from tests.conftest import assert_problem, scores_of, serving
from tests.photos import encode, quarters, solid
from tests.tiny_model import contract, write

#: Red, green, blue and yellow; what is called yellow has as much red as green.
PHOTO = encode(quarters(), "PNG")
LABELS = {"0,0,0.5,0.5": "red", "0.5,0,0.5,0.5": "green", "0,0.5,0.5,0.5": "blue"}


def best(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return response.json()["predictions"][0]["label"]


@pytest.mark.parametrize(("crop", "label"), LABELS.items())
def test_every_form_of_body(client, crop, label):
    forms = [
        {"content": PHOTO},
        {"files": {"file": PHOTO}},
        {"json": {"image": base64.b64encode(PHOTO).decode()}},
    ]
    assert [best(client.post("/predict", params={"crop": crop}, **form)) for form in forms] == [label] * 3
    batch = client.post("/predict/batch", params={"crop": crop}, files=[("file", PHOTO)] * 2).json()
    assert [one["predictions"][0]["label"] for one in batch["results"]] == [label] * 2


def test_it_is_as_if_the_part_had_been_sent(client):
    part = encode(quarters().crop((80, 60, 240, 180)), "PNG")
    cropped = client.post("/predict?crop=0.25,0.25,0.5,0.5", content=PHOTO).json()
    whole = client.post("/predict", content=part).json()
    assert cropped["predictions"] == whole["predictions"]
    assert cropped["appearance"] == whole["appearance"]


def test_it_is_a_part_of_the_upright_photo(client):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encode(quarters().transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95)
    for crop, label in LABELS.items():
        assert best(client.post("/predict", params={"crop": crop}, content=turned)) == label


WRONG = [
    "",
    ",,,",
    "0,0,1",
    "0,0,1,1,1",
    "a,b,c,d",
    "nan,0,1,1",
    "0,0,inf,1",
    "-inf,0,1,1",
    "0,0,1e999,1",
    "-0.1,0,0.5,0.5",
    "0.6,0,0.5,0.5",
    "0,0.6,0.5,0.5",
    "0,0,0,0.5",
    "0,0,0.5,-0.5",
    "0,0,1_0,1",
    "0;0;1;1",
    "٠,0,1,1",
    "0,0,0.5,0." + "5" * 200,
    "[0,0,1,1]",
]


@pytest.mark.parametrize("route", ["/predict", "/predict/batch", "/explain"])
@pytest.mark.parametrize("crop", WRONG)
def test_what_is_no_crop_is_told(client, crop, route):
    said = assert_problem(client.post(route, params={"crop": crop}, files={"file": PHOTO}), 422, "invalid-parameter")
    assert said.startswith("crop: ")
    assert len(said) < 300


@pytest.mark.parametrize("route", ["/predict", "/predict/batch", "/explain"])
def test_several_crops_are_several_requests(client, route):
    answer = client.post(f"{route}?crop=0,0,0.5,0.5&crop=0.5,0,0.5,0.5", files={"file": PHOTO})
    assert "a request for each" in assert_problem(answer, 422, "invalid-parameter")


def test_shares_that_were_rounded_may_reach_the_edge(client):
    third = "0.333333334"
    assert client.post(f"/predict?crop=0.666666667,0,{third},1", content=PHOTO).status_code == 200


def test_whitespace_around_a_number_is_none_of_its_business(client):
    assert best(client.post("/predict", params={"crop": "0, 0, 0.5, 0.5"}, content=PHOTO)) == "red"


def test_the_evidence_lies_in_the_crop(client):
    asked = {"crop": "0.5,0,0.5,0.5"}
    found = client.post("/explain", params=asked, content=PHOTO).json()
    assert found["prediction"]["label"] == "green"
    # Of 160 x 120 pixels at the upper right, the square of 0.875 x 120 in the middle.
    side = 0.875 * 120
    expected = {"left": (240 - side / 2) / 320, "right": (240 + side / 2) / 320}
    expected |= {"upper": (60 - side / 2) / 240, "lower": (60 + side / 2) / 240}
    assert found["box"] == pytest.approx(expected)
    drawn = client.post("/explain", params={**asked, "format": "png"}, content=PHOTO)
    assert drawn.status_code == 200
    assert drawn.headers["x-label"] == "green"


@pytest.mark.parametrize("crop", ["0.9999,0.9999,0.0001,0.0001", "0,0,0.0001,1", "0.25,0.25,0.5,0.1"])
@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_evidence_in_a_tiny_crop_can_be_drawn(crop, fit, tmp_path):
    made = contract()
    made = contract(resize=type(made.resize)(32, 32, 0.875, "bilinear", fit))
    with serving(write(tmp_path / "tiny.fp32.onnx", made)) as client:
        asked = {"crop": crop, "format": "png"}
        assert client.post("/explain", params=asked, content=PHOTO).status_code == 200


def test_a_remembered_frame_answers_for_its_own_crop_alone(tiny):
    with serving(tiny, cache_seconds=60) as client:
        asked = [f"/predict?camera=yard&crop={crop}" for crop in LABELS] + ["/predict?camera=yard"]
        first = [client.post(url, content=PHOTO).json() for url in asked]
        again = [client.post(url, content=PHOTO).json() for url in asked]
        assert [answer["cached"] for answer in first] == [False] * 4
        assert [answer["cached"] for answer in again] == [True] * 4
        assert [answer["predictions"] for answer in first] == [answer["predictions"] for answer in again]
        assert [answer["predictions"][0]["label"] for answer in first][:3] == list(LABELS.values())
        # One that is the same to the eye, but written in another way.
        assert client.post("/predict?camera=yard&crop=0,0,.50,.5", content=PHOTO).json()["cached"] is True
        assert client.post("/predict?camera=gate&crop=0,0,.5,.5", content=PHOTO).json()["cached"] is False


def test_the_appearance_of_a_photo(client):
    def appearance(picture):
        return client.post("/predict", content=encode(picture, "PNG")).json()["appearance"]

    assert appearance(solid((0, 0, 0))) == {"brightness": 0, "contrast": 0, "sharpness": 0}
    grey = pytest.approx(128 / 255, abs=1e-4)
    assert appearance(solid((128, 128, 128))) == {"brightness": grey, "contrast": 0, "sharpness": 0}
    halves = Image.new("L", (100, 100), 0)
    halves.paste(255, (50, 0, 100, 100))
    found = appearance(halves)
    assert math.isclose(found["brightness"], 0.5, abs_tol=0.02)
    assert math.isclose(found["contrast"], 0.5, abs_tol=0.02)


def test_without_a_crop_nothing_has_changed(client):
    assert scores_of(client, PHOTO).argmax() == best_index(client.post("/predict?crop=0,0,1,1", content=PHOTO))


def best_index(response: httpx.Response) -> int:
    return response.json()["predictions"][0]["index"]
