"""Models that come while the service runs: over real sockets, with real files, renames, links and signals."""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from onnx import TensorProto, helper, numpy_helper

from app.registry import loader, source, trial, updates
from model_build.export import publish
from tests import tiny_model
from tests.conftest import assert_problem, serving
from tests.photos import encode, solid
from tests.processes import COMMANDS, failure, free_port, start, until_ready

COLOUR = (140, 120, 20)
PHOTO = encode(solid(COLOUR), "PNG")


def scale_of(version: int | str) -> float:
    """Each version of the tiny model divides by another number, so its scores tell which one computed them."""
    return 5 + int(version) * 0.05


def score_of(version: int | str) -> float:
    return tiny_model.scores_of(*COLOUR, scale_of(version))[0]


def write(path: Path, version: int, sign=None, work=0, name="tiny", golden=None, **changes) -> Path:
    """A model file, put in place by a rename."""
    scale = scale_of(version)
    made = tiny_model.contract(name=name, version=str(version), golden=golden or tiny_model.golden(scale), **changes)
    return tiny_model.write(path, made, scale=scale, work=work, sign=sign)


def until(condition, timeout_s=30):
    """What ``condition`` returns as soon as that is true."""
    ends = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < ends, "it did not come"
        time.sleep(0.01)
    return found


def version(client, **query) -> str:
    """Which version answers; its answer must be its own."""
    body = client.post("/predict", content=PHOTO, params=query).raise_for_status().json()
    assert body["predictions"][0]["score"] == pytest.approx(score_of(body["model"]["version"]), abs=1e-4)
    return body["model"]["version"]


def last(client) -> dict:
    return client.get("/health").raise_for_status().json()["last_update"]


def swaps(client) -> dict[str, int]:
    found = re.findall(r'classifier_model_swaps_total\{outcome="(.+?)"\} (\d+)', client.get("/metrics").text)
    return {outcome: int(count) for outcome, count in found if int(count)}


def infos(client) -> set[tuple[str, str]]:
    return set(
        re.findall(r'model_info\{name="(.+?)",precision=".+?",version="(.+?)"\} 1.0', client.get("/metrics").text)
    )


def service_of(client):
    return client.server.config.app.state.service


@contextlib.contextmanager
def guarded(model, **settings):
    """A service with API keys, and a client that has one."""
    key = "a-key-of-the-tests"
    with serving(model, api_keys=key, **settings) as client:
        client.headers["X-API-Key"] = key
        yield client


def settled(client) -> None:
    """Waits until the service follows its files."""
    until(lambda: service_of(client).updates._watch is not None and not service_of(client).updates._syncing.locked())


def test_a_renamed_file_is_served_and_everything_follows(tmp_path):
    path = write(tmp_path / "m.onnx", 1)
    with serving(path, workers=2) as client:
        settled(client)
        assert (version(client), last(client), infos(client)) == ("1", None, {("tiny", "1")})
        write(path, 2)
        until(lambda: version(client) == "2")
        assert infos(client) == {("tiny", "2")}
        assert swaps(client) == {"swapped": 1}
        health = client.get("/health").json()
        assert health["last_update"]["outcome"] == "swapped"
        assert health["last_update"]["model"] == health["model"] == {"name": "tiny", "version": "2"}
        # The second session is the new model's too; the old one is kept without.
        assert health["cpus"]["exclusive_threads"] == 2
        repository = service_of(client).repository
        kept = repository.previous(repository.default).classifier
        assert kept.multithreaded is kept.model
        assert client.get("/model").json()["version"] == "2"
        assert client.get("/health/ready").status_code == 200


def damaged(path: Path) -> None:
    data = bytearray(path.read_bytes())
    # Into the values behind the initializer's name: onnx.proto's field 9, raw_data, and its length.
    at = data.index(b"gemm_0.1\x4a") + 10
    data[at] ^= 1
    renamed(path, bytes(data))


def renamed(path: Path, data: bytes) -> None:
    partial = path.with_name(".partial")
    partial.write_bytes(data)
    partial.replace(path)


def unsealed(path: Path) -> None:
    renamed(path, publish.without_seal(path.read_bytes()))


