"""The Open Inference Protocol with Triton's own client, over a real socket."""

import base64
import json
import random
import struct

import httpx
import jsonschema
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from app import __version__
from app.http.protocols.open_inference_tensors import Inference
from app.inference.decode_budget import DecodeBudget
from app.inference.imaging import load
from app.inference.model import Model
from app.registry.source import BUNDLED
from tests import tiny_model
from tests.conftest import scores_of, serving
from tests.internals import crowded, service_of
from tests.photos import encode, png_bomb, solid

RED, GREEN = encode(solid((240, 9, 9)), "JPEG"), encode(solid((9, 240, 9)), "PNG")

# The objects of specification/protocol/open_inference_rest.yaml in https://github.com/kserve/open-inference-protocol
# (version 2.0), with what inference_rest.md there says in words: no "data" where a tensor is binary.
TEXTS = {"type": "array", "items": {"type": "string"}}
TENSOR = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"type": "string"},
        "datatype": {"enum": ["BOOL", "UINT8", "INT32", "FP32", "BYTES"]},
        "shape": {"type": "array", "items": {"type": "integer"}},
    },
}
SERVER = {
    "type": "object",
    "required": ["name", "version", "extensions"],
    "properties": {"name": {"type": "string"}, "version": {"type": "string"}, "extensions": TEXTS},
}
MODEL = {
    "type": "object",
    "required": ["name", "platform", "inputs", "outputs"],
    "properties": {
        "name": {"type": "string"},
        "versions": TEXTS,
        "platform": {"type": "string"},
        "inputs": {"type": "array", "items": TENSOR},
        "outputs": {"type": "array", "items": TENSOR},
    },
}
LIVE = {"type": "object", "required": ["live"], "properties": {"live": {"type": "boolean"}}}
READY = {
    "type": "object",
    "required": ["name", "ready"],
    "properties": {"name": {"type": "string"}, "ready": {"type": "boolean"}},
}
RESPONSE = {
    "type": "object",
    "required": ["model_name", "outputs"],
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "parameters": {"type": "object"},
        "outputs": {
            "type": "array",
            "items": {**TENSOR, "anyOf": [{"required": ["data"]}, {"required": ["parameters"]}]},
        },
    },
}
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string", "minLength": 1}},
    "additionalProperties": False,
}


def triton_client(client: httpx.Client) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(f"{client.base_url.host}:{client.base_url.port}")


@pytest.fixture(scope="module")
def server(client):
    with triton_client(client) as server:
        yield server


@pytest.fixture(scope="module")
def box_server(box):
    with triton_client(box) as server:
        yield server


def encoded(*photos: bytes, shape=None) -> triton.InferInput:
    tensor = triton.InferInput("bytes", shape or [len(photos)], "BYTES")
    return tensor.set_data_from_numpy(np.array(photos, object).reshape(shape or [len(photos)]))


def pixels(picture: np.ndarray, binary=True) -> triton.InferInput:
    return triton.InferInput("image", list(picture.shape), "UINT8").set_data_from_numpy(picture, binary_data=binary)


def body(**changes) -> dict:
    """A JSON request with one red photo."""
    tensor = {"name": "bytes", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(RED).decode()]}
    return {"inputs": [tensor | changes]}


def assert_error(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    jsonschema.validate(response.json(), ERROR)
    return response.json()["error"]


def test_health_and_metadata(client, server):
    assert server.is_server_live()
    assert server.is_server_ready()
    assert server.is_model_ready("tiny")
    assert server.is_model_ready("tiny", "1")
    assert not server.is_model_ready("tiny", "2")
    assert not server.is_model_ready("other")
    assert server.get_server_metadata() == {
        "name": "edge-classifier",
        "version": __version__,
        "extensions": ["binary_tensor_data", "classification"],
    }
    assert server.get_model_metadata("tiny") == server.get_model_metadata("tiny", "1")
    assert server.get_model_metadata("tiny") == {
        "name": "tiny",
        "versions": ["1"],
        "platform": "onnx_onnxv1",
        "inputs": [
            {"name": "image", "datatype": "UINT8", "shape": [-1, 32, 32, 3]},
            {"name": "bytes", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 3]}],
    }


