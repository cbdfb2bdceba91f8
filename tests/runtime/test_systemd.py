"""A real process and a real socket in systemd's place."""

import asyncio
import signal
import socket
from contextlib import closing

import pytest

from app.runtime.systemd import Manager
from tests.processes import COMMANDS, failure, start


@pytest.fixture(params=["path", "abstract"])
def systemd(request, tmp_path):
    """The socket, and what NOTIFY_SOCKET says about it."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as receiver:
        receiver.settimeout(30)
        if request.param == "path":
            receiver.bind(str(tmp_path / "notify"))
            yield receiver, str(tmp_path / "notify")
        else:
            # Linux picks a free abstract name for the empty one.
            receiver.bind("")
            yield receiver, "@" + receiver.getsockname()[1:].decode()


def test_a_unit_of_type_notify(tiny, systemd, monkeypatch):
    receiver, address = systemd
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    process = start(COMMANDS["module"], model=tiny, host="127.0.0.1", port=0, drain_seconds=0.5)
    assert receiver.recv(100) == b"READY=1"
    # Connections are taken by the time that systemd hears it.
    for line in process.stdout:
        if '"listening"' in line:
            port = int(line.partition('"port":')[2].partition("}")[0].split(",")[0])
            break
    socket.create_connection(("127.0.0.1", port), 5).close()
    assert [receiver.recv(100) for _ in range(5)] == [b"WATCHDOG=1"] * 5
    process.send_signal(signal.SIGTERM)
    said = []
    while said[-1:] != [b"STOPPING=1"]:
        said.append(receiver.recv(100))
    assert set(said[:-1]) <= {b"WATCHDOG=1"}
    # Nobody reads from here on, and the socket fills up; that must not hold up the drain.
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_without_a_watchdog(tiny, systemd, monkeypatch):
    receiver, address = systemd
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    process = start(COMMANDS["module"], model=tiny, host="127.0.0.1", port=0, drain_seconds=0)
    assert receiver.recv(100) == b"READY=1"
    process.send_signal(signal.SIGTERM)
    assert receiver.recv(100) == b"STOPPING=1"
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_a_start_that_fails_is_never_ready(tmp_path, systemd, monkeypatch):
    receiver, address = systemd
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    failure(COMMANDS["module"], model=tmp_path / "absent.onnx", host="127.0.0.1", port=0)
    receiver.setblocking(False)
    with pytest.raises(BlockingIOError):
        receiver.recv(100)


def test_the_watchdog_hears_nothing_while_a_worker_is_dead(systemd):
    receiver, address = systemd
    answers = iter([True, True, False, False, False])

    async def main():
        asked = asyncio.Event()

        def alive() -> bool:
            answer = next(answers, None)
            if answer is None:
                asked.set()
            return bool(answer)

        Manager(address, 2000, alive).listening()
        await asked.wait()

    asyncio.run(main())
    assert [receiver.recv(100) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]
    receiver.setblocking(False)
    with pytest.raises(BlockingIOError):
        receiver.recv(100)


def test_it_serves_where_systemd_does_not_listen(tmp_path, caplog):
    caplog.set_level("WARNING")
    Manager(str(tmp_path / "nobody"), None, lambda: True).leaving()
    assert "systemd cannot be told" in caplog.text


def test_a_wrong_watchdog_is_called_by_its_name(tiny, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "soon")
    output = failure(COMMANDS["module"], model=tiny)
    assert output.startswith("WATCHDOG_USEC: ")
