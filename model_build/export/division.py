"""Which photos int8 is made with, and which it is judged by: no photo, and no near-duplicate of one, does both."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from model_build.dataset import duplicates, parts
from model_build.dataset.photos import Photos
from model_build.errors import InputError
from model_build.export.graph import FEATURES, IMAGE
from model_build.network.session import session

#: What is held out of one folder for both: this share, and at most so many photos.
_HELD_OUT_SHARE: Final = 0.3
_HELD_OUT_PHOTOS: Final = 750


@dataclass(frozen=True)
class Division:
    """Photos by what they are for.

    Attributes:
        learning: to make int8 with: to calibrate on, to distil on.
        clusters: ``int64 [N]``, for each photo of ``learning`` the first one that is nearly the same.
        evaluation: to measure on.
        alike: whether all photos look nearly the same to the network, so that only copies were kept together; what is
            measured is then too good for photos of other scenes.
    """

    learning: Photos
    clusters: NDArray[np.int64]
    evaluation: Photos
    alike: bool = False

    @property
    def distinct(self) -> NDArray[np.int64]:
        """``int64 [K]``, of each cluster the first photo's index in ``learning``."""
        return np.unique(self.clusters, return_index=True)[1]


def divide(fp32: onnx.ModelProto | None, photos: Photos, evaluation: Photos | None, track: Any = iter) -> Division:
    """Divides a folder's photos by their content.

    Args:
        fp32: an exported graph; its features say which photos are nearly the same. None, or without features: only
            copies are.
        photos: to be divided, or, where there are others to measure on, to be learned from but for what is among them.
        evaluation: to measure on; None: a part of ``photos``.
        track: wraps an iteration over the photos, to show progress.

    Raises:
        InputError: nothing is left to learn from, or to measure on.
    """
    own = len(photos.pixels)
    pixels = photos.pixels if evaluation is None else np.concatenate([photos.pixels, evaluation.pixels])
    clusters, alike = _clusters(fp32, pixels, track), False
    if evaluation is not None:
        learned = np.flatnonzero(~np.isin(clusters[:own], clusters[own:]))
        if not len(learned):
            raise InputError(f"all of the {own} photos to learn from are nearly the same as some of --evaluation")
    else:
        held_out = min(_HELD_OUT_SHARE, _HELD_OUT_PHOTOS / own)
        shares = {"learning": 1 - held_out, "evaluation": held_out}
        if alike := bool(own > 1 and (clusters == clusters[0]).all()):
            clusters = _copies(pixels)
        divided = parts.split(clusters, parts.digests(pixels), shares)
        learned = divided["learning"]
        if not len(divided["evaluation"]):
            raise InputError(
                f"of {own} photos none can be held out to measure on: they are too few, or copies; give others with "
                "--evaluation DIR"
            )
        evaluation = photos.select(divided["evaluation"])
    return Division(photos.select(learned), clusters[learned], evaluation, alike)


def _copies(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    _, first, index = np.unique(parts.digests(pixels), return_index=True, return_inverse=True)
    return first[index].astype(np.int64)


def _clusters(fp32: onnx.ModelProto | None, pixels: NDArray[np.uint8], track: Any) -> NDArray[np.int64]:
    if fp32 is None or FEATURES not in {output.name for output in fp32.graph.output}:
        return _copies(pixels)
    runner = session(fp32)
    pooled = [runner.run([FEATURES], {IMAGE: photo[np.newaxis]})[0].mean(axis=(2, 3)) for photo in track(pixels)]
    return duplicates.clusters(np.concatenate(pooled))
