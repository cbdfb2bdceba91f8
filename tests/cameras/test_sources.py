"""What comes from a camera on a real socket; what is wrong with it has a name, and costs neither memory nor time."""

import asyncio
import os
import resource
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from app.cameras import camera as cameras
from app.cameras import config, streams
from app.cameras.faults import Fault
from app.cameras.sources import Folder, Snapshot
from app.cameras.streams import Ffmpeg, FfmpegInput, Mjpeg
from tests.cameras.fake_camera import basic, digest_is_right, fake_camera, picture
from tests.manifests.tools import tool

RED = picture((200, 60, 60))
MOST = 200_000


def snapshot(url, timeout_s=5.0, **settings):
    return Snapshot(config.Snapshot(kind="http", url=url, **settings), timeout_s, MOST)


def mjpeg(url, timeout_s=5.0, **settings):
    return Mjpeg(config.Mjpeg(kind="mjpeg", url=url, **settings), timeout_s, MOST)


async def _frames(source, number):
    try:
        return [(await source.frame()).data for _ in range(number)]
    finally:
        await source.close()


def frames(source, number=1):
    return asyncio.run(_frames(source, number))


def fault(make) -> Fault:
    async def look():
        source = make()
        try:
            await source.frame()
        finally:
            await source.close()

    with pytest.raises(Fault) as caught:
        asyncio.run(look())
    return caught.value


def of(make, number=1):
    async def look():
        return await _frames(make(), number)

    return asyncio.run(look())


# Snapshots.


def test_a_snapshot_with_headers_on_one_connection():
    seen = []

    def behave(request):
        seen.append((request.header("x-key"), request.header("accept-encoding"), request.header("cookie")))
        request.answer(RED, headers="Set-Cookie: a=b; Path=/\r\n")

    with fake_camera(behave) as camera:
        assert of(lambda: snapshot(camera.url, headers={"X-Key": "k"}), 3) == [RED] * 3
    assert seen == [("k", "identity", "")] * 3


def test_basic_and_digest():
    def wants_basic(request):
        if request.header("authorization") == basic("viewer", "se:cret"):
            request.answer(RED)
        else:
            request.answer(b"no", "text/plain", "401 Unauthorized", 'WWW-Authenticate: Basic realm="cam"\r\n')

    def wants_digest(request):
        if request.header("authorization") and digest_is_right(request, "viewer", "se:cret", "cam", "n1"):
            request.answer(RED)
        else:
            challenge = 'WWW-Authenticate: Digest realm="cam", nonce="n1", qop="auth", algorithm=MD5\r\n'
            # What httpx would read whole, and unpack, before it answers.
            request.answer(
                b"\x1f\x8b" * 1000, "text/html", "401 Unauthorized", challenge + "Content-Encoding: gzip\r\n", 10**12
            )

    account = {"username": "viewer", "password": "se:cret"}
    with fake_camera(wants_basic) as camera:
        assert of(lambda: snapshot(camera.url, **account)) == [RED]
        assert fault(lambda: snapshot(camera.url)).detail == "status 401: it wants a user name and a password"
        wrong = fault(lambda: snapshot(camera.url, **{**account, "password": "x"}))
        assert (wrong.kind, wrong.detail) == ("login", "status 401: this account is refused")
    with fake_camera(wants_digest) as camera:
        assert of(lambda: snapshot(camera.url, auth="digest", **account), 3) == [RED] * 3
        # One challenge for all of them.
        assert camera.asked == 4
        assert fault(lambda: snapshot(camera.url, **account)).detail == "status 401: it wants 'auth: digest'"
        assert fault(lambda: snapshot(camera.url, auth="digest", username="viewer", password="x")).kind == "login"


PAGE = b"\xef\xbb\xbf \n<!DOCTYPE html><html><head><title>NVR\r\n login</title></head>"


def endless(request):
    request.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n")
    while not request.closing.is_set():
        request.write(b"\xff" * 65_536)


def drip(request):
    request.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: 100000\r\n\r\n")
    while not request.closing.wait(0.02):
        request.write(b"\xff")


