"""At the edges: extreme values, other ways to write a reference, and who is not of the staff."""

from typing import Any

import pytest

from app.config import Settings
from app.domain.vocabulary import (
    ACT_CODE,
    ATTENDANCE,
    CANCELATION,
    OVERRIDE,
    POLICY,
    PROGRAM,
    SESSION,
)
from tests.access.tokens import authorized
from tests.domain import clinic
from tests.domain.accounts import signed_in
from tests.domain.clinic import V, reference
from tests.domain.office import Iop, param, ref, rule

Resource = dict[str, Any]

ENDS = ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2016-12-31T23:59:60Z"]
DAY = "2026-03-03"
DAY_END = f"{DAY}T23:00:00-08:00"


async def opened(iop: Iop) -> None:
    """Store a program with two patients in treatment, a group and a session."""
    session = clinic.session(DAY)
    await iop.put(*clinic.program(), *clinic.admitted("p1"), *clinic.admitted("p2"))
    await iop.put(clinic.roster("Patient/p1", "Patient/p2"), session)
    await iop.put(clinic.booked(session, "p1"), clinic.booked(session, "p2"))


def timed(kind: str, moment: str) -> Resource:
    """Return a resource of a kind at a moment."""
    if kind == "episode":
        return {**clinic.episode("p1"), "period": {"start": moment}}
    if kind == "plan":
        bounded = clinic.plan()
        bounded["action"][0]["timingTiming"]["repeat"]["boundsPeriod"] = {"end": moment[:10]}
        return bounded
    made = clinic.session(DAY) if kind == "session" else clinic.booked(clinic.session(DAY), "p1")
    return {**made, "start": moment, "end": moment}


@pytest.mark.parametrize("moment", ENDS, ids=["first", "last", "leap second"])
@pytest.mark.parametrize("kind", ["session", "booking", "episode", "plan"])
async def test_the_ends_of_time_are_no_failure(iop: Iop, kind: str, moment: str) -> None:
    await opened(iop)
    resource = timed(kind, moment)

    reply = await iop.client.put(f"/{resource['resourceType']}/{resource['id']}", json=resource)

    assert reply.status_code in (200, 201, 409, 422), reply.text


@pytest.mark.parametrize(
    "parameter",
    [
        *(param(name, valueInstant=moment) for name in ("actual-start", "actual-end")
          for moment in ENDS[:2]),
        param("break", valuePeriod={"start": f"{DAY}T10:00:00-08:00"}),
    ],
    ids=["start first", "start last", "end first", "end last", "open break"],
)  # fmt: skip
async def test_a_session_is_held_near_its_time(iop: Iop, parameter: Resource) -> None:
    await opened(iop)
    iop.clock.set(f"{DAY}T13:00:00-08:00")

    reply = await iop.call(f"/Appointment/s-{DAY}/$attendance", *present("p1", "p2"), parameter)

    assert (reply.status_code, rule(reply)) == (422, "range")


def present(*patients: str) -> list[Resource]:
    """Return participants who attended."""
    status = param("status", valueCode="attended")
    return [
        param("participant", part=[ref("patient", f"Patient/{one}"), status]) for one in patients
    ]


@pytest.mark.parametrize("number", [-1, 2_147_483_647])
async def test_the_numbers_of_a_policy_have_bounds(iop: Iop, number: int) -> None:
    service = clinic.service()
    policy = V.complex(POLICY, ("excuse-notice-hours", "valueInteger", number))
    service["extension"].append(policy)
    await iop.put(clinic.organization(), clinic.location("room1"))

    reply = await iop.client.put(f"/HealthcareService/{service['id']}", json=service)

    assert (reply.status_code, rule(reply)) == (422, "range")


@pytest.mark.parametrize(
    "prefix", ["http://milepost.test/fhir/", ""], ids=["absolute", "versioned"]
)
async def test_a_rule_compares_resources_not_how_they_are_referred_to(
    iop: Iop, prefix: str
) -> None:
    await opened(iop)
    name = f"{prefix}Patient/p1" if prefix else "Patient/p1/_history/1"
    second = {**clinic.episode("p1"), "id": "second", "patient": reference(name)}

    reply = await iop.client.put("/EpisodeOfCare/second", json=second)

    assert (reply.status_code, rule(reply)) == (409, "INV-EC-1")


