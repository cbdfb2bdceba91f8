"""``GET /`` and ``GET /docs``: the web page, and the API's interactive documentation, both without internet."""

from functools import cache
from hashlib import sha256
from pathlib import Path, PurePath
from typing import Final

from fastapi import APIRouter, HTTPException, Request, Response

router = APIRouter(include_in_schema=False)

_FOLDER: Final = Path(__file__).parent.parent / "page"
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
#: What the two pages consist of; nothing else in the folder is served.
ASSETS: Final = frozenset(
    {
        "api.js",
        "batch.js",
        "camera.js",
        "docs.js",
        "icon.svg",
        "knows.js",
        "page.css",
        "page.js",
        "photo.js",
        "words.js",
        "swagger/swagger-ui-bundle.js",
        "swagger/swagger-ui.css",
    }
)
#: Nothing is loaded from elsewhere, nothing is sent elsewhere, nobody frames it.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
#: Swagger UI writes style attributes.
_DOCS_POLICY: Final = POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")


@router.api_route("/", methods=["GET", "HEAD"])
async def page(request: Request) -> Response:
    """The page: a photo in, its labels on the screen."""
    # What it loads stands below it, so its address ends in a slash, also behind a prefix.
    asked = _asked(request)
    if not asked.endswith("/"):
        return _elsewhere(request, f"{asked.rpartition('/')[2]}/")
    return answer(request, "index.html", POLICY, teaches=hasattr(request.app.state, "teaching"))


@router.api_route("/docs", methods=["GET", "HEAD"])
async def docs(request: Request) -> Response:
    """Swagger UI for ``/openapi.json``."""
    return beside(request, "docs", "docs.html", _DOCS_POLICY)


@router.api_route("/page/{name:path}", methods=["GET", "HEAD"])
async def asset(request: Request, name: str) -> Response:
    """One of the files that the pages load."""
    if name not in ASSETS:
        raise HTTPException(404)
    return answer(request, name, POLICY)


def beside(request: Request, address: str, name: str, policy: str) -> Response:
    """A page beside whose address what it loads stands, so that the address ends in no slash."""
    asked = _asked(request)
    if slashes := len(asked) - len(asked.rstrip("/")):
        return _elsewhere(request, f"{'../' * slashes}{address}")
    return answer(request, name, policy)


def _asked(request: Request) -> str:
    """The path as the browser has it, which what the page loads is relative to."""
    raw: bytes = request.scope.get("raw_path") or b"/"
    return raw.decode("latin-1")


def _elsewhere(request: Request, place: str) -> Response:
    """To a relative address, which is right behind a prefix too that a proxy takes away."""
    query = request.url.query
    return Response(status_code=308, headers={"Location": f"{place}?{query}" if query else place})


@cache
def _read(name: str, *, teaches: bool) -> tuple[bytes, str]:
    """A file's content and its entity tag; read when it is first asked for."""
    content = (_FOLDER / name).read_bytes()
    if teaches:
        content = content.replace(b'href="teach" hidden', b'href="teach"')
    return content, f'"{sha256(content).hexdigest()[:32]}"'


def answer(request: Request, name: str, policy: str, *, teaches: bool = False) -> Response:
    """A file of the page's folder, unless the browser has it already; ``teaches``: with its link to ``/teach``."""
    content, tag = _read(name, teaches=teaches)
    headers = {
        # Kept by the browser, but asked for again each time, so that an updated service is seen at once.
        "Cache-Control": "no-cache",
        "ETag": tag,
        "Content-Security-Policy": policy,
        "Permissions-Policy": "camera=(self)",
    }
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=_TYPES[PurePath(name).suffix])
