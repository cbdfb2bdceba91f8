"""The process as people run it: a real service, a real broker, a camera on a real socket."""

import contextlib
import json
import signal
import subprocess
import sys
import threading

import httpx
import numpy as np
import pytest
import yaml
from PIL import Image

from tests.cameras.broker import Listener, mosquitto, retained
from tests.cameras.fake_camera import covered, fake_camera, picture
from tests.conftest import ROOT, serving, wait_until
from tests.manifests.tools import tool
from tests.photos import encode
from tests.processes import free_port
from tests.tiny_model import contract, write

RED, BLUE = (200, 60, 60), (60, 60, 200)


class Scene:
    """What a camera sees; a test changes it."""

    def __init__(self, shown):
        self.shown = shown

    def __call__(self, request):
        shown = self.shown
        if shown == "page":
            request.answer(b"<html><title>login</title>", "text/html")
        elif callable(shown):
            request.answer(shown())
        else:
            request.answer(covered() if shown == "covered" else picture(shown))


def settings(url, service, **more) -> dict:
    """A file with one camera and one region, which looks ten times a second."""
    given = {
        "source": {"kind": "http", "url": url},
        "interval_seconds": 0.1,
        "timeout_seconds": 5,
        "max_age_seconds": 20,
        "regions": {"bin": {"agree": 2, "of": 3, "crop": [0.1, 0.1, 0.8, 0.8], "binary_sensors": ["red"]}},
    }
    return {"service": {"url": str(service).rstrip("/")}, "cameras": {"yard": given}} | more


class Process:
    """``edge-classifier cameras``; its events are read as they come."""

    def __init__(self, path):
        command = [sys.executable, "-m", "app", "cameras", str(path)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )
        self.events, self.log = [], []
        self._readers = [
            threading.Thread(
                target=self._read, args=(self.process.stdout, lambda line: self.events.append(json.loads(line)))
            ),
            threading.Thread(target=self._read, args=(self.process.stderr, self.log.append)),
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream, take):
        for line in stream:
            take(line)

    def states(self):
        return [event["fault"] or event["state"] for event in list(self.events)]

    def until(self, *states):
        wait_until(lambda: self.process.poll() is not None or self.states() == list(states))
        assert self.states() == list(states), (self.states(), self.log)

    def said(self, text):
        wait_until(lambda: any(text in line for line in list(self.log)))

    def end(self) -> int:
        self.process.terminate()
        code = self.process.wait(30)
        for reader in self._readers:
            reader.join(30)
        self.process.stdout.close()
        self.process.stderr.close()
        return code


@contextlib.contextmanager
def running(path, given):
    path.write_text(yaml.safe_dump(given))
    process = Process(path)
    try:
        yield process
    finally:
        process.process.kill()
        process.end()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cameras.yaml"


def test_a_bin_that_fills_is_covered_and_cut_off(client, path, tmp_path):
    """Exactly five events: empty, full, covered, gone, back; whatever flickers in between."""
    port, camera_port = free_port(), free_port()
    state = "edge-classifier/yard/bin/state"
    mqtt = {"host": "127.0.0.1", "port": port}
    scene = Scene(BLUE)
    with mosquitto(tmp_path, port), contextlib.ExitStack() as stack:
        listener = Listener(port, "edge-classifier/#")
        camera = fake_camera(scene, camera_port)
        url = camera.__enter__().url
        given = settings(url, client.base_url, mqtt=mqtt, frames={"folder": str(tmp_path / "frames")})
        process = stack.enter_context(running(path, given))
        listener.until(state, "blue")
        scene.shown = RED
        listener.until(state, "blue", "red")
        scene.shown = "covered"
        listener.until(state, "blue", "red", "flat")
        camera.__exit__(None, None, None)
        listener.until(state, "blue", "red", "flat", "unreachable")
        scene.shown = RED
        with fake_camera(scene, camera_port):
            listener.until(state, "blue", "red", "flat", "unreachable", "red")
            assert retained(port, "edge-classifier/#")["edge-classifier/status"] == b"online"
            assert process.end() == 0
        assert listener.states(state) == process.states() == ["blue", "red", "flat", "unreachable", "red"]
        told = [json.loads(payload) for payload in listener.of(state)]
        assert [one["before"] for one in told] == [None, "blue", "red", "unavailable", "unavailable"]
        assert told[1]["model"] == "tiny"
        assert "covered lens" in told[2]["detail"]
        # A frame each, but for the one that there was none of.
        images = listener.of("edge-classifier/yard/bin/image")
        assert [image[:3] for image in images] == [b"\xff\xd8\xff"] * 4
        names = [name.rpartition("_")[2] for name in sorted(p.name for p in (tmp_path / "frames").iterdir())]
        assert names == ["blue.jpg", "red.jpg", "flat.jpg", "red.jpg"]
        available = listener.of("edge-classifier/yard/bin/availability")
        assert available == [b"offline", b"online", b"online", b"offline", b"offline", b"online"]
        wait_until(lambda: listener.of("edge-classifier/status")[-1:] == [b"offline"])
        listener.close()


