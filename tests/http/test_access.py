"""Keys, host names, origins and headers, over a real socket."""

import asyncio
import base64
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
from starlette.requests import Request

from app.errors import SettingsError
from app.http import access, form_key
from app.http.headers import ALWAYS
from app.http.protocols import custom_vision, edge_impulse
from app.main import create_app
from app.settings import Settings
from tests.conftest import assert_problem, serving
from tests.internals import jobs_ended, middlewares, protected, seen, service_of
from tests.photos import encode, solid
from tests.processes import COMMANDS, failure, free_port, start, until_ready

RED = encode(solid((240, 9, 9)), "JPEG")
KEY, OTHER, FILED = "the-kitchen-camera-1", "b2c3d4e5f6a7b8c9", "from+the/file=12345678"
OPEN = ("/health", "/health/live", "/health/ready", "/health/startup", "/openapi.json")


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"# cameras\n\n{FILED}  # the garden's\n")
    return path


@pytest.fixture(scope="module")
def locked(tiny, keys_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teach")
    with serving(tiny, api_keys=f"{KEY}, {OTHER}", api_keys_file=keys_file, teach=folder) as client:
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
                if edge_impulse.ERROR_FORMAT.speaks(path):
                    assert response.text.startswith("No API key")
                elif custom_vision.ERROR_FORMAT.speaks(path):
                    assert set(response.json()) == {"code", "message"}
                elif not path.startswith(("/v1", "/v2")):
                    assert_problem(response, 401, "unauthorized")
                assert operation["security"] == [{"bearer": []}, {"header": []}]
                assert "401" in operation["responses"]
    assert {path for path in OPEN if locked.get(path).status_code == 200} == set(OPEN)
    assert locked.get("/page/../predict").status_code in (401, 404)


@pytest.mark.parametrize("path", ["/v1/vision/scene", "/v1/vision/custom/tiny"])
def test_deepstacks_clients_send_their_key_in_the_form(locked, path):
    answers = [locked.post(path, files={"image": RED}, data=form) for form in ({"api_key": KEY}, {})]
    assert [answer.status_code for answer in answers] == [200, 401]
    wrong = locked.post(path, files={"image": RED}, data={"api_key": KEY[:-1]})
    assert (wrong.status_code, wrong.json()["success"]) == (401, False)


def test_without_a_key_nobody_learns_which_models_there_are(locked):
    for name in ("tiny", "absent", "list", "list/x"):
        assert locked.post(f"/v1/vision/custom/{name}", files={"image": RED}).status_code == 401
    assert locked.post("/v1/vision/custom/list", data={"api_key": KEY}).status_code == 401


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


def replaced(path, data) -> None:
    """As it should be done: no reader sees a half of it. None removes it."""
    if data is None:
        path.unlink()
        return
    replacement = path.with_name("next")
    replacement.write_bytes(data)
    replacement.replace(path)


def accepted(keys) -> set[str]:
    return {key for key in (KEY, OTHER, FILED) if keys.accepts(key)}


@pytest.mark.parametrize(
    ("data", "open_to", "says"),
    [
        (OTHER.encode(), {OTHER}, None),
        (f"{OTHER}\n{FILED}\n".encode(), {OTHER, FILED}, None),
        (f"# new\r\n{OTHER}\r\n\r\n{FILED} # garden\r\n".encode(), {OTHER, FILED}, None),
        (f"{OTHER}\r{FILED}".encode(), {OTHER, FILED}, None),
        (b"\xef\xbb\xbf" + OTHER.encode(), {OTHER}, None),
        (b"\xef\xbb\xbf# new\n" + OTHER.encode(), {OTHER}, None),
        (None, set(), "cannot be read: No such file"),
        (b"", set(), "there is no key in it"),
        (b"\n# nobody\n", set(), "there is no key in it"),
        (b"\xef\xbb\xbf", set(), "there is no key in it"),
        (b"short\n", set(), "key 1 is not"),
        (f"short\n{OTHER}\n".encode(), {OTHER}, "key 1 is not"),
        (f"{OTHER}\n{FILED}\n{KEY[:15]}".encode(), {OTHER, FILED}, "key 3 is not"),
        (f"{OTHER}\n".encode() + b"\xff\xfe\xfd-binary-rubbish-\xff\n", {OTHER}, "key 2 is not"),
        (OTHER.encode("utf-16"), set(), "UTF-16. Save it as UTF-8"),
        (OTHER.encode("utf-16-be"), set(), "UTF-16. Save it as UTF-8"),
    ],
)
def test_the_file_of_keys_is_the_door(tmp_path, caplog, data, open_to, says):
    """What is no key in the file any more opens nothing, from the next request on; and it is said once."""
    path = tmp_path / "keys"
    path.write_text(KEY)
    keys = access.Keys(None, path)
    assert accepted(keys) == {KEY}
    with caplog.at_level(logging.ERROR):
        replaced(path, data)
        for _ in range(3):
            assert accepted(keys) == open_to
    assert [says in record.getMessage() for record in caplog.records] == [True] * (says is not None)
    assert not any(part in caplog.text for part in ("short", KEY[:15], OTHER, FILED, "rubbish"))
    path.write_text(f"{KEY}\n{FILED}\n")
    assert accepted(keys) == {KEY, FILED}, "it opens again"


def test_given_keys_stay_when_the_file_is_gone(tmp_path):
    path = tmp_path / "keys"
    path.write_text(FILED)
    keys = access.Keys(OTHER, path)
    assert accepted(keys) == {OTHER, FILED}
    path.unlink()
    assert accepted(keys) == {OTHER}
    path.mkdir()
    assert accepted(keys) == {OTHER}


def test_a_file_that_may_not_be_read_any_more_is_looked_at(tmp_path):
    """Its contents have not changed, but its owner has said something."""
    path = tmp_path / "keys"
    path.write_text(KEY)
    keys = access.Keys(None, path)
    path.chmod(0)
    assert accepted(keys) == ({KEY} if os.access(path, os.R_OK) else set())
    before = seen(keys)
    path.chmod(0o600)
    assert accepted(keys) == {KEY}
    assert seen(keys) != before


def test_a_removed_key_file_closes_the_door_of_the_service(tiny, tmp_path):
    path = tmp_path / "keys"
    path.write_text(FILED)
    with serving(tiny, api_keys_file=path) as client:
        headers = {"X-API-Key": FILED}
        assert client.post("/predict", content=RED, headers=headers).status_code == 200
        path.unlink()
        assert_problem(client.post("/predict", content=RED, headers=headers), 401, "unauthorized")
        assert client.get("/health/ready").status_code == 200


def test_the_log_tells_what_became_of_a_key_file_in_that_order(tmp_path, caplog):
    path = tmp_path / "keys"
    path.write_text(FILED)
    keys = access.Keys(None, path)
    path.unlink()
    with caplog.at_level("INFO"):
        keys.accepts(FILED)
    changed, fault = caplog.messages
    assert changed == "changed, so read again"
    assert "it cannot be read" in fault


@pytest.mark.parametrize("data", [b"", b"# none\n", b"short", f"{KEY}\nshort".encode(), KEY.encode("utf-16"), None])
def test_a_file_of_keys_that_is_wrong_at_the_start_ends_it(tmp_path, data):
    path = tmp_path / "keys"
    path.write_bytes(b"x")
    replaced(path, data)
    with pytest.raises(SettingsError, match=r"^CLASSIFIER_API_KEYS_FILE \(") as error:
        access.Keys(OTHER, path)
    assert not any(part in str(error.value) for part in ("short", KEY, OTHER))


@pytest.mark.parametrize(
    "key", ["", " , ", "fifteen-letters", f"{KEY},short", f"{KEY} {OTHER}", "ümlaut-ümlaut-ümlaut"]
)
def test_weak_keys_end_the_start(tiny, key):
    with pytest.raises(SettingsError, match=r"^CLASSIFIER_API_KEYS: ") as error:
        create_app(Settings(model=tiny, api_keys=key))
    assert not any(part in str(error.value) for part in re.findall(r"[\w-]{5,}", key))


def form(*parts: tuple[str, bytes]) -> bytes:
    heads = [f'--B\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() for name, _ in parts]
    return b"".join(head + data + b"\r\n" for head, (_, data) in zip(heads, parts, strict=True)) + b"--B--\r\n"


FORM = {"content-type": "multipart/form-data; boundary=B"}
NOISE = bytes(range(256)) * 40


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (form(("api_key", KEY.encode()), ("image", RED)), FORM, 200),
        (form(("api_key", KEY.encode() + b"\r\n"), ("image", RED)), FORM, 200),
        (form(("min_confidence", b"0.4"), ("api_key", KEY.encode()), ("image", RED)), FORM, 200),
        (form(("api_key", KEY.encode()), ("image", RED), ("more", NOISE)), FORM, 200),
        (form(("image", RED)), {**FORM, "X-API-Key": KEY}, 200),
        (form(("image", RED)), {**FORM, "X-API-Key": "wrong"}, 401),
        (form(("image", RED)), FORM, 401),
        (form(("api_key", b""), ("image", RED)), FORM, 401),
        (form(("api_key", KEY[:-1].encode()), ("image", RED)), FORM, 401),
        (form(("api_key", KEY.encode() + b"\xff"), ("image", RED)), FORM, 401),
        (form(("api_key", b"wrong"), ("api_key", KEY.encode()), ("image", RED)), FORM, 401),
        (form(("more", NOISE), ("api_key", KEY.encode()), ("image", RED)), FORM, 401),
        (form(("image", RED + NOISE), ("api_key", KEY.encode())), FORM, 401),
        (b"--B\r\n" + b"x" * 9000, FORM, 401),
        (b"", FORM, 401),
        (form(("api_key", KEY.encode()), ("image", RED)), {"content-type": "multipart/form-data"}, 401),
        (form(("api_key", KEY.encode())), {"content-type": "multipart/form-data; boundary=" + "B" * 300}, 401),
        (RED, {"content-type": "image/jpeg"}, 401),
        (f"api_key={KEY}".encode(), {"content-type": "application/x-www-form-urlencoded"}, 401),
    ],
)
def test_the_key_of_a_form(locked, body, headers, status):
    answer = locked.post("/v1/vision/scene", content=body, headers=headers)
    assert (answer.status_code, answer.json().get("success", False)) == (status, status == 200), answer.text


