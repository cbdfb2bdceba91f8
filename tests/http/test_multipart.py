"""Multipart bodies as clients write them, and as nobody should."""

import contextlib

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from python_multipart.multipart import MultipartParser

from app.errors import MalformedBody
from app.http.multipart import parts

B = b"bOuNd"
HEAD = b'Content-Disposition: form-data; name="%s"'


def split(body: bytes, boundary: str = "bOuNd") -> list[tuple[str, bytes]]:
    return [(part.name, part.content) for part in parts(body, boundary)]


def build(*contents: tuple[str, bytes], eol=b"\r\n", close=b"--\r\n", preamble=b"") -> bytes:
    body = b"".join(b"--" + B + eol + HEAD % name.encode() + eol + eol + content + eol for name, content in contents)
    return preamble + body + b"--" + B + close


NAMES = st.text(st.characters(codec="utf-8", exclude_characters='"\\\r\n;', exclude_categories=("Cc",)), max_size=20)
# Much of what could be taken for a part's end: pieces of delimiters, of heads and of line ends.
PIECES = st.sampled_from(
    [b"--", b"\r\n", b"\n", b"\r", B, b"--" + B, b"\r\n--" + B + b"x", b"\n--" + B[:3], b"--" + B + b"--x", HEAD, b"\0"]
)
CONTENTS = st.lists(PIECES | st.binary(max_size=20), max_size=8).map(b"".join)
ENDS = st.sampled_from([b"--\r\n", b"--", b"--\n", b"--\r\nepilogue", b"-\r\n", b"\r\n", b"", b"-- \r\n--" + B])


def is_content(content: bytes) -> bool:
    """RFC 2046: the delimiter begins no line of a content. A line that goes on is another boundary's."""
    rests = [line[len(B) + 2 :].strip(b"\r \t") for line in content.split(b"\n") if line.startswith(b"--" + B)]
    return not {b"", b"-", b"--"} & set(rests)


@given(
    st.lists(st.tuples(NAMES, CONTENTS.filter(is_content)), min_size=1, max_size=5),
    st.sampled_from([b"\r\n", b"\n"]),
    ENDS,
    st.sampled_from([b"", b"\r\n", b"This is a preamble.\r\n", b"--other\r\n"]),
)
def test_what_goes_in_comes_out(contents, eol, close, preamble):
    body = build(*contents, eol=eol, close=close, preamble=preamble)
    # A content that ends in the half of a CRLF, before a line end that is only a LF, cannot be told apart from one.
    if eol == b"\n" and any(content.endswith(b"\r") for _, content in contents):
        return
    assert split(body) == contents


@given(st.lists(st.tuples(NAMES, CONTENTS), min_size=1, max_size=5))
def test_a_stricter_parser_agrees(contents):
    """Where a body is as RFC 2046 has it: no line of a content begins with the delimiter."""
    assume(not any(b"\n--" + B in b"\n" + content for _, content in contents))
    judged: list[bytes] = []
    parser = MultipartParser(
        B,
        {
            "on_part_begin": lambda: judged.append(b""),
            "on_part_data": lambda data, start, end: judged.append(judged.pop() + data[start:end]),
        },
    )
    body = build(*contents)
    parser.write(body)
    parser.finalize()
    assert [content for _, content in split(body)] == judged


@given(st.lists(st.tuples(NAMES, CONTENTS.filter(is_content)), min_size=1, max_size=3), st.integers(0, 60))
def test_a_cut_body_loses_its_end_only(contents, cut):
    body = build(*contents)
    try:
        found = split(body[: max(0, len(body) - cut)])
    except MalformedBody:
        return
    for (name, content), (whole_name, whole) in zip(found, contents, strict=False):
        assert name == whole_name
        assert content == whole or (whole + b"\r\n--" + B).startswith(content) or whole.startswith(content)


@given(st.binary(max_size=300) | CONTENTS, st.sampled_from(["bOuNd", "", "x", "--", "bOuNd--"]))
def test_anything_is_parts_or_malformed(body, boundary):
    with contextlib.suppress(MalformedBody):
        split(body, boundary)


