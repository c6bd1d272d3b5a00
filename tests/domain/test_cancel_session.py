"""$cancel-session calls a session off for everybody, and may put another in its place."""

from typing import Any

from tests.domain import clinic
from tests.domain.clinic import V, booked, put, roster, session
from tests.domain.office import Iop, param, ref, rule, said

CALL = "/Appointment/s-2026-03-03/$cancel-session"
SNOW = param("reason", valueString="Snow")
SATURDAY = param("replacement", valueInstant="2026-03-07T10:00:00-08:00")
TUESDAY = session("2026-03-03")


async def furnish(iop: Iop, *patients: str) -> None:
    """Store the program, these patients in it, and their bookings of a Tuesday's session."""
    group = roster(*(f"Patient/{one}" for one in patients))
    named = {(one["resourceType"], one["id"]): one for one in clinic.program()}
    admitted = [one for patient in patients for one in clinic.admitted(patient)]
    await put(iop.client, *{**named, ("Group", "day-a"): group}.values(), *admitted, TUESDAY)
    await put(iop.client, *(booked(TUESDAY, one) for one in patients))


async def makeup_of(iop: Iop, found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the bookings of the session that takes the place of another."""
    return await iop.search(f"Appointment?iop-session={found['replacement']['reference']}")


async def test_a_session_is_cancelled_by_the_program_with_all_its_bookings(iop: Iop) -> None:
    await furnish(iop, "p1", "p2")

    found = said(await iop.call(CALL, SNOW))

    assert found == {
        "session": {"reference": "Appointment/s-2026-03-03"},
        "summary": {"cancelled": 2, "booked": 0},
    }
    for name in ("s-2026-03-03", "b-s-2026-03-03-p1", "b-s-2026-03-03-p2"):
        held = await iop.read(f"Appointment/{name}")
        assert held["status"] == "cancelled"
        assert held["cancelationReason"]["coding"][0]["code"] == "prov"
        assert held["cancelationReason"]["text"] == "Snow"


async def test_the_session_that_takes_its_place_is_linked_and_booked(iop: Iop) -> None:
    await furnish(iop, "p1", "p2")

    found = said(await iop.call(CALL, SNOW, SATURDAY))

    makeup = await iop.read(found["replacement"]["reference"])
    assert V.value(makeup, "iop-replaces") == {"reference": "Appointment/s-2026-03-03"}
    assert makeup["identifier"][0]["value"].endswith(":morning:2026-03-03:makeup")
    assert (makeup["status"], makeup["minutesDuration"]) == ("booked", 195)
    assert (makeup["start"], makeup["end"]) == (
        "2026-03-07T10:00:00-08:00",
        "2026-03-07T13:15:00-08:00",
    )
    assert V.values(makeup, "iop-break") == [
        {"start": "2026-03-07T11:30:00-08:00", "end": "2026-03-07T11:45:00-08:00"}
    ]
    assert "cancelationReason" not in makeup
    assert found["summary"] == {"cancelled": 2, "booked": 2}
    bookings = await makeup_of(iop, found)
    assert {one["start"] for one in bookings} == {"2026-03-07T10:00:00-08:00"}


async def test_a_session_may_be_put_off_by_an_hour_on_its_day(iop: Iop) -> None:
    """What is cancelled stands in nobody's way."""
    await furnish(iop, "p1")
    later = param("replacement", valueInstant="2026-03-03T10:00:00-08:00")

    found = said(await iop.call(CALL, SNOW, later))

    assert found["summary"] == {"cancelled": 1, "booked": 1}
    assert "conflict" not in found


async def test_who_has_something_else_then_is_not_booked_and_named(iop: Iop) -> None:
    await furnish(iop, "p1", "p2")
    other = clinic.individual(
        "p1", "2026-03-07T10:00:00-08:00", "2026-03-07T11:00:00-08:00", kind="family"
    )
    other["participant"].pop()  # not the therapist, who would be in conflict as well
    await put(iop.client, other)

    found = said(await iop.call(CALL, SNOW, SATURDAY))

    assert found["summary"] == {"cancelled": 2, "booked": 1}
    assert found["conflict"]["actor"] == {"reference": "Patient/p1"}


async def test_no_session_takes_the_place_of_another_where_its_room_is_taken(iop: Iop) -> None:
    await furnish(iop, "p1")
    other = session(
        "2026-03-07",
        start="2026-03-07T09:00:00-08:00",
        end="2026-03-07T12:15:00-08:00",
    )
    await put(iop.client, other)

    reply = await iop.call(CALL, SNOW, SATURDAY)

    assert (reply.status_code, rule(reply)) == (409, "overlap")
    assert (await iop.read("Appointment/s-2026-03-03"))["status"] == "booked"


async def test_no_session_takes_the_place_of_another_while_the_program_is_closed(iop: Iop) -> None:
    await furnish(iop, "p1")
    sunday = param("replacement", valueInstant="2026-03-08T10:00:00-07:00")

    reply = await iop.call(CALL, SNOW, sunday)

    assert (reply.status_code, rule(reply)) == (422, "INV-HS-1")


async def test_who_cancelled_before_is_not_booked_again(iop: Iop) -> None:
    await furnish(iop, "p1", "p2")
    reason = clinic.coded(
        "http://terminology.hl7.org/CodeSystem/appointment-cancellation-reason", "pat"
    )
    excused = {**booked(TUESDAY, "p1"), "status": "cancelled", "cancelationReason": reason}
    await put(iop.client, excused)

    found = said(await iop.call(CALL, SNOW, SATURDAY))

    assert found["summary"] == {"cancelled": 1, "booked": 1}
    held = await iop.read("Appointment/b-s-2026-03-03-p1")
    assert held["cancelationReason"] == reason


async def test_the_session_of_one_patient_is_cancelled_in_the_same_way(iop: Iop) -> None:
    await furnish(iop, "p1")
    alone = clinic.individual("p1", "2026-03-04T10:00:00-08:00", "2026-03-04T10:50:00-08:00")
    await put(iop.client, alone)

    found = said(await iop.call("/Appointment/i-p1/$cancel-session", SNOW, SATURDAY))

    makeup = await iop.read(found["replacement"]["reference"])
    assert makeup["participant"][0]["actor"] == {"reference": "Patient/p1"}
    assert makeup["end"] == "2026-03-07T10:50:00-08:00"
    assert found["summary"] == {"cancelled": 0, "booked": 1}


async def test_a_session_is_cancelled_once(iop: Iop) -> None:
    await furnish(iop, "p1")
    await iop.call(CALL, SNOW)

    reply = await iop.call(CALL, SNOW)

    assert (reply.status_code, rule(reply)) == (409, "not-booked")


async def test_the_booking_of_a_patient_is_no_session(iop: Iop) -> None:
    await furnish(iop, "p1")

    reply = await iop.call("/Appointment/b-s-2026-03-03-p1/$cancel-session", SNOW)

    assert (reply.status_code, rule(reply)) == (422, "not-a-session")


async def test_a_session_that_somebody_came_to_is_not_cancelled(iop: Iop) -> None:
    await furnish(iop, "p1")
    await put(iop.client, {**booked(TUESDAY, "p1"), "status": "arrived"})

    reply = await iop.call(CALL, SNOW)

    assert (reply.status_code, rule(reply)) == (409, "attendance-recorded")


async def test_each_patient_has_a_provenance_with_the_reason(iop: Iop) -> None:
    await furnish(iop, "p1", "p2")

    await iop.call(CALL, SNOW)

    proofs = await iop.search("Provenance")
    targets = sorted(one["reference"] for proof in proofs for one in proof["target"])
    assert [len(proof["target"]) for proof in proofs] == [1, 1, 1]
    assert targets == [
        "Appointment/b-s-2026-03-03-p1/_history/2",
        "Appointment/b-s-2026-03-03-p2/_history/2",
        "Appointment/s-2026-03-03/_history/2",
    ]
    assert {proof["reason"][0]["text"] for proof in proofs} == {"Snow"}


async def test_a_replay_of_the_call_changes_nothing_and_says_the_same(iop: Iop) -> None:
    await furnish(iop, "p1")

    first = await iop.call(CALL, SNOW, SATURDAY, Idempotency_Key="k1")
    again = await iop.call(CALL, SNOW, SATURDAY, Idempotency_Key="k1")

    assert said(again) == said(first)
    assert len(await iop.search("Appointment?date=2026-03-07")) == 2


async def test_an_old_version_of_the_session_is_refused(iop: Iop) -> None:
    await furnish(iop, "p1")

    reply = await iop.call(CALL, SNOW, If_Match='W/"9"')

    assert reply.status_code == 412


async def test_a_session_that_was_moved_can_be_generated_no_second_time(iop: Iop) -> None:
    """The cancelled one stands for its day, whatever takes its place."""
    await furnish(iop, "p1")
    await iop.call(CALL, SNOW, SATURDAY)

    reply = await iop.call(
        "/PlanDefinition/day-4x3/$generate-sessions",
        param("from", valueDate="2026-03-03"),
        param("to", valueDate="2026-03-03"),
        param("facilitator", part=[ref("practitioner-role", clinic.THERAPIST)]),
    )

    assert said(reply)["summary"]["created"] == 0


async def test_no_session_is_put_off_to_the_end_of_time(iop: Iop) -> None:
    await furnish(iop, "p1")
    never = param("replacement", valueInstant="9999-12-31T23:00:00Z")

    assert (await iop.call(CALL, SNOW, never)).status_code == 422
