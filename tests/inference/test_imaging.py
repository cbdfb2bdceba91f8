import resource
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.errors import BrokenImage, NotAnImage, TooComplex, TooManyPixels
from app.inference import imaging
from app.inference.decode_budget import DecodeBudget
from app.inference.imaging import Crop, Resize, load
from tests.conftest import ROOT
from tests.photos import CORNERS, close, corners, encode, heic, png_bomb, quarters

RULE = Resize(height=96, width=96, crop=0.875, filter="bilinear")
LIMIT = DecodeBudget(50_000_000)


def pixels(data, rule=RULE):
    found = load(data, rule, LIMIT)
    assert found.dtype == np.uint8
    assert found.shape == (rule.height, rule.width, 3)
    return found


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"subsampling": 2}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {}),
        ("AVIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("GIF", {}),
        ("MPO", {"save_all": True}),
    ],
)
def test_every_format(kind, options):
    assert close(corners(pixels(encode(quarters(), kind, **options))), CORNERS)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "RGBA", "LA", "YCbCr", "LAB"])
def test_every_mode(mode):
    kind = "JPEG" if mode in ("CMYK", "YCbCr") else "TIFF"
    picture = quarters()
    if mode == "LAB":
        from PIL import ImageCms

        lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        picture = ImageCms.applyTransform(picture, lab)
        assert pixels(encode(picture, kind)).max() > 0
        return
    expected = CORNERS
    if mode in ("L", "LA"):
        expected = corners(np.asarray(picture.convert("L").convert("RGB")))
    converted = picture.convert(mode)
    if mode == "1":
        expected = corners(np.asarray(converted.convert("RGB")))
        assert close(corners(pixels(encode(converted, kind))), expected, 30)
        return
    assert close(corners(pixels(encode(converted, kind))), expected, 20)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_composited_on_white(kind):
    picture = quarters().convert("RGBA")
    options = {"lossless": True} if kind == "WEBP" else {}
    left = picture.copy()
    left.paste((0, 0, 0, 0), (160, 0, 320, 240))
    white = [CORNERS[0], (255, 255, 255), CORNERS[2], (255, 255, 255)]
    assert close(corners(pixels(encode(left, kind, **options))), white)
    picture.putalpha(128)
    half = [tuple((v + 255) // 2 for v in colour) for colour in CORNERS]
    assert close(corners(pixels(encode(picture, kind, **options))), half)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF", "HEIC", "BMP"])
def test_an_alpha_channel_that_is_0_everywhere_is_ignored(kind):
    picture = quarters().convert("RGBA")
    picture.putalpha(0)
    match kind:
        case "WEBP":
            data = encode(picture, kind, lossless=True, exact=True)
        case "HEIC":
            data = heic(picture)
        case "BMP":
            data = bitmap_with_alpha(picture)
        case _:
            data = encode(picture, kind)
    assert close(corners(pixels(data)), CORNERS)


def bitmap_with_alpha(picture) -> bytes:
    """A BITMAPV4HEADER names an alpha mask, as what copies a screen writes it."""
    width, height = picture.size
    rows = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM).tobytes("raw", "BGRA")
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, len(rows), 0, 0, 0, 0) + masks + bytes(52)
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(rows), 0, 0, 14 + len(head)) + head + rows


def test_a_bitmap_with_an_alpha_channel():
    picture = quarters().convert("RGBA")
    assert close(corners(pixels(bitmap_with_alpha(picture))), CORNERS)
    picture.paste((9, 9, 9, 0), (0, 0, 160, 120))
    assert close(corners(pixels(bitmap_with_alpha(picture))), [(255, 255, 255), *CORNERS[1:]])


def test_transparent_palette_and_colour_key():
    palette = Image.new("P", (64, 64), 1)
    palette.putpalette([0, 0, 0, 200, 10, 10])
    palette.paste(0, (32, 0, 64, 64))
    half = [(255, 255, 255), (0, 0, 0), (255, 255, 255), (0, 0, 0)]
    for kind in ("PNG", "GIF"):
        assert close(corners(pixels(encode(palette, kind, transparency=1))), half)
    colour = Image.new("RGB", (64, 64), (9, 9, 9))
    colour.paste((0, 0, 0), (32, 0, 64, 64))
    assert close(corners(pixels(encode(colour, "PNG", transparency=(9, 9, 9)))), half)


