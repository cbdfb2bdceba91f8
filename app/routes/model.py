"""``GET /model`` and ``GET /labels``: what the model file says about itself."""

from fastapi import APIRouter, Request

from app.schemas import LabelOut, LabelsResponse, ModelOut, ModelRef
from app.service import Service

router = APIRouter(tags=["model"])


@router.get("/model", summary="The model's contract")
async def model(request: Request) -> ModelOut:
    """Name, version, geometry, cost, provenance and what was measured when it was built."""
    return ModelOut.build(Service.of(request).classifier.contract)


@router.get("/labels", summary="The model's classes")
async def labels(request: Request) -> LabelsResponse:
    """Every class by index, with its WordNet id where that is known."""
    contract = Service.of(request).classifier.contract
    pairs = zip(contract.labels, contract.ids, strict=True)
    return LabelsResponse(
        model=ModelRef(name=contract.name, version=contract.version),
        labels=[LabelOut(index=i, label=label, id=wnid) for i, (label, wnid) in enumerate(pairs)],
    )
