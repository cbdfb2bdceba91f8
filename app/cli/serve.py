"""``edge-classifier serve``: configured by the environment alone."""

import sys

from pydantic import ValidationError

from app import logs
from app.cli.local import wrong_settings
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
    except OSError as error:
        print(f"cannot listen on {settings.host} port {settings.port}: {error}", file=sys.stderr)
        sys.exit(3)
    server.run(sockets=[server.socket])
