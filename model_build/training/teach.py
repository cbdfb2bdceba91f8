"""New classes for a model file: a linear head fitted to the features that the file computes, without TensorFlow."""

import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from app.errors import ModelError
from app.inference import imaging
from app.inference.contract import Contract, Golden
from app.inference.model import INPUT, Model
from app.runtime.cpus import usable_cpus
from model_build.dataset import image_folder
from model_build.dataset.image_folder import ImageFolder, Part
from model_build.dataset.photos import DECODE_BUDGET
from model_build.errors import InputError
from model_build.export import class_activation_map, graph, publish
from model_build.training import head, linear, temperature
from model_build.training.head import POOLED
from model_build.training.linear import Linear

#: Shares of each class that are not learned from.
VALIDATION: Final = 0.2
TEST: Final = 0.2
#: Strengths of regularisation that the validation pictures choose from; below 0.1 nothing gets better.
STRENGTHS: Final = (10.0, 3.0, 1.0, 0.3, 0.1)
_TOOLS: Final = ("onnx", "onnxruntime", "numpy", "pillow")
#: Lines about pictures that are not used that the contract keeps; it has their number in any case.
_LEFT_OUT_LINES: Final = 20

Track = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Request:
    """What to teach. The fields are the command line's options; see ``python -m model_build teach --help``."""

    model: Path
    folder: Path
    output: Path
    name: str | None
    seed: int
    unknown_share: float


@dataclass(frozen=True, slots=True)
class Taught:
    """The file that was written, from what, and how long it took."""

    path: Path
    contract: Contract
    left_out: list[str]
    seconds: float


def teach(request: Request, track: Track, say: Callable[[str], None]) -> Taught:
    """Fits a head for the classes of a folder and publishes the model with it.

    Args:
        request: what to do.
        track: ``track(iterable, description)`` shows progress.
        say: prints a line.

    Raises:
        InputError: the model or the folder cannot be used, or the file cannot be written; none was written then.
    """
    started = time.perf_counter()
    base, trunk = _load(request.model)
    name = publish.checked_name(request.name or request.folder.resolve().name)
    if _same_file(publish.path_of(replace(base, name=name), request.output), request.model):
        raise InputError(f"the new model would overwrite {request.model}; give it another --name or --output")

    folder = image_folder.find(request.folder)
    features = _features(trunk, folder, base, track)
    parts = image_folder.split(folder, VALIDATION, TEST, request.seed)
    say(f"Fitting a head for {len(folder.labels.labels)} classes from {len(parts['train'])} pictures")
    found, fitted_temperature, validation_logits = _fit_head(features, folder.classes, parts)
    threshold = temperature.unknown_below(temperature.softmax(validation_logits), request.unknown_share)

    proto = class_activation_map.add(head.attach_head(trunk, found))
    draft = Contract(
        name=name,
        version=graph.digest(proto)[:12],
        precision=base.precision,
        labels=folder.labels.labels,
        ids=folder.labels.ids,
        resize=base.resize,
        temperature=fitted_temperature,
        unknown_below=round(threshold, 6),
        golden=Golden(b"", {0: 0.0}, 0.0),
        multiply_adds=graph.multiply_adds(proto),
        parameters=base.parameters - trunk.removed + found.weight.size + found.bias.size,
        provenance={
            "weights": f"{base.name} {base.version}, head taught",
            "base": {"name": base.name, "version": base.version, "provenance": dict(base.provenance)},
            "pictures_sha256": folder.digest,
            "seed": request.seed,
            "tools": {"python": platform.python_version()} | {tool: installed(tool) for tool in _TOOLS},
        },
        groups=folder.labels.groups,
    )
    with tempfile.TemporaryDirectory() as scratch:
        model, contract = publish.with_golden(proto, draft, Path(scratch))
        scores = _scores(model, [folder.items[i].path for i in parts["test"]], track)
    measured = {
        "train": {"photos": len(parts["train"])},
        "validation": {
            "photos": len(parts["validation"]),
            "accuracy": _accuracy(validation_logits, folder.classes[parts["validation"]]),
        },
        "test": {
            "photos": len(parts["test"]),
            "accuracy": _accuracy(scores, folder.classes[parts["test"]]),
            "unknown": round(float((scores.max(axis=1) < contract.unknown_below).mean()), 6),
        },
        "left_out": {"photos": folder.found - len(folder.items), "first": folder.left_out[:_LEFT_OUT_LINES]},
    }
    contract = replace(contract, measured=measured)
    path = publish.publish(proto, contract, request.output)
    return Taught(path, contract, folder.left_out, time.perf_counter() - started)


def _load(path: Path) -> tuple[Contract, head.Trunk]:
    try:
        contract = Model(path).contract
    except ModelError as error:
        raise InputError(str(error)) from error
    return contract, head.remove_head(onnx.load(path))


def _same_file(path: Path, other: Path) -> bool:
    return path.exists() and path.samefile(other)


def _features(trunk: head.Trunk, folder: ImageFolder, base: Contract, track: Track) -> NDArray[np.float32]:
    """``float32 [N, D]``, the pooled features of every picture of the folder that can be decoded."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = usable_cpus().count
    options.log_severity_level = 3
    session = ort.InferenceSession(trunk.proto.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def features(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = session.run([POOLED], {INPUT: pixels[np.newaxis]})[0][0]
        return found

    return np.stack(image_folder.decode(folder, base.resize, features, lambda it: track(it, "Computing features")))


def _fit_head(
    features: NDArray[np.float32], classes: NDArray[np.int64], parts: dict[Part, NDArray[np.int64]]
) -> tuple[Linear, float, NDArray[np.float64]]:
    """The head whose calibrated scores fit the validation pictures best.

    Returns:
        The head, divided by its temperature; the temperature; the logits of the validation pictures after that.
    """
    train, validation = parts["train"], parts["validation"]
    candidates = []
    for candidate in linear.fit(features[train], classes[train], int(classes.max()) + 1, STRENGTHS):
        fitted_temperature = temperature.fit(candidate(features[validation]), classes[validation])
        calibrated = candidate.divided_by(fitted_temperature)
        logits = calibrated(features[validation])
        candidates.append((temperature.loss(logits, classes[validation]), calibrated, fitted_temperature, logits))
    _, calibrated, fitted_temperature, logits = min(candidates, key=lambda candidate: candidate[0])
    return calibrated, fitted_temperature, logits


def _scores(model: Model, paths: list[Path], track: Track) -> NDArray[np.float32]:
    """The finished file's scores of pictures: ``float32 [N, C]``."""
    resize = model.contract.resize
    return np.concatenate(
        [
            model(imaging.load(path.read_bytes(), resize, DECODE_BUDGET)[np.newaxis])
            for path in track(paths, "Testing the finished model")
        ]
    )


def _accuracy(scores: NDArray[Any], classes: NDArray[np.int64]) -> float:
    return round(float((scores.argmax(axis=1) == classes).mean()), 6)