def endless(path: Path) -> None:
    """A model that computes for ever."""
    proto = onnx.load(path)
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Mul", ["x", "one"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        ],
        [numpy_helper.from_array(np.array(1, np.float32), "one")],
    )
    nodes = list(proto.graph.node)
    (pool,) = (i for i, node in enumerate(nodes) if node.op_type == "AveragePool")
    pixels, nodes[pool].input[0] = nodes[pool].input[0], "looped"
    nodes.insert(pool, helper.make_node("Loop", ["rounds", "yes", pixels], ["looped"], body=body))
    proto.graph.initializer.append(numpy_helper.from_array(np.array(10**15), "rounds"))
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    renamed(path, publish.seal(proto.SerializeToString()))


FOUR = {"labels": ("a", "b", "c", "d"), "ids": (None,) * 4}
TURNED = {"labels": ("green", "blue", "red"), "ids": (None,) * 3}
WRONG = replace(tiny_model.golden(), scores={0: 0.5})
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
        found = until(lambda: last(client))
        assert found["outcome"] == "refused"
        assert reason in found["reason"]
        assert found["file"] == "m.onnx"
        assert found["model"] is None
        assert version(client) == "1"
        assert client.get("/health/ready").status_code == 200
        assert swaps(client) == {"refused": 1}
        # And it recovers as soon as something good comes.
        write(path, 3)
        until(lambda: version(client) == "3")


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
        found = until(lambda: last(client))
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
        real = service.updates._source.trials._start
        monkeypatch.setattr(
            service.updates._source.trials, "_start", lambda command: (tried.append(command), real(command))[1]
        )
        for number, (deliver, reason) in enumerate(
            [
                (lambda: write(path, 2, golden=WRONG), "golden photo"),
                (lambda: write(path, 3, work=2000), "CLASSIFIER_MAX_SLOWDOWN"),
            ],
            1,
        ):
            deliver()
            until(lambda expected=reason: last(client) and expected in last(client)["reason"])
            for other in range(3):
                looks(client, lambda number=number, other=other: (tmp_path / f"other{number}{other}").write_text("x"))
            assert (len(tried), swaps(client)) == (number, {"refused": number})
        assert version(client) == "1"


def looks(client, change) -> None:
    """Makes a change, and waits until the service has looked because of it."""
    updates = service_of(client).updates
    before = updates.looked
    change()
    until(lambda: updates.looked > before and not updates._syncing.locked())


class Gate:
    """Stands before every trial, and lets it begin when told to."""

    def __init__(self, client, monkeypatch):
        self.open, self.waiting = threading.Event(), threading.Event()
        trials = service_of(client).updates._source.trials
        self.tried: list[bytes] = []
        real = type(trials).__call__

        def gated(self_, data):
            self.tried.append(data)
            self.waiting.set()
            assert self.open.wait(30)
            return real(self_, data)

        monkeypatch.setattr(type(trials), "__call__", gated)


def test_a_roll_back_does_not_wait_for_a_trial(tmp_path, monkeypatch):
    path = write(tmp_path / "m.onnx", 1)
    with guarded(path, workers=2) as client:
        settled(client)
        write(path, 2)
        until(lambda: version(client) == "2")
        gate = Gate(client, monkeypatch)
        write(path, 3)
        assert gate.waiting.wait(30)
        assert client.post("/admin/rollback").raise_for_status().json()["model"]["version"] == "1"
        assert version(client) == "1"
        assert not gate.open.is_set()
        gate.open.set()
        # What was on its way still comes, and replaces what is served by then.
        until(lambda: version(client) == "3")
        assert client.get("/models").json()["models"][0]["previous_version"] == "1"


def test_what_is_rolled_back_while_it_is_tried_again_stays_away(tmp_path, monkeypatch):
    path = write(tmp_path / "m.onnx", 1)
    with guarded(path) as client:
        settled(client)
        write(path, 2)
        until(lambda: version(client) == "2")
        service = service_of(client)
        service.updates._source._passed.clear()
        gate = Gate(client, monkeypatch)
        os.utime(path)
        assert gate.waiting.wait(30)
        client.post("/admin/rollback").raise_for_status()
        gate.open.set()
        settled(client)
        until(lambda: not service.updates._tasks)
        assert version(client) == "1"


@pytest.mark.parametrize("number", [3, 1])
def test_a_roll_back_while_a_file_is_loaded(tmp_path, monkeypatch, number):
    """Another file replaces what is served by then; the same one as what is served by then replaces nothing."""
    path = write(tmp_path / "m.onnx", 1)
    with guarded(path) as client:
        settled(client)
        write(path, 2)
        until(lambda: version(client) == "2")
        real, loading, go = loader.Loader.load, threading.Event(), threading.Event()

        def load(*arguments, **options):
            loaded = real(*arguments, **options)
            loading.set()
            assert go.wait(30)
            return loaded

        monkeypatch.setattr(loader.Loader, "load", load)
        write(path, number)
        assert loading.wait(30)
        client.post("/admin/rollback").raise_for_status()
        assert version(client) == "1"
        go.set()
        until(lambda: not service_of(client).updates._tasks)
        assert version(client) == str(number)
        assert client.get("/models").json()["models"][0]["previous_version"] == ("1" if number == 3 else None)
        assert swaps(client) == {"swapped": 2 if number == 3 else 1, "rolled back": 1}


