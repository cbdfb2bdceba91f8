"""Cameras that send by themselves: MJPEG over HTTP, and whatever ffmpeg reads. Of their frames the newest is kept."""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlsplit

import httpx

from . import config
from .faults import Fault, one_line
from .sources import Frame, Web, check_picture, unreachable

#: Bytes of a part's headers, and of what may stand between two parts.
_MAX_HEAD: Final = 8192
_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")
_LENGTH: Final = re.compile(rb"(?im)^content-length[ \t]*:[ \t]*(\d{1,12})[ \t]*\r?$")
_BOUNDARY: Final = re.compile(r'boundary[ \t]*=[ \t]*(?:"([^"]{1,200})"|([^\s;"]{1,200}))', re.IGNORECASE)
#: What ffmpeg says where an account is refused.
_REFUSED: Final = re.compile(r"\b40[13] (?:Unauthorized|Forbidden)")
#: What ffmpeg puts between two pictures.
_FFMPEG_BOUNDARY: Final = "ffmpeg"
_CHUNK: Final = 65_536
#: What a list on its standard input may lead ffmpeg to: RTSP, and what that goes over.
_PROTOCOLS: Final = "pipe,rtsp,rtsps,tcp,udp,rtp,srtp,tls,crypto"
#: Seconds after which a program that was told to end is ended.
_PATIENCE_S: Final = 2.0


async def parts(chunks: AsyncIterator[bytes], boundary: str, most_bytes: int) -> AsyncGenerator[bytes, None]:
    """The contents of a ``multipart/x-mixed-replace`` body's parts, as they come.

    Args:
        chunks: the body.
        boundary: as the Content-Type names it; cameras write it with or without the dashes that stand before it.
        most_bytes: of a part.

    Raises:
        Fault: a part does not end.
    """
    delimiter = b"--" + boundary.removeprefix("--").encode("latin-1", "replace")
    buffer = bytearray()
    searched = 0
    # Where the part's content begins, and how long it is, where its headers say it; None: between parts.
    begin: int | None = None
    length: int | None = None
    async for chunk in chunks:
        buffer += chunk
        while True:
            if begin is None:
                found = buffer.find(delimiter)
                head = _HEAD_END.search(buffer, found) if found >= 0 else None
                if head is None:
                    if len(buffer) > most_bytes + _MAX_HEAD or (found >= 0 and len(buffer) - found > _MAX_HEAD):
                        raise Fault("too-large", f"no part begins within {len(buffer)} bytes")
                    break
                said = _LENGTH.search(buffer, found, head.end())
                begin, length = head.end(), int(said[1]) if said else None
                searched = begin
                if length is not None and length > most_bytes:
                    raise Fault("too-large", f"a part announces {length} bytes; max_frame_bytes is {most_bytes}")
            if length is not None:
                if len(buffer) < begin + length:
                    break
                end = begin + length
            else:
                end = buffer.find(delimiter, searched)
                if end < 0:
                    if len(buffer) - begin > most_bytes:
                        raise Fault("too-large", f"a part has no end after {most_bytes} bytes (max_frame_bytes)")
                    # Only what comes is searched.
                    searched = max(begin, len(buffer) - len(delimiter))
                    break
            content = bytes(buffer[begin:end])
            del buffer[:end]
            begin = None
            if length is None:
                # The line's end before the boundary is no part of the content.
                content = content.removesuffix(b"\n").removesuffix(b"\r")
            yield content


class Stream:
    """A task that reads for as long as frames are asked for, and keeps the newest."""

    def __init__(self, timeout_s: float, most_bytes: int) -> None:
        self._timeout_s = timeout_s
        self._most_bytes = most_bytes
        self._newest: Frame | None = None
        self._came = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    async def frame(self) -> Frame:
        """The next frame that comes; see ``Source``."""
        if self._reader is None:
            self._reader = asyncio.create_task(self._read())
        # What came before was there while nobody wanted it.
        self._came.clear()
        waiter = asyncio.create_task(self._came.wait())
        try:
            await asyncio.wait({waiter, self._reader}, timeout=self._timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
        if self._came.is_set() and self._newest is not None:
            check_picture(self._newest.data)
            return self._newest
        if not self._reader.done():
            said = self._said()
            await self._stop()
            raise Fault("unreachable", f"no whole picture within {self._timeout_s:g} s{said}")
        ended, self._reader = self._reader, None
        ended.result()
        said = self._said()
        raise Fault("login" if _REFUSED.search(said) else "unreachable", f"the stream has ended{said}")

    async def close(self) -> None:
        """Ends the stream."""
        await self._stop()

    async def _stop(self) -> None:
        """The next frame that is asked for begins the stream anew."""
        reader, self._reader = self._reader, None
        self._newest = None
        if reader is not None:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError, Fault):
                await reader

    def _said(self) -> str:
        """What is known about a stream that gave nothing."""
        return ""

    async def _read(self) -> None:
        async with contextlib.aclosing(self._pictures()) as pictures:
            async for data in pictures:
                self._newest = Frame(data, time.monotonic())
                self._came.set()

    def _pictures(self) -> AsyncGenerator[bytes, None]:
        raise NotImplementedError


