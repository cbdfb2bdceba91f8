"""Every form of a photo, on every route that takes one, over a real socket: the same label, or what is wrong."""

import base64
import json
import socket
import urllib.parse
from collections.abc import Callable

import httpx
import pytest

from tests.conftest import serving
from tests.photos import encode, heic, solid

PHOTO, OTHER = encode(solid((9, 240, 9)), "JPEG"), encode(solid((240, 9, 9)), "PNG")
LABEL = "green"
TEXT = base64.b64encode(PHOTO).decode()
LINES = base64.encodebytes(PHOTO).decode()
URLENCODED = "application/x-www-form-urlencoded"
FORM = "multipart/form-data; boundary=XbX"


def part(content: bytes, head: str = 'form-data; name="%s"; filename="a.jpg"', more: str = "") -> bytes:
    return b"--XbX\r\nContent-Disposition: " + head.encode("latin-1") + more.encode() + b"\r\n\r\n" + content + b"\r\n"


END = b"--XbX--\r\n"
ONE = part(PHOTO) + END
CAMERA = part(b"yard", 'form-data; name="camera"')
NAMELESS = b"--XbX\r\nContent-Type: image/jpeg\r\n\r\n" + PHOTO + b"\r\n"
EVENT = b"--XbX\r\nContent-Type: text/plain\r\n\r\nevent\r\n"
INNER = ONE.replace(b"XbX", b"inner").replace(b'form-data; name="%s"', b"file")