def keyed_png(depth, colour, clear, other) -> bytes:
    """64 x 64, left half of the sample that tRNS names, right half of another."""
    samples = [clear] * 32 + [other] * 32
    if colour == 2:
        row = b"".join(struct.pack(">HHH", *sample) for sample in samples)
        key = struct.pack(">HHH", *clear)
    else:
        bits = "".join(f"{sample:0{depth}b}" for sample in samples)
        row = int(bits, 2).to_bytes(len(bits) // 8)
        key = struct.pack(">H", clear)

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, depth, colour, 0, 0, 0)) + chunk(b"tRNS", key)
    body = chunk(b"IDAT", zlib.compress((b"\0" + row) * 64))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("depth", "colour", "clear", "other", "level"),
    [
        (1, 0, 0, 1, 255),
        (1, 0, 1, 0, 0),
        (2, 0, 1, 2, 170),
        (4, 0, 3, 12, 204),
        (8, 0, 200, 100, 100),
        (16, 0, 0, 40_000, 156),
        (16, 0, 65_535, 40_000, 156),
        (16, 2, (513, 0, 0), (40_000, 40_000, 40_000), 156),
    ],
)
def test_a_transparent_sample_of_every_depth(depth, colour, clear, other, level):
    found = corners(pixels(keyed_png(depth, colour, clear, other)))
    assert close(found, [(255,) * 3, (level,) * 3] * 2, 3)


GREY = np.asarray(quarters().convert("L")).astype(np.float64)


def stretched(levels):
    return (levels - levels.min()) / (levels.max() - levels.min()) * 255


def tiff(levels, white=1, order="<") -> bytes:
    """An uncompressed greyscale TIFF of any NumPy type."""
    data = levels.astype(levels.dtype.newbyteorder(order)).tobytes()
    kind = {"u": 1, "i": 2, "f": 3}[levels.dtype.kind]
    height, width = levels.shape
    tags = {256: width, 257: height, 258: levels.itemsize * 8, 259: 1, 262: white, 273: 200, 277: 1, 278: height}
    tags |= {279: len(data), 339: kind}
    entries = b"".join(struct.pack(order + "HHLL", tag, 4, 1, value) for tag, value in tags.items())
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HLH", 42, 8, len(tags)) + entries
    return head.ljust(200, b"\0") + data


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        (GREY.astype(np.uint8), GREY),
        ((GREY * 257).astype(np.uint16), GREY),
        # As sensors write them: the lowest bits of a wider word.
        ((GREY * 4).astype(np.uint16), GREY),
        ((GREY * 16).astype(np.uint16), GREY),
        ((GREY * 64).astype(np.uint16), GREY),
        (GREY.astype(np.uint16), GREY),
        ((GREY * 257).astype(np.int32), GREY),
        ((GREY * 64).astype(np.int16), GREY),
        ((GREY * 257 - 32_768).astype(np.int16), stretched(GREY)),
        ((GREY * 1e6).astype(np.int32), stretched(GREY)),
        ((GREY * -1e6).astype(np.int32), 255 - stretched(GREY)),
        ((GREY / 255).astype(np.float32), stretched(GREY)),
        (GREY.astype(np.float32), stretched(GREY)),
        ((GREY / 10 + 15).astype(np.float32), stretched(GREY)),
        ((GREY - 300).astype(np.float32), stretched(GREY)),
        ((GREY * 1e20).astype(np.float32), stretched(GREY)),
    ],
)
def test_grey_levels_of_every_kind_are_scaled(levels, expected):
    found = pixels(tiff(levels), WHOLE)
    wanted = corners(np.repeat(expected[:, :, np.newaxis], 3, 2))
    assert close(corners(found), wanted, 4)
    assert close(corners(pixels(tiff(levels, order=">"), WHOLE)), wanted, 4)


WHOLE = Resize(height=96, width=96, crop=1.0, filter="bilinear")


def test_a_hot_pixel_and_what_was_not_measured_do_not_tell_the_range():
    levels = (GREY / 255).astype(np.float32)
    levels[5, 5], levels[5, 9], levels[9, 5], levels[9, 9] = 1e6, np.nan, np.inf, -3.4e38
    wanted = corners(np.repeat(stretched(GREY)[:, :, np.newaxis], 3, 2))
    assert close(corners(pixels(tiff(levels), WHOLE)), wanted, 12)


def test_values_that_are_no_numbers():
    with pytest.raises(BrokenImage, match="8 or 16 bits"):
        pixels(tiff(np.full((40, 40), np.nan, np.float32)))
    assert np.ptp(pixels(tiff(np.full((40, 40), 0.3, np.float32)))) == 0


