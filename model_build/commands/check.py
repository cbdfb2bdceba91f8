"""``python -m model_build check``."""

import argparse
import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from app.inference import imaging
from model_build.dataset.files import lines
from model_build.errors import InputError
from model_build.terminal import add_progress_to, tracker

if TYPE_CHECKING:
    from model_build.evaluation.report import Section
    from model_build.training.check import Findings

#: The model that the service serves where no other is configured.
_BUNDLED: Final = Path(imaging.__file__).parents[1] / "registry" / "bundled"
#: Photos that the terminal names of each kind; ``--json`` and the report have more.
_NAMED: Final = 10
#: Pictures of each kind in the report.
_SHOWN: Final = 40
_DESCRIPTION = """\
Look through a folder of pictures before a model learns from it: how many of each class, which are nearly the same,
which cannot be read or are too dark, and which labels are probably wrong. Nothing is changed, moved or deleted.

exit codes:
  0  the folder was looked through, whatever was found
  1  something unexpected went wrong
  2  an argument, a file or a folder cannot be used
"""
_EXAMPLES = """\
examples:
  python -m model_build check bins/
  python -m model_build check bins/ --html bins.html
  python -m model_build check bins/ --json | jq '.doubts[:16]'
"""


def add_to(commands: Any) -> None:
    """Adds the parser."""
    check = commands.add_parser(
        "check",
        help="what is wrong with a folder of pictures",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument("folder", type=Path, metavar="DIR", help="a sub-folder with pictures for each class")
    check.add_argument(
        "--model",
        type=Path,
        metavar="FILE",
        help="a model file that `export` wrote, whose features tell what is alike (default: the bundled one)",
    )
    check.add_argument("--html", type=Path, metavar="FILE", help="write a report with the pictures")
    check.add_argument("--json", action="store_true", help="print everything as JSON instead of a summary")
    add_progress_to(check)
    check.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Checks and prints."""
    try:
        from model_build.training.check import check
    except ModuleNotFoundError as error:
        raise InputError(f"check needs the package {error.name}: pip install '.[teach]'") from error

    found = check(options.folder, options.model or next(_BUNDLED.glob("*.onnx")), tracker(options))
    if options.html is not None:
        from model_build.evaluation import report

        report.write(options.html, f"Pictures in {options.folder.resolve().name}", sections(found, options.folder))
    if options.json:
        print(json.dumps(dataclasses.asdict(found), default=str, indent=2, ensure_ascii=False))
        return 0
    _print(found, options.folder)
    return 0


def _print(found: "Findings", root: Path) -> None:
    headings, rows = _counts(found)
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for row in (headings, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for title, listed in _lists(found, root):
        if listed:
            print(f"\n{title}: {len(listed)}")
            print("\n".join(f"  {line}" for line in listed[:_NAMED]))
            if len(listed) > _NAMED:
                print(f"  ... and {len(listed) - _NAMED} more; --json names all, --html FILE shows them")
    print()
    print("\n".join(f"note: {note}" for note in found.notes) or "Nothing was found.")


def _counts(found: "Findings") -> tuple[list[str], list[list[str]]]:
    headings = ["class", "to learn from", "different ones", "to test with", "too dark", "of one colour"]
    rows = [
        [c.label, *(str(count) for count in (c.photos, c.different, c.held_out, c.dark, c.flat))] for c in found.classes
    ]
    return headings, rows


def _lists(found: "Findings", root: Path) -> list[tuple[str, list[str]]]:
    """What was found, by kind, a line each."""

    def names(paths: Iterable[Path]) -> list[str]:
        return [str(path.relative_to(root)) for path in paths]

    def together(groups: Iterable[Iterable[Path]]) -> list[str]:
        return [", ".join(names(group)) for group in groups]

    doubts = [
        f"{doubt.path.relative_to(root)}: {doubt.label} {doubt.score:.2f}, {doubt.likely} {doubt.likely_score:.2f}"
        for doubt in found.doubts
    ]
    return [
        ("Not used", lines(found.left_out)),
        ("Labels that may be wrong", doubts),
        ("The same in different classes", together(found.across)),
        ("The same to learn from and to test with", together(found.leaks)),
        ("Near-duplicates in a class", together(found.within)),
        ("Too dark", names(found.dark)),
        ("Nearly of one colour", names(found.flat)),
        ("Blurred", names(found.blurred)),
    ]


def summary(found: "Findings", root: Path) -> str:
    """How many of each kind were found, on one line; empty where nothing was."""
    listed = ((title, len(found_)) for title, found_ in _lists(found, root))
    return ", ".join(f"{title[0].lower()}{title[1:]}: {count}" for title, count in listed if count)


def sections(found: "Findings", root: Path) -> "list[Section]":
    """What was found, with the pictures, for a report."""
    from model_build.evaluation import report
    from model_build.evaluation.report import Caption

    def shown(paths: Iterable[Path]) -> list[tuple[Path, list[Caption]]]:
        return [(one, [Caption(str(one.relative_to(root)))]) for one in list(paths)[:_SHOWN]]

    doubts = [
        (
            doubt.path,
            [
                Caption(str(doubt.path.relative_to(root))),
                Caption(f"{doubt.label} {doubt.score:.2f}", False),
                Caption(f"{doubt.likely} {doubt.likely_score:.2f}", True),
            ],
        )
        for doubt in found.doubts[:_SHOWN]
    ]
    kinds = [
        ("Labels that may be wrong", doubts),
        ("The same in different classes", shown(one for pair in found.across for one in pair)),
        ("The same to learn from and to test with", shown(one for pair in found.leaks for one in pair)),
        ("Near-duplicates in a class", shown(one for group in found.within for one in group)),
        ("Too dark", shown(found.dark)),
        ("Nearly of one colour", shown(found.flat)),
        ("Blurred", shown(found.blurred)),
    ]
    return [
        report.table("Pictures", *_counts(found)),
        report.table("What to do", ["note"], [[note] for note in found.notes]),
        report.table("Not used", ["what, and why"], [[line] for line in lines(found.left_out)]),
        *(report.pictures(title, photos, f"The first {_SHOWN} at most.") for title, photos in kinds if photos),
    ]
