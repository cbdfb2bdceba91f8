"""Real training on small made-up pictures, from random weights, so that nothing has to be downloaded."""

import hashlib
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from app.inference.model import Model
from model_build.__main__ import main
from model_build.export import novelty
from model_build.training import train as training
from tests.conftest import serving
from tests.photos import encode

COLOURS = {"n00000001_red_ball": (220, 30, 30), "green ball": (30, 200, 40), "blue ball": (40, 50, 210)}


def picture(colour, seed) -> bytes:
    """A disc of a colour on noise."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (40, 40, 3), np.uint8)
    y, x = np.mgrid[:40, :40]
    pixels[(y - 20) ** 2 + (x - 20) ** 2 < random.integers(120, 330)] = colour
    return encode(Image.fromarray(pixels), "PNG")


@pytest.fixture(scope="module")
def balls(tmp_path_factory):
    root = tmp_path_factory.mktemp("balls")
    for i, (name, colour) in enumerate(COLOURS.items()):
        (root / name).mkdir()
        for number in range(12):
            (root / name / f"{number}.png").write_bytes(picture(colour, 100 * i + number))
    (root / "green ball" / "broken.png").write_bytes(b"rubbish")
    (root / "Other").mkdir()
    for number in range(6):
        (root / "Other" / f"{number}.png").write_bytes(picture((0, 0, 0), 900 + number))
    return root


RECIPE = training.Recipe(
    weights="none",
    alpha=0.35,
    input_size=48,
    train_size=32,
    crop=0.875,
    fit="crop",
    filter="bilinear",
    epochs=2,
    patience=9,
    batch=8,
    learning_rate=3e-3,
    validation=0.2,
    test=0.2,
    unknown_share=0.05,
    seed=3,
)


def fingerprint(trained) -> str:
    return hashlib.sha256(b"".join(w.tobytes() for w in trained.source.model.get_weights())).hexdigest()


def learn(balls, work, lines):
    return training.train(balls, [RECIPE], work, lambda items, _description: items, lines.append)


def test_an_interrupted_run_ends_with_the_same_model(balls, tmp_path, monkeypatch):
    whole = learn(balls, tmp_path / "whole", [])
    assert len(whole.history["loss"]) == RECIPE.epochs + 1
    assert whole.folder.left_out[0].startswith("green ball/broken.png: ")

    checkpoint, lines = training.Run.checkpoint, []

    def interrupted(self, model, history):
        checkpoint(self, model, history)
        if len(history) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(training.Run, "checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        learn(balls, tmp_path / "cut", [])
    monkeypatch.setattr(training.Run, "checkpoint", checkpoint)
    resumed = learn(balls, tmp_path / "cut", lines)
    assert "Resuming after epoch 1" in lines
    assert resumed.history == whole.history
    assert fingerprint(resumed) == fingerprint(whole)
    assert (resumed.temperature, resumed.unknown_below) == (whole.temperature, whole.unknown_below)


def test_a_folder_becomes_a_served_model_and_a_report(balls, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(novelty, "FEWEST", 6)
    arguments = ["train", str(balls), "--weights", "none", "--alpha", "0.35", "--input-size", "48", "--batch", "8"]
    arguments += ["--epochs", "1", "--name", "balls", "--output", str(tmp_path)]
    # Random weights say little; what is tested is the way, not the answer.
    assert main([*arguments, "--min-agreement", "0", "--max-drop", "1"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "balls.fp32.onnx",
        "balls.html",
        "balls.int8.onnx",
    ]
    assert not list((tmp_path / ".train").iterdir())
    contract = Model(tmp_path / "balls.int8.onnx").contract
    assert contract.labels == ("blue ball", "green ball", "red ball")
    assert contract.ids == (None, None, "n00000001")
    assert contract.temperature > 0
    assert contract.provenance["training"]["pictures"] == {"train": 24, "validation": 6, "test": 6}
    assert contract.provenance["training"]["recipe"]["seed"] == 1
    assert contract.measured["photos"] == 6
    assert (contract.measured["unknown"]["chosen_on"], contract.measured["unknown"]["foreign"]) == (6, 6)
    assert contract.unknown_above is not None
    page = (tmp_path / "balls.html").read_text()
    assert "broken.png" in page
    assert "How often each class is right" in page
    assert "of those that are to be refused" in page
    assert f"above a novelty of {contract.unknown_above:.3f}" in page
    assert "Held-out accuracy" in capsys.readouterr().err
    with serving(tmp_path / "balls.int8.onnx") as client:
        answer = client.post("/predict", content=picture(COLOURS["blue ball"], 1)).json()
    assert {p["label"] for p in answer["predictions"]} == set(contract.labels)


def test_of_wide_pictures_what_is_seen_is_chosen_by_cross_validation(tmp_path):
    """What tells the classes apart lies at the left edge, which a crop does not show."""
    for i, (name, colour) in enumerate(COLOURS.items()):
        (tmp_path / "wide" / name).mkdir(parents=True)
        for number in range(9):
            pixels = np.random.default_rng(100 * i + number).integers(90, 160, (40, 80, 3), np.uint8)
            pixels[:, :18] = colour
            (tmp_path / "wide" / name / f"{number}.png").write_bytes(encode(Image.fromarray(pixels), "PNG"))
    recipes = [replace(RECIPE, epochs=0), replace(RECIPE, epochs=0, fit="squash", crop=1.0)]
    lines = []
    trained = training.train(tmp_path / "wide", recipes, tmp_path, lambda items, _description: items, lines.append)
    assert trained.recipe.fit == "squash"
    assert any(
        re.match(r"Most pictures are wide\. .* crop \d\.\d+, squash \d\.\d+\. Taken: squash", line) for line in lines
    )
    assert "Kept: the frozen network under its new head, which is what teach makes" in lines
    assert len(trained.runs) == 2, "both are deleted at the end"


def test_one_class_is_not_enough(tmp_path, capsys):
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    assert main(["train", str(tmp_path / "photos"), "--weights", "none", "--output", str(tmp_path / "out")]) == 2
    assert "two or more classes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
