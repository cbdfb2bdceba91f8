"""The HTTP server around the application: uvicorn, with deadlines for slow clients, a drain and no idle work.

What uvicorn 0.54 leaves open and this adds: a client may take forever to send its request's head, and send a head of
any size, or a minute for a TLS handshake; a client that leaves is worked for to the end; one whose body is refused
while it still sends never reads why; the main loop wakes up ten times a second to see whether it should end;
connections that were accepted but not yet read are dropped at shutdown; the process ends by the signal instead of with
exit code 0.
"""

import asyncio
import contextlib
import ctypes
import logging
import signal
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import Any, Final

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from app.observation import new_request_id
from app.problems import HEAD_TOO_LARGE, HEAD_TOO_SLOW, MEDIA_TYPE, NOT_HTTP, Kind, problem

log = logging.getLogger(__name__)

#: Largest request head in bytes; what nginx and Apache allow together with room to spare.
MAX_HEAD_BYTES: Final = 65_536
#: A connection that was accepted before a shutdown may still send its request within this many seconds.
_LAST_CALL_S: Final = 1.0
#: Linux asm-generic/socket.h; the socket module has no name for it.
_SO_ATTACH_FILTER: Final = 26


class State(ServerState):
    """What all connections share."""

    def __init__(self, head_timeout_s: float, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        self.head_timeout_s = head_timeout_s
        self.headers = headers
        self.draining = False
        self._second = -1
        self._headers: list[tuple[bytes, bytes]] = []
        super().__init__()

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """The Date header, made when it is needed and once a second at most."""
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._headers = [(b"date", formatdate(now, usegmt=True).encode())]
        return self._headers

    @default_headers.setter
    def default_headers(self, _value: list[tuple[bytes, bytes]]) -> None:
        """Uvicorn sets it in its constructor."""


class _OneWrite:
    """A transport that sends a response's head together with the first bytes of its body: one system call less."""

    __slots__ = ("_hang_up", "_head", "_transport")

    def __init__(self, transport: asyncio.Transport, hang_up: Callable[[], None]) -> None:
        self._transport = transport
        self._hang_up = hang_up
        self._head = b""

    def write(self, data: bytes) -> None:
        if not self._head and data.endswith(b"\r\n\r\n") and data.startswith(b"HTTP/1.1 "):
            self._head = data
        else:
            self._transport.write(self._head + data)
            self._head = b""

    def flush(self) -> None:
        if self._head:
            self.write(b"")

    def close(self) -> None:
        self.flush()
        self._hang_up()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


class Protocol(HttpToolsProtocol):
    """One connection."""

    server_state: State

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected; its request's head is due."""
        super().connection_made(transport)
        self._task: asyncio.Task[None] | None = None
        self._head_size = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._rest_timer: asyncio.TimerHandle | None = None
        self._expect_head(self.server_state.head_timeout_s)

    def data_received(self, data: bytes) -> None:
        """Bytes have come; those of a head are counted."""
        super().data_received(data)
        if self._head_timer is not None:
            self._head_size += len(data)
            if self._head_size > MAX_HEAD_BYTES:
                self._refuse(
                    HEAD_TOO_LARGE, f"The request's head has more than {MAX_HEAD_BYTES} bytes. Send fewer headers."
                )

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        if self._head_timer is None:
            self._expect_head(self.server_state.head_timeout_s)

    def on_headers_complete(self) -> None:
        """The head is complete."""
        self._head_arrived()
        super().on_headers_complete()
        self.cycle.transport = _OneWrite(self.transport, self._hang_up)  # type: ignore[assignment]
        if self.server_state.draining:
            # The answer says that this connection ends, so that the client's next request goes elsewhere.
            self.cycle.keep_alive = False

    def on_response_complete(self) -> None:
        """A response has been sent; one without a body still has its head to send."""
        if not self.transport.is_closing():
            self.cycle.transport.flush()  # type: ignore[attr-defined]
        super().on_response_complete()
        if self.cycle.response_complete and self.cycle.more_body and self._rest_timer is None:
            # It was refused before its body came. What still comes is thrown away, but not forever.
            self._rest_timer = self.loop.call_later(self.server_state.head_timeout_s, self.transport.close)

    def on_message_complete(self) -> None:
        """The body is complete."""
        if self._rest_timer is not None:
            self._rest_timer.cancel()
            self._rest_timer = None
        super().on_message_complete()
        if self.cycle.response_complete and not self.cycle.keep_alive:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left: nobody waits for the answer, so its place in the queue is free."""
        self._head_arrived()
        if self._rest_timer is not None:
            self._rest_timer.cancel()
        super().connection_lost(exc)
        if self._task is not None:
            self._task.cancel()

    def shutdown(self) -> None:
        """Ends the connection as soon as that loses nothing."""
        if self._head_timer is None:
            super().shutdown()
        else:
            self._head_timer.cancel()
            self._head_timer = self.loop.call_later(_LAST_CALL_S, self.transport.close)

    def send_400_response(self, msg: str) -> None:
        """What came is not HTTP."""
        self._refuse(NOT_HTTP, "What arrived is not an HTTP/1.1 request. See RFC 9112, or leave it to an HTTP client.")

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._task = self.loop.create_task(cycle.run_asgi(app))
        self._task.add_done_callback(self.tasks.discard)
        self.tasks.add(self._task)

    def _hang_up(self) -> None:
        """Ends the connection after an answer.

        A socket that is closed while bytes arrive resets the connection, and a client that still sends then never
        reads its answer; so what is left of the body is thrown away first, as nginx does (``lingering_close``).
        """
        if not self.cycle.more_body:
            self.transport.close()
        elif self.transport.can_write_eof():
            self.transport.write_eof()

    def _expect_head(self, timeout_s: float) -> None:
        self._head_size = 0
        detail = f"The request's head did not arrive within {timeout_s:g} s. Send it faster."
        self._head_timer = self.loop.call_later(timeout_s, self._refuse, HEAD_TOO_SLOW, detail)

    def _head_arrived(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, kind: Kind, detail: str) -> None:
        """Answers below the application, which has not seen a request yet."""
        self._head_arrived()
        if self.transport.is_closing():
            return
        cycle = self.cycle
        # Not into the middle of an answer, nor in the place of one that is due.
        broken_off = cycle is not None and cycle.more_body and not cycle.response_started and not self.pipeline
        if cycle is None or cycle.response_complete or broken_off:
            request_id = new_request_id()
            body = problem(kind, detail, request_id).model_dump_json().encode()
            headers = (
                *self.server_state.default_headers,
                (b"content-type", MEDIA_TYPE.encode()),
                (b"content-length", b"%d" % len(body)),
                (b"connection", b"close"),
                (b"x-request-id", request_id.encode()),
                *self.server_state.headers,
            )
            lines = [STATUS_LINE[kind.status], *(b"%s: %s\r\n" % header for header in headers), b"\r\n", body]
            self.transport.write(b"".join(lines))
        self.transport.close()


class Server(uvicorn.Server):
    """Serves one application until SIGTERM or SIGINT, then drains and ends with exit code 0."""

    server_state: State

    def __init__(
        self,
        app: Any,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None,
        headers: tuple[tuple[bytes, bytes], ...],
        head_timeout_s: float,
        drain_s: float,
        on_listening: Callable[[], None],
        on_drain: Callable[[], None],
    ) -> None:
        """Binds the address.

        Args:
            app: the ASGI application.
            host: address to listen on.
            port: port to listen on; 0 picks a free one.
            tls: how to speak TLS; None: plain HTTP.
            headers: names and values for the answers that the application does not give.
            head_timeout_s: seconds that a client has for its request's head, and for a TLS handshake.
            drain_s: seconds between SIGTERM and the first refused connection.
            on_listening: called when connections are taken.
            on_drain: called at SIGTERM; readiness turns from then on.

        Raises:
            OSError: the address cannot be bound.
        """
        config = uvicorn.Config(
            app,
            http=Protocol,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=65,
            lifespan="on",
        )
        super().__init__(config)
        self.server_state = State(head_timeout_s, headers)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.create_server((host, port), family=family, backlog=2048)
        self._tls = tls
        self._drain_s = drain_s
        self._on_listening = on_listening
        self._on_drain = on_drain
        self._told = asyncio.Event()
        self._hurry = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts the application, then listens."""
        self.loop = asyncio.get_running_loop()
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        timeouts: dict[str, Any] = {}
        if self._tls is not None:
            # A client that does not say goodbye must not keep the process from ending.
            timeouts = {
                "ssl_handshake_timeout": self.server_state.head_timeout_s,
                "ssl_shutdown_timeout": _LAST_CALL_S,
            }
        listening = await self.loop.create_server(
            lambda: Protocol(self.config, self.server_state, self.lifespan.state),
            sock=self.socket,
            ssl=self._tls,
            backlog=self.config.backlog,
            **timeouts,
        )
        self.servers = [listening]
        self.started = True
        host, port = self.socket.getsockname()[:2]
        log.info("listening", extra={"fields": {"host": host, "port": port, "tls": self._tls is not None}})
        self._on_listening()

    async def main_loop(self) -> None:
        """Sleeps until a signal comes, then stops taking connections without losing one."""
        await self._told.wait()
        self.server_state.draining = True
        self._on_drain()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), self._drain_s)
        # New connections are dropped in the kernel (a classic BPF program: return 0), so that the queue of those that
        # it has completed for us can be emptied; closing the socket would reset them.
        program = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
        with contextlib.suppress(OSError):
            program_at = struct.pack("HP", 1, ctypes.addressof(program))
            self.socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program_at)
        await asyncio.sleep(0.05)

    def stop(self) -> None:
        """What SIGTERM does: the first time drains, the second time hurries."""
        (self._hurry if self._told.is_set() else self._told).set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals reach the event loop, and do not end the process a second time afterwards."""
        loop = asyncio.get_running_loop()
        try:
            loop.add_signal_handler(signal.SIGTERM, self.stop)
            loop.add_signal_handler(signal.SIGINT, self._interrupt)
        except (ValueError, RuntimeError):
            # Not the main thread: whoever runs the server there calls stop().
            pass
        yield

    def _interrupt(self) -> None:
        """Control-C: no load balancer has to notice."""
        self._hurry.set()
        self._told.set()
