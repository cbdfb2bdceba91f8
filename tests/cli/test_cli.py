"""The command line as a process, as people start it."""

import contextlib
import csv
import io
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.cli import doctor
from app.cli.results import JsonLines, ResultsFileError, append_to
from app.inference.model import Model
from app.registry.source import BUNDLED
from app.runtime.kernels import int8_kernels
from app.settings import Settings
from tests.conftest import ROOT, SHARED, serving
from tests.photos import encode, solid
from tests.processes import free_port
from tests.test_client import FINE, RED, scripted
from tests.tiny_model import contract, write

COLOURS = {"red": (240, 30, 9), "green": (9, 240, 30), "blue": (30, 9, 240)}


def begin(*arguments, cwd=ROOT, model=None, **options) -> subprocess.Popen:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CLASSIFIER_")}
    environment = clean | {"PYTHONPATH": str(ROOT)} | ({"CLASSIFIER_MODEL": str(model)} if model else {})
    environment |= options.pop("variables", {})
    command = [sys.executable, "-m", "app", *map(str, arguments)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    return subprocess.Popen(command, cwd=cwd, env=environment, **options)


def run(*arguments, given=None, **options) -> tuple[int, str, str]:
    options |= {"stdin": subprocess.PIPE, "text": not isinstance(given, bytes)}
    process = begin(*arguments, **options)
    out, error = process.communicate(given, timeout=120)
    if isinstance(given, bytes):
        out, error = out.decode(), error.decode()
    assert "Traceback" not in error, error
    return process.returncode, out, error


def fill(folder: Path, count: int, size=(64, 48)) -> dict[str, str]:
    """Writes ``count`` photos into folders by colour; the label of each by its path."""
    expected = {}
    for number in range(count):
        label = list(COLOURS)[number % 3]
        path = folder / label / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(solid(COLOURS[label], size), "PNG"))
        expected[str(path)] = label
    return expected


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """250 photos, a broken one and a file that is no photo."""
    folder = tmp_path_factory.mktemp("album")
    expected = fill(folder, 250)
    (folder / "blue/broken.jpg").write_bytes(encode(solid((9, 9, 9)), "JPEG")[:200])
    (folder / "notes.txt").write_text("not a photo")
    return folder, expected


def test_a_folder_as_csv(album, tiny):
    folder, expected = album
    code, out, error = run("classify", folder, "--csv", "--top-k", 2, model=tiny)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 1
    assert "250 classified, 1 failed" in error
    assert [row["path"] for row in rows] == sorted([*expected, f"{folder}/blue/broken.jpg"])
    assert {row["path"]: row["label_1"] for row in rows if not row["error"]} == expected
    (broken,) = [row for row in rows if row["error"]]
    assert broken["path"].endswith("broken.jpg")
    assert "Send the complete file" in broken["error"]
    assert (broken["label_1"], broken["unknown"]) == ("", "")
    assert set(rows[0]) >= {"path", "size", "mtime_ns", "model", "version", "unknown", "error", "label_2", "score_2"}
    assert (rows[0]["model"], rows[0]["version"]) == ("tiny", "1")


def test_by_a_service_it_is_the_same(album, tiny):
    folder, _ = album
    _, here, _ = run("classify", folder, "--json", model=tiny)
    with serving(tiny) as client:
        code, there, error = run("classify", folder, "--json", "--top-k", 3, "--url", client.base_url)
    assert code == 1
    assert "250 classified, 1 failed" in error
    pairs = zip(map(json.loads, here.splitlines()), map(json.loads, there.splitlines()), strict=True)
    for ours, theirs in pairs:
        if ours["error"]:
            assert theirs.pop("error") == ours.pop("error")
            assert theirs["predictions"] == []
        else:
            assert theirs == ours


def test_a_photo_that_is_too_large_for_the_service_stops_nothing(tmp_path, tiny):
    fill(tmp_path, 4)
    (tmp_path / "large.png").write_bytes(b"x" * 3_000_000)
    with serving(tiny, max_body_bytes=100_000) as client:
        code, out, error = run("classify", tmp_path, "--json", "--top-k", 3, "--url", client.base_url)
    assert (code, error) == (1, "4 classified, 1 failed\n")
    (large,) = [row for row in map(json.loads, out.splitlines()) if row["error"]]
    assert (large["path"], large["error"][:29]) == (str(tmp_path / "large.png"), "The body has more than 100000")


