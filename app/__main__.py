"""``python -m app``: serves on CLASSIFIER_HOST and CLASSIFIER_PORT."""

import sys

import uvicorn
from pydantic import ValidationError


def main() -> None:
    """Runs the server until it is told to stop; ends with 2 on wrong settings and 3 if the start-up fails."""
    try:
        from app.main import app, settings
    except ValidationError as error:
        for problem in error.errors():
            name = "_".join(["CLASSIFIER", *(str(part).upper() for part in problem["loc"])])
            print(f"{name}: {problem['msg']} (got {problem['input']!r})", file=sys.stderr)
        sys.exit(2)
    uvicorn.run(app, host=settings.host, port=settings.port, log_config=None, server_header=False)


if __name__ == "__main__":
    main()
