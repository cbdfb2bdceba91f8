import os

import pytest
from pydantic import ValidationError

from app import settings
from app.errors import ModelError
from app.settings import Settings


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "MODELS", tmp_path)

    def make(*names):
        for age, name in enumerate(names):
            (tmp_path / name).touch()
            os.utime(tmp_path / name, (1000 + age, 1000 + age))
        return tmp_path

    return make


def names(**values):
    return [path.name for path in Settings(**values).model_paths()]


def test_the_newest_int8_model_is_served(folder):
    folder("b.int8.onnx", "a.int8.onnx", "c.fp32.onnx")
    assert names() == ["a.int8.onnx"]


def test_fp32_where_there_is_no_int8(folder):
    folder("c.fp32.onnx")
    assert names() == ["c.fp32.onnx"]


def test_the_bundled_model_where_there_is_no_other(folder):
    folder()
    (path,) = Settings().model_paths()
    assert path.parent == settings.BUNDLED
    assert path.is_file()
    assert Settings().model_source(path).startswith("bundled with the service")
    built = folder("a.fp32.onnx") / "a.fp32.onnx"
    assert Settings().model_paths() == [built]
    assert Settings().model_source(built).startswith("the newest one in")


def test_precision(folder):
    models = folder("a.fp32.onnx", "a.int8.onnx", "b.int8.onnx")
    assert names(precision="fp32", model=models / "a.int8.onnx") == ["a.fp32.onnx"]
    assert names(precision="auto", model=models / "a.int8.onnx") == ["a.int8.onnx", "a.fp32.onnx"]
    assert names(precision="auto") == ["b.int8.onnx"]
    with pytest.raises(ModelError, match=r"b\.fp32"):
        names(precision="fp32")


def test_the_environment_is_read(monkeypatch):
    monkeypatch.setenv("CLASSIFIER_PORT", "1234")
    monkeypatch.setenv("CLASSIFIER_MODEL", "x.onnx")
    assert (Settings().port, names()) == (1234, ["x.onnx"])


@pytest.mark.parametrize("value", [{"port": -1}, {"max_pixels": 0}, {"log_level": "loud"}, {"precision": "int4"}])
def test_nonsense_is_refused(value):
    with pytest.raises(ValidationError):
        Settings(**value)


def test_lanes_can_be_set():
    assert Settings(lanes=3).cpus().count == 3
    assert Settings().cpus().count >= 1
