"""The options that say which part of a photo a model sees; see ``app.inference.imaging.Resize``."""

import argparse
from typing import Any

from app.inference.imaging import FITS
from model_build.terminal import fraction


def add_geometry(parser: Any, fit: str = "crop") -> None:
    """Adds ``--fit`` and ``--crop``; ``fit`` says what is taken where nobody says."""
    parser.add_argument(
        "--fit",
        choices=FITS,
        help="of a photo of another shape than the input: its middle, all of it distorted, or all of it with grey "
        f"beside it (default: {fit})",
    )
    parser.add_argument(
        "--crop",
        type=_share,
        help="sides of the centred box that the model sees, as a share of the one that --fit names, above 0, at most 1 "
        "(default: 0.875 for crop, else 1)",
    )


def _share(text: str) -> float:
    if value := fraction(text):
        return value
    raise argparse.ArgumentTypeError("0 would leave nothing to see")


def crop_of(options: argparse.Namespace, fit: str) -> float:
    """What ``--crop`` says, or stands for with this fit when it is not given."""
    if options.crop is not None:
        return float(options.crop)
    return 0.875 if fit == "crop" else 1.0
