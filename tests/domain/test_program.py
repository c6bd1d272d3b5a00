"""INV-HS, INV-PD and INV-PR: the program, its timetable, and who leads its sessions."""

from typing import Any

import pytest

from app.domain.program.staff import wrong_leaders
from tests.domain import clinic
from tests.domain.clinic import V, action, plan, practitioner, put, role, service, session
from tests.domain.office import Iop, rule


async def refused(iop: Iop, resource: dict[str, Any]) -> tuple[int, str]:
    """Return status and rule of a write that has to be refused."""
    reply = await iop.client.put(f"/{resource['resourceType']}/{resource['id']}", json=resource)
    assert reply.status_code >= 400, reply.text
    return reply.status_code, rule(reply)


async def warned(iop: Iop, resource: dict[str, Any]) -> list[str]:
    """Return the rules that warn of a write that succeeds."""
    reply = await iop.client.put(
        f"/{resource['resourceType']}/{resource['id']}",
        json=resource,
        headers={"Prefer": "return=OperationOutcome"},
    )
    assert reply.status_code in (200, 201), reply.text
    issues = reply.json()["issue"]
    found = [one["details"]["coding"][0]["code"] for one in issues if "details" in one]
    assert all(one["severity"] == "warning" for one in issues if "details" in one)
    return found


def changed(resource: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return a resource with other elements; None takes one away."""
    return {name: held for name, held in {**resource, **fields}.items() if held is not None}


def without(resource: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a resource without the extension of a name."""
    rest = [one for one in resource["extension"] if one["url"] != V.extension(name)]
    return {**resource, "extension": rest}


# --- INV-HS ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "incomplete",
    [
        changed(service(), providedBy=None),
        changed(service(), category=None),
        changed(service(), location=None),
        changed(service(), availableTime=None),
        changed(service(), characteristic=[V.concept("iop-track", "day")]),
        without(service(), "iop-timezone"),
        without(service(), "iop-capacity"),
    ],
)
async def test_a_program_says_what_a_program_must(iop: Iop, incomplete: dict[str, Any]) -> None:
    await put(iop.client, *clinic.program())

    assert await refused(iop, incomplete) == (422, "required")


@pytest.mark.parametrize(
    ("start", "end", "allowed"),
    [
        ("2026-03-03T08:00:00-08:00", "2026-03-03T11:15:00-08:00", True),
        ("2026-03-03T07:59:00-08:00", "2026-03-03T11:14:00-08:00", False),
        ("2026-03-03T18:00:00-08:00", "2026-03-03T21:00:00-08:00", True),
        ("2026-03-03T18:00:00-08:00", "2026-03-03T21:01:00-08:00", False),
        ("2026-03-08T09:00:00-07:00", "2026-03-08T12:15:00-07:00", False),  # a Sunday
        ("2026-03-03T20:00:00-08:00", "2026-03-04T09:00:00-08:00", False),  # over night
    ],
)
async def test_a_session_is_at_a_time_at_which_its_program_is_open(
    iop: Iop, start: str, end: str, allowed: bool
) -> None:
    """INV-HS-1."""
    await put(iop.client, *clinic.program())
    one = session(start=start, end=end)

    if allowed:
        await put(iop.client, one)
    else:
        assert await refused(iop, one) == (422, "INV-HS-1")


async def test_hours_that_adjoin_are_one_time(iop: Iop) -> None:
    """INV-HS-1."""
    halves = [
        {"daysOfWeek": ["tue"], "availableStartTime": "08:00:00", "availableEndTime": "10:00:00"},
        {"daysOfWeek": ["tue"], "availableStartTime": "10:00:00", "availableEndTime": "13:00:00"},
    ]
    await put(iop.client, *clinic.program())
    await put(iop.client, changed(service(), availableTime=halves))

    await put(iop.client, session())


async def test_the_hours_of_a_program_cover_the_sessions_that_are_booked(iop: Iop) -> None:
    """INV-HS-1."""
    await put(iop.client, *clinic.program(), session())
    afternoons = [{"availableStartTime": "12:00:00", "availableEndTime": "18:00:00"}]

    found = await refused(iop, changed(service(), availableTime=afternoons))

    assert found == (422, "INV-HS-1")


async def test_a_capacity_is_not_below_the_patients_who_are_there(iop: Iop) -> None:
    """INV-HS-2."""
    await put(iop.client, *clinic.program(), *clinic.admitted("p1"), *clinic.admitted("p2"))

    assert await refused(iop, service(capacity=1)) == (422, "INV-HS-2")
    await put(iop.client, service(capacity=2))


