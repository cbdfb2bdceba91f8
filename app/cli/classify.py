"""``edge-classifier classify``: photos by the model of this machine, or by a service."""

import argparse
import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from ..inference.decode_budget import DecodeBudget
from . import photos
from .photos import Photo
from .results import Csv, JsonLines, OutputFormat, Row, Table, append_to

#: Classes of a photo where --top-k does not say; a person is shown fewer.
_TOP_K: Final = 5
_SHOWN: Final = 3
#: Photos that a service is asked about at once: enough to keep a gateway's workers busy.
_ASKED_AT_ONCE: Final = 4
#: Seconds between two looks at a folder that is watched.
_LOOK_S: Final = 1.0
#: What a service may say about one photo alone; any other problem would be the next photo's too.
_ABOUT_THE_PHOTO: Final = frozenset(
    {
        "body-too-large",
        "broken-image",
        "internal-error",
        "malformed-body",
        "not-an-image",
        "too-complex",
        "too-many-pixels",
    }
)

Ask = Callable[[Photo], Row]


class RunAborted(Exception):
    """The rest cannot be classified now; the message says why."""


@dataclass
class _Counts:
    classified: int = 0
    failed: int = 0
    before: int = 0


def run(options: argparse.Namespace) -> int:
    """Classifies what is named.

    Returns:
        0; 1 if a photo failed, now or in an earlier run, or the run broke off; 130 if it was interrupted.

    Raises:
        OSError, ResultsFileError: what is named or the file of results cannot be used.
        ModelError: there is no model that could be used.
    """
    found = photos.find(options.photos)
    if not found and not options.watch:
        raise FileNotFoundError(f"there are no photos in {', '.join(options.photos)}")
    form = Csv(options.top_k or _TOP_K, options.groups) if options.csv else JsonLines()
    counts = _Counts()
    code = 0
    with contextlib.ExitStack() as stack:
        if options.out:
            write, done = stack.enter_context(append_to(options.out, form))
        else:
            lines: OutputFormat = (
                form if options.csv or options.json else Table(options.top_k or _SHOWN, found, options.groups)
            )
            # File names need not be UTF-8.
            sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
            print(lines.header, end="")
            done = {}

            def write(row: Row) -> None:
                print(lines.line(row), end="", flush=True)

        try:
            _classify(options, found, done, write, counts)
        except RunAborted as error:
            print(f"edge-classifier classify: {error}", file=sys.stderr)
            code = 1
        except KeyboardInterrupt:
            # The way in which watching is meant to end.
            code = 0 if options.watch else 130
    if options.out or options.watch or len(found) > 1:
        before = f", {counts.before} had been done before" if options.out else ""
        print(f"{counts.classified} classified, {counts.failed} failed{before}", file=sys.stderr)
    return code or int(counts.failed > 0)


def _classify(
    options: argparse.Namespace,
    found: list[Photo],
    done: dict[Photo, bool],
    write: Callable[[Row], None],
    counts: _Counts,
) -> None:
    rounds = _watched(options.photos) if options.watch else iter([found])
    with _remote(options) if options.url else _local(options) as (ask, at_once), ThreadPoolExecutor(at_once) as pool:
        for named in rounds:
            left = [photo for photo in named if photo not in done]
            counts.before += len(named) - len(left)
            counts.failed += sum(done.get(photo, False) for photo in named)
            with _progress(0 if options.watch else len(left)) as advance:
                # Twice as many, so that no thread has to wait while rows are written in their order.
                for row in in_order(left, ask, pool, 2 * at_once):
                    # Counted first: whoever has read the row may interrupt at once.
                    counts.failed += bool(row.error)
                    counts.classified += not row.error
                    write(row)
                    advance()


def in_order(named: Iterable[Photo], ask: Ask, pool: ThreadPoolExecutor, ahead: int) -> Iterator[Row]:
    """The photos' rows, in the photos' order; ``ahead`` photos at most are given to the pool at a time."""
    running: deque[Future[Row]] = deque()
    try:
        for photo in named:
            running.append(pool.submit(ask, photo))
            if len(running) == ahead:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        for future in running:
            future.cancel()


def _watched(named: list[str]) -> Iterator[list[Photo]]:
    """Forever: the photos that are new or changed, once they look the same twice, so that none is half written."""
    seen: set[Photo] = set()
    given: set[Photo] = set()
    while True:
        now: list[Photo] = []
        # A folder may be gone for a moment.
        with contextlib.suppress(OSError):
            now = photos.find(named)
        yield [photo for photo in now if photo.size and photo in seen and photo not in given]
        given = seen & set(now)
        seen = set(now)
        time.sleep(_LOOK_S)


@contextmanager
def _local(options: argparse.Namespace) -> Iterator[tuple[Ask, int]]:
    """Asks the model that this machine would serve, in as many threads as it would have workers."""
    from ..errors import RequestError
    from ..inference.classifier import Classifier
    from ..settings import Settings
    from .local import load

    settings = Settings()
    classifier = Classifier(load(settings)[0], DecodeBudget(settings.max_pixels))
    if options.top_k:
        classifier.check_k(options.top_k)
    contract = classifier.contract

    def ask(photo: Photo) -> Row:
        try:
            result = classifier(photo.read(), options.top_k or _TOP_K, by_group=options.groups)
        except (RequestError, OSError) as error:
            return Row(photo, contract.name, contract.version, error=str(error))
        return Row(
            photo,
            contract.name,
            contract.version,
            result.predictions,
            result.unknown,
            groups=result.groups,
            labels=result.labels,
        )

    from ..main import planned_cpus

    yield ask, planned_cpus(settings).count


@contextmanager
def _remote(options: argparse.Namespace) -> Iterator[tuple[Ask, int]]:
    """Asks a service; in threads, because files are read in between."""
    from ..client import Client, ProblemError, Unreachable

    api_key = options.api_key_file.read_text().strip() if options.api_key_file else None
    with Client(options.url, api_key=api_key) as service:

        def ask(photo: Photo) -> Row:
            try:
                result = service.predict(photo.read(), options.top_k, by_group=options.groups)
            except OSError as error:
                return Row(photo, error=str(error))
            except ProblemError as error:
                if error.slug not in _ABOUT_THE_PHOTO:
                    raise RunAborted(str(error)) from error
                return Row(photo, error=error.detail)
            except Unreachable as error:
                raise RunAborted(f"no answer from {error}") from error
            return Row(
                photo,
                result.model.name,
                result.model.version,
                result.predictions,
                result.unknown,
                groups=result.groups,
                labels=result.labels,
            )

        yield ask, _ASKED_AT_ONCE


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], Any]]:
    """A bar on a terminal's standard error, for more than one photo; where rich is not installed, none."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        total = 0
    if total < 2 or not sys.stderr.isatty():
        yield lambda: None
        return
    columns = (TextColumn("photos"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Rows on the same terminal are printed above the bar; rows into a file or pipe have to stay there.
    bar = Progress(*columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty(), redirect_stderr=False)
    with bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)
