"""What bytes are, by how they begin: a picture of a supported format, or something that can be named."""

import re
from typing import Final

from ..errors import BrokenImage, NotAnImage

# ISO/IEC 23008-12, B.4: brands of files whose images are coded in HEVC.
_HEVC_BRANDS: Final = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_AVIF_BRANDS: Final = frozenset({b"avif", b"avis"})
# Brands that say only that there are images, not how they are coded.
_HEIF_BRANDS: Final = frozenset({b"mif1", b"mif2", b"msf1", b"miaf"})
_ANY_BRAND: Final = _HEVC_BRANDS | _AVIF_BRANDS | _HEIF_BRANDS
_VIDEO_BRANDS: Final = {b"qt  ": "a QuickTime video (MOV)", b"crx ": "a Canon raw photo (CR3)"}
_BMP_HEADERS: Final = frozenset({12, 40, 52, 56, 64, 108, 124})
_BEGINNINGS: Final = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF87a", b"GIF89a"),
    # TIFF 6.0 and BigTIFF; the two in the middle are wrong and seen all the same.
    "TIFF": (b"II*\0", b"MM\0*", b"MM*\0", b"II\0*", b"II+\0", b"MM\0+"),
}
_ANY_BEGINNING: Final = tuple(begins for several in _BEGINNINGS.values() for begins in several)

# What senders put before a picture: line ends, a byte order mark, zeros of a buffer; the headers of a part of
# multipart/x-mixed-replace (MJPEG), or of a whole answer that was saved with its headers.
_BEFORE: Final = re.compile(
    rb"(?:\xef\xbb\xbf|[\0\t\n\r ]){1,4096}"
    rb"|(?:--[^\r\n]{1,200}|HTTP/\d[.\d]{0,2} [^\r\n]{1,200})\r?\n"
    rb"(?:[A-Za-z0-9-]{1,64}:[^\r\n]{0,1000}\r?\n){0,50}\r?\n"
)
# How often one of them follows another: a line end, a boundary, an answer's headers before a part's.
_MOST_BEFORE: Final = 5

