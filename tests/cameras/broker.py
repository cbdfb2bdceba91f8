"""A real mosquitto on a real socket, and what it is told."""

import contextlib
import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from tests.conftest import wait_until
from tests.manifests.tools import tool


@contextlib.contextmanager
def mosquitto(folder: Path, port: int, *lines: str) -> Iterator[subprocess.Popen]:
    """The broker, with more lines for its configuration; whoever comes is let in where they do not say otherwise."""
    program = tool("mosquitto")
    path = folder / "mosquitto.conf"
    # As root it would become another user, who may not read what the test has made.
    given = "\n".join([f"listener {port} 127.0.0.1", "user root", *(lines or ("allow_anonymous true",))])
    path.write_text(f"{given}\n")
    process = subprocess.Popen([program, "-c", str(path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in process.stdout:
        if "running" in line:
            break
    reader = threading.Thread(target=process.stdout.read, daemon=True)
    reader.start()
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)
        reader.join(30)
        process.stdout.close()


class Listener:
    """Everything that is told below a topic, in its order."""

    def __init__(self, port: int, *topics: str) -> None:
        self.messages: list[tuple[str, bytes]] = []
        subscribed = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda client, *_: client.subscribe([(topic, 0) for topic in topics])
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.on_message = lambda _client, _data, message: self.messages.append((message.topic, message.payload))
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert subscribed.wait(30)

    def of(self, topic: str) -> list[bytes]:
        return [payload for told, payload in self.messages if told == topic]

    def states(self, topic: str) -> list[str]:
        """The states that were told, a fault by its name."""
        told = [json.loads(payload) for payload in self.of(topic) if payload]
        return [one["fault"] or one["state"] for one in told]

    def until(self, topic: str, *states: str) -> None:
        wait_until(lambda: self.states(topic)[-len(states) :] == list(states))

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def retained(port: int, *topics: str) -> dict[str, bytes]:
    """What a newcomer is told."""
    listener = Listener(port, *topics)
    # What is retained comes before the answer to a later question.
    done = threading.Event()
    listener._client.on_publish = lambda *_: done.set()
    listener._client.publish("done", qos=1)
    assert done.wait(30)
    listener.close()
    # An empty one is what has just been taken back.
    return {topic: payload for topic, payload in listener.messages if payload}
