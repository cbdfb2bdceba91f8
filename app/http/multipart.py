"""Multipart bodies (RFC 2046, 5.1; RFC 7578), as clients write them.

The body is in memory already, so a part's end is a search for the delimiter. python-multipart's parser is as fast, but
refuses preambles, folded headers and bare line feeds, and takes a last delimiter without its CR for a part's content;
the standard library's takes 80 ms for 3 MB.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final
from urllib.parse import unquote

from python_multipart.multipart import parse_options_header

from ..errors import MalformedBody, quoted

#: Filenames are long, but what else stands in a part's headers is short.
_MAX_HEAD_BYTES: Final = 8192
#: A Content-Disposition has three.
_MAX_PARAMETERS: Final = 32
#: Lines that begin like a delimiter and go on; a boundary that is chosen at random has none.
_MAX_LOOKALIKES: Final = 1000
# What may stand between a delimiter and the next line. One dash is half of what closes a body.
_TAIL: Final = re.compile(rb"(--?)?[ \t]{0,100}(?:\r?\n|\Z)")
_HEAD_END: Final = re.compile(rb"\n[ \t]{0,100}\r?\n")
_FOLD: Final = re.compile(rb"\r?\n[ \t]+")
# A body's own first delimiter, and the header line after it.
_FIRST: Final = re.compile(rb"[\r\n]{0,8}(--[^\r\n]{1,200}?)[ \t]{0,100}\r?\n(?=[A-Za-z][A-Za-z-]{1,60}[ \t]?:)")
# RFC 8187's form; RFC 7578 forbids it in forms, so that it counts only where the plain one is missing.
_NAME_STAR: Final = re.compile(r";\s*name\*\s*=\s*[\w-]{0,40}'[\w-]{0,40}'([^;\s]*)", re.IGNORECASE)


@dataclass(frozen=True)
class Part:
    """One part of a body, whose content is not copied before it is asked for.

    Attributes:
        body: the whole body.
        start: where in it the content starts.
        end: where it ends.
        headers: by lower-case name.
        field: name of the part that this one stands in, if any.
        whole: false where the body ends within it, or may do.
    """

    body: bytes
    start: int
    end: int
    headers: dict[bytes, bytes]
    field: str = ""
    whole: bool = True

    @property
    def content(self) -> bytes:
        """What is in it, as it was sent."""
        return self.body[self.start : self.end]

    @property
    def beginning(self) -> bytes:
        """The first bytes of its content, enough to see what it is."""
        return self.body[self.start : min(self.end, self.start + 400)]

    @cached_property
    def disposition(self) -> dict[str, str]:
        """The parameters of its Content-Disposition."""
        return parameters(self.headers.get(b"content-disposition", b""))

    @property
    def name(self) -> str:
        """Name of the form field; empty if it has none."""
        return self.disposition.get("name", "") or self.field

    @property
    def is_file(self) -> bool:
        """Whether it has the name of a file."""
        return any(key.startswith("filename") for key in self.disposition)


def looks_like_multipart(data: bytes) -> bool:
    """Whether a body begins with a delimiter and a part's headers, whatever its Content-Type is."""
    return _FIRST.match(data) is not None


