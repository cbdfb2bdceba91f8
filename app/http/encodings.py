"""Photos inside text: base64 and numbers to bytes and pixels, without any HTTP."""

import binascii
import codecs
import json
import re
import sys
from itertools import chain
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import MalformedBody, quoted
from ..inference.formats import looks_like_picture

# The alphabet for URLs (RFC 4648, 5) as the standard one.
_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
_BLANK: Final = b" \t\r\n\v\f\0"
# What may become of base64, and of a data URL around it, in a URL or in a text within a text.
_ESCAPES: Final = (
    (b"%2B", b"+"),
    (b"%2F", b"/"),
    (b"%3D", b"="),
    (b"%2D", b"-"),
    (b"%5F", b"_"),
    (b"%3A", b":"),
    (b"%3B", b";"),
    (b"%2C", b","),
    (b"%20", b" "),
    (b"%0A", b"\n"),
    (b"%0D", b"\r"),
)
_BACKSLASHES: Final = ((b"\\n", b"\n"), (b"\\r", b"\r"), (b"\\/", b"/"))
_ADDRESS: Final = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]{0,30}://")
_FILE_NAME: Final = re.compile(r"[^\r\n]{0,1000}\.[A-Za-z0-9]{2,5}\s*")
_HEX_DIGITS: Final = np.full(256, 16, np.uint8)
for _digits in (b"0123456789abcdef", b"0123456789ABCDEF"):
    _HEX_DIGITS[list(_digits)] = range(16)
#: JSON of more bytes is looked through before it is parsed: an empty list is 3 bytes of it, and 80 in memory.
_SMALL: Final = 1_000_000
#: Lists and objects in JSON, beside those of pixels; values in one, for photos that are lists of bytes; named ones.
_MAX_LISTS: Final = 1000
_MAX_VALUES: Final = 2_500_000
_MAX_NAMED: Final = 250_000
#: How deep a picture may stand inside lists and objects, and beside how many others.
_MAX_DEPTH: Final = 3
_MAX_MEMBERS: Final = 32


def bound_numbers() -> None:
    """Lets this process read no longer numbers than Python can be told to.

    The time for one grows with the square of its digits, and nothing else runs meanwhile: 10 MB of numbers as long as
    Python takes by itself stop every thread for 0.3 s on a server's CPU.
    """
    sys.set_int_max_str_digits(sys.int_info.str_digits_check_threshold)


def json_value(data: bytes, hint: str, lists: int = _MAX_LISTS, values: int = _MAX_VALUES) -> Any:
    """What the JSON in ``data`` says: in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Line breaks within texts are taken, which base64's own tools write, and so are NULs at the end, which C programs
    send.

    Args:
        data: a body.
        hint: a sentence that says what to send instead.
        lists: about how many lists and objects may be in it.
        values: about how many values may be in them.

    Raises:
        MalformedBody: it is not JSON, or has more in it than that.
    """
    if len(data) > _SMALL:
        _check_members(data, hint, lists, values)
    try:
        text = data.decode(json.detect_encoding(data)).strip("\ufeff\0 \t\r\n")
        return json.loads(text, strict=False)
    except (ValueError, RecursionError) as error:
        raise MalformedBody(f"The body is not valid JSON ({_reason(error)}). {hint}") from error


def json_object(data: bytes, hint: str, size: tuple[int, int, int], pictures: int) -> dict[str, Any]:
    """The JSON object in ``data``, with ``pictures`` of ``size`` at most; otherwise as ``json_value``.

    Raises:
        MalformedBody: it is not JSON, or not an object, or more than that.
    """
    height, width, channels = size
    lists, values = height * (width + 1) + 1, height * width * channels
    document = json_value(data, hint, _MAX_LISTS + pictures * lists, _MAX_LISTS + pictures * values)
    if not isinstance(document, dict):
        raise MalformedBody(f"The JSON is not an object. {hint}")
    return document


