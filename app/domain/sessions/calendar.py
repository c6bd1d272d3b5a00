"""A timetable as Appointments: what its sessions look like, and who has a place in them: pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from app.domain.chart import Episode, Roster, Session, intervals, reference
from app.domain.days import instant, local_day, written
from app.domain.program.timetable import Occurrence
from app.domain.sessions.bookings import accepted, covers
from app.domain.vocabulary import (
    BREAK,
    CLINICAL_MINUTES,
    KIND,
    MODE,
    REPLACES,
    SERVICE_CATEGORY,
    URI,
    Vocabulary,
)
from app.fhir.wire import Resource

ALCOHOL_AND_DRUGS = "12"  # of service-category
# What a timetable says of a session: elements, and extensions
ELEMENTS = ("serviceCategory", "serviceType", "start", "end", "minutesDuration")
EXTENSIONS = (CLINICAL_MINUTES, BREAK, MODE)


@dataclass(frozen=True)
class Place:
    """Where and by whom a session of a timetable is held; "" for no group."""

    program: str
    zone: ZoneInfo
    group: str
    facilitators: tuple[str, ...]


def appointment(
    vocabulary: Vocabulary, occurrence: Occurrence, place: Place, name: str, id: str
) -> Resource:
    """Return the session Appointment of a session of a timetable."""
    v, meeting, zone = vocabulary, occurrence.meeting, place.zone
    actors = (place.program, meeting.location, *place.facilitators)
    length = occurrence.end - occurrence.start
    resource: Resource = {
        "resourceType": "Appointment",
        "id": id,
        "extension": [
            v.extended(CLINICAL_MINUTES, valuePositiveInt=meeting.minutes),
            *(_break(v, start, end, zone) for start, end in occurrence.breaks),
            v.extended(MODE, valueCode=meeting.mode),
        ],
        "identifier": [{"system": URI, "value": name}],
        "status": "booked",
        "serviceCategory": [{"coding": [{"system": SERVICE_CATEGORY, "code": ALCOHOL_AND_DRUGS}]}],
        "serviceType": [v.concept(KIND, meeting.kind)],
        "start": written(occurrence.start, zone),
        "end": written(occurrence.end, zone),
        "minutesDuration": int(length.total_seconds() // 60),
        "participant": [accepted(one) for one in actors if one],
    }
    if place.group:
        resource["supportingInformation"] = [{"reference": place.group}]
    return resource


def _break(vocabulary: Vocabulary, start: datetime, end: datetime, zone: ZoneInfo) -> Resource:
    period = {"start": written(start, zone), "end": written(end, zone)}
    return vocabulary.extended(BREAK, valuePeriod=period)


def following(vocabulary: Vocabulary, stored: Resource, wanted: Resource) -> Resource:
    """Return a stored session as its timetable has it now; what that does not say is kept.

    Who leads it and where it is are kept, if nothing else is wanted.
    """
    urls = {vocabulary.extension(name) for name in EXTENSIONS}
    others = [one for one in stored.get("extension", ()) if one.get("url") not in urls]
    return {
        **stored,
        **{name: wanted[name] for name in ELEMENTS},
        "extension": [*wanted["extension"], *others],
        "participant": _participants(stored["participant"], wanted["participant"]),
    }


def _participants(stored: Sequence[Resource], wanted: Sequence[Resource]) -> list[Resource]:
    """Return the wanted participants, and of what there is each sort that nothing is wanted of."""
    sorts = {_sort(one) for one in wanted}
    found = [one for one in stored if _sort(one) not in sorts]
    return sorted([*wanted, *found], key=lambda one: SORTS.get(_sort(one), len(SORTS)))


SORTS = {"HealthcareService": 0, "Location": 1, "Practitioner": 2}


def _sort(participant: Resource) -> str:
    """Return the type of a participant; Practitioner for a PractitionerRole as well."""
    type = reference(participant.get("actor")).partition("/")[0]
    return type.removesuffix("Role")


def makeup(
    vocabulary: Vocabulary, session: Resource, start: datetime, zone: ZoneInfo, id: str
) -> Resource:
    """Return the Appointment that makes up for a cancelled one, at another time."""
    v, late = vocabulary, start - instant(session["start"])
    breaks = intervals(v.values(session, BREAK))
    moved = {v.extension(BREAK), v.extension(REPLACES)}
    kept = [one for one in session.get("extension", ()) if one.get("url") not in moved]
    link = {"reference": f"Appointment/{session['id']}"}
    names = [one for one in session.get("identifier", ()) if one.get("system") == URI]
    left_out = {"meta", "text", "identifier", "cancelationReason"}
    resource = {
        **{name: held for name, held in session.items() if name not in left_out},
        "id": id,
        "status": "booked",
        "extension": [
            *kept,
            *(_break(v, begun + late, ended + late, zone) for begun, ended in breaks),
            v.extended(REPLACES, valueReference=link),
        ],
        "start": written(start, zone),
        "end": written(instant(session["end"]) + late, zone),
    }
    if names:
        resource["identifier"] = [{"system": URI, "value": f"{names[0]['value']}:makeup"}]
    return resource


Episodes = Sequence[tuple[Episode, ZoneInfo]]


def expected(
    roster: Roster, episodes: Mapping[str, Episodes], session: Session, zone: ZoneInfo
) -> list[str]:
    """Return the members of a roster who have a place in a session of it: who are in treatment."""
    return [
        patient
        for patient in roster.on(local_day(session.start, zone))
        if in_treatment(episodes.get(patient, ()), session.start)
    ]


def in_treatment(episodes: Episodes, moment: datetime) -> bool:
    """Return whether one of somebody's episodes covers a moment."""
    return any(covers(one, moment, zone) for one, zone in episodes)
