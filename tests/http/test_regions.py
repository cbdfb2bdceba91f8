"""``/predict/regions``: several parts of one photo, decoded once, over a real socket."""

import json

import numpy as np
import pytest
from PIL import Image

from app.inference import imaging
from app.inference.decode_budget import DecodeBudget
from app.inference.imaging import Resize, View
from tests.conftest import assert_problem, serving
from tests.photos import encode, quarters, solid
from tests.tiny_model import contract, write

#: Red, green, blue and yellow; what is called yellow has as much red as green.
PHOTO = encode(quarters(), "PNG")
RED, GREEN, BLUE = {"crop": [0, 0, 0.5, 0.5]}, {"crop": [0.5, 0, 0.5, 0.5]}, {"crop": [0, 0.5, 0.5, 0.5]}


def ask(client, regions, photo=PHOTO, **params) -> dict:
    answer = client.post("/predict/regions", params={"regions": json.dumps(regions), **params}, content=photo)
    assert answer.status_code == 200, answer.text
    return answer.json()


def best(body) -> list[str]:
    return [one["predictions"][0]["label"] for one in body["results"]]


def test_an_answer_for_each_in_their_order(client):
    body = ask(client, [BLUE, RED, GREEN, RED])
    assert best(body) == ["blue", "red", "green", "red"]
    for region, said in zip([BLUE, RED, GREEN, {}], ask(client, [BLUE, RED, GREEN, {}])["results"], strict=True):
        crop = ",".join(map(str, region.get("crop", (0, 0, 1, 1))))
        alone = client.post("/predict", params={"crop": crop}, content=PHOTO).json()
        assert said == {name: alone[name] for name in said}
    assert set(body) == {"model", "results", "timing_ms", "request_id"}


def test_one_decoding(client, monkeypatch):
    opened = []
    monkeypatch.setattr(imaging, "_open", lambda data, real=imaging._open: opened.append(1) or real(data))
    ask(client, [RED, GREEN, BLUE, {}])
    assert len(opened) == 1


