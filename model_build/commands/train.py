"""``python -m model_build train``."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from app.inference.imaging import FILTERS
from model_build.commands.geometry import add_geometry, crop_of
from model_build.dataset import intervals
from model_build.dataset.image_folder import REFUSED
from model_build.terminal import fraction, say, track

if TYPE_CHECKING:
    from app.inference.model import Model
    from model_build.dataset.intervals import Share
    from model_build.dataset.photos import Photos
    from model_build.training.train import Trained

_DESCRIPTION = """\
Turn a folder of pictures, one sub-folder per class, into the ONNX files that the service loads.

A folder with train/ and val/ (or test/) keeps the second for the report; otherwise a share of each class is held out.
Near-duplicates (frames of a burst, copies) stay in one share. Pictures in a sub-folder that is called unknown, other,
background or none are no class: it is measured how many of them are refused.

Starts from ImageNet weights: first a new head on the frozen network, then everything is fine-tuned. Scores are
calibrated on the validation pictures. An interrupted run is resumed by the same command.

Ends with export, int8, parity and a report NAME.html: accuracy with its interval, every class, confusions, curves.

exit codes: as for export
"""


def add_to(commands: Any) -> None:
    """Adds the parser."""
    train = commands.add_parser(
        "train",
        help="your own classes: a folder of pictures to a served model",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument("folder", type=Path, metavar="DIR", help="one sub-folder with pictures per class")
    network = train.add_argument_group("the network")
    network.add_argument(
        "--weights", choices=["imagenet", "none"], default="imagenet", help="to start from (default: imagenet)"
    )
    network.add_argument("--alpha", type=float, default=1.0, help="width multiplier (default: 1.0)")
    network.add_argument("--input-size", type=int, default=160, metavar="PIXELS", help="default: 160")
    network.add_argument(
        "--train-size", type=int, metavar="PIXELS", help="of the pictures in training (default: the input size)"
    )
    add_geometry(
        network, "crop; where most pictures are wider than 4:3, squash if that is better in a cross-validation"
    )
    network.add_argument("--filter", choices=sorted(FILTERS), default="bilinear", help="default: bilinear")
    learning = train.add_argument_group("learning")
    learning.add_argument("--epochs", type=int, default=20, help="of fine-tuning; 0: the head alone (default: 20)")
    learning.add_argument("--patience", type=int, default=3, help="epochs without a better validation (default: 3)")
    learning.add_argument("--batch", type=int, default=32, help="pictures a step (default: 32)")
    learning.add_argument("--learning-rate", type=float, default=1e-4, help="at its highest (default: 1e-4)")
    learning.add_argument("--seed", type=int, default=1, help="of every random choice (default: 1)")
    shares = train.add_argument_group("shares of the pictures")
    shares.add_argument("--validation", type=fraction, default=0.2, help="to stop and calibrate by (default: 0.2)")
    shares.add_argument("--test", type=fraction, default=0.2, help="held out for the report (default: 0.2)")
    shares.add_argument(
        "--unknown-share",
        type=fraction,
        default=0.05,
        help="of the validation pictures that may be classified as unknown; sets the threshold (default: 0.05)",
    )
    target = train.add_argument_group("the files")
    target.add_argument("--min-agreement", type=fraction, default=0.85, help="as for export (default: 0.85)")
    target.add_argument("--max-drop", type=fraction, default=0.01, help="as for export (default: 0.01)")
    target.add_argument("--name", help="default: the folder's name")
    target.add_argument("--version", help="default: from the SHA-256 of the graph")
    target.add_argument("--output", type=Path, default=Path("models"), metavar="DIR", help="default: models")
    target.add_argument("--work", type=Path, metavar="DIR", help="for checkpoints (default: OUTPUT/.train)")
    train.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Trains, exports, reports."""
    from model_build.export.publish import checked_name

    name = checked_name(options.name or options.folder.resolve().name)
    say("Starting TensorFlow")
    from model_build.commands.export import print_exported
    from model_build.export.novelty import Refusal
    from model_build.export.parity import Int8Limits
    from model_build.export.pipeline import CALIBRATION_PHOTOS, Target, gptq, publish_checked
    from model_build.training.train import Recipe, train

    def recipe(fit: str) -> Recipe:
        return Recipe(
            weights=options.weights,
            alpha=options.alpha,
            input_size=options.input_size,
            train_size=options.train_size or options.input_size,
            crop=crop_of(options, fit),
            fit=fit,
            filter=options.filter,
            epochs=options.epochs,
            patience=options.patience,
            batch=options.batch,
            learning_rate=options.learning_rate,
            validation=options.validation,
            test=options.test,
            unknown_share=options.unknown_share,
            seed=options.seed,
        )

    stated = options.fit is not None or options.crop is not None
    recipes = [recipe(fit) for fit in ([options.fit or "crop"] if stated else ["crop", "squash"])]
    trained = train(options.folder, recipes, options.work or options.output / ".train", track, say)
    served = trained.recipe.served
    tested = trained.photos("test", served)
    target = Target(
        precision="both",
        limits=Int8Limits(options.min_agreement, options.max_drop),
        output=options.output,
        name=name,
        version=options.version,
        temperature=trained.temperature,
        unknown_below=trained.unknown_below,
    )
    # The validation pictures choose the threshold, so int8 calibrates on those that were learned from.
    calibration = trained.sample("train", served, CALIBRATION_PHOTOS)
    known, foreign = trained.photos("validation", served).pixels, trained.refused(served)
    refusal = Refusal.of(calibration.pixels, calibration.pixels, known, foreign, options.unknown_share)
    names, quantizer = trained.folder.labels, gptq(calibration, track)
    made = publish_checked(trained.source, names, served, tested, quantizer, target, track, refusal=refusal)
    for run_ in trained.runs:
        run_.delete()
    print_exported(made)
    _report(made[-1].path, trained, tested, foreign)
    return 0


