"""Weekly hours (rule W): what was offered, what was delivered, and whether it is enough. Pure.

The unit is a whole minute; hours and percents are rounded once, at the end. All moments are in UTC.

Theory of operation. Minutes go to visits first (`apportioned`): over all visits of an episode, so
that no minute is in two weeks either; of visits at the same time each minute goes to the kind of
service that comes first. Then visits are dealt to weeks by the local day on which they were
scheduled, and each week is judged by itself (`judged`): its parts at one level of care each offer
a share of what a whole week at that level offers, and ask for that share of what it requires.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Literal
from zoneinfo import ZoneInfo

from app.domain.chart import (
    ADULT,
    Episode,
    Interval,
    LevelPeriod,
    Membership,
    Program,
    Session,
    Visit,
    covers,
)
from app.domain.days import DAY, age, days, local_day, local_days, midnight, week_of
from app.domain.vocabulary import KINDS, LEVELS

Status = Literal["in-progress", "not-applicable", "met", "partial", "not-met"]

IOP_DAY = 180  # countable minutes that make a day one of the program
INDIVIDUAL = 60  # minutes of individual therapy that every week should have
NEARLY = 75  # percent of the required minutes that are worth the status `partial`
MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class Care:
    """All that the hours of one episode are made of.

    `orders` are the minutes a week of the level-of-care orders by reference, `places` the groups
    with the memberships of the patient, `sessions` those of these groups. `outcomes` is what is
    known of bookings, by the session: `no-show`, `excused` or `not-expected`. `scheduled` says when
    an appointment was to begin, by reference; `meetings` are those of mutual support, by day.
    """

    episode: Episode
    born: date | None = None
    orders: Mapping[str, int] = field(default_factory=dict)
    places: tuple[tuple[str, Membership], ...] = ()
    sessions: tuple[Session, ...] = ()
    outcomes: Mapping[str, str] = field(default_factory=dict)
    visits: tuple[Visit, ...] = ()
    scheduled: Mapping[str, datetime] = field(default_factory=dict)
    meetings: tuple[tuple[date, int], ...] = ()


@dataclass(frozen=True)
class Counted:
    """A visit, its local day, and its minutes: those that count, and those that it has.

    `overlaps` where minutes of it went to another visit at the same time.
    """

    visit: Visit
    day: date
    minutes: int
    credited: int
    overlaps: bool = False


@dataclass(frozen=True)
class Week:
    """What rule W says of one week of an episode; minutes, and None where a figure has no meaning.

    `period` is the week in UTC, `level` the one at its end. `rate` is the percentage of attended
    sessions with one decimal.
    """

    first: date
    period: Interval
    level: str
    delivered: int
    required: int | None
    adjusted: int | None
    shortfall: int | None
    met_level: bool | None
    met_adjusted: bool | None
    status: Status
    individual: int
    family: int
    collateral: int
    telehealth: int
    wellness: int
    wellness_excluded: int
    iop_days: int
    expected: int
    attended: int
    rate: Decimal | None
    no_shows: int
    excused: int
    meetings: int
    over_maximum: bool
    overlap: bool

    @property
    def individual_met(self) -> bool:
        """Return whether the week had its hour of individual therapy."""
        return self.individual >= INDIVIDUAL


@dataclass(frozen=True)
class Segment:
    """The part of a week at one level: its period, and the minutes that a whole week requires.

    `required` is None at a level that has no hours. `offered` is what a whole week offers to the
    patient's groups of that time, `eligible` what this part did.
    """

    level: str
    period: Interval
    required: int | None
    offered: int
    eligible: int
    expected: tuple[Session, ...]
    closed: bool

    @property
    def adjusted(self) -> int | None:
        """Return the share of the required minutes that was within reach, None for no offer."""
        if self.required is None or not self.offered or not self.eligible:
            return None
        eligible = min(self.eligible, self.offered)  # a makeup session gives back, it adds nothing
        return min(eligible, self.required * eligible // self.offered)


def weeks(care: Care, program: Program, first: date, last: date, asof: datetime) -> list[Week]:
    """Return the weeks of an episode that have a day from `first` to `last`, in their order.

    Only what had begun by `asof` has happened; a week that ends later is in progress. Weeks before
    the episode and after it are not there.
    """
    start, end = local_days((care.episode.start, care.episode.end), program.zone)
    if start is None:
        return []
    first = max(first, start)
    last = min(last, max(start, end - DAY)) if end else last
    counted = apportioned(care, program, asof)
    by_week: dict[date, list[Counted]] = {}
    for one in counted:
        by_week.setdefault(week_of(one.day, program.week_start), []).append(one)
    offers: dict[date, list[Session]] = {}
    for session in care.sessions:
        day = local_day(session.start, program.zone)
        offers.setdefault(week_of(day, program.week_start), []).append(session)
    opening = week_of(first, program.week_start)
    return [
        judged(care, program, monday, offers.get(monday, ()), by_week.get(monday, ()), asof)
        for monday in days(opening, last + DAY)
        if (monday - opening).days % 7 == 0
    ]


# --- minutes -----------------------------------------------------------------------------------


def apportioned(care: Care, program: Program, asof: datetime) -> list[Counted]:
    """Return the finished visits that had begun, by time; no minute counts in two of them.

    Of visits at the same time the kind with the lower precedence has the minutes. A visit that
    does not count has none.
    """
    found = []
    begun = (one for one in care.visits if one.status == "finished" and one.period[0] <= asof)
    for cluster in clusters(begun):
        taken: list[Interval] = []
        for visit in sorted(cluster, key=precedence):
            day = local_day(scheduled(visit, care.scheduled), program.zone)
            present = presence(visit)
            has = minutes(present) if visit.credited is None else visit.credited
            if not counts(visit, program):
                found.append(Counted(visit, day, 0, has or minutes(present)))
                continue
            free = without(present, taken) if taken else present
            overlaps = free != present
            left = min(has, minutes(free)) if overlaps else has
            found.append(Counted(visit, day, left, has, overlaps))
            taken += present
    return sorted(found, key=lambda one: (one.visit.period, one.visit.reference))


def counts(visit: Visit, program: Program) -> bool:
    """Return whether the minutes of a visit count towards the weekly hours."""
    return counting(visit.kind, program) if visit.counts is None else visit.counts


def counting(kind: str, program: Program) -> bool:
    """Return whether a kind of service counts where nothing else is said."""
    known = KINDS.get(kind)
    own = kind == "peer-support" and bool(program.policy["peer-support-counts"])
    return own or (known is not None and known.counts)


def precedence(visit: Visit) -> tuple[int, Interval, str]:
    """Return the order in which visits at the same time get their minutes."""
    known = KINDS.get(visit.kind)
    return (known.precedence if known else len(KINDS), visit.period, visit.reference)


def scheduled(visit: Visit, starts: Mapping[str, datetime]) -> datetime:
    """Return when a visit was to begin: as its session or booking says, else when it began."""
    for appointment in (visit.session, visit.booking):
        if appointment in starts:
            return starts[appointment]
    return visit.period[0]


def clusters(visits: Iterable[Visit]) -> Iterator[list[Visit]]:
    """Yield visits that may overlap together; most are alone."""
    cluster: list[Visit] = []
    end = datetime.min
    for visit in sorted(visits, key=lambda one: one.period):
        if cluster and visit.period[0] >= end:
            yield cluster
            cluster = []
        end = max(end, visit.period[1]) if cluster else visit.period[1]
        cluster.append(visit)
    if cluster:
        yield cluster


def presence(visit: Visit) -> list[Interval]:
    """Return when a patient was there, breaks left out, as disjoint intervals."""
    inside = merged(visit.intervals or (visit.period,))
    return without(inside, visit.breaks) if visit.breaks else inside


def merged(intervals: Iterable[Interval]) -> list[Interval]:
    """Return the union of intervals as disjoint ones, by time."""
    found: list[Interval] = []
    for start, end in sorted(intervals):
        if end <= start:
            continue
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def without(intervals: Iterable[Interval], others: Iterable[Interval]) -> list[Interval]:
    """Return what is in disjoint intervals and in none of the others."""
    left = list(intervals)
    for start, end in others:
        left = [
            piece
            for a, b in left
            for piece in ((a, min(b, start)), (max(a, end), b))
            if piece[0] < piece[1]
        ]
    return left


def minutes(intervals: Iterable[Interval]) -> int:
    """Return the whole minutes of disjoint intervals, rounded down once."""
    return sum((end - start for start, end in intervals), timedelta()) // MINUTE


# --- one week ----------------------------------------------------------------------------------


def judged(
    care: Care,
    program: Program,
    first: date,
    sessions: Sequence[Session],
    counted: Sequence[Counted],
    asof: datetime,
) -> Week:
    """Return what rule W says of the week that begins on a day, of its sessions and visits."""
    zone = program.zone
    period = midnight(first, zone), midnight(first + DAY * 7, zone)
    parts = segments(care, program, period, sessions)
    plain, wellness = totals(counted)
    shown = min(wellness, plain // 3)  # at most a quarter of all
    delivered = plain + shown
    required, changed = requirement(parts)
    asked = [part.adjusted for part in parts]
    known = [one for one in asked if one is not None]
    adjusted = sum(known) if known else None
    over = asof >= period[1]
    whole = not changed and not partial(care.episode, parts, period, zone)
    met_adjusted = delivered >= adjusted if over and adjusted is not None else None
    met_level = delivered >= required if over and whole and required is not None else None
    status = outcome(delivered, required, adjusted, changed) if over else "in-progress"
    expected = [session for part in parts for session in part.expected]
    results = [care.outcomes.get(session.reference, "") for session in expected]
    attended = sessions_attended(expected, counted, program)
    return Week(
        first=first,
        period=period,
        level=parts[-1].level if parts else "",
        delivered=delivered,
        required=required,
        adjusted=adjusted,
        shortfall=None if required is None else max(0, required - delivered),
        met_level=met_level,
        met_adjusted=met_adjusted,
        status=status,
        individual=of_kind(counted, "individual"),
        family=of_kind(counted, "family"),
        collateral=sum(c.credited for c in counted if c.visit.kind == "family-collateral"),
        telehealth=sum(one.minutes for one in counted if one.visit.mode == "telehealth"),
        wellness=shown,
        wellness_excluded=wellness - shown,
        iop_days=full_days(counted),
        expected=len(expected),
        attended=attended,
        rate=percent(attended, due(expected, results, asof)),
        no_shows=results.count("no-show"),
        excused=results.count("excused"),
        meetings=sum(n for day, n in care.meetings if first <= day < first + DAY * 7),
        over_maximum=over_maximum(delivered, parts, adolescent(care, first)),
        overlap=any(one.overlaps for one in counted),
    )


def segments(
    care: Care, program: Program, period: Interval, sessions: Sequence[Session]
) -> list[Segment]:
    """Return the parts of a week at one level each, in their order."""
    found = []
    start, end = care.episode.start, care.episode.end
    one_level = LevelPeriod(program.level, start or period[0], end, "", program.reference)
    for level in care.episode.levels or (one_level,):
        inside = max(level.start, period[0]), min(level.end or period[1], period[1])
        if inside[0] < inside[1]:
            found.append(segment(care, program, period, level, inside, sessions))
    return found


def segment(
    care: Care,
    program: Program,
    period: Interval,
    level: LevelPeriod,
    inside: Interval,
    sessions: Sequence[Session],
) -> Segment:
    """Return the part of a week at one level, with what was offered then.

    The offer of a whole week is that of the groups of these days; a day before the first group, or
    after the last, is taken as if the patient had been in that one already, or still.
    """
    zone, episode = program.zone, care.episode
    first, last = (local_day(moment, zone) for moment in (inside[0], inside[1] - MINUTE))
    groups = {day: groups_on(care, day) for day in days(first, last + DAY)}
    placed = [day for day, some in groups.items() if some]
    holds = [local_days(hold, zone) for hold in episode.holds]
    offered = eligible = 0
    expected, open = [], False
    for session in sessions if placed else ():
        day = local_day(session.start, zone)
        nearest = min(max(day, placed[0]), placed[-1])
        if session.group not in groups.get(nearest, ()) or session.status == "entered-in-error":
            continue
        length = session.minutes if counting(session.kind, program) else 0
        offered += 0 if session.replaces else length
        if day != nearest or not inside[0] <= session.start < inside[1] or held(holds, day):
            continue
        if not (episode.start or inside[0]) <= session.start < (episode.end or inside[1]):
            continue
        result = care.outcomes.get(session.reference)
        if result == "not-expected":
            continue
        expected.append(session)
        if session.status != "cancelled":
            open = True
            eligible += 0 if result == "excused" else length
    required = required_minutes(care, level, local_day(period[0], zone))
    return Segment(level.level, inside, required, offered, eligible, tuple(expected), not open)


def groups_on(care: Care, day: date) -> frozenset[str]:
    """Return the groups that the patient is in on a day."""
    return frozenset(group for group, membership in care.places if covers(membership, day))


def required_minutes(care: Care, level: LevelPeriod, first: date) -> int | None:
    """Return what a whole week at a level requires, None where the level has no hours.

    It is the least of the level, for the age on the first day of the week, or what was ordered
    where that is more.
    """
    known = LEVELS.get(level.level)
    if known is None or known.minimum is None:
        return None
    return max(known.minimum[adolescent(care, first)], care.orders.get(level.order, 0))


def adolescent(care: Care, day: date) -> bool:
    """Return whether the patient is not yet an adult on a day; an unknown age is an adult's."""
    return care.born is not None and age(care.born, day) < ADULT


