"""The models that are served, by name.

Reads are single look-ups, and only the event loop changes anything, so a request that reads once has one whole model
from its first step to its last: that is all there is to swapping between two requests.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import NoPreviousModel, UnknownModel, quoted
from ..inference.classifier import Classifier
from ..inference.contract import Contract


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """One model that answers.

    Attributes:
        classifier: computes the answers.
        path: the file that it was loaded from; something else may lie there by now.
        digest: of that file, see ``model_file``.
        source: why this file.
        precision_reason: why this precision.
        loaded_at: seconds since the epoch.
        load_s: CPU seconds that loading it took when it was tried: for so long nothing else runs where it is loaded.
    """

    classifier: Classifier
    path: Path
    digest: bytes
    source: str
    precision_reason: str
    loaded_at: float
    load_s: float = 0.0

    @property
    def contract(self) -> Contract:
        """What the model says about itself."""
        return self.classifier.contract

    @property
    def name(self) -> str:
        """What clients call it."""
        return self.classifier.contract.name


class Repository:
    """All models that are served, one of which is the default; each remembers the one that it replaced."""

    def __init__(self, default: LoadedModel, others: Iterable[LoadedModel] = ()) -> None:
        self.default = default
        self._models = {default.name: default} | {served.name: served for served in others}
        self._previous: dict[str, LoadedModel] = {}

    def names(self) -> list[str]:
        """What can be asked for, the default first."""
        return [served.name for served in self.all()]

    def all(self) -> list[LoadedModel]:
        """The models, the default first, the others by name."""
        others = sorted((s for s in self._models.values() if s is not self.default), key=lambda served: served.name)
        return [self.default, *others]

    def identities(self) -> list[tuple[str, str, str]]:
        """Name, version and precision of each model."""
        return [(made.name, made.contract.version, made.contract.precision) for made in self.all()]

    def get(self, name: str | None) -> LoadedModel:
        """The model ``name``, or the default one.

        Raises:
            UnknownModel: no model of that name is served.
        """
        if name is None:
            return self.default
        try:
            return self._models[name]
        except KeyError:
            served = ", ".join(map(repr, self.names()))
            raise UnknownModel(f"There is no model {quoted(name)} here; served: {served}.") from None

    def previous(self, served: LoadedModel) -> LoadedModel | None:
        """What ``served`` replaced and ``roll_back`` would bring back."""
        return self._previous.get(served.name)

    def add(self, new: LoadedModel) -> None:
        """Serves one more model."""
        self._models[new.name] = new

    def replace(self, old: LoadedModel, new: LoadedModel) -> None:
        """Serves ``new`` from the next request on, and keeps ``old`` as it is."""
        self._put(old, new)
        self._previous[new.name] = old

    def roll_back(self, name: str | None) -> tuple[LoadedModel, LoadedModel]:
        """Serves again what was served before; the replaced model is forgotten.

        Returns:
            The model that was replaced, and the one that serves now.

        Raises:
            UnknownModel: no model of that name is served.
            NoPreviousModel: it replaced none.
        """
        current = self.get(name)
        previous = self.previous(current)
        if previous is None:
            raise NoPreviousModel(
                f"{current.name!r} is what it has been since the start or the last roll-back; put another model file "
                "in place instead."
            )
        self._put(current, previous)
        return current, previous

    def _put(self, old: LoadedModel, new: LoadedModel) -> None:
        self._previous.pop(old.name, None)
        del self._models[old.name]
        self._models[new.name] = new
        if old is self.default:
            self.default = new
