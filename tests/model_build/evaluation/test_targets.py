"""What a service may answer besides the truth; the truth itself is in ``test_evaluate``."""

import json
import socket
import threading
from dataclasses import replace

import pytest

from model_build.errors import InputError
from model_build.evaluation.targets import InProcess, RemoteTarget
from tests import tiny_model


def answering(*answers):
    """A server that gives these answers, one a connection; returns its address and what it was asked."""
    listener = socket.create_server(("127.0.0.1", 0))
    asked = []

    def serve():
        for status, headers, body in answers:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as stream:
                asked.append(stream.readline().decode().split()[:2])
                length = 0
                while (line := stream.readline().strip()) != b"":
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                stream.read(length)
                data = json.dumps(body).encode()
                head = f"HTTP/1.1 {status} -\r\n{headers}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
                connection.sendall(head.encode() + data)
        listener.close()

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}", asked


MODEL = (200, "", {"name": "m", "version": "1", "precision": "fp32"})
LABELS = (200, "", {"labels": [{"label": "a", "id": None}, {"label": "b", "id": None}]})


def answer(version="1"):
    predictions = [{"index": 1, "score": 0.75}, {"index": 0, "score": 0.25}]
    timing = {"queue": 0.0, "decode": 2.0, "infer": 3.0}
    model = {"name": "m", "version": version}
    return 200, "", {"model": model, "predictions": predictions, "unknown": False, "timing_ms": timing}


def test_a_busy_service_is_asked_again():
    busy = (503, "Retry-After: 0\r\n", {"detail": "Busy."})
    url, asked = answering(MODEL, LABELS, busy, busy, answer())
    found = RemoteTarget(url + "/")(b"photo")
    assert (found.ranked, found.score, found.decode_s) == ((1, 0), 0.75, 0.002)
    # No more classes than the model has.
    assert asked == [["GET", "/model"], ["GET", "/labels"], *[["POST", "/predict?top_k=2"]] * 3]


@pytest.mark.parametrize(
    ("last", "says"),
    [
        (answer(version="2"), "another model by now"),
        ((500, "", {"detail": "Oh."}), "answered 500: Oh."),
        ((200, "", []), "does not answer as this service does"),
        ((200, "", {"model": {"name": "m", "version": "1"}}), "does not answer as this service does"),
    ],
)
def test_a_service_that_fails_ends_the_measurement(last, says):
    url, _ = answering(MODEL, LABELS, last)
    served = RemoteTarget(url)
    with pytest.raises(InputError, match=says):
        served(b"photo")


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ([(404, "", {})], "answered 404"),
        ([(200, "", {"hello": 1}), LABELS], "does not answer as this service does"),
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
