"""Patient Appointments: a place in a session, or an hour alone, of one patient.

A session Appointment names no patient. Each of its patients has a booking of his own, which points
to the session and repeats of it what he needs to come: what kind, when, where, with whom.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from app.domain.chart import Booking, Episode, reference
from app.domain.chart import booking as booking_of
from app.domain.chart import episode as episode_of
from app.domain.days import DAY, local_day, midnight, written, zone_named
from app.domain.vocabulary import CANCELATION, SESSION, TIMEZONE, URI, Vocabulary
from app.fhir.reader import Reader
from app.fhir.wire import Resource

# Of a session, what its bookings repeat
SHARED = ("serviceCategory", "serviceType", "start", "end", "minutesDuration")
SOME = 50
# A booking of one of these is a promise that is still to be kept
BOOKED = frozenset({"booked", "arrived", "checked-in"})
# An episode of one of these has sessions, where the day is one of it
ATTENDING = frozenset({"active", "onhold", "finished"})


def identifier(session: str, patient: str) -> Resource:
    """Return the Identifier of the booking of a patient for a session, from their references."""
    ids = ":".join(one.rpartition("/")[2] for one in (session, patient))
    return {"system": URI, "value": f"urn:iop:booking:{ids}"}


def booking(vocabulary: Vocabulary, session: Resource, patient: str, id: str) -> Resource:
    """Return the Appointment of a patient for a session."""
    place = f"Appointment/{session['id']}"
    return {
        "resourceType": "Appointment",
        "id": id,
        "extension": [vocabulary.extended(SESSION, valueReference={"reference": place})],
        "identifier": [identifier(place, patient)],
        "status": "booked",
        **shown(session),
        "participant": [accepted(patient), *hosts(session)],
    }


def moved(booking: Resource, session: Resource) -> Resource:
    """Return a booking that says again what its session says, for the same patient."""
    own = [one for one in booking["participant"] if _is_patient(one)]
    kept = {name: held for name, held in booking.items() if name not in SHARED}
    return {**kept, **shown(session), "participant": [*own, *hosts(session)]}


def shown(session: Resource) -> Resource:
    """Return the elements of a session that its bookings repeat."""
    return {name: session[name] for name in SHARED if name in session}


def hosts(session: Resource) -> list[Resource]:
    """Return the participants of a session that its bookings repeat: who leads it, and where."""
    return [
        one
        for one in session.get("participant", ())
        if not reference(one.get("actor")).startswith("HealthcareService/")
    ]


def accepted(actor: str) -> Resource:
    """Return a participant of an Appointment who has to come, and will."""
    return {"actor": {"reference": actor}, "required": "required", "status": "accepted"}


def patient_of(appointment: Resource) -> str:
    """Return the reference of the patient whose booking an Appointment is, "" for a session."""
    patients = (one["actor"]["reference"] for one in appointment["participant"] if _is_patient(one))
    return next(patients, "")


def _is_patient(participant: Resource) -> bool:
    return reference(participant.get("actor")).startswith("Patient/")


def cancelled(appointment: Resource, reason: str, text: str = "") -> Resource:
    """Return an Appointment cancelled, for a reason of appointment-cancellation-reason."""
    said: Resource = {"coding": [{"system": CANCELATION, "code": reason}]}
    if text:
        said["text"] = text
    return {**appointment, "status": "cancelled", "cancelationReason": said}


async def sessions_of(reader: Reader, group: str, since: datetime) -> list[Resource]:
    """Return the session Appointments of a group that are booked from a moment on, by start."""
    found = await reader.search(
        "Appointment",
        ("supporting-info", group),
        ("status", "booked"),
        ("date", f"ge{written(since)}"),
    )
    own = [one for one in found if not patient_of(one)]
    return sorted(own, key=lambda one: (one["start"], one["id"]))


def covers(episode: Episode, moment: datetime, zone: ZoneInfo) -> bool:
    """Return whether somebody is in treatment at a moment: in the episode, and not on hold.

    The day on which a hold begins is on hold already.
    """
    if episode.status not in ATTENDING or episode.start is None or moment < episode.start:
        return False
    if episode.end is not None and moment >= episode.end:
        return False
    return not any(
        midnight(local_day(begun, zone), zone) <= moment and (ended is None or moment < ended)
        for begun, ended in episode.holds
    )


def overlaps(one: Booking, other: Booking) -> bool:
    """Return whether two bookings of a patient are at once, and neither may be.

    Who is in a group session may be pulled out of it for an individual one.
    """
    if not (one.start < other.end and other.start < one.end):
        return False
    alone = [booking.kind == "individual" and not booking.session for booking in (one, other)]
    in_group = [bool(booking.session) or booking.kind == "group" for booking in (one, other)]
    return not ((alone[0] and in_group[1]) or (alone[1] and in_group[0]))


def clashes(bookings: Iterable[Booking]) -> Iterator[tuple[Booking, Booking]]:
    """Yield the pairs of bookings, all of one patient, that are at once and may not be."""
    running: list[Booking] = []
    for one in sorted(bookings, key=lambda booking: booking.start):
        running = [other for other in running if other.end > one.start]
        yield from ((other, one) for other in running if overlaps(other, one))
        running.append(one)


async def episodes_of(
    vocabulary: Vocabulary, reader: Reader, patients: Iterable[str]
) -> Mapping[str, Sequence[tuple[Episode, ZoneInfo]]]:
    """Return the episodes of some patients, with the time zones of their programs."""
    found: defaultdict[str, list[tuple[Episode, ZoneInfo]]] = defaultdict(list)
    known = []
    for some in some_of(sorted(patients)):
        held = await reader.search("EpisodeOfCare", ("patient", ",".join(some)))
        known += [episode_of(vocabulary, one) for one in held]
    programs = await reader.get_all({one.program for one in known if one.program})
    for one in known:
        name = vocabulary.value(programs.get(one.program, {}), TIMEZONE)
        found[one.patient].append((one, zone_named(name or "UTC")))
    return found


async def booked_beside(
    vocabulary: Vocabulary, reader: Reader, beside: Sequence[Booking]
) -> Mapping[str, Sequence[Booking]]:
    """Return what patients are booked for in the time of some bookings, by patient."""
    first, last = min(one.start for one in beside), max(one.end for one in beside)
    found: defaultdict[str, list[Booking]] = defaultdict(list)
    for some in some_of(sorted(one.patient for one in beside)):
        held = await reader.search(
            "Appointment",
            ("actor", ",".join(some)),
            ("status", ",".join(sorted(BOOKED))),
            ("date", f"ge{written(first - DAY)}"),
            ("date", f"lt{written(last)}"),
        )
        for one in (booking_of(vocabulary, resource) for resource in held):
            found[one.patient].append(one)
    return found


def some_of(names: Iterable[str]) -> Iterator[list[str]]:
    """Yield identifiers or references, each once, by the number that one search may ask for."""
    known = list(dict.fromkeys(names))
    yield from (known[n : n + SOME] for n in range(0, len(known), SOME))
