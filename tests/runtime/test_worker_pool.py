"""WorkerPool with jobs that events hold and release: no clock, no sleep."""

import asyncio
import gc
import random
import threading
import weakref

import pytest

from app.errors import Draining, Overloaded
from app.runtime.worker_pool import WorkerPool
from tests.internals import expect_jobs_to_take, learn, left_behind, note_what_is_learnt, threads_of


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
        workers = WorkerPool(2, 60)
        assert (await workers.submit(lambda: 7))[0] == 7
        with pytest.raises(ZeroDivisionError):
            await workers.submit(lambda: 1 / 0)
        with pytest.raises(SystemExit):
            await workers.submit(lambda: (_ for _ in ()).throw(SystemExit))
        assert (await workers.submit(lambda: 8))[0] == 8
        assert workers.alive
        assert workers.depth == 0
        assert workers.service_s > 0
        assert await workers.drain(10)

    run(main())


def test_answers_are_never_mixed_up():
    async def main():
        workers = WorkerPool(4, 60)
        found = await asyncio.gather(*(workers.submit(lambda i=i: i) for i in range(500)))
        assert [value for value, _ in found] == list(range(500))
        await workers.drain(10)

    run(main())


def test_a_full_queue_refuses_before_working():
    async def main():
        workers = WorkerPool(1, budget_s=2.5)
        expect_jobs_to_take(workers, 1.0)
        gates = [Gate(i) for i in range(2)]
        tasks = [asyncio.create_task(workers.submit(gate)) for gate in gates]
        await started(gates[0])
        assert workers.depth == 1
        worked = []
        with pytest.raises(Overloaded, match="2 photos are ahead") as refused:
            await workers.submit(lambda: worked.append(1))
        assert refused.value.retry_after_s == pytest.approx(0.75)
        for gate in gates:
            gate.release.set()
        assert [value for value, _ in await asyncio.gather(*tasks)] == [0, 1]
        assert not worked
        await workers.drain(10)

    run(main())


def test_a_free_worker_never_refuses():
    async def main():
        workers = WorkerPool(2, budget_s=0.001)
        expect_jobs_to_take(workers, 100.0)
        gate = Gate()
        task = asyncio.create_task(workers.submit(gate))
        await started(gate)
        assert (await workers.submit(lambda: "in time"))[0] == "in time"
        gate.release.set()
        await task
        await workers.drain(10)

    run(main())


def test_who_leaves_frees_the_place_and_is_not_worked_for():
    async def main():
        workers = WorkerPool(1, budget_s=60)
        gate, worked = Gate(), []
        running = asyncio.create_task(workers.submit(gate))
        await started(gate)
        waiting = asyncio.create_task(workers.submit(lambda: worked.append(1)))
        await asyncio.sleep(0)
        assert workers.depth == 1
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert workers.depth == 0
        gate.release.set()
        await running
        await workers.submit(lambda: None)
        assert not worked
        assert await workers.drain(10)

    run(main())


def test_draining_answers_what_was_accepted_and_refuses_the_rest():
    async def main():
        workers = WorkerPool(1, budget_s=60)
        gate = Gate("answered")
        running = asyncio.create_task(workers.submit(gate))
        waiting = asyncio.create_task(workers.submit(lambda: "too"))
        await started(gate)
        draining = asyncio.create_task(workers.drain(10))
        await asyncio.sleep(0)
        assert workers.draining
        with pytest.raises(Draining):
            await workers.submit(lambda: None)
        gate.release.set()
        assert await draining
        assert (await running)[0] == "answered"
        assert (await waiting)[0] == "too"
        for thread in threads_of(workers):
            thread.join(10)
        assert not workers.alive

    run(main())


def test_a_drain_that_takes_too_long_says_so():
    async def main():
        workers = WorkerPool(1, budget_s=60)
        gate = Gate()
        running = asyncio.create_task(workers.submit(gate))
        await started(gate)
        assert not await workers.drain(0)
        gate.release.set()
        await running

    run(main())