def test_what_home_assistant_is_told(client, path, tmp_path):
    """Entities come and go with the file; what a run has left is taken back by the next one."""
    port = free_port()
    given = settings(
        "http://127.0.0.1:9/", client.base_url, mqtt={"host": "127.0.0.1", "port": port, "topic": "home/gw 1"}
    )
    with mosquitto(tmp_path, port):
        stale = Listener(port, "x")
        stale._client.publish("homeassistant/sensor/home_gw_1/old_all_state/config", "{}", retain=True)
        stale._client.publish("homeassistant/sensor/other/old_all_state/config", "{}", retain=True)
        stale._client.publish("home/gw 1/old/all/state", "{}", retain=True)
        stale._client.publish("home/gw 1/old/all/image", "{}", retain=True)
        with running(path, given) as process:
            process.said("connected")
            wait_until(lambda: "home/gw 1/old/all/image" not in retained(port, "home/#"))
            found = retained(port, "homeassistant/#")
            entities = {topic: json.loads(payload) for topic, payload in found.items()}
            assert sorted(entities) == [
                "homeassistant/binary_sensor/home_gw_1/yard_bin_fault/config",
                "homeassistant/binary_sensor/home_gw_1/yard_bin_is_red_b1f51a/config",
                "homeassistant/image/home_gw_1/yard_bin_image/config",
                "homeassistant/sensor/home_gw_1/yard_bin_state/config",
                "homeassistant/sensor/other/old_all_state/config",
            ]
            sensor = entities["homeassistant/sensor/home_gw_1/yard_bin_state/config"]
            assert sensor["state_topic"] == "home/gw 1/yard/bin/state"
            assert sensor["availability"] == [
                {"topic": "home/gw 1/status"},
                {"topic": "home/gw 1/yard/bin/availability"},
            ]
            given["cameras"]["yard"]["regions"] = {"gate": {}}
            path.write_text(yaml.safe_dump(given))
            process.process.send_signal(signal.SIGHUP)
            process.said("read again: 1 cameras")
            wait_until(
                lambda: "homeassistant/image/home_gw_1/yard_bin_image/config" not in retained(port, "homeassistant/#")
            )
            assert "homeassistant/image/home_gw_1/yard_gate_image/config" in retained(port, "homeassistant/#")
            assert not [topic for topic in retained(port, "home/#") if "/bin/" in topic]
        stale.close()


def test_a_broker_that_goes_and_comes_is_told_what_is_true_then(client, path, tmp_path):
    port, scene = free_port(), Scene(BLUE)
    state = "edge-classifier/yard/bin/state"
    with fake_camera(scene) as camera, contextlib.ExitStack() as stack:
        given = settings(camera.url, client.base_url, mqtt={"host": "127.0.0.1", "port": port})
        # It is not there yet.
        process = stack.enter_context(running(path, given))
        process.until("blue")
        with mosquitto(tmp_path, port):
            wait_until(lambda: state in retained(port, "#"))
            assert json.loads(retained(port, state)[state])["state"] == "blue"
        process.said("is gone")
        scene.shown = RED
        process.until("blue", "red")
        with mosquitto(tmp_path, port):
            process.said("connected")
            wait_until(lambda: state in retained(port, "#"))
            told = retained(port, "edge-classifier/#")
            assert json.loads(told[state])["state"] == "red"
            assert told["edge-classifier/status"] == b"online"
            # kill -9: the broker tells the last will.
            process.process.kill()
            wait_until(lambda: retained(port, "edge-classifier/status")["edge-classifier/status"] == b"offline")


