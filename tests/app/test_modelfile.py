"""What the checksum and the signature notice: everything."""

import hashlib

import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ModelError
from app.modelfile import ModelFile, digest, public_key
from app.settings import BUNDLED
from tests import tiny_model

KEY = Ed25519PrivateKey.generate()


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    """A signed model file, and who verifies it."""
    folder = tmp_path_factory.mktemp("signed")
    public = folder / "key.pub"
    public.write_bytes(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return tiny_model.write(folder / "m.onnx", sign=KEY.sign), public_key(public)


def test_it_is_read_without_the_runtime(signed):
    path, verify = signed
    file, data = ModelFile.read(path, verify)
    assert (file.contract, file.sealed, data) == (tiny_model.contract(), True, path.read_bytes())


def test_the_digest_is_that_of_the_file_without_what_is_made_from_it(signed):
    path, _ = signed
    proto = onnx.load(path)
    kept = [entry for entry in proto.metadata_props if entry.key not in ("sha256", "signature")]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    bare = proto.SerializeToString(deterministic=True)
    assert digest(path.read_bytes())[0] == digest(bare)[0] == hashlib.sha256(bare).digest()


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


def test_a_checksum_alone_notices_damage_unless_it_is_gone_itself(tmp_path):
    path = tiny_model.write(tmp_path / "m.onnx")
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        try:
            file, _ = ModelFile.read(path)
        except ModelError:
            continue
        assert not file.sealed


def test_what_protobuf_would_pass_over_is_signed_too(signed, tmp_path):
    path, verify = signed
    changed = tmp_path / "m.onnx"
    # An unknown field; and field 14 as a number whose bytes look like an entry that is left out.
    for extra in (b"\xfa\x01\x01x", b"\x71\x0a\x06sha256"):
        changed.write_bytes(path.read_bytes() + extra)
        with pytest.raises(ModelError, match="checksum"):
            ModelFile.read(changed, verify)


def test_a_key_that_is_there_twice(tmp_path):
    path = tiny_model.write(tmp_path / "m.onnx")
    proto = onnx.load(path)
    proto.metadata_props.add(key="labels", value='["red", "blue", "green"]')
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="'labels' twice"):
        ModelFile.read(path)


@given(st.binary(max_size=200))
def test_rubbish_is_refused_or_has_no_contract(data):
    try:
        digest(data)
    except ModelError:
        return


def test_other_keys(tmp_path):
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

    path = tmp_path / "key.pub"
    public = generate_private_key(SECP256R1()).public_key()
    path.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(ModelError, match="not an Ed25519 key"):
        public_key(path)
    with pytest.raises(ModelError, match="not a public key"):
        public_key(tmp_path / "absent")


def test_the_model_in_the_box_is_sealed():
    (path,) = BUNDLED.glob("*.onnx")
    assert ModelFile.read(path)[0].sealed
