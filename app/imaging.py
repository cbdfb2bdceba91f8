"""Bytes to upright RGB pixels: the only place in this project that decodes an image.

Serving, calibration, training and evaluation call the same ``load``, so that what was measured is what is served.
The geometry (which part of the photo, at what size) is the model's own, a ``Resize`` from its contract. The
arithmetic (normalisation) is inside the model's graph.
"""

import importlib.util
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# One plugin per supported format; a decoder that is not imported cannot be attacked.
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from app.errors import BrokenImage, NotAnImage, TooManyPixels
from app.room import Room

# Imported here, so that the first photo does not wait for it. WebP and AVIF cost 3 ms and 0.8 MB together; JPEG needs
# MPO's and TIFF's anyway.
_PLUGINS: Final = (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

_PILLOWS: Final = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
_HEIF_INSTALLED: Final = importlib.util.find_spec("pillow_heif") is not None
#: The formats that ``load`` reads, by Pillow's names. JPEG includes MPO, which many phones write and call .jpg; HEIF is
#: what iPhones write, and needs the extra ``heic``.
FORMATS: Final = (*_PILLOWS, "HEIF") if _HEIF_INSTALLED else _PILLOWS
# ISO/IEC 23008-12, B.4: brands of files whose images are coded in HEVC.
_HEVC_BRANDS: Final = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})

#: Resampling filters that a contract may name.
FILTERS: Final = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

# Pillow's own limit warns or raises at figures of its own; ours is an argument of ``load``.
Image.MAX_IMAGE_PIXELS = None

_EXIF_ORIENTATION = 0x0112
# EXIF 2.32, 4.6.4.A: what has to be done to the stored pixels so that they stand upright.
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS: Final = frozenset({5, 6, 7, 8})


