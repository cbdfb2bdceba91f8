"""Paths as people and proxies write them: behind a prefix, or with a slash too many."""

import re
from typing import Final

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

_PERMANENT_WITH_METHOD: Final = 308


class Paths:
    """ASGI middleware after which all see the same path.

    Starlette's ``root_path`` does so for its routes only; access rules, metrics, traces and ``predict.Express`` look at
    the path themselves, so here it is changed once for all of them.
    """

    def __init__(self, app: ASGIApp, prefix: str | None) -> None:
        """Configures it.

        Args:
            app: what takes plain paths.
            prefix: as ``/classifier``, if there is one; some proxies take it away, others leave it.
        """
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on with its path as the routes have it."""
        if scope["type"] == "http":
            if self._prefix and scope["path"] == self._prefix:
                # What the page loads stands below it, so its address has to end in a slash. A relative address is right
                # behind one more prefix too, which a proxy may take away.
                query = scope["query_string"].decode("latin-1")
                place = f"{self._prefix.rpartition('/')[2]}/{'?' if query else ''}{query}"
                await RedirectResponse(place, _PERMANENT_WITH_METHOD)(scope, receive, send)
                return
            # In place: what looks at it afterwards, for the log and the metrics, shall see the same.
            scope["path"] = plain(scope["path"], self._prefix)
        await self._app(scope, receive, send)


def plain(path: str, prefix: str | None) -> str:
    """A decoded path without the prefix, if it has it, without empty segments and without a slash at its end."""
    if "//" in path:
        path = re.sub("//+", "/", path)
    if prefix and path.startswith(f"{prefix}/"):
        path = path.removeprefix(prefix)
    return path.rstrip("/") or "/"
