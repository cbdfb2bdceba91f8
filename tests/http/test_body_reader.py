"""Who may hold how many bytes: limits to the byte, and shares between clients; bodies that come when they are told."""

import asyncio
import contextlib

import pytest
from starlette.requests import Request

from app.errors import BodyTimeout, BodyTooLarge, ClientDisconnected, Overloaded
from app.http.body_reader import BodyReader
from app.http.limits import Limits
from tests.internals import shares


def limits(**changes) -> Limits:
    return Limits(
        **{
            "body_bytes": 400,
            "body_timeout_s": 30,
            "buffered_bytes": 400,
            "decode_bytes": 1,
            "batch_images": 1,
        }
        | changes
    )


class Body:
    """A body that arrives piece by piece; ``end`` is its last one."""

    def __init__(self, body_reader: BodyReader, client: str, announced: int | None = None) -> None:
        head = [] if announced is None else [(b"content-length", b"%d" % announced)]
        self._pieces: asyncio.Queue = asyncio.Queue()
        self._over = asyncio.Event()
        scope = {"type": "http", "headers": head, "client": (client, 1)}
        self._task = asyncio.create_task(self._hold(body_reader.read(Request(scope, self._pieces.get))))

    async def _hold(self, held) -> int:
        async with held as body:
            await self._over.wait()
            return len(body.data)

    async def send(self, size: int, end: bool = False) -> None:
        """More of it; returns when it was read. Raises what its reader raised."""
        self._pieces.put_nowait({"type": "http.request", "body": b"x" * size, "more_body": not end})
        await self.read()

    async def leave(self) -> None:
        self._pieces.put_nowait({"type": "http.disconnect"})
        await self.read()

    async def read(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        if self._task.done():
            await self._task

    async def done(self) -> int:
        """It is worked on and answered; its size."""
        self._over.set()
        return await self._task


def run(main):
    return asyncio.run(asyncio.wait_for(main, 30))


def test_one_client_leaves_a_quarter_for_others():
    async def main():
        body_reader = BodyReader(limits())
        first, second = Body(body_reader, "a"), Body(body_reader, "a")
        await first.send(200)
        await second.send(100)
        with pytest.raises(Overloaded, match="301 bytes of your photos") as refused:
            await second.send(1)
        assert refused.value.retry_after_s == 1.0
        assert body_reader.buffered_bytes == 200, "what is refused is not buffered"
        other = Body(body_reader, "b")
        await other.send(200, end=True)
        assert await other.done() == 200
        await first.send(0, end=True)
        assert await first.done() == 200
        assert body_reader.buffered_bytes == 0
        assert not shares(body_reader)

    run(main())


def test_one_body_may_be_as_large_as_all():
    async def main():
        body_reader = BodyReader(limits())
        exclusive = Body(body_reader, "a")
        await exclusive.send(400, end=True)
        with pytest.raises(Overloaded, match=r"^The service holds 401 bytes of photos already"):
            await Body(body_reader, "b").send(1)
        assert await exclusive.done() == 400
        assert body_reader.buffered_bytes == 0

    run(main())


@pytest.mark.parametrize("greedy", [1, 2, 5, 20])
def test_whoever_takes_all_that_they_get_leave_room_for_a_photo(greedy):
    """Each greedy client sends from 30 connections, as much as it gets; one that comes then has its place."""

    async def main():
        body_reader = BodyReader(limits(buffered_bytes=64_000, body_bytes=10_000))
        held = []
        for _ in range(30):
            for client in range(greedy):
                body = Body(body_reader, f"greedy {client}")
                with contextlib.suppress(Overloaded):
                    for _ in range(10):
                        await body.send(100)
                    held.append(body)
        free = 64_000 - body_reader.buffered_bytes
        assert free > 500
        polite = Body(body_reader, "polite")
        await polite.send(min(free, 900), end=True)
        assert await polite.done() > 0
        for body in held:
            await body.send(0, end=True)
            assert await body.done() == 1000
        assert body_reader.buffered_bytes == 0
        assert not shares(body_reader)

    run(main())


@pytest.mark.parametrize("announced", [None, 400, 401])
def test_a_body_of_just_the_most_bytes(announced):
    async def main():
        body_reader = BodyReader(limits(buffered_bytes=10_000))
        body = Body(body_reader, "a", announced)
        if announced == 401:
            with pytest.raises(BodyTooLarge):
                await body.read()
        else:
            await body.send(400)
            await body.send(0, end=True)
            assert await body.done() == 400
            body = Body(body_reader, "a")
            await body.send(400)
            with pytest.raises(BodyTooLarge):
                await body.send(1)
        assert body_reader.buffered_bytes == 0
        assert not shares(body_reader)

    run(main())


def test_whatever_ends_a_body_gives_its_bytes_back():
    async def main():
        body_reader = BodyReader(limits())
        body = Body(body_reader, "a")
        await body.send(10)
        with pytest.raises(ClientDisconnected):
            await body.leave()
        assert (body_reader.buffered_bytes, shares(body_reader)) == (0, {})
        body = Body(body_reader, "a")
        await body.send(10)
        body._task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await body.read()
        assert (body_reader.buffered_bytes, shares(body_reader)) == (0, {})
        body = Body(body_reader, "a")
        await body.send(10, end=True)
        body._task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await body.read()
        assert (body_reader.buffered_bytes, shares(body_reader)) == (0, {})
        body = Body(BodyReader(limits(body_timeout_s=0.001)), "a")
        with pytest.raises(BodyTimeout, match=r"within 0\.001 s"):
            await body._task

    run(main())