@pytest.mark.parametrize("levels", [(GREY * 257).astype(np.uint16), GREY.astype(np.uint8)])
def test_zero_is_white(levels):
    wanted = corners(np.repeat(255 - GREY[:, :, np.newaxis], 3, 2))
    assert close(corners(pixels(tiff(levels, white=0), WHOLE)), wanted, 4)


def test_a_kind_that_is_not_read_says_so():
    with pytest.raises(BrokenImage, match=r"kind that is not read .*8 or 16 bits"):
        pixels(tiff(GREY.astype(np.float64)))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_greyscale_keeps_its_upper_bits(kind):
    levels = np.full((64, 64), 40_000, np.uint16)
    assert (pixels(encode(Image.fromarray(levels), kind)) == 40_000 >> 8).all()


def test_first_frame_of_an_animation():
    first, second = Image.new("RGB", (64, 64), (200, 0, 0)), Image.new("RGB", (64, 64), (0, 200, 0))
    for kind, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})):
        data = encode(first, kind, save_all=True, append_images=[second], **options)
        assert close(corners(pixels(data)), [(200, 0, 0)] * 4), kind


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_undone(orientation, kind):
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = quarters() if orientation == 1 else quarters().transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(stored, kind, exif=exif)
    for rule in (RULE, Resize(height=48, width=96, crop=1.0, filter="bicubic")):
        assert close(corners(pixels(data, rule)), CORNERS)


def tag(kind, count, value) -> bytes:
    """An EXIF block whose orientation is written so."""
    return b"Exif\0\0II*\0\x08\0\0\0\1\0" + struct.pack("<HHI", 0x112, kind, count) + value.ljust(4, b"\0") + bytes(16)


@pytest.mark.parametrize(
    ("exif", "turned"),
    [
        (tag(3, 1, b"\3"), True),
        (tag(4, 1, b"\3"), True),
        (tag(1, 1, b"\3"), True),
        (tag(3, 1, b"\3") + bytes(60_000), True),
        (tag(3, 1, b"\0"), False),
        (tag(3, 1, b"\x09"), False),
        (tag(4, 1, b"\3\0\1\0"), False),
        # Whatever is not one whole number is ignored, as browsers do.
        (tag(3, 2, b"\3\0\3\0"), False),
        (tag(2, 2, b"3"), False),
        (tag(7, 1, b"\3"), False),
        (tag(5, 1, b"\x1a\0\0\0"), False),
        (tag(9, 1, b"\3"), False),
        (tag(99, 1, b"\3"), False),
        (tag(3, 0, b"\3"), False),
        (b"Exif\0\0", False),
        (b"Exif\0\0II", False),
        (b"Exif\0\0II*\0\xff\xff\xff\xff", False),
        (b"Exif\0\0II*\0\x08\0\0\0\xff\xff", False),
        (b"Exif\0\0XX*\0\x08\0\0\0\1\0", False),
        (b"Exif\0\0" + bytes(100), False),
        (b"Exif\0\0" + b"\xff" * 1000, False),
        (tag(3, 1, b"\3")[:20], False),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "JPEG without density", "PNG", "WEBP", "MPO"])
def test_only_a_readable_orientation_turns(kind, exif, turned):
    stored = quarters().transpose(Image.Transpose.ROTATE_180) if turned else quarters()
    options = {"exif": exif}
    if kind == "MPO":
        options |= {"save_all": True, "append_images": [quarters()]}
    if kind == "JPEG":
        options["dpi"] = (72, 72)
    assert close(corners(pixels(encode(stored, kind.split()[0], **options))), CORNERS)


def test_xmp_says_the_orientation_where_exif_does_not():
    stored = quarters().transpose(Image.Transpose.ROTATE_180)
    for xmp in (b'<x tiff:Orientation="3"/>', b"<tiff:Orientation>3</tiff:Orientation>"):
        for kind in ("JPEG", "WEBP"):
            assert close(corners(pixels(encode(stored, kind, xmp=xmp))), CORNERS)
            assert not close(corners(pixels(encode(stored, kind, xmp=xmp, exif=tag(3, 1, b"\1")))), CORNERS)


def test_avif_is_decoded_with_one_thread(monkeypatch):
    from PIL import AvifImagePlugin

    threads, decoder = [], AvifImagePlugin._avif.AvifDecoder
    monkeypatch.setattr(
        AvifImagePlugin, "_avif", SimpleNamespace(AvifDecoder=lambda *a: threads.append(a[2]) or decoder(*a))
    )
    pixels(AVIF)
    assert threads == [1]


