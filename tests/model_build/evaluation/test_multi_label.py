"""Several labels a photo: figures against numbers worked out by hand, and the tiny model as a file and as a service."""

import contextlib
import json

import numpy as np
import pytest

from model_build.__main__ import main
from model_build.errors import InputError
from model_build.evaluation.multi_label import average_precision, measure
from model_build.evaluation.remote_target import RemoteTarget
from model_build.evaluation.targets import InProcess
from tests import tiny_model
from tests.conftest import serving
from tests.photos import encode, solid

#: What the photos show by the table, and their colours: the model sees a colour over half of white.
PHOTOS = {
    "both.png": ("red|green", (250, 200, 10)),
    "red.png": ("red", (250, 10, 10)),
    "missed.png": ("red|blue", (250, 10, 100)),
    "wrong.png": ("green", (10, 250, 250)),
    "none.png": ("", (10, 10, 10)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("several")
    for name, (_, colour) in PHOTOS.items():
        (root / name).write_bytes(encode(solid(colour), "PNG"))
    (root / "stranger.png").write_bytes(encode(solid((1, 2, 3)), "PNG"))
    rows = [f"{name},{labels}" for name, (labels, _) in PHOTOS.items()]
    (root / "labels.csv").write_text("\n".join(["file,label", *rows, "red.png,violet", "absent.png,red"]))
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model.write(tmp_path_factory.mktemp("model") / "tiny.onnx", multi_label=True)


def test_average_precision_by_hand():
    # Found first, third and fifth: (1 + 2/3 + 3/5) / 3.
    truth = np.array([True, False, True, False, True])
    assert average_precision(truth, np.array([0.9, 0.8, 0.7, 0.6, 0.5])) == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    # Equal scores come together, whatever their order.
    assert average_precision(truth, np.full(5, 0.5)) == pytest.approx(3 / 5)
    assert average_precision(truth[::-1], np.full(5, 0.5)) == pytest.approx(3 / 5)


def test_figures_by_hand(model, folder):
    found = measure(InProcess(model), folder)
    assert [found.names(row) for row in found.truth] == [["red", "green"], ["red", "blue"], [], ["red"], ["green"]]
    assert [found.names(row) for row in found.said] == [["red", "green"], ["red"], [], ["red"], ["green", "blue"]]
    rows = {row.label: (row.photos, row.precision, row.recall, row.f1) for row in found.per_class()}
    assert rows == {"red": (3, 1, 1, 1), "green": (2, 1, 1, 1), "blue": (1, 0, 0, 0)}
    # Blue is second of five by its score.
    assert found.mean_average_precision == pytest.approx((1 + 1 + 1 / 2) / 3)
    assert found.f1 == (pytest.approx(2 / 3), pytest.approx(2 * 5 / (6 + 6)))
    assert found.exact.mean() == pytest.approx(3 / 5)
    low, high = found.interval
    assert 0 <= low <= found.mean_average_precision <= high <= 1
    assert found.figures()["classified as unknown"] == "0.0%, 100.0% of 1 that show none"
    assert set(found.left_out) == {
        "labels.csv: absent.png: named in a table, but not there",
        "stranger.png: named in no table",
        "violet: a label that the model has not",
    }


def test_a_service_as_its_file(model, folder):
    with serving(model) as client, contextlib.closing(RemoteTarget(f"{client.base_url}")) as target:
        served = measure(target, folder)
    assert served.scores == pytest.approx(measure(InProcess(model), folder).scores, abs=1e-6)
    assert served.threshold == 0.5


def test_the_command(model, folder, tmp_path, capsys):
    outputs = ["--json", str(tmp_path / "all.json"), "--html", str(tmp_path / "report.html")]
    assert main(["evaluate", str(model), str(folder), *outputs]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "83.3% (" in printed
    assert "blue │ 1 │ 0.0% │ 50.0%" in printed
    (document,) = json.loads((tmp_path / "all.json").read_text())["models"]
    assert document["answers"][1] == {"file": "missed.png", "shows": ["red", "blue"], "said": ["red"], "unknown": False}
    assert "missed: blue" in (tmp_path / "report.html").read_text()


def test_without_a_table_or_beside_another_kind(model, tiny, folder, tmp_path, capsys):
    (tmp_path / "red").mkdir()
    (tmp_path / "red" / "a.png").write_bytes((folder / "red.png").read_bytes())
    with pytest.raises(InputError, match=r"labels\.csv"):
        measure(InProcess(model), tmp_path)
    (tmp_path / "labels.csv").write_text("file,label\na.png,mauve\na.png,pink\n")
    with pytest.raises(InputError, match="is said to show a class"):
        measure(InProcess(model), tmp_path)
    assert main(["evaluate", str(model), str(folder), "--compare", str(tiny)]) == 2
    assert "cannot be compared" in capsys.readouterr().err


def test_one_label_a_photo_may_stand_in_a_table_too(tiny, folder, tmp_path, capsys):
    (tmp_path / "a.png").write_bytes((folder / "red.png").read_bytes())
    (tmp_path / "b.png").write_bytes((folder / "wrong.png").read_bytes())
    (tmp_path / "test.csv").write_text("file,label\na.png,red\nb.png,red\n")
    assert main(["evaluate", str(tiny), str(tmp_path), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["models"][0]["top1"] == 0.5
