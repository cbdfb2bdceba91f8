"""Paths as people and proxies write them: what is asked for is found with a slash too many and behind a prefix, too."""

import re

from starlette.types import ASGIApp, Receive, Scope, Send


class Paths:
    """ASGI middleware around everything, so that all within see the same path.

    Starlette's ``root_path`` takes a prefix away for its routes only; access rules, error formats, metrics and
    ``PredictFastPath`` look at the path themselves. What a client really asked for stays in ``raw_path``.
    """

    def __init__(self, app: ASGIApp, prefix: str | None = None) -> None:
        """Configures it; ``prefix``, as ``/classifier``, is where a proxy has the service."""
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on with its path as the routes have it."""
        if scope["type"] == "http":
            path = plain(scope["path"])
            scope["path"] = path if self._prefix is None else strip(path, self._prefix)
        await self._app(scope, receive, send)


def plain(path: str) -> str:
    """A path without empty segments and without a slash at its end."""
    if "//" in path:
        path = re.sub("//+", "/", path)
    return path.rstrip("/") or "/"


def strip(path: str, prefix: str) -> str:
    """A plain path without ``prefix`` before it; unchanged where it has none: some proxies take it away themselves."""
    if path == prefix:
        return "/"
    return path.removeprefix(prefix) if path.startswith(f"{prefix}/") else path
