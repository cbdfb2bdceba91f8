"""One client with many connections beside one with a single photo, over real sockets and behind a proxy."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.conftest import assert_problem, serving, wait_until, worker_held
from tests.internals import expect_jobs_to_take, service_of
from tests.photos import encode, solid

RED = encode(solid((240, 9, 9)), "JPEG")
GREEDY, POLITE = "the-greedy-clients-key", "the-polite-clients-key"


@pytest.mark.parametrize(
    ("settings", "greedy", "polite", "fair"),
    [
        ({"trusted_proxies": "127.0.0.1"}, {"X-Forwarded-For": "192.0.2.1"}, {"X-Forwarded-For": "192.0.2.2"}, True),
        ({"api_keys": f"{GREEDY},{POLITE}"}, {"X-API-Key": GREEDY}, {"X-API-Key": POLITE}, True),
        # Whatever a stranger writes there.
        ({}, {"X-Forwarded-For": "192.0.2.1"}, {"X-Forwarded-For": "192.0.2.2"}, False),
        ({"trusted_proxies": "127.0.0.2"}, {"X-Forwarded-For": "192.0.2.1"}, {"X-Forwarded-For": "192.0.2.2"}, False),
    ],
)
def test_a_polite_client_beside_a_greedy_one(tiny, settings, greedy, polite, fair):
    """The queue is full for who filled it, and has a place for another client; who cannot be told apart has none."""
    with (
        serving(tiny, workers=1, queue_budget_ms=10_000, **settings) as client,
        ThreadPoolExecutor(20) as pool,
        worker_held(client) as free,
    ):
        workers = service_of(client).workers
        # 0.9 of the budget is nine photos: the one in the worker and eight that wait.
        expect_jobs_to_take(workers, 1.0)

        def post(headers) -> httpx.Response:
            return httpx.post(f"{client.base_url}/predict", content=RED, headers=headers, timeout=30, verify=False)

        many = [pool.submit(post, greedy) for _ in range(12)]
        wait_until(lambda: workers.depth == 8 and sum(one.done() for one in many) == 4)
        for refused in [one.result() for one in many if one.done()]:
            assert "9 photos are ahead" in assert_problem(refused, 503, "overloaded")
        one = pool.submit(post, polite)
        wait_until(lambda: workers.depth == 9 or one.done())
        assert one.done() == (not fair)
        free.set()
        assert one.result().status_code == (200 if fair else 503)
        assert sorted(answer.result().status_code for answer in many) == [200] * 8 + [503] * 4
