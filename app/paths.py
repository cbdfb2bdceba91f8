"""Paths as people write them: what is asked for is found with a slash too many, too."""

import re

from starlette.types import ASGIApp, Receive, Scope, Send


class Paths:
    """ASGI middleware around everything, so that all within see the same path."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on with its path as the routes have it."""
        if scope["type"] == "http":
            scope["path"] = plain(scope["path"])
        await self._app(scope, receive, send)


def plain(path: str) -> str:
    """A path without empty segments and without a slash at its end."""
    if "//" in path:
        path = re.sub("//+", "/", path)
    return path.rstrip("/") or "/"
