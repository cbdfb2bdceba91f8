"""JPEG files: what is whole is decoded whatever surrounds it, what is damaged inside is refused, work is bounded."""

import numpy as np
import pytest
from PIL import Image

from app.errors import BrokenImage, NotAnImage, TooComplex
from app.inference import jpeg
from app.inference.decode_budget import DecodeBudget
from app.inference.imaging import Resize, load
from tests.photos import encode

RULE = Resize(height=64, width=64, crop=1.0, filter="bilinear")
DECODE_BUDGET = DecodeBudget(50_000_000)
EOI = b"\xff\xd9"


def photo(size=(200, 150), mode="RGB", **options) -> bytes:
    """A photo's statistics: smooth areas and some noise; the same each time."""
    chance = np.random.default_rng(3)
    coarse = Image.fromarray(chance.integers(0, 256, (6, 8, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noisy = np.asarray(coarse).astype(int) + chance.normal(0, 4, (size[1], size[0], 3))
    picture = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).convert(mode)
    return encode(picture, "JPEG", **{"quality": 85, **options})


WHOLE = photo()
PROBLEM_TYPES = {
    "baseline": {},
    "no subsampling": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "optimised": {"optimize": True},
    "progressive": {"progressive": True},
    "grey": {"mode": "L"},
    "grey progressive": {"mode": "L", "progressive": True},
    "CMYK": {"mode": "CMYK"},
    "restart rows": {"restart_marker_rows": 1},
    "restart blocks": {"restart_marker_blocks": 7},
    "restart progressive": {"restart_marker_rows": 2, "progressive": True},
    "small": {"size": (3, 2)},
    "odd": {"size": (65, 33)},
    "large": {"size": (1000, 700)},
}


def first_segment(data: bytes) -> int:
    """Where it ends."""
    return 4 + int.from_bytes(data[4:6])


AROUND = {
    "nothing": lambda d: d,
    "no end marker": lambda d: d[:-2],
    "no end marker, and text": lambda d: d[:-2] + b"\r\n--frame--\r\n" * 9,
    "zeros after it": lambda d: d + bytes(4096),
    "FF after it": lambda d: d + b"\xff" * 64,
    "text after it": lambda d: d + b"DHAV\0\0\0\1" * 50,
    "itself after it": lambda d: d + d,
    "itself after it, no end marker between": lambda d: d[:-2] + d,
    "a video after it": lambda d: d + b"\0\0\0\x18ftypmp42" + bytes(300) + EOI,
    "zeros before the end marker": lambda d: d[:-2] + bytes(500) + EOI,
    "fill before the end marker": lambda d: d[:-2] + b"\xff\xff\xff" + EOI,
    "a webcam's stray bytes": lambda d: d[:-2] + b"\x12\x34\x56\x78" + EOI,
    "a line end before it": lambda d: b"\r\n" + d,
    "a byte order mark before it": lambda d: b"\xef\xbb\xbf" + d,
    "zeros before it": lambda d: bytes(16) + d,
    "fill before markers": lambda d: d[:2] + b"\xff\xff\xff" + d[2:],
    "garbage between segments": lambda d: d[: first_segment(d)] + b"abc\xff\0def" + d[first_segment(d) :],
    "unreadable EXIF": lambda d: d[:2] + b"\xff\xe1\0\x0aExif\0\0zz" + d[2:],
    "an index of pictures that ends nowhere": lambda d: d[:2] + b"\xff\xe2\0\x0eMPF\0II*\0\xff\xff\xff\xff" + d[2:],
    "40 segments of metadata": lambda d: d[:2] + (b"\xff\xe9\4\2" + bytes(1024)) * 40 + d[2:],
}


def pixels(data: bytes) -> np.ndarray:
    return load(data, RULE, DECODE_BUDGET)


@pytest.mark.parametrize("kind", PROBLEM_TYPES)
@pytest.mark.parametrize("around", AROUND)
def test_every_pixel_is_there(kind, around):
    data = photo(**PROBLEM_TYPES[kind])
    assert np.array_equal(pixels(AROUND[around](data)), pixels(data))


def lost(data: bytes, count: int) -> bytes:
    """Some of the scan's bytes are missing from its middle."""
    middle = (data.index(b"\xff\xda") + len(data)) // 2
    return data[:middle] + data[middle + count :]


def flipped(data: bytes, count: int) -> bytes:
    chance, damaged = np.random.default_rng(0), bytearray(data)
    for at in chance.integers(data.rindex(b"\xff\xda") + 20, len(data) - 2, count):
        damaged[at] ^= 0x10
    return bytes(damaged)


DAMAGE = {
    "a lost block": lambda d: lost(d, 512),
    "cut": lambda d: d[: len(d) * 95 // 100],
    "cut to the half": lambda d: d[: len(d) // 2],
    "cut and given an end marker": lambda d: d[: len(d) * 95 // 100] + EOI,
    "cut to a tenth and given one": lambda d: d[: len(d) // 10] + EOI,
    "cut, with a second picture behind it": lambda d: d[: len(d) * 9 // 10] + EOI + d,
    "line ends translated": lambda d: d.replace(b"\n", b"\r\n"),
    "line ends translated behind the header": lambda d: d[:640] + d[640:].replace(b"\n", b"\r\n"),
    "a block of zeros": lambda d: d[: len(d) // 2] + bytes(512) + d[len(d) // 2 + 512 :],
}


@pytest.mark.parametrize("kind", ["baseline", "no subsampling", "optimised", "grey", "CMYK", "restart rows", "large"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_inside_is_heard(kind, damage):
    with pytest.raises(BrokenImage, match="damaged"):
        pixels(DAMAGE[damage](photo(**{"size": (400, 300), **PROBLEM_TYPES[kind]})))


@pytest.mark.parametrize("damage", ["cut", "cut to the half", "cut and given an end marker", "line ends translated"])
def test_damage_inside_a_progressive_picture_is_heard(damage):
    with pytest.raises(BrokenImage, match="damaged"):
        pixels(DAMAGE[damage](photo((400, 300), progressive=True)))


def test_flipped_bits_are_heard():
    assert sum(heard(flipped(photo((400, 300), subsampling=n % 3), 50 + n)) for n in range(10)) == 10


def heard(data: bytes) -> bool:
    try:
        pixels(data)
    except BrokenImage:
        return True
    return False


def test_data_that_go_on_after_the_last_pixel():
    longer = photo((200, 160))
    at = longer.index(b"\xff\xc0") + 5
    with pytest.raises(BrokenImage, match="go on after its last pixel"):
        pixels(longer[:at] + (100).to_bytes(2) + longer[at + 2 :])


def test_restart_markers_are_counted():
    data = photo(restart_marker_rows=1)
    pixels(data)
    with pytest.raises(BrokenImage, match="restart markers"):
        pixels(data.replace(b"\xff\xd3", b"\xff\xd5", 1))
    first, second = data.index(b"\xff\xd1"), data.index(b"\xff\xd2")
    with pytest.raises(BrokenImage, match=r"8 of 9 restart markers"):
        pixels(data[:first] + data[second:])
    # Some encoders write one at the end.
    assert np.array_equal(pixels(data[:-2] + b"\xff\xd1" + EOI), pixels(data))


def test_a_progressive_picture_without_its_last_scans():
    data = photo(progressive=True)
    at = jpeg.parse(data).scans[-2].head
    with pytest.raises(BrokenImage, match="last scans are missing"):
        pixels(data[:at] + EOI)


def scanned(side: int, scans: int) -> bytes:
    """A greyscale picture whose first refinement comes again and again."""
    data = encode(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    one, two = (jpeg.parse(data).scans[number].head for number in (1, 2))
    return data[:one] + data[one:two] * scans + data[two:]


def test_scans_are_bounded():
    kept = len(jpeg.parse(scanned(64, 1)).scans) - 1
    pixels(scanned(64, jpeg.MAX_SCANS - kept))
    for scans in (jpeg.MAX_SCANS - kept + 1, 100_000):
        with pytest.raises(TooComplex, match="more than 100 scans"):
            pixels(scanned(64, scans))


def test_scans_are_bounded_by_the_pixels_that_they_go_through():
    many = scanned(1000, 50)
    load(many, RULE, DecodeBudget(4_000_000))
    with pytest.raises(TooComplex, match="55 scans of up to 1000 x 1000"):
        load(many, RULE, DecodeBudget(2_000_000))
    # What libjpeg writes by itself fits at the limit, at full chroma too.
    load(encode(Image.new("RGB", (640, 640)), "JPEG", progressive=True, subsampling=0), RULE, DecodeBudget(640 * 640))


@pytest.mark.parametrize(
    ("before", "error"),
    [
        (b"\xff\xfe\0\2" * 2000, TooComplex),
        ((b"\xff\xdb\0\x43\0" + bytes([1] * 64)) * 2000, TooComplex),
        ((b"\xff\xdb\xfd\xea" + (b"\0" + bytes([1] * 64)) * 1000) * 20, TooComplex),
        (b"\xff" * 100_000, BrokenImage),
        (b"\xff\xe0\0\2" + b"\1" * 100_000, BrokenImage),
        (b"\xff\0" * 50_000, BrokenImage),
        (b"\xff\xd0" * 50_000, BrokenImage),
    ],
)
def test_what_comes_before_the_picture_is_bounded(before, error):
    with pytest.raises(error, match="more"):
        jpeg.parse(WHOLE[:2] + before + WHOLE[2:])


@pytest.mark.parametrize(
    ("marker", "named"),
    [(0xC3, "lossless"), (0xC9, "arithmetic-coded"), (0xCA, "arithmetic-coded progressive"), (0xF7, "JPEG-LS")],
)
def test_unsupported_kinds_are_named(marker, named):
    with pytest.raises(NotAnImage, match=f"a JPEG of the {named} kind"):
        pixels(WHOLE.replace(b"\xff\xc0", bytes((0xFF, marker)), 1))


def test_an_unsupported_depth_and_number_of_channels_are_named():
    at = WHOLE.index(b"\xff\xc0") + 4
    with pytest.raises(NotAnImage, match="12 bits a channel"):
        pixels(WHOLE[:at] + b"\x0c" + WHOLE[at + 1 :])
    with pytest.raises(NotAnImage, match="2 channels"):
        pixels(WHOLE[: at + 5] + b"\2" + WHOLE[at + 6 :])


def test_without_huffman_tables_as_webcams_send_it():
    kept, at = [WHOLE[:2]], 2
    while WHOLE[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(WHOLE[at + 2 : at + 4])
        if WHOLE[at + 1] != 0xC4:
            kept.append(WHOLE[at:end])
        at = end
    assert np.array_equal(pixels(b"".join(kept) + WHOLE[at:]), pixels(WHOLE))


@pytest.mark.parametrize("end", range(0, 640, 7))
def test_a_header_that_is_cut(end):
    with pytest.raises((BrokenImage, NotAnImage)):
        pixels(WHOLE[:end])
