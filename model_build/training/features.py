"""What an exported network computes of a picture before its head: the vector that heads learn from."""

from pathlib import Path
from typing import Self

import numpy as np
import onnx
from numpy.typing import NDArray

from app.errors import ModelError
from app.inference.contract import Contract
from app.inference.model import INPUT, Model
from model_build.errors import InputError
from model_build.network.session import session
from model_build.training import head
from model_build.training.head import POOLED, Trunk


class Extractor:
    """A network without its head.

    Attributes:
        contract: of the file that it is from.
        trunk: its graph.
    """

    def __init__(self, contract: Contract, trunk: Trunk) -> None:
        self.contract = contract
        self.trunk = trunk
        self._session = session(trunk.proto)

    @classmethod
    def load(cls, path: Path) -> Self:
        """From a model file.

        Raises:
            InputError: it cannot be served, or its head cannot be removed.
        """
        try:
            contract = Model(path).contract
        except ModelError as error:
            raise InputError(str(error)) from error
        return cls(contract, head.remove_head(onnx.load(path)))

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The pooled features, ``float32 [D]``, of ``uint8 [H, W, 3]`` pixels of the network's own size."""
        found: NDArray[np.float32] = self._session.run([POOLED], {INPUT: pixels[np.newaxis]})[0][0]
        return found