async def test_an_episode_that_begins_on_hold_has_begun(iop: Iop) -> None:
    await iop.put(*clinic.program(), clinic.patient("p9"), clinic.condition("p9"))
    await iop.put(clinic.order("p9"), clinic.team("p9"))

    reply = await iop.client.put(
        "/EpisodeOfCare/ep-p9", json={**clinic.episode("p9"), "status": "onhold"}
    )

    assert (reply.status_code, rule(reply)) == (422, "INV-EC-6")


async def test_a_full_program_takes_nobody_from_another_one(iop: Iop) -> None:
    await opened(iop)
    await iop.put(clinic.service("small", track="evening", capacity=1))
    moved = [clinic.episode(patient) for patient in ("p1", "p2")]
    for one in moved:
        kept = [e for e in one["extension"] if e["url"] != V.extension(PROGRAM)]
        place = V.extended(PROGRAM, valueReference=reference("HealthcareService/small"))
        one["extension"] = [*kept, place]
    await iop.put(moved[0])

    reply = await iop.client.put("/EpisodeOfCare/ep-p2", json=moved[1])

    assert (reply.status_code, rule(reply)) == (409, "capacity")


# --- who writes --------------------------------------------------------------------------------


async def test_only_a_director_sets_a_rule_aside_in_a_plain_write_too(
    iop: Iop, program_settings: Settings
) -> None:
    await opened(iop)
    token = await signed_in(program_settings, "th1")
    said = V.complex(OVERRIDE, ("rule", "valueCode", "INV-EC-6"), ("reason", "valueString", "x"))
    episode = clinic.episode("p1")
    episode["extension"].append(said)

    reply = await iop.client.put("/EpisodeOfCare/ep-p1", json=episode, headers=token)

    assert (reply.status_code, rule(reply)) == (403, "override-not-allowed")


async def test_patients_do_not_write_what_they_attended(
    iop: Iop, program_settings: Settings
) -> None:
    await opened(iop)
    token = await authorized(program_settings, "patient/*.cruds", "Patient/p1")
    visit = {
        "resourceType": "Encounter",
        "status": "finished",
        "class": {"system": ACT_CODE, "code": "AMB"},
        "type": [V.concept("iop-service-kind", "individual")],
        "subject": reference("Patient/p1"),
        "period": {"start": f"{DAY}T09:00:00-08:00", "end": f"{DAY}T10:00:00-08:00"},
        "participant": [{"individual": reference("PractitionerRole/th1")}],
        "episodeOfCare": [reference("EpisodeOfCare/ep-p1")],
    }

    reply = await iop.client.post("/Encounter", json=visit, headers=token)

    assert (reply.status_code, rule(reply)) == (403, "workforce-only")


async def test_patients_may_cancel_an_appointment_of_theirs_but_credit_nothing(
    iop: Iop, program_settings: Settings
) -> None:
    await opened(iop)
    token = await authorized(program_settings, "patient/*.cruds", "Patient/p1")
    booking = clinic.booked(clinic.session(DAY), "p1")
    reason = {"coding": [{"system": CANCELATION, "code": "pat"}]}
    cancelled = {**booking, "status": "cancelled", "cancelationReason": reason}
    credit = V.complex(ATTENDANCE, ("status", "valueCode", "attended"))
    credited = {**cancelled, "extension": [*booking["extension"], credit]}
    path = f"/Appointment/{booking['id']}"

    refused = await iop.client.put(path, json=credited, headers=token)
    moved = await iop.client.put(path, json={**cancelled, "end": DAY_END}, headers=token)
    allowed = await iop.client.put(path, json=cancelled, headers=token)

    assert (refused.status_code, rule(refused)) == (403, "workforce-only")
    assert (moved.status_code, rule(moved)) == (403, "workforce-only")
    assert allowed.status_code == 200


# --- what was found by asking otherwise --------------------------------------------------------


def visit(end: str, kind: str = "individual") -> Resource:
    """Return an individual session of p1, as an EHR writes it."""
    return {
        "resourceType": "Encounter",
        "id": "alone",
        "status": "finished",
        "class": {"system": ACT_CODE, "code": "AMB"},
        "type": [V.concept("iop-service-kind", kind)],
        "subject": reference("Patient/p1"),
        "period": {"start": f"{DAY}T14:00:00-08:00", "end": f"{DAY}T{end}:00-08:00"},
        "participant": [{"individual": reference("PractitionerRole/th1")}],
        "episodeOfCare": [reference("EpisodeOfCare/ep-p1")],
    }