def is_unicode(text: str) -> bool:
    """Whether a text can be written: JSON's escapes may leave half of a character, a lone surrogate, in it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def from_base64(text: str, name: str) -> bytes:
    r"""The bytes of base64 as people write it, or of a data URL.

    White space and line breaks count for nothing, padding may be missing, the alphabet may be the one for URLs, ``+``
    may have become a space and other characters ``%2F`` or ``\n`` on the way; Python's ``b'...'`` may be around it.

    Args:
        text: the base64.
        name: what the text is called in the message.

    Raises:
        MalformedBody: it is not base64, or empty.
    """
    try:
        decoded = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        try:
            plain = _alphabet(text.strip("\ufeff").encode("ascii"))
            decoded = binascii.a2b_base64(plain + b"=" * (-len(plain) % 4), strict_mode=True)
        except ValueError as error:
            raise MalformedBody(_no_base64(text, name, error)) from error
    if not decoded:
        raise MalformedBody(f"{name} is empty. Send the picture's bytes as base64.")
    return decoded


def encoded_picture(data: bytes) -> bytes | None:
    """The picture whose base64, or whose data URL, ``data`` is; None if it is something else."""
    if not begins_as_base64_picture(data):
        return None
    return from_base64(data.removeprefix(codecs.BOM_UTF8).decode("latin-1"), "The base64 text")


def begins_as_base64_picture(data: bytes) -> bool:
    """Whether ``data`` begins as the base64 of an image file does."""
    beginning = data[:400].removeprefix(codecs.BOM_UTF8)
    if not beginning.isascii() or len(beginning) < 12:
        return False
    plain = _alphabet(beginning)[:64]
    try:
        return looks_like_picture(binascii.a2b_base64(plain[: len(plain) // 4 * 4], strict_mode=True))
    except ValueError:
        return False


def percent_decoded(data: bytes) -> bytes:
    """What an urlencoded form's value stands for; the standard library makes a list of an item an escape for it."""
    found = np.frombuffer(data.replace(b"+", b" "), np.uint8)
    # Not by operators, whose results the fuzzer's instrumentation never gives back.
    at = np.flatnonzero(np.equal(found[:-2], ord("%")))
    high, low = _HEX_DIGITS[found[at + 1]], _HEX_DIGITS[found[at + 2]]
    right = np.less(np.maximum(high, low), 16)
    at = at[right]
    decoded, kept = found.copy(), np.ones(len(found), bool)
    decoded[at] = high[right] * 16 + low[right]
    kept[at + 1] = kept[at + 2] = False
    return decoded[kept].tobytes()


def begins_as_picture(value: Any, depth: int = 0) -> bool:
    """Whether a JSON value is a picture in one of the forms that ``picture`` reads, from how it begins."""
    if isinstance(value, str):
        return begins_as_base64_picture(value[:400].encode("utf-8", "replace"))
    if (numbers := _numbers(value)) is not None:
        try:
            return looks_like_picture(bytes(numbers[:32]))
        except (TypeError, ValueError):
            return False
    if depth >= _MAX_DEPTH or not isinstance(value, list | dict) or len(value) > _MAX_MEMBERS:
        return False
    members = value if isinstance(value, list) else value.values()
    return sum(begins_as_picture(member, depth + 1) for member in members) == 1


def picture(value: Any, name: str, depth: int = 0) -> bytes:
    """The picture in a JSON value.

    Args:
        value: base64; a list of the bytes' numbers; what JavaScript makes of a ``Buffer`` or a ``Uint8Array``; a list
            of one of these, or an object with one of these beside other members.
        name: what it is called in the message.
        depth: how deep it stands in another value.

    Raises:
        MalformedBody: it is none of these.
    """
    if isinstance(value, str):
        return from_base64(value, name)
    if (numbers := _numbers(value)) is not None:
        try:
            return bytes(numbers)
        except (TypeError, ValueError) as error:
            raise MalformedBody(f"{name} is not a list of bytes ({_reason(error)}). Send base64.") from error
    if depth < _MAX_DEPTH:
        if isinstance(value, list) and len(value) == 1:
            return picture(value[0], name, depth + 1)
        if isinstance(value, dict):
            only = value.get("b64")
            return from_base64(only, '"b64"') if isinstance(only, str) else only_picture(value, name, depth)
        if isinstance(value, list) and value and begins_as_picture(value[0], depth + 1):
            raise MalformedBody(f"{name} is a list of {len(value)} pictures. Send one in a request.")
    raise MalformedBody(f"{name} is {quoted(value)}, not a text. Send the picture's bytes as base64.")


def only_picture(members: dict[str, Any], name: str, depth: int = 0) -> bytes:
    """The one picture among the members of a JSON object.

    Raises:
        MalformedBody: none of them begins as a picture, or several do.
    """
    few = members if len(members) <= _MAX_MEMBERS else {}
    found = [key for key, value in few.items() if begins_as_picture(value, depth + 1)]
    if len(found) == 1:
        return picture(members[found[0]], quoted(found[0]), depth + 1)
    if found:
        raise MalformedBody(f"{name} has several pictures, in {names(found)}. Send one in a request.")
    raise MalformedBody(f"{name} has no picture in it (found: {names(list(members)[:10])}).")


