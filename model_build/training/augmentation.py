"""Photos as other cameras would have taken them: another crop, other light, less sharp, noisy, compressed harder."""

from typing import Final

from model_build.network import weights  # noqa: F401 - first: it sets TensorFlow's environment

# isort: split
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

#: Sides of the crop, as a share of the picture's; how much wider than high it may be, or the other way round.
_CROP: Final = (0.7, 1.0)
_ASPECT: Final = 1.25
#: Factors of light, contrast and colour.
_LIGHT: Final = (0.7, 1.3)
#: How often each of these is done, and between what.
_BLURRED, _BLUR_RADIUS = 0.2, (0.3, 1.5)
_NOISY, _NOISE = 0.2, (2.0, 10.0)
_COMPRESSED, _JPEG_QUALITY = 0.3, (30, 90)


def camera_like(pixels: NDArray[np.uint8], height: int, width: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """One picture as another camera would have taken it.

    Args:
        pixels: ``uint8 [h, w, 3]``.
        height: of what is returned.
        width: of what is returned.
        random: what is drawn from.

    Returns:
        ``uint8 [height, width, 3]``.
    """
    picture = Image.fromarray(pixels)
    share, aspect = random.uniform(*_CROP), random.uniform(1 / _ASPECT, _ASPECT) ** 0.5
    w, h = min(1.0, share * aspect) * picture.width, min(1.0, share / aspect) * picture.height
    left, top = random.uniform(0, picture.width - w), random.uniform(0, picture.height - h)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR, (left, top, left + w, top + h))
    if random.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = enhance(picture).enhance(random.uniform(*_LIGHT))
    if random.random() < _BLURRED:
        picture = picture.filter(ImageFilter.GaussianBlur(random.uniform(*_BLUR_RADIUS)))
    found = np.asarray(picture)
    if random.random() < _NOISY:
        noise = random.standard_normal(found.shape, np.float32) * random.uniform(*_NOISE)
        found = (found + noise).round().clip(0, 255).astype(np.uint8)
    if random.random() < _COMPRESSED:
        found = tf.io.decode_jpeg(tf.io.encode_jpeg(found, quality=int(random.integers(*_JPEG_QUALITY)))).numpy()
    return found