def test_for_a_person(tmp_path, tiny):
    expected = fill(tmp_path, 3)
    code, out, error = run("classify", tmp_path, model=tiny)
    assert code == 0
    assert "3 classified, 0 failed" in error
    for line, (path, label) in zip(out.splitlines(), sorted(expected.items()), strict=True):
        assert line.startswith(f"{path}  ")
        assert line.split("% ")[1].startswith(label)


def test_groups_first(tmp_path, tiny):
    made = contract(groups=("warm", "cool", "cool"))
    model = write(tmp_path / "tiny.fp32.onnx", made)
    photo = tmp_path / "a.png"
    photo.write_bytes(encode(solid((120, 115, 110)), "PNG"))
    code, out, _ = run("classify", photo, "--groups", model=model)
    assert code == 0
    best, members = out.split(": ")
    assert best.endswith("% cool")
    assert [member.split("% ")[1].strip() for member in members.split(", ")] == ["green", "blue"]
    _, out, _ = run("classify", photo, "--groups", "--json", model=model)
    row = json.loads(out)
    assert [group["label"] for group in row["groups"]] == ["cool", "warm"]
    assert [prediction["label"] for prediction in row["predictions"]] == ["green", "blue"]
    with serving(model) as client:
        for url in ((), ("--url", client.base_url)):
            _, out, _ = run("classify", photo, "--groups", "--csv", "--top-k", 2, *url, model=model)
            (cells,) = csv.DictReader(io.StringIO(out))
            assert (cells["group"], cells["label_1"], cells["label_2"]) == ("cool", "green", "blue")
            assert 0.5 < float(cells["group_score"]) < 0.7
    _, out, _ = run("classify", photo, "--json", model=model)
    assert json.loads(out)["predictions"][0]["label"] == "red"
    # A model without groups has nothing to put first.
    _, out, _ = run("classify", photo, "--groups", model=tiny)
    assert out.split("% ")[1].startswith("red")


def test_one_photo_from_standard_input(tiny):
    photo = encode(solid(COLOURS["green"]), "PNG")
    code, out, error = run("classify", "-", "--json", given=photo, model=tiny)
    assert (code, error) == (0, "")
    assert json.loads(out)["predictions"][0]["label"] == "green"
    code, out, _ = run("classify", "-", given=b"rubbish", model=tiny)
    assert code == 1
    assert "error: The 7 bytes are not an image" in out


def on_a_terminal(*arguments, model) -> tuple[int, str]:
    """What the command writes to a terminal that is its standard error."""
    ours, theirs = pty.openpty()
    process = begin(*arguments, model=model, stdout=subprocess.DEVNULL, stderr=theirs, variables={"TERM": "xterm"})
    os.close(theirs)
    seen = b""
    # Linux answers EIO when nobody has the terminal open any more.
    with contextlib.suppress(OSError):
        while chunk := os.read(ours, 65536):
            seen += chunk
    os.close(ours)
    return process.wait(60), seen.decode()


def test_a_bar_on_a_terminal_only(album, tiny):
    folder, _ = album
    code, seen = on_a_terminal("classify", folder, "--csv", model=tiny)
    assert code == 1
    assert "251/251" in seen
    assert "━" in seen
    assert "250 classified, 1 failed" in seen
    _, _, error = run("classify", folder, "--csv", model=tiny)
    assert error == "250 classified, 1 failed\n"


@pytest.mark.parametrize("form", ["--csv", "--json"])
@pytest.mark.parametrize("by", ["here", "by a service"])
def test_killed_and_taken_up_again(form, by, tmp_path, tiny):
    # Large enough to be killed in the middle.
    expected = fill(tmp_path / "album", 60, size=(1200, 900))
    file = tmp_path / "results"
    with serving(tiny) if by != "here" else contextlib.nullcontext() as client:
        command = ["classify", tmp_path / "album", form, "--out", file, "--top-k", 1]
        command += ["--url", client.base_url] if client else []
        process = begin(*command, model=tiny)
        while not file.exists() or file.read_bytes().count(b"\n") < 10:
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        process.kill()
        process.communicate()
        before = file.read_bytes()
        kept = before.count(b"\n") - (form == "--csv")
        assert 9 <= kept < 60
        # As a power cut would leave it.
        file.write_bytes(before[:-5])
        code, out, error = run(*command, model=tiny)
    assert (code, out) == (0, "")
    assert f"{61 - kept} classified, 0 failed, {kept - 1} had been done before" in error
    text = file.read_text()
    rows = list(csv.DictReader(io.StringIO(text))) if form == "--csv" else list(map(json.loads, text.splitlines()))
    assert [row["path"] for row in rows] == sorted(expected)
    labels = [row["label_1"] if form == "--csv" else row["predictions"][0]["label"] for row in rows]
    assert labels == [expected[path] for path in sorted(expected)]
    assert text.startswith(before[:-5].decode())


