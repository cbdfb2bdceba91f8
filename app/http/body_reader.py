"""An HTTP body to image bytes: read within limits, never on disk, the same for every form a photo may come in."""

import asyncio
import io
import re
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from ..errors import (
    BodyTimeout,
    BodyTooLarge,
    ClientDisconnected,
    MalformedBody,
    Overloaded,
    TooManyImages,
    UnsupportedBody,
    UnsupportedEncoding,
    quoted,
)
from ..inference.formats import looks_like_picture
from . import forms
from .access import client_of
from .encodings import begins_as_picture, encoded_picture, json_value, names, only_picture, picture
from .limits import Limits
from .multipart import Part, looks_like_multipart, parts

#: Name of the multipart field that carries a photo, where no other protocol says otherwise.
FIELD: Final = "file"
_MAX_CONTENT_TYPE_BYTES: Final = 1000
_URLENCODED: Final = "application/x-www-form-urlencoded"
# A JSON object, whatever the Content-Type calls it.
_OBJECT: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*\{")
#: One client's bodies together may be this many times what is still free (Choudhury and Hahne 1998): three quarters of
#: all while it is alone, and however many clients take all that they get, something is left for the next one.
_SHARE = 3


@dataclass(frozen=True, slots=True)
class Body:
    """A complete request body. ``image`` and ``images`` cost CPU and belong into a worker."""

    content_type: str
    options: Mapping[str, str]
    data: bytes

    def image(self, field: str = FIELD) -> bytes:
        """The one photo in the body.

        A body that begins as a picture is one, whatever its Content-Type says. Of a form it is the part named
        ``field``, else the only one that begins as a picture; of ``multipart/mixed`` and the like, where names say
        nothing, the first one that does; of JSON ``image``, else the only member that is a picture.

        Raises:
            MalformedBody: it does not parse, or there is no photo or more than one in it.
            UnsupportedBody: no photo can be read from this Content-Type.
        """
        data, kind = self.data, self.content_type
        photo = data if looks_like_picture(data) else encoded_picture(data)
        if photo:
            if kind == _URLENCODED and b"\0" not in photo:
                raise MalformedBody(
                    "The picture has lost its NUL bytes and line ends, as curl -d leaves them out. Send it with "
                    "curl --data-binary @photo.jpg."
                )
            return photo
        if not data:
            raise MalformedBody(f"The body is empty. Send a photo as {_forms(field)}.")
        if self._is_multipart():
            first = kind.startswith("multipart/") and not kind.startswith("multipart/form-data")
            return forms.chosen(self._parts(), field, first=first)
        if "json" in kind:
            return _from_json(data)
        # No text has NULs: whatever it is called, what decodes pictures knows best what it is.
        raw = kind.startswith("image/") or kind in ("application/octet-stream", "") or b"\0" in data[:1000]
        if _OBJECT.match(data):
            try:
                return _from_json(data)
            except MalformedBody:
                if not raw:
                    raise
        if raw:
            return data
        if kind == _URLENCODED:
            return forms.chosen(forms.fields(data), field, first=False)
        raise UnsupportedBody(f"A photo cannot be read from Content-Type {quoted(kind)}. Send it as {_forms(field)}.")

    def images(self, max_images: int, field: str = FIELD) -> list[bytes]:
        """The photos of a multipart body, in order: its parts named ``field``, else those named as its pictures are.

        Raises:
            MalformedBody: it does not parse, or no part has that name.
            TooManyImages: there are more than ``max_images``.
            UnsupportedBody: the body is not multipart.
        """
        if not self._is_multipart():
            raise UnsupportedBody(
                f"Several photos cannot be read from Content-Type {quoted(self.content_type)}. Send "
                f"multipart/form-data with one part named {field!r} for each."
            )
        most = max_images + forms.MAX_FIELDS
        found = list(islice(self._parts(), most + 1))
        images = [part for part in found if forms.same(part.name, field)]
        if not images:
            pictures = {forms.plain(part.name) for part in found if forms.is_picture(part)}
            if len(pictures) > 1:
                raise MalformedBody(
                    f"There are pictures in parts named {names(sorted(pictures))}, and none named {field!r}. Send each "
                    f"in a field named {field!r}."
                )
            images = [part for part in found if forms.plain(part.name) in pictures]
        if len(images) > max_images:
            count = f"more than {max_images}" if len(found) > most else str(len(images))
            raise TooManyImages(f"The request has {count} photos; at most {max_images} are taken. Send fewer.")
        if len(found) > most:
            raise forms.too_many(most)
        if not images:
            raise forms.no_part(field, [part.name for part in found])
        return [_photo(part) for part in images]

    def text(self, field: str) -> str | None:
        """What a form's field says, of which 100 bytes are read; None where the body is no form that has one.

        Raises:
            MalformedBody: it does not parse.
        """
        found = self._parts() if self._is_multipart() else iter(())
        return next((part.beginning[:100].decode(errors="replace") for part in found if part.name == field), None)

    def _is_multipart(self) -> bool:
        said = self.content_type.startswith("multipart/")
        return looks_like_multipart(self.data) or (said and not _OBJECT.match(self.data))

    def _parts(self) -> Iterator[Part]:
        return parts(self.data, self.options.get("boundary", ""))


class BodyReader:
    """The request bodies that are in memory at once: arriving, waiting or being worked on."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._shares: dict[Hashable, _Share] = {}
        self.buffered_bytes = 0

    def read(self, request: Request) -> "BufferedBody":
        """``async with body_reader.read(request) as body``: the whole body, counted as buffered until the block ends.

        Raises:
            UnsupportedEncoding: it is compressed, or encoded in another way; nothing is read.
            MalformedBody: its Content-Type is too long; nothing is read.
            BodyTooLarge: as soon as it is announced or seen to be too large; the rest is not read.
            BodyTimeout: it did not arrive in time.
            Overloaded: the buffered bodies are too many bytes already, all together or this client's.
            ClientDisconnected: the client left before the end.
        """
        return BufferedBody(self, request, self._limits)

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
        self.buffered_bytes += size
        share.buffered_bytes += size
        free = self._limits.buffered_bytes - self.buffered_bytes
        if free < 0:
            raise Overloaded(
                f"The service holds {self.buffered_bytes} bytes of photos already. Try again later, or send fewer at a "
                "time.",
                retry_after_s=1.0,
            )
        if share.bodies > 1 and share.buffered_bytes > _SHARE * free:
            raise Overloaded(
                f"The service holds {share.buffered_bytes} bytes of your photos already; what is left is for others. "
                "Send fewer at a time, or try again later.",
                retry_after_s=1.0,
            )

    def leave(self, client: Hashable, share: "_Share", size: int) -> None:
        """A body of so many bytes is buffered no more."""
        self.buffered_bytes -= size
        share.buffered_bytes -= size
        share.bodies -= 1
        if not share.bodies:
            del self._shares[client]


class _Share:
    """What one client has of what is buffered."""

    __slots__ = ("bodies", "buffered_bytes")

    def __init__(self) -> None:
        self.bodies = 0
        self.buffered_bytes = 0


class BufferedBody:
    """Reads one body and keeps it in memory, as long as the ``async with`` block lasts."""

    __slots__ = ("_body_reader", "_client", "_limits", "_request", "_share", "_size")

    def __init__(self, body_reader: BodyReader, request: Request, limits: Limits) -> None:
        self._body_reader = body_reader
        self._request = request
        self._limits = limits
        self._client = client_of(request.scope)
        self._size = 0

    async def __aenter__(self) -> Body:
        headers = self._request.headers
        content_type = headers.get("content-type", "")
        if len(content_type) > _MAX_CONTENT_TYPE_BYTES:
            raise MalformedBody(f"The Content-Type has more than {_MAX_CONTENT_TYPE_BYTES} bytes. Send a shorter one.")
        if "content-encoding" in headers:
            _check_encoding("Content-Encoding", headers.getlist("content-encoding"), "identity")
        if "transfer-encoding" in headers:
            _check_encoding("Transfer-Encoding", headers.getlist("transfer-encoding"), "chunked")
        timeout_s = self._limits.body_timeout_s
        announced = headers.get("content-length", "")
        self._share = self._body_reader.join(self._client)
        try:
            async with asyncio.timeout(timeout_s):
                data = await self._read(announced)
        except TimeoutError as error:
            self._release()
            came = f"{self._size} of its {announced} bytes" if announced else f"{self._size} bytes of it"
            hint = "Send it faster, or less, and announce no more bytes than there are."
            raise BodyTimeout(f"The body did not arrive within {timeout_s:g} s: {came} came. {hint}") from error
        except BaseException:
            self._release()
            raise
        kind, options = parse_options_header(content_type)
        return Body(
            kind.decode("latin-1").lower(),
            {key.decode("latin-1"): value.decode("latin-1") for key, value in options.items()},
            data,
        )

    async def __aexit__(self, *_error: object) -> None:
        self._release()

    async def _read(self, announced: str) -> bytes:
        most = self._limits.body_bytes
        too_large = f"The body has more than {most} bytes. Send a smaller or more compressed photo."
        if announced.isdecimal() and (len(announced) > 18 or int(announced) > most):
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
            self._body_reader.add(self._share, len(chunk))
            if self._size > most:
                raise BodyTooLarge(too_large)
        return buffer.getvalue()

    def _release(self) -> None:
        self._body_reader.leave(self._client, self._share, self._size)


def _forms(field: str) -> str:
    return (
        f"multipart/form-data with a field named {field!r}, the image itself as image/* or application/octet-stream, "
        'or application/json {"image": "<base64>"}'
    )


def _photo(part: Part) -> bytes:
    """The photo in one part of several, one of which may be wrong without the others."""
    try:
        return forms.photo(part)
    except MalformedBody:
        return part.content


def _check_encoding(field: str, sent: list[str], plain: str) -> None:
    """RFC 9110, 8.4 and RFC 9112, 6.1: a list, in one line or in several; only ``plain`` is none."""
    encodings = [name.strip() for line in sent for name in line.split(",")]
    if named := [name for name in encodings if name and name.lower() != plain]:
        raise UnsupportedEncoding(
            f"The body's {field} is {quoted(', '.join(named))}, and it is not decoded here. Send the body as it is, "
            f"without {field} {quoted(named[0])}."
        )


def _from_json(data: bytes) -> bytes:
    hint = 'Send {"image": "<base64>"}.'
    document = json_value(data, hint)
    if isinstance(document, dict) and "image" in document:
        return picture(document["image"], '"image"')
    if isinstance(document, str) or begins_as_picture(document):
        return picture(document, "The JSON")
    if isinstance(document, dict):
        return only_picture(document, 'The JSON has no "image", and')
    raise MalformedBody(f'The JSON has no text "image". {hint}')
