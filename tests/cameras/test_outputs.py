"""Webhooks, the folder of frames, lines and metrics: whatever is done to them, events wait within bounds."""

import asyncio
import base64
import errno
import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from app.cameras import config, frame_folder, metrics, webhooks
from app.cameras.camera import Event
from app.cameras.faults import Fault
from app.cameras.frame_folder import FrameFolder, keep
from app.cameras.lines import Lines
from app.cameras.states import Seen, State
from app.cameras.webhooks import Webhook
from tests.cameras.fake_camera import fake_camera, picture
from tests.conftest import wait_until
from tests.processes import free_port

FRAME = picture((200, 60, 60))
AT = datetime(2026, 11, 27, 12, 0, 0, 123_456, UTC)


def event(label="full", frame=FRAME, number=0, region="bin"):
    return Event(
        "yard", region, State(label="empty"), State(label=label), Seen(label=label, score=0.91), None, frame,
        AT + timedelta(seconds=number),
    )  # fmt: skip


def unavailable():
    seen = Seen(fault=Fault("unreachable", "gone"))
    return Event("yard", "bin", None, State(fault="unreachable"), seen, None, None, AT)


def test_what_is_told():
    assert event().members() == {
        "time": "2026-11-27T12:00:00.123+00:00",
        "camera": "yard",
        "region": "bin",
        "state": "full",
        "before": "empty",
        "label": "full",
        "score": 0.91,
        "unknown": False,
        "fault": None,
        "detail": None,
        "model": None,
        "version": None,
        "request_id": None,
    }
    told = unavailable().members()
    assert (told["state"], told["label"], told["fault"], told["before"]) == ("unavailable", None, "unreachable", None)
    assert told["detail"] == "the camera does not answer (gone)"


# Webhooks.


class Receiver:
    """Keeps what is POSTed to it, and answers by ``statuses``, the last one for ever."""

    def __init__(self, *statuses):
        self.statuses, self.got, self.heads = list(statuses), [], []

    def __call__(self, request):
        length = int(request.header("content-length"))
        body = json.loads(request._handler.rfile.read(length))
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        self.heads.append(request.head)
        self.got.append(body)
        request.answer(b"", "text/plain", f"{status} x")


async def hooked(settings, told, until):
    """What an address got, and how often an event was given up."""
    lost = []
    hook = Webhook(config.Webhook.model_validate(settings), lambda: lost.append(1))
    for one in told:
        hook.tell(one)
    await asyncio.to_thread(wait_until, until)
    await asyncio.sleep(0.05)
    await hook.close()
    return len(lost)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(webhooks, "_PAUSES_S", (0.01, 0.02))


def test_events_come_in_their_order_and_again_until_they_are_taken(quick):
    receiver = Receiver(503, 500, 429, 200)
    with fake_camera(receiver) as address:
        settings = {"url": address.url, "headers": {"Authorization": "Bearer t"}}
        lost = asyncio.run(hooked(settings, [event("a"), event("b")], lambda: len(receiver.got) == 5))
    assert [body["label"] for body in receiver.got] == ["a", "a", "a", "a", "b"]
    assert b"authorization: bearer t" in receiver.heads[0].lower()
    assert "frame" not in receiver.got[0]
    assert lost == 0


def test_the_frame_is_sent_if_that_is_wanted(quick):
    receiver = Receiver(204)
    with fake_camera(receiver) as address:
        told = [event(), unavailable()]
        asyncio.run(hooked({"url": address.url, "images": True}, told, lambda: len(receiver.got) == 2))
    assert base64.b64decode(receiver.got[0]["frame"]) == FRAME
    assert receiver.got[1]["frame"] is None


@pytest.mark.parametrize("status", [400, 401, 404, 302])
def test_what_is_refused_is_given_up(quick, status):
    receiver = Receiver(status, 200)
    with fake_camera(receiver) as address:
        told = [event("a"), event("b")]
        assert asyncio.run(hooked({"url": address.url}, told, lambda: len(receiver.got) == 2)) == 1
    assert [body["label"] for body in receiver.got] == ["a", "b"]


