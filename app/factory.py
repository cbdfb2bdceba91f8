"""Builds the application. Importing this reads no environment."""

import asyncio
import contextlib
import ipaddress
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic

from fastapi import FastAPI
from starlette.types import ASGIApp

from app import __version__, access, logs, problems, swap
from app.errors import SettingsError
from app.frames import Frames
from app.headers import security_headers
from app.lanes import Lanes
from app.malloc import keep_little
from app.metrics import Metrics
from app.observer import Observer
from app.paths import Paths
from app.repository import Repository, Served
from app.room import Room, free_bytes
from app.routes import (
    admin,
    deepstack,
    explain,
    health,
    metrics,
    model,
    models,
    openapi,
    page,
    predict,
    protocol_v2,
    tensorflow_serving,
)
from app.server import Server
from app.service import Service
from app.settings import Settings
from app.trial import Trials
from app.upload import Intake

log = logging.getLogger(__name__)


def create_server(settings: Settings, on_listening: Callable[[], None] = lambda: None) -> Server:
    """The application behind its server; ``run(sockets=[server.socket])`` serves until a signal comes.

    Args:
        settings: what is configured.
        on_listening: called when photos are answered.

    Raises:
        OSError: the address cannot be bound.
        SettingsError: as ``create_app`` does, or the TLS certificate cannot be used.
    """
    app = create_app(settings)
    systemd = None
    if settings.notify_socket:
        from app.systemd import Manager

        systemd = Manager(settings.notify_socket, settings.watchdog_usec, lambda: app.state.service.lanes.alive)

    def arrive() -> None:
        if systemd is not None:
            systemd.listening()
        on_listening()

    def leave() -> None:
        app.state.service.leaving = True
        app.state.service.updates.stop()
        if systemd is not None:
            systemd.leaving()

    tls = None
    if settings.tls_certificate and settings.tls_key:
        from app.tls import context

        tls = context(settings.tls_certificate, settings.tls_key)
    return Server(
        app,
        settings.host,
        settings.port,
        tls=tls,
        headers=security_headers(settings.hsts_seconds),
        head_timeout_s=settings.head_timeout_seconds,
        send_timeout_s=settings.send_timeout_seconds,
        drain_s=settings.drain_seconds,
        on_listening=arrive,
        on_drain=leave,
        on_stop=app.state.trials.close,
    )