def test_a_key_that_comes_too_late_is_told_where_it_belongs(locked):
    body = form(("image", RED + NOISE), ("api_key", KEY.encode()))
    answer = locked.post("/v1/vision/scene", content=body, headers=FORM)
    assert "'api_key', which has to come before the photo, within the first 8192 bytes" in answer.json()["error"]


@pytest.mark.parametrize("chunks", [1, 7, 1000, 8191, 8192, 8193, 10**6])
@pytest.mark.parametrize("before", [0, 10, 7000, 20_000])
def test_the_body_is_whole_after_its_key_was_read(chunks, before):
    """In pieces of any size; and no more of it is asked for than the key needs."""
    body = form(("other", b"o" * before), ("api_key", KEY.encode()), ("image", NOISE * 3))
    pieces = [body[at : at + chunks] for at in range(0, len(body), chunks)]
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages[-1]["more_body"] = False
    asked = 0

    async def receive():
        nonlocal asked
        asked += 1
        return messages[asked - 1]

    async def main():
        scope = {"type": "http", "headers": [(b"content-type", FORM["content-type"].encode())]}
        key, whole = await form_key.find(Request(scope, receive), "api_key")
        assert key == (KEY if before < 8000 else None)
        end_of_key = body.index(KEY.encode()) + len(KEY) + len("\r\n--B\r\n")
        assert asked * chunks < min(end_of_key, form_key.MOST_BYTES) + chunks
        assert await whole.body() == body

    asyncio.run(main())


