"""PNG files looked through before they are decoded: what the pixels need is kept, everything else is left out.

A text or a colour profile, whole or broken, large or compressed a thousandfold, has no part in the pixels (W3C PNG, 3rd
edition, 13.1: decoders ignore errors in ancillary chunks). Pillow reads it all the same, and refuses the picture
for it.
"""

import contextlib
import zlib
from dataclasses import dataclass
from typing import Final

from ..errors import BrokenImage, TooComplex

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
#: The most chunks. libpng writes one for each 8 KiB, and the smallest that are seen have a row of a thumbnail.
MAX_CHUNKS: Final = 20_000
#: Bytes of EXIF, XMP and text that are looked at for the orientation.
_MAX_METADATA: Final = 65_536
_END: Final = b"\0\0\0\0IEND\xaeB`\x82"
_RAW_PROFILES: Final = (b"Raw profile type exif\0", b"Raw profile type APP1\0")
_XMP: Final = b"XML:com.adobe.xmp\0"


@dataclass(slots=True)
class Png:
    """What a PNG file has in it.

    Attributes:
        data: a PNG of the same pixels and without anything else.
        depth: bits of a sample.
        exif: its EXIF block, empty if there is none; as it stands in the file, valid or not.
        xmp: its XMP packet, likewise.
        profiles: how many EXIF blocks that were written as text were looked at.
    """

    data: bytes
    depth: int = 8
    exif: bytes = b""
    xmp: bytes = b""
    profiles: int = 0


def parse(data: bytes) -> Png:
    """Looks through a PNG file, which begins with the signature, without decoding anything.

    Raises:
        BrokenImage: a chunk that the pixels need is damaged, or the file ends before they do.
        TooComplex: more chunks than a picture has.
    """
    png, at, pixels = Png(b""), len(SIGNATURE), 0
    kept: list[bytes | memoryview] = [SIGNATURE]
    view = memoryview(data)
    for _ in range(MAX_CHUNKS):
        size, kind, begin = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8], at + 8
        if at + 8 > len(data) or kind == b"IEND":
            break
        at = begin + size + 4
        match kind:
            case b"IHDR" | b"PLTE" | b"tRNS" | b"IDAT":
                # The last chunk's checksum may be missing as the end is: every pixel is there.
                if begin + size > len(data):
                    if kind == b"tRNS" or not pixels:
                        raise _damaged("it ends before its pixels do")
                    raise _damaged("it ends within its pixels")
                expected = data[begin + size : at]
                if len(expected) == 4 and zlib.crc32(view[begin - 4 : begin + size]) != int.from_bytes(expected):
                    raise _damaged(f"the checksum of its {kind.decode()} chunk is wrong")
                kept.append(view[begin - 8 : at] if len(expected) == 4 else _chunk(kind, data[begin : begin + size]))
                pixels += kind == b"IDAT"
                if kind == b"IHDR" and size == 13:
                    png.depth = data[begin + 8]
            case b"eXIf":
                png.exif = data[begin : begin + min(size, _MAX_METADATA)]
            case b"iTXt" | b"tEXt" | b"zTXt":
                _text(png, kind, data[begin : begin + min(size, _MAX_METADATA)])
    else:
        raise TooComplex(f"The PNG image has more than {MAX_CHUNKS} chunks. Save it again as an ordinary PNG.")
    if not pixels:
        raise _damaged("it ends before its pixels do")
    png.data = b"".join((*kept, _END))
    return png


def _text(png: Png, kind: bytes, text: bytes) -> None:
    """Takes what may say the orientation: an XMP packet, and the EXIF block that ImageMagick writes as text."""
    if kind == b"iTXt" and text.startswith(_XMP):
        png.xmp = text
    # Only the first is unpacked, whatever comes of it.
    elif text.startswith(_RAW_PROFILES) and not png.profiles:
        png.profiles += 1
        profile = text[len(_RAW_PROFILES[0]) :]
        # Neither text nor numbers have to be right.
        with contextlib.suppress(zlib.error, ValueError):
            if kind == b"zTXt":
                profile = zlib.decompressobj().decompress(profile[1:], 2 * _MAX_METADATA)
            # A line break, the profile's name, its length, then lines of hexadecimal digits.
            png.exif = png.exif or bytes.fromhex("".join(profile.decode("latin-1").split("\n")[3:]))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)


def _damaged(how: str) -> BrokenImage:
    return BrokenImage(f"The PNG image is truncated or damaged ({how}). Send the complete file.")
