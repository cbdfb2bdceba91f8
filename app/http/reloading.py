"""What is made from files, and made anew when they change: keys and certificates are renewed without a restart."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from ..errors import SettingsError
from ..runtime.files import file_stamp

T = TypeVar("T")
log = logging.getLogger(__name__)


class ReloadingValue(Generic[T]):
    """A value that follows its files; a change for the worse is logged, and the last good value stays."""

    def __init__(self, make: Callable[[], T], *paths: Path) -> None:
        """Makes the value.

        Args:
            make: reads the files.
            paths: the files.

        Raises:
            SettingsError: ``make`` found them unusable.
        """
        self._make = make
        self._paths = paths
        self._seen = self._stamps()
        self._value = make()

    def __call__(self) -> T:
        """The value, as of the files' last good state."""
        if (stamps := self._stamps()) != self._seen:
            self._seen = stamps
            # Said before, because what is read may be refused, and that is logged too.
            log.info("changed, so read again", extra={"fields": {"files": [str(path) for path in self._paths]}})
            try:
                self._value = self._make()
            except SettingsError as error:
                log.error("not usable, so what was read before stays in use: %s", error)  # noqa: TRY400 - one line
        return self._value

    def _stamps(self) -> list[tuple[int, ...] | None]:
        return [file_stamp(path) for path in self._paths]