def test_a_broker_that_wants_a_password_and_tls(client, path, tmp_path):
    port = free_port()
    key, certificate, passwords = (tmp_path / name for name in ("key.pem", "certificate.pem", "passwords"))
    subprocess.run(
        [tool("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    subprocess.run([tool("mosquitto_passwd"), "-b", "-c", passwords, "cams", "right"], check=True, capture_output=True)
    lines = [f"password_file {passwords}", f"certfile {certificate}", f"keyfile {key}", "allow_anonymous false"]
    mqtt = {
        "host": "127.0.0.1",
        "port": port,
        "username": "cams",
        "password": "wrong",
        "tls": {"ca_file": str(certificate)},
    }
    given = settings("http://127.0.0.1:9/", client.base_url, mqtt=mqtt)
    with mosquitto(tmp_path, port, *lines), running(path, given) as process:
        process.said("refuses the connection: ")
        # It goes on with everything else.
        process.until("unreachable")
        (tmp_path / "password").write_text("right\n")
        mqtt["password"] = {"file": str(tmp_path / "password")}
        path.write_text(yaml.safe_dump(given))
        process.process.send_signal(signal.SIGHUP)
        process.said("connected to 127.0.0.1")
        mqtt["tls"] = True
        path.write_text(yaml.safe_dump(given))
        process.process.send_signal(signal.SIGHUP)
        # No authority of this machine knows it.
        process.said("cannot be reached")
        assert process.end() == 0
        assert "right" not in "".join(process.log)


def test_the_service_goes_and_comes(tiny, path):
    port, scene = free_port(), Scene(RED)
    with fake_camera(scene) as camera, contextlib.ExitStack() as stack:
        process = stack.enter_context(running(path, settings(camera.url, f"http://127.0.0.1:{port}")))
        process.until("service")
        assert "no answer from" in process.events[0]["detail"]
        with serving(tiny, port=port):
            process.until("service", "red")
        process.until("service", "red", "service")
        with serving(tiny, port=port, api_keys="a-key-that-is-long-enough"):
            process.said("Unauthorized (401)")
            given = settings(camera.url, f"http://127.0.0.1:{port}")
            given["service"]["api_key"] = "a-key-that-is-long-enough"
            path.write_text(yaml.safe_dump(given))
            process.process.send_signal(signal.SIGHUP)
            process.until("service", "red", "service", "red")
        assert process.end() == 0


@pytest.mark.parametrize("status", ["503 Service Unavailable", "429 Too Many Requests"])
def test_a_service_that_refuses_is_a_fault(path, status):
    with fake_camera(Scene(RED)) as camera, fake_camera(
        lambda r: r.answer(b"", "text/plain", status, "Retry-After: 60\r\nLocation: /x\r\n")
    ) as service, running(path, settings(camera.url, f"http://127.0.0.1:{service.port}")) as process:  # fmt: skip
        process.until("service")
        assert status[:3] in process.events[0]["detail"]
        assert process.end() == 0


def test_faults_have_names_and_unknown_is_none_of_them(path, tmp_path):
    scene = Scene("page")
    model = write(tmp_path / "tiny.fp32.onnx", contract(unknown_below=0.9))
    with serving(model) as client, fake_camera(scene) as camera:
        given = settings(camera.url, client.base_url)
        given["cameras"]["yard"] |= {"frozen_after_seconds": 1.0}
        with running(path, given) as process:
            expected = ["login"]
            process.until(*expected)
            for shown, state in (
                ("covered", "flat"),
                (RED, "red"),
                ((128, 128, 128), "unknown"),
                (lambda: picture(RED)[:1500], "broken-picture"),
                (lambda: b"GIF87 or so" + picture(RED)[100:], "not-a-picture"),
                (RED, "red"),
            ):
                scene.shown = shown
                expected.append(state)
                process.until(*expected)
            same = picture(RED)
            scene.shown = lambda: same
            process.until(*expected, "frozen")
            assert process.end() == 0


def test_a_restart_is_no_event(client, path, tmp_path):
    """The state is told as it was, also to a broker that has forgotten it; what changed meanwhile is an event."""
    port, scene, file = free_port(), Scene(RED), tmp_path / "states.json"
    state, available = (f"edge-classifier/yard/bin/{name}" for name in ("state", "availability"))
    with fake_camera(scene) as camera:
        given = settings(camera.url, client.base_url, mqtt={"host": "127.0.0.1", "port": port}, states=str(file))
        with running(path, given) as process:
            process.until("red")
            assert process.end() == 0
        told = json.loads(file.read_text())["yard/bin"]
        with mosquitto(tmp_path, port), running(path, given) as process:
            wait_until(lambda: retained(port, available).get(available) == b"online")
            assert json.loads(retained(port, state)[state]) == told
            assert process.events == []
            scene.shown = BLUE
            process.until("blue")
            assert process.events[0]["before"] == "red"
            # Another region's settings begin it anew, and are no event either.
            given["cameras"]["yard"]["regions"]["bin"]["agree"] = 3
            path.write_text(yaml.safe_dump(given))
            process.process.send_signal(signal.SIGHUP)
            process.said("read again")
            scene.shown = RED
            process.until("blue", "red")
            assert process.end() == 0
        # Cut off, and where it cannot be written.
        file.write_text('{"yard/bin": {"label": 1')
        with running(path, given | {"states": str(tmp_path / "no" / "where")}) as process:
            process.said("where: No such file or directory")
            process.until("red")
        with running(path, {**given, "mqtt": None}) as process:
            process.said("cannot be read, so nothing is known of before")
            process.until("red")
            assert process.events[0]["before"] is None


def test_regions_of_a_frame_are_one_request(tmp_path, path):
    """With a mask and a fit of their own; the metrics count a photo for each frame."""
    wide = Image.new("RGB", (400, 100), (10, 10, 240))
    wide.paste((240, 10, 10), (0, 0, 150, 100))
    noisy = np.asarray(wide).astype(int) + np.random.default_rng(0).integers(-9, 10, (100, 400, 3))
    photo = encode(Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)), "PNG")
    with (
        serving(write(tmp_path / "tiny.fp32.onnx", contract())) as client,
        fake_camera(lambda r: r.answer(photo)) as camera,
    ):
        given = settings(camera.url, client.base_url)
        given["cameras"]["yard"] |= {"size": [400, 100], "interval_seconds": 60}
        given["cameras"]["yard"]["regions"] = {
            "middle": {"crop": [0, 0, 1, 1], "flat_below": 0},
            "left": {"pixels": [0, 0, 200, 100], "fit": "pad", "flat_below": 0},
            "masked": {"fit": "pad", "flat_below": 0, "mask_pixels": [[0, 0, 150, 0, 150, 100, 0, 100]]},
            "hidden": {"masks": [[0, 0, 1, 1]]},
        }
        path.write_text(yaml.safe_dump(given, sort_keys=False))
        command = [sys.executable, "-m", "app", "cameras", "--once", str(path)]
        lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.splitlines()
        assert [line.split()[:2] for line in lines] == [
            ["yard/middle", "blue"],
            ["yard/left", "red"],
            ["yard/masked", "blue"],
            ["yard/hidden", "unavailable:"],
        ]
        text = client.get("/metrics").text
        assert 'classifier_requests_total{route="/predict/regions",status="200"} 1.0' in text
        assert "classifier_photos_total 1.0" in text


def test_a_file_that_is_read_again(client, path):
    """Cameras that are as they were go on, with what is known of them; a wrong file changes nothing."""
    port = free_port()
    with fake_camera(Scene(RED)) as camera, fake_camera(Scene(BLUE)) as other:
        given = settings(camera.url, client.base_url, metrics={"port": port})
        with running(path, given) as process:
            process.until("red")
            path.write_text("cameras: {yard: {sorce: 1}}")
            process.process.send_signal(signal.SIGHUP)
            process.said("not read again: ")
            process.said(":1: cameras.yard.sorce: there is no such setting; did you mean 'source'?")
            given["cameras"]["gate"] = settings(other.url, client.base_url)["cameras"]["yard"]
            path.write_text(yaml.safe_dump(given))
            process.process.send_signal(signal.SIGHUP)
            process.until("red", "blue")
            assert [event["camera"] for event in process.events] == ["yard", "gate"]
            assert 'camera="gate"' in httpx.get(f"http://127.0.0.1:{port}/metrics").text
            del given["cameras"]["gate"], given["metrics"]
            path.write_text(yaml.safe_dump(given))
            process.process.send_signal(signal.SIGHUP)
            process.said("read again: 1 cameras")
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"http://127.0.0.1:{port}/metrics")
            assert process.end() == 0
            assert process.states() == ["red", "blue"]


