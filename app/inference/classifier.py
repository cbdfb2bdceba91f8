"""A photo's bytes to its labels, as one call: decode, infer, rank.

Every way to ask (HTTP routes, command line, evaluation, benchmarks) goes through this one.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidParameter, ModelError
from .appearance import Appearance
from .contract import Contract
from .decode_budget import DecodeBudget
from .frame_cache import CameraCache
from .imaging import ALL, WHOLE, Crop, Part, View, load_parts
from .model import Model, Scored
from .ranking import Groups, shown, top_k


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class and how sure the model is of it (0 to 1)."""

    label: str
    index: int
    id: str | None
    score: float


@dataclass(frozen=True, slots=True)
class Group:
    """Classes that go by one everyday name, and the sum of their scores (0 to 1); of independent scores the best."""

    label: str
    score: float


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """A picture as the model saw it, and what it said.

    Attributes:
        picture: as it came: an image file's bytes, or pixels of the model's own size.
        pixels: ``uint8 [H, W, 3]`` RGB, the model's input.
        appearance: what these look like.
        scored: the scores; of an earlier frame, where that was near-identical.
        view: what is looked at of the picture.
    """

    picture: bytes | NDArray[np.uint8]
    pixels: NDArray[np.uint8]
    appearance: Appearance
    scored: Scored
    view: View = ALL


@dataclass(frozen=True, slots=True)
class Result:
    """What the model says about one photo, and how long each step took, in seconds.

    ``labels`` is what the photo shows: the best class, or of a model with independent scores every class from the
    model's own threshold on, best first; none where it is unknown. ``min_score`` and ``k`` change nothing about it.
    ``groups`` is empty where the model has none. ``group`` is the best group's name whatever ``min_score`` left out,
    and "" where the model has none.
    ``unknown`` says that, by the model's own threshold, the photo shows none of its classes.
    ``cached`` says that the scores are those of an earlier, near-identical frame of the same camera.
    ``sight`` has what the model saw of the photo.
    """

    sight: Sight = field(repr=False, compare=False)
    contract: Contract
    predictions: tuple[Prediction, ...]
    unknown: bool
    cached: bool
    decode_s: float
    infer_s: float
    groups: tuple[Group, ...] = ()
    group: str = ""
    labels: tuple[str, ...] = ()


