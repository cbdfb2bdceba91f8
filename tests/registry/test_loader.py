"""What becomes of files that may be served: how many models, in which precision, and in place of what."""

import threading
from dataclasses import replace

import onnx
import pytest

from app.registry import loader, source, trial
from tests import tiny_model
from tests.conftest import assert_problem, serving, wait_until
from tests.internals import service_of, works
from tests.processes import COMMANDS, failure
from tests.registry.delivery import (
    PHOTO,
    WRONG,
    Gate,
    endless,
    guarded,
    infos,
    last,
    renamed,
    scale_of,
    settled,
    swaps,
    version,
    write,
)


@pytest.mark.parametrize("number", [3, 1])
def test_a_roll_back_while_a_file_is_loaded(tmp_path, monkeypatch, number):
    """Another file replaces what is served by then; the same one as what is served by then replaces nothing."""
    path = write(tmp_path / "m.onnx", 1)
    with guarded(path) as client:
        settled(client)
        write(path, 2)
        wait_until(lambda: version(client) == "2")
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
        wait_until(lambda: not works(service_of(client).updates))
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
        wait_until(lambda: version(client) == "3")
        # The one in between is neither served nor a failure, and what is served was tried.
        assert swaps(client) == {"swapped": 1}
        assert loaded == [True]


def test_a_model_that_loads_slowly_is_not_taken_while_others_wait(tmp_path, monkeypatch):
    path = write(tmp_path / "m.onnx", 1)
    with serving(path) as client:
        settled(client)
        findings = trial._findings
        monkeypatch.setattr(trial, "_findings", lambda answer: replace(findings(answer), load_s=1.5))
        write(path, 2)
        assert "loading it takes 1.50 s" in wait_until(lambda: last(client))["reason"]
        assert version(client) == "1"


def test_a_model_that_never_answers_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "PATIENCE_S", 2.0)
    path = write(tmp_path / "m.onnx", 1)
    with serving(path) as client:
        settled(client)
        other = write(tmp_path / "other", 2)
        endless(other)
        other.replace(path)
        assert "golden" in wait_until(lambda: last(client))["reason"]
        assert version(client) == "1"


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
        wait_until(lambda: swaps(client) == {"added": 1})
        write(folder / "a2.onnx", 4, name="apples")
        wait_until(lambda: version(client, model="apples") == "4")
        renamed(folder / "b.onnx", b"rubbish")
        wait_until(lambda: last(client)["outcome"] == "refused")
        assert [version(client), version(client, model="apples"), version(client, model="cups")] == ["2", "4", "3"]
        client.post("/admin/rollback?model=apples").raise_for_status()
        assert [version(client, model=name) for name in ("bolts", "apples", "cups")] == ["2", "1", "3"]
        write(folder / "b2.onnx", 5, name="bolts")
        wait_until(lambda: version(client) == "5")
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
        assert "CLASSIFIER_MAX_MODELS" in wait_until(lambda: last(client))["reason"]
        write(folder / "a.onnx", 4, name="apples")
        wait_until(lambda: version(client, model="apples") == "4")
