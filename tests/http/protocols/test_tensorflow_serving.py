"""TensorFlow Serving's REST API, over a real socket."""

import base64

import httpx
import jsonschema
import numpy as np
import pytest

from app.inference.decode_budget import DecodeBudget
from app.inference.imaging import load
from app.inference.model import Model
from app.registry.source import BUNDLED
from tests import tiny_model
from tests.conftest import scores_of, serving
from tests.internals import crowded, service_of
from tests.photos import encode, png_bomb, solid

RED, GREEN = encode(solid((240, 9, 9)), "JPEG"), encode(solid((9, 240, 9)), "PNG")
PREDICT = "/v1/models/tiny:predict"

# https://www.tensorflow.org/tfx/serving/api_rest, and the messages that it returns as JSON: GetModelStatusResponse
# (tensorflow_serving/apis/get_model_status.proto), GetModelMetadataResponse (get_model_metadata.proto).
STATUS = {
    "type": "object",
    "required": ["model_version_status"],
    "properties": {
        "model_version_status": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["version", "state", "status"],
                "properties": {
                    "version": {"type": "string"},
                    "state": {"enum": ["UNKNOWN", "START", "LOADING", "AVAILABLE", "UNLOADING", "END"]},
                    "status": {
                        "type": "object",
                        "required": ["error_code", "error_message"],
                        "properties": {"error_code": {"const": "OK"}, "error_message": {"const": ""}},
                    },
                },
            },
        }
    },
}
TENSORS = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {
        "type": "object",
        "required": ["dtype", "tensor_shape", "name"],
        "properties": {
            "dtype": {"enum": ["DT_UINT8", "DT_STRING", "DT_FLOAT"]},
            "tensor_shape": {
                "type": "object",
                "required": ["dim", "unknown_rank"],
                "properties": {
                    "dim": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {"size": {"type": "string", "pattern": "^-?[0-9]+$"}},
                        },
                    },
                    "unknown_rank": {"const": False},
                },
            },
            "name": {"type": "string"},
        },
    },
}
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string", "minLength": 1}},
    "additionalProperties": False,
}


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


def assert_error(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    jsonschema.validate(response.json(), ERROR)
    return response.json()["error"]


def test_status_and_metadata(client):
    for path in ("/v1/models/tiny", "/v1/models/tiny/versions/1"):
        status = client.get(path).json()
        jsonschema.validate(status, STATUS)
        assert [(v["version"], v["state"]) for v in status["model_version_status"]] == [("1", "AVAILABLE")]
        # What KServe's V1 client waits for.
        assert (status["name"], status["ready"]) == ("tiny", True)
    for path in ("/v1/models/tiny/metadata", "/v1/models/tiny/versions/1/metadata"):
        found = client.get(path).json()
        assert found["model_spec"] == {"name": "tiny", "signature_name": "", "version": "1"}
        signature = found["metadata"]["signature_def"]["signature_def"]["serving_default"]
        jsonschema.validate(signature["inputs"], TENSORS)
        jsonschema.validate(signature["outputs"], TENSORS)
        dims = {name: [int(d["size"]) for d in t["tensor_shape"]["dim"]] for name, t in signature["inputs"].items()}
        assert dims == {"image": [-1, 32, 32, 3], "bytes": [-1]}


def test_the_same_bits_as_predict(box, fifty):
    """Encoded one by one and in batches, and decoded: every score of fifty photos."""
    (model,) = BUNDLED.glob("*.onnx")
    resize = Model(model).contract.resize
    expected = np.stack([scores_of(box, photo) for photo in fifty])

    def scores(*instances) -> np.ndarray:
        answer = box.post("/v1/models/mobilenet_v2_1.0_224:predict", json={"instances": instances})
        assert answer.status_code == 200, answer.text
        return np.array(answer.json()["predictions"], np.float32)

    single = np.concatenate([scores(b64(photo)) for photo in fifty])
    batch = np.concatenate([scores(*map(b64, fifty[at : at + 5])) for at in range(0, 50, 5)])
    # A photo's pixels as JSON are half a megabyte.
    few = fifty[:10]
    decoded = np.concatenate([scores(load(photo, resize, DecodeBudget(50_000_000)).tolist()) for photo in few])
    for found in (single, batch, decoded):
        expected = expected[: len(found)]
        assert found.shape == (len(expected), 1000)
        assert found.tobytes() == expected.tobytes()


def test_rows_and_columns(client):
    """`instances` are answered as `predictions`, `inputs` as `outputs`; one input needs no name."""
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:, :, 0] = 240
    expected = [tiny_model.scores_of(240, 0, 0)]
    for value, scores in ((picture.tolist(), expected), (b64(RED), [scores_of(client, RED).tolist()])):
        rows = [[value], [{"image": value}], [{"bytes": value}]]
        columns = [[value], {"image": [value]}, {"bytes": [value]}]
        for key, answer, forms in (("instances", "predictions", rows), ("inputs", "outputs", columns)):
            for form in forms:
                response = client.post(PREDICT, json={key: form, "signature_name": "serving_default"})
                assert response.status_code == 200, response.text
                assert set(response.json()) == {answer}
                assert np.array(response.json()[answer]) == pytest.approx(np.array(scores))


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ({"instances": [{"image_bytes": b64(RED)}]}, "predictions"),
        ({"instances": [{"image_bytes": b64(RED), "key": "1"}]}, "predictions"),
        ({"instances": [{"image_bytes": b64(RED)["b64"]}]}, "predictions"),
        ({"inputs": {"image_bytes": b64(RED)}}, "outputs"),
        ({"inputs": {"image_bytes": [b64(RED)]}}, "outputs"),
        ({"inputs": {"image_bytes": [b64(RED), b64(RED)], "key": ["1", "2"]}}, "outputs"),
        ({"inputs": b64(RED)}, "outputs"),
        ({"inputs": [b64(RED)]}, "outputs"),
    ],
)
def test_an_encoded_photo_under_any_name(client, asked, answer):
    """``image_bytes`` is what models exported for AutoML, Vertex AI and TensorFlow Serving call it."""
    for path in (PREDICT, "/v1/models/default/versions/1:predict"):
        response = client.post(path, json=asked)
        assert response.status_code == 200, response.text
        for row in response.json()[answer]:
            assert row == scores_of(client, RED).tolist()


