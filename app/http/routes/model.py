"""``GET /model`` and ``GET /labels``: what the model file says about itself."""

from typing import Annotated, Final

from fastapi import APIRouter, Query, Request

from ... import errors
from .. import problems
from ..schemas.common import ModelQuery, ModelRef
from ..schemas.models import LabelOut, LabelsResponse, ModelOut
from ..service import Service

router = APIRouter(tags=["model"])
Asked = Annotated[ModelQuery, Query()]
_ERRORS: Final = problems.responses(errors.UnknownModel, errors.InvalidParameter)


@router.get("/model", summary="The model's contract", responses=_ERRORS)
async def model(request: Request, query: Asked) -> ModelOut:
    """Name, version, geometry, cost, provenance and what was measured when it was built."""
    return ModelOut.build(Service.of(request).classifier_for(query.model).contract)


@router.get("/labels", summary="The model's classes", responses=_ERRORS)
async def labels(request: Request, query: Asked) -> LabelsResponse:
    """Every class by index, with its WordNet id where that is known, and its group where the model has groups."""
    contract = Service.of(request).classifier_for(query.model).contract
    groups = contract.groups or (None,) * len(contract.labels)
    classes = zip(contract.labels, contract.ids, groups, strict=True)
    return LabelsResponse(
        model=ModelRef(name=contract.name, version=contract.version),
        labels=[LabelOut(index=i, label=label, id=wnid, group=group) for i, (label, wnid, group) in enumerate(classes)],
    )