#: How files begin that are sent instead of pictures, and what they are.
_OTHERS: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"\xff\xd8", "the beginning of a JPEG image and nothing more"),
    (b"%PDF-", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"8BPS", "a Photoshop document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (b"FLV\x01", "a Flash video"),
    (b"OggS", "an Ogg stream"),
    (b"ID3", "an MP3 recording"),
    (b"icns", "an Apple icon"),
    (b"qoif", "a QOI image"),
    (b"\x8bJNG", "a JNG image"),
    (b"\x8aMNG", "an MNG animation"),
    (b"v/1\x01", "an OpenEXR image"),
    (b"#?RADIANCE", "a Radiance HDR image"),
    (b"SIMPLE  =", "a FITS image"),
    (b"DDS ", "a DirectDraw texture"),
    (b"FUJIFILMCCD-RAW", "a Fujifilm raw photo (RAF)"),
    (b"\xd7\xcd\xc6\x9a", "a Windows metafile"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"/* XPM */", "an XPM image"),
    (b"#define ", "an XBM image or C source"),
    (b"DHAV", "a Dahua recording (DAV)"),
)
#: Weaker signs: pixels may begin so too.
_PERHAPS: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\0\0\0\x01", "a raw H.264 or H.265 stream"),
    (b"\0\0\x01\xba", "an MPEG video"),
    (b"\0\0\x01\xb3", "an MPEG video"),
    (b"\0\0\1\0", "a Windows icon"),
    (b"\0\0\2\0", "a Windows cursor"),
)
_TEXTS: Final[tuple[tuple[re.Pattern[bytes], str], ...]] = (
    (re.compile(rb"<!doctype html|<html|<head|<body", re.IGNORECASE), "an HTML page; a camera's login page, perhaps"),
    (re.compile(rb"(?:<\?xml[^>]{0,200}>|<!--[^>]{0,2000}>|\s){0,9}<!?(?:doctype )?svg", re.IGNORECASE), "an SVG file"),
    (re.compile(rb"<\?xml|<[a-z][\w:.-]*[\s>/]", re.IGNORECASE), "XML; a camera's error message, perhaps"),
    (re.compile(rb"data:[\w/+.-]{0,100}[;,]"), "a data URL; only its base64 text, decoded, is a picture"),
    (re.compile(rb"P[1-7]\s"), "a PNM image (PBM, PGM, PPM, PAM)"),
    (re.compile(rb"--[^\r\n]{1,200}\r?\n"), "a multipart body without a picture in its first part"),
    (re.compile(rb"HTTP/\d"), "an HTTP answer without a picture in it"),
    (re.compile(rb"(?:/9j/|iVBOR|R0lGOD|UklGR|Qk|SUkqA|TU0AK|AAAA)[A-Za-z0-9+/=\s]+\Z"), "base64 text; decode it"),
    (re.compile(rb"(?:[0-9a-fA-F]{2}\s?){16,}\Z"), "hexadecimal text"),
    (re.compile(rb"[{\[]"), "JSON or the like"),
    (re.compile(rb"https?://\S+\s*\Z"), "an address; pictures are not fetched from elsewhere"),
)  # fmt: skip
#: How pictures begin that went through a conversion of text; none of it can be undone for sure.
_AS_TEXT: Final = (
    (b"\xc3\xbf\xc3\x98\xc3\xbf", "JPEG"),
    (b"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", "JPEG"),
    (b"??\xef\xbf\xbd", "JPEG"),
    (b"????\0\x10JFIF", "JPEG"),
    (b"\xc2\x89PNG", "PNG"),
    (b"\xef\xbf\xbdPNG", "PNG"),
    (b"?PNG", "PNG"),
    (b"\x89PNG\r\r\n", "PNG"),
    (b"\x89PNG\n", "PNG"),
)
#: Sides of what small cameras send without any header.
_SIDES: Final = (
    (96, 96),
    (80, 60),
    (128, 128),
    (128, 96),
    (160, 120),
    (176, 144),
    (240, 176),
    (240, 240),
    (320, 240),
    (352, 288),
    (400, 296),
    (480, 320),
    (640, 480),
    (800, 600),
    (1024, 768),
    (1280, 720),
    (1280, 1024),
    (1600, 1200),
    (1920, 1080),
)
_RAW: Final = ((1, "8-bit grey"), (1.5, "YUV 4:2:0"), (2, "RGB565 or YUV 4:2:2"), (3, "RGB888"), (4, "RGBA"))


#: Endings of names of files that hold pictures of these formats, HEIC among them, which needs an extra.
SUFFIXES: Final = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".avif", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
        *(".heic", ".heif", ".hif"),
    }
)


def looks_like_picture(data: bytes) -> bool:
    """Whether bytes begin as an image file does that the service may be able to read: 32 of them are enough."""
    if data.startswith(_ANY_BEGINNING):
        return True
    match data[:2]:
        case b"RI":
            return data[:4] == b"RIFF" and data[8:12] == b"WEBP"
        case b"BM":
            # Two letters are as well the beginning of a text. OS/2's short header is a picture's, though none is read.
            return int.from_bytes(data[14:18], "little") in _BMP_HEADERS | {16}
    # The major brands of still images; films have others.
    return data[4:8] == b"ftyp" and data[8:12] in _ANY_BRAND


