"""Pictures for tests, made on the spot."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

#: Corner colours of ``quarters``: upper left, upper right, lower left, lower right.
CORNERS = ((220, 30, 30), (30, 200, 40), (40, 50, 210), (230, 220, 60))


def solid(colour, size=(64, 48)) -> Image.Image:
    return Image.new("RGB", size, colour)


def quarters(width=320, height=240) -> Image.Image:
    """Four corners in four colours: any turn or flip shows."""
    pixels = np.zeros((height, width, 3), np.uint8)
    h, w = height // 2, width // 2
    pixels[:h, :w], pixels[:h, w:], pixels[h:, :w], pixels[h:, w:] = CORNERS
    return Image.fromarray(pixels)


def encode(picture: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def heic(picture: Image.Image, **options) -> bytes:
    import pillow_heif

    buffer = io.BytesIO()
    pillow_heif.from_pillow(picture).save(buffer, quality=90, **options)
    return buffer.getvalue()


def corners(pixels) -> list[tuple[int, int, int]]:
    """The mean colours of the four corners of ``[H, W, 3]`` pixels."""
    h, w = pixels.shape[0] // 4, pixels.shape[1] // 4
    parts = (pixels[:h, :w], pixels[:h, -w:], pixels[-h:, :w], pixels[-h:, -w:])
    return [tuple(int(v) for v in part.reshape(-1, 3).mean(axis=0).round()) for part in parts]


def close(found, expected, tolerance=12) -> bool:
    return np.abs(np.array(found, int) - np.array(expected, int)).max() <= tolerance


def png_bomb(side=30_000) -> bytes:
    """A valid greyscale PNG of ``side`` x ``side`` zeros in a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    squeeze = zlib.compressobj(9)
    row = b"\0" * (side // 8 + 2)
    data = b"".join(squeeze.compress(row * 100) for _ in range(side // 100)) + squeeze.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
