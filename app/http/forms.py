"""Which part of a form is the photo."""

import binascii
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote_plus

from ..errors import MalformedBody, quoted
from ..inference.formats import looks_like_picture
from .encodings import begins_as_base64_picture, encoded_picture, from_base64, names, percent_decoded
from .multipart import Part

#: More beside the photos is no form with photos, but an attempt to keep us busy.
MAX_FIELDS: Final = 48


def fields(data: bytes) -> Iterator[Part]:
    """The fields of an urlencoded form.

    Their values are as they were sent, unless they are pictures then: of base64 ``from_base64`` knows what was meant.
    """
    at = 0
    while at < len(data):
        end = data.find(b"&", at)
        end = len(data) if end < 0 else end
        name, equals, _ = data[at : min(end, at + 300)].partition(b"=")
        start = at + len(name) + len(equals)
        part = Part(data, start, end, {}, unquote_plus(name.decode("latin-1")))
        if looks_like_picture(percent_decoded(part.beginning)):
            decoded = percent_decoded(part.content)
            part = Part(decoded, 0, len(decoded), {}, part.field)
        yield part
        at = end + 1


def chosen(found: Iterator[Part], field: str, *, first: bool) -> bytes:
    """The photo of a form: in the part named ``field``, else in the only one that begins as a picture.

    Args:
        found: its parts.
        field: the name that is documented.
        first: take the first picture, whatever its name.

    Raises:
        MalformedBody: there is none, or more than one.
    """
    named: list[Part] = []
    pictures: list[Part] = []
    seen: list[str] = []
    for part in found:
        if first and is_picture(part):
            return photo(part)
        if len(seen) == MAX_FIELDS:
            raise too_many(MAX_FIELDS)
        seen.append(part.name)
        if same(part.name, field):
            named.append(part)
        elif is_picture(part):
            pictures.append(part)
    # A browser sends an empty part for a field where nothing was chosen.
    full = [part for part in named if part.start < part.end]
    if len(full) > 1:
        full = [part for part in full if is_picture(part)] or full
        if len(full) > 1:
            raise MalformedBody(f"More than one part named {field!r} was sent. Use /predict/batch for several photos.")
    if not any(part.name for part in pictures):
        pictures = pictures[:1]
    if not full and len(pictures) > 1:
        raise MalformedBody(
            f"There are several pictures, in parts named {names([part.name for part in pictures])}. Send one, in a "
            f"field named {field!r}."
        )
    if not full and not pictures:
        if named:
            raise MalformedBody(f"The part named {field!r} is empty. Send the photo's bytes in it.")
        raise no_part(field, seen)
    return photo((full or pictures)[0])


def is_picture(part: Part) -> bool:
    """Whether what is in a part begins as a picture, or as the base64 of one."""
    return looks_like_picture(part.beginning) or begins_as_base64_picture(part.beginning)


def photo(part: Part) -> bytes:
    """The photo in a part.

    Raises:
        MalformedBody: the body ends within it, it is not the base64 that it says it is, or it is some other text.
    """
    content = part.content
    name = f"The part named {quoted(part.name)}"
    if looks_like_picture(content):
        if not part.whole and not _ends(content):
            raise MalformedBody(
                "The multipart body ends within the photo. Send it complete, with a Content-Length that counts all of "
                "it."
            )
        return content
    encoding = part.headers.get(b"content-transfer-encoding", b"").lower()
    if encoding == b"base64":
        return from_base64(content.decode("latin-1"), name)
    if encoding == b"quoted-printable":
        return binascii.a2b_qp(content)
    if decoded := encoded_picture(content):
        return decoded
    if not part.is_file and len(content) < 1000 and (text := _printable(content)):
        raise MalformedBody(
            f"{name} is the text {quoted(text)}, not a picture. Send the picture's bytes in it; "
            f"curl reads a file where its name follows an @: -F {quoted(part.name)[1:-1] or 'file'}=@photo.jpg."
        )
    return content


def _ends(photo: bytes) -> bool:
    """Whether a JPEG or a PNG has what marks its end; of other formats their decoders know."""
    if photo.startswith(b"\xff\xd8"):
        return b"\xff\xd9" in photo[-64:]
    return not photo.startswith(b"\x89PNG") or b"IEND" in photo[-64:]


def _printable(content: bytes) -> str:
    text = content.decode("utf-8", "replace").strip()
    return text if text.isprintable() and "\ufffd" not in text else ""


def plain(name: str) -> str:
    """A field's name without what frameworks add for several of them: ``file[]``, ``file[0]``."""
    return name.partition("[")[0].strip().casefold()


def same(name: str, field: str) -> bool:
    """Whether a part's name means ``field``."""
    return name == field or plain(name) == field


def no_part(field: str, seen: list[str]) -> MalformedBody:
    """No part of those that were seen is a photo."""
    return MalformedBody(
        f"No part is named {field!r} (found: {names(seen)}), and there is no picture in any other. Send the photo in a "
        f"field named {field!r}."
    )


def too_many(most: int) -> MalformedBody:
    """There are more than ``most`` parts."""
    return MalformedBody(f"The body has more than {most} parts. Send photos only.")
