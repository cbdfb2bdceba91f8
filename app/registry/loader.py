"""Makes model files ready to serve: loads them beside what is served, and compares before they may answer."""

import contextlib
import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import ModelError
from ..inference.classifier import Classifier
from ..inference.decode_budget import DecodeBudget
from ..inference.model import Model
from ..inference.model_file import ModelFile
from ..inference.speed import cpu_seconds
from . import precision as precisions
from .precision import Memory
from .repository import LoadedModel
from .source import Offer, Source

log = logging.getLogger(__name__)

#: A model that has not classified its golden photo after this many seconds never will.
_PATIENCE_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Loader:
    """Makes a file ready to serve, or says why not.

    Attributes:
        decode_budget: how large photos may be.
        exclusive_threads: of the second session, which the default model has; 1: it has none.
        budget_s: the queue's; a model that needs more for one photo could never answer.
        max_slowdown: how many times as long as the model that it replaces a new one may take.
    """

    decode_budget: DecodeBudget
    exclusive_threads: int
    budget_s: float
    max_slowdown: float

    def load(self, offer: Offer, source: Source, current: LoadedModel | None, *, default: bool) -> LoadedModel:
        """Loads a file beside the model that it is to replace, and checks it; blocks.

        Args:
            offer: the file, which has passed its trial.
            source: where it comes from.
            current: what it is to replace, None where it is one more.
            default: whether it is to be the default model.

        Raises:
            ModelError: it cannot be used.
        """
        try:
            if offer.load_s > self.budget_s:
                raise ModelError(
                    f"loading it takes {offer.load_s:.2f} s of CPU time, in which no request would be answered; the "
                    f"queue budget is {self.budget_s:g} s (CLASSIFIER_QUEUE_BUDGET_MS). A restart takes it"
                )
            file, data = source.read_again(offer)
            model = Model(file.path, data=data)
            classifier = Classifier(model, self.decode_budget)
            guard = threading.Timer(_PATIENCE_S, model.abandon)
            guard.daemon = True
            guard.start()
            try:
                classifier.check_golden()
                self._check_speed(model, current.classifier.model if current else None)
            finally:
                guard.cancel()
            made = serve(file, classifier, source, offer.load_s)
            if default and self._may_be_multithreaded(made):
                classifier.multithreaded = Model(file.path, self.exclusive_threads, data)
        except ModelError:
            raise
        except Exception as error:
            log.exception("unexpected error while a model was loaded")
            raise ModelError(f"loading it failed: {error!r}") from error
        return made

    def load_multithreaded(self, served: LoadedModel, source: Source) -> None:
        """Gives a model its second session, with more threads; blocks."""
        if not self._may_be_multithreaded(served):
            return
        # The file may have been replaced or removed in the meantime; one session serves as well.
        with contextlib.suppress(ModelError):
            file, data = source.read(served.path)
            if file.digest == served.digest:
                served.classifier.multithreaded = Model(file.path, self.exclusive_threads, data)

    def _may_be_multithreaded(self, served: LoadedModel) -> bool:
        return self.exclusive_threads > 1 and served.load_s <= self.budget_s

    def _check_speed(self, model: Model, running: Model | None) -> None:
        """Compares CPU time, which does not depend on how busy the machine is."""
        times = cpu_seconds([model, *([running] if running else [])])
        new_s, running_s = times[0], times[-1]
        if new_s > self.budget_s:
            raise ModelError(
                f"it takes {new_s * 1e3:.0f} ms for a photo; the queue budget is {self.budget_s * 1e3:.0f} ms"
            )
        if running is not None and new_s > running_s * self.max_slowdown:
            raise ModelError(
                f"it takes {new_s * 1e3:.2f} ms of CPU time for a photo, the running model {running_s * 1e3:.2f} ms: "
                f"more than {self.max_slowdown:g} times as much (CLASSIFIER_MAX_SLOWDOWN)"
            )


