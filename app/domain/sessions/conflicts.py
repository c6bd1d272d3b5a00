"""What is needed in two places at once: who leads, a room, a patient."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import date
from zoneinfo import ZoneInfo

from app.domain.chart import Booking, Session
from app.domain.chart import session as session_of
from app.domain.days import DAY, local_day, written
from app.domain.sessions.bookings import BOOKED, booked_beside, clashes
from app.domain.vocabulary import Vocabulary
from app.fhir.reader import Reader
from app.fhir.wire import Resource

ROOM = "ro"  # of location-physical-type: a site or a building holds many sessions at once


@dataclass(frozen=True)
class Conflict:
    """Somebody or something that is needed twice: `kind` is facilitator, room or patient.

    `actor` is who or which; `other` is the Appointment that stands in the way, "" for one that is
    only planned itself.
    """

    kind: str
    date: date
    actor: str
    other: str

    def told(self) -> Resource:
        """Return it as the parts of an answer, in which only references are."""
        other = {"with": {"reference": self.other}} if self.other else {}
        date = self.date.isoformat()
        return {"kind": self.kind, "date": date, "actor": {"reference": self.actor}, **other}


async def of_sessions(
    vocabulary: Vocabulary,
    reader: Reader,
    planned: Sequence[Session],
    zone: ZoneInfo,
    without: Set[str],
) -> list[Conflict]:
    """Return where sessions that are planned need who leads or a room that are taken.

    Also by one another, but not by those that are to be `without`. Bookings for a session are left
    out: they say the same as the session.
    """
    mine = {one.reference for one in planned}
    rooms = await _rooms(reader, {place for one in planned for place in one.locations})
    beside = await _beside(vocabulary, reader, planned)
    held = [one for one in beside if one.reference not in mine | without]
    uses: defaultdict[str, list[Session]] = defaultdict(list)
    for one in (*held, *planned):
        for actor in (*one.facilitators, *(place for place in one.locations if place in rooms)):
            uses[actor].append(one)
    found = []
    for actor, sessions in sorted(uses.items()):
        kind = "room" if actor in rooms else "facilitator"
        for first, second in _at_once(sessions):
            if {first.reference, second.reference} & mine:
                new, other = (second, first) if second.reference in mine else (first, second)
                known = "" if other.reference in mine else other.reference
                found.append(Conflict(kind, local_day(new.start, zone), actor, known))
    return found


async def _rooms(reader: Reader, locations: Iterable[str]) -> set[str]:
    """Return those of some Locations that hold one session at a time: rooms, also virtual ones."""
    known = await reader.get_all(sorted(locations))
    return {name for name, place in known.items() if _kinds(place) <= {ROOM}}


def _kinds(location: Resource) -> set[str]:
    return {one.get("code", "") for one in location.get("physicalType", {}).get("coding", ())}


async def _beside(
    vocabulary: Vocabulary, reader: Reader, planned: Sequence[Session]
) -> list[Session]:
    """Return what is booked, but for a session, where any of some sessions would be."""
    actors = sorted({actor for one in planned for actor in (*one.facilitators, *one.locations)})
    if not actors:
        return []
    held = await reader.search(
        "Appointment",
        ("actor", ",".join(actors)),
        ("status", ",".join(sorted(BOOKED))),
        ("date", f"ge{written(min(one.start for one in planned) - DAY)}"),
        ("date", f"lt{written(max(one.end for one in planned))}"),
        ("iop-session:missing", "true"),
    )
    return [session_of(vocabulary, one) for one in held]


def _at_once(sessions: Iterable[Session]) -> Iterator[tuple[Session, Session]]:
    running: list[Session] = []
    for one in sorted(sessions, key=lambda session: session.start):
        running = [other for other in running if other.end > one.start]
        yield from ((other, one) for other in running)
        running.append(one)


async def of_patients(
    vocabulary: Vocabulary,
    reader: Reader,
    planned: Sequence[Booking],
    zone: ZoneInfo,
    without: Set[str],
) -> Mapping[str, Conflict]:
    """Return the bookings that are planned at a time at which the patient is booked already.

    By the reference of the booking. Of two that are planned for the same time it is the later.
    """
    if not planned:
        return {}
    mine = {one.reference: one for one in planned}
    beside = await booked_beside(vocabulary, reader, planned)
    own: defaultdict[str, list[Booking]] = defaultdict(list)
    for one in planned:
        own[one.patient].append(one)
    found = {}
    for patient, new in own.items():
        known = mine.keys() | without
        held = [one for one in beside.get(patient, ()) if one.reference not in known]
        for first, second in clashes((*held, *new)):
            late, other = (second, first) if second.reference in mine else (first, second)
            if late.reference in mine and other.reference not in found:
                stored = "" if other.reference in mine else other.reference
                day = local_day(late.start, zone)
                found[late.reference] = Conflict("patient", day, patient, stored)
    return found
