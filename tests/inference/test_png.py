"""PNG files: nothing but what the pixels need can spoil them."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from app.errors import BrokenImage, TooComplex
from app.inference import png
from app.inference.decode_budget import DecodeBudget
from app.inference.imaging import Resize, load
from tests.photos import CORNERS, close, corners, encode, quarters

RULE = Resize(height=64, width=64, crop=1.0, filter="bilinear")
DECODE_BUDGET = DecodeBudget(1_000_000)
WHOLE = encode(quarters(), "PNG")
#: The end of the first chunk, where ancillary ones stand.
AFTER_HEADER = 8 + 25
BOMB = zlib.compress(bytes(10_000_000), 9)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def having(extra: bytes) -> bytes:
    return WHOLE[:AFTER_HEADER] + extra + WHOLE[AFTER_HEADER:]


@pytest.mark.parametrize(
    "data",
    [
        having(chunk(b"tEXt", b"Comment\0" + b"x" * 100_000)),
        having(chunk(b"tEXt", b"\xff\xfe no separator")),
        having(chunk(b"tEXt", b"Comment\0wrong sum")[:-4] + bytes(4)),
        having(chunk(b"zTXt", b"Comment\0\0" + BOMB)),
        having(chunk(b"zTXt", b"Comment\0\7not deflate")),
        having(chunk(b"zTXt", b"Raw profile type exif\0\0" + BOMB)),
        having(chunk(b"zTXt", b"Raw profile type exif\0\0not deflate")),
        having(chunk(b"tEXt", b"Raw profile type exif\0\n\n\nno digits")),
        having(chunk(b"iTXt", b"Comment\0\1\0\0\0" + BOMB)),
        having(chunk(b"iCCP", b"profile\0\0" + BOMB)),
        having(chunk(b"iCCP", b"profile\0\5unknown method")),
        having(chunk(b"iCCP", b"")),
        having(chunk(b"gAMA", b"\0")),
        having(chunk(b"pHYs", b"\0\0\0\1")),
        having(chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff")),
        having(chunk(b"eXIf", b"")),
        having(chunk(b"acTL", b"\xff" * 8)),
        having(chunk(b"fcTL", b"\xff" * 26)),
        having(chunk(b"abCd", b"whatever") * 1000),
        WHOLE + b"a tail",
        WHOLE + WHOLE,
        WHOLE[:-12],
        WHOLE[:-12] + b"a tail",
        WHOLE[:-16],
        WHOLE[:-12] + chunk(b"tEXt", b"cut")[:-9],
    ],
)
def test_what_has_no_part_in_the_pixels_does_not_count(data):
    assert np.array_equal(load(data, RULE, DECODE_BUDGET), load(WHOLE, RULE, DECODE_BUDGET))


def test_damaged_pixels_are_refused():
    at = WHOLE.index(b"IDAT")
    for damaged in (
        WHOLE[: at + 20],
        WHOLE[: at - 4],
        WHOLE[: at + 40] + bytes((WHOLE[at + 40] ^ 1,)) + WHOLE[at + 41 :],
        WHOLE[:20] + b"\1" + WHOLE[21:],
        WHOLE.replace(b"IDAT", b"IDAx"),
        WHOLE.replace(b"\r\n", b"\n"),
        WHOLE.replace(b"\n", b"\r\n"),
    ):
        with pytest.raises(BrokenImage, match="PNG"):
            load(damaged, RULE, DECODE_BUDGET)


@pytest.mark.parametrize("kind", [b"tEXt", b"abCd", b"IDAT"])
def test_chunks_are_bounded(kind):
    chunks = WHOLE.count(b"IDAT") + 2
    assert png.parse(having(chunk(b"abCd", b"") * (png.MAX_CHUNKS - chunks)))
    for count in (png.MAX_CHUNKS, 10 * png.MAX_CHUNKS):
        with pytest.raises(TooComplex, match="20000 chunks"):
            load(having(chunk(kind, b"") * count), RULE, DECODE_BUDGET)


def test_only_one_profile_is_unpacked(monkeypatch):
    unpack, unpacked = zlib.decompressobj, []
    monkeypatch.setattr(png.zlib, "decompressobj", lambda: unpacked.append(1) or unpack())
    profile = chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\n" * 1000))
    png.parse(having(profile * 100))
    assert len(unpacked) == 1


def test_the_orientation_in_text_as_imagemagick_writes_it():
    exif = Image.Exif()
    exif[0x0112] = 3
    block = exif.tobytes()
    text = b"\nexif\n%8d\n" % len(block) + block.hex().encode()
    stored = encode(quarters().transpose(Image.Transpose.ROTATE_180), "PNG")
    for profile in (
        chunk(b"tEXt", b"Raw profile type exif\0" + text),
        chunk(b"zTXt", b"Raw profile type APP1\0\0" + zlib.compress(text)),
        chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="3"/>'),
    ):
        data = stored[:AFTER_HEADER] + profile + stored[AFTER_HEADER:]
        assert close(corners(load(data, RULE, DECODE_BUDGET)), CORNERS)