#: Content-Type and body; ``%s`` in a head is the name of the route's own field.
TAKEN = {
    # A body that begins as a picture is a picture.
    **{
        f"raw as {kind or 'nothing'}": (kind, PHOTO)
        for kind in (
            "",
            "image/jpeg",
            "image/png",
            "image/jpg",
            "jpg",
            "application/jpeg",
            "application/octet-stream",
            "binary/octet-stream",
            URLENCODED,
            "text/plain",
            "text/plain; charset=utf-8",
            "application/json",
            "multipart/form-data",
            "multipart/form-data; boundary=XbX",
            "IMAGE/JPEG; q=1",
            ";;;===",
            "*/*",
        )
    },
    # multipart
    "multipart": (FORM, ONE),
    "charset first": ("multipart/form-data; charset=utf-8; boundary=XbX", ONE),
    "quoted boundary": ('multipart/form-data; boundary="XbX"', ONE),
    "single-quoted boundary": ("multipart/form-data; boundary='XbX'", ONE),
    "blanks around =": ("multipart/form-data; boundary = XbX", ONE),
    "semicolon at the end": (FORM + ";", ONE),
    "capitals": ("Multipart/Form-Data; BOUNDARY=XbX", ONE),
    "comma": ("multipart/form-data, boundary=XbX", ONE),
    "dashes in the boundary": ("multipart/form-data; boundary=--XbX", ONE),
    "no boundary": ("multipart/form-data", ONE),
    "no content type": ("", ONE),
    "the wrong content type": (URLENCODED, ONE),
    "odd boundary": ("multipart/form-data; boundary==_a/b=c", ONE.replace(b"XbX", b"=_a/b=c")),
    "preamble": (FORM, b"A preamble.\r\n" + ONE),
    "line before": (FORM, b"\r\n" + ONE),
    "epilogue": (FORM, ONE + b"An epilogue."),
    "LF only": (FORM, ONE.replace(b"\r\n", b"\n")),
    "LF in the head": (FORM, part(PHOTO).replace(b"\r\n\r\n", b"\n\n") + END),
    "LF before the end": (FORM, part(PHOTO)[:-2] + b"\n" + END),
    "no line end before the end": (FORM, part(PHOTO)[:-2] + END),
    "end without CRLF": (FORM, ONE[:-2]),
    "end with one dash": (FORM, ONE[:-3]),
    "end without dashes": (FORM, ONE[:-4] + b"\r\n"),
    "end cut": (FORM, ONE[:-6]),
    "no end": (FORM, ONE[: -len(END)]),
    "no end at all": (FORM, ONE[: -len(END) - 2]),
    "other fields": (FORM, CAMERA + ONE[: -len(END)] + CAMERA.replace(b"camera", b"top_k") + END),
    "unquoted name": (FORM, part(PHOTO, "form-data; name=%s; filename=a.jpg") + END),
    "single-quoted name": (FORM, part(PHOTO, "form-data; name='%s'; filename='a.jpg'") + END),
    "name after filename": (FORM, part(PHOTO, 'form-data; filename="a;name=x.jpg"; name="%s"') + END),
    "name*": (FORM, part(PHOTO, "form-data; name*=UTF-8''%s; filename=a.jpg") + END),
    "folded head": (FORM, part(PHOTO, 'form-data;\r\n name="%s"; filename="a.jpg"') + END),
    "no filename": (FORM, part(PHOTO, 'form-data; name="%s"') + END),
    "Latin-1 filename": (FORM, part(PHOTO, 'form-data; name="%s"; filename="T\xfcr.jpg"') + END),
    "attachment": (FORM, part(PHOTO, 'attachment; name="%s"; filename="a.jpg"') + END),
    "no name": (FORM, part(PHOTO, 'file; filename="a.jpg"') + END),
    "name[]": (FORM, part(PHOTO, 'form-data; name="%s[]"; filename="a.jpg"') + END),
    "another name": (FORM, CAMERA + part(PHOTO, 'form-data; name="imageFile"; filename="a.jpg"') + END),
    "another name, empty file": (FORM, part(b"") + part(PHOTO, 'form-data; name="photo"; filename="a.jpg"') + END),
    "the right one of two": (FORM, part(OTHER, 'form-data; name="mask"; filename="m.png"') + ONE),
    "text beside it under the same name": (FORM, part(b"a.jpg", 'form-data; name="%s"') + ONE),
    "nested": (FORM, part(INNER, 'form-data; name="%s"', "\r\nContent-Type: multipart/mixed; boundary=inner") + END),
    "base64 by its own word": (FORM, part(LINES.encode(), more="\r\nContent-Transfer-Encoding: BASE64") + END),
    "binary by its own word": (FORM, part(PHOTO, more="\r\nContent-Transfer-Encoding: binary") + END),
    "base64 in a field": (FORM, part(TEXT.encode(), 'form-data; name="%s"') + END),
    "base64 in another field": (FORM, part(LINES.encode(), 'form-data; name="photo"') + END),
    "data URL in a field": (FORM, part(b"data:image/jpeg;base64," + TEXT.encode(), 'form-data; name="%s"') + END),
    "mixed": ("multipart/mixed; boundary=XbX", NAMELESS + END),
    "related": ("multipart/related; boundary=XbX; type=text/plain", EVENT + NAMELESS + END),
    "replaced": ("multipart/x-mixed-replace; boundary=XbX", EVENT + NAMELESS + EVENT + NAMELESS.replace(PHOTO, OTHER)),
    "a stream": ("multipart/x-mixed-replace;boundary=--XbX", NAMELESS * 100),
    "a part of a stream": ("image/jpeg", NAMELESS),
    "several parts of a stream": ("image/jpeg", NAMELESS + NAMELESS.replace(PHOTO, OTHER)),
    # JSON and forms
    "JSON": ("application/json", f'{{"image": "{TEXT}"}}'),
    "JSON by another name": ("application/vnd.api+json; charset=utf-8", f'{{"image": "{TEXT}"}}'),
    "JSON by curl -d": (URLENCODED, f'{{"image": "{TEXT}"}}'),
    "JSON as text": ("text/plain", f' {{"image": "{TEXT}"}}'),
    "JSON as nothing": ("", f'\ufeff{{"image": "{TEXT}"}}\n'),
    "JSON as a form": (FORM, f'{{"image": "{TEXT}"}}'),
    "a form as JSON": ("application/json", ONE),
    "JSON as an image": ("image/jpeg", f'{{"image": "{TEXT}"}}'),
    "JSON in UTF-16": ("application/json", f'{{"image": "{TEXT}"}}'.encode("utf-16")),
    "JSON with raw line ends": ("application/json", f'{{"image": "{LINES}"}}'),
    "JSON with line ends": ("application/json", json.dumps({"image": LINES})),
    "JSON of a data URL": ("application/json", json.dumps({"image": f"Data:image/jpeg;base64,{TEXT}"})),
    "JSON list": ("application/json", json.dumps({"image": [TEXT]})),
    "JSON of another key": ("application/json", json.dumps({"images": [TEXT], "camera": "yard"})),
    "JSON text": ("application/json", json.dumps(TEXT)),
    "JSON of a Buffer": ("application/json", json.dumps({"image": {"type": "Buffer", "data": list(PHOTO)}})),
    "JSON that is a Buffer": ("application/json", json.dumps({"type": "Buffer", "data": list(PHOTO)})),
    "JSON of a Uint8Array": ("application/json", json.dumps({"image": dict(enumerate(PHOTO))})),
    "JSON of Python's bytes": ("application/json", json.dumps({"image": repr(base64.b64encode(PHOTO))})),
    "JSON twice the same key": ("application/json", f'{{"image": "x", "image": "{TEXT}"}}'),
    "base64": ("text/plain", LINES),
    "data URL": ("", f"data:image/jpeg;base64,{TEXT}"),
    "urlencoded form": (URLENCODED, urllib.parse.urlencode({"a": "b", "%s": TEXT})),
    "urlencoded form of another name": (URLENCODED, urllib.parse.urlencode({"photo": TEXT})),
    "urlencoded form of the bytes": (URLENCODED, urllib.parse.urlencode({"%s": PHOTO})),
    "urlencoded form of the bytes, in lower case": (
        URLENCODED,
        "a=1&photo=" + "".join(f"%{byte:02x}" for byte in PHOTO) + "&b=2",
    ),
    "form that is not encoded": (URLENCODED, f"%s={TEXT}&camera=yard"),
}

