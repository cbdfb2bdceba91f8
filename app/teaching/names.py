"""What classes may be called: the name is that of a folder, which the command line's ``teach`` reads too."""

import re
import unicodedata
from typing import Final

from ..errors import InvalidParameter, quoted

_MOST_CHARACTERS: Final = 60
_MOST_BYTES: Final = 180
#: Joins emoji; of what is not printable the only character that names need.
_JOINER: Final = "\u200d"
#: What ``teach`` takes for parts of a divided folder, or passes over because systems make it; in small letters.
_RESERVED: Final = frozenset(
    {
        *("train", "training", "val", "valid", "validation", "dev", "test", "testing"),
        *("@eadir", "#recycle", "__macosx", "$recycle.bin", "lost+found", "system volume information"),
        *("thumbs.db", "ehthumbs.db", "desktop.ini"),
    }
)
#: Classes that are none: their photos are to be answered with "unknown".
_REFUSED: Final = frozenset({"unknown", "other", "background", "none"})


def class_name(text: str) -> str:
    """A class's name as its folder has it, from what somebody typed.

    Raises:
        InvalidParameter: no folder of a class can be called so.
    """
    name = " ".join(unicodedata.normalize("NFC", text).split())
    if not name:
        raise InvalidParameter("The class has no name. Send 1 to 60 characters.")
    if len(name) > _MOST_CHARACTERS or len(name.encode(errors="replace")) > _MOST_BYTES:
        raise InvalidParameter(f"{quoted(name)} is too long for a class. Send 60 characters at most.")
    if name.startswith(".") or re.search(r"[/\\:]", name) or not _printable(name):
        raise InvalidParameter(
            f"{quoted(name)} cannot name a class: no '/', '\\', ':' or control character, and no '.' at its beginning."
        )
    if {key(name), name.casefold()} & _RESERVED:
        raise InvalidParameter(f"{quoted(name)} means something else to `teach`. Choose another name.")
    return name


def key(name: str) -> str:
    """What two names that mean the same class have in common, as ``teach`` sees it."""
    return re.sub(r"[\s_]+", " ", unicodedata.normalize("NFC", name)).strip().casefold()


def is_refused(name: str) -> bool:
    """Whether a class that is called so has the photos that are to be refused."""
    return key(name) in _REFUSED


def _printable(name: str) -> bool:
    return all(character.isprintable() or character == _JOINER for character in name)