def test_what_changed_is_done_again_and_what_failed_still_counts(tmp_path, tiny):
    expected = fill(tmp_path / "album", 3)
    broken = tmp_path / "album/red/broken.png"
    broken.write_bytes(b"rubbish")
    command = ("classify", tmp_path / "album", "--json", "--out", tmp_path / "results")
    assert run(*command, model=tiny)[0] == 1
    code, _, error = run(*command, model=tiny)
    assert (code, error) == (1, "0 classified, 1 failed, 4 had been done before\n")
    broken.write_bytes(Path(next(iter(expected))).read_bytes())
    code, _, error = run(*command, model=tiny)
    assert (code, error) == (0, "1 classified, 0 failed, 3 had been done before\n")


def test_a_file_that_is_something_else_is_left_alone(tmp_path, tiny):
    (photo,) = fill(tmp_path, 1)
    before = Path(photo).read_bytes()
    for form in ("--json", "--csv"):
        code, _, error = run("classify", tmp_path, form, "--out", photo, model=tiny)
        assert code == 2
        assert "holds something else" in error
    assert Path(photo).read_bytes() == before
    assert run("classify", tmp_path, "--csv", "--out", tmp_path / "r", "--top-k", 1, model=tiny)[0] == 0
    code, _, error = run("classify", tmp_path, "--csv", "--out", tmp_path / "r", "--top-k", 2, model=tiny)
    assert code == 2
    assert "other columns (--top-k)" in error


def test_two_at_once_on_one_file(tmp_path):
    with append_to(tmp_path / "r", JsonLines()), pytest.raises(ResultsFileError, match="another process"):
        append_to(tmp_path / "r", JsonLines()).__enter__()


def test_a_service_that_goes_away_breaks_off_without_blaming_photos(tmp_path, tiny):
    fill(tmp_path / "album", 3)
    url = f"http://127.0.0.1:{free_port()}"
    code, _, error = run("classify", tmp_path / "album", "--url", url, "--json", "--out", tmp_path / "results")
    assert code == 1
    assert f"no answer from {url}/predict" in error
    assert (tmp_path / "results").read_text() == ""


def test_a_key_from_a_file(tmp_path):
    (tmp_path / "key").write_text("secret\n")
    (tmp_path / "red.png").write_bytes(RED)
    with scripted(FINE) as (url, heads):
        command = ("classify", tmp_path / "red.png", "--url", url, "--api-key-file", tmp_path / "key")
        code, out, _ = run(*command)
    assert (code, out) == (0, f"{tmp_path}/red.png  unknown (nothing)\n")
    assert "Authorization: Bearer secret" in heads[0]


def test_interrupted(tmp_path, tiny):
    fill(tmp_path / "album", 60, size=(1200, 900))
    with begin("classify", tmp_path / "album", "--json", model=tiny) as process:
        rows = [process.stdout.readline()]
        process.send_signal(signal.SIGINT)
        rows += process.stdout
        error = process.stderr.read()
    assert process.returncode == 130, error
    assert 1 <= len(rows) < 60
    assert not any(json.loads(row)["error"] for row in rows)
    assert error.endswith(" classified, 0 failed\n")
    assert "Traceback" not in error