class Mjpeg(Stream):
    """A camera's stream over HTTP."""

    def __init__(self, settings: config.Mjpeg, timeout_s: float, most_bytes: int) -> None:
        super().__init__(timeout_s, most_bytes)
        self._web = Web(settings, timeout_s)

    async def close(self) -> None:
        """Ends the stream and its connection."""
        await super().close()
        await self._web.close()

    async def _pictures(self) -> AsyncGenerator[bytes, None]:
        response = await self._web.open()
        try:
            media_type = response.headers.get("content-type", "")
            boundary = _BOUNDARY.search(media_type)
            if not media_type.lower().startswith("multipart/") or boundary is None:
                raise Fault("not-a-picture", f"it sends {media_type or 'something'}, no MJPEG stream")
            async with contextlib.aclosing(
                parts(response.aiter_raw(), boundary[1] or boundary[2], self._most_bytes)
            ) as pictures:
                async for data in pictures:
                    yield data
        except (httpx.HTTPError, OSError) as error:
            raise unreachable(error) from error
        finally:
            await response.aclose()


@dataclass(frozen=True, slots=True)
class FfmpegInput:
    """What ffmpeg reads: its arguments, what it is told on its standard input, and which texts in that are secret."""

    arguments: list[str]
    told: bytes = b""
    secrets: tuple[str, ...] = ()


def ffmpeg_input(source: config.Rtsp | config.V4l2) -> FfmpegInput:
    """How ffmpeg is told of a source.

    An address with its password goes over standard input, as a list of one stream (https://ffmpeg.org/ffmpeg-formats.html,
    concat): everyone on the machine can read a process's arguments.
    """
    if isinstance(source, config.V4l2):
        return FfmpegInput(["-f", "v4l2", "-i", source.device])
    url, secrets = source.url, []
    if source.username is not None:
        password = "" if source.password is None else source.password.get_secret_value()
        account = f"{quote(source.username, safe='')}:{quote(password, safe='')}"
        split = urlsplit(url)
        url = split._replace(netloc=f"{account}@{split.netloc}").geturl()
        secrets = [text for text in (account, quote(password, safe=""), password) if text]
    frames = ["-skip_frame", "nokey"] if source.keyframes else []
    listed = ["-f", "concat", "-safe", "0", "-protocol_whitelist", _PROTOCOLS, "-i", "pipe:0"]
    quoted = url.replace("'", "'\\''")
    told = f"ffconcat version 1.0\nfile '{quoted}'\noption rtsp_transport {source.transport}\n"
    return FfmpegInput([*frames, *listed], told.encode(), tuple(secrets))


class Ffmpeg(Stream):
    """A program of its own that decodes a stream, and writes pictures as a camera with MJPEG does."""

    def __init__(self, given: FfmpegInput, interval_s: float | None, timeout_s: float, most_bytes: int) -> None:
        """Starts nothing yet.

        Args:
            given: what it reads.
            interval_s: seconds between two frames; None: every frame that is decoded.
            timeout_s, most_bytes: as ``Stream`` takes them.
        """
        super().__init__(timeout_s, most_bytes)
        self._given = given
        # Not the filter fps, which fills a pause with copies of the last frame.
        chosen = f"isnan(prev_selected_t)+gte(t-prev_selected_t,{interval_s})"
        self._choose = [] if interval_s is None else ["-vf", f"select='{chosen}'"]
        self._last_words = ""

    def _said(self) -> str:
        return f": {self._last_words}" if self._last_words else ""

    async def _pictures(self) -> AsyncGenerator[bytes, None]:
        self._last_words = ""
        command = [
            "ffmpeg",
            "-nostdin",
            "-loglevel",
            "error",
            "-threads",
            "1",
            *self._given.arguments,
            "-an",
            *self._choose,
        ]
        output = ["-fps_mode", "passthrough", "-q:v", "3", "-f", "mpjpeg", "-boundary_tag", _FFMPEG_BOUNDARY, "pipe:1"]
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                *output,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=_CHUNK,
            )
        except FileNotFoundError as error:
            raise Fault("no-ffmpeg", "Debian: apt install ffmpeg") from error
        assert process.stdin is not None  # noqa: S101 - for mypy; it is a pipe
        assert process.stdout is not None  # noqa: S101
        assert process.stderr is not None  # noqa: S101
        # Less than a pipe holds.
        process.stdin.write(self._given.told)
        process.stdin.close()
        listener = asyncio.create_task(self._listen(process.stderr))
        try:
            async with contextlib.aclosing(
                parts(_chunks(process.stdout), _FFMPEG_BOUNDARY, self._most_bytes)
            ) as pictures:
                async for data in pictures:
                    yield data
            # It has ended; its last words may still be on their way.
            await asyncio.wait({listener}, timeout=_PATIENCE_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            listener.cancel()
            await process.wait()

    async def _listen(self, stderr: asyncio.StreamReader) -> None:
        """Keeps the last that it says, without secrets."""
        kept = b""
        while chunk := await stderr.read(_CHUNK):
            kept += chunk
            if len(kept) > _MAX_HEAD:
                # From the next line's beginning on, so that no half of a secret is left.
                kept = kept[-_MAX_HEAD:].partition(b"\n")[2]
            text = kept.decode(errors="replace")
            for secret in self._given.secrets:
                text = text.replace(secret, "***")
            lines = [line for line in text.splitlines() if line.strip()]
            self._last_words = one_line(lines[-1]) if lines else ""


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while chunk := await reader.read(_CHUNK):
        yield chunk
