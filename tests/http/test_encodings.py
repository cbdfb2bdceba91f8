"""Base64 as people write it, and JSON as programs do."""

import base64
import json
import string
import textwrap
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import MalformedBody, quoted
from app.http.encodings import (
    begins_as_base64_picture,
    begins_as_picture,
    encoded_picture,
    from_base64,
    json_value,
    percent_decoded,
    picture,
)
from app.inference.formats import looks_like_picture
from tests.photos import encode, heic, quarters

JPEG = encode(quarters(64, 48), "JPEG")
PROBLEM_TYPES = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")


def standard(data: bytes) -> str:
    return base64.b64encode(data).decode()


FORMS = {
    "standard": standard,
    "lines of 76": lambda data: base64.encodebytes(data).decode(),
    "lines ended as on Windows": lambda data: base64.encodebytes(data).decode().replace("\n", "\r\n"),
    "lines of 64, indented": lambda data: textwrap.indent("\n".join(textwrap.wrap(standard(data), 64)), "  "),
    "no padding": lambda data: standard(data).rstrip("="),
    "for URLs": lambda data: base64.urlsafe_b64encode(data).decode(),
    "for URLs, no padding": lambda data: base64.urlsafe_b64encode(data).decode().rstrip("="),
    "percent-encoded": lambda data: urllib.parse.quote(standard(data), safe=""),
    "percent-encoded in lower case": lambda data: standard(data).replace("+", "%2b").replace("/", "%2f"),
    "backslashes": lambda data: base64.encodebytes(data).decode().replace("\n", "\\n"),
    "Python's repr": lambda data: repr(base64.b64encode(data)),
    "quoted": lambda data: f'"{standard(data)}"',
    "data URL": lambda data: f"data:image/jpeg;base64,{standard(data)}",
    "data URL in capitals": lambda data: f"DATA:IMAGE/JPEG;BASE64,{standard(data)}",
    "data URL with a charset": lambda data: f"data:image/jpeg;charset=utf-8;base64,{standard(data)}",
    "data URL with spaces": lambda data: f"  data:image/jpeg; base64, {standard(data)}\n",
    "data URL of lines": lambda data: f"data:image/jpeg;base64,{base64.encodebytes(data).decode()}",
    "data URL, percent-encoded": lambda data: urllib.parse.quote(f"data:image/jpeg;base64,{standard(data)}", safe=""),
    "byte order mark": lambda data: "\ufeff" + standard(data),
    "NUL at the end": lambda data: standard(data) + "\0",
}


@pytest.mark.parametrize("form", FORMS)
@given(st.binary(min_size=1, max_size=600))
def test_every_spelling_gives_the_same_bytes(form, data):
    assert from_base64(FORMS[form](data), "It") == data


@given(st.binary(min_size=1, max_size=600))
def test_a_space_that_was_a_plus_is_one(data):
    """A form's decoder makes spaces of them; words are what people make."""
    text = standard(data)
    # No image file's base64 begins or ends so. Four of them, or none, may as well have been words.
    if text.strip("+") == text and text.count("+") % 4:
        assert from_base64(text.replace("+", " "), "It") == data
    assert from_base64(" ".join(textwrap.wrap(text, 8)) if "+" in text else text, "It") == data


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", PROBLEM_TYPES)
def test_the_base64_of_a_picture_is_seen(form, kind):
    data = encode(quarters(64, 48), kind)
    text = FORMS[form](data).encode()
    assert begins_as_base64_picture(text)
    assert encoded_picture(text) == data


def test_what_begins_as_a_picture():
    files = [encode(quarters(64, 48), kind) for kind in PROBLEM_TYPES]
    pytest.importorskip("pillow_heif")
    for data in [*files, heic(quarters(64, 48)), b"MM\0*" + bytes(8)]:
        assert looks_like_picture(data)
        assert looks_like_picture(data[:32])
        assert not looks_like_picture(b" " + data)
    for data in (b"", b"BM", b"BMW is a car and no picture", b"RIFF\0\0\0\0WAVE", b"\0\0\0\x18ftypmp42", b"{}", b"GIF"):
        assert not looks_like_picture(data)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("%%%", "base64"),
        ("a", "base64"),
        ("ümlaut", "base64"),
        ("\ud800", "base64"),
        ("YWJj====YWJj", "base64"),
        ("", "empty"),
        ("  \n", "empty"),
        ("data:image/jpeg;base64,", "empty"),
        ("data:image/jpeg", "empty"),
        ("http://cam.local/snapshot.jpg", "an address"),
        ("rtsp://user:secret@cam/1", "an address"),
        ("file:///tmp/x", "an address"),
        ("/home/me/photo.jpg", "name of a file"),
        ("C:\\cams\\yard\\a.JPEG", "name of a file"),
        ("photo.png", "name of a file"),
        (repr(JPEG), "what Python prints"),
    ],
)
def test_what_a_text_is_instead_is_named(text, says):
    with pytest.raises(MalformedBody, match=says) as found:
        from_base64(text, '"image"')
    assert len(str(found.value)) < 500


