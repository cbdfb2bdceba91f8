"""An answer that comes too late is none."""

import asyncio
import time

import pytest

from app.cameras import config
from app.cameras.camera import Asker
from app.cameras.faults import Fault
from app.cameras.sources import Frame
from app.client import Region


@pytest.mark.parametrize("age_s", [0.0, 99.0])
def test_an_answer_that_comes_too_late_is_none(age_s):
    """Also where the event loop had no time to notice."""

    async def ask():
        asker = Asker(config.Service())

        async def predict(*_arguments, **_options):
            time.sleep(0.02)  # noqa: ASYNC251 - that is the point
            return ["an answer"]

        asker.client.predict_regions = predict
        frame = Frame(b"", time.monotonic() - age_s)
        assert await asker.ask(frame, "yard", [Region()], 100.0) == ["an answer"]
        with pytest.raises(Fault, match=r"no answer before the frame was 0\.01 s old") as caught:
            await asker.ask(frame, "yard", [Region()], 0.01)
        await asker.client.close()
        return caught.value.kind

    assert asyncio.run(ask()) == "service"