def test_a_job_that_fails_is_not_kept():
    """Neither by its error, whose traceback leads to it, nor by a worker that waits: a photo is too much to keep."""

    class Photo:
        pass

    kept = []

    async def main():
        workers = WorkerPool(1, 10)

        def work(photo):
            raise ValueError(photo)

        for _ in range(3):
            photo = Photo()
            kept.append(weakref.ref(photo))
            with pytest.raises(ValueError, match="Photo"):
                await workers.submit(lambda photo=photo: work(photo))
            del photo
        await workers.submit(lambda: None)
        await workers.drain(1)

    gc.collect()
    gc.disable()
    try:
        asyncio.run(main())
        assert [ref() for ref in kept] == [None] * 3
    finally:
        gc.enable()


async def waiting_behind(gate, workers, *clients, log=None):
    """Lets the gate's job take the only worker, then one job a name wait; each notes its name when it runs."""
    running = asyncio.create_task(workers.submit(gate, "gate"))
    await started(gate)
    log = [] if log is None else log
    tasks = [asyncio.create_task(workers.submit(lambda name=name: log.append(name), name[0])) for name in clients]
    await asyncio.sleep(0)
    return running, tasks


@pytest.mark.parametrize(
    ("arrived", "worked"),
    [
        ("a1 a2 a3", "a1 a2 a3"),
        ("a1 a2 a3 b1", "a1 b1 a2 a3"),
        ("a1 a2 a3 a4 b1 b2 c1", "a1 b1 c1 a2 b2 a3 a4"),
        ("b1 a1 b2 c1 a2 c2", "b1 a1 c1 b2 a2 c2"),
    ],
)
def test_clients_take_turns(arrived, worked):
    async def main():
        workers, gate, log = WorkerPool(1, 60), Gate(), []
        running, tasks = await waiting_behind(gate, workers, *arrived.split(), log=log)
        gate.release.set()
        await asyncio.gather(running, *tasks)
        assert log == worked.split()
        await workers.drain(10)

    run(main())


def test_who_comes_again_waits_for_one_job_of_each_other():
    """A client with one photo at a time beside one with many: each of its photos is next but one."""

    async def main():
        workers, gate, log = WorkerPool(1, 60), Gate(), []
        running, tasks = await waiting_behind(gate, workers, *(f"a{i}" for i in range(20)), log=log)
        polite = asyncio.create_task(workers.submit(lambda: log.append("b0"), "b"))
        await asyncio.sleep(0)
        gate.release.set()
        for i in range(1, 4):
            await polite
            between = Gate()
            tasks.append(asyncio.create_task(workers.submit(between, "a")))
            polite = asyncio.create_task(workers.submit(lambda i=i: log.append(f"b{i}"), "b"))
            between.release.set()
        await asyncio.gather(running, polite, *tasks)
        assert log[:2] == ["a0", "b0"]
        await workers.drain(10)

    run(main())


def test_a_full_queue_is_full_for_who_filled_it():
    """Each count is of what stands before one more job of that client under turns, and of what runs."""

    async def main():
        workers, gate = WorkerPool(1, budget_s=10), Gate()
        expect_jobs_to_take(workers, 1.0)
        # 0.9 of the budget is 9 s: with the one that runs and itself, seven may be ahead.
        running, tasks = await waiting_behind(gate, workers, *"aaaaaaa")
        tasks.append(asyncio.create_task(workers.submit(lambda: None, "a")))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match=r"^9 photos are ahead .* 10000 ms") as refused:
            workers.admit("a")
        assert refused.value.retry_after_s == pytest.approx(1.0)
        for _ in range(4):
            tasks.append(asyncio.create_task(workers.submit(lambda: None, "b")))
            await asyncio.sleep(0)
        with pytest.raises(Overloaded, match=r"^10 photos are ahead"):
            workers.admit("b")
        # Its turns come between the other's: one runs, four are its own, five of eight come before its fifth.
        assert workers.depth == 12
        workers.admit("c")
        gate.release.set()
        await asyncio.gather(running, *tasks)
        await workers.drain(10)

    run(main())


def test_just_in_time_is_in_time():
    async def main():
        workers, gate = WorkerPool(1, budget_s=10), Gate()
        expect_jobs_to_take(workers, 4.5)
        running, _ = await waiting_behind(gate, workers)
        workers.admit("a")
        expect_jobs_to_take(workers, 4.6)
        with pytest.raises(Overloaded, match=r"^1 photos"):
            workers.admit("a")
        gate.release.set()
        await running
        await workers.drain(10)

    run(main())