def test_who_has_no_key_takes_no_worker_and_is_not_waited_for(locked):
    """Nothing is worked on, and the answer comes while most of the body is still to be sent."""
    workers = service_of(locked).workers
    before = jobs_ended(workers)
    head = "POST /v1/vision/scene HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\nContent-Type: {}\r\n\r\n"
    with socket.create_connection((locked.base_url.host, locked.base_url.port)) as connection:
        connection.settimeout(20)
        connection.sendall(head.format(FORM["content-type"]).encode() + form(("image", NOISE))[:-7])
        assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")
    assert jobs_ended(workers) == before


def test_a_form_whose_key_does_not_come(tiny):
    with (
        serving(tiny, api_keys=KEY, body_timeout_seconds=0.2) as client,
        socket.create_connection((client.base_url.host, client.base_url.port)) as connection,
    ):
        connection.settimeout(20)
        head = f"POST /v1/vision/scene HTTP/1.1\r\nHost: x\r\nContent-Type: {FORM['content-type']}\r\n"
        connection.sendall(head.encode() + b"Content-Length: 900\r\n\r\n--B\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    ("address", "same", "other"),
    [
        ("10.0.0.7", "::ffff:10.0.0.7", "10.0.0.8"),
        ("2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1"),
        ("fd00::1", "fd00:0:0:0:9::1", "fd00:1::1"),
        ("fe80::1%eth0", "fe80::1%eth0", "fe80::2%eth0"),
        ("", "", "unknown"),
        ("no:address", "no:address", "no:other"),
        ("0.0.0.0", "0.0.0.0", "::"),
    ],
)
def test_who_is_one_client(address, same, other):
    client, twin, stranger = (access.client_of({"client": (host, 1)}) for host in (address, same, other))
    assert client == twin != stranger
    assert len({client, twin, stranger}) == 2
    assert access.client_of({"client": None}) == access.client_of({}) == access.client_of({"client": ("", 0)})


