"""What the comparison of servers makes of its rounds."""

from bench import sent
from bench.sent import BARS, CACHED, OURS, Bar, reached, report, since

STAGES = {"read": 1.0, "queue": 2.0, "decode": 4.0, "infer": 5.0, "write": 0.5}
INSIDE = {"decode_ms": 3.0, "resize_ms": 1.0, "infer_ms": 4.0, "rank_ms": 1.0}


def rounds(*rates, **more):
    return {"one": [{"rps": rate, "errors": 0.0} | more for rate in rates]}


FOUND = {
    OURS: rounds(100.0, 300.0, 90.0, **STAGES),
    CACHED: rounds(200.0, 200.0, 200.0),
    # In a slow second round, too, ours is twice as quick.
    "tutorial, def": rounds(50.0, 150.0, 45.0),
    "tutorial, async": rounds(25.0, 75.0, 20.0),
    "ceiling": rounds(110.0, 310.0, 100.0, **INSIDE),
}


def test_ratios_are_taken_within_a_round_and_to_the_quickest_of_a_kind():
    assert reached(FOUND, Bar("one", "tutorial", 2.0)) == 2.0
    assert reached(FOUND, Bar("one", "LitServe", 2.0)) is None


def test_the_report():
    text = report(FOUND, (Bar("one", "tutorial", 2.0), Bar("one", "ceiling", 0.95)))
    assert "| tutorial, def | 50 (2.00) |" in text
    # A quarter of decoding is the resize, a fifth of inference the ranking.
    assert "| one | 1.00 | 2.00 | 3.00 | 1.00 | 4.00 | 1.00 | 0.50 |" in text
    assert "- one: 2.00 x tutorial; the bar is 2.00: reached" in text
    assert "- one: 0.91 x ceiling; the bar is 0.95: NOT reached" in text
    assert "no bar" in report(FOUND, ())
    assert {bar.least for bar in BARS[True]} == {2.5, 2.0, 5.0, 8.0, 0.9}


def test_stages_between_two_readings():
    before = dict.fromkeys((*sent.STAGES, "request", "count"), 1.0)
    after = {"read": 1.1, "queue": 1.2, "decode": 1.3, "infer": 1.2, "request": 2.0, "count": 101.0}
    found = {stage: round(ms, 6) for stage, ms in since(before, after).items()}
    assert found == {"read": 1, "queue": 2, "decode": 3, "infer": 2, "request": 10, "write": 2}
