"""INV-EC, INV-CT and INV-SR: what an episode in a program may say, whoever writes it."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from app.config import Settings
from app.domain import chart
from app.domain.admission.episodes import NEXT, contiguous, leading
from app.domain.admission.levels import allowed, covered
from app.domain.vocabulary import DIAGNOSIS_ROLE, LOC_PERIOD, OVERRIDE, ROLE
from tests.access.tokens import authorized
from tests.domain import clinic
from tests.domain.clinic import V, reference
from tests.domain.office import Iop, rule

Body = dict[str, Any]
EPISODE = "/EpisodeOfCare/ep-p1"
MIDNIGHT = "2026-02-23T00:00:00-08:00"
LATER = "2026-04-06T00:00:00-07:00"


async def ready(iop: Iop) -> None:
    """Store the program, and all of p1 but the episode."""
    *before, _ = clinic.admitted("p1")
    await iop.put(*clinic.program(), *before)


async def put(iop: Iop, resource: Body) -> Any:
    """Return the reply to the update of a resource under its id."""
    return await iop.client.put(f"/{resource['resourceType']}/{resource['id']}", json=resource)


def level(start: str, end: str = "", order: str = "order-p1", code: str = "2.1") -> Body:
    """Return a period at a level of care."""
    return V.complex(
        LOC_PERIOD,
        ("code", "valueCodeableConcept", V.concept("iop-level-of-care", code)),
        ("period", "valuePeriod", {"start": start, **({"end": end} if end else {})}),
        ("order", "valueReference", reference(f"ServiceRequest/{order}") if order else None),
    )


def episode(*levels: Body, **fields: Any) -> Body:
    """Return the episode of p1 with these levels of care, or with one from the start on."""
    held = clinic.episode("p1", **fields)
    held["extension"] = [held["extension"][0], *(levels or [level(MIDNIGHT)])]
    return held


def finished(**fields: Any) -> Body:
    """Return the episode of p1 with all that one has that is finished."""
    roles = ("AD", "DD")
    condition = reference("Condition/oud-p1")
    held = episode(level(MIDNIGHT, LATER), status="finished")
    held["period"] = {"start": MIDNIGHT, "end": LATER}
    held["diagnosis"] = [
        {"condition": condition, "role": clinic.coded(DIAGNOSIS_ROLE, one), "rank": 1}
        for one in roles
    ]
    held["extension"] += [
        V.extended(
            "iop-discharge-reason",
            valueCodeableConcept=V.concept("iop-discharge-reason", "completed"),
        ),
        V.extended("iop-aftercare-waiver", valueString="Moved abroad"),
    ]
    return {**held, **fields}


# --- INV-EC-1 ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["active", "onhold"])
async def test_a_patient_is_in_one_episode_of_an_organization(iop: Iop, status: str) -> None:
    await ready(iop)
    await iop.put(episode(status=status))

    reply = await put(iop, {**episode(), "id": "another"})

    assert (reply.status_code, rule(reply)) == (409, "INV-EC-1")
    assert reply.json()["issue"][0]["code"] == "duplicate"


async def test_a_patient_may_be_in_an_episode_of_another_organization(iop: Iop) -> None:
    await ready(iop)
    await iop.put(episode(), clinic.organization("other"))

    other = {**episode(), "id": "another", "managingOrganization": reference("Organization/other")}
    reply = await put(iop, other)

    assert reply.status_code == 201


async def test_of_two_episodes_at_once_one_is_a_conflict(iop: Iop) -> None:
    await ready(iop)

    replies = await asyncio.gather(*(put(iop, {**episode(), "id": id}) for id in ("e1", "e2")))

    assert sorted(reply.status_code for reply in replies) == [201, 409]


# --- INV-EC-2 ----------------------------------------------------------------------------------

STATUSES = list(NEXT)
CHANGES = {
    ("planned", "waitlist"),
    ("planned", "active"),
    ("planned", "cancelled"),
    ("waitlist", "active"),
    ("waitlist", "cancelled"),
    ("active", "onhold"),
    ("onhold", "active"),
    ("active", "finished"),
    ("onhold", "finished"),
}


def test_the_table_of_changes_is_that_of_the_specification() -> None:
    assert {(was, now) for was, some in NEXT.items() for now in some} == CHANGES


@pytest.mark.parametrize("now", ["planned", "waitlist", "active", "onhold", "cancelled"])
async def test_what_is_finished_stays_so(iop: Iop, now: str) -> None:
    await ready(iop)
    await iop.put(finished())

    reply = await put(iop, episode(status=now))

    assert (reply.status_code, rule(reply)) == (422, "INV-EC-2")


async def test_an_active_episode_is_not_planned_again(iop: Iop) -> None:
    await ready(iop)
    await iop.put(episode())

    reply = await put(iop, episode(status="waitlist"))

    assert (reply.status_code, rule(reply)) == (422, "INV-EC-2")


@pytest.mark.parametrize("was", [episode(), finished()], ids=["active", "finished"])
async def test_every_episode_can_have_been_a_mistake(iop: Iop, was: Body) -> None:
    await ready(iop)
    await iop.put(was)

    reply = await put(iop, {**was, "status": "entered-in-error"})

    assert reply.status_code == 200


# --- INV-EC-3 ----------------------------------------------------------------------------------


async def test_the_server_writes_the_history_of_the_status(iop: Iop) -> None:
    await ready(iop)
    await iop.put(episode(status="planned"))
    await iop.put(episode())
    iop.clock.set("2026-03-10T10:00:00-07:00")
    await iop.put(episode(status="onhold"))
    iop.clock.set("2026-03-12T10:00:00-07:00")

    await iop.put(episode())

    history = (await iop.read("EpisodeOfCare/ep-p1"))["statusHistory"]
    assert [one["status"] for one in history] == ["planned", "active", "onhold", "active"]
    assert [one["period"].get("end") for one in history][1:] == [
        "2026-03-10T17:00:00Z",
        "2026-03-12T17:00:00Z",
        None,
    ]
    assert contiguous(await iop.read("EpisodeOfCare/ep-p1"))


async def test_a_client_may_say_itself_when_a_hold_began(iop: Iop) -> None:
    await ready(iop)
    await iop.put(episode())
    began = "2026-02-26T00:00:00-08:00"
    history = [
        {"status": "active", "period": {"start": MIDNIGHT, "end": began}},
        {"status": "onhold", "period": {"start": began}},
    ]

    await iop.put(episode(status="onhold", statusHistory=history))

    assert (await iop.read("EpisodeOfCare/ep-p1"))["statusHistory"] == history


async def test_a_finished_episode_was_active_up_to_its_end(iop: Iop) -> None:
    await ready(iop)
    await iop.put(episode())

    await iop.put(finished())

    active, last = (await iop.read("EpisodeOfCare/ep-p1"))["statusHistory"]
    assert active["period"] == {"start": MIDNIGHT, "end": LATER}
    assert last == {"status": "finished", "period": {"start": LATER}}


@pytest.mark.parametrize(
    "history",
    [
        [
            {"status": "waitlist", "period": {"start": "2026-02-01", "end": "2026-02-10"}},
            {"status": "active", "period": {"start": "2026-02-12"}},
        ],
        [
            {"status": "waitlist", "period": {"start": "2026-02-01"}},
            {"status": "active", "period": {"start": "2026-02-12"}},
        ],
        [{"status": "active", "period": {"end": "2026-02-12"}}],
    ],
    ids=["a gap", "no end", "no start"],
)
async def test_a_history_with_a_gap_is_refused(iop: Iop, history: list[Body]) -> None:
    await ready(iop)

    reply = await put(iop, episode(statusHistory=history))

    assert (reply.status_code, rule(reply)) == (422, "INV-EC-3")


@pytest.mark.parametrize(
    ("end", "start", "whole"),
    [
        ("2026-02-10", "2026-02-10", True),
        ("2026-02-10", "2026-02-11", True),
        ("2026-02-10", "2026-02-12", False),
        ("2026-02-10T08:00:00Z", "2026-02-10T00:00:00-08:00", True),
        ("2026-02-10T08:00:00Z", "2026-02-10T00:00:01-08:00", False),
    ],
)
def test_a_day_that_ends_a_period_is_part_of_it(end: str, start: str, whole: bool) -> None:
    past = [
        {"status": "waitlist", "period": {"start": "2026-02-01", "end": end}},
        {"status": "active", "period": {"start": start}},
    ]

    assert contiguous({"status": "active", "statusHistory": past}) is whole


# --- INV-EC-4 ----------------------------------------------------------------------------------


async def test_an_episode_can_be_finished_with_all_that_it_needs(iop: Iop) -> None:
    await ready(iop)
    await iop.put(episode())

    reply = await put(iop, finished())

    assert reply.status_code == 200


def without(held: Body, *names: str) -> Body:
    """Return the finished episode without some extensions."""
    urls = {V.extension(name) for name in names}
    return {**held, "extension": [one for one in held["extension"] if one["url"] not in urls]}


LACKING = {
    "the reason": without(finished(), "iop-discharge-reason"),
    "the aftercare plan": without(finished(), "iop-aftercare-waiver"),
    "the diagnosis at discharge": {**finished(), "diagnosis": finished()["diagnosis"][:1]},
    "the end": {**episode(), "status": "finished", "diagnosis": finished()["diagnosis"]},
}


@pytest.mark.parametrize("lacking", LACKING.values(), ids=LACKING.keys())
async def test_an_episode_is_not_finished_without_it(iop: Iop, lacking: Body) -> None:
    await ready(iop)
    await iop.put(episode())

    reply = await put(iop, lacking)

    assert (reply.status_code, rule(reply)) == (422, "INV-EC-4")


@pytest.mark.parametrize(
    ("status", "start", "answered"),
    [
        ("active", "2026-04-01", 200),
        ("completed", "2026-04-01", 200),
        ("draft", "2026-04-01", 422),
        ("active", "2025-04-01", 422),
    ],
)
async def test_an_aftercare_plan_of_the_episode_needs_no_waiver(
    iop: Iop, status: str, start: str, answered: int
) -> None:
    await ready(iop)
    plan = {
        "resourceType": "CarePlan",
        "id": "aftercare",
        "status": status,
        "intent": "plan",
        "category": [V.concept("iop-careplan-category", "aftercare-plan")],
        "subject": reference("Patient/p1"),
        "period": {"start": start},
    }
    await iop.put(episode(), plan)

    reply = await put(iop, LACKING["the aftercare plan"])

    assert reply.status_code == answered


# --- INV-EC-5 ----------------------------------------------------------------------------------

START, CHANGE, END = (datetime(2026, month, 1, tzinfo=UTC) for month in (3, 4, 5))


Levels = list[tuple[datetime, datetime | None]]
WHOLE: dict[str, tuple[Levels, datetime | None]] = {
    "one that lasts": ([(START, None)], None),
    "two": ([(START, CHANGE), (CHANGE, None)], None),
    "two up to the end": ([(START, CHANGE), (CHANGE, END)], END),
}
HOLED: dict[str, tuple[Levels, datetime | None]] = {
    "none": ([], None),
    "one that begins later": ([(CHANGE, None)], None),
    "one that ends before": ([(START, CHANGE)], None),
    "one that outlasts the episode": ([(START, None)], END),
    "a gap": ([(START, CHANGE), (END, None)], None),
    "an overlap": ([(START, END), (CHANGE, None)], None),
    "two that last": ([(START, None), (CHANGE, None)], None),
}


def lasting(levels: Levels, end: datetime | None) -> chart.Episode:
    """Return an episode from START on with these periods of a level."""
    periods = tuple(chart.LevelPeriod("2.1", one, two, "", "") for one, two in levels)
    return chart.Episode("", "", "", "", "active", START, end, periods, (), (), "")


@pytest.mark.parametrize("levels", WHOLE.values(), ids=WHOLE.keys())
def test_levels_follow_each_other(levels: tuple[Levels, datetime | None]) -> None:
    """INV-EC-5."""
    assert covered(lasting(*levels))


@pytest.mark.parametrize("levels", HOLED.values(), ids=HOLED.keys())
def test_levels_that_leave_a_gap_are_seen(levels: tuple[Levels, datetime | None]) -> None:
    assert not covered(lasting(*levels))


BROKEN = {
    "no level": clinic.episode("p1", extension=clinic.episode("p1")["extension"][:1]),
    "a later start": episode(level("2026-02-24T00:00:00-08:00")),
    "a gap": episode(level(MIDNIGHT, "2026-03-01T00:00:00Z"), level("2026-03-02T00:00:00Z")),
    "an overlap": episode(level(MIDNIGHT, "2026-03-02T00:00:00Z"), level("2026-03-01T00:00:00Z")),
    "no order": episode(level(MIDNIGHT, order="")),
    "an order that is not there": episode(level(MIDNIGHT, order="none")),
    "an order of somebody else": episode(level(MIDNIGHT, order="order-p2")),
    "no start": episode(period={}),
}
del BROKEN["no start"]["period"]


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
async def test_an_active_episode_is_covered_by_ordered_levels(iop: Iop, broken: Body) -> None:
    await ready(iop)
    await iop.put(*clinic.chart("p2"), clinic.order("p2"))

    reply = await put(iop, broken)

    assert (reply.status_code, rule(reply)) == (422, "INV-EC-5")


async def test_an_order_that_was_revoked_is_behind_no_level(iop: Iop) -> None:
    await ready(iop)
    await iop.put({**clinic.order("p1"), "status": "revoked"})

    reply = await put(iop, episode())

    assert (reply.status_code, rule(reply)) == (422, "INV-EC-5")


async def test_an_episode_that_waits_needs_no_level(iop: Iop) -> None:
    await ready(iop)

    reply = await put(iop, {**BROKEN["no level"], "status": "waitlist"})

    assert reply.status_code == 201


# --- INV-EC-6, INV-CO-1, and what is required ----------------------------------------------------

EVIDENCE = ["QuestionnaireResponse/intake-p1", "Observation/asam-p1"]
PAPERS = ["DocumentReference/ctt-p1", "DocumentReference/npp-p1"]


@pytest.mark.parametrize("missing", EVIDENCE + PAPERS)
async def test_an_episode_written_plainly_needs_its_evidence_too(iop: Iop, missing: str) -> None:
    await ready(iop)
    await iop.client.delete(f"/{missing}")

    reply = await put(iop, episode())

    assert (reply.status_code, rule(reply)) == (422, "INV-EC-6")


async def test_an_episode_needs_a_principal_diagnosis(iop: Iop) -> None:
    await ready(iop)
    bare = episode()
    del bare["diagnosis"]

    reply = await put(iop, bare)

    assert (reply.status_code, rule(reply)) == (422, "INV-EC-6")


async def test_evidence_that_was_set_aside_with_a_reason_is_not_asked_for(iop: Iop) -> None:
    await ready(iop)
    await iop.client.delete(f"/{EVIDENCE[0]}")
    held = episode()
    held["extension"].append(
        V.complex(
            OVERRIDE, ("rule", "valueCode", "INV-EC-6"), ("reason", "valueString", "Emergency")
        )
    )

    reply = await put(iop, held)

    assert reply.status_code == 201


async def test_evidence_is_asked_for_once_when_the_episode_begins(iop: Iop) -> None:
    await ready(iop)
    await iop.put(episode())
    await iop.client.delete(f"/{EVIDENCE[0]}")
    await iop.put(episode(status="onhold"))

    reply = await put(iop, episode())

    assert reply.status_code == 200


async def test_the_principal_diagnosis_is_a_substance_use_disorder_of_the_patient(iop: Iop) -> None:
    await ready(iop)
    await iop.put(clinic.condition("p1", "F33.1"))

    reply = await put(iop, episode())

    assert (reply.status_code, rule(reply)) == (422, "INV-CO-1")


@pytest.mark.parametrize("name", ["identifier", "managingOrganization", "careManager", "team"])
async def test_an_active_episode_has_what_is_required(iop: Iop, name: str) -> None:
    await ready(iop)
    bare = episode()
    del bare[name]

    reply = await put(iop, bare)

    assert (reply.status_code, rule(reply)) == (422, "required")


async def test_a_full_program_takes_no_episode_that_is_written_plainly(iop: Iop) -> None:
    """INV-HS-2."""
    await ready(iop)
    await iop.put(episode(), clinic.service(capacity=1))
    *before, second = clinic.admitted("p2")
    await iop.put(*before)

    reply = await put(iop, second)

    assert (reply.status_code, rule(reply)) == (409, "capacity")


async def test_an_episode_of_another_kind_is_under_no_rule(iop: Iop) -> None:
    plain = {
        "resourceType": "EpisodeOfCare",
        "id": "plain",
        "status": "active",
        "patient": reference("Patient/p1"),
    }

    reply = await put(iop, plain)

    assert reply.status_code == 201
    assert "statusHistory" not in reply.json()


# --- INV-SR ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "minutes", "adolescent", "fits"),
    [
        ("2.1", 540, False, True),
        ("2.1", 539, False, False),
        ("2.1", 1199, False, True),
        ("2.1", 1200, False, False),
        ("2.1", 360, True, True),
        ("2.1", 359, True, False),
        ("2.5", 1200, False, True),
        ("2.5", 1199, False, False),
        ("2.5", 1800, False, True),
        ("2.5", 1801, False, False),
        ("1.5", 539, False, True),
        ("1.5", 540, False, False),
        ("1.5", 360, True, False),
        ("2.7", 30, False, True),
    ],
)
def test_the_hours_of_an_order_are_those_of_its_level(
    code: str, minutes: int, adolescent: bool, fits: bool
) -> None:
    """INV-SR-1."""
    assert allowed(code, minutes, adolescent=adolescent) is fits


@pytest.mark.parametrize(("hours", "status"), [(8, 422), (9, 201), (20, 422)])
async def test_an_order_of_too_few_or_too_many_hours_is_refused(
    iop: Iop, hours: int, status: int
) -> None:
    await iop.put(clinic.patient("p1"), clinic.condition("p1"))

    reply = await put(iop, clinic.order("p1", hours=hours))

    assert reply.status_code == status
    assert status == 201 or rule(reply) == "INV-SR-1"


async def test_an_order_with_a_reason_may_be_of_fewer_hours(iop: Iop) -> None:
    await iop.put(clinic.patient("p1"), clinic.condition("p1"))
    reason = V.complex(
        OVERRIDE, ("rule", "valueCode", "INV-SR-1"), ("reason", "valueString", "Pain")
    )

    reply = await put(iop, {**clinic.order("p1", hours=6), "extension": [reason]})

    assert reply.status_code == 201


async def test_an_order_says_its_hours(iop: Iop) -> None:
    await iop.put(clinic.patient("p1"), clinic.condition("p1"))
    silent = clinic.order("p1")
    del silent["quantityRatio"]

    reply = await put(iop, silent)

    assert (reply.status_code, rule(reply)) == (422, "INV-SR-1")


async def test_an_open_episode_keeps_its_active_order(iop: Iop) -> None:
    """INV-SR-2: none is too few ..."""
    await ready(iop)
    await iop.put(episode())

    reply = await put(iop, {**clinic.order("p1"), "status": "completed"})

    assert (reply.status_code, rule(reply)) == (422, "INV-SR-2")


async def test_an_open_episode_has_no_second_active_order(iop: Iop) -> None:
    """... and two are too many."""
    await ready(iop)
    second = {**clinic.order("p1", level="2.5", hours=20), "id": "second"}
    await iop.put(episode(), second)
    change = "2026-03-16T00:00:00-07:00"

    reply = await put(iop, episode(level(MIDNIGHT, change), level(change, order="second")))

    assert (reply.status_code, rule(reply)) == (422, "INV-SR-2")


async def test_a_level_is_changed_in_one_transaction(iop: Iop) -> None:
    await ready(iop)
    await iop.put(episode())
    change = "2026-03-16T00:00:00-07:00"

    await iop.put(
        {**clinic.order("p1"), "status": "completed"},
        {**clinic.order("p1", level="2.5", hours=20), "id": "second"},
        episode(level(MIDNIGHT, change), level(change, order="second", code="2.5")),
    )

    assert len((await iop.read("EpisodeOfCare/ep-p1"))["extension"]) == 3


# --- INV-CT ------------------------------------------------------------------------------------


def member(role: str, who: str, end: str = "") -> Body:
    """Return a participant of a care team."""
    held = {"role": [V.concept(ROLE, role)], "member": reference(who)}
    return {**held, **({"period": {"end": end}} if end else {})}


@pytest.mark.parametrize(
    ("members", "leaders"),
    [
        ([member("primary-therapist", "PractitionerRole/th1")], 1),
        ([member("therapist", "PractitionerRole/th1")], 0),
        (
            [
                member("primary-therapist", "PractitionerRole/th1", "2026-03-01"),
                member("primary-therapist", "PractitionerRole/th2"),
            ],
            1,
        ),
        (
            [
                member("primary-therapist", "PractitionerRole/th1"),
                member("primary-therapist", "PractitionerRole/th2"),
            ],
            2,
        ),
    ],
)
def test_a_primary_therapist_leads_until_the_period_ends(members: list[Body], leaders: int) -> None:
    now = datetime(2026, 3, 2, 16, tzinfo=UTC)

    assert len(leading(V, {"participant": members}, now)) == leaders


@pytest.mark.parametrize(
    "members",
    [
        [member("case-manager", "PractitionerRole/cm1")],
        [
            member("primary-therapist", "PractitionerRole/th1"),
            member("primary-therapist", "PractitionerRole/th2"),
        ],
    ],
    ids=["none", "two"],
)
async def test_a_care_team_has_exactly_one_primary_therapist(iop: Iop, members: list[Body]) -> None:
    """INV-CT-1."""
    await iop.put(clinic.patient("p1"), *clinic.staff(), clinic.organization())

    reply = await put(iop, {**clinic.team("p1"), "participant": members})

    assert (reply.status_code, rule(reply)) == (422, "INV-CT-1")


async def test_to_be_of_a_care_team_opens_no_record(iop: Iop, program_settings: Settings) -> None:
    """INV-CT-2: what somebody may see is a matter of his token alone."""
    await iop.put(*clinic.program(), *clinic.admitted("p1"))
    sister = {"resourceType": "RelatedPerson", "id": "sister", "active": True}
    team = clinic.team("p1")
    team["participant"].append(member("supporter", "RelatedPerson/sister"))
    await iop.put({**sister, "patient": reference("Patient/p1")}, team, clinic.patient("p2"))
    other = await authorized(program_settings, "patient/*.rs", "Patient/p2")

    found = [
        await iop.client.get(f"/{one}", headers=other)
        for one in ("CareTeam/team-p1", "EpisodeOfCare/ep-p1", "RelatedPerson/sister")
    ]

    assert {reply.status_code for reply in found} == {404}
