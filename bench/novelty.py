"""How well each way to say that a photo is unknown tells foreign things from known ones.

    python -m bench.novelty models/mobilenet_v2_1.0_224.int8.onnx --typical photos/ --known known/ --foreign foreign/
    python -m bench.novelty ... --held-out others/

Everything is computed from what the model's linear classifier reads (``features``) and says (``logits``). Known photos
are named as for ``evaluate``; those that are among the typical ones are left out. Their classes are dealt out to two
halves, since nobody has photos of all classes of a large model: what a method fits to known photos comes from one half,
the figures are of the other. Then they change places; the figures are of both. Nothing is fitted to foreign photos.

The best method is the one with the largest AUROC. So that things which have not chosen it judge it too, the things
(sub-folders) are dealt out to ``ROUNDS`` parts, and of each is counted what the method refuses that is best on the
other parts.

``--held-out`` adds what the model's own novelty refuses of photos that have chosen nothing, by thresholds from the
known ones.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from app.errors import ModelError
from app.inference.model import NOVELTY, Model
from model_build.dataset import parts, photos
from model_build.dataset.intervals import wilson
from model_build.dataset.labels import Labels
from model_build.errors import InputError
from model_build.export import novelty
from model_build.export.novelty import Head
from model_build.terminal import fraction, print_table, track

Float = NDArray[np.float64]

#: Parts of the foreign things.
ROUNDS: Final = 3
#: Which nearest neighbour's distance counts.
NEIGHBOUR: Final = 5
#: Share of the features that ReAct does not clip.
KEPT: Final = 0.9
#: A score above it is believed.
CONFIDENT: Final = 0.5
#: Shares of the known photos that the held-out ones are judged by.
SHARES: Final = (0.05, 0.08, 0.1, 0.13, 0.2)


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What a model makes of ``N`` photos.

    Attributes:
        features: ``float64 [N, D]``, what its linear classifier reads.
        logits: ``float64 [N, C]``, what the softmax reads.
    """

    features: Float
    logits: Float


def methods(head: Head, typical: Seen, known: Seen, classes: NDArray[np.int64]) -> dict[str, Callable[[Seen], Float]]:
    """Every method, fitted: from photos to ``float64 [N]``, higher for those that look less known.

    Args:
        head: the model's classifier.
        typical: photos of all sorts.
        known: photos of known things.
        classes: what these show.
    """
    weight, clip = head.weight, float(np.quantile(typical.features, KEPT))
    means = np.stack([known.features[classes == shown].mean(axis=0) for shown in np.unique(classes)])
    middle, nearby = typical.features.mean(axis=0), min(NEIGHBOUR, len(known.features))

    def fdbd(seen: Seen) -> Float:
        found = np.empty(len(seen.logits))
        for row, (logits, best) in enumerate(zip(seen.logits, seen.logits.argmax(axis=1), strict=True)):
            apart = np.linalg.norm(weight - weight[:, best : best + 1], axis=0)
            found[row] = ((logits[best] - logits) / np.maximum(apart, 1e-6)).sum() / (len(logits) - 1)
        return -found / np.linalg.norm(seen.features - middle, axis=1)

    def contrast(seen: Seen) -> Float:
        ranked = np.sort(seen.logits, axis=1)
        return -(ranked[:, -1] - ranked[:, :-1].mean(axis=1)) / np.maximum(ranked[:, :-1].std(axis=1), 1e-6)

    def cosine(features: Float, directions: Float) -> Float:
        return _unit(features) @ _unit(directions).T

    return {
        "maximum softmax": lambda seen: -np.exp(seen.logits.max(axis=1) - _energy(seen.logits)),
        "energy": lambda seen: -_energy(seen.logits),
        "ReAct": lambda seen: -_energy(np.minimum(seen.features, clip) @ weight + head.bias),
        "fDBD": fdbd,
        "best logit, standardized by the others": contrast,
        "distance to class means": lambda seen: -cosine(seen.features, means).max(axis=1),
        f"distance to nearest neighbour {nearby}": lambda seen: (
            -np.sort(cosine(seen.features, known.features))[:, -nearby]
        ),
        "cosine to class weights": lambda seen: -cosine(seen.features, weight.T).max(axis=1),
        "the same of centred features": lambda seen: -cosine(seen.features - middle, weight.T).max(axis=1),
    }


