"""A folder with everything wrong that can be, looked through with the bundled model."""

import json

import numpy as np
import pytest
from PIL import Image, ImageFilter

from model_build.__main__ import main
from model_build.dataset import photos


def picture(hue: float, seed: int) -> Image.Image:
    """A generated picture in a class's colours."""
    channels = photos.picture(seed, 240, 180).convert("HSV").split()
    shifted = channels[0].point(lambda value: int((0.15 * value + 255 * hue) % 256))
    return Image.merge("HSV", (shifted, *channels[1:])).convert("RGB")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Three classes of 12 pictures to learn from and 4 to test with."""
    root = tmp_path_factory.mktemp("folder")
    for number, (name, hue) in enumerate({"red": 0.0, "green": 0.33, "blue": 0.66}.items()):
        for part, count in {"train": 12, "valid": 4}.items():
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                picture(hue, 100 * number + i + (50 if part == "valid" else 0)).save(root / part / name / f"{i}.jpg")
    # A wrong label; a copy to test with, smaller and worse; the same in two classes; a dark, a flat and a broken one.
    (root / "train/red/7.jpg").rename(root / "train/green/wrong.jpg")
    with Image.open(root / "train/blue/3.jpg") as copied:
        copied.resize((180, 135)).save(root / "valid/blue/copy.jpg", quality=60)
    with Image.open(root / "train/blue/4.jpg") as copied:
        copied.resize((200, 150)).save(root / "train/red/both.jpg", quality=80)
    with Image.open(root / "train/green/5.jpg") as seen:
        seen.point(lambda value: value // 16).save(root / "train/green/dark.jpg")
    Image.new("RGB", (400, 100), (120, 130, 140)).save(root / "train/green/flat.jpg")
    with Image.open(root / "valid/red/2.jpg") as seen:
        seen.filter(ImageFilter.GaussianBlur(4)).save(root / "valid/red/2.jpg")
    (root / "train/red/broken.jpg").write_bytes((root / "train/red/1.jpg").read_bytes()[:2000])
    return root


def looked(capsys, root, *options):
    assert main(["check", str(root), *options]) == 0
    return capsys.readouterr().out


def test_everything_that_is_wrong_is_found(found, capsys, tmp_path):
    before = sorted((path, path.stat().st_mtime_ns) for path in found.rglob("*"))
    said = json.loads(looked(capsys, found, "--json", "--html", str(tmp_path / "report.html")))
    assert sorted((path, path.stat().st_mtime_ns) for path in found.rglob("*")) == before

    def named(*paths):
        return [[str(found / path) for path in paths]]

    counts = {count["label"]: (count["photos"], count["held_out"]) for count in said["classes"]}
    assert counts == {"red": (12, 4), "green": (15, 4), "blue": (12, 5)}
    assert str(found / "train/green/wrong.jpg") in [doubt["path"] for doubt in said["doubts"][:5]]
    assert said["leaks"] == named("train/blue/3.jpg", "valid/blue/copy.jpg")
    assert said["across"] == named("train/blue/4.jpg", "train/red/both.jpg")
    assert said["dark"] == [str(found / "train/green/dark.jpg")]
    assert said["flat"] == [str(found / "train/green/flat.jpg")]
    assert said["blurred"] == [str(found / "valid/red/2.jpg")]
    assert said["wide"] == 1
    assert said["sides"] == [100, 180, 180]
    assert [reason for reason, names in said["left_out"].items() if any("broken.jpg" in name for name in names)]
    notes = " ".join(said["notes"])
    assert all(part in notes for part in ("look like another class", "in different classes", "test nothing"))
    report = (tmp_path / "report.html").read_text()
    assert "wrong.jpg" in report
    assert report.count("<img ") > 5


def test_a_person_reads_it(found, capsys):
    said = looked(capsys, found)
    assert "train/blue/3.jpg, valid/blue/copy.jpg" in said
    assert "broken.jpg" in said
    assert "note: " in said


def test_a_class_may_have_too_few_pictures_to_learn_from(tmp_path, capsys):
    for name, level in {"a": 60, "b": 200}.items():
        (tmp_path / name).mkdir()
        noise = np.random.default_rng(level).integers(0, level, (3, 90, 120, 3), np.uint8)
        for i, pixels in enumerate(noise):
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    said = json.loads(looked(capsys, tmp_path, "--json"))
    assert "5 different, readable pictures of each class are needed; too few: a (3), b (3)" in said["notes"]


def test_what_cannot_be_looked_through(tmp_path, capsys):
    assert main(["check", str(tmp_path / "missing")]) == 2
    assert main(["check", str(tmp_path), "--model", str(tmp_path / "none.onnx")]) == 2
    assert "Traceback" not in capsys.readouterr().err
