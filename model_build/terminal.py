"""What a person at the terminal sees while a command works."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence, Sized
from typing import Any, Final

#: Seconds between two lines of progress.
_PROGRESS_S: Final = 0.2


def say(line: str) -> None:
    """Prints a line to standard error, where it does not mix with results."""
    print(line, file=sys.stderr)


def track(items: Iterable[Any], description: str) -> Iterable[Any]:
    """Passes ``items`` on and shows how far it is; just the description where rich is not installed."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        say(description)
        yield from items
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield from progress.track(items, description=description)


def track_as_json(items: Iterable[Any], description: str) -> Iterable[Any]:
    """Passes ``items`` on and prints how far it is to standard error, for a program that reads it.

    A line is ``{"step": description, "done": 3, "of": 40}``; ``of`` is null where nobody knows.
    """
    of = len(items) if isinstance(items, Sized) else None
    told = 0.0
    done = 0
    for item in items:
        if time.monotonic() - told >= _PROGRESS_S:
            say(json.dumps({"step": description, "done": done, "of": of}))
            told = time.monotonic()
        yield item
        done += 1
    say(json.dumps({"step": description, "done": done, "of": of}))


def add_progress_to(command: argparse.ArgumentParser) -> None:
    """Adds the option that ``tracker`` reads."""
    command.add_argument(
        "--progress",
        choices=["bar", "json"],
        default="bar",
        help="how progress is shown on standard error: a bar, or a line of JSON for a program (default: bar)",
    )


def tracker(options: argparse.Namespace) -> Callable[..., Any]:
    """What shows progress as ``--progress`` says."""
    return track_as_json if options.progress == "json" else track


def print_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table to standard output."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 150).print(table, markup=False)


def fraction(text: str) -> float:
    """A share, 0 to 1, as argparse wants it read."""
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def threshold(text: str) -> float:
    """A score that something has to reach, above 0 and at most 1, as argparse wants it read."""
    if value := fraction(text):
        return value
    raise argparse.ArgumentTypeError("every score is at least 0")


def positive(text: str) -> int:
    """A whole number of 1 or more, as argparse wants it read."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value
