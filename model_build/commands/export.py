"""``python -m model_build export``."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.inference.imaging import FILTERS
from model_build.commands.geometry import add_geometry
from model_build.network.architecture import LAYOUTS
from model_build.terminal import fraction, positive, print_table, say, threshold, track

if TYPE_CHECKING:
    from app.inference.contract import Contract
    from model_build.export.pipeline import Exported

_DESCRIPTION = """\
Turn a classifier into the ONNX files that the service loads: MobileNetV2, a Keras model or an ONNX file from elsewhere.

The fp32 file is compared with the model itself, the int8 file with fp32; outside the limits the build fails with the
figures and writes nothing. Labels, geometry, provenance and what was measured travel inside the file.

exit codes:
  0  every model was written
  1  something unexpected went wrong
  2  an argument, a file or a folder cannot be used
  3  the pretrained weights are neither cached nor downloadable
  4  an exported model is further from its source than the limits allow
"""
_EXAMPLES = """\
examples:
  python -m model_build export --calibration photos/
  python -m model_build export --weights flowers.h5 --labels flowers.txt --calibration photos/
  python -m model_build export --weights imagenet --alpha 0.35 --input-size 128 --precision fp32
  python -m model_build export --calibration photos/ --known mine/ --foreign others/ --refuse 0.02
  python -m model_build export --architecture reference --calibration photos/
  python -m model_build export --onnx resnet18.onnx --labels pets.txt --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225
"""


def add_to(commands: Any) -> None:
    """Adds the parser."""
    export = commands.add_parser(
        "export",
        help="Keras to ONNX, fp32 and int8",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = export.add_argument_group("what to export")
    source.add_argument(
        "--weights",
        default="imagenet",
        metavar="imagenet|none|FILE",
        help="Keras's ImageNet weights (from its cache, else downloaded), random ones, or what Keras wrote: a .keras, "
        ".h5 or .weights.h5 file or a SavedModel folder; a whole model brings its own architecture (default: imagenet)",
    )
    source.add_argument(
        "--onnx", type=Path, metavar="FILE", help="instead of --weights: an ONNX file of PyTorch, timm or Custom Vision"
    )
    source.add_argument("--head", metavar="NAME", help="the output that is wanted, where a model has several")
    source.add_argument(
        "--layout",
        choices=["auto", "nchw", "nhwc"],
        default="auto",
        help="how --onnx takes pictures: planes first or pixels first (default: auto, as its shape says)",
    )
    source.add_argument(
        "--architecture",
        choices=["keras", *LAYOUTS],
        help="keras.applications; or our own network, in the paper's layout (reference; Keras's ImageNet weights fit) "
        "or in the article's (default: keras, or a whole model's own)",
    )
    source.add_argument("--alpha", type=float, default=1.0, help="width multiplier (default: 1.0)")
    source.add_argument(
        "--input-size", type=int, metavar="PIXELS", help="side of the input (default: 224 or the model's own)"
    )
    source.add_argument("--classes", type=int, metavar="N", help="number of classes (default: 1000 or the model's own)")
    source.add_argument(
        "--multi-label",
        action="store_true",
        help="the model's logits are independent, and get a sigmoid each: a photo may show several classes, or none. A "
        "sigmoid over several units at the model's end is found without being told",
    )
    source.add_argument(
        "--threshold",
        type=threshold,
        default=0.5,
        metavar="SCORE",
        help="from which on a photo shows a class, where scores are independent (default: 0.5)",
    )
    source.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="what the classes are called: a text file with one a line (or id<TAB>label), CSV or JSON",
    )
    source.add_argument(
        "--groups",
        type=Path,
        metavar="FILE",
        help='everyday names and their classes, as JSON: {"cat": ["tabby", "Egyptian cat"], ...}; every class in one '
        "(default: for ImageNet's classes those that come along, else none)",
    )
    source.add_argument(
        "--pixel-range",
        choices=["auto", "-1..1", "0..1", "0..255"],
        default="auto",
        help="what the model was trained on; auto: 0..255 if it prepares its pixels itself, else ImageNet's mean and "
        "deviation for ONNX with planes first, and -1..1 for everything else (default: auto)",
    )
    source.add_argument(
        "--mean",
        type=float,
        nargs="+",
        metavar="X",
        help="what was subtracted then, one number or one for each channel",
    )
    source.add_argument("--std", type=float, nargs="+", metavar="X", help="what it was divided by after that")
    source.add_argument("--bgr", action="store_true", help="the model takes blue first, as OpenCV and Caffe do")
    target = export.add_argument_group("the files")
    target.add_argument("--precision", choices=["fp32", "int8", "both"], default="both", help="default: both")
    made_with = target.add_mutually_exclusive_group()
    made_with.add_argument(
        "--calibration",
        type=Path,
        metavar="DIR",
        help="photos to make int8 with, by GPTQ in a minute, and to measure it on: a part is held out for that; "
        "<id>_<label>.jpg or <label>/x.jpg gives accuracy too",
    )
    made_with.add_argument(
        "--distill",
        type=Path,
        metavar="DIR",
        help="the same, and then train int8 to answer as fp32 does on these photos, labelled or not; thousands of them "
        "are best. A run that was interrupted is resumed",
    )
    target.add_argument(
        "--distill-steps",
        type=positive,
        default=1500,
        metavar="N",
        help="how long --distill trains: steps of 16 photos, about 1.6 s of processor time each (default: 1500)",
    )
    target.add_argument(
        "--evaluation", type=Path, metavar="DIR", help="photos to measure on, instead of a part of the others"
    )
    target.add_argument(
        "--known",
        type=Path,
        metavar="DIR",
        help="photos of what the model knows, to choose on from where on a photo is unknown; those that int8 is made "
        "with are left out (default: those that are held out to measure on)",
    )
    target.add_argument(
        "--foreign", type=Path, metavar="DIR", help="photos of other things, to measure on how many of them are refused"
    )
    target.add_argument(
        "--refuse",
        type=fraction,
        default=0.05,
        metavar="SHARE",
        help="of the known photos that may be taken for unknown, 0 to 1; a larger one refuses more foreign photos "
        "(default: 0.05)",
    )
    add_geometry(target)
    target.add_argument(
        "--filter",
        choices=sorted(FILTERS),
        help="resampling (default: bilinear, or what the model's own Resizing says where it takes any size)",
    )
    target.add_argument(
        "--min-agreement",
        type=fraction,
        default=0.85,
        help="least share of the held-out photos on which int8 and fp32 have the same top-1, those that fp32 itself is "
        "undecided on among them; the build fails where the whole 95 %% interval is below it (default: 0.85)",
    )
    target.add_argument(
        "--max-drop",
        type=fraction,
        default=0.01,
        help="most accuracy that int8 may lose, as a share; likewise (default: 0.01)",
    )
    target.add_argument("--output", type=Path, default=Path("models"), metavar="DIR", help="default: models")
    target.add_argument("--name", help="default: mobilenet_v2_<alpha>_<size>, or the weights file's name")
    target.add_argument("--version", help="default: from the SHA-256 of the graph")
    export.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Exports and prints a table."""
    say("Starting TensorFlow")
    from model_build.export.convert import stated_pixels
    from model_build.export.parity import Int8Limits
    from model_build.export.pipeline import Request, calibrate, export

    distillation = None
    if options.distill is not None:
        from model_build.training.distill import Distillation, Recipe

        distillation = Distillation(Recipe(options.distill_steps), options.output / ".distill", say)
    request = Request(
        weights=options.weights,
        onnx=options.onnx,
        head=options.head,
        layout=options.layout,
        architecture=options.architecture,
        alpha=options.alpha,
        input_size=options.input_size,
        classes=options.classes,
        multi_label=options.multi_label,
        threshold=options.threshold,
        labels=options.labels,
        groups=options.groups,
        precision=options.precision,
        photos=options.distill or options.calibration,
        evaluation=options.evaluation,
        known=options.known,
        foreign=options.foreign,
        refuse=options.refuse,
        pixels=stated_pixels(options.pixel_range, options.mean, options.std, bgr=options.bgr),
        fit=options.fit,
        crop=options.crop,
        filter=options.filter,
        limits=Int8Limits(options.min_agreement, options.max_drop),
        output=options.output,
        name=options.name,
        version=options.version,
    )
    made = export(request, distillation or calibrate, track, say)
    if distillation is not None:
        distillation.delete()
    print_exported(made)
    return 0


