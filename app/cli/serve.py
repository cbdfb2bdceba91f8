"""``edge-classifier serve``: configured by the environment alone."""

import gc
import sys

from pydantic import ValidationError

from app import logs
from app.cli.local import wrong_settings
from app.errors import SettingsError
from app.factory import create_server
from app.settings import Settings


def serve() -> None:
    """Serves until SIGTERM or SIGINT; ends with 2 on wrong settings, 3 if the start-up fails, else 0."""
    try:
        settings = Settings()
    except ValidationError as error:
        print("\n".join(wrong_settings(error)), file=sys.stderr)
        sys.exit(2)
    logs.configure(settings.log_level)
    try:
        server = create_server(settings)
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
