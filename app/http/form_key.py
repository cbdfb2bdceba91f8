"""An API key in a multipart form, read before the rest of the body: whoever has none costs a few kilobytes."""

from collections import deque
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request
from starlette.types import Message

from ..errors import ClientDisconnected

#: How much of a body is read to find a key: what clients send before a photo is a few hundred bytes.
MOST_BYTES: Final = 8192
_MOST_HEADER_BYTES: Final = 1024


async def find(request: Request, field: str) -> tuple[str | None, Request]:
    """Looks for a text field among the first bytes of a form.

    Args:
        request: its body has not been read.
        field: the name of the field.

    Returns:
        What the field has; None if it is not there, or not within the first ``MOST_BYTES``. And the request to go on
        with, whose body is still whole.

    Raises:
        ClientDisconnected: the client left before that.
    """
    content_type, options = parse_options_header(request.headers.get("content-type", ""))
    found: list[bytes] = []
    read: deque[Message] = deque()

    async def receive() -> Message:
        return read.popleft() if read else await request.receive()

    if content_type == b"multipart/form-data":
        try:
            parser = _parser(options.get(b"boundary", b""), field.encode(), found)
            left, more = MOST_BYTES, True
            while left > 0 and more and not found:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnected("The client closed the connection before its request was complete.")
                read.append(message)
                body, more = message.get("body", b""), message.get("more_body", False)
                parser.write(body[:left])
                left -= len(body)
        except FormParserError:
            # What is no form has no key in it; what else is wrong with it is said to those who have one.
            pass
    return found[0].decode(errors="replace") if found else None, Request(request.scope, receive)


def _parser(boundary: bytes, field: bytes, found: list[bytes]) -> MultipartParser:
    """A parser that adds the contents of each part of that name to ``found`` once it is complete."""
    header, value, content = bytearray(), bytearray(), bytearray()
    wanted = False

    def begin() -> None:
        nonlocal wanted
        wanted = False
        content.clear()

    def end_header() -> None:
        nonlocal wanted
        if header.lower() == b"content-disposition":
            wanted = parse_options_header(bytes(value))[1].get(b"name") == field
        header.clear()
        value.clear()

    def end() -> None:
        if wanted:
            found.append(bytes(content))

    return MultipartParser(
        boundary,
        {
            "on_part_begin": begin,
            "on_header_field": lambda data, start, end: header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: value.extend(data[start:end]),
            "on_header_end": end_header,
            "on_part_data": lambda data, start, end: content.extend(data[start:end]),
            "on_part_end": end,
        },
        max_header_size=_MOST_HEADER_BYTES,
    )
