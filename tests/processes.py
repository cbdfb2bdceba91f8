"""The service as a process of its own."""

import os
import signal
import socket
import subprocess
import sys

import httpx

from tests.conftest import ROOT

COMMANDS = {
    "module": [sys.executable, "-m", "app"],
    "uvicorn": [sys.executable, "-m", "uvicorn", "app.main:app", "--port", "0"],
}


def start(command, **variables) -> subprocess.Popen:
    """Starts a program with these settings; what it says, on either stream, can be read from ``stdout``."""
    # Also without what says that this is CI, where ONNX Runtime's uploader would be silent by itself.
    clean = {
        k: v for k, v in os.environ.items() if not k.startswith(("CLASSIFIER_", "GITHUB_", "CI")) and k != "TF_BUILD"
    }
    # No load balancer has to notice that it ends.
    settings = {"drain_seconds": 0, **variables}
    environment = clean | {f"CLASSIFIER_{name.upper()}": str(value) for name, value in settings.items()}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def failure(command, **variables) -> str:
    """What a program says that ends with a fault of these settings."""
    # A port that is free, whatever else runs on this machine.
    process = start(command, **{"port": 0, **variables})
    output, _ = process.communicate(timeout=60)
    assert process.returncode not in (0, -signal.SIGSEGV)
    assert "Traceback" not in output
    return output


def free_port() -> int:
    """A port that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until_ready(process, port) -> httpx.Client:
    """Reads the log until the service says that it is ready; no polling of the socket before."""
    for line in process.stdout:
        if '"listening"' in line:
            return httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
    raise AssertionError("the service ended without being ready")
