"""Every form, limit and error over a real socket."""

import base64
import json
import random
import socket
from pathlib import Path

import httpx
import pytest

from app.http.schemas.predict import PredictResponse
from tests.conftest import assert_problem
from tests.photos import encode, png_bomb, quarters, solid

RED, GREEN = encode(solid((240, 9, 9)), "JPEG"), encode(solid((9, 240, 9)), "PNG")


def best(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return response.json()["predictions"][0]["label"]


def test_every_form_gives_the_same_answer(client):
    forms = [
        {"files": {"file": ("x.jpg", RED, "image/jpeg")}},
        {"files": {"file": RED}},
        {"content": RED, "headers": {"content-type": "image/jpeg"}},
        {"content": RED, "headers": {"content-type": "application/octet-stream"}},
        {"content": RED},
        {"json": {"image": base64.b64encode(RED).decode()}},
        {"json": {"image": "data:image/jpeg;base64," + base64.b64encode(RED).decode()}},
        {"files": [("note", (None, "hello")), ("file", RED)]},
    ]
    answers = [client.post("/predict", **form) for form in forms]
    assert {best(answer) for answer in answers} == {"red"}
    assert len({json.dumps(answer.json()["predictions"]) for answer in answers}) == 1


def test_the_answer(client):
    body = client.post("/predict?top_k=2", content=GREEN, headers={"x-request-id": "abc-1"}).json()
    assert set(body) == {
        "model", "groups", "predictions", "labels", "unknown", "cached", "appearance", "timing_ms", "request_id"
    }  # fmt: skip
    assert body["groups"] == []
    assert body["model"] == {"name": "tiny", "version": "1"}
    assert [set(p) for p in body["predictions"]] == [{"label", "index", "id", "score"}] * 2
    assert body["predictions"][0] == {"label": "green", "index": 1, "id": None, "score": pytest.approx(1, abs=0.01)}
    brightness = pytest.approx((0.587 * 240 + 0.413 * 9) / 255, abs=0.01)
    assert body["appearance"] == {"brightness": brightness, "contrast": 0, "sharpness": 0}
    assert set(body["timing_ms"]) == {"queue", "decode", "infer"}
    assert body["request_id"] == "abc-1"
    assert PredictResponse.model_validate(body, extra="forbid").model_dump() == body


def test_min_score(client):
    assert len(client.post("/predict?min_score=0.5", content=RED).json()["predictions"]) == 1


@pytest.mark.parametrize("given", ["x" * 200, "bad id", "", "ümlaut"])
def test_a_strange_request_id_is_replaced(client, given):
    response = client.post("/predict", content=RED, headers={b"x-request-id": given.encode()})
    assert response.headers["x-request-id"] == response.json()["request_id"]
    assert len(response.headers["x-request-id"]) == 32


def test_orientation_is_honoured_on_every_route(client):
    """The model sees the middle of the picture; turned, another colour is there."""
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    wide = Image.new("RGB", (300, 100), (9, 9, 240))
    wide.paste((240, 9, 9), (0, 0, 40, 100))
    data = encode(wide, "JPEG", exif=exif)
    plain = {"content": data}
    forms = [plain, {"files": {"file": data}}, {"json": {"image": base64.b64encode(data).decode()}}]
    assert len({json.dumps(client.post("/predict", **form).json()["predictions"]) for form in forms}) == 1


def test_batch(client):
    files = [("file", RED), ("file", b"not a photo"), ("file", GREEN), ("file", RED[: len(RED) - 200])]
    response = client.post("/predict/batch", files=files)
    assert response.status_code == 200
    body = response.json()
    first, second, third, fourth = body["results"]
    assert first["predictions"][0]["label"] == "red"
    assert second["problem"]["type"].endswith(":not-an-image")
    assert third["predictions"][0] == {"label": "green", "index": 1, "id": None, "score": pytest.approx(1, abs=0.01)}
    assert fourth["problem"]["type"].endswith(":broken-image")
    assert body["request_id"] == response.headers["x-request-id"]


def test_batch_errors(client):
    detail = assert_problem(client.post("/predict/batch", files=[("file", RED)] * 5), 413, "too-many-images")
    assert "5 photos" in detail
    assert_problem(client.post("/predict/batch", content=RED), 415, "unsupported-body")
    assert_problem(client.post("/predict/batch", files={"photo": b"rubbish"}), 400, "malformed-body")
    many = [("file", b"")] * 60
    assert "more than 4" in assert_problem(client.post("/predict/batch", files=many), 413, "too-many-images")
    mixed = {"one": RED, "two": GREEN}
    assert "'one', 'two'" in assert_problem(client.post("/predict/batch", files=mixed), 400, "malformed-body")


MULTIPART = {"content-type": "multipart/form-data; boundary=b"}


@pytest.mark.parametrize(
    ("request_", "status", "slug", "says"),
    [
        ({"content": b""}, 400, "malformed-body", "empty"),
        ({"content": b"hello"}, 415, "not-an-image", "5 bytes"),
        ({"content": b"hello", "headers": {"content-type": "text/plain"}}, 415, "unsupported-body", "text/plain"),
        ({"content": RED[:-50]}, 422, "broken-image", "truncated"),
        ({"content": png_bomb()}, 413, "too-many-pixels", "30000 x 30000"),
        ({"content": b"x" * 1_000_001}, 413, "body-too-large", "1000000"),
        ({"content": (b"x" * 1000 for _ in range(1001))}, 413, "body-too-large", "1000000"),
        ({"files": {"photo": b"rubbish"}}, 400, "malformed-body", "'photo'"),
        ({"files": [("file", RED), ("file", GREEN)]}, 400, "malformed-body", "/predict/batch"),
        ({"content": b"--b\r\nx: y\r\n", "headers": MULTIPART}, 400, "malformed-body", "part's head"),
        ({"content": b"rubbish", "headers": MULTIPART}, 400, "malformed-body", "multipart"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "malformed-body", "boundary"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "malformed-body", "JSON"),
        ({"json": [1]}, 400, "malformed-body", "image"),
        ({"json": {"image": 7}}, 400, "malformed-body", "image"),
        ({"json": {"image": "%%%"}}, 400, "malformed-body", "base64"),
        ({"json": {"image": "aGVsbG8="}}, 415, "not-an-image", "5 bytes"),
        ({"content": b"[" * 100_000, "headers": {"content-type": "application/json"}}, 400, "malformed-body", "JSON"),
    ],
)
def test_bad_bodies(client, request_, status, slug, says):
    assert says in assert_problem(client.post("/predict", **request_), status, slug)


@pytest.mark.parametrize(
    "query", ["top_k=0", "top_k=4", "top_k=x", "min_score=1.1", "min_score=-1", "min_score=nan", "topk=3"]
)
@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_bad_parameters(client, query, path):
    detail = assert_problem(client.post(f"{path}?{query}", files={"file": RED}), 422, "invalid-parameter")
    assert query.split("=")[0] in detail


def test_no_such_thing(client):
    assert_problem(client.get("/nothing"), 404, "not-found")
    response = client.get("/predict")
    assert_problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == "POST"


def test_a_large_body_is_refused_before_it_is_sent(client):
    with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
        connection.settimeout(10)
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_leaves_does_no_harm(client):
    for _ in range(20):
        with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n\xff\xd8")
    assert best(client.post("/predict", content=RED)) == "red"


def test_health(client):
    body = client.get("/health").json()
    assert body["status"] == "ready"
    assert body["model"] == {"name": "tiny", "version": "1"}
    assert body["precision"] == "fp32"
    assert body["input_size"] == {"height": 32, "width": 32}
    assert body["cpus"]["workers"] >= 1
    assert body["cpus"]["reason"]
    assert body["uptime_s"] > 0
    for probe, status in (("live", "alive"), ("ready", "ready"), ("startup", "started")):
        response = client.get(f"/health/{probe}")
        assert (response.status_code, response.json()["status"]) == (200, status)


def test_the_contract_can_be_read(client):
    model = client.get("/model").json()
    assert (model["name"], model["classes"], model["multiply_adds"]) == ("tiny", 3, 9)
    assert model["resize"] == {"height": 32, "width": 32, "crop": 0.875, "filter": "bilinear", "fit": "crop"}
    assert client.get("/labels").json()["labels"][2] == {"index": 2, "label": "blue", "id": "n3", "group": None}


def test_openapi_describes_every_form_and_error(client):
    document = client.get("/openapi.json").json()
    predict = document["paths"]["/predict"]["post"]
    forms = predict["requestBody"]["content"]
    assert set(forms) == {"multipart/form-data", "image/*", "application/octet-stream", "application/json"}
    assert set(predict["responses"]) == {"200", "400", "404", "408", "413", "415", "422", "503"}
    for status, response in predict["responses"].items():
        if status != "200":
            assert response["content"]["application/problem+json"]["examples"], status
    assert client.post("/predict", json=forms["application/json"]["example"]).status_code == 200


def test_a_thousand_bad_bodies(client, tiny):
    """Random, truncated and mutated bodies in every form: a clear 4xx or an answer, nothing else, and no leak."""
    chance = random.Random(7)
    seeds = [encode(quarters(60, 40), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")]
    statm = Path("/proc/self/statm")

    def once() -> int:
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        match chance.randrange(4):
            case 0:
                data = data[: chance.randrange(len(data))]
            case 1:
                data = bytearray(chance.randbytes(chance.randrange(400)))
            case _:
                pass
        body = bytes(data)
        kind = chance.choice(["", "image/jpeg", "multipart/form-data; boundary=b", "application/json", "text/x"])
        if kind.startswith("multipart") and chance.random() < 0.7:
            body = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + body + b"\r\n--b--\r\n"
        response = client.post("/predict", content=body, headers={"content-type": kind})
        assert response.status_code < 500, (response.text, kind, body)
        return response.status_code

    seen = {once() for _ in range(200)}
    before = int(statm.read_text().split()[1])
    seen |= {once() for _ in range(800)}
    assert {200, 400, 415, 422} <= seen
    assert (int(statm.read_text().split()[1]) - before) * 4096 < 20_000_000
    assert client.get("/health").json()["status"] == "ready"