@dataclass(frozen=True, slots=True)
class Resize:
    """How a photo of any size becomes the model's input.

    The largest centred box with the model's aspect ratio is taken, shrunk to ``crop`` of its sides, and resampled to
    ``height`` x ``width`` in one step. For a square input this is the classic "shortest side to ``height / crop``,
    centre crop to ``height``" without the intermediate picture.

    Attributes:
        height: rows of the model's input, in pixels.
        width: columns of the model's input, in pixels.
        crop: side of the box as a fraction of the largest one that fits, in (0, 1]; 0.875 is 224 / 256.
        filter: resampling filter, a key of ``FILTERS``; antialiased, as Pillow does it.
    """

    height: int
    width: int
    crop: float
    filter: str

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The part of a ``width`` x ``height`` picture that the model sees: left, upper, right, lower, in pixels."""
        box_height = min(height, width * self.height / self.width) * self.crop
        box_width = box_height * self.width / self.height
        left, upper = (width - box_width) / 2, (height - box_height) / 2
        return (left, upper, left + box_width, upper + box_height)

    def turned(self) -> "Resize":
        """The same rule for a picture that lies on its side."""
        return replace(self, height=self.width, width=self.height)


@dataclass(frozen=True, slots=True)
class _Whole(Resize):
    """All of a picture, however thin; its sides in pixels are whole numbers, so their ratio is not quite its own."""

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        return (0.0, 0.0, width, height)


#: What an upright picture of this width and height becomes.
Rule = Callable[[int, int], Resize]


def load(data: bytes, resize: Resize, room: Room) -> NDArray[np.uint8]:
    """Decodes one photo into the model's input.

    EXIF orientation is honoured, transparency is composited on white, the first frame of an animation is taken,
    16-bit greyscale keeps its upper 8 bits. A JPEG that is much larger than needed is decoded at a reduced DCT scale.

    Args:
        data: an encoded image in one of ``FORMATS``.
        resize: the model's resize rule.
        room: how large it may be; compared with its header before anything is decoded.

    Returns:
        ``uint8 [resize.height, resize.width, 3]``, RGB, 0 to 255.

    Raises:
        NotAnImage: the bytes are none of the supported formats.
        BrokenImage: the bytes begin like an image, but are truncated or damaged.
        TooManyPixels: the header announces more than there is room for.
    """
    return _decode(data, lambda _width, _height: resize, room)


def overview(data: bytes, longest: int, room: Room) -> NDArray[np.uint8]:
    """Decodes the whole of one photo, upright, for people to look at; otherwise as ``load``.

    Args:
        data: an encoded image in one of ``FORMATS``.
        longest: the most pixels on its longer side; a larger photo is scaled down.
        room: how large it may be before.

    Returns:
        ``uint8 [height, width, 3]``, RGB, 0 to 255.

    Raises:
        NotAnImage, BrokenImage, TooManyPixels: as ``load`` does.
    """

    def whole(width: int, height: int) -> Resize:
        scale = min(1.0, longest / max(width, height))
        return _Whole(max(1, round(height * scale)), max(1, round(width * scale)), 1.0, "bilinear")

    return _decode(data, whole, room)


def visible(data: bytes, resize: Resize) -> tuple[float, float, float, float]:
    """The part of a photo that the model sees: left, upper, right, lower, as fractions of the upright photo's sides.

    Only the header is read. Raises NotAnImage or BrokenImage, as ``load`` does.
    """
    image = _open(data)
    width, height = image.size
    # Pillow turns a TIFF's size when it opens it.
    if image.format != "TIFF" and image.getexif().get(_EXIF_ORIENTATION) in _SIDEWAYS:
        width, height = height, width
    left, upper, right, lower = resize.box(width, height)
    return (left / width, upper / height, right / width, lower / height)


def _decode(data: bytes, rule: Rule, room: Room) -> NDArray[np.uint8]:
    image = _open(data)
    if image.width * image.height > room.pixels:
        raise TooManyPixels(
            f"The image has {image.width} x {image.height} = {image.width * image.height} pixels; at most "
            f"{room.pixels} are decoded. Send a smaller picture."
        )
    what = f"this {image.width} x {image.height} {image.format}"
    needed = image.width * image.height * _decoder_bytes(image, data)
    try:
        if isinstance(image, JpegImagePlugin.JpegImageFile):
            _reduce(image, _upright(image, rule)[1])
        needed += image.width * image.height * _picture_bytes(image)
        with room.take(needed, what):
            return _pixels(image, rule, len(data))
    except TooManyPixels:
        raise
    except Exception as error:
        # Pillow's decoders answer damaged files with whatever their arithmetic runs into: OSError, SyntaxError,
        # ValueError, struct.error, IndexError, zlib.error, ...; all of them mean the same to the sender.
        raise BrokenImage(
            f"The {image.format} image is truncated or damaged ({_one_line(error)}). Send the complete file."
        ) from error


def _pixels(image: ImageFile.ImageFile, rule: Rule, size: int) -> NDArray[np.uint8]:
    # All of it is in memory: one call of the decoder instead of one for each 64 KiB.
    image.decodermaxblock = size
    image.load()
    # Asked again: Pillow turns a TIFF by itself while loading it.
    orientation, resize = _upright(image, rule)
    picture = _eight_bit(image)
    picture = picture.resize(
        (resize.width, resize.height),
        FILTERS[resize.filter],
        box=resize.box(picture.width, picture.height),
        reducing_gap=2.0,
    )
    if orientation in _UPRIGHT:
        picture = picture.transpose(_UPRIGHT[orientation])
    return np.asarray(_rgb_on_white(picture))


def _is_heic(data: bytes) -> bool:
    """Whether the file type box (ISO/IEC 14496-12, 4.3), which comes first, names a brand of HEVC images."""
    if data[4:8] != b"ftyp":
        return False
    box = data[8 : min(int.from_bytes(data[:4]), 256)]
    # The major brand, a version, and compatible brands; 'mif1' alone may as well be AVIF.
    return not _HEVC_BRANDS.isdisjoint(box[at : at + 4] for at in range(0, len(box), 4))


def _register_heif() -> None:
    """Teaches Pillow HEIF; at the first such photo, because it costs 20 ms and 4 MB, and most services see none."""
    import pillow_heif

    # One thread, because the other lanes have photos of their own; only the picture itself.
    pillow_heif.register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)


def _open(data: bytes) -> ImageFile.ImageFile:
    """Reads the header."""
    if heic := _is_heic(data):
        if not _HEIF_INSTALLED:
            raise NotAnImage(
                f"The {len(data)} bytes are a HEIC photo, which this service reads only with the extra 'heic' "
                "(pip install 'edge-classifier[heic]'). Install it there, or send the photo as JPEG."
            )
        _register_heif()
    try:
        return Image.open(io.BytesIO(data), formats=("HEIF",) if heic else _PILLOWS)
    except UnidentifiedImageError as error:
        if heic:
            raise BrokenImage("The HEIF image's header is truncated or damaged. Send the complete file.") from error
        raise NotAnImage(
            f"The {len(data)} bytes are not an image in a supported format "
            f"({', '.join(FORMATS)}). Send the file's bytes as they are."
        ) from error
    except Exception as error:
        raise BrokenImage(f"The image's header is damaged ({_one_line(error)}). Send the complete file.") from error


def _upright(image: Image.Image, rule: Rule) -> tuple[int, Resize]:
    """The EXIF orientation, and the resize rule for the pixels as they are stored."""
    orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    if orientation in _SIDEWAYS:
        return orientation, rule(image.height, image.width).turned()
    return orientation, rule(image.width, image.height)


def _reduce(image: JpegImagePlugin.JpegImageFile, rule: Resize) -> None:
    """Lets a JPEG be decoded at 1/2, 1/4 or 1/8, if its box then still has the pixels that the model's input needs."""
    left, upper, right, lower = rule.box(image.width, image.height)
    scale = min((right - left) / rule.width, (lower - upper) / rule.height)
    if scale >= 2:
        image.draft(None, (int(image.width / scale), int(image.height / scale)))


