"""What an ONNX file says about itself.

``model_build`` writes the contract into the file's ``metadata_props``, the service reads it back with ONNX Runtime
alone. There is no second file, so a deployed model cannot drift from its labels, its geometry or its figures.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

from app.errors import ModelError
from app.imaging import FILTERS, Resize

#: Version of the metadata's form. A reader refuses what it does not know.
SCHEMA: Final = "2"

_KEYS: Final = (
    "schema",
    "name",
    "version",
    "precision",
    "labels",
    "ids",
    "resize",
    "temperature",
    "unknown_below",
    "golden",
    "multiply_adds",
    "parameters",
    "provenance",
    "measured",
)


@dataclass(frozen=True, slots=True)
class Golden:
    """One photo whose scores are known: the readiness check runs it through the real path.

    Attributes:
        photo: an encoded image.
        scores: class index to score, for the best classes when the model was built.
        tolerance: the largest difference of a score that still counts as the same. Rounding inside int8 kernels
            differs between processors, so int8 needs more of it than fp32.
        label: what the best of these classes is called, so that labels in another order are noticed; None in older
            files.
    """

    photo: bytes
    scores: dict[int, float]
    tolerance: float
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Contract:
    """Everything that serving a model needs to know about it.

    Attributes:
        name: what the model is, e.g. ``mobilenet_v2_1.0_224``.
        version: tells two builds apart; by default derived from the graph's SHA-256.
        precision: ``fp32`` or ``int8``.
        labels: what the classes are called, by index; ``C`` of them.
        ids: WordNet ids by index, None where unknown.
        resize: how a photo becomes the input.
        temperature: what the logits were divided by so that scores are probabilities (Guo et al. 2017,
            arXiv:1706.04599), already inside the graph; 1.0 means as trained.
        unknown_below: a photo whose best score is below this shows none of the classes; 0.0 means never.
        golden: the readiness check's photo.
        multiply_adds: of one image.
        parameters: number of trained values.
        provenance: where the weights came from, their SHA-256, the versions of the tools that wrote the file.
        measured: what parity and accuracy checks found when it was built.
    """

    name: str
    version: str
    precision: str
    labels: tuple[str, ...]
    ids: tuple[str | None, ...]
    resize: Resize
    temperature: float
    unknown_below: float
    golden: Golden
    multiply_adds: int
    parameters: int
    provenance: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)

    def to_metadata(self) -> dict[str, str]:
        """The contract as ONNX ``metadata_props``: strings, the same for the same contract."""
        golden = {
            "photo": base64.b64encode(self.golden.photo).decode(),
            "scores": {str(index): score for index, score in self.golden.scores.items()},
            "tolerance": self.golden.tolerance,
        }
        if self.golden.label is not None:
            golden["label"] = self.golden.label
        values = {
            "schema": SCHEMA,
            "name": self.name,
            "version": self.version,
            "precision": self.precision,
            "temperature": repr(self.temperature),
            "unknown_below": repr(self.unknown_below),
            "multiply_adds": str(self.multiply_adds),
            "parameters": str(self.parameters),
        }
        documents = {
            "labels": self.labels,
            "ids": self.ids,
            "resize": asdict(self.resize),
            "golden": golden,
            "provenance": self.provenance,
            "measured": self.measured,
        }
        return values | {key: json.dumps(value, ensure_ascii=False) for key, value in documents.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Self:
        """Reads a contract back.

        Raises:
            ModelError: it is missing, incomplete, of another schema or contradicts itself.
        """
        if "schema" not in metadata:
            raise ModelError("the ONNX file carries no contract in its metadata; make one with `make model`")
        if metadata["schema"] != SCHEMA:
            raise ModelError(f"the model's contract has schema {metadata['schema']!r}; this service reads {SCHEMA!r}")
        if missing := [key for key in _KEYS if key not in metadata]:
            raise ModelError(f"the model's contract lacks {', '.join(missing)}")
        try:
            golden = json.loads(metadata["golden"])
            contract = cls(
                name=metadata["name"],
                version=metadata["version"],
                precision=metadata["precision"],
                labels=tuple(json.loads(metadata["labels"])),
                ids=tuple(json.loads(metadata["ids"])),
                resize=Resize(**json.loads(metadata["resize"])),
                temperature=float(metadata["temperature"]),
                unknown_below=float(metadata["unknown_below"]),
                golden=Golden(
                    photo=base64.b64decode(golden["photo"], validate=True),
                    scores={int(index): float(score) for index, score in golden["scores"].items()},
                    tolerance=float(golden["tolerance"]),
                    label=golden.get("label"),
                ),
                multiply_adds=int(metadata["multiply_adds"]),
                parameters=int(metadata["parameters"]),
                provenance=json.loads(metadata["provenance"]),
                measured=json.loads(metadata["measured"]),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ModelError(f"the model's contract cannot be read: {error!r}") from error
        if len(contract.ids) != len(contract.labels):
            raise ModelError(f"the contract has {len(contract.labels)} labels but {len(contract.ids)} ids")
        if not all(isinstance(label, str) and label for label in contract.labels):
            raise ModelError("the contract has a label that is empty or no text")
        if not all(wnid is None or isinstance(wnid, str) for wnid in contract.ids):
            raise ModelError("the contract has an id that is no text")
        classes = set(zip(contract.labels, contract.ids, strict=True))
        if len(classes) != len(contract.labels):
            raise ModelError(f"the contract has {len(contract.labels)} labels, but names only {len(classes)} classes")
        if contract.resize.filter not in FILTERS:
            raise ModelError(
                f"the contract names the filter {contract.resize.filter!r}; known are {', '.join(FILTERS)}"
            )
        if not (contract.temperature > 0 and 0 <= contract.unknown_below <= 1):
            raise ModelError(
                f"the contract's temperature {contract.temperature} or threshold {contract.unknown_below} is impossible"
            )
        if not contract.golden.scores or not all(0 <= i < len(contract.labels) for i in contract.golden.scores):
            raise ModelError("the contract's golden scores name no class of the model")
        best = contract.labels[max(contract.golden.scores, key=lambda index: contract.golden.scores[index])]
        if contract.golden.label not in (None, best):
            raise ModelError(
                f"its golden photo shows {contract.golden.label!r}, but by its labels {best!r}: they are in another "
                "order than the model's classes"
            )
        return contract
