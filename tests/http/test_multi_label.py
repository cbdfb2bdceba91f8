"""A model whose scores are independent: every way to ask says which of its classes a photo shows."""

import base64

import pytest

from app.client import Client
from tests import tiny_model
from tests.conftest import serving
from tests.photos import encode, solid
from tests.tiny_model import independent_scores_of

BOTH, ONE, NONE = ((250, 200, 10), (250, 10, 10), (90, 80, 10))


def png(colour) -> bytes:
    return encode(solid(colour), "PNG")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    made = tiny_model.contract(groups=("warm", "cool", "cool"))
    model = tiny_model.write(tmp_path_factory.mktemp("several") / "m.onnx", made, multi_label=True)
    with serving(model) as client:
        yield client


@pytest.mark.parametrize(
    ("colour", "labels"), [(BOTH, ["red", "green"]), (ONE, ["red"]), (NONE, [])], ids=["two", "one", "none"]
)
@pytest.mark.parametrize("query", ["", "?top_k=1", "?min_score=0.99", "?view=groups"])
def test_what_a_photo_shows_is_everything_above_the_threshold(served, colour, labels, query):
    answer = served.post(f"/predict{query}", content=png(colour)).json()
    assert (answer["labels"], answer["unknown"]) == (labels, not labels)
    files = [("file", ("a.png", png(colour)))]
    (result,) = served.post(f"/predict/batch{query}", files=files).json()["results"]
    assert (result["labels"], result["unknown"]) == (labels, not labels)


def test_scores_are_independent_and_a_group_has_its_best_one(served):
    answer = served.post("/predict", content=png(BOTH)).json()
    found = {one["label"]: one["score"] for one in answer["predictions"]}
    assert list(found.values()) == pytest.approx(independent_scores_of(*BOTH), abs=1e-3)
    assert sum(found.values()) > 1.5
    assert {one["label"]: one["score"] for one in answer["groups"]} == {"warm": found["red"], "cool": found["green"]}
    encoded = base64.b64encode(png(BOTH)).decode()
    tensor = {"name": "bytes", "datatype": "BYTES", "shape": [1], "data": [encoded]}
    asked = {"inputs": [tensor], "outputs": [{"name": "scores"}, {"name": "groups"}]}
    scores, groups = served.post("/v2/models/default/infer", json=asked).json()["outputs"]
    assert scores["data"] == pytest.approx(list(found.values()))
    assert groups["data"] == pytest.approx([found["red"], found["green"]])
    rows = served.post("/v1/models/default:predict", json={"instances": [{"b64": encoded}]}).json()["predictions"]
    assert rows[0] == pytest.approx(list(found.values()))


@pytest.mark.parametrize(("colour", "best"), [(BOTH, "red"), (NONE, "")])
def test_other_protocols_name_the_best_one_or_none(served, colour, best):
    scene = served.post("/v1/vision/scene", files={"image": png(colour)}).json()
    assert scene["label"] == best
    tags = served.post("/image", content=png(colour)).json()["predictions"]
    assert tags[0]["tagName"] == (best or "Negative")


def test_the_model_says_so_and_the_client_reads_it(served):
    assert served.get("/model").json()["multi_label"] is True
    with Client(str(served.base_url)) as client:
        assert (client.model().multi_label, client.model().unknown_below, client.model().classes) == (True, 0.5, 3)
        assert client.predict(png(BOTH)).labels == ("red", "green")
        assert client.predict(png(NONE)).labels == ()


def test_evidence_adds_up_to_the_logit(served):
    explained = served.post("/explain?label=green", content=png(BOTH)).json()
    cells = [cell for row in explained["evidence"] for cell in row]
    logit = sum(cells) / len(cells) + explained["bias"]
    assert logit == pytest.approx(200 / 25.5 - 5, abs=0.05)


def test_a_model_of_one_label_a_photo_names_its_best_class(client):
    answer = client.post("/predict?top_k=1", content=png(ONE)).json()
    assert (answer["labels"], client.get("/model").json()["multi_label"]) == (["red"], False)
