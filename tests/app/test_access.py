"""Keys, host names, origins and headers, over a real socket."""

import hashlib
import hmac
import json
import logging
import os
import re
import signal
import socket

import httpx
import pytest
from pydantic import ValidationError

from app import access
from app.errors import SettingsError
from app.factory import create_app
from app.headers import ALWAYS
from app.settings import Settings
from tests.app.test_startup import COMMANDS, failure, free_port, start, until_ready
from tests.conftest import assert_problem, serving
from tests.photos import encode, solid

RED = encode(solid((240, 9, 9)), "JPEG")
KEY, OTHER, FILED = "the-kitchen-camera-1", "b2c3d4e5f6a7b8c9", "from+the/file=12345678"
OPEN = ("/health", "/health/live", "/health/ready", "/health/startup", "/openapi.json")


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"# cameras\n\n{FILED}  # the garden's\n")
    return path


@pytest.fixture(scope="module")
def locked(tiny, keys_file):
    with serving(tiny, api_keys=f"{KEY}, {OTHER}", api_keys_file=keys_file) as client:
        yield client


@pytest.mark.parametrize("key", [KEY, OTHER, FILED])
@pytest.mark.parametrize("header", ["Authorization: Bearer {}", "authorization: bearer  {}", "X-API-Key: {}"])
def test_a_right_key(locked, key, header):
    name, _, value = header.format(key).partition(": ")
    assert locked.post("/predict", content=RED, headers={name: value}).status_code == 200
    assert locked.get("/metrics", headers={name: value}).status_code == 200


def test_a_key_beside_other_credentials(locked):
    """A proxy may use Authorization for itself."""
    headers = {"Authorization": "Basic Zm9vOmJhcg==", "X-API-Key": KEY}
    assert locked.get("/model", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({}, "No API key"),
        ({"Authorization": "Basic Zm9vOmJhcg=="}, "No API key"),
        ({"Authorization": KEY}, "No API key"),
        ({"Authorization": f"Bearer {KEY}x"}, "none of the service's"),
        ({"Authorization": f"Bearer {KEY[:-1]}"}, "none of the service's"),
        ({"X-API-Key": KEY.upper()}, "none of the service's"),
        ({"X-API-Key": ""}, "none of the service's"),
        ({"X-API-Key": f"{KEY}, {OTHER}"}, "none of the service's"),
        ({"X-API-Key": "# cameras"}, "none of the service's"),
        ({b"X-API-Key": b"\xff\xfe"}, "none of the service's"),
    ],
)
@pytest.mark.parametrize("path", ["/predict", "/predict/batch", "/nothing"])
def test_a_wrong_key(locked, headers, says, path):
    response = locked.post(path, files={"file": RED}, headers=headers)
    assert says in assert_problem(response, 401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"


def test_nothing_but_what_is_listed_is_open(locked):
    """For whatever the document describes: a new route is closed, or this test names it."""
    document = locked.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["bearer"] == {"type": "http", "scheme": "bearer"}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            body = {} if method in ("get", "head", "delete") else {"files": {"file": RED, "image": RED}}
            response = locked.request(method, re.sub(r"\{.*?\}", "x", path), **body)
            if path in OPEN or path.startswith("/v2/health/"):
                assert response.status_code == 200, path
                assert "security" not in operation
            else:
                assert response.status_code == 401
                assert response.headers["www-authenticate"] == "Bearer"
                if not path.startswith(("/v1", "/v2")):
                    assert_problem(response, 401, "unauthorized")
                assert operation["security"] == [{"bearer": []}, {"header": []}]
                assert "401" in operation["responses"]
    assert {path for path in OPEN if locked.get(path).status_code == 200} == set(OPEN)
    assert locked.get("/page/../predict").status_code in (401, 404)


def test_deepstacks_clients_send_their_key_in_the_form(locked):
    answers = [locked.post("/v1/vision/scene", files={"image": RED}, data=form) for form in ({"api_key": KEY}, {})]
    assert [answer.status_code for answer in answers] == [200, 401]
    assert answers[0].json()["label"] == "red"
    wrong = locked.post("/v1/vision/scene", files={"image": RED}, data={"api_key": KEY[:-1]})
    assert (wrong.status_code, wrong.json()["success"]) == (401, False)


def test_a_refused_body_is_not_waited_for(locked):
    with socket.create_connection((locked.base_url.host, locked.base_url.port)) as connection:
        connection.settimeout(20)
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9000000\r\n\r\n"
        )
        assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")
    text = locked.get("/metrics", headers={"X-API-Key": KEY}).text
    assert re.search(r'^classifier_problems_total\{type="unauthorized"\} [1-9]', text, re.MULTILINE)


