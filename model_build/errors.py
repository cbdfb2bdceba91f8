"""The errors that end a command, each with its exit code.

::

    BuildError            1  anything else that ends a build with a clear sentence
    ├── InputError        2  an argument, a file or a folder that was given is not usable
    ├── WeightsUnavailable 3  the pretrained weights could be neither found nor downloaded
    └── ParityError       4  the exported model's scores are not its source's; nothing was written
"""


def reason(error: BaseException) -> str:
    """What another program's error says, on one line that is not endless: its last cause first."""
    while error.__cause__ is not None:
        error = error.__cause__
    said = " ".join(str(error).split())[:500]
    return f"{type(error).__name__}: {said}" if isinstance(error, LookupError) or not said else said


class BuildError(Exception):
    """A build that ends; its message says what happened and what to do about it."""

    exit_code = 1


class InputError(BuildError):
    """An argument, file or folder that was given cannot be used."""

    exit_code = 2


class WeightsUnavailable(BuildError):
    """The pretrained weights are neither in Keras's cache nor could they be downloaded."""

    exit_code = 3


class ParityError(BuildError):
    """An exported model is further from its source than the limits allow."""

    exit_code = 4