@pytest.mark.parametrize(("end", "minutes"), [("15:50", 110), ("14:20", 20)])
async def test_what_followed_from_a_period_follows_it_when_that_is_corrected(
    iop: Iop, end: str, minutes: int
) -> None:
    await opened(iop)
    await iop.put(visit("14:50"))
    read = await iop.read("Encounter/alone")
    read["period"] = visit(end)["period"]

    reply = await iop.client.put("/Encounter/alone", json=read)

    said = reply.json()["extension"][0]["extension"]
    assert [one["valueUnsignedInt"] for one in said if one["url"] == "credited"] == [minutes]
    assert reply.json()["length"]["value"] == minutes


@pytest.mark.parametrize("status", ["entered-in-error", "in-progress", "cancelled"])
async def test_a_visit_that_is_no_longer_finished_comes_back_as_it_was_read(
    iop: Iop, status: str
) -> None:
    await opened(iop)
    await iop.put(visit("14:50"))
    read = await iop.read("Encounter/alone")

    reply = await iop.client.put("/Encounter/alone", json={**read, "status": status})

    assert reply.status_code == 200, reply.text
    assert reply.json()["extension"] == read["extension"]


async def test_a_visit_that_was_credited_is_not_deleted_from_under_its_appointment(
    iop: Iop,
) -> None:
    await opened(iop)
    iop.clock.set(f"{DAY}T13:00:00-08:00")
    reply = await iop.call(f"/Appointment/s-{DAY}/$attendance", *present("p1", "p2"))
    assert reply.status_code == 200
    (held,) = await iop.search("Encounter?patient=p1")

    deleted = await iop.client.delete(f"/Encounter/{held['id']}")

    assert (deleted.status_code, rule(deleted)) == (422, "INV-EN-8")


async def test_an_episode_in_treatment_is_not_deleted(iop: Iop) -> None:
    await opened(iop)

    reply = await iop.client.delete("/EpisodeOfCare/ep-p1")

    assert (reply.status_code, rule(reply)) == (422, "INV-EC-2")


async def test_a_booking_without_a_time_keeps_nobody_from_the_session(iop: Iop) -> None:
    """R4 lets a cancelled Appointment have none (app-3)."""
    await opened(iop)
    booking = clinic.booked(clinic.session(DAY), "p2")
    reason = {"coding": [{"system": CANCELATION, "code": "pat"}]}
    timeless = {n: held for n, held in booking.items() if n not in ("start", "end")}
    await iop.put({**timeless, "status": "cancelled", "cancelationReason": reason})
    iop.clock.set(f"{DAY}T13:00:00-08:00")

    reply = await iop.call(f"/Appointment/s-{DAY}/$attendance", *present("p1", "p2"))

    assert reply.status_code in (200, 422), reply.text


@pytest.mark.parametrize("group", ["Patient/p1", "Organization/cedar", "Group/none"])
async def test_sessions_are_made_for_rosters_only(iop: Iop, group: str) -> None:
    await opened(iop)
    await iop.put(clinic.plan(clinic.action()))
    days = (param("from", valueDate="2026-03-09"), param("to", valueDate="2026-03-10"))

    reply = await iop.call("/PlanDefinition/day-4x3/$generate-sessions", *days, ref("group", group))

    assert reply.status_code == 422, reply.text


def linked(n: int) -> list[Resource]:
    """Return the extension that names a session which is not there."""
    return [V.extended(SESSION, valueReference=reference(f"Appointment/x{n}"))]


async def test_a_plain_transaction_may_be_about_many_sessions(iop: Iop) -> None:
    await opened(iop)
    visits = [visit("14:50") | {"id": f"v{n}", "extension": linked(n)} for n in range(420)]
    entries = [
        {"resource": one, "request": {"method": "PUT", "url": f"Encounter/{one['id']}"}}
        for one in visits
    ]

    reply = await iop.client.post(
        "/", json={"resourceType": "Bundle", "type": "transaction", "entry": entries}
    )

    assert "too-costly" not in reply.text