def create_app(settings: Settings) -> FastAPI:
    """Builds the application; its model is loaded and checked when it starts up.

    Starting up raises ModelError where there is no model that classifies its golden photo correctly.

    Raises:
        SettingsError: the API keys cannot be used, or traces are on and cannot be made.
    """
    counted = Metrics(kind.slug for kind in (*problems.KINDS.values(), problems.INTERNAL))
    keys = _keys(settings)
    trials = Trials(settings.max_pixels)
    traces = None
    if settings.traces == "on":
        try:
            from app.traces import Traces
        except ImportError as error:
            raise SettingsError(f"CLASSIFIER_TRACES: on, but {error}; pip install '.[traces]'") from error
        traces = Traces()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        cpus = settings.cpus()
        # In a thread: a start-up that is interrupted can still be.
        source = await asyncio.to_thread(settings.source, trials)
        room = Room(settings.max_pixels)
        served, left_out = await asyncio.to_thread(
            swap.start, source, settings.precision, settings.default_model, settings.max_models, room
        )
        free = free_bytes()
        keep_little(free)
        limits = settings.limits(free)
        room.memory = limits.decode_bytes
        repository = Repository(served[0], served[1:])
        classifier = repository.default.classifier
        lanes = Lanes(cpus.count, settings.queue_budget_ms / 1e3)
        # Through a lane, as every photo goes. This also gives the queue its first service time.
        await lanes.submit(classifier.check_golden)
        intake = Intake(limits)
        frames = Frames(settings.cache_seconds, settings.cache_difference)
        loader = swap.Loader(room, cpus.count, settings.queue_budget_ms / 1e3, settings.max_slowdown)
        updates = swap.Updates(repository, source, loader, settings.max_models, counted.count_swap)
        for path, error in left_out:
            updates.note_refused(path, error)
        counted.watch(
            repository.all,
            lambda: lanes.depth,
            lambda: lanes.service_s,
            lambda: intake.held_bytes,
            limits.held_bytes,
            logs.dropped,
        )
        app.state.service = Service(
            repository, updates, lanes, intake, frames, limits, cpus, counted, monotonic(), keys
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
                    "held_bytes": limits.held_bytes,
                    "decode_bytes": limits.decode_bytes,
                }
            },
        )
        background = asyncio.create_task(_settle_in(repository.default, loader, source, updates))
        yield
        updates.stop()
        await background
        await updates.close()
        # The server has waited for every request; a job that still runs has lost its client.
        await lanes.drain(settings.drain_seconds)
        if traces is not None:
            await asyncio.to_thread(traces.close)

    app = FastAPI(
        title="Edge Classifier",
        version=__version__,
        summary="A photo in, its labels out.",
        lifespan=lifespan,
        # FastAPI's own pages load from a CDN, which a gateway does not reach; ours are in routes/{openapi,page}.py.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        servers=[{"url": settings.path_prefix}] if settings.path_prefix else None,
        # FastAPI can send traces, metrics and logs of its own, told by other variables; here CLASSIFIER_TRACES decides.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.trials = trials
    problems.register(app)
    ours = (
        predict.router,
        explain.router,
        health.router,
        models.router,
        model.router,
        admin.router,
        metrics.router,
        openapi.router,
    )
    dialects = (protocol_v2.DIALECT, deepstack.DIALECT, tensorflow_serving.DIALECT)
    for router in (*ours, protocol_v2.router, deepstack.router, tensorflow_serving.router):
        app.include_router(router)
    if settings.ui == "on":
        app.include_router(page.router)
    if keys is not None:
        access.describe(app.openapi(), dialects)
    # Around FastAPI's own middlewares, which a photo does not need.
    inner = _protected(predict.Express(app.build_middleware_stack()), settings, keys)
    observer = Observer(access.OneHost(inner), counted, security_headers(settings.hsts_seconds), dialects, traces)
    app.middleware_stack = Paths(observer, settings.path_prefix)
    return app


def _keys(settings: Settings) -> access.Keys | None:
    if settings.api_keys is None and settings.api_keys_file is None:
        return None
    given = None if settings.api_keys is None else settings.api_keys.get_secret_value()
    return access.Keys(given, settings.api_keys_file)


def _protected(app: ASGIApp, settings: Settings, keys: access.Keys | None) -> ASGIApp:
    """The application behind the middlewares that are configured, and behind none where none is."""
    if keys is not None or settings.allowed_hosts is not None:
        app = access.Access(app, keys, settings.allowed_hosts, metrics_without_key=settings.metrics_without_key)
    if settings.cors_origins is not None:
        from starlette.middleware.cors import CORSMiddleware

        # Outside, because a preflight has no key, and a page has to be able to read that its own was refused.
        app = CORSMiddleware(
            app,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("Authorization", "Content-Type", "X-API-Key", "X-Request-ID", "traceparent", "tracestate"),
            expose_headers=("Retry-After", "X-Request-ID"),
        )
    if settings.trusted_proxies is not None:
        from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

        # Outside: who asks is known before it is asked whether they may.
        app = ProxyHeadersMiddleware(app, _both_families(settings.trusted_proxies))  # type: ignore[assignment,arg-type]
    return app


def _both_families(networks: tuple[str, ...]) -> list[str]:
    """The networks, and for IPv4 ones how a socket that listens on IPv6 too names them (RFC 4291, 2.5.5.2)."""
    old = [network for network in map(ipaddress.ip_network, networks) if network.version == 4]
    return [*networks, *(f"::ffff:{network.network_address}/{96 + network.prefixlen}" for network in old)]


async def _settle_in(default: Served, loader: swap.Loader, source: swap.Source, updates: swap.Updates) -> None:
    """What photos need not wait for: until it is done, one that is alone uses one CPU, and no new model is noticed."""
    await asyncio.to_thread(loader.widen, default, source)
    await updates.watch()
    # At a terminal it means that the terminal is gone, and the service has to go too.
    if not sys.stdin or not sys.stdin.isatty():
        with contextlib.suppress(ValueError, RuntimeError, AttributeError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, updates.tell)