@pytest.mark.parametrize("others", [0, 1, 5])
def test_one_client_is_refused_as_a_plain_queue_would(others):
    """What other clients have waiting counts in full where it all comes before: a job each."""

    async def main():
        workers, gate = WorkerPool(1, budget_s=10), Gate()
        running, tasks = await waiting_behind(gate, workers, *"bcdefg"[:others])
        while len(tasks) < 8:
            tasks.append(asyncio.create_task(workers.submit(lambda: None, "a")))
            await asyncio.sleep(0)
        expect_jobs_to_take(workers, 1.0)
        with pytest.raises(Overloaded, match=r"^9 photos"):
            workers.admit("a")
        gate.release.set()
        await asyncio.gather(running, *tasks)
        await workers.drain(10)

    run(main())


def test_who_has_waited_too_long_is_refused_and_not_worked_for():
    async def main():
        workers, gate, worked = WorkerPool(1, budget_s=0.001), Gate("done"), []
        running, _ = await waiting_behind(gate, workers)
        with pytest.raises(Overloaded, match=r"within 0\.005 s") as refused:
            await workers.submit(lambda: worked.append(1), "a")
        assert refused.value.retry_after_s == 0.001
        assert workers.depth == 0
        gate.release.set()
        assert (await running)[0] == "done", "what runs is not broken off"
        await workers.submit(lambda: None)
        assert not worked
        assert await workers.drain(10)

    run(main())


@pytest.mark.parametrize("how", ["left", "refused"])
def test_the_photo_of_who_does_not_wait_any_more_is_not_kept(how):
    class Photo:
        pass

    async def main():
        workers, gate, photo = WorkerPool(1, budget_s=60 if how == "left" else 0.001), Gate(), Photo()
        running, _ = await waiting_behind(gate, workers)
        kept = weakref.ref(photo)
        waiting = asyncio.create_task(workers.submit(lambda photo=photo: photo, "a"))
        await asyncio.sleep(0)
        del photo
        assert kept() is not None
        if how == "left":
            waiting.cancel()
        with pytest.raises(asyncio.CancelledError if how == "left" else Overloaded):
            await waiting
        del waiting
        await asyncio.sleep(0)
        assert kept() is None, "it is gone while the worker is still held"
        gate.release.set()
        await running
        await workers.drain(10)

    gc.collect()
    gc.disable()
    try:
        run(main())
    finally:
        gc.enable()


def test_no_single_job_ruins_the_estimate():
    async def main():
        workers = WorkerPool(1, 60)
        for _ in range(40):
            learn(workers, 0.01)
        learn(workers, 60.0)
        assert workers.service_s == pytest.approx(0.0115)
        expect_jobs_to_take(workers, 0.01)
        for _ in range(25):
            learn(workers, 0.1)
        assert workers.service_s == pytest.approx(0.071, rel=0.01), "what becomes the rule is followed"
        for _ in range(100):
            learn(workers, 0.01)
        assert workers.service_s < 0.011
        await workers.drain(1)

    run(main())


def test_the_first_jobs_count_alike():
    """The golden photo, which is small and the first one through the model, is not half of the estimate for long."""

    async def main():
        workers = WorkerPool(1, 60)
        for service_s in (0.04, 0.01, 0.01, 0.02):
            learn(workers, service_s)
        assert workers.service_s == pytest.approx(0.02)
        await workers.drain(1)

    run(main())


def test_nothing_is_lost_while_clients_come_and_leave():
    """Jobs of some clients, many cancelled at any moment: every other one is answered, and the workers end."""

    async def main():
        chance = random.Random(4)
        workers = WorkerPool(3, 60)
        for _ in range(20):
            gates = [Gate() for _ in range(3)]
            held = [asyncio.create_task(workers.submit(gate)) for gate in gates]
            tasks = [asyncio.create_task(workers.submit(lambda i=i: i, chance.randrange(4))) for i in range(60)]
            for gate in gates[: chance.randrange(4)]:
                gate.release.set()
            leaving = set(chance.sample(range(60), 30))
            for i in leaving:
                for _ in range(chance.randrange(3)):
                    await asyncio.sleep(0)
                tasks[i].cancel()
            for gate in gates:
                gate.release.set()
            found = await asyncio.gather(*tasks, return_exceptions=True)
            for i, outcome in enumerate(found):
                assert (i in leaving and isinstance(outcome, asyncio.CancelledError)) or outcome[0] == i
            await asyncio.gather(*held)
        assert await workers.drain(10)
        assert left_behind(workers)[:2] == (0, 0)
        for thread in threads_of(workers):
            await asyncio.to_thread(thread.join, 10)
        assert not workers.alive
        assert left_behind(workers) == (0, 0, 0)

    run(main())


