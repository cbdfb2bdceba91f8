"""One file, complete in itself, the same on every run; names stay names, whatever they contain."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from model_build.__main__ import main
from model_build.errors import InputError
from model_build.evaluation import report
from model_build.evaluation.evaluate import Evaluation
from model_build.evaluation.report import Caption, Section
from tests import tiny_model
from tests.photos import encode, quarters, solid

NASTY = "<script>alert('$1$')</script> & \"$x_1\""


class Page(HTMLParser):
    """Tags, what they refer to, and the text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.refers, self.text = [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.refers += [v for k, v in attributes if k in ("src", "href", "xlink:href", "srcset", "action", "data")]
        self.refers += [v for _, style in attributes for v in re.findall(r"url\(([^)]*)\)", style or "")]

    def handle_data(self, data):
        self.text += data


def written(tmp_path, sections, name="report.html") -> Page:
    report.write(tmp_path / name, "A <title>", sections)
    return Page((tmp_path / name).read_text())


def evaluation(classes, photos=200) -> Evaluation:
    random = np.random.default_rng(0)
    scores = random.dirichlet(np.full(classes, 0.1), photos)
    shown = np.where(random.random(photos) < 0.7, scores.argmax(axis=1), random.integers(0, classes, photos))
    # The class whose name has to be escaped.
    shown[0] = 1
    return Evaluation.of(scores, shown, tuple(NASTY if i == 1 else f"class {i}" for i in range(classes)))


def assert_complete(page):
    """Nothing is loaded from anywhere and nothing runs."""
    assert page.refers
    assert all(refers.startswith(("data:", "#")) for refers in page.refers), page.refers
    assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
    assert "@import" not in page.text


@pytest.mark.parametrize("classes", [2, 3, 30, 31, 400])
def test_an_evaluation(tmp_path, classes):
    made = evaluation(classes)
    page = written(tmp_path, [report.figures({"test": made.figures()}), *report.evaluation(made)])
    assert_complete(page)
    assert NASTY in page.text
    assert f"{made.top1:.1%}" in page.text
    assert f"{made.ece:.3f}" in page.text
    assert page.tags.count("svg") == 2
    assert ("details" in page.tags) == (classes == 400)
    named = classes <= 30
    assert ("predicted class (" in page.text) == (not named)
    if not named:
        shown, said, photos = made.mistakes()[0]
        assert f"{made.labels[shown]}{made.labels[said]}{photos}\n" in page.text


def test_a_matrix_has_its_counts(tmp_path):
    scores = np.eye(3)[[0] * 41 + [1] * 17 + [2] * 23]
    made = Evaluation.of(scores, np.array([0] * 41 + [1] * 17 + [0] * 23), ("a", "b", "c"))
    svg = report.evaluation(made)[1].html
    assert {"41", "17", "23", "a", "b", "c"} <= set(re.findall(r">([^<>\s]+)</text>", svg))


def test_the_same_bytes_again(tmp_path):
    sections = [lambda: report.evaluation(evaluation(40)), lambda: [report.curves({"loss": {"train": [2.0, 1.0]}})]]
    first, second = ([s for make in sections for s in make()] for _ in range(2))
    report.write(tmp_path / "1.html", "t", first)
    report.write(tmp_path / "2.html", "t", second)
    assert (tmp_path / "1.html").read_bytes() == (tmp_path / "2.html").read_bytes()


def test_pictures_suit_light_and_dark():
    html = report.evaluation(evaluation(3))[0].html
    assert "currentColor" in html
    assert not re.search(r"#000000|#ffffff|#010203|fill: *white", html)


def test_curves(tmp_path):
    values = {"loss": {"train": [0.9, 0.4, 0.2], "validation": [0.8, 0.5, 0.4]}, "accuracy": {"train": [0.5, 0.9, 1.0]}}
    section = report.curves(values)
    assert {"loss", "accuracy", "train", "validation", "epoch"} <= set(re.findall(r">([^<>\s]+)</text>", section.html))
    assert_complete(written(tmp_path, [section, *report.evaluation(evaluation(3))]))


def test_figures_side_by_side(tmp_path):
    page = written(tmp_path, [report.figures({"one": {"a": "1", "b": "2"}, "two": {"b": "3"}})])
    assert re.sub(r"\s+", "|", page.text.split("Figures")[1]).strip("|") == "onetwo|a1|b23"


def test_photos(tmp_path):
    (tmp_path / "tall.png").write_bytes(encode(quarters(300, 900), "PNG"))
    lines = [Caption("shows x"), Caption("x 0.9", True), Caption(NASTY, False)]
    section = report.pictures("Photos", [(tmp_path / "tall.png", lines), (tmp_path / "gone.png", lines)], "Two.")
    page = written(tmp_path, [section])
    assert_complete(page)
    assert NASTY in page.text
    assert section.html.count('class="wrong"') == section.html.count('class="right"') == 2
    kind, data = page.refers[0].split(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (160, 160)
    assert page.refers[1] == "data:,"


def test_titles_are_text(tmp_path):
    page = written(tmp_path, [Section(NASTY, "<p>x</p>")])
    assert NASTY in page.text
    assert "A <title>" in page.text
    with pytest.raises(InputError, match="cannot be written"):
        report.write(tmp_path / "absent" / "x.html", "t", [])


def test_the_command_compares(tiny, tmp_path):
    other = tiny_model.contract(name="other", labels=("red", "blue", "green"), ids=(None, None, None))
    tiny_model.write(tmp_path / "other.onnx", other)
    for i in range(60):
        path = tmp_path / "photos" / ("green", "red", "violet")[i % 3] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(solid((10 + i, 250, 10) if i % 3 != 1 else (250, 10, 10)), "JPEG"))
    for i in range(60, 120):
        (tmp_path / "photos" / "green" / f"{i}.jpg").write_bytes(encode(solid((10, 250, i)), "JPEG"))
    target = tmp_path / "report.html"
    arguments = [str(tiny), str(tmp_path / "photos"), "--compare", str(tmp_path / "other.onnx"), "--html", str(target)]
    assert main(["evaluate", *arguments]) == 0
    page = Page(target.read_text())
    assert_complete(page)
    # 20 green, 20 violet and 60 more green ones; at most 50 are shown.
    assert "The first 50 of 100 photos." in page.text
    assert page.tags.count("figure") == 50
    assert page.text.count("shows green") == 50
    assert page.text.count("1: green") == page.text.count("2: blue") == 50
    assert "tiny 1 fp32" in page.text
    assert "other 1 fp32" in page.text
