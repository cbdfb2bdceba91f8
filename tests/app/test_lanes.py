"""Lanes with jobs that events hold and release: no clock, no sleep."""

import asyncio
import gc
import threading
import weakref

import pytest

from app.errors import Draining, Overloaded
from app.lanes import Lanes


class Gate:
    """A job that says when it runs and ends when it is told to."""

    def __init__(self, value=None):
        self.started, self.release, self.value = threading.Event(), threading.Event(), value

    def __call__(self):
        self.started.set()
        assert self.release.wait(10)
        return self.value


async def started(gate: Gate):
    await asyncio.to_thread(gate.started.wait, 10)


def run(main):
    return asyncio.run(asyncio.wait_for(main, 30))


def test_results_and_errors_come_back():
    async def main():
        lanes = Lanes(2, 60)
        assert (await lanes.submit(lambda: 7))[0] == 7
        with pytest.raises(ZeroDivisionError):
            await lanes.submit(lambda: 1 / 0)
        with pytest.raises(SystemExit):
            await lanes.submit(lambda: (_ for _ in ()).throw(SystemExit))
        assert (await lanes.submit(lambda: 8))[0] == 8
        assert lanes.alive
        assert lanes.depth == 0
        assert lanes.service_s > 0
        assert await lanes.drain(10)

    run(main())


def test_answers_are_never_mixed_up():
    async def main():
        lanes = Lanes(4, 60)
        found = await asyncio.gather(*(lanes.submit(lambda i=i: i) for i in range(500)))
        assert [value for value, _ in found] == list(range(500))
        await lanes.drain(10)

    run(main())


def test_a_full_queue_refuses_before_working():
    async def main():
        lanes = Lanes(1, budget_s=2.5)
        lanes._service_s = 1.0
        gates = [Gate(i) for i in range(2)]
        tasks = [asyncio.create_task(lanes.submit(gate)) for gate in gates]
        await started(gates[0])
        assert lanes.depth == 1
        worked = []
        with pytest.raises(Overloaded, match="2 photos are ahead") as refused:
            await lanes.submit(lambda: worked.append(1))
        assert refused.value.retry_after_s == pytest.approx(0.75)
        for gate in gates:
            gate.release.set()
        assert [value for value, _ in await asyncio.gather(*tasks)] == [0, 1]
        assert not worked
        await lanes.drain(10)

    run(main())


def test_a_free_lane_never_refuses():
    async def main():
        lanes = Lanes(2, budget_s=0.001)
        lanes._service_s = 100.0
        gate = Gate()
        task = asyncio.create_task(lanes.submit(gate))
        await started(gate)
        assert (await lanes.submit(lambda: "in time"))[0] == "in time"
        gate.release.set()
        await task
        await lanes.drain(10)

    run(main())


def test_who_leaves_frees_the_place_and_is_not_worked_for():
    async def main():
        lanes = Lanes(1, budget_s=60)
        gate, worked = Gate(), []
        running = asyncio.create_task(lanes.submit(gate))
        await started(gate)
        waiting = asyncio.create_task(lanes.submit(lambda: worked.append(1)))
        await asyncio.sleep(0)
        assert lanes.depth == 1
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert lanes.depth == 0
        gate.release.set()
        await running
        await lanes.submit(lambda: None)
        assert not worked
        assert await lanes.drain(10)

    run(main())


def test_draining_answers_what_was_accepted_and_refuses_the_rest():
    async def main():
        lanes = Lanes(1, budget_s=60)
        gate = Gate("answered")
        running = asyncio.create_task(lanes.submit(gate))
        waiting = asyncio.create_task(lanes.submit(lambda: "too"))
        await started(gate)
        draining = asyncio.create_task(lanes.drain(10))
        await asyncio.sleep(0)
        assert lanes.draining
        with pytest.raises(Draining):
            await lanes.submit(lambda: None)
        gate.release.set()
        assert await draining
        assert (await running)[0] == "answered"
        assert (await waiting)[0] == "too"
        for thread in lanes._threads:
            thread.join(10)
        assert not lanes.alive

    run(main())


def test_a_drain_that_takes_too_long_says_so():
    async def main():
        lanes = Lanes(1, budget_s=60)
        gate = Gate()
        running = asyncio.create_task(lanes.submit(gate))
        await started(gate)
        assert not await lanes.drain(0)
        gate.release.set()
        await running

    run(main())


def test_a_job_that_fails_is_not_kept():
    """Neither by its error, whose traceback leads to it, nor by a lane that waits: a photo is too much to keep."""

    class Photo:
        pass

    kept = []

    async def main():
        lanes = Lanes(1, 10)

        def work(photo):
            raise ValueError(photo)

        for _ in range(3):
            photo = Photo()
            kept.append(weakref.ref(photo))
            with pytest.raises(ValueError, match="Photo"):
                await lanes.submit(lambda photo=photo: work(photo))
            del photo
        await lanes.submit(lambda: None)
        await lanes.drain(1)

    gc.collect()
    gc.disable()
    try:
        asyncio.run(main())
        assert [ref() for ref in kept] == [None] * 3
    finally:
        gc.enable()
