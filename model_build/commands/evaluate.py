"""``python -m model_build evaluate``."""

import argparse
import contextlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model_build.errors import InputError
from model_build.terminal import print_table, track

if TYPE_CHECKING:
    from model_build.evaluation.evaluate import Comparison, Evaluation, Measured
    from model_build.evaluation.multi_label import MultiLabel

_DESCRIPTION = """\
Measure a model on photos whose classes are known, through the very code that serves it.

MODEL is an ONNX file that this command line wrote, or the address of a running service. Prints
top-1 and top-5 accuracy with a 95 % interval, calibration error, precision and recall by class, the most frequent
mistakes and latency. Photos of classes that the model does not know are counted and left out of the accuracy.
Of a model whose scores are independent (multi-label) it prints mean average precision and, by class, F1; then a table
in the folder (labels.csv: file,label) has to say all that each photo shows: several rows for a photo, or cat|dog.

exit codes:
  0  measured, however good or bad the model is
  1  something unexpected went wrong
  2  a model, a folder or a file cannot be used
"""
_EXAMPLES = """\
examples:
  python -m model_build evaluate models/mobilenet_v2_1.0_224.int8.onnx photos/
  python -m model_build evaluate models/mobilenet_v2_1.0_224.fp32.onnx photos/ \\
    --compare models/mobilenet_v2_1.0_224.int8.onnx --html report.html
  python -m model_build evaluate http://localhost:8000 photos/ --json -
"""
#: Rows that a terminal has room for; the report and the JSON have all.
_ROWS = 20
_LABEL_COLUMNS = ["class", "photos", "F1", "average precision", "precision", "recall"]
#: Photos that a report carries at most.
_PICTURES = 50