async def test_a_time_zone_has_a_name_of_iana(iop: Iop) -> None:
    """INV-HS-3."""
    await put(iop.client, *clinic.program())

    assert await refused(iop, service(zone="Pacific")) == (422, "INV-HS-3")


@pytest.mark.parametrize(
    "telecom",
    [
        None,
        [{"system": "email", "value": "crisis@example.org", "rank": 1}],
        [{"system": "phone", "value": "555-0199"}],
    ],
)
async def test_a_program_has_a_telephone_for_a_crisis(
    iop: Iop, telecom: list[dict[str, Any]] | None
) -> None:
    """INV-HS-4."""
    await put(iop.client, *clinic.program())

    assert await refused(iop, changed(service(), telecom=telecom)) == (422, "INV-HS-4")


async def test_a_service_that_is_no_program_is_under_no_rule(iop: Iop) -> None:
    reply = await iop.client.put(
        "/HealthcareService/plain", json={"resourceType": "HealthcareService", "id": "plain"}
    )

    assert reply.status_code == 201


# --- INV-PD ------------------------------------------------------------------------------------

ADULT = service()
YOUNG = service(track="adolescent", populations=("adolescents",))
HIOP = service(level="2.5", track="high-intensity")
FIVE_DAYS = "mon tue wed thu fri"
MORNING = action()


@pytest.mark.parametrize(
    ("code", "of", "actions"),
    [
        ("INV-PD-1", ADULT, [MORNING, changed(action("other"), code=None)]),
        (
            "INV-PD-1",
            ADULT,
            [
                MORNING,
                {
                    **action("other", clock="14:00:00", pause=""),
                    "code": [
                        V.concept("iop-service-kind", "group"),
                        V.concept("iop-service-kind", "skills"),
                    ],
                },
            ],
        ),
        ("INV-PD-1", ADULT, [MORNING, action(clock="14:00:00", pause="", minutes=30)]),
        ("INV-PD-2", ADULT, [action(minutes=180, pause=""), {**action("b", clock="14:00:00")}]),
        ("INV-PD-3", ADULT, [MORNING, action("b", days="mon", clock="13:00:00", minutes=301)]),
        ("INV-PD-4", ADULT, [action(days="mon tue")]),
        ("INV-PD-4", ADULT, [action(minutes=179)]),
        ("INV-PD-4", ADULT, [action(days=FIVE_DAYS, minutes=240)]),  # 1200 are too many
        ("INV-PD-4", YOUNG, [action(days="mon wed thu", minutes=119, pause="")]),
        ("INV-PD-5", HIOP, [action(days=FIVE_DAYS, minutes=239)]),
        ("INV-PD-5", HIOP, [action(days=FIVE_DAYS, minutes=361)]),
        ("INV-PD-6", ADULT, [MORNING, action("b", days="mon", clock="12:00:00", minutes=60)]),
    ],
)
async def test_a_flaw_of_a_timetable_is_an_error_when_active_and_a_warning_in_a_draft(
    iop: Iop, code: str, of: dict[str, Any], actions: list[dict[str, Any]]
) -> None:
    """INV-PD-1 to 6."""
    if code == "INV-PD-2":
        minutes = V.extended("iop-clinical-minutes", valuePositiveInt=170)
        actions = [actions[0], {**actions[1], "extension": [minutes]}]
    await put(iop.client, *clinic.program())
    await put(iop.client, of)

    assert await refused(iop, plan(*actions)) == (422, code)
    assert code in await warned(iop, plan(*actions, status="draft"))


@pytest.mark.parametrize(
    ("of", "actions"),
    [
        (ADULT, [MORNING]),
        (ADULT, [action(days="mon wed thu")]),
        (ADULT, [action(days=FIVE_DAYS, minutes=239)]),
        (ADULT, [MORNING, action("b", days="mon", clock="13:00:00", minutes=300, pause="")]),
        (ADULT, [MORNING, action("b", kind="mutual-support", clock="18:00:00", minutes=400)]),
        (YOUNG, [action(days="mon wed thu", clock="16:00:00", minutes=120, pause="")]),
        (HIOP, [action(days=FIVE_DAYS, minutes=240)]),
        (HIOP, [action(days=FIVE_DAYS, minutes=360)]),
    ],
)
async def test_a_timetable_without_a_flaw_may_be_active(
    iop: Iop, of: dict[str, Any], actions: list[dict[str, Any]]
) -> None:
    await put(iop.client, *clinic.program())
    await put(iop.client, of)

    assert await warned(iop, plan(*actions)) == []


