"""Where models come from: which files there are, which of them may be served, and which of those go first."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .. import BUILDER
from ..errors import ModelError
from ..inference.model_file import MOST_BYTES, ModelFile, Verify
from ..runtime.files import file_stamp
from ..runtime.memory import free_bytes
from .directory_watcher import directories_of
from .trial import Findings, Trials

#: Where ``make model`` writes, relative to the working directory.
MODELS = Path("models")
#: The bundled model, beside its card: what is served where nothing else is configured or built.
BUNDLED = Path(__file__).parent / "bundled"
#: Bytes of a file that is read however little memory is free; MobileNetV2 1.0 has 14 million in fp32.
_LEAST_BYTES: Final = 16_000_000
#: Models whose findings are remembered, so that a file that comes back need not be tried again.
_REMEMBERED: Final = 1000
_ONLY: Final = "the only one to choose from"


def models_in(folder: Path) -> list[Path]:
    """The model files of a folder; one that is still being delivered begins with a dot."""
    return sorted(file for file in folder.glob("*.onnx") if not file.name.startswith("."))


def model_paths(model: Path | None, precision: str | None) -> list[Path]:
    """The file to serve; several where the faster one of them is to be served, or where they lie in a folder.

    Args:
        model: a file or a folder; None: what was built last, else the bundled model.
        precision: ``fp32``, ``int8``, ``auto`` (either) or None (the file as it is).

    Raises:
        ModelError: there is none in the precision that is asked for.
    """
    path = model or _newest()
    if path.is_dir():
        return models_in(path)
    if precision is None:
        return [path]
    name = path.name.removesuffix(".onnx").removesuffix(".fp32").removesuffix(".int8")
    wanted = ["int8", "fp32"] if precision == "auto" else [precision]
    siblings = [path.with_name(f"{name}.{each}.onnx") for each in wanted]
    if found := [sibling for sibling in siblings if sibling.is_file()]:
        return found
    raise ModelError(f"CLASSIFIER_PRECISION={precision}, but there is no {' or '.join(map(str, siblings))}")


def why_served(model: Path | None, path: Path) -> str:
    """Why ``path`` is served where ``model`` is configured, for the log and ``/health``."""
    if model:
        return "CLASSIFIER_MODEL"
    if path.parent == BUNDLED:
        return f"bundled with the service, because CLASSIFIER_MODEL is not set and {MODELS}/ has no model"
    return f"the newest one in {MODELS}/"


def _newest() -> Path:
    for pattern in ("*.int8.onnx", "*.fp32.onnx"):
        if built := sorted(MODELS.glob(pattern), key=lambda path: path.stat().st_mtime):
            return built[-1]
    (bundled,) = BUNDLED.glob("*.onnx")
    return bundled


class Replaced(ModelError):
    """Another file lies there than the one that has passed."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A file that has passed its trial.

    Attributes:
        file: what was tried.
        name: what its model is called.
        precision: ``fp32`` or ``int8``.
        load_s: CPU seconds that loading it took, in which nothing else would have run here.
    """

    file: ModelFile
    name: str
    precision: str
    load_s: float


class Source:
    """The files that models come from: one file, whatever its model is called, or a folder with a file for each."""

    def __init__(
        self,
        paths: Callable[[], list[Path]],
        folder: Path | None,
        why: str,
        verify: Verify | None,
        trials: Trials,
        most_bytes: int = MOST_BYTES,
        shipped: Path | None = None,
    ) -> None:
        """Looks at nothing yet.

        Args:
            paths: the files there are now.
            folder: where several models are served from; None: there is one file.
            why: why these, for ``/health``.
            verify: who must have signed them; None: nobody.
            trials: what tries a file before anything here loads it.
            most_bytes: of a file.
            shipped: a file that comes with the code and is believed like it: it is not tried where it is the only one.
        """
        self.folder = folder
        self.why = why
        self.trials = trials
        self.precision: str | None = None
        self.precision_reason = _ONLY
        self._paths = paths
        self._verify = verify
        self._most_bytes = most_bytes
        self._shipped = shipped
        self._preferred: Callable[[], Path | None] = lambda: None
        self._left_out: Path | None = None
        self._seen: dict[Path, tuple[tuple[int, ...], Offer | ModelError]] = {}
        self._passed: dict[bytes, Findings] = {}
        self._serving = False

    @classmethod
    def configured(
        cls, model: Path | None, precision: str | None, verify: Verify | None, trials: Trials, most_bytes: int
    ) -> "Source":
        """The source that a configuration means.

        Args:
            model: a file or a folder; None: what was built last, else the bundled model.
            precision: as ``model_paths`` takes it.
            verify: who must have signed the files; None: nobody.
            trials: what tries a file before anything here loads it.
            most_bytes: of a file.

        Raises:
            ModelError: as ``model_paths``.
        """
        if model and model.is_dir():
            # A folder stays one, also while it is away.
            return cls(lambda: models_in(model), model, "CLASSIFIER_MODEL", verify, trials, most_bytes)
        paths = model_paths(model, precision)
        # The image has it elsewhere.
        shipped = next(BUNDLED.glob("*.onnx"), None)
        return cls(lambda: paths, None, why_served(model, paths[0]), verify, trials, most_bytes, shipped)

    def prefer(self, preferred: Callable[[], Path | None]) -> None:
        """Serves another file instead of the configured one, for as long as ``preferred`` names one.

        Not where there is a folder of models: whoever fills it says what is served.
        """
        self._preferred = preferred

    def preferred(self) -> Path | None:
        """The file that is served instead of the configured one; None: that one is."""
        found = None if self.folder else self._preferred()
        return None if found == self._left_out else found

    def leave_out(self, preferred: Path) -> None:
        """Does not prefer this file any more: it cannot be served."""
        self._left_out = preferred

    def configured_file(self) -> Path:
        """The file that is served where no other is preferred."""
        return self._paths()[0]

    def why_of(self, path: Path) -> str:
        """Why a file is served."""
        return "taught in the browser" if path == self.preferred() else self.why

    def _files(self) -> list[Path]:
        preferred = self.preferred()
        return [preferred] if preferred else self._paths()

    def read(self, path: Path) -> tuple[ModelFile, bytes]:
        """Reads and checks one file, as ``ModelFile.read`` does; blocks.

        Raises:
            ModelError: as there.
        """
        free = free_bytes()
        most = self._most_bytes if free is None else min(self._most_bytes, max(free, _LEAST_BYTES))
        return ModelFile.read(path, self._verify, most)

    def read_again(self, offer: Offer) -> tuple[ModelFile, bytes]:
        """Reads a file that has passed, to load it; blocks.

        Raises:
            ModelError: it cannot be read any more, or is another one than what has passed (Replaced).
        """
        file, data = self.read(offer.file.path)
        if file.digest != offer.file.digest:
            self._seen.pop(file.path, None)
            raise Replaced(f"{file.path} cannot be served: it was replaced while it was tried")
        return file, data

    def look(self) -> list[tuple[Path, ModelError]]:
        """Reads and tries the files that are new or have changed since the last time; blocks, for long.

        Returns:
            Which of those cannot be used, and why.
        """
        refused = []
        before, self._seen = self._seen, {}
        for path in self._files():
            stamp = file_stamp(path)
            # A served file that disappears is no news; that one that is asked for is missing, is.
            if stamp is None and not before:
                refused.append((path, ModelError(f"there is no model file at {path}")))
            if stamp is None:
                continue
            if path in before and before[path][0] == stamp:
                self._seen[path] = before[path]
                continue
            found: Offer | ModelError
            try:
                found = self._try(path)
            except ModelError as error:
                # Without its traceback, which would keep the file's bytes.
                found = ModelError(str(error))
                refused.append((path, found))
            self._seen[path] = (stamp, found)
        return refused

    def serving(self) -> None:
        """From now on there is something to lose: a file without a checksum is not tried any more."""
        self._serving = True

    def forget(self) -> None:
        """The next look reads everything again."""
        self._seen.clear()

    def refuse(self, file: ModelFile, error: ModelError) -> None:
        """Does not offer a file again before it changes."""
        if file.path in self._seen:
            self._seen[file.path] = (self._seen[file.path][0], ModelError(str(error)))

    def pin(self, path: Path) -> None:
        """Looks at one file only from now on."""
        self._paths = lambda: [path]

    def offers(self) -> dict[str, list[Offer]]:
        """The usable files of each model, the one to serve first: int8 before fp32, then the newest.

        A source of one file calls its model "".
        """
        found: dict[str, list[tuple[bool, int, str, Offer]]] = {}
        for path, (stamp, offer) in self._seen.items():
            if isinstance(offer, Offer) and self.precision in (None, offer.precision):
                name = offer.name if self.folder else ""
                rank = (offer.precision != "int8", -stamp[-1], path.name, offer)
                found.setdefault(name, []).append(rank)
        return {name: [rank[-1] for rank in sorted(files, key=lambda r: r[:-1])] for name, files in found.items()}

    def directories(self) -> set[Path]:
        """Where a change can mean a new model; blocks."""
        paths = [*self._files(), *([self.folder] if self.folder else [])]
        return set().union(*(directories_of(path) for path in paths))

    def _try(self, path: Path) -> Offer:
        file, data = self.read(path)
        # Wherever it lies and whatever it is called by now: these bytes have passed.
        passed = self._passed.pop(file.digest, None)
        if passed is None:
            passed = self._find_out(file, data)
        self._passed[file.digest] = passed
        while len(self._passed) > _REMEMBERED:
            del self._passed[next(iter(self._passed))]
        return Offer(file, passed.name, passed.precision, passed.load_s)

    def _find_out(self, file: ModelFile, data: bytes) -> Findings:
        if file.path == self._shipped and self.folder is None:
            return Findings("", "", 0.0)
        if self._serving and not file.has_checksum:
            raise ModelError(
                f"{file.path} cannot be served: it does not end in a checksum, so nobody can tell whether it has "
                "arrived whole: it is truncated, not yet complete, something else, or from an earlier version; "
                f"`{BUILDER} sign FILE` adds one"
            )
        try:
            return self.trials(data)
        except ModelError as error:
            raise ModelError(f"{file.path} cannot be served: {error}") from error
