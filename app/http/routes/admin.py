"""``POST /admin/reload`` and ``POST /admin/rollback``: new models, and back, over HTTP."""

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Request

from ... import errors
from .. import problems
from ..schemas.common import ModelQuery
from ..schemas.models import ReloadResponse, UpdateOut
from ..service import Service

_LOCKED: Final = (
    "Models can be exchanged over HTTP only where clients have to show an API key. Set CLASSIFIER_API_KEYS, or send "
    "the process SIGHUP."
)


async def _guarded(request: Request) -> None:
    if Service.of(request).keys is None:
        raise errors.AdminLocked(_LOCKED)


router = APIRouter(prefix="/admin", tags=["admin"], dependencies=[Depends(_guarded)])


@router.post(
    "/reload",
    summary="Look for new model files now",
    responses=problems.responses(errors.AdminLocked, errors.ModelRefused, errors.Draining),
)
async def reload(request: Request) -> ReloadResponse:
    """Takes also what was refused or rolled back before, if it passes now. 409 if any file is refused."""
    updates = await Service.of(request).updates.reload()
    refused = [f"{update.file}: {update.reason}" for update in updates if update.outcome == "refused"]
    if refused:
        raise errors.ModelRefused(f"{'; '.join(refused)}. What was served before still is.")
    return ReloadResponse(updates=[UpdateOut.build(update) for update in updates])


@router.post(
    "/rollback",
    summary="Serve the model again that was served before",
    responses=problems.responses(
        errors.AdminLocked, errors.UnknownModel, errors.NoPreviousModel, errors.InvalidParameter
    ),
)
async def rollback(request: Request, query: Annotated[ModelQuery, Query()]) -> UpdateOut:
    """At once: it is still in memory. The file that is given up is not taken again before it changes."""
    return UpdateOut.build(Service.of(request).updates.roll_back(query.model))
