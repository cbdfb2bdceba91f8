"""What a refusal says beside its text, and what is noted of a request whose client did not wait for its answer."""

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import errors
from app.http import problems
from app.telemetry.metrics import Metrics
from app.telemetry.middleware import TelemetryMiddleware
from app.telemetry.request_record import CLIENT_LEFT, RequestRecord


@pytest.mark.parametrize(
    ("wait_s", "header"), [(0.001, "1"), (0.5, "1"), (1.0, "1"), (1.001, "2"), (1.5, "2"), (2.0, "2"), (59.2, "60")]
)
def test_who_comes_when_told_does_not_come_too_early(wait_s, header):
    assert problems.headers_for(errors.Overloaded("full", wait_s)) == {"Retry-After": header}


@given(st.floats(min_value=1e-6, max_value=1e6))
def test_retry_after_is_a_whole_number_of_seconds_that_is_enough(wait_s):
    told = int(problems.headers_for(errors.Overloaded("full", wait_s))["Retry-After"])
    assert wait_s <= told < wait_s + 1
    assert told >= 1
    assert told == math.ceil(wait_s)


@pytest.mark.parametrize(
    ("sent", "noted"), [([], CLIENT_LEFT), ([200], 200), ([503], 503)], ids=["before", "in a 200", "in a 503"]
)
def test_a_client_that_leaves(sent, noted):
    """Before the answer has begun it is 499; what was answered stays what it was."""
    seen = []

    async def app(scope, receive, send):
        seen.append(RequestRecord.of(scope))
        for status in sent:
            await send({"type": "http.response.start", "status": status, "headers": []})
        raise asyncio.CancelledError

    async def send(message):
        pass

    metrics = Metrics([], [])
    metrics.watch(list, int, float, int, 0, int)
    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": []}
    asyncio.run(TelemetryMiddleware(app, metrics, (), problems.answer)(scope, None, send))
    assert seen[0].status == noted
    assert f'classifier_requests_total{{route="unmatched",status="{noted}"}} 1.0' in metrics.text().decode()
    assert "classifier_requests_in_flight 0.0" in metrics.text().decode()


@pytest.mark.parametrize(
    ("sent", "taken_over"),
    [
        (b"a", True),
        (b"a" * 128, True),
        (b"a" * 129, False),
        (b"", False),
        (b"a b", False),
        (b'"', False),
        (b"a\n", False),
        (b"\xc3\xa4", False),
        (b"A-Za-z0-9._:/+=-", True),
    ],
)
def test_the_request_ids_that_are_taken_over(sent, taken_over):
    observation = RequestRecord.begin({"headers": [(b"x-request-id", sent)]})
    assert (observation.request_id == sent.decode("latin-1")) == taken_over
    assert taken_over or len(observation.request_id) == 32
