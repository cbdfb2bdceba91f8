"""An HTTP body to image bytes: read within limits, never on disk, the same for every form a photo may come in."""

import asyncio
import io
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from app.access import client_of
from app.errors import (
    BodyTimeout,
    BodyTooLarge,
    ClientDisconnected,
    MalformedBody,
    Overloaded,
    TooManyImages,
    UnsupportedBody,
)
from app.limits import Limits
from app.wire import from_base64, json_object

#: Name of the multipart field that carries a photo, where no other protocol says otherwise.
FIELD = "file"
#: More is no form with photos, but an attempt to keep us busy.
_MAX_PARTS = 2000
_MAX_PART_HEAD_BYTES = 8192
#: One client's bodies together may be this many times what is still free (Choudhury and Hahne 1998): three quarters of
#: all while it is alone, and however many clients take all that they get, something is left for the next one.
_SHARE = 3


@dataclass(frozen=True, slots=True)
class Body:
    """A complete request body. ``image`` and ``images`` cost CPU and belong into a lane."""

    content_type: str
    options: Mapping[str, str]
    data: bytes

    def image(self, field: str = FIELD) -> bytes:
        """The one photo in the body; in multipart, the part named ``field``.

        Raises:
            MalformedBody: it does not parse, or there is no photo or more than one in it.
            UnsupportedBody: no photo can be read from this Content-Type.
        """
        if self.content_type == "multipart/form-data":
            images = self.images(max_images=2, field=field)
            if len(images) > 1:
                raise MalformedBody(
                    f"More than one part named {field!r} was sent. Use /predict/batch for several photos."
                )
            return images[0]
        if self.content_type == "application/json":
            return _from_json(self.data)
        if self.content_type.startswith("image/") or self.content_type in ("application/octet-stream", ""):
            if not self.data:
                raise MalformedBody(f"The body is empty. Send a photo as {_forms(field)}.")
            return self.data
        raise UnsupportedBody(
            f"A photo cannot be read from Content-Type {self.content_type!r}. Send it as {_forms(field)}."
        )

    def images(self, max_images: int, field: str = FIELD) -> list[bytes]:
        """The photos of a multipart body, in order: its parts named ``field``.

        Raises:
            MalformedBody: it does not parse, or no part has that name.
            TooManyImages: there are more than ``max_images``.
            UnsupportedBody: the body is not multipart.
        """
        if self.content_type != "multipart/form-data":
            raise UnsupportedBody(
                f"Several photos cannot be read from Content-Type {self.content_type!r}. Send multipart/form-data with "
                f"one part named {field!r} for each."
            )
        boundary = self.options.get("boundary")
        if not boundary:
            raise MalformedBody("The Content-Type multipart/form-data has no boundary. Let your HTTP client set it.")
        names, images = _parts(self.data, boundary, field)
        if not images:
            found = ", ".join(repr(name) for name in names) or "none"
            raise MalformedBody(
                f"No part is named {field!r} (found: {found}). Send the photo in a field named {field!r}."
            )
        if len(images) > max_images:
            raise TooManyImages(f"The request has {len(images)} photos; at most {max_images} are taken. Send fewer.")
        return images


