"""When a state changes: frames in, events out."""

import pytest

from app.cameras.faults import FAULTS, Fault, one_line
from app.cameras.states import RegionState, Rules, Seen, State

UNKNOWN = Seen(unknown=True)


def fault(kind="unreachable"):
    return Seen(fault=Fault(kind, "x"))


def full(score=0.9):
    return Seen(label="full", score=score)


def empty(score=0.9):
    return Seen(label="empty", score=score)


def events(rules, seen, seconds=1.0):
    """The states that a row of frames leads to, with the number of the frame that did it."""
    region, found = RegionState(rules), []
    for number, one in enumerate(seen):
        if region.take(one, number * seconds):
            found.append((number, str(region.state)))
    return found


STRICT, LOOSE = Rules(3, 3), Rules(3, 5)
TABLE = [
    ("one frame is none", STRICT, [full()] * 2, []),
    ("three agree", STRICT, [full()] * 3, [(2, "full")]),
    ("it is told once", STRICT, [full()] * 50, [(2, "full")]),
    ("one odd frame in between starts anew", STRICT, [full(), full(), empty(), full(), full()], []),
    ("three of five", LOOSE, [full(), empty(), full(), empty(), full()], [(4, "full")]),
    ("what changed it does not count again", LOOSE, [full()] * 3 + [empty()] * 2, [(2, "full")]),
    ("a flicker is no change", LOOSE, [full()] * 3 + [empty(), full(), full()] * 5, [(2, "full")]),
    ("and back", LOOSE, [full()] * 3 + [empty()] * 3 + [full()] * 3, [(2, "full"), (5, "empty"), (8, "full")]),
    ("a low score is unknown", STRICT, [full(0.49)] * 3, [(2, "unknown")]),
    ("just enough", STRICT, [full(0.5)] * 3, [(2, "full")]),
    ("a state is kept by less", STRICT, [full()] * 3 + [full(0.41)] * 9, [(2, "full")]),
    ("but not by anything", STRICT, [full()] * 3 + [full(0.39)] * 3, [(2, "full"), (5, "unknown")]),
    ("another label needs more", STRICT, [full()] * 3 + [empty(0.41)] * 3, [(2, "full"), (5, "unknown")]),
    ("unknown is a state of its own", STRICT, [full()] * 3 + [UNKNOWN] * 3, [(2, "full"), (5, "unknown")]),
    ("a fault too", STRICT, [full()] * 3 + [fault()] * 3, [(2, "full"), (5, "unavailable")]),
    ("one lost frame is none", LOOSE, [full()] * 3 + [fault(), full(), full()] * 4, [(2, "full")]),
    (
        "another fault is another state",
        STRICT,
        [fault("flat")] * 3 + [fault()] * 3,
        [(2, "unavailable"), (5, "unavailable")],
    ),
    ("nothing known yet, and gone", STRICT, [fault()] * 3, [(2, "unavailable")]),
    (
        "the bin: empty, full, covered, gone, back",
        LOOSE,
        [empty()] * 9 + [full()] * 9 + [fault("flat")] * 9 + [fault()] * 9 + [full()] * 9,
        [(2, "empty"), (11, "full"), (20, "unavailable"), (29, "unavailable"), (38, "full")],
    ),
    ("a state is held", Rules(2, 2, hold_s=10), [full()] * 2 + [empty()] * 20, [(1, "full"), (11, "empty")]),
    (
        "what has passed meanwhile is not told",
        Rules(2, 2, hold_s=10),
        [full()] * 2 + [empty()] * 5 + [full()] * 9,
        [(1, "full")],
    ),
    (
        "a fault is not held back",
        Rules(2, 2, hold_s=99),
        [full()] * 2 + [fault()] * 2,
        [(1, "full"), (3, "unavailable")],
    ),
    (
        "nor is its end",
        Rules(2, 2, hold_s=99),
        [full()] * 2 + [fault()] * 2 + [empty()] * 2,
        [(1, "full"), (3, "unavailable"), (5, "empty")],
    ),
    (
        "one of one",
        Rules(1, 1),
        [full(), empty(), UNKNOWN, fault()],
        [(0, "full"), (1, "empty"), (2, "unknown"), (3, "unavailable")],
    ),
]


@pytest.mark.parametrize(("name", "rules", "seen", "expected"), TABLE, ids=[row[0] for row in TABLE])
def test_frames_and_events(name, rules, seen, expected):
    assert events(rules, seen) == expected


def test_labels_that_are_called_like_states():
    """A class may have any name."""
    region = RegionState(Rules(1, 1))
    for label in ("unknown", "unavailable", "None", ""):
        assert region.take(Seen(label=label, score=1.0), 0)
        assert region.state == State(label=label)
    assert region.take(UNKNOWN, 0)
    assert region.take(fault(), 0)


def test_what_others_say_is_one_short_printable_line():
    assert one_line("a\r\nb\x1b[31m\tc\0" + "x" * 10_000) == "a b [31m c " + "x" * 286 + "..."
    assert len(str(Fault("service", "y" * 9999))) < 400
    assert all(text and text[0].islower() for text in FAULTS.values())


def test_what_an_earlier_run_has_told_is_confirmed_and_no_event():
    region = RegionState(Rules(2, 3, hold_s=10), State(label="full"), since=-5.0)
    assert (str(region.state), region.confirmed) == ("full", False)
    assert not region.take(full(0.45), 0)
    assert not region.confirmed
    assert not region.take(full(0.45), 1)
    assert region.confirmed
    # It is held from when it was told, before the start.
    assert [region.take(empty(), at) for at in (2, 3, 4)] == [False] * 3
    assert region.take(empty(), 5.0)


def test_what_has_changed_meanwhile_is_an_event():
    region = RegionState(Rules(2, 3), State(label="full"))
    assert [region.take(empty(), at) for at in (1, 2)] == [False, True]
    assert region.confirmed
