"""Whether masking what a class activation map points at costs the score most."""

from pathlib import Path

import numpy as np
import pytest

from app.inference.decode_budget import DecodeBudget
from app.inference.imaging import load
from app.inference.model import Model
from app.registry.source import BUNDLED
from bench import masking
from bench.masking import main
from model_build.dataset import photos
from model_build.dataset.labels import Labels
from tests import tiny_model
from tests.conftest import SHARED

SKIMAGE = Path(__import__("skimage").__file__).parent / "data"


def test_cells_are_masked_and_nothing_else():
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3)).astype(np.uint8)
    cells = np.zeros((3, 5), bool)
    cells[1, 4] = True
    masked = masking.mask(pixels, cells)
    changed = np.zeros((12, 20), bool)
    changed[4:8, 16:20] = True
    assert (masked[changed] == pixels.mean(axis=(0, 1)).round()).all()
    assert (masked[~changed] == pixels[~changed]).all()


def test_masks_are_of_one_size_and_the_same_each_time(tiny):
    seen = []

    class Watched(Model):
        def __call__(self, pixels):
            seen.append(int((pixels[0] != 0).any(axis=-1).sum()))
            return super().__call__(pixels)

    model, pixels = Watched(tiny), np.zeros((32, 32, 3), np.uint8)
    # Red in one cell only; the mean is another colour everywhere but in the masked cells' zeros.
    pixels[:8, :8, 0] = 160
    found = masking.measure(model, [pixels])
    # Three cells of sixteen, of which the red one is one or not.
    assert len(seen) == 1 + 2 * masking.DRAWS
    assert set(seen) <= {3 * 64, 4 * 64}
    assert found.evidence.shape == (1,)
    assert found.cells.shape == found.moved.shape == (1, masking.DRAWS)
    assert (found.evidence <= found.moved).all()
    again = masking.measure(model, [pixels])
    assert np.array_equal(found.cells, again.cells)


def pictures_of(model: Model) -> np.ndarray:
    """Labelled photos where a machine has them, else those that scikit-image ships."""
    folder = SHARED / "images" / "imagenet"
    if folder.is_dir():
        found = photos.read(folder, model.contract.resize, Labels(model.contract.labels, model.contract.ids))
        return found.pixels[found.classes >= 0][::5]
    names = ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png", "motorcycle_left.png")
    files = [SKIMAGE / name for name in names if (SKIMAGE / name).is_file()]
    return np.stack([load(path.read_bytes(), model.contract.resize, DecodeBudget(10**8)) for path in files])


def test_masking_the_evidence_costs_the_most():
    (path,) = BUNDLED.glob("*.onnx")
    model = Model(path)
    found = masking.measure(model, pictures_of(model))
    # A mask that lies elsewhere may raise the score of one kind of cat at another's expense.
    assert found.evidence.mean() < min(found.moved.mean(), found.whole.mean())
    assert found.evidence.mean() < found.cells.mean()
    assert (found.evidence < found.moved.mean(axis=1)).mean() >= 0.6
    assert (found.evidence < found.whole).mean() >= 0.8


def test_the_command(capsys, tmp_path):
    (path,) = BUNDLED.glob("*.onnx")
    for name in ("chelsea.png", "coffee.png"):
        (tmp_path / name).write_bytes((SKIMAGE / name).read_bytes())
    main([str(path), str(tmp_path)])
    said = capsys.readouterr().out
    assert "evidence lowers it more than the moved mask" in said
    assert "of 2: " in said


def test_the_command_says_what_is_wrong(capsys, tmp_path):
    plain = tiny_model.write(tmp_path / "plain.onnx", explainable=False)
    (path,) = BUNDLED.glob("*.onnx")
    cases = [
        (plain, SKIMAGE, "one linear layer"),
        (tmp_path / "absent.onnx", SKIMAGE, "no model file"),
        (path, tmp_path / "x", "not a folder"),
    ]
    for model, folder, says in cases:
        with pytest.raises(SystemExit) as ended:
            main([str(model), str(folder)])
        assert ended.value.code == 2
        assert says in capsys.readouterr().err