class Intake:
    """The request bodies that are in memory at once: arriving, waiting or being worked on."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._shares: dict[Hashable, _Share] = {}
        self.held_bytes = 0

    def hold(self, request: Request) -> "_Held":
        """``async with intake.hold(request) as body``: the whole body, counted as held until the block ends.

        Raises:
            BodyTooLarge: as soon as it is announced or seen to be too large; the rest is not read.
            BodyTimeout: it did not arrive in time.
            Overloaded: the bodies held are too many bytes already, all together or this client's.
            ClientDisconnected: the client left before the end.
        """
        return _Held(self, request, self._limits)

    def join(self, client: Hashable) -> "_Share":
        """One more body of a client; ``leave`` is its end."""
        share = self._shares.setdefault(client, _Share())
        share.bodies += 1
        return share

    def add(self, share: "_Share", size: int) -> None:
        """Counts bytes that have come.

        Raises:
            Overloaded: they are too many.
        """
        self.held_bytes += size
        share.held_bytes += size
        free = self._limits.held_bytes - self.held_bytes
        if free < 0:
            raise Overloaded(
                f"The service holds {self.held_bytes} bytes of photos already. Try again later, or send fewer at a "
                "time.",
                retry_after_s=1.0,
            )
        if share.bodies > 1 and share.held_bytes > _SHARE * free:
            raise Overloaded(
                f"The service holds {share.held_bytes} bytes of your photos already; what is left is for others. Send "
                "fewer at a time, or try again later.",
                retry_after_s=1.0,
            )

    def leave(self, client: Hashable, share: "_Share", size: int) -> None:
        """A body of so many bytes is held no more."""
        self.held_bytes -= size
        share.held_bytes -= size
        share.bodies -= 1
        if not share.bodies:
            del self._shares[client]


class _Share:
    """What one client has of what is held."""

    __slots__ = ("bodies", "held_bytes")

    def __init__(self) -> None:
        self.bodies = 0
        self.held_bytes = 0


class _Held:
    __slots__ = ("_client", "_intake", "_limits", "_request", "_share", "_size")

    def __init__(self, intake: Intake, request: Request, limits: Limits) -> None:
        self._intake = intake
        self._request = request
        self._limits = limits
        self._client = client_of(request.scope)
        self._size = 0

    async def __aenter__(self) -> Body:
        headers = self._request.headers
        timeout_s = self._limits.body_timeout_s
        self._share = self._intake.join(self._client)
        try:
            async with asyncio.timeout(timeout_s):
                data = await self._read(headers.get("content-length", ""))
        except TimeoutError as error:
            self._release()
            raise BodyTimeout(f"The body did not arrive within {timeout_s:g} s. Send it faster, or less.") from error
        except BaseException:
            self._release()
            raise
        content_type, options = parse_options_header(headers.get("content-type", ""))
        return Body(
            content_type.decode("latin-1").lower(),
            {key.decode("latin-1"): value.decode("latin-1") for key, value in options.items()},
            data,
        )

    async def __aexit__(self, *_error: object) -> None:
        self._release()

    async def _read(self, announced: str) -> bytes:
        most = self._limits.body_bytes
        too_large = f"The body has more than {most} bytes. Send a smaller or more compressed photo."
        if announced.isdecimal() and int(announced) > most:
            raise BodyTooLarge(too_large)
        # Grows in place; a list of chunks would be in memory twice when it is joined.
        buffer = io.BytesIO()
        more = True
        while more:
            message = await self._request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnected("The client closed the connection before its request was complete.")
            more = message.get("more_body", False)
            chunk: bytes = message.get("body", b"")
            if self._size:
                buffer.write(chunk)
            else:
                # The first chunk, often the only one, is not copied.
                buffer = io.BytesIO(chunk)
                buffer.seek(len(chunk))
            self._size += len(chunk)
            self._intake.add(self._share, len(chunk))
            if self._size > most:
                raise BodyTooLarge(too_large)
        return buffer.getvalue()

    def _release(self) -> None:
        self._intake.leave(self._client, self._share, self._size)


def _forms(field: str) -> str:
    return (
        f"multipart/form-data with a field named {field!r}, the image itself as image/* or application/octet-stream, "
        'or application/json {"image": "<base64>"}'
    )


def _from_json(data: bytes) -> bytes:
    hint = 'Send {"image": "<base64>"}.'
    encoded = json_object(data, hint).get("image")
    if not isinstance(encoded, str) or not encoded:
        raise MalformedBody(f'The JSON has no text "image". {hint}')
    return from_base64(encoded, '"image"')


def _parts(data: bytes, boundary: str, field: str) -> tuple[list[str], list[bytes]]:
    """The names of all parts, and the contents of those named ``field`` (RFC 2046, 5.1.1; RFC 7578).

    The body is in memory already, so a part's end is one search for the delimiter; a streaming parser looks at the
    bytes of a photo in Python.
    """
    names: list[str] = []
    images: list[bytes] = []
    delimiter = b"--" + boundary.encode("latin-1")
    # What comes before the first delimiter is to be ignored.
    at = 0 if data.startswith(delimiter) else data.find(b"\r\n" + delimiter) + 2
    if at == 1:
        raise MalformedBody("The multipart body does not have its Content-Type's boundary. Let your client set both.")
    while True:
        at += len(delimiter)
        if data.startswith(b"--", at):
            return names, images
        # A client may pad the delimiter with blanks.
        line_end = data.find(b"\r\n", at)
        head_end = data.find(b"\r\n\r\n", line_end)
        end = data.find(b"\r\n" + delimiter, head_end + 2)
        if line_end < 0 or data[at:line_end].strip(b" \t") or head_end < 0 or end < 0:
            raise MalformedBody("The multipart body ends before its closing boundary. Send it complete.")
        if head_end - at > _MAX_PART_HEAD_BYTES or len(names) >= _MAX_PARTS:
            raise MalformedBody(
                "The multipart body has too many parts, or one with too large a head. Send photos only."
            )
        name = _name(data[line_end + 2 : head_end])
        names.append(name)
        if name == field:
            images.append(data[head_end + 4 : end])
        at = end + 2


def _name(head: bytes) -> str:
    """The field name in a part's head; empty if it has none."""
    for line in head.split(b"\r\n"):
        key, _, value = line.partition(b":")
        if key.strip().lower() == b"content-disposition":
            _, options = parse_options_header(value.strip())
            return options.get(b"name", b"").decode("utf-8", "replace")
    return ""
