"""Distillation: an int8 network learns to answer as its own fp32 network does (Hinton et al. 2015, arXiv:1503.02531).

It starts from what ``quantize`` makes, with that graph's grids, and trains weights and biases through the rounding
(quantization-aware training: Jacob et al. 2018, arXiv:1712.05877). The photos need no labels: fp32's scores of the same
augmented picture are the target. A run that is interrupted is resumed where it was last saved.
"""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

from model_build.network import weights  # noqa: F401 - first: it sets TensorFlow's environment

# isort: split
import keras
import numpy as np
import onnx
import onnxruntime as ort
import tensorflow as tf
from numpy.typing import NDArray

from app.inference.imaging import Resize
from model_build.dataset import parts, photos
from model_build.errors import InputError
from model_build.export import graph
from model_build.export.division import Division
from model_build.export.graph import IMAGE, SCORES
from model_build.export.pipeline import Quantizer, Say, Track, gptq
from model_build.export.simulation import Simulation
from model_build.network.session import session
from model_build.training.augmentation import camera_like

#: What chooses the step to stop at: a share of the photos that may be learned from, and at most so many.
_DEVELOPMENT_SHARE: Final = 0.1
_DEVELOPMENT_PHOTOS: Final = 300
#: How often a run is looked at and saved, and after how many looks without a gain it ends.
_LOOKS: Final = 15
_PATIENCE: Final = 6
#: The share of the steps in which the learning rate rises: Adam's first ones are as large as it is, in every weight.
_WARM_UP: Final = 0.1
#: What is kept of the mean of past weights at each step. A weight whose best value is half-way between two steps of its
#: grid is moved from one to the other by every batch; the mean is not (Nagel et al. 2022, arXiv:2203.08086).
_KEPT: Final = 0.99
_TEMPERATURES: Final = (1.0, 2.0)
#: Photos of one cluster of near-duplicates count as much as this many others at most.
_CLUSTER: Final = 20
#: The least score that has a logarithm here.
_TINY: Final = 1e-20


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to distil.

    Attributes:
        steps: batches that are learned from.
        batch: photos in each.
        learning_rate: of Adam at its highest; it rises from zero and falls back to it as a cosine.
        seed: for the choice of photos and what is done to them.
    """

    steps: int
    batch: int = 16
    learning_rate: float = 5e-6
    seed: int = 0


class Distillation:
    """Makes quantizers that distil; see ``pipeline.Quantization``."""

    def __init__(self, recipe: Recipe, work: Path, say: Say) -> None:
        """Starts nothing yet.

        Args:
            recipe: how.
            work: a folder for checkpoints; a run on the same photos with the same recipe goes on from what it finds.
            say: prints a line.
        """
        self._recipe, self._work, self._say = recipe, work, say
        self._checkpoint: Path | None = None

    def __call__(self, division: Division, resize: Resize, track: Track) -> Quantizer:
        """A quantizer that learns from the photos of ``division.learning``."""
        digests = parts.digests(division.learning.pixels)
        share = min(_DEVELOPMENT_SHARE, _DEVELOPMENT_PHOTOS / len(digests))
        divided = parts.split(division.clusters, digests, {"train": 1 - share, "development": share})
        if not len(divided["development"]):
            raise InputError(
                f"{len(digests)} photos are too few for --distill, or nearly the same; use --calibration DIR"
            )
        paths = [division.learning.paths[i] for i in divided["train"]]
        calibration = division.learning.select(np.intersect1d(division.distinct, divided["train"]))
        development = division.learning.select(divided["development"]).pixels
        sizes = np.bincount(division.clusters)[division.clusters[divided["train"]]]

        def quantizer(fp32: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, Any]]:
            if graph.Graph(fp32).producer[SCORES].op_type != "Softmax":
                raise InputError("--distill learns a softmax's scores; this model's are independent: use --calibration")
            start, how = gptq(calibration, track)(fp32)
            # All of each picture's centre, at the scale that the network sees: crops are taken from it.
            height, width = (round(side / resize.crop) for side in (resize.height, resize.width))
            canvas = replace(resize, height=height, width=width, crop=1.0)
            pixels = photos.decode(paths, canvas, lambda it: track(it, "Decoding photos for crops"))
            run = Run(fp32, start, pixels, np.minimum(1.0, _CLUSTER / sizes), development, self._recipe)
            key = json.dumps([graph.digest(start), digests, asdict(self._recipe)])
            self._checkpoint = self._work / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
            best = run.train(self._checkpoint, track, self._say)
            learned = {"photos": len(pixels), "development_photos": len(development), "best_step": best}
            return run.best_graph(), {**how, "method": "gptq, distilled", "distilled": learned | asdict(self._recipe)}

        return quantizer

    def delete(self) -> None:
        """Removes the checkpoint, once the model is published."""
        if self._checkpoint is not None:
            self._checkpoint.unlink(missing_ok=True)
            if not any(self._work.iterdir()):
                self._work.rmdir()


class Run:
    """One distillation, between two looks at its state."""

    def __init__(
        self,
        fp32: onnx.ModelProto,
        int8: onnx.ModelProto,
        pixels: NDArray[np.uint8],
        chances: NDArray[np.float64],
        development: NDArray[np.uint8],
        recipe: Recipe,
    ) -> None:
        """Takes a teacher and a student.

        Args:
            fp32: an exported graph.
            int8: what ``quantize`` made of it.
            pixels: ``uint8 [N, h, w, 3]`` to learn from, larger than the network's input.
            chances: ``float64 [N]``, how likely each is to be learned from, relative to the others.
            development: ``uint8 [M, H, W, 3]`` to choose the best state by.
            recipe: how.
        """
        self.recipe = recipe
        self._teacher = session(fp32)
        self._student = Simulation(int8)
        self._pixels, self._chances = pixels, chances / chances.sum()
        self._development = development
        self._expected = _scores(self._teacher, development)
        warm_up = round(_WARM_UP * recipe.steps)
        self._optimizer = keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(
                0.0,
                recipe.steps - warm_up,
                warmup_target=recipe.learning_rate,
                warmup_steps=warm_up,
            )
        )
        self._optimizer.build(self._student.variables)
        self._step = 0
        self._looks: list[float] = []
        self._mean = [tf.Variable(variable) for variable in self._student.variables]
        self._best = self._values()
        self._update = tf.function(self._learn)

    def train(self, file: Path, track: Track, say: Say) -> int:
        """Learns, from where ``file`` says that it was, until the last step or until it no longer gets better.

        Returns:
            The step with the best state.
        """
        recipe = self.recipe
        if file.exists():
            self._load(file)
            say(f"Resuming after step {self._step} of {recipe.steps}")
        else:
            self._look(say)
        every = max(1, -(-recipe.steps // _LOOKS))
        ticks = iter(track(range(self._step, recipe.steps), "Distilling"))
        # The next batch is made while this one is learned from.
        with ThreadPoolExecutor(1) as ahead:
            batch = ahead.submit(self._batch, self._step)
            for step in ticks:
                pixels, targets = batch.result()
                batch = ahead.submit(self._batch, step + 1)
                self._update(tf.constant(pixels), tf.constant(targets))
                self._step = step + 1
                if self._step % every == 0 or self._step == recipe.steps:
                    self._look(say)
                    self._save(file)
                    if len(self._looks) - 1 - int(np.argmin(self._looks)) >= _PATIENCE:
                        say(f"No gain at {_PATIENCE} looks")
                        break
        for _ in ticks:
            pass
        return min(int(np.argmin(self._looks)) * every, recipe.steps)

    def best_graph(self) -> onnx.ModelProto:
        """The int8 graph with the best weights and biases that were found."""
        return self._graph(self._best)

    def _batch(self, step: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """The pictures of a step, the same whenever it is asked for, and fp32's scores of them."""
        random = np.random.default_rng([self.recipe.seed, step])
        size = min(self.recipe.batch, len(self._pixels))
        chosen = random.choice(len(self._pixels), size, replace=False, p=self._chances)
        height, width = self._development.shape[1:3]
        pixels = np.stack([camera_like(self._pixels[i], height, width, random) for i in chosen])
        return pixels, _scores(self._teacher, pixels)

    def _learn(self, pixels: tf.Tensor, targets: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            _, logits = self._student(pixels)
            loss = tf.add_n([_divergence(logits, targets, temperature) for temperature in _TEMPERATURES])
        variables = self._student.variables
        self._optimizer.apply(tape.gradient(loss, variables), variables)
        # At first the mean is of as many steps as there were.
        steps = tf.cast(self._optimizer.iterations, tf.float32)
        kept = tf.minimum(_KEPT, (1 + steps) / (10 + steps))
        for mean, variable in zip(self._mean, variables, strict=True):
            mean.assign_add((1 - kept) * (variable - mean))

    def _look(self, say: Say) -> None:
        scores = _scores(session(self._graph(self._values())), self._development)
        agreement = float((scores.argmax(axis=1) == self._expected.argmax(axis=1)).mean())
        ratio = np.log(np.maximum(self._expected, _TINY) / np.maximum(scores, _TINY))
        self._looks.append(float((self._expected * ratio).sum(axis=1).mean()))
        if self._looks[-1] == min(self._looks):
            self._best = self._values()
        say(
            f"  step {self._step}: top-1 as fp32's on {agreement:.1%} of {len(scores)} photos to choose by, "
            f"divergence {self._looks[-1]:.4f}"
        )

    def _values(self) -> list[NDArray[np.float32]]:
        return [mean.numpy() for mean in self._mean]

    def _graph(self, values: list[NDArray[np.float32]]) -> onnx.ModelProto:
        """The int8 graph with these weights and biases; the student keeps its own."""
        own = [variable.numpy() for variable in self._student.variables]
        _assign(self._student.variables, values)
        made = self._student.write()
        _assign(self._student.variables, own)
        return made

    def _variables(self) -> dict[str, list[Any]]:
        """What a checkpoint has, beside the best state."""
        return {"optimizer": self._optimizer.variables, "student": self._student.variables, "mean": self._mean}

    def _save(self, file: Path) -> None:
        """Writes under another name, then renames: what is there is always complete."""
        partial = file.with_suffix(".partial")
        state: dict[str, Any] = {"step": self._step, "looks": self._looks}
        for name, variables in self._variables().items():
            state |= {f"{name}_{i}": np.asarray(variable) for i, variable in enumerate(variables)}
        state |= {f"best_{i}": value for i, value in enumerate(self._best)}
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as written:
                np.savez(written, **state)
            partial.replace(file)
        except OSError as error:
            raise InputError(f"{file} cannot be written: {error}") from error

    def _load(self, file: Path) -> None:
        try:
            with np.load(file) as state:
                self._step, self._looks = int(state["step"]), state["looks"].tolist()
                for name, variables in self._variables().items():
                    _assign(variables, [state[f"{name}_{i}"] for i in range(len(variables))])
                self._best = [state[f"best_{i}"] for i in range(len(self._best))]
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            raise InputError(f"{file} cannot be resumed from, delete it: {error}") from error


def _assign(variables: list[tf.Variable], values: list[NDArray[np.float32]]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _divergence(logits: tf.Tensor, targets: tf.Tensor, temperature: float) -> tf.Tensor:
    """Kullback-Leibler divergence from fp32's softened scores, times the temperature's square, but for a constant."""
    softened = tf.nn.softmax(tf.math.log(tf.maximum(targets, _TINY)) / temperature)
    return temperature**2 * tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(softened, logits / temperature))


def _scores(runner: ort.InferenceSession, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    found: list[NDArray[np.float32]] = [runner.run([SCORES], {IMAGE: photo[np.newaxis]})[0] for photo in pixels]
    return np.concatenate(found)