def test_the_answers_are_the_protocols(client):
    for path, schema in {
        "/v2": SERVER,
        "/v2/": SERVER,
        "/v2/health/live": LIVE,
        "/v2/health/ready": LIVE,
        "/v2/models/tiny": MODEL,
        "/v2/models/tiny/versions/1": MODEL,
        "/v2/models/tiny/ready": READY,
        "/v2/models/tiny/versions/1/ready": READY,
    }.items():
        response = client.get(path)
        assert response.status_code == 200, path
        jsonschema.validate(response.json(), schema)
    asked = {
        "plain": body(),
        "id": body() | {"id": "42"},
        "classification": body() | {"outputs": [{"name": "scores", "parameters": {"classification": 2}}]},
    }
    for path in ("/v2/models/tiny/infer", "/v2/models/tiny/versions/1/infer"):
        for name, request in asked.items():
            answer = client.post(path, json=request).json()
            jsonschema.validate(answer, RESPONSE)
            assert (answer["model_name"], answer["model_version"]) == ("tiny", "1")
            assert answer.get("id") == ("42" if name == "id" else None)
            assert set(answer) <= {"model_name", "model_version", "id", "outputs"}


def test_the_same_bits_as_predict(box, box_server, fifty):
    """Encoded and decoded, one by one and in batches, binary and JSON: every score of fifty photos."""
    (model,) = BUNDLED.glob("*.onnx")
    resize = Model(model).contract.resize
    expected = np.stack([scores_of(box, photo) for photo in fifty])
    decoded = np.stack([load(photo, resize, DecodeBudget(50_000_000)) for photo in fifty])

    def scores(tensor, **asked) -> np.ndarray:
        return box_server.infer("mobilenet_v2_1.0_224", [tensor], **asked).as_numpy("scores")

    def batches(size):
        return (slice(at, at + size) for at in range(0, 50, size))

    single = np.concatenate([scores(encoded(photo)) for photo in fifty])
    batch = np.concatenate([scores(encoded(*fifty[part])) for part in batches(10)])
    tensors = np.concatenate([scores(pixels(decoded[part])) for part in batches(10)])
    as_json = [triton.InferRequestedOutput("scores", binary_data=False)]
    numbers = np.concatenate([scores(pixels(decoded[part], False), outputs=as_json) for part in batches(5)])
    for found in (single, batch, tensors, numbers):
        assert (found.dtype, found.shape) == (np.float32, (50, 1000))
        assert found.tobytes() == expected.tobytes()


def test_classification(box, box_server, fifty):
    """As Triton writes it: `value:index:label`, best first, six digits."""
    photo = fifty[0]
    best = box.post("/predict?top_k=3", content=photo).json()["predictions"]
    expected = [f"{p['score']:.6f}:{p['index']}:{p['label']}" for p in best]
    for binary in (True, False):
        asked = [triton.InferRequestedOutput("scores", binary_data=binary, class_count=3)]
        result = box_server.infer("mobilenet_v2_1.0_224", [encoded(photo, photo)], outputs=asked)
        found = result.as_numpy("scores")
        assert result.get_output("scores")["datatype"] == "BYTES"
        texts = [[text.decode() if binary else text for text in row] for row in found]
        assert texts == [expected, expected]
    asked = [triton.InferRequestedOutput("scores", class_count=1001)]
    assert box_server.infer("mobilenet_v2_1.0_224", [encoded(photo)], outputs=asked).as_numpy("scores").shape == (
        1,
        1000,
    )


def test_bytes_in_every_form(client, server):
    text = base64.b64encode(RED).decode()
    forms = [
        server.infer("tiny", [encoded(RED)]).as_numpy("scores"),
        server.infer("tiny", [encoded(RED, shape=[1, 1])], model_version="1").as_numpy("scores"),
        client.post("/v2/models/tiny/infer", json=body(data=[text])).json()["outputs"][0]["data"],
        client.post("/v2/models/tiny/infer", json=body(shape=[1, 1], data=[[text]])).json()["outputs"][0]["data"],
        client.post("/v2/models/tiny/infer", json=body(data=[f"data:image/jpeg;base64,{text}"])).json()["outputs"][0][
            "data"
        ],
    ]
    expected = scores_of(client, RED)
    for found in forms:
        assert np.array(found, np.float32).tobytes() == expected.tobytes()


