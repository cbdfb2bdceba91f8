"""``GET /metrics``."""

from typing import Any, Final

from fastapi import APIRouter, Request, Response

from ...telemetry.metrics import CONTENT_TYPE
from ..service import Service

router = APIRouter(tags=["metrics"])


_TEXT: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {"text/plain": {}}}}


@router.get(
    "/metrics", summary="Prometheus metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}}
)
async def metrics(request: Request) -> Response:
    """Requests by route and status, queue, problems, time by stage, the model."""
    return Response(Service.of(request).metrics.text(), media_type=CONTENT_TYPE)
