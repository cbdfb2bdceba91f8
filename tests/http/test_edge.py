"""What clients send that is not quite as it should be, byte for byte: every complete photo gets its answer."""

import re
import socket
import time

import pytest

from app.http.server import MAX_HEAD_BYTES, MAX_HEADERS
from tests.conftest import ROOT, serving, wait_until, worker_held
from tests.http.connections import connect
from tests.internals import service_of
from tests.photos import encode, solid

RED = encode(solid((240, 9, 9)), "JPEG")
SWAGGER = ROOT / "app" / "http" / "page" / "swagger" / "swagger-ui-bundle.js"
HOST = b"Host: x\r\n"


def post(*headers: bytes, body: bytes = RED, length: int | None = None, version: bytes = b"1.1") -> bytes:
    announced = b"Content-Length: %d\r\n" % (len(body) if length is None else length)
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"POST /predict HTTP/" + version + b"\r\n" + HOST + lines + announced + b"\r\n" + body


def chunked(body: bytes, size: int = 1000, extension: bytes = b"", trailer: bytes = b"") -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    chunks = b"".join(b"%x%s\r\n%s\r\n" % (len(piece), extension, piece) for piece in pieces)
    return chunks + b"0\r\n" + trailer + b"\r\n"


def post_chunked(*headers: bytes, path: bytes = b"/predict", **how) -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return (
        b"POST " + path + b" HTTP/1.1\r\n" + HOST + lines + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(RED, **how)
    )


class Answers:
    """Reads answers off a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._file = connection.makefile("rb")

    def __call__(self) -> tuple[int, dict[str, str], bytes]:
        status = int(self._file.readline().split()[1])
        headers = {}
        while line := self._file.readline().strip().decode():
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        return status, headers, self._file.read(int(headers.get("content-length", 0)))

    def rest(self) -> bytes:
        return self._file.read()


def exchange(client, *sent: bytes) -> tuple[list[int], bytes]:
    """The statuses of all answers, and the last one's body; the server has closed the connection."""
    with connect(client) as connection:
        for piece in sent:
            connection.sendall(piece)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", received)], received.rpartition(b"\r\n\r\n")[2]


CLOSE = b"Connection: close"


def test_an_interim_answer_is_sent_at_once(client):
    with connect(client) as connection:
        answers = Answers(connection)
        for _ in range(2):
            connection.sendall(post(b"Expect: 100-continue", body=b"", length=len(RED)))
            assert answers() == (100, {}, b"")
            connection.sendall(RED)
            assert answers()[0] == 200


def test_who_expects_to_be_told_and_is_refused_begins_anew(client):
    """Nobody knows whether the body comes nevertheless; it must not be taken for another request, nor the reverse."""
    with connect(client) as connection:
        answers = Answers(connection)
        connection.sendall(b"POST /nothing HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n")
        status, headers, _ = answers()
        assert (status, headers["connection"]) == (404, "close")
        assert answers.rest() == b""


def test_an_old_client_gets_no_interim_answer(client):
    assert exchange(client, post(b"Expect: 100-continue", version=b"1.0"))[0] == [200]


UPGRADES = {
    "java": (
        b"Connection: Upgrade, HTTP2-Settings",
        b"Upgrade: h2c",
        b"HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAA",
    ),
    "websocket": (b"Connection: keep-alive, Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: x"),
    "tls": (b"Upgrade: TLS/1.2", b"Connection: upgrade"),
    "two": (b"Connection: upgrade", b"Connection: foo", b"Upgrade: a", b"Upgrade: b"),
}