def test_a_file_that_is_replaced_while_it_is_tried(tmp_path, monkeypatch):
    path = write(tmp_path / "m.onnx", 1)
    with serving(path) as client:
        settled(client)
        gate, loaded = Gate(client, monkeypatch), []
        real = source.Source.read_again

        def read_again(*arguments):
            file, data = real(*arguments)
            loaded.append(data in gate.tried)
            return file, data

        monkeypatch.setattr(source.Source, "read_again", read_again)
        write(path, 2)
        assert gate.waiting.wait(30)
        write(path, 3)
        gate.open.set()
        until(lambda: version(client) == "3")
        # The one in between is neither served nor a failure, and what is served was tried.
        assert swaps(client) == {"swapped": 1}
        assert loaded == [True]


def test_reloads_while_a_file_is_tried_share_one_look(tmp_path, monkeypatch):
    path = write(tmp_path / "m.onnx", 1)
    with guarded(path) as client:
        settled(client)
        updates = service_of(client).updates
        gate = Gate(client, monkeypatch)
        write(path, 2)
        assert gate.waiting.wait(30)
        before, answers = updates.looked, []
        threads = [threading.Thread(target=lambda: answers.append(client.post("/admin/reload"))) for _ in range(5)]
        for thread in threads:
            thread.start()
        until(lambda: updates._waiting)
        gate.open.set()
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [200] * 5
        assert updates.looked - before <= 3
        assert version(client) == "2"


def test_a_shutdown_does_not_wait_for_a_trial(tmp_path):
    path = write(tmp_path / "m.onnx", 1)
    with Process(model=path, drain_seconds=0, api_keys="a-key-of-the-tests") as service:
        other = write(tmp_path / "other", 2)
        endless(other)
        other.replace(path)
        trying = until(lambda: child_of(service.process.pid))
        service.process.send_signal(signal.SIGTERM)
        # Well before its patience ends; the time is not what is asserted, the child is.
        assert service.process.wait(trial.PATIENCE_S - 5) == 0
        assert not Path(f"/proc/{trying}").exists()


def child_of(pid: int) -> str:
    """The first child of any of a process's threads."""
    found = [children.read_text().split() for children in Path(f"/proc/{pid}/task").glob("*/children")]
    return next((pids[0] for pids in found if pids), "")


def test_a_model_that_loads_slowly_is_not_taken_while_others_wait(tmp_path, monkeypatch):
    path = write(tmp_path / "m.onnx", 1)
    with serving(path) as client:
        settled(client)
        findings = trial._findings
        monkeypatch.setattr(trial, "_findings", lambda answer: replace(findings(answer), load_s=1.5))
        write(path, 2)
        assert "loading it takes 1.50 s" in until(lambda: last(client))["reason"]
        assert version(client) == "1"


def test_an_unexpected_error_does_not_end_the_watch(tmp_path, monkeypatch, caplog):
    path = write(tmp_path / "m.onnx", 1)
    with serving(path) as client:
        settled(client)
        source = service_of(client).updates._source
        with monkeypatch.context() as patch:
            broken = threading.Event()

            def fail():
                broken.set()
                raise RuntimeError("what nobody thought of")

            patch.setattr(source, "look", fail)
            write(path, 2)
            assert broken.wait(30)
            until(lambda: "looking for new models failed" in caplog.text)
        assert version(client) == "1"
        write(path, 3)
        until(lambda: version(client) == "3")


@pytest.mark.parametrize("precision", ["fp32", "auto", None])
def test_a_folder_that_goes_away_for_a_while(tmp_path, precision):
    folder = tmp_path / "a" / "models"
    folder.mkdir(parents=True)
    write(folder / "m.onnx", 1)
    with serving(folder, precision=precision) as client:
        settled(client)
        for number in (2, 4):
            looks(client, lambda: shutil.rmtree(tmp_path / "a"))
            assert version(client) == str(number - 1)
            looks(client, lambda: folder.mkdir(parents=True))
            write(folder / "m.onnx", number)
            until(lambda expected=str(number): version(client) == expected)
            (folder / "away").mkdir()
            looks(client, lambda: folder.rename(tmp_path / "elsewhere"))
            (tmp_path / "elsewhere").rename(folder)
            write(folder / "m.onnx", number + 1)
            until(lambda expected=str(number + 1): version(client) == expected)
            shutil.rmtree(folder / "away")
        assert set(swaps(client)) == {"swapped"}


