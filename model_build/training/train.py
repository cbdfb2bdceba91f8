"""Transfer learning: from a folder with one sub-folder per class to a Keras model with calibrated scores.

It follows Keras's guide "Transfer learning & fine-tuning": a new head is fitted to the frozen network's features, then
everything is fine-tuned with a small learning rate, batch normalisation staying in inference mode. A run that is
interrupted is resumed after its last finished epoch and ends with the model that it would have ended with: every random
choice follows from the seed and the number of the epoch.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

from model_build.network import weights  # first: it sets TensorFlow's environment

# isort: split
import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from app.inference.imaging import Resize, load
from model_build.dataset import folds, image_folder
from model_build.dataset.image_folder import ImageFolder, Part
from model_build.dataset.photos import DECODE_BUDGET, Photos
from model_build.export.preprocessing import PIXEL_RANGES
from model_build.network.weights import Source
from model_build.training import cross_validation, temperature
from model_build.training.check import Findings, Look, findings

Track = Callable[[Iterable[Any], str], Iterable[Any]]
Say = Callable[[str], None]

#: The network that is started from has seen pictures of this size; a convolution's weights fit every size.
_PRETRAINED_SIZE: Final = 224
_RANGE: Final = PIXEL_RANGES["-1..1"]
_HEAD_EPOCHS: Final = 60
_HEAD_PATIENCE: Final = 5
_WARMUP_SHARE: Final = 0.1
_PREDICT_BATCH: Final = 64
#: Of the cross-validation that chooses between geometries.
_FOLDS: Final = 5
_STRENGTHS: Final = (1.0, 0.3)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train. The fields are the command line's options; see ``python -m model_build train --help``."""

    weights: str
    alpha: float
    input_size: int
    train_size: int
    crop: float
    fit: str
    filter: str
    epochs: int
    patience: int
    batch: int
    learning_rate: float
    validation: float
    test: float
    unknown_share: float
    seed: int

    @property
    def served(self) -> Resize:
        """The geometry that the model is served with.

        It may be larger than ``trained``: random crops make things look larger in training than they are when it
        counts, and a larger input makes up for it (Touvron et al. 2019, arXiv:1906.06423).
        """
        return self._square(self.input_size)

    @property
    def trained(self) -> Resize:
        """The same rule at the size that it is trained with."""
        return self._square(self.train_size)

    @property
    def canvas(self) -> Resize:
        """All of the box that ``fit`` names at the scale of ``trained``, to take random crops from."""
        side = round(self.train_size / self.crop)
        return Resize(side, side, 1.0, self.filter, self.fit)

    def _square(self, side: int) -> Resize:
        return Resize(side, side, self.crop, self.filter, self.fit)


@dataclass(frozen=True, slots=True)
class Trained:
    """A model that has learned.

    Attributes:
        source: its model takes ``float32 [batch, S, S, 3]`` in [-1, 1] and gives logits ``[batch, C]``, divided by the
            temperature already.
        folder: what it learned from.
        parts: indices into ``folder.items``.
        clusters: ``int64 [N]``, for each of ``folder.items`` its near-duplicates, by the network that was started from.
        temperature: see ``contract.Contract``.
        unknown_below: see ``contract.Contract``.
        recipe: that which was taken.
        history: by figure, one value an epoch; the first is the frozen network with its new head.
        findings: what ``check`` says about the folder; None where the network started from has learned nothing.
        kept: the epoch whose weights these are, that of the least loss in validation; 0 is the frozen network.
        runs: the files of the run, and of another geometry that was tried, to be deleted once the model is published.
    """

    source: Source
    folder: ImageFolder
    parts: dict[Part, NDArray[np.int64]]
    clusters: NDArray[np.int64]
    temperature: float
    unknown_below: float
    history: dict[str, list[float]]
    findings: Findings | None
    kept: int
    recipe: Recipe
    runs: list["Run"]

    def photos(self, part: Part, resize: Resize) -> Photos:
        """A part's pictures, decoded as the service would with this geometry."""
        return Photos(decoded(self.folder, self.parts[part], resize), self.folder.classes[self.parts[part]])

    def sample(self, part: Part, resize: Resize, most: int) -> Photos:
        """At most ``most`` of a part's pictures, taken at even distances."""
        chosen = self.parts[part]
        chosen = chosen[np.linspace(0, len(chosen) - 1, min(most, len(chosen))).round().astype(int)]
        return Photos(decoded(self.folder, chosen, resize), self.folder.classes[chosen])

    def refused(self, resize: Resize) -> NDArray[np.uint8] | None:
        """The pictures that are to be refused, which taught nothing: ``uint8 [N, H, W, 3]``; None without any."""
        chosen = np.flatnonzero(self.folder.classes == image_folder.REFUSED)
        return decoded(self.folder, chosen, resize) if len(chosen) else None