def dripping_head(request):
    request.write(b"HTTP/1.1 200 OK\r\nX: ")
    while not request.closing.wait(0.02):
        request.write(b"x")


def silent(request):
    request.closing.wait(30)


def cut(request):
    request.answer(RED[:1000], length=len(RED))
    request.hang_up()


FAULTS = [
    ("a login page", lambda r: r.answer(PAGE, "text/html"), "login", "'NVR login'"),
    ("a login page as a picture", lambda r: r.answer(PAGE), "login", "a page came instead of a picture"),
    (
        "the way to a login page",
        lambda r: r.answer(b"", status="302 Found", headers="Location: /login\r\n"),
        "login",
        "/login",
    ),
    (
        "to itself",
        lambda r: r.answer(b"", status="301 Moved", headers="Location: /snap\r\n"),
        "login",
        "sends to /snap",
    ),
    ("forbidden", lambda r: r.answer(b"", status="403 Forbidden"), "login", "status 403"),
    ("an error", lambda r: r.answer(b"", status="503 Busy"), "http-error", "status 503 Busy"),
    ("nothing new", lambda r: r.answer(b"", status="204 No Content"), "http-error", "status 204"),
    ("nothing", lambda r: r.answer(b""), "not-a-picture", "nothing came"),
    ("text", lambda r: r.answer(b"offline", "text/plain"), "not-a-picture", "text/plain"),
    ("JSON", lambda r: r.answer(b"{}", "application/json"), "not-a-picture", "application/json"),
    ("a stream", lambda r: r.answer(b"--x", "multipart/x-mixed-replace; boundary=x"), "not-a-picture", "multipart/"),
    ("a gigabyte, said", lambda r: r.answer(b"\xff", length=10**9), "too-large", "announces 1000000000 bytes"),
    ("no end", endless, "too-large", "more than 200000 bytes"),
    ("a length without end", lambda r: r.answer(b"\xff", length="9" * 500), "unreachable", ""),
    ("cut off", cut, "broken-picture", "1000 bytes came"),
    ("byte by byte", drip, "unreachable", "no whole picture within 0.3 s"),
    ("headers byte by byte", dripping_head, "unreachable", "no whole picture within 0.3 s"),
    ("silence", silent, "unreachable", ""),
    ("no HTTP", lambda r: r.write(b"SSH-2.0-x\r\n\r\n"), "unreachable", "RemoteProtocolError"),
    ("headers without end", lambda r: r.write(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 100_000), "unreachable", ""),
]


@pytest.mark.parametrize(("name", "behave", "kind", "detail"), FAULTS, ids=[row[0] for row in FAULTS])
def test_what_is_wrong_with_a_snapshot_has_a_name(name, behave, kind, detail):
    with fake_camera(behave) as camera:
        waits = behave in (drip, dripping_head, silent)
        found = fault(lambda: snapshot(camera.url, timeout_s=0.3 if waits else 10))
    assert (found.kind, detail in found.detail) == (kind, True), found


def test_no_camera_and_no_such_host():
    with fake_camera(lambda r: None) as camera:
        url = camera.url
    assert fault(lambda: snapshot(url)).kind == "unreachable"
    assert fault(lambda: snapshot("http://no.such.host.invalid/")).kind == "unreachable"


