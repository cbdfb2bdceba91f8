"""The HTTP server around the application: uvicorn, with deadlines for slow clients, a drain and no idle work.

What uvicorn 0.54 leaves open and this adds: a client may take forever to send its request's headers or to read its
answer, or a minute for a TLS handshake, and send headers and a trailer of any size; a client that leaves is worked for
to the end; one whose body is refused while it still sends, or that sends more than it announced, never reads its
answer; a request that offers an upgrade loses its body; idle connections use up the descriptors; the main loop wakes
up ten times a second to see whether it should end; connections that were accepted but not yet read are dropped at
shutdown; the process ends by the signal instead of with exit code 0.
"""

import asyncio
import contextlib
import ctypes
import logging
import resource
import signal
import socket
import ssl
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import Any, Final

import httptools
import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from ..runtime.memory import free_bytes
from ..telemetry.request_record import MORE_CAME, new_request_id
from .problems import (
    HEADERS_TOO_LARGE,
    HEADERS_TOO_SLOW,
    MEDIA_TYPE,
    NOT_HTTP,
    TOO_MANY_CONNECTIONS,
    ProblemType,
    problem,
)

log = logging.getLogger(__name__)

#: Largest header section of a request, in bytes; what nginx and Apache allow together with room to spare. As much may
#: stand between two pieces of a chunked body, and after it.
MAX_HEAD_BYTES: Final = 65_536
#: Most fields in it; Apache's LimitRequestFields is 100.
MAX_HEADERS: Final = 200
#: Connections at once; each may hold headers, and all are heard in turn. nginx's worker_connections is 512 too.
_MOST_CONNECTIONS: Final = 512
_FEW_CONNECTIONS: Final = 64
#: Descriptors that are not for connections: models, logs, keys, and what is accepted before another one is closed.
_DESCRIPTORS: Final = 64
#: Requests that a client may send before it has the first one's answer.
_MAX_PIPELINED: Final = 16
_SEND_BUFFER_BYTES: Final = 131_072
#: Bytes of one connection that are parsed before it is the others' turn, unless they are a body whose length is known:
#: 512 connections that send nothing but headers or small chunks then take a tenth of a second together.
_SLICE_BYTES: Final = 16_384
#: Bytes by which the framing of a body's chunks may exceed what is in them: 1,000 chunks of one byte.
_MAX_FRAMING_BYTES: Final = 4096
#: What stands around a chunk's data at least: a digit and two line ends.
_FRAME_BYTES: Final = 5
#: Bytes of answers that one client may be behind before its time runs, and all clients together before the one that
#: has been for longest is given up.
_MAX_UNSENT_BYTES: Final = 65_536
_MOST_UNSENT_BYTES: Final = 32_000_000
#: A connection that was accepted before a shutdown may still send its request within this many seconds.
_LAST_CALL_S: Final = 1.0
_SPEAK: Final = "The service speaks HTTP/1.1; send your request so."
_TOO_OLD: Final = NOT_HTTP, f"This is HTTP/0.9. {_SPEAK}"
_TOO_LARGE: Final = (
    HEADERS_TOO_LARGE,
    f"The headers or the trailer have more than {MAX_HEAD_BYTES} bytes or {MAX_HEADERS} fields. Send fewer of them.",
)
_TOO_FRAMED: Final = HEADERS_TOO_LARGE, "The body has more around its chunks than in them. Send larger chunks."
#: Linux asm-generic/socket.h; the socket module has no name for it.
_SO_ATTACH_FILTER: Final = 26


