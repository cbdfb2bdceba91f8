"""The wire format of the Open Inference Protocol (KServe V2, Triton), without any HTTP.

Sources: the protocol, https://github.com/kserve/open-inference-protocol (specification/protocol/inference_rest.md);
binary tensors and classification, https://github.com/triton-inference-server/server (docs/protocol,
extension_binary_data.md and extension_classification.md).
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from ...errors import MalformedBody, TooManyImages, quoted
from ...inference.contract import Contract
from ...inference.ranking import Groups, top_k
from ..encodings import from_base64, is_unicode, json_object, names, pixels

#: The extensions that are spoken, by the names that Triton gives them.
EXTENSIONS: Final = ("binary_tensor_data", "classification")
#: The inputs, of which a request has one: pixels of the model's own size, or encoded pictures of any size.
PIXELS: Final = "image"
ENCODED: Final = "bytes"
#: The outputs: scores, and those of the groups where the model has groups.
SCORES: Final = "scores"
GROUPS: Final = "groups"

#: Characters of a request's name that are given back.
_MAX_ID: Final = 1000
_HINT: Final = "GET /v2/models/<name> says what a model takes."


@dataclass(frozen=True, slots=True)
class Output:
    """One output that is asked for.

    Attributes:
        name: ``SCORES`` or ``GROUPS``.
        best: answer with this many best classes or groups, as text; 0: with the scores.
        binary: answer with a binary tensor.
    """

    name: str
    best: int
    binary: bool

    def encode(self, names: Sequence[str], scores: NDArray[np.float32]) -> tuple[dict[str, Any], bytes]:
        """The output as JSON, and the bytes that follow the JSON.

        Args:
            names: what the columns are called.
            scores: ``float32 [N, len(names)]``.
        """
        values: list[Any]
        if self.best:
            # Six digits after the point, as Triton writes them.
            best = [[f"{score:f}:{i}:{names[i]}" for i, score in top_k(row, self.best)] for row in scores]
            datatype, shape, values = "BYTES", (len(best), len(best[0])), list(chain.from_iterable(best))
            raw = b"".join(struct.pack("<I", len(text)) + text for text in map(str.encode, values))
        else:
            datatype, shape = "FP32", scores.shape
            values, raw = ([], scores.astype("<f4").tobytes()) if self.binary else (scores.ravel().tolist(), b"")
        contents = {"parameters": {"binary_data_size": len(raw)}} if self.binary else {"data": values}
        return {"name": self.name, "datatype": datatype, "shape": shape, **contents}, raw if self.binary else b""


@dataclass(frozen=True, slots=True)
class Inference:
    """One inference request.

    Attributes:
        id: the client's own name for it, to be given back.
        pictures: image files' bytes, or ``uint8 [H, W, 3]`` pixels.
        outputs: what is asked for, in the order of the answer.
    """

    id: str | None
    pictures: list[bytes] | list[NDArray[np.uint8]]
    outputs: tuple[Output, ...]

    @classmethod
    def parse(cls, data: bytes, header_length: str | None, contract: Contract, max_images: int) -> "Inference":
        """Reads a request's body. A binary ``image`` tensor is not copied.

        Args:
            data: the body.
            header_length: ``Inference-Header-Content-Length``, the bytes of JSON before the binary tensor; None: all.
            contract: of the model that is asked.
            max_images: the most pictures that are taken.

        Raises:
            MalformedBody: the body is no inference request, or not one for this model.
            TooManyImages: there are more than ``max_images``.
        """
        end = len(data)
        if header_length is not None:
            # As many digits as no body has bytes are not even counted.
            digits = header_length.isascii() and header_length.isdecimal() and len(header_length) <= 18
            if not digits or int(header_length) > len(data):
                raise MalformedBody(
                    f"Inference-Header-Content-Length is {quoted(header_length)}, and the body has {len(data)} bytes. "
                    "Send the length of the JSON there."
                )
            end = int(header_length)
        size = (contract.resize.height, contract.resize.width, 3)
        request = json_object(data[:end], _HINT, size, max_images)
        request_id = request.get("id")
        if not isinstance(request_id, str | None):
            raise MalformedBody('"id" is not a text. Send a text, or none.')
        if request_id is not None and (len(request_id) > _MAX_ID or not is_unicode(request_id)):
            raise MalformedBody(
                f'"id" is {quoted(request_id)}. Send at most {_MAX_ID} characters of Unicode text (no lone surrogates).'
            )
        tensors = _objects(request, "inputs")
        if len(tensors) != 1:
            raise MalformedBody(f'There are {len(tensors)} inputs. Send one, "{PIXELS}" or "{ENCODED}".')
        outputs = _outputs(request, contract)
        return cls(request_id, _pictures(tensors[0], data, end, contract, max_images), outputs)

    def encode(
        self, contract: Contract, scores: NDArray[np.float32], groups: Groups | None = None
    ) -> tuple[bytes, int | None]:
        """The response's body, and the length of the JSON in it where a binary tensor follows.

        Args:
            contract: of the model that answered.
            scores: ``float32 [N, C]``.
            groups: of that model; None where its contract has none.
        """
        encoded = [
            output.encode(groups.names, np.stack([groups.scores(row) for row in scores]))
            if groups is not None and output.name == GROUPS
            else output.encode(contract.labels, scores)
            for output in self.outputs
        ]
        response: dict[str, Any] = {
            "model_name": contract.name,
            "model_version": contract.version,
            "outputs": [described for described, _ in encoded],
        }
        if self.id is not None:
            response["id"] = self.id
        document = to_json(response)
        if not any(output.binary for output in self.outputs):
            return document, None
        return document + b"".join(raw for _, raw in encoded), len(document)


def _objects(parent: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = parent.get(key) or []
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise MalformedBody(f'"{key}" is not a list of objects. {_HINT}')
    return found


def _parameters(parent: dict[str, Any]) -> dict[str, Any]:
    found = parent.get("parameters") or {}
    if not isinstance(found, dict):
        raise MalformedBody(f'"parameters" is not an object. {_HINT}')
    if any(key.startswith("shared_memory") for key in found):
        raise MalformedBody("Shared memory is not offered. Send the tensor in the body.")
    return found


def _outputs(request: dict[str, Any], contract: Contract) -> tuple[Output, ...]:
    """What is asked for: the scores, where nothing is named."""
    asked = _objects(request, "outputs")
    there = (SCORES,) if contract.groups is None else (SCORES, GROUPS)
    wanted = [item.get("name") for item in asked]
    if any(wanted.count(name) > 1 or name not in there for name in wanted):
        are = f'There is one output, "{SCORES}",' if len(there) == 1 else f'The outputs are "{SCORES}" and "{GROUPS}",'
        raise MalformedBody(f"{are} and the request asks for {names(wanted)}. Name it once, or none.")
    return tuple(_output(request, item, len(contract.labels)) for item in asked or [{"name": SCORES}])


def _output(request: dict[str, Any], asked: dict[str, Any], classes: int) -> Output:
    """One output: how many of the best are asked for (0: the scores), and whether the answer is to be binary."""
    parameters = _parameters(asked)
    count = parameters.get("classification", 0)
    binary = parameters.get("binary_data", _parameters(request).get("binary_data_output", False))
    if type(count) is not int or count < 0:
        raise MalformedBody(f'"classification" is not a number of classes. Ask for 1 to {classes}.')
    if not isinstance(binary, bool):
        raise MalformedBody('"binary_data" and "binary_data_output" are true or false.')
    return Output(asked["name"], min(count, classes), binary)


def _pictures(
    tensor: dict[str, Any], data: bytes, offset: int, contract: Contract, max_images: int
) -> list[bytes] | list[NDArray[np.uint8]]:
    """The pictures of the one input, whose binary contents, if any, are in ``data`` from ``offset``."""
    name, datatype, shape = tensor.get("name"), tensor.get("datatype"), tensor.get("shape")
    size = (contract.resize.height, contract.resize.width, 3)
    # There is one input that takes pictures' bytes, by whatever name a client calls it; pixels are of this model only.
    if datatype != "BYTES" and (name, datatype) != (PIXELS, "UINT8"):
        raise MalformedBody(
            f"The input is {quoted(name)} of {quoted(datatype)}. Send {PIXELS!r} of UINT8 {[-1, *size]}, not scaled, "
            f"or {ENCODED!r} of BYTES [-1], which are image files."
        )
    if not isinstance(shape, list) or not shape or any(type(length) is not int or length < 1 for length in shape):
        raise MalformedBody('"shape" is not a list of lengths, the number of pictures first.')
    count = shape[0]
    # Models that are told their batch size elsewhere have clients that send text as [N, 1].
    decoded = datatype == "UINT8"
    fits = shape[1:] == list(size) if decoded else shape[1:] in ([], [1])
    if not fits:
        raise MalformedBody(f"{quoted(name)} has the shape {quoted(shape)}. Send {[-1, *size] if decoded else [-1]}.")
    if count > max_images:
        raise TooManyImages(f"The request has {quoted(count)} pictures; at most {max_images} are taken. Send fewer.")
    announced = _parameters(tensor).get("binary_data_size")
    if (0 if announced is None else announced) != len(data) - offset:
        raise MalformedBody(
            f'"binary_data_size" is {quoted(announced)}, and {len(data) - offset} bytes follow the JSON. Send the '
            "JSON's length as Inference-Header-Content-Length, and the tensor's bytes right after it."
        )
    if decoded:
        if announced is None:
            return list(pixels(tensor.get("data"), (count, *size)))
        if announced != count * prod(size):
            raise MalformedBody(f'"{PIXELS}" has {announced} bytes; {shape} of UINT8 has {count * prod(size)}.')
        return list(np.frombuffer(data, np.uint8, offset=offset).reshape(count, *size))
    encoded = _texts(tensor.get("data")) if announced is None else _elements(data, offset, count)
    if len(encoded) != count:
        many = "more" if len(encoded) > count else str(len(encoded))
        raise MalformedBody(f'"{ENCODED}" has {many} elements; its shape says {count}.')
    return encoded


def _texts(values: Any) -> list[bytes]:
    """The elements of a JSON BYTES tensor: base64, since JSON has no bytes."""
    rows: list[Any] = values if isinstance(values, list) else [None]
    texts = [row[0] if isinstance(row, list) and len(row) == 1 else row for row in rows]
    if not all(isinstance(text, str) for text in texts):
        raise MalformedBody(f'"{ENCODED}" is not a list of texts. Send each picture as base64, or as binary data.')
    return [from_base64(text, f'An element of "{ENCODED}"') for text in texts]


def _elements(data: bytes, offset: int, count: int) -> list[bytes]:
    """The elements of a binary BYTES tensor, one more than ``count`` at most.

    Each has its length before it, as 4 bytes, little-endian.
    """
    found: list[bytes] = []
    while offset < len(data) and len(found) <= count:
        start = offset + 4
        offset = start + int.from_bytes(data[offset:start], "little")
        if start > len(data) or offset > len(data):
            raise MalformedBody(
                f'"{ENCODED}" ends within an element. Write 4 bytes of length (little-endian) before each picture.'
            )
        found.append(data[start:offset])
    return found
