"""``edge-classifier serve``: configured by the environment alone."""

import contextlib
import gc
import logging
import os
import sys
from typing import Final

from pydantic import ValidationError

from ..errors import SettingsError
from ..http.encodings import bound_numbers
from ..main import create_server
from ..settings import Settings, deprecated
from ..telemetry import logs
from .local import wrong_settings

log = logging.getLogger(__name__)

#: All addresses of this machine.
_ANY: Final = ("0.0.0.0", "::", "")  # noqa: S104 - only compared


def serve(*, tell: bool) -> None:
    """Serves until SIGTERM or SIGINT; ends with 2 on wrong settings, 3 if the start-up fails, else 0.

    Args:
        tell: whether standard output gets a line for a person, where to look, when photos are answered.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        print("\n".join(wrong_settings(error)), file=sys.stderr)
        sys.exit(2)
    logs.configure(settings.log_level)
    bound_numbers()
    for line in deprecated():
        log.warning(line)

    def listening() -> None:
        if tell and sys.stdout:
            # Past Python's buffer, which it would try to write once more at the end: nobody may be reading.
            with contextlib.suppress(OSError):
                os.write(sys.stdout.fileno(), f"{where(settings, server.socket.getsockname()[1])}\n".encode())

    try:
        server = create_server(settings, listening)
    except SettingsError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"cannot listen on {settings.host} port {settings.port}: {error}", file=sys.stderr)
        sys.exit(3)
    # What is here now stays; a full collection would stop all requests for 60 ms to find that out.
    gc.freeze()
    gc.enable()
    server.run(sockets=[server.socket])


def where(settings: Settings, port: int) -> str:
    """What a person at this machine has to know about a service that answers."""
    host = "localhost" if settings.host in _ANY else f"[{settings.host}]" if ":" in settings.host else settings.host
    scheme = "https" if settings.tls_certificate else "http"
    verb = "Open" if settings.ui == "on" else "Photos are answered at"
    return f"{verb} {scheme}://{host}:{port}{settings.path_prefix or ''}/ (Ctrl-C ends the service)"