def train(root: Path, recipes: Sequence[Recipe], work: Path, track: Track, say: Say) -> Trained:
    """Trains a classifier.

    Args:
        root: a folder as ``image_folder.find`` describes.
        recipes: how; where there are two, of which geometry is the question, the first, or where most pictures are wide
            and the frozen network's features say so, the second.
        work: a folder for decoded pictures, features and checkpoints (about ``train_size ** 2 * 4`` bytes a picture);
            a run on the same pictures with the same recipe is resumed from what it finds there.
        track: ``track(iterable, description)`` shows progress.
        say: prints a line.

    Raises:
        InputError: the folder cannot be learned from.
        WeightsUnavailable: as ``weights.load``.
    """
    recipe = recipes[0]
    keras.utils.set_random_seed(recipe.seed)
    tf.config.experimental.enable_op_determinism()
    start = weights.load(recipe.weights, recipe.alpha, _PRETRAINED_SIZE, None)
    prepared = _Prepared.of(image_folder.find(root), recipe, start, work, track)
    # To a network that has learned nothing everything is alike.
    untrained = recipe.weights == "none"
    clusters = np.arange(len(prepared.features))
    if not untrained:
        clusters = folds.clusters_of_classes(prepared.features, prepared.folder.classes)
    parts = image_folder.split(prepared.folder, recipe.validation, recipe.test, recipe.seed, clusters)
    others: list[Run] = []
    if len(recipes) > 1 and image_folder.mostly_wide(prepared.folder):
        tried = [prepared]
        tried += [_Prepared.of(image_folder.find(root), other, start, work, track) for other in recipes[1:]]
        losses = [_loss_of_a_head(one, parts, clusters, track) for one in tried]
        prepared = tried[int(np.argmin(losses))]
        others = [one.run for one in tried if one is not prepared]
        shown = ", ".join(f"{one.recipe.fit} {loss:.3f}" for one, loss in zip(tried, losses, strict=True))
        say(
            "Most pictures are wide. Out-of-fold loss of a head on the frozen network by what it sees of them: "
            f"{shown}. Taken: {prepared.recipe.fit}"
        )
    recipe, folder, run, pictures = prepared.recipe, prepared.folder, prepared.run, prepared.pictures
    model, features = prepared.model, prepared.features
    looks = [Look.of(picture) for picture in pictures.pixels]
    looked = None if untrained else findings(folder, features, looks, track)
    say(
        f"{len(folder.labels.labels)} classes, {len(folder.items)} pictures: "
        + ", ".join(f"{len(indices)} for {name}" for name, indices in parts.items())
        + f"; {folder.found - len(folder.items)} left out"
    )
    for line in folder.left_out[:20]:
        say(f"  left out: {line}")

    for line in looked.notes if looked else ():
        say(f"  note: {line}")

    validation = decoded(folder, parts["validation"], recipe.trained)
    validation_classes = folder.classes[parts["validation"]]
    history = run.history()
    if history:
        say(f"Resuming after epoch {len(history) - 1}")
        model = run.last()
    else:
        say("Fitting a new head to the frozen network's features")
        fit_head(model, features, pictures, parts["train"], validation, validation_classes, recipe)
        history = [evaluate(model, validation, validation_classes)]
        say(f"  validation: {history[0]['accuracy']:.1%}")
        steps = -(-len(parts["train"]) // recipe.batch) * recipe.epochs
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0,
            max(1, steps - int(_WARMUP_SHARE * steps)),
            warmup_target=recipe.learning_rate,
            warmup_steps=max(1, int(_WARMUP_SHARE * steps)),
        )
        model.compile(
            keras.optimizers.AdamW(schedule, weight_decay=1e-4),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            weighted_metrics=[keras.metrics.SparseCategoricalAccuracy("accuracy")],
        )
        # Built here, so that the first checkpoint has all of its variables.
        model.optimizer.build(model.trainable_variables)
        run.checkpoint(model, history)
    fine_tune(model, pictures, parts["train"], validation, validation_classes, history, run, recipe, track, say)
    model.load_weights(run.best)
    kept = int(np.argmin([epoch["loss"] for epoch in history]))
    say(f"Kept: {f'epoch {kept}' if kept else 'the frozen network under its new head, which is what teach makes'}")
    if recipe.input_size != recipe.train_size:
        learned, model = model, with_new_head(start.model, recipe, recipe.input_size, len(folder.labels.labels))
        model.set_weights(learned.get_weights())
        validation = decoded(folder, parts["validation"], recipe.served)

    logits = predict(model, validation)
    found = temperature.fit(logits, validation_classes)
    head = model.layers[-1]
    head.set_weights([value / found for value in head.get_weights()])
    return Trained(
        Source(model, start.origin, start.sha256, start.architecture, _provenance(folder, recipe, parts)),
        folder,
        parts,
        clusters,
        found,
        temperature.unknown_below(temperature.softmax(logits / found), recipe.unknown_share),
        {name: [epoch[name] for epoch in history] for name in history[0]},
        looked,
        kept,
        recipe,
        [run, *others],
    )


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A folder's pictures by one recipe, and what the network that is started from computes of them."""

    recipe: Recipe
    folder: ImageFolder
    run: "Run"
    pictures: "TrainingPictures"
    model: keras.Model
    features: NDArray[np.float32]

    @classmethod
    def of(cls, folder: ImageFolder, recipe: Recipe, start: Source, work: Path, track: Track) -> Self:
        """Decodes the folder, or takes what an earlier run has."""
        key = json.dumps([folder.digest, asdict(recipe), keras.__version__, tf.__version__])
        run = Run(work / hashlib.sha256(key.encode()).hexdigest()[:16])
        pictures = TrainingPictures(run.pixels(folder, recipe.canvas, track), folder.classes, recipe)
        model = with_new_head(start.model, recipe, recipe.train_size, len(folder.labels.labels))
        return cls(recipe, folder, run, pictures, model, run.features(model, pictures, track))


