"""Appointments of a program: sessions, which name no patient, and bookings of one (INV-AP).

https://hl7.org/fhir/R4/appointment.html
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial

from app.domain.chart import booking as booking_of
from app.domain.chart import reference
from app.domain.days import DAY, instant, moment, written
from app.domain.sessions.bookings import BOOKED, booked_beside, clashes, covers, episodes_of
from app.domain.vocabulary import ATTENDANCE, KIND, KINDS, SESSION, Vocabulary
from app.fhir.reader import Reader
from app.fhir.rules import Change, Finding, Rule
from app.fhir.wire import Resource

APPOINTMENT, SLOT = "Appointment", "Slot"
PATIENT = re.compile(r"(?:.*/)?Patient/[^/]+(?:/_history/.*)?")
ERROR = "entered-in-error"
# To what each status may change, beside staying as it is and being an error
FLOW: Mapping[str, frozenset[str]] = {
    "proposed": frozenset({"pending", "booked", "waitlist", "cancelled"}),
    "pending": frozenset({"booked", "waitlist", "cancelled"}),
    "waitlist": frozenset({"pending", "booked", "cancelled"}),
    "booked": frozenset({"arrived", "checked-in", "fulfilled", "noshow", "cancelled"}),
    "arrived": frozenset({"checked-in", "fulfilled"}),
    "checked-in": frozenset({"fulfilled"}),
}
# What attendance may be recorded as, and corrected to, once there is any
RECORDED = frozenset({"fulfilled", "noshow", "cancelled"})
BEFORE_NOSHOW = timedelta(minutes=30)
# Comes before an episode, or whenever it is needed; and what comes after it
ANY_TIME = frozenset({"assessment", "crisis"})
FOLLOW_UP = "FOLLOWUP"


def rules(vocabulary: Vocabulary) -> tuple[Rule, ...]:
    """Return the rules for Appointments and Slots."""
    v, marks, types = vocabulary, (vocabulary.mark,), frozenset({APPOINTMENT})
    return (
        Rule("INV-AP-1", types, marks, partial(crowded, v)),
        Rule("INV-AP-2", types, marks, partial(out_of_order, v)),
        Rule("INV-AP-3", types, marks, partial(without_reason, v)),
        Rule("INV-AP-4", types, marks, partial(outside_treatment, v), locks=patients),
        Rule("INV-AP-5", types, marks, partial(double_booked, v), locks=patients),
        Rule("INV-SL-1", frozenset({SLOT}), marks, double_slots),
    )


def actors(appointment: Resource) -> list[str]:
    """Return the Patients among the participants of an Appointment, as they are referred to."""
    found = (reference(one.get("actor")) for one in appointment.get("participant", ()))
    return [one for one in found if PATIENT.fullmatch(one)]


def patients(change: Change) -> Iterable[str]:
    """Return the Patients whom a change books, who have to stand still while it is judged."""
    named = actors(change.after) if change.after and _newly_booked(change) else []
    return [one for one in named if one.startswith("Patient/")]


def is_session(appointment: Resource) -> bool:
    """Return whether an Appointment is a session of a timetable."""
    urns = [one.get("value", "") for one in appointment.get("identifier", ())]
    return any(one.startswith("urn:iop:session:") for one in urns)


def _newly_booked(change: Change) -> bool:
    """Return whether a change books an Appointment, or books it for another time or patient."""
    before, after = change.before or {}, change.after
    if after is None or after["status"] not in BOOKED:
        return False
    moved = any(before.get(name) != after.get(name) for name in ("start", "end"))
    return moved or before.get("status") not in BOOKED or actors(before) != actors(after)


# --- each by itself ----------------------------------------------------------------------------


async def crowded(
    vocabulary: Vocabulary, changes: Sequence[Change], reader: Reader
) -> list[Finding]:
    """INV-AP-1: a booking is of exactly one Patient, a session of none."""
    del reader
    found = []
    for change in changes:
        if change.after is None:
            continue
        number = len(actors(change.after))
        in_session = vocabulary.value(change.after, SESSION) is not None
        if number > 1 or (in_session and not number):
            text = "A booking has exactly one Patient"
        elif is_session(change.after) and number:
            text = "A session names no Patient: each has a booking of its own"
        else:
            continue
        found.append(Finding(change, text, "participant"))
    return found


async def out_of_order(
    vocabulary: Vocabulary, changes: Sequence[Change], reader: Reader
) -> list[Finding]:
    """INV-AP-2: a status comes after the one before, and a no-show half an hour after the start."""
    found = []
    for change in changes:
        was = (change.before or {}).get("status")
        if change.after is None or was == change.after["status"]:
            continue
        status = change.after["status"]
        if was and not _may_follow(vocabulary, was, change.after):
            text = f"An Appointment that is {was} cannot become {status}"
            found.append(Finding(change, text, "status"))
        elif status == "noshow" and moment(reader.now) < _noshow_from(change.after):
            text = "Nobody is a no-show until 30 minutes after the start"
            found.append(Finding(change, text, "status"))
    return found


def _noshow_from(appointment: Resource) -> datetime:
    return instant(appointment["start"]) + BEFORE_NOSHOW  # app-3: it has a start


def _may_follow(vocabulary: Vocabulary, was: str, after: Resource) -> bool:
    status = after["status"]
    if status == ERROR or status in FLOW.get(was, ()):
        return True
    corrected = was != ERROR and status in RECORDED
    return corrected and any(vocabulary.all(after, ATTENDANCE))


async def without_reason(
    vocabulary: Vocabulary, changes: Sequence[Change], reader: Reader
) -> list[Finding]:
    """INV-AP-3: what is cancelled says why, what is a no-show at least that it is one.

    app-4 of R4 knows no cancelationReason of the status noshow (it spells it no-show), so that a
    no-show says it in its attendance.
    """
    del reader
    found = []
    for change in changes:
        if change.after is None or "cancelationReason" in change.after:
            continue
        status = change.after["status"]
        recorded = any(vocabulary.all(change.after, ATTENDANCE))
        if status == "cancelled" or (status == "noshow" and not recorded):
            text = f"An Appointment that is {status} says why"
            found.append(Finding(change, text, "cancelationReason"))
    return found


# --- beside the record -------------------------------------------------------------------------


async def outside_treatment(
    vocabulary: Vocabulary, changes: Sequence[Change], reader: Reader
) -> list[Finding]:
    """INV-AP-4: nobody is booked before or after the episode, nor while it is on hold."""
    judged = [
        (change, booking_of(vocabulary, change.after))
        for change in _single(changes)
        if change.after and _in_treatment_only(vocabulary, change.after)
    ]
    known = await episodes_of(vocabulary, reader, {one.patient for _, one in judged})
    text = "The patient is not in treatment at that time"
    return [
        Finding(change, text, "start")
        for change, booking in judged
        if not any(covers(one, booking.start, zone) for one, zone in known.get(booking.patient, ()))
    ]


def _single(changes: Iterable[Change]) -> list[Change]:
    """Return the changes that book something for one patient."""
    return [
        change
        for change in changes
        if change.after and len(actors(change.after)) == 1 and list(patients(change))
    ]


def _in_treatment_only(vocabulary: Vocabulary, appointment: Resource) -> bool:
    if vocabulary.value(appointment, SESSION) is not None:
        return True
    kind = vocabulary.code(appointment.get("serviceType"), KIND)
    codes = {one.get("code") for one in appointment.get("appointmentType", {}).get("coding", ())}
    return kind in KINDS and kind not in ANY_TIME and FOLLOW_UP not in codes


async def double_booked(
    vocabulary: Vocabulary, changes: Sequence[Change], reader: Reader
) -> list[Finding]:
    """INV-AP-5: no patient is in two places at once, but for being pulled out of a group."""
    judged = {change.reference: change for change in _single(changes)}
    new = [booking_of(vocabulary, one.after) for one in judged.values() if one.after]
    if not new:
        return []
    held = await booked_beside(vocabulary, reader, new)
    at = "start"
    text = "The patient has another Appointment at that time"
    wrong = dict.fromkeys(
        one.reference for some in held.values() for pair in clashes(some) for one in pair
    )
    return [Finding(judged[one], text, at) for one in wrong if one in judged]


async def double_slots(changes: Sequence[Change], reader: Reader) -> list[Finding]:
    """INV-SL-1: nobody has two busy Slots at once, but where one is overbooked on purpose."""
    text = "Who works there has another busy Slot at that time"
    return [
        Finding(change, text, "start")
        for change in changes
        if change.after and _is_busy(change.after) and await _taken(change.after, reader)
    ]


def _is_busy(slot: Resource) -> bool:
    return slot["status"] == "busy" and not slot.get("overbooked")


async def _taken(slot: Resource, reader: Reader) -> bool:
    """Return whether somebody whose schedule a Slot is in has another one at the same time."""
    schedule = await reader.get(reference(slot["schedule"])) or {}
    people = [reference(one) for one in schedule.get("actor", ())]
    people = [one for one in people if one.startswith("PractitionerRole/")]
    if not people:
        return False
    theirs = await reader.search("Schedule", ("actor", ",".join(people)))
    start, end = instant(slot["start"]), instant(slot["end"])
    held = await reader.search(
        SLOT,
        ("schedule", ",".join(f"Schedule/{one['id']}" for one in theirs)),
        ("status", "busy"),
        ("start", f"ge{written(start - DAY)}"),
        ("start", f"lt{written(end)}"),
    )
    others = (one for one in held if one["id"] != slot["id"] and _is_busy(one))
    return any(_meets(one, start, end) for one in others)


def _meets(slot: Resource, start: datetime, end: datetime) -> bool:
    return instant(slot["start"]) < end and start < instant(slot["end"])