def test_json_pixels_nested_or_flat(client):
    picture = np.zeros((2, 32, 32, 3), np.uint8)
    picture[0, :, :, 0] = picture[1, :, :, 2] = 240
    tensor = {"name": "image", "datatype": "UINT8", "shape": [2, 32, 32, 3]}
    for data in (picture.tolist(), picture.ravel().tolist()):
        answer = client.post("/v2/models/tiny/infer", json={"inputs": [tensor | {"data": data}]}).json()
        scores = np.array(answer["outputs"][0]["data"]).reshape(answer["outputs"][0]["shape"])
        assert scores == pytest.approx(np.array([tiny_model.scores_of(240, 0, 0), tiny_model.scores_of(0, 0, 240)]))


def test_binary_pixels_are_not_copied():
    head = json.dumps({"inputs": [IMAGE | {"parameters": {"binary_data_size": 3072}}]}).encode()
    data = head + bytes(range(256)) * 12
    (picture,) = Inference.parse(data, str(len(head)), tiny_model.contract(), 4).pictures
    assert np.shares_memory(picture, np.frombuffer(data, np.uint8))
    assert picture.tobytes() == data[len(head) :]


def test_outputs_in_binary_only_where_asked(client):
    """`binary_data` of an output comes before `binary_data_output` of the request."""
    path = "/v2/models/tiny/infer"
    everything = {"parameters": {"binary_data_output": True}}
    one = {"outputs": [{"name": "scores", "parameters": {"binary_data": False}}]}
    response = client.post(path, json=body() | everything)
    length = int(response.headers["inference-header-content-length"])
    assert response.headers["content-type"] == "application/octet-stream"
    assert json.loads(response.content[:length])["outputs"][0]["parameters"] == {"binary_data_size": 12}
    assert struct.unpack("<3f", response.content[length:]) == tuple(scores_of(client, RED))
    for request in (body(), body() | everything | one):
        response = client.post(path, json=request)
        assert response.headers["content-type"] == "application/json"
        assert "inference-header-content-length" not in response.headers
        assert len(response.json()["outputs"][0]["data"]) == 3


IMAGE = {"name": "image", "datatype": "UINT8", "shape": [1, 32, 32, 3]}


