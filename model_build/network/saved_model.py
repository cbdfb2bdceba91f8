"""A classifier in a SavedModel folder: what Keras's ``export`` and TensorFlow 2 write for serving."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from model_build.errors import InputError, reason


class SavedModel:
    """A folder's function for serving, used as a Keras model is.

    Attributes:
        input_shape: ``(None, H, W, C)``, as a Keras model says it.
        output_shape: ``(None, classes)``.
        takes_bytes: whether it takes whole numbers of 0 to 255 (``uint8``).
    """

    def __init__(self, path: Path, head: str | None = None) -> None:
        """Loads a folder.

        Args:
            path: the folder that holds ``saved_model.pb``.
            head: the output that is wanted, where there are several.

        Raises:
            InputError: it cannot be loaded, or has no function of one picture with one output.
        """
        try:
            # Kept: the function's variables live as long as it does.
            self._loaded = tf.saved_model.load(str(path))
        except Exception as error:
            raise InputError(f"{path} cannot be loaded as a SavedModel: {reason(error)}") from error
        signatures = self._loaded.signatures
        name = "serving_default" if "serving_default" in signatures else next(iter(signatures), None)
        if name is None:
            raise InputError(
                f"{path} has no signature for serving; write it with model.export(FOLDER), or give the .keras file"
            )
        self._function = signatures[name]
        inputs = self._function.structured_input_signature[1]
        if len(inputs) != 1:
            raise InputError(
                f"{path} takes {len(inputs)} inputs ({', '.join(inputs)}); a model of one picture is expected"
            )
        (self._input, spec), outputs = next(iter(inputs.items())), self._function.structured_outputs
        if head is not None and head not in outputs:
            raise InputError(f"{path} has no output {head}; there is {', '.join(sorted(outputs))}")
        if head is None and len(outputs) > 1:
            shown = ", ".join(f"{key} {value.shape.as_list()[1:]}" for key, value in sorted(outputs.items()))
            raise InputError(f"{path} has {len(outputs)} outputs: {shown}; say which with --head NAME")
        if not (spec.dtype.is_floating or spec.dtype == tf.uint8):
            raise InputError(f"{path} takes {spec.dtype.name}, not pixels; a model of one picture is expected")
        self.takes_bytes = spec.dtype == tf.uint8
        self._type, self._output = spec.dtype, head or next(iter(outputs))
        self.input_shape = tuple(spec.shape.as_list()) if spec.shape.rank is not None else (None,) * 4
        self.output_shape = tuple(outputs[self._output].shape.as_list())

    def __call__(self, pixels: Any, *, training: bool = False) -> Any:
        """The output for ``float32 [N, H, W, C]``."""
        del training
        return self._function(**{self._input: tf.cast(pixels, self._type)})[self._output]

    def count_params(self) -> int:
        """Number of trained values."""
        return int(sum(np.prod(variable.shape) for variable in self._function.variables))
