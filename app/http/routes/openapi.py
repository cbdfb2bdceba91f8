"""``GET /openapi.json``, made once: FastAPI's own route makes it for each request, which keeps the event loop busy."""

from fastapi import APIRouter, FastAPI, Request, Response
from pydantic_core import to_json

router = APIRouter(include_in_schema=False)


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    """What the service takes and answers, for programs."""
    app: FastAPI = request.app
    if not hasattr(app.state, "openapi_json"):
        app.state.openapi_json = to_json(app.openapi())
    return Response(app.state.openapi_json, media_type="application/json")
