"""Where the work is done: as many threads as there are CPUs, which the clients that have work for them share fairly.

Knows nothing of HTTP, images or models. The event loop hands in a callable and awaits its result; whether that is
possible in time is decided before any work starts. Jobs wait in a queue for each client, and the workers take one from
each in turn (fair queueing: Nagle, RFC 970), so that nobody waits longer for another's 200 photos than for one.
"""

import asyncio
import contextlib
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from queue import Empty, SimpleQueue
from time import perf_counter
from typing import Any, Final, TypeVar

from ..errors import Draining, Overloaded

T = TypeVar("T")

#: Weight of the newest service time in its moving average: about the last 40 jobs count.
_SMOOTHING: Final = 0.05
#: A job counts in that average as this many average ones at most, so that a single one, however long, raises it by
#: 15 %. It still follows what changes for good: after 25 jobs that take ten times as long as those before, it is at 7.1
#: times the value before, instead of at 7.5.
_OUTLIER: Final = 4.0
#: The estimate is a mean, and half of all waits are longer than their mean; under overload every admitted job waits as
#: long as is allowed.
_MARGIN: Final = 0.9
#: A job that has waited for this many budgets is refused after all. The estimate knows who waits now; it knows neither
#: the clients that come later and take their turns nor a picture that takes unusually long.
_PATIENCE: Final = 5.0


class _Job:
    __slots__ = ("client", "future", "loop", "queued_at", "settled", "started", "work")

    def __init__(self, work: Callable[[], Any], client: Hashable, loop: asyncio.AbstractEventLoop) -> None:
        self.work = work
        self.client = client
        self.loop = loop
        self.future: asyncio.Future[tuple[Any, float]] = loop.create_future()
        self.queued_at = perf_counter()
        self.started = False
        self.settled = False