def test_a_key_is_a_client_wherever_it_comes_from(tmp_path):
    keys = access.Keys(f"{KEY},{OTHER}", None)
    scopes = [{"client": (host, 1)} for host in ("10.0.0.1", "10.0.0.2", "10.0.0.1")]
    for scope, key in zip(scopes, (KEY, KEY, OTHER), strict=True):
        keys.check(scope, ["wrong", key])
    one, same, other = map(access.client_of, scopes)
    assert one == same != other
    assert KEY not in str(scopes)
    with pytest.raises(access.Unauthorized):
        keys.check(wrong := {"client": ("10.0.0.9", 1)}, ["wrong"])
    assert access.client_of(wrong) == "10.0.0.9"


PROXIES = "10.0.0.1, 172.16.0.0/12, fd00::/8"


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("10.0.0.1", ["192.0.2.7"], "192.0.2.7"),
        ("::ffff:10.0.0.1", ["192.0.2.7"], "192.0.2.7"),
        ("172.20.0.9", ["192.0.2.7"], "192.0.2.7"),
        ("::ffff:172.20.0.9", ["192.0.2.7"], "192.0.2.7"),
        ("fd00::5", ["2001:db8::7"], "2001:db8::7"),
        # Who is no trusted proxy may say what it likes.
        ("10.0.0.2", ["192.0.2.7"], "10.0.0.2"),
        ("::ffff:10.0.0.2", ["192.0.2.7"], "10.0.0.2"),
        ("192.0.2.9", ["10.0.0.1", "192.0.2.7"], "192.0.2.9"),
        # What a client has written itself stands before what the proxy has added.
        ("10.0.0.1", ["198.51.100.1, 192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", ["198.51.100.1", "192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", ["10.0.0.1, 192.0.2.7, 172.16.0.3"], "192.0.2.7"),
        ("10.0.0.1", ["192.0.2.7:4711"], "192.0.2.7"),
        ("10.0.0.1", ["[2001:db8::7]:4711"], "2001:db8::7"),
        # Nothing usable: whoever is connected.
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.7,"], "10.0.0.1"),
        # A proxy that hides who asks: all that it hides are one.
        ("10.0.0.1", ["unknown"], "unknown"),
        ("10.0.0.1", ["10.0.0.1"], "10.0.0.1"),
    ],
)
def test_a_proxy_says_for_whom_it_asks(peer, forwarded, client):
    seen = []

    async def app(scope, receive, send):
        seen.append(access.client_of(scope))

    scope = {
        "type": "http",
        "scheme": "http",
        "client": (peer, 4),
        "headers": [(b"x-forwarded-for", value.encode()) for value in forwarded],
    }
    settings = Settings(trusted_proxies=PROXIES)
    asyncio.run(protected(app, settings)(scope, None, None))
    assert seen == [access.client_of({"client": (client, 0)})]