class State(ServerState):
    """What all connections share."""

    def __init__(
        self,
        header_timeout_s: float,
        send_timeout_s: float,
        headers: tuple[tuple[bytes, bytes], ...],
        on_refusal: Callable[[ProblemType, str], None],
    ) -> None:
        self.header_timeout_s = header_timeout_s
        self.send_timeout_s = send_timeout_s
        self.headers = headers
        self.on_refusal = on_refusal
        self.draining = False
        self.most_connections = _most_connections()
        #: Connections without a complete request, the one that has been so for longest first.
        self.idle: dict[Protocol, None] = {}
        #: Connections whose request's body has not come whole, the one that has been so for longest first.
        self.arriving: dict[Protocol, None] = {}
        #: Connections whose clients do not read as fast as they are answered, and bytes they were behind; oldest first.
        self.unsent: dict[Protocol, int] = {}
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

    def make_room(self, newcomer: "Protocol") -> bool:
        """Ends a connection that nobody works for, if there is one; says whether there was.

        Of the client that has the most connections, the one that has been idle longest; or else, for another client,
        the one whose body has been coming for longest. Those that have fewer lose idle ones only.
        """
        counts = Counter(map(_host, self.connections))
        most = max(counts, key=counts.__getitem__)
        waiting = [*self.idle, *(self.arriving if most != _host(newcomer) else ())]
        ended = next((connection for connection in waiting if _host(connection) == most), next(iter(self.idle), None))
        if ended is None:
            return False
        # Not again, before it is really closed.
        self.idle.pop(ended, None)
        self.arriving.pop(ended, None)
        ended.transport.abort()
        return True


def _host(connection: Any) -> str:
    return connection.client[0] if connection.client else ""


class _Refused(Exception):
    """Ends the parsing of a request that is not taken; said to the parser, which passes it on."""


