"""A wrong file is told by line; a right one says what it means."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from app.cameras import config, supervisor
from app.cameras.config import ConfigError, load
from tests.conftest import ROOT

EXAMPLE = ROOT / "docs/cameras.example.yaml"
SNAP = "source: {kind: http, url: 'http://cam/snap'}"


def written(tmp_path, text):
    path = tmp_path / "cameras.yaml"
    path.write_text(text)
    return path


def problems(tmp_path, text) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, text))
    return [line.removeprefix(str(tmp_path / "cameras.yaml")) for line in caught.value.problems]


def camera(lines: str) -> str:
    """A file with one camera; its settings begin at line 3."""
    return "cameras:\n  yard:\n" + "".join(f"    {line}\n" for line in lines.strip("\n").split("\n"))


WRONG = [
    ("", ": it has no settings; 'cameras:' is needed"),
    ("[1, 2]", ": it has no settings; 'cameras:' is needed"),
    ("service: {}", ":1: cameras: it is missing"),
    ("cameras: {}", ":1: cameras: Dictionary should have at least 1 item"),
    ("cameras:\n  yard: {", ":2: expected the node content"),
    ("cameras:\n\tyard: 1", ":2: found character '\\t' that cannot start any token"),
    ("a: &x {b: *x}", ": it is nested too deeply, or contains itself"),
    ("\0", ": it is not YAML"),
    ("a: 2026-99-99", ": month must be in 1..12"),
    ("cameras:\n  'a b': {" + SNAP + "}", ":2: cameras.a b: String should match pattern"),
    ("cameras:\n  a: {" + SNAP + "}\n  b: {" + SNAP + "}\n  a: {" + SNAP + "}", ":4: cameras.a is there twice"),
    (camera("sorce: {}"), ":3: cameras.yard.sorce: there is no such setting; did you mean 'source'?"),
    (camera("interval_seconds: 1"), ":2: cameras.yard.source: it is missing"),
    (
        camera("source: {url: 'http://x'}"),
        ":3: cameras.yard.source: 'kind' is missing: http, mjpeg, rtsp, v4l2 or folder",
    ),
    (camera("source: {kind: htp}"), ":3: cameras.yard.source: Input tag 'htp' found using 'kind'"),
    (camera("source:\n  kind: http"), ":3: cameras.yard.source.url: it is missing"),
    (camera("source:\n  kind: http\n  url: ftp://x"), ":5: cameras.yard.source.url: an address begins with http"),
    (
        camera("source:\n  kind: http\n  url: http://u:p@cam/x"),
        ":5: cameras.yard.source.url: a user name and password have",
    ),
    (camera("source: {kind: rtsp, url: 'http://x/'}"), ":3: cameras.yard.source.url: an address begins with rtsp://"),
    (camera("source: {kind: v4l2, device: -version}"), ":3: cameras.yard.source.device: String should match"),
    (camera(SNAP + "\ninterval_seconds: 0"), ":4: cameras.yard.interval_seconds: Input should be greater than"),
    (camera(SNAP + "\ninterval_seconds: .inf"), ":4: cameras.yard.interval_seconds: Input should be"),
    (camera(SNAP + "\ninterval_seconds: yes"), ":4: cameras.yard.interval_seconds: Input should be a valid number"),
    (
        camera(SNAP + "\nregions:\n  bin:\n    crop: [0, 0, 1]"),
        ":6: cameras.yard.regions.bin.crop: List should have at least 4",
    ),
    (
        camera(SNAP + "\nregions:\n  bin:\n    crop: [0.5, 0, 0.6, 1]"),
        ":5: cameras.yard.regions.bin: a crop is x, y, width",
    ),
    (
        camera(SNAP + "\nregions:\n  bin:\n    crop: [.nan, 0, 0.6, 1]"),
        ":5: cameras.yard.regions.bin: a crop is x, y, width",
    ),
    (
        camera(SNAP + "\nregions:\n  bin: {pixels: [0, 0, 9, 9]}"),
        ":2: cameras.yard: region 'bin' is in pixels: the camera has",
    ),
    (
        camera(SNAP + "\nsize: [10, 10]\nregions:\n  bin: {pixels: [5, 5, 6, 1]}"),
        ":2: cameras.yard: pixels [5, 5, 6, 1] reach over",
    ),
    (
        camera(SNAP + "\nregions:\n  bin: {masks: [[0, 0, 0.5, 1.5]]}"),
        ":5: cameras.yard.regions.bin: a crop is x, y, width",
    ),
    (
        camera(SNAP + "\nregions:\n  bin: {masks: [[0, 0, 0.5, 0.5, 1]]}"),
        ":5: cameras.yard.regions.bin: a mask is x, y, width, height, or x and y of three corners",
    ),
    (
        camera(SNAP + "\nregions:\n  bin: {mask_pixels: [[0, 0, 1, 1]]}"),
        ":2: cameras.yard: region 'bin' is in pixels: the camera has",
    ),
    (
        camera(SNAP + "\nsize: [10, 10]\nregions:\n  bin: {mask_pixels: [[0, 0, 5, 5, 11, 5]]}"),
        ":2: cameras.yard: pixels [0, 0, 5, 5, 11, 5] reach over",
    ),
    (camera(SNAP + "\nregions:\n  bin: {fit: stretch}"), ":5: cameras.yard.regions.bin.fit: Input should be"),
    (
        camera(SNAP + "\nregions:\n  bin: {agree: 2, of: 5}"),
        ":5: cameras.yard.regions.bin: agree has to be more than half",
    ),
    (camera(SNAP + "\nregions:\n  bin: {keep_score: 0.6}"), ":5: cameras.yard.regions.bin: keep_score is more than"),
    (camera("source: {kind: http, url: 'http://x', password: 1234}"), ":3: cameras.yard.source.password: "),
    (
        camera("source: {kind: http, url: 'http://x', password: a}"),
        ":3: cameras.yard.source: there is a password, but no",
    ),
    (
        camera("source: {kind: http, url: 'http://x', headers: {'A:b': c}}"),
        ":3: cameras.yard.source.headers.A:b: String",
    ),
    (
        camera("source: {kind: http, url: 'http://x', headers: {A: \"b\\r\\nC: d\"}}"),
        ":3: cameras.yard.source.headers.A: a header",
    ),
    (camera("source: {kind: http, url: 'https://x', verify: /nowhere.pem}"), ":3: cameras.yard.source: /nowhere.pem: "),
    ("mqtt: {host: h, topic: 'a/#'}\n" + camera(SNAP), ":1: mqtt.topic: a topic has no + or #"),
    ("mqtt:\n  host: h\n  password: {file: /nowhere}\n" + camera(SNAP), ":3: mqtt.password: the file cannot be read: "),
    (
        "mqtt:\n  host: h\n  password: {env: NOWHERE_SET}\n" + camera(SNAP),
        ":3: mqtt.password: the environment has no variable",
    ),
    (
        "mqtt:\n  host: h\n  tls: {certificate: /a}\n" + camera(SNAP),
        ":3: mqtt.tls: certificate and key belong together",
    ),
    (
        "webhooks:\n  - url: http://a\n  - ulr: http://a\n" + camera(SNAP),
        ":3: webhooks.1.ulr: there is no such setting; did you mean 'url'?",
    ),
]


@pytest.mark.parametrize(("text", "expected"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_told_with_its_line(text, expected, tmp_path):
    found = problems(tmp_path, text)
    assert any(line.startswith(expected) for line in found), found


def test_every_problem_is_told_at_once(tmp_path):
    found = problems(tmp_path, camera(SNAP + "\nintervall_seconds: 2\ntimeout_seconds: -1"))
    assert len(found) == 2


def test_no_secret_is_told(tmp_path):
    text = "mqtt: {host: 7, username: u, password: {fil: tops3cret}}\nwebhooks: [{url: 'http://u:tops3cret@x'}]\n"
    assert "tops3cret" not in "\n".join(problems(tmp_path, text + camera(SNAP)))
    (tmp_path / "key").write_text("tops3cret\n")
    found = load(written(tmp_path, f"service: {{api_key: {{file: {tmp_path / 'key'}}}}}\n" + camera(SNAP)))
    assert "tops3cret" not in repr(found)
    assert found.service.api_key.get_secret_value() == "tops3cret"


def test_secrets_that_have_changed_are_a_change(tmp_path, monkeypatch):
    path = written(tmp_path, "mqtt: {host: h, username: u, password: {env: A_PASSWORD}}\n" + camera(SNAP))
    monkeypatch.setenv("A_PASSWORD", "one")
    one = load(path)
    assert load(path) == one
    monkeypatch.setenv("A_PASSWORD", "two")
    assert load(path) != one


def test_settings_that_are_shared_by_yaml_have_lines_too(tmp_path):
    shared = "cameras:\n  a: &a\n    source: {kind: folder, path: /x}\n    agree: 3\n"
    text = f"{shared}  b:\n    <<: *a\n    interval_seconds: 2\n"
    assert problems(tmp_path, text) == [
        ":4: cameras.a.agree: this setting has its place elsewhere",
        ":4: cameras.b.agree: this setting has its place elsewhere",
    ]
    found = load(written(tmp_path, text.replace("    agree: 3\n", "")))
    assert found.cameras["b"].interval_seconds == 2
    assert found.cameras["a"].source == found.cameras["b"].source


def test_pixels_are_shares(tmp_path):
    found = load(
        written(tmp_path, camera(SNAP + "\nsize: [300, 200]\nregions:\n  a: {pixels: [100, 50, 200, 150]}\n  b: {}"))
    )
    settings = found.cameras["yard"]
    assert settings.crop(settings.regions["a"]) == (pytest.approx(1 / 3), 0.25, pytest.approx(2 / 3), 0.75)
    assert sum(settings.crop(settings.regions["a"])[::2]) <= 1
    assert settings.crop(settings.regions["b"]) is None


def test_without_ffmpeg_it_is_said_which_camera_needs_it(tmp_path, monkeypatch, capsys):
    path = written(tmp_path, "cameras:\n  gate:\n    source: {kind: rtsp, url: 'rtsp://x/1'}\n  yard: {" + SNAP + "}\n")
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert config.missing_ffmpeg(load(path)) == [
        "camera 'gate' needs ffmpeg, which is not installed (Debian: apt install ffmpeg)"
    ]
    assert supervisor.check(path) == 2
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/ffmpeg")
    assert supervisor.check(path) == 0


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="directory"):
        load(tmp_path)
    big = written(tmp_path, "#" * 1_000_001)
    with pytest.raises(ConfigError, match="more than 1000000 bytes"):
        load(big)
    big.write_bytes(b"cameras: \xff\xfe")
    with pytest.raises(ConfigError, match="not YAML"):
        load(big)
    big.write_text("[" * 5000)
    with pytest.raises(ConfigError):
        load(big)


def test_the_command_line(tmp_path):
    def ended(*arguments):
        command = [sys.executable, "-m", "app", "cameras", *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    wrong = ended("--check", written(tmp_path, "cameras: 1"))
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith(f"{tmp_path}/cameras.yaml:1: cameras: ")
    again = ended(tmp_path / "cameras.yaml")
    assert (again.returncode, again.stderr) == (2, wrong.stderr)


def test_the_example_has_every_setting_and_is_right(tmp_path):
    text = EXAMPLE.read_text()
    for name in ("key", "camera-password", "mqtt-password", "webhook-token"):
        (tmp_path / name).write_text("secret")
    text = text.replace("/etc/edge-classifier/", f"{tmp_path}/")
    found = load(written(tmp_path, text))
    assert {given.source.kind for given in found.cameras.values()} == {"http", "mjpeg", "rtsp", "v4l2", "folder"}
    # What is commented out is a setting too.
    named = set()

    def collect(value):
        if isinstance(value, dict):
            named.update(value)
            for one in value.values():
                collect(one)
        elif isinstance(value, list):
            for one in value:
                collect(one)

    collect(yaml.safe_load(text))
    commented = {
        line.split(":")[0].strip("# ") for line in text.splitlines() if line.lstrip().startswith("# ") and ":" in line
    }
    assert set(config._settings()) <= named | commented


def test_no_pattern_counts_characters():
    """A pattern that counts to 200 takes megabytes; all of them took 20."""
    patterns = re.findall(r'pattern=r"([^"]*)"', Path(config.__file__).read_text())
    assert len(patterns) >= 4
    assert [pattern for pattern in patterns if "{" in pattern] == []
