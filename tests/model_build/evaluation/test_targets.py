"""What a service may answer besides the truth; the truth itself is in ``test_evaluate``."""

import json
import socket
import sys
import threading
from contextlib import closing
from dataclasses import replace

import pytest

from model_build.__main__ import main
from model_build.errors import InputError
from model_build.evaluation.remote_target import RemoteTarget
from model_build.evaluation.targets import InProcess
from tests import tiny_model


def answering(*answers):
    """A server that gives these answers, one a connection; returns its address and what it was asked."""
    listener = socket.create_server(("127.0.0.1", 0))
    asked = []

    def serve():
        for status, headers, body in answers:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as stream:
                method, path = stream.readline().decode().split()[:2]
                asked.append([method, path.partition("&camera=")[0]])
                length = 0
                while (line := stream.readline().strip()) != b"":
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                stream.read(length)
                data = json.dumps(body).encode()
                media_type = "application/json" if status == 200 else "application/problem+json"
                head = f"HTTP/1.1 {status} -\r\nContent-Type: {media_type}\r\nContent-Length: {len(data)}\r\n"
                connection.sendall(f"{head}Connection: close\r\n{headers}\r\n".encode() + data)
        listener.close()

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}", asked


MODEL = {"name": "m", "version": "1"}
HEALTH = (200, "", {"status": "ready", "reason": "", "model": MODEL, "precision": "fp32", "uptime_s": 1.0})
LABELS = (200, "", {"labels": [{"index": 0, "label": "a", "id": None}, {"index": 1, "label": "b", "id": None}]})
CONTRACT = (200, "", MODEL | {"precision": "fp32", "classes": 2, "unknown_below": 0.0, "measured": {}})


def answer(version="1"):
    scores = [(1, "b", 0.75), (0, "a", 0.25)]
    predictions = [{"index": index, "label": label, "id": None, "score": score} for index, label, score in scores]
    timing = {"queue": 0.0, "decode": 2.0, "infer": 3.0}
    said = {"predictions": predictions, "unknown": False, "timing_ms": timing, "request_id": "r"}
    return 200, "", {"model": MODEL | {"version": version}, **said}


def test_a_busy_service_is_asked_again():
    busy = (503, "Retry-After: 0\r\n", {"detail": "Busy."})
    url, asked = answering(HEALTH, LABELS, CONTRACT, busy, busy, answer())
    with closing(RemoteTarget(url + "/")) as served:
        found = served(b"photo")
    assert (found.ranked, found.score, found.decode_s) == ((1, 0), 0.75, 0.002)
    # No more classes than the model has.
    assert asked == [["GET", "/health"], ["GET", "/labels"], ["GET", "/model"], *[["POST", "/predict?top_k=2"]] * 3]


@pytest.mark.parametrize(
    ("last", "says"),
    [
        (answer(version="2"), "another model by now"),
        ((500, "", {"detail": "Oh."}), "answered 500: Oh."),
        ((200, "", []), "does not answer as this service does"),
        ((200, "", {"model": {"name": "m", "version": "1"}}), "does not answer as this service does"),
        ((200, "", answer()[2] | {"predictions": []}), "there are no predictions"),
        # About every photo, not about this one.
        ((401, "", {"detail": "Keys."}), "answered 401: Keys."),
    ],
)
def test_a_service_that_fails_ends_the_measurement(last, says):
    url, _ = answering(HEALTH, LABELS, CONTRACT, last)
    with closing(RemoteTarget(url)) as served, pytest.raises(InputError, match=says):
        served(b"photo")


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ([(404, "", {})], "answered 404"),
        ([(200, "", {"hello": 1}), LABELS], "does not answer as this service does"),
        ([HEALTH, (200, "", {"hello": 1})], "does not answer as this service does"),
        ([HEALTH, (400, "", {"detail": "Host."})], "answered 400: Host."),
    ],
)
def test_not_this_service(answers, says):
    url, _ = answering(*answers)
    with pytest.raises(InputError, match=says):
        RemoteTarget(url)


def test_a_model_that_computes_something_else_is_not_measured(tmp_path):
    golden = replace(tiny_model.contract().golden, scores={0: 0.1})
    path = tiny_model.write(tmp_path / "wrong.onnx", tiny_model.contract(golden=golden))
    with pytest.raises(InputError, match="golden photo"):
        InProcess(path)


def test_a_service_needs_the_extra_and_a_file_does_not(tmp_path, capsys, monkeypatch):
    path = tiny_model.write(tmp_path / "tiny.onnx", tiny_model.contract())
    monkeypatch.setitem(sys.modules, "httpx", None)
    for module in ("app.client", "model_build.evaluation.remote_target"):
        monkeypatch.delitem(sys.modules, module)
    assert main(["evaluate", "http://127.0.0.1:1", str(tmp_path)]) == 2
    assert "needs the package httpx, of the extra 'client': pip install '.[client]'" in capsys.readouterr().err
    assert main(["evaluate", str(path), str(tmp_path)]) == 2
    assert "has no images" in capsys.readouterr().err
