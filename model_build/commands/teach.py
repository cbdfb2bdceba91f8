"""``python -m model_build teach``."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.inference.imaging import FITS
from model_build.errors import InputError
from model_build.terminal import add_progress_to, fraction, say, tracker

if TYPE_CHECKING:
    from model_build.training.teach import Taught

_DESCRIPTION = """\
Give a model file new classes, from a folder with a sub-folder of pictures for each.

Needs neither TensorFlow nor a GPU: the network stays as it is, and a linear classifier is fitted to its features. What
is said about it is cross-validated: on pictures that the head had not learned from, with near-duplicates (frames of a
burst, copies) on one side. The head that is written learns from all of them. A folder that is divided into train/ and
val/ or test/ is tested with its own test part instead. The new file is complete: it holds the labels, the accuracy,
the temperature and the novelty above which a picture is classified as unknown. Pictures in a sub-folder that is called
unknown, other, background or none teach it what to call so; they are no class.

exit codes:
  0  the model was written
  1  something unexpected went wrong
  2  an argument, a file or a folder cannot be used
"""
_EXAMPLES = """\
examples:
  python -m model_build teach models/mobilenet_v2_1.0_224.int8.onnx bins/
  python -m model_build teach models/mobilenet_v2_1.0_224.fp32.onnx bins/ --name bins-2 --unknown-share 0.01
"""
#: Classes that a terminal has room for; the contract has all.
_ROWS = 20


def add_to(commands: Any) -> None:
    """Adds the parser."""
    teach = commands.add_parser(
        "teach",
        help="new classes for a model, without TensorFlow",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    teach.add_argument("model", type=Path, metavar="MODEL", help="a model file that `export` wrote, fp32 or int8")
    teach.add_argument("folder", type=Path, metavar="DIR", help="a sub-folder with pictures for each class")
    teach.add_argument("--output", type=Path, default=Path("models"), metavar="DIR", help="default: models")
    teach.add_argument("--name", help="default: the folder's name")
    teach.add_argument("--seed", type=int, default=0, help="of the division into folds (default: 0)")
    teach.add_argument(
        "--unknown-share",
        type=fraction,
        default=0.05,
        metavar="SHARE",
        help="share of the classes' own pictures that may be classified as unknown, 0 to 1; a larger one finds more "
        "pictures of other things (default: 0.05)",
    )
    teach.add_argument(
        "--fit",
        choices=["auto", *FITS],
        default="auto",
        help="what the model sees of a photo of another shape, see export; auto: as MODEL does, or, where most "
        "pictures are wider than 4:3, all of it if that is better in the cross-validation (default: auto)",
    )
    teach.add_argument(
        "--html", type=Path, metavar="FILE", help="write a report: each class, mistakes, what `check` finds"
    )
    teach.add_argument("--json", action="store_true", help="print what came of it as JSON instead of a summary")
    add_progress_to(teach)
    teach.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Teaches, and prints a summary."""
    try:
        from model_build.export.publish import check_writable
        from model_build.training.teach import Request, teach
    except ModuleNotFoundError as error:
        raise InputError(f"teach needs the package {error.name}: pip install '.[teach]'") from error

    if options.html is not None:
        check_writable(options.html.parent, "--html")
    request = Request(
        model=options.model,
        folder=options.folder,
        output=options.output,
        name=options.name,
        seed=options.seed,
        unknown_share=options.unknown_share,
        fit=options.fit,
    )
    taught = teach(request, tracker(options), say)
    if options.html is not None:
        _write_report(options.html, options.folder, taught)
    print(_as_json(taught) if options.json else _summary(taught, options.folder))
    return 0


def _as_json(taught: "Taught") -> str:
    """What the summary says, for a program; ``measured`` is the contract's."""
    contract = taught.contract
    found = {
        "path": str(taught.path),
        "name": contract.name,
        "version": contract.version,
        "precision": contract.precision,
        "labels": contract.labels,
        "resize": dataclasses.asdict(contract.resize),
        "temperature": contract.temperature,
        "unknown_above": contract.unknown_above,
        "measured": contract.measured,
        "warnings": taught.warnings,
        "left_out": taught.left_out,
        "check": {
            name: value
            for name, value in dataclasses.asdict(taught.findings).items()
            if name not in ("doubts", "left_out", "notes")
        },
        "doubts": [dataclasses.asdict(doubt) for doubt in taught.doubts],
        "seconds": round(taught.seconds, 3),
    }
    return json.dumps(found, default=str, indent=2, ensure_ascii=False)


def _write_report(path: Path, folder: Path, taught: "Taught") -> None:
    from model_build.commands import check
    from model_build.dataset.intervals import share_line
    from model_build.evaluation import report

    contract, figures = taught.contract, taught.figures
    lines = {
        "right, every class counting the same": share_line(figures.accuracy),
        "right, every photo counting the same": share_line(figures.as_mixed),
        "measured by": figures.how,
        "of the classes' pictures unknown": share_line(figures.unknown),
        **({"of those that are to be refused": share_line(figures.refused)} if figures.refused else {}),
        "unknown": f"above a novelty of {contract.unknown_above:.3f}",
        "temperature": f"{contract.temperature:.3f}",
        "what the model sees of a photo": contract.resize.fit,
        "file": taught.path.name,
    }
    sections = [
        report.figures({contract.name: lines}),
        *report.by_class(contract.labels, figures.classes, figures.mistakes),
        *check.sections(taught.findings, folder),
    ]
    report.write(path, f"{contract.name} {contract.version}", sections)


def _summary(taught: "Taught", folder: Path) -> str:
    from model_build.commands import check
    from model_build.dataset.intervals import share_line

    contract, figures = taught.contract, taught.figures
    learned, left_out = contract.measured["learned"]["photos"], contract.measured["left_out"]["photos"]
    rows = sorted(zip(contract.labels, figures.classes, strict=True), key=lambda row: row[1].value if row[1] else 0.0)
    lines = [f"left out: {line}" for line in taught.left_out]
    lines += [f"note: {line}" for line in taught.warnings]
    if found := check.summary(taught.findings, folder):
        lines.append(f"check        {found}; `check {folder}` names them")
    lines += [
        f"classes      {len(contract.labels)}: {', '.join(contract.labels)}",
        f"pictures     {learned} learned from; {left_out} left out",
        f"right        {share_line(figures.accuracy)}, by {figures.how}, every class counting the same",
        f"             {share_line(figures.as_mixed)}, every photo counting the same",
        *(f"  {label}: {share_line(share)}" for label, share in rows[:_ROWS]),
        *([f"  and {len(rows) - _ROWS} classes that are right more often"] if len(rows) > _ROWS else []),
        f"unknown      {share_line(figures.unknown)} of those that show a class",
        *([f"refused      {share_line(figures.refused)} of those that are to be refused"] if figures.refused else []),
        f"             where the novelty is above {contract.unknown_above:.3f}",
        f"temperature  {contract.temperature:.3f}",
        f"file         {taught.path}, {taught.path.stat().st_size / 1e6:.2f} MB",
        f"seconds      {taught.seconds:.1f}",
    ]
    return "\n".join(lines)
