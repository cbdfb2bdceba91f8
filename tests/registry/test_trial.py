"""What a model may cost before it is believed: tried for real, in child processes."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from app.errors import ModelError
from app.registry import trial
from app.registry.source import BUNDLED
from app.registry.trial import Trials
from tests import tiny_model
from tests.conftest import ROOT
from tests.internals import tries

PIXELS = 1_000_000


def bomb(nodes: list[onnx.NodeProto], last: str, **values) -> bytes:
    """The tiny model with nodes more, whose last output is added to the scores, times nothing.

    Args:
        nodes: may read ``float``, the pixels, and the ``values``.
        last: their last output.
        values: initializers.
    """
    proto = tiny_model.proto(explainable=False)
    graph = proto.graph
    for node in graph.node:
        if node.output[0] == "scores":
            node.output[0] = "right"
    for name, value in (values | {"nothing": np.float32(0)}).items():
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    graph.node.extend(
        [
            *nodes,
            helper.make_node("ReduceSum", [last], ["sum"], keepdims=0),
            helper.make_node("Mul", ["sum", "nothing"], ["more"]),
            helper.make_node("Add", ["right", "more"], ["scores"]),
        ]
    )
    return proto.SerializeToString()


def zeros(*shape: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """A node that makes so many zeros when the model is loaded."""
    node = helper.make_node(
        "ConstantOfShape", ["shape"], ["m0"], value=helper.make_tensor("", TensorProto.FLOAT, [1], [0.0])
    )
    return [node], {"shape": np.array(shape)}


def products(number: int) -> list[onnx.NodeProto]:
    return [helper.make_node("MatMul", [f"m{i}", f"m{i}"], [f"m{i + 1}"]) for i in range(number)]


def loop(rounds: str) -> list[onnx.NodeProto]:
    """One that goes on for ever, in whatever reads pixels: not before a photo comes."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["x"], ["y"])],
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
    )
    return [helper.make_node("Loop", [rounds, "yes", "float"], ["looped"], body=body)]


def folding(side: int, number: int) -> bytes:
    nodes, values = zeros(side, side)
    return bomb([*nodes, *products(number)], f"m{number}", **values)


WRONG = replace(tiny_model.golden(), scores={0: 0.5})
TOO_MUCH = "more memory than there is"
TOO_LONG = "took more than 1 s"
BOMBS = {
    "zeros at load": (lambda: bomb(*zeros(60_000, 60_000)[:1], "m0", **zeros(60_000, 60_000)[1]), TOO_MUCH),
    "repeated at load": (
        lambda: bomb([helper.make_node("Expand", ["one", "to"], ["m"])], "m", one=np.float32([1]), to=[50_000, 50_000]),
        TOO_MUCH,
    ),
    "tiles at load": (
        lambda: bomb([helper.make_node("Tile", ["one", "to"], ["m"])], "m", one=np.float32([1]), to=[5 * 10**8]),
        TOO_MUCH,
    ),
    "a range at load": (
        lambda: bomb(
            [helper.make_node("Range", ["a", "b", "c"], ["r"]), helper.make_node("Cast", ["r"], ["m"], to=1)],
            "m",
            a=np.int64(0),
            b=np.int64(10**11),
            c=np.int64(1),
        ),
        TOO_MUCH,
    ),
    "repeated at the photo": (
        lambda: bomb(
            [
                helper.make_node("ReduceMax", ["float"], ["one"], keepdims=0),
                helper.make_node("Expand", ["one", "to"], ["m"]),
            ],
            "m",
            to=[50_000, 50_000],
        ),
        TOO_MUCH,
    ),
    "long at load": (lambda: folding(1200, 400), f"{TOO_MUCH}|{TOO_LONG}"),
    "for ever at the photo": (lambda: bomb(loop(""), "looped", yes=np.array(True)), TOO_LONG),
    "very often at the photo": (
        lambda: bomb(loop("rounds"), "looped", yes=np.array(True), rounds=np.int64(10**15)),
        TOO_LONG,
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_costs_too_much(name, monkeypatch):
    monkeypatch.setattr(trial, "PATIENCE_S", 1.0)
    make, reason = BOMBS[name]
    with pytest.raises(ModelError, match=reason):
        Trials(PIXELS)(make())


def test_a_good_model_says_who_it_is():
    made = tiny_model.contract(name="a name", precision="int8")
    found = Trials(PIXELS)(tiny_model.proto(made).SerializeToString())
    assert (found.name, found.precision) == ("a name", "int8")
    assert 0 < found.load_s < 10


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is not a loadable ONNX model"),
        (b"hello", "truncated"),
        (tiny_model.proto(metadata={}).SerializeToString(), "no contract"),
        (tiny_model.proto(tiny_model.contract(golden=WRONG)).SerializeToString(), "golden photo"),
        (tiny_model.proto(metadata={"schema": "2", "name": "[" * 200_000}).SerializeToString(), "lacks"),
        (tiny_model.proto().SerializeToString() + b"\x72\x04\x0a\x02\xff\xfe", "not UTF-8"),
    ],
    ids=["empty", "text", "no contract", "golden", "incomplete", "not UTF-8"],
)
def test_what_is_wrong_is_said(data, reason):
    with pytest.raises(ModelError, match=reason) as error:
        Trials(PIXELS)(data)
    assert "the file" not in str(error.value)