@pytest.mark.parametrize(
    ("request_", "status", "says"),
    [
        ({"content": b""}, 400, "JSON"),
        ({"content": b"\x1f\x8b gzip"}, 400, "JSON"),
        ({"content": b"[" * 100_000}, 400, "JSON"),
        ({"json": []}, 400, "object"),
        ({"json": {}}, 400, "0 inputs"),
        ({"json": {"inputs": 7}}, 400, "inputs"),
        ({"json": {"inputs": [7]}}, 400, "inputs"),
        ({"json": {"inputs": [*body()["inputs"], *body()["inputs"]]}}, 400, "2 inputs"),
        ({"json": body() | {"id": 7}}, 400, "id"),
        ({"json": body() | {"parameters": 7}}, 400, "parameters"),
        ({"json": body() | {"outputs": [{"name": "logits"}]}}, 400, "scores"),
        ({"json": body() | {"outputs": [{"name": "scores"}, {"name": "label"}]}}, 400, "'scores', 'label'"),
        ({"json": body() | {"outputs": [{"name": "scores", "parameters": {"classification": -1}}]}}, 400, "1 to 3"),
        ({"json": body() | {"outputs": [{"name": "scores", "parameters": {"classification": "3"}}]}}, 400, "1 to 3"),
        ({"json": body() | {"outputs": [{"name": "scores", "parameters": {"binary_data": 1}}]}}, 400, "true or false"),
        ({"json": {"inputs": [IMAGE | {"name": "input0", "data": [0] * 3072}]}}, 400, "input0"),
        ({"json": body(datatype="FP32")}, 400, "FP32"),
        ({"json": body(shape=[])}, 400, "shape"),
        ({"json": body(shape=[True])}, 400, "shape"),
        ({"json": body(shape=[-1])}, 400, "shape"),
        ({"json": body(shape=[1, 2])}, 400, "[1, 2]"),
        ({"json": body(shape=[2])}, 400, "1 elements"),
        ({"json": body(shape=[5])}, 413, "5 pictures"),
        ({"json": body(shape=[10**30])}, 413, "at most 4"),
        ({"json": body(data=None)}, 400, "texts"),
        ({"json": body(data=[7])}, 400, "texts"),
        ({"json": body(data=["%%%"])}, 400, "base64"),
        ({"json": body(data=["aGVsbG8="])}, 415, "5 bytes"),
        ({"json": body(data=[base64.b64encode(RED[:-50]).decode()])}, 422, "truncated"),
        ({"json": body(data=[base64.b64encode(png_bomb()).decode()])}, 413, "30000 x 30000"),
        ({"json": body(parameters={"binary_data_size": 9})}, 400, "binary_data_size"),
        ({"json": body(parameters={"binary_data_size": "9"})}, 400, "binary_data_size"),
        ({"json": body(parameters={"shared_memory_region": "r"})}, 400, "Shared memory"),
        ({"json": {"inputs": [IMAGE | {"data": [0] * 3071}]}}, 400, "3071 values"),
        ({"json": {"inputs": [IMAGE | {"data": [256] + [0] * 3071}]}}, 400, "0 to 255"),
        ({"json": {"inputs": [IMAGE | {"data": [0.5] * 3072}]}}, 400, "0 to 255"),
        ({"json": {"inputs": [IMAGE | {"data": ["0"] * 3072}]}}, 400, "0 to 255"),
        ({"json": {"inputs": [IMAGE | {"data": [[[[0, 0], [0]]]]}]}}, 400, "[1, 32, 32, 3]"),
        ({"json": {"inputs": [IMAGE | {"shape": [1, 3, 32, 32], "data": [0] * 3072}]}}, 400, "[-1, 32, 32, 3]"),
        ({"content": b"x" * 1_000_001}, 413, "1000000"),
    ],
)
def test_bad_requests(client, request_, status, says):
    assert says in assert_error(client.post("/v2/models/tiny/infer", **request_), status)


def binary(tensor: dict, data: bytes, length: int | str | None = None) -> dict:
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {"inference-header-content-length": str(len(head) if length is None else length)}
    return {"content": head + data, "headers": headers}


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (binary(IMAGE, b"", "x"), "'x'"),
        (binary(IMAGE, b"", "-1"), "'-1'"),
        (binary(IMAGE, b"", "99999999999999999999"), "Content-Length"),
        (binary(IMAGE, b"", 7), "JSON"),
        (binary(IMAGE, bytes(3072)), "None, and 3072"),
        (binary(IMAGE | {"parameters": {"binary_data_size": 3072}}, bytes(3071)), "3071 bytes"),
        (binary(IMAGE | {"parameters": {"binary_data_size": 3073}}, bytes(3073)), "3073 bytes"),
        (binary(body(data=None, parameters={"binary_data_size": 3})["inputs"][0], b"\1\0\0"), "within an element"),
        (binary(body(data=None, parameters={"binary_data_size": 5})["inputs"][0], b"\2\0\0\0x"), "within an element"),
        (
            # Nobody reads on behind one too many.
            binary(body(data=None, parameters={"binary_data_size": 13})["inputs"][0], bytes(12) + b"x"),
            "more elements",
        ),
        (binary(body(data=None, parameters={"binary_data_size": 10})["inputs"][0], b"\1\0\0\0x" * 2), "more elements"),
    ],
)
def test_bad_binary_requests(client, request_, says):
    assert says in assert_error(client.post("/v2/models/tiny/infer", **request_), 400)


