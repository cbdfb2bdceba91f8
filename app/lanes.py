"""Where the work is done: as many threads as there are CPUs, fed by one queue.

Knows nothing of HTTP, images or models. The event loop hands in a callable and awaits its result; whether that is
possible in time is decided before any work starts. All bookkeeping happens on the event loop, so it needs no locks.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Hashable
from queue import SimpleQueue
from time import perf_counter
from typing import Any, Final, TypeVar

from app.errors import Draining, Overloaded

T = TypeVar("T")

#: Weight of the newest service time in its moving average: about the last 40 jobs count.
_SMOOTHING: Final = 0.05
#: The estimate is a mean, and half of all waits are longer than their mean; under overload every admitted job waits as
#: long as is allowed.
_MARGIN: Final = 0.9


class _Job:
    __slots__ = ("future", "loop", "queued_at", "settled", "started_at", "work")

    def __init__(self, work: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> None:
        self.work = work
        self.loop = loop
        self.future: asyncio.Future[tuple[Any, float]] = loop.create_future()
        self.queued_at = perf_counter()
        self.started_at: float | None = None
        self.settled = False


class Lanes:
    """A fixed number of worker threads behind a queue that is only as long as its budget of time allows."""

    def __init__(self, count: int, budget_s: float) -> None:
        """Starts the threads.

        Args:
            count: how many jobs run at once.
            budget_s: a job that would not be answered within this many seconds is refused; the estimate is the
                number of jobs ahead of it times the measured service time, shared by the lanes.
        """
        self.count = count
        self._budget_s = budget_s
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._pending = 0
        self._service_s = 0.0
        self._draining = False
        self._empty = asyncio.Event()
        self._threads = [threading.Thread(target=self._run, name=f"lane-{i}", daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()

    @property
    def depth(self) -> int:
        """Jobs that wait for a lane."""
        return max(0, self._pending - self.count)

    @property
    def alone(self) -> bool:
        """Whether there is one job at most; for that job to ask when it starts."""
        return self._pending <= 1

    @property
    def draining(self) -> bool:
        """Whether no new jobs are taken any more."""
        return self._draining

    @property
    def alive(self) -> bool:
        """Whether every lane still runs."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def service_s(self) -> float:
        """Moving average of how long a job runs, in seconds; 0 before the first one has ended."""
        return self._service_s

    async def submit(self, work: Callable[[], T], client: Hashable = None) -> tuple[T, float]:
        """Runs ``work`` in a lane.

        A caller that is cancelled while its job waits gives its place back at once, and the job is never run.

        Returns:
            What ``work`` returned, and the seconds that it waited for a lane.

        Raises:
            Overloaded: it could not be answered within the budget.
            Draining: the lanes are shutting down.
            Exception: whatever ``work`` raised.
        """
        self.admit(client)
        job = _Job(work, asyncio.get_running_loop())
        self._pending += 1
        self._empty.clear()
        self._queue.put(job)
        try:
            return await job.future
        except asyncio.CancelledError:
            if job.started_at is None:
                self._settle(job)
            raise
        finally:
            # An error's traceback leads here; with the job, and so its future, that is a cycle, which keeps the photo.
            del job

    def admit(self, client: Hashable = None) -> None:
        """Raises what ``submit`` would refuse a job with now: worth asking before a job is even read.

        Raises:
            Overloaded: it could not be answered within the budget.
            Draining: the lanes are shutting down.
        """
        if self._draining:
            raise Draining("The service is shutting down. Try again in a moment.")
        expected_s = (self._pending + 1) * self._service_s / self.count
        limit_s = self._budget_s * _MARGIN
        if self._pending >= self.count and expected_s > limit_s:
            raise Overloaded(
                f"{self._pending} photos are ahead of this one; it would take about {expected_s * 1000:.0f} ms, and "
                f"the budget is {self._budget_s * 1000:.0f} ms. Try again later, or send fewer at a time.",
                retry_after_s=expected_s - limit_s,
            )

    async def drain(self, timeout_s: float) -> bool:
        """Takes no new jobs, waits for the ones that were taken, then ends the threads.

        Returns:
            Whether everything was done within ``timeout_s`` seconds.
        """
        self._draining = True
        if self._pending:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), timeout_s)
        for _ in self._threads:
            self._queue.put(None)
        return self._pending == 0

    def _settle(self, job: _Job) -> None:
        """Counts a job out, once."""
        if not job.settled:
            job.settled = True
            self._pending -= 1
            if self._pending == 0:
                self._empty.set()

    def _finish(self, job: _Job, started_at: float, service_s: float, value: Any, error: BaseException | None) -> None:
        """On the event loop: hands a job's outcome to whoever awaits it."""
        self._service_s += (service_s - self._service_s) * (_SMOOTHING if self._service_s else 1.0)
        self._settle(job)
        if job.future.done():
            return
        if error is None:
            job.future.set_result((value, started_at - job.queued_at))
        else:
            job.future.set_exception(error)

    def _run(self) -> None:
        """A lane: takes jobs until it is told to stop. Nothing that a job raises ends it."""
        free_since = perf_counter()
        while (job := self._queue.get()) is not None:
            if job.future.cancelled():
                continue
            job.started_at = started_at = perf_counter()
            value, error = None, None
            try:
                value = job.work()
            except BaseException as caught:  # noqa: BLE001 - handed to the caller, whatever it is
                error = caught
            # What a job takes from its lane, the hand-over included: from when it could have run to its end.
            ended_at = perf_counter()
            service_s = ended_at - max(job.queued_at, free_since)
            free_since = ended_at
            # The loop may be closed by a shutdown that did not wait.
            with contextlib.suppress(RuntimeError):
                job.loop.call_soon_threadsafe(self._finish, job, started_at, service_s, value, error)
            # A lane that waits for its next job must not keep the last one's photo.
            del job, value, error
