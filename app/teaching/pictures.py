"""Uploaded photos: decoded as photos are that are classified, and made small for people to look at."""

import io
from dataclasses import dataclass
from typing import Final

from PIL import Image

from ..inference import formats, imaging
from ..inference.decode_budget import DecodeBudget
from ..inference.imaging import View

#: Longest side of a thumbnail, and of what is shown large, in pixels.
SMALL: Final = 256
LARGE: Final = 1280
_QUALITY: Final = {SMALL: 78, LARGE: 88}
#: Of what is kept to be learnt from.
_KEPT_QUALITY: Final = 95


@dataclass(frozen=True, slots=True)
class Checked:
    """A photo that can be decoded.

    Attributes:
        kind: its format, by Pillow's name.
        data: its file's bytes, without what stood before them.
        thumbnail: a small JPEG of it.
    """

    kind: str
    data: bytes
    thumbnail: bytes


def checked(data: bytes, decode_budget: DecodeBudget) -> Checked:
    """Decodes a photo once, whole, so that nothing is kept that nobody can learn from.

    Raises:
        NotAnImage, BrokenImage, TooManyPixels, TooComplex: as ``imaging.load`` does.
    """
    thumbnail = shown(data, SMALL, decode_budget)
    kind, rest = formats.recognise(data, imaging.FORMATS)
    return Checked(kind, bytes(rest), thumbnail)


def shown(data: bytes, longest: int, decode_budget: DecodeBudget) -> bytes:
    """A photo as an upright JPEG without metadata, whatever format it has.

    Args:
        data: the photo.
        longest: its longer side at most, in pixels: ``SMALL`` or ``LARGE``.
        decode_budget: how large it may be before.

    Raises:
        NotAnImage, BrokenImage, TooManyPixels, TooComplex: as ``imaging.load`` does.
    """
    made = io.BytesIO()
    Image.fromarray(imaging.preview(data, longest, decode_budget)).save(made, "JPEG", quality=_QUALITY[longest])
    return made.getvalue()


def looked_at(data: bytes, view: View, decode_budget: DecodeBudget) -> bytes:
    """What was looked at of a photo, as an upright JPEG of that part, in which what was masked is grey.

    Raises:
        NotAnImage, BrokenImage, TooManyPixels, TooComplex: as ``imaging.load`` does.
    """
    made = io.BytesIO()
    pixels = imaging.preview(data, max(imaging.size(data)), decode_budget, view)
    Image.fromarray(pixels).save(made, "JPEG", quality=_KEPT_QUALITY)
    return made.getvalue()