def test_a_thousand_bad_bodies(client):
    """Mutated binary and JSON requests, and wrong lengths: a clear 4xx or an answer, nothing else."""
    chance = random.Random(7)
    photo = body(data=None, parameters={"binary_data_size": len(GREEN) + 4})["inputs"][0]
    seeds = [
        binary(photo, struct.pack("<I", len(GREEN)) + GREEN),
        binary(IMAGE | {"parameters": {"binary_data_size": 3072}}, bytes(3072)),
        {"content": json.dumps(body() | {"outputs": [{"name": "scores"}]}).encode(), "headers": {}},
    ]

    def once() -> int:
        seed = chance.choice(seeds)
        data, headers = bytearray(seed["content"]), dict(seed["headers"])
        for _ in range(chance.randrange(4)):
            data[chance.randrange(min(len(data), 300))] = chance.randrange(256)
        match chance.randrange(4):
            case 0:
                data = data[: chance.randrange(len(data))]
            case 1:
                headers["inference-header-content-length"] = str(chance.randrange(400))
            case _:
                pass
        response = client.post("/v2/models/tiny/infer", content=bytes(data), headers=headers)
        if response.status_code != 200:
            assert response.status_code < 500, (response.text, data)
            jsonschema.validate(response.json(), ERROR)
        return response.status_code

    assert {200, 400} <= {once() for _ in range(1000)}


def test_what_is_not_served(client, server):
    for path in (
        "/v2/models/x",
        "/v2/models/x/ready",
        "/v2/models/tiny/versions/9",
        "/v2/models/tiny/versions/9/ready",
    ):
        assert_error(client.get(path), 404)
    for path in ("/v2/models/x/infer", "/v2/models/tiny/versions/9/infer"):
        assert_error(client.post(path, json=body()), 404)
    with pytest.raises(InferenceServerException, match="no model 'x'") as caught:
        server.infer("x", [encoded(RED)])
    assert caught.value.status() == "404"


def test_one_bad_picture_fails_the_request(client, server):
    with pytest.raises(InferenceServerException, match="truncated") as caught:
        server.infer("tiny", [encoded(GREEN, RED[:-50], GREEN)])
    assert caught.value.status() == "422"


def test_overload_and_draining(tiny):
    """Refused before the body is read, with the time to wait; readiness says so too."""
    with serving(tiny) as client:
        with crowded(client, 99):
            response = client.post("/v2/models/tiny/infer", json=body())
        assert "99 photos" in assert_error(response, 503)
        assert int(response.headers["retry-after"]) > 1
        service_of(client).leaving = True
        assert client.get("/v2/health/ready").json() == {"live": True, "ready": False}
        assert client.get("/v2/health/live").json() == {"live": True}
        assert client.get("/v2/models/tiny/ready").json() == {"name": "tiny", "ready": False}
        assert {client.get(path).status_code for path in ("/v2/health/ready", "/v2/models/tiny/ready")} == {503}


def test_it_is_counted_and_logged_as_what_it_is(client):
    """Metrics by pattern, photos counted, problems by type."""
    client.post("/v2/models/tiny/infer", json=body())
    client.post("/v2/models/x/infer", json=body())
    text = client.get("/metrics").text
    assert 'classifier_requests_total{route="/v2/models/{name}/infer",status="200"}' in text
    assert 'classifier_problems_total{type="unknown-model"}' in text


def test_openapi_says_what_can_happen(client):
    document = client.get("/openapi.json").json()
    infer = document["paths"]["/v2/models/{name}/infer"]["post"]
    assert set(infer["responses"]) == {"200", "400", "404", "408", "413", "415", "422", "503"}
    assert set(infer["responses"]["200"]["content"]) == {"application/json", "application/octet-stream"}
    for status in ("400", "404", "408", "413", "415", "503"):
        for example in infer["responses"][status]["content"]["application/json"]["examples"].values():
            jsonschema.validate(example["value"], ERROR)
    example = infer["requestBody"]["content"]["application/json"]["example"]
    assert client.post("/v2/models/tiny/infer", json=example).status_code == 200
