"""Minutes of a session that count: pure.

All moments are UTC instants. Two local times of one zone subtract as clocks on a wall do: on the
night when summer time ends, 00:30 to 03:30 in Los Angeles is four hours, and the clocks say three.

What a facilitator says and when somebody was there must agree: the status of who was there follows
from the times, within the grace of the program; where there are no times, the word is taken.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from app.domain.chart import Interval
from app.domain.days import DAY

# The status of who was there, by: late, left early
PRESENT: Mapping[tuple[bool, bool], str] = {
    (False, False): "attended",
    (True, False): "late",
    (False, True): "left-early",
    (True, True): "late-left-early",
}
ATTENDED = frozenset(PRESENT.values())
NO_SHOW = "no-show"
EXCUSED = "excused"
NOT_EXPECTED = "not-expected"

# Reasons that excuse without notice
EXCUSES = frozenset({"medical", "court", "bereavement", "religious"})

ABSENCES_IN_A_ROW = 3
SATURDAY = 5


@dataclass(frozen=True)
class Held:
    """A session as it was held: from when to when, its breaks, and its clinical minutes at most."""

    start: datetime
    end: datetime
    breaks: tuple[Interval, ...]
    scheduled: int

    @property
    def minutes(self) -> int:
        """Return its clinical minutes: those scheduled, or what is left of them."""
        return min(self.scheduled, length((self.start, self.end), self.breaks))

    def inside(self, presence: Iterable[Interval]) -> list[Interval]:
        """Return the union of the times somebody was there, no longer than the session."""
        cut = ((max(a, self.start), min(b, self.end)) for a, b in presence)
        return union(one for one in cut if one[0] < one[1])


def credited(presence: Iterable[Interval], held: Held) -> int:
    """Return the whole minutes of a session that somebody was there, breaks taken out.

    Seconds are added up before they are cut off, once. Never more than the clinical minutes.
    """
    return min(held.minutes, _minutes(_without(held.inside(presence), held.breaks)))


def length(period: Interval, breaks: Iterable[Interval]) -> int:
    """Return the whole minutes of a period, breaks taken out."""
    return _minutes(_without([period], breaks))


def status(presence: Iterable[Interval], held: Held, policy: Mapping[str, int]) -> str:
    """Return the status of who was there for some of a session; "" for nobody."""
    there = held.inside(presence)
    if not there:
        return ""
    late = there[0][0] > held.start + _grace(policy["start-grace-minutes"])
    early = there[-1][1] < held.end - _grace(policy["end-grace-minutes"])
    return PRESENT[late, early]


def counts_as_session(minutes: int, clinical: int, policy: Mapping[str, int]) -> bool:
    """Return whether credited minutes are enough of the clinical ones to count as a session."""
    return minutes >= -(-policy["session-credit-percent"] * clinical // 100)


def excused(
    notice: datetime | None, reasons: Iterable[str], start: datetime, policy: Mapping[str, int]
) -> bool:
    """Return whether an absence is excused: by early notice, or by one of the EXCUSES."""
    latest = start - timedelta(hours=policy["excuse-notice-hours"])
    return not EXCUSES.isdisjoint(reasons) or (notice is not None and notice <= latest)


def review_due(statuses: Sequence[str], policy: Mapping[str, int]) -> bool:
    """Return whether absences call for a review, by the statuses of 12 weeks in their order.

    That is the third no-show in a row, excused sessions left out, or too many unexcused ones.
    """
    expected = [one for one in statuses if one == NO_SHOW or one in ATTENDED]
    row = expected[-ABSENCES_IN_A_ROW:]
    in_a_row = row == [NO_SHOW] * ABSENCES_IN_A_ROW
    return in_a_row or expected.count(NO_SHOW) > policy["absences-for-review"]


def next_business_day(day: date) -> date:
    """Return the first day after a day that is neither Saturday nor Sunday."""
    after = day + DAY
    while after.weekday() >= SATURDAY:
        after += DAY
    return after


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """Return intervals in their order, those that overlap or touch as one."""
    found: list[Interval] = []
    for start, end in sorted(intervals):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _without(intervals: Iterable[Interval], breaks: Iterable[Interval]) -> list[Interval]:
    """Return what is left of intervals that do not overlap."""
    left = list(intervals)
    for start, end in breaks:
        cut = [((a, min(b, start)), (max(a, end), b)) for a, b in left]
        left = [one for pair in cut for one in pair if one[0] < one[1]]
    return left


def _minutes(intervals: Iterable[Interval]) -> int:
    return sum((end - start for start, end in intervals), timedelta()) // timedelta(minutes=1)


def _grace(minutes: int) -> timedelta:
    return timedelta(minutes=minutes)
