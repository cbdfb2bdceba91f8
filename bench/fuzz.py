"""Coverage-guided fuzzing of everything that reads a stranger's bytes: ``python -m bench.fuzz {bodies,images,models}``.

Needs atheris beside the runtime (``pip install -r requirements/runtime.txt``, then ``pip install atheris``). Ends with
the input in a file as soon as something else is raised than what the function documents, a run takes longer than 10 s,
or the process more than 1 GB.
"""

import argparse
import base64
import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path

import atheris
from PIL import Image

with atheris.instrument_imports(include=["app", "python_multipart", "PIL"]):
    from app.errors import ModelError, RequestError
    from app.http.body_reader import Body
    from app.http.multipart import parameters
    from app.http.protocols.open_inference_tensors import ENCODED, Inference
    from app.http.protocols.tensorflow_serving import _Predict
    from app.inference import imaging
    from app.inference.contract import Contract, Golden
    from app.inference.decode_budget import DecodeBudget
    from app.inference.imaging import Resize
    from app.inference.model import Model
    from app.inference.model_file import Seal, trailer
    from app.registry.source import BUNDLED

RULE = Resize(height=64, width=64, crop=0.875, filter="bilinear")
DECODE_BUDGET = DecodeBudget(1_000_000, 50_000_000)
(MODEL,) = BUNDLED.glob("*.onnx")
CONTRACT = Model(MODEL).contract
# As many parts as any, and small: a fuzzer has no use for 202 labels and a photo.
SMALL = replace(
    CONTRACT,
    labels=CONTRACT.labels[:3],
    ids=CONTRACT.ids[:3],
    golden=Golden(b"photo", {0: 0.9, 1: 0.1}, 0.1, CONTRACT.labels[0]),
    provenance={"weights": "none"},
    measured={"accuracy": 0.5},
).to_metadata()


def images(data: bytes) -> None:
    """A picture: its header, its pixels, the part that the model sees, the preview."""
    try:
        imaging.load(data, RULE, DECODE_BUDGET)
        imaging.crop_box(data, RULE)
        imaging.preview(data, 100, DECODE_BUDGET)
    except RequestError:
        pass


def bodies(data: bytes) -> None:
    """A body in each form; the first byte says which."""
    form, rest = data[:1], data[1:]
    try:
        match form:
            case b"m":
                body = Body("multipart/form-data", {"boundary": "b"}, rest)
                body.text("api_key")
                body.image()
            case b"n":
                Body("multipart/form-data", {"boundary": "b"}, rest).images(3, "image")
            case b"x":
                Body("multipart/x-mixed-replace", {}, rest).image()
            case b"j":
                Body("application/json", {}, rest).image()
            case b"f":
                body = Body("application/x-www-form-urlencoded", {}, rest)
                body.text("api_key")
                body.image()
            case b"r":
                Body("", {}, rest).image()
            case b"h":
                parameters(rest)
            case b"t":
                _Predict.parse(rest, CONTRACT, 4)
            case b"v":
                Inference.parse(rest, None, CONTRACT, 4)
            case _:
                length, _, body_ = rest.partition(b"\n")
                Inference.parse(body_, length.decode("latin-1"), CONTRACT, 4)
    except RequestError:
        pass


def models(data: bytes) -> None:
    """The end of a model file, and a contract: what a file is asked before and after ONNX Runtime reads it."""
    seal = Seal.of(data)
    if seal.has_checksum and seal.fits:
        assert data[seal.body :] == trailer(seal.digest, seal.signature)
    parts = data.decode(errors="surrogateescape").split("\0")
    changed = dict(zip(parts[::2], parts[1::2], strict=False))
    with contextlib.suppress(ModelError):
        json.dumps(asdict(Contract.from_metadata(SMALL | changed)), allow_nan=False, default=repr)


