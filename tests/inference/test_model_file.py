"""What the checksum and the signature notice: everything."""

import base64
import hashlib
import os

import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ModelError
from app.inference.model import Model
from app.inference.model_file import ModelFile, Seal, public_key, trailer
from app.registry.source import BUNDLED
from model_build.export import publish
from tests import tiny_model

KEY = Ed25519PrivateKey.generate()
#: ONNX's own classes write what the trailer has to be.
CHECKSUM = 14 << 3 | 2


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    """A signed model file, and who verifies it."""
    folder = tmp_path_factory.mktemp("signed")
    public = folder / "key.pub"
    public.write_bytes(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return tiny_model.write(folder / "m.onnx", sign=KEY.sign), public_key(public)


@pytest.fixture
def body():
    return tiny_model.proto().SerializeToString(deterministic=True)


def test_a_signed_file(signed):
    path, verify = signed
    file, data = ModelFile.read(path, verify)
    assert (file.path, file.has_checksum, data) == (path, True, path.read_bytes())


@pytest.mark.parametrize("signature", [None, bytes(range(64))])
def test_the_trailer_is_what_onnx_would_write(signature):
    digest = hashlib.sha256(b"").digest()
    proto = onnx.ModelProto()
    proto.metadata_props.add(key="sha256", value=digest.hex())
    if signature:
        proto.metadata_props.add(key="signature", value=base64.b64encode(signature).decode())
    assert trailer(digest, signature) == proto.SerializeToString(deterministic=True)
    assert len(trailer(digest, signature)) == (179 if signature else 76)


def test_the_digest_is_that_of_all_bytes_before_the_trailer(signed):
    data = signed[0].read_bytes()
    seal = Seal.of(data)
    assert seal.digest == hashlib.sha256(data[:-179]).digest()
    assert data == data[: seal.body] + trailer(seal.digest, seal.signature)
    # And any other reader sees both, and the same model.
    shown = {entry.key: entry.value for entry in onnx.load_from_string(data).metadata_props}
    assert shown["sha256"] == seal.digest.hex()


def test_any_change_of_a_byte_is_noticed(signed, tmp_path):
    path, verify = signed
    data, changed = path.read_bytes(), tmp_path / "changed.onnx"
    for at in range(len(data)):
        changed.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        with pytest.raises(ModelError):
            ModelFile.read(changed, verify)


def test_any_cut_is_noticed(signed, tmp_path):
    path, verify = signed
    data, cut = path.read_bytes(), tmp_path / "cut.onnx"
    for size in range(len(data)):
        cut.write_bytes(data[:size])
        with pytest.raises(ModelError):
            ModelFile.read(cut, verify)
        cut.write_bytes(data[size + 1 :])
        with pytest.raises(ModelError):
            ModelFile.read(cut, verify)


def test_a_checksum_alone_notices_damage_unless_it_is_gone_itself(tmp_path):
    path = tiny_model.write(tmp_path / "m.onnx")
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        try:
            file, _ = ModelFile.read(path)
        except ModelError:
            continue
        assert not file.has_checksum


def varint(number: int) -> bytes:
    written = b""
    while number > 0x7F:
        written, number = written + bytes([number & 0x7F | 0x80]), number >> 7
    return written + bytes([number])


def field(tag: int, value: bytes) -> bytes:
    return varint(tag) + varint(len(value)) + value


def forged(data: bytes, verify) -> dict[str, bytes]:
    """Files that somebody without the key makes of a signed one."""
    seal = Seal.of(data)
    body, end = data[: seal.body], data[seal.body :]
    other = body.replace(b'"green"', b'"olive"')
    digest = hashlib.sha256(other).digest()
    entry = field(CHECKSUM, field(0x0A, b"labels") + field(0x12, b'["a", "b", "c"]'))
    # A reader that keeps 32 bits of a tag sees labels, one that keeps 64 sees an entry that it leaves out.
    hidden = field(
        CHECKSUM,
        field(0x0A, b"sha256")
        + field(0x12, seal.digest.hex().encode())
        + field(1 << 32 | 0x0A, b"labels")
        + field(1 << 32 | 0x12, b'["a", "b", "c"]'),
    )
    return {
        "other body": other + end,
        "other body, its own checksum, the old signature": other + trailer(digest, seal.signature),
        "other body, its own checksum, no signature": other + trailer(digest),
        "other body, somebody else's signature": other + trailer(digest, Ed25519PrivateKey.generate().sign(digest)),
        "hidden entry at the end": data + hidden,
        "hidden entry before the trailer": body + hidden + end,
        "hidden entry within the trailer": body + end[:76] + hidden + end[76:],
        "one more entry at the end": data + entry,
        "an unknown field at the end": data + b"\xfa\x01\x01x",
        "a number as entry": data + b"\x71\x0a\x06sha256",
        "garbage at the end": data + b"\0",
        "trailer twice": data + end,
        "signature twice": data + end[76:],
        "signature before checksum": body + end[76:] + end[:76],
        "checksum only": body + end[:76],
        "signature only": body + end[76:],
        "two files": data + data,
        "another model and then this trailer": other + body[len(other) :] + end,
        "a checksum around": data + trailer(hashlib.sha256(data).digest()),
        "a checksum around with the old signature": data + trailer(hashlib.sha256(data).digest(), seal.signature),
        "checksum in capitals": body + end[:12] + end[12:76].upper() + end[76:],
        "base64 with other unused bits": data[:-3] + bytes([data[-3] + 1]) + data[-2:],
        "a length in more bytes than it needs": body + end[:1] + bytes([end[1] | 0x80, 0]) + end[2:],
    }


def test_what_is_made_of_a_signed_file_without_the_key(signed, tmp_path):
    path, verify = signed
    data, made = path.read_bytes(), tmp_path / "m.onnx"
    for name, forgery in forged(data, verify).items():
        made.write_bytes(forgery)
        with pytest.raises(ModelError, match=r"damaged|not signed|not made by the key"):
            pytest.fail(f"{name}: {ModelFile.read(made, verify)}")


@pytest.mark.parametrize("kept", [-1, -100, 1000, 0])
def test_of_a_cut_file_nobody_can_tell_whether_it_was_signed(signed, tmp_path, kept):
    path, verify = signed
    cut = tmp_path / "m.onnx"
    cut.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelError, match="not signed, truncated, not yet complete"):
        ModelFile.read(cut, verify)


