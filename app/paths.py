"""Where the service stands in an address: behind a path prefix, or at the root."""

from typing import Final

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

_PERMANENT_WITH_METHOD: Final = 308


def strip(path: str, prefix: str) -> str:
    """A path as it would be without a prefix before it; unchanged where it has none.

    Args:
        path: a request's path, decoded.
        prefix: as ``/classifier``; some proxies take it away, others leave it.
    """
    return path.removeprefix(prefix) if path.startswith(f"{prefix}/") else path


class Prefix:
    """ASGI middleware that answers a request with a prefix in its path as one without it.

    Starlette's ``root_path`` does so for its routes only; access rules, metrics, traces and ``predict.Express`` look at
    the path themselves, so here it is changed once for all of them.
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        """Configures it; ``prefix`` is as ``/classifier``."""
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes everything on, without the prefix."""
        if scope["type"] == "http" and scope["path"] == self._prefix:
            # What the page loads stands below it, so its address has to end in a slash. A relative address is right
            # behind one more prefix too, which a proxy may take away.
            query = scope["query_string"].decode("latin-1")
            place = f"{self._prefix.rpartition('/')[2]}/{'?' if query else ''}{query}"
            await RedirectResponse(place, _PERMANENT_WITH_METHOD)(scope, receive, send)
            return
        if scope["type"] == "http":
            # In place: what looks at it afterwards, for the log and the metrics, shall see the same.
            scope["path"] = strip(scope["path"], self._prefix)
            scope["raw_path"] = None
        await self._app(scope, receive, send)