class Classifier:
    """Bytes to labels with one model; safe to call from several threads at once."""

    def __init__(self, model: Model, decode_budget: DecodeBudget, multithreaded: Model | None = None) -> None:
        """Puts the steps together.

        Args:
            model: the loaded model.
            decode_budget: how large photos may be.
            multithreaded: the same model with more threads, for a photo that has the machine to itself.
        """
        self.model = model
        self.multithreaded = multithreaded or model
        self.contract = model.contract
        self.decode_budget = decode_budget
        self.groups: Groups | None = None
        if self.contract.groups is not None:
            self.groups = Groups(self.contract.groups, independent=self.contract.multi_label)

    def __call__(
        self,
        data: bytes,
        k: int = 5,
        min_score: float = 0.0,
        *,
        exclusive: bool = False,
        camera: CameraCache | None = None,
        by_group: bool = False,
        crop: Crop = WHOLE,
    ) -> Result:
        """Classifies one encoded photo.

        Args:
            data: the image file's bytes.
            k: how many classes, and how many groups, at most; best first.
            min_score: classes and groups below it are left out.
            exclusive: no other photo is being worked on, so this one may use all CPUs.
            camera: where the photo comes from, if a near-identical one from there need not be computed again.
            by_group: of the classes, only those of the best group, where the model has groups.
            crop: the part of the photo that is classified; ``camera`` remembers frames of this part alone.

        Raises:
            NotAnImage, BrokenImage, TooManyPixels, TooComplex: as ``imaging.load`` does.
        """
        view = ALL if crop == WHOLE else View(crop)
        return self.views(data, [view], k, min_score, exclusive=exclusive, cameras=[camera], by_group=by_group)[0]

    def views(
        self,
        data: bytes,
        views: Sequence[View],
        k: int = 5,
        min_score: float = 0.0,
        *,
        exclusive: bool = False,
        cameras: Sequence[CameraCache | None],
        by_group: bool = False,
    ) -> list[Result]:
        """Classifies several views of one photo, which is decoded once: a result for each.

        Args:
            data, k, min_score, exclusive, by_group: as to classify one photo.
            views: what is looked at.
            cameras: for each of them, what is remembered of earlier frames of it.

        Raises:
            NotAnImage, BrokenImage, TooManyPixels, TooComplex: as ``imaging.load`` does.
        """
        started = time.perf_counter()
        parts = load_parts(data, self.contract.resize, self.decode_budget, views)
        decode_s = time.perf_counter() - started
        model = self.multithreaded if exclusive else self.model
        return [
            self._result(data, view, part, model, camera, decode_s, k, min_score, by_group=by_group)
            for view, part, camera in zip(views, parts, cameras, strict=True)
        ]

    def _result(
        self,
        data: bytes,
        view: View,
        part: Part,
        model: Model,
        camera: CameraCache | None,
        decode_s: float,
        k: int,
        min_score: float,
        *,
        by_group: bool,
    ) -> Result:
        started, pixels = time.perf_counter(), part.pixels
        if camera is None:
            scored, cached = model.judge(pixels), False
        else:
            scored, cached = camera.scores(self.contract, pixels, lambda: model.judge(pixels))
        scores = scored.scores
        ranked = top_k(scores, k, min_score)
        groups: tuple[Group, ...] = ()
        group = ""
        if self.groups is not None:
            by_name = self.groups.scores(scores)
            names, best = self.groups.names, int(by_name.argmax())
            group = names[best]
            groups = tuple(Group(names[i], score) for i, score in top_k(by_name, k, min_score))
            if by_group:
                ranked = self.groups.members(scores, best, k, min_score)
        sight = Sight(data, pixels, Appearance.of(pixels, part.shown), scored, view)
        inferred = time.perf_counter()
        labels, ids = self.contract.labels, self.contract.ids
        return Result(
            sight=sight,
            contract=self.contract,
            predictions=tuple(Prediction(labels[i], i, ids[i], score) for i, score in ranked),
            unknown=scored.unknown,
            cached=cached,
            decode_s=decode_s,
            infer_s=inferred - started,
            groups=groups,
            group=group,
            labels=self.labels(scored),
        )

    def labels(self, scored: Scored) -> tuple[str, ...]:
        """What a photo shows, as ``Result`` has it."""
        if scored.unknown:
            return ()
        if self.contract.multi_label:
            found = shown(scored.scores, self.contract.unknown_below)
        else:
            found = [int(scored.scores.argmax())]
        return tuple(self.contract.labels[index] for index in found)

    def scores(self, picture: bytes | NDArray[np.uint8], *, exclusive: bool = False) -> tuple[Sight, float, float]:
        """The scores of all classes for one picture, and whether it shows none of them.

        Args:
            picture: an image file's bytes, or ``uint8 [H, W, 3]`` RGB pixels of the model's own size.
            exclusive: no other photo is being worked on, so this one may use all CPUs.

        Returns:
            Them, and how long decoding and inference took, in seconds.

        Raises:
            NotAnImage, BrokenImage, TooManyPixels, TooComplex: as ``imaging.load`` does.
        """
        started = time.perf_counter()
        part = (
            Part(picture)
            if not isinstance(picture, bytes)
            else load_parts(picture, self.contract.resize, self.decode_budget, [ALL])[0]
        )
        decoded = time.perf_counter()
        scored = (self.multithreaded if exclusive else self.model).judge(part.pixels)
        sight = Sight(picture, part.pixels, Appearance.of(part.pixels, part.shown), scored)
        return sight, decoded - started, time.perf_counter() - decoded

    def best_group(self, scores: NDArray[np.float32]) -> str:
        """The name of the best group, by ``float32 [C]`` scores; "" where the model has no groups."""
        return "" if self.groups is None else self.groups.names[int(self.groups.scores(scores).argmax())]

    def name_of(self, scored: Scored, *, by_group: bool) -> str:
        """What a picture is called: its best group, or its best class."""
        return self.best_group(scored.scores) if by_group else self.contract.labels[int(scored.scores.argmax())]

    def check_k(self, k: int) -> None:
        """Raises InvalidParameter if ``k`` is more than the model has classes."""
        classes = len(self.contract.labels)
        if k > classes:
            raise InvalidParameter(f"top_k is {k}, but the model has {classes} classes. Ask for 1 to {classes}.")

    def check_golden(self) -> None:
        """Classifies the model's golden photo through the real path and compares.

        Raises:
            ModelError: the photo cannot be classified, or a score is further off than the tolerance.
        """
        golden = self.contract.golden
        try:
            scores = self.scores(golden.photo)[0].scored.scores
        except Exception as error:
            raise ModelError(f"the model cannot classify its own golden photo: {error}") from error
        worst = max(abs(float(scores[index]) - score) for index, score in golden.scores.items())
        # Not `worst > tolerance`: a NaN has to fail too.
        if not worst <= golden.tolerance:
            raise ModelError(
                f"the golden photo's scores are off by {worst:.4f} (allowed: {golden.tolerance}); "
                "this model does not compute on this machine what it computed when it was built"
            )
