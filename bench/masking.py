"""Does the evidence lie where the model says? Masking it has to cost more of the score than masking anything else.

As in the perturbation tests of Samek et al. 2017, arXiv:1509.06321, in one step: a fifth of the feature map's cells,
those with the most evidence for the best class, is replaced by the picture's mean colour. Two masks of the same size
stand beside it: as many cells at random, and the same cells moved together to another place. Evidence is connected, and
cells at random are not: scattered, they cut through every outline in the picture, whereas the moved mask differs in its
place alone.

    python -m bench.masking models/mobilenet_v2_1.0_224.int8.onnx photos/

Photos whose names say a class that the model has are taken; where no name does, all are.
"""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.errors import ModelError, NotExplainable
from app.inference.model import Model
from app.runtime.cpus import usable_cpus
from model_build.dataset import photos
from model_build.dataset.intervals import wilson
from model_build.dataset.labels import Labels
from model_build.errors import InputError
from model_build.terminal import print_table, track

#: Share of the cells that is masked.
SHARE: Final = 0.2
#: Masks of each random kind for each picture.
DRAWS: Final = 5


@dataclass(frozen=True, slots=True, eq=False)
class Masked:
    """Scores of ``N`` pictures' best classes.

    Attributes:
        whole: ``float32 [N]``, nothing masked.
        evidence: ``float32 [N]``, the cells with the most evidence masked.
        cells: ``float32 [N, DRAWS]``, as many cells at random masked.
        moved: ``float32 [N, DRAWS]``, the cells with the most evidence masked after they were moved at random, over the
            map's edges to the other side.
    """

    whole: NDArray[np.float32]
    evidence: NDArray[np.float32]
    cells: NDArray[np.float32]
    moved: NDArray[np.float32]

    def figures(self) -> dict[str, str]:
        """The figures that fit on a line each, as a person reads them."""
        found = {
            "pictures": str(len(self.whole)),
            "mean score": f"{self.whole.mean():.3f}",
            "with cells at random masked": f"{self.cells.mean():.3f}",
            "with the moved mask": f"{self.moved.mean():.3f}",
            "with the evidence masked": f"{self.evidence.mean():.3f}",
        }
        for name, scores in {"cells at random": self.cells, "the moved mask": self.moved}.items():
            found[f"evidence lowers it more than {name}"] = _share(self.evidence < scores[:, 0])
            found[f"... than {name} on average over {DRAWS}"] = _share(self.evidence < scores.mean(axis=1))
        return found


def measure(model: Model, pictures: Iterable[NDArray[np.uint8]], seed: int = 0) -> Masked:
    """Masks each picture in every way.

    Args:
        model: the model that is asked, with evidence.
        pictures: each ``uint8 [H, W, 3]``, as the model takes them.
        seed: of all draws.

    Raises:
        NotExplainable: as ``Model.class_activation_map`` does.
    """
    random = np.random.default_rng(seed)
    rows = []
    for pixels in pictures:
        scores, _, evidence, _ = model.class_activation_map(pixels[np.newaxis])
        best = int(scores[0].argmax())
        shape, cells = evidence[0].shape, evidence[0].size
        most = np.zeros(cells, np.bool_)
        most[np.argsort(-evidence[0], axis=None, kind="stable")[: round(SHARE * cells)]] = True
        masks = [most.reshape(shape)]
        masks += [random.permutation(most).reshape(shape) for _ in range(DRAWS)]
        # By any distance but 0.
        distances = random.integers(1, cells, DRAWS)
        masks += [np.roll(masks[0], divmod(int(d), shape[1]), axis=(0, 1)) for d in distances]
        rows.append([scores[0, best], *(model(mask(pixels, m)[np.newaxis])[0, best] for m in masks)])
    found = np.array(rows, np.float32)
    return Masked(found[:, 0], found[:, 1], found[:, 2 : 2 + DRAWS], found[:, 2 + DRAWS :])


def mask(pixels: NDArray[np.uint8], cells: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A picture ``uint8 [H, W, 3]`` with the cells of ``bool [h, w]`` replaced by its mean colour."""
    rows, columns = (np.arange(side) * count // side for side, count in zip(pixels.shape, cells.shape, strict=False))
    masked = pixels.copy()
    masked[cells[rows[:, np.newaxis], columns]] = pixels.mean(axis=(0, 1)).round()
    return masked


def _share(hits: NDArray[np.bool_]) -> str:
    low, high = wilson(int(hits.sum()), len(hits))
    return f"{hits.sum()} of {len(hits)}: {hits.mean():.1%} ({low:.1%} to {high:.1%})"


def main(arguments: list[str] | None = None) -> None:
    """Measures and prints a table; ends with 2 where a model or a folder cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL", help="an ONNX file of ours")
    parser.add_argument("photos", type=Path, metavar="DIR", help="photos, in sub-folders or not")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the random masks (default: 0)")
    options = parser.parse_args(arguments)
    try:
        model = Model(options.model, usable_cpus().count)
        model.check_explainable()
        contract = model.contract
        names = Labels(contract.labels, contract.ids)
        found = photos.read(options.photos, contract.resize, names, lambda it: track(it, "Decoding photos"))
    except (ModelError, NotExplainable, InputError) as error:
        parser.error(str(error))
    known = found.classes >= 0
    pixels = found.pixels[known] if known.any() else found.pixels
    masked = measure(model, track(pixels, "Masking"), options.seed)
    title = f"{contract.name} {contract.version} {contract.precision}; 95 % intervals (Wilson)"
    print_table(title, ["a fifth of each photo masked", ""], list(masked.figures().items()))


if __name__ == "__main__":
    main()
