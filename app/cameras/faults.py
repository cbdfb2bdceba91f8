"""Why there is nothing to say about what a camera sees: each reason has a name, and none of them is a label."""

from typing import Final

#: What can be wrong, in words.
FAULTS: Final = {
    "unreachable": "the camera does not answer",
    "login": "the camera wants another user name or password, or shows a login page",
    "http-error": "the camera answers with an error",
    "not-a-picture": "what the camera sends is no picture",
    "broken-picture": "the picture is cut off or damaged",
    "too-large": "what the camera sends has no end, or more bytes or pixels than allowed",
    "flat": "the picture is one flat tone: a covered lens, no light, or a grey frame",
    "frozen": "the picture has not changed by a single byte for long",
    "no-ffmpeg": "ffmpeg is not installed",
    "service": "the service does not answer, or refuses",
    "mistake": "this program made a mistake",
}
_LONGEST: Final = 300


class Fault(Exception):
    """There is no answer for a frame.

    Attributes:
        kind: a key of ``FAULTS``.
        detail: what happened, in one printable line.
    """

    def __init__(self, kind: str, detail: str) -> None:
        self.kind = kind
        self.detail = one_line(detail)
        super().__init__(f"{FAULTS[kind]} ({self.detail})")


def one_line(text: str) -> str:
    """What a camera or server said, for a log line or a message: printable, on one line, not long."""
    words = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * _LONGEST]).split())
    return words if len(words) <= _LONGEST else f"{words[: _LONGEST - 3]}..."
