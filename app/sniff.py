"""What bytes begin as."""

from typing import Final

_BEGINNINGS: Final = (
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",  # TIFF, of either byte order; BigTIFF
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
)
# ISO/IEC 23008-12, B.4 and AVIF, 4.2: the major brands of still images; films have others.
_BRANDS: Final = frozenset({b"avif", b"avis", b"mif1", b"msf1", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"})
# The lengths that a BMP's second header has had.
_BMP_HEADERS: Final = frozenset({12, 16, 40, 52, 56, 64, 108, 124})


def looks_like_picture(data: bytes) -> bool:
    """Whether bytes begin as an image file does that the service may be able to read: 32 of them are enough."""
    if data.startswith(_BEGINNINGS):
        return True
    match data[:2]:
        case b"RI":
            return data[:4] == b"RIFF" and data[8:12] == b"WEBP"
        case b"BM":
            # Two letters are as well the beginning of a text.
            return int.from_bytes(data[14:18], "little") in _BMP_HEADERS
    return data[4:8] == b"ftyp" and data[8:12] in _BRANDS
