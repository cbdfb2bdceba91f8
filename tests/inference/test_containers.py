"""Structures that decoders go through in Python, or in squared time, are bounded before."""

import struct

import numpy as np
import pytest
from PIL import Image

from app.errors import BrokenImage, TooComplex, TooManyPixels
from app.inference import containers
from app.inference.decode_budget import DecodeBudget
from app.inference.imaging import Resize, load
from tests.photos import CORNERS, close, corners, encode, heic, quarters

RULE = Resize(height=32, width=32, crop=1.0, filter="bilinear")
DECODE_BUDGET = DecodeBudget(1_000_000)
GIF = encode(quarters(), "GIF")
#: Where a GIF's blocks begin: behind its header and its palette.
BLOCKS = 13 + (3 << (GIF[10] & 7) + 1)


@pytest.mark.parametrize(
    "block",
    [
        b"!\xfe\0",
        b"!\xfe\1a\0",
        b"!\xff\x0bNETSCAPE2.0\x03\1\0\0\0",
        b"\0",
    ],
)
def test_blocks_before_a_gifs_picture(block):
    found = load(GIF[:BLOCKS] + block * 1000 + GIF[BLOCKS:], RULE, DECODE_BUDGET)
    assert np.array_equal(found, load(GIF, RULE, DECODE_BUDGET))
    with pytest.raises(TooComplex, match="10000 blocks"):
        load(GIF[:BLOCKS] + block * 20_000 + GIF[BLOCKS:], RULE, DECODE_BUDGET)


def test_sub_blocks_of_one_comment():
    with pytest.raises(TooComplex, match="10000 blocks"):
        load(GIF[:BLOCKS] + b"!\xfe" + b"\1a" * 20_000 + b"\0" + GIF[BLOCKS:], RULE, DECODE_BUDGET)


def tiff(entries, order="<", big=False) -> bytes:
    begin = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    if big:
        head = begin + struct.pack(order + "HHQQ", 8, 0, 16, len(entries))
        return head + b"".join(struct.pack(order + "HHQQ", *entry) for entry in entries) + bytes(100)
    head = begin + struct.pack(order + "LH", 8, len(entries))
    return head + b"".join(struct.pack(order + "HHLL", *entry) for entry in entries) + bytes(100)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("big", [False, True])
def test_tags_of_a_tiff(order, big):
    some = [(256, 4, 1, 9), (257, 4, 1, 9)]
    containers.check_tiff(tiff(some, order, big))
    # Bytes are not taken apart.
    containers.check_tiff(tiff([*some, (700, 1, 5_000_000, 8), (34675, 7, 5_000_000, 8)], order, big))
    for tag, kind in ((273, 4), (279, 4), (258, 3), (282, 5), (324, 4)):
        with pytest.raises(TooComplex, match=f"tag {tag} has 2400000 values"):
            containers.check_tiff(tiff([*some, (tag, kind, 2_400_000, 8)], order, big))
    with pytest.raises(TooComplex, match="2000 tags"):
        containers.check_tiff(tiff([(number, 3, 1, 0) for number in range(2000)], order, big))


@pytest.mark.parametrize("data", [b"II*\0", b"MM\0*\xff\xff\xff\xff", b"II+\0\x08\0\0\0" + b"\xff" * 8])
def test_a_tiff_that_ends_before_it_begins(data):
    with pytest.raises(BrokenImage):
        load(data, RULE, DECODE_BUDGET)


def test_run_lengths_cost_more_than_pixels():
    def bitmap(side: int, runs: bytes) -> bytes:
        head = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(runs), 0, 0, 256, 0)
        palette = b"".join(bytes((level, level, 0, 0)) for level in range(256))
        return b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + 40 + 1024) + head + palette + runs

    whole = bitmap(100, b"\x64\x80\0\0" * 100 + b"\0\1")
    assert (load(whole, RULE, DECODE_BUDGET) == (0, 128, 128)).all()
    with pytest.raises(TooManyPixels, match="at most 62500"):
        load(bitmap(300, b"\x64\x80\0\0" * 100 + b"\0\1"), RULE, DECODE_BUDGET)
    with pytest.raises(TooComplex, match="run lengths"):
        load(bitmap(100, b"\0\2\0\0" * 10_000), RULE, DECODE_BUDGET)


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content) + 8) + kind + content


@pytest.mark.parametrize("brand", [b"avif", b"heic"])
def test_items_of_a_heif(brand):
    entries = b"".join(box(b"infe", b"\2\0\0\0" + struct.pack(">HH", n, 0) + b"av01\0") for n in range(2000))
    meta = box(b"meta", bytes(4) + box(b"iinf", bytes(4) + struct.pack(">H", 2000) + entries))
    with pytest.raises(TooComplex, match="2000 items"):
        load(box(b"ftyp", brand + bytes(4) + brand + b"mif1") + meta, RULE, DECODE_BUDGET)


@pytest.mark.parametrize("write", [lambda p, **o: encode(p, "AVIF", **o), heic], ids=["AVIF", "HEIC"])
@pytest.mark.parametrize(
    "block", [b"Exif\0\0zz", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"\0" * 9, b"MM\0*\xff\xff\xff\xff"]
)
def test_unreadable_exif_in_a_heif(write, block):
    valid = Image.Exif()
    valid[0x010E] = "x" * 200
    data = write(quarters(), exif=valid.tobytes())
    at = data.index(valid.tobytes()[6:30])
    assert close(corners(load(data[:at] + block + data[at + len(block) :], RULE, DECODE_BUDGET)), CORNERS)
