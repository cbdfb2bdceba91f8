"""The service as a process: how it starts, how it refuses to, how it ends, and whom it talks to."""

import ctypes
import json
import os
import platform
import re
import signal
import socket
import struct
import subprocess
import sys

import httpx
import pytest

from app.cli.serve import where
from app.settings import Settings
from tests.conftest import ROOT
from tests.photos import encode, solid
from tests.processes import COMMANDS, failure, free_port, start, until_ready


@pytest.mark.parametrize("command", COMMANDS)
def test_without_a_model(command, tmp_path):
    output = failure(COMMANDS[command], model=tmp_path / "absent.onnx")
    assert f"there is no model file at {tmp_path / 'absent.onnx'}" in output


@pytest.mark.parametrize("command", COMMANDS)
def test_with_a_broken_model(command, tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not onnx")
    assert "is not a loadable ONNX model" in failure(COMMANDS[command], model=path)


def test_with_wrong_settings(tiny):
    output = failure(COMMANDS["module"], model=tiny, port="eighty")
    assert "CLASSIFIER_PORT" in output
    assert "eighty" in output


@pytest.mark.parametrize("command", [["serve"], ["models"], ["classify", "-"]], ids=lambda words: words[0])
def test_with_a_misspelt_setting(tiny, command):
    process = start([sys.executable, "-m", "app", *command], model=tiny, prot=8080)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 2
    assert output.removeprefix("edge-classifier: ") == (
        "CLASSIFIER_PROT: there is no such setting; did you mean CLASSIFIER_PORT?\n"
    )


def test_a_port_that_is_taken(tiny):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "Address already in use" in failure(
            COMMANDS["module"], model=tiny, host="127.0.0.1", port=taken.getsockname()[1]
        )


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("command", COMMANDS)
def test_numbers_that_take_long_to_read(tiny, command):
    process = start(COMMANDS[command], model=tiny, host="127.0.0.1", port=0)
    said = next(line for line in process.stdout if "listening" in line or "running on" in line)
    with httpx.Client(base_url=f"http://127.0.0.1:{re.search(r'(?:127.0.0.1:|port.:)([0-9]+)', said)[1]}") as client:
        for digits, detail in ((640, '"image" is 9'), (641, "Exceeds the limit (640 digits)")):
            response = client.post("/predict", content='{"image": ' + "9" * digits + "}", headers=JSON)
            assert detail in response.json()["detail"]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)


def test_it_logs_json_and_ends_when_told(tiny):
    port = free_port()
    process = start(COMMANDS["module"], model=tiny, host="127.0.0.1", port=port)
    with until_ready(process, port) as client:
        client.post("/predict", content=encode(solid((250, 9, 9)), "JPEG"), headers={"x-request-id": "me"})
        client.post("/predict", content=b"rubbish")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    lines = [json.loads(line) for line in output.splitlines()]
    answered, refused = [line for line in lines if line["message"] == "request"]
    assert answered["request_id"] == "me"
    assert answered["status"] == 200
    assert {"read_ms", "queue_ms", "decode_ms", "infer_ms", "duration_ms", "bytes_in", "bytes_out"} <= set(answered)
    assert (refused["status"], refused["problem"]) == (415, "not-an-image")


@pytest.mark.parametrize(("words", "told"), [(["serve"], True), ([], False)])
def test_a_person_is_told_where_to_look(tiny, words, told):
    """On standard output, where nothing else is; units and images, which do not say "serve", only log."""
    process = start([*COMMANDS["module"], *words], model=tiny, port=0, host="127.0.0.1", path_prefix="/c")
    lines = []
    for line in process.stdout:
        lines.append(line)
        if '"listening"' in line:
            port = json.loads(line)["port"]
            break
    process.send_signal(signal.SIGTERM)
    lines += process.stdout.readlines()
    process.communicate(timeout=30)
    expected = [f"Open http://127.0.0.1:{port}/c/ (Ctrl-C ends the service)\n"] * told
    assert [line for line in lines if not line.startswith("{")] == expected
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "Open http://localhost:8000/ "),
        ({"host": "::"}, "Open http://localhost:8000/ "),
        ({"host": "::1"}, "Open http://[::1]:8000/ "),
        ({"host": "gateway", "path_prefix": "/c"}, "Open http://gateway:8000/c/ "),
        ({"tls_certificate": "c.pem", "tls_key": "k.pem"}, "Open https://localhost:8000/ "),
        ({"ui": "off"}, "Photos are answered at http://localhost:8000/ "),
    ],
)
def test_where_that_is(settings, said):
    assert where(Settings(**settings), 8000) == f"{said}(Ctrl-C ends the service)"


