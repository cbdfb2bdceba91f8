"""docs/deployment/proxies.md: photos go through each proxy as it is configured there, sent as clients do by default."""

import contextlib
import json
import os
import re
import socket
import subprocess
import time

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT, serving
from tests.manifests.tools import tool
from tests.photos import encode

GUIDE = (ROOT / "docs/deployment/proxies.md").read_text()
KEY = "0123456789abcdef"
#: By proxy: its block in the guide, where it listens there, and what has to change to leave the prefix on.
PROXIES = {
    "nginx": ("nginx", "listen 80;", ("http://classifier/;", "http://classifier;")),
    "caddy": ("caddyfile", ":80 {", ("handle_path", "handle")),
    "haproxy": ("haproxy", "bind :80", ("    http-request replace-path /classifier/(.*) /\\1\n", "")),
}
NGINX = """daemon off;
worker_processes 1;
pid FOLDER/pid;
error_log FOLDER/log;
events {}
http {
    access_log off;
    client_body_temp_path FOLDER/body; proxy_temp_path FOLDER/proxy; fastcgi_temp_path FOLDER/fastcgi;
    uwsgi_temp_path FOLDER/uwsgi; scgi_temp_path FOLDER/scgi;
BLOCK
}
"""
#: How the words of a proxy's configuration file become a running proxy.
RUN = {
    "nginx": (NGINX, ["-c", "FILE"]),
    "caddy": ("{\n\tadmin off\n\tauto_https off\n}\nBLOCK", ["run", "--config", "FILE", "--adapter", "caddyfile"]),
    "haproxy": ("BLOCK", ["-f", "FILE"]),
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def configured(name: str, port: int, service: int, *, left_on: bool, http2: bool) -> str:
    """The guide's configuration, with addresses of this machine."""
    language, listens, (taken_away, left) = PROXIES[name]
    (block,) = re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)
    changes = [(listens, listens.replace("80", str(port))), ("127.0.0.1:8000", f"127.0.0.1:{service}")]
    for old, new in [*changes, *[(taken_away, left)] * left_on]:
        assert old in block, f"{name}: {old}"
        block = block.replace(old, new)
    if http2:
        # What a certificate would let a client agree on.
        line = listens.replace("80", str(port))
        block = block.replace(line, {"nginx": f"listen {port} http2;", "haproxy": f"bind :{port} proto h2"}[name])
    return block


@contextlib.contextmanager
def proxy(name: str, service: int, folder, *, left_on: bool = False, http2: bool = False):
    """The proxy in front of the service; the address that photos are sent below."""
    program, port = tool(name), free_port()
    whole, arguments = RUN[name]
    file = folder / f"{name}.conf"
    block = configured(name, port, service, left_on=left_on, http2=http2)
    text = whole.replace("BLOCK", block).replace("FOLDER", str(folder))
    file.write_text(text)
    command = [program, *(str(file) if word == "FILE" else word for word in arguments)]
    home = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(command, env={**os.environ, **home}, stdout=output, stderr=output)
    try:
        while True:
            assert process.poll() is None, (folder / "output").read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}/classifier"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def service(tiny):
    with serving(tiny, path_prefix="/classifier") as client:
        yield client