def test_every_key_is_compared_in_constant_time(monkeypatch):
    compared = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))
    keys = access.Keys(f"{KEY},{OTHER}", None)
    assert keys.accepts(KEY)
    assert not keys.accepts("wrong")
    digests = [hashlib.sha256(key.encode()).digest() for key in (KEY, OTHER)]
    given = [hashlib.sha256(key.encode()).digest() for key in (KEY, "wrong")]
    assert compared == [(known, sent) for sent in given for known in digests]


def test_keys_are_renewed_without_a_restart(tmp_path, caplog):
    path = tmp_path / "keys"
    path.write_text(KEY)
    keys = access.Keys(None, path)
    assert keys.accepts(KEY)
    replacement = tmp_path / "next"
    replacement.write_text(OTHER + "\n")
    replacement.replace(path)
    assert (keys.accepts(OTHER), keys.accepts(KEY)) == (True, False)
    path.write_text("short\n")
    with caplog.at_level(logging.ERROR):
        assert keys.accepts(OTHER)
        assert keys.accepts(OTHER)
    assert len(caplog.records) == 1, "said once, not at every request"
    assert "short" not in caplog.text
    path.unlink()
    assert keys.accepts(OTHER)


@pytest.mark.parametrize(
    "key", ["", " , ", "fifteen-letters", f"{KEY},short", f"{KEY} {OTHER}", "ümlaut-ümlaut-ümlaut"]
)
def test_weak_keys_end_the_start(tiny, key):
    with pytest.raises(SettingsError, match=r"^CLASSIFIER_API_KEYS: ") as error:
        create_app(Settings(model=tiny, api_keys=key))
    assert not any(part in str(error.value) for part in re.findall(r"[\w-]{5,}", key))


def test_the_key_for_a_form(tiny):
    """What a route whose clients send their key in the form calls."""
    with serving(tiny, api_keys=KEY) as client:
        service = client.server.config.app.state.service

    class Request:
        def __init__(self, *headers):
            self.scope = {"headers": list(headers)}

    service.check_form_key(Request(), KEY)
    service.check_form_key(Request((b"x-api-key", KEY.encode())), None)
    for key in (None, "", "wrong"):
        with pytest.raises(access.Unauthorized):
            service.check_form_key(Request(), key)


def test_keys_are_in_no_output(tiny, tmp_path):
    """Neither in the log, nor where the start fails: for the keys themselves, or for another setting."""
    path = tmp_path / "keys"
    path.write_text(FILED)
    port = free_port()
    keys = {"api_keys": f"{KEY},{OTHER}", "api_keys_file": path, "log_level": "debug"}
    process = start(COMMANDS["module"], model=tiny, host="127.0.0.1", port=port, **keys)
    with until_ready(process, port) as client:
        client.post("/predict", content=RED, headers={"X-API-Key": KEY})
        client.post("/predict", content=RED, headers={"X-API-Key": "wrong" + KEY})
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert [json.loads(line)["status"] for line in output.splitlines() if '"request"' in line] == [200, 401]
    for command in COMMANDS:
        for more in ({"port": "eighty"}, {"tls_key": "x"}, {"tls_key": "x", "tls_certificate": "y"}):
            process = start(COMMANDS[command], **{"model": tiny, **keys, **more})
            output += process.communicate(timeout=60)[0]
            assert process.returncode == 2 or command == "uvicorn"
        process = start(COMMANDS[command], model=tiny, api_keys=f"{KEY},{OTHER},short")
        output += process.communicate(timeout=60)[0]
    assert "CLASSIFIER_TLS_KEY needs CLASSIFIER_TLS_CERTIFICATE too" in output
    assert "key 3" in output
    assert not any(key in output for key in (KEY, OTHER, FILED, "short"))