def test_a_model_that_never_answers_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "PATIENCE_S", 2.0)
    path = write(tmp_path / "m.onnx", 1)
    with serving(path) as client:
        settled(client)
        other = write(tmp_path / "other", 2)
        endless(other)
        other.replace(path)
        assert "golden" in until(lambda: last(client))["reason"]
        assert version(client) == "1"


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
        assert "is not signed" in until(lambda: last(client))["reason"]
        write(path, 3, sign=Ed25519PrivateKey.generate().sign)
        until(lambda: "was not made by the key" in last(client)["reason"])
        # A signature is of one model: it does not fit another.
        signed = {entry.key: entry.value for entry in onnx.load(write(folder / "x", 4, sign=key.sign)).metadata_props}
        proto = onnx.load(write(folder / "x", 5))
        proto.metadata_props.add(key="signature", value=signed["signature"])
        renamed(path, proto.SerializeToString())
        until(lambda: swaps(client) == {"refused": 3})
        assert version(client) == "1"
        write(path, 6, sign=key.sign)
        until(lambda: version(client) == "6")


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
            assert "truncated" in until(lambda: last(client))["reason"]
            assert version(client) == "1"
            file.write(data[500:])
        until(lambda: version(client) == "2")


def test_a_file_that_is_deleted_is_served_on(tmp_path):
    path = write(tmp_path / "m.onnx", 1)
    with guarded(path) as client:
        settled(client)
        path.unlink()
        assert "no model file" in assert_problem(client.post("/admin/reload"), 409, "model-refused")
        assert version(client) == "1"
        write(path, 2)
        until(lambda: version(client) == "2")
        shutil.rmtree(tmp_path)
        assert version(client) == "2"
        tmp_path.mkdir()
        write(path, 3)
        until(lambda: version(client) == "3")


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
            until(lambda expected=str(number): version(client) == expected)


def test_a_link_to_a_folder_is_switched(tmp_path):
    for release in (1, 2):
        (tmp_path / "releases" / str(release)).mkdir(parents=True)
        write(tmp_path / "releases" / str(release) / "m.onnx", release)
    (tmp_path / "current").symlink_to("releases/1")
    with serving(tmp_path / "current" / "m.onnx") as client:
        settled(client)
        (tmp_path / "new").symlink_to(tmp_path / "releases/2")
        (tmp_path / "new").replace(tmp_path / "current")
        until(lambda: version(client) == "2")
        write(tmp_path / "releases/2/m.onnx", 3)
        until(lambda: version(client) == "3")


def test_without_keys_nobody_exchanges_models_over_http(tmp_path):
    with serving(write(tmp_path / "m.onnx", 1)) as client:
        for route in ("/admin/reload", "/admin/rollback"):
            assert "CLASSIFIER_API_KEYS" in assert_problem(client.post(route), 403, "admin-locked")


def test_reload_without_inotify(tmp_path, monkeypatch):
    """As on a network file system: nothing tells, so somebody has to ask."""

    def absent(*_args):
        raise OSError("this system has no inotify")

    monkeypatch.setattr(updates, "DirectoryWatcher", absent)
    path = write(tmp_path / "m.onnx", 1)
    with guarded(path) as client:
        write(path, 2)
        assert version(client) == "1"
        (update,) = client.post("/admin/reload").raise_for_status().json()["updates"]
        assert (update["outcome"], update["model"]) == ("swapped", {"name": "tiny", "version": "2"})
        assert version(client) == "2"
        renamed(path, b"rubbish")
        detail = assert_problem(client.post("/admin/reload"), 409, "model-refused")
        assert detail.startswith("m.onnx: ")
        assert_problem(client.post("/admin/reload"), 409, "model-refused")
        assert version(client) == "2"


