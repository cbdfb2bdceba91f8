"""``python -m model_build masking``."""

import argparse
from pathlib import Path
from typing import Any

from model_build.errors import InputError
from model_build.terminal import print_table, track

_DESCRIPTION = """\
Does the evidence that `POST /explain` shows lie where the model says? Mask the fifth of each photo with the most
evidence for its best class, and other fifths: as many cells by lot, and the same cells moved to another place. If the
evidence is right, masking it lowers the score most. Photos whose names say a class that the model has are taken; where
no name does, all are.

exit codes:
  0  measured, whatever came of it
  1  something unexpected went wrong
  2  a model or a folder cannot be used
"""
_EXAMPLES = """\
examples:
  python -m model_build masking models/mobilenet_v2_1.0_224.int8.onnx photos/
"""


def add_to(commands: Any) -> None:
    """Adds the parser."""
    masking = commands.add_parser(
        "masking",
        help="whether a model's evidence lies where it says, on photos",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    masking.add_argument("model", type=Path, metavar="MODEL", help="an ONNX file of ours")
    masking.add_argument("photos", type=Path, metavar="DIR", help="photos, in sub-folders or not")
    masking.add_argument("--seed", type=int, default=0, metavar="N", help="of the masks by lot (default: 0)")
    masking.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measures and prints a table."""
    from app.cpus import usable_cpus
    from app.errors import ModelError, NotExplainable
    from app.model import Model
    from model_build import masking, photos
    from model_build.labels import Labels

    try:
        model = Model(options.model, usable_cpus().count)
        model.check_explainable()
    except (ModelError, NotExplainable) as error:
        raise InputError(str(error)) from error
    contract = model.contract
    names = Labels(contract.labels, contract.ids)
    found = photos.read(options.photos, contract.resize, names, lambda it: track(it, "Decoding photos"))
    known = found.classes >= 0
    pixels = found.pixels[known] if known.any() else found.pixels
    masked = masking.measure(model, track(pixels, "Masking"), options.seed)
    title = f"{contract.name} {contract.version} {contract.precision}; 95 % intervals (Wilson)"
    print_table(title, ["a fifth of each photo masked", ""], list(masked.figures().items()))
    return 0