def _report(path: Path, trained: "Trained", tested: "Photos", foreign: "NDArray[np.uint8] | None") -> None:
    """Writes a report on the served file and the held-out pictures beside it."""
    from app.inference.model import Model
    from model_build.commands import check
    from model_build.commands.export import unknown_line
    from model_build.dataset.intervals import share_line
    from model_build.evaluation import report
    from model_build.evaluation.evaluate import Evaluation
    from model_build.training.figures import Figures

    model = Model(path)
    scored = [model.judge(pixels) for pixels in track(tested.pixels, "Scores for the report")]
    found = Evaluation.of(np.stack([one.scores for one in scored]), tested.classes, model.contract.labels)
    clusters = trained.clusters[trained.parts["test"]]
    figures = Figures.of(
        "held out",
        found.ranked[:, 0],
        np.array([one.unknown for one in scored]),
        tested.classes,
        clusters,
        len(found.labels),
        refused=None if foreign is None else _refused(model, foreign, trained),
    )
    learned = {
        "every class counting the same": share_line(figures.accuracy),
        "every photo counting the same": share_line(figures.as_mixed),
        **{f"pictures for {part}": str(len(indices)) for part, indices in trained.parts.items()},
        "left out": str(trained.folder.found - len(trained.folder.items)),
        "what the model sees of a photo": trained.recipe.fit,
        "kept": f"epoch {trained.kept}" if trained.kept else "the frozen network under its new head",
        "temperature": f"{trained.temperature:.3f}",
        "unknown": unknown_line(model.contract).removeprefix("unknown "),
        "of the classes' pictures unknown": share_line(figures.unknown),
        **({"of those that are to be refused": share_line(figures.refused)} if figures.refused else {}),
    }
    history = trained.history
    sections = [
        report.figures({f"{path.name}, held-out pictures": found.figures() | learned}),
        report.curves(
            {what: {"train": history[f"train_{what}"], "validation": history[what]} for what in ("loss", "accuracy")}
        ),
        *report.by_class(found.labels, figures.classes, figures.mistakes),
        *report.evaluation(found),
    ]
    if trained.findings is not None:
        sections += check.sections(trained.findings, trained.folder.root)
    elif trained.folder.left_out:
        sections.append(report.table("Left out", ["picture"], [[line] for line in trained.folder.left_out]))
    target = path.with_name(f"{model.contract.name}.html")
    report.write(target, f"{model.contract.name} {model.contract.version}", sections)
    if trained.findings is not None and (line := check.summary(trained.findings, trained.folder.root)):
        say(f"check: {line}; the report shows them")
    say(f"Held-out accuracy {share_line(figures.accuracy)}; report: {target}")


def _refused(model: "Model", foreign: "NDArray[np.uint8]", trained: "Trained") -> "Share | None":
    """How many of the pictures that are to be refused are."""
    unknown = np.array([model.judge(pixels).unknown for pixels in foreign])
    return intervals.share(unknown, trained.clusters[trained.folder.classes == REFUSED])
