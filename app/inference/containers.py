"""Files whose structure is bounded before a decoder goes through it, since some go through it in Python.

Each function looks at a file that begins as its format does, takes time that is bounded itself, and leaves it to the
decoder whether the rest is right.
"""

import struct
from typing import Final

from ..errors import TooComplex

#: Sub-blocks before a GIF's first picture: comments, profiles, XMP. 2.5 MB of them where they are full.
MAX_GIF_BLOCKS: Final = 10_000
#: Entries of a TIFF's directory; the standard knows about 100 tags, cameras and scanners add as many.
MAX_TIFF_TAGS: Final = 1000
#: Numbers in one of them; above all strips and tiles, each of which is decoded by itself.
MAX_TIFF_VALUES: Final = 32_768
#: Items of an AVIF or HEIF file; a phone's photo of 50 megapixels has 200 tiles, and a few for its metadata.
MAX_ITEMS: Final = 1000
#: What a pixel in run lengths costs more than others: their decoder is written in Python.
BMP_RLE_COST: Final = 16


def check_gif(data: bytes) -> None:
    """Raises TooComplex if there are more blocks before a GIF's first picture than any has."""
    flags = data[10:11] or b"\0"
    at = 13 + (3 << (flags[0] & 7) + 1 if flags[0] & 0x80 else 0)
    blocks = 0
    while data[at : at + 1] not in (b",", b";", b""):
        extension = data[at] == 0x21
        at += 2 if extension else 1
        while extension and data[at : at + 1] not in (b"", b"\0"):
            at += 1 + data[at]
            blocks += 1
            if blocks > MAX_GIF_BLOCKS:
                break
        at += extension
        blocks += 1
        if blocks > MAX_GIF_BLOCKS:
            raise TooComplex(
                f"The GIF image has more than {MAX_GIF_BLOCKS} blocks before its first picture. Send it without its "
                "comments."
            )


def check_tiff(data: bytes) -> None:
    """Raises TooComplex if a TIFF's first directory has more entries, or more numbers in one, than any needs."""
    order = "<" if data.startswith(b"II") else ">"
    big = 43 in data[2:4]
    # TIFF 6.0, section 2; BigTIFF has 8 bytes where TIFF has 2 (the count of entries) and 4 (all others).
    head, count, entry = ("Q", "Q", "HHQ8x") if big else ("L", "H", "HHL4x")
    try:
        (at,) = struct.unpack_from(order + head, data, 8 if big else 4)
        (entries,) = struct.unpack_from(order + count, data, at)
        if entries > MAX_TIFF_TAGS:
            raise TooComplex(f"The TIFF image has {entries} tags; at most {MAX_TIFF_TAGS} are read. Save it again.")
        at += 8 if big else 2
        for number in range(entries):
            tag, kind, values = struct.unpack_from(order + entry, data, at + number * (20 if big else 12))
            # Bytes, text and opaque data are not taken apart.
            if values > MAX_TIFF_VALUES and kind not in (1, 2, 6, 7):
                raise TooComplex(
                    f"The TIFF image's tag {tag} has {values} values; at most {MAX_TIFF_VALUES} are read. Save it in "
                    "fewer strips or tiles."
                )
    except struct.error:
        # It ends before it begins, which its decoder says.
        return


def check_heif(data: bytes, name: str) -> bytes:
    """An AVIF or HEIF file without its EXIF block, which turns nothing: the file's own properties do (MIAF, 7.3.6.7).

    Decoders give up on a picture for a broken one.

    Args:
        data: the file.
        name: of its format, for the message.

    Raises:
        TooComplex: there are more items than any picture has.
    """
    at = 0
    for _ in range(16):
        size, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        if kind == b"meta":
            end = at + size if size >= 8 else len(data)
            items = data.count(b"infe", at, end)
            if items > MAX_ITEMS:
                raise TooComplex(f"The {name} image has {items} items; at most {MAX_ITEMS} are read. Save it again.")
            # An item's type (ISO/IEC 14496-12, 8.11.6).
            return data[:at] + data[at:end].replace(b"Exif", b"none") + data[end:]
        if size < 8:
            break
        at += size
    return data