def test_roll_back(tmp_path):
    path = write(tmp_path / "m.onnx", 1)
    with guarded(path) as client:
        settled(client)
        assert_problem(client.post("/admin/rollback"), 409, "no-previous-model")
        write(path, 2)
        until(lambda: version(client) == "2")
        assert client.get("/models").json()["models"][0]["previous_version"] == "1"
        answer = client.post("/admin/rollback").raise_for_status().json()
        assert (answer["outcome"], answer["model"]["version"]) == ("rolled back", "1")
        assert (version(client), infos(client)) == ("1", {("tiny", "1")})
        assert_problem(client.post("/admin/rollback"), 409, "no-previous-model")
        # The file that was given up still lies there; a change beside it does not bring it back, ...
        write(tmp_path / "else.onnx", 9)
        os.utime(path)
        until(lambda: not service_of(client).updates._syncing.locked() and not service_of(client).updates._tasks)
        time.sleep(0.2)
        assert version(client) == "1"
        # ... asking for it does, and so does the next file.
        client.post("/admin/reload").raise_for_status()
        assert version(client) == "2"
        assert client.post("/admin/reload").json() == {"updates": []}
        client.post("/admin/rollback").raise_for_status()
        write(path, 3)
        until(lambda: version(client) == "3")


def test_a_file_may_bring_a_model_of_another_name(tmp_path):
    path = write(tmp_path / "m.onnx", 1)
    with guarded(path) as client:
        settled(client)
        write(path, 2, name="other")
        until(lambda: version(client) == "2")
        assert [m["name"] for m in client.get("/models").json()["models"]] == ["other"]
        assert_problem(client.post("/predict?model=tiny", content=PHOTO), 404, "unknown-model")
        client.post("/admin/rollback").raise_for_status()
        assert version(client, model="tiny") == "1"


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "models"
    made.mkdir()
    write(made / "a.onnx", 1, name="apples")
    write(made / "b.onnx", 2, name="bolts", labels=("nut", "bolt", "washer"), golden=tiny_model.golden(scale_of(2)))
    return made


def test_several_models(folder):
    with guarded(folder, default_model="bolts") as client:
        settled(client)
        listed = client.get("/models").json()["models"]
        assert [(m["name"], m["version"], m["default"], m["file"]) for m in listed] == [
            ("bolts", "2", True, "b.onnx"),
            ("apples", "1", False, "a.onnx"),
        ]
        assert listed[0]["sha256"] == {e.key: e.value for e in onnx.load(folder / "b.onnx").metadata_props}["sha256"]
        assert [version(client), version(client, model="apples"), version(client, model="bolts")] == ["2", "1", "2"]
        batch = client.post("/predict/batch?model=apples", files=[("file", PHOTO)] * 2).json()
        assert batch["model"]["name"] == "apples"
        assert client.get("/model?model=apples").json()["version"] == "1"
        assert client.get("/labels?model=bolts").json()["labels"][0]["label"] == "nut"
        assert client.get("/labels?model=apples").json()["labels"][0]["label"] == "red"
        for method, route in [("POST", "/predict"), ("POST", "/predict/batch"), ("GET", "/model"), ("GET", "/labels")]:
            detail = assert_problem(client.request(method, f"{route}?model=pears"), 404, "unknown-model")
            assert "'bolts', 'apples'" in detail
        assert infos(client) == {("bolts", "2"), ("apples", "1")}
        # One more, a newer one of an older name, a bad one; each on its own.
        write(folder / "c.onnx", 3, name="cups")
        until(lambda: swaps(client) == {"added": 1})
        write(folder / "a2.onnx", 4, name="apples")
        until(lambda: version(client, model="apples") == "4")
        renamed(folder / "b.onnx", b"rubbish")
        until(lambda: last(client)["outcome"] == "refused")
        assert [version(client), version(client, model="apples"), version(client, model="cups")] == ["2", "4", "3"]
        client.post("/admin/rollback?model=apples").raise_for_status()
        assert [version(client, model=name) for name in ("bolts", "apples", "cups")] == ["2", "1", "3"]
        write(folder / "b2.onnx", 5, name="bolts")
        until(lambda: version(client) == "5")
        # Only the default one has a second session.
        models = {served.name: served.classifier for served in service_of(client).repository.all()}
        assert models["apples"].multithreaded is models["apples"].model


def test_a_folder_with_a_bad_file_starts_all_the_same(folder):
    (folder / "bad.onnx").write_bytes(b"rubbish")
    write(folder / "a2.onnx", 3, name="apples", golden=WRONG)
    with serving(folder) as client:
        assert version(client) == "1"
        assert last(client)["outcome"] == "refused"
        assert swaps(client) == {"refused": 2}


