"""Where frames come from: a snapshot's address, a folder, or a stream (``streams``)."""

import asyncio
import os
import stat
import time
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Final, Protocol

import httpx

from . import config
from .faults import Fault, one_line

#: Bytes that an HTML page may have before its first tag.
_BLANK: Final = b" \t\r\n\xef\xbb\xbf"
#: Seconds after which a file that nobody has changed counts as written.
_SETTLED_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture's bytes, and when it was there: seconds of ``time.monotonic``."""

    data: bytes
    taken_at: float


class Source(Protocol):
    """A camera, as far as frames are concerned. Every call ends within the camera's timeout."""

    async def frame(self) -> Frame | None:
        """The next frame; None where there is nothing new, and need not be.

        Raises:
            Fault: there is none.
        """

    async def close(self) -> None:
        """Ends what runs or is open."""


class _Transport(httpx.AsyncHTTPTransport):
    """Gives no body with a 401: httpx reads it whole, however long it is, before it answers a digest's challenge."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends a request."""
        response = await super().handle_async_request(request)
        if response.status_code != 401:
            return response
        await response.aclose()
        challenges = [("www-authenticate", value) for value in response.headers.get_list("www-authenticate")]
        return httpx.Response(401, headers=challenges)


class Web:
    """How a camera is asked over HTTP: its account and headers; no cookies, no redirects, no proxies."""

    def __init__(self, settings: config.Snapshot | config.Mjpeg, timeout_s: float) -> None:
        self._url = settings.url
        self._headers = {name: secret.get_secret_value() for name, secret in settings.headers.items()}
        self._has_account = settings.username is not None
        self._auth: httpx.Auth | None = None
        if settings.username is not None:
            password = "" if settings.password is None else settings.password.get_secret_value()
            kind = httpx.DigestAuth if settings.auth == "digest" else httpx.BasicAuth
            self._auth = kind(settings.username, password)
        self._kind = settings.auth
        self._http = httpx.AsyncClient(
            # Whatever a camera sets, nothing is kept.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            transport=_Transport(verify=settings.context(), trust_env=False),
            timeout=timeout_s,
            trust_env=False,
        )

    async def open(self) -> httpx.Response:
        """The camera's answer, whose body has not been read; to be closed.

        Raises:
            Fault: there is none, or it is an error.
        """
        # What is compressed would have to be unpacked before its size is known.
        headers = {"Accept-Encoding": "identity", **self._headers}
        request = self._http.build_request("GET", self._url, headers=headers)
        try:
            response = await self._http.send(request, auth=self._auth, stream=True)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise unreachable(error) from error
        try:
            self._check(response)
        except Fault:
            await response.aclose()
            raise
        return response

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    def _check(self, response: httpx.Response) -> None:
        status = response.status_code
        if status in (401, 403):
            wanted = response.headers.get("www-authenticate", "").partition(" ")[0].lower()
            hint = "this account is refused" if self._has_account else "it wants a user name and a password"
            if self._has_account and wanted in ("basic", "digest") and wanted != self._kind:
                hint = f"it wants 'auth: {wanted}'"
            raise Fault("login", f"status {status}: {hint}")
        if response.has_redirect_location:
            raise Fault("login", f"status {status}: it sends to {one_line(response.headers['location'])[:100]}")
        if status != 200:
            raise Fault("http-error", f"status {status} {response.reason_phrase}")


