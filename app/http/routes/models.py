"""``GET /models``: what is served."""

from datetime import UTC, datetime

from fastapi import APIRouter, Request

from ..schemas.models import ModelsResponse, ServedOut
from ..service import Service

router = APIRouter(tags=["model"])


@router.get("/models", summary="All models that are served")
async def models(request: Request) -> ModelsResponse:
    """Each is loaded and has classified its golden photo. `?model=NAME` asks one of them."""
    repository = Service.of(request).repository
    return ModelsResponse(
        models=[
            ServedOut(
                name=served.name,
                version=served.contract.version,
                precision=served.contract.precision,
                classes=len(served.contract.labels),
                default=served is repository.default,
                file=served.path.name,
                sha256=served.digest.hex(),
                loaded_at=datetime.fromtimestamp(served.loaded_at, UTC),
                previous_version=previous.contract.version if (previous := repository.previous(served)) else None,
            )
            for served in repository.all()
        ]
    )
