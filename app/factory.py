"""Builds the application. Importing this reads no environment."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

from fastapi import FastAPI

from app import __version__, problems
from app.classifier import Classifier, fastest
from app.errors import ModelError
from app.frames import Frames
from app.lanes import Lanes
from app.metrics import Metrics
from app.model import Model
from app.observer import Observer
from app.routes import health, metrics, model, predict
from app.server import Server
from app.service import Service
from app.settings import Settings
from app.upload import Intake

log = logging.getLogger(__name__)


def create_server(settings: Settings) -> Server:
    """The application behind its server; ``run(sockets=[server.socket])`` serves until a signal comes.

    Raises:
        OSError: the address cannot be bound.
    """
    app = create_app(settings)

    def leave() -> None:
        app.state.service.leaving = True

    return Server(
        app,
        settings.host,
        settings.port,
        head_timeout_s=settings.head_timeout_seconds,
        drain_s=settings.drain_seconds,
        on_drain=leave,
    )


def create_app(settings: Settings) -> FastAPI:
    """Builds the application; its model is loaded and checked when it starts up.

    Starting up raises ModelError where there is no model that classifies its golden photo correctly.
    """
    limits = settings.limits
    counted = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        cpus = settings.cpus()
        # In a thread: a start-up that is interrupted can still be.
        candidates = await asyncio.to_thread(lambda: [Model(path) for path in settings.model_paths()])
        loaded, precision_reason = candidates[0], "the only one to choose from"
        if len(candidates) > 1:
            loaded, precision_reason = await asyncio.to_thread(fastest, candidates)
        del candidates
        classifier = Classifier(loaded, limits.pixels)
        lanes = Lanes(cpus.count, settings.queue_budget_ms / 1e3)
        # Through a lane, as every photo goes. This also gives the queue its first service time.
        await lanes.submit(classifier.check_golden)
        intake = Intake(limits)
        frames = Frames(settings.cache_seconds, settings.cache_difference)
        counted.watch(loaded.contract, lambda: lanes.depth, lambda: lanes.service_s, lambda: intake.held_bytes)
        model_source = settings.model_source(loaded.path)
        app.state.service = Service(
            classifier, lanes, intake, frames, limits, cpus, counted, precision_reason, model_source, monotonic()
        )
        contract = classifier.contract
        log.info(
            "ready",
            extra={
                "fields": {
                    "model": contract.name,
                    "version": contract.version,
                    "precision": contract.precision,
                    "precision_reason": precision_reason,
                    "source": model_source,
                    "path": str(loaded.path),
                    "lanes": cpus.count,
                    "lanes_reason": cpus.reason,
                }
            },
        )
        # Photos need not wait for it: until it is there, one that is alone uses one CPU.
        widening = asyncio.create_task(_widen(classifier, cpus.count)) if cpus.count > 1 else None
        yield
        if widening is not None:
            await widening
        # The server has waited for every request; a job that still runs has lost its client.
        await lanes.drain(settings.drain_seconds)

    app = FastAPI(
        title="Edge Classifier",
        version=__version__,
        summary="A photo in, its labels out.",
        lifespan=lifespan,
        # Their pages load from a CDN, which a gateway does not reach. The document itself is at /openapi.json.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    problems.register(app)
    for router in (predict.router, health.router, model.router, metrics.router):
        app.include_router(router)
    # Around FastAPI's own middlewares, which a photo does not need.
    app.middleware_stack = Observer(predict.Express(app.build_middleware_stack()), counted)
    return app


async def _widen(classifier: Classifier, threads: int) -> None:
    """Gives a classifier its second session, with more threads."""
    # The file may have been replaced or removed in the meantime; one session serves as well.
    with contextlib.suppress(ModelError):
        wide = await asyncio.to_thread(Model, classifier.model.path, threads)
        if wide.contract == classifier.contract:
            classifier.wide = wide
