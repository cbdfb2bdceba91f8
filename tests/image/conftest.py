"""An image that is there, and an engine that runs it: ``make image-test`` says which."""

import contextlib
import json
import os
import shlex
import subprocess
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.processes import free_port

#: As a gateway runs it; the figures are those of the README.
HARDENED = (
    "--read-only",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
    "--user=10001:10001",
    "--pids-limit=64",
    "--memory=128m",
    "--memory-swap=128m",
)


class Engine:
    """docker, or podman, which takes the same commands."""

    def __init__(self) -> None:
        self.command = shlex.split(os.environ["ENGINE"])
        self.image = os.environ["IMAGE"]
        self.is_podman = "podman" in self.command[0]

    def __call__(self, *arguments: str, check: bool = True, **options) -> subprocess.CompletedProcess:
        options = {"capture_output": True, "text": True, "timeout": 120, **options}
        done = subprocess.run([*self.command, *arguments], check=False, **options)
        assert not check or done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done

    def inspect(self, name: str) -> dict:
        return json.loads(self("inspect", name).stdout)[0]

    @contextlib.contextmanager
    def running(self, *options: str) -> Iterator[httpx.Client]:
        """A hardened container that is ready, and a client for it that knows its name."""
        port = free_port()
        # Docker's root is as read-only as it is told to be; podman's keeps /tmp and /run writable unless told not to.
        own = ["--read-only-tmpfs=false"] if self.is_podman else []
        arguments = ("run", "-d", "-p", f"127.0.0.1:{port}:8000", *HARDENED, *own, *options, self.image)
        name = self(*arguments).stdout.split()[-1]
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                wait_until_ready(client)
                client.container = name
                yield client
        except BaseException:
            logs = self("logs", "--tail", "50", name, check=False)
            print(logs.stdout, logs.stderr)
            raise
        finally:
            self("rm", "-f", name, check=False)


_LOOK = """
import json, os
said = dict(line.split(":", 1) for line in open("/proc/1/status").read().splitlines())
mounts = [line.split() for line in open("/proc/1/mounts")]
files = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
print(json.dumps({
    "uid": said["Uid"].split()[0],
    "capabilities": int(said["CapEff"], 16),
    "no_new_privileges": said["NoNewPrivs"].strip(),
    "root": next(m[3].split(",")[0] for m in mounts if m[1] == "/"),
    "memory": int(open(next(filter(os.path.exists, files))).read()),
}))
"""


def look_from_inside(engine: Engine, name: str) -> dict:
    """What holds for the container's first process, and for its control group."""
    return json.loads(engine("exec", name, "python", "-c", _LOOK).stdout)


def wait_until_ready(client: httpx.Client) -> None:
    """Waits until the container answers, a minute at most."""
    ends = time.monotonic() + 60
    while True:
        with contextlib.suppress(httpx.TransportError):
            if client.get("/health/ready").status_code == 200:
                return
        assert time.monotonic() < ends, "the container does not become ready"
        time.sleep(0.1)


@pytest.fixture(scope="session")
def engine() -> Engine:
    return Engine()


@pytest.fixture(scope="module")
def gateway(engine) -> Iterator[httpx.Client]:
    with engine.running() as client:
        yield client
