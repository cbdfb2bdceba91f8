"""What the service tells systemd about itself (sd_notify(3)); imported only where systemd asks for it."""

import asyncio
import logging
import socket
from collections.abc import Callable

log = logging.getLogger(__name__)


class Manager:
    """systemd, for a unit of ``Type=notify``, with or without ``WatchdogSec=``."""

    def __init__(self, address: str, watchdog_usec: int | None, alive: Callable[[], bool]) -> None:
        """Says nothing yet.

        Args:
            address: path of a Unix socket, or ``@`` and the name of an abstract one: what ``NOTIFY_SOCKET`` says.
            watchdog_usec: systemd restarts the service after this many silent microseconds; None: it does not watch.
            alive: whether every worker runs; while it does not, the watchdog hears nothing.
        """
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_usec = watchdog_usec
        self._alive = alive

    def listening(self) -> None:
        """The service takes connections. On the event loop: if that stops turning, the watchdog hears nothing."""
        self._tell("READY=1")
        if self._watchdog_usec is not None:
            self._reassure(asyncio.get_running_loop(), self._watchdog_usec / 2e6)

    def leaving(self) -> None:
        """The service drains."""
        self._tell("STOPPING=1")

    def _reassure(self, loop: asyncio.AbstractEventLoop, period_s: float) -> None:
        if self._alive():
            self._tell("WATCHDOG=1")
        loop.call_later(period_s, self._reassure, loop, period_s)

    def _tell(self, state: str) -> None:
        try:
            # Without connect(2): the unit forbids it, because the service calls nobody. Without blocking: a manager
            # that does not read must not stop the event loop.
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
                sender.sendto(state.encode(), self._address)
        except OSError as error:
            log.warning("systemd cannot be told", extra={"fields": {"state": state, "error": str(error)}})