def requirement(parts: Sequence[Segment]) -> tuple[int | None, bool]:
    """Return what a week requires, and whether it changed within: then nothing is required."""
    asked = {(part.level, part.required) for part in parts}
    if len(asked) > 1:
        return None, True
    return next((required for _, required in asked), None), False


def partial(episode: Episode, parts: Sequence[Segment], period: Interval, zone: ZoneInfo) -> bool:
    """Return whether a week was not a whole one: of admission, of discharge, on hold, or closed."""
    first, last = local_days(period, zone)
    start, end = local_days((episode.start, episode.end), zone)
    if first is None or last is None or start is None:
        return True
    if start > first or (end is not None and end < last):
        return True
    holds = (local_days(hold, zone) for hold in episode.holds)
    if any(a is not None and a < last and (b is None or b > first) for a, b in holds):
        return True
    return all(part.closed for part in parts)


def held(holds: Iterable[tuple[date | None, date | None]], day: date) -> bool:
    """Return whether a day is on hold: that on which a hold begins is, that of its end is not."""
    return any(a is not None and a <= day and (b is None or day < b) for a, b in holds)


def outcome(delivered: int, required: int | None, adjusted: int | None, changed: bool) -> Status:
    """Return the status of a week that is over."""
    if adjusted is None:
        return "not-applicable"
    if changed or required is None:
        return "met" if delivered >= adjusted else "not-met"
    if delivered >= required:
        return "met"
    if delivered >= adjusted or delivered * 100 >= required * NEARLY:
        return "partial"
    return "not-met"


