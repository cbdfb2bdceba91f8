"""What an ONNX file says about itself.

``model_build`` writes the contract into the file's ``metadata_props``, the service reads it back with ONNX Runtime
alone. There is no second file, so a deployed model cannot drift from its labels, its geometry or its figures.
"""

import base64
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

from ..errors import ModelError
from .imaging import FILTERS, FITS, Resize

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
#: What a contract may have beside these; files without it are as good as ever.
_OPTIONAL: Final = ("groups", "unknown_above", "multi_label")

#: What a model may be stored in; how it is called in a contract.
PRECISIONS: Final = ("fp32", "int8")
#: Bounds of what a contract may say. ImageNet-21k has 21,841 classes; file names, which models' names become, have 255
#: bytes at most; a golden photo is as large as the model's input.
_MOST_NAME: Final = 128
_MOST_CLASSES: Final = 100_000
_MOST_LABEL: Final = 1000
_LONGEST_SIDE: Final = 2048
_MOST_GOLDEN_BYTES: Final = 1_000_000
#: ``model_build`` allows 0.01 for fp32 and 0.1 for int8.
_LOOSEST: Final = 0.25
_MOST_COUNT: Final = 2**53
_DEEPEST: Final = 20
#: Characters of what is written as JSON: lists with an entry a class and the golden sample, and everything else.
_LISTS: Final = ("labels", "ids", "groups", "golden")
_MOST_LISTED: Final = 10_000_000
_MOST_WRITTEN: Final = 1_000_000
#: Control characters, line and paragraph separators, halves of characters.
_NO_TEXT: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


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
            ``unknown_above`` decides instead where there is one. With ``multi_label``, a photo shows every class whose
            score is at least this.
        golden: the readiness check's photo.
        multiply_adds: of one image.
        parameters: number of trained values.
        provenance: where the weights came from, their SHA-256, the versions of the tools that wrote the file.
        measured: what parity and accuracy checks found when it was built.
        groups: the everyday name that each class belongs under, by index ("cat" for a tabby); None where the model has
            no groups.
        unknown_above: a photo whose novelty, an output of the graph, is above this shows none of the classes; None
            where the graph has no such output.
        multi_label: whether the scores are independent (a sigmoid each), so that a photo may show several classes;
            else they are a softmax's and add up to 1.
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
    groups: tuple[str, ...] | None = None
    unknown_above: float | None = None
    multi_label: bool = False

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
        if self.unknown_above is not None:
            values["unknown_above"] = repr(self.unknown_above)
        if self.multi_label:
            values["multi_label"] = "true"
        documents = {
            "labels": self.labels,
            "ids": self.ids,
            "resize": {key: value for key, value in asdict(self.resize).items() if (key, value) != ("fit", "crop")},
            "golden": golden,
            "provenance": self.provenance,
            "measured": self.measured,
        }
        if self.groups is not None:
            documents["groups"] = self.groups
        return values | {key: json.dumps(value, ensure_ascii=False) for key, value in documents.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Self:
        """Reads a contract back.

        Raises:
            ModelError: it is missing, incomplete, too large, of another schema, or ``check`` finds something.
        """
        if "schema" not in metadata:
            raise ModelError("the ONNX file carries no contract in its metadata; make one with `make model`")
        if metadata["schema"] != SCHEMA:
            schema = _shown(metadata["schema"])
            raise ModelError(f"the model's contract has schema {schema}; this service reads {SCHEMA!r}")
        if missing := [key for key in _KEYS if key not in metadata]:
            raise ModelError(f"the model's contract lacks {', '.join(missing)}")
        for key in (*_KEYS, *(key for key in _OPTIONAL if key in metadata)):
            most = _MOST_LISTED if key in _LISTS else _MOST_WRITTEN
            if len(metadata[key]) > most:
                raise ModelError(f"the contract's {key} has {len(metadata[key])} characters; {most} are allowed")
        try:
            golden = json.loads(metadata["golden"])
            contract = cls(
                name=metadata["name"],
                version=metadata["version"],
                precision=metadata["precision"],
                labels=_entries(metadata["labels"]),
                ids=_entries(metadata["ids"]),
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
                groups=_entries(metadata["groups"]) if "groups" in metadata else None,
                unknown_above=float(metadata["unknown_above"]) if "unknown_above" in metadata else None,
                multi_label={"true": True, "false": False}[metadata.get("multi_label", "false")],
            )
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise ModelError(f"the model's contract cannot be read: {_shown(error)}") from error
        contract.check()
        return contract

    def check(self) -> None:
        """Raises ModelError if it contradicts itself, or has what a log, a header or a page should not get."""
        check_name(self.name)
        if not _is_text(self.version, _MOST_NAME):
            raise ModelError(f"the model's version is {_shown(self.version)}; 1 to {_MOST_NAME} characters are allowed")
        if self.precision not in PRECISIONS:
            raise ModelError(f"the model's precision is {_shown(self.precision)}; known are {', '.join(PRECISIONS)}")
        self._check_classes()
        self._check_resize()
        if not (0 < self.temperature < math.inf and 0 <= self.unknown_below <= 1):
            raise ModelError(
                f"the contract's temperature {self.temperature} or threshold {self.unknown_below} is impossible"
            )
        if self.unknown_above is not None and not math.isfinite(self.unknown_above):
            raise ModelError(f"the contract's threshold of novelty {self.unknown_above} is impossible")
        if self.multi_label and (self.unknown_above is not None or not self.unknown_below):
            raise ModelError(
                "the contract says multi_label, but has no score from which on a class is shown (unknown_below), or a "
                "second threshold beside it (unknown_above)"
            )
        self._check_golden()
        if not (0 <= self.multiply_adds <= _MOST_COUNT and 0 <= self.parameters <= _MOST_COUNT):
            raise ModelError("the contract's number of multiply-adds or parameters is impossible")
        for key, document in (("provenance", self.provenance), ("measured", self.measured)):
            if not isinstance(document, Mapping) or not _is_plain(document, _DEEPEST):
                raise ModelError(f"the contract's {key} is no JSON object, or has infinite numbers, NaN or broken text")

    def _check_classes(self) -> None:
        if not 1 <= len(self.labels) <= _MOST_CLASSES:
            raise ModelError(f"the contract has {len(self.labels)} labels; 1 to {_MOST_CLASSES} are allowed")
        if len(self.ids) != len(self.labels):
            raise ModelError(f"the contract has {len(self.labels)} labels but {len(self.ids)} ids")
        for label in self.labels:
            if not _is_text(label, _MOST_LABEL) or not label.strip():
                raise ModelError(
                    f"the contract has the label {_shown(label)}; a label has 1 to {_MOST_LABEL} characters, none of "
                    "them a control character"
                )
        for wnid in self.ids:
            if wnid is not None and not _is_text(wnid, _MOST_NAME):
                raise ModelError(f"the contract has the id {_shown(wnid)}; an id has 1 to {_MOST_NAME} characters")
        if self.groups is not None and len(self.groups) != len(self.labels):
            raise ModelError(f"the contract has {len(self.labels)} labels but puts {len(self.groups)} into groups")
        for group in self.groups or ():
            if not _is_text(group, _MOST_LABEL) or not group.strip():
                raise ModelError(
                    f"the contract has the group {_shown(group)}; a group has 1 to {_MOST_LABEL} characters, none of "
                    "them a control character"
                )
        classes = set(zip(self.labels, self.ids, strict=True))
        if len(classes) != len(self.labels):
            raise ModelError(f"the contract has {len(self.labels)} labels, but names only {len(classes)} classes")

    def _check_resize(self) -> None:
        sides, crop = (self.resize.height, self.resize.width), self.resize.crop
        if not all(type(side) is int and 1 <= side <= _LONGEST_SIDE for side in sides):
            raise ModelError(f"the contract's input is {_shown(sides)}; a side has 1 to {_LONGEST_SIDE} pixels")
        if isinstance(crop, bool) or not isinstance(crop, int | float) or not 0 < crop <= 1:
            raise ModelError(f"the contract's crop is {_shown(crop)}; it must be above 0 and at most 1")
        if not isinstance(self.resize.filter, str) or self.resize.filter not in FILTERS:
            raise ModelError(
                f"the contract names the filter {_shown(self.resize.filter)}; known are {', '.join(FILTERS)}"
            )
        if self.resize.fit not in FITS:
            raise ModelError(f"the contract names the fit {_shown(self.resize.fit)}; known are {', '.join(FITS)}")

    def _check_golden(self) -> None:
        golden = self.golden
        if len(golden.photo) > _MOST_GOLDEN_BYTES:
            raise ModelError(f"the golden photo has {len(golden.photo)} bytes; {_MOST_GOLDEN_BYTES} are allowed")
        if not golden.scores or not all(0 <= i < len(self.labels) for i in golden.scores):
            raise ModelError("the contract's golden scores name no class of the model")
        # Comparisons with NaN are false.
        if not all(0 <= score <= 1 for score in golden.scores.values()):
            raise ModelError("the contract's golden scores are no numbers from 0 to 1")
        if not 0 <= golden.tolerance <= _LOOSEST:
            raise ModelError(
                f"the golden photo's scores may be off by {golden.tolerance}; more than {_LOOSEST} would check nothing"
            )
        best = self.labels[max(golden.scores, key=lambda index: golden.scores[index])]
        if golden.label not in (None, best):
            raise ModelError(
                f"its golden photo shows {_shown(golden.label)}, but by its labels {best!r}: they are in another "
                "order than the model's classes"
            )


def check_name(name: object) -> None:
    """Raises ModelError if a model cannot be called so: names stand in addresses, file names and logs."""
    if not _is_text(name, _MOST_NAME) or name in (".", "..") or "/" in str(name) or "\\" in str(name):
        raise ModelError(
            f"the model's name is {_shown(name)}; it must have 1 to {_MOST_NAME} characters, none of them '/', '\\' or "
            "a control character, and not be '.' or '..'"
        )


def _entries(text: str) -> tuple[Any, ...]:
    """A JSON list; TypeError where it is something else that can be gone through."""
    found = json.loads(text)
    if not isinstance(found, list):
        raise TypeError("labels, ids and groups must be lists")
    return tuple(found)


def _is_text(value: object, longest: int) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= longest and not _NO_TEXT.search(value)


def _is_plain(value: object, depth: int) -> bool:
    """Whether it can be written as JSON that everybody reads: finite numbers, whole characters, not too deep."""
    match value:
        case None | bool() | int():
            return True
        case float():
            return math.isfinite(value)
        case str():
            return not _SURROGATE.search(value)
        case Mapping():
            return depth > 0 and all(_is_plain(k, 0) and _is_plain(v, depth - 1) for k, v in value.items())
        case list() | tuple():
            return depth > 0 and all(_is_plain(item, depth - 1) for item in value)
    return False


def _shown(value: object) -> str:
    """For a message: readable whatever it is, and short."""
    shown = ascii(value)
    return shown if len(shown) <= 100 else f"{shown[:100]}..."
