"""What happens in a synthetic program: who comes, attends, is away and leaves, day by day. Pure.

A `Stay` is one patient's; it is drawn from a stream of random numbers of its own, so that another
patient changes nothing in it. `events` turns stays into what is to be done, in the order of time.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from itertools import chain
from math import exp
from random import Random
from typing import Literal

from app.domain import days
from app.domain.days import DAY
from app.domain.seed.center import WEEK, Center, Group, Slot, Track
from app.domain.seed.people import Person, chosen, person

HORIZON = 4  # weeks of sessions that are made at once
AHEAD = 14  # days after the last one for which there are sessions
WAITING = 14  # days before the last one: who finds no place then is on the waitlist

# Why stays end: weight in per cent, median of days (TEDS-D 2004, intensive outpatient)
REASONS = (("completed", 37.7, 70.0), ("transferred", 17.9, 42.0), ("dropped-out", 23.2, 26.0),
           ("terminated", 14.0, 36.0), ("other", 7.2, 36.0))  # fmt: skip
LONGEST = 365
MEAN_STAY = 54.5  # days, of the distribution above

Habit = Literal["usual", "steady", "absent"]
Status = Literal["attended", "late", "left-early", "late-left-early", "no-show", "excused"]
# How sessions are attended, in per cent
ATTENDANCE: tuple[tuple[Status, float], ...] = (
    ("attended", 74), ("late", 8), ("left-early", 4), ("late-left-early", 1), ("excused", 6),
    ("no-show", 7),
)  # fmt: skip
EXCUSES = (("medical", 60), ("court", 25), ("bereavement", 10), ("religious", 5))
HOLIDAYS = ((1, 1), (6, 19), (7, 4), (12, 25))  # as (month, day)


@dataclass(frozen=True)
class Place:
    """A place in a group from a day on, up to another one."""

    group: Group
    start: date
    end: date | None = None

    def on(self, day: date) -> bool:
        """Return whether it is held on a day."""
        return self.start <= day and (self.end is None or day < self.end)


@dataclass(frozen=True)
class Stay:
    """What becomes of one patient.

    It begins in `track`; with `moves` it goes on in another one on a day. `reason` is why it ends,
    "" while it lasts; one that `waits` has not begun. `away` is a time on hold.
    """

    patient: str
    person: Person
    track: Track
    start: date
    end: date | None
    reason: str
    places: tuple[Place, ...]
    habit: Habit = "usual"
    away: tuple[date, date] | None = None
    moves: tuple[date, Track] | None = None
    waits: bool = False
    overlaps: bool = False
    denies: bool = False
    note: str = ""
    number: int = 0

    def there(self, day: date) -> bool:
        """Return whether somebody is in treatment on a day, and not on hold."""
        ended = self.end is not None and day >= self.end
        away = self.away is not None and self.away[0] <= day < self.away[1]
        return not (self.waits or day < self.start or ended or away)

    def on(self, day: date) -> Track:
        """Return the track on a day."""
        return self.moves[1] if self.moves and day >= self.moves[0] else self.track

    @property
    def populations(self) -> tuple[str, ...]:
        """Return the populations whose groups somebody has asked for."""
        wanted = [place.group.track.population for place in self.places]
        return tuple(dict.fromkeys(one for one in [self.track.population, *wanted] if one))

    def expected(self, group: Group, day: date) -> bool:
        """Return whether somebody is expected in a group on a day."""
        return self.there(day) and any(p.group == group and p.on(day) for p in self.places)


@dataclass(frozen=True)
class Attendance:
    """How one patient attended one session; `presence` is None where nobody came."""

    stay: Stay
    status: Status
    presence: tuple[datetime, datetime] | None = None
    telehealth: bool = False
    reason: str = ""
    note: str = ""


@dataclass(frozen=True)
class Visit:
    """Time of one patient with one member of the staff."""

    stay: Stay
    kind: str
    start: datetime
    minutes: int
    by: str
    telehealth: bool = False


@dataclass(frozen=True)
class Score:
    """What a questionnaire came to."""

    stay: Stay
    instrument: str
    day: date
    value: int


@dataclass(frozen=True)
class Event:
    """Something that happens at a moment."""

    at: datetime


@dataclass(frozen=True)
class Planned(Event):
    """Sessions of a group are made, from a day to another one."""

    group: Group
    start: date
    end: date
    off: tuple[date, ...]


@dataclass(frozen=True)
class Admitted(Event):
    """Somebody is admitted, or put on the waitlist."""

    stay: Stay


@dataclass(frozen=True)
class Joined(Event):
    """Somebody joins one more group."""

    stay: Stay
    group: Group
    day: date


@dataclass(frozen=True)
class Met(Event):
    """A session was held."""

    group: Group
    slot: Slot
    day: date
    attendance: tuple[Attendance, ...]


@dataclass(frozen=True)
class Unmet(Event):
    """A session is cancelled."""

    group: Group
    slot: Slot
    day: date


@dataclass(frozen=True)
class Written(Event):
    """At the end of a day, what else was done is written down."""

    visits: tuple[Visit, ...]
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class Paused(Event):
    """A stay is on hold from now on."""

    stay: Stay


@dataclass(frozen=True)
class Resumed(Event):
    """A stay goes on."""

    stay: Stay


@dataclass(frozen=True)
class Moved(Event):
    """A stay goes on at another level, in another track."""

    stay: Stay


@dataclass(frozen=True)
class Discharged(Event):
    """A stay ends."""

    stay: Stay


def stream(seed: int, *names: object) -> Random:
    """Return the random numbers for one purpose."""
    return Random(":".join(map(str, (seed, *names))))


def length(rng: Random) -> tuple[str, int]:
    """Return why a stay will end, and after how many days."""
    reason = chosen(rng, [(name, weight) for name, weight, _ in REASONS])
    if reason == "completed":  # the eight to twelve weeks of a program
        return reason, round(min(max(rng.gauss(70, 10), 56), 84))
    median = next(median for name, _, median in REASONS if name == reason)
    return reason, round(min(max(median * exp(rng.gauss(0, 0.75)), 1), LONGEST))


def arrivals(
    center: Center, first: date, last: date, seed: int, kept: Sequence[Stay]
) -> list[Stay]:
    """Return the stays of those who come at random; `kept` have their places already.

    A track begins with as many as it has on average, and as many come as leave (Little's law).
    Who finds no place is not admitted, but towards the end waits for one.
    """
    stays = list(kept)
    for track in center.tracks:
        if track.part_of:
            continue
        rng = stream(seed, track.id)
        active = center.active(track)
        begun = [first + DAY * rng.randrange(5) for _ in range(active)]
        day, later = float(first.toordinal() + 5), []
        while (day := day + rng.expovariate(active / MEAN_STAY)) < last.toordinal():
            when = date.fromordinal(int(day))
            later.append(when + DAY * max(0, 7 - when.weekday()) * (when.weekday() > 4))
        for n, start in enumerate(sorted(begun) + sorted(later), 1):
            if start <= last:
                old = n <= active
                stays += _arrival(center, track, n, start, stays, seed, last, old=old)
    return stays


def _arrival(
    center: Center,
    track: Track,
    n: int,
    start: date,
    stays: Sequence[Stay],
    seed: int,
    last: date,
    *,
    old: bool,
) -> Iterator[Stay]:
    """Yield the stay of one who comes, none where there is no place and no waiting for it."""
    id = f"{track.id}-patient-{n}"
    rng = stream(seed, id)
    who = person(rng, start, track.population)
    reason, length_of_stay = length(rng)
    if old:  # has been here for a while, or so it looks
        length_of_stay = max(3, round(length_of_stay * rng.uniform(0.1, 1)))
    end: date | None = start + DAY * length_of_stay
    if end is not None and end > last:
        reason, end = "", None
    group = free(open_groups(center.of(track.id), stays, start), stays, start)
    if group is None:
        if last - start < timedelta(days=WAITING):
            yield Stay(id, who, track, start, None, "", (), waits=True, number=n)
        return
    places = [Place(group, start, end)]
    special = [one for one in center.tracks if one.part_of == track.id]
    if special and rng.random() < 0.35:
        day = start + DAY * rng.randint(3, 10)
        other = free(center.of(rng.choice(special).id), stays, day)
        if other is not None and day < (end or last):
            places.append(Place(other, day, end))
    yield Stay(id, who, track, start, end, reason, tuple(places), number=n)


def open_groups(groups: Sequence[Group], stays: Sequence[Stay], day: date) -> list[Group]:
    """Return the groups that take somebody new: not one of adolescents in which one grew up."""
    grown = {
        place.group.id
        for stay in stays
        for place in stay.places
        if place.group.track.population == "adolescents"
        and place.on(day)
        and days.age(stay.person.born, day) >= 18
    }
    return [one for one in groups if one.id not in grown]


def free(groups: Sequence[Group], stays: Iterable[Stay], day: date) -> Group | None:
    """Return the group with most free places on a day and from then on, None if all are full."""
    taken = {one.id: 0 for one in groups}
    for stay in stays:
        for place in stay.places:
            if place.group.id in taken and (place.end is None or place.end > day):
                taken[place.group.id] += 1
    left = [one for one in groups if taken[one.id] < one.capacity]
    return max(left, key=lambda one: one.capacity - taken[one.id], default=None)


def holidays(start: date, end: date) -> tuple[date, ...]:
    """Return the days in [start, end] on which nothing is held: some of the federal holidays."""
    return tuple(day for day in days.days(start, end + DAY) if closed(day))


def closed(day: date) -> bool:
    """Return whether a day is a holiday."""
    memorial = day.month == 5 and day.weekday() == 0 and (day + DAY * 7).month == 6
    thanksgiving = day.month == 11 and day.weekday() == 3 and 22 <= day.day <= 28
    return (day.month, day.day) in HOLIDAYS or memorial or thanksgiving


def events(
    center: Center, stays: Sequence[Stay], first: date, last: date, seed: int
) -> list[Event]:
    """Return what happens from one day up to and including another, in the order of time."""
    off = holidays(first, last + DAY * (AHEAD + 7 * HORIZON))
    found = chain(
        *(planning(group, first, last, off) for group in center.groups),
        *(course(stay, last) for stay in stays),
        *(sessions(group, stays, first, last, off, seed) for group in center.groups),
        care(stays, first, last, off, seed),
    )
    return sorted(found, key=lambda event: event.at)


def planning(group: Group, first: date, last: date, off: Sequence[date]) -> Iterator[Planned]:
    """Yield how the sessions of a group are made, some weeks at a time, always ahead."""
    start = first
    while start <= last + DAY * AHEAD:
        end = start + DAY * (7 * HORIZON - 1)
        at = days.at(min(max(first, start - DAY * 10), last), time(6), group.track.zone)
        within = tuple(day for day in off if start <= day <= end)
        yield Planned(at, group, start, end, within)
        start = end + DAY


def course(stay: Stay, last: date) -> Iterator[Event]:
    """Yield the steps of a stay: all before the sessions of their day."""
    zone = stay.track.zone

    def at(day: date, clock: time) -> datetime:
        return days.at(day, clock, zone)

    yield Admitted(at(stay.start, time(8)), stay)
    for place in stay.places:
        if place.start > stay.start and place.start <= last and not stay.moves:
            yield Joined(at(place.start, time(8, 15)), stay, place.group, place.start)
    if stay.away:
        yield Paused(at(stay.away[0], time(7)), stay)
        if stay.away[1] <= last:
            yield Resumed(at(stay.away[1], time(7)), stay)
    if stay.moves:
        yield Moved(at(stay.moves[0], time(7, 15)), stay)
    if stay.end and stay.end <= last:
        early = time(7, 30) if stay.end > stay.start else time(8, 30)
        yield Discharged(at(stay.end, early), stay)


def sessions(
    group: Group,
    stays: Sequence[Stay],
    first: date,
    last: date,
    off: Sequence[date],
    seed: int,
) -> Iterator[Event]:
    """Yield how each session of a group went; what is on the last day is still to come."""
    track = group.track
    mine = [stay for stay in stays if any(place.group == group for place in stay.places)]
    for day in days.days(first, last):
        if day in off:
            continue
        there = [stay for stay in mine if stay.expected(group, day)]
        for slot in track.slots:
            if WEEK[day.weekday()] not in slot.days:
                continue
            start = days.at(day, slot.start, track.zone)
            end = start + timedelta(minutes=slot.length)
            rng = stream(seed, group.id, slot.id, day)
            if not there or rng.random() < 0.015:  # nobody to come, or whoever leads it is ill
                yield Unmet(start - timedelta(hours=2), group, slot, day)
            else:
                rows = tuple(attendance(one, slot, day, start, end, seed) for one in there)
                yield Met(end + timedelta(minutes=20), group, slot, day, rows)


def attendance(
    stay: Stay, slot: Slot, day: date, start: datetime, end: datetime, seed: int
) -> Attendance:
    """Return how somebody attended a session."""
    rng = stream(seed, stay.patient, slot.id, day)
    status = chosen(rng, weights(stay, day))
    if status == "no-show":
        return Attendance(stay, status)
    if status == "excused":
        return Attendance(stay, status, reason=chosen(rng, EXCUSES))

    def off() -> timedelta:  # beyond the grace of ten minutes
        return timedelta(minutes=min(11 + round(rng.expovariate(1 / 18)), slot.length // 3, 60))

    begin = start - timedelta(minutes=rng.randint(0, 10))
    leave = end + timedelta(minutes=rng.randint(0, 5))
    if status.startswith("late"):
        begin = start + off()
    if status.endswith("left-early"):
        leave = end - off()
    note = stay.note if stay.note and day.weekday() == 3 else ""
    telehealth = stay.habit == "usual" and rng.random() < 0.15
    return Attendance(stay, status, (begin, leave), telehealth, note=note)


def weights(stay: Stay, day: date) -> list[tuple[Status, float]]:
    """Return how likely each way to attend is, for one patient on one day."""
    if stay.habit == "steady":
        return [("attended", 1)]
    if stay.habit == "absent" and day >= stay.start + DAY * 14:
        return [("no-show", 1)]
    week = (day - stay.start).days // 7
    kept = 1.0 if week == 0 else 0.97 if week < 4 else 0.93
    kept *= 1.02 if stay.track.code == "evening" else 1
    rows = {status: weight * (kept if weight > 7 else 1) for status, weight in ATTENDANCE}
    rows["no-show"] += 100 - sum(rows.values())
    if stay.reason == "dropped-out" and stay.end and (stay.end - day).days <= 14:
        rest = 1 - rows["no-show"] / 100
        rows = {status: weight * 0.55 / rest for status, weight in rows.items()}
        rows["no-show"] = 45
    return list(rows.items())


def care(
    stays: Sequence[Stay], first: date, last: date, off: Sequence[date], seed: int
) -> Iterator[Written]:
    """Yield for each day what was done beside the groups, written down in the evening."""
    for day in days.days(first, last):
        there = [] if day in off else [stay for stay in stays if stay.there(day)]
        visits = tuple(visit for stay in there for visit in alone(stay, day, seed))
        scores = tuple(score for stay in there for score in scored(stay, day, seed))
        if visits or scores:
            zone = there[0].track.zone
            yield Written(days.at(day, time(22), zone), visits, scores)


def alone(stay: Stay, day: date, seed: int) -> Iterator[Visit]:
    """Yield the visits of one patient on a day: a weekly hour, and now and then the others."""
    rng = stream(seed, stay.patient, "visits", day)
    track, week = stay.on(day), (day - stay.start).days // 7
    place = next((p for p in stay.places if p.on(day)), None)
    therapist = place.group.therapist if place else "PractitionerRole/therapist-1"

    def visit(kind: str, hours: float, minutes: int, by: str) -> Visit:
        start = days.at(day, track.alone, track.zone) + timedelta(hours=hours)
        return Visit(stay, kind, start, minutes, by, rng.random() < 0.15)

    mine = (stay.number or len(stay.patient)) % 5
    if stay.overlaps and day.weekday() == 3:  # pulled out of the group, and in its record as well
        yield replace(visit("individual", 0, 50, therapist), telehealth=False,
                      start=days.at(day, time(9, 30), track.zone))  # fmt: skip
    elif day.weekday() == mine and stay.habit == "steady":
        yield visit("individual", 0, 60, therapist)
    elif day.weekday() == mine and rng.random() < 0.93:
        yield visit("individual", 0, rng.choice((45, 50, 60, 60)), therapist)
    if day.weekday() == (mine + 1) % 5 and stay.person.relative and week in (2, 4, 6):
        yield visit("family", 1, 50, therapist)
    if day.weekday() == (mine + 2) % 5 and week % 4 == 1 and len(stay.person.diagnoses) > 1:
        yield visit("med-management", 0.5, 20, f"PractitionerRole/psychiatrist-{1 + mine % 2}")
    if day.weekday() == (mine + 3) % 5 and week % 3 == 0:
        yield visit("case-management", 0.5, 25, f"PractitionerRole/case-manager-{1 + mine % 3}")


def scored(stay: Stay, day: date, seed: int) -> Iterator[Score]:
    """Yield the scores of one patient on a day: every two weeks, and falling as a rule."""
    passed = (day - stay.start).days
    if passed == 0 or passed % 14:
        return
    rng = stream(seed, stay.patient, "scores", day)
    drop = 0.45 if stay.reason in ("", "completed") else 0.1
    for instrument, at_first in (("phq9", stay.person.phq9), ("gad7", stay.person.gad7)):
        yield Score(stay, instrument, day, round(at_first - drop * passed / 7 + rng.gauss(0, 1.5)))
