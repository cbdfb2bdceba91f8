"""The composition root: builds the service from all rooms, and knows how settings become their arguments.

``uvicorn app.main:app`` serves the application that the environment configures. Importing this reads no environment:
``app`` is made when somebody asks for it.
"""

import asyncio
import contextlib
import ipaddress
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final

from fastapi import FastAPI
from starlette.types import ASGIApp

from . import __version__
from .errors import ModelError, SettingsError
from .http import access, problems
from .http.body_reader import BodyReader
from .http.encodings import bound_numbers
from .http.headers import security_headers
from .http.limits import Limits
from .http.paths import Paths
from .http.protocols import (
    codeproject_ai,
    custom_vision,
    deepstack,
    edge_impulse,
    open_inference,
    tensorflow_serving,
)
from .http.routes import admin, explain, health, metrics, model, models, openapi, page, predict
from .http.server import Server
from .http.service import Service
from .inference.classifier import Classifier
from .inference.decode_budget import DecodeBudget
from .inference.frame_cache import FrameCache
from .inference.model_file import public_key
from .inference.shadow import Shadow
from .registry import loader as loading
from .registry.loader import Loader
from .registry.repository import LoadedModel, Repository
from .registry.source import Source
from .registry.trial import Trials
from .registry.updates import OUTCOMES, ModelUpdater
from .runtime.cpus import Cpus, usable_cpus
from .runtime.kernels import int8_kernels
from .runtime.memory import free_bytes, tune_malloc
from .runtime.worker_pool import WorkerPool
from .settings import Settings, deprecated
from .telemetry import logs
from .telemetry.metrics import Metrics
from .telemetry.middleware import TelemetryMiddleware, write_refusal

if TYPE_CHECKING:
    from .teaching.teaching import Teaching

log = logging.getLogger(__name__)


#: Bytes of request bodies; more would only wait longer than ``queue_budget_ms`` on any machine of this size.
_MOST_BUFFERED: Final = 64_000_000
#: Bytes for decoding, so that no sender of pictures takes all there is: a 50-megapixel PNG, or what a 12-megapixel WebP
#: takes, which is the most for each pixel.
_MOST_DECODING: Final = 256 << 20
#: And in any case: a Full HD PNG, which takes 4 a pixel.
_LEAST_DECODING: Final = 8_400_000
#: Bytes for decoding a photo once more, for a shadow whose input differs.
_SHADOW_DECODING: Final = 16 << 20


