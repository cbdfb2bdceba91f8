"""``doctor --bench``, with less patience than it has."""

import json
from dataclasses import replace

import pytest

from app.cli import benchmark
from app.cli.benchmark import FULL_HD, PHONE, SMALL, Size, enlarged, golden
from app.errors import ModelError
from app.inference import imaging
from app.inference.model import Model


@pytest.fixture
def hasty(monkeypatch):
    for name, value in {"_SECONDS": 0.5, "_WARM_UP_S": 0.1, "_PHOTOS": 2}.items():
        monkeypatch.setattr(benchmark, name, value)
    # What a phone sends is not made for a test.
    monkeypatch.setattr(benchmark, "_SIZES", (SMALL, FULL_HD, replace(PHONE, width=400, height=300, bytes=40_000)))


def test_the_line(tiny, hasty, monkeypatch, capsys):
    monkeypatch.setenv("CLASSIFIER_MODEL", str(tiny))
    monkeypatch.setenv("CLASSIFIER_WORKERS", "1")
    assert benchmark.run(as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["workers"], found["model"]) == (1, "tiny fp32")
    assert list(found["one_core_ms"]) == ["500x375", "1080p", "12 MP"]
    assert min(*found["one_core_ms"].values(), found["photos_a_second"]) > 0
    row = benchmark.Figures(**found).row()
    assert row.startswith(f"| {found['kernels']} | 1 | tiny fp32 | ")
    assert row.count("|") == 9


def test_a_service_that_does_not_start(tiny, tmp_path):
    model = Model(tiny)
    model.path = tmp_path / "absent.onnx"
    with pytest.raises(ModelError, match=r"did not start: .*absent\.onnx"), benchmark._served(model, 1):
        pass


def test_an_enlarged_photo_has_the_size_that_it_shall_have(tiny):
    picture = golden(Model(tiny))
    for size in (SMALL, FULL_HD, Size("wide", 1000, 90, 30_000)):
        photo = enlarged(picture, size)
        assert imaging.size(photo) == (size.width, size.height)
        assert 0.7 * size.bytes < len(photo) <= size.bytes
    assert enlarged(picture, SMALL) == enlarged(picture, SMALL) != enlarged(picture, SMALL, seed=1)
    # No quality makes it that small.
    assert len(enlarged(picture, replace(SMALL, bytes=1))) > 1
