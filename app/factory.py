"""Builds the application. Importing this reads no environment."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

from fastapi import FastAPI

from app import __version__, problems
from app.classifier import Classifier
from app.lanes import Lanes
from app.model import Model
from app.observation import Observer
from app.routes import health, model, predict
from app.service import Service
from app.settings import Settings

log = logging.getLogger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """Builds the application; its model is loaded and checked when it starts up.

    Starting up raises ModelError where there is no model that classifies its golden photo correctly.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        cpus = settings.cpus()
        path = settings.model_path()
        # In a thread: a start-up that is interrupted can still be.
        loaded = await asyncio.to_thread(Model, path)
        classifier = Classifier(loaded, settings.max_pixels)
        lanes = Lanes(cpus.count, settings.queue_budget_ms / 1e3)
        # Through a lane, as every photo goes. This also gives the queue its first service time.
        await lanes.submit(classifier.check_golden)
        app.state.service = Service(classifier, lanes, settings.limits, cpus, monotonic())
        contract = classifier.contract
        log.info(
            "ready",
            extra={
                "fields": {
                    "model": contract.name,
                    "version": contract.version,
                    "precision": contract.precision,
                    "path": str(path),
                    "lanes": cpus.count,
                    "lanes_reason": cpus.reason,
                }
            },
        )
        yield
        if not await lanes.drain(settings.drain_seconds):
            log.warning("shut down before everything was answered; raise CLASSIFIER_DRAIN_SECONDS")

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
    for router in (predict.router, health.router, model.router):
        app.include_router(router)
    app.add_middleware(Observer)
    return app