class _Queue:
    """Jobs in a queue for each client that has any; the only thing that the event loop and the workers share."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # The client whose turn it is stands first.
        self._jobs: OrderedDict[Hashable, deque[_Job]] = OrderedDict()
        # What the workers sleep on: a ticket for each job, and one more for each worker when it shall end.
        self._tickets: SimpleQueue[None] = SimpleQueue()
        self._closed = False
        self.length = 0

    def put(self, job: _Job) -> None:
        with self._lock:
            self._jobs.setdefault(job.client, deque()).append(job)
            self.length += 1
        self._tickets.put(None)

    def get(self) -> _Job | None:
        """Waits for the job whose turn it is, and starts it; None once there will be none any more."""
        while True:
            self._tickets.get()
            with self._lock:
                if self._jobs:
                    client, jobs = next(iter(self._jobs.items()))
                    job = jobs.popleft()
                    job.started = True
                    self.length -= 1
                    if jobs:
                        self._jobs.move_to_end(client)
                    else:
                        del self._jobs[client]
                    return job
                if self._closed:
                    return None

    def remove(self, job: _Job) -> bool:
        """Takes a job out that no worker has started yet; says whether that was so."""
        with self._lock:
            if job.started:
                return False
            jobs = self._jobs[job.client]
            jobs.remove(job)
            if not jobs:
                del self._jobs[job.client]
            self.length -= 1
        # Its ticket may be in a worker's hand already; the worker then finds nothing, and goes on waiting.
        with contextlib.suppress(Empty):
            self._tickets.get_nowait()
        return True

    def ahead_of(self, client: Hashable) -> int:
        """How many of the waiting jobs would be started before another one of ``client``."""
        with self._lock:
            turns = len(self._jobs.get(client, ())) + 1
            return sum(min(len(jobs), turns) for jobs in self._jobs.values())

    def close(self, workers: int) -> None:
        with self._lock:
            self._closed = True
        for _ in range(workers):
            self._tickets.put(None)


class WorkerPool:
    """A fixed number of worker threads behind a queue that is only as long as its budget of time allows."""

    def __init__(self, count: int, budget_s: float) -> None:
        """Starts the threads.

        Args:
            count: how many jobs run at once.
            budget_s: a job that would not be answered within this many seconds is refused; the estimate is the
                number of jobs ahead of it times the measured service time, shared by the workers.
        """
        self.count = count
        self._budget_s = budget_s
        self._queue = _Queue()
        self._pending = 0
        self._ended = 0
        self._service_s = 0.0
        self._draining = False
        self._empty = asyncio.Event()
        self._threads = [threading.Thread(target=self._run, name=f"worker-{i}", daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()

    @property
    def depth(self) -> int:
        """Jobs that wait for a worker."""
        return max(0, self._pending - self.count)

    @property
    def exclusive(self) -> bool:
        """Whether there is one job at most; for that job to ask when it starts."""
        return self._pending <= 1

    @property
    def idle(self) -> bool:
        """Whether there is no job at all."""
        return self._pending == 0

    @property
    def draining(self) -> bool:
        """Whether no new jobs are taken any more."""
        return self._draining

    @property
    def alive(self) -> bool:
        """Whether every worker still runs."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def service_s(self) -> float:
        """Moving average of how long a job runs, in seconds; 0 before the first one has ended."""
        return self._service_s

    async def submit(self, work: Callable[[], T], client: Hashable = None) -> tuple[T, float]:
        """Runs ``work`` in a worker.

        A caller that is cancelled while its job waits gives its place back at once, and the job is never run.

        Args:
            work: what to run.
            client: for whom; clients take turns. None: the service itself.

        Returns:
            What ``work`` returned, and the seconds that it waited for a worker.

        Raises:
            Overloaded: it could not be answered within the budget, or was not begun within five.
            Draining: the workers are shutting down.
            Exception: whatever ``work`` raised.
        """
        self.admit(client)
        loop = asyncio.get_running_loop()
        job = _Job(work, client, loop)
        self._pending += 1
        self._empty.clear()
        self._queue.put(job)
        patience = loop.call_later(_PATIENCE * self._budget_s, self._give_up, job)
        try:
            return await job.future
        except asyncio.CancelledError:
            if self._queue.remove(job):
                self._settle(job)
            raise
        finally:
            patience.cancel()
            # An error's traceback leads here; with the job, and so its future, that is a cycle, which keeps the photo.
            del job

    def admit(self, client: Hashable = None) -> None:
        """Raises what ``submit`` would refuse a job with now: worth asking before a job is even read.

        Raises:
            Overloaded: it could not be answered within the budget.
            Draining: the workers are shutting down.
        """
        if self._draining:
            raise Draining("The service is shutting down. Try again in a moment.")
        limit_s = self._budget_s * _MARGIN
        if self._pending < self.count or self._expected_s(self._pending) <= limit_s:
            return
        # All together are too many; not all of them are before this client's turn.
        ahead = self._pending - self._queue.length + self._queue.ahead_of(client)
        expected_s = self._expected_s(ahead)
        if expected_s > limit_s:
            raise Overloaded(
                f"{ahead} photos are ahead of this one; it would take about {expected_s * 1000:.0f} ms, and "
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
        self._queue.close(self.count)
        return self._pending == 0

    def _expected_s(self, ahead: int) -> float:
        """Seconds until a job is done that has so many before it."""
        return (ahead + 1) * self._service_s / self.count

    def _settle(self, job: _Job) -> None:
        """Counts a job out, once."""
        if not job.settled:
            job.settled = True
            self._pending -= 1
            if self._pending == 0:
                self._empty.set()

    def _give_up(self, job: _Job) -> None:
        """Refuses a job that has waited for too long."""
        if self._queue.remove(job):
            self._settle(job)
            if not job.future.done():
                job.future.set_exception(
                    Overloaded(
                        f"No worker was free for this photo within {_PATIENCE * self._budget_s:g} s. Try again later, "
                        "or send fewer at a time.",
                        retry_after_s=self._budget_s,
                    )
                )

    def _learn(self, service_s: float) -> None:
        """Adds to the average: of all jobs while they are few, so that the first one, the golden photo, soon fades."""
        self._ended += 1
        if self._service_s:
            service_s = min(service_s, _OUTLIER * self._service_s)
        self._service_s += (service_s - self._service_s) * max(_SMOOTHING, 1 / self._ended)

    def _finish(self, job: _Job, started_at: float, service_s: float, value: Any, error: BaseException | None) -> None:
        """On the event loop: hands a job's outcome to whoever awaits it."""
        self._learn(service_s)
        self._settle(job)
        if job.future.done():
            return
        if error is None:
            job.future.set_result((value, started_at - job.queued_at))
        else:
            job.future.set_exception(error)

    def _run(self) -> None:
        """A worker: takes jobs until it is told to stop. Nothing that a job raises ends it."""
        free_since = perf_counter()
        while (job := self._queue.get()) is not None:
            started_at = perf_counter()
            value, error = None, None
            try:
                value = job.work()
            except BaseException as caught:  # noqa: BLE001 - handed to the caller, whatever it is
                error = caught
            # What a job takes from its worker, the hand-over included: from when it could have run to its end.
            ended_at = perf_counter()
            service_s = ended_at - max(job.queued_at, free_since)
            free_since = ended_at
            # The loop may be closed by a shutdown that did not wait.
            with contextlib.suppress(RuntimeError):
                job.loop.call_soon_threadsafe(self._finish, job, started_at, service_s, value, error)
            # A worker that waits for its next job must not keep the last one's photo.
            del job, value, error