def test_the_golden_photo_has_the_service_s_limit():
    with pytest.raises(ModelError, match="golden photo"):
        Trials(10)(tiny_model.proto().SerializeToString())


def instead(monkeypatch, program: str) -> None:
    """Another child: what it may do to its parent."""
    real = trial.subprocess.Popen
    monkeypatch.setattr(
        trial.subprocess, "Popen", lambda _command, **options: real([sys.executable, "-c", program], **options)
    )


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("", "without an answer"),
        ("print('[]')", "without an answer"),
        ("import sys; sys.stdin.buffer.read(); print('[' * 10**5)", "without an answer"),
        ("print('{}')", "without an answer"),
        ('print(\'{"name": "x", "precision": "int8", "load_s": "long"}\')', "without an answer"),
        ("import os, sys; sys.stdin.buffer.read()\nwhile True: os.write(1, b'x' * 65536)", "without an answer"),
        ("import os; os.kill(os.getpid(), 11)", "SIGSEGV"),
        ("import os; os.abort()", "SIGABRT"),
        ("import os; os.close(0); os.close(1); import time; time.sleep(60)", "took more than 1 s"),
        ("import time; time.sleep(60)", "took more than 1 s"),
    ],
)
def test_a_child_that_misbehaves(program, reason, monkeypatch):
    # Enough for those that answer; the others are not waited for longer than they have to be.
    monkeypatch.setattr(trial, "PATIENCE_S", 1.0 if "took more" in reason else 30.0)
    instead(monkeypatch, program)
    with pytest.raises(ModelError, match=reason):
        Trials(PIXELS)(bytes(1_000_000))


def test_no_child_can_be_started(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(ModelError, match="no process can be started"):
        Trials(PIXELS)(b"")


def test_closing_ends_what_runs_and_lets_nothing_begin():
    trials, said = Trials(PIXELS), []

    def attempt():
        try:
            trials(bomb(loop(""), "looped", yes=np.array(True)))
        except ModelError as error:
            said.append(str(error))

    thread = threading.Thread(target=attempt)
    thread.start()
    while not tries(trials) and thread.is_alive():
        thread.join(0.01)
    trials.close()
    thread.join(10)
    assert said == ["the service is shutting down"]
    with pytest.raises(ModelError, match="shutting down"):
        trials(b"")


def test_the_child_knows_no_secrets_and_no_settings(monkeypatch):
    monkeypatch.setenv("CLASSIFIER_API_KEYS", "a-key-of-the-tests")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    seen = {}

    class Seen(Exception):
        pass

    def popen(_command, env, **_options):
        seen.update(env)
        raise Seen

    monkeypatch.setattr(trial.subprocess, "Popen", popen)
    with pytest.raises(Seen):
        Trials(PIXELS)(b"")
    assert not {"CLASSIFIER_API_KEYS", "AWS_SECRET_ACCESS_KEY"} & seen.keys()


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_the_child_limits_itself():
    """Also where its parent is gone and nobody is patient."""
    program = (
        "import resource as r, signal; from app.registry import trial; trial._limit(10_000_000, 3.0); "
        "print([r.getrlimit(x)[0] for x in (r.RLIMIT_CORE, r.RLIMIT_FSIZE, r.RLIMIT_CPU)]); "
        "print(signal.getitimer(signal.ITIMER_REAL)[0] > 2); print(r.getrlimit(r.RLIMIT_DATA)[0] < 200_000_000); "
        "print(open('/proc/self/oom_score_adj').read().strip())\n"
        "try: bytearray(20_000_000)\n"
        "except MemoryError: print('full')"
    )
    output = trial.subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert output.stdout.split("\n")[:5] == ["[0, 0, 4]", "True", "True", "1000", "full"]


def test_memory():
    """As much as there is, but always enough for an honest model."""
    assert trial._memory(3_000_000, None) == 152_000_000
    assert trial._memory(3_000_000, 10_000_000_000) == 152_000_000
    assert trial._memory(3_000_000, 100_000_000) == 68_000_000
    assert trial._memory(3_000_000, 0) == trial._memory(3_000_000, -5) == 24_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_nothing_is_left_behind():
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    # The tests have a timer of their own.
    timer = signal.getitimer(signal.ITIMER_REAL)[0] > 0
    for data in (tiny_model.proto().SerializeToString(), b"hello"):
        try:
            Trials(PIXELS)(data)
        except ModelError:
            pass
    assert len(list(descriptors.iterdir())) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    assert (signal.getitimer(signal.ITIMER_REAL)[0] > 0) == timer


def test_the_bundled_model_needs_little_memory():
    """Nor does what looks at its pictures: numpy's matrix product alone would take more than all of this."""
    (path,) = BUNDLED.glob("*.onnx")
    command = [sys.executable, "-m", "app.registry.trial", "1000000", str(27_000_000), "30"]
    tried = subprocess.run(command, cwd=ROOT, input=path.read_bytes(), capture_output=True, check=False)
    assert json.loads(tried.stdout)["precision"] == "int8", tried.stderr