def _decoder_bytes(image: ImageFile.ImageFile, data: bytes) -> int:
    """The most memory that the format's decoder takes beside its result, for each pixel in the file.

    Measured with Pillow 12.3; ``tests/app/test_room.py`` measures it again.
    """
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        # A pixel's coefficients of all components, 16 bits each, are kept until the last scan has come.
        return 0 if _one_scan(data) else 2 * len(image.getbands())
    return {"WEBP": 14, "AVIF": 8, "HEIF": 8, "TIFF": 8, "BMP": 4}.get(str(image.format), 0)


def _one_scan(data: bytes) -> bool:
    """Whether all of a JPEG comes in one scan, so that its decoder keeps a few rows only (ITU-T T.81, B.2)."""
    at, components = 2, 0
    while at + 9 < len(data):
        marker, size = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if marker in (0xC0, 0xC1):
            components = data[at + 9]
        elif marker == 0xDA:
            return data[at + 4] == components
        # Markers may be preceded by fill bytes.
        at += 1 if marker == 0xFF else 2 + size
    return False


def _picture_bytes(image: ImageFile.ImageFile) -> int:
    """The most memory that a pixel takes from the decoder's result to a resized picture; measured likewise."""
    if image.mode in ("RGB", "L"):
        return 12 if "transparency" in image.info else 4
    return 8


def _eight_bit(image: Image.Image) -> Image.Image:
    """A picture whose pixels can be averaged: 8 bits a channel, no palette."""
    match image.mode:
        case "RGB" | "L" | "RGBA" | "LA" | "CMYK":
            # A colour that is declared transparent becomes an alpha channel before neighbours are mixed.
            return image.convert("RGBA") if "transparency" in image.info and image.mode in ("RGB", "L") else image
        case "P" | "PA":
            return image.convert("RGBA" if image.has_transparency_data else "RGB")
        case "I" | "I;16" | "I;16B" | "I;16L" | "I;16N":
            # 16-bit greyscale; Pillow would clip at 255 instead of scaling.
            levels: NDArray[Any] = np.asarray(image)
            return Image.fromarray((np.clip(levels, 0, 65535) >> 8).astype(np.uint8))
        case _:
            return image.convert("RGB")


def _rgb_on_white(picture: Image.Image) -> Image.Image:
    if picture.mode in ("RGBA", "LA"):
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