#: Path, the name of its field, and where the label is in its answer.
ROUTES: dict[str, tuple[str, str, Callable[[dict], str]]] = {
    "predict": ("/predict", "file", lambda answer: answer["predictions"][0]["label"]),
    "explain": ("/explain", "file", lambda answer: answer["prediction"]["label"]),
    "deepstack": ("/v1/vision/scene", "image", lambda answer: answer["label"]),
}


def post(client: httpx.Client, route: str, kind: str, body: str | bytes) -> httpx.Response:
    path, field, _ = ROUTES[route]
    data = body.encode() if isinstance(body, str) else body
    # Not in a photo, nor in what is encoded.
    data = data.replace(b"%s", field.encode()).replace(b"%25s", field.encode())
    return client.post(path, content=data, headers={"content-type": kind} if kind else {})


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("form", TAKEN)
def test_a_photo_is_taken(client, form, route):
    response = post(client, route, *TAKEN[form])
    assert response.status_code == 200, response.text
    assert ROUTES[route][2](response.json()) == LABEL


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
@pytest.mark.parametrize("content_type", ["", "text/plain", "application/json", URLENCODED])
def test_a_picture_of_any_format_is_seen(client, kind, content_type):
    data = encode(solid((9, 240, 9)), kind)
    for body in (data, base64.b64encode(data), json.dumps({"photo": base64.b64encode(data).decode()})):
        response = post(client, "predict", content_type, body)
        assert response.status_code == 200, response.text
        assert response.json()["predictions"][0]["label"] == LABEL


@pytest.mark.parametrize("data", [PHOTO.decode("latin-1").encode(), b"\0\0\0\x18ftypmp42" + bytes(99), bytes(9)])
@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "video/mp4"])
def test_other_bytes_are_named_by_what_decodes_pictures(client, data, kind):
    """Here: a photo that was sent as text, a film, nothing at all."""
    response = post(client, "predict", kind, data)
    assert response.status_code == 415 or (response.status_code, data[0]) == (422, 0xC3)
    assert not response.json()["type"].endswith(":unsupported-body")


