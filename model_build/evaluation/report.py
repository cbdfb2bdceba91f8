"""An evaluation as one HTML file: no script, nothing loaded from elsewhere, readable on a phone.

A report is a list of sections; ``evaluation``, ``curves``, ``figures``, ``table`` and ``pictures`` make them. Only the
first two draw, which needs matplotlib.
"""

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from app.errors import RequestError
from app.inference import imaging
from app.inference.imaging import Resize
from model_build.dataset.intervals import Share, share_line
from model_build.dataset.photos import DECODE_BUDGET
from model_build.errors import InputError
from model_build.evaluation.evaluate import BINS, Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: With more classes than this a confusion matrix has no room for their names.
_NAMED_CLASSES: Final = 30
#: Letters of a class's name that have room beside one.
_NAME: Final = 24
#: A longer table is folded away.
_LONG_TABLE: Final = 40
_CONFUSED_PAIRS: Final = 20
#: Side of an embedded photo, in pixels.
_THUMBNAIL: Final = 160
#: Stands for the page's text colour, which is light or dark as the reader has it.
_INK: Final = "#010203"
_BLUE: Final = "#2f7ed8"
_RED: Final = "#d9534f"
#: From nothing at all, so that it suits a light and a dark page.
_BLUES: Final = [(0.18, 0.49, 0.85, 0.0), (0.18, 0.49, 0.85, 1.0)]
_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "edge-classifier",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
}

_PAGE: Final = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ --ink: #1c1f23; --page: #fff; --line: #d5d9de; --right: #1a7f37; --wrong: #c0362c; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e3e6ea; --page: #14171a; --line: #3a4048; --right: #57c46f; --wrong: #ff8078; }}
}}
body {{ margin: 0 auto; padding: 1rem; max-width: 60rem; color: var(--ink); background: var(--page);
  font: 1rem/1.5 system-ui, sans-serif; }}
