"""What tests need of the service's private state: each attribute is named here, and nowhere else."""

import contextlib
import threading
from collections.abc import Iterator

import httpx
from fastapi import FastAPI
from starlette.types import ASGIApp

from app import main
from app.http.access import Keys
from app.http.body_reader import BodyReader
from app.http.service import Service
from app.inference.decode_budget import DecodeBudget
from app.registry.source import Source
from app.registry.trial import Trials
from app.registry.updates import ModelUpdater
from app.runtime.worker_pool import WorkerPool
from app.settings import Settings
from app.telemetry.logs import Background


def service_of(client: httpx.Client) -> Service:
    """What stands behind a client that ``serving`` has made."""
    return client.server.config.app.state.service


def expect_jobs_to_take(workers: WorkerPool, seconds: float) -> None:
    """As if so long had been measured; the next job that ends is averaged with it."""
    workers._service_s = seconds


def jobs_ended(workers: WorkerPool) -> int:
    """How many jobs have run to their end."""
    return workers._ended


def learn(workers: WorkerPool, seconds: float) -> None:
    """As if one more job had taken so long."""
    workers._learn(seconds)


def note_what_is_learnt(workers: WorkerPool, learnt: list[float]) -> None:
    """Puts how long each job took, in seconds, into a list instead of the average."""
    workers._learn = learnt.append


def threads_of(workers: WorkerPool) -> list[threading.Thread]:
    """The workers themselves."""
    return workers._threads


def left_behind(workers: WorkerPool) -> tuple[int, int, int]:
    """What the queue has: how many jobs by its count, how many clients with jobs, and how many tickets."""
    return workers._queue.length, len(workers._queue._jobs), workers._queue._tickets.qsize()


def shares(body_reader: BodyReader) -> dict[object, object]:
    """What is buffered of each client that has any of it."""
    return body_reader._shares


def reserved_bytes(decode_budget: DecodeBudget) -> int:
    """What is taken of it at this moment."""
    return decode_budget._used


def somebody_waits(decode_budget: DecodeBudget) -> bool:
    """Whether a photo that does not fit waits for the others."""
    return decode_budget._turn.locked()


def thread_of(handler: Background) -> threading.Thread:
    """What writes the lines."""
    return handler._thread


@contextlib.contextmanager
def crowded(client: httpx.Client, photos: int = 99) -> Iterator[None]:
    """As if so many photos of ten seconds each stood before the next one."""
    workers = service_of(client).workers
    expect_jobs_to_take(workers, 10.0)
    workers._pending += photos
    try:
        yield
    finally:
        workers._pending -= photos


def seen(keys: Keys) -> object:
    """What was known about the file of the keys when it was looked at last."""
    return keys._file._seen


def protected(app: ASGIApp, settings: Settings) -> ASGIApp:
    """An application behind the middlewares that these settings ask for."""
    return main._protected(app, settings, None)


def middlewares(app: FastAPI) -> list[ASGIApp]:
    """What a request passes before FastAPI has it, the outermost first."""
    passed, found = app.middleware_stack, []
    while hasattr(passed, "_app"):
        found.append(passed)
        passed = passed._app
    return found


def watches(updates: ModelUpdater) -> bool:
    """Whether changes of the source are noticed."""
    return updates._watch is not None


def looks(updates: ModelUpdater) -> bool:
    """Whether new files are looked for at this moment."""
    return updates._syncing.locked()


def works(updates: ModelUpdater) -> bool:
    """Whether there is anything that has been begun and is not done."""
    return bool(updates._tasks)


def is_asked(updates: ModelUpdater) -> bool:
    """Whether somebody waits for the look after the one that goes on."""
    return bool(updates._waiting)


def source_of(updates: ModelUpdater) -> Source:
    """Where it looks."""
    return updates._source


def forget_what_passed(source: Source) -> None:
    """Every file is tried again, also one whose bytes have been before."""
    source._passed.clear()


def training_process(client: httpx.Client) -> int | None:
    """The process id of what trains at this moment."""
    child = client.server.config.app.state.teaching.trainer._child
    return child and child.pid


def tries(trials: Trials) -> bool:
    """Whether a child process runs."""
    return bool(trials._running)


#: What starts the child process: ``Trials``' method, for a test to put another one into its place.
START_TRIAL = "_start"