def test_one_model_in_two_precisions(folder):
    write(folder / "a.int8.onnx", 7, name="apples", precision="int8")
    for precision, expected in (("fp32", "1"), ("int8", "7"), (None, "7")):
        with serving(folder, precision=precision) as client:
            assert version(client, model="apples") == expected
    with serving(folder, precision="auto") as client:
        assert "took" in client.get("/health").json()["precision_reason"]


def test_folders_that_cannot_be_served(folder, tmp_path):
    assert "CLASSIFIER_MAX_MODELS is 1" in failure(COMMANDS["module"], model=folder, max_models=1)
    assert "there is only apples, bolts" in failure(COMMANDS["module"], model=folder, default_model="pears")
    assert "CLASSIFIER_PRECISION=int8" in failure(COMMANDS["module"], model=folder, precision="int8")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "there is no model in" in failure(COMMANDS["module"], model=empty)


def test_no_more_models_than_allowed(folder):
    with serving(folder, max_models=2) as client:
        settled(client)
        write(folder / "c.onnx", 3, name="cups")
        assert "CLASSIFIER_MAX_MODELS" in until(lambda: last(client))["reason"]
        write(folder / "a.onnx", 4, name="apples")
        until(lambda: version(client, model="apples") == "4")


class Process:
    """The service as a process whose log is read away."""

    def __init__(self, **settings):
        self.port = free_port()
        self.process = start(COMMANDS["module"], host="127.0.0.1", port=self.port, **settings)
        self.client = until_ready(self.process, self.port)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=lambda: self.lines.extend(self._interesting()))
        self._reader.start()

    def _interesting(self):
        return (line for line in self.process.stdout if '"message":"request"' not in line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0
        self._reader.join()
        self.process.stdout.close()

    def sizes(self) -> dict[str, int]:
        proc = Path("/proc") / str(self.process.pid)
        # A session that is being exchanged and a guard's timer have a thread for a moment; what stays is counted.
        threads = []
        for _ in range(50):
            status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
            threads.append(int(status["Threads"]))
            time.sleep(0.01)
        return {
            "kB": int(status["VmRSS"].split()[0]),
            "threads": min(threads),
            "files": len(list((proc / "fd").iterdir())),
        }


def test_sighup(tmp_path):
    path = write(tmp_path / "m.onnx", 1)
    with Process(model=path, drain_seconds=0) as service:
        write(path, 2)
        until(lambda: version(service.client) == "2")
        renamed(path, b"rubbish")
        until(lambda: last(service.client)["outcome"] == "refused")
        service.process.send_signal(signal.SIGHUP)
        until(lambda: swaps(service.client)["refused"] == 2)
        assert version(service.client) == "2"
    refused = [json.loads(line) for line in service.lines if "model refused" in line]
    assert len(refused) == 2
    assert "truncated" in refused[0]["reason"]


def test_two_hundred_swaps_under_load(tmp_path):
    """No request fails, no answer is another model's, and nothing grows."""
    path = write(tmp_path / "m.onnx", 0)
    with Process(model=path, drain_seconds=0, workers=2, queue_budget_ms=60_000) as service:
        seen: Counter[str] = Counter()
        wrong: list[object] = []
        done = threading.Event()

        def ask():
            connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
            while not done.is_set():
                try:
                    connection.request("POST", "/predict", PHOTO)
                    answer = connection.getresponse()
                    body = json.loads(answer.read())
                    number = body["model"]["version"]
                    if abs(body["predictions"][0]["score"] - score_of(number)) > 1e-4:
                        wrong.append(body)
                    seen[number] += 1
                except Exception as error:
                    wrong.append(error)
                    return
                # The CPUs are needed for the trials too; what comes while a model is loaded waits all the same.
                done.wait(0.05)
            connection.close()

        clients = [threading.Thread(target=ask) for _ in range(16)]
        for client in clients:
            client.start()
        sizes = {}
        try:
            for number in range(1, 201):
                write(path, number)
                until(lambda expected=str(number): seen[expected] or wrong)
                if number in (50, 200):
                    sizes[number] = service.sizes()
        finally:
            done.set()
            for client in clients:
                client.join()
        assert not wrong, wrong[:3]
        assert len(seen) == 201
        assert swaps(service.client) == {"swapped": 200}
    print(sizes, seen.total())
    assert sizes[200]["threads"] == sizes[50]["threads"]
    assert sizes[200]["files"] <= sizes[50]["files"] + 2
    # 150 kept models would be 150 MB.
    assert sizes[200]["kB"] - sizes[50]["kB"] < 15_000
