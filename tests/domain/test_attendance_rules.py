"""INV-EN-1 to INV-EN-8: what holds for every Encounter of a program, whoever writes it."""

import asyncio
from typing import Any

import pytest

from tests.domain import clinic
from tests.domain.office import Iop, rule

V = clinic.V
Resource = dict[str, Any]
START, END = "2026-03-03T09:00:00-08:00", "2026-03-03T12:15:00-08:00"
PLAIN = "http://terminology.hl7.org/CodeSystem/v3-ActCode"


def led(*others: str) -> list[Resource]:
    """Return participants: the therapist, and others."""
    return [{"individual": {"reference": one}} for one in (clinic.THERAPIST, *others)]


def encounter(id: str, subject: str, kind: str = "group", **fields: Any) -> Resource:
    """Return a finished Encounter with a facilitator; None as a field leaves it out."""
    whole = {
        "resourceType": "Encounter",
        "id": id,
        "status": "finished",
        "class": {"system": PLAIN, "code": "AMB"},
        "type": [V.concept("iop-service-kind", kind)],
        "subject": {"reference": subject},
        "participant": led(),
        "period": {"start": START, "end": END},
        **fields,
    }
    return {name: held for name, held in whole.items() if held is not None}


def minutes(number: int) -> Resource:
    """Return clinical minutes."""
    return V.extended("iop-clinical-minutes", valuePositiveInt=number)


def of_session(id: str = "2026-03-03") -> Resource:
    """Return the extension that leads to a session."""
    return V.extended("iop-session", valueReference={"reference": f"Appointment/s-{id}"})


def credit(number: int, **more: Any) -> Resource:
    """Return the outcome of attendance."""
    return V.complex(
        "iop-attendance",
        ("status", "valueCode", "attended"),
        ("credited", "valueUnsignedInt", number),
        *((name, "valueBoolean", held) for name, held in more.items()),
    )


def shared(**fields: Any) -> Resource:
    """Return the Encounter of the session."""
    return encounter(
        "session",
        "Group/day-a",
        **{"extension": [minutes(180)], **fields},  # as it was held
    )


def part(id: str = "own", patient: str = "p1", **fields: Any) -> Resource:
    """Return the Encounter of a patient that is part of the session."""
    given = {
        "partOf": {"reference": "Encounter/session"},
        "extension": [of_session(), credit(180)],
    }
    return encounter(id, f"Patient/{patient}", **{**given, **fields})


async def prepared(iop: Iop, *more: Resource) -> None:
    """Store the program, its session on a Tuesday, and a patient who is booked."""
    session = clinic.session()
    booking = clinic.booked(session, "p1")
    await iop.put(*clinic.program()[:-1], *clinic.admitted("p1"), clinic.roster("Patient/p1"))
    await iop.put(session, booking, *more)
    iop.clock.set("2026-03-03T13:00:00-08:00")


async def write(iop: Iop, resource: Resource) -> tuple[int, str]:
    """Return the status of an update, and the rule that refused it."""
    reply = await iop.client.put(f"/{resource['resourceType']}/{resource['id']}", json=resource)
    return reply.status_code, rule(reply) if reply.status_code >= 400 else ""


# --- INV-EN-1 -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (START, END, (201, "")),
        ("2026-03-03T17:00:00Z", "2026-03-03T20:15:00Z", (201, "")),
        ("2026-03-03T08:59:59-08:00", END, (422, "INV-EN-1")),
        (START, "2026-03-03T12:15:01-08:00", (422, "INV-EN-1")),
    ],
)
async def test_en1_an_encounter_of_a_patient_is_inside_its_session(
    iop: Iop, start: str, end: str, expected: tuple[int, str]
) -> None:
    await prepared(iop, shared())

    assert await write(iop, part(period={"start": start, "end": end})) == expected


async def test_en1_without_a_session_encounter_the_appointment_is_the_measure(iop: Iop) -> None:
    await prepared(iop)
    late = {"start": START, "end": "2026-03-03T13:00:00-08:00"}

    assert await write(iop, part(partOf=None, period=late)) == (422, "INV-EN-1")


async def test_en1_a_session_is_not_made_shorter_than_its_visits(iop: Iop) -> None:
    await prepared(iop, shared(), part())
    short = {"start": START, "end": "2026-03-03T12:00:00-08:00"}

    assert await write(iop, shared(period=short)) == (422, "INV-EN-1")


# --- INV-EN-2 -----------------------------------------------------------------------------------


async def test_en2_no_more_is_credited_than_the_clinical_minutes(iop: Iop) -> None:
    await prepared(iop, shared())

    too_many = part(extension=[of_session(), credit(181)])

    assert await write(iop, too_many) == (422, "INV-EN-2")


async def test_en2_of_a_session_alone_no_more_is_credited_than_it_lasted(iop: Iop) -> None:
    await prepared(iop)
    hour = {"start": START, "end": "2026-03-03T10:00:00-08:00"}

    long = encounter("own", "Patient/p1", "individual", period=hour, extension=[credit(61)])

    assert await write(iop, long) == (422, "INV-EN-2")


# --- INV-EN-3 -----------------------------------------------------------------------------------