def test_an_older_seal_within_the_body_counts_for_nothing(signed, tmp_path, body):
    _, verify = signed
    older = body + trailer(hashlib.sha256(b"something else").digest(), bytes(64))
    path = tmp_path / "m.onnx"
    path.write_bytes(publish.seal(older, KEY.sign))
    file, data = ModelFile.read(path, verify)
    assert file.digest == hashlib.sha256(older).digest()
    assert Model(path, data=data).contract == tiny_model.contract()


@given(st.binary(max_size=300), st.booleans())
def test_every_body_has_one_seal(body, with_signature):
    digest = hashlib.sha256(body).digest()
    signature = KEY.sign(digest) if with_signature else None
    assert Seal.of(body + trailer(digest, signature)) == Seal(len(body), digest, True, signature, True)


@given(st.binary(max_size=300))
def test_the_end_of_anything_can_be_read(data):
    seal = Seal.of(data)
    if seal.has_checksum and seal.fits:
        assert data == data[: seal.body] + trailer(seal.digest, seal.signature)


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo.onnx")
    (tmp_path / "directory.onnx").mkdir()
    (tmp_path / "device.onnx").symlink_to("/dev/zero")
    (tmp_path / "loop.onnx").symlink_to("loop.onnx")
    (tmp_path / "dangling.onnx").symlink_to("nowhere")
    for name, reason in (
        ("fifo", "no regular file"),
        ("directory", "no regular file"),
        ("device", "no regular file"),
        ("loop", "no model file"),
        ("dangling", "no model file"),
        ("absent", "no model file"),
    ):
        with pytest.raises(ModelError, match=reason):
            ModelFile.read(tmp_path / f"{name}.onnx")


def test_a_fifo_that_comes_in_between_is_not_waited_for(tmp_path, monkeypatch):
    path = tmp_path / "m.onnx"
    os.mkfifo(path)
    monkeypatch.setattr(type(path), "is_file", lambda self: True)
    with pytest.raises(ModelError, match="no regular file"):
        ModelFile.read(path)


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    path = tiny_model.write(tmp_path / "m.onnx")
    size = path.stat().st_size
    assert ModelFile.read(path, most=size)[0].has_checksum
    with pytest.raises(ModelError, match="CLASSIFIER_MAX_MODEL_BYTES"):
        ModelFile.read(path, most=size - 1)
    # More than this machine has: it takes no time, and no memory.
    with path.open("wb") as file:
        file.truncate(1 << 42)
    with pytest.raises(ModelError, match=r"4398046\.5 MB"):
        ModelFile.read(path)


def test_a_file_that_grows_while_it_is_read(tmp_path, monkeypatch):
    path = tiny_model.write(tmp_path / "m.onnx")
    real, size = os.fstat, path.stat().st_size

    def before_it_grew(fd):
        found = list(real(fd))
        found[6] = size - 100
        return os.stat_result(found)

    monkeypatch.setattr(os, "fstat", before_it_grew)
    with pytest.raises(ModelError, match="CLASSIFIER_MAX_MODEL_BYTES"):
        ModelFile.read(path, most=size - 50)


def test_other_keys(tmp_path):
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

    path = tmp_path / "key.pub"
    public = generate_private_key(SECP256R1()).public_key()
    path.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(ModelError, match="not an Ed25519 key"):
        public_key(path)
    with pytest.raises(ModelError, match="not a public key"):
        public_key(tmp_path / "absent")


def test_the_bundled_model_has_a_checksum():
    (path,) = BUNDLED.glob("*.onnx")
    assert ModelFile.read(path)[0].has_checksum