def _loss_of_a_head(
    prepared: _Prepared, parts: dict[Part, NDArray[np.int64]], clusters: NDArray[np.int64], track: Track
) -> float:
    """What a linear head on the frozen network loses on photos of other folds; those to test with have no say."""
    chosen = np.concatenate([parts["train"], parts["validation"]])
    classes, own = prepared.folder.classes[chosen], clusters[chosen]
    fold = folds.deal(classes, own, _FOLDS, prepared.recipe.seed)
    found = cross_validation.out_of_fold(
        prepared.features[chosen], classes, own, fold, folds.weights(classes, own), _STRENGTHS, track
    )
    return found.choose().loss


def _provenance(folder: ImageFolder, recipe: Recipe, parts: dict[Part, NDArray[np.int64]]) -> dict[str, Any]:
    return {
        "pictures": {name: len(indices) for name, indices in parts.items()},
        "pictures_sha256": folder.digest,
        "recipe": asdict(recipe),
    }


def with_new_head(start: keras.Model, recipe: Recipe, side: int, classes: int) -> keras.Model:
    """``start``'s weights for another size under a new head; every batch normalisation is in inference mode."""
    trunk = keras.applications.MobileNetV2(
        input_shape=(side, side, 3), alpha=recipe.alpha, include_top=False, weights=None, pooling="avg"
    )
    trunk.set_weights(start.get_weights()[: len(trunk.weights)])
    for layer in trunk.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    dropped = keras.layers.Dropout(0.2, seed=recipe.seed, name="dropout")(trunk.output)
    return keras.Model(trunk.input, keras.layers.Dense(classes, name="logits")(dropped))