def test_the_content_type_does_not_matter(client):
    """`curl -d` calls everything a form."""
    body = f'{{"instances": [{{"b64": "{b64(RED)["b64"]}"}}]}}'
    for path in (PREDICT, "/v1/models/tiny/versions/1:predict"):
        response = client.post(path, content=body, headers={"content-type": "application/x-www-form-urlencoded"})
        assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("request_", "status", "says"),
    [
        ({"content": b""}, 400, "JSON"),
        ({"json": [1]}, 400, "object"),
        ({"json": {}}, 400, "exactly one"),
        ({"json": {"instances": [b64(RED)], "inputs": [b64(RED)]}}, 400, "exactly one"),
        ({"json": {"instances": [b64(RED)], "signature_name": "other"}}, 400, "serving_default"),
        ({"json": {"instances": []}}, 400, "list"),
        ({"json": {"instances": b64(RED)}}, 400, "list"),
        ({"json": {"inputs": {"one": [b64(RED)], "two": [b64(RED)]}}}, 400, "b64"),
        ({"json": {"instances": [b64(RED)] * 5}}, 413, "5 photos"),
        ({"json": {"instances": ["text"]}}, 400, "b64"),
        ({"json": {"instances": [{"one": b64(RED), "two": b64(RED)}]}}, 400, "b64"),
        ({"json": {"instances": [{"b64": 7}]}}, 400, "b64"),
        ({"json": {"instances": [{"b64": "%%%"}]}}, 400, "base64"),
        ({"json": {"instances": [b64(b"hello")]}}, 415, "5 bytes"),
        ({"json": {"instances": [b64(GREEN), b64(RED[:-50])]}}, 422, "truncated"),
        ({"json": {"instances": [b64(png_bomb())]}}, 413, "30000 x 30000"),
        ({"json": {"instances": [[[[0, 0, 0]]]]}}, 400, "[32, 32, 3]"),
        ({"json": {"instances": [[0.5] * 3072]}}, 400, "0 to 255"),
        ({"content": b"x" * 1_000_001}, 413, "1000000"),
    ],
)
def test_bad_requests(client, request_, status, says):
    assert says in assert_error(client.post(PREDICT, **request_), status)


def test_what_is_not_served(client):
    for path in ("/v1/models/x", "/v1/models/x/metadata", "/v1/models/tiny/versions/9", "/v1/models/tiny:predict"):
        assert_error(client.get(path), 404)
    for path in ("/v1/models/x:predict", "/v1/models/tiny/versions/9:predict"):
        assert_error(client.post(path, json={"instances": [b64(RED)]}), 404)


def test_overload_and_draining(tiny):
    with serving(tiny) as client:
        with crowded(client, 99):
            response = client.post(PREDICT, json={"instances": [b64(RED)]})
        assert "99 photos" in assert_error(response, 503)
        assert int(response.headers["retry-after"]) > 1
        service_of(client).leaving = True
        status = client.get("/v1/models/tiny").json()
        assert (status["ready"], status["model_version_status"][0]["state"]) == (False, "UNLOADING")


def test_openapi_says_what_can_happen(client):
    predict = client.get("/openapi.json").json()["paths"]["/v1/models/{name}:predict"]["post"]
    assert set(predict["responses"]) == {"200", "400", "404", "408", "413", "415", "422", "503"}
    for status in ("400", "404", "408", "413", "415", "503"):
        for example in predict["responses"][status]["content"]["application/json"]["examples"].values():
            jsonschema.validate(example["value"], ERROR)
    example = predict["requestBody"]["content"]["application/json"]["example"]
    assert client.post(PREDICT, json=example).status_code == 200


@pytest.mark.parametrize(
    "path", ["/v1/models/{}", "/v1/models/{}/versions/{}", "/v2/models/{}", "/v2/models/{}/versions/{}"]
)
def test_what_clients_ask_for_where_nobody_has_chosen(box, path):
    """AutoML's containers call their model `default`; both servers begin to count at version 1."""
    model = box.get("/models").json()["models"][0]
    right = box.get(path.format(model["name"], model["version"]))
    assert right.status_code == 200
    assert model["version"] != "1"
    for name in (model["name"], "default"):
        assert box.get(path.format(name, "1")).json() == right.json()
    assert box.get(path.format("other", "1")).status_code == 404
    if "versions" in path:
        assert box.get(path.format("default", "2")).status_code == 404