def test_a_camera_is_asked_without_a_proxy(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with fake_camera(lambda r: r.answer(RED)) as camera:
        assert of(lambda: snapshot(camera.url)) == [RED]


# Streams over HTTP.


async def _parts(chunks, boundary, most=1000):
    async def given():
        for chunk in chunks:
            yield chunk

    return [part async for part in streams.parts(given(), boundary, most)]


def parts(body: bytes, boundary="frame", size=None, most=1000):
    size = size or len(body) or 1
    return asyncio.run(_parts([body[at : at + size] for at in range(0, len(body), size)], boundary, most))


BODIES = [
    (
        "with lengths",
        b"--frame\r\nContent-Length: 3\r\n\r\nabc\r\n--frame\r\ncontent-length:2\r\n\r\nde\r\n--frame--",
        [b"abc", b"de"],
    ),
    (
        "without",
        b"--frame\r\nContent-Type: image/jpeg\r\n\r\nabc\r\n--frame\r\nA: b\r\n\r\nde\r\n--frame--\r\n",
        [b"abc", b"de"],
    ),
    (
        "line feeds alone",
        b"--frame\nContent-Type: image/jpeg\n\nabc\n--frame\nA: b\n\nde\n--frame--\n",
        [b"abc", b"de"],
    ),
    (
        "something before",
        b"hello\r\n--frame\r\nContent-Length: 1\r\n\r\na--frame\r\nContent-Length: 1\r\n\r\nb",
        [b"a", b"b"],
    ),
    (
        "the boundary in the content",
        b"--frame\r\nContent-Length: 9\r\n\r\na--frame-\r\n--frame\r\nContent-Length: 1\r\n\r\nb",
        [b"a--frame-", b"b"],
    ),
    ("a last part without end", b"--frame\r\nA: b\r\n\r\nabc\r\n--frame\r\nA: b\r\n\r\nde", [b"abc"]),
    ("nothing", b"", []),
]


@pytest.mark.parametrize(("name", "body", "expected"), BODIES, ids=[row[0] for row in BODIES])
@pytest.mark.parametrize("size", [1, 2, 7, None])
def test_the_parts_of_a_stream(name, body, expected, size):
    assert parts(body, size=size) == expected
    # With the dashes that belong before it, as some cameras write it.
    assert parts(body, "--frame", size=size) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"--frame\r\n\r\n" + b"x" * 20_000,
        b"x" * 20_000,
        b"--frame\r\n" + b"A: b\r\n" * 5000,
        b"--frame\r\nContent-Length: 1001\r\n\r\n",
        b"--frame\r\nContent-Length: 999999999999\r\n\r\n",
    ],
    ids=["part", "no boundary", "headers", "length", "long length"],
)
def test_a_part_without_end_ends(body):
    with pytest.raises(Fault, match=r"max_frame_bytes|no part begins") as caught:
        parts(body, size=1000)
    assert caught.value.kind == "too-large"


def stream(pictures, boundary="frame", media_type=None, pause_s=0.01):
    def behave(request):
        kind = media_type or f"multipart/x-mixed-replace; boundary={boundary}"
        request.write(f"HTTP/1.0 200 OK\r\nContent-Type: {kind}\r\n\r\n".encode())
        for data in pictures:
            head = f"--{boundary}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            request.write(head.encode() + data + b"\r\n")
            if request.closing.wait(pause_s):
                return
        request.closing.wait(30)

    return behave


def test_a_stream_gives_its_newest_frame():
    many = [picture((200, 60, 60)) for _ in range(100)]
    with fake_camera(stream(many)) as camera:

        async def look():
            source = mjpeg(camera.url)
            first = await source.frame()
            await asyncio.sleep(0.2)
            second = await source.frame()
            assert time.monotonic() - second.taken_at < 1
            await source.close()
            return first.data, second.data

        first, second = asyncio.run(look())
    # Those that came while nobody asked are gone.
    assert many.index(second) > many.index(first) + 1
    assert camera.asked == 1


def test_a_stream_that_stops_is_begun_anew():
    with fake_camera(stream([RED])) as camera:

        async def look():
            source = mjpeg(camera.url, timeout_s=0.3)
            assert (await source.frame()).data == RED
            with pytest.raises(Fault, match=r"no whole picture within 0\.3 s"):
                await source.frame()
            assert (await source.frame()).data == RED
            await source.close()

        asyncio.run(look())
    assert camera.asked == 2