def test_an_address_that_comes_later(quick):
    receiver, port = Receiver(200), free_port()

    async def late():
        told = [event(str(number)) for number in range(3)]
        task = asyncio.create_task(hooked({"url": f"http://127.0.0.1:{port}/"}, told, lambda: len(receiver.got) == 3))
        await asyncio.sleep(0.1)
        with fake_camera(receiver, port):
            return await task

    assert asyncio.run(late()) == 0
    assert [body["label"] for body in receiver.got] == ["0", "1", "2"]


def test_what_waits_has_a_bound(monkeypatch):
    monkeypatch.setattr(webhooks, "_MOST_EVENTS", 10)
    url = f"http://127.0.0.1:{free_port()}/"

    async def tell(settings, told):
        lost = []
        hook = Webhook(config.Webhook.model_validate({"url": url, **settings}), lambda: lost.append(1))
        for one in told:
            hook.tell(one)
        waiting, before = len(hook._waiting), len(lost)
        assert hook._bytes == sum(len(body) for _, body in hook._waiting)
        await hook.close()
        return waiting, before, len(lost)

    assert asyncio.run(tell({}, [event(str(number)) for number in range(25)])) == (10, 15, 25)
    large = [event(frame=bytes(3_000_000)) for _ in range(5)]
    assert asyncio.run(tell({"images": True}, large))[0] == 1


def test_an_event_is_given_up_after_its_time(quick):
    receiver = Receiver(503)
    with fake_camera(receiver) as address:
        lost = []

        async def tell():
            hook = Webhook(config.Webhook(url=address.url, keep_seconds=0.05), lambda: lost.append(1))
            hook.tell(event())
            await asyncio.to_thread(wait_until, lambda: lost)
            await hook.close()

        asyncio.run(tell())
    assert lost == [1]


# The folder of frames.


def test_frames_are_kept_within_bounds(tmp_path):
    settings = config.FrameFolder(folder=tmp_path / "frames", max_megabytes=0.05)
    theirs = tmp_path / "frames/holiday.jpg"
    theirs.parent.mkdir()
    theirs.write_bytes(bytes(100_000))
    for number in range(30):
        keep(settings, event(frame=b"\xff\xd8\xff" + bytes(4997), number=number, label="../a b\0" * 20))
    kept = sorted(path.name for path in theirs.parent.iterdir() if path != theirs)
    assert len(kept) == 10
    assert kept[-1] == "20261127T120029.123Z_yard_bin_a-b-a-b-a-b-a-b-a-b-a-b-a-b-a-b-a-b-a-b.jpg"
    assert theirs.exists()


def test_old_frames_go(tmp_path):
    settings = config.FrameFolder(folder=tmp_path, max_days=1)
    keep(settings, event())
    (first,) = tmp_path.iterdir()
    os.utime(first, (time.time() - 90_000,) * 2)
    keep(settings, event(number=1))
    assert [path.name[:16] for path in tmp_path.iterdir()] == ["20261127T120001."]


def test_a_clock_that_jumps_makes_no_more_frames_than_allowed(tmp_path):
    settings = config.FrameFolder(folder=tmp_path, max_megabytes=0.02)
    for number in (0, 10**8, -(10**9), 5, -(10**8)):
        keep(settings, event(frame=b"\xff\xd8\xff" + bytes(4997), number=number))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 20_000