def auroc(known: NDArray[np.floating], foreign: NDArray[np.floating]) -> float:
    """The chance that a foreign photo's novelty is above a known one's; where both are the same, one half."""
    order = np.sort(known)
    below, not_above = (np.searchsorted(order, foreign, side) for side in ("left", "right"))
    return float((below + not_above).mean() / 2 / len(known))


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """One method's novelty, by half of the known classes: of the half that it was not fitted to, and of all foreign.

    Attributes:
        known: ``float64 [N]``, for each half.
        foreign: ``float64 [M]``, for each half.
    """

    known: list[Float]
    foreign: list[Float]

    def auroc(self, among: NDArray[np.bool_] | slice = slice(None)) -> float:
        """Against the foreign photos that are ``among``; the halves' mean."""
        pairs = zip(self.known, self.foreign, strict=True)
        return float(np.mean([auroc(known, foreign[among]) for known, foreign in pairs]))

    def refused(self, share: float) -> NDArray[np.bool_]:
        """``bool [2, M]``, above the threshold that refuses ``share`` of the known photos."""
        pairs = zip(self.known, self.foreign, strict=True)
        return np.stack([foreign > np.quantile(known, 1 - share) for known, foreign in pairs])


def judge(head: Head, typical: Seen, known: Seen, classes: NDArray[np.int64], foreign: Seen) -> dict[str, Judged]:
    """Fits every method to half of the known classes and judges it by the others, then the other way round.

    Args:
        head: the model's classifier.
        typical: photos of all sorts.
        known: photos of two classes or more.
        classes: what these show.
        foreign: photos of other things.
    """
    first, found = np.isin(classes, np.unique(classes)[::2]), dict[str, Judged]()
    for half in (first, ~first):
        fitted = methods(head, typical, Seen(known.features[half], known.logits[half]), classes[half])
        for name, method in fitted.items():
            judged = found.setdefault(name, Judged([], []))
            judged.known.append(method(Seen(known.features[~half], known.logits[~half])))
            judged.foreign.append(method(foreign))
    return found


def chosen_by_others(
    judged: dict[str, Judged], things: NDArray[np.str_], share: float
) -> tuple[list[str], NDArray[np.bool_]]:
    """For each part of the things, the method that is best on the others, and what it refuses of this part.

    Args:
        judged: by method.
        things: ``[M]``, what the foreign photos show.
        share: of the known photos that may be refused.

    Returns:
        The names of the methods; ``bool [2, M]``.
    """
    names, chosen, found = np.unique(things), [], np.zeros((2, len(things)), np.bool_)
    for part in range(min(ROUNDS, len(names))):
        inside = np.isin(things, names[part::ROUNDS])
        best = max(judged, key=lambda name: judged[name].auroc(~inside))
        chosen.append(best)
        found[:, inside] = judged[best].refused(share)[:, inside]
    return chosen, found


