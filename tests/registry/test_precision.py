"""Which precision is served where both are there, and what is remembered of it."""

import json
import os

import pytest

from app.inference.decode_budget import DecodeBudget
from app.registry import loader, precision
from app.registry.precision import Memory, faster
from app.registry.source import Source
from app.registry.trial import Trials
from tests.tiny_model import contract, write

DIGESTS = (b"one", b"other")
TIMES = {"int8": 0.002, "fp32": 0.004}


@pytest.fixture
def cpuinfo(tmp_path):
    (tmp_path / "cpuinfo").write_text("model name\t: A CPU\nflags\t\t: avx2\n")
    return tmp_path / "cpuinfo"


def test_int8_is_chosen_only_where_it_is_faster():
    assert faster(TIMES) == "int8"
    assert faster({"int8": 0.004, "fp32": 0.004}) == faster({"int8": 0.005, "fp32": 0.004}) == "fp32"


def test_it_is_remembered(tmp_path, cpuinfo, monkeypatch):
    folder = tmp_path / "not" / "there"
    assert Memory(folder, cpuinfo).recall(DIGESTS, TIMES) is None
    Memory(folder, cpuinfo).remember(DIGESTS, TIMES)
    assert Memory(folder, cpuinfo).recall(reversed(DIGESTS), TIMES) == TIMES
    assert [path.name for path in folder.iterdir()] == ["precision.json"]
    # Another model, another choice, another CPU, another runtime: each is measured.
    assert Memory(folder, cpuinfo).recall((b"one", b"third"), TIMES) is None
    assert Memory(folder, cpuinfo).recall(DIGESTS, ["int8"]) is None
    cpuinfo.write_text("model name\t: Another CPU\n")
    assert Memory(folder, cpuinfo).recall(DIGESTS, TIMES) is None
    cpuinfo.write_text("model name\t: A CPU\nflags\t\t: avx2\n")
    monkeypatch.setattr(precision.onnxruntime, "__version__", "99")
    assert Memory(folder, cpuinfo).recall(DIGESTS, TIMES) is None


def test_what_is_remembered_stays_small(tmp_path, cpuinfo):
    memory = Memory(tmp_path, cpuinfo)
    for number in range(100):
        memory.remember([bytes([number])], TIMES)
    assert memory.recall([bytes([99])], TIMES) == TIMES
    assert memory.recall([bytes([0])], TIMES) is None
    assert (tmp_path / "precision.json").stat().st_size < 65_536


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"',
        "[" * 100_000,
        '{"KEY": 1}',
        '{"KEY": {"int8": "x", "fp32": 1}}',
        '{"KEY": {"int8": NaN, "fp32": 0.1}}',
    ],
)
def test_a_file_that_has_something_else_in_it(tmp_path, cpuinfo, content):
    memory = Memory(tmp_path, cpuinfo)
    memory.remember(DIGESTS, TIMES)
    (key,) = json.loads((tmp_path / "precision.json").read_text())
    (tmp_path / "precision.json").write_text(content.replace("KEY", key))
    assert memory.recall(DIGESTS, TIMES) is None
    memory.remember(DIGESTS, TIMES)
    assert memory.recall(DIGESTS, TIMES) == TIMES


def test_nowhere_to_remember(tmp_path, cpuinfo):
    """As on a read-only root: the folder cannot be made, whoever asks."""
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "precision.json")
    for folder in (None, tmp_path / "file" / "folder", tmp_path / "file"):
        memory = Memory(folder, cpuinfo)
        memory.remember(DIGESTS, TIMES)
        assert memory.recall(DIGESTS, TIMES) is None
    assert Memory(tmp_path, cpuinfo).recall(DIGESTS, TIMES) is None
    unknown = Memory(tmp_path, tmp_path / "absent")
    unknown.remember(DIGESTS, TIMES)
    assert unknown.recall(DIGESTS, TIMES) is None


def test_the_second_start_measures_nothing(tmp_path, monkeypatch):
    for each in ("int8", "fp32"):
        write(tmp_path / f"m.{each}.onnx", contract(precision=each, version=each))
    measured = []

    def times(models, within_s):
        measured.append(within_s)
        return [0.004 if model.contract.precision == "int8" else 0.003 for model in models]

    monkeypatch.setattr(precision, "cpu_seconds", times)

    def started(cache):
        source = Source.configured(tmp_path / "m.int8.onnx", "auto", None, Trials(10**6), 10**8)
        (served,), _ = loader.start(source, "auto", None, 8, DecodeBudget(10**6), cache)
        return served.classifier.contract.version, served.precision_reason

    said = "int8 took 4.0 ms"
    version, reason = started(tmp_path / "cache")
    assert (version, reason.startswith("measured"), said in reason) == ("fp32", True, True)
    version, reason = started(tmp_path / "cache")
    assert (version, reason.startswith("remembered"), said in reason) == ("fp32", True, True)
    assert started(None)[0] == "fp32"
    assert measured == [precision.WITHIN_S] * 2