def start(
    source: Source,
    precision: str | None,
    default: str | None,
    max_models: int,
    decode_budget: DecodeBudget,
    cache: Path | None = None,
) -> tuple[list[LoadedModel], list[tuple[Path, ModelError]]]:
    """Loads what there is; blocks.

    In a folder, a file that cannot be used is left out: a bad delivery must not cost the next start.

    Args:
        source: where the models come from.
        precision: ``fp32``, ``int8``, ``auto`` (the faster one on this CPU) or None.
        default: name of the default model; None: the first by name.
        max_models: the most models that may be served.
        decode_budget: how large photos may be.
        cache: folder where the faster precision is remembered; None: nowhere.

    Returns:
        The models, the default one first, and the files that were left out. Those of a folder have classified their
        golden photo.

    Raises:
        ModelError: there is nothing to serve, or something else than what is configured.
    """
    memory = Memory(cache)
    if preferred := source.preferred():
        try:
            return _start(source, None, None, max_models, decode_budget, memory)
        except ModelError as error:
            # A person chose it with a click, and what is configured is there: nobody has to come and mend this.
            source.leave_out(preferred)
            made, refused = _start(source, precision, default, max_models, decode_budget, memory)
            return made, [(preferred, error), *refused]
    return _start(source, precision, default, max_models, decode_budget, memory)


def _start(
    source: Source,
    precision: str | None,
    default: str | None,
    max_models: int,
    decode_budget: DecodeBudget,
    memory: Memory,
) -> tuple[list[LoadedModel], list[tuple[Path, ModelError]]]:
    preferred = source.preferred()
    refused = source.look()
    if refused and source.folder is None:
        raise refused[0][1]
    if precision == "auto":
        _prefer_the_fastest(source, memory)
    elif source.folder is not None:
        source.precision = precision
    served: dict[str, LoadedModel] = {}
    offers = source.offers()
    if len(offers) > max_models:
        raise ModelError(
            f"there are {len(offers)} models in {source.folder}, and CLASSIFIER_MAX_MODELS is {max_models}: "
            f"{', '.join(sorted(offers))}"
        )
    for name, files in offers.items():
        for offer in files:
            file = offer.file
            try:
                # Read again, like everywhere: what was checked is what is loaded.
                read, data = source.read_again(offer)
                classifier = Classifier(Model(read.path, data=data), decode_budget)
                if source.folder is not None or preferred:
                    classifier.check_golden()
            except ModelError as error:
                if source.folder is None:
                    raise
                source.refuse(file, error)
                refused.append((file.path, error))
                continue
            served[name] = serve(read, classifier, source, offer.load_s)
            if source.folder is None and not preferred:
                source.pin(file.path)
            break
    if not served:
        wanted = f" with CLASSIFIER_PRECISION={precision}" if precision else ""
        reasons = "".join(f"; {error}" for _, error in refused)
        raise ModelError(f"there is no model in {source.folder} that can be served{wanted}{reasons}")
    source.serving()
    by_name = {made.name: made for made in served.values()}
    first = min(by_name) if default is None else default
    if first not in by_name:
        raise ModelError(f"CLASSIFIER_DEFAULT_MODEL is {first}, but there is only {', '.join(sorted(by_name))}")
    return [by_name.pop(first), *by_name.values()], refused


def serve(file: ModelFile, classifier: Classifier, source: Source, load_s: float) -> LoadedModel:
    """What the repository has of a model."""
    why = source.why_of(file.path)
    return LoadedModel(classifier, file.path, file.digest, why, source.precision_reason, time.time(), load_s)


def _prefer_the_fastest(source: Source, memory: Memory) -> None:
    """Finds out which precision is faster on this CPU, on the first model that has both; it stays so until the end."""
    for offers in source.offers().values():
        # Of each precision the one that would be served.
        files = {offer.precision: offer for offer in reversed(offers)}
        if len(files) < 2:
            continue
        digests = [offer.file.digest for offer in files.values()]
        times = memory.recall(digests, files)
        how = "remembered for this CPU"
        if times is None:
            # Each is given back before the next model is loaded to be served.
            read = map(source.read_again, files.values())
            times = precisions.measure([Model(file.path, data=data) for file, data in read])
            memory.remember(digests, times)
            how = "measured at the start"
        source.precision_reason = f"{how}: {precisions.said(times)}"
        chosen = precisions.faster(times)
        if source.folder is not None:
            source.precision = chosen
        elif chosen in files:
            source.pin(files[chosen].file.path)
            source.look()
        return