AVIF = encode(quarters(), "AVIF")


def test_reduced_decoding_looks_the_same():
    random = np.random.default_rng(0)
    small = Image.fromarray(random.integers(0, 256, (30, 40, 3), np.uint8))
    large = small.resize((2400, 1800), Image.Resampling.BICUBIC)
    whole = pixels(encode(large, "PNG")).astype(int)
    reduced = pixels(encode(large, "JPEG", quality=95)).astype(int)
    assert np.abs(whole - reduced).mean() < 2


def test_the_box_is_centred_and_has_the_models_aspect():
    assert Resize(224, 224, 0.875, "bilinear").box(500, 375) == (85.9375, 23.4375, 414.0625, 351.5625)
    assert Resize(100, 200, 1.0, "bilinear").box(300, 300) == (0, 75, 300, 225)


@pytest.mark.parametrize(
    ("fit", "box", "inside", "size"),
    [
        ("crop", (50, 0, 150, 100), (50, 0, 150, 100), (64, 64)),
        ("squash", (0, 0, 200, 100), (0, 0, 200, 100), (64, 64)),
        ("pad", (0, -50, 200, 150), (0, 0, 200, 100), (64, 32)),
    ],
)
def test_what_is_seen_of_a_wide_photo(fit, box, inside, size):
    rule = Resize(64, 64, 1.0, "bilinear", fit)
    assert rule.box(200, 100) == box
    assert rule.seen(200, 100) == (inside, size)
    half = replace(rule, crop=0.5).box(200, 100)
    assert (half[2] - half[0], half[3] - half[1]) == ((box[2] - box[0]) / 2, (box[3] - box[1]) / 2)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_whole_of_a_wide_photo(kind, orientation):
    """Red at its left end, blue at its right, which a crop does not see; stored as a turned camera does."""
    upright = Image.new("RGB", (240, 80), (0, 200, 0))
    upright.paste((250, 0, 0), (0, 0, 40, 80))
    upright.paste((0, 0, 250), (200, 0, 240, 80))
    undo = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)
    stored = upright.transpose(imaging._UPRIGHT[undo]) if undo > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(stored, kind, exif=exif)
    green, red, blue, grey = (0, 200, 0), (250, 0, 0), (0, 0, 250), (128, 128, 128)

    def row(fit, *places):
        found = pixels(data, Resize(96, 96, 1.0, "bilinear", fit))
        return [tuple(found[y, x].astype(int)) for y, x in places]

    middle = [(48, 4), (48, 48), (48, 92)]
    assert close(row("crop", *middle), [green] * 3)
    assert close(row("squash", *middle, (4, 4), (92, 92)), [red, green, blue, red, blue])
    assert close(row("pad", *middle, (36, 4), (60, 92), (28, 48), (68, 48)), [red, green, blue, red, blue, grey, grey])


@pytest.mark.parametrize("fit", imaging.FITS)
@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (7, 5)])
def test_odd_sizes_of_every_fit(size, fit):
    data = encode(Image.new("RGBA", size, (10, 200, 30, 255)), "PNG")
    found = pixels(data, Resize(32, 48, 1.0, "bilinear", fit))
    shown = np.abs(found.astype(int) - (10, 200, 30)).max(axis=-1) < 5
    # The middle is the photo; only a padded one has grey beside it.
    assert shown[15:17, 23:25].any()
    assert shown.all() or (fit == "pad" and (found[~shown] == 128).all())


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (7, 5)])
def test_odd_sizes(size):
    assert close(corners(pixels(encode(Image.new("RGB", size, (10, 200, 30)), "PNG"))), [(10, 200, 30)] * 4)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
@pytest.mark.parametrize("size", [(65_536, 1), (1, 65_536)])
def test_a_side_that_no_jpeg_has(kind, size):
    """Pillow's pointer for each row is twice the memory that is counted for its pixels."""
    with pytest.raises(TooManyPixels, match="neither side may have more than 65535"):
        load(encode(Image.new("RGB", size), kind), RULE, LIMIT)
    longest = tuple(min(side, 65_535) for side in size)
    assert not load(encode(Image.new("RGB", longest), kind), RULE, LIMIT).any()


