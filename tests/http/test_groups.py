"""Everyday names beside classes: over a real socket, by every way to ask."""

import base64

import httpx
import numpy as np
import pytest
import tritonclient.http as triton

from app.client import Client, Group
from app.http.schemas.predict import PredictResponse
from app.telemetry.metrics import MOST_GROUPS, Metrics
from app.telemetry.request_record import Answer, RequestRecord
from tests import tiny_model
from tests.conftest import assert_problem, serving
from tests.photos import encode, solid

#: Red is the best class, and both others together are more.
COLOUR = (120, 115, 110)
PHOTO, RED = encode(solid(COLOUR), "PNG"), encode(solid((240, 9, 9)), "PNG")
SCORES = tiny_model.scores_of(*COLOUR)
WARM, COOL = SCORES[0], SCORES[1] + SCORES[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    made = tiny_model.contract(groups=("warm", "cool", "cool"), unknown_below=0.5)
    return tiny_model.write(tmp_path_factory.mktemp("grouped") / "tiny.fp32.onnx", made)


@pytest.fixture(scope="module")
def grouped(model):
    with serving(model) as client:
        yield client


def told(answer: dict) -> list[tuple[str, float]]:
    return [(group["label"], group["score"]) for group in answer["groups"]]


def labels(answer: dict) -> list[str]:
    return [prediction["label"] for prediction in answer["predictions"]]


def test_beside_the_classes(grouped):
    body = grouped.post("/predict", content=PHOTO).json()
    assert told(body) == [("cool", pytest.approx(COOL, abs=0.01)), ("warm", pytest.approx(WARM, abs=0.01))]
    assert labels(body) == ["red", "green", "blue"]
    assert PredictResponse.model_validate(body, extra="forbid").model_dump() == body
    assert list(body).index("groups") < list(body).index("predictions")


def test_as_many_as_asked_for(grouped):
    body = grouped.post("/predict?top_k=1", content=PHOTO).json()
    assert [name for name, _ in told(body)] == ["cool"]
    assert labels(body) == ["red"]
    body = grouped.post("/predict?min_score=0.5", content=PHOTO).json()
    assert [name for name, _ in told(body)] == ["cool"]
    assert labels(body) == []


def test_the_view_of_groups(grouped, client):
    body = grouped.post("/predict?view=groups", content=PHOTO).json()
    assert [name for name, _ in told(body)] == ["cool", "warm"]
    assert labels(body) == ["green", "blue"]
    assert [prediction["index"] for prediction in body["predictions"]] == [1, 2]
    assert labels(grouped.post("/predict?view=groups&top_k=1", content=PHOTO).json()) == ["green"]
    without = client.post("/predict?view=groups", content=PHOTO).json()
    assert (without["groups"], labels(without)) == ([], ["red", "green", "blue"])
    assert_problem(grouped.post("/predict?view=colours", content=PHOTO), 422, "invalid-parameter")


def test_in_a_batch(grouped):
    files = [("file", PHOTO), ("file", RED)]
    first, second = grouped.post("/predict/batch?view=groups", files=files).json()["results"]
    assert ([name for name, _ in told(first)], labels(first)) == (["cool", "warm"], ["green", "blue"])
    assert (told(second)[0][0], labels(second)) == ("warm", ["red"])
    assert labels(grouped.post("/predict/batch", files=files).json()["results"][0])[0] == "red"


def test_the_model_says_what_it_has(grouped, client):
    rows = grouped.get("/labels").json()["labels"]
    assert [(row["label"], row["group"]) for row in rows] == [("red", "warm"), ("green", "cool"), ("blue", "cool")]
    assert (grouped.get("/model").json()["groups"], client.get("/model").json()["groups"]) == (2, 0)


def test_by_the_client(grouped):
    with Client(str(grouped.base_url)) as service:
        result = service.predict(PHOTO, by_group=True)
        (batched,) = service.predict_batch([PHOTO], top_k=1)
        assert result.groups == (
            Group("cool", pytest.approx(COOL, abs=0.01)),
            Group("warm", pytest.approx(WARM, abs=0.01)),
        )
        assert [prediction.label for prediction in result.predictions] == ["green", "blue"]
        assert (batched.groups[0].label, batched.predictions[0].label) == ("cool", "red")
        assert [label.group for label in service.labels()] == ["warm", "cool", "cool"]


def test_deepstack_says_the_group_to_whoever_asks(tmp_path, client):
    sure = tiny_model.contract(groups=("warm", "cool", "cool"))
    with serving(tiny_model.write(tmp_path / "tiny.fp32.onnx", sure)) as grouped:
        plain = grouped.post("/v1/vision/scene", files={"image": PHOTO}).json()
        asked = grouped.post("/v1/vision/scene?view=groups", files={"image": PHOTO}).json()
        wrong = grouped.post("/v1/vision/scene?view=colours", files={"image": PHOTO})
    assert (plain["label"], plain["confidence"]) == ("red", pytest.approx(WARM, abs=0.01))
    assert (asked["label"], asked["confidence"]) == ("cool", pytest.approx(COOL, abs=0.01))
    assert (wrong.status_code, wrong.json()["success"]) == (400, False)
    assert client.post("/v1/vision/scene?view=groups", files={"image": RED}).json()["label"] == "red"


def label_in(text: str | bytes) -> str:
    """The label in "value:index:label", which is text where it came as JSON."""
    return (text if isinstance(text, str) else text.decode()).split(":")[2]


def test_the_open_inference_protocol_has_an_output_for_them(grouped, client):
    address = f"{grouped.base_url.host}:{grouped.base_url.port}"
    with triton.InferenceServerClient(address) as server:
        outputs = server.get_model_metadata("tiny")["outputs"]
        assert outputs == [
            {"name": "scores", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "groups", "datatype": "FP32", "shape": [-1, 2]},
        ]
        photos = triton.InferInput("bytes", [2], "BYTES").set_data_from_numpy(np.array([PHOTO, RED], object))
        for binary in (True, False):
            both = server.infer(
                "tiny",
                [photos],
                outputs=[
                    triton.InferRequestedOutput("groups", binary_data=binary),
                    triton.InferRequestedOutput("scores", class_count=1, binary_data=binary),
                ],
            )
            sums = both.as_numpy("groups")
            assert sums.shape == (2, 2)
            assert sums[0] == pytest.approx([WARM, COOL], abs=0.01)
            assert [label_in(text) for text in both.as_numpy("scores").ravel()] == ["red", "red"]
            # Who asks for more than there are gets all.
            best = [triton.InferRequestedOutput("groups", class_count=3, binary_data=binary)]
            named = server.infer("tiny", [photos], outputs=best).as_numpy("groups")
            assert [label_in(text) for text in named[0]] == ["cool", "warm"]
        assert server.infer("tiny", [photos]).as_numpy("scores").shape == (2, 3)
    tensor = {"name": "bytes", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(PHOTO).decode()]}
    for service, names in ((grouped, ["groups", "groups"]), (grouped, ["other"]), (client, ["groups"])):
        body = {"inputs": [tensor], "outputs": [{"name": name} for name in names]}
        answer = service.post("/v2/models/tiny/infer", json=body)
        assert (answer.status_code, set(answer.json())) == (400, {"error"})