@pytest.mark.parametrize("offered", UPGRADES)
@pytest.mark.parametrize("pieces", [1, 2, 50])
@pytest.mark.parametrize("body", ["plain", "chunked", "expected"])
def test_an_upgrade_that_is_offered_is_not_taken(client, offered, pieces, body):
    head = UPGRADES[offered]
    with connect(client) as connection:
        answers = Answers(connection)
        for _ in range(3):
            if body == "expected":
                connection.sendall(post(*head, b"Expect: 100-continue", body=b"", length=len(RED)))
                assert answers()[0] == 100
                sent = RED
            else:
                sent = post_chunked(*head) if body == "chunked" else post(*head)
            size = -(-len(sent) // pieces)
            for at in range(0, len(sent), size):
                connection.sendall(sent[at : at + size])
                if pieces < 10:
                    time.sleep(0.01)
            status, headers, content = answers()
            assert status == 200, content
            assert "upgrade" not in headers


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("close", [(b"Connection: close, Upgrade",), (b"Connection: Upgrade", b"Connection: close")])
def test_an_upgrade_that_is_offered_with_the_last_request(client, version, close):
    """The parser that has seen such a head takes nothing more."""
    assert exchange(client, post(*close, b"Upgrade: h2c", version=version))[0] == [200]
    assert exchange(client, post(*close, b"Upgrade: h2c", version=version) + b"x" * 100)[0] == [200]


def test_a_body_behind_an_upgrade_is_no_request(client):
    """Smuggling: what one server takes for a body must not be a request for the next."""
    smuggled = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    sent = post(*UPGRADES["java"], body=smuggled)
    assert exchange(client, sent + post(CLOSE))[0] == [415, 200]


def test_an_upgrade_without_a_body(client):
    head = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    assert exchange(client, head + head + post(CLOSE))[0] == [200, 200, 200]


def test_connect_is_refused(client):
    assert exchange(client, b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n")[0] == [400]


@pytest.mark.parametrize("close", [(), (CLOSE,)], ids=["keep-alive", "close"])
@pytest.mark.parametrize(
    "extra", [b"\r\n", b"\r\n\r\n", b"\n", b"junk", b"--b--\r\n", b"\x00" * 100, b"\xff\xd9", b"GET"]
)
@pytest.mark.parametrize("late", [False, True])
def test_bytes_after_a_whole_photo(client, extra, close, late):
    """What is due is answered. What follows and is no request gets at most an answer of its own."""
    if late and not close:
        with connect(client) as connection:
            answers = Answers(connection)
            connection.sendall(post())
            assert answers()[0] == 200
            connection.sendall(extra)
        return
    with connect(client) as connection:
        connection.sendall(post(*close) if late else post(*close) + extra)
        assert Answers(connection)()[0] == 200
        if late:
            connection.sendall(extra)


@pytest.mark.parametrize("missing", [100, 300])
@pytest.mark.parametrize("close", [(), (CLOSE,)], ids=["keep-alive", "close"])
def test_a_length_that_is_too_small_is_named(client, missing, close):
    """The rest of the photo came too, so it is the length that is wrong."""
    with connect(client) as connection:
        connection.sendall(post(*close, length=len(RED) - missing))
        status, headers, body = Answers(connection)()
        assert (status, headers["connection"]) == (400, "close")
        assert f"Content-Length of {len(RED) - missing}".encode() in body


@pytest.mark.parametrize(
    ("headers", "sent", "said"),
    [
        (b"", RED, b"headers without a Content-Length"),
        (b"Transfer-Encoding: chunked\r\n", chunked(RED[:-300]) + RED[-300:], b"after the last chunk"),
        (b"Transfer-Encoding: chunked\r\n", chunked(b"") + RED, b"after the last chunk"),
    ],
)
def test_bytes_after_a_body_of_no_announced_length_are_named(client, headers, sent, said):
    with connect(client) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\n" + HOST + headers + b"\r\n" + sent)
        status, headers, body = Answers(connection)()
        assert (status, headers["connection"]) == (400, "close")
        assert said in body


def test_a_cut_photo_is_no_fault_of_the_length(client):
    assert exchange(client, post(CLOSE, body=RED[:-100]))[0] == [422]


def test_many_bytes_after_a_photo_do_not_cost_the_answer(client):
    """They are still coming when the answer is written, and a reset would take it away."""
    with connect(client) as connection:
        connection.sendall(post() + b"\x00" * 10_000)
        for _ in range(20):
            connection.sendall(b"\x00" * 10_000)
            time.sleep(0.005)
        answers = Answers(connection)
        status, headers, _ = answers()
        assert (status, headers["connection"]) == (200, "close")
        assert answers.rest() == b""


def test_requests_ahead_are_answered_before_a_broken_one(client):
    good, broken = post(), b"GET / HTTP/1.1\r\nHost x\r\n\r\n"
    assert exchange(client, good * 3 + broken)[0] == [200, 200, 200]
    half = b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"
    assert exchange(client, good * 2 + half + b"lo\r\nzz\r\n")[0] == [200, 200]
    assert exchange(client, half + b"lo\r\nzz\r\n")[0] == [400]


def test_requests_ahead_are_bounded(client):
    statuses, _ = exchange(client, b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n" * 3000)
    assert set(statuses) == {200}
    assert 16 <= len(statuses) < 30


def test_http_1_0_is_kept_alive_when_asked(client):
    with connect(client) as connection:
        answers = Answers(connection)
        for _ in range(2):
            connection.sendall(post(b"Connection: keep-alive", version=b"1.0"))
            status, headers, _ = answers()
            assert (status, headers["connection"]) == (200, "keep-alive")
        connection.sendall(post(version=b"1.0").replace(HOST, b""))
        status, headers, _ = answers()
        assert (status, headers["connection"]) == (200, "close")
        assert answers.rest() == b""


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /\r\n\r\n",
        b"GET /health\r\n",
        b"GET /health\n",
        b"GET / HTTP/0.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/3.0\r\nHost: x\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\nabc",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_what_is_no_request(client, sent):
    statuses, body = exchange(client, sent)
    assert statuses == [400]
    assert b"urn:edge-classifier:problem:not-http" in body


@pytest.mark.parametrize(
    "sent",
    [
        post_chunked(trailer=b"X-Checksum: 1\r\n"),
        post_chunked(extension=b";a=b"),
        post_chunked(size=1),
        post_chunked(trailer=b"Host: y\r\nExpect: 100-continue\r\n"),
    ],
)
def test_chunks_with_all_that_may_stand_around_them(client, sent):
    with connect(client) as connection:
        answers = Answers(connection)
        for _ in range(2):
            connection.sendall(sent)
            assert answers()[0] == 200


ENDLESS = {
    "a value": (b"A: ", b"x" * 10_000),
    "many fields": (b"", b"a:\r\n" * 2500),
    "a name": (b"", b"x" * 10_000),
}


@pytest.mark.parametrize("part", ENDLESS)
@pytest.mark.parametrize("path", [b"/predict", b"/health/live", b"/nothing"])
def test_a_trailer_without_end(client, part, path):
    """Ten times the limit and more; whoever sends it is cut off."""
    begin, more = ENDLESS[part]
    sent = b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + begin
    assert cut_off(client, sent, more)


@pytest.mark.parametrize("path", [b"/predict", b"/health/live"])
def test_chunks_of_a_byte_without_end(client, path):
    """More around the body than in it is no photo."""
    sent = b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert cut_off(client, sent, b"1\r\nx\r\n" * 2000)


@pytest.mark.parametrize(("chunks", "statuses"), [(900, [415]), (1100, [431])])
def test_how_many_chunks_of_a_byte_a_body_may_have(client, chunks, statuses):
    """They cost a hundred times what their bytes cost in one piece."""
    sent = b"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    found, answer = exchange(client, sent + chunked(b"x" * chunks, 1))
    assert found == statuses
    assert (b"Send larger chunks" in answer) == (statuses == [431])


@pytest.mark.parametrize("ahead", [1, 3, 7])
def test_large_headers_ahead_of_a_photo(client, ahead):
    """What comes at once is parsed in parts, between which others have their turn; nothing of it is lost."""
    head = b"GET /health/live HTTP/1.1\r\nHost: x\r\n" + b"X-A: " + b"y" * 30_000 + b"\r\n\r\n"
    head += b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(RED) + RED
    statuses, _ = exchange(client, head * ahead + post(CLOSE))
    assert statuses == [200, 200] * ahead + [200]


@pytest.mark.parametrize("size", [8, 64, 1460])
def test_a_photo_in_small_chunks(client, size):
    photo = encode(solid((240, 9, 9), (900, 900)), "BMP")[:900_000]
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert exchange(client, head + chunked(photo, size))[0] == [422]


@pytest.mark.parametrize("codings", [b"gzip, chunked", b"deflate, chunked"])
def test_a_transfer_coding_is_named(client, codings):
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: " + codings
    statuses, body = exchange(client, head + b"\r\n\r\n" + chunked(RED))
    assert statuses == [415]
    assert b"Transfer-Encoding" in body


@pytest.mark.parametrize("path", [b"/predict", b"/health/live"])
def test_a_chunk_extension_without_end(client, path):
    sent = b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;"
    assert cut_off(client, sent, b"x" * 10_000)


@pytest.mark.parametrize("part", ENDLESS)
def test_a_head_without_end(client, part):
    begin, more = ENDLESS[part]
    assert cut_off(client, b"GET / HTTP/1.1\r\nHost: x\r\n" + begin, more)


def test_empty_lines_without_end(client):
    assert cut_off(client, b"", b"\r\n" * 5000)


def cut_off(client, begin: bytes, more: bytes) -> bool:
    """Whether the server ends the connection before it has taken ten times what a head may have."""
    with connect(client) as connection:
        connection.sendall(begin)
        sent = 0
        try:
            while sent < 10 * MAX_HEAD_BYTES:
                connection.sendall(more)
                sent += len(more)
                connection.settimeout(0.02)
                try:
                    if b"HTTP/1.1 431 " in connection.recv(65536):
                        return True
                except TimeoutError:
                    pass
                connection.settimeout(20)
        except OSError:
            return True
    return False


def test_a_complete_head_of_a_few_large_fields(client):
    """It comes in one piece with all that belongs to it, so that nothing is left to be counted afterwards."""
    head = b"GET /health/live HTTP/1.1\r\nHost: x\r\n" + CLOSE + b"\r\n"
    fields = [b"a: " + b"x" * 20_000 + b"\r\n"]
    assert exchange(client, head + b"".join(fields * 3) + b"\r\n")[0] == [200]
    assert exchange(client, head + b"".join(fields * 4) + b"\r\n")[0] == [431]
    assert exchange(client, b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")[0] == [431]


def test_a_client_that_leaves_while_others_of_its_requests_wait(client, caplog):
    """Nothing goes wrong that would have to be logged."""
    state = client.server.server_state
    others = len(state.connections)
    for _ in range(5):
        with connect(client) as connection:
            connection.sendall(post() * 8)
            connection.recv(1)
    wait_until(lambda: len(state.connections) <= others)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_empty_lines_do_not_keep_a_connection(tiny):
    with serving(tiny) as client:
        client.server.config.timeout_keep_alive = 0.2
        with connect(client) as connection:
            answers = Answers(connection)
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert answers()[0] == 200
            connection.sendall(b"\r\n")
            assert answers.rest() == b""


def test_the_kernel_keeps_little_of_answers_that_are_not_read(client):
    # Linux doubles what it is told (socket(7)).
    assert client.server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 300_000


@pytest.mark.parametrize("fields", [MAX_HEADERS // 2, MAX_HEADERS * 2])
def test_fields_are_counted(client, fields):
    head = b"GET /health/live HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * fields + CLOSE + b"\r\n\r\n"
    assert exchange(client, head)[0] == [200 if fields < MAX_HEADERS else 431]


def test_a_client_that_leaves_a_large_photo(tiny):
    """The server still notices although it had stopped reading: nothing is decoded for whoever has left."""
    with serving(tiny, workers=1) as client, worker_held(client) as free:
        service = service_of(client)
        body = b"\xff\xd8" + b"\0" * 2_000_000
        connections = [connect(client) for _ in range(10)]
        for connection in connections:
            connection.sendall(post(body=body))
        wait_until(lambda: service.workers.depth == 10)
        for connection in connections:
            connection.close()
        wait_until(lambda: service.workers.depth == 0)
        wait_until(lambda: service.body_reader.buffered_bytes == 0)
        free.set()
        text = client.get("/metrics").text
        assert 'classifier_requests_total{route="/predict",status="499"} 10.0' in text
        assert "classifier_photos_total 0.0" in text


def test_an_answer_that_is_not_read_is_given_up(tiny):
    with serving(tiny, send_timeout_seconds=1) as client:
        state = client.server.server_state
        connections = [deaf(client) for _ in range(3)]
        for connection in connections:
            connection.sendall(b"GET /page/swagger/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n" * 15)
        wait_until(lambda: len(state.unsent) == 3)
        wait_until(lambda: not state.unsent)
        for connection in connections:
            received = 0
            while more := len(connection.recv(1 << 20)):
                received += more
            assert received < SWAGGER.stat().st_size * 15
            connection.close()


def test_answers_that_are_not_read_are_bounded(tiny, monkeypatch):
    monkeypatch.setattr("app.http.server._MOST_UNSENT_BYTES", 3_000_000)
    with serving(tiny) as client:
        state = client.server.server_state
        connections = []
        for _ in range(8):
            connections.append(deaf(client))
            connections[-1].sendall(b"GET /page/swagger/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        wait_until(lambda: state.total_requests >= 8)
        # One or two answers fit; the others have been given up.
        wait_until(lambda: 0 < len(state.unsent) < 3 and len(state.connections) < 6)
        for connection in connections:
            connection.close()


def deaf(client) -> socket.socket:
    """A connection whose client has hardly any room for answers."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(20)
    connection.connect((client.base_url.host, client.base_url.port))
    return connection


def test_the_idlest_connection_makes_room(tiny, monkeypatch):
    monkeypatch.setattr("app.http.server._MOST_CONNECTIONS", 20)
    with serving(tiny) as client:
        idle = []
        for _ in range(60):
            idle.append(connect(client))
            idle[-1].sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert Answers(idle[-1])()[0] == 200
        assert len(client.server.server_state.connections) <= 21
        gone, kept = idle[0], idle[-1]
        assert gone.recv(1) == b""
        kept.sendall(post())
        assert Answers(kept)()[0] == 200
        for connection in idle:
            connection.close()


def test_a_crowd_makes_room_of_its_own(tiny, monkeypatch):
    """One client's many connections do not cost another client's single one, however long it has been idle."""
    monkeypatch.setattr("app.http.server._MOST_CONNECTIONS", 20)
    with serving(tiny) as client:
        address = (client.base_url.host, client.base_url.port)
        with socket.create_connection(address, source_address=("127.0.0.2", 0)) as single:
            crowd = [connect(client) for _ in range(60)]
            wait_until(lambda: len(client.server.server_state.connections) <= 21)
            single.sendall(post())
            assert Answers(single)()[0] == 200
            for connection in crowd:
                connection.close()


def test_no_idle_connection_to_make_room(tiny, monkeypatch):
    """Those that send a photo are not given up for one more."""
    monkeypatch.setattr("app.http.server._MOST_CONNECTIONS", 5)
    with serving(tiny) as client:
        busy = [connect(client) for _ in range(5)]
        for connection in busy:
            connection.sendall(post(body=b"", length=len(RED)))
        wait_until(lambda: not client.server.server_state.idle)
        with connect(client) as connection:
            status, headers, body = Answers(connection)()
        assert (status, headers["retry-after"]) == (503, "1")
        assert b"too-many-connections" in body
        for connection in busy:
            connection.sendall(RED)
            assert Answers(connection)()[0] == 200
            connection.close()


def test_a_crowd_that_sends_no_bodies_makes_room_for_others(tiny, monkeypatch):
    """Slow bodies have half a minute, and a probe has to be answered meanwhile."""
    monkeypatch.setattr("app.http.server._MOST_CONNECTIONS", 20)
    with serving(tiny) as client:
        state = client.server.server_state
        crowd = [connect(client) for _ in range(20)]
        for connection in crowd:
            connection.sendall(post(body=b"", length=len(RED)))
        wait_until(lambda: len(state.arriving) == 20)
        for _ in range(3):
            address = (client.base_url.host, client.base_url.port)
            with socket.create_connection(address, source_address=("127.0.0.2", 0)) as other:
                other.sendall(post(CLOSE))
                assert Answers(other)()[0] == 200
        assert crowd[0].recv(1) == b""
        crowd[-1].sendall(RED)
        assert Answers(crowd[-1])()[0] == 200
        for connection in crowd:
            connection.close()
        wait_until(lambda: not state.arriving)


def test_the_rest_of_a_refused_body_does_not_end_the_wait_for_the_next_request(tiny):
    """A connection that goes on is one that is looked after: it has a timer, and may be closed for another."""
    with serving(tiny, header_timeout_seconds=0.3) as client, connect(client) as connection:
        answers = Answers(connection)
        connection.sendall(b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
        assert answers()[0] == 404
        connection.sendall(b"0123456789")
        state = client.server.server_state
        wait_until(lambda: state.idle)
        time.sleep(0.5)
        connection.sendall(post())
        assert answers()[0] == 200


def test_both_families(tiny):
    with serving(tiny, host="::") as client:
        port = client.server.socket.getsockname()[1]
        for address in ("127.0.0.1", "::1"):
            with socket.create_connection((address, port)) as connection:
                connection.sendall(post(CLOSE))
                assert Answers(connection)()[0] == 200


@pytest.mark.parametrize("path", [b"/predict", b"/health/live", b"/nothing", b"/v2/models/tiny/infer", b"/"])
@pytest.mark.parametrize(
    ("hosts", "right"),
    [
        (b"", False),
        (b"Host: a\r\nHost: a\r\n", False),
        (b"Host: a\r\nHost: b\r\n", False),
        (b"Host: a, b\r\n", False),
        (b"Host: a b\r\n", False),
        (b"Host: a/b\r\n", False),
        (b"Host: user@a\r\n", False),
        (b"Host: a:port\r\n", False),
        (b"Host: a\r\n", True),
        (b"Host: a_b.local:8000\r\n", True),
        (b"Host: 10.0.0.5:8000\r\n", True),
        (b"Host: [fe80::1%25eth0]:8000\r\n", True),
        (b"Host:\r\n", True),
    ],
)
def test_exactly_one_host(client, hosts, right, path):
    statuses, body = exchange(client, b"GET " + path + b" HTTP/1.1\r\n" + hosts + CLOSE + b"\r\n\r\n")
    assert (statuses == [400]) == (not right)
    if not right:
        assert b"Host" in body


@pytest.mark.parametrize(
    "path", [b"/predict/", b"//predict", b"//predict//", b"/predict/?top_k=1", b"http://x/predict"]
)
def test_a_slash_too_many(client, path):
    assert exchange(client, post(CLOSE).replace(b"/predict", path, 1))[0] == [200]


def test_paths_with_a_slash_too_many_are_locked_too(tiny):
    with serving(tiny, api_keys="the-kitchen-camera-1", metrics_without_key=True) as client:
        for path, status in ((b"//predict", 401), (b"/model/", 401), (b"//metrics/", 200), (b"/health//live", 200)):
            head = b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            assert exchange(client, head)[0] == [status], path


def test_a_body_that_looks_like_a_request_line(client):
    with connect(client) as connection:
        connection.sendall(post(CLOSE, body=b"", length=6))
        time.sleep(0.05)
        connection.sendall(b"GET /\n")
        assert Answers(connection)()[0] == 415
