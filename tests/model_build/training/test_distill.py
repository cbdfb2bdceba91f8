"""Real distillation of a small network with random weights on made-up pictures."""

import numpy as np
import pytest

from app.inference.imaging import Resize
from app.inference.model import Model
from model_build.__main__ import main
from model_build.dataset import photos
from model_build.dataset.photos import Photos
from model_build.errors import InputError
from model_build.export import division, pipeline, quantize
from model_build.export.division import Division
from model_build.training import distill
from model_build.training.augmentation import camera_like
from model_build.training.distill import Distillation, Recipe, Run
from tests.model_build import small_network

RULE = Resize(small_network.SIDE, small_network.SIDE, 0.875, "bilinear")
RECIPE = Recipe(steps=30, batch=8, learning_rate=3e-3)


@pytest.fixture(scope="module")
def fp32():
    return pipeline.convert(small_network.make(), RULE.height, RULE.width).fp32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    for seed in range(40):
        photos.picture(seed, 48, 40).save(root / f"{seed}.png")
    return root


def new_run(fp32):
    canvas = np.stack([np.asarray(photos.picture(seed, 37, 37)) for seed in range(24)])
    development = photos.generated(12, RULE).pixels
    run = Run(fp32, quantize.quantize(fp32, development[:4]), canvas, np.ones(24), development, RECIPE)
    # Something to learn: so small a network loses little by quantization.
    for layer in run._student.layers:
        layer.bias.assign_add(np.full(layer.bias.shape, 0.1, np.float32))
    for mean, variable in zip(run._mean, run._student.variables, strict=True):
        mean.assign(variable)
    return run


def train(run, file, lines=None):
    return run.train(file, lambda items, _: items, (lines if lines is not None else []).append)


def test_an_interrupted_run_goes_on_where_it_was(fp32, tmp_path, monkeypatch):
    whole = new_run(fp32)
    best = train(whole, tmp_path / "whole.npz")
    assert 0 < best <= RECIPE.steps
    # What was gained: int8 is nearer to fp32 on pictures that it has not learned from.
    assert min(whole._looks) < 0.8 * whole._looks[0]

    save, lines = Run._save, []

    def interrupted(self, file):
        save(self, file)
        if self._step >= 10:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "_save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(new_run(fp32), tmp_path / "cut.npz")
    monkeypatch.setattr(Run, "_save", save)
    resumed = new_run(fp32)
    train(resumed, tmp_path / "cut.npz", lines)
    assert lines[0] == "Resuming after step 10 of 30"
    assert resumed._looks == pytest.approx(whole._looks, abs=2e-3)
    assert [path.name for path in tmp_path.iterdir() if "cut" in path.name] == ["cut.npz"]


def test_it_ends_when_nothing_is_gained(fp32, tmp_path, monkeypatch):
    monkeypatch.setattr(distill, "_PATIENCE", 2)
    run = new_run(fp32)
    monkeypatch.setattr(run, "_update", lambda *_: None)
    lines = []
    assert train(run, tmp_path / "x.npz", lines) == 0
    assert lines[-1] == "No gain at 2 looks"
    assert run._step < RECIPE.steps


def test_the_command_writes_a_distilled_file(folder, tmp_path, capsys, monkeypatch):
    small_network.make().save(tmp_path / "small.keras")
    arguments = ["export", "--weights", str(tmp_path / "small.keras"), "--distill", str(folder), "--distill-steps", "2"]
    # Random weights find all pictures nearly the same.
    monkeypatch.setattr(division, "_clusters", lambda _fp32, pixels, _track: np.arange(len(pixels)))
    (tmp_path / "others").mkdir()
    for seed in range(100, 105):
        photos.picture(seed, 48, 40).save(tmp_path / "others" / f"{seed}.png")
    code = main(
        [*arguments, "--evaluation", str(tmp_path / "others"), "--output", str(tmp_path), "--min-agreement", "0"]
    )
    said = capsys.readouterr()
    assert code == 0, said.err
    found = Model(tmp_path / "small.int8.onnx").contract
    how = found.provenance["quantization"]
    assert how["method"] == "gptq, distilled"
    assert how["distilled"]["photos"] + how["distilled"]["development_photos"] <= 40
    assert "quantization" not in Model(tmp_path / "small.fp32.onnx").contract.provenance
    assert (found.measured["photos"], found.measured["held_out"]) == (5, True)
    assert "the figures mean little" in said.err
    assert "held out, n = 5" in said.out
    assert not (tmp_path / ".distill").exists()


def test_too_few_photos(fp32, tmp_path):
    few = Photos(photos.generated(3, RULE).pixels, np.full(3, -1))
    distillation = Distillation(RECIPE, tmp_path, print)
    with pytest.raises(InputError, match="3 photos are too few for --distill"):
        distillation(Division(few, np.zeros(3, np.int64), few), RULE, lambda items, _: items)


def test_pictures_look_as_if_taken_by_other_cameras():
    picture = np.asarray(photos.picture(1, 60, 50))
    made = [camera_like(picture, 32, 40, np.random.default_rng([seed])) for seed in range(40)]
    assert {one.shape for one in made} == {(32, 40, 3)}
    assert {one.dtype for one in made} == {np.dtype(np.uint8)}
    assert len({one.tobytes() for one in made}) == 40
    again = camera_like(picture, 32, 40, np.random.default_rng([7]))
    assert (again == made[7]).all()
    # Still the same picture.
    assert np.abs(np.mean([one.mean() for one in made]) - picture.mean()) < 25
