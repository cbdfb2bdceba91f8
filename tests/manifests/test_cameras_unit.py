"""The systemd unit of the cameras: what it allows is what they do."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from app.cameras.config import Metrics
from app.cli.commands import parse_args
from tests.cameras.fake_camera import fake_camera, picture
from tests.conftest import ROOT
from tests.manifests.test_unit import allowed_calls, analyze, directives
from tests.manifests.tools import tool
from tests.processes import free_port

PATH = ROOT / "systemd/edge-classifier-cameras.service"
UNIT = directives(PATH)


@pytest.fixture
def unit(tmp_path):
    """The unit with a Python that exists here."""
    path = tmp_path / PATH.name
    path.write_text(PATH.read_text().replace("/opt/edge-classifier/bin/python", sys.executable))
    return path


def test_it_fits_the_command():
    command = UNIT["ExecStart"][0].split()
    assert command[1:3] == ["-m", "edge_classifier"]
    assert str(parse_args(command[3:]).file) == "/etc/edge-classifier/cameras.yaml"
    assert UNIT["SocketBindAllow"] == [f"tcp:{Metrics().port}"]
    assert UNIT["RestartPreventExitStatus"] == ["2"]


def test_systemd_understands_it_and_finds_little_exposed(unit):
    verdict = analyze("verify", "--man=no", str(unit))
    assert (verdict.returncode, verdict.stderr) == (0, "")
    assert analyze("security", "--offline=true", "--threshold=20", str(unit)).returncode == 0


def test_the_cameras_call_only_what_the_unit_allows(client, tmp_path):
    """Under strace: start, frames, an event, metrics, the end."""
    allowed = allowed_calls(UNIT)
    assert {"read", "sendto", "connect"} <= allowed
    assert not {"setuid", "mount"} & allowed
    trace, path = tmp_path / "trace", tmp_path / "cameras.yaml"
    with fake_camera(lambda request: request.answer(picture((200, 60, 60)))) as camera:
        given = {
            "service": {"url": str(client.base_url)},
            "mqtt": {"host": "127.0.0.1", "port": free_port()},
            "metrics": {"port": free_port()},
            "frames": {"folder": str(tmp_path / "frames")},
            "cameras": {"yard": {"source": {"kind": "http", "url": camera.url}, "interval_seconds": 0.1}},
        }
        path.write_text(yaml.safe_dump(given))
        command = [tool("strace"), "-f", "-o", str(trace), sys.executable, "-m", "app", "cameras", str(path)]
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True
        )
        assert '"state": "red"' in process.stdout.readline()
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0
    lines = trace.read_text().partition(f'execve("{sys.executable}"')[2].splitlines()[1:]
    calls = {found[1] for line in lines if (found := re.match(r"\d+\s+([a-z_0-9]+)\(", line))}
    assert {"connect", "sendto"} <= calls
    assert sorted(calls - allowed) == []
    text = "\n".join(lines)
    families = set(re.findall(r"socket\((AF_\w+)", text))
    assert families <= set(UNIT["RestrictAddressFamilies"][0].split())
    # MemoryDenyWriteExecute=
    assert not re.findall(r"mprotect\([^)]*PROT_EXEC", text)