def seeds(target: Callable[[bytes], None]) -> list[bytes]:
    """Inputs to begin with."""
    picture = Image.effect_noise((40, 30), 90).convert("RGB")
    files = []
    for kind in ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF"):
        for one in (picture, picture.convert("L"), picture.quantize(16) if kind in ("PNG", "GIF") else picture):
            buffer = io.BytesIO()
            one.save(buffer, kind, **({"progressive": True} if one is picture and kind == "JPEG" else {}))
            files.append(buffer.getvalue())
    if target is images:
        return files
    if target is models:
        signed = sha256(b"").digest()
        return [
            MODEL.read_bytes()[-300:],
            trailer(signed),
            trailer(signed, bytes(64)),
            *(f"{key}\0{value}".encode() for key, value in SMALL.items()),
        ]
    text = base64.b64encode(files[3]).decode()
    part = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    tensor = {"name": ENCODED, "datatype": "BYTES", "shape": [1]}
    asked = {
        "inputs": [tensor | {"data": [text]}],
        "outputs": [{"name": "scores", "parameters": {"classification": 3}}],
    }
    head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": len(files[3]) + 4}}]}).encode()
    return [
        b"m" + part % (b"file", files[0]) + part % (b"api_key", b"k") + b"--b--\r\n",
        b"n" + part % (b"image", files[0]) + part % (b"image", files[1]) + b"--b--\r\n",
        b"m" + part.replace(b"\r\n", b"\n") % (b"photo", files[0]) + b"--b\n",
        b"m" + part.replace(b"name", b"name*") % (b"UTF-8''file", text.encode()),
        b"m"
        + (b'--b\r\nContent-Disposition: form-data;\r\n name="file"\r\nContent-Transfer-Encoding: base64\r\n\r\n')
        + base64.encodebytes(files[0])
        + b"\r\n--b--",
        b"n--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\n" + files[0] + b"\r\n--c--\r\n--b--",
        b"x--frame\r\nContent-Type: image/jpeg\r\nContent-Length: 9\r\n\r\n" + files[0] + b"\r\n--frame\r\n",
        b"j" + json.dumps({"image": text}).encode(),
        b"j" + json.dumps({"image": {"type": "Buffer", "data": list(files[3][:60])}}).encode(),
        b"j"
        + json.dumps({"a": [{"b64": f"data:image/png;base64,{base64.encodebytes(files[3]).decode()}"}]}).encode(
            "utf-16"
        ),
        b"j" + json.dumps({"image": dict(enumerate(files[3][:60])), "b": repr(text.encode())}).encode(),
        b"f" + b"a=b&image=" + text.replace("+", "%2B").replace("/", "%2f").encode(),
        b"f" + b"file=" + text.replace("+", " ").encode() + b"&api_key=k",
        b"r" + base64.urlsafe_b64encode(files[3]).rstrip(b"="),
        b"r" + files[0],
        b"h" + b"form-data; name='file'; filename*=UTF-8''a%20b; boundary=\"a\\\"b\"",
        b"t" + json.dumps({"instances": [{"b64": text}]}).encode(),
        b"t" + json.dumps({"inputs": {"image": [[[1, 2, 3]]]}, "signature_name": "serving_default"}).encode(),
        b"v" + json.dumps(asked).encode(),
        b"b%d\n" % len(head) + head + len(files[3]).to_bytes(4, "little") + files[3],
    ]


def main() -> None:
    """Runs one for a while; what was found lies in the working directory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=["bodies", "images", "models"])
    parser.add_argument("--seconds", type=int, default=200)
    options = parser.parse_args()
    target = {"bodies": bodies, "images": images, "models": models}[options.target]
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds(target)):
            Path(corpus, str(number)).write_bytes(seed)
        limits = [f"-max_total_time={options.seconds}", "-timeout=10", "-rss_limit_mb=1000", "-max_len=20000"]
        atheris.Setup([sys.argv[0], *limits, "-print_final_stats=1", corpus], target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
