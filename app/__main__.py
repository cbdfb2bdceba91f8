"""``python -m app``: serves on CLASSIFIER_HOST and CLASSIFIER_PORT."""

import sys

from pydantic import ValidationError

from app import logs
from app.factory import create_server
from app.settings import Settings


def main() -> None:
    """Serves until SIGTERM or SIGINT; ends with 2 on wrong settings, 3 if the start-up fails, else 0."""
    try:
        settings = Settings()
    except ValidationError as error:
        for problem in error.errors():
            name = "_".join(map(str, problem["loc"]))
            # systemd's variables have their own names.
            name = name if name.isupper() else f"CLASSIFIER_{name.upper()}"
            print(f"{name}: {problem['msg']} (got {problem['input']!r})", file=sys.stderr)
        sys.exit(2)
    logs.configure(settings.log_level)
    try:
        server = create_server(settings)
    except OSError as error:
        print(f"cannot listen on {settings.host} port {settings.port}: {error}", file=sys.stderr)
        sys.exit(3)
    server.run(sockets=[server.socket])


if __name__ == "__main__":
    main()
