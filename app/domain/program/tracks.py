"""The program itself: HealthcareService and PlanDefinition (INV-HS, INV-PD).

A HealthcareService that uses the vocabulary is a track of a program, a PlanDefinition its weekly
timetable. A timetable may be wrong while it is a draft, which is worth a warning, not once it is
active.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

from app.domain.chart import BOUNDS, Session
from app.domain.chart import program as track_of
from app.domain.chart import session as session_of
from app.domain.days import DAY, midnight, moment, written, zone_named
from app.domain.program.timetable import (
    WEEKDAYS,
    Meeting,
    flaws,
    groups,
    meetings,
    minutes_by_weekday,
    overlap,
    programs,
    weeks,
)
from app.domain.vocabulary import (
    CAPACITY,
    KINDS,
    LEVEL,
    LEVELS,
    POLICY,
    POPULATION,
    RESTRICTION,
    TIMEZONE,
    TRACK,
    Vocabulary,
    parts,
)
from app.fhir.errors import FhirError, Severity
from app.fhir.reader import Reader
from app.fhir.rules import Change, Finding, Rule
from app.fhir.wire import Resource

SERVICE, PLAN = "HealthcareService", "PlanDefinition"
REQUIRED = ("providedBy", "category", "type", "name", "location", "characteristic", "availableTime")
MOST_MINUTES_A_DAY = 480
# A day of the program at level 2.1: how many a week, and how long for adults and adolescents
IOP_DAYS, IOP_DAY = 3, (180, 120)
# A whole program; a clinical-protocol is a part of one, such as a group that meets once a week
WHOLE, PART = "workflow-definition", "clinical-protocol"
SEVERITIES: Mapping[str, Severity] = {"draft": "warning", "active": "error"}
LAST_MINUTE = time(23, 59)


def rules(vocabulary: Vocabulary) -> tuple[Rule, ...]:
    """Return the rules for programs and their timetables."""
    v, marks, service = vocabulary, (vocabulary.mark,), frozenset({SERVICE})
    return (
        Rule("required", service, marks, partial(_of_each, partial(missing, v))),
        Rule("range", service, marks, partial(_of_each, partial(unusual, v))),
        Rule("INV-HS-1", service | {"Appointment"}, marks, partial(closed, v)),
        Rule("INV-HS-2", service, marks, partial(overfull, v)),
        Rule("INV-HS-3", service, marks, partial(_of_each, partial(unknown_zones, v))),
        Rule("INV-HS-4", service, marks, partial(_of_each, no_crisis_line)),
        Rule("INV-PD-1", frozenset({PLAN}), marks, partial(bad_plans, v)),
    )


def operations(vocabulary: Vocabulary) -> Mapping[str, Mapping[str, Any]]:
    """Return what performs the operations of this module, by their code."""
    del vocabulary
    return {}


# What is wrong with one resource: text and place
Flaws = Callable[[Resource], Iterable[tuple[str, str]]]


async def _of_each(flaws: Flaws, changes: Sequence[Change], reader: Reader) -> list[Finding]:
    """Return what is wrong with each resource by itself."""
    del reader
    return [
        Finding(change, text, at)
        for change in changes
        if change.after is not None
        for text, at in flaws(change.after)
    ]


# --- the service -------------------------------------------------------------------------------


def missing(vocabulary: Vocabulary, service: Resource) -> Iterator[tuple[str, str]]:
    """Yield what a program must say and does not."""
    v = vocabulary
    for name in REQUIRED:
        if not service.get(name):
            yield f"A program has {name}", name
    for name in (TIMEZONE, CAPACITY):
        if v.value(service, name) is None:
            yield f"A program has the extension {name}", "extension"
    for system in (TRACK, LEVEL):
        if not v.code(service.get("characteristic"), system):
            yield f"A program has a characteristic of {system}", "characteristic"


def unusual(vocabulary: Vocabulary, service: Resource) -> Iterator[tuple[str, str]]:
    """Yield the numbers of its policy that are out of bounds."""
    for extension in vocabulary.all(service, POLICY):
        for name, number in parts(extension).items():
            least, most = BOUNDS.get(name, (0, 0))
            if name not in BOUNDS:
                yield f"A policy has {', '.join(BOUNDS)}", "extension"
            elif not least <= number <= most:
                yield f"{name} is from {least} to {most}", "extension"


def unknown_zones(vocabulary: Vocabulary, service: Resource) -> Iterator[tuple[str, str]]:
    """Yield the time zones that are none."""
    for name in vocabulary.values(service, TIMEZONE):
        try:
            zone_named(name)
        except FhirError as error:
            yield error.issues[0].text, "extension"


def no_crisis_line(service: Resource) -> Iterator[tuple[str, str]]:
    """Yield that a program has no telephone for a crisis: the one of rank 1."""
    known = service.get("telecom", ())
    if not any(one.get("system") == "phone" and one.get("rank") == 1 for one in known):
        yield "A program has a telephone of rank 1, which is answered at any hour", "telecom"


async def overfull(
    vocabulary: Vocabulary, changes: Sequence[Change], reader: Reader
) -> list[Finding]:
    """Return the capacities that are below what is taken."""
    found = []
    for change in changes:
        places = vocabulary.value(change.after or {}, CAPACITY)
        if places is None or places == vocabulary.value(change.before or {}, CAPACITY):
            continue
        taken = await reader.count(
            "EpisodeOfCare", ("iop-program", change.reference), ("status", "active")
        )
        if taken > places:
            text = "More patients are active in the program than its capacity"
            found.append(Finding(change, text, "extension"))
    return found


# --- when it is open ---------------------------------------------------------------------------


async def closed(
    vocabulary: Vocabulary, changes: Sequence[Change], reader: Reader
) -> list[Finding]:
    """Return the sessions at a time at which their program is not open, and hours too short."""
    found = []
    booked = [(c, session_of(vocabulary, c.after)) for c in changes if c.after and _timed(c)]
    known = await reader.get_all({session.program for _, session in booked if session.program})
    for change, session in booked:
        if session.program in known and not is_open(vocabulary, known[session.program], session):
            text = "The program is not open at the time of the session"
            found.append(Finding(change, text, "start"))
    for change in changes:
        if _shortened(change) and await _shut_out(vocabulary, change, reader):
            text = "The program would not be open at the time of sessions that are booked"
            found.append(Finding(change, text, "availableTime"))
    return found


def _timed(change: Change) -> bool:
    """Return whether a change books an Appointment, or books it anew at another time."""
    before, after = change.before or {}, change.after
    if change.type != "Appointment" or after is None or after["status"] != "booked":
        return False
    return any(before.get(name) != after.get(name) for name in ("start", "end", "status"))


def _shortened(change: Change) -> bool:
    """Return whether the hours of a program are no more what they were."""
    before, after = change.before, change.after
    if change.type != SERVICE or before is None or after is None:
        return False
    return bool(before.get("availableTime") != after.get("availableTime"))


async def _shut_out(vocabulary: Vocabulary, change: Change, reader: Reader) -> bool:
    """Return whether sessions that are still to come lie outside the hours of a program."""
    assert change.after is not None
    since = ("date", f"ge{written(moment(reader.now))}")
    actor, status = ("actor", change.reference), ("status", "booked")
    coming = await reader.search("Appointment", actor, status, since)
    return not all(is_open(vocabulary, change.after, session_of(vocabulary, one)) for one in coming)


def is_open(vocabulary: Vocabulary, service: Resource, session: Session) -> bool:
    """Return whether the hours of a program cover a session; of one that says none, any do."""
    hours = service.get("availableTime", ())
    if not hours or not vocabulary.value(service, TIMEZONE):
        return True
    zone = track_of(vocabulary, service).zone
    return all(
        _covered(_open(hours, WEEKDAYS[weekday]), since, until)
        for weekday, since, until in _by_day(session.start, session.end, zone)
    )


def _by_day(
    start: datetime, end: datetime, zone: ZoneInfo
) -> Iterator[tuple[int, timedelta, timedelta]]:
    """Yield weekday, from and to of the part of a time that is on each day, as clocks show it."""
    while start < end:
        local = start.astimezone(zone)
        next_day = midnight(local.date() + DAY, zone)
        until = _since_midnight(end.astimezone(zone).time()) if end < next_day else DAY
        yield local.weekday(), _since_midnight(local.time()), until
        start = next_day


def _open(hours: Iterable[Resource], weekday: str) -> list[tuple[timedelta, timedelta]]:
    """Return from when to when a program is open on a weekday."""
    found = []
    for row in hours:
        if weekday not in row.get("daysOfWeek", WEEKDAYS):
            continue
        since = time.fromisoformat(row.get("availableStartTime", "00:00:00"))
        until = time.fromisoformat(row.get("availableEndTime", "23:59:59"))
        whole = row.get("allDay") or until >= LAST_MINUTE
        begun = timedelta() if row.get("allDay") else _since_midnight(since)
        found.append((begun, DAY if whole else _since_midnight(until)))
    return found


def _covered(
    hours: Sequence[tuple[timedelta, timedelta]], since: timedelta, until: timedelta
) -> bool:
    while since < until:
        reached = max((end for begun, end in hours if begun <= since), default=since)
        if reached <= since:
            return False
        since = reached
    return True


def _since_midnight(clock: time) -> timedelta:
    return timedelta(hours=clock.hour, minutes=clock.minute, seconds=clock.second)


# --- the timetable -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Template:
    """A timetable and what is known of its program; `whole` where it is all of the program."""

    plan: Resource
    meetings: tuple[Meeting, ...]
    level: str
    adolescent: bool
    whole: bool

    @property
    def weeks(self) -> Iterator[list[Meeting]]:
        """Yield each week that a group of it may have."""
        return (week for group in groups(self.meetings) for week in weeks(self.meetings, group))


async def bad_plans(
    vocabulary: Vocabulary, changes: Sequence[Change], reader: Reader
) -> list[Finding]:
    """Return what is wrong with timetables that are drafts or active."""
    found = []
    for change in changes:
        severity = SEVERITIES.get(change.after["status"]) if change.after else None
        if change.after is None or severity is None or not _types(change.after) & {WHOLE, PART}:
            continue
        template = await _template(vocabulary, change.after, reader)
        for rule, wrong in PLAN_RULES.items():
            found += [
                Finding(change, text, "action", severity, rule=rule)
                for text in dict.fromkeys(wrong(vocabulary, template))
            ]
    return found


def _types(plan: Resource) -> set[str]:
    return {one.get("code", "") for one in plan.get("type", {}).get("coding", ())}


async def _template(vocabulary: Vocabulary, plan: Resource, reader: Reader) -> Template:
    known = await reader.get_all(programs(plan))
    service = next(iter(known.values()), {})
    marks, restrictions = service.get("characteristic"), vocabulary.values(service, RESTRICTION)
    young = vocabulary.code(marks, TRACK) == "adolescent"
    return Template(
        plan=plan,
        meetings=meetings(vocabulary, plan),
        level=vocabulary.code(marks, LEVEL),
        adolescent=young or "adolescents" in vocabulary.codes(restrictions, POPULATION),
        whole=WHOLE in _types(plan),
    )


def unusable_actions(vocabulary: Vocabulary, template: Template) -> Iterator[str]:
    """INV-PD-1: each action is one session of one kind, that comes again every week."""
    actions = template.plan.get("action", ())
    for action in actions:
        yield from (f"An action has {one}" for one in flaws(vocabulary, action))
    if len({one.get("id") for one in actions}) < len(actions):
        yield "Each action has an id of its own"


def wrong_minutes(vocabulary: Vocabulary, template: Template) -> Iterator[str]:
    """INV-PD-2: clinical minutes and breaks are the whole duration."""
    del vocabulary
    for one in template.meetings:
        if one.minutes + sum(length for _, length in one.breaks) != one.duration:
            yield "Clinical minutes and breaks of an action do not add up to its duration"


def long_days(vocabulary: Vocabulary, template: Template) -> Iterator[str]:
    """INV-PD-3: no day has more than eight hours that count."""
    del vocabulary
    for week in template.weeks:
        if max(minutes_by_weekday(_counting(week)).values(), default=0) > MOST_MINUTES_A_DAY:
            yield f"A day has more than {MOST_MINUTES_A_DAY} minutes that count"


def short_weeks_of_iop(vocabulary: Vocabulary, template: Template) -> Iterator[str]:
    """INV-PD-4: a week at level 2.1 has three days of the program, and the minutes of the level."""
    if template.level != "2.1" or not template.whole:
        return
    enough = IOP_DAY[template.adolescent]
    for week in template.weeks:
        days = minutes_by_weekday(_counting(week)).values()
        if sum(minutes >= enough for minutes in days) < IOP_DAYS:
            yield f"A week at level 2.1 has {IOP_DAYS} days with {enough} minutes that count"
    yield from wrong_weeks(vocabulary, template, "2.1")


def wrong_weeks(vocabulary: Vocabulary, template: Template, level: str = "2.5") -> Iterator[str]:
    """INV-PD-5: a week at level 2.5 has the minutes of the level."""
    del vocabulary
    if template.level != level or not template.whole:
        return
    known = LEVELS[level]
    assert known.minimum, "a level with a week of its own"
    assert known.maximum
    least, most = known.minimum[template.adolescent], known.maximum[template.adolescent]
    for week in template.weeks:
        total = sum(minutes_by_weekday(_counting(week)).values())
        if total < least:
            yield f"A week at level {level} has at least {least} minutes that count"
        if total > most or (total == most and not known.reachable):
            yield f"A week at level {level} has at most {most} minutes that count"


def overlapping(vocabulary: Vocabulary, template: Template) -> Iterator[str]:
    """INV-PD-6: a group is never in two sessions at once."""
    del vocabulary
    for week in template.weeks:
        for n, one in enumerate(week):
            if any(overlap(one, other) for other in week[n + 1 :]):
                yield "Two actions of the same group are at the same time"


def _counting(week: Iterable[Meeting]) -> list[Meeting]:
    """Return the sessions of a week whose minutes count towards the weekly hours."""
    return [one for one in week if one.kind in KINDS and KINDS[one.kind].counts]


PLAN_RULES: Mapping[str, Callable[[Vocabulary, Template], Iterator[str]]] = {
    "INV-PD-1": unusable_actions,
    "INV-PD-2": wrong_minutes,
    "INV-PD-3": long_days,
    "INV-PD-4": short_weeks_of_iop,
    "INV-PD-5": wrong_weeks,
    "INV-PD-6": overlapping,
}