def test_a_jpeg_is_decoded_as_large_as_the_neediest_region_wants():
    photo = encode(quarters(1600, 1200), "JPEG", quality=95)
    small = View(imaging.Crop(0.0, 0.0, 0.05, 0.05))
    resize = Resize(32, 32, 0.875, "bilinear")
    whole, part = imaging.load_parts(photo, resize, DecodeBudget(10**7), [imaging.ALL, small])
    assert np.array_equal(part.pixels, imaging.load(photo, resize, DecodeBudget(10**7), small.crop))
    assert np.abs(whole.pixels.astype(int) - imaging.load(photo, resize, DecodeBudget(10**7))).mean() < 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_hides_that_part_of_the_upright_photo(orientation):
    """A rectangle and a triangle, seen in another shape than the model's input, whatever way the photo lies."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = encode(solid((250, 0, 0), (200, 100)), "PNG", exif=exif)
    budget = DecodeBudget(10**7)
    masks = (((0.0, 0.0), (0.5, 0.0), (0.5, 0.5), (0.0, 0.5)), ((1.0, 1.0), (0.5, 1.0), (1.0, 0.5)))
    part = imaging.load_parts(photo, Resize(40, 40, 1.0, "bilinear"), budget, [View(fit="squash", masks=masks)])[0]
    hidden = (part.pixels == 128).all(axis=2)
    assert np.array_equal(hidden, ~part.shown)
    rows, columns = np.mgrid[:40, :40] + 0.5
    expected = ((rows < 20) & (columns < 20)) | (rows + columns > 60)
    # To the nearest pixel.
    assert (hidden ^ expected)[
        (abs(rows - 20) > 1) & (abs(columns - 20) > 1) & (abs(rows + columns - 60) > 1)
    ].sum() == 0
    # A crop that cuts a mask in two, padded.
    crop = imaging.Crop(0.25, 0.0, 1.0, 0.5)
    part = imaging.load_parts(photo, Resize(40, 40, 0.875, "bilinear"), budget, [View(crop, "pad", masks[:1])])[0]
    grey = (part.pixels == 128).all(axis=2)
    assert np.array_equal(grey, ~part.shown)
    width, height = imaging.size(photo)
    across, down = (
        (40, 40 * height * 0.5 / (width * 0.75))
        if width * 0.75 > height * 0.5
        else (40 * width * 0.75 / (height * 0.5), 40)
    )
    assert grey.sum() == pytest.approx(1600 - across * down * 2 / 3, abs=45)


def test_what_is_masked_is_not_classified_and_not_counted(client):
    upper = {"crop": [0, 0, 1, 0.5], "fit": "squash"}
    right = {**upper, "masks": [[0, 0, 0.5, 0.5]]}
    left = {**upper, "masks": [[0.5, 0, 1, 0, 1, 0.5, 0.5, 0.5]]}
    everything = {**upper, "masks": [[0, 0, 1, 1]]}
    body = ask(client, [right, left, everything])
    assert best(body)[:2] == ["green", "red"]
    green, red, grey = (one["appearance"] for one in body["results"])
    # One tone, with or without grey beside it: a covered lens is found.
    assert [tone["contrast"] for tone in (green, red, grey)] == [pytest.approx(0, abs=0.01)] * 3
    assert [tone["sharpness"] for tone in (green, red, grey)] == [pytest.approx(0, abs=0.01)] * 3


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_a_covered_lens_is_flat_whatever_the_models_own_rule(fit, tmp_path):
    made = contract(resize=Resize(32, 32, 0.875, "bilinear", fit))
    black = encode(solid((0, 0, 0), (300, 100)), "PNG")
    with serving(write(tmp_path / "tiny.fp32.onnx", made)) as client:
        assert client.post("/predict", content=black).json()["appearance"]["contrast"] == 0
        for one in ask(client, [{}, {"fit": "pad"}, {"fit": "squash"}, {"fit": "crop"}], black)["results"]:
            assert one["appearance"] == {"brightness": 0, "contrast": 0, "sharpness": 0}


def test_another_fit_than_the_models(client):
    """Of a wide photo whose ends are red, a crop sees nothing."""
    picture = solid((0, 250, 0), (400, 100))
    picture.paste((250, 0, 0), (0, 0, 140, 100))
    picture.paste((250, 0, 0), (260, 0, 400, 100))
    assert best(ask(client, [{}, {"fit": "crop"}, {"fit": "squash"}, {"fit": "pad"}], encode(picture, "PNG"))) == [
        "green",
        "green",
        "red",
        "red",
    ]


WRONG = [
    "",
    "x",
    "[]",
    "{}",
    "[1]",
    "null",
    "[" * 10_000,
    json.dumps([{}] * 17),
    json.dumps([{"crop": [0, 0, 1]}]),
    json.dumps([{"crop": [0.6, 0, 0.5, 0.5]}]),
    json.dumps([{"crop": [0, 0, 0, 1]}]),
    json.dumps([RED, {"crop": [0, 0, 2, 1]}]),
    '[{"crop": [NaN, 0, 1, 1]}]',
    '[{"crop": ["x", 0, 1, 1]}]',
    json.dumps([{"fit": "stretch"}]),
    json.dumps([{"mask": []}]),
    json.dumps([{"masks": [[0, 0, 1]]}]),
    json.dumps([{"masks": [[0, 0, 1, 1, 0]]}]),
    json.dumps([{"masks": [[0.5, 0, 0.6, 1]]}]),
    json.dumps([{"masks": [[0, 0, 1, 1]] * 9}]),
    json.dumps([{"masks": [[0.5] * 66]}]),
    json.dumps([{"masks": [[0, 0, 1, 1.5, 0, 0]]}]),
]


@pytest.mark.parametrize("regions", WRONG)
def test_what_are_no_regions_is_told(client, regions):
    answer = client.post("/predict/regions", params={"regions": regions}, content=PHOTO)
    said = assert_problem(answer, 422, "invalid-parameter")
    assert said.startswith("regions")
    assert len(said) < 1100


def test_none_or_several_parameters(client):
    assert_problem(client.post("/predict/regions", content=PHOTO), 422, "invalid-parameter")
    twice = client.post("/predict/regions?regions=[{}]&regions=[{}]", content=PHOTO)
    assert "Send one" in assert_problem(twice, 422, "invalid-parameter")
    assert_problem(client.post("/predict/regions?regions=[{}]", content=b"no photo"), 415, "not-an-image")


def test_remembered_by_region(tiny):
    with serving(tiny, cache_seconds=60) as client:
        masked = {**RED, "masks": [[0, 0, 0.1, 0.1]]}
        assert [one["cached"] for one in ask(client, [RED, GREEN], camera="yard")["results"]] == [False, False]
        asked = [RED, BLUE, masked, GREEN]
        body = ask(client, asked, camera="yard")
        assert [one["cached"] for one in body["results"]] == [True, False, False, True]
        # The same part, asked for alone.
        assert client.post("/predict?camera=yard&crop=0,0,.5,.5", content=PHOTO).json()["cached"] is True
        text = client.get("/metrics").text
        assert 'classifier_cache_requests_total{result="cached"} 1.0' in text