def test_a_heic_is_seen(client):
    pytest.importorskip("pillow_heif")
    assert post(client, "predict", "text/plain", heic(solid((9, 240, 9)))).status_code == 200


TWO = part(PHOTO, 'form-data; name="a"; filename="a"') + part(OTHER, 'form-data; name="b"; filename="b"') + END
REFUSED = {
    "two": (FORM, part(PHOTO) + part(OTHER) + END, 400, "More than one part"),
    "two of other names": (FORM, TWO, 400, "'a', 'b'"),
    "empty": (FORM, part(b"") + END, 400, "is empty"),
    "curl without @": (FORM, part(b"photo.jpg", 'form-data; name="%s"') + END, 400, "@"),
    "no photo": (FORM, CAMERA + END, 400, "'camera'"),
    "no parts": (FORM, END, 400, "nothing"),
    "too many parts": (FORM, CAMERA * 60 + ONE, 400, "more than 48 parts"),
    "parameters": (FORM, part(PHOTO, "form-data" + ";" * 4000 + ' name="%s"') + END, 400, "parameters"),
    "long head": (FORM, part(PHOTO, more="\r\nX: " + "y" * 9000) + END, 400, "head"),
    "no head": (FORM, b"--XbX\r\nContent-Disposition: form-data", 400, "Content-Length"),
    "cut within the photo": (FORM, part(PHOTO)[:-60], 400, "Content-Length"),
    "no multipart": (FORM, b"rubbish", 400, "boundary"),
    "long Content-Type": (FORM + ";a=b" * 400, ONE, 400, "Content-Type"),
    "an address": ("application/json", '{"image": "http://cam.local/snapshot.jpg"}', 400, "an address"),
    "a file's name": ("application/json", '{"image": "/home/me/photo.jpg"}', 400, "name of a file"),
    "Python's raw bytes": ("application/json", json.dumps({"image": repr(PHOTO)}), 400, "Python prints"),
    "two in JSON": ("application/json", json.dumps({"image": [TEXT, TEXT]}), 400, "2 pictures"),
    "two keys in JSON": ("application/json", json.dumps({"a": TEXT, "b": TEXT}), 400, "'a', 'b'"),
    "pixels in JSON": ("application/json", json.dumps({"image": [[[1, 2, 3]] * 9] * 9}), 400, "base64"),
    "no image in JSON": ("application/json", '{"camera": "yard"}', 400, "'camera'"),
    "lone surrogate": ("application/json", '{"image": "\\ud800", "\\udfff": 1}', 400, "base64"),
    "lone surrogate's name": ("application/json", '{"\\udfff": 1}', 400, "udfff"),
    "many digits": ("application/json", '{"image": ' + "9" * 5000 + "}", 400, "JSON"),
    "deep": ("application/json", '{"image": ' + "[" * 900 + "]" * 900 + "}", 400, "base64"),
    "deeper": ("application/json", '{"image": ' + "[" * 90000, 400, "JSON"),
    "NaN": ("application/json", '{"image": NaN, "a": Infinity}', 400, "base64"),
    "what curl -d leaves": (URLENCODED, PHOTO.translate(None, b"\0\r\n"), 400, "--data-binary"),
    "a form without a photo": (URLENCODED, "camera=yard&%FF=%00", 400, "'camera'"),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("form", REFUSED)
def test_what_is_wrong_is_said(client, form, route):
    kind, body, status, says = REFUSED[form]
    response = post(client, route, kind, body)
    assert response.status_code == status, response.text
    answer = response.json()
    assert says in (answer["error"] if route == "deepstack" else answer["detail"])


@pytest.mark.parametrize(
    ("parts", "labels"),
    [
        (
            part(PHOTO, 'form-data; name="file[]"; filename=a') + part(OTHER, 'form-data; name="file[]"; filename=b'),
            "gr",
        ),
        (
            part(PHOTO, 'form-data; name="file[0]"; filename=a') + part(OTHER, 'form-data; name="File"; filename=b'),
            "gr",
        ),
        (part(PHOTO, 'form-data; name="pics"; filename=a') + part(OTHER, 'form-data; name="pics"; filename=b'), "gr"),
        (part(PHOTO, "form-data; name=pics; filename=a") + part(b"rubbish", "form-data; name=pics; filename=b"), "g-"),
        (part(PHOTO, "form-data; name=file") + part(b"text", "form-data; name=file") + part(b""), "g--"),
        (part(TEXT.encode(), "form-data; name=file") + CAMERA, "g"),
        (NAMELESS + NAMELESS.replace(PHOTO, OTHER), "gr"),
    ],
)
def test_batches(client, parts, labels):
    content = parts.replace(b"%s", b"file") + END
    response = client.post("/predict/batch", content=content, headers={"content-type": FORM})
    assert response.status_code == 200, response.text
    found = [
        result["predictions"][0]["label"][0] if "predictions" in result else "-"
        for result in response.json()["results"]
    ]
    assert "".join(found) == labels


V1, V2 = "/v1/models/tiny:predict", "/v2/models/tiny/infer"
BYTES = {"name": "bytes", "datatype": "BYTES", "shape": [1], "data": [TEXT]}
SPELLINGS = {
    "lines": LINES,
    "for URLs": base64.urlsafe_b64encode(PHOTO).decode(),
    "no padding": TEXT.rstrip("="),
    "percent-encoded": urllib.parse.quote(TEXT, safe=""),
    "data URL": f"data:image/jpeg;base64,{TEXT}",
}
STANDARD = {
    **{f"instances, {name}": (V1, {"instances": [{"b64": text}]}) for name, text in SPELLINGS.items()},
    **{f"bytes, {name}": (V2, {"inputs": [BYTES | {"data": [text]}]}) for name, text in SPELLINGS.items()},
    "AutoML": (V1, {"instances": [{"image_bytes": {"b64": TEXT}, "key": "cam1"}]}),
    "Vertex AI": (
        V1,
        {"instances": [{"content": TEXT, "mimeType": "image/jpeg"}], "parameters": {"maxPredictions": 5}},
    ),
    "any input's name": (V1, {"instances": [{"input_1": {"b64": TEXT}}]}),
    "text": (V1, {"instances": [TEXT]}),
    "one column": (V1, {"inputs": {"b64": TEXT}}),
    "one named column": (V1, {"inputs": {"input_1": [{"b64": TEXT}]}}),
    "one named picture": (V1, {"inputs": {"input_1": {"b64": TEXT}}}),
    "another name": (V2, {"inputs": [BYTES | {"name": "input_image", "shape": [1, 1]}]}),
    "longest id": (V2, {"id": "x" * 1000, "inputs": [BYTES]}),
}


@pytest.mark.parametrize("form", STANDARD)
def test_the_standard_protocols_take_it(client, form):
    path, request = STANDARD[form]
    response = client.post(path, json=request)
    assert response.status_code == 200, response.text
    answer = response.json()
    scores = answer["outputs"][0]["data"] if path == V2 else answer.get("predictions", answer.get("outputs"))[0]
    assert scores.index(max(scores)) == 1


@pytest.mark.parametrize("path", ["/predict", "/predict/batch", "/explain", "/v1/vision/scene", V1, V2])
@pytest.mark.parametrize(
    "sent", [["gzip"], ["deflate"], ["br", "gzip"], ["identity, GZIP"], ["x" * 5000], ["identity", "aws-chunked"]]
)
def test_an_encoded_body_is_refused_unread(client, path, sent):
    head = "".join(f"Content-Encoding: {value}\r\n" for value in sent)
    with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
        connection.settimeout(20)
        # The answer comes, though the body does not.
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n{head}\r\n".encode())
        answer = connection.recv(65536).decode()
    assert answer.startswith("HTTP/1.1 415 ")
    assert "accept-encoding: identity\r\n" in answer.lower()
    assert "Content-Encoding is" in answer
    assert len(answer) < 2000
    assert ("problem:unsupported-encoding" in answer) == path.startswith(("/predict", "/explain"))


@pytest.mark.parametrize("sent", ["identity", "", "Identity", "identity, identity", ","])
def test_identity_is_no_encoding(client, sent):
    assert client.post("/predict", content=PHOTO, headers={"content-encoding": sent}).status_code == 200


LONG = "n" * 40_000
HUGE = "n" * 900_000
ECHOED = {
    "names of parts": (
        "/predict",
        {
            "content": b"".join(part(b"", f'form-data; name="{LONG[:8000]}"') for _ in range(40)) + END,
            "headers": {"content-type": FORM},
        },
    ),
    "names of pictures": (
        "/predict/batch",
        {
            "content": b"".join(part(PHOTO, f'form-data; name="{at}{LONG[:8000]}"') for at in range(40)) + END,
            "headers": {"content-type": FORM},
        },
    ),
    "a part's text": (
        "/predict",
        {"content": part(LONG[:999].encode(), 'form-data; name="file"') + END, "headers": {"content-type": FORM}},
    ),
    "Content-Type": ("/predict", {"content": b"x", "headers": {"content-type": LONG[:1000]}}),
    "Content-Type of a batch": ("/predict/batch", {"content": b"x", "headers": {"content-type": LONG[:1000]}}),
    "keys": ("/predict", {"json": {str(at) + LONG: at for at in range(20)}}),
    "image": ("/predict", {"json": {"image": {"x": HUGE}}}),
    "address": ("/predict", {"json": {"image": "http://" + HUGE}}),
    "urlencoded names": (
        "/predict",
        {"content": "&".join([LONG[:9000]] * 40), "headers": {"content-type": URLENCODED}},
    ),
    "DeepStack's names": (
        "/v1/vision/scene",
        {
            "content": b"".join(part(b"", f'form-data; name="{LONG[:8000]}"') for _ in range(40)) + END,
            "headers": {"content-type": FORM},
        },
    ),
    "V2 id": (V2, {"json": {"id": HUGE, "inputs": [BYTES]}}),
    "V2 name": (V2, {"json": {"inputs": [BYTES | {"name": HUGE, "datatype": "FP32"}]}}),
    "V2 datatype": (V2, {"json": {"inputs": [BYTES | {"datatype": HUGE}]}}),
    "V2 shape": (V2, {"json": {"inputs": [BYTES | {"shape": [1] * 100_000}]}}),
    "V2 size": (V2, {"json": {"inputs": [BYTES | {"parameters": {"binary_data_size": HUGE}}]}}),
    "V2 count": (V2, {"json": {"inputs": [BYTES | {"shape": [10**4000]}]}}),
    "V2 outputs": (V2, {"json": {"inputs": [BYTES], "outputs": [{"name": HUGE}] * 1}}),
    "V2 element": (V2, {"json": {"inputs": [BYTES | {"data": ["http://" + HUGE]}]}}),
    "V2 header": (V2, {"content": b"{}", "headers": {"inference-header-content-length": LONG[:9000]}}),
    "V2 digits": (V2, {"content": b"{}", "headers": {"inference-header-content-length": "9" * 5000}}),
    "V2 model": ("/v2/models/" + LONG[:9000] + "/infer", {"json": {}}),
    "V2 version": ("/v2/models/tiny/versions/" + LONG[:9000] + "/infer", {"json": {}}),
    "V1 model": ("/v1/models/" + LONG[:9000] + ":predict", {"json": {}}),
    "V1 instance": (V1, {"json": {"instances": [{"b64": HUGE + "."}]}}),
    "V1 signature": (V1, {"json": {"instances": [TEXT], "signature_name": HUGE}}),
    "model": ("/predict?model=" + LONG[:9000], {"content": PHOTO}),
    "parameter": ("/predict?" + "&".join(f"{at}{LONG[:500]}=1" for at in range(100)), {"content": PHOTO}),
    "parameter's value": ("/predict?top_k=" + LONG[:9000], {"content": PHOTO}),
    "label": ("/explain?label=" + LONG[:9000], {"content": PHOTO}),
    "label of digits": ("/explain?label=" + "9" * 150, {"content": PHOTO}),
    "path": ("/" + LONG[:9000], {"content": PHOTO}),
    "method": ("/model", {"content": PHOTO}),
    "custom model": ("/v1/vision/custom/" + LONG[:9000], {"content": PHOTO}),
    "encoding": ("/predict", {"content": PHOTO, "headers": {"content-encoding": LONG[:9000]}}),
}


@pytest.mark.parametrize("case", ECHOED)
def test_an_error_says_little_of_what_it_is_about(client, case):
    """Whatever a client sends, ten times or a thousand times what fits."""
    path, request = ECHOED[case]
    response = client.post(path, **request)
    assert 400 <= response.status_code < 500, response.text[:500]
    assert len(response.content) < 3000, response.text[:3000]


@pytest.mark.parametrize(
    ("path", "request_"),
    [
        (V2, '{"id": "\\ud800", "inputs": [' + json.dumps(BYTES) + "]}"),
        (V2, json.dumps({"id": "x" * 1001, "inputs": [BYTES]})),
        (V2, '{"inputs": [{"name": "\\ud800", "datatype": "FP32", "shape": [1]}]}'),
        (V2, '{"inputs": [{"name": "x", "datatype": "\\ud800", "shape": [1]}]}'),
        (V2, '{"inputs": [{"name": "x", "datatype": "BYTES", "shape": "\\ud800"}]}'),
        (V2, '{"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": ["\\ud800"]}]}'),
        (V2, '{"inputs": [{"name": "x", "datatype": "BYTES", "shape": [NaN], "data": [Infinity]}]}'),
        (
            V2,
            '{"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 1e999}}]}',
        ),
        (V2, '{"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "parameters": {"\\ud800": 1}}]}'),
        (V2, '{"inputs": [' + json.dumps(BYTES) + '], "outputs": [{"name": "\\ud800"}]}'),
        (
            V2,
            '{"inputs": ['
            + json.dumps(BYTES)
            + '], "outputs": [{"name": "scores", "parameters": {"classification": NaN}}]}',
        ),
        (V1, '{"instances": ["\\ud800"]}'),
        (V1, '{"instances": [{"b64": "\\ud800"}]}'),
        (V1, '{"instances": [{"\\ud800": {"\\ud800": 1}}]}'),
        (V1, '{"instances": [' + '{"a":' * 400 + "1" + "}" * 400 + "]}"),
        (V1, '{"instances": [' + "[" * 400 + "]" * 400 + "]}"),
        (V1, '{"inputs": ' + '{"a":' * 400 + "1" + "}" * 400 + "}"),
        (V1, '{"signature_name": "\\ud800", "instances": [1]}'),
        (V1, '{"instances": [' + "9" * 5000 + "]}"),
        (V1, '{"instances": [NaN, -Infinity]}'),
    ],
)
def test_strange_json_is_the_clients_mistake(client, path, request_):
    response = client.post(path, content=request_)
    assert response.status_code == 400, response.text
    assert response.json()["error"]


def test_unknown_is_an_empty_label_for_deepstack(tmp_path):
    from tests import tiny_model

    model = tiny_model.write(tmp_path / "m.onnx", tiny_model.contract(unknown_below=0.9))
    grey = encode(solid((120, 120, 120)), "PNG")
    with serving(model) as client:
        answer = client.post("/v1/vision/scene", files={"image": grey}).json()
        assert client.post("/predict", content=grey).json()["unknown"]
        assert (answer["success"], answer["label"]) == (True, "")
        assert answer["confidence"] == pytest.approx(1 / 3, abs=0.01)
        assert client.post("/v1/vision/scene", files={"image": PHOTO}).json()["label"] == LABEL
