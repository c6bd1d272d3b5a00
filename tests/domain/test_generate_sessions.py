"""$generate-sessions puts a timetable into the calendar, once."""

import asyncio
from typing import Any

import pytest

from app.domain.vocabulary import KIND
from tests.domain import clinic
from tests.domain.clinic import V, action, member, plan, put, roster
from tests.domain.office import Iop, param, ref, rule, said

CALL = "/PlanDefinition/day-4x3/$generate-sessions"
TWO = ("p1", "p2")


def days(first: str, last: str, *more: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the parameters of a call for some days."""
    return [param("from", valueDate=first), param("to", valueDate=last), *more]


def led_by(*roles: str, of: str = "") -> dict[str, Any]:
    """Return the parameter that says who leads."""
    named = [param("action", valueString=of)] if of else []
    return param("facilitator", part=[*named, *(ref("practitioner-role", one) for one in roles)])


async def furnish(iop: Iop, *patients: str) -> None:
    """Store the program, and these patients in it and in its group."""
    admitted = [one for patient in patients for one in clinic.admitted(patient)]
    group = roster(*(f"Patient/{one}" for one in patients))
    resources = {(one["resourceType"], one["id"]): one for one in (*clinic.program(), *admitted)}
    await put(iop.client, *{**resources, ("Group", "day-a"): group}.values())


async def sessions(iop: Iop) -> list[dict[str, Any]]:
    """Return all session Appointments by start."""
    return await iop.search(
        "Appointment?actor=HealthcareService/day&_sort=date&_count=200&status:not=cancelled"
    )


async def bookings(iop: Iop, patient: str) -> list[dict[str, Any]]:
    """Return the bookings of a patient by start."""
    return await iop.search(f"Appointment?actor=Patient/{patient}&_sort=date&_count=200")


async def test_twelve_weeks_with_two_holidays_are_46_sessions_and_as_many_bookings_each(
    iop: Iop,
) -> None:
    await furnish(iop, *TWO)
    holidays = [param("holidays", valueDate=one) for one in ("2026-05-25", "2026-06-19")]

    found = said(await iop.call(CALL, *days("2026-03-30", "2026-06-21", *holidays)))

    assert found["summary"] == {
        "created": 46,
        "unchanged": 0,
        "updated": 0,
        "skipped": 2,
        "patient-appointments": 92,
    }
    assert len(found["session"]) == 46
    assert found["skipped"] == [
        {"date": "2026-05-25", "reason": "holiday"},
        {"date": "2026-06-19", "reason": "holiday"},
    ]
    assert len(await sessions(iop)) == 46
    assert len(await bookings(iop, "p1")) == len(await bookings(iop, "p2")) == 46


async def test_holidays_that_are_kept_have_sessions(iop: Iop) -> None:
    await furnish(iop)
    kept = param("holidays", valueDate="2026-05-25"), param("holiday-mode", valueCode="keep")

    found = said(await iop.call(CALL, *days("2026-05-25", "2026-05-26", *kept)))

    assert found["summary"]["created"] == 2


async def test_a_session_says_when_where_for_whom_and_with_which_breaks(iop: Iop) -> None:
    await furnish(iop)

    await iop.call(CALL, *days("2026-03-09", "2026-03-09", led_by("PractitionerRole/th1")))

    (session,) = await sessions(iop)
    assert session["identifier"] == [
        {"system": "urn:ietf:rfc:3986", "value": "urn:iop:session:day-4x3:morning:2026-03-09"}
    ]
    assert (session["start"], session["end"]) == (
        "2026-03-09T09:00:00-07:00",
        "2026-03-09T12:15:00-07:00",
    )
    assert session["minutesDuration"] == 195
    assert V.codes(session["serviceType"], KIND) == ["group"]
    assert session["supportingInformation"] == [{"reference": "Group/day-a"}]
    assert [one["actor"]["reference"] for one in session["participant"]] == [
        "HealthcareService/day",
        "Location/room1",
        "PractitionerRole/th1",
    ]
    assert V.value(session, "iop-clinical-minutes") == 180
    assert V.value(session, "iop-mode") == "in-person"
    assert V.values(session, "iop-break") == [
        {"start": "2026-03-09T10:30:00-07:00", "end": "2026-03-09T10:45:00-07:00"}
    ]


async def test_a_booking_names_one_patient_and_its_session_and_not_its_group(iop: Iop) -> None:
    await furnish(iop, *TWO)

    await iop.call(CALL, *days("2026-03-09", "2026-03-09", led_by("PractitionerRole/th1")))

    (session,) = await sessions(iop)
    (booking,) = await bookings(iop, "p1")
    assert V.value(booking, "iop-session") == {"reference": f"Appointment/{session['id']}"}
    assert booking["identifier"][0]["value"] == f"urn:iop:booking:{session['id']}:p1"
    assert [one["actor"]["reference"] for one in booking["participant"]] == [
        "Patient/p1",
        "Location/room1",
        "PractitionerRole/th1",
    ]
    assert "supportingInformation" not in booking
    assert booking["start"] == session["start"]


async def test_the_same_call_again_makes_nothing(iop: Iop) -> None:
    await furnish(iop, *TWO)
    first = said(await iop.call(CALL, *days("2026-03-09", "2026-03-20")))

    again = said(await iop.call(CALL, *days("2026-03-09", "2026-03-20")))

    assert again["summary"] == {
        "created": 0,
        "unchanged": 8,
        "updated": 0,
        "skipped": 0,
        "patient-appointments": 0,
    }
    assert again["session"] == first["session"]
    assert len(await bookings(iop, "p1")) == 8
    assert all(one["meta"]["versionId"] == "1" for one in await sessions(iop))


async def test_a_longer_range_makes_only_what_is_missing(iop: Iop) -> None:
    await furnish(iop, "p1")
    await iop.call(CALL, *days("2026-03-09", "2026-03-13"))

    found = said(await iop.call(CALL, *days("2026-03-09", "2026-03-20")))

    assert found["summary"]["created"] == 4
    assert found["summary"]["unchanged"] == 4
    assert found["summary"]["patient-appointments"] == 4


async def test_a_preview_says_what_would_be_made_and_makes_nothing(iop: Iop) -> None:
    await furnish(iop, "p1")

    found = said(
        await iop.call(CALL, *days("2026-03-09", "2026-03-20", param("mode", valueCode="preview")))
    )

    assert found["summary"]["created"] == found["summary"]["patient-appointments"] == 8
    assert "session" not in found
    assert await sessions(iop) == []


async def test_a_dry_run_makes_nothing_either(iop: Iop) -> None:
    await furnish(iop, "p1")

    reply = await iop.call(
        CALL, *days("2026-03-09", "2026-03-20", param("dry-run", valueBoolean=True))
    )

    assert said(reply)["summary"]["created"] == 8
    assert await sessions(iop) == []


async def test_a_changed_timetable_moves_what_lies_ahead_with_its_bookings(iop: Iop) -> None:
    await furnish(iop, "p1")
    await iop.call(CALL, *days("2026-03-02", "2026-03-06"))
    iop.clock.set("2026-03-03T13:00:00-08:00")
    later = action(clock="10:00:00", group=clinic.GROUP, room="Location/room1", pause="11:30/11:45")
    await put(iop.client, plan(later))

    found = said(await iop.call(CALL, *days("2026-03-02", "2026-03-06")))

    assert found["summary"] == {
        "created": 0,
        "unchanged": 0,
        "updated": 2,
        "skipped": 2,
        "patient-appointments": 0,
    }
    assert [one["reason"] for one in found["skipped"]] == ["past", "past"]
    starts = [one["start"][11:16] for one in await sessions(iop)]
    assert starts == ["09:00", "09:00", "10:00", "10:00"]
    assert [one["start"][11:16] for one in await bookings(iop, "p1")] == starts


async def test_a_cancelled_session_is_not_brought_back(iop: Iop) -> None:
    await furnish(iop, "p1")
    (first, *_) = said(await iop.call(CALL, *days("2026-03-09", "2026-03-10")))["session"]
    await iop.call(f"/{first['reference']}/$cancel-session", param("reason", valueString="Snow"))
    await put(iop.client, plan(action(clock="10:00:00", pause="11:30/11:45", group=clinic.GROUP)))

    found = said(await iop.call(CALL, *days("2026-03-09", "2026-03-10")))

    assert found["skipped"] == {"date": "2026-03-09", "reason": "cancelled"}
    assert found["summary"]["updated"] == 1
    assert (await iop.read(first["reference"]))["status"] == "cancelled"


async def test_a_substitute_stays_where_nobody_else_is_named(iop: Iop) -> None:
    await furnish(iop, "p1")
    await iop.call(CALL, *days("2026-03-09", "2026-03-09", led_by("PractitionerRole/th1")))
    (session,) = await sessions(iop)
    session["participant"][2]["actor"]["reference"] = "PractitionerRole/th2"
    await put(iop.client, session)

    found = said(await iop.call(CALL, *days("2026-03-09", "2026-03-09")))

    assert found["summary"]["unchanged"] == 1


async def test_only_members_in_treatment_on_the_day_are_booked(iop: Iop) -> None:
    await furnish(iop, "p1", "p2")
    await put(iop.client, *clinic.admitted("p3"))
    held = await iop.read("EpisodeOfCare/ep-p2")
    group = roster("Patient/p1", "Patient/p2")
    group["member"].append(member("Patient/p3", since="2026-03-12"))
    await put(
        iop.client,
        group,
        {
            **held,
            "status": "onhold",
            "statusHistory": [
                {
                    "status": "active",
                    "period": {
                        "start": "2026-02-23T00:00:00-08:00",
                        "end": "2026-03-01T00:00:00-08:00",
                    },
                },
                {"status": "onhold", "period": {"start": "2026-03-01T00:00:00-08:00"}},
            ],
        },
    )

    found = said(await iop.call(CALL, *days("2026-03-09", "2026-03-13")))

    assert found["summary"]["patient-appointments"] == 4 + 0 + 2
    assert [one["start"][:10] for one in await bookings(iop, "p3")] == ["2026-03-12", "2026-03-13"]
    assert await bookings(iop, "p2") == []


async def test_two_groups_of_one_timetable_have_sessions_of_their_own(iop: Iop) -> None:
    await furnish(iop, "p1")
    await put(iop.client, roster(id="day-b"), plan(action()))
    both = [ref("group", "Group/day-a"), ref("group", "Group/day-b")]

    found = said(await iop.call(CALL, *days("2026-03-09", "2026-03-09", *both)))
    again = said(await iop.call(CALL, *days("2026-03-09", "2026-03-09", *both)))

    assert found["summary"]["created"] == again["summary"]["unchanged"] == 2
    assert {one["identifier"][0]["value"] for one in await sessions(iop)} == {
        "urn:iop:session:day-4x3:morning:2026-03-09:day-a",
        "urn:iop:session:day-4x3:morning:2026-03-09:day-b",
    }


async def test_a_second_group_that_is_added_later_takes_nothing_from_the_first(iop: Iop) -> None:
    await furnish(iop, "p1")
    await put(iop.client, roster(id="day-b"), plan(action()))

    await iop.call(CALL, *days("2026-03-09", "2026-03-09", ref("group", "Group/day-a")))
    found = said(
        await iop.call(CALL, *days("2026-03-09", "2026-03-09", ref("group", "Group/day-b")))
    )

    assert found["summary"]["created"] == 1
    names = [one["identifier"][0]["value"] for one in await sessions(iop)]
    assert sorted(names) == [
        "urn:iop:session:day-4x3:morning:2026-03-09",
        "urn:iop:session:day-4x3:morning:2026-03-09:day-b",
    ]


async def test_a_room_and_who_leads_cannot_be_in_two_sessions_at_once(iop: Iop) -> None:
    await furnish(iop, "p1")
    await put(iop.client, roster(id="day-b"), plan(action(room="Location/room1")))
    asked = days("2026-03-09", "2026-03-09", led_by("PractitionerRole/th1"))
    first = said(await iop.call(CALL, *asked, ref("group", "Group/day-a")))

    refused = await iop.call(CALL, *asked, ref("group", "Group/day-b"))
    preview = said(
        await iop.call(
            CALL, *asked, ref("group", "Group/day-b"), param("mode", valueCode="preview")
        )
    )

    assert (refused.status_code, rule(refused)) == (409, "overlap")
    assert [(one["kind"], one["actor"], one["with"]) for one in preview["conflict"]] == [
        ("room", {"reference": "Location/room1"}, first["session"]),
        ("facilitator", {"reference": "PractitionerRole/th1"}, first["session"]),
    ]


async def test_conflicts_of_rooms_and_staff_may_be_allowed(iop: Iop) -> None:
    await furnish(iop, "p1")
    await put(iop.client, roster(id="day-b"), plan(action(room="Location/room1")))
    asked = days("2026-03-09", "2026-03-09", param("allow-conflicts", valueBoolean=True))
    await iop.call(CALL, *asked, ref("group", "Group/day-a"))

    found = said(await iop.call(CALL, *asked, ref("group", "Group/day-b")))

    assert found["summary"]["created"] == 1
    assert found["conflict"]["kind"] == "room"


async def test_a_patient_is_never_booked_twice_even_if_conflicts_are_allowed(iop: Iop) -> None:
    await furnish(iop, "p1", "p2")
    other = clinic.individual(
        "p1", "2026-03-09T10:00:00-07:00", "2026-03-09T11:00:00-07:00", kind="family"
    )
    await put(iop.client, other)

    refused = await iop.call(CALL, *days("2026-03-09", "2026-03-09"))
    allowed = param("allow-conflicts", valueBoolean=True)
    found = said(await iop.call(CALL, *days("2026-03-09", "2026-03-09", allowed)))

    assert (refused.status_code, rule(refused)) == (409, "overlap")
    assert "p1" not in refused.text
    assert found["summary"]["patient-appointments"] == 1
    assert found["conflict"]["kind"] == "patient"
    assert found["conflict"]["with"] == {"reference": "Appointment/i-p1"}
    assert len(await bookings(iop, "p1")) == 1


async def test_an_individual_session_may_pull_a_patient_out_of_the_group(iop: Iop) -> None:
    await furnish(iop, "p1")
    alone = clinic.individual("p1", "2026-03-09T10:00:00-07:00", "2026-03-09T10:50:00-07:00")
    await put(iop.client, alone)

    found = said(await iop.call(CALL, *days("2026-03-09", "2026-03-09")))

    assert found["summary"]["patient-appointments"] == 1
    assert "conflict" not in found


async def test_each_patient_has_a_provenance_that_names_nobody_else(iop: Iop) -> None:
    await furnish(iop, *TWO)

    await iop.call(CALL, *days("2026-03-09", "2026-03-13"))

    proofs = await iop.search("Provenance?_count=50")
    owners = []
    for proof in proofs:
        targets = [await iop.read(t["reference"].partition("/_h")[0]) for t in proof["target"]]
        patients = {
            one["actor"]["reference"]
            for target in targets
            for one in target["participant"]
            if one["actor"]["reference"].startswith("Patient/")
        }
        owners.append(sorted(patients))
    assert sorted(owners) == [[], ["Patient/p1"], ["Patient/p2"]]


async def test_sessions_outside_the_hours_of_the_program_are_refused(iop: Iop) -> None:
    await furnish(iop)
    await put(iop.client, plan(action(clock="07:00:00", pause="08:30/08:45")))

    reply = await iop.call(CALL, *days("2026-03-09", "2026-03-09"))

    assert (reply.status_code, rule(reply)) == (422, "INV-HS-1")
    assert await sessions(iop) == []


@pytest.mark.parametrize(
    ("first", "last", "status"),
    [
        ("2026-03-09", "2026-03-08", 422),
        ("2026-01-01", "2026-07-04", 422),  # 185 days
        ("2026-01-01", "2026-07-03", 200),
        ("2026-01", "2026-02", 422),
    ],
)
async def test_a_call_is_for_1_to_184_days(iop: Iop, first: str, last: str, status: int) -> None:
    await furnish(iop)

    reply = await iop.call(CALL, *days(first, last, param("mode", valueCode="preview")))

    assert reply.status_code == status
    assert status == 200 or rule(reply) == "range" or len(first) < len("2026-01-01")


async def test_a_draft_can_only_be_previewed(iop: Iop) -> None:
    await furnish(iop)
    await put(iop.client, plan(status="draft"))

    refused = await iop.call(CALL, *days("2026-03-09", "2026-03-09"))
    preview = await iop.call(
        CALL, *days("2026-03-09", "2026-03-09", param("mode", valueCode="preview"))
    )

    assert (refused.status_code, rule(refused)) == (409, "plan-not-active")
    assert said(preview)["summary"]["created"] == 1


async def test_an_action_that_the_timetable_does_not_have_cannot_be_led(iop: Iop) -> None:
    await furnish(iop)

    reply = await iop.call(
        CALL, *days("2026-03-09", "2026-03-09", led_by("PractitionerRole/th1", of="evening"))
    )

    assert (reply.status_code, rule(reply)) == (422, "action")


async def test_evening_sessions_begin_at_six_on_both_sides_of_a_change_of_clocks(iop: Iop) -> None:
    await furnish(iop)
    evening = action(days="wed mon fri", clock="18:00:00", pause="")
    await put(iop.client, plan(evening))

    await iop.call(CALL, *days("2026-03-04", "2026-03-11"))

    starts = {one["start"] for one in await sessions(iop)}
    assert {"2026-03-04T18:00:00-08:00", "2026-03-11T18:00:00-07:00"} <= starts


async def test_two_calls_at_once_make_the_sessions_once(iop: Iop) -> None:
    await furnish(iop, *TWO)
    week = days("2026-03-09", "2026-03-13")

    replies = await asyncio.gather(iop.call(CALL, *week), iop.call(CALL, *week))

    summaries = [said(one)["summary"] for one in replies]
    assert sorted(one["created"] for one in summaries) == [0, 4]
    assert sorted(one["patient-appointments"] for one in summaries) == [0, 8]
    assert len(await sessions(iop)) == 4


async def test_a_code_that_is_no_choice_is_refused(iop: Iop) -> None:
    await furnish(iop)

    reply = await iop.call(
        CALL, *days("2026-03-09", "2026-03-09", param("mode", valueCode="perhaps"))
    )

    assert reply.status_code == 400
    assert await sessions(iop) == []


async def test_a_key_makes_a_call_that_comes_again_answer_the_same(iop: Iop) -> None:
    await furnish(iop, "p1")
    week = days("2026-03-09", "2026-03-13")

    first = await iop.call(CALL, *week, Idempotency_Key="week")
    again = await iop.call(CALL, *week, Idempotency_Key="week")

    assert said(first)["summary"]["created"] == 4
    assert said(again) == said(first)


async def test_a_booking_that_was_called_off_without_a_time_is_no_place_to_fill(iop: Iop) -> None:
    """app-3 lets a cancelled Appointment be without start and end."""
    await furnish(iop, "p1", "p2")
    await put(iop.client, clinic.session("2026-03-09"))
    reason = clinic.coded(
        "http://terminology.hl7.org/CodeSystem/appointment-cancellation-reason", "pat"
    )
    off = clinic.booked(clinic.session("2026-03-09"), "p1", status="cancelled")
    off = {name: held for name, held in off.items() if name not in ("start", "end")}
    await put(iop.client, {**off, "cancelationReason": reason})

    found = said(await iop.call(CALL, *days("2026-03-09", "2026-03-09")))

    assert found["summary"]["unchanged"] == 1
    assert found["summary"]["patient-appointments"] == 1
