"""What bytes are: pictures behind other bytes are found, and what is none is named."""

import numpy as np
import pytest

from app.errors import BrokenImage, NotAnImage
from app.inference.decode_budget import DecodeBudget
from app.inference.imaging import Resize, load
from tests.photos import encode, quarters

RULE = Resize(height=32, width=32, crop=1.0, filter="bilinear")
DECODE_BUDGET = DecodeBudget(1_000_000)
PICTURES = {kind: encode(quarters(), kind) for kind in ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")}
PART = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: 1234\r\n\r\n"


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize(
    "before",
    [
        b"\n",
        b"\r\n\r\n",
        b"\xef\xbb\xbf",
        b"\0" * 16,
        PART,
        b"\r\n" + PART,
        PART.replace(b"\r\n", b"\n"),
        b"--myboundary\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n\r\n" + PART,
    ],
)
def test_bytes_before_a_picture(kind, before):
    found = load(before + PICTURES[kind], RULE, DECODE_BUDGET)
    assert np.array_equal(found, load(PICTURES[kind], RULE, DECODE_BUDGET))


def test_the_first_picture_of_a_stream_is_taken():
    other = encode(quarters().rotate(90), "JPEG")
    stream = b"".join(PART + picture + b"\r\n" for picture in (PICTURES["JPEG"], other, other))
    assert np.array_equal(load(stream, RULE, DECODE_BUDGET), load(PICTURES["JPEG"], RULE, DECODE_BUDGET))


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", "there are none"),
        (bytes(5000), "all of them are zero"),
        (b"<!DOCTYPE html><html><body>Log in</body></html>", "HTML page"),
        (b"\xef\xbb\xbf\r\n<HTML><head>", "HTML page"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<?xml version='1.0'?>\n<!-- drawn -->\n<svg>", "SVG"),
        (b"<?xml version='1.0'?><ResponseStatus/>", "XML"),
        (b'{"error": "unauthorized"}', "JSON"),
        (b"[1, 2, 3]", "JSON"),
        (b"data:image/png;base64,iVBORw0KGgo=", "data URL"),
        (b"/9j/4AAQSkZJRgABAQAAAQABAAD/2wBD", "base64"),
        (b"ffd8ffe000104a464946000101000001", "hexadecimal"),
        (b"https://camera.local/snapshot.jpg\n", "an address"),
        (b"401 Unauthorized", "text"),
        (b"--frame\r\nContent-Type: text/html\r\n\r\n<html>", "multipart body without a picture"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  " + bytes(300), "QuickTime"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + bytes(300), "MP4"),
        (b"\0\0\0\x08wide\0\0\0\0mdat", "MP4 or QuickTime"),
        (b"RIFF\0\0\0\0AVI LIST", "AVI"),
        (b"RIFF\0\0\0\0WAVEfmt ", "WAV"),
        (b"\x1aE\xdf\xa3" + bytes(40) + b"webm", "Matroska or WebM"),
        ((b"G" + bytes(187)) * 3, "MPEG transport stream"),
        (b"\0\0\0\x01\x67\x42\0\x1e", "H.264"),
        (b"\xff\x0a\0\0", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\xff\x4f\xff\x51", "JPEG 2000"),
        (b"%PDF-1.7", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"),
        (b"8BPS\0\1", "Photoshop"),
        (b"PK\x03\x04", "ZIP"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"P6 1 1 255\nabc", "PNM"),
        (b"\0\0\1\0\1\0\x10\x10", "Windows icon"),
        (b"qoif", "QOI"),
        (bytes(128) + b"DICM", "DICOM"),
        (bytes(range(256)) * 37 + bytes(range(128)), "80 x 60 pixels of RGB565"),
        (bytes(range(256)) * 600, "320 x 240 pixels of RGB565"),
        (b"BMW is not a bitmap", "text"),
        (b"\xff\xd8", "beginning of a JPEG"),
    ],
)
def test_what_is_no_picture_is_named(data, named):
    with pytest.raises(NotAnImage, match=rf"supported format .*{named}"):
        load(data, RULE, DECODE_BUDGET)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_bytes_that_were_taken_for_text(kind):
    data = PICTURES[kind]
    for changed in (data.decode("latin-1").encode(), data.decode("utf-8", "replace").encode()):
        with pytest.raises(BrokenImage, match=f"{kind} image is damaged: .* text"):
            load(changed, RULE, DECODE_BUDGET)