def over_maximum(delivered: int, parts: Iterable[Segment], young: bool) -> bool:
    """Return whether a week has more than any of its levels may have."""
    limits = []
    for part in parts:
        level = LEVELS.get(part.level)
        if level is None or level.maximum is None:
            return False
        limits.append(level.maximum[young] + level.reachable)
    return bool(limits) and delivered >= max(limits)


# --- sums of visits ----------------------------------------------------------------------------


def totals(counted: Iterable[Counted]) -> tuple[int, int]:
    """Return the minutes that count, without wellness, and those of wellness."""
    found = [0, 0]
    for one in counted:
        kind = KINDS.get(one.visit.kind)
        found[kind is not None and kind.wellness] += one.minutes
    return found[0], found[1]


def of_kind(counted: Iterable[Counted], kind: str) -> int:
    """Return the minutes that count of one kind."""
    return sum(one.minutes for one in counted if one.visit.kind == kind)


def full_days(counted: Iterable[Counted]) -> int:
    """Return on how many days the minutes make a day of the program."""
    found: dict[date, int] = {}
    for one in counted:
        found[one.day] = found.get(one.day, 0) + one.minutes
    return sum(1 for total in found.values() if total >= IOP_DAY)


def sessions_attended(
    expected: Iterable[Session], counted: Iterable[Counted], program: Program
) -> int:
    """Return how many sessions were attended long enough to be taken as attended."""
    credited: dict[str, int] = {}
    for one in counted:
        session = one.visit.session
        credited[session] = credited.get(session, 0) + one.credited
    enough = program.policy["session-credit-percent"]
    return sum(
        1
        for session in expected
        if session.reference in credited
        and credited[session.reference] * 100 >= session.minutes * enough
    )


def due(expected: Iterable[Session], results: Iterable[str], asof: datetime) -> int:
    """Return how many sessions the patient should have come to by now."""
    return sum(
        1
        for session, result in zip(expected, results, strict=True)
        if session.status != "cancelled" and result != "excused" and session.start <= asof
    )


def percent(part: int, whole: int) -> Decimal | None:
    """Return a percentage with one decimal, half up; None of nothing."""
    return rounded(part * 100, whole, "0.1") if whole else None


def hours(some: int) -> Decimal:
    """Return minutes as hours with two decimals, half up."""
    return rounded(some, 60, "0.01")


def rounded(part: int, whole: int, unit: str) -> Decimal:
    """Return a quotient in units such as 0.01, half up."""
    return (Decimal(part) / whole).quantize(Decimal(unit), ROUND_HALF_UP)
