"""The image as a gateway runs it: read-only, without capabilities, as nobody, in 128 MB."""

import json
import re
import socket
import tarfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.image.conftest import look_from_inside
from tests.photos import encode, solid

#: Kills a process that opens a connection, or sends to an address without one; everything else is allowed.
NO_CALLS = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [
        {"names": ["connect", "sendmsg", "sendmmsg"], "action": "SCMP_ACT_KILL_PROCESS"},
        # sendto(2) with an address, its fifth argument; without one it is send(2).
        {
            "names": ["sendto"],
            "action": "SCMP_ACT_KILL_PROCESS",
            "args": [{"index": 4, "value": 0, "op": "SCMP_CMP_NE"}],
        },
    ],
}


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)).resize(
        (width, height)
    )


def flood(client, pictures, count=100, clients=32) -> Counter:
    def send(number):
        return client.post("/predict", content=pictures[number % len(pictures)]).status_code

    with ThreadPoolExecutor(clients) as pool:
        return Counter(pool.map(send, range(count)))


def test_it_answers_photos_under_load(gateway):
    photos = [encode(noise(640, 480), kind) for kind in ("JPEG", "PNG", "WEBP")]
    assert flood(gateway, photos, 300, clients=8) == {200: 300}
    answer = gateway.post("/predict", content=photos[0]).json()
    assert len(answer["predictions"]) == 5
    assert answer["predictions"][0]["label"] in gateway.get("/labels").text


def test_it_survives_pictures_that_do_not_fit(engine, gateway):
    """100 of up to 50 megapixels, all at once; what fits is answered, the rest refused."""
    sizes = [(8160, 6120), (4000, 3000), (1600, 1200)]
    variants = [("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("WEBP", {"quality": 1, "method": 0})]
    pictures = [encode(noise(*size), kind, **options) for size in sizes for kind, options in variants]
    found = flood(gateway, [picture for picture in pictures if len(picture) < 6_000_000])
    assert set(found) <= {200, 413, 503}
    assert {200, 413} <= set(found)
    assert gateway.post("/predict", content=encode(solid((9, 200, 9)), "JPEG")).status_code == 200
    state = engine.inspect(gateway.container)["State"]
    assert (state["Running"], state["OOMKilled"]) == (True, False)


def test_it_is_locked_in(engine, gateway):
    """What the engine was asked for is so for the process itself."""
    found = look_from_inside(engine, gateway.container)
    assert found == {"uid": "10001", "capabilities": 0, "no_new_privileges": "1", "root": "ro", "memory": 128 * 2**20}


def test_its_page_and_its_documentation(gateway):
    """With everything that they load."""
    for address in ("/", "/docs"):
        page = gateway.get(address)
        assert page.status_code == 200
        loaded = re.findall(r'<(?:link|script|img)[^>]* (?:src|href)="?([^"#: >]+)', page.text)
        assert len(loaded) >= 2
        assert {path: gateway.get(page.url.join(path)).status_code for path in loaded} == dict.fromkeys(loaded, 200)


def test_its_healthcheck(engine):
    if engine.is_podman:
        # Its timers are systemd's, which not every machine has; the check itself is what is tested.
        with engine.running("--health-interval=disable") as client:
            engine("healthcheck", "run", client.container)
        return
    with engine.running("--health-interval=1s") as client:
        for _ in range(60):
            if engine.inspect(client.container)["State"]["Health"]["Status"] == "healthy":
                return
            time.sleep(1)
    raise AssertionError("never healthy")


def test_sigterm_drains(engine):
    """A photo that is half sent is answered, then the container ends with 0."""
    photo = encode(noise(640, 480), "JPEG")
    with engine.running() as client:
        address = (client.base_url.host, client.base_url.port)
        with socket.create_connection(address, timeout=60) as connection:
            connection.sendall(
                b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(photo) + photo[:1000]
            )
            engine("kill", "--signal", "TERM", client.container)
            while client.get("/health/ready").status_code == 200:
                time.sleep(0.05)
            connection.sendall(photo[1000:])
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert engine("wait", client.container).stdout.strip() == "0"


def test_it_never_phones_home(engine, tmp_path):
    """The kernel kills whatever calls somebody from this container."""
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps(NO_CALLS))
    with engine.running(f"--security-opt=seccomp={profile}") as client:
        photos = [encode(noise(640, 480), "JPEG")]
        assert flood(client, photos, 20) == {200: 20}
        assert client.get("/health").status_code == client.get("/metrics").status_code == 200
        for trap in (
            "import socket; socket.create_connection(('127.0.0.1', 8000))",
            "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
        ):
            assert engine("exec", client.container, "python", "-c", trap, check=False).returncode not in (0, 1)
        assert engine.inspect(client.container)["State"]["Running"]


@pytest.fixture(scope="module")
def files(engine, gateway, tmp_path_factory):
    """The root filesystem, as a tar archive."""
    path = tmp_path_factory.mktemp("image") / "root.tar"
    engine("export", "-o", str(path), gateway.container)
    with tarfile.open(path) as archive:
        yield archive


def test_there_is_nothing_to_break_in_with(files):
    """The only programs are Python's."""
    programs = {
        member.name
        for member in files.getmembers()
        if member.isfile() and member.mode & 0o111 and re.search(r"(^|/)s?bin/", member.name)
    }
    assert [re.sub(r"[\d.]+$", "", program) for program in programs] == ["usr/local/bin/python"]
    assert not any(member.mode & 0o6000 for member in files.getmembers() if member.isfile())


def test_what_is_in_it_is_listed(files):
    """A CycloneDX document of exactly the locked packages, the interpreter and the copied libraries."""
    document = json.load(files.extractfile("usr/share/sbom/edge-classifier.cdx.json"))
    assert document["bomFormat"] == "CycloneDX"
    listed = {component["name"].lower().replace("_", "-") for component in document["components"]}
    locked = set(re.findall(r"^([a-z0-9._-]+)==", (ROOT / "requirements/all.txt").read_text(), re.MULTILINE))
    installed = {
        name.split("/")[2].split("-")[0].lower().replace("_", "-")
        for name in files.getnames()
        if name.startswith("srv/lib/") and name.endswith(".dist-info/METADATA")
    }
    assert installed <= listed
    assert {"cpython", "libc6"} <= listed
    # Markers leave out what other platforms need.
    assert installed <= locked
    assert {"fastapi", "onnxruntime", "pillow", "numpy", "uvicorn"} <= installed