def add_to(commands: Any) -> None:
    """Adds the parser."""
    evaluate = commands.add_parser(
        "evaluate",
        help="accuracy, calibration and latency on labelled photos",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    evaluate.add_argument("model", metavar="MODEL", help="an ONNX file, or http://host:port of a running service")
    evaluate.add_argument(
        "photos", type=Path, metavar="DIR", help="photos; <label>/x.jpg or <id>_<label>.jpg says what they show"
    )
    evaluate.add_argument("--compare", metavar="OTHER", help="a second file or service, measured on the same photos")
    evaluate.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help="file that holds the key of the services that are asked; sent to both where there are two",
    )
    evaluate.add_argument(
        "--html", type=Path, metavar="FILE", help="write a report with diagrams, and the photos they disagree on"
    )
    evaluate.add_argument("--json", metavar="FILE", help="write everything as JSON; - is standard output, alone")
    evaluate.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measures, prints tables, and writes the report and the JSON."""
    from model_build.evaluation import multi_label
    from model_build.evaluation.evaluate import compare, measure
    from model_build.evaluation.targets import open_target

    api_key = _api_key(options.api_key_file) if options.api_key_file else None
    with contextlib.ExitStack() as stack:
        # All of them first: a wrong argument should not cost a measurement.
        targets = [
            stack.enter_context(contextlib.closing(open_target(model, api_key)))
            for model in (options.model, options.compare)
            if model
        ]
        if any(target.threshold is not None for target in targets):
            if any(target.threshold is None for target in targets):
                raise InputError(
                    f"{targets[0].name} and {targets[1].name} cannot be compared: one names one class for a photo, the "
                    "other all that it shows"
                )
            found = [
                multi_label.measure(target, options.photos, partial(track, description=target.name))
                for target in targets
            ]
            return _several(options, found)
        measured = [measure(target, options.photos, partial(track, description=target.name)) for target in targets]
    compared = compare(*measured) if len(measured) == 2 else None
    if options.json != "-":
        _print(measured, compared)
    if options.json:
        _write_json(options.json, measured, compared)
    if options.html:
        _write_html(options.html, options.photos, measured, compared)
    return 0


def _several(options: argparse.Namespace, measured: "list[MultiLabel]") -> int:
    """What ``run`` prints and writes for models whose scores are independent."""
    if options.json != "-":
        columns = [found.figures() for found in measured]
        rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
        print_table("Figures", ["", *(found.name for found in measured)], rows)
        for line in dict.fromkeys(line for found in measured for line in found.left_out[:_ROWS]):
            print(f"left out: {line}")
        rows = sorted(_label_rows(measured[0]), key=lambda row: row[2])
        print_table(f"Classes, the worst first{_limit(len(rows))}", _LABEL_COLUMNS, rows[:_ROWS])
    if options.json:
        _write_json(options.json, measured, None)
    if options.html:
        from model_build.evaluation import report
        from model_build.evaluation.report import Caption

        sections = [report.figures({found.name: found.figures() for found in measured})]
        for found in measured:
            wrong = np.flatnonzero(~found.exact)
            cards = []
            for i in wrong[:_PICTURES]:
                missed, extra = found.truth[i] & ~found.said[i], found.said[i] & ~found.truth[i]
                lines = [Caption(f"shows {', '.join(found.names(found.truth[i])) or 'nothing'}")]
                lines += [Caption(f"missed: {name}", False) for name in found.names(missed)]
                lines += [Caption(f"wrong: {name}", False) for name in found.names(extra)]
                cards.append((options.photos / found.files[i], lines))
            sections.append(report.table(f"Classes: {found.name}", _LABEL_COLUMNS, _label_rows(found)))
            note = f"{len(wrong)} of {len(found.files)} photos; the first {_PICTURES} at most."
            sections.append(report.pictures(f"Where a label is wrong: {found.name}", cards, note))
        report.write(options.html, f"{measured[0].name}: evaluation on {options.photos.name}", sections)
    return 0


def _label_rows(found: "MultiLabel") -> list[list[str]]:
    return [
        [row.label, str(row.photos), *("-" if share is None else f"{share:.1%}" for share in shares)]
        for row in found.per_class()
        for shares in [(row.f1, row.average_precision, row.precision, row.recall)]
    ]


def _api_key(path: Path) -> str:
    try:
        keys = path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--api-key-file: {path} cannot be read: {error}") from error
    if len(keys) != 1:
        raise InputError(f"--api-key-file: {path} has to hold one key and nothing else")
    return keys[0]


def _print(measured: "list[Measured]", compared: "Comparison | None") -> None:
    columns = [found.figures() for found in measured]
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    print_table("Figures", ["", *(found.name for found in measured)], rows)
    for line in dict.fromkeys(line for found in measured for line in found.skipped[:_ROWS]):
        print(f"not answered: {line}")
    if compared is None:
        _print_classes(measured[0].evaluation)
    else:
        print_table("Compared", ["", ""], list(compared.figures().items()))
        differ = compared.disagreements
        print_table(
            f"Where they disagree{_limit(len(differ))}",
            ["photo", "true class", *(found.name for found in measured)],
            [
                [d.file, d.shows or "-", *(f"{label} {score:.2f}" for label, score in (d.first, d.second))]
                for d in differ[:_ROWS]
            ],
        )


def _print_classes(evaluation: "Evaluation") -> None:
    rows = sorted(
        evaluation.per_class(), key=lambda row: (1.0 if row.recall is None else row.recall, row.precision or 0.0)
    )
    print_table(
        f"Classes, the worst first{_limit(len(rows))}",
        ["class", "photos", "precision", "recall"],
        [
            [row.label, str(row.photos), *("-" if v is None else f"{v:.1%}" for v in (row.precision, row.recall))]
            for row in rows[:_ROWS]
        ],
    )
    mistakes = evaluation.mistakes()
    print_table(
        f"Mistakes, the most frequent first{_limit(len(mistakes))}",
        ["true class", "predicted class", "photos"],
        [
            [evaluation.labels[true], evaluation.labels[predicted], str(photos)]
            for true, predicted, photos in mistakes[:_ROWS]
        ],
    )


def _limit(count: int) -> str:
    return f" ({_ROWS} of {count})" if count > _ROWS else ""


def _write_json(target: str, measured: "Sequence[Measured | MultiLabel]", compared: "Comparison | None") -> None:
    document: Mapping[str, Any] = {
        "models": [found.as_json() for found in measured],
        "compared": compared.as_json() if compared else None,
    }
    text = json.dumps(document, indent=1, ensure_ascii=False)
    if target == "-":
        print(text)
        return
    try:
        Path(target).write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error}") from error


def _write_html(path: Path, photos: Path, measured: "list[Measured]", compared: "Comparison | None") -> None:
    from model_build.evaluation import report
    from model_build.evaluation.report import Caption

    # One model may be asked twice, e.g. as a file and as a service; its names differ by where it is.
    sections = [report.figures({found.name: found.figures() for found in measured})]
    if compared:
        cards = [
            (
                photos / found.file,
                [
                    Caption(f"shows {found.shows}" if found.shows else found.file),
                    *(
                        Caption(f"{i}: {label} {score:.2f}", label == found.shows if found.shows else None)
                        for i, (label, score) in enumerate((found.first, found.second), 1)
                    ),
                ],
            )
            for found in compared.disagreements[:_PICTURES]
        ]
        number = len(compared.disagreements)
        note = f"1 is {measured[0].name}, 2 is {measured[1].name}. " + (
            f"The first {_PICTURES} of {number} photos." if number > _PICTURES else f"{number} photos."
        )
        sections.append(report.table("Compared", ["", ""], [list(row) for row in compared.figures().items()]))
        sections.append(report.pictures("Where they disagree", cards, note))
    for found in measured:
        sections += report.evaluation(found.evaluation, found.name if compared else "")
    report.write(path, f"{measured[0].name}: evaluation on {photos.name}", sections)
