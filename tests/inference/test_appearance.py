"""What a picture looks like, in three numbers."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from app.inference.appearance import Appearance

DICE = np.random.default_rng(0)
SCENE = Image.fromarray(DICE.integers(0, 256, (28, 28, 3), np.uint8)).resize((224, 224), Image.Resampling.NEAREST)


def of(picture: Image.Image) -> Appearance:
    return Appearance.of(np.asarray(picture))


@pytest.mark.parametrize(("level", "brightness"), [(0, 0), (51, 0.2), (255, 1)])
def test_a_plain_picture(level, brightness):
    assert of(Image.new("RGB", (32, 32), (level,) * 3)) == Appearance(brightness, 0, 0)


def test_brightness_and_contrast_are_those_of_luma():
    assert of(Image.new("RGB", (32, 32), (255, 0, 0))).brightness == pytest.approx(0.299, abs=1e-4)
    luma = np.asarray(SCENE.convert("L"))
    assert of(SCENE).brightness == pytest.approx(luma.mean() / 255, abs=0.02)
    assert of(SCENE).contrast == pytest.approx(luma.std() / 255, abs=0.02)


def test_fog_and_blur_lower_sharpness_and_darkness_brightness():
    clear = of(SCENE)
    fogged = of(Image.blend(SCENE, Image.new("RGB", SCENE.size, (200,) * 3), 0.8))
    blurred = of(SCENE.filter(ImageFilter.GaussianBlur(6)))
    dark = of(SCENE.point(lambda level: level // 8))
    assert fogged.sharpness == pytest.approx(0.2 * clear.sharpness, rel=0.1)
    assert blurred.sharpness < 0.7 * clear.sharpness
    assert blurred.brightness == pytest.approx(clear.brightness, abs=0.03)
    assert dark.brightness == pytest.approx(clear.brightness / 8, abs=0.01)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 64, 3), (64, 1, 3), (3, 5, 3)])
def test_the_smallest_pictures(shape):
    found = Appearance.of(np.full(shape, 255, np.uint8))
    assert (found.brightness, found.sharpness) == (1, 0)