def endless_part(request):
    request.write(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace;boundary=frame\r\n\r\n--frame\r\n\r\n")
    while not request.closing.is_set():
        request.write(b"\xff" * 65_536)


STREAM_FAULTS = [
    ("a page", lambda r: r.answer(PAGE, "text/html"), "not-a-picture", "text/html"),
    ("one picture", lambda r: r.answer(RED), "not-a-picture", "image/jpeg, no MJPEG stream"),
    ("no boundary", stream([RED], media_type="multipart/x-mixed-replace"), "not-a-picture", "no MJPEG stream"),
    ("a page in a part", stream([PAGE]), "login", "NVR login"),
    ("a part without end", endless_part, "too-large", "has no end"),
    ("refused", lambda r: r.answer(b"", status="401 Unauthorized"), "login", "status 401"),
    ("an end", lambda r: r.answer(b"", "multipart/x-mixed-replace; boundary=a"), "unreachable", "the stream has ended"),
]


@pytest.mark.parametrize(("name", "behave", "kind", "detail"), STREAM_FAULTS, ids=[row[0] for row in STREAM_FAULTS])
def test_what_is_wrong_with_a_stream_has_a_name(name, behave, kind, detail):
    with fake_camera(behave) as camera:
        found = fault(lambda: mjpeg(camera.url, timeout_s=10))
    assert (found.kind, detail in found.detail) == (kind, True), found


def test_boundaries_as_cameras_write_them():
    for given in (
        'multipart/x-mixed-replace; boundary="frame"',
        "multipart/x-mixed-replace;charset=x; Boundary=--frame",
    ):
        with fake_camera(stream([RED], media_type=given)) as camera:
            assert of(lambda: mjpeg(camera.url)) == [RED]


# ffmpeg.


def ffmpeg(given, interval_s=0.1, timeout_s=20.0):
    """By arguments, or by the whole of what it is given."""
    tool("ffmpeg")
    given = given if isinstance(given, FfmpegInput) else FfmpegInput(list(given))
    return Ffmpeg(given, interval_s, timeout_s, MOST)


PATTERN = ("-re", "-f", "lavfi", "-i", "testsrc=size=160x120:rate=25")


def children() -> int:
    return len(Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split())


def test_ffmpeg_gives_pictures_and_leaves_no_child():
    found = of(lambda: ffmpeg(PATTERN), 3)
    assert all(data.startswith(b"\xff\xd8") and data.rstrip(b"\r\n").endswith(b"\xff\xd9") for data in found)
    assert len(set(found)) == 3
    assert children() == 0


def test_ffmpegs_last_words_are_told_without_the_password():
    """And its arguments, which everyone may read, do not have it."""
    given = streams.ffmpeg_input(
        config.Rtsp(kind="rtsp", url="rtsp://127.0.0.1:9/it's", username="us er", password="p/w", keyframes=True)
    )
    assert "us%20er" not in str(given.arguments)
    assert given.arguments[:2] == ["-skip_frame", "nokey"]
    assert b"'rtsp://us%20er:p%2Fw@127.0.0.1:9/it'\\''s'\noption rtsp_transport tcp\n" in given.told
    found = fault(lambda: ffmpeg(given))
    assert found.kind == "unreachable"
    assert "refused" in found.detail
    assert "p%2Fw" not in str(found)
    leaky = FfmpegInput(["-i", "/nowhere/p%2Fw.mp4"], secrets=given.secrets)
    assert "***" in fault(lambda: ffmpeg(leaky)).detail
    assert children() == 0


def test_a_list_leads_ffmpeg_to_no_file(tmp_path):
    given = streams.ffmpeg_input(config.Rtsp(kind="rtsp", url="rtsp://127.0.0.1:9/a"))
    video = tmp_path / "video.avi"
    subprocess.run([tool("ffmpeg"), "-loglevel", "error", "-f", "lavfi", "-i", "testsrc=duration=1", video], check=True)
    elsewhere = replace(given, told=f"ffconcat version 1.0\nfile '{video}'\n".encode())
    assert fault(lambda: ffmpeg(elsewhere)).kind == "unreachable"


def test_an_account_that_ffmpeg_is_refused_with():
    with fake_camera(
        lambda r: r.answer(b"", status="401 Unauthorized", headers="WWW-Authenticate: Basic\r\n")
    ) as camera:
        found = fault(lambda: ffmpeg(["-i", camera.url]))
    assert found.kind == "login"
    assert "401 Unauthorized" in found.detail


def test_ffmpeg_that_gives_nothing_is_ended():
    read, write = os.pipe()
    try:
        found = fault(lambda: ffmpeg(["-f", "mpegts", "-i", f"/proc/{os.getpid()}/fd/{read}"], timeout_s=0.5))
    finally:
        os.close(read)
        os.close(write)
    assert (found.kind, found.detail) == ("unreachable", "no whole picture within 0.5 s")
    assert children() == 0


def test_without_ffmpeg(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    found = fault(lambda: Ffmpeg(FfmpegInput(list(PATTERN)), 1.0, 5.0, MOST))
    assert (found.kind, found.detail) == ("no-ffmpeg", "Debian: apt install ffmpeg")


def test_a_camera_of_this_machine():
    assert streams.ffmpeg_input(config.V4l2(kind="v4l2")).arguments == ["-f", "v4l2", "-i", "/dev/video0"]
    found = fault(lambda: ffmpeg(streams.ffmpeg_input(config.V4l2(kind="v4l2", device="/dev/video-none"))))
    assert found.kind == "unreachable"
    assert "/dev/video-none" in found.detail


# Folders.


def test_a_folder_gives_what_is_new(tmp_path):
    def put(name, data, age_s=10.0):
        path = tmp_path / name
        path.write_bytes(data)
        os.utime(path, (time.time() - age_s,) * 2)

    async def look():
        folder = Folder(tmp_path, MOST, None)
        with pytest.raises(Fault, match="there is no picture in"):
            await folder.frame()
        put("old.jpg", b"old", 99)
        put("new.jpg", RED, 50)
        put(".hidden.jpg", b"x")
        put("empty.jpg", b"")
        (tmp_path / "folder").mkdir()
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "link.jpg").symlink_to(tmp_path / "old.jpg")
        assert (await folder.frame()).data == RED
        assert await folder.frame() is None
        put("newer.jpg", RED + b"half", 0)
        # It may still be written.
        assert await folder.frame() is None
        put("newer.jpg", RED + b"whole", 0)
        assert await folder.frame() is None
        assert (await folder.frame()).data == RED + b"whole"
        assert await folder.frame() is None
        put("huge.jpg", b"x" * (MOST + 1), 5)
        put("newer.jpg", RED, 20)
        with pytest.raises(Fault, match="200001 bytes"):
            await folder.frame()
        put("huge.jpg", PAGE, 4)
        with pytest.raises(Fault, match="a page came"):
            await folder.frame()

    asyncio.run(look())
    assert fault(lambda: Folder(tmp_path / "gone", MOST, None)).kind == "unreachable"


def test_a_folder_without_anything_new_is_frozen_if_that_is_said(tmp_path):
    (tmp_path / "a.jpg").write_bytes(RED)
    os.utime(tmp_path / "a.jpg", (time.time() - 100,) * 2)
    found = fault(lambda: Folder(tmp_path, MOST, 60))
    assert (found.kind, found.detail[:30]) == ("frozen", "the newest picture, a.jpg, is ")
    assert of(lambda: Folder(tmp_path, MOST, 200)) == [RED]
    # A clock that was set back since.
    os.utime(tmp_path / "a.jpg", (time.time() + 10_000,) * 2)
    assert of(lambda: Folder(tmp_path, MOST, 60)) == [RED]


def test_every_kind_of_source_can_be_made(tmp_path):
    kinds = {
        "http": {"url": "http://x/"},
        "mjpeg": {"url": "http://x/"},
        "rtsp": {"url": "rtsp://x/", "keyframes": True},
        "v4l2": {},
        "folder": {"path": str(tmp_path)},
    }

    async def make():
        for kind, settings in kinds.items():
            given = config.Camera.model_validate({"source": {"kind": kind, **settings}})
            await cameras.open_source(given).close()

    asyncio.run(make())


def test_a_hostile_camera_costs_no_memory():
    """What is sent without end is cut at max_frame_bytes."""
    with fake_camera(endless) as camera:
        fault(lambda: snapshot(camera.url))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(20):
            assert fault(lambda: snapshot(camera.url)).kind == "too-large"
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000
