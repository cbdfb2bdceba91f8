"""TLS on a real socket, with a certificate made on the spot."""

import asyncio
import contextlib
import datetime
import ipaddress
import json
import resource
import signal
import socket
import ssl
import threading

import httpx
import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app.errors import SettingsError
from app.http import tls
from app.http.headers import ALWAYS
from tests.conftest import assert_problem, serving, wait_until
from tests.http.connections import everything
from tests.photos import encode, solid
from tests.processes import COMMANDS, failure, free_port, start

RED = encode(solid((240, 9, 9)), "JPEG")


def write(folder, name="gateway", password=None):
    """A certificate for 127.0.0.1 and its key; both paths."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    for path, content in (
        (folder / "key.pem", key.private_bytes(pem, pkcs8, locked)),
        (folder / "certificate.pem", certificate.public_bytes(pem)),
    ):
        # As certificates are renewed: whole, and in one step.
        (folder / "next").write_bytes(content)
        (folder / "next").replace(path)
    return {"tls_certificate": folder / "certificate.pem", "tls_key": folder / "key.pem"}


def trusting(files) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=files["tls_certificate"])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def secure(tiny, files):
    with serving(
        tiny, verify=trusting(files), header_timeout_seconds=0.5, body_timeout_seconds=0.5, hsts_seconds=60, **files
    ) as client:
        yield client


def connect(client, context=None) -> ssl.SSLSocket | socket.socket:
    connection = socket.create_connection((client.base_url.host, client.base_url.port))
    connection.settimeout(20)
    return context.wrap_socket(connection, server_hostname="127.0.0.1") if context else connection


def test_photos_over_one_connection(secure):
    for _ in range(3):
        assert secure.post("/predict", content=RED).json()["predictions"][0]["label"] == "red"
        assert secure.post("/predict/batch", files=[("file", RED)] * 4).status_code == 200
    assert_problem(secure.post("/predict", content=b"rubbish"), 415, "not-an-image")
    large = encode(solid((9, 240, 9), (3000, 3000)), "BMP")[:8_000_000]
    assert_problem(secure.post("/predict", content=large), 422, "broken-image")
    assert_problem(secure.post("/predict", content=b"x" * 10_000_001), 413, "body-too-large")


def test_the_connection_is_kept(secure, files):
    with connect(secure, trusting(files)) as connection:
        for _ in range(3):
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while not answer.endswith(b"}"):
                answer += connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200 ")


def test_headers(secure):
    for response in (secure.get("/health"), secure.get("/nothing"), secure.post("/predict", content=b"")):
        expected = [*ALWAYS, (b"strict-transport-security", b"max-age=60")]
        assert all(response.headers.get_list(name.decode()) == [value.decode()] for name, value in expected)


@pytest.mark.parametrize(
    ("version", "spoken"),
    [("TLSv1_1", None), ("TLSv1_2", "TLSv1.2"), ("TLSv1_3", "TLSv1.3")],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_versions(secure, files, version, spoken):
    context = trusting(files)
    # A client's own library refuses the old ones, unless told.
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
    if spoken is None:
        # uvloop closes without an alert; a server that spoke TLS 1.1 would have agreed.
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            connect(secure, context)
    else:
        with connect(secure, context) as connection:
            assert connection.version() == spoken


#: The beginning of what a client says first.
CLIENT_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


@pytest.mark.parametrize("sent", [b"", CLIENT_HELLO])
def test_a_handshake_that_never_ends(secure, sent):
    """Given up after the headers' deadline, while others are served."""
    with connect(secure) as slow:
        slow.sendall(sent)
        assert secure.post("/predict", content=RED).status_code == 200
        assert slow.recv(65536) == b""


def test_plain_http_is_not_answered(secure):
    with connect(secure) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert not everything(connection).startswith(b"HTTP")


@pytest.mark.parametrize(
    ("sent", "status", "slug"),
    [
        (b"GET /hea", 408, "header-timeout"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000, 431, "headers-too-large"),
        (b"hello\r\n\r\n", 400, "not-http"),
        (b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc", 408, "body-timeout"),
    ],
)
def test_deadlines_and_limits_hold(secure, files, sent, status, slug):
    with connect(secure, trusting(files)) as connection:
        connection.sendall(sent)
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert slug.encode() in answer
    assert b"strict-transport-security: max-age=60\r\n" in answer


def test_a_renewed_certificate_is_used_at_once(tiny, tmp_path):
    files = write(tmp_path, "first")
    with serving(tiny, verify=trusting(files), **files) as client:
        assert client.get("/health").status_code == 200
        write(tmp_path, "second")
        assert client.get("/health").status_code == 200, "a connection that was there goes on"
        with connect(client, trusting(files)) as connection:
            assert connection.getpeercert()["subject"] == ((("commonName", "second"),),)
        files["tls_key"].write_text("rubbish")
        with connect(client, trusting(files)) as connection:
            assert connection.getpeercert()["subject"] == ((("commonName", "second"),),)


def test_sigterm_loses_nothing_over_tls(tiny, files):
    """New connections, each with its handshake, and one that is idle and never says goodbye, while the service ends."""
    port = free_port()
    process = start(
        COMMANDS["module"], model=tiny, host="127.0.0.1", port=port, drain_seconds=0.5, log_level="warning", **files
    )
    url, context = f"https://127.0.0.1:{port}", trusting(files)
    answered, lost = [], []

    def is_ready():
        try:
            return httpx.get(url + "/health/ready", verify=context).status_code == 200
        except httpx.HTTPError:
            return False

    def post(requests):
        while True:
            try:
                with httpx.Client(base_url=url, timeout=20, verify=context) as client:
                    answered.extend(client.post("/predict", content=RED).status_code for _ in range(requests))
            except httpx.ConnectError as error:
                if "refused" not in str(error):
                    lost.append(repr(error))
                return
            except httpx.HTTPError as error:
                lost.append(repr(error))
                return

    wait_until(is_ready)
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1"),
    ):
        threads = [threading.Thread(target=post, args=(n,)) for n in (1, 1, 10_000, 10_000)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(answered) > 50)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(30)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert not lost
    assert set(answered) == {200}