def names(found: list[Any]) -> str:
    """What things are called, for a message."""
    told = ", ".join(quoted(name) for name in found[:8])
    return f"{told}, ..." if len(found) > 8 else told or "nothing"


def pixels(values: Any, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """JSON numbers as a ``uint8`` tensor.

    Not by way of ``np.array``, which reads text as numbers, cuts off fractions and allocates for the longest text.

    Args:
        values: lists nested as ``shape`` says, or one flat list in row-major order.
        shape: the shape expected.

    Raises:
        MalformedBody: they are nested otherwise, or are not whole numbers from 0 to 255.
    """
    expected = f"Send whole numbers from 0 to 255 in the shape {list(shape)}."
    if not isinstance(values, list):
        raise MalformedBody(f"The pixels are not a list. {expected}")
    for length in shape[1:]:
        if not values or not isinstance(values[0], list):
            break
        if not all(isinstance(row, list) and len(row) == length for row in values):
            raise MalformedBody(f"The pixels have another shape. {expected}")
        values = list(chain.from_iterable(values))
    if len(values) != prod(shape):
        raise MalformedBody(f"The pixels are {len(values)} values instead of {prod(shape)}. {expected}")
    try:
        return np.frombuffer(bytes(values), np.uint8).reshape(shape)
    except (TypeError, ValueError, OverflowError) as error:
        raise MalformedBody(f"The pixels are not bytes ({error}). {expected}") from error


def _alphabet(text: bytes) -> bytes:
    """Base64 as people write it, in the standard alphabet, without padding."""
    if b"%" in text:
        for escaped, character in _ESCAPES:
            text = text.replace(escaped, character).replace(escaped.lower(), character)
    if b"\\" in text:
        for escaped, character in _BACKSLASHES:
            text = text.replace(escaped, character)
    text = text.strip(_BLANK)
    if text[:2] in (b"b'", b'b"'):
        text = text[1:]
    text = text.strip(b"'\"")
    if text[:5].lower() == b"data:":
        text = text.partition(b",")[2].strip(_BLANK)
    if b" " in text:
        text = _spaces(text)
    return text.translate(_STANDARD, _BLANK).rstrip(b"=")


def _spaces(text: bytes) -> bytes:
    """``+`` is a space in a form; but there are also people who indent base64, or break it into words."""
    bare = text.translate(None, _BLANK)
    spaced = b"".join(line.strip(_BLANK) for line in text.split(b"\n"))
    if b"+" in bare or b"-" in bare or b" " not in spaced:
        return bare
    if (len(spaced) % 4 == 0) != (len(bare) % 4 == 0):
        words = len(bare) % 4 == 0
    else:
        # Words are equally long, but for the last.
        words = len({len(word) for word in spaced.split(b" ", 1000)[:-1][:999]}) == 1
    return bare if words else spaced.replace(b" ", b"+")


def _no_base64(text: str, name: str, error: ValueError) -> str:
    """What to say about a text that is not base64."""
    if _ADDRESS.match(text):
        return (
            f"{name} is an address, {quoted(text)}, and nothing is fetched from it. Send the picture itself as base64."
        )
    if text[:2] in ("b'", 'b"') and "\\x" in text[:1000]:
        return f"{name} is what Python prints for bytes. Send base64.b64encode(data).decode() instead."
    if _FILE_NAME.fullmatch(text):
        return f"{name} is the name of a file, {quoted(text)}, which is not here. Send what is in it as base64."
    return f"{name} is not valid base64 ({_reason(error)}). Encode the file's bytes as standard base64."


def _numbers(value: Any) -> list[Any] | None:
    """The numbers of bytes: a list, or what Node's ``Buffer`` and ``Uint8Array`` become in JSON; None: no such."""
    if isinstance(value, dict):
        if value.get("type") == "Buffer":
            value = value.get("data")
        elif "0" in value and "1" in value:
            value = [value.get(str(at)) for at in range(len(value))]
    return value if isinstance(value, list) and value and isinstance(value[0], int) else None


def _reason(error: Exception) -> str:
    return str(error)[:200]


def _check_members(data: bytes, hint: str, lists: int, values: int) -> None:
    found = np.frombuffer(data, np.uint8)
    # "[" and "{" differ in one bit. What stands in texts is counted too, but base64 has none of these.
    for what, most, count in (
        ("lists and objects", lists, np.count_nonzero((found & 0xDF) == ord("["))),
        ("values", values, np.count_nonzero(found == ord(","))),
        ("named values", _MAX_NAMED, np.count_nonzero(found == ord(":"))),
    ):
        if count > most:
            raise MalformedBody(f"The JSON has more than {most} {what}. {hint}")