def counted(client: httpx.Client) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line.startswith("classifier_predictions_total{"))
    named = ((name.removeprefix("classifier_predictions_total"), value) for name, value in pairs)
    return {name.replace('model="tiny",', ""): float(value) for name, value in named}


def test_every_photo_is_counted_once(model):
    with serving(model) as client:
        client.post("/predict?min_score=1", content=PHOTO)
        client.post("/predict/batch", files=[("file", RED), ("file", b"no photo"), ("file", PHOTO)])
        client.post("/v1/vision/scene", files={"image": RED})
        instance = {"b64": base64.b64encode(RED).decode()}
        client.post("/v1/models/tiny:predict", json={"instances": [instance, instance]})
        client.post("/predict", content=b"no photo")
        assert counted(client) == {
            '{group="cool",unknown="true"}': 2.0,
            '{group="warm",unknown="false"}': 4.0,
        }


def test_a_model_without_groups_is_counted_without_a_name(tiny):
    with serving(tiny) as client:
        client.post("/predict", content=RED)
        assert counted(client) == {'{group="",unknown="false"}': 1.0}


def test_names_are_bounded():
    metrics = Metrics((), ())
    record = RequestRecord("id", status=200, route="/predict", images=1)
    for number in range(MOST_GROUPS + 50):
        record.answers = [Answer("m", f"group {number}", False, 0.5, 0.5, 0.05)]
        metrics.observe({}, record, 0.1)
    record.answers = [Answer("m", "group 0", False, 0.5, 0.5, 0.05)]
    metrics.observe({}, record, 0.1)
    lines = [line for line in metrics.text().decode().splitlines() if line.startswith("classifier_predictions_total{")]
    assert len(lines) == MOST_GROUPS + 1
    assert 'classifier_predictions_total{group="",model="m",unknown="false"} 50.0' in lines
    assert 'classifier_predictions_total{group="group 0",model="m",unknown="false"} 2.0' in lines
