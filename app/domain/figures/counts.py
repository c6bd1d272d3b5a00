"""The census: who is in a program on a day, counted over many days at once. Pure.

An episode is made into spans of days (`Stay`), half-open: the day of admission counts, that of
discharge does not. A count over a range is a sum of differences, so that it costs the episodes once
and the days once.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from itertools import accumulate

from app.domain.chart import Episode, Program
from app.domain.days import local_days
from app.domain.figures.hours import rounded

Days = tuple[date, date | None]  # from the first to the first that is no more of it; None: no end
Flow = tuple[str, date]
ADMITTED = ("active", "onhold", "finished")
SMALL = 10  # the largest cell that could point to a person


@dataclass(frozen=True)
class Stay:
    """The days of one episode in one program; what it was on which of them.

    `inside` are the days in the program, at `levels` as (code, days); `held` those on hold. `flows`
    are what changed its number: (`admissions`, day) and so on.
    """

    episode: str
    patient: str
    inside: tuple[Days, ...]
    held: tuple[Days, ...]
    waiting: tuple[Days, ...]
    levels: tuple[tuple[str, Days], ...]
    flows: tuple[Flow, ...]

    def active(self, within: Iterable[Days]) -> Iterator[Days]:
        """Yield the days of `within` on which it is in the program and not on hold."""
        for span in common(self.inside, within):
            yield from less(span, self.held)


@dataclass(frozen=True)
class Cell:
    """What a count is broken down by: how many are active with one code."""

    code: str
    count: int | None


# What changes the number of those inside, and all counts of a day
FLOWS = ("admissions", "discharges", "transitions-in", "transitions-out")
COUNTS = ("active", "onhold", "waitlist", *FLOWS)


@dataclass(frozen=True)
class Census:
    """The counts of one day by their names; None for one that is kept back."""

    day: date
    counts: Mapping[str, int | None]
    by: tuple[Cell, ...] = ()

    @property
    def active(self) -> int | None:
        """Return how many are active."""
        return self.counts["active"]


def stay(episode: Episode, program: Program) -> Stay:
    """Return the days of an episode in a program.

    A level period says in which program it was spent; one that says nothing is of the program of
    the episode, as is an episode without level periods.
    """
    zone, here = program.zone, program.reference
    start, end = local_days((episode.start, episode.end), zone)
    waits = tuple(whole(wait) for one in episode.waits if (wait := local_days(one, zone)))
    waiting = waits if episode.program == here and episode.status != "entered-in-error" else ()
    if start is None or episode.status not in ADMITTED:
        return Stay(episode.reference, episode.patient, (), (), waiting, (), ())
    spells: list[tuple[str, Days]] = []
    for level in episode.levels:
        first, last = local_days((level.start, level.end), zone)
        if (level.program or episode.program) == here and first is not None:
            days = max(first, start), earlier(last, end)
            if days[1] is None or days[0] <= days[1]:
                spells.append((level.level, days))
    if not episode.levels and episode.program == here:
        spells.append((program.level, (start, end)))
    inside = joined(days for _, days in spells)
    return Stay(
        episode=episode.reference,
        patient=episode.patient,
        inside=inside,
        held=tuple(whole(local_days(hold, zone)) for hold in episode.holds),
        waiting=waiting,
        levels=tuple(spells),
        flows=tuple(flows(inside, (start, end))),
    )


def flows(inside: Iterable[Days], episode: Days) -> Iterator[Flow]:
    """Yield how an episode came into a program and left it."""
    for first, last in inside:
        yield ("admissions" if first == episode[0] else "transitions-in"), first
        if last is not None:
            yield ("discharges" if last == episode[1] else "transitions-out"), last


def census(
    stays: Sequence[Stay],
    first: date,
    last: date,
    labels: Callable[[Stay], Iterable[tuple[str, Days]]] | None = None,
) -> list[Census]:
    """Return the counts of each day from `first` to `last`, both included.

    `labels` gives the codes of a stay with their days, and what is active is broken down by them;
    the codes are the same ones on every day.
    """
    span = Span(first, (last - first).days + 1)
    always: Days = (date.min, None)
    counts = {
        "active": span.counts(days for one in stays for days in one.active([always])),
        "onhold": span.counts(d for one in stays for d in common(one.inside, one.held)),
        "waitlist": span.counts(days for one in stays for days in one.waiting),
        **{name: span.events(stays, name) for name in FLOWS},
    }
    cells: dict[str, list[Days]] = {}
    for one in stays if labels else ():
        for code, days in labels(one) if labels else ():
            cells.setdefault(code, []).extend(one.active([days]))
    by = {code: span.counts(days) for code, days in sorted(cells.items())}
    by = {code: counts for code, counts in by.items() if any(counts)}
    return [
        Census(
            first + timedelta(days=n),
            {name: counts[name][n] for name in COUNTS},
            tuple(Cell(code, numbers[n]) for code, numbers in by.items()),
        )
        for n in range(span.length)
    ]


@dataclass(frozen=True)
class Span:
    """So many days from a first one on."""

    first: date
    length: int

    def counts(self, some: Iterable[Days]) -> list[int]:
        """Return on each day how many of some spans cover it."""
        changes = [0] * (self.length + 1)
        for start, end in some:
            a = self.place(start)
            b = self.length if end is None else self.place(end)
            if a < b:
                changes[a] += 1
                changes[b] -= 1
        return list(accumulate(changes[:-1]))

    def events(self, stays: Iterable[Stay], name: str) -> list[int]:
        """Return on each day how many events of a name there were."""
        found = [0] * self.length
        for one in stays:
            for what, day in one.flows:
                if what == name and 0 <= (n := (day - self.first).days) < self.length:
                    found[n] += 1
        return found

    def place(self, day: date) -> int:
        """Return the place of a day; that of the nearest one for a day outside."""
        return min(max((day - self.first).days, 0), self.length)


def average(counted: Sequence[Census]) -> Decimal | None:
    """Return the average daily census with two decimals, None where a day is kept back."""
    active = [one.active for one in counted]
    if not active or None in active:
        return None
    return rounded(sum(n for n in active if n is not None), len(active), "0.01")


# --- spans of days -----------------------------------------------------------------------------


def whole(days: tuple[date | None, date | None]) -> Days:
    """Return a span that has a beginning."""
    return days[0] or date.min, days[1]


def earlier(one: date | None, other: date | None) -> date | None:
    """Return the earlier of two ends."""
    return min(one, other) if one and other else one or other


def joined(some: Iterable[Days]) -> tuple[Days, ...]:
    """Return spans with those that follow each other made one; empty ones alone stay."""
    found: list[Days] = []
    for start, end in sorted(some, key=lambda days: days[0]):
        if found and found[-1][1] == start:
            found[-1] = found[-1][0], end
        else:
            found.append((start, end))
    return tuple(found)


def common(some: Iterable[Days], others: Iterable[Days]) -> Iterator[Days]:
    """Yield what is in a span of both."""
    others = tuple(others)
    for a, b in some:
        for c, d in others:
            start, end = max(a, c), earlier(b, d)
            if end is None or start < end:
                yield start, end


def less(span: Days, others: Iterable[Days]) -> Iterator[Days]:
    """Yield what of a span is in none of the others, which are disjoint."""
    start, end = span
    for a, b in sorted(others, key=lambda days: days[0]):
        if end is not None and a >= end:
            break
        if b is not None and b <= start:
            continue
        if start < a:
            yield start, a
        if b is None:
            return
        start = max(start, b)
    if end is None or start < end:
        yield start, end


# --- small cells -------------------------------------------------------------------------------


def suppressed(one: Census) -> Census:
    """Return the counts of a day without cells from 1 to 10, and without those that tell of them.

    A total tells of a cell that is missing alone, so that cells go until at least two are missing,
    and more than 10 people with them. Comings and goings tell of each other by way of the counts of
    two days: they go together.
    """
    counts = {name: None if small(count) else count for name, count in one.counts.items()}
    if any(counts[name] is None for name in FLOWS):
        counts |= dict.fromkeys(FLOWS)
    numbers = {cell.code: cell.count or 0 for cell in one.by}
    hidden = {code for code, count in numbers.items() if small(count)}
    if hidden and counts["active"] is not None:
        for code in sorted(numbers.keys() - hidden, key=lambda code: (numbers[code], code)):
            if len(hidden) > 1 and sum(numbers[c] for c in hidden) > SMALL:
                break
            if numbers[code]:
                hidden.add(code)
    cells = (Cell(code, None if code in hidden else n) for code, n in numbers.items())
    return Census(one.day, counts, tuple(cells))


def small(count: int | None) -> bool:
    """Return whether a count could point to a person."""
    return count is None or 0 < count <= SMALL


def keeps_back(one: Census) -> bool:
    """Return whether a count of a day is missing."""
    return None in (*one.counts.values(), *(cell.count for cell in one.by))
