"""POSTs events to an address, one after the other, for as long as it takes."""

import asyncio
import base64
import json
import logging
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import httpx

from . import config
from .camera import Event

log = logging.getLogger(__name__)

#: What may wait: events, and bytes of all their bodies. The oldest are given up first.
_MOST_EVENTS: Final = 1000
_MOST_BYTES: Final = 8_000_000
#: Seconds before an event is tried again: at first, and at most.
_PAUSES_S: Final = (1.0, 60.0)
#: Answers after which the same body may still be taken: it took too long, too early, too many.
_AGAIN: Final = frozenset({408, 425, 429})


class Webhook:
    """One address and what waits for it."""

    def __init__(self, settings: config.Webhook, lost: Callable[[], None]) -> None:
        """Sends nothing yet.

        Args:
            settings: where to.
            lost: called for each event that is given up.
        """
        self._settings = settings
        self._lost = lost
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._came = asyncio.Event()
        self._failing = False
        # An address may have its secret in its path.
        self._name = httpx.URL(settings.url).host
        self._http = httpx.AsyncClient(
            timeout=settings.timeout_seconds,
            headers={name: secret.get_secret_value() for name, secret in settings.headers.items()},
        )
        self._task = asyncio.create_task(self._run())

    def tell(self, event: Event) -> None:
        """Takes an event; never waits."""
        members = event.members()
        if self._settings.images:
            members["frame"] = None if event.frame is None else base64.b64encode(event.frame).decode()
        body = json.dumps(members).encode()
        self._waiting.append((time.monotonic(), body))
        self._bytes += len(body)
        while len(self._waiting) > _MOST_EVENTS or (self._bytes > _MOST_BYTES and len(self._waiting) > 1):
            self._drop()
        self._came.set()

    async def close(self) -> None:
        """What still waits is given up."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._waiting:
            log.warning("webhook %s: %d events are given up", self._name, len(self._waiting))
        while self._waiting:
            self._drop()
        await self._http.aclose()

    def _drop(self) -> None:
        self._bytes -= len(self._waiting.popleft()[1])
        self._lost()

    async def _run(self) -> None:
        pause_s = _PAUSES_S[0]
        while True:
            await self._came.wait()
            if not self._waiting:
                self._came.clear()
                continue
            first = self._waiting[0]
            came, body = first
            said = await self._post(body)
            if said is None:
                pause_s = _PAUSES_S[0]
                if self._waiting and self._waiting[0] is first:
                    self._bytes -= len(self._waiting.popleft()[1])
                continue
            if time.monotonic() - came > self._settings.keep_seconds:
                log.error("webhook %s: an event is given up after %g s: %s", self._name, time.monotonic() - came, said)
                if self._waiting and self._waiting[0] is first:
                    self._drop()
                continue
            await asyncio.sleep(pause_s * random.uniform(0.7, 1.0))  # noqa: S311 - no secret
            pause_s = min(2 * pause_s, _PAUSES_S[1])

    async def _post(self, body: bytes) -> str | None:
        """Sends once; None if that is done with, else what failed."""
        try:
            async with (
                asyncio.timeout(self._settings.timeout_seconds),
                self._http.stream(
                    "POST", self._settings.url, content=body, headers={"Content-Type": "application/json"}
                ) as response,
            ):
                status = response.status_code
        except (httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError) as error:
            return self._failed(f"{type(error).__name__}: {error}")
        if status < 300:
            if self._failing:
                log.info("webhook %s: events are taken again", self._name)
            self._failing = False
            return None
        if status < 500 and status not in _AGAIN:
            log.error("webhook %s: status %d; the event is given up", self._name, status)
            self._lost()
            return None
        return self._failed(f"status {status}")

    def _failed(self, said: str) -> str:
        if not self._failing:
            log.warning("webhook %s: %s; trying on", self._name, said)
        self._failing = True
        return said
