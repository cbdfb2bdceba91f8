"""Figures against numbers worked out by hand, and the tiny model as a file and behind a real socket."""

import contextlib
import json
import re
import socket
import subprocess
import sys

import numpy as np
import pytest

from model_build.__main__ import main
from model_build.dataset.intervals import wilson
from model_build.errors import InputError
from model_build.evaluation.evaluate import BINS, Evaluation, compare, measure
from model_build.evaluation.remote_target import RemoteTarget
from model_build.evaluation.targets import InProcess
from tests import tiny_model
from tests.conftest import ROOT, serving
from tests.photos import encode, solid

PURE = {"red": (250, 10, 10), "green": (10, 250, 10), "blue": (10, 10, 250)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seven photos that show what their folders say, one that does not, one of another class, and one that is none."""
    root = tmp_path_factory.mktemp("photos")
    photos = {f"{name}/{i}.png": encode(solid(colour), "PNG") for name, colour in PURE.items() for i in range(2)}
    photos["n3_blue.png"] = encode(solid((30, 60, 200)), "PNG")
    photos["blue/greenish.png"] = encode(solid((20, 140, 120)), "PNG")
    photos["yellow/0.png"] = encode(solid((200, 190, 10)), "PNG")
    photos["red/broken.png"] = photos["red/0.png"][:60]
    for name, data in photos.items():
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return root


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The tiny model with its classes in another order of names: it is wrong where the first is right."""
    folder = tmp_path_factory.mktemp("other")
    contract = tiny_model.contract(name="other", labels=("red", "blue", "green"), ids=(None, None, None))
    return tiny_model.write(folder / "other.fp32.onnx", contract)


def made(classes, said, confidence=None, labels=("a", "b", "c")) -> Evaluation:
    """Photos of ``classes``, said to be ``said``."""
    ranked = [[best, *(i for i in range(len(labels)) if i != best)] for best in said]
    confidence = np.full(len(said), 0.5) if confidence is None else np.array(confidence)
    return Evaluation(labels, np.array(classes), np.array(ranked), confidence)


def test_figures_by_hand():
    found = made([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 0, 0])
    assert found.top1 == pytest.approx(3 / 6)
    assert found.confusion_matrix().tolist() == [[2, 1, 0], [1, 1, 0], [1, 0, 0]]
    assert [(row.label, row.photos, row.precision, row.recall) for row in found.per_class()] == [
        ("a", 3, 0.5, pytest.approx(2 / 3)),
        ("b", 2, 0.5, 0.5),
        ("c", 1, None, 0.0),
    ]
    assert found.mistakes() == [(0, 1, 1), (1, 0, 1), (2, 0, 1)]


def test_classes_without_photos():
    rows = made([0, 0], [0, 1]).per_class()
    assert [(row.label, row.photos, row.precision, row.recall) for row in rows] == [
        ("a", 2, 1.0, 0.5),
        ("b", 0, 0.0, None),
    ]


def test_from_scores():
    scores = np.array([[0.1, 0.3, 0.3, 0.0, 0.1, 0.2, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]], np.float32)
    found = Evaluation.of(scores, np.array([4, 0]), tuple("abcdefg"))
    # Equal scores by rising index.
    assert found.ranked.tolist() == [[1, 2, 5, 0, 4], [6, 0, 1, 2, 3]]
    assert (found.top1, found.top5) == (0.0, 1.0)
    assert found.confidence.tolist() == pytest.approx([0.3, 1.0])


def test_calibration_error_by_hand():
    # Two photos at 0.95 of which one is right, two at 0.5 which are both right: (2 * 0.45 + 2 * 0.5) / 4.
    found = made([0, 1, 0, 0], [0, 0, 0, 0], [0.95, 0.95, 0.5, 0.5])
    assert found.ece == pytest.approx(0.475)
    filled = {m: part for m, part in enumerate(found.reliability()) if part}
    assert {m: part.photos for m, part in filled.items()} == {7: 2, 14: 2}
    assert filled[14].accuracy == 0.5


def test_bins_hold_their_upper_end():
    # (m / 15, (m + 1) / 15]: as Guo et al. have it.
    found = made([0] * 4, [0] * 4, [0.0, 0.2, np.nextafter(0.2, 1), 1.0])
    assert [m for m, part in enumerate(found.reliability()) if part] == [0, 2, 3, BINS - 1]


def test_a_folder_through_the_serving_code(tiny, folder):
    found = measure(InProcess(tiny), folder)
    assert [name.replace("\\", "/") for name in found.files][:3] == ["blue/0.png", "blue/1.png", "blue/greenish.png"]
    assert found.classes.tolist() == [2, 2, 2, 1, 1, 2, 0, 0, -1]
    assert len(found.skipped) == 1
    assert found.skipped[0].startswith("red/broken.png: The PNG image is truncated")
    made = found.evaluation
    assert len(made.classes) == 8
    assert made.top1 == pytest.approx(7 / 8)
    assert made.mistakes() == [(2, 1, 1)]
    expected = max(tiny_model.scores_of(20, 140, 120))
    assert made.confidence[2] == pytest.approx(expected, abs=1e-5)
    assert set(found.as_json()["latency_ms"]) == {"decode", "infer"}


def test_unknown_photos_are_counted(tmp_path, folder):
    path = tiny_model.write(tmp_path / "t.onnx", tiny_model.contract(unknown_below=0.95))
    figures = measure(InProcess(path), folder).figures()
    # The greenish one of eight, and the yellow one.
    assert figures["classified as unknown"] == "12.5%, 100.0% of the others"
    assert figures["others: photos of none of the model's classes"] == "1, not in the accuracy"


def test_over_http_as_in_process(tiny, folder):
    with serving(tiny) as client, contextlib.closing(RemoteTarget(f"{client.base_url}")) as served:
        over_http = measure(served, folder)
    in_process = measure(InProcess(tiny), folder)
    assert served.labels == in_process.labels
    assert over_http.files == in_process.files
    assert [a.ranked for a in over_http.answers] == [a.ranked for a in in_process.answers]
    assert [a.score for a in over_http.answers] == pytest.approx([a.score for a in in_process.answers], abs=1e-6)
    assert over_http.skipped == in_process.skipped
    assert compare(over_http, in_process).disagreements == ()


def test_groups_that_are_right(tmp_path, tiny, folder):
    path = tiny_model.write(tmp_path / "t.onnx", tiny_model.contract(groups=("warm", "cool", "cool")))
    found = measure(InProcess(path), folder)
    # The class is wrong on the greenish photo of a blue thing, its group is not.
    assert found.evaluation.top1 == 7 / 8
    low, high = wilson(8, 8)
    assert found.figures()["group right (95 %, Wilson)"] == f"100.0% ({low:.1%} to {high:.1%})"
    document = found.as_json()
    assert (document["group"], document["group_interval"]) == (1.0, [low, high])
    assert document["per_group"] == [
        {"group": "cool", "photos": 6, "right": 6},
        {"group": "warm", "photos": 2, "right": 2},
    ]
    with serving(path) as client, contextlib.closing(RemoteTarget(f"{client.base_url}")) as target:
        served = measure(target, folder)
    assert [answer.group for answer in served.answers] == [answer.group for answer in found.answers]
    without = measure(InProcess(tiny), folder)
    assert (without.group_right, without.as_json()["group"], without.as_json()["per_group"]) == (None, None, [])
    # Groups do not make other classes of them.
    assert compare(found, without).disagreements == ()


def test_what_the_service_refuses_is_skipped(tiny, tmp_path):
    (tmp_path / "red").mkdir()
    (tmp_path / "red" / "0.png").write_bytes(encode(solid(PURE["red"]), "PNG"))
    (tmp_path / "red" / "big.bmp").write_bytes(encode(solid(PURE["red"], (1500, 1500)), "BMP"))
    with serving(tiny, max_body_bytes=5000) as client, contextlib.closing(RemoteTarget(f"{client.base_url}")) as served:
        found = measure(served, tmp_path)
    assert found.files == ("red/0.png",)
    assert len(found.skipped) == 1
    assert "more than 5000 bytes" in found.skipped[0]


def test_no_photo_gets_the_scores_of_an_earlier_one(tiny, tmp_path):
    """Not even of one that a camera would have sent again; the service has a frame cache for those."""
    for i in range(3):
        (tmp_path / f"n3_blue{i}.png").write_bytes(encode(solid((20, 20, 240 + i)), "PNG"))
    with serving(tiny, cache_seconds=3600) as client:
        with contextlib.closing(RemoteTarget(f"{client.base_url}")) as served:
            found = measure(served, tmp_path)
        counted = client.get("/metrics").text
        repeated = [client.post("/predict", content=encode(solid((20, 20, 240)), "PNG")).json() for _ in range(2)]
    assert 'classifier_cache_requests_total{result="computed"} 3.0' in counted
    assert 'classifier_cache_requests_total{result="cached"}' not in counted
    assert len({answer.score for answer in found.answers}) == 3
    assert [one["cached"] for one in repeated] == [False, True]


def test_a_service_that_asks_for_a_key(tiny, folder, tmp_path, capsys):
    (tmp_path / "key").write_text("secret-of-32-characters-or-more-\n")
    (tmp_path / "two").write_text("first\nsecond\n")
    with serving(tiny, api_keys="secret-of-32-characters-or-more-") as client:
        asked = [str(client.base_url), folder]
        assert "photos 8" in printed_by(capsys, *asked, "--api-key-file", tmp_path / "key", "--compare", tiny)
        for more, says in [
            ([], "answered 401"),
            (["--api-key-file", tmp_path / "absent"], "--api-key-file"),
            (["--api-key-file", tmp_path / "two"], "one key and nothing else"),
        ]:
            assert main(["evaluate", *map(str, [*asked, *more])]) == 2
            printed = capsys.readouterr().err
            assert says in printed
            assert "second" not in printed


def test_two_models_are_compared_by_label(tiny, other, folder):
    first, second = measure(InProcess(tiny), folder), measure(InProcess(other), folder)
    found = compare(first, second)
    # The two agree on red only. The yellow photo is redder than green.
    assert {d.file for d in found.disagreements} == {f for f in first.files if not f.startswith(("red", "yellow"))}
    assert found.photos == 9
    # The greenish photo of a blue thing is the second's one merit; it has no ids, so n3_blue.png does not count.
    assert (found.only_first, found.only_second) == (4, 1)
    # Five heads or tails, at most one of a kind: 2 * (1 + 5) / 32.
    assert found.p_value == pytest.approx(12 / 32)
    greenish = next(d for d in found.disagreements if "greenish" in d.file)
    assert (greenish.shows, greenish.first[0], greenish.second[0]) == ("blue", "green", "blue")


def test_nothing_in_common(tiny, folder, tmp_path):
    (tmp_path / "red").mkdir()
    (tmp_path / "red" / "elsewhere.png").write_bytes(encode(solid(PURE["red"]), "PNG"))
    with pytest.raises(InputError, match="none of the photos together"):
        compare(measure(InProcess(tiny), folder), measure(InProcess(tiny), tmp_path))


def printed_by(capsys, *arguments) -> str:
    assert main(["evaluate", *map(str, arguments)]) == 0
    return re.sub(r"[\s│┃]+", " ", capsys.readouterr().out)


def test_the_command(tiny, folder, capsys):
    printed = printed_by(capsys, tiny, folder)
    low, high = wilson(7, 8)
    for part in (
        "photos 8",
        "top-1 accuracy 87.5%",
        f"{low:.1%} to {high:.1%}",
        "blue 4 100.0% 75.0%",
        "blue green 1",
        "not answered: red/broken.png",
    ):
        assert part in printed


def test_the_command_compares(tiny, other, folder, tmp_path, capsys):
    target = tmp_path / "all.json"
    printed = printed_by(capsys, tiny, folder, "--compare", other, "--json", target)
    for part in (
        "photos 8 7",
        "top-1 accuracy 87.5% 42.9%",
        "others: photos of none of the model's classes 1, not in the accuracy 2, not in the accuracy",
        "same top-1 33.3% of 9 photos",
        "blue/greenish.png blue green",
    ):
        assert part in printed
    document = json.loads(target.read_text())
    assert document["models"][0]["top1"] == 7 / 8
    assert document["models"][0]["confusion"] == [[0, 0, 2], [1, 1, 2], [2, 1, 1], [2, 2, 3]]
    assert [row["file"] for row in document["models"][0]["answers"] if row["class"] is None] == ["yellow/0.png"]
    assert len(document["compared"]["disagreements"]) == 6


def test_json_alone_on_standard_output(tiny, folder):
    """And without what only other commands need."""
    code = (
        "import sys; from model_build.__main__ import main; main(sys.argv[1:]);"
        "print(sorted({'tensorflow', 'keras', 'onnx', 'matplotlib', 'fastapi'} & set(sys.modules)), file=sys.stderr)"
    )
    arguments = [sys.executable, "-c", code, "evaluate", str(tiny), str(folder), "--json", "-"]
    ended = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    document = json.loads(ended.stdout)
    assert document["models"][0]["photos"] == 8
    assert document["compared"] is None
    assert ended.stderr.splitlines()[-1] == "[]"


def test_clear_errors(tiny, folder, tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "empty").mkdir()
    (tmp_path / "others" / "yellow").mkdir(parents=True)
    (tmp_path / "others" / "yellow" / "0.png").write_bytes((folder / "yellow" / "0.png").read_bytes())
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "0.png").write_bytes((folder / "red" / "broken.png").read_bytes())
    (tmp_path / "text.onnx").write_text("hello")
    absent = tmp_path / "absent" / "file"
    cases = [
        ([absent, folder], "no model file"),
        ([tmp_path / "text.onnx", folder], "not a loadable ONNX model"),
        ([f"http://127.0.0.1:{port}", folder], "cannot be asked"),
        (["http://127.0.0.1:port", folder], "not an address"),
        ([tiny, tmp_path / "nowhere"], "not a folder"),
        ([tiny, tmp_path / "empty"], "no images"),
        ([tiny, tmp_path / "others"], "no photo in"),
        ([tiny, tmp_path / "broken"], "none of the 1 images"),
        ([tiny, folder, "--compare", absent], "no model file"),
        ([tiny, folder, "--json", absent], "cannot be written"),
        ([tiny, folder, "--html", absent], "cannot be written"),
    ]
    for arguments, says in cases:
        assert main(["evaluate", *map(str, arguments)]) == 2
        assert says in capsys.readouterr().err