h1 {{ font-size: 1.4rem; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.1rem; margin-top: 2rem; overflow-wrap: anywhere; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .25rem .75rem .25rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }}
svg {{ max-width: 100%; height: auto; }}
.wide svg {{ max-width: none; }}
svg text {{ font-family: system-ui, sans-serif !important; }}
.photos {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: 1rem; }}
figure {{ margin: 0; overflow-wrap: anywhere; }}
figure img {{ width: 100%; border-radius: .25rem; }}
figcaption {{ font-size: .85rem; }}
.right {{ color: var(--right); }}
.wrong {{ color: var(--wrong); }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and the HTML below it."""

    title: str
    html: str


@dataclass(frozen=True, slots=True)
class Caption:
    """One line below a picture; ``right`` colours it, None leaves it as it is."""

    text: str
    right: bool | None = None


def write(path: Path, title: str, sections: Iterable[Section]) -> None:
    """Writes a report; the same sections give the same bytes.

    Raises:
        InputError: it cannot be written.
    """
    body = "\n".join(f"<section>\n<h2>{escape(section.title)}</h2>\n{section.html}\n</section>" for section in sections)
    try:
        path.write_text(_PAGE.format(title=escape(title), body=body), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}") from error


def evaluation(result: Evaluation, of: str = "") -> list[Section]:
    """What ``figures`` has no room for: calibration, confusion and the single classes.

    Args:
        result: the evaluation.
        of: what was evaluated, for the headings; needed where a report has more than one.
    """
    ending = f": {of}" if of else ""
    return [
        Section(f"Calibration{ending}", _reliability(result)),
        Section(f"Confusion{ending}", _confusion(result)),
        Section(f"Classes{ending}", _classes(result)),
    ]


def figures(columns: Mapping[str, Mapping[str, str]], title: str = "Figures") -> Section:
    """Figures by name, a column for each of ``columns``; what one of them lacks stays empty there."""
    names = dict.fromkeys(name for column in columns.values() for name in column)
    rows = [[name, *(column.get(name, "") for column in columns.values())] for name in names]
    return table(title, ["", *columns], rows)


def table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Section:
    """A table of plain text."""
    return Section(title, _table(headings, rows))


def by_class(
    labels: Sequence[str], right: Sequence[Share | None], mistakes: Sequence[tuple[int, int, int]]
) -> list[Section]:
    """How often each class is right, with its interval, and which ones are taken for which others.

    Args:
        labels: of the classes.
        right: by class, the share of its pictures; None where it has none.
        mistakes: true class, predicted class, how many pictures; the most frequent first.
    """
    return [
        table(
            "How often each class is right",
            ["class", "held-out pictures"],
            [[label, share_line(share)] for label, share in zip(labels, right, strict=True)],
        ),
        table(
            "Mistakes, the most frequent first",
            ["true class", "predicted class", "pictures"],
            [[labels[true], labels[said], str(count)] for true, said, count in mistakes],
        ),
    ]


def curves(values: Mapping[str, Mapping[str, Sequence[float]]]) -> Section:
    """How training went, by epoch: ``{"loss": {"train": [0.9, 0.4], "validation": [0.8, 0.5]}}``, at most three lines.

    Each of ``values`` becomes a picture of its own.
    """
    from matplotlib.ticker import MaxNLocator

    def draw(figure: "Figure", what: str) -> None:
        axes = figure.subplots()
        for (name, line), colour in zip(values[what].items(), (_BLUE, _RED, _INK)[: len(values[what])], strict=True):
            axes.plot(range(1, len(line) + 1), line, label=name, color=colour, marker=".")
        axes.set(title=what, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()

    # A picture each: side by side where there is room, below each other on a phone.
    return Section(
        "Training", "\n".join(_picture(partial(draw, what=what), 4, 3, f"{what} by epoch") for what in values)
    )


def pictures(title: str, photos: Sequence[tuple[Path, Sequence[Caption]]], note: str = "") -> Section:
    """Small copies of photos, the largest centred square of each, with lines below them."""
    cards = [
        f'<figure><img src="{_thumbnail(path)}" alt="" width="{_THUMBNAIL}" height="{_THUMBNAIL}">'
        f"<figcaption>{'<br>'.join(_line(caption) for caption in lines)}</figcaption></figure>"
        for path, lines in photos
    ]
    return Section(title, f'<p>{escape(note)}</p>\n<div class="photos">\n{chr(10).join(cards)}\n</div>')


def _line(caption: Caption) -> str:
    kind = "" if caption.right is None else f' class="{"right" if caption.right else "wrong"}"'
    return f"<span{kind}>{escape(caption.text)}</span>"


def _thumbnail(path: Path) -> str:
    """A photo as a data URI; empty if it can no longer be read."""
    try:
        pixels = imaging.load(path.read_bytes(), Resize(_THUMBNAIL, _THUMBNAIL, 1.0, "bilinear"), DECODE_BUDGET)
    except (RequestError, OSError):
        return "data:,"
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "\n".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    html = f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'
    return f"<details><summary>{len(rows)} rows</summary>\n{html}\n</details>" if len(rows) > _LONG_TABLE else html


def _classes(result: Evaluation) -> str:
    rows = [
        [
            row.label,
            str(row.photos),
            *("-" if share is None else f"{share:.1%}" for share in (row.precision, row.recall)),
        ]
        for row in result.per_class()
    ]
    return _table(["class", "photos", "precision", "recall"], rows)


def _reliability(result: Evaluation) -> str:
    """A reliability diagram: accuracy over confidence, on the diagonal where scores are calibrated."""
    bins = [(m, part) for m, part in enumerate(result.reliability()) if part]

    def draw(figure: "Figure") -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        left, width = [m / BINS for m, _ in bins], 1 / BINS
        upper.bar(left, [part.accuracy for _, part in bins], width, align="edge", color=_BLUE, edgecolor=_INK, lw=0.5)
        upper.plot([0, 1], [0, 1], color=_INK, lw=0.8, ls="--")
        upper.plot([part.confidence for _, part in bins], [part.accuracy for _, part in bins], ".", color=_RED)
        upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
        lower.bar(left, [part.photos for _, part in bins], width, align="edge", color=_BLUE, edgecolor=_INK, lw=0.5)
        lower.set(xlabel="best score", ylabel="photos")

    note = (
        f"<p>Calibration error (ECE, {BINS} equal bins): {result.ece:.3f}. Dots stand at a bin's mean score; below the "
        "dashed line the model is overconfident.</p>\n"
    )
    return note + _picture(draw, 5, 4, f"reliability diagram, calibration error {result.ece:.3f}")


def _confusion(result: Evaluation) -> str:
    """The whole matrix where the names fit; else the most frequent mistakes, and a dot for every pair that occurs."""
    counts = result.confusion_matrix()
    if len(result.labels) <= _NAMED_CLASSES:
        names = [label if len(label) <= _NAME else f"{label[: _NAME - 1]}…" for label in result.labels]
        side = 1.2 + 0.32 * len(names) + 0.08 * max(map(len, names))
        picture = _picture(lambda figure: _named(figure.subplots(), counts, names), side, side, "confusion matrix")
        return f'<div class="wide">{picture}</div>'
    present = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
    shares = counts[np.ix_(present, present)] / np.maximum(counts[present].sum(axis=1, keepdims=True), 1)
    mistakes = result.mistakes()
    least = min(_CONFUSED_PAIRS, len(mistakes))
    note = (
        f"<p>The {least} most frequent of {len(mistakes)} kinds of mistakes; below them a dot for each pair of classes "
        "that occurs, blue for correct predictions and red for mistakes; the darker, the more frequent.</p>\n"
    )
    rows = [
        [result.labels[true], result.labels[predicted], str(n)] for true, predicted, n in mistakes[:_CONFUSED_PAIRS]
    ]
    picture = _picture(lambda figure: _unnamed(figure.subplots(), shares), 5, 5, "heat map of the confusion matrix")
    return f"{note}{_table(['true class', 'predicted class', 'photos'], rows)}\n{picture}"


def _named(axes: "Axes", counts: np.ndarray, labels: Sequence[str]) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap=LinearSegmentedColormap.from_list("blues", _BLUES), vmin=0, vmax=1)
    for row, column in np.argwhere(counts):
        axes.text(column, row, str(counts[row, column]), ha="center", va="center")
    axes.set_xticks(range(len(labels)), labels, rotation=90, parse_math=False)
    axes.set_yticks(range(len(labels)), labels, parse_math=False)
    axes.set(xlabel="predicted class", ylabel="true class")


def _unnamed(axes: "Axes", shares: np.ndarray) -> None:
    """A dot for each entry, because a pixel of so many would not be seen; the larger its share, the darker."""
    for on_diagonal, colour in ((True, _BLUE), (False, _RED)):
        entries = [(y, x) for y, x in np.argwhere(shares) if (y == x) == on_diagonal]
        rows, columns = np.array(entries, int).reshape(-1, 2).T
        alpha = 0.3 + 0.7 * shares[rows, columns]
        axes.scatter(columns, rows, s=6, color=colour, alpha=alpha, linewidths=0, rasterized=True)
    axes.set(xlabel=f"predicted class ({len(shares)} classes that occur)", ylabel="true class", aspect="equal")
    axes.set(xlim=(-0.5, len(shares) - 0.5), ylim=(len(shares) - 0.5, -0.5))


def _picture(draw: Callable[["Figure"], None], width: float, height: float, alt: str) -> str:
    """Inline SVG, ``width`` x ``height`` inches, text as text, the same bytes on every run."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure = Figure((width, height), layout="constrained")
        draw(figure)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, dpi=150, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1)
