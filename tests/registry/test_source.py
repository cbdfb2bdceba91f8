"""Which files are served: over real sockets, with real files, renames and links."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from onnx import TensorProto, numpy_helper

from app.registry import trial
from model_build.export import publish
from tests import tiny_model
from tests.conftest import assert_problem, serving, wait_until
from tests.internals import START_TRIAL, service_of, source_of
from tests.processes import COMMANDS, failure, start
from tests.registry.delivery import WRONG, endless, guarded, last, noticed, renamed, settled, swaps, version, write


def damaged(path: Path) -> None:
    data = bytearray(path.read_bytes())
    # Into the values behind the initializer's name: onnx.proto's field 9, raw_data, and its length.
    at = data.index(b"gemm_0.1\x4a") + 10
    data[at] ^= 1
    renamed(path, bytes(data))


def unsealed(path: Path) -> None:
    renamed(path, publish.without_seal(path.read_bytes()))


FOUR = {"labels": ("a", "b", "c", "d"), "ids": (None,) * 4}


TURNED = {"labels": ("green", "blue", "red"), "ids": (None,) * 3}


TWICE = {"labels": ("red", "red", "blue"), "ids": (None,) * 3}


@pytest.mark.parametrize(
    ("deliver", "reason"),
    [
        (lambda path: (write(path, 2), damaged(path)), "do not have the checksum"),
        (lambda path: renamed(path, write(path, 2).read_bytes()[:-100]), "truncated"),
        (lambda path: renamed(path, b""), "truncated"),
        (lambda path: renamed(path, b"hello"), "truncated"),
        (lambda path: (write(path, 2), unsealed(path)), "does not end in a checksum"),
        (lambda path: write(path, 2, golden=WRONG), "golden photo's scores are off"),
        (lambda path: write(path, 2, **FOUR, golden=tiny_model.golden(5)), "4 classes"),
        (lambda path: write(path, 2, **TURNED, golden=tiny_model.golden(5, "red")), "in another order"),
        (lambda path: write(path, 2, **TWICE), "names only 2 classes"),
        (lambda path: write(path, 2, work=2000), "CLASSIFIER_MAX_SLOWDOWN"),
    ],
    ids=["damaged", "cut", "empty", "text", "unsealed", "golden", "labels", "turned", "twice", "slow"],
)
def test_what_is_wrong_is_refused_and_the_old_model_stays(tmp_path, deliver, reason):
    path = write(tmp_path / "m.onnx", 1)
    with serving(path) as client:
        settled(client)
        # Aside first: the delivery is one rename, whatever it takes to make it.
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        deliver(scratch / "m.onnx")
        (scratch / "m.onnx").replace(path)
        found = wait_until(lambda: last(client))
        assert found["outcome"] == "refused"
        assert reason in found["reason"]
        assert found["file"] == "m.onnx"
        assert found["model"] is None
        assert version(client) == "1"
        assert client.get("/health/ready").status_code == 200
        assert swaps(client) == {"refused": 1}
        # And it recovers as soon as something good comes.
        write(path, 3)
        wait_until(lambda: version(client) == "3")


def external(path: Path) -> None:
    """A model whose weights lie in a file beside it."""
    proto = onnx.load_from_string(publish.without_seal(path.read_bytes()))
    weight = next(value for value in proto.graph.initializer if value.name.startswith("gemm"))
    path.with_name("weights.bin").write_bytes(numpy_helper.to_array(weight).tobytes())
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="weights.bin")
    renamed(path, publish.seal(proto.SerializeToString()))


def ort_format(path: Path) -> None:
    """The same model as ONNX Runtime stores it for itself."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(path.with_suffix(".ort"))
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    renamed(path, publish.seal(path.with_suffix(".ort").read_bytes()))


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(300_000_000)


def fifo(path: Path) -> None:
    os.mkfifo(path)


