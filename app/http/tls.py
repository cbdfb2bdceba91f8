"""TLS: certificate files, which are read again when they are renewed; handshakes, which do not last for ever."""

import asyncio
import contextlib
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from ..errors import SettingsError
from .reloading import ReloadingValue

#: Handshakes at once. One takes a millisecond of a CPU, so more than these wait for clients that do not go on.
_MOST_HANDSHAKES: Final = 256
#: Seconds until it is tried again to accept where no descriptor is left for it.
_RETRY_S: Final = 0.1


def context(certificate: Path, key: Path) -> ssl.SSLContext:
    """What a server needs to speak TLS 1.2 or newer.

    Args:
        certificate: PEM file with the certificate and what leads to its root.
        key: PEM file with its private key, not encrypted.

    Raises:
        SettingsError: a file cannot be read, or they do not belong together.
    """
    current = ReloadingValue(lambda: _load(certificate, key), certificate, key)
    first = current()

    def renew(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = current()

    # Python's only hook into a handshake; it is called whether or not the client names a host.
    first.sni_callback = renew
    return first


def _load(certificate: Path, key: Path) -> ssl.SSLContext:
    for setting, path in (("CLASSIFIER_TLS_CERTIFICATE", certificate), ("CLASSIFIER_TLS_KEY", key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise SettingsError(f"{setting}: {path} cannot be read: {error.strerror}") from error
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["http/1.1"])
    try:
        # Without an answer OpenSSL asks for an encrypted key's password on the terminal.
        made.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise SettingsError(
            f"CLASSIFIER_TLS_CERTIFICATE, CLASSIFIER_TLS_KEY: {certificate} and {key} are not a PEM certificate and "
            f"its unencrypted PEM key: {error}"
        ) from error
    return made


class Listener:
    """Accepts connections and shakes hands with their clients, each for so long and so many at a time.

    The event loop's own server shows a connection to nobody before its handshake is complete: clients that connect and
    say nothing would take all descriptors until their time is over. Of the client that has the most handshakes under
    way, the one that has taken longest makes room for the next.
    """

    def __init__(
        self,
        listening: socket.socket,
        tls: ssl.SSLContext,
        protocol: Callable[[], asyncio.Protocol],
        handshake_s: float,
        shutdown_s: float,
    ) -> None:
        """Begins to accept, on the running event loop.

        Args:
            listening: a bound socket.
            tls: how to speak TLS.
            protocol: makes the protocol of a connection whose handshake is complete.
            handshake_s: seconds that a client has for its handshake.
            shutdown_s: seconds that a client has to say goodbye, and for its handshake once the service ends.
        """
        self._socket = listening
        self._socket.listen(2048)
        self._socket.setblocking(False)
        self._protocol = protocol
        self._shutdown_s = shutdown_s
        self._options: dict[str, Any] = {
            "ssl": tls,
            "ssl_handshake_timeout": handshake_s,
            "ssl_shutdown_timeout": shutdown_s,
        }
        self._loop = asyncio.get_running_loop()
        #: Handshakes under way and who shakes hands, the oldest first.
        self._handshakes: dict[asyncio.Task[None], str] = {}
        self._retry: asyncio.TimerHandle | None = None
        self._resume()

    def close(self) -> None:
        """Accepts no more connections; handshakes go on."""
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()

    async def wait_closed(self) -> None:
        """Waits for the handshakes that are under way, and ends those whose clients say nothing."""
        if not self._handshakes:
            return
        _, silent = await asyncio.wait(self._handshakes, timeout=self._shutdown_s)
        for task in silent:
            task.cancel()
        if silent:
            await asyncio.wait(silent)

    def _resume(self) -> None:
        self._retry = None
        self._loop.add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        # As many as may shake hands at once, and then whatever else the event loop has to do.
        for _ in range(_MOST_HANDSHAKES):
            try:
                connection, address = self._socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError:
                # No descriptor is left. A handshake gives its own, or a connection does when it ends.
                if self._handshakes:
                    self._end_one()
                self._loop.remove_reader(self._socket)
                self._retry = self._loop.call_later(_RETRY_S, self._resume)
                return
            connection.setblocking(False)
            if len(self._handshakes) >= _MOST_HANDSHAKES:
                self._end_one()
            task = self._loop.create_task(self._shake_hands(connection))
            self._handshakes[task] = address[0]
            task.add_done_callback(self._handshakes.pop)

    def _end_one(self) -> None:
        counts = Counter(self._handshakes.values())
        most = max(counts, key=counts.__getitem__)
        oldest = next(task for task, host in self._handshakes.items() if host == most)
        oldest.cancel()
        # Not again, before it has ended.
        del self._handshakes[oldest]
        oldest.remove_done_callback(self._handshakes.pop)

    async def _shake_hands(self, connection: socket.socket) -> None:
        # It has failed for the client, who knows; nobody else has to.
        with contextlib.suppress(OSError, TimeoutError):
            await self._loop.connect_accepted_socket(self._protocol, connection, **self._options)