def test_who_comes_and_leaves_while_the_workers_are_held_leaves_nothing():
    async def main():
        workers, gate = WorkerPool(1, 60), Gate()
        running, _ = await waiting_behind(gate, workers)
        for _ in range(50):
            waiting = asyncio.create_task(workers.submit(lambda: None, "a"))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        assert left_behind(workers) == (0, 0, 0)
        gate.release.set()
        await running
        await workers.drain(10)

    run(main())


@pytest.mark.parametrize(("count", "most"), [(1, 8), (2, 17), (4, 35)])
def test_workers_share_the_time_ahead(count, most):
    """In 9 s, a second each: what runs and what waits together."""

    async def main():
        workers, gate = WorkerPool(count, budget_s=10), Gate()
        tasks = [asyncio.create_task(workers.submit(gate, "a")) for _ in range(most)]
        await asyncio.sleep(0)
        expect_jobs_to_take(workers, 1.0)
        workers.admit("a")
        expect_jobs_to_take(workers, 0.0)
        tasks.append(asyncio.create_task(workers.submit(gate, "a")))
        await asyncio.sleep(0)
        expect_jobs_to_take(workers, 1.0)
        with pytest.raises(Overloaded):
            workers.admit("a")
        gate.release.set()
        await asyncio.gather(*tasks)
        await workers.drain(10)

    run(main())


def test_a_job_learns_whether_it_is_exclusive():
    async def main():
        workers, gate = WorkerPool(2, 60), Gate()
        assert (await workers.submit(lambda: workers.exclusive))[0]
        running = asyncio.create_task(workers.submit(gate))
        await started(gate)
        assert not (await workers.submit(lambda: workers.exclusive))[0]
        gate.release.set()
        await running
        await workers.drain(10)

    run(main())


def test_a_jobs_time_is_what_its_worker_spent_on_it(monkeypatch):
    """Not what it waited for, nor what the worker had nothing to do before; by a clock that only this test moves."""
    now = 0.0
    monkeypatch.setattr("app.runtime.worker_pool.perf_counter", lambda: now)

    async def main():
        nonlocal now
        workers, gates, learnt = WorkerPool(1, 60), [Gate() for _ in range(3)], []
        note_what_is_learnt(workers, learnt)
        now = 3.0
        first = asyncio.create_task(workers.submit(gates[0]))
        await started(gates[0])
        now = 5.0
        second = asyncio.create_task(workers.submit(gates[1]))
        await asyncio.sleep(0)
        now = 7.0
        gates[0].release.set()
        assert (await first)[1] == 0.0
        await started(gates[1])
        now = 9.0
        gates[1].release.set()
        assert (await second)[1] == 2.0
        now = 20.0
        third = asyncio.create_task(workers.submit(gates[2]))
        await started(gates[2])
        now = 21.0
        gates[2].release.set()
        assert (await third)[1] == 0.0
        assert learnt == [4.0, 2.0, 1.0]
        await workers.drain(10)

    run(main())


def test_a_worker_that_waits_keeps_no_photo():
    class Photo:
        pass

    async def main():
        workers, photo = WorkerPool(1, 60), Photo()
        kept = weakref.ref(photo)
        await workers.submit(lambda photo=photo: id(photo))
        del photo
        # The worker lets go of it after its result is there.
        for _ in range(10_000):
            if kept() is None:
                break
            await asyncio.sleep(0.001)
        assert kept() is None
        await workers.drain(10)

    run(main())


def test_a_drain_waits_for_the_last_one():
    async def main():
        workers, gates = WorkerPool(2, 60), [Gate(), Gate()]
        tasks = [asyncio.create_task(workers.submit(gate)) for gate in gates]
        for gate in gates:
            await started(gate)
        draining = asyncio.create_task(workers.drain(10))
        gates[0].release.set()
        await tasks[0]
        for _ in range(5):
            await asyncio.sleep(0)
        assert not draining.done()
        gates[1].release.set()
        assert await draining
        await tasks[1]

    run(main())