def recognise(data: bytes, supported: tuple[str, ...]) -> tuple[str, bytes]:
    """The format of a picture, and the picture without what stands before it.

    Args:
        data: an encoded picture, maybe with a few bytes of something else before it.
        supported: names of the formats that can be read, as Pillow gives them.

    Raises:
        NotAnImage: it is none of them; the message says what it is, if that can be seen.
        BrokenImage: it was one of them before something took it for text.
    """
    picture = data
    for _ in range(_MOST_BEFORE):
        name = _format(picture)
        if name in supported:
            return name, picture
        before = None if name else _BEFORE.match(picture)
        if not before:
            break
        # The size of an ISO file's first box begins with zeros.
        box = picture.find(b"ftyp", 4, before.end() + 5)
        picture = picture[box - 4 if box >= 0 else before.end() :]
    for begins, kind in _AS_TEXT:
        if data.startswith(begins):
            raise BrokenImage(
                f"The {kind} image is damaged: something on its way took its bytes for text and changed them. Send "
                "the file's bytes as they are (in binary mode)."
            )
    if name == "HEIF":
        raise NotAnImage(
            f"The {len(data)} bytes are a HEIC photo, which this service reads only with the extra 'heic' "
            "(pip install 'edge-classifier[heic]'). Install it there, or send the photo as JPEG."
        )
    raise NotAnImage(
        f"The {len(data)} bytes are not an image in a supported format ({', '.join(supported)}){_named(data)}. Send "
        "the bytes of such an image."
    )


def _format(data: bytes) -> str | None:
    """The format that bytes begin like, by Pillow's name; HEIF whether it can be read or not."""
    for name, begins in _BEGINNINGS.items():
        if data.startswith(begins):
            return name
    if data.startswith(b"RIFF") and data[8:15] == b"WEBPVP8":
        return "WEBP"
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    brands = _brands(data)
    if not brands & _ANY_BRAND:
        return None
    # Where the brands leave it open, what the items are coded in stands in the properties before them.
    head = b"" if brands & (_HEVC_BRANDS | _AVIF_BRANDS) else data[:65_536]
    if brands & _HEVC_BRANDS or b"hvcC" in head:
        return "HEIF"
    return "AVIF" if brands & _AVIF_BRANDS or b"av1C" in head else None


def _brands(data: bytes) -> set[bytes]:
    """The major and the compatible brands of the file type box (ISO/IEC 14496-12, 4.3), which comes first."""
    if data[4:8] != b"ftyp":
        return set()
    box = data[8 : min(int.from_bytes(data[:4]), 256)]
    # Between them stands a version.
    return {box[at : at + 4] for at in range(0, len(box), 4) if at != 4}


def _named(data: bytes) -> str:
    """``: they are ...``, or nothing where that cannot be seen."""
    if not data.strip(b"\0"):
        return ": all of them are zero" if data else ": there are none"
    if kind := _binary(data):
        return f": they are {kind}"
    text = data[:4096].lstrip(b"\xef\xbb\xbf\0\t\n\r ")
    for pattern, kind in _TEXTS:
        if pattern.match(text):
            return f": they are {kind}"
    for width, height in _SIDES:
        for size, kind in _RAW:
            if len(data) == width * height * size:
                return f": they may be {width} x {height} pixels of {kind} without a header; encode them as JPEG"
    for begins, kind in _PERHAPS:
        if data.startswith(begins):
            return f": they may be {kind}"
    return "" if re.search(rb"[^\t\n\r\x20-\x7e]", data[:4096]) else ": they are text"


def _binary(data: bytes) -> str | None:
    """What is known by bytes at fixed places."""
    if data[4:8] == b"ftyp":
        return _VIDEO_BRANDS.get(data[8:12]) or ("a HEIF image" if _brands(data) & _HEIF_BRANDS else "an MP4 video")
    if data[4:8] in (b"moov", b"mdat", b"wide", b"styp", b"moof"):
        return "a part of an MP4 or QuickTime video"
    if data.startswith(b"RIFF"):
        return {b"AVI ": "an AVI video", b"WAVE": "a WAV recording"}.get(data[8:12], "a RIFF file")
    if data[:1] == b"G" == data[188:189]:
        return "an MPEG transport stream"
    if data[128:132] == b"DICM":
        return "a DICOM image"
    return next((kind for begins, kind in _OTHERS if data.startswith(begins)), None)
