"""What the resources of a program say, as values: the one place that knows their shapes.

Arithmetic is done on these values. All moments are aware datetimes in UTC, periods are half-open.
References are as they are written (`Patient/1`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from app.domain import days
from app.domain.days import EARLIEST, FirstDay, instant, zone_named
from app.domain.vocabulary import (
    ATTENDANCE,
    BREAK,
    CAPACITY,
    CHARACTERISTIC,
    CLINICAL_MINUTES,
    DISCHARGE_REASON,
    KIND,
    LEVEL,
    LOC_PERIOD,
    MEASURE,
    MODE,
    POLICY,
    POPULATION,
    PROGRAM,
    REPLACES,
    RESTRICTION,
    SESSION,
    STAGE,
    TIMEZONE,
    TRACK,
    WEEK_START,
    Vocabulary,
    parts,
    several,
)
from app.fhir.errors import refused
from app.fhir.wire import Resource

Interval = tuple[datetime, datetime]

ADULT = 18  # years of age; who is younger is an adolescent


@dataclass(frozen=True)
class Program:
    """A HealthcareService that is a track of a program.

    `policy` are the numbers of its `iop-policy` extension by name, and the defaults of POLICIES.
    """

    reference: str
    zone: ZoneInfo
    week_start: FirstDay
    level: str
    track: str
    capacity: int | None
    populations: tuple[str, ...]
    organization: str
    policy: dict[str, int]


POLICIES = {
    "start-grace-minutes": 10,
    "end-grace-minutes": 10,
    "session-credit-percent": 50,
    "excuse-notice-hours": 24,
    "group-capacity": 12,
    "peer-support-counts": 0,
    "absences-for-review": 6,
}
# The least and the most that each of them may be
BOUNDS = {
    "start-grace-minutes": (0, 1440),
    "end-grace-minutes": (0, 1440),
    "session-credit-percent": (0, 100),
    "excuse-notice-hours": (0, 8760),
    "group-capacity": (1, 1000),
    "peer-support-counts": (0, 1),
    "absences-for-review": (0, 1000),
}


@dataclass(frozen=True)
class LevelPeriod:
    """A part of an episode at one level of care; `end` is None while it lasts."""

    level: str
    start: datetime
    end: datetime | None
    order: str
    program: str


@dataclass(frozen=True)
class Episode:
    """An EpisodeOfCare in a program.

    `holds` are the times it was on hold, `waits` those on the waiting list, ended or not.
    """

    reference: str
    patient: str
    organization: str
    program: str
    status: str
    start: datetime | None
    end: datetime | None
    levels: tuple[LevelPeriod, ...]
    holds: tuple[tuple[datetime, datetime | None], ...]
    waits: tuple[tuple[datetime, datetime | None], ...]
    discharge_reason: str


@dataclass(frozen=True)
class Session:
    """A session Appointment, of a group as a rule; `minutes` are the clinical ones.

    `replaces` is the cancelled session that it makes up for, "" for none.
    """

    reference: str
    identifier: str
    status: str
    start: datetime
    end: datetime
    kind: str
    minutes: int
    breaks: tuple[Interval, ...]
    mode: str
    group: str
    program: str
    replaces: str
    locations: tuple[str, ...]
    facilitators: tuple[str, ...]


@dataclass(frozen=True)
class Booking:
    """A patient Appointment; `session` is "" for one that belongs to no group session.

    `attendance` is the status in its `iop-attendance`, "" while nothing is known.
    """

    reference: str
    session: str
    patient: str
    status: str
    start: datetime
    end: datetime
    kind: str
    attendance: str


@dataclass(frozen=True)
class Visit:
    """A patient Encounter: what was attended.

    `credited` are its minutes, None where it does not say; `intervals` is when the patient was
    there, breaks not taken out. `counts` says whether its minutes count towards the weekly hours,
    None where that is for its kind to say.
    """

    reference: str
    patient: str
    episode: str
    status: str
    kind: str
    mode: str
    session: str
    booking: str
    part_of: str
    period: Interval
    intervals: tuple[Interval, ...]
    breaks: tuple[Interval, ...]
    credited: int | None
    counts: bool | None
    attendance: str


@dataclass(frozen=True)
class Membership:
    """A member of a roster: from a day on, and up to one; None for no end."""

    patient: str
    start: date
    end: date | None
    inactive: bool


@dataclass(frozen=True)
class Roster:
    """A Group that is the roster of a program; None for a `capacity` of which it says nothing."""

    reference: str
    program: str
    organization: str
    capacity: int | None
    track: str
    stage: str
    populations: tuple[str, ...]
    closed: bool
    members: tuple[Membership, ...]

    def on(self, day: date) -> tuple[str, ...]:
        """Return who is a member on a day, in the order of joining."""
        return tuple(dict.fromkeys(m.patient for m in self.members if covers(m, day)))


def covers(membership: Membership, day: date) -> bool:
    """Return whether a membership holds on a day: the day of leaving is no more one of it."""
    return membership.start <= day and (membership.end is None or day < membership.end)


def period(element: Resource | None) -> tuple[datetime | None, datetime | None]:
    """Return start and end of a Period of instants."""
    found = element or {}
    start, end = found.get("start"), found.get("end")
    return start and instant(start), end and instant(end)


def intervals(periods: Iterable[Resource]) -> tuple[Interval, ...]:
    """Return Periods that have both ends."""
    found = (period(one) for one in periods)
    return tuple((start, end) for start, end in found if start is not None and end is not None)


def reference(element: Resource | None) -> str:
    """Return the text of a Reference, "" for none."""
    return str((element or {}).get("reference", ""))


def program(vocabulary: Vocabulary, resource: Resource) -> Program:
    """Return a HealthcareService as a program; a 422 where it has no usable time zone."""
    v = vocabulary
    name = v.value(resource, TIMEZONE)
    if not name:
        text = "The program has no iop-timezone, so that its days are not known"
        raise refused("required", text, "HealthcareService.extension", 422)
    own = next((parts(one) for one in v.all(resource, POLICY)), {})
    marks = resource.get("characteristic", [])
    return Program(
        reference=f"HealthcareService/{resource['id']}",
        zone=zone_named(name),
        week_start="sun" if v.value(resource, WEEK_START) == "sun" else "mon",
        level=v.code(marks, LEVEL),
        track=v.code(marks, TRACK),
        capacity=v.value(resource, CAPACITY),
        populations=tuple(v.codes(v.values(resource, RESTRICTION), POPULATION)),
        organization=reference(resource.get("providedBy")),
        policy={**POLICIES, **own},
    )


def episode(vocabulary: Vocabulary, resource: Resource) -> Episode:
    """Return an EpisodeOfCare as a value."""
    v = vocabulary
    levels = []
    for one in v.all(resource, LOC_PERIOD):
        said = parts(one)
        start, end = period(said.get("period"))
        if start is not None:
            order, place = reference(said.get("order")), reference(said.get("program"))
            levels.append(LevelPeriod(v.code(said.get("code"), LEVEL), start, end, order, place))
    start, end = period(resource.get("period"))
    times: dict[str, list[tuple[datetime, datetime | None]]] = {"onhold": [], "waitlist": []}
    for past in resource.get("statusHistory", ()):
        begun, ended = period(past.get("period"))
        if past["status"] in times and begun is not None:
            times[past["status"]].append((begun, ended))
    return Episode(
        reference=f"EpisodeOfCare/{resource['id']}",
        patient=reference(resource.get("patient")),
        organization=reference(resource.get("managingOrganization")),
        program=reference(v.value(resource, PROGRAM)),
        status=resource["status"],
        start=start,
        end=end,
        levels=tuple(sorted(levels, key=lambda one: one.start)),
        holds=tuple(times["onhold"]),
        waits=tuple(times["waitlist"]),
        discharge_reason=v.code(v.value(resource, DISCHARGE_REASON), DISCHARGE_REASON),
    )


def times(appointment: Resource) -> Interval:
    """Return when an Appointment is; one that has no time yet, or none any more, is long ago."""
    start = instant(appointment["start"]) if "start" in appointment else EARLIEST
    return start, instant(appointment["end"]) if "end" in appointment else start


def session(vocabulary: Vocabulary, resource: Resource) -> Session:
    """Return a session Appointment as a value; without clinical minutes they are its length."""
    v = vocabulary
    start, end = times(resource)
    breaks = intervals(v.values(resource, BREAK))
    length = (end - start - sum((b - a for a, b in breaks), timedelta())).total_seconds()
    actors = [reference(one.get("actor")) for one in resource.get("participant", ())]
    about = [reference(one) for one in resource.get("supportingInformation", ())]
    urns = [one.get("value", "") for one in resource.get("identifier", ())]
    return Session(
        reference=f"Appointment/{resource['id']}",
        identifier=next((one for one in urns if one.startswith("urn:iop:session:")), ""),
        status=resource["status"],
        start=start,
        end=end,
        kind=v.code(resource.get("serviceType"), KIND),
        minutes=v.value(resource, CLINICAL_MINUTES) or int(length // 60),
        breaks=breaks,
        mode=v.value(resource, MODE) or "in-person",
        group=next((one for one in about if one.startswith("Group/")), ""),
        program=next((one for one in actors if one.startswith("HealthcareService/")), ""),
        replaces=reference(v.value(resource, REPLACES)),
        locations=tuple(one for one in actors if one.startswith("Location/")),
        facilitators=tuple(one for one in actors if one.startswith("Practitioner")),
    )


def booking(vocabulary: Vocabulary, resource: Resource) -> Booking:
    """Return a patient Appointment as a value."""
    v = vocabulary
    actors = [reference(one.get("actor")) for one in resource.get("participant", ())]
    said = next((parts(one) for one in v.all(resource, ATTENDANCE)), {})
    start, end = times(resource)
    return Booking(
        reference=f"Appointment/{resource['id']}",
        session=reference(v.value(resource, SESSION)),
        patient=next((one for one in actors if one.startswith("Patient/")), ""),
        status=resource["status"],
        start=start,
        end=end,
        kind=v.code(resource.get("serviceType"), KIND),
        attendance=said.get("status", ""),
    )


def visit(vocabulary: Vocabulary, resource: Resource) -> Visit | None:
    """Return a patient Encounter as a value, None for one that has not begun and ended."""
    v = vocabulary
    start, end = period(resource.get("period"))
    if start is None or end is None:
        return None
    said = next(iter(v.all(resource, ATTENDANCE)), {})
    own = parts(said)
    return Visit(
        reference=f"Encounter/{resource['id']}",
        patient=reference(resource.get("subject")),
        episode=next((reference(one) for one in resource.get("episodeOfCare", ())), ""),
        status=resource["status"],
        kind=v.code(resource.get("type"), KIND),
        mode="telehealth" if resource["class"].get("code") == "VR" else "in-person",
        session=reference(v.value(resource, SESSION)),
        booking=next((reference(one) for one in resource.get("appointment", ())), ""),
        part_of=reference(resource.get("partOf")),
        period=(start, end),
        intervals=intervals(several(said, "presence")),
        breaks=intervals(v.values(resource, BREAK)),
        credited=own.get("credited"),
        counts=own.get("countsTowardHours"),
        attendance=own.get("status", ""),
    )


def roster(vocabulary: Vocabulary, resource: Resource) -> Roster:
    """Return a roster Group as a value."""
    v = vocabulary
    marks = {
        v.code(one["code"], CHARACTERISTIC): one.get("valueCodeableConcept")
        for one in resource.get("characteristic", ())
    }
    populations = v.codes(v.values(resource, RESTRICTION), POPULATION)
    return Roster(
        reference=f"Group/{resource['id']}",
        program=reference(v.value(resource, PROGRAM)),
        organization=reference(resource.get("managingEntity")),
        capacity=v.value(resource, CAPACITY),
        track=v.code(marks.get("track"), TRACK),
        stage=v.code(marks.get("stage"), STAGE),
        populations=tuple(v.codes(marks.get("population"), POPULATION) or populations),
        closed=v.code(marks.get("enrollment"), CHARACTERISTIC) == "closed",
        members=tuple(membership(one) for one in resource.get("member", ())),
    )


def membership(member: Resource) -> Membership:
    """Return a Group.member as a value: periods of rosters have whole days."""
    said = member.get("period", {})
    start, end = (_day(said[name]) if name in said else None for name in ("start", "end"))
    inactive = bool(member.get("inactive"))
    return Membership(reference(member["entity"]), start or date.min, end, inactive)


def _day(text: str) -> date:
    """Return the day that a dateTime writes, the first one of a month or a year."""
    return date.fromisoformat(text[:10]) if len(text) >= len("2026-03-02") else instant(text).date()


def born(patient: Resource) -> date | None:
    """Return the birth date of a Patient; the first day where it is only a month or a year."""
    text = patient.get("birthDate")
    return instant(text).date() if text else None


def weekly_minutes(order: Resource) -> int | None:
    """Return the minutes a week that a level-of-care order asks for, None where it says none."""
    ratio = order.get("quantityRatio", {})
    amount, weeks = (ratio.get(n, {}).get("value") for n in ("numerator", "denominator"))
    return int(amount * 60 / (weeks or 1)) if amount is not None else None


def meetings(vocabulary: Vocabulary, observation: Resource, zone: ZoneInfo) -> tuple[date, int]:
    """Return the day and the number of mutual-support meetings that a patient has reported."""
    said = observation.get("effectiveDateTime") or observation["effectivePeriod"]["start"]
    day = instant(said).astimezone(zone).date() if "T" in said else instant(said).date()
    known = vocabulary.code(observation.get("code"), MEASURE) == "mutual-support-meetings"
    return day, observation.get("valueInteger", 0) if known else 0


def age(patient: Resource, day: date) -> int | None:
    """Return the whole years of a patient on a day, None where the birth date is not known."""
    birth = born(patient)
    return days.age(birth, day) if birth else None
