"""Class activation maps: the numbers, the picture, and both over a real socket."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from app.errors import InvalidParameter, NotExplainable
from app.http.schemas.explain import ExplainResponse
from app.inference import class_activation_map
from app.inference.classifier import Classifier
from app.inference.decode_budget import DecodeBudget
from app.inference.imaging import Resize, crop_box, load
from app.inference.model import Model
from tests import tiny_model
from tests.conftest import assert_problem, serving
from tests.photos import encode, quarters, solid

MOST = DecodeBudget(10**8)
#: Upright to stored, for each EXIF orientation: the inverse of what a viewer does.
STORED = {
    1: lambda picture: picture,
    2: lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda picture: picture.transpose(Image.Transpose.ROTATE_180),
    4: lambda picture: picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda picture: picture.transpose(Image.Transpose.TRANSPOSE),
    6: lambda picture: picture.transpose(Image.Transpose.ROTATE_90),
    7: lambda picture: picture.transpose(Image.Transpose.TRANSVERSE),
    8: lambda picture: picture.transpose(Image.Transpose.ROTATE_270),
}


@pytest.fixture(scope="module")
def classifier(tiny) -> Classifier:
    return Classifier(Model(tiny), MOST)


def opened(png: bytes) -> np.ndarray:
    picture = Image.open(io.BytesIO(png))
    assert picture.format == "PNG"
    return np.asarray(picture)


def test_cells_and_bias_add_up_to_the_logit(classifier):
    data = encode(quarters(), "PNG")
    pixels = load(data, classifier.contract.resize, MOST).astype(np.float64)
    cells = pixels.reshape(4, 8, 4, 8, 3).mean(axis=(1, 3)) / 25.5
    for index in range(3):
        found = class_activation_map.explain(classifier, data, index)
        assert found.evidence.dtype == np.float32
        assert found.evidence == pytest.approx(cells[..., index], abs=1e-4)
        assert found.bias == pytest.approx(0, abs=1e-4)
        assert found.evidence.mean() + found.bias == pytest.approx(pixels[..., index].mean() / 25.5, abs=1e-4)
    best = class_activation_map.explain(classifier, data)
    result = classifier(data)
    assert best.prediction == result.predictions[0]
    assert np.array_equal(best.evidence, class_activation_map.explain(classifier, data, best.prediction.index).evidence)


def test_a_batch_has_a_map_for_each_of_its_pictures(classifier):
    colours = [(250, 9, 9), (9, 250, 9)]
    pixels = np.stack([np.full((32, 32, 3), colour, np.uint8) for colour in colours])
    scores, _, maps, bias = classifier.model.class_activation_map(pixels)
    assert np.array_equal(scores, classifier.model(pixels))
    assert maps.shape == (2, 4, 4)
    assert bias.shape == (2,)
    assert maps == pytest.approx(250 / 25.5, abs=1e-4)
    assert classifier.model.class_activation_map(pixels, 2)[2] == pytest.approx(9 / 25.5, abs=1e-4)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_has_its_map_upright(classifier, kind, orientation):
    upright = quarters(320, 200)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(STORED[orientation](upright), kind, exif=exif)
    expected, found = (class_activation_map.explain(classifier, d, 1) for d in (encode(upright, "PNG"), data))
    assert found.evidence == pytest.approx(expected.evidence, abs=0.5)
    # Green is in the upper right, and some of it in the yellow of the lower right.
    assert found.evidence[:2, 2:].min() > found.evidence[:2, :2].max() + 3
    assert found.box == pytest.approx(expected.box)
    drawn = opened(class_activation_map.overlay(data, found, MOST))
    assert drawn.shape == (200, 320, 3)
    assert (
        np.abs(drawn.astype(int) - opened(class_activation_map.overlay(encode(upright, "PNG"), expected, MOST))).mean()
        < 4
    )


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((400, 400), (0.0625, 0.0625, 0.9375, 0.9375)),
        ((400, 200), (0.28125, 0.0625, 0.71875, 0.9375)),
        ((100, 400), (0.0625, 0.390625, 0.9375, 0.609375)),
    ],
)
def test_the_box_is_the_part_that_the_model_sees(size, box):
    data = encode(solid((1, 2, 3), size), "PNG")
    assert crop_box(data, Resize(32, 32, 0.875, "bilinear")) == pytest.approx(box)
    # An input that is twice as wide as high sees other parts.
    assert crop_box(data, Resize(16, 32, 1.0, "bilinear"))[0] == pytest.approx(0.0)


@pytest.mark.parametrize("size", [(3000, 1000), (900, 2500), (4000, 3), (2, 3000), (1, 1), (300, 200)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_picture_is_bounded_and_never_enlarged(classifier, size, kind):
    data = encode(solid((200, 40, 40), size), kind)
    drawn = opened(class_activation_map.overlay(data, class_activation_map.explain(classifier, data), MOST))
    scale = min(1, class_activation_map.LONGEST / max(size))
    assert drawn.shape == (max(1, round(size[1] * scale)), max(1, round(size[0] * scale)), 3)


def test_the_heat_lies_where_the_evidence_is(classifier):
    """Red on the left of what the model sees: strong there, none on the right, and what it does not see is dark."""
    picture = Image.new("RGB", (400, 200), (0, 100, 100))
    picture.paste((250, 100, 100), (0, 0, 200, 200))
    data = encode(picture, "PNG")
    found = class_activation_map.explain(classifier, data, 0)
    drawn = opened(class_activation_map.overlay(data, found, MOST)).astype(int)
    left, upper, right, lower = (round(edge * side) for edge, side in zip(found.box, (400, 200) * 2, strict=True))
    assert (left, upper, right, lower) == (112, 12, 288, 188)
    outside = np.ones((200, 400), bool)
    outside[upper:lower, left:right] = False
    dimmed = np.asarray(picture) * 0.4
    assert np.abs(drawn - dimmed)[outside].max() <= 1
    grey = 0.299 * 250 + 0.587 * 100 + 0.114 * 100
    strongest = grey + 0.7 * (np.array([252, 255, 164]) - grey)
    assert np.abs(drawn[upper:lower, left : left + 10] - strongest).max() <= 2
    # No evidence: grey, nothing laid over it.
    assert np.ptp(drawn[upper:lower, right - 10 : right], axis=-1).max() <= 2


@pytest.mark.parametrize("size", [(400, 200), (200, 400), (900, 2), (1, 1)])
def test_what_a_photo_is_padded_with_is_not_drawn(tmp_path, size):
    padded = tiny_model.contract(resize=Resize(32, 32, 1.0, "bilinear", "pad"))
    classifier = Classifier(Model(tiny_model.write(tmp_path / "m.onnx", padded)), MOST)
    data = encode(solid((250, 10, 10), size), "PNG")
    found = class_activation_map.explain(classifier, data)
    longest = max(size)
    expected = [(1 - longest / side) / 2 for side in size] + [(1 + longest / side) / 2 for side in size]
    assert found.box == pytest.approx(expected)
    drawn = opened(class_activation_map.overlay(data, found, MOST))
    assert drawn.shape[:2] == size[::-1]
    # Seen from end to end: nothing is darkened.
    assert drawn[:, [0, -1]].max(axis=-1).min() > 60


def test_evidence_against_a_class_alone_draws_nothing(classifier):
    data = encode(solid((90, 90, 90), (64, 64)), "PNG")
    found = class_activation_map.explain(classifier, data, 0)
    against = class_activation_map.Explanation(
        found.contract, found.prediction, found.unknown, found.box, -found.evidence, 0.0, 0.0, 0.0
    )
    assert (opened(class_activation_map.overlay(data, against, MOST))[4:60, 4:60] == 90).all()


def test_the_colours_are_infernos():
    from matplotlib import colormaps

    expected = [colormaps["inferno"](place)[:3] for place in np.linspace(0, 1, len(class_activation_map._INFERNO))]
    assert np.abs(class_activation_map._INFERNO - np.array(expected) * 255).max() <= 0.6


def test_a_class_is_found_by_label_id_or_index():
    made = tiny_model.contract(labels=("Crane", "crane ", "7", "écran", "red"), ids=("n1", "n2", None, None, "n5"))
    assert class_activation_map.class_of(made, "RED") == 4
    assert class_activation_map.class_of(made, "Écran") == 3
    assert class_activation_map.class_of(made, "n2") == 1
    assert class_activation_map.class_of(made, "0") == 0
    # A label before an index.
    assert class_activation_map.class_of(tiny_model.contract(labels=("9", "1", "0")), "0") == 2
    twice = tiny_model.contract(labels=("crane", "maillot", "Crane"))
    with pytest.raises(InvalidParameter, match=r"2 classes .* 0 or 2"):
        class_activation_map.class_of(twice, "crane")
    assert class_activation_map.class_of(twice, "2") == 2
    with pytest.raises(InvalidParameter, match="Did you mean 'green'"):
        class_activation_map.class_of(tiny_model.contract(), "greem")
    for nothing in ("3", "-1", "x", "n9", "²"):
        with pytest.raises(InvalidParameter, match="all 3 classes"):
            class_activation_map.class_of(tiny_model.contract(), nothing)


def test_a_file_without_it_still_serves(tmp_path):
    path = tiny_model.write(tmp_path / "plain.onnx", explainable=False)
    model = Model(path)
    with pytest.raises(NotExplainable, match="export it again"):
        model.class_activation_map(np.zeros((1, 32, 32, 3), np.uint8))
    with serving(path) as client:
        photo = encode(solid((250, 9, 9)), "PNG")
        assert client.post("/predict", content=photo).status_code == 200
        for query in ("", "?format=png", "?label=red"):
            detail = assert_problem(client.post(f"/explain{query}", content=photo), 422, "not-explainable")
            assert "global average pooling" in detail


# Over HTTP.


def test_numbers_over_http(client):
    photo = encode(quarters(300, 150), "PNG")
    answers = {}
    for label in ("red", "1", "n3"):
        body = client.post(f"/explain?label={label}", files={"file": photo}, headers={"x-request-id": "abc-2"}).json()
        assert ExplainResponse.model_validate(body, extra="forbid").model_dump() == body
        answers[label] = body
    assert [answer["prediction"]["index"] for answer in answers.values()] == [0, 1, 2]
    assert answers["n3"]["prediction"] == {"label": "blue", "index": 2, "id": "n3", "score": pytest.approx(0, abs=1)}
    first = answers["red"]
    assert first["model"] == {"name": "tiny", "version": "1"}
    assert first["request_id"] == "abc-2"
    assert first["box"] == pytest.approx({"left": 0.28125, "upper": 0.0625, "right": 0.71875, "lower": 0.9375})
    assert np.array(first["evidence"]).shape == (4, 4)
    # Softmax: the difference of two logits is the logarithm of the scores' ratio.
    logits = [np.mean(answer["evidence"]) + answer["bias"] for answer in answers.values()]
    scores = [answer["prediction"]["score"] for answer in answers.values()]
    assert np.log(scores[0] / scores[1]) == pytest.approx(logits[0] - logits[1], abs=1e-4)
    predicted = client.post("/predict?top_k=1", content=photo).json()["predictions"][0]
    assert client.post("/explain", content=photo).json()["prediction"] == predicted


def test_a_picture_over_http(client):
    photo = encode(quarters(300, 150), "JPEG")
    forms = [{"files": {"file": photo}}, {"content": photo}, {"json": {"image": base64.b64encode(photo).decode()}}]
    answers = [client.post("/explain?format=png&label=green", **form) for form in forms]
    assert len({answer.content for answer in answers}) == 1
    assert answers[0].headers["content-type"] == "image/png"
    assert answers[0].headers["x-label"] == "green"
    assert 0 <= float(answers[0].headers["x-score"]) <= 1
    assert opened(answers[0].content).shape == (150, 300, 3)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("label=rod", "'red'"),
        ("label=", "label"),
        (f"label={'x' * 201}", "200"),
        ("label=3", "/labels"),
        ("format=gif", "format"),
        ("top_k=3", "top_k"),
    ],
)
def test_wrong_parameters(client, query, says):
    photo = encode(solid((250, 9, 9)), "PNG")
    assert says in assert_problem(client.post(f"/explain?{query}", content=photo), 422, "invalid-parameter")


@pytest.mark.parametrize("query", ["", "?format=png"])
def test_wrong_bodies(client, query):
    photo = encode(solid((250, 9, 9)), "JPEG")
    path = f"/explain{query}"
    assert_problem(client.post(path, content=b"hello"), 415, "not-an-image")
    assert_problem(client.post(path, content=photo[:-50]), 422, "broken-image")
    assert_problem(client.post(path, content=b""), 400, "malformed-body")
    assert_problem(client.post(path, content=b"x", headers={"content-type": "text/plain"}), 415, "unsupported-body")
    assert_problem(client.post(path, content=b"x" * 1_000_001), 413, "body-too-large")
    assert_problem(client.post(path, content=encode(solid((1, 2, 3), (2001, 2000)), "PNG")), 413, "too-many-pixels")
    assert_problem(client.post(f"/explain?model=none&{query[1:]}", content=photo), 404, "unknown-model")


def test_openapi_and_metrics(client):
    document = client.get("/openapi.json").json()
    explain = document["paths"]["/explain"]["post"]
    assert set(explain["responses"]) == {"200", "400", "404", "408", "413", "415", "422", "503"}
    assert set(explain["responses"]["200"]["content"]) == {"application/json", "image/png"}
    examples = explain["responses"]["422"]["content"]["application/problem+json"]["examples"]
    assert {"not-explainable", "invalid-parameter", "broken-image"} <= set(examples)
    example = explain["requestBody"]["content"]["application/json"]["example"]
    assert client.post("/explain", json=example).status_code == 200
    assert client.post("/explain?format=png", json=example).status_code == 200
    text = client.get("/metrics").text
    assert 'classifier_requests_total{route="/explain",status="200"}' in text
    assert 'classifier_stage_duration_seconds_count{stage="draw"}' in text
