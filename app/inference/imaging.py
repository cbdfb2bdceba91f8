"""Bytes to upright RGB pixels: the only place in this project that decodes an image.

Serving, calibration, training and evaluation call the same ``load``, so that what was measured is what is served.
The geometry (which part of the photo, at what size) is the model's own, a ``Resize`` from its contract. The
arithmetic (normalisation) is inside the model's graph.
"""

import contextlib
import functools
import importlib.util
import io
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# One plugin per supported format; a decoder that is not imported cannot be attacked. Imported here, so that the first
# photo does not wait for it; JPEG needs none. WebP and AVIF cost 3 ms and 0.8 MB together.
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from ..errors import BrokenImage, RequestError, TooComplex, TooManyPixels
from . import containers, formats, jpeg, png
from .decode_budget import DecodeBudget
from .jpeg import Jpeg

_PLUGINS: Final[dict[str, type[ImageFile.ImageFile]]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}
_HEIF_INSTALLED: Final = importlib.util.find_spec("pillow_heif") is not None
#: The formats that ``load`` reads, by Pillow's names. JPEG includes MPO, which many phones write and call .jpg; HEIF is
#: what iPhones write, and needs the extra ``heic``.
FORMATS: Final = ("JPEG", *_PLUGINS, *(["HEIF"] if _HEIF_INSTALLED else []))

#: Which part of a photo that has another shape than the model's input is seen; see ``Resize``.
FITS: Final = ("crop", "squash", "pad")
#: What surrounds a padded photo: the middle of the range, which is nearly 0 for a network that takes -1 to 1.
_PADDING: Final = (128, 128, 128)
#: Resampling filters that a contract may name.
FILTERS: Final = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

# Pillow's own limit warns or raises at figures of its own; ours is an argument of ``load``.
Image.MAX_IMAGE_PIXELS = None
# The other workers have photos of their own.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

#: The longest side, in pixels: JPEG's own limit. Pillow keeps a pointer for each row, so that a picture of one column
#: has three times the memory of a square one with as many pixels, and takes five times as long.
_MAX_SIDE: Final = 65_535
#: Samples that a JPEG's scans may go through together, for each pixel that a photo may have. libjpeg's own progression
#: goes through 14 for a pixel at full chroma, 8 at the usual one.
_SCANNED: Final = 16
#: Bytes of a decoded pixel, of which a part that is cut out is a copy.
_CUT_BYTES: Final = 4
#: Bytes of a BMP before its pixels: its headers and its palette of 256 colours.
_MAX_BMP_HEADER: Final = 2048
#: Tags of an EXIF block and bytes of an XMP packet that are looked at for the orientation; it stands among the first.
_MAX_TAGS: Final = 1000
_MAX_METADATA: Final = 65_536
#: Depths that a sensor's grey levels are written in, lowest bits first.
_DEPTHS: Final = (8, 10, 12, 14, 16)

_EXIF_ORIENTATION = 0x0112
# TIFF 6.0, PhotometricInterpretation: 0 means that zero is white.
_TIFF_WHITE = 0x0106
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
#: Where an upright photo's left (after that, its top) lies at the right (at the bottom) of the stored pixels.
_FROM_THE_RIGHT: Final = frozenset({2, 3, 7, 8})
_FROM_BELOW: Final = frozenset({3, 4, 6, 7})
_XMP_ORIENTATION: Final = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')