JPEG = b"\xff\xd8\xff" + bytes(range(256)) + b"\r\n\r\n\n--\xff\xd9"
PHOTO = [("file", JPEG)]
WHOLE = build(*PHOTO)


@pytest.mark.parametrize(
    ("body", "boundary"),
    [
        (WHOLE, "bOuNd"),
        (WHOLE, ""),
        (WHOLE, "other"),
        (WHOLE, "--bOuNd"),
        (WHOLE, "'bOuNd'"),
        (WHOLE.replace(B + b"\r\n", B + b" \t \r\n"), "bOuNd"),
        (WHOLE[:-2], "bOuNd"),
        (WHOLE[:-3], "bOuNd"),
        (WHOLE[:-4], "bOuNd"),
        (WHOLE[:-8], "bOuNd"),
        (WHOLE[:-12], "bOuNd"),
        (WHOLE[:-13], "bOuNd"),
        (WHOLE + b"\0", "bOuNd"),
        (WHOLE.replace(b"\xff\xd9\r\n", b"\xff\xd9"), "bOuNd"),
        (WHOLE.replace(b"\xff\xd9\r\n", b"\xff\xd9\n"), "bOuNd"),
        (WHOLE.replace(b"form-data; name", b"form-data;\r\n\tname"), "bOuNd"),
        (WHOLE.replace(b"Content-Disposition: ", b"content-disposition:"), "bOuNd"),
        (WHOLE.replace(b'"file"', b"file"), "bOuNd"),
        (WHOLE.replace(b'"file"', b"'file'"), "bOuNd"),
        (WHOLE.replace(b'name="file"', b"name*=UTF-8''file"), "bOuNd"),
        (WHOLE.replace(b'name="file"', b'filename="a;name=x;.jpg"; name="file"'), "bOuNd"),
        (WHOLE.replace(b'name="file"', b'filename="T\xfcr.jpg"; name="file"'), "bOuNd"),
    ],
)
def test_what_clients_write(body, boundary):
    assert split(body, boundary) == PHOTO


def test_parts_in_a_part_have_its_name():
    inner = b"--in\r\nContent-Disposition: file; filename=a\r\n\r\n%s\r\n--in\r\n\r\n%s\r\n--in--\r\n" % (JPEG, b"text")
    head = HEAD % b"file" + b"\r\nContent-Type: multipart/mixed; boundary=in"
    body = b"--bOuNd\r\n" + head + b"\r\n\r\n" + inner + b"\r\n--bOuNd--\r\n"
    assert split(body) == [("file", JPEG), ("file", b"text")]
    # One level, no more: what is in there is somebody's content.
    deeper = body.replace(b"Content-Disposition: file; filename=a", b"Content-Type: multipart/mixed; boundary=no")
    assert split(deeper) == [("file", JPEG), ("file", b"text")]


@pytest.mark.parametrize("cut", [0, 1, 2, 5])
def test_a_body_that_ends_within_a_content_says_so(cut):
    body = WHOLE[: WHOLE.rindex(b"\r\n--")]
    (part,) = parts(body[: len(body) - cut], "bOuNd")
    assert not part.whole
    (part,) = parts(WHOLE[: WHOLE.rindex(b"OuNd--")], "bOuNd")
    assert part.whole
    assert part.content == JPEG


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"rubbish", "boundary"),
        (b"--bOuNd\r\n" + HEAD, "part's head"),
        (b"--bOuNd\r\n" + b"x: y\r\n" * 10_000 + b"\r\n", "too large headers"),
        (b"--bOuNd\r\n" + HEAD + b";" * 40 + b"\r\n\r\n", "parameters"),
        (b"--bOuNd\r\n" + HEAD + b"\r\n\r\n" + b"\r\n--bOuNd-x" * 2000, "in its contents"),
    ],
)
def test_what_is_none(body, says):
    with pytest.raises(MalformedBody, match=says):
        [part.name for part in parts(body, "bOuNd")]