def test_a_bomb_costs_nothing():
    bomb = png_bomb()
    assert len(bomb) < 150_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TooManyPixels, match="30000 x 30000"):
        load(bomb, RULE, LIMIT)
    # Decoded, it would take 900 MB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF"])
def test_truncated(kind):
    data = encode(quarters(), kind)
    with pytest.raises(BrokenImage):
        load(data[: len(data) * 9 // 10], RULE, LIMIT)


@pytest.mark.parametrize("data", [b"", b"hello", b"<svg/>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x00" * 100])
def test_not_an_image(data):
    with pytest.raises(NotAnImage):
        load(data, RULE, LIMIT)


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_pixels_or_a_documented_error(data):
    try:
        pixels(data)
    except (NotAnImage, BrokenImage, TooManyPixels, TooComplex):
        pass


SEEDS = {kind: encode(quarters(40, 30), kind) for kind in ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")}


@given(
    st.sampled_from(sorted(SEEDS)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    st.floats(0, 1),
)
@settings(max_examples=600, deadline=None)
def test_any_damage_gives_pixels_or_a_documented_error(kind, flips, cut):
    data = bytearray(SEEDS[kind])
    for place, value in flips:
        data[int(place * len(data))] = value
    try:
        load(bytes(data[: max(1, int(cut * len(data)))] if cut < 0.5 else data), RULE, DecodeBudget(1_000_000))
    except (NotAnImage, BrokenImage, TooManyPixels, TooComplex):
        pass


def test_the_rule_can_be_turned():
    assert replace(RULE, height=10).turned() == replace(RULE, width=10)


def turned_heic(orientation) -> bytes:
    """Stored lying, with EXIF; pillow-heif writes the turn as HEIF's own 'irot' and 'imir' properties, as phones do."""
    undo = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    stored = quarters() if undo[orientation] is None else quarters().transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    return heic(stored, exif=exif.tobytes())


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_heic_stands_upright(orientation):
    for rule in (RULE, Resize(height=48, width=96, crop=1.0, filter="bicubic")):
        assert close(corners(pixels(turned_heic(orientation), rule)), CORNERS)


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_heic_modes(mode):
    picture = quarters().convert(mode)
    if mode == "RGBA":
        picture.putalpha(0)
        picture.paste((0, 0, 0, 255), (0, 0, 10, 10))
        assert pixels(heic(picture)).min() > 250
    else:
        assert close(corners(pixels(heic(picture))), corners(np.asarray(picture.convert("RGB"))))


def test_a_large_heic_is_refused_by_its_header():
    with pytest.raises(TooManyPixels, match="320 x 240"):
        load(heic(quarters()), RULE, DecodeBudget(320 * 240 - 1))


def test_a_heic_that_lies_about_its_size_is_not_decoded():
    # ISO/IEC 23008-12, 6.5.3: 'ispe', version and flags, width, height.
    data = bytearray(heic(quarters(4000, 3000)))
    at = data.index(b"ispe") + 8
    data[at : at + 8] = struct.pack(">II", 10, 10)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BrokenImage, match="exceeds"):
        load(bytes(data), RULE, DecodeBudget(1000))
    # Decoded, it would take 18 MB in the decoder and 36 MB as RGB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_truncated_heic(share):
    data = heic(quarters())
    with pytest.raises(BrokenImage):
        load(data[: int(len(data) * share)], RULE, LIMIT)


@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8), st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_any_damaged_heic_gives_pixels_or_a_documented_error(flips, cut):
    data = bytearray(HEIC)
    for place, value in flips:
        data[int(place * len(data))] = value
    try:
        load(bytes(data[: max(1, int(cut * len(data)))] if cut < 0.5 else data), RULE, DecodeBudget(1_000_000))
    except (NotAnImage, BrokenImage, TooManyPixels, TooComplex):
        pass


HEIC = heic(quarters(64, 48))


def test_an_avif_is_not_taken_for_a_heic():
    assert "HEIF" in imaging.FORMATS
    assert close(corners(pixels(encode(quarters(), "AVIF"))), CORNERS)


# In a process of their own: whether the extra is there, and whether it has been loaded, is decided once.
WITHOUT = """
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "pillow_heif" else found(name, package)
from app.inference import imaging
from app.errors import NotAnImage
from app.inference.decode_budget import DecodeBudget
assert "HEIF" not in imaging.FORMATS
try:
    imaging.load(sys.stdin.buffer.read(), imaging.Resize(32, 32, 1.0, "bilinear"), DecodeBudget(10**6))
except NotAnImage as error:
    print(error)
"""
LAZY = """
import sys
from app.inference import imaging
from app.inference.decode_budget import DecodeBudget
rule = imaging.Resize(32, 32, 1.0, "bilinear")
assert "pillow_heif" not in sys.modules
imaging.load(sys.stdin.buffer.read(), rule, DecodeBudget(10**6))
assert "pillow_heif" in sys.modules
print("lazy")
"""


def run(program, data) -> str:
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, input=data, capture_output=True, check=True)
    return ended.stdout.decode()


def test_without_the_extra_a_heic_is_told_what_is_missing():
    assert "extra 'heic'" in run(WITHOUT, HEIC)


def test_the_extra_is_loaded_by_the_first_heic_only():
    assert run(LAZY, HEIC).strip() == "lazy"


#: Some parts of a picture of 320 x 240 that begin and end with whole pixels.
PARTS = [(0, 0, 160, 120), (160, 120, 320, 240), (40, 24, 41, 25), (8, 16, 312, 40), (240, 0, 320, 240)]


def shares(part, width=320, height=240) -> Crop:
    return Crop(part[0] / width, part[1] / height, part[2] / width, part[3] / height)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("fit", imaging.FITS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_crop_is_as_if_it_had_been_cut_out_and_sent(part, fit, orientation):
    """Bit for bit: nothing beside it is looked at, not even by the filter."""
    rule = replace(RULE, fit=fit)
    upright = Image.fromarray(np.random.default_rng(3).integers(0, 256, (240, 320, 3), np.uint8))
    back = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    turn = back.get(orientation, imaging._UPRIGHT.get(orientation))

    def stored(picture):
        exif = Image.Exif()
        exif[0x0112] = orientation
        return encode(picture.transpose(turn) if turn is not None else picture, "PNG", exif=exif)

    found = load(stored(upright), rule, LIMIT, shares(part))
    assert (found == pixels(stored(upright.crop(part)), rule)).all()
    assert found.shape == (96, 96, 3)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF", "GIF"])
def test_a_crop_of_a_large_picture_shows_its_corner(kind):
    photo = encode(quarters(1600, 1200), kind)
    whole = load(photo, RULE, LIMIT)
    for corner, (x, y) in zip(CORNERS, [(0, 0), (0.5, 0), (0, 0.5), (0.5, 0.5)], strict=True):
        found = load(photo, RULE, LIMIT, Crop(x + 0.02, y + 0.02, x + 0.48, y + 0.48))
        assert close(found.reshape(-1, 3), [corner] * 96 * 96, 14)
    assert (load(photo, RULE, LIMIT, imaging.WHOLE) == whole).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (7, 3)])