def test_without_trusted_proxies_nobody_is_believed(client):
    service, seen = service_of(client), []
    submit = service.workers.submit
    service.workers.submit = lambda work, who: seen.append(who) or submit(work, who)
    try:
        assert client.post("/predict", content=RED, headers={"X-Forwarded-For": "192.0.2.7"}).status_code == 200
    finally:
        del service.workers.submit
    assert seen == ["127.0.0.1"]


ROUTES = {
    "/predict": {"content": RED},
    "/predict/batch": {"files": {"file": RED}},
    "/predict/regions?regions=[{}]": {"content": RED},
    "/explain": {"content": RED},
    "/v1/vision/scene": {"files": {"image": RED}},
    "/v1/vision/custom/tiny": {"files": {"image": RED}},
    "/api/image": {"files": {"file": RED}},
    "/image": {"content": RED},
    "/v1/models/tiny:predict": {"json": {"instances": [{"b64": base64.b64encode(RED).decode()}] * 2}},
    "/v2/models/tiny/infer": {
        "json": {
            "inputs": [{"name": "bytes", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(RED).decode()]}]
        }
    },
}


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    ("settings", "who"), [({}, "192.0.2.7"), ({"api_keys": KEY}, hashlib.sha256(KEY.encode()).digest())]
)
def test_every_route_says_whose_job_it_is(tiny, path, settings, who):
    """Each job, behind a proxy and by key: nobody's photos go as another's, or as the service's own."""
    with serving(tiny, trusted_proxies="127.0.0.1", **settings) as client:
        workers, seen = service_of(client).workers, []
        submit, admit = workers.submit, workers.admit
        workers.submit = lambda work, client=None: seen.append(client) or submit(work, client)
        workers.admit = lambda client=None: seen.append(client) or admit(client)
        headers = {"X-Forwarded-For": "192.0.2.7", "X-API-Key": KEY}
        assert client.post(path, headers=headers, **ROUTES[path]).status_code == 200
        assert len(seen) >= 2
        assert set(seen) == {who}


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
    assert output.startswith("CLASSIFIER_API_KEYS_FILE (")
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
        {"trusted_proxies": ""},
        {"trusted_proxies": "*"},
        {"trusted_proxies": "nginx"},
        {"trusted_proxies": "10.0.0.1, 10.0.0.1/8"},
        {"trusted_proxies": "10.0.0.1:80"},
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
        (b"GET /hea", 408, "header-timeout"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000, 431, "headers-too-large"),
        (b"\x16\x03\x01 hello\r\n\r\n", 400, "not-http"),
        (b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "not-http"),
    ],
)
def test_headers_are_on_what_the_server_answers_itself(tiny, sent, status, slug):
    with (
        serving(tiny, header_timeout_seconds=0.3) as client,
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
    names = [type(each).__name__ for each in middlewares(create_app(Settings(model=tiny)))]
    assert names == ["Paths", "TelemetryMiddleware", "OneHost", "PredictFastPath"]
    assert "CLASSIFIER_API_KEYS" not in os.environ