def test_an_unreadable_file_of_keys(tiny, tmp_path):
    output = failure(COMMANDS["module"], model=tiny, api_keys_file=tmp_path / "absent")
    assert output.startswith("CLASSIFIER_API_KEYS_FILE: ")
    assert output.count("\n") == 1


def test_metrics_can_be_open(tiny):
    with serving(tiny, api_keys=KEY, metrics_without_key=True) as client:
        assert client.get("/metrics").status_code == 200
        assert_problem(client.get("/model"), 401, "unauthorized")


ORIGIN = "https://panel.example"


@pytest.fixture(scope="module")
def shared(tiny):
    with serving(tiny, api_keys=KEY, cors_origins=f"{ORIGIN}, http://10.0.0.5:8123") as client:
        yield client


def preflight(client, origin):
    return client.options(
        "/predict",
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "x-api-key,content-type",
        },
    )


@pytest.mark.parametrize("origin", [ORIGIN, "http://10.0.0.5:8123"])
def test_pages_of_a_configured_origin(shared, origin):
    allowed = preflight(shared, origin)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == origin
    assert "x-api-key" in allowed.headers["access-control-allow-headers"].lower()
    answer = shared.post("/predict", content=RED, headers={"Origin": origin, "X-API-Key": KEY})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, origin)
    assert "X-Request-ID" in answer.headers["access-control-expose-headers"]
    refused = shared.post("/predict", content=RED, headers={"Origin": origin})
    assert_problem(refused, 401, "unauthorized")
    assert refused.headers["access-control-allow-origin"] == origin, "the page can tell why"


@pytest.mark.parametrize("origin", ["https://evil.example", "https://panel.example.evil.example", "null"])
def test_pages_of_another_origin(shared, origin):
    assert preflight(shared, origin).status_code == 400
    answer = shared.post("/predict", content=RED, headers={"Origin": origin, "X-API-Key": KEY})
    assert "access-control-allow-origin" not in answer.headers


def test_no_origin_is_allowed_unless_configured(client):
    assert_problem(preflight(client, ORIGIN), 405, "method-not-allowed")
    answer = client.post("/predict", content=RED, headers={"Origin": ORIGIN})
    assert not any(name.startswith("access-control") for name in answer.headers)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("gateway.local", 200),
        ("GATEWAY.local:8000", 200),
        ("a.b.example.com", 200),
        ("[fd00::1]:8000", 200),
        ("example.com", 421),
        ("evilexample.com", 421),
        ("gateway.local.evil.example", 421),
        ("127.0.0.1", 421),
        ("", 421),
    ],
)
def test_hosts(tiny, named, host, status):
    response = named.post("/predict", content=RED, headers={"Host": host})
    assert response.status_code == status
    if status == 421:
        assert_problem(response, 421, "unknown-host")
        assert named.get("/health/ready", headers={"Host": host}).status_code == 200, "a kubelet's probe"


