import time

from app.inference.model import Model
from app.inference.speed import cpu_seconds


class Busy(Model):
    """A model that computes for some milliseconds more, and counts its calls."""

    calls = 0

    def __init__(self, path, ms):
        super().__init__(path)
        self.s = ms / 1e3

    def __call__(self, pixels):
        self.calls += 1
        ends = time.thread_time() + self.s
        while time.thread_time() < ends:
            pass
        return super().__call__(pixels)


def test_each_model_gets_its_own_time(tiny):
    slow, quick = Busy(tiny, 20), Busy(tiny, 2)
    times = cpu_seconds([slow, quick])
    assert times[0] >= 0.02
    assert times[1] >= 0.002
    assert slow.calls == quick.calls > 1


def test_a_slow_cpu_is_asked_once(tiny):
    slow = Busy(tiny, 20)
    cpu_seconds([slow, slow], within_s=0.03)
    assert slow.calls == 2
