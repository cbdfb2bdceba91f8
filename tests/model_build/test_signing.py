"""``python -m model_build sign``: what it writes is what the service checks."""

import subprocess

import onnx
import pytest

from app.model import Model
from app.modelfile import ModelFile, public_key
from model_build.__main__ import main
from tests import tiny_model


@pytest.fixture
def keys(tmp_path):
    private, public = tmp_path / "models.key", tmp_path / "models.pub"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    return private, public


def test_sign_with_keys_made_by_openssl(tmp_path, keys, capsys):
    private, public = keys
    path = tiny_model.write(tmp_path / "m.onnx")
    before = path.read_bytes()
    assert main(["sign", str(path), "--key", str(private)]) == 0
    file, _ = ModelFile.read(path, public_key(public))
    assert file.digest.hex() in capsys.readouterr().err
    assert Model(path).contract == tiny_model.contract()
    # Ed25519 is deterministic: signing again changes nothing, and without a key the signature goes.
    signed = path.read_bytes()
    assert main(["sign", str(path), "--key", str(private)]) == 0
    assert path.read_bytes() == signed
    assert main(["sign", str(path)]) == 0
    assert path.read_bytes() == before


def test_a_file_without_a_checksum_gets_one(tmp_path):
    path = tiny_model.write(tmp_path / "m.onnx")
    sealed = path.read_bytes()
    proto = onnx.load(path)
    entry = next(entry for entry in proto.metadata_props if entry.key == "sha256")
    proto.metadata_props.remove(entry)
    onnx.save(proto, path)
    assert not ModelFile.read(path)[0].sealed
    assert main(["sign", str(path)]) == 0
    assert path.read_bytes() == sealed


def test_what_is_not_signed(tmp_path, keys, capsys):
    private, public = keys
    path = tiny_model.write(tmp_path / "m.onnx")
    before = path.read_bytes()
    for arguments, message in (
        ([str(tmp_path / "absent.onnx")], "there is no model file"),
        ([str(private)], "not a loadable ONNX model"),
        ([str(path), "--key", str(public)], "not a private key"),
        ([str(path), "--key", str(tmp_path / "absent")], "not a private key"),
    ):
        assert main(["sign", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert path.read_bytes() == before
    path.write_bytes(before.replace(b'"green"', b'"olive"'))
    assert main(["sign", str(path), "--key", str(private)]) == 2
    assert "damaged" in capsys.readouterr().err