def print_exported(made: "list[Exported]") -> None:
    """Prints the table with which a command that wrote model files ends."""
    from model_build.export.parity import FEW

    found = made[-1].parity
    photos = f"held out, n = {found.photos}; 95 % intervals" if found.held_out else f"{found.photos} generated pictures"
    headings = ["file", "MB", "multiply-adds", "parameters", "compared with", "max difference"]
    headings += ["same labels" if made[-1].contract.multi_label else "same top-1", "where decided", "accuracy"]
    print_table(f"Exported models ({photos})", headings, [_row(item) for item in made])
    if found.held_out and found.photos < FEW:
        say(f"Only {found.photos} photos were held out: the figures mean little. {FEW} or more say something")
    for item in made:
        print(f"{item.path.name}: {unknown_line(item.contract)}")


def unknown_line(contract: "Contract") -> str:
    """What the model refuses, as a person reads it."""
    if contract.multi_label:
        return f"shows every class from a score of {contract.unknown_below:.3f} on, and is unknown where there is none"
    if contract.unknown_above is None:
        below = contract.unknown_below
        return f"unknown below a score of {below:.3f}" if below else "never says unknown"
    found = contract.measured["unknown"]
    said = (
        f"unknown above a novelty of {contract.unknown_above:.3f}, {found['share']:.1%} of {found['chosen_on']} photos"
    )
    if "foreign" in found:
        low, high = found["interval"]
        said += f"; {found['foreign_refused']:.1%} of {found['foreign']} foreign ones ({low:.1%} to {high:.1%})"
    return said


def _row(item: "Exported") -> list[str]:
    found = item.parity
    accuracy = "-"
    if found.accuracy is not None and found.accuracy_interval is not None:
        accuracy = (
            f"{found.accuracy:.1%} ({_interval(found.accuracy_interval)}; {found.against}: {found.source_accuracy:.1%})"
        )
    return [
        str(item.path),
        f"{item.path.stat().st_size / 1e6:.2f}",
        f"{item.contract.multiply_adds / 1e6:.1f} M",
        f"{item.contract.parameters / 1e6:.2f} M",
        found.against,
        f"{found.max_difference:.1e}",
        f"{found.agreement:.1%} ({_interval(found.agreement_interval)})",
        "-" if found.decided_agreement is None else f"{found.decided_agreement:.1%} of {found.decided}",
        accuracy,
    ]


def _interval(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.1%} to {ends[1]:.1%}"