#: What must never be served, wherever it comes from.
BAD = {
    "external weights": (lambda path: external(write(path, 2)), "weights in other files"),
    "ORT format": (lambda path: ort_format(write(path, 2)), "ONNX Runtime's own format"),
    "sparse": (sparse, "CLASSIFIER_MAX_MODEL_BYTES"),
    "fifo": (fifo, "no regular file"),
    "endless": (lambda path: endless(write(path, 2)), "took more than 2 s"),
    "name": (lambda path: write(path, 2, name="../x"), "name"),
    "label": (lambda path: write(path, 2, labels=("red", "green", "a\nb"), golden=tiny_model.golden(5.1)), "label"),
    "tolerance": (
        lambda path: write(path, 2, golden=replace(tiny_model.golden(), tolerance=1e9)),
        "would check nothing",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_what_must_never_be_served(tmp_path, monkeypatch, what):
    monkeypatch.setattr(trial, "PATIENCE_S", 2.0)
    make, reason = BAD[what]
    scratch, folder = tmp_path / "scratch", tmp_path / "folder"
    scratch.mkdir()
    folder.mkdir()
    make(scratch / "m.onnx")
    path = write(folder / "m.onnx", 1)
    # Where ONNX Runtime would look for weights by itself.
    monkeypatch.chdir(folder)
    with serving(path) as client:
        settled(client)
        for file in scratch.iterdir():
            file.replace(folder / file.name)
        found = wait_until(lambda: last(client))
        assert reason in found["reason"]
        assert (version(client), swaps(client)) == ("1", {"refused": 1})
    # Nor at the start: left out of a folder, and alone it ends it.
    write(folder / "good.onnx", 3)
    with serving(folder) as client:
        assert reason in last(client)["reason"]
        assert version(client) == "3"
    if what != "endless":
        assert reason in failure(COMMANDS["module"], model=path)


def test_what_was_refused_is_not_tried_again(tmp_path, monkeypatch):
    """Neither what the child refused, nor what was refused after it, until it changes."""
    path = write(tmp_path / "m.onnx", 1)
    with serving(path) as client:
        settled(client)
        service, tried = service_of(client), []
        trials = source_of(service.updates).trials
        real = getattr(trials, START_TRIAL)
        monkeypatch.setattr(trials, START_TRIAL, lambda command: (tried.append(command), real(command))[1])
        for number, (deliver, reason) in enumerate(
            [
                (lambda: write(path, 2, golden=WRONG), "golden photo"),
                (lambda: write(path, 3, work=2000), "CLASSIFIER_MAX_SLOWDOWN"),
            ],
            1,
        ):
            deliver()
            wait_until(lambda expected=reason: last(client) and expected in last(client)["reason"])
            for other in range(3):
                noticed(client, lambda number=number, other=other: (tmp_path / f"other{number}{other}").write_text("x"))
            assert (len(tried), swaps(client)) == (number, {"refused": number})
        assert version(client) == "1"


@pytest.mark.parametrize("precision", ["fp32", "auto", None])
def test_a_folder_that_goes_away_for_a_while(tmp_path, precision):
    folder = tmp_path / "a" / "models"
    folder.mkdir(parents=True)
    write(folder / "m.onnx", 1)
    with serving(folder, precision=precision) as client:
        settled(client)
        for number in (2, 4):
            noticed(client, lambda: shutil.rmtree(tmp_path / "a"))
            assert version(client) == str(number - 1)
            noticed(client, lambda: folder.mkdir(parents=True))
            write(folder / "m.onnx", number)
            wait_until(lambda expected=str(number): version(client) == expected)
            (folder / "away").mkdir()
            noticed(client, lambda: folder.rename(tmp_path / "elsewhere"))
            (tmp_path / "elsewhere").rename(folder)
            write(folder / "m.onnx", number + 1)
            wait_until(lambda expected=str(number + 1): version(client) == expected)
            shutil.rmtree(folder / "away")
        assert set(swaps(client)) == {"swapped"}


@pytest.fixture
def keys(tmp_path):
    """A private key, and its public one as a file."""
    key = Ed25519PrivateKey.generate()
    path = tmp_path / "models.pub"
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return key, path


def test_only_signed_models_are_served(tmp_path, keys):
    key, public = keys
    folder = tmp_path / "models"
    folder.mkdir()
    path = write(folder / "m.onnx", 1, sign=key.sign)
    with serving(path, model_public_key=public) as client:
        settled(client)
        assert version(client) == "1"
        write(path, 2)
        assert "is not signed" in wait_until(lambda: last(client))["reason"]
        write(path, 3, sign=Ed25519PrivateKey.generate().sign)
        wait_until(lambda: "was not made by the key" in last(client)["reason"])
        # A signature is of one model: it does not fit another.
        signed = {entry.key: entry.value for entry in onnx.load(write(folder / "x", 4, sign=key.sign)).metadata_props}
        proto = onnx.load(write(folder / "x", 5))
        proto.metadata_props.add(key="signature", value=signed["signature"])
        renamed(path, proto.SerializeToString())
        wait_until(lambda: swaps(client) == {"refused": 3})
        assert version(client) == "1"
        write(path, 6, sign=key.sign)
        wait_until(lambda: version(client) == "6")


def test_the_signature_counts_at_the_start_too(tmp_path, keys):
    _, public = keys
    path = write(tmp_path / "m.onnx", 1)
    assert "is not signed" in failure(COMMANDS["module"], model=path, model_public_key=public)
    assert "is not a public key" in failure(COMMANDS["module"], model=path, model_public_key=path)
    process = start(COMMANDS["module"], model=path, model_public_key=path, port=0)
    process.communicate(timeout=60)
    assert process.returncode == 2, "as of every wrong setting"


def test_a_file_that_is_written_in_place_is_served_when_it_is_complete(tmp_path):
    path = write(tmp_path / "m.onnx", 1)
    data = write(tmp_path / "next", 2).read_bytes()
    with serving(path) as client:
        settled(client)
        with path.open("wb") as file:
            file.write(data[:500])
            file.flush()
            # Something else happens, so that the service looks while the file is half there.
            (tmp_path / "other").write_text("")
            assert "truncated" in wait_until(lambda: last(client))["reason"]
            assert version(client) == "1"
            file.write(data[500:])
        wait_until(lambda: version(client) == "2")


def test_a_file_that_is_deleted_is_served_on(tmp_path):
    path = write(tmp_path / "m.onnx", 1)
    with guarded(path) as client:
        settled(client)
        path.unlink()
        assert "no model file" in assert_problem(client.post("/admin/reload"), 409, "model-refused")
        assert version(client) == "1"
        write(path, 2)
        wait_until(lambda: version(client) == "2")
        shutil.rmtree(tmp_path)
        assert version(client) == "2"
        tmp_path.mkdir()
        write(path, 3)
        wait_until(lambda: version(client) == "3")


def publish_volume(volume: Path, version: int, name: str) -> None:
    """As Kubernetes does it: a new directory, then one rename of the link ``..data``."""
    fresh = volume / f"..2026_{version}"
    fresh.mkdir()
    write(fresh / name, version)
    (volume / "..data_tmp").symlink_to(fresh.name)
    before = (volume / "..data").resolve()
    (volume / "..data_tmp").replace(volume / "..data")
    if before != volume / "..data":
        shutil.rmtree(before, ignore_errors=True)
    if not (volume / name).is_symlink():
        (volume / name).symlink_to(f"..data/{name}")


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_kubernetes_volume(tmp_path, what):
    publish_volume(tmp_path, 1, "m.onnx")
    with serving(tmp_path / "m.onnx" if what == "file" else tmp_path) as client:
        settled(client)
        for number in (2, 3, 4):
            publish_volume(tmp_path, number, "m.onnx")
            wait_until(lambda expected=str(number): version(client) == expected)


def test_a_link_to_a_folder_is_switched(tmp_path):
    for release in (1, 2):
        (tmp_path / "releases" / str(release)).mkdir(parents=True)
        write(tmp_path / "releases" / str(release) / "m.onnx", release)
    (tmp_path / "current").symlink_to("releases/1")
    with serving(tmp_path / "current" / "m.onnx") as client:
        settled(client)
        (tmp_path / "new").symlink_to(tmp_path / "releases/2")
        (tmp_path / "new").replace(tmp_path / "current")
        wait_until(lambda: version(client) == "2")
        write(tmp_path / "releases/2/m.onnx", 3)
        wait_until(lambda: version(client) == "3")