@given(st.binary(max_size=300), st.sampled_from(["", "+", "%", "%25", "%zz", "%4", "a b"]))
def test_percent_decoding(data, more):
    """As the standard library does it."""
    for safe in ("", string.ascii_letters + string.digits + "-&=/"):
        text = urllib.parse.quote_plus(data, safe=safe) + more
        assert percent_decoded(text.encode()) == urllib.parse.unquote_to_bytes(text.replace("+", " "))


VALUES = {
    "text": standard(JPEG),
    "one in a list": [standard(JPEG)],
    "numbers": list(JPEG),
    "Node's Buffer": {"type": "Buffer", "data": list(JPEG)},
    "Uint8Array": {str(at): byte for at, byte in enumerate(JPEG)},
    "b64": {"b64": standard(JPEG)},
    "named": {"content": standard(JPEG), "mime": "image/jpeg", "key": 7, "note": None},
    "deep": [{"image_bytes": {"b64": standard(JPEG)}}],
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_a_picture_in_json(value):
    assert begins_as_picture(value)
    assert picture(value, "It") == JPEG


DEEP = json.loads("[" * 500 + '"/9j/"' + "]" * 500)


@pytest.mark.parametrize(
    "value",
    [
        7,
        None,
        True,
        [],
        {},
        [[]],
        [1, 2, 256],
        [255, 216, "x"],
        {"type": "Buffer", "data": 7},
        {"type": "Buffer"},
        {"0": 255, "1": 216, "x": 7},
        [standard(JPEG)] * 2,
        {"a": standard(JPEG), "b": standard(JPEG)},
        DEEP,
        {str(at): [] for at in range(5000)},
        {"a": "\ud800"},
    ],
)
def test_no_picture_in_json(value):
    with pytest.raises(MalformedBody) as found:
        picture(value, "It")
    str(found.value).encode()
    assert len(str(found.value)) < 1000


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
@pytest.mark.parametrize("end", ["", "\n", "\0", "\0\0\0\0", "\r\n \0"])
def test_json_in_every_encoding(encoding, end):
    assert json_value(('{"image": "a\n√"}' + end).encode(encoding), "") == {"image": "a\n√"}


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff\xfe", b"\xff\xd8\xff\xe0", b"[" * 500, b'{"a":' * 900, b"9" * 5000, b"{}x", b'"\xed\xa0\x80"'],
)
def test_what_is_no_json(data):
    with pytest.raises(MalformedBody, match="Send this"):
        json_value(data, "Send this.")


@pytest.mark.parametrize(
    ("item", "count", "says"),
    [
        (b"[],", 400_000, "lists"),
        (b"{},", 400_000, "lists"),
        (b"-9,", 2_600_000, "values"),
        (b'"a":0,', 260_000, "named"),
    ],
)
def test_what_large_json_has_in_it_is_counted_before_it_is_made(item, count, says):
    with pytest.raises(MalformedBody, match=says):
        json_value(b"[" + item * count + b"7]", "")


def test_a_large_photo_as_numbers_is_no_attack():
    photo = bytes(range(256)) * 9000
    assert picture(json_value(json.dumps({"type": "Buffer", "data": list(photo)}).encode(), ""), "It") == photo
    assert json_value(json.dumps([[1, 2, 3]] * 224).encode(), "")


@pytest.mark.parametrize("value", ["x" * 10**6, ["x" * 1000] * 1000, {"x" * 1000: 1}, 10**4000, "\ud800\n\0", DEEP])
def test_what_is_quoted_is_short_and_can_be_written(value):
    text = quoted(value)
    assert len(text) <= 200
    assert text.isprintable()
    text.encode()