def __getattr__(name: str) -> FastAPI:
    """Makes ``app`` (PEP 562)."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    settings = Settings()
    if settings.tls_certificate:
        raise SettingsError(
            "CLASSIFIER_TLS_CERTIFICATE: uvicorn does not read it. Start the service with 'python -m "
            f"{__package__}', or give uvicorn --ssl-certfile and --ssl-keyfile instead."
        )
    logs.configure(settings.log_level)
    bound_numbers()
    for line in deprecated():
        log.warning(line)
    return create_app(settings)


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
        from .runtime.systemd import Manager

        systemd = Manager(settings.notify_socket, settings.watchdog_usec, lambda: app.state.service.workers.alive)

    def arrive() -> None:
        if systemd is not None:
            systemd.listening()
        on_listening()

    def leave() -> None:
        app.state.service.leaving = True
        app.state.service.updates.stop()
        if systemd is not None:
            systemd.leaving()

    def refuse(kind: problems.ProblemType, request_id: str) -> None:
        app.state.service.metrics.count_refusal(kind.slug, kind.status)
        write_refusal(kind.slug, kind.status, request_id)

    tls = None
    if settings.tls_certificate and settings.tls_key:
        from .http.tls import context

        tls = context(settings.tls_certificate, settings.tls_key)
    return Server(
        app,
        settings.host,
        settings.port,
        tls=tls,
        headers=security_headers(settings.hsts_seconds),
        header_timeout_s=settings.header_timeout_seconds,
        send_timeout_s=settings.send_timeout_seconds,
        drain_s=settings.drain_seconds,
        on_listening=arrive,
        on_drain=leave,
        on_stop=app.state.trials.close,
        on_refusal=refuse,
    )


def create_app(settings: Settings) -> FastAPI:
    """Builds the application; its model is loaded and checked when it starts up.

    Starting up raises ModelError where there is no model that classifies its golden photo correctly.

    Raises:
        SettingsError: the API keys or the models' public key cannot be used, or traces are on and cannot be made.
    """
    known = (*problems.PROBLEM_TYPES.values(), problems.INTERNAL, *problems.BELOW)
    counted = Metrics((kind.slug for kind in known), OUTCOMES, settings.watched_cameras or ())
    keys = _keys(settings)
    _check_public_key(settings)
    trials = Trials(settings.max_pixels)
    teaching = None if settings.teach is None else _teaching(settings.teach, settings)
    traces = None
    if settings.traces == "on":
        try:
            from .telemetry.traces import Traces
        except ImportError as error:
            raise SettingsError(f"CLASSIFIER_TRACES: on, but {error}; pip install '.[traces]'") from error
        traces = Traces(access.is_probe)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        cpus = planned_cpus(settings)
        # In a thread: a start-up that is interrupted can still be.
        source = await asyncio.to_thread(model_source, settings, trials)
        if teaching is not None:
            teaching.configured = None if source.folder else source.configured_file()
        decode_budget = DecodeBudget(settings.max_pixels)
        served, left_out = await asyncio.to_thread(
            loading.start,
            source,
            settings.precision,
            settings.default_model,
            settings.max_models,
            decode_budget,
            settings.cache_folder(),
        )
        shadow_model = await asyncio.to_thread(_shadow_model, settings, trials) if settings.shadow else None
        free = free_bytes()
        tune_malloc(free)
        limits = request_limits(settings, free)
        decode_budget.memory = limits.decode_bytes
        repository = Repository(served[0], served[1:])
        classifier = repository.default.classifier
        workers = WorkerPool(cpus.count, settings.queue_budget_ms / 1e3)
        # Through a worker, as every photo goes. This also gives the queue its first service time.
        await workers.submit(classifier.check_golden)
        shadow = None
        if shadow_model is not None:
            await workers.submit(shadow_model.check_golden)
            shadow = Shadow(
                shadow_model,
                settings.shadow_share,
                lambda: workers.idle,
                counted.count_shadow,
                counted.count_shadow_dropped,
            )
            counted.name_shadow(shadow.contract.name, shadow.contract.version)
        body_reader = BodyReader(limits)
        frame_cache = FrameCache(settings.cache_seconds, settings.cache_difference)
        loader = Loader(decode_budget, cpus.count, settings.queue_budget_ms / 1e3, settings.max_slowdown)
        updates = ModelUpdater(repository, source, loader, settings.max_models, counted.count_swap)
        for path, error in left_out:
            updates.note_refused(path, error)
        counted.watch(
            repository.identities,
            lambda: workers.depth,
            lambda: workers.service_s,
            lambda: body_reader.buffered_bytes,
            limits.buffered_bytes,
            logs.dropped,
        )
        app.state.service = Service(
            repository, updates, workers, body_reader, frame_cache, limits, cpus, counted, monotonic(), keys, shadow
        )
        if teaching is not None:
            app.state.service.lately = teaching.lately
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
                    "shadow": shadow and f"{shadow.contract.name} {shadow.contract.version}",
                    "workers": cpus.count,
                    "workers_reason": cpus.reason,
                    "kernels": str(int8_kernels()),
                    "buffered_bytes": limits.buffered_bytes,
                    "decode_bytes": limits.decode_bytes,
                }
            },
        )
        background = asyncio.create_task(_settle_in(repository.default, loader, source, updates))
        yield
        updates.stop()
        if teaching is not None:
            await asyncio.to_thread(teaching.close)
        await background
        await updates.close()
        if shadow is not None:
            await asyncio.to_thread(shadow.close)
        # The server has waited for every request; a job that still runs has lost its client.
        await workers.drain(settings.drain_seconds)
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
    # Edge Impulse's /api/image would be Custom Vision's /{project}/image.
    protocols = (open_inference, deepstack, codeproject_ai, tensorflow_serving, edge_impulse, custom_vision)
    error_formats = tuple(protocol.ERROR_FORMAT for protocol in protocols)
    problems.register(app, error_formats)
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
    if teaching is not None:
        # Not imported where nobody teaches.
        from .http.routes import teach

        app.state.teaching = teaching
        app.state.hosts_are_listed = settings.allowed_hosts is not None
        app.include_router(teach.router)
        if settings.ui == "on":
            app.include_router(teach.page_router)
    for router in (*ours, *(protocol.router for protocol in protocols)):
        app.include_router(router)
    if settings.ui == "on":
        app.include_router(page.router)
    if keys is not None:
        access.describe(app.openapi(), error_formats)
    # Around FastAPI's own middlewares, which a photo does not need.
    inner = _protected(predict.PredictFastPath(app.build_middleware_stack()), settings, keys)
    observer = TelemetryMiddleware(
        access.OneHost(inner), counted, security_headers(settings.hsts_seconds), problems.answer, traces
    )
    app.middleware_stack = Paths(observer, settings.path_prefix)
    return app


def request_limits(settings: Settings, free: int | None) -> Limits:
    """What requests may ask for.

    Args:
        settings: what is configured.
        free: bytes of memory that may still be taken; None: nobody knows.
    """
    # What remains of it is for what grows under load: threads, buffers, the allocator's gaps, a second model.
    buffered = settings.max_buffered_bytes or (
        _MOST_BUFFERED if free is None else min(_MOST_BUFFERED, max(0, free) // 4)
    )
    decoding = _MOST_DECODING if free is None else min(_MOST_DECODING, max(_LEAST_DECODING, free // 2))
    return Limits(
        body_bytes=min(settings.max_body_bytes, buffered),
        body_timeout_s=settings.body_timeout_seconds,
        buffered_bytes=buffered,
        decode_bytes=settings.max_decode_bytes or decoding,
        batch_images=settings.max_batch_images,
    )


def model_source(settings: Settings, trials: Trials) -> Source:
    """Where models come from, at the start and later.

    Args:
        settings: what is configured.
        trials: what tries a file before it is loaded.

    Raises:
        ModelError: there is no file in the precision that is asked for, or the public key cannot be used.
    """
    verify = public_key(settings.model_public_key) if settings.model_public_key else None
    source = Source.configured(settings.model, settings.precision, verify, trials, settings.max_model_bytes)
    if settings.teach is not None and settings.teach.is_dir():
        from .teaching.runs import Runs

        source.prefer(Runs(settings.teach).served_file)
    return source


def _teaching(folder: Path, settings: Settings) -> "Teaching":
    """What is taught in a folder.

    Raises:
        SettingsError: the folder cannot be used.
    """
    from .teaching.teaching import Teaching

    try:
        return Teaching(folder, settings.teach_max_mb * 1_000_000, settings.teach_days * 86_400, settings.teach_lately)
    except OSError as error:
        raise SettingsError(
            f"CLASSIFIER_TEACH: {folder} cannot be written to: {error.strerror}. Make it the service's own, or mount a "
            "volume there."
        ) from error


def _shadow_model(settings: Settings, trials: Trials) -> Classifier:
    """The model that is compared with the default one, loaded; blocks.

    Raises:
        ModelError: it cannot be used.
    """
    verify = public_key(settings.model_public_key) if settings.model_public_key else None
    source = Source.configured(settings.shadow, None, verify, trials, settings.max_model_bytes)
    # Of its own: what the shadow decodes takes no photo's turn.
    budget = DecodeBudget(settings.max_pixels, _SHADOW_DECODING)
    try:
        served, _ = loading.start(source, None, None, 1, budget)
    except ModelError as error:
        raise ModelError(f"CLASSIFIER_SHADOW: {error}") from error
    return served[0].classifier


def planned_cpus(settings: Settings) -> Cpus:
    """How many workers to run, and why so many."""
    return Cpus(settings.workers, f"CLASSIFIER_WORKERS={settings.workers}") if settings.workers else usable_cpus()


def _check_public_key(settings: Settings) -> None:
    """Says at once what is wrong with it, as of every setting."""
    try:
        if settings.model_public_key:
            public_key(settings.model_public_key)
    except ModelError as error:
        raise SettingsError(str(error)) from error


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


async def _settle_in(default: LoadedModel, loader: Loader, source: Source, updates: ModelUpdater) -> None:
    """What photos need not wait for: until it is done, one that is alone uses one CPU, and no new model is noticed."""
    await asyncio.to_thread(loader.load_multithreaded, default, source)
    await updates.watch()
    # At a terminal it means that the terminal is gone, and the service has to go too.
    if not sys.stdin or not sys.stdin.isatty():
        with contextlib.suppress(ValueError, RuntimeError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, updates.request_reload)
