"""Model files as they are delivered to a service that runs, and what it says about them."""

import contextlib
import re
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from model_build.export import publish
from tests import tiny_model
from tests.conftest import serving, wait_until
from tests.internals import looks, service_of, source_of, watches
from tests.photos import encode, solid

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


@contextlib.contextmanager
def guarded(model, **settings):
    """A service with API keys, and a client that has one."""
    key = "a-key-of-the-tests"
    with serving(model, api_keys=key, **settings) as client:
        client.headers["X-API-Key"] = key
        yield client


def settled(client) -> None:
    """Waits until the service follows its files."""
    updates = service_of(client).updates
    wait_until(lambda: watches(updates) and not looks(updates))


def renamed(path: Path, data: bytes) -> None:
    partial = path.with_name(".partial")
    partial.write_bytes(data)
    partial.replace(path)


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


WRONG = replace(tiny_model.golden(), scores={0: 0.5})


def noticed(client, change) -> None:
    """Makes a change, and waits until the service has looked because of it."""
    updates = service_of(client).updates
    before = updates.looked
    change()
    wait_until(lambda: updates.looked > before and not looks(updates))


class Gate:
    """Stands before every trial, and lets it begin when told to."""

    def __init__(self, client, monkeypatch):
        self.open, self.waiting = threading.Event(), threading.Event()
        trials = source_of(service_of(client).updates).trials
        self.tried: list[bytes] = []
        real = type(trials).__call__

        def gated(self_, data):
            self.tried.append(data)
            self.waiting.set()
            assert self.open.wait(30)
            return real(self_, data)

        monkeypatch.setattr(type(trials), "__call__", gated)