def test_a_full_disk_leaves_no_halves_and_stops_nothing(tmp_path, monkeypatch):
    real, said = Path.write_bytes, []
    monkeypatch.setattr(frame_folder.log, "warning", lambda form, *parts: said.append(form % parts))

    def full(path, data):
        real(path, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    async def tell():
        lost = []
        folder = FrameFolder(config.FrameFolder(folder=tmp_path), lambda: lost.append(1))
        monkeypatch.setattr(Path, "write_bytes", full)
        folder.tell(event())
        folder.tell(event(number=1))
        folder.tell(unavailable())
        await folder._waiting.join()
        assert list(tmp_path.iterdir()) == []
        monkeypatch.setattr(Path, "write_bytes", real)
        folder.tell(event(number=2))
        await folder.close()
        return len(lost)

    assert asyncio.run(tell()) == 2
    assert [path.name[:16] for path in tmp_path.iterdir()] == ["20261127T120002."]
    # Once, not for every frame.
    assert [line.count("No space left on device") for line in said] == [1]


def test_a_slow_disk_keeps_nobody_waiting(tmp_path, monkeypatch):
    async def tell():
        lost = []
        folder = FrameFolder(config.FrameFolder(folder=tmp_path), lambda: lost.append(1))
        for number in range(40):
            folder.tell(event(number=number))
        await folder.close()
        return len(lost)

    lost = asyncio.run(tell())
    assert lost == 40 - frame_folder._MOST_WAITING
    assert len(list(tmp_path.iterdir())) == frame_folder._MOST_WAITING


# Lines.


def test_lines_that_nobody_reads_are_lost_and_nobody_waits():
    read, write = os.pipe()
    lost = []
    lines = Lines(write, lambda: lost.append(1))
    for number in range(5000):
        lines.put(f"{number} " + "x" * 100)
    assert 0 < len(lost) < 5000
    lines.close(0.05)
    # Somebody reads again: whole lines, in their order.
    text = b""
    os.set_blocking(read, True)
    while text.count(b"\n") < 5000 - len(lost):
        text += os.read(read, 65_536)
    numbers = [int(line.split()[0]) for line in text.splitlines()]
    assert numbers == sorted(numbers)
    lines.close(5)
    os.close(read)
    os.close(write)


def test_a_reader_that_has_left():
    read, write = os.pipe()
    os.close(read)
    lost = []
    lines = Lines(write, lambda: lost.append(1))
    lines.put("a")
    wait_until(lambda: lost)
    lines.put("\ud800")
    lines.close(5)
    os.close(write)
    assert lost == [1, 1]


# Metrics.


def served(ask):
    counted = metrics.Metrics()
    counted.know("yard", ["bin"])
    counted.frame("yard")
    counted.fault("yard", "flat")
    counted.event("yard", "bin")
    counted.known("yard", "bin", available=True)
    port = free_port()

    async def serve():
        end = await metrics.serve(counted, "127.0.0.1", port)
        try:
            return await asyncio.to_thread(ask, port, counted)
        finally:
            end()

    return asyncio.run(serve())


def test_metrics_are_served():
    def ask(port, counted):
        url = f"http://127.0.0.1:{port}"
        answer = httpx.get(f"{url}/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=")
        assert 'cameras_faults_total{camera="yard",fault="flat"} 1.0' in answer.text
        assert 'cameras_region_available{camera="yard",region="bin"} 1.0' in answer.text
        assert "process_resident_memory_bytes" in answer.text
        counted.forget("yard", ["bin"])
        assert 'camera="yard"' not in httpx.get(f"{url}/metrics").text
        assert httpx.get(f"{url}/health/live").text == "alive\n"
        assert httpx.get(f"{url}/nothing").status_code == 404
        assert httpx.post(f"{url}/metrics").status_code == 405
        assert httpx.head(f"{url}/metrics").content == b""

    served(ask)


def test_whoever_sends_rubbish_or_nothing_keeps_no_other_waiting():
    import socket

    def ask(port, counted):
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(10)]
        idle[0].sendall(b"A" * 100_000)
        idle[1].sendall(b"\r\n\r\n")
        assert b"405" in idle[1].recv(1000)
        assert httpx.get(f"http://127.0.0.1:{port}/health/live").status_code == 200
        for one in idle:
            one.close()

    served(ask)
