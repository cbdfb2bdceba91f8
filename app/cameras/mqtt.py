"""Tells states to an MQTT broker, retained, and again whenever the broker is back.

A message is sent once (QoS 0) and only while the broker is there: when it comes back, it is told what is true then.
So nothing has to be kept for a broker that is away for hours, and no older state can follow a newer one, as it would
from a queue of messages that wait for their acknowledgement.
"""

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from . import config
from .camera import Event
from .home_assistant import Topics, entities

log = logging.getLogger(__name__)

_KEEPALIVE_S: Final = 30
#: Seconds between two tries to connect: at first, and at most.
_TRIES_S: Final = (1, 60)
#: Messages of earlier runs that are looked at after each connection, so that no broker can make us busy.
_MOST_OLD: Final = 10_000
#: Seconds for which they are waited for.
_LOOKED_S: Final = 10.0


class Mqtt:
    """The broker; all methods are called from the event loop."""

    def __init__(self, settings: config.Mqtt, connected: Callable[[bool], None]) -> None:
        """Begins to connect; where there is no broker yet, it goes on trying.

        Args:
            settings: where it is, and what is told.
            connected: told when it is there, and when it is gone.
        """
        self._settings = settings
        self._connected = connected
        self._there = False
        self._refused = ""
        self._old = 0
        self._cameras: Mapping[str, config.Camera] = {}
        self._loop = asyncio.get_running_loop()
        #: What is to be known at any time, by topic.
        self._retained: dict[str, bytes] = {}
        self._discovered: set[str] = set()
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=f"{settings.topic.replace('/', '-')}-{socket.gethostname()}"[:120]
        )
        if settings.username is not None:
            password = None if settings.password is None else settings.password.get_secret_value()
            self._client.username_pw_set(settings.username, password)
        if settings.tls:
            tls = settings.tls if isinstance(settings.tls, config.Tls) else config.Tls()
            self._client.tls_set_context(tls.context())
        self._client.will_set(f"{settings.topic}/status", "offline", retain=True)
        self._client.reconnect_delay_set(*_TRIES_S)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_connect_fail = lambda *_: self._soon(self._unreachable)
        self._client.on_message = lambda _client, _data, message: self._soon(
            self._found, message.topic, bool(message.payload)
        )
        self._client.connect_async(
            settings.host, settings.port or (8883 if settings.tls else 1883), keepalive=_KEEPALIVE_S
        )
        self._client.loop_start()

    def know(self, cameras: Mapping[str, config.Camera]) -> None:
        """These cameras are there; what was known of others, or of other regions, is taken back."""
        self._cameras = cameras
        wanted = {
            (topics.state, topics.image, topics.availability)
            for topics in (
                Topics.of(self._settings.topic, name, region)
                for name, camera in cameras.items()
                for region in camera.regions
            )
        }
        kept = {topic for topics in wanted for topic in topics}
        for topic in [topic for topic in self._retained if topic not in kept]:
            del self._retained[topic]
            self._publish(topic, b"")
        for _, _, availability in wanted:
            if availability not in self._retained:
                # Until something is known, whatever an earlier run has said.
                self._tell(availability, b"offline")
        self._announce()

    def tell(self, event: Event) -> None:
        """Tells a new state, with the frame that changed it."""
        topics = Topics.of(self._settings.topic, event.camera, event.region)
        if self._settings.images and event.frame is not None:
            self._tell(topics.image, event.frame)
        self.confirm(event.camera, event.region, event.members())

    def confirm(self, camera: str, region: str, members: Mapping[str, Any]) -> None:
        """Tells a state, also one that an earlier run has told already: the broker may have forgotten it."""
        topics = Topics.of(self._settings.topic, camera, region)
        self._tell(topics.state, json.dumps(members).encode())
        self._tell(topics.availability, b"offline" if members["fault"] else b"online")

    async def close(self) -> None:
        """Says that nothing is known any more, and leaves."""
        self._publish(f"{self._settings.topic}/status", b"offline")
        self._there = False
        await asyncio.to_thread(self._leave)
        self._connected(False)

    def _leave(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _tell(self, topic: str, payload: bytes) -> None:
        self._retained[topic] = payload
        self._publish(topic, payload)

    def _publish(self, topic: str, payload: bytes) -> None:
        if self._there:
            self._client.publish(topic, payload, qos=0, retain=True)

    def _announce(self) -> None:
        """What Home Assistant has to know, and no more of what it has not."""
        if self._settings.discovery is None:
            return
        found = entities(self._settings, self._cameras)
        for topic in self._discovered - set(found):
            self._publish(topic, b"")
        self._discovered = set(found)
        for topic, payload in found.items():
            self._publish(topic, json.dumps(payload).encode())

    # What paho's thread calls; it goes on in the event loop.

    def _soon(self, work: Callable[..., None], *arguments: Any) -> None:
        # The loop may have ended.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(work, *arguments)

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._soon(self._refuse if reason.is_failure else self._arrive, str(reason))

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._soon(self._lose, str(reason))

    def _arrive(self, _reason: str) -> None:
        log.info("mqtt: connected to %s", self._settings.host)
        self._there, self._refused, self._old = True, "", 0
        self._connected(True)
        self._announce()
        for topic, payload in self._retained.items():
            self._publish(topic, payload)
        self._publish(f"{self._settings.topic}/status", b"online")
        # What an earlier run has left there is taken back; what comes later is our own.
        own = [f"{self._settings.topic}/+/+/state"]
        if self._settings.discovery is not None:
            own.append(f"{self._settings.discovery}/+/{Topics.node(self._settings.topic)}/+/config")
        self._client.subscribe([(topic, 0) for topic in own])
        self._loop.call_later(_LOOKED_S, self._client.unsubscribe, own)

    def _lose(self, reason: str) -> None:
        if self._there:
            log.warning("mqtt: %s is gone (%s)", self._settings.host, reason)
        self._there = False
        self._connected(False)

    def _refuse(self, reason: str) -> None:
        if reason != self._refused:
            log.error("mqtt: %s refuses the connection: %s", self._settings.host, reason)
        self._refused = reason

    def _unreachable(self) -> None:
        if self._refused != "unreachable":
            log.warning("mqtt: %s cannot be reached; trying on", self._settings.host)
        self._refused = "unreachable"

    def _found(self, topic: str, told: bool) -> None:
        """A retained message is there that may be of an earlier run."""
        self._old += 1
        if not told or self._old > _MOST_OLD or topic in self._retained or topic in self._discovered:
            return
        camera, _, region = topic.removeprefix(f"{self._settings.topic}/").removesuffix("/state").partition("/")
        if not topic.startswith(f"{self._settings.topic}/"):
            self._publish(topic, b"")
        elif camera not in self._cameras or region not in self._cameras[camera].regions:
            topics = Topics.of(self._settings.topic, camera, region)
            for gone in (topics.state, topics.image, topics.availability):
                self._publish(gone, b"")
        # The state of a region that there is stays until it is known anew; its availability says so.
