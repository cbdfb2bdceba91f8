"""When what a region shows has changed: N of the last M frames agree, scores have hysteresis, states a hold time."""

from collections import Counter, deque
from dataclasses import dataclass

from .faults import Fault


@dataclass(frozen=True, slots=True)
class Seen:
    """What one frame says about a region: the best label with its score, that it is unknown, or a fault.

    Exactly one of ``label``, ``unknown`` and ``fault`` is set.
    """

    label: str | None = None
    score: float | None = None
    unknown: bool = False
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class State:
    """What a region shows: a label, ``unknown``, or that it is unavailable by the kind of a fault."""

    label: str | None = None
    unknown: bool = False
    fault: str | None = None

    def __str__(self) -> str:
        """As it is told."""
        return self.label if self.label is not None else "unknown" if self.unknown else "unavailable"


@dataclass(frozen=True, slots=True)
class Rules:
    """When a region's state changes.

    Attributes:
        agree: so many frames have to say the same,
        of: among so many.
        min_score: a label with less counts as unknown,
        keep_score: unless it is the state already and has this much.
        hold_s: seconds that a label or unknown stays at least; a fault is told at once, and so is its end.
    """

    agree: int = 3
    of: int = 5
    min_score: float = 0.5
    keep_score: float = 0.4
    hold_s: float = 0.0


class RegionState:
    """What is known about one region."""

    def __init__(self, rules: Rules, state: State | None = None, since: float = 0.0) -> None:
        """Nothing is known yet, or what an earlier run has told.

        Args:
            rules: when it changes.
            state: what was told last.
            since: when that was, by the clock that ``take`` is told.
        """
        self._rules = rules
        self._votes: deque[State] = deque(maxlen=rules.of)
        self.state = state
        self._since = since
        #: Whether so many frames as it takes have said so since the start.
        self.confirmed = False

    def take(self, seen: Seen, now: float) -> bool:
        """Counts a frame.

        Args:
            seen: what it says.
            now: seconds of a clock that never jumps.

        Returns:
            Whether the state has changed by it. The frames that have changed it do not count for the next change.
        """
        vote = self._vote(seen)
        self._votes.append(vote)
        if Counter(self._votes)[vote] < self._rules.agree:
            return False
        if vote == self.state:
            self.confirmed = True
            return False
        held = self.state is not None and self.state.fault is None and vote.fault is None
        if held and now - self._since < self._rules.hold_s:
            return False
        self.state = vote
        self._since = now
        self.confirmed = True
        self._votes.clear()
        return True

    def _vote(self, seen: Seen) -> State:
        if seen.fault is not None:
            return State(fault=seen.fault.kind)
        if seen.label is not None and seen.score is not None:
            kept = self.state is not None and self.state.label == seen.label
            if seen.score >= (self._rules.keep_score if kept else self._rules.min_score):
                return State(label=seen.label)
        return State(unknown=True)