async def test_a_group_that_meets_once_a_week_is_a_protocol_and_no_whole_program(iop: Iop) -> None:
    await put(iop.client, *clinic.program())
    one = plan(action(days="tue", minutes=60, pause=""), id="special")
    kind = "http://terminology.hl7.org/CodeSystem/plan-definition-type"
    part = {**one, "type": clinic.coded(kind, "clinical-protocol")}

    assert await refused(iop, one) == (422, "INV-PD-4")
    assert await warned(iop, part) == []


async def test_groups_with_sessions_of_their_own_have_weeks_of_their_own(iop: Iop) -> None:
    """INV-PD-3, 4 and 6 are about what one group does."""
    await put(iop.client, *clinic.program())
    groups = [clinic.GROUP, "Group/day-b"]
    await put(iop.client, clinic.roster(id="day-b"))
    both = [action(one[-5:], group=one) for one in groups]

    assert await warned(iop, plan(*both)) == []


# --- INV-PR ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "roles", "allowed"),
    [
        ("group", {"a": {"therapist"}}, True),
        ("group", {"a": {"psychiatrist"}, "b": {"nurse"}}, True),
        ("group", {"a": {"case-manager"}}, False),
        ("group", {"a": set()}, False),
        ("group", {"a": {"therapist"}, "b": {"peer"}}, False),
        ("wellness", {"a": {"counselor"}, "b": {"peer"}}, True),
        ("education", {"a": {"peer"}}, False),
        ("peer-support", {"a": {"peer"}}, True),
        ("individual", {"a": {"peer", "counselor"}}, True),
        ("group", {}, True),
    ],
)
def test_only_some_roles_lead(kind: str, roles: dict[str, set[str]], allowed: bool) -> None:
    """INV-PR-1."""
    assert (not list(wrong_leaders(kind, roles))) is allowed


def led_by(leader: str, **fields: Any) -> dict[str, Any]:
    """Return a session that somebody leads."""
    one = session(**fields)
    one["participant"][-1]["actor"]["reference"] = leader
    return one


async def test_a_session_is_led_by_a_role_that_may_on_its_day(iop: Iop) -> None:
    """INV-PR-1."""
    gone = role("th3", "therapist", end="2026-03-02")
    coming = role("th4", "therapist", start="2026-03-04")
    await put(iop.client, *clinic.program())
    await put(iop.client, practitioner("th3"), gone, practitioner("th4"), coming)

    for name in ("cm1", "pe1", "th3", "th4"):
        assert await refused(iop, led_by(f"PractitionerRole/{name}")) == (422, "INV-PR-1")
    await put(iop.client, led_by("PractitionerRole/th2"))


async def test_a_person_leads_by_any_of_his_roles(iop: Iop) -> None:
    """INV-PR-1."""
    await put(iop.client, *clinic.program())

    assert await refused(iop, led_by("Practitioner/cm1")) == (422, "INV-PR-1")
    await put(iop.client, led_by("Practitioner/th1"))


def encounter(leader: str) -> dict[str, Any]:
    """Return an individual session as it was held."""
    return {
        "resourceType": "Encounter",
        "id": "e1",
        "status": "finished",
        "class": {
            "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode",
            "code": "AMB",
        },
        "type": [V.concept("iop-service-kind", "individual")],
        "subject": {"reference": "Patient/p1"},
        "episodeOfCare": [{"reference": "EpisodeOfCare/ep-p1"}],
        "participant": [{"individual": {"reference": leader}}],
        "period": {"start": "2026-03-02T07:00:00-08:00", "end": "2026-03-02T07:50:00-08:00"},
    }


async def test_an_encounter_is_led_by_such_a_role_as_well(iop: Iop) -> None:
    """INV-PR-1."""
    await put(iop.client, *clinic.program(), *clinic.admitted("p1"))

    assert await refused(iop, encounter("PractitionerRole/cm1")) == (422, "INV-PR-1")
    assert "credential-expired" not in await warned(iop, encounter("PractitionerRole/th1"))


async def test_a_licence_that_has_expired_is_worth_a_warning(iop: Iop) -> None:
    """INV-PR-2."""
    await put(iop.client, *clinic.program(), *clinic.admitted("p1"))
    await put(iop.client, practitioner("th1", licensed_until="2026-03-01"))

    assert "credential-expired" in await warned(iop, encounter("PractitionerRole/th1"))