def test_a_label_that_the_model_does_not_have_is_told(client, path):
    given = settings("http://127.0.0.1:9/", client.base_url)
    given["cameras"]["yard"]["regions"]["bin"]["binary_sensors"] = ["red", "rde"]
    with running(path, given) as process:
        process.said("yard/bin: the model has no label 'rde', so its binary sensor stays off")
        assert process.end() == 0
        assert "'red'" not in "".join(process.log)


def test_once(client, path, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a.jpg").write_bytes(picture(BLUE))
    with fake_camera(Scene(RED)) as camera, fake_camera(Scene("covered")) as dark:
        given = settings(camera.url, client.base_url)
        given["cameras"]["yard"]["regions"]["all"] = {}
        given["cameras"]["dark"] = {"source": {"kind": "http", "url": dark.url}}
        given["cameras"]["folder"] = {"source": {"kind": "folder", "path": str(tmp_path / "folder")}}
        path.write_text(yaml.safe_dump(given, sort_keys=False))
        command = [sys.executable, "-m", "app", "cameras", "--once", str(path)]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        lines = ended.stdout.splitlines()
        assert [line.split()[:2] for line in lines] == [
            ["yard/bin", "red"],
            ["yard/all", "red"],
            ["dark/all", "unavailable:"],
            ["folder/all", "blue"],
        ]
        assert (ended.returncode, ended.stderr) == (1, "")
        del given["cameras"]["dark"]
        path.write_text(yaml.safe_dump(given))
        assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_an_address_for_metrics_that_is_taken(client, path):
    with fake_camera(Scene(RED)) as camera:
        given = settings(camera.url, client.base_url, metrics={"port": camera.port})
        with running(path, given) as process:
            assert process.process.wait(30) == 2
            process.said("metrics: ")
