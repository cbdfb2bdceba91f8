"""Photos inside JSON: base64 text and nested numbers to bytes and pixels, without any HTTP."""

import base64
import binascii
import json
from itertools import chain
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.errors import MalformedBody


def json_object(data: bytes, hint: str) -> dict[str, Any]:
    """The JSON object in ``data``.

    Args:
        data: a body.
        hint: a sentence that says what to send instead.

    Raises:
        MalformedBody: it is not JSON, or not an object.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MalformedBody(f"The body is not valid JSON ({error}). {hint}") from error
    if not isinstance(document, dict):
        raise MalformedBody(f"The JSON is not an object. {hint}")
    return document


def from_base64(text: str, name: str) -> bytes:
    """The bytes of standard base64, or of a data URL.

    Args:
        text: the base64.
        name: what the text is called in the message.

    Raises:
        MalformedBody: it is not base64.
    """
    # Browsers' FileReader and many scripts put a data URL there.
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedBody(
            f"{name} is not valid base64 ({error}). Encode the file's bytes as standard base64."
        ) from error


def pixels(values: Any, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """JSON numbers as a ``uint8`` tensor.

    Not by way of ``np.array``, which reads text as numbers, cuts off fractions and allocates for the longest text.

    Args:
        values: lists nested as ``shape`` says, or one flat list in row-major order.
        shape: the shape expected.

    Raises:
        MalformedBody: they are nested otherwise, or are not whole numbers from 0 to 255.
    """
    expected = f"Send whole numbers from 0 to 255 in the shape {list(shape)}."
    if not isinstance(values, list):
        raise MalformedBody(f"The pixels are not a list. {expected}")
    for length in shape[1:]:
        if not values or not isinstance(values[0], list):
            break
        if not all(isinstance(row, list) and len(row) == length for row in values):
            raise MalformedBody(f"The pixels have another shape. {expected}")
        values = list(chain.from_iterable(values))
    if len(values) != prod(shape):
        raise MalformedBody(f"The pixels are {len(values)} values instead of {prod(shape)}. {expected}")
    try:
        return np.frombuffer(bytes(values), np.uint8).reshape(shape)
    except (TypeError, ValueError, OverflowError) as error:
        raise MalformedBody(f"The pixels are not bytes ({error}). {expected}") from error