async def test_en3_a_patient_has_one_encounter_for_a_session(iop: Iop) -> None:
    await prepared(iop, shared(), part())

    assert await write(iop, part("second")) == (409, "INV-EN-3")


async def test_en3_one_that_was_entered_in_error_does_not_count(iop: Iop) -> None:
    await prepared(iop, shared(), part(status="entered-in-error"))

    assert await write(iop, part("second")) == (201, "")


async def test_en3_of_two_that_are_written_at_once_one_is_stored(iop: Iop) -> None:
    await prepared(iop, shared())

    replies = await asyncio.gather(write(iop, part("first")), write(iop, part("second")))

    assert sorted(replies) == [(201, ""), (409, "INV-EN-3")]


async def test_en3_another_patient_has_his_own(iop: Iop) -> None:
    await prepared(iop, shared(), part(), *clinic.admitted("p2"))

    assert await write(iop, part("second", "p2")) == (201, "")


# --- INV-EN-4, INV-EN-5 -------------------------------------------------------------------------


async def test_en4_a_finished_encounter_needs_a_facilitator(iop: Iop) -> None:
    await prepared(iop, shared())

    assert await write(iop, part(participant=None)) == (422, "INV-EN-4")


async def test_en4_a_planned_one_does_not(iop: Iop) -> None:
    await prepared(iop, shared())

    assert await write(iop, part(status="planned", participant=None)) == (201, "")


@pytest.mark.parametrize("kind", ["family", "family-collateral"])
async def test_en5_a_family_session_needs_family(iop: Iop, kind: str) -> None:
    await prepared(iop)

    assert await write(iop, encounter("own", "Patient/p1", kind)) == (422, "INV-EN-5")


async def test_en5_a_family_session_with_a_related_person_is_stored(iop: Iop) -> None:
    await prepared(iop, sister())

    whole = encounter("own", "Patient/p1", "family", participant=led("RelatedPerson/sister"))

    assert await write(iop, whole) == (201, "")


async def test_en5_without_the_patient_no_minutes_count_towards_the_hours(iop: Iop) -> None:
    await prepared(iop, sister())
    collateral = encounter(
        "own",
        "Patient/p1",
        "family-collateral",
        participant=led("RelatedPerson/sister"),
        extension=[credit(50, countsTowardHours=True)],
    )

    assert await write(iop, collateral) == (422, "INV-EN-5")


def sister() -> Resource:
    """Return a RelatedPerson of the patient."""
    patient = {"reference": "Patient/p1"}
    return {"resourceType": "RelatedPerson", "id": "sister", "active": True, "patient": patient}


# --- INV-EN-6, INV-EN-8 -------------------------------------------------------------------------


async def test_en6_telehealth_without_state_and_virtual_room_is_worth_warnings(iop: Iop) -> None:
    await prepared(iop, shared())
    virtual: Resource = {"class": {"system": PLAIN, "code": "VR"}}

    codes = await warned(iop, part(**virtual))

    assert codes == ["INV-EN-6", "INV-EN-6"]


async def test_en6_telehealth_with_both_is_not(iop: Iop) -> None:
    await prepared(iop, shared())
    state = V.extended("iop-location-state", valueCode="CA")
    virtual: Resource = {
        "class": {"system": PLAIN, "code": "VR"},
        "location": [{"location": {"reference": "Location/video"}}],
        "extension": [of_session(), credit(180), state],
    }

    assert await warned(iop, part(**virtual)) == []


async def warned(iop: Iop, resource: Resource) -> list[str]:
    """Return the rules that warn of an update that is made."""
    reply = await iop.client.put(
        f"/{resource['resourceType']}/{resource['id']}",
        json=resource,
        headers={"Prefer": "return=OperationOutcome"},
    )
    assert reply.status_code == 201, reply.text
    issues = reply.json()["issue"]
    return [i["details"]["coding"][0]["code"] for i in issues if i["severity"] == "warning"]


async def test_en8_what_never_was_has_no_fulfilled_appointment(iop: Iop) -> None:
    booking = {"reference": "Appointment/b-s-2026-03-03-p1"}
    await prepared(iop, shared(), part(appointment=[booking]))
    done = clinic.booked(clinic.session(), "p1", status="fulfilled")
    await iop.put(done)

    withdrawn = part(appointment=[booking], status="entered-in-error")

    assert await write(iop, withdrawn) == (422, "INV-EN-8")


async def test_en8_both_are_withdrawn_in_one_transaction(iop: Iop) -> None:
    booking = {"reference": "Appointment/b-s-2026-03-03-p1"}
    await prepared(iop, shared(), part(appointment=[booking]))
    done = clinic.booked(clinic.session(), "p1", status="fulfilled")
    await iop.put(done)

    await iop.put(
        part(appointment=[booking], status="entered-in-error"),
        {**done, "status": "entered-in-error"},
    )

    assert (await iop.read("Encounter/own"))["status"] == "entered-in-error"


async def test_an_encounter_that_uses_nothing_of_ours_is_under_no_rule(iop: Iop) -> None:
    plain = encounter("own", "Patient/p1", type=None, participant=None)
    await iop.put(clinic.patient("p1"))

    assert await write(iop, plain) == (201, "")
