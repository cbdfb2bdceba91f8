"""``python -m app``: serves on CLASSIFIER_HOST and CLASSIFIER_PORT."""

import sys

from pydantic import ValidationError

from app import logs
from app.errors import SettingsError
from app.factory import create_server
from app.settings import Settings


def main() -> None:
    """Serves until SIGTERM or SIGINT; ends with 2 on wrong settings, 3 if the start-up fails, else 0."""
    try:
        settings = Settings()
    except ValidationError as error:
        for problem in error.errors():
            if not problem["loc"]:
                # It concerns several settings and names them; its input is all of them, the API keys included.
                print(problem["msg"].removeprefix("Value error, "), file=sys.stderr)
                continue
            name = "_".join(["CLASSIFIER", *(str(part).upper() for part in problem["loc"])])
            print(f"{name}: {problem['msg']} (got {problem['input']!r})", file=sys.stderr)
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
    server.run(sockets=[server.socket])


if __name__ == "__main__":
    main()
