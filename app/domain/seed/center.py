"""Cedar Path Recovery, which does not exist: its places, staff, tracks and timetables.

A track is a HealthcareService. Each of its groups has a timetable of its own (a PlanDefinition), a
room and a therapist, so that nothing is ever booked twice.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date, time
from decimal import Decimal
from zoneinfo import ZoneInfo

from app.domain import days
from app.domain.vocabulary import (
    BREAK,
    CAPACITY,
    CHARACTERISTIC,
    CLINICAL_MINUTES,
    GROUP_REF,
    KIND,
    LEVEL,
    LOCATION,
    MODE,
    POPULATION,
    PROGRAM,
    RESTRICTION,
    ROLE,
    SERVICE_CATEGORY,
    TIMEZONE,
    TRACK,
    UCUM,
    WEEK_START,
    Vocabulary,
)
from app.fhir.wire import Resource

SERVICE_TYPE = "http://terminology.hl7.org/CodeSystem/service-type"
ORGANIZATION_TYPE = "http://terminology.hl7.org/CodeSystem/organization-type"
PLAN_TYPE = "http://terminology.hl7.org/CodeSystem/plan-definition-type"
USAGE = "http://terminology.hl7.org/CodeSystem/usage-context-type"
PLACE_TYPE = "http://terminology.hl7.org/CodeSystem/location-physical-type"
NPI = "http://hl7.org/fhir/sid/us-npi"
NUCC = "http://nucc.org/provider-taxonomy"

PACIFIC = ZoneInfo("America/Los_Angeles")
WEEK = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
CEDAR = "Organization/cedar-path"
HARBOR = "Organization/harbor-path"
LARGE = "day"  # the track that may be several times as large as its row says
ROOMS = 6


@dataclass(frozen=True)
class Slot:
    """A recurring session of a timetable; `minutes` are the clinical ones."""

    id: str
    title: str
    days: tuple[str, ...]
    start: time
    length: int
    minutes: int
    pause: tuple[time, time] | None = None
    kind: str = "group"


@dataclass(frozen=True)
class Track:
    """A row of the table of tracks: its level, hours, timetable, groups, and how many are there.

    `rooms` and `therapists` are numbers, one for each group. `alone` is when its patients see their
    therapist alone. One that is `part_of` another track has no program of its own: its groups are
    for patients of that one.
    """

    id: str
    name: str
    code: str
    level: str
    hours: Decimal
    slots: tuple[Slot, ...]
    groups: int
    capacity: int
    active: int
    rooms: tuple[int, ...]
    therapists: tuple[int, ...]
    alone: time
    population: str = ""
    part_of: str = ""
    organization: str = CEDAR
    zone: ZoneInfo = PACIFIC

    @property
    def program(self) -> str:
        """Return the reference of the program that its patients are in."""
        return f"HealthcareService/{self.part_of or self.id}"


def _slot(days: str, start: str, length: int, pause: str = "", **more: str) -> Slot:
    """Return a slot: `_slot("mon tue", "09:00", 195, "10:30-10:45")`."""
    begin, _, end = pause.partition("-")
    between = (time.fromisoformat(begin), time.fromisoformat(end)) if pause else None
    rest = 0
    if between is not None:
        rest = (between[1].hour - between[0].hour) * 60 + between[1].minute - between[0].minute
    said = {"id": "group", "title": "Group therapy", **more}
    clock = time.fromisoformat(start)
    return Slot(
        days=tuple(days.split()),
        start=clock,
        length=length,
        minutes=length - rest,
        pause=between,
        **said,
    )


TRACKS = (
    Track("day", "Day track", "day", "2.1", Decimal(12),
          (_slot("mon tue thu fri", "09:00", 195, "10:30-10:45"),),
          3, 12, 30, (1, 2, 3), (1, 2, 3), time(13)),
    Track("evening", "Evening track", "evening", "2.1", Decimal(9),
          (_slot("mon wed thu", "18:00", 195, "19:30-19:45"),),
          3, 12, 30, (1, 2, 3), (4, 5, 6), time(15)),
    Track("hiop", "High-intensity track", "high-intensity", "2.5", Decimal(25),
          (_slot("mon tue wed thu fri", "09:00", 195, "10:30-10:45"),
           _slot("mon tue wed thu fri", "13:00", 120, id="skills", title="Skills training",
                 kind="skills")),
          1, 12, 8, (4,), (7,), time(15, 15)),
    Track("women", "Morning track", "women", "2.1", Decimal(9),
          (_slot("tue wed fri", "10:00", 195, "11:30-11:45"),),
          1, 10, 9, (5,), (8,), time(14), "women"),
    Track("veterans", "Afternoon track", "veterans", "2.1", Decimal(9),
          (_slot("mon wed fri", "13:00", 195, "14:30-14:45"),),
          1, 10, 8, (1,), (9,), time(9), "veterans"),
    Track("adolescent", "After-school track", "adolescent", "2.1", Decimal(6),
          (_slot("mon wed thu", "16:00", 120),),
          1, 8, 7, (5,), (10,), time(18, 15), "adolescents"),
    Track("tuesday", "Tuesday group", "lgbtq", "2.1", Decimal(1),
          (_slot("tue", "17:00", 60),), 1, 8, 6, (2,), (4,), time(15), "lgbtq", "evening"),
    Track("friday", "Friday group", "evening", "2.1", Decimal(1),
          (_slot("fri", "17:00", 60),), 1, 8, 6, (3,), (5,), time(15), "trauma-survivors",
          "evening"),
    Track("continuing", "Continuing care", "continuing-care", "1.5", Decimal("1.5"),
          (_slot("tue", "18:00", 90),), 2, 15, 20, (1, 2), (1, 2), time(15)),
    Track("harbor", "Harbor evening track", "evening", "2.1", Decimal(9),
          (_slot("mon wed thu", "18:00", 195, "19:30-19:45"),),
          1, 10, 4, (6,), (11,), time(15), organization=HARBOR, zone=ZoneInfo("America/New_York")),
)  # fmt: skip

# Who works there beside the therapists: id, family and given name, role, taxonomy (NUCC)
STAFF = (
    ("director", "Okafor", "Grace", "program-director", ""),
    ("medical-director", "Lindqvist", "Anders", "medical-director", ""),
    ("psychiatrist-1", "Haddad", "Samir", "psychiatrist", ""),
    ("psychiatrist-2", "Moreau", "Claire", "psychiatrist", ""),
    ("prescriber-1", "Nakata", "Yumi", "prescriber", ""),
    ("prescriber-2", "Boateng", "Kofi", "prescriber", ""),
    ("nurse-1", "Reyes", "Marisol", "nurse", ""),
    ("nurse-2", "Fitzgerald", "Owen", "nurse", ""),
    ("case-manager-1", "Abbott", "Lena", "case-manager", "171M00000X"),
    ("case-manager-2", "Duarte", "Paulo", "case-manager", "171M00000X"),
    ("case-manager-3", "Singh", "Harpreet", "case-manager", "171M00000X"),
    ("peer-1", "Walker", "Tasha", "peer", "175T00000X"),
    ("peer-2", "Kowalski", "Jan", "peer", "175T00000X"),
    ("front-desk-1", "Ortega", "Nina", "front-desk", ""),
    ("front-desk-2", "Bell", "Marcus", "front-desk", ""),
    ("ur-specialist", "Chen", "Alice", "ur-specialist", ""),
)
THERAPISTS = (
    "Alvarez Rosa", "Bergman Noah", "Castillo Ines", "Dubois Marc", "Eriksen Tove", "Farah Leila",
    "Goldberg Amos", "Hughes Bronwen", "Ibrahim Yusuf", "Jovanovic Mila", "Keane Declan",
)  # fmt: skip
COUNSELOR = "101YA0400X"

# What else it has to do with: id, name, type (organization-type)
PARTNERS = (
    ("payer-medicaid", "State Medicaid Plan", "pay"),
    ("payer-commercial", "Evergreen Health Plan", "pay"),
    ("payer-medicare", "Medicare Plan", "pay"),
    ("partner-housing", "Safe Harbor Housing", "other"),
    ("partner-vocational", "Step Forward Vocational Center", "edu"),
    ("partner-legal", "Community Legal Aid", "other"),
    ("partner-peer", "Peer Recovery Network", "other"),
    ("employer-1", "Riverside Foods", "bus"),
    ("probation-1", "County Probation Office", "govt"),
)


@dataclass(frozen=True)
class Group:
    """One group of a track: its id is that of the roster and of the timetable."""

    id: str
    track: Track
    room: str
    therapist: str
    capacity: int
    number: int

    @property
    def reference(self) -> str:
        """Return the reference of the roster."""
        return f"Group/{self.id}"


@dataclass(frozen=True)
class Center:
    """The tracks that a seed has, with their groups; the day track may be `times` as large."""

    tracks: tuple[Track, ...]
    groups: tuple[Group, ...]
    times: int

    def of(self, track: str) -> list[Group]:
        """Return the groups of a track."""
        return [one for one in self.groups if one.track.id == track]

    def active(self, track: Track) -> int:
        """Return how many patients a track has on average."""
        return track.active * (self.times if track.id == LARGE else 1)


def center(wanted: Iterable[str], times: int = 1, at_most: int = 0) -> Center:
    """Return the center with these tracks (all, if none is named).

    `at_most` is how many groups each track has, 0 for as many as its row says.
    """
    chosen = set(wanted)
    tracks = tuple(one for one in TRACKS if not chosen or one.id in chosen)
    groups: list[Group] = []
    for track in tracks:
        count = min(track.groups, at_most or track.groups)
        for n in range(count * (times if track.id == LARGE else 1)):
            room, therapist = track.rooms[n % count], track.therapists[n % count]
            if n >= count:  # those beyond the row have rooms and therapists of their own
                room, therapist = ROOMS + n - count + 1, len(THERAPISTS) + n - count + 1
            groups.append(
                Group(
                    id=f"{track.id}-{n + 1}",
                    track=track,
                    room=f"Location/room-{room}",
                    therapist=f"PractitionerRole/therapist-{therapist}",
                    capacity=track.capacity,
                    number=len(groups) + 1,
                )
            )
    return Center(tracks, tuple(groups), times)


def full(center: Center) -> Group:
    """Return a group that has place for one, and no sessions."""
    like = center.of("evening")[0]
    return replace(like, id="full", capacity=1, number=len(center.groups) + 1)


def resources(v: Vocabulary, center: Center, opened: date) -> Iterator[Resource]:
    """Yield all that is there before the first patient comes, what others refer to first."""
    yield organization("cedar-path", "Cedar Path Recovery", "prov")
    yield organization("harbor-path", "Harbor Path Recovery", "prov")
    for partner in PARTNERS:
        yield organization(*partner)
    more = max(0, len(center.of(LARGE)) - 3)
    yield from places(ROOMS + more)
    yield from staff(v, len(THERAPISTS) + more, opened)
    for track in center.tracks:
        if not track.part_of:
            yield program(v, track, center)
    for group in center.groups:
        yield roster(v, group)
        yield timetable(v, group, opened)
    yield roster(v, full(center))


def organization(id: str, name: str, type: str) -> Resource:
    """Return an Organization."""
    return {
        "resourceType": "Organization",
        "id": id,
        "active": True,
        "type": [{"coding": [{"system": ORGANIZATION_TYPE, "code": type}]}],
        "name": name,
        "telecom": [{"system": "phone", "value": "+1-555-0100", "use": "work"}],
    }


def places(rooms: int) -> Iterator[Resource]:
    """Yield the sites, the rooms and the virtual room."""
    for id, name in (("site-main", "Main site"), ("site-annex", "Annex")):
        yield _place(id, name, "si")
    for n in range(1, rooms + 1):
        yield {**_place(f"room-{n}", f"Room {n}", "ro"),
               "partOf": {"reference": "Location/site-main"}}  # fmt: skip
    yield {**_place("virtual", "Virtual room", ""), "mode": "instance"}


def _place(id: str, name: str, type: str) -> Resource:
    found: Resource = {"resourceType": "Location", "id": id, "status": "active", "name": name}
    if type:
        found["physicalType"] = {"coding": [{"system": PLACE_TYPE, "code": type}]}
    return {**found, "managingOrganization": {"reference": CEDAR}}


def staff(v: Vocabulary, therapists: int, opened: date) -> Iterator[Resource]:
    """Yield who works there: a Practitioner and a PractitionerRole each, of the same id."""
    rows = [(*row, CEDAR) for row in STAFF]
    for n in range(therapists):
        family, given = THERAPISTS[n % len(THERAPISTS)].split()
        home = HARBOR if n == 10 else CEDAR
        rows.append((f"therapist-{n + 1}", family, given, "therapist", COUNSELOR, home))
    for n, (id, family, given, role, taxonomy, home) in enumerate(rows, 1):
        since = {"start": f"{opened.year - 3}-01-01"}
        yield {
            "resourceType": "Practitioner",
            "id": id,
            "identifier": [{"system": NPI, "value": npi(n)}],
            "active": True,
            "name": [{"family": family, "given": [given]}],
            "qualification": [{"code": {"text": f"Licensed {role}"}, "period": since}],
        }
        codes = [v.coding(ROLE, role)]
        codes += [{"system": NUCC, "code": taxonomy}] if taxonomy else []
        yield {
            "resourceType": "PractitionerRole",
            "id": id,
            "active": True,
            "period": since,
            "practitioner": {"reference": f"Practitioner/{id}", "display": f"{given} {family}"},
            "organization": {"reference": home},
            "code": [{"coding": codes}],
            "location": [{"reference": "Location/site-main"}],
            "telecom": [{"system": "phone", "value": f"+1-555-01{n % 100:02}", "use": "work"}],
        }


def npi(n: int) -> str:
    """Return a made-up National Provider Identifier whose check digit is right (Luhn, 80840)."""
    digits = f"808401{n:08}"
    total = 0
    for place, digit in enumerate(reversed(digits)):
        doubled = int(digit) * (2 if place % 2 == 0 else 1)
        total += doubled - 9 if doubled > 9 else doubled
    return f"{digits[5:]}{-total % 10}"


def program(v: Vocabulary, track: Track, center: Center) -> Resource:
    """Return the HealthcareService of a track."""
    groups = center.of(track.id)
    restriction = [v.extended(RESTRICTION, valueCodeableConcept=v.concept(POPULATION, one))
                   for one in [track.population] if one]  # fmt: skip
    parts = [one for one in center.tracks if track.id in (one.id, one.part_of)]
    return {
        "resourceType": "HealthcareService",
        "id": track.id,
        "extension": [
            v.extended(TIMEZONE, valueCode=track.zone.key),
            v.extended(WEEK_START, valueCode="mon"),
            v.extended(CAPACITY, valuePositiveInt=sum(one.capacity for one in groups)),
            *restriction,
        ],
        "active": True,
        "providedBy": {"reference": track.organization},
        "category": [{"coding": [{"system": SERVICE_CATEGORY, "code": "12"}]}],
        "type": [{"coding": [{"system": SERVICE_TYPE, "code": "108"}]}],
        "location": [{"reference": "Location/site-main"}],
        "name": track.name,
        "telecom": [
            {"system": "phone", "value": "+1-555-0199", "use": "work", "rank": 1},
            {"system": "phone", "value": "+1-555-0100", "use": "work", "rank": 2},
        ],
        "characteristic": [v.concept(TRACK, track.code), v.concept(LEVEL, track.level)],
        "availableTime": [
            {
                "daysOfWeek": [day for day in WEEK if any(day in s.days for s in one.slots)],
                "availableStartTime": f"{min(slot.start for slot in one.slots)}",
                "availableEndTime": f"{max(ends(slot) for slot in one.slots)}",
            }
            for one in parts
        ],
    }


def ends(slot: Slot) -> time:
    """Return when a session ends by the clock; none goes on after midnight."""
    minutes = slot.start.hour * 60 + slot.start.minute + slot.length
    return time(minutes // 60, minutes % 60)


def roster(v: Vocabulary, group: Group) -> Resource:
    """Return the roster of a group before anybody has joined; its name says nothing (LK7)."""
    track = group.track
    marks = [("track", v.concept(TRACK, track.code)),
             ("mode", v.concept(CHARACTERISTIC, "in-person")),
             ("enrollment", v.concept(CHARACTERISTIC, "open"))]  # fmt: skip
    if track.population:
        marks.append(("population", v.concept(POPULATION, track.population)))
    return {
        "resourceType": "Group",
        "id": group.id,
        "extension": [
            v.extended(PROGRAM, valueReference={"reference": track.program}),
            v.extended(CAPACITY, valuePositiveInt=group.capacity),
        ],
        "active": True,
        "type": "person",
        "actual": True,
        "code": v.concept(CHARACTERISTIC, "iop-group-roster"),
        "name": f"Group {group.number}",
        "managingEntity": {"reference": track.organization},
        "characteristic": [
            {"code": v.concept(CHARACTERISTIC, code), "valueCodeableConcept": said,
             "exclude": False}
            for code, said in marks
        ],
    }  # fmt: skip


def timetable(v: Vocabulary, group: Group, opened: date) -> Resource:
    """Return the weekly timetable of a group."""
    track = group.track
    kind = "clinical-protocol" if track.part_of else "workflow-definition"  # the whole week of it
    return {
        "resourceType": "PlanDefinition",
        "id": group.id,
        "title": f"{track.name}, group {group.number}",
        "type": {"coding": [{"system": PLAN_TYPE, "code": kind}]},
        "status": "active",
        "useContext": [
            {"code": {"system": USAGE, "code": "program"},
             "valueReference": {"reference": track.program}}
        ],
        "action": [_action(v, group, slot, opened) for slot in track.slots],
    }  # fmt: skip


def _action(v: Vocabulary, group: Group, slot: Slot, opened: date) -> Resource:
    extensions = [
        v.extended(CLINICAL_MINUTES, valuePositiveInt=slot.minutes),
        v.extended(MODE, valueCode="in-person"),
        v.extended(LOCATION, valueReference={"reference": group.room}),
        v.extended(GROUP_REF, valueReference={"reference": group.reference}),
    ]
    if slot.pause:  # its date does not count
        zone = group.track.zone
        start, end = (days.written(days.at(opened, one, zone), zone) for one in slot.pause)
        extensions.append(v.extended(BREAK, valuePeriod={"start": start, "end": end}))
    return {
        "id": slot.id,
        "extension": extensions,
        "title": slot.title,
        "code": [v.concept(KIND, slot.kind)],
        "timingTiming": {
            "repeat": {
                "duration": slot.length,
                "durationUnit": "min",
                "dayOfWeek": list(slot.days),
                "timeOfDay": [f"{slot.start}"],
            }
        },
    }


def hours_a_week(hours: Decimal) -> Resource:
    """Return a Ratio of hours and a week."""
    return {
        "numerator": {"value": hours, "unit": "h", "system": UCUM, "code": "h"},
        "denominator": {"value": 1, "unit": "wk", "system": UCUM, "code": "wk"},
    }