def test_nobody_has_to_read_it(tiny):
    reader, writer = os.pipe()
    os.close(reader)
    environment = {"PATH": "", "CLASSIFIER_MODEL": str(tiny), "CLASSIFIER_PORT": "0", "CLASSIFIER_DRAIN_SECONDS": "0"}
    process = subprocess.Popen(
        [*COMMANDS["module"], "serve"], cwd=ROOT, env=environment, stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert any('"listening"' in line for line in process.stderr)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_a_stop_while_it_starts_ends_the_trial(tiny):
    """In place of the child that tries the model one is started that takes long, and then comes the stop."""
    program = (
        "import os, signal; from app.registry import trial; "
        "start = trial.Trials._start\n"
        "def started(self, command):\n"
        "    child = start(self, ['sleep', '100'])\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return child\n"
        "trial.Trials._start = started\n"
        "from app.__main__ import main; main()"
    )
    process = start([sys.executable, "-c", program], model=tiny, port=0, host="127.0.0.1")
    output, _ = process.communicate(timeout=60)
    assert "the service is shutting down" in output
    assert process.returncode == 0


def test_a_body_that_never_ends_does_not_keep_it(tiny):
    """After its deadline has passed, what is left of it is not waited for as long as of another one."""
    port = free_port()
    limits = {"body_timeout_seconds": 1, "header_timeout_seconds": 3600, "drain_seconds": 0}
    process = start(COMMANDS["module"], model=tiny, host="127.0.0.1", port=port, **limits)
    with until_ready(process, port), socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
        assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")
    assert process.returncode == 0


SYSCALL_CONNECT = {"x86_64": 42, "aarch64": 203}.get(platform.machine())


def forbid_connect() -> None:
    """Lets the kernel kill this process as soon as it calls connect(2): a seccomp filter of four instructions."""
    load, jump_if_equal, back = 0x20, 0x15, 0x06
    program = [
        (load, 0, 0, 0),
        (jump_if_equal, 0, 1, SYSCALL_CONNECT),
        (back, 0, 0, 0x80000000),
        (back, 0, 0, 0x7FFF0000),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))

    class Filter(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))

    libc = ctypes.CDLL(None, use_errno=True)
    found = Filter(len(program), ctypes.addressof(code))
    no_new_privileges, set_seccomp, filter_mode = 38, 22, 2
    assert libc.prctl(no_new_privileges, 1, 0, 0, 0) == 0
    assert libc.prctl(set_seccomp, filter_mode, ctypes.byref(found), 0, 0) == 0


WATCHED = [sys.executable, "-c"]
FORBID = "import sys; sys.path.insert(0, '.'); from tests.test_startup import forbid_connect; forbid_connect(); "


@pytest.mark.skipif(sys.platform != "linux" or not SYSCALL_CONNECT, reason="needs seccomp")
def test_it_never_phones_home(tiny):
    caught = start([*WATCHED, FORBID + "import socket; socket.create_connection(('127.0.0.1', 9))"])
    caught.communicate(timeout=60)
    assert caught.returncode == -signal.SIGSYS, "the trap does not work"
    port = free_port()
    service = start(
        [*WATCHED, FORBID + "from app.__main__ import main; main()"], model=tiny, host="127.0.0.1", port=port
    )
    with until_ready(service, port) as client:
        for _ in range(20):
            assert client.post("/predict", content=encode(solid((250, 9, 9)), "JPEG")).status_code == 200
        assert client.get("/health").status_code == 200
    # The trap holds for the child process too that the model was tried in; otherwise it would not have started.
    service.send_signal(signal.SIGTERM)
    service.communicate(timeout=30)
    assert service.returncode == 0


def test_importing_the_service_stays_light():
    program = (
        "import sys; import app.main, app.cli.serve; "
        "print([m for m in sys.modules if m in ('app.client', 'app.cli.commands') or m.split('.')[0] in ('tensorflow', "
        "'keras', 'model_build', 'onnx', 'tf2onnx', 'scipy', 'skimage', 'rich', 'httpx', 'pillow_heif')])"
    )
    output = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"


SEEN = """
import os, sys
class Seen:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            print(os.environ.get("ORT_DISABLE_TELEMETRY"))
sys.meta_path.insert(0, Seen())
import {}
"""


@pytest.mark.parametrize(
    "module",
    ["app.inference.model", "app.main", "app.cli.doctor", "model_build.export.quantize", "model_build.export.pipeline"],
)
def test_telemetry_is_off_before_the_runtime_is_loaded(module):
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    program = [sys.executable, "-c", SEEN.format(module)]
    output = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
    assert output.stdout.split()[0] == "1"