def main(arguments: list[str] | None = None) -> None:
    """Measures and prints a table; ends with 2 where a model or a folder cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL", help="an ONNX file of ours")
    parser.add_argument("--typical", type=Path, metavar="DIR", required=True, help="photos of all sorts")
    parser.add_argument("--known", type=Path, metavar="DIR", required=True, help="photos of what the model knows")
    parser.add_argument("--foreign", type=Path, metavar="DIR", required=True, help="<thing>/x.jpg, of other things")
    parser.add_argument(
        "--held-out", type=Path, metavar="DIR", help="photos of what the model knows, for a second table"
    )
    parser.add_argument("--refuse", type=fraction, default=0.05, metavar="SHARE", help="of the known (default: 0.05)")
    options = parser.parse_args(arguments)
    try:
        contract = Model(options.model).contract
        proto = onnx.load(options.model)
        if (head := Head.of(proto)) is None:
            parser.error(f"{options.model} has no linear classifier behind global average pooling")
        names = Labels(contract.labels, contract.ids)
        general, own = (
            photos.read(folder, contract.resize, names, lambda it: track(it, "Decoding photos"))
            for folder in (options.typical, options.known)
        )
        by_thing = {
            folder.name: photos.read(folder, contract.resize, names).pixels
            for folder in sorted(options.foreign.iterdir())
            if folder.is_dir()
        }
        held_out = None if options.held_out is None else photos.read(options.held_out, contract.resize, names).pixels
    except (ModelError, InputError, OSError) as error:
        parser.error(str(error))
    evenly = np.linspace(0, len(general.pixels) - 1, min(novelty.TYPICAL, len(general.pixels))).round().astype(int)
    seen = set(parts.digests(general.pixels[evenly]))
    left = np.array([digest not in seen for digest in parts.digests(own.pixels)]) & (own.classes >= 0)
    classes = own.classes[left]
    if held_out is not None and contract.unknown_above is None:
        parser.error(f"{options.model} computes no novelty, which --held-out is judged by")
    if len(by_thing) < 2 or len(np.unique(classes)) < 2:
        parser.error("known photos of two classes or more, and two folders of foreign things or more, are needed")

    def see(pictures: NDArray[np.uint8], what: str) -> Seen:
        tensors = novelty.outputs(proto, [head.pooled, head.logits], pictures, lambda it: track(it, what))
        features, logits = (tensor.astype(np.float64) for tensor in tensors)
        return Seen(features, logits)

    things = np.repeat(list(by_thing), [len(pictures) for pictures in by_thing.values()])
    judged = judge(
        head,
        see(general.pixels[evenly], "Typical photos"),
        see(own.pixels[left], "Known photos"),
        classes,
        foreign := see(np.concatenate(list(by_thing.values())), "Foreign photos"),
    )
    confident = np.exp(foreign.logits.max(axis=1) - _energy(foreign.logits)) > CONFIDENT
    chosen, found = chosen_by_others(judged, things, options.refuse)
    rows = []
    for name, one in judged.items():
        refused = one.refused(options.refuse)
        rows.append([name, f"{one.auroc():.3f}", _share(refused), _share(confident & ~refused)])
    by_others = f"chosen by other things: {'; '.join(dict.fromkeys(chosen))}"
    rows.append([by_others, "", _share(found), _share(confident & ~found)])
    title = f"{contract.name} {contract.version} {contract.precision}; {len(classes)} photos of "
    title += f"{len(np.unique(classes))} known classes, {len(things)} of {len(by_thing)} foreign things"
    headings = ["method", "AUROC", f"foreign refused where {options.refuse:.1%} of the known are"]
    kept = f"foreign over {CONFIDENT} and not refused"
    print_table(title, [*headings, kept], rows)
    if held_out is not None:
        own_novelty, theirs, other = (
            novelty.outputs(proto, [NOVELTY], pictures, lambda it: track(it, "Novelty"))[0]
            for pictures in (own.pixels[left], held_out, np.concatenate(list(by_thing.values())))
        )
        rows = []
        for share in SHARES:
            threshold = np.quantile(own_novelty, 1 - share)
            columns = (theirs > threshold, other > threshold, confident & (other <= threshold))
            rows.append([f"{share:.0%}", *(_share(column[np.newaxis]) for column in columns)])
        title = f"By the model's own novelty; {len(held_out)} photos held out"
        print_table(title, ["of the known refused", "of those held out", "foreign refused", kept], rows)


def _unit(vectors: Float) -> Float:
    lengths: Float = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    return vectors / lengths


def _energy(logits: Float) -> Float:
    most = logits.max(axis=1)
    found: Float = most + np.log(np.exp(logits - most[:, np.newaxis]).sum(axis=1))
    return found


def _share(hits: NDArray[np.bool_]) -> str:
    """The mean of both halves, with the interval of so many photos: they are the same photos twice."""
    of, share = hits.shape[1], float(hits.mean())
    low, high = wilson(round(share * of), of)
    return f"{share:.1%} ({low:.1%} to {high:.1%})"


if __name__ == "__main__":
    main()