class TrainingPictures:
    """The training pictures, in memory as they lie on disk."""

    def __init__(self, pixels: NDArray[np.uint8], classes: NDArray[np.int64], recipe: Recipe) -> None:
        self.pixels = pixels
        self.classes = classes
        self._recipe = recipe
        counts = np.bincount(classes[classes != image_folder.REFUSED])
        #: Each class weighs the same, however many pictures it has.
        self.weights = (counts.sum() / len(counts) / np.maximum(counts, 1)).astype(np.float32)

    def centre(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The centre crops, without augmentation: ``uint8 [N, S, S, 3]``."""
        margin = (self.pixels.shape[1] - self._recipe.train_size) // 2
        inside = slice(margin, margin + self._recipe.train_size)
        return np.asarray(self.pixels[indices, inside, inside])

    def epoch(self, indices: NDArray[np.int64], number: int) -> tf.data.Dataset:
        """Batches of augmented pictures in [-1, 1], classes and weights; the same for the same number."""
        recipe, side = self._recipe, self._recipe.train_size
        order = np.random.default_rng([recipe.seed, number]).permutation(indices)

        def batches() -> Iterator[tuple[Any, ...]]:
            for start in range(0, len(order), recipe.batch):
                chosen = order[start : start + recipe.batch]
                yield self.pixels[chosen], self.classes[chosen], self.weights[self.classes[chosen]]

        seed = recipe.seed * 10_000 + number * 10
        augment = keras.Sequential(
            [
                keras.layers.RandomCrop(side, side, seed=seed),
                keras.layers.RandomFlip("horizontal", seed=seed + 1),
                keras.layers.RandomZoom((-0.25, 0.1), fill_mode="reflect", seed=seed + 2),
                keras.layers.RandomBrightness(0.15, value_range=(0, 255), seed=seed + 3),
                keras.layers.RandomContrast(0.25, value_range=(0, 255), seed=seed + 4),
            ]
        )
        shape = (None, *self.pixels.shape[1:])
        signature = (
            tf.TensorSpec(shape, tf.uint8),
            tf.TensorSpec((None,), tf.int64),
            tf.TensorSpec((None,), tf.float32),
        )
        scale, shift = _RANGE.matrix.diagonal().astype(np.float32), _RANGE.shift.astype(np.float32)
        return (
            tf.data.Dataset.from_generator(batches, output_signature=signature)
            .map(lambda x, y, w: (augment(tf.cast(x, tf.float32), training=True) * scale + shift, y, w))
            .apply(tf.data.experimental.assert_cardinality(-(-len(order) // recipe.batch)))
            .prefetch(2)
        )


def fit_head(
    model: keras.Model,
    features: NDArray[np.float32],
    pictures: TrainingPictures,
    indices: NDArray[np.int64],
    validation: NDArray[np.uint8],
    validation_classes: NDArray[np.int64],
    recipe: Recipe,
) -> None:
    """Fits the last layer alone, on the features ``[N, D]`` of all pictures, computed once."""
    features = features[indices]
    classes = pictures.classes[indices]
    head = keras.Sequential([keras.Input(features.shape[1:]), model.get_layer("dropout"), model.layers[-1]])
    head.compile(
        keras.optimizers.AdamW(1e-3, weight_decay=1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    head.fit(
        features,
        classes,
        sample_weight=pictures.weights[classes],
        validation_data=(predict(_trunk(model), validation), validation_classes),
        batch_size=max(recipe.batch, min(256, len(features) // 10)),
        epochs=_HEAD_EPOCHS,
        verbose=0,
        callbacks=[keras.callbacks.EarlyStopping(patience=_HEAD_PATIENCE, restore_best_weights=True)],
    )


def _trunk(model: keras.Model) -> keras.Model:
    """What the new head reads."""
    return keras.Model(model.input, model.get_layer("dropout").input)


def fine_tune(
    model: keras.Model,
    pictures: TrainingPictures,
    indices: NDArray[np.int64],
    validation: NDArray[np.uint8],
    validation_classes: NDArray[np.int64],
    history: list[dict[str, float]],
    run: "Run",
    recipe: Recipe,
    track: Track,
    say: Say,
) -> None:
    """Trains all layers, until the last epoch or until validation has not become better for ``patience`` epochs."""
    steps = -(-len(indices) // recipe.batch)
    left = recipe.epochs - (len(history) - 1)
    ticks = iter(track(range(left * steps), "Fine-tuning"))
    tick = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: next(ticks, None))
    for epoch in range(len(history), recipe.epochs + 1):
        losses = [one["loss"] for one in history]
        if len(losses) - 1 - int(np.argmin(losses)) >= recipe.patience:
            say(f"Validation has not become better for {recipe.patience} epochs")
            break
        # A resumed run has to draw what an uninterrupted one would have drawn.
        keras.utils.set_random_seed(recipe.seed + epoch)
        model.get_layer("dropout").seed_generator.state.assign([recipe.seed, epoch])
        fitted = model.fit(pictures.epoch(indices, epoch), shuffle=False, verbose=0, callbacks=[tick])
        found = evaluate(model, validation, validation_classes)
        found |= {f"train_{name}": float(values[-1]) for name, values in fitted.history.items()}
        history.append(found)
        run.checkpoint(model, history)
        say(f"  epoch {epoch}: validation {found['accuracy']:.1%}, loss {found['loss']:.3f}")
    for _ in ticks:
        pass


def evaluate(model: keras.Model, pixels: NDArray[np.uint8], classes: NDArray[np.int64]) -> dict[str, float]:
    """Loss and accuracy, as the history keeps them; of training, where nothing was trained yet, the same."""
    logits = predict(model, pixels)
    scores = temperature.softmax(logits)
    loss = float(-np.log(np.maximum(scores[np.arange(len(classes)), classes], 1e-12)).mean())
    accuracy = float((logits.argmax(axis=1) == classes).mean())
    return {"loss": loss, "accuracy": accuracy, "train_loss": loss, "train_accuracy": accuracy}


def predict(model: keras.Model, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The output for ``uint8 [N, S, S, 3]``: ``float32 [N, ...]``."""
    found = [
        model.predict_on_batch(_RANGE.apply(pixels[i : i + _PREDICT_BATCH]))
        for i in range(0, len(pixels), _PREDICT_BATCH)
    ]
    return np.concatenate(found)


def decoded(folder: ImageFolder, indices: NDArray[np.int64], resize: Resize) -> NDArray[np.uint8]:
    """Pictures as the service would decode them with this geometry: ``uint8 [N, H, W, 3]``."""
    return np.stack([load(folder.items[i].path.read_bytes(), resize, DECODE_BUDGET) for i in indices])


class Run:
    """The files that a run is resumed from: decoded pictures, checkpoints and history."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.best = root / "best.weights.h5"
        self._history = root / "history.json"
        self._pixels = root / "pixels.npy"
        self._items = root / "items.json"
        self._features = root / "features.npy"

    def pixels(self, folder: ImageFolder, canvas: Resize, track: Track) -> NDArray[np.uint8]:
        """Decodes the folder's pictures, or takes what an earlier run decoded: ``uint8 [N, C, C, 3]``, on disk."""
        if self._items.exists():
            found = json.loads(self._items.read_text())
            folder.items = [folder.items[i] for i in found["kept"]]
            folder.reasons.names = found["left_out"]
            pixels: NDArray[np.uint8] = np.load(self._pixels, mmap_mode="r")
            return pixels[: len(folder.items)]
        self.root.mkdir(parents=True, exist_ok=True)
        position = {item.path: i for i, item in enumerate(folder.items)}
        shape = (len(folder.items), canvas.height, canvas.width, 3)
        written = np.lib.format.open_memmap(self._pixels, "w+", np.uint8, shape)
        count = 0

        def keep(picture: NDArray[np.uint8]) -> None:
            nonlocal count
            written[count] = picture
            count += 1

        image_folder.decode(folder, canvas, keep, lambda items: track(items, "Decoding pictures"))
        image_folder.check_enough(folder)
        written.flush()
        kept = [position[item.path] for item in folder.items]
        self._write(self._items, json.dumps({"kept": kept, "left_out": folder.reasons.names}))
        return written[:count]

    def features(self, model: keras.Model, pictures: TrainingPictures, track: Track) -> NDArray[np.float32]:
        """What the network that is started from computes of all pictures, or an earlier run has: ``[N, D]``."""
        if self._features.exists():
            found: NDArray[np.float32] = np.load(self._features)
            return found
        count = len(pictures.pixels)
        chunks = np.array_split(np.arange(count), max(1, count // _PREDICT_BATCH))
        trunk = _trunk(model)
        found = np.concatenate([predict(trunk, pictures.centre(chunk)) for chunk in track(chunks, "Features")])
        partial = self._features.with_suffix(".partial.npy")
        np.save(partial, found)
        partial.replace(self._features)
        return found

    def history(self) -> list[dict[str, float]]:
        """The figures of the epochs that are done, the frozen network's first."""
        found: list[dict[str, float]] = json.loads(self._history.read_text()) if self._history.exists() else []
        return found

    def last(self) -> keras.Model:
        """The model after the last epoch that is done, its optimizer included."""
        return keras.saving.load_model(self._after(len(self.history())))

    def checkpoint(self, model: keras.Model, history: list[dict[str, float]]) -> None:
        """Keeps what an epoch has made; the history is written last and says which files count."""
        losses = [epoch["loss"] for epoch in history]
        if losses[-1] == min(losses):
            partial = self.root / "partial.weights.h5"
            model.save_weights(partial)
            partial.replace(self.best)
        model.save(self._after(len(history)))
        self._write(self._history, json.dumps(history))
        self._after(len(history) - 1).unlink(missing_ok=True)

    def _after(self, epochs: int) -> Path:
        return self.root / f"after-{epochs}.keras"

    def delete(self) -> None:
        """Removes everything."""
        shutil.rmtree(self.root, ignore_errors=True)

    @staticmethod
    def _write(path: Path, text: str) -> None:
        partial = path.with_suffix(".partial")
        partial.write_text(text)
        partial.replace(path)
