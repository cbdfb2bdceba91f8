"""``python -m model_build sign``: what it writes is what the service checks."""

import base64
import hashlib
import subprocess

import onnx
import pytest

from app.errors import ModelError
from app.inference.model import Model
from app.inference.model_file import ModelFile, public_key
from model_build.__main__ import main
from model_build.errors import InputError
from model_build.export import publish, signing
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


def rewritten(path, order) -> None:
    """The file with its metadata in another order, as an earlier version or another tool may have left it."""
    proto = onnx.load(path)
    entries = [(entry.key, entry.value) for entry in proto.metadata_props]
    del proto.metadata_props[:]
    for key, value in order(entries):
        proto.metadata_props.add(key=key, value=value)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def test_a_file_without_a_checksum_gets_one(tmp_path):
    path = tiny_model.write(tmp_path / "m.onnx")
    has_checksum = path.read_bytes()
    rewritten(path, lambda entries: [entry for entry in entries if entry[0] != "sha256"])
    assert not ModelFile.read(path)[0].has_checksum
    assert main(["sign", str(path)]) == 0
    assert path.read_bytes() == has_checksum


@pytest.mark.parametrize("order", [reversed, sorted], ids=["reversed", "sorted"])
def test_a_file_that_was_signed_elsewhere_in_its_metadata_is_signed_again(tmp_path, keys, order):
    private, public = keys
    path = tiny_model.write(tmp_path / "m.onnx")
    assert main(["sign", str(path), "--key", str(private)]) == 0
    rewritten(path, order)
    # The checksum that stands in it is that of what is left without it, which an earlier version compared.
    bare = publish.without_seal(tiny_model.write(tmp_path / "x.onnx").read_bytes())
    proto = onnx.load_from_string(bare)
    entries = [(entry.key, entry.value) for entry in proto.metadata_props]
    del proto.metadata_props[:]
    for key, value in order(entries):
        proto.metadata_props.add(key=key, value=value)
    stated = hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()
    rewritten(path, lambda entries: [(key, stated if key == "sha256" else value) for key, value in entries])
    with pytest.raises(ModelError, match="does not end in a signature"):
        ModelFile.read(path, public_key(public))
    assert main(["sign", str(path), "--key", str(private)]) == 0
    file, data = ModelFile.read(path, public_key(public))
    assert file.has_checksum
    assert Model(path, data=data).contract == tiny_model.contract()
    assert [entry.key for entry in onnx.load(path).metadata_props].count("signature") == 1
    # One that does not have its own checksum is not made whole by signing it.
    rewritten(path, lambda entries: [(k, "0" * 64 if k == "sha256" else v) for k, v in order(entries)])
    assert main(["sign", str(path), "--key", str(private)]) == 2


def test_what_earlier_versions_signed_at_the_end_stays_valid(tmp_path, keys):
    """They wrote the same bytes: the signature of the digest of everything else, both entries last."""
    private, public = keys
    proto = tiny_model.proto()
    key = signing.private_key(private)
    digest = hashlib.sha256(proto.SerializeToString(deterministic=True)).digest()
    proto.metadata_props.add(key="sha256", value=digest.hex())
    proto.metadata_props.add(key="signature", value=base64.b64encode(key(digest)).decode())
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString(deterministic=True))
    assert ModelFile.read(path, public_key(public))[0].digest == digest


def test_openssl_agrees(tmp_path, keys):
    """What docs/models/sign.md says about checking a file by hand."""
    private, _ = keys
    path = tiny_model.write(tmp_path / "m.onnx")
    assert main(["sign", str(path), "--key", str(private)]) == 0
    script = (
        "head -c -179 m.onnx | openssl dgst -sha256 -binary > digest && tail -c 88 m.onnx | base64 -d > signature && "
        "openssl pkeyutl -verify -pubin -inkey models.pub -rawin -in digest -sigfile signature"
    )
    ran = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Signature Verified Successfully" in ran.stdout, ran.stderr


def test_weights_elsewhere_are_not_signed(tmp_path, keys, capsys, monkeypatch):
    private, _ = keys
    monkeypatch.chdir(tmp_path)
    proto = tiny_model.proto(explainable=False)
    onnx.save(proto, "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert main(["sign", "m.onnx", "--key", str(private)]) == 2
    assert "weights in other files" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes", [{"name": "a/b"}, {"name": ".."}, {"name": "x" * 129}, {"labels": ("a\n", "b", "c")}]
)
def test_what_no_service_would_take_is_not_written(tmp_path, changes):
    with pytest.raises(InputError):
        publish.publish(tiny_model.proto(), tiny_model.contract(**changes), tmp_path / "models")
    assert not (tmp_path / "models").exists()


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


@pytest.mark.parametrize("command", ["teach", "train"])
def test_a_name_is_refused_before_anything_is_computed(tmp_path, command, capsys):
    model = [str(tiny_model.write(tmp_path / "m.onnx"))] if command == "teach" else []
    (tmp_path / "photos").mkdir()
    assert main([command, *model, str(tmp_path / "photos"), "--name", "a/b"]) == 2
    assert "--name: the model's name is 'a/b'" in capsys.readouterr().err