@pytest.fixture(scope="module", params=["direct", *PROXIES])
def place(request, service, tmp_path_factory):
    """Where photos are sent: to the service, or to a proxy before it."""
    if request.param == "direct":
        yield f"{service.base_url}/classifier"
    else:
        with proxy(request.param, service.base_url.port, tmp_path_factory.mktemp(request.param)) as url:
            yield url


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Reddish noise, 100 kB and 3 MB of it."""
    folder = tmp_path_factory.mktemp("photos")
    for name, side in (("small", 215), ("large", 1250)):
        noise = np.random.default_rng(1).integers(0, 60, (side, side, 3), np.uint8)
        noise[..., 0] += 190
        (folder / f"{name}.png").write_bytes(encode(Image.fromarray(noise), "PNG"))
    assert 90_000 < (folder / "small.png").stat().st_size < 200_000
    assert 3_000_000 < (folder / "large.png").stat().st_size < 4_500_000
    return folder


CURL = {
    # Over 1 MB curl asks by itself whether it may send.
    "as it comes": [],
    "Expect": ["-H", "Expect: 100-continue", "--expect100-timeout", "15"],
    "chunked": ["-H", "Transfer-Encoding: chunked"],
    "HTTP/2 offered": ["--http2"],
    "HTTP/1.0": ["--http1.0"],
}


def curl(folder, *arguments) -> tuple[int, dict]:
    """The status and the JSON that come."""
    command = [tool("curl"), "-sS", "-m", "20", "-w", "\n%{http_code}", *arguments]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, (command, ran.stdout, ran.stderr)
    body, _, status = ran.stdout.rpartition("\n")
    return int(status), json.loads(body)


@pytest.mark.parametrize("how", CURL)
@pytest.mark.parametrize("form", ["multipart", "raw"])
@pytest.mark.parametrize("size", ["small", "large"])
def test_curl(place, photos, size, form, how):
    file = f"{size}.png"
    body = (
        ["-F", f"file=@{file}"] if form == "multipart" else ["-H", "Content-Type: image/png", "-T", file, "-X", "POST"]
    )
    status, answer = curl(photos, *CURL[how], *body, f"{place}/predict")
    assert status == 200, answer
    assert answer["predictions"][0]["label"] == "red"


def test_java(place, photos):
    """What Java's own client does by default, with Expect, and in chunks."""
    command = [tool("java"), "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", str(ROOT / "tests/clients/Photos.java")]
    ran = subprocess.run(
        [*command, f"{place}/predict", "small.png", "large.png"],
        cwd=photos,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = ran.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["default", "expect", "chunked"] * 2, ran.stderr
    assert [line for line in lines if line.split()[1] != "200"] == []
    assert {json.loads(line.split(" ", 2)[2])["predictions"][0]["label"] for line in lines} == {"red"}


@pytest.mark.parametrize("name", PROXIES)
def test_the_prefix_may_be_left_on(service, photos, tmp_path, name):
    with proxy(name, service.base_url.port, tmp_path, left_on=True) as url:
        status, answer = curl(photos, "-F", "file=@small.png", f"{url}/predict")
        assert (status, answer["predictions"][0]["label"]) == (200, "red")
        assert httpx.get(f"{url}/openapi.json").json()["servers"] == [{"url": "/classifier"}]


@pytest.mark.parametrize("name", ["nginx", "haproxy"])
@pytest.mark.parametrize("size", ["small", "large"])
def test_http2_in_front(service, photos, tmp_path, name, size):
    with proxy(name, service.base_url.port, tmp_path, http2=True) as url:
        status, answer = curl(photos, "--http2-prior-knowledge", "-F", f"file=@{size}.png", f"{url}/predict")
        assert (status, answer["predictions"][0]["label"]) == (200, "red")


def test_the_page_is_there(place):
    page = httpx.get(place, follow_redirects=True)
    assert (page.status_code, str(page.url)) == (200, f"{place}/")
    # A link that is hidden is to a page that this service does not have.
    for path in re.findall(r'<(?![^>]* hidden)[^>]* (?:href|src)="([^"#]+)"', page.text):
        assert httpx.get(page.url.join(path)).status_code == 200, path


@pytest.mark.parametrize("name", PROXIES)
def test_what_the_service_refuses_is_told_by_it(tiny, photos, tmp_path, name):
    """While the body is still coming; no proxy answers in its place."""
    with (
        serving(tiny, api_keys=KEY, max_body_bytes=1_000_000) as client,
        proxy(name, client.base_url.port, tmp_path) as url,
    ):
        for more, expected in (([], 401), (["-H", f"X-API-Key: {KEY}"], 413)):
            status, answer = curl(photos, *more, "-F", "file=@large.png", f"{url}/predict")
            assert status == answer["status"] == expected
            assert answer["type"].startswith("urn:edge-classifier:problem:")


@pytest.mark.parametrize("name", PROXIES)
def test_a_service_that_is_away(tmp_path, name):
    """What the guide's table says."""
    with proxy(name, free_port(), tmp_path) as url:
        while (answer := httpx.get(f"{url}/health")).status_code not in (502, 503):
            assert answer.status_code == 504
        assert answer.status_code == (503 if name == "haproxy" else 502)
        assert "json" not in answer.headers.get("content-type", "")