def unreachable(error: Exception) -> Fault:
    """The fault that a failed connection is."""
    return Fault("unreachable", f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


class Snapshot:
    """One picture for each request."""

    def __init__(self, settings: config.Snapshot, timeout_s: float, most_bytes: int) -> None:
        self._web = Web(settings, timeout_s)
        self._timeout_s = timeout_s
        self._most_bytes = most_bytes

    async def frame(self) -> Frame:
        """Asks for a picture; see ``Source``."""
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._web.open()
                try:
                    data = await self._read(response)
                finally:
                    await response.aclose()
        except TimeoutError as error:
            raise Fault("unreachable", f"no whole picture within {self._timeout_s:g} s") from error
        check_picture(data, response.headers.get("content-type", ""))
        return Frame(data, time.monotonic())

    async def _read(self, response: httpx.Response) -> bytes:
        announced = response.headers.get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > self._most_bytes:
            raise Fault("too-large", f"it announces {announced[:20]} bytes; max_frame_bytes is {self._most_bytes}")
        read = bytearray()
        try:
            async for chunk in response.aiter_raw():
                read += chunk
                if len(read) > self._most_bytes:
                    raise Fault("too-large", f"more than {self._most_bytes} bytes came (max_frame_bytes)")
        except httpx.RemoteProtocolError as error:
            if read:
                raise Fault("broken-picture", f"{len(read)} bytes came, then: {error}") from error
            raise unreachable(error) from error
        except (httpx.HTTPError, OSError) as error:
            raise unreachable(error) from error
        return bytes(read)

    async def close(self) -> None:
        """Closes the connection."""
        await self._web.close()


def check_picture(data: bytes, media_type: str = "") -> None:
    """Raises Fault for what is no picture at first sight; the service looks at the rest."""
    if not data:
        raise Fault("not-a-picture", "nothing came")
    if data[:1000].lstrip(_BLANK)[:1] == b"<":
        raise Fault("login", f"a page came instead of a picture ({media_type or 'text'}): {_words(data)}")
    if media_type.startswith(("text/", "application/json", "multipart/")):
        raise Fault("not-a-picture", f"it sends {media_type}")


def _words(page: bytes) -> str:
    """A page's title, where it has one."""
    text = page[:4000].decode(errors="replace")
    _, found, rest = text.partition("<title>")
    return repr(one_line(rest.partition("<")[0])[:60]) if found else repr(one_line(text)[:40])


class Folder:
    """The newest picture that something else has put into a folder."""

    def __init__(self, path: Path, most_bytes: int, frozen_after_s: float | None) -> None:
        self._path = path
        self._most_bytes = most_bytes
        self._frozen_after_s = frozen_after_s
        self._given: tuple[str, int, int] | None = None
        self._seen: tuple[str, int, int] | None = None

    async def frame(self) -> Frame | None:
        """Looks for one that is new; see ``Source``."""
        try:
            return await asyncio.to_thread(self._newest)
        except OSError as error:
            raise Fault("unreachable", f"{self._path}: {error.strerror}") from error

    async def close(self) -> None:
        """Nothing is open."""

    def _newest(self) -> Frame | None:
        newest: tuple[int, str, int] | None = None
        with os.scandir(self._path) as entries:
            for entry in entries:
                # A name that begins with a dot is one that is being written.
                if entry.name.startswith(".") or not entry.is_file(follow_symlinks=False):
                    continue
                found = entry.stat(follow_symlinks=False)
                if found.st_size and (newest is None or found.st_mtime_ns > newest[0]):
                    newest = (found.st_mtime_ns, entry.name, found.st_size)
        if newest is None:
            raise Fault("unreachable", f"there is no picture in {self._path}")
        changed_ns, name, size = newest
        known = (name, changed_ns, size)
        age_s = time.time() - changed_ns / 1e9
        if self._frozen_after_s is not None and age_s > self._frozen_after_s:
            raise Fault("frozen", f"the newest picture, {name}, is {age_s:.0f} s old")
        before, self._seen = self._seen, known
        if known == self._given or (known != before and 0 <= age_s < _SETTLED_S):
            return None
        if size > self._most_bytes:
            raise Fault("too-large", f"{name} has {size} bytes; max_frame_bytes is {self._most_bytes}")
        # What has taken its place meanwhile may be a pipe, which would be waited for.
        descriptor = os.open(self._path / name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            data = file.read(self._most_bytes + 1)
        self._given = known
        check_picture(data)
        return Frame(data, time.monotonic())
