"""What an evaluation asks about a photo: a model file, through the very code that serves it, or a running service.

``remote_target`` has the service; it needs httpx, which a model file does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from app.errors import ModelError
from app.inference.classifier import Classifier
from app.inference.model import Model
from model_build.dataset.labels import Labels
from model_build.dataset.photos import DECODE_BUDGET
from model_build.errors import InputError

#: How many of the best classes are asked for.
BEST: Final = 5


@dataclass(frozen=True, slots=True)
class Answer:
    """What a target answered about one photo.

    Attributes:
        ranked: the best classes, best first, at most ``BEST``.
        score: that of the best one.
        unknown: whether, by the model's own threshold, the photo shows none of its classes.
        group: the best group; "" where the model has none.
        scores: of all classes, by index, where they are independent; else none.
        decode_s: seconds from bytes to pixels.
        infer_s: seconds from pixels to ranked scores.
    """

    ranked: tuple[int, ...]
    score: float
    unknown: bool
    decode_s: float
    infer_s: float
    group: str = ""
    scores: tuple[float, ...] = ()


class Target(Protocol):
    """What answers: a model file or a running service.

    Attributes:
        name: which model it is and where.
        labels: its classes.
        threshold: where its scores are independent, from which one on a photo shows a class; else None.
    """

    name: str
    labels: Labels
    threshold: float | None

    def __call__(self, photo: bytes) -> Answer:
        """Answers; raises RequestError where the photo cannot be classified."""

    def close(self) -> None:
        """Releases what the target holds; it cannot be asked afterwards."""


class InProcess:
    """A model file, asked through the service's own code, with one thread."""

    def __init__(self, path: Path) -> None:
        """Loads the model and lets it classify its golden photo, as the service does before it is ready.

        Raises:
            InputError: the file cannot be served.
        """
        try:
            self._classifier = Classifier(Model(path), DECODE_BUDGET)
            self._classifier.check_golden()
        except ModelError as error:
            raise InputError(str(error)) from error
        contract = self._classifier.contract
        self.name = f"{contract.name} {contract.version} {contract.precision} ({path})"
        self.labels = Labels(contract.labels, contract.ids, contract.groups)
        self.threshold = contract.unknown_below if contract.multi_label else None

    def __call__(self, photo: bytes) -> Answer:
        """Classifies one photo."""
        result = self._classifier(photo, BEST if self.threshold is None else len(self.labels.labels))
        ranked = tuple(prediction.index for prediction in result.predictions[:BEST])
        scores = () if self.threshold is None else by_index(result.predictions)
        best = result.predictions[0].score
        return Answer(ranked, best, result.unknown, result.decode_s, result.infer_s, result.group, scores)

    def close(self) -> None:
        """Nothing is held that the end of the object would not release."""


class _Ranked(Protocol):
    """A class in an answer, of the service's own code or of its client."""

    @property
    def index(self) -> int: ...
    @property
    def score(self) -> float: ...


def by_index(predictions: Sequence[_Ranked]) -> tuple[float, ...]:
    """The scores of all classes, in the order of the classes."""
    return tuple(one.score for one in sorted(predictions, key=lambda one: one.index))


def open_target(model: str, api_key: str | None = None) -> Target:
    """Opens a running service (``http://`` or ``https://``) or, for anything else, a model file.

    Args:
        model: an address or a path.
        api_key: for a service that asks for one.

    Raises:
        InputError: it cannot be used, or it is a service and httpx is not installed.
    """
    if not model.startswith(("http://", "https://")):
        return InProcess(Path(model))
    try:
        from model_build.evaluation.remote_target import RemoteTarget
    except ModuleNotFoundError as error:
        raise InputError(
            f"asking a service needs the package {error.name}, of the extra 'client': pip install '.[client]'"
        ) from error
    return RemoteTarget(model, api_key)