def test_bad_files_end_the_start(tiny, tmp_path, files):
    (tmp_path / "rubbish").write_text("rubbish")
    (tmp_path / "other").mkdir()
    (tmp_path / "locked").mkdir()
    other, locked = write(tmp_path / "other"), write(tmp_path / "locked", password=b"secret-password")
    bad = {
        "CLASSIFIER_TLS_CERTIFICATE: ": {**files, "tls_certificate": tmp_path / "absent"},
        "CLASSIFIER_TLS_KEY: ": {**files, "tls_key": tmp_path},
        "CLASSIFIER_TLS_CERTIFICATE, CLASSIFIER_TLS_KEY: ": {**files, "tls_certificate": tmp_path / "rubbish"},
    }
    for begins, given in bad.items():
        output = failure(COMMANDS["module"], model=tiny, **given)
        assert output.startswith(begins)
        assert output.count("\n") == 1
    for given in ({**files, "tls_key": other["tls_key"]}, {**files, "tls_key": tmp_path / "rubbish"}, locked):
        with pytest.raises(SettingsError, match="CLASSIFIER_TLS_KEY"):
            tls.context(given["tls_certificate"], given["tls_key"])
    process = start(COMMANDS["module"], model=tiny, **locked)
    process.communicate(timeout=60)
    assert process.returncode == 2, "it does not ask for a password"


def test_the_log_says_tls(tiny, files):
    port = free_port()
    process = start(COMMANDS["module"], model=tiny, host="127.0.0.1", port=port, **files)
    listening = next(json.loads(line) for line in process.stdout if '"listening"' in line)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert listening["tls"] is True


@pytest.fixture
def crowded(tiny, files):
    """A service with few descriptors, and no end to its patience with handshakes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    port = free_port()
    command = ["prlimit", f"--nofile=400:{hard}", *COMMANDS["module"]]
    process = start(
        command, model=tiny, host="127.0.0.1", port=port, drain_seconds=0, header_timeout_seconds=600, **files
    )
    assert any('"listening"' in line for line in process.stdout)
    # Nobody reads on; the service does not wait for that.
    yield port
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 0


@pytest.mark.parametrize("sent", [b"", CLIENT_HELLO])
def test_handshakes_that_never_end_lock_nobody_out(crowded, files, sent):
    """Twice as many as the service has descriptors, all kept open; then others come, one after the other."""
    with contextlib.ExitStack() as stack:
        for _ in range(800):
            silent = stack.enter_context(socket.create_connection(("127.0.0.1", crowded)))
            with contextlib.suppress(OSError):
                silent.sendall(sent)
        for _ in range(5):
            with httpx.Client(base_url=f"https://127.0.0.1:{crowded}", timeout=30, verify=trusting(files)) as client:
                assert client.get("/health/live").status_code == 200
                assert client.post("/predict", content=RED).status_code == 200


def test_a_handshake_that_never_ends_does_not_keep_the_service(tiny, files):
    """Whoever connects and says nothing has 600 s for that, but not while the service ends."""
    port = free_port()
    settings = {"model": tiny, "host": "127.0.0.1", "port": port, "drain_seconds": 0, "header_timeout_seconds": 600}
    process = start(COMMANDS["module"], **settings, **files)
    assert any('"listening"' in line for line in process.stdout)
    with socket.create_connection(("127.0.0.1", port)) as silent:
        # Those that come later are answered, so this one has been accepted.
        assert httpx.get(f"https://127.0.0.1:{port}/health/live", verify=trusting(files)).status_code == 200
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert silent.recv(1) == b""
    assert process.returncode == 0


def test_clients_keep_their_handshakes_while_another_has_most(tiny, files):
    """Addresses count: whoever has most of them gives way."""

    async def outcome() -> tuple[bool, int]:
        loop = asyncio.get_running_loop()
        listening = socket.create_server(("127.0.0.1", 0))
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(files["tls_certificate"], files["tls_key"])
        address = listening.getsockname()
        listener = tls.Listener(listening, context, asyncio.Protocol, 600, 1)

        def connected(host: str) -> socket.socket:
            return socket.create_connection(address, source_address=(host, 0))

        alone = await loop.run_in_executor(None, connected, "127.0.0.9")
        crowd = [await loop.run_in_executor(None, connected, "127.0.0.1") for _ in range(tls._MOST_HANDSHAKES + 5)]
        await asyncio.sleep(0.2)
        alone.setblocking(False)
        try:
            still_open = alone.recv(1) != b""
        except BlockingIOError:
            still_open = True
        ended = 0
        for connection in crowd:
            connection.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                ended += connection.recv(1) == b""
        listener.close()
        for connection in (alone, *crowd):
            connection.close()
        await listener.wait_closed()
        return still_open, ended

    still_open, ended = uvloop.run(outcome())
    assert still_open
    assert ended == 6