def parts(data: bytes, boundary: str, field: str | None = None) -> Iterator[Part]:
    """The parts of a body, in order; those of a part that is multipart itself in its place (RFC 7578, 4.3).

    Lines may end in CRLF or LF. What follows the last delimiter, and what stands before the first, is ignored. Where
    the body does not have the boundary that its header names, its own first line counts. A body that ends without a
    closing delimiter ends its last part.

    Args:
        data: the body.
        boundary: from its Content-Type; empty if that has none.
        field: name of the part that these stand in, which is theirs; None if they stand in none.

    Raises:
        MalformedBody: there is no delimiter, or a part has no complete headers or too large ones.
    """
    delimiter = b"--" + boundary.encode("latin-1", "replace")
    found = _next(data, delimiter, 0) if boundary else None
    if found is None:
        first = _FIRST.match(data)
        if first is None:
            raise MalformedBody(
                "The multipart body does not have its Content-Type's boundary. Let your client set both."
                if boundary
                else "The Content-Type multipart has no boundary. Let your HTTP client set it."
            )
        delimiter = first[1]
        found = _next(data, delimiter, 0)
    while found is not None:
        _, at, closing = found
        if closing or (len(data) - at < 100 and not data[at:].strip()):
            return
        head_end = _HEAD_END.search(data, at - 1, at + _MAX_HEAD_BYTES)
        if head_end is None:
            raise MalformedBody(
                "The multipart body has a part with too large headers. Send photos only."
                if len(data) - at > _MAX_HEAD_BYTES
                else "The multipart body ends within a part's headers, before any empty line. Send it complete, with a "
                "Content-Length that counts all of it."
            )
        headers = _headers(data[at : head_end.start() + 1])
        start = head_end.end()
        # An empty part's headers and the next delimiter share a line end.
        found = _next(data, delimiter, start - 1)
        if found is not None:
            end, whole = _before(data, found[0], start), True
        else:
            end, whole, found = _last(data, delimiter, start)
        part = Part(data, start, end, headers, field or "", whole)
        kind = headers.get(b"content-type", b"")
        if kind[:10].lower() == b"multipart/" and field is None:
            yield from parts(part.content, parameters(kind).get("boundary", ""), part.name)
        else:
            yield part


def parameters(header: bytes) -> dict[str, str]:
    """The parameters of a header's value, by lower-case name, without quotes.

    Raises:
        MalformedBody: there are too many.
    """
    if header.count(b";") > _MAX_PARAMETERS:
        raise MalformedBody(
            f"A header has more than {_MAX_PARAMETERS} parameters: {quoted(header[:40].decode('latin-1'))}."
        )
    options = parse_options_header(header)[1]
    found = {key.decode("latin-1"): value.decode("utf-8", "replace") for key, value in options.items()}
    for key, value in found.items():
        if len(value) > 1 and value[0] == value[-1] == "'":
            found[key] = value[1:-1]
    if "name" not in found and (star := _NAME_STAR.search(header.decode("latin-1"))):
        found["name"] = unquote(star[1])
    return found


def _next(data: bytes, delimiter: bytes, at: int) -> tuple[int, int, bool] | None:
    """The next line that is a delimiter: where it starts, where the next line does, whether it closes the body."""
    if at == 0 and data.startswith(delimiter) and (found := _tail(data, delimiter, 0)):
        return found
    line = b"\n" + delimiter
    for _ in range(_MAX_LOOKALIKES):
        at = data.find(line, at)
        if at < 0:
            return None
        if found := _tail(data, delimiter, at + 1):
            return found
        at += 1
    raise MalformedBody("The multipart body's boundary is in its contents. Let your HTTP client choose it.")


def _tail(data: bytes, delimiter: bytes, at: int) -> tuple[int, int, bool] | None:
    found = _TAIL.match(data, at + len(delimiter))
    return (at, found.end(), found[1] is not None) if found else None


def _before(data: bytes, at: int, start: int) -> int:
    """Where a content ends that a delimiter follows: the line end between them is the delimiter's."""
    if data[at - 1 : at] == b"\n":
        at -= 2 if data[at - 2 : at - 1] == b"\r" else 1
    return max(at, start)


def _last(data: bytes, delimiter: bytes, start: int) -> tuple[int, bool, tuple[int, int, bool] | None]:
    """Where a content ends that no proper delimiter follows, whether something shows that it is whole, what follows."""
    at = start
    for _ in range(_MAX_LOOKALIKES):
        at = data.find(delimiter, at)
        if at < 0:
            break
        after = at + len(delimiter)
        if data.startswith(b"--", after) or _TAIL.match(data, after):
            # No line end before it, or more than a line end after it.
            return _before(data, at, start), True, _tail(data, delimiter, at)
        at = after
    closing = b"\r\n" + delimiter
    for length in range(len(closing) - 1, 0, -1):
        for begun in (closing[:length], closing[1 : length + 1]):
            if data.endswith(begun, start):
                return len(data) - len(begun), begun.strip(b"\r\n-") != b"", None
    return len(data), False, None


def _headers(head: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for line in _FOLD.sub(b" ", head).splitlines():
        key, _, value = line.partition(b":")
        found.setdefault(key.strip().lower(), value.strip())
    return found