@pytest.mark.parametrize(
    "crop", [Crop(0.0, 0.0, 1e-9, 1e-9), Crop(1 - 1e-9, 1 - 1e-9, 1.0, 1.0), Crop(0.3, 0, 0.31, 1)]
)
def test_a_crop_has_at_least_a_pixel(size, crop):
    for kind in ("PNG", "JPEG"):
        assert load(encode(Image.new("RGB", size, (200, 10, 10)), kind), RULE, LIMIT, crop).shape == (96, 96, 3)
    left, upper, right, lower = crop.pixels(*size)
    assert 0 <= left < right <= size[0]
    assert 0 <= upper < lower <= size[1]


def test_a_small_crop_of_a_large_jpeg_is_decoded_at_the_size_that_it_needs():
    """Not at the reduced one that is enough for the whole."""
    fine = np.indices((1600, 1600)).sum(axis=0) % 2 * 255
    photo = encode(Image.fromarray(fine.astype(np.uint8)), "PNG")
    jpeg = encode(Image.fromarray(fine.astype(np.uint8)), "JPEG", quality=98)
    crop = Crop(0.5, 0.5, 0.56, 0.56)
    assert load(jpeg, RULE, LIMIT).std() < 20
    assert load(jpeg, replace(RULE, crop=1.0), LIMIT, crop).std() > 100
    assert load(photo, replace(RULE, crop=1.0), LIMIT, crop).std() > 100


def test_the_copy_of_a_crop_counts_as_memory():
    budget = DecodeBudget(50_000_000)
    budget.memory = 4 * 320 * 240
    photo = encode(quarters(), "PNG")
    load(photo, RULE, budget)
    with pytest.raises(TooManyPixels):
        load(photo, RULE, budget, Crop(0, 0, 1, 0.9))
