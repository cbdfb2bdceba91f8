"""An HTTP body to image bytes: read within limits, never on disk, the same for every form a photo may come in."""

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

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

#: Name of the multipart field that carries a photo.
FIELD = "file"
_FORMS = (
    "multipart/form-data with a field named 'file', the image itself as image/* or application/octet-stream, or "
    'application/json {"image": "<base64>"}'
)


@dataclass(frozen=True, slots=True)
class Body:
    """A complete request body. ``image`` and ``images`` cost CPU and belong into a lane."""

    content_type: str
    options: Mapping[str, str]
    data: bytes

    def image(self) -> bytes:
        """The one photo in the body.

        Raises:
            MalformedBody: it does not parse, or there is no photo or more than one in it.
            UnsupportedBody: no photo can be read from this Content-Type.
        """
        if self.content_type == "multipart/form-data":
            images = self.images(max_images=2)
            if len(images) > 1:
                raise MalformedBody("More than one part named 'file' was sent. Use /predict/batch for several photos.")
            return images[0]
        if self.content_type == "application/json":
            return _from_json(self.data)
        if self.content_type.startswith("image/") or self.content_type in ("application/octet-stream", ""):
            if not self.data:
                raise MalformedBody(f"The body is empty. Send a photo as {_FORMS}.")
            return self.data
        raise UnsupportedBody(f"A photo cannot be read from Content-Type {self.content_type!r}. Send it as {_FORMS}.")

    def images(self, max_images: int) -> list[bytes]:
        """The photos of a multipart body, in order.

        Raises:
            MalformedBody: it does not parse, or no part is named ``file``.
            TooManyImages: there are more than ``max_images``.
            UnsupportedBody: the body is not multipart.
        """
        if self.content_type != "multipart/form-data":
            raise UnsupportedBody(
                f"Several photos cannot be read from Content-Type {self.content_type!r}. Send multipart/form-data with "
                "one part named 'file' for each."
            )
        boundary = self.options.get("boundary")
        if not boundary:
            raise MalformedBody("The Content-Type multipart/form-data has no boundary. Let your HTTP client set it.")
        names, images = _parts(self.data, boundary)
        if not images:
            found = ", ".join(repr(name) for name in names) or "none"
            raise MalformedBody(f"No part is named 'file' (found: {found}). Send the photo in a field named 'file'.")
        if len(images) > max_images:
            raise TooManyImages(f"The request has {len(images)} photos; at most {max_images} are taken. Send fewer.")
        return images


class Intake:
    """The request bodies that are in memory at once, arriving, waiting or being worked on."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.held_bytes = 0

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[Body]:
        """Reads the whole body, counting while it arrives; it counts as held until the block ends.

        Raises:
            BodyTooLarge: as soon as it is announced or seen to be too large; the rest is not read.
            BodyTimeout: it did not arrive in time.
            Overloaded: the bodies held are too many bytes already.
            ClientDisconnected: the client left before the end.
        """
        chunks: list[bytes] = []
        try:
            await self._read(request, chunks)
            content_type, options = parse_options_header(request.headers.get("content-type", ""))
            yield Body(
                content_type.decode("latin-1").lower(),
                {key.decode("latin-1"): value.decode("latin-1") for key, value in options.items()},
                b"".join(chunks),
            )
        finally:
            self.held_bytes -= sum(map(len, chunks))

    async def _read(self, request: Request, chunks: list[bytes]) -> None:
        most = self._limits.body_bytes
        too_large = f"The body has more than {most} bytes. Send a smaller or more compressed photo."
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > most:
            raise BodyTooLarge(too_large)
        size = 0
        timeout_s = self._limits.body_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > most:
                        raise BodyTooLarge(too_large)
                    self.held_bytes += len(chunk)
                    chunks.append(chunk)
                    if self.held_bytes > self._limits.held_bytes:
                        raise Overloaded(
                            f"The service holds {self.held_bytes} bytes of photos already. Try again later, or send "
                            "fewer at a time.",
                            retry_after_s=1.0,
                        )
        except TimeoutError as error:
            raise BodyTimeout(f"The body did not arrive within {timeout_s:g} s. Send it faster, or less.") from error
        except ClientDisconnect as error:
            raise ClientDisconnected("The client closed the connection before its request was complete.") from error


def _from_json(data: bytes) -> bytes:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MalformedBody(f'The body is not valid JSON ({error}). Send {{"image": "<base64>"}}.') from error
    encoded = document.get("image") if isinstance(document, dict) else None
    if not isinstance(encoded, str) or not encoded:
        raise MalformedBody('The JSON has no text "image". Send {"image": "<base64>"}.')
    # Browsers' FileReader and many scripts put a data URL there.
    if encoded.startswith("data:"):
        encoded = encoded.partition(",")[2]
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedBody(
            f'"image" is not valid base64 ({error}). Encode the file\'s bytes as standard base64.'
        ) from error


def _parts(data: bytes, boundary: str) -> tuple[list[str], list[bytes]]:
    """The names of all parts, and the contents of those named ``file``, without a copy before the last one."""
    names: list[str] = []
    images: list[bytes] = []
    header_name = bytearray()
    header_value = bytearray()
    headers: dict[bytes, bytes] = {}
    pieces: list[memoryview] = []
    view = memoryview(data)
    ended = False

    def on_part_begin() -> None:
        headers.clear()
        pieces.clear()

    def on_header_end() -> None:
        headers[bytes(header_name).lower()] = bytes(header_value)
        header_name.clear()
        header_value.clear()

    def on_part_end() -> None:
        _, options = parse_options_header(headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        names.append(name)
        if name == FIELD:
            images.append(b"".join(pieces))

    def on_end() -> None:
        nonlocal ended
        ended = True

    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": on_part_begin,
            "on_header_field": lambda chunk, start, end: header_name.extend(chunk[start:end]),
            "on_header_value": lambda chunk, start, end: header_value.extend(chunk[start:end]),
            "on_header_end": on_header_end,
            "on_part_data": lambda _chunk, start, end: pieces.append(view[start:end]),
            "on_part_end": on_part_end,
            "on_end": on_end,
        },
    )
    try:
        parser.write(data)
    except FormParserError as error:
        raise MalformedBody(f"The multipart body does not parse ({error}). Let your HTTP client encode it.") from error
    if not ended:
        raise MalformedBody("The multipart body ends before its closing boundary. Send it complete.")
    return names, images
