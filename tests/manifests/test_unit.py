"""The systemd unit: what it allows is what the service does."""

import os
import re
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import httpx
import pytest

from app.settings import Settings
from tests.conftest import ROOT
from tests.manifests.memory import needed_bytes
from tests.manifests.tools import tool
from tests.photos import encode, solid
from tests.processes import free_port, start

PATH = ROOT / "systemd/edge-classifier.service"


def directives(path: Path = PATH) -> dict[str, list[str]]:
    found = defaultdict(list)
    for line in path.read_text().splitlines():
        if line and line[0] not in "#[":
            name, value = line.split("=", 1)
            found[name].append(value)
    return found


UNIT = directives()


def test_it_fits_the_service():
    assert int(UNIT["MemoryMax"][0].rstrip("M")) * 2**20 >= needed_bytes(12)
    settings = Settings()
    assert UNIT["SocketBindAllow"] == [f"tcp:{settings.port}"]
    longest = settings.drain_seconds + settings.body_timeout_seconds + settings.queue_budget_ms / 1e3
    assert int(UNIT["TimeoutStopSec"][0]) > longest
    assert UNIT["Type"] == ["notify"]
    assert UNIT["WatchdogSec"]


@pytest.fixture
def unit(tmp_path):
    """The unit with a Python that exists here."""
    path = tmp_path / PATH.name
    path.write_text(PATH.read_text().replace("/opt/edge-classifier/bin/python", sys.executable))
    return path


def analyze(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([tool("systemd-analyze"), *arguments], check=False, capture_output=True, text=True)


def test_systemd_understands_it(unit):
    verdict = analyze("verify", "--man=no", str(unit))
    assert (verdict.returncode, verdict.stderr) == (0, "")
    unit.write_text(unit.read_text() + "ProtectEverything=yes\n")
    assert "ProtectEverything" in analyze("verify", "--man=no", str(unit)).stderr


def test_systemd_finds_little_exposed(unit):
    """Its scale is from 0 to 10; the threshold is in tenths."""
    assert analyze("security", "--offline=true", "--threshold=15", str(unit)).returncode == 0
    assert analyze("security", "--offline=true", "--threshold=5", str(unit)).returncode != 0


def allowed_calls(unit: dict[str, list[str]]) -> set[str]:
    """What SystemCallFilter= leaves, its groups resolved."""

    def resolve(name: str) -> set[str]:
        if not name.startswith("@"):
            return {name}
        lines = analyze("syscall-filter", name).stdout.splitlines()
        members = [line.strip() for line in lines[1:] if line.strip() and "#" not in line]
        return set().union(*map(resolve, members))

    allowed: set[str] = set()
    for line in unit["SystemCallFilter"]:
        calls = set().union(*map(resolve, line.removeprefix("~").split()))
        allowed = allowed - calls if line.startswith("~") else allowed | calls
    return allowed


def test_the_service_calls_only_what_the_unit_allows(tiny, tmp_path):
    """Under strace: start, a photo, metrics, drain."""
    allowed = allowed_calls(UNIT)
    assert {"read", "sendto", "accept4"} <= allowed
    assert not {"connect", "setuid", "mount"} & allowed
    trace = tmp_path / "trace"
    port = free_port()
    environment = ["env", f"NOTIFY_SOCKET={tmp_path / 'nobody'}"]
    command = [tool("strace"), "-f", "-o", str(trace), *environment, sys.executable, "-m", "app"]
    process = start(command, model=tiny, shadow=tiny, host="127.0.0.1", port=port, drain_seconds=0.1)
    for line in process.stdout:
        if '"listening"' in line:
            break
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        assert client.post("/predict", content=encode(solid((250, 9, 9)), "JPEG")).status_code == 200
        assert client.get("/metrics").status_code == 200
    # The service, not strace.
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
    # The service's own life begins after its execve.
    lines = trace.read_text().partition(f'execve("{sys.executable}"')[2].splitlines()[1:]
    calls = {found[1] for line in lines if (found := re.match(r"\d+\s+([a-z_0-9]+)\(", line))}
    assert {"bind", "epoll_wait", "sendto"} & calls
    assert sorted(calls - allowed) == []
    text = "\n".join(lines)
    families = set(re.findall(r"socket\((AF_\w+)", text))
    assert families <= set(UNIT["RestrictAddressFamilies"][0].split())
    # MemoryDenyWriteExecute=
    assert not re.findall(r"mprotect\([^)]*PROT_EXEC", text)
    assert not re.findall(r"mmap\([^)]*PROT_WRITE\|PROT_EXEC", text)
