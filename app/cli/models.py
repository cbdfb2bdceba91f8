"""``edge-classifier models``: the model files that could be served, and the one that would be."""

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..inference.model import Model
from ..registry.source import BUNDLED, MODELS
from ..settings import Settings
from .local import load


def run(options: argparse.Namespace) -> int:
    """Prints the model files in ``options.paths``, else those that the settings can choose from.

    Returns:
        0; 1 if the one that would be served cannot be, or none of those that are named.
    """
    settings = Settings()
    try:
        chosen, reason = load(settings)
        served, why = chosen.path.resolve(), f"served: {chosen.path} ({reason})"
    except ModelError as error:
        served, reason, why = None, "", f"none would be served: {error}"
    rows = [_describe(path, path.resolve() == served) for path in _files(options.paths or _choice(settings))]
    if options.json:
        for row in rows:
            print(json.dumps(row | ({"reason": reason} if row["served"] else {})))
    else:
        print("\n".join(_table(rows)))
        print(why)
    return int(served is None if not options.paths else all(row["error"] for row in rows))


def _choice(settings: Settings) -> list[Path]:
    """The configured model with what lies beside it, what was built, and the bundled one."""
    configured: list[Path] = []
    if settings.model:
        folder = settings.model if settings.model.is_dir() else settings.model.parent
        configured = [settings.model, *folder.glob("*.onnx")] if folder != settings.model else [*folder.glob("*.onnx")]
    return list(dict.fromkeys([*configured, *MODELS.glob("*.onnx"), *BUNDLED.glob("*.onnx")]))


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        yield from sorted(path.glob("*.onnx")) if path.is_dir() else [path]


def _describe(path: Path, served: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"path": str(path), "served": served, "error": None}
    try:
        contract = Model(path).contract
    except ModelError as error:
        return row | {"error": str(error)}
    return row | {
        "name": contract.name,
        "version": contract.version,
        "precision": contract.precision,
        "classes": len(contract.labels),
        "height": contract.resize.height,
        "width": contract.resize.width,
        "bytes": path.stat().st_size,
        # An export's is of its calibration photos, if they were labelled; a trained or taught model's of its test part.
        "accuracy": contract.measured.get("test", contract.measured).get("accuracy"),
    }


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    cells = [("", "name", "version", "precision", "classes", "input", "MB", "accuracy", "file")]
    for row in rows:
        if row["error"] is None:
            accuracy = "" if row["accuracy"] is None else f"{row['accuracy']:.1%}"
            cells.append(
                (
                    "*" if row["served"] else "",
                    row["name"],
                    row["version"],
                    row["precision"],
                    str(row["classes"]),
                    f"{row['height']}x{row['width']}",
                    f"{row['bytes'] / 1e6:.1f}",
                    accuracy,
                    row["path"],
                )
            )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
    for row in rows:
        if row["error"] is not None:
            yield f"error: {row['error']}"