@dataclass(frozen=True, slots=True)
class Resize:
    """How a photo of any size becomes the model's input.

    A centred box is taken, shrunk to ``crop`` of its sides, and resampled to ``height`` x ``width`` in one step. Which
    box, ``fit`` says:

    - ``crop``: the largest one with the input's aspect ratio. For a square input this is the classic "shortest side to
      ``height / crop``, centre crop to ``height``" without the intermediate picture. What lies at the ends of a wide
      photo is not seen.
    - ``squash``: the whole photo; its aspect ratio changes.
    - ``pad``: the smallest one with the input's aspect ratio that holds the whole photo; grey beside the photo.

    Attributes:
        height: rows of the model's input, in pixels.
        width: columns of the model's input, in pixels.
        crop: side of the box as a fraction of the one that ``fit`` names, in (0, 1]; 0.875 is 224 / 256.
        filter: resampling filter, a key of ``FILTERS``; antialiased, as Pillow does it.
        fit: one of ``FITS``.
    """

    height: int
    width: int
    crop: float
    filter: str
    fit: str = "crop"

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The part of a ``width`` x ``height`` picture that the model sees: left, upper, right, lower, in pixels.

        Where ``fit`` is ``pad`` it reaches beyond the picture.
        """
        choose = max if self.fit == "pad" else min
        box_height = choose(height, width * self.height / self.width) * self.crop
        box_width = box_height * self.width / self.height
        if self.fit == "squash":
            box_width, box_height = width * self.crop, height * self.crop
        left, upper = (width - box_width) / 2, (height - box_height) / 2
        return (left, upper, left + box_width, upper + box_height)

    def seen(self, width: int, height: int) -> tuple[tuple[float, float, float, float], tuple[int, int]]:
        """The part of ``box`` that lies in the picture, and the width and height that it gets in the input."""
        left, upper, right, lower = self.box(width, height)
        inside = (max(0.0, left), max(0.0, upper), min(float(width), right), min(float(height), lower))
        across, down = (inside[2] - inside[0]) / (right - left), (inside[3] - inside[1]) / (lower - upper)
        return inside, (max(1, round(self.width * across)), max(1, round(self.height * down)))

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


@dataclass(frozen=True, slots=True)
class Crop:
    """A part of an upright photo, as shares of its sides: 0 <= left < right <= 1, 0 <= upper < lower <= 1.

    It is taken as if it had been cut out, to the nearest pixel and at least one, and sent by itself.
    """

    left: float
    upper: float
    right: float
    lower: float

    def stored(self, orientation: int) -> "Crop":
        """The same part of the pixels as they are stored, if ``orientation`` (EXIF's) still has to be done to them."""
        edges = (self.left, self.upper, self.right, self.lower)
        if orientation in _SIDEWAYS:
            edges = (edges[1], edges[0], edges[3], edges[2])
        left, upper, right, lower = edges
        if orientation in _FROM_THE_RIGHT:
            left, right = 1 - right, 1 - left
        if orientation in _FROM_BELOW:
            upper, lower = 1 - lower, 1 - upper
        return Crop(left, upper, right, lower)

    def pixels(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Its edges in a picture of this size: left, upper, right, lower."""
        left, right = _nearest(self.left, self.right, width)
        upper, lower = _nearest(self.upper, self.lower, height)
        return left, upper, right, lower


WHOLE: Final = Crop(0.0, 0.0, 1.0, 1.0)
#: Corners of a part that is hidden: x and y as shares of the upright photo's sides.
Polygon = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class View:
    """What is looked at of a photo.

    Attributes:
        crop: this part of it.
        fit: one of ``FITS``, in place of the model's own; of another than its own the whole box is seen.
        masks: what is hidden of the upright photo: grey in the model's input, to the nearest of its pixels.
    """

    crop: Crop = WHOLE
    fit: str | None = None
    masks: tuple[Polygon, ...] = ()

    def rule(self, resize: Resize) -> Resize:
        """The resize rule for it, by the model's own."""
        return resize if self.fit is None or self.fit == resize.fit else replace(resize, fit=self.fit, crop=1.0)


ALL: Final = View()


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What a model is shown of a photo.

    Attributes:
        pixels: ``uint8 [H, W, 3]``, RGB, 0 to 255.
        shown: ``bool [H, W]``: which of them are the photo's, and neither padding nor masked; None: all.
    """

    pixels: NDArray[np.uint8]
    shown: NDArray[np.bool_] | None = None


def _nearest(begin: float, end: float, side: int) -> tuple[int, int]:
    first = min(round(begin * side), side - 1)
    return first, max(round(end * side), first + 1)


def load(data: bytes, resize: Resize, decode_budget: DecodeBudget, crop: Crop = WHOLE) -> NDArray[np.uint8]:
    """Decodes one photo into the model's input.

    EXIF orientation is honoured where it can be read, transparency is composited on white (an alpha channel that is 0
    everywhere is ignored), the first frame of an animation is taken. Grey levels of more than 8 bits are brought to 8
    by the depth that they use (8, 10, 12, 14 or 16 bits); where white has no fixed value (floating point, negative or
    more than 16 bits), by the darkest and the brightest. A JPEG that is much larger than needed is decoded at a reduced
    DCT scale. Bytes after a picture are ignored, and so are line ends, zeros or the headers of an MJPEG part before it.

    Args:
        data: an encoded image in one of ``FORMATS``.
        resize: the model's resize rule.
        decode_budget: how large it may be; compared with its header before anything is decoded.
        crop: the part that ``resize`` is applied to; nothing beside it is looked at.

    Returns:
        ``uint8 [resize.height, resize.width, 3]``, RGB, 0 to 255.

    Raises:
        NotAnImage: the bytes are none of the supported formats.
        BrokenImage: the bytes begin like an image, but are truncated, damaged, or of a kind that is not read.
        TooManyPixels: the header announces more than there is room for.
        TooComplex: it has more scans, chunks or other parts than a picture of its size needs.
    """
    return _decode(data, [(lambda _width, _height: resize, crop)], decode_budget)[1][0]


def load_parts(data: bytes, resize: Resize, decode_budget: DecodeBudget, views: Sequence[View]) -> list[Part]:
    """Decodes one photo once into an input of the model for each of ``views``; otherwise as ``load``.

    A JPEG is decoded at the scale that the view needs which needs most pixels. So the others may differ a little from
    what they would be alone.
    """
    rules = [view.rule(resize) for view in views]
    wanted = [(_always(rule), view.crop) for rule, view in zip(rules, views, strict=True)]
    (width, height), made = _decode(data, wanted, decode_budget)
    return [_part(*given, width, height) for given in zip(made, views, rules, strict=True)]


def _always(resize: Resize) -> "Rule":
    return lambda _width, _height: resize


def _part(pixels: NDArray[np.uint8], view: View, resize: Resize, width: int, height: int) -> Part:
    """Hides what is masked, and says what is seen, of an upright photo of this size in pixels."""
    if resize.fit != "pad" and not view.masks:
        return Part(pixels)
    left, upper, right, lower = view.crop.pixels(width, height)
    (x, y, x_end, y_end), (seen_width, seen_height) = resize.seen(right - left, lower - upper)
    first_x, first_y = (resize.width - seen_width) // 2, (resize.height - seen_height) // 2
    shown = np.zeros((resize.height, resize.width), np.bool_)
    shown[first_y : first_y + seen_height, first_x : first_x + seen_width] = True
    if view.masks:
        # 0.3 MB that most services never need.
        from PIL import ImageDraw

        hidden = Image.new("L", (resize.width, resize.height))
        draw = ImageDraw.Draw(hidden)
        across, down = seen_width / (x_end - x), seen_height / (y_end - y)
        for mask in view.masks:
            # Pillow takes whole numbers for the middle of a pixel.
            corners = [
                (
                    (share_x * width - left - x) * across + first_x - 0.5,
                    (share_y * height - upper - y) * down + first_y - 0.5,
                )
                for share_x, share_y in mask
            ]
            draw.polygon(corners, fill=1)
        masked = np.asarray(hidden) == 1
        pixels = np.where(masked[:, :, np.newaxis], np.array(_PADDING, np.uint8), pixels)
        shown &= ~masked
    return Part(pixels, shown)


def preview(data: bytes, longest: int, decode_budget: DecodeBudget, view: View = ALL) -> NDArray[np.uint8]:
    """Decodes one photo, or what is looked at of it, upright, for people to look at; otherwise as ``load``.

    Args:
        data: an encoded image in one of ``FORMATS``.
        longest: the most pixels on its longer side; a larger photo is scaled down.
        decode_budget: how large it may be before.
        view: of this its crop and its masks; the shape stays.

    Returns:
        ``uint8 [height, width, 3]``, RGB, 0 to 255.

    Raises:
        NotAnImage, BrokenImage, TooManyPixels, TooComplex: as ``load`` does.
    """

    def whole(width: int, height: int) -> Resize:
        scale = min(1.0, longest / max(width, height))
        return _Whole(max(1, round(height * scale)), max(1, round(width * scale)), 1.0, "bilinear")

    size, (pixels,) = _decode(data, [(whole, view.crop)], decode_budget)
    height, width, _ = pixels.shape
    return _part(pixels, view, _Whole(height, width, 1.0, "bilinear"), *size).pixels


def size(data: bytes) -> tuple[int, int]:
    """The upright width and height of a photo in pixels; only the header is read.

    Raises NotAnImage, BrokenImage or TooComplex, as ``load`` does.
    """
    return _open(data).upright


def crop_box(data: bytes, resize: Resize, crop: Crop = WHOLE) -> tuple[float, float, float, float]:
    """The part of a photo that the model sees: left, upper, right, lower, as fractions of the upright photo's sides.

    Outside of ``crop`` is the grey that it is padded with. Only the header is read. Raises NotAnImage, BrokenImage or
    TooComplex, as ``load`` does.
    """
    width, height = size(data)
    x, y, right, lower = crop.pixels(width, height)
    box = resize.box(right - x, lower - y)
    return ((x + box[0]) / width, (y + box[1]) / height, (x + box[2]) / width, (y + box[3]) / height)


@dataclass(frozen=True, slots=True)
class _Opened:
    """A picture whose header was read.

    Attributes:
        format: Pillow's name.
        mode: Pillow's, of its pixels.
        width, height: in pixels, as they are stored.
        source: not decoded yet.
        orientation: what is still to be done to its pixels, as EXIF numbers it.
    """

    format: str
    mode: str
    width: int
    height: int
    source: Jpeg | ImageFile.ImageFile
    orientation: int = 1

    @classmethod
    def of(cls, image: ImageFile.ImageFile, orientation: int = 1) -> "_Opened":
        """A picture that Pillow has opened."""
        return cls(str(image.format), image.mode, image.width, image.height, image, orientation)

    @property
    def upright(self) -> tuple[int, int]:
        """The width and height of the upright picture."""
        return (self.height, self.width) if self.orientation in _SIDEWAYS else (self.width, self.height)

    def rule(self, rule: Rule, crop: Crop) -> Resize:
        """The resize rule for the pixels as they are stored."""
        left, upper, right, lower = self.part(crop, self.width, self.height)
        if self.orientation in _SIDEWAYS:
            return rule(lower - upper, right - left).turned()
        return rule(right - left, lower - upper)

    def part(self, crop: Crop, width: int, height: int) -> tuple[int, int, int, int]:
        """Where a part of the upright photo lies in the pixels as they are stored, at this size of them."""
        return crop.stored(self.orientation).pixels(width, height)


def _decode(
    data: bytes, parts: Sequence[tuple[Rule, Crop]], decode_budget: DecodeBudget
) -> tuple[tuple[int, int], list[NDArray[np.uint8]]]:
    """The upright photo's width and height, and each part of it by its rule."""
    opened = _open(data)
    width, height, source = opened.width, opened.height, opened.source
    pixels = width * height
    # A picture in run lengths is unpacked in Python.
    most = decode_budget.pixels // containers.BMP_RLE_COST if _run_lengths(source) else decode_budget.pixels
    if pixels > most:
        raise TooManyPixels(
            f"The image has {width} x {height} = {pixels} pixels; at most {most} are decoded. Send a smaller picture."
        )
    if max(width, height) > _MAX_SIDE:
        raise TooManyPixels(
            f"The image has {width} x {height} pixels; neither side may have more than {_MAX_SIDE}. Send a part of it, "
            "or a smaller one."
        )
    if _run_lengths(source) and len(data) > pixels + 4 * height + _MAX_BMP_HEADER:
        raise TooComplex("The BMP image has more run lengths than pixels. Save it without compression.")
    scale = 1
    needed = pixels * _decoder_bytes(opened)
    if isinstance(source, Jpeg):
        if not source.one_scan and source.samples > _SCANNED * decode_budget.pixels:
            raise TooComplex(
                f"The JPEG image has {len(source.scans)} scans of up to {width} x {height} pixels, which takes more "
                "time than a photo at the limit. Save it as an ordinary JPEG, or smaller."
            )
        scale = min(_scale(opened, rule, crop) for rule, crop in parts)
    needed += -(-width // scale) * -(-height // scale) * _picture_bytes(opened)
    # One is cut out after the other.
    needed += max(_cut_pixels(opened, crop, -(-width // scale), -(-height // scale)) for _, crop in parts) * _CUT_BYTES
    try:
        with decode_budget.reserve(needed, f"this {width} x {height} {opened.format}"):
            if isinstance(source, Jpeg):
                picture = jpeg.decode(source, scale)
                return opened.upright, [_fitted(picture, opened, rule, crop) for rule, crop in parts]
            # All of it is in memory: one call of the decoder instead of one for each 64 KiB.
            source.decodermaxblock = len(data)
            source.load()
            # Only now is the size known of what Pillow turns by itself.
            turned = replace(opened, width=source.width, height=source.height)
            picture = _without_empty_alpha(_eight_bit(source))
            return turned.upright, [_fitted(picture, turned, rule, crop) for rule, crop in parts]
    except RequestError:
        raise
    except Exception as error:
        # Pillow's decoders answer damaged files with whatever their arithmetic runs into: OSError, SyntaxError,
        # ValueError, struct.error, IndexError, zlib.error, ...; all of them mean the same to the sender.
        raise BrokenImage(
            f"The {opened.format} image is truncated or damaged ({_one_line(error)}). Send the complete file."
        ) from error


def _cut_pixels(opened: _Opened, crop: Crop, width: int, height: int) -> int:
    """Pixels of a part that is cut out of a picture decoded to this size; 0 of the whole, which is not cut."""
    if crop == WHOLE:
        return 0
    left, upper, right, lower = opened.part(crop, width, height)
    return (right - left) * (lower - upper)


def _fitted(picture: Image.Image, opened: _Opened, rule: Rule, crop: Crop) -> NDArray[np.uint8]:
    """Decoded pixels as the model's input."""
    resize = opened.rule(rule, crop)
    if crop != WHOLE:
        # The filter reaches beyond the box that it is given; what is cut away it does not see.
        picture = picture.crop(opened.part(crop, picture.width, picture.height))
    box, (width, height) = resize.seen(picture.width, picture.height)
    picture = picture.resize((width, height), FILTERS[resize.filter], box=box, reducing_gap=2.0)
    picture = _rgb_on_white(picture)
    if opened.orientation in _UPRIGHT:
        picture = picture.transpose(_UPRIGHT[opened.orientation])
    if (width, height) != (resize.width, resize.height):
        upright = resize.turned() if opened.orientation in _SIDEWAYS else resize
        padded = Image.new("RGB", (upright.width, upright.height), _PADDING)
        padded.paste(picture, ((upright.width - picture.width) // 2, (upright.height - picture.height) // 2))
        picture = padded
    return np.asarray(picture)


@functools.cache
def _register_heif() -> None:
    """Teaches Pillow HEIF; at the first such photo, because it costs 20 ms and 4 MB, and most services see none."""
    import pillow_heif

    # One thread, because the other workers have photos of their own; only the picture itself.
    pillow_heif.register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)


def _open(data: bytes) -> _Opened:
    """Reads the header."""
    name, data = formats.recognise(data, FORMATS)
    try:
        match name:
            case "JPEG":
                found = jpeg.parse(data)
                orientation = _orientation(found.exif, found.xmp)
                return _Opened("JPEG", found.mode, found.width, found.height, found, orientation)
            case "PNG":
                return _open_png(data)
            case "GIF":
                containers.check_gif(data)
            case "TIFF":
                containers.check_tiff(data)
            case "AVIF" | "HEIF":
                data = containers.check_heif(data, name)
        if name == "HEIF":
            _register_heif()
            # libheif turns the pixels.
            return _Opened.of(Image.open(io.BytesIO(data), formats=("HEIF",)))
        image = _PLUGINS[name](io.BytesIO(data))
        # Pillow turns a TIFF by itself, its size now and its pixels when it loads them.
        if name == "TIFF":
            return _Opened.of(image)
        return _Opened.of(image, _orientation(image.info.get("exif", b""), image.info.get("xmp", b"")))
    except RequestError:
        raise
    except UnidentifiedImageError as error:
        raise BrokenImage(f"The {name} image's header is truncated or damaged. Send the complete file.") from error
    except Exception as error:
        raise BrokenImage(
            f"The {name} image's header is truncated or damaged, or of a kind that is not read ({_one_line(error)}). "
            "Send the complete file, as JPEG or as PNG of 8 or 16 bits a channel."
        ) from error


def _open_png(data: bytes) -> _Opened:
    found = png.parse(data)
    image = PngImagePlugin.PngImageFile(io.BytesIO(found.data))
    clear = image.info.get("transparency")
    # Pillow brings samples to 8 bits, but not the colour that stands for transparency.
    if image.mode == "L" and isinstance(clear, int):
        image.info["transparency"] = clear * 255 // (2**found.depth - 1)
    elif image.mode == "RGB" and found.depth == 16 and clear:
        image.info["transparency"] = tuple(level >> 8 for level in clear)
    return _Opened.of(image, _orientation(found.exif, found.xmp))


def _orientation(exif: bytes, xmp: bytes) -> int:
    """The orientation that metadata name; 1 (none) where they are absent or unreadable: they are not the picture.

    Pillow's own reader goes through all of an EXIF block, and warns or raises where any of it is wrong.
    """
    found = _exif_orientation(exif.removeprefix(b"Exif\0\0"))
    if found is None and (match := _XMP_ORIENTATION.search(xmp, 0, _MAX_METADATA)):
        found = int(match[1])
    return found if found in _UPRIGHT else 1


def _exif_orientation(exif: bytes) -> int | None:
    """The orientation in the first directory of an EXIF block (TIFF 6.0, section 2), if it is one whole number."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if not order:
        return None
    with contextlib.suppress(struct.error):
        (at,) = struct.unpack_from(order + "L", exif, 4)
        (entries,) = struct.unpack_from(order + "H", exif, at)
        for number in range(min(entries, _MAX_TAGS)):
            tag, kind, count = struct.unpack_from(order + "HHL", exif, at + 2 + 12 * number)
            if tag == _EXIF_ORIENTATION:
                # BYTE, SHORT and LONG; it stands at the left of the four bytes for it.
                form = {1: "B", 3: "H", 4: "L"}.get(kind)
                value = struct.unpack_from(order + form, exif, at + 10 + 12 * number)[0] if form and count == 1 else 1
                return int(value)
    return None


def _run_lengths(source: Jpeg | ImageFile.ImageFile) -> bool:
    return isinstance(source, BmpImagePlugin.BmpImageFile) and source.tile[0].codec_name == "bmp_rle"


def _scale(opened: _Opened, rule: Rule, crop: Crop) -> int:
    """How many times smaller a JPEG may be decoded, if its box then still has the pixels that the input needs."""
    resize = opened.rule(rule, crop)
    left, upper, right, lower = opened.part(crop, opened.width, opened.height)
    box, (width, height) = resize.seen(right - left, lower - upper)
    scale = min((box[2] - box[0]) / width, (box[3] - box[1]) / height)
    return next((by for by in (8, 4, 2) if scale >= by), 1)


def _decoder_bytes(opened: _Opened) -> int:
    """The most memory that the format's decoder takes beside its result, for each pixel in the file.

    Measured with Pillow 13.0; ``tests/inference/test_decode_budget.py`` measures it again.
    """
    if isinstance(opened.source, Jpeg):
        # A pixel's coefficients of all components, 16 bits each, are kept until the last scan has come.
        return 0 if opened.source.one_scan else 2 * len(opened.mode)
    return {"WEBP": 14, "AVIF": 8, "HEIF": 8, "TIFF": 8, "BMP": 4}.get(opened.format, 0)


def _picture_bytes(opened: _Opened) -> int:
    """The most memory that a pixel takes from the decoder's result to a resized picture; measured likewise."""
    if opened.mode in ("RGB", "L"):
        return 12 if "transparency" in getattr(opened.source, "info", ()) else 4
    return 8


def _eight_bit(image: ImageFile.ImageFile) -> Image.Image:
    """A picture whose pixels can be averaged: 8 bits a channel, no palette."""
    clear = image.info.get("transparency")
    match image.mode:
        case "RGB" | "L" | "RGBA" | "LA" | "CMYK":
            # A colour that is declared transparent becomes an alpha channel before neighbours are mixed.
            return image.convert("RGBA") if clear is not None and image.mode in ("RGB", "L") else image
        case "P" | "PA":
            return image.convert("RGBA" if image.has_transparency_data else "RGB")
        case "1":
            return image.convert("L" if clear is None else "RGBA")
        case "La":
            return image.convert("LA")
        case "I" | "F" | "I;16" | "I;16B" | "I;16L" | "I;16N":
            return _grey(image)
        case _:
            return image.convert("RGB")


def _grey(image: ImageFile.ImageFile) -> Image.Image:
    """A greyscale picture of more than 8 bits at 8 bits, with an alpha channel if one of its levels is transparent."""
    if image.mode == "F" or not _unsigned(image):
        grey = _stretched(image)
    else:
        # Pillow would clip at 255.
        levels: NDArray[Any] = np.asarray(image)
        high = levels.max()
        grey = Image.fromarray((levels >> (next(depth for depth in _DEPTHS if high < 1 << depth) - 8)).astype(np.uint8))
    # Pillow does not read which end is white.
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_TIFF_WHITE, 1) == 0:
        grey = grey.point([255 - level for level in range(256)])
    clear = image.info.get("transparency")
    if not isinstance(clear, int):
        return grey
    return Image.merge("LA", (grey, Image.fromarray((np.asarray(image) != clear) * np.uint8(255))))


def _unsigned(image: Image.Image) -> bool:
    """Whether all levels of a greyscale picture fit into 16 bits."""
    if image.mode != "I":
        return True
    low, high = image.im.getextrema()
    return bool(low >= 0 and high <= 0xFFFF)


def _stretched(image: Image.Image) -> Image.Image:
    """A greyscale picture whose darkest level becomes 0 and whose brightest 255, all but 1 % of its pixels told by."""
    # A few of them tell the range; a hot pixel, or a value for what was not measured, must not.
    step = max(1, int((image.width * image.height / 250_000) ** 0.5))
    sample: NDArray[Any] = np.asarray(image)[::step, ::step].astype(np.float64)
    sample = sample[np.isfinite(sample) & (np.abs(sample) < 1e30)]
    if not sample.size:
        raise BrokenImage("The image's floating-point values are no numbers. Send 8 or 16 bits a channel.")
    low, high = np.percentile(sample, (0.5, 99.5))
    if low == high:
        low, high = sample.min(), sample.max()
    scale = float(255 / (high - low)) if high > low else 0.0
    return image.convert("F").point(lambda level: level * scale - float(low) * scale).convert("L")


def _without_empty_alpha(picture: Image.Image) -> Image.Image:
    """Without an alpha channel that is 0 everywhere: it was never filled in, and what it hides is all that there is."""
    if picture.mode in ("RGBA", "LA") and picture.getchannel("A").getextrema() == (0, 0):
        return picture.convert("RGB")
    return picture


def _rgb_on_white(picture: Image.Image) -> Image.Image:
    if picture.mode in ("RGBA", "LA"):
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
