"""The service makes a mistake: on any route that is a 500 in its protocol's form, one log line and one count."""

import json
import logging

import pytest

from app.http import access
from app.http.headers import ALWAYS
from app.http.protocols import custom_vision, edge_impulse
from app.http.routes import predict as predict_route
from tests.conftest import serving
from tests.internals import service_of
from tests.photos import encode, solid

RED = encode(solid((240, 9, 9)), "JPEG")
KEY = "the-kitchen-camera-1"
#: What stands for a path's parameters.
VALUES = {
    "{name}": "tiny",
    "{project}": "bins",
    "{project:path}": "customvision/v3.0/prediction/bins",
    "{version}": "1",
    "{name:path}": "page.js",
    "{number}": "1",
    "{photo}": "0" * 32,
}


@pytest.fixture
def broken(tiny, tmp_path):
    """A service each of whose routes fails."""

    def fail(*_args, **_kwargs):
        raise ZeroDivisionError("a fault that was put in")

    with serving(tiny, api_keys=KEY, teach=tmp_path / "teach") as client, pytest.MonkeyPatch.context() as patch:
        client.headers["X-API-Key"] = KEY
        for route in routes(client):
            patch.setattr(route.dependant, "call", fail)
        patch.setattr(predict_route, "predict", fail)
        yield client


def routes(client):
    """As FastAPI keeps those of a router that was included."""
    for included in client.server.config.app.routes:
        if hasattr(included, "effective_candidates"):
            yield from included.effective_candidates()


def operations(client):
    for route in routes(client):
        for method in sorted(route.methods - {"HEAD"}):
            path = route.path
            for parameter, value in VALUES.items():
                path = path.replace(parameter, value)
            # What would be asked for first.
            asked = {"/teach/photos": "?label=x", "/predict/regions": "?regions=[{}]"}.get(path, "")
            yield method, path + asked


def form_of(response) -> str:
    if response.headers["content-type"].startswith("text/plain"):
        assert response.text.strip()
        return "text"
    body = response.json()
    if response.headers["content-type"] == "application/problem+json":
        assert body["status"] == response.status_code
        assert body["request_id"] == response.headers["x-request-id"]
        return "problem"
    assert response.headers["content-type"] == "application/json"
    if set(body) == {"success", "error", "duration"}:
        assert body["success"] is False
        return "deepstack"
    if set(body) == {"code", "message"}:
        return "custom vision"
    assert set(body) == {"error"}
    return "error"


def expected_form(path: str) -> str:
    if path.startswith(("/v1/vision", "/v1/status", "/v1/server")):
        return "deepstack"
    if edge_impulse.ERROR_FORMAT.speaks(path):
        return "text"
    if custom_vision.ERROR_FORMAT.speaks(path):
        return "custom vision"
    return "error" if path.startswith(("/v1", "/v2")) else "problem"


def test_every_route(broken, caplog):
    seen = list(operations(broken))
    assert len(seen) > 25
    for method, path in seen:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            response = broken.request(method, path, headers={"X-Request-ID": "the-one"}, content=RED)
        assert response.status_code == 500, path
        assert form_of(response) == expected_form(path), path
        assert response.headers["x-request-id"] == "the-one"
        for name, value in ALWAYS:
            assert response.headers[name.decode()] == value.decode()
        assert "fault" not in response.text
        lines = [record for record in caplog.records if record.name.startswith(("app", "uvicorn.error"))]
        assert [(record.levelname, record.getMessage()) for record in lines] == [("ERROR", "request")], path
        assert lines[0].exc_info[0] is ZeroDivisionError
        assert lines[0].fields["request_id"] == "the-one"
        assert lines[0].fields["status"] == 500
        assert lines[0].fields["problem"] == "internal-error"


def test_the_metrics_count_it(tiny, monkeypatch):
    with serving(tiny) as client:

        def fail(*_args):
            raise ZeroDivisionError

        service = service_of(client)
        monkeypatch.setattr(service.workers, "admit", fail)
        assert client.post("/predict", content=RED).status_code == 500
        assert client.post("/v1/vision/scene", files={"image": RED}).status_code == 500
        text = client.get("/metrics").text
    assert 'classifier_requests_total{route="/predict",status="500"} 1.0' in text
    assert 'classifier_requests_total{route="/v1/vision/scene",status="500"} 1.0' in text
    assert 'classifier_problems_total{type="internal-error"} 2.0' in text


def test_a_fault_before_any_route(tiny, monkeypatch):
    def fail(*_args):
        raise ZeroDivisionError

    with serving(tiny, api_keys=KEY) as client:
        monkeypatch.setattr(access, "needs_no_key", fail)
        for path in ("/predict", "/v2/models/tiny/infer", "/v1/vision/scene"):
            response = client.post(path, content=RED)
            assert response.status_code == 500
            assert form_of(response) == expected_form(path)


def test_errors_of_all_kinds_have_the_protocols_form(tiny):
    """Also those that no route of the protocol has a hand in."""
    with serving(tiny, api_keys=KEY, allowed_hosts="127.0.0.1", max_body_bytes=100_000) as client:
        for path in (
            "/predict",
            "/v2/models/tiny/infer",
            "/v1/models/tiny:predict",
            "/v1/vision/scene",
            "/v1/vision/custom/tiny",
            "/api/image",
        ):
            key = {"X-API-Key": KEY}
            # DeepStack's clients have their key in the form.
            locked = client.post(path, files={"image": RED})
            assert (locked.status_code, form_of(locked)) == (401, expected_form(path))
            assert locked.headers["www-authenticate"] == "Bearer"
            for status, response in (
                (404, client.get(f"{path}/nothing/here", headers=key)),
                (405, client.request("DELETE", path, headers=key)),
                (421, client.post(path, headers={**key, "Host": "example.com"})),
                (400, client.post(path, headers={**key, "Host": "two words"})),
                (413, client.post(path, headers=key, content=b"x" * 200_000)),
            ):
                assert (response.status_code, form_of(response)) == (status, expected_form(path)), path


def test_the_document_has_the_forms(tiny):
    with serving(tiny, api_keys=KEY) as client:
        document = client.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if "401" in operation["responses"]:
                (media_type,) = operation["responses"]["401"]["content"]
                problem = expected_form(path) == "problem"
                assert (media_type == "application/problem+json") == problem, path
    assert "401" in document["paths"]["/v1/vision/scene"]["post"]["responses"]


def test_what_is_quoted_is_bounded(client):
    """Whatever a client sends, an answer to it stays short, and so does its line in the log."""
    long = "x" * 30_000
    for response in (
        client.get(f"/{long}"),
        client.get(f"/v2/{long}"),
        client.get(f"/model?model={long}"),
        client.post(f"/predict?{long}=1", content=RED),
        client.post(f"/explain?label={long}", content=RED),
        client.get(f"/v1/models/{long}"),
    ):
        assert 400 <= response.status_code < 500
        assert len(response.content) < 8000, response.url.path[:40]


def test_the_log_line_is_bounded(client, caplog):
    with caplog.at_level(logging.INFO):
        client.get("/" + "x" * 30_000)
    (record,) = [record for record in caplog.records if record.name == "app.request"]
    assert len(json.dumps(record.fields)) < 2000