class _Answering:
    """A connection's transport for one answer.

    Its headers go out together with the first bytes of its body, which saves a system call for each request and a
    packet; interim answers go out at once. Where uvicorn would close the connection, the protocol decides how.
    """

    __slots__ = ("_end", "_head", "_write", "is_closing")

    def __init__(self, transport: asyncio.Transport, end: Callable[[], None]) -> None:
        self._write = transport.write
        self._end = end
        self._head = b""
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        if not self._head and data.endswith(b"\r\n\r\n") and data.startswith(b"HTTP/1.1 ") and data[9:10] != b"1":
            self._head = data
        else:
            self._write(self._head + data)
            self._head = b""

    def flush(self) -> None:
        """An answer without a body still has its headers to send."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        self.flush()
        self._end()


class Protocol(HttpToolsProtocol):
    """One connection.

    Its duties beside uvicorn's, each of which has a test: deadlines for headers, for what is left of a refused body and
    for reading an answer; limits for everything that is not body; answers for what came whole, whatever comes after it;
    and an end to the work for a client that leaves.
    """

    server_state: State

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected; its request's headers are due."""
        super().connection_made(transport)
        if self.client is not None and self.client[0].startswith("::ffff:"):
            # An IPv4 client of a socket that listens on both (RFC 4291, 2.5.5.2).
            self.client = (self.client[0].removeprefix("::ffff:"), self.client[1])
        transport.set_write_buffer_limits(_MAX_UNSENT_BYTES)
        self._begin_parsing()
        self._running: RequestResponseCycle | None = None
        self._task: asyncio.Task[None] | None = None
        self._deaf = False
        self._upgrading = False
        self._in_head = True
        self._chunked = False
        # What comes next is part of a body whose length is known, so that parsing it costs nothing.
        self._in_sized_body = False
        self._head_size = 0
        self._beside_body = 0
        self._framing = 0
        self._left: list[memoryview] = []
        self._halted = False
        self._fault: tuple[ProblemType, str] | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._rest_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._expect_headers()
        state = self.server_state
        if len(self.connections) > state.most_connections and not state.make_room(self):
            self._refuse(
                TOO_MANY_CONNECTIONS,
                f"{state.most_connections} requests are being worked on, each on a connection of its own. Try again "
                "later.",
            )
            return
        state.idle[self] = None

    def data_received(self, data: bytes) -> None:
        """Bytes have come; those that are no body are counted."""
        if self._deaf:
            return
        self._unset_keepalive_if_required()
        if self._left:
            self._left.append(memoryview(data))
        elif len(data) <= _SLICE_BYTES or self._in_sized_body:
            self._parse(data)
        else:
            self._left.append(memoryview(data))
            self._go_on()

    def _go_on(self) -> None:
        """It is this connection's turn: parses what is left, but only a part of it where that takes long."""
        parsed = 0
        while self._left and parsed < _SLICE_BYTES:
            if self._deaf or self.transport.is_closing():
                self._left.clear()
                return
            data = self._left.pop(0)
            if not self._in_sized_body:
                data, rest = data[: _SLICE_BYTES - parsed], data[_SLICE_BYTES - parsed :]
                parsed += len(data)
                if rest:
                    self._left.insert(0, rest)
            self._parse(bytes(data))
        if self._left:
            self._halted = True
            self.flow.pause_reading()
            self.loop.call_soon(self._go_on)
        elif self._halted:
            self._halted = False
            # Uvicorn may have stopped reading too: behind a request that is worked on, and where much of a body waits.
            waits = self.cycle is not None and len(self.cycle.body) > HIGH_WATER_LIMIT
            if not self.pipeline and not waits and not self._deaf and not self.transport.is_closing():
                self.flow.resume_reading()

    def _parse(self, data: bytes) -> None:
        self._beside_body += len(data)
        try:
            while data:
                try:
                    self.parser.feed_data(data)
                    break
                except httptools.HttpParserUpgrade as upgrade:
                    # The parser takes what follows for another protocol, and has not looked for a body.
                    data = self._head_without_upgrade() + data[upgrade.args[0] :]
                    self._beside_body = len(data)
                    # It remembers that the connection may end after that request, and would take no more of it.
                    self._begin_parsing()
        except httptools.HttpParserError as error:
            reason = " ".join(str(error).split())[:100]
            self._refuse(
                *self._fault
                or (
                    NOT_HTTP,
                    f"What arrived is not an HTTP/1.1 request ({reason}). See RFC 9112, or leave it to an HTTP client.",
                )
            )
            return
        if self._beside_body > MAX_HEAD_BYTES:
            self._refuse(*_TOO_LARGE)
        elif self._in_head and data.startswith(b"GET ") and data.find(b"\n") == len(data) - 1 and b" HTTP/" not in data:
            # A line without a version: no fields will follow, and the parser would wait for them.
            self._refuse(*_TOO_OLD)
        elif self._head_timer is None and self in self.server_state.idle:
            # Empty lines between two requests (RFC 9112, 2.2) are none.
            self._expect_request()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._in_head = True
        self._chunked = False
        self._framing = 0
        self._head_size = 0
        if self._head_timer is None:
            self._expect_headers()

    def on_url(self, url: bytes) -> None:
        """A part of the target."""
        super().on_url(url)
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the headers, or of the trailer, which nothing here reads."""
        if self._in_head:
            super().on_header(name, value)
            self._chunked |= name.lower() == b"transfer-encoding"
            self._count_head(len(name) + len(value))

    def on_headers_complete(self) -> None:
        """The headers are complete."""
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            self._fault = _TOO_OLD if version == "0.9" else (NOT_HTTP, f"This is HTTP/{version}. {_SPEAK}")
            raise _Refused
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                self._fault = NOT_HTTP, "This is no proxy. Send the request to the server that it is meant for."
                raise _Refused
            self._upgrading = True
            return
        if len(self.pipeline) >= _MAX_PIPELINED:
            self._fault = (
                NOT_HTTP,
                f"More than {_MAX_PIPELINED} requests were sent ahead. Wait for their answers first.",
            )
            raise _Refused
        self._in_head = False
        self._in_sized_body = not self._chunked
        self._head_arrived()
        self.server_state.idle.pop(self, None)
        self.server_state.arriving[self] = None
        super().on_headers_complete()
        self.cycle.transport = _Answering(self.transport, self._hang_up)  # type: ignore[assignment]
        if version == "1.0":
            # RFC 9110, 10.1.1: such a client knows no interim answers.
            self.cycle.waiting_for_100_continue = False
            if self.parser.should_keep_alive():
                self.cycle.keep_alive = True
                self.cycle.default_headers = [*self.cycle.default_headers, (b"connection", b"keep-alive")]
        if self.server_state.draining:
            # The answer says that this connection ends, so that the client's next request goes elsewhere.
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        # Once for what it is itself, and once for as much around it.
        self._beside_body = max(0, self._beside_body - 2 * len(body))
        if self._chunked:
            self._framing = max(0, self._framing + _FRAME_BYTES - len(body))
            if self._framing > _MAX_FRAMING_BYTES:
                self._fault = _TOO_FRAMED
                raise _Refused
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The body is complete."""
        self._beside_body = 0
        self._in_sized_body = False
        if self._upgrading:
            return
        self.server_state.arriving.pop(self, None)
        if self._rest_timer is not None:
            self._rest_timer.cancel()
            self._rest_timer = None
        super().on_message_complete()
        if self.cycle.response_complete:
            self.cycle.more_body = False
            if self.cycle.keep_alive:
                self.server_state.idle[self] = None
                self._expect_request()
            else:
                self._close()
        elif not self.pipeline:
            # Uvicorn has stopped reading where the body is large, and a socket that is not read does not tell that its
            # client has left.
            self.flow.resume_reading()

    def on_response_complete(self) -> None:
        """A response has been sent; uvicorn calls this after it has closed the connection, too."""
        cycle = self._running
        if cycle is not None and not self.transport.is_closing():
            cycle.transport.flush()  # type: ignore[attr-defined]
        super().on_response_complete()
        if cycle is not None and cycle.more_body and self._rest_timer is None:
            # It was refused before its body came. What still comes is thrown away, but not forever.
            self._rest_timer = self.loop.call_later(self.server_state.header_timeout_s, self._close)
        elif cycle is self.cycle and not self.transport.is_closing():
            self.server_state.idle[self] = None

    def pause_writing(self) -> None:
        """The client does not read its answer as fast as it is written; it has some time to do so."""
        super().pause_writing()
        state = self.server_state
        state.unsent[self] = self.transport.get_write_buffer_size()
        self._send_timer = self.loop.call_later(state.send_timeout_s, self.transport.abort)
        if sum(state.unsent.values()) > _MOST_UNSENT_BYTES:
            next(iter(state.unsent)).transport.abort()

    def resume_writing(self) -> None:
        """The client has caught up."""
        super().resume_writing()
        self.server_state.unsent.pop(self, None)
        if not self.transport.is_closing():
            self._stop_send_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left: nobody waits for the answer, so its place in the queue is free."""
        self.server_state.idle.pop(self, None)
        self.server_state.arriving.pop(self, None)
        self._head_arrived()
        self.server_state.unsent.pop(self, None)
        self._stop_send_timer()
        if self._rest_timer is not None:
            self._rest_timer.cancel()
        super().connection_lost(exc)
        if self._running is not None:
            self._running.disconnected = True
        self._unset_keepalive_if_required()
        self._left.clear()
        self.pipeline.clear()
        if self._task is not None:
            self._task.cancel()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing has come for a while after an answer; perhaps it has not even been read."""
        self._close()

    def shutdown(self) -> None:
        """Ends the connection as soon as that loses nothing."""
        if self._head_timer is None:
            super().shutdown()
        else:
            self._head_timer.cancel()
            self._head_timer = self.loop.call_later(_LAST_CALL_S, self._close)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        if cycle.waiting_for_100_continue:
            app = _closed_unless_continued(app, cycle)
        self._task = self.loop.create_task(cycle.run_asgi(app))
        self._task.add_done_callback(self.tasks.discard)
        self.tasks.add(self._task)

    def _begin_parsing(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        # Uvicorn lets it skip what follows a last request; here that does no harm either, and says that a length may be
        # wrong.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=False)

    def _count_head(self, size: int) -> None:
        self._head_size += size
        if self._head_size > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:
            self._fault = _TOO_LARGE
            raise _Refused

    def _head_without_upgrade(self) -> bytes:
        """The request's headers without the options that offer an upgrade; a server may ignore them (RFC 9110, 7.8)."""
        self._upgrading = False
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                options = [option.strip() for option in value.split(b",")]
                value = b", ".join(o for o in options if o.lower() not in (b"upgrade", b"http2-settings"))  # noqa: PLW2901
            lines.append(name + b": " + value)
        return b"\r\n".join([*lines, b"", b""])

    def _hang_up(self) -> None:
        """Ends the connection after an answer.

        A socket that is closed while bytes arrive resets the connection, and a client that still sends then never
        reads its answer; so what still comes is thrown away first, as nginx does (``lingering_close``).
        """
        self.pipeline.clear()
        more_comes = self._deaf or (self.cycle is not None and self.cycle.more_body)
        if not more_comes or not self.transport.can_write_eof():
            self._close()
        else:
            self.transport.write_eof()
            self.server_state.idle[self] = None
            if self._rest_timer is None:
                state = self.server_state
                timeout_s = _LAST_CALL_S if state.draining else state.header_timeout_s
                self._rest_timer = self.loop.call_later(timeout_s, self._close)

    def _close(self) -> None:
        """Ends the connection now, or when what was written has been read, which must not take forever."""
        if self.transport.is_closing():
            return
        self.transport.close()
        if self._send_timer is None and self.transport.get_write_buffer_size():
            self._send_timer = self.loop.call_later(self.server_state.send_timeout_s, self.transport.abort)

    def _expect_request(self) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _expect_headers(self) -> None:
        timeout_s = self.server_state.header_timeout_s
        detail = f"The request's headers did not arrive within {timeout_s:g} s. Send it faster."
        self._head_timer = self.loop.call_later(timeout_s, self._refuse, HEADERS_TOO_SLOW, detail)

    def _head_arrived(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _refuse(self, kind: ProblemType, detail: str) -> None:
        """Takes no more requests from this connection, after all that came whole have been answered.

        What is refused is answered below the application, which has not seen it, or not whole.
        """
        self._head_arrived()
        self._deaf = True
        if self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            if cycle.more_body and cycle is not self._running:
                # The last one of a row is broken; those before it are not.
                self.pipeline.popleft()
                cycle = self.pipeline[0][0] if self.pipeline else self._running
            if cycle is not None and (not cycle.more_body or cycle.response_started):
                cycle.keep_alive = False
                cycle.scope[MORE_CAME] = True  # type: ignore[typeddict-unknown-key]
                self.flow.resume_reading()
                return
        if cycle is None or not cycle.more_body or not cycle.response_started:
            # Not into the middle of an answer, nor after one to the same request.
            request_id = new_request_id()
            self.server_state.on_refusal(kind, request_id)
            body = problem(kind, detail, request_id).model_dump_json().encode()
            headers = (
                *self.server_state.default_headers,
                (b"content-type", MEDIA_TYPE.encode()),
                (b"content-length", b"%d" % len(body)),
                (b"connection", b"close"),
                (b"x-request-id", request_id.encode()),
                *((b"retry-after", b"1") for _ in range(kind.status == 503)),
                *self.server_state.headers,
            )
            lines = [STATUS_LINE[kind.status], *(b"%s: %s\r\n" % header for header in headers), b"\r\n", body]
            self.transport.write(b"".join(lines))
        else:
            self._close()
            return
        if cycle is not None and not cycle.response_complete and self._task is not None:
            # Before the application says that it has not answered.
            cycle.disconnected = True
            self._task.cancel()
        if kind in (HEADERS_TOO_SLOW, TOO_MANY_CONNECTIONS):
            self._close()
        else:
            self._hang_up()


def _closed_unless_continued(app: Any, cycle: RequestResponseCycle) -> Any:
    """An application whose client waits to be told to send its body.

    If it gets its answer instead, nobody knows whether the body will still come, so the connection cannot go on
    (RFC 9110, 10.1.1).
    """

    async def closed(scope: Any, receive: Any, send: Any) -> None:
        async def sent(message: Any) -> None:
            if cycle.waiting_for_100_continue:
                cycle.keep_alive = False
            await send(message)

        await app(scope, receive, sent)

    return closed


def _most_connections() -> int:
    """How many connections there may be: some descriptors are for files, and headers in memory may be large."""
    most = _MOST_CONNECTIONS
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        most = min(most, soft - _DESCRIPTORS)
    if (free := free_bytes()) is not None:
        # An eighth of what is free for headers of twice their size.
        most = min(most, max(_FEW_CONNECTIONS, free // 8 // (2 * MAX_HEAD_BYTES)))
    return max(1, most)


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
        header_timeout_s: float,
        send_timeout_s: float,
        drain_s: float,
        on_listening: Callable[[], None],
        on_drain: Callable[[], None],
        on_stop: Callable[[], None],
        on_refusal: Callable[[ProblemType, str], None],
    ) -> None:
        """Binds the address.

        Args:
            app: the ASGI application.
            host: address to listen on.
            port: port to listen on; 0 picks a free one.
            tls: how to speak TLS; None: plain HTTP.
            headers: names and values for the answers that the application does not give.
            header_timeout_s: seconds that a client has for its request's head, and for a TLS handshake.
            send_timeout_s: seconds that a client has to read an answer.
            drain_s: seconds between SIGTERM and the first refused connection.
            on_listening: called when connections are taken.
            on_drain: called at SIGTERM; readiness turns from then on.
            on_stop: called before that, also while the application still starts up.
            on_refusal: told the problem and the request id of each answer that the application does not give.

        Raises:
            OSError: the address cannot be bound.
        """
        config = uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=65,
            lifespan="on",
        )
        super().__init__(config)
        self.server_state = State(header_timeout_s, send_timeout_s, headers, on_refusal)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # "::" is every address, as people expect of it; Linux lets an IPv6 socket take IPv4 clients too.
        both = host == "::" and socket.has_dualstack_ipv6()
        self.socket = socket.create_server((host, port), family=family, backlog=2048, dualstack_ipv6=both)
        self._tls = tls
        self._drain_s = drain_s
        self._on_listening = on_listening
        self._on_drain = on_drain
        self._on_stop = on_stop
        self._told = asyncio.Event()
        self._hurry = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts the application, then listens."""
        self.loop = asyncio.get_running_loop()
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            # Who is told to stop has not failed to start.
            sys.exit(0 if self._told.is_set() else STARTUP_FAILURE)
        # What the kernel keeps of answers is memory too; by itself it takes megabytes for a client that reads nothing.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self.servers = [await self._listen(lambda: Protocol(self.config, self.server_state, self.lifespan.state))]
        self.started = True
        host, port = self.socket.getsockname()[:2]
        log.info("listening", extra={"fields": {"host": host, "port": port, "tls": self._tls is not None}})
        self._on_listening()

    async def _listen(self, protocol: Callable[[], Protocol]) -> Any:
        if self._tls is None:
            return await self.loop.create_server(protocol, sock=self.socket, backlog=self.config.backlog)
        from .tls import Listener

        # A client that does not say goodbye must not keep the process from ending.
        return Listener(self.socket, self._tls, protocol, self.server_state.header_timeout_s, _LAST_CALL_S)

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
        if self._told.is_set():
            self._hurry.set()
        else:
            self._told.set()
            self._on_stop()

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
        self._on_stop()
