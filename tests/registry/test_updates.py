"""Models that come while the service runs: exchanged, rolled back, asked for by requests and signals."""

import http.client
import json
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

from app.registry import trial, updates
from tests.conftest import assert_problem, serving, wait_until
from tests.internals import forget_what_passed, is_asked, service_of, source_of, works
from tests.processes import COMMANDS, free_port, start, until_ready
from tests.registry.delivery import (
    PHOTO,
    Gate,
    endless,
    guarded,
    infos,
    last,
    renamed,
    score_of,
    settled,
    swaps,
    version,
    write,
)


def test_a_renamed_file_is_served_and_everything_follows(tmp_path):
    path = write(tmp_path / "m.onnx", 1)
    with serving(path, workers=2) as client:
        settled(client)
        assert (version(client), last(client), infos(client)) == ("1", None, {("tiny", "1")})
        write(path, 2)
        wait_until(lambda: version(client) == "2")
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


def test_a_roll_back_does_not_wait_for_a_trial(tmp_path, monkeypatch):
    path = write(tmp_path / "m.onnx", 1)
    with guarded(path, workers=2) as client:
        settled(client)
        write(path, 2)
        wait_until(lambda: version(client) == "2")
        gate = Gate(client, monkeypatch)
        write(path, 3)
        assert gate.waiting.wait(30)
        assert client.post("/admin/rollback").raise_for_status().json()["model"]["version"] == "1"
        assert version(client) == "1"
        assert not gate.open.is_set()
        gate.open.set()
        # What was on its way still comes, and replaces what is served by then.
        wait_until(lambda: version(client) == "3")
        assert client.get("/models").json()["models"][0]["previous_version"] == "1"


def test_what_is_rolled_back_while_it_is_tried_again_stays_away(tmp_path, monkeypatch):
    path = write(tmp_path / "m.onnx", 1)
    with guarded(path) as client:
        settled(client)
        write(path, 2)
        wait_until(lambda: version(client) == "2")
        service = service_of(client)
        forget_what_passed(source_of(service.updates))
        gate = Gate(client, monkeypatch)
        os.utime(path)
        assert gate.waiting.wait(30)
        client.post("/admin/rollback").raise_for_status()
        gate.open.set()
        settled(client)
        wait_until(lambda: not works(service.updates))
        assert version(client) == "1"


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
        wait_until(lambda: is_asked(updates))
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
        trying = wait_until(lambda: child_of(service.process.pid))
        service.process.send_signal(signal.SIGTERM)
        # Well before its patience ends; the time is not what is asserted, the child is.
        assert service.process.wait(trial.PATIENCE_S - 5) == 0
        assert not Path(f"/proc/{trying}").exists()


def child_of(pid: int) -> str:
    """The first child of any of a process's threads."""
    found = [children.read_text().split() for children in Path(f"/proc/{pid}/task").glob("*/children")]
    return next((pids[0] for pids in found if pids), "")


def test_an_unexpected_error_does_not_end_the_watch(tmp_path, monkeypatch, caplog):
    path = write(tmp_path / "m.onnx", 1)
    with serving(path) as client:
        settled(client)
        source = source_of(service_of(client).updates)
        with monkeypatch.context() as patch:
            broken = threading.Event()

            def fail():
                broken.set()
                raise RuntimeError("what nobody thought of")

            patch.setattr(source, "look", fail)
            write(path, 2)
            assert broken.wait(30)
            wait_until(lambda: "looking for new models failed" in caplog.text)
        assert version(client) == "1"
        write(path, 3)
        wait_until(lambda: version(client) == "3")


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
        wait_until(lambda: version(client) == "2")
        assert client.get("/models").json()["models"][0]["previous_version"] == "1"
        answer = client.post("/admin/rollback").raise_for_status().json()
        assert (answer["outcome"], answer["model"]["version"]) == ("rolled back", "1")
        assert (version(client), infos(client)) == ("1", {("tiny", "1")})
        assert_problem(client.post("/admin/rollback"), 409, "no-previous-model")
        # The file that was given up still lies there; a change beside it does not bring it back, ...
        write(tmp_path / "else.onnx", 9)
        os.utime(path)
        wait_until(lambda: not works(service_of(client).updates))
        time.sleep(0.2)
        assert version(client) == "1"
        # ... asking for it does, and so does the next file.
        client.post("/admin/reload").raise_for_status()
        assert version(client) == "2"
        assert client.post("/admin/reload").json() == {"updates": []}
        client.post("/admin/rollback").raise_for_status()
        write(path, 3)
        wait_until(lambda: version(client) == "3")


def test_a_file_may_bring_a_model_of_another_name(tmp_path):
    path = write(tmp_path / "m.onnx", 1)
    with guarded(path) as client:
        settled(client)
        write(path, 2, name="other")
        wait_until(lambda: version(client) == "2")
        assert [m["name"] for m in client.get("/models").json()["models"]] == ["other"]
        assert_problem(client.post("/predict?model=tiny", content=PHOTO), 404, "unknown-model")
        client.post("/admin/rollback").raise_for_status()
        assert version(client, model="tiny") == "1"


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
        wait_until(lambda: version(service.client) == "2")
        renamed(path, b"rubbish")
        wait_until(lambda: last(service.client)["outcome"] == "refused")
        service.process.send_signal(signal.SIGHUP)
        wait_until(lambda: swaps(service.client)["refused"] == 2)
        assert version(service.client) == "2"
    refused = [json.loads(line) for line in service.lines if "model refused" in line]
    assert len(refused) == 2
    assert "truncated" in refused[0]["reason"]


def test_many_swaps_under_load(tmp_path):
    """No request fails, no answer is another model's, and nothing grows."""
    path = write(tmp_path / "m.onnx", 0)
    with Process(model=path, drain_seconds=0, workers=2, queue_budget_ms=60_000) as service:
        seen: Counter[str] = Counter()
        wrong: list[object] = []
        done, calm = threading.Event(), threading.Event()

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
                if calm.is_set():
                    done.wait(0.2)
            connection.close()

        clients = [threading.Thread(target=ask) for _ in range(16)]
        for client in clients:
            client.start()
        sizes = {}
        try:
            for number in range(1, 61):
                write(path, number)
                wait_until(lambda expected=str(number): seen[expected] or wrong)
                if number in (20, 60):
                    sizes[number] = service.sizes()
                # Most of the load where it is measured. In between the CPUs are for the trials, and requests still come
                # while models are loaded and exchanged.
                if number == 20:
                    calm.set()
                elif number == 50:
                    calm.clear()
        finally:
            done.set()
            for client in clients:
                client.join()
        assert not wrong, wrong[:3]
        assert len(seen) == 61
        assert swaps(service.client) == {"swapped": 60}
    print(sizes, seen.total())
    # asyncio's pool for blocking work adds a thread now and then, up to its bound; a thread a swap would be 40.
    assert sizes[60]["threads"] <= sizes[20]["threads"] + 2
    assert sizes[60]["files"] <= sizes[20]["files"] + 2
    # 40 kept models would be 40 MB.
    assert sizes[60]["kB"] - sizes[20]["kB"] < 15_000
