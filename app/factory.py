"""Builds the application. Importing this reads no environment."""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

from fastapi import FastAPI

from app import __version__, problems, swap
from app.frames import Frames
from app.lanes import Lanes
from app.metrics import Metrics
from app.observer import Observer
from app.repository import Repository, Served
from app.routes import admin, health, metrics, model, models, predict
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
        source = await asyncio.to_thread(settings.source)
        served, left_out = await asyncio.to_thread(
            swap.start, source, settings.precision, settings.default_model, settings.max_models, limits.pixels
        )
        repository = Repository(served[0], served[1:])
        classifier = repository.default.classifier
        lanes = Lanes(cpus.count, settings.queue_budget_ms / 1e3)
        # Through a lane, as every photo goes. This also gives the queue its first service time.
        await lanes.submit(classifier.check_golden)
        intake = Intake(limits)
        frames = Frames(settings.cache_seconds, settings.cache_difference)
        loader = swap.Loader(limits.pixels, cpus.count, settings.queue_budget_ms / 1e3, settings.max_slowdown)
        updates = swap.Updates(repository, source, loader, settings.max_models, counted.count_swap)
        for path, error in left_out:
            updates.note_refused(path, error)
        counted.watch(repository.all, lambda: lanes.depth, lambda: lanes.service_s, lambda: intake.held_bytes)
        # Without keys anybody could exchange the model.
        guarded = bool(getattr(settings, "api_keys", None))
        app.state.service = Service(
            repository, updates, lanes, intake, frames, limits, cpus, counted, monotonic(), guarded=guarded
        )
        contract = classifier.contract
        log.info(
            "ready",
            extra={
                "fields": {
                    "model": contract.name,
                    "version": contract.version,
                    "precision": contract.precision,
                    "precision_reason": repository.default.precision_reason,
                    "source": repository.default.source,
                    "path": str(repository.default.path),
                    "models": repository.names(),
                    "lanes": cpus.count,
                    "lanes_reason": cpus.reason,
                }
            },
        )
        background = asyncio.create_task(_settle_in(repository.default, cpus.count, source, updates))
        yield
        await background
        await updates.close()
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
    for router in (predict.router, health.router, models.router, model.router, admin.router, metrics.router):
        app.include_router(router)
    # Around FastAPI's own middlewares, which a photo does not need.
    app.middleware_stack = Observer(predict.Express(app.build_middleware_stack()), counted)
    return app


async def _settle_in(default: Served, threads: int, source: swap.Source, updates: swap.Updates) -> None:
    """What photos need not wait for: until it is done, one that is alone uses one CPU, and no new model is noticed."""
    await asyncio.to_thread(swap.widen, default, threads, source.verify)
    await updates.watch()
    # At a terminal it means that the terminal is gone, and the service has to go too.
    if not sys.stdin or not sys.stdin.isatty():
        with contextlib.suppress(ValueError, RuntimeError, AttributeError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, updates.tell)