def test_watching(tmp_path, tiny):
    folder = tmp_path / "incoming"
    expected = fill(folder, 3)
    process = begin("classify", folder, "--watch", "--json", model=tiny)
    rows = (json.loads(line) for line in process.stdout)
    found = {row["path"]: row["predictions"][0]["label"] for row in (next(rows) for _ in range(3))}
    assert found == expected
    photo = encode(Image.fromarray(np.random.default_rng(0).integers(0, 9, (300, 300, 3), np.uint8) + 200), "PNG")
    # It grows for longer than two looks take; half of it would be an error.
    with (folder / "slow.png").open("wb") as slow:
        for part in np.array_split(np.frombuffer(photo, np.uint8), 12):
            slow.write(part.tobytes())
            slow.flush()
            time.sleep(0.25)
    row = next(rows)
    assert (row["path"], row["error"], row["size"]) == (str(folder / "slow.png"), None, len(photo))
    shutil.copy(next(iter(expected)), folder / "late.png")
    assert next(rows)["path"] == str(folder / "late.png")
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "")
    assert error == "5 classified, 0 failed\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["classify"],
        ["classify", "nowhere.jpg"],
        ["classify", "."],
        ["classify", "-", "--watch"],
        ["classify", "-", "--out", "x", "--json"],
        ["classify", ".", "--out", "x"],
        ["classify", ".", "--top-k", "0"],
        ["classify", "photo.png", "--top-k", "4"],
        ["classify", ".", "--csv", "--json"],
        ["serve", "--port", "80"],
        ["nonsense"],
    ],
    ids=" ".join,
)
def test_usage(arguments, tmp_path, tiny):
    if "photo.png" in arguments:
        (tmp_path / "photo.png").write_bytes(encode(solid((1, 2, 3)), "PNG"))
    code, out, error = run(*arguments, cwd=tmp_path, model=tiny)
    assert (code, out) == (2, "")
    assert error


def test_a_reader_that_has_seen_enough(album, tiny):
    with begin("classify", album[0], "--json", model=tiny) as process:
        process.stdout.readline()
        process.stdout.close()
        error = process.stderr.read()
    assert process.returncode == 1
    assert "Traceback" not in error
    assert "BrokenPipe" not in error


@pytest.mark.skipif(not (SHARED / "images/imagenet").is_dir(), reason="needs real photos; the album has made ones")
def test_real_photos(tmp_path):
    code, out, _ = run("classify", SHARED / "images/imagenet", "--json", "--top-k", 1)
    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, len(rows)) == (0, 250)
    classes = set(Model(*BUNDLED.glob("*.onnx")).contract.ids)
    # Named <WordNet id>_<label>.JPEG.
    pairs = [(Path(row["path"]).name.split("_")[0], row["predictions"][0]["id"]) for row in rows]
    right = [said == shown for shown, said in pairs if shown in classes]
    # The bundled model's card has the figure; not every processor rounds alike.
    assert (len(right), sum(right) >= 215) == (250, True)


def test_models(tmp_path, tiny):
    write(tmp_path / "mine.int8.onnx", contract(precision="int8", name="mine", measured={"accuracy": 0.5}))
    (tmp_path / "models").mkdir()
    write(tmp_path / "models/taught.int8.onnx", contract(name="taught", measured={"test": {"accuracy": 0.25}}))
    (tmp_path / "models/broken.onnx").write_text("no model")
    code, out, _ = run("models", cwd=tmp_path)
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[-1] for line in lines if line.startswith("*")] == ["models/taught.int8.onnx"]
    assert any("taught" in line and "25.0%" in line for line in lines)
    assert any(line.startswith("error: models/broken.onnx is not a loadable") for line in lines)
    assert any("mobilenet_v2_1.0_224" in line for line in lines)
    assert lines[-1] == "served: models/taught.int8.onnx (the newest one in models/; the only one to choose from)"
    code, out, _ = run("models", "--json", "mine.int8.onnx", cwd=tmp_path, model=tmp_path / "mine.int8.onnx")
    (row,) = map(json.loads, out.splitlines())
    assert code == 0
    assert (row["served"], row["name"], row["precision"], row["accuracy"]) == (True, "mine", "int8", 0.5)
    assert (row["classes"], row["height"], row["width"]) == (3, 32, 32)
    code, out, _ = run("models", cwd=tmp_path, model=tmp_path / "absent.onnx")
    assert code == 1
    assert "none would be served: there is no model file at" in out


def findings(**variables) -> tuple[int, dict[str, dict]]:
    named = {f"CLASSIFIER_{name.upper()}": str(value) for name, value in variables.items()}
    code, out, error = run("doctor", "--json", variables=named)
    assert not error
    return code, {row["check"]: row for row in map(json.loads, out.splitlines())}


