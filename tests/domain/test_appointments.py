"""INV-AP-1 to 5 and INV-SL-1: what Appointments and Slots of a program must never say."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from app.domain.chart import Booking, Episode
from app.domain.sessions.bookings import clashes, covers
from tests.domain import clinic
from tests.domain.clinic import V, booked, coded, individual, put, roster, session
from tests.domain.office import Iop, rule

LOS_ANGELES = ZoneInfo("America/Los_Angeles")
REASON = coded("http://terminology.hl7.org/CodeSystem/appointment-cancellation-reason", "pat")
TUESDAY = session("2026-03-03")
NO_SHOW = [V.complex("iop-attendance", ("status", "valueCode", "no-show"))]
ATTENDED = [V.complex("iop-attendance", ("status", "valueCode", "attended"))]


def at(hour: int, minute: int = 0) -> datetime:
    """Return a time of an afternoon."""
    return datetime(2026, 3, 3, hour, minute, tzinfo=UTC)


def booking(name: str, start: datetime, end: datetime, kind: str, group: bool = False) -> Booking:
    """Return a booking of a patient, for a session of a group or alone."""
    session = "Appointment/s" if group else ""
    return Booking(name, session, "Patient/p1", "booked", start, end, kind, "")


def pairs(*bookings: Booking) -> list[tuple[str, str]]:
    """Return what cannot both be, by reference."""
    return [(one.reference, other.reference) for one, other in clashes(bookings)]


def test_two_bookings_at_once_cannot_both_be() -> None:
    one = booking("a", at(9), at(12), "group", group=True)
    other = booking("b", at(11), at(13), "family")

    assert pairs(other, one) == [("a", "b")]


def test_who_is_in_a_group_may_be_pulled_out_for_an_individual_session() -> None:
    group = booking("a", at(9), at(12), "education", group=True)
    alone = booking("b", at(10), at(11), "individual")

    assert pairs(group, alone) == []
    assert pairs(alone, replace(alone, reference="c")) == [("b", "c")]


def test_one_booking_may_begin_when_another_ends() -> None:
    assert (
        pairs(booking("a", at(9), at(10), "family"), booking("b", at(10), at(11), "crisis")) == []
    )


EPISODE = Episode(
    reference="EpisodeOfCare/e",
    patient="Patient/p1",
    organization="",
    program="",
    status="active",
    start=datetime(2026, 3, 2, 8, tzinfo=UTC),
    end=None,
    levels=(),
    holds=(),
    waits=(),
    discharge_reason="",
)


@pytest.mark.parametrize(
    ("change", "moment", "expected"),
    [
        ({}, datetime(2026, 3, 2, 8, tzinfo=UTC), True),
        ({}, datetime(2026, 3, 2, 7, 59, tzinfo=UTC), False),
        ({"end": at(8)}, at(7, 59), True),
        ({"end": at(8)}, at(8), False),
        ({"status": "cancelled"}, at(9), False),
        ({"status": "waitlist"}, at(9), False),
        # a hold that begins at 17:00 by local clocks takes the whole day
        ({"holds": ((datetime(2026, 3, 4, 1, tzinfo=UTC), None),)}, at(17), False),
        ({"holds": ((datetime(2026, 3, 4, 1, tzinfo=UTC), None),)}, at(7, 59), True),
        ({"holds": ((at(1), at(9)),)}, at(9), True),
    ],
)
def test_an_episode_covers_its_time_but_for_holds(
    change: dict[str, Any], moment: datetime, expected: bool
) -> None:
    assert covers(replace(EPISODE, **change), moment, LOS_ANGELES) is expected


async def furnish(iop: Iop, *patients: str) -> None:
    """Store the program, these patients in it, and a session on Tuesday 2026-03-03."""
    named = {(one["resourceType"], one["id"]): one for one in clinic.program()}
    group = roster(*(f"Patient/{one}" for one in patients))
    admitted = [one for patient in patients for one in clinic.admitted(patient)]
    await put(iop.client, *{**named, ("Group", "day-a"): group}.values(), *admitted, TUESDAY)


async def refused(iop: Iop, resource: dict[str, Any]) -> tuple[int, str]:
    """Return status and rule of a write that has to be refused."""
    reply = await iop.client.put(f"/{resource['resourceType']}/{resource['id']}", json=resource)
    assert reply.status_code >= 400, reply.text
    return reply.status_code, rule(reply)


async def test_a_booking_has_exactly_one_patient(iop: Iop) -> None:
    """INV-AP-1."""
    await furnish(iop, "p1", "p2")
    good = booked(TUESDAY, "p1")
    two = {**good, "participant": [*good["participant"], booked(TUESDAY, "p2")["participant"][0]]}
    none = {**good, "participant": good["participant"][1:]}

    assert await refused(iop, two) == (422, "INV-AP-1")
    assert await refused(iop, none) == (422, "INV-AP-1")
    await put(iop.client, good)


async def test_a_session_names_no_patient(iop: Iop) -> None:
    """INV-AP-1, LK2."""
    await furnish(iop, "p1")
    person = booked(TUESDAY, "p1")["participant"][0]

    found = await refused(iop, {**TUESDAY, "participant": [*TUESDAY["participant"], person]})

    assert found == (422, "INV-AP-1")


async def test_an_absolute_reference_hides_no_second_patient(iop: Iop) -> None:
    """INV-AP-1."""
    await furnish(iop, "p1", "p2")
    good = booked(TUESDAY, "p1")
    person = booked(TUESDAY, "p2")["participant"][0]
    person["actor"]["reference"] = f"{iop.client.base_url}Patient/p2"

    found = await refused(iop, {**good, "participant": [*good["participant"], person]})

    assert found == (422, "INV-AP-1")


@pytest.mark.parametrize(
    ("steps", "allowed"),
    [
        (("booked", "arrived", "fulfilled"), True),
        (("booked", "checked-in", "fulfilled"), True),
        (("booked", "arrived", "checked-in"), True),
        (("booked", "fulfilled"), True),
        (("proposed", "pending", "booked"), True),
        (("booked", "fulfilled", "entered-in-error"), True),
        (("booked", "fulfilled", "booked"), False),
        (("booked", "cancelled", "booked"), False),
        (("booked", "arrived", "booked"), False),
        (("booked", "proposed"), False),
        (("booked", "entered-in-error", "booked"), False),
        (("booked", "fulfilled", "cancelled"), False),
    ],
)
async def test_a_status_comes_after_the_one_before(
    iop: Iop, steps: tuple[str, ...], allowed: bool
) -> None:
    """INV-AP-2."""
    await furnish(iop, "p1")
    written = [
        {
            **booked(TUESDAY, "p1"),
            "status": status,
            **({"cancelationReason": REASON} if status == "cancelled" else {}),
        }
        for status in steps
    ]
    for one in written[:-1]:
        await put(iop.client, one)

    if allowed:
        await put(iop.client, written[-1])
    else:
        assert await refused(iop, written[-1]) == (422, "INV-AP-2")


async def test_what_attendance_says_may_be_corrected(iop: Iop) -> None:
    """INV-AP-2: with the attendance, and not without."""
    await furnish(iop, "p1")
    iop.clock.set("2026-03-03T13:00:00-08:00")
    own = booked(TUESDAY, "p1")
    noshow = {**own, "status": "noshow", "extension": [*own["extension"], *NO_SHOW]}
    came = {**own, "status": "fulfilled", "extension": [*own["extension"], *ATTENDED]}

    await put(iop.client, own)
    await put(iop.client, noshow)

    assert await refused(iop, {**own, "status": "fulfilled"}) == (422, "INV-AP-2")
    await put(iop.client, came)


@pytest.mark.parametrize(
    ("now", "allowed"),
    [("2026-03-03T09:29:59-08:00", False), ("2026-03-03T09:30:00-08:00", True)],
)
async def test_nobody_is_a_no_show_until_half_an_hour_after_the_start(
    iop: Iop, now: str, allowed: bool
) -> None:
    """INV-AP-2."""
    await furnish(iop, "p1")
    own = booked(TUESDAY, "p1")
    await put(iop.client, own)
    noshow = {**own, "status": "noshow", "extension": [*own["extension"], *NO_SHOW]}
    iop.clock.set(now)

    if allowed:
        await put(iop.client, noshow)
    else:
        assert await refused(iop, noshow) == (422, "INV-AP-2")


async def test_what_is_cancelled_says_why(iop: Iop) -> None:
    """INV-AP-3."""
    await furnish(iop, "p1")
    own = booked(TUESDAY, "p1")
    await put(iop.client, own)

    assert await refused(iop, {**own, "status": "cancelled"}) == (422, "INV-AP-3")
    await put(iop.client, {**own, "status": "cancelled", "cancelationReason": REASON})


async def test_a_no_show_is_recorded_as_attendance(iop: Iop) -> None:
    """INV-AP-3."""
    await furnish(iop, "p1")
    await put(iop.client, booked(TUESDAY, "p1"))
    iop.clock.set("2026-03-03T13:00:00-08:00")

    found = await refused(iop, {**booked(TUESDAY, "p1"), "status": "noshow"})

    assert found == (422, "INV-AP-3")


async def test_nobody_is_booked_before_the_episode(iop: Iop) -> None:
    """INV-AP-4."""
    await furnish(iop, "p1")
    early = session("2026-02-20")
    await put(iop.client, early)

    assert await refused(iop, booked(early, "p1")) == (422, "INV-AP-4")


async def test_nobody_is_booked_while_the_episode_is_on_hold(iop: Iop) -> None:
    """INV-AP-4."""
    await furnish(iop, "p1")
    held = await iop.read("EpisodeOfCare/ep-p1")
    await put(iop.client, {**held, "status": "onhold"})

    assert await refused(iop, booked(TUESDAY, "p1")) == (422, "INV-AP-4")


async def test_nobody_without_an_episode_is_booked_for_the_program(iop: Iop) -> None:
    """INV-AP-4: an assessment comes before it, and follow-up after it."""
    await furnish(iop)
    await put(iop.client, *clinic.chart("p1"))
    span = ("2026-03-04T10:00:00-08:00", "2026-03-04T11:00:00-08:00")
    follow_up = coded("http://terminology.hl7.org/CodeSystem/v2-0276", "FOLLOWUP")

    assert await refused(iop, individual("p1", *span)) == (422, "INV-AP-4")
    await put(iop.client, individual("p1", *span, kind="assessment"))
    later = ("2026-03-05T10:00:00-08:00", "2026-03-05T11:00:00-08:00")
    await put(iop.client, individual("p1", *later, appointmentType=follow_up, id="later"))


async def test_nobody_is_booked_for_two_things_at_once(iop: Iop) -> None:
    """INV-AP-5, and LK10: the text names nobody."""
    await furnish(iop, "p1")
    await put(iop.client, booked(TUESDAY, "p1"))
    span = ("2026-03-03T12:00:00-08:00", "2026-03-03T13:00:00-08:00")
    family = individual("p1", *span, kind="family")

    reply = await iop.client.put("/Appointment/i-p1", json=family)

    assert (reply.status_code, rule(reply)) == (422, "INV-AP-5")
    assert "Patient/" not in reply.text
    await put(iop.client, individual("p1", *span, kind="individual"))


async def test_two_things_at_once_are_refused_within_one_transaction(iop: Iop) -> None:
    """INV-AP-5."""
    await furnish(iop, "p1")
    span = ("2026-03-03T12:00:00-08:00", "2026-03-03T13:00:00-08:00")
    family = individual("p1", *span, kind="family")
    entries = [
        {"resource": one, "request": {"method": "POST", "url": "Appointment"}}
        for one in (booked(TUESDAY, "p1"), family)
    ]
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}

    reply = await iop.client.post("/", json=bundle)

    assert (reply.status_code, rule(reply)) == (422, "INV-AP-5")
    assert await iop.search("Appointment?actor=Patient/p1") == []


async def test_two_patients_may_be_at_the_same_place_at_once(iop: Iop) -> None:
    """INV-AP-5."""
    await furnish(iop, "p1", "p2")

    await put(iop.client, booked(TUESDAY, "p1"), booked(TUESDAY, "p2"))


def slot(id: str, start: str, minutes: int = 60, **fields: Any) -> dict[str, Any]:
    """Return a busy Slot of a therapist, marked as one of ours."""
    begun = datetime.fromisoformat(start)
    return {
        "resourceType": "Slot",
        "id": id,
        "schedule": {"reference": "Schedule/th1"},
        "status": "busy",
        "serviceType": [V.concept("iop-service-kind", "individual")],
        "start": begun.isoformat(),
        "end": (begun + timedelta(minutes=minutes)).isoformat(),
        **fields,
    }


async def test_nobody_has_two_busy_slots_at_once_unless_overbooked(iop: Iop) -> None:
    """INV-SL-1."""
    await furnish(iop)
    actor = {"reference": clinic.THERAPIST}
    await put(iop.client, {"resourceType": "Schedule", "id": "th1", "actor": [actor]})
    await put(iop.client, slot("one", "2026-03-03T09:00:00-08:00"))
    other = slot("two", "2026-03-03T09:30:00-08:00")

    assert await refused(iop, other) == (422, "INV-SL-1")
    await put(iop.client, {**other, "overbooked": True})
    await put(iop.client, slot("three", "2026-03-03T10:00:00-08:00", 30, status="free"))
    await put(iop.client, slot("four", "2026-03-03T10:30:00-08:00"))