@pytest.mark.parametrize(
    ("version", "hosts", "status"),
    [("1.1", [], 400), ("1.1", ["gateway.local", "evil.example"], 400), ("1.0", [], 421)],
)
def test_no_host_or_two(named, version, hosts, status):
    lines = "".join(f"Host: {host}\r\n" for host in hosts)
    with socket.create_connection((named.base_url.host, named.base_url.port)) as connection:
        connection.settimeout(20)
        connection.sendall(f"GET /model HTTP/{version}\r\n{lines}\r\n".encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 %d " % status)


@pytest.fixture(scope="module")
def named(tiny):
    with serving(tiny, allowed_hosts="Gateway.local,*.example.com,[fd00::1]") as client:
        yield client


@pytest.mark.parametrize(
    "values",
    [
        {"allowed_hosts": "http://gateway.local"},
        {"allowed_hosts": "gateway.local:8000"},
        {"allowed_hosts": ""},
        {"cors_origins": "panel.example"},
        {"cors_origins": "https://panel.example/"},
        {"cors_origins": ","},
        {"tls_key": "key.pem"},
        {"tls_certificate": "certificate.pem"},
        {"hsts_seconds": 60},
        {"traces": "maybe"},
    ],
)
def test_nonsense_is_refused(values):
    with pytest.raises(ValidationError):
        Settings(**values)


def assert_headers(response) -> None:
    """Each once, on whatever answer."""
    for name, value in ALWAYS:
        assert response.headers.get_list(name.decode()) == [value.decode()], (response.status_code, name)
    assert "strict-transport-security" not in response.headers


def test_headers_are_on_every_answer(client, locked, named, shared):
    assert_headers(client.post("/predict", content=RED))
    assert_headers(client.post("/predict/batch", files={"file": RED}))
    for path in (*OPEN, "/metrics", "/model", "/labels", "/predict", "/nothing"):
        assert_headers(client.get(path))
    assert_headers(client.post("/predict", content=b"rubbish"))
    assert_headers(client.post("/predict", content=b"x" * 1_000_001))
    assert_headers(locked.post("/predict", content=RED))
    assert_headers(named.get("/model"))
    assert_headers(preflight(shared, ORIGIN))


@pytest.mark.parametrize(
    ("sent", "status", "slug"),
    [
        (b"GET /hea", 408, "head-timeout"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000, 431, "head-too-large"),
        (b"\x16\x03\x01 hello\r\n\r\n", 400, "not-http"),
        (b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "not-http"),
    ],
)
def test_headers_are_on_what_the_server_answers_itself(tiny, sent, status, slug):
    with (
        serving(tiny, head_timeout_seconds=0.3) as client,
        socket.create_connection((client.base_url.host, client.base_url.port)) as connection,
    ):
        connection.settimeout(20)
        connection.sendall(sent)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert answer.count(b"HTTP/1.1 4") == 1
    pairs = [tuple(line.split(": ", 1)) for line in head.decode().splitlines()[1:]]
    response = httpx.Response(status, headers=pairs, content=body)
    assert_problem(response, status, slug)
    assert_headers(response)
    assert response.headers["connection"] == "close"
    assert response.headers["date"]


@pytest.mark.parametrize("url", ["http://169.254.169.254/latest/meta-data", "file:///etc/passwd", "//x/y.jpg"])
def test_urls_are_not_fetched(client, url):
    """An address instead of a photo is a mistake of the client's, whatever it points at."""
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0.2)
        mine = f"http://127.0.0.1:{trap.getsockname()[1]}/photo.jpg"
        for given in (url, mine):
            assert_problem(client.post("/predict", json={"image": given}), 400, "malformed-body")
        assert_problem(client.post("/predict", content=mine.encode()), 415, "not-an-image")
        with pytest.raises(TimeoutError):
            trap.accept()


def test_without_configuration_nothing_stands_in_the_way(tiny):
    """No key, no host name, no origin is looked at."""
    passed, names = create_app(Settings(model=tiny)).middleware_stack, []
    while hasattr(passed, "_app"):
        names.append(type(passed).__name__)
        passed = passed._app
    assert names == ["Paths", "Observer", "OneHost", "Express"]
    assert "CLASSIFIER_API_KEYS" not in os.environ