def test_doctor_where_all_is_well(tiny):
    code, found = findings(model=tiny, host="127.0.0.1", port=0)
    assert code == 0
    assert {"processor", "runtime", "clock", "cpus", "port", "model"} <= set(found)
    assert "fail" not in {row["status"] for row in found.values()}
    assert all(bool(row["fix"]) == (row["status"] != "ok") for row in found.values())


def test_doctor_in_a_broken_setup(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, found = findings(model=tmp_path / "absent.onnx", host="127.0.0.1", port=port)
    assert code == 1
    assert found["port"]["status"] == found["model"]["status"] == "fail"
    assert "CLASSIFIER_PORT" in found["port"]["fix"]
    assert "CLASSIFIER_MODEL" in found["model"]["fix"]
    code, found = findings(port="eighty")
    assert code == 1
    assert "eighty" in found["settings"]["found"]


@pytest.mark.parametrize(
    "variables",
    [
        {"api_keys": "short"},
        {"api_keys_file": "absent"},
        {"tls_certificate": "absent", "tls_key": "absent"},
        {"model_public_key": "absent"},
    ],
    ids=min,
)
def test_doctor_finds_what_would_end_the_start(tiny, tmp_path, variables):
    here = {name: value if value == "short" else tmp_path / value for name, value in variables.items()}
    code, found = findings(model=tiny, port=0, **here)
    assert (code, found["settings"]["status"]) == (1, "fail")
    assert "model" not in found
    assert found["settings"]["found"].startswith(f"CLASSIFIER_{min(variables).upper()}")
    assert "short" not in found["settings"]["found"]


def test_doctor_finds_a_model_that_computes_something_else(tmp_path):
    made = contract()
    wrong = contract(golden=type(made.golden)(made.golden.photo, {0: 0.1}, 0.01))
    code, found = findings(model=write(tmp_path / "wrong.onnx", wrong), port=0)
    assert (code, found["model"]["status"]) == (1, "fail")
    assert "golden photo" in found["model"]["found"]


def test_doctor_compares_precisions(tmp_path):
    for precision in ("fp32", "int8"):
        write(tmp_path / f"tiny.{precision}.onnx", contract(precision=precision))
    code, found = findings(model=tmp_path / "tiny.fp32.onnx", precision="auto", port=0)
    assert code == 0
    assert "int8 took" in found["precision"]["found"]


@pytest.mark.parametrize(
    ("machine", "flags", "status", "found"),
    [
        ("x86_64", "avx2 avx512vl avx512_vnni", "ok", "vpdpbusds"),
        ("x86_64", "avx2 fma", "ok", "than with VNNI"),
        ("x86_64", "sse2", "warn", "no AVX2"),
        ("aarch64", "fp asimd asimddp", "ok", "udot"),
        ("aarch64", "fp asimd", "warn", "neither"),
        ("riscv64", "", "warn", "never tried"),
    ],
)
def test_processor(tmp_path, machine, flags, status, found):
    (tmp_path / "cpuinfo").write_text(f"flags\t\t: {flags}\n")
    finding = doctor.processor(int8_kernels(machine, tmp_path / "cpuinfo"))
    assert (finding.status, found in finding.found) == (status, True)


def test_runtime_and_clock():
    assert [doctor.runtime(version).status for version in ("1.28.0", "1.29.1", "2.0")] == ["ok", "warn", "warn"]
    assert doctor.clock(datetime(1970, 1, 2, tzinfo=UTC)).status == "warn"


def test_cpus():
    assert doctor.cpus(Settings(), None).status == "ok"
    assert doctor.cpus(Settings(workers=1), 0.5).status == "warn"
    assert doctor.cpus(Settings(workers=8), 2.0).fix.startswith("unset CLASSIFIER_WORKERS")


def test_memory():
    assert doctor.memory(Settings(), 2, 10_000_000).status == "fail"
    assert doctor.memory(Settings(), 2, 40_000_000).status == "warn"
    assert doctor.memory(Settings(), 2, 400_000_000).status == "ok"
    assert doctor.memory(Settings(max_buffered_bytes=300_000_000), 2, 400_000_000).status == "fail"
