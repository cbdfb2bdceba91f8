"""``GET /health`` and the probes. None of them can say more than is true: they ask the parts that do the work."""

from time import monotonic

from fastapi import APIRouter, Request, Response

from ..schemas.common import ModelRef
from ..schemas.health import CpusOut, Health, InputSize, Probe
from ..schemas.models import UpdateOut
from ..service import Service

router = APIRouter(tags=["health"])


@router.get("/health", summary="Ready or not, and why", responses={503: {"model": Health}})
async def health(request: Request, response: Response) -> Health:
    """503 unless a photo sent now would be answered."""
    service = Service.of(request)
    served = service.repository.default
    contract, last = served.contract, service.updates.last
    ready, reason = service.readiness()
    response.status_code = 200 if ready else 503
    return Health(
        status="ready" if ready else "not ready",
        reason=reason,
        model=ModelRef(name=contract.name, version=contract.version),
        model_source=served.source,
        precision=contract.precision,
        precision_reason=served.precision_reason,
        input_size=InputSize(height=contract.resize.height, width=contract.resize.width),
        cpus=CpusOut(
            workers=service.workers.count,
            threads_per_worker=served.classifier.model.threads,
            exclusive_threads=served.classifier.multithreaded.threads,
            reason=service.cpus.reason,
        ),
        last_update=UpdateOut.build(last) if last else None,
        uptime_s=round(monotonic() - service.started_at, 3),
    )


@router.get(
    "/health/live", summary="Liveness probe: restart the service if this fails", responses={503: {"model": Probe}}
)
async def live(request: Request, response: Response) -> Probe:
    """The event loop answers, and every worker runs."""
    alive = Service.of(request).workers.alive
    response.status_code = 200 if alive else 503
    return Probe(
        status="alive" if alive else "not ready", reason="every worker runs" if alive else "a worker has ended"
    )


@router.get(
    "/health/ready", summary="Readiness probe: send photos while this succeeds", responses={503: {"model": Probe}}
)
async def ready(request: Request, response: Response) -> Probe:
    """As `/health`, in short."""
    is_ready, reason = Service.of(request).readiness()
    response.status_code = 200 if is_ready else 503
    return Probe(status="ready" if is_ready else "not ready", reason=reason)


@router.get("/health/startup", summary="Startup probe: the model has been loaded and checked")
async def startup(request: Request) -> Probe:
    """The service listens only after the golden photo was classified correctly, so answering at all says it."""
    contract = Service.of(request).classifier.contract
    return Probe(status="started", reason=f"{contract.name} {contract.version} classified its golden photo correctly")
