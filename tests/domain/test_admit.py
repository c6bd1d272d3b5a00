"""$admit: an episode and all that begins with it."""

import asyncio
from typing import Any

import pytest
from fhir.resources.R4B import get_fhir_model_class

from app.config import Settings
from app.domain.vocabulary import parts
from tests.domain import clinic
from tests.domain.accounts import signed_in
from tests.domain.office import Iop, param, ref, rule, said

V = clinic.V
ADMIT = "/EpisodeOfCare/$admit"
MADE = (
    "Appointment",
    "CarePlan",
    "CareTeam",
    "Communication",
    "EpisodeOfCare",
    "Group",
    "Patient",
    "Provenance",
    "ServiceRequest",
    "Task",
)


def asking(patient: str = "p1", **changed: Any) -> list[dict[str, Any]]:
    """Return the parameters of an admission on Thursday 2026-03-05; a change of None leaves out."""
    rows: dict[str, Any] = {
        "patient": ref("patient", f"Patient/{patient}"),
        "program": ref("program", clinic.DAY_TRACK),
        "start": param("start", valueDate="2026-03-05"),
        "level": param("level", valueCoding=V.coding("iop-level-of-care", "2.1")),
        "entry-path": param("entry-path", valueCode="step-down"),
        "assessment": ref("assessment", f"Observation/asam-{patient}"),
        "intake": ref("intake", f"QuestionnaireResponse/intake-{patient}"),
        "diagnosis": ref("diagnosis", f"Condition/oud-{patient}"),
        "care-manager": ref("care-manager", "PractitionerRole/cm1"),
        "primary-therapist": ref("primary-therapist", clinic.THERAPIST),
        "group": ref("group", clinic.GROUP),
        "coverage": ref("coverage", f"Coverage/{patient}"),
        "consent-to-treat": ref("consent-to-treat", f"DocumentReference/ctt-{patient}"),
        "part2-notice": ref("part2-notice", f"DocumentReference/npp-{patient}"),
    }
    rows |= {name.replace("_", "-"): value for name, value in changed.items()}
    return [row for row in rows.values() if row is not None]


def override(code: str, reason: str = "Agreed in the team") -> dict[str, Any]:
    """Return the parameter that sets a rule aside."""
    parts = [param("rule", valueCode=code), param("reason", valueString=reason)]
    return param("override", part=parts)


async def ready(iop: Iop, *patients: str, **group: Any) -> None:
    """Store the program with sessions on Tuesday and Thursday, and who comes."""
    await iop.put(*clinic.program())
    sessions = clinic.session("2026-03-03"), clinic.session("2026-03-05")
    await iop.put(clinic.roster(**group), *sessions)
    for patient in patients or ("p1",):
        await iop.put(*clinic.chart(patient))


async def counted(iop: Iop, *types: str) -> list[int]:
    """Return how many resources of some types there are."""
    return [len(await iop.search(type)) for type in types]


async def test_an_admission_makes_all_that_begins_with_an_episode(iop: Iop) -> None:
    await ready(iop)

    answer = said(await iop.call(ADMIT, *asking()))

    episode = await iop.read(answer["episode"]["reference"])
    assert episode["status"] == "active"
    assert episode["period"] == {"start": "2026-03-05T00:00:00-08:00"}
    assert episode["statusHistory"] == [
        {"status": "active", "period": {"start": "2026-03-05T00:00:00-08:00"}}
    ]
    assert episode["diagnosis"][0]["condition"] == {"reference": "Condition/oud-p1"}
    assert episode["team"] == [answer["careteam"]]
    assert V.value(episode, "iop-entry-path") == "step-down"
    order = await iop.read(answer["order"]["reference"])
    assert order["quantityRatio"]["numerator"]["value"] == 9
    assert order["insurance"] == [{"reference": "Coverage/p1"}]
    group = await iop.read(clinic.GROUP)
    assert group["member"] == [
        {
            "entity": {"reference": "Patient/p1"},
            "period": {"start": "2026-03-05"},
            "inactive": False,
        }
    ]


async def test_what_an_admission_makes_is_read_by_other_software_as_well(iop: Iop) -> None:
    await ready(iop)
    nameless = clinic.patient("p1")
    del nameless["identifier"]
    await iop.put(nameless)
    said(await iop.call(ADMIT, *asking()))

    made = [one for type in MADE for one in await iop.search(type)]

    assert {one["resourceType"] for one in made} == set(MADE)
    for one in made:
        get_fhir_model_class(one["resourceType"]).model_validate(one)


async def test_the_plans_are_drafts_with_a_narrative_and_both_categories(iop: Iop) -> None:
    await ready(iop)

    answer = said(await iop.call(ADMIT, *asking()))

    for name in ("treatment-plan", "discharge-plan", "safety-plan"):
        plan = await iop.read(answer[name]["reference"])
        codes = [one["coding"][0]["code"] for one in plan["category"]]
        assert (plan["status"], plan["intent"], codes) == ("draft", "plan", ["assess-plan", name])
        assert plan["text"]["div"].startswith("<div")
    treatment = await iop.read(answer["treatment-plan"]["reference"])
    assert treatment["period"] == {"start": "2026-03-05", "end": "2026-05-28"}


async def test_the_sessions_of_the_group_are_booked_from_the_first_day_on(iop: Iop) -> None:
    await ready(iop)

    answer = said(await iop.call(ADMIT, *asking()))

    booked = await iop.read(answer["appointment"]["reference"])
    assert booked["identifier"][0]["value"] == "urn:iop:booking:s-2026-03-05:p1"
    assert booked["start"] == "2026-03-05T09:00:00-08:00"
    patients = [one for one in booked["participant"] if "Patient/p1" in str(one)]
    assert len(patients) == 1


async def test_a_backdated_admission_books_what_has_been_since(iop: Iop) -> None:
    await ready(iop)
    iop.clock.set("2026-03-10T08:00:00-07:00")

    answer = said(await iop.call(ADMIT, *asking(start=param("start", valueDate="2026-03-03"))))

    assert len(answer["appointment"]) == 2


async def test_the_treatment_plan_is_a_task_due_in_two_weeks(iop: Iop) -> None:
    await ready(iop)

    answer = said(await iop.call(ADMIT, *asking()))

    task = await iop.read(answer["task"]["reference"])
    assert V.code(task["code"], "iop-task") == "complete-treatment-plan"
    assert task["restriction"]["period"]["end"] == "2026-03-19"
    assert task["for"] == {"reference": "Patient/p1"}


async def test_a_payer_who_limits_the_care_makes_a_review_due_before_the_end(iop: Iop) -> None:
    await ready(iop)
    limit = V.complex(
        "iop-authorization",
        ("number", "valueString", "A-1"),
        ("period", "valuePeriod", {"start": "2026-03-05", "end": "2026-04-06"}),
    )
    await iop.put({**clinic.coverage("p1"), "extension": [limit]})

    answer = said(await iop.call(ADMIT, *asking()))

    tasks = [await iop.read(one["reference"]) for one in answer["task"]]
    due = {V.code(t["code"], "iop-task"): t["restriction"]["period"]["end"] for t in tasks}
    assert due["ur-review"] == "2026-04-01"  # Monday 6 April less three business days


async def test_the_first_message_says_what_to_bring_and_nothing_of_the_treatment(iop: Iop) -> None:
    await ready(iop)

    await iop.call(ADMIT, *asking())

    (message,) = await iop.search("Communication")
    text = message["payload"][0]["contentString"]
    assert "photo ID" in text
    assert not {"recovery", "drug", "alcohol", "program"}.intersection(text.lower().split())


async def test_the_care_team_has_one_primary_therapist_and_whoever_is_named(iop: Iop) -> None:
    await ready(iop)
    sister = {"resourceType": "RelatedPerson", "id": "sister", "active": True}
    await iop.put({**sister, "patient": clinic.reference("Patient/p1")})
    member = param(
        "team-member",
        part=[ref("member", "RelatedPerson/sister"), param("role", valueCode="supporter")],
    )

    answer = said(await iop.call(ADMIT, *asking(team_member=member)))

    team = await iop.read(answer["careteam"]["reference"])
    roles = [V.code(one["role"], "iop-role") for one in team["participant"]]
    assert roles == ["primary-therapist", "care-manager", "supporter"]


async def test_one_provenance_is_of_the_patient_and_one_of_the_groups(iop: Iop) -> None:
    """LK8: what is shared is not in the Provenance of somebody."""
    await ready(iop)

    await iop.call(ADMIT, *asking())

    found = [
        [one["reference"].partition("/")[0] for one in provenance["target"]]
        for provenance in await iop.search("Provenance?agent-type=author")
    ]
    assert ["Group"] in found
    assert sorted(map(len, found)) == [1, 9]


async def test_who_has_no_number_gets_one(iop: Iop) -> None:
    await ready(iop)
    nameless = clinic.patient("p1")
    del nameless["identifier"]
    await iop.put(nameless)

    said(await iop.call(ADMIT, *asking()))

    (number,) = (await iop.read("Patient/p1"))["identifier"]
    assert number["system"] == f"{V.base}/identifier/mrn"


async def test_a_second_admission_is_a_conflict_and_leaves_nothing(iop: Iop) -> None:
    await ready(iop)
    await iop.call(ADMIT, *asking())
    before = await counted(iop, "EpisodeOfCare", "CarePlan", "Task", "Provenance")

    reply = await iop.call(ADMIT, *asking())

    assert (reply.status_code, rule(reply)) == (409, "duplicate-episode")
    assert await counted(iop, "EpisodeOfCare", "CarePlan", "Task", "Provenance") == before


async def test_nobody_is_admitted_to_a_full_group(iop: Iop) -> None:
    await ready(iop, "p1", "p2", capacity=1)
    said(await iop.call(ADMIT, *asking("p1")))

    reply = await iop.call(ADMIT, *asking("p2"))

    assert (reply.status_code, rule(reply)) == (409, "capacity")
    assert "p1" not in reply.text
    assert len(await iop.search("EpisodeOfCare")) == 1


async def test_nobody_is_admitted_to_a_full_program(iop: Iop) -> None:
    await ready(iop, "p1", "p2")
    await iop.put(clinic.service(capacity=1))
    said(await iop.call(ADMIT, *asking("p1")))

    reply = await iop.call(ADMIT, *asking("p2"))

    assert (reply.status_code, rule(reply)) == (409, "capacity")


async def test_of_two_admissions_for_the_last_place_one_is_a_conflict(iop: Iop) -> None:
    await ready(iop, "p1", "p2", capacity=1)

    replies = await asyncio.gather(*(iop.call(ADMIT, *asking(one)) for one in ("p1", "p2")))

    assert sorted(reply.status_code for reply in replies) == [200, 409]
    assert len((await iop.read(clinic.GROUP))["member"]) == 1


async def test_of_two_admissions_for_the_last_place_of_a_program_one_is_a_conflict(
    iop: Iop,
) -> None:
    await ready(iop, "p1", "p2")
    await iop.put(clinic.service(capacity=1))

    replies = await asyncio.gather(
        *(iop.call(ADMIT, *asking(one, group=None)) for one in ("p1", "p2"))
    )

    assert sorted(reply.status_code for reply in replies) == [200, 409]
    assert len(await iop.search("EpisodeOfCare")) == 1


async def test_nobody_is_admitted_to_a_closed_group_after_its_second_session(iop: Iop) -> None:
    await ready(iop, enrollment="closed")
    await iop.put(clinic.session("2026-02-27"))

    reply = await iop.call(ADMIT, *asking())

    assert (reply.status_code, rule(reply)) == (409, "group-closed")


# --- what has to be there (INV-EC-6, INV-CO-1, INV-PT-1) ----------------------------------------

LATE = clinic.assessment("p1", on="2026-02-10")[-1]


@pytest.mark.parametrize(
    "lacking",
    [
        {**clinic.intake("p1"), "status": "in-progress"},
        {**clinic.intake("p1"), "questionnaire": f"{V.base}/Questionnaire/other"},
        LATE,
        {**clinic.assessment("p1", on="2026-03-06")[-1]},
        {**clinic.assessment("p1")[-1], "status": "preliminary"},
        {**clinic.document("ctt-p1", "p1", "59284-0"), "status": "superseded"},
        {**clinic.document("ctt-p1", "p1", "59284-0"), "docStatus": "preliminary"},
        clinic.document("npp-p1", "p1", "11506-3"),
    ],
    ids=[
        "an intake in progress",
        "another questionnaire",
        "an assessment of 15 days before and more",
        "an assessment after the start",
        "a preliminary assessment",
        "a superseded consent",
        "a draft of a consent",
        "no notice",
    ],
)
async def test_an_admission_needs_its_evidence(iop: Iop, lacking: dict[str, Any]) -> None:
    await ready(iop)
    await iop.put(lacking)

    reply = await iop.call(ADMIT, *asking())

    assert (reply.status_code, rule(reply)) == (422, "INV-EC-6")
    assert await iop.search("EpisodeOfCare") == []


async def test_an_assessment_of_fourteen_days_before_is_good(iop: Iop) -> None:
    await ready(iop)
    await iop.put(clinic.assessment("p1", on="2026-02-19")[-1])

    reply = await iop.call(ADMIT, *asking())

    assert reply.status_code == 200


async def test_the_principal_diagnosis_is_a_substance_use_disorder(iop: Iop) -> None:
    await ready(iop)
    await iop.put(clinic.condition("p1", "F33.1"))

    reply = await iop.call(ADMIT, *asking())

    assert (reply.status_code, rule(reply)) == (422, "INV-CO-1")


async def test_nobody_younger_than_twelve_is_admitted(iop: Iop) -> None:
    await ready(iop)
    await iop.put(clinic.patient("p1", born="2014-03-06"))

    reply = await iop.call(ADMIT, *asking())

    assert (reply.status_code, rule(reply)) == (422, "INV-PT-1")


@pytest.mark.parametrize("name", ["assessment", "intake", "diagnosis", "coverage"])
async def test_what_is_about_another_patient_admits_nobody(iop: Iop, name: str) -> None:
    await ready(iop, "p1", "p2")
    others = {row["name"]: row for row in asking("p2")}
    named: dict[str, Any] = {name: others[name]}

    reply = await iop.call(ADMIT, *asking(**named))

    assert reply.status_code == 422
    assert "p2" not in reply.text


async def test_nobody_of_another_patient_is_of_the_team(iop: Iop) -> None:
    await ready(iop, "p1", "p2")
    sister = {"resourceType": "RelatedPerson", "id": "sister", "active": True}
    await iop.put({**sister, "patient": clinic.reference("Patient/p2")})
    parts = [ref("member", "RelatedPerson/sister"), param("role", valueCode="supporter")]

    reply = await iop.call(ADMIT, *asking(), param("team-member", part=parts))

    assert reply.status_code == 422


@pytest.mark.parametrize(
    "value",
    [{"display": "Sam"}, {"reference": "#p1"}, {"reference": "Group/day-a"}, {"reference": ""}],
    ids=["no reference", "a contained one", "another type", "nothing"],
)
async def test_what_is_no_reference_to_a_patient_admits_nobody(
    iop: Iop, value: dict[str, Any]
) -> None:
    await ready(iop)

    others = [row for row in asking() if row["name"] != "patient"]

    reply = await iop.call(ADMIT, *others, param("patient", valueReference=value))

    assert reply.status_code in (400, 422)


async def test_a_group_that_is_named_twice_is_joined_once(iop: Iop) -> None:
    await ready(iop)

    said(await iop.call(ADMIT, *asking(), ref("group", clinic.GROUP)))

    assert len((await iop.read(clinic.GROUP))["member"]) == 1


async def test_what_is_not_there_admits_nobody(iop: Iop) -> None:
    await ready(iop)

    reply = await iop.call(ADMIT, *asking(intake=ref("intake", "QuestionnaireResponse/none")))

    assert reply.status_code == 422


async def test_a_missing_contact_and_unusual_weeks_are_warnings(iop: Iop) -> None:
    """INV-PT-2, and planned-weeks outside 8 to 12."""
    await ready(iop)
    alone = clinic.patient("p1")
    del alone["contact"]
    await iop.put(alone)

    answer = said(
        await iop.call(ADMIT, *asking(planned_weeks=param("planned-weeks", valuePositiveInt=20)))
    )

    warned = [one for one in answer["outcome"]["issue"] if one["severity"] == "warning"]
    codes = [one["details"]["coding"][0]["code"] for one in warned]
    assert codes == ["planned-weeks", "INV-PT-2"]


@pytest.mark.parametrize(("hours", "status"), [(8, 422), (9, 200), (19, 200), (20, 422)], ids=str)
async def test_the_hours_are_those_of_the_level(iop: Iop, hours: int, status: int) -> None:
    await ready(iop)

    reply = await iop.call(ADMIT, *asking(hours=param("hours-per-week", valueDecimal=hours)))

    assert reply.status_code == status
    assert status == 200 or rule(reply) == "INV-SR-1"


async def test_an_adolescent_has_the_least_hours_of_adolescents(iop: Iop) -> None:
    await ready(iop)
    await iop.put(clinic.patient("p1", born="2010-01-01"))

    answer = said(await iop.call(ADMIT, *asking()))

    order = await iop.read(answer["order"]["reference"])
    assert order["quantityRatio"]["numerator"]["value"] == 6


# --- overrides ---------------------------------------------------------------------------------


async def test_a_program_director_sets_a_rule_aside_with_a_reason(
    iop: Iop, program_settings: Settings
) -> None:
    await ready(iop)
    await iop.put(LATE)
    director = await signed_in(program_settings, "di1")

    answer = said(await iop.call(ADMIT, *asking(), override("INV-EC-6"), **director))

    episode = await iop.read(answer["episode"]["reference"])
    (kept,) = V.all(episode, "iop-override")
    assert parts(kept) == {"rule": "INV-EC-6", "reason": "Agreed in the team"}


async def test_who_is_no_program_director_sets_no_rule_aside(
    iop: Iop, program_settings: Settings
) -> None:
    await ready(iop)
    therapist = await signed_in(program_settings, "th1")

    replies = [
        await iop.call(ADMIT, *asking(), override("INV-EC-6"), **who) for who in (therapist, {})
    ]

    assert [reply.status_code for reply in replies] == [403, 403]
    assert rule(replies[0]) == "override-not-allowed"


async def test_a_director_whose_role_has_ended_sets_no_rule_aside(
    iop: Iop, program_settings: Settings
) -> None:
    await ready(iop)
    await iop.put(clinic.role("di1", "program-director", end="2026-02-28"))
    director = await signed_in(program_settings, "di1")

    reply = await iop.call(ADMIT, *asking(), override("INV-EC-6"), **director)

    assert reply.status_code == 403


async def test_not_every_rule_can_be_set_aside(iop: Iop, program_settings: Settings) -> None:
    await ready(iop)
    director = await signed_in(program_settings, "di1")

    reply = await iop.call(ADMIT, *asking(), override("INV-GR-1"), **director)

    assert (reply.status_code, rule(reply)) == (422, "override-not-allowed")


async def test_a_director_orders_fewer_hours_and_admits_to_a_group_of_another_stage(
    iop: Iop, program_settings: Settings
) -> None:
    await ready(iop, stage="advanced")
    director = await signed_in(program_settings, "di1")
    asked = asking(hours=param("hours-per-week", valueDecimal=6))

    refused = await iop.call(ADMIT, *asked, override("INV-SR-1"), **director)
    answer = said(
        await iop.call(ADMIT, *asked, override("INV-SR-1"), override("INV-GR-4"), **director)
    )

    assert rule(refused) == "INV-GR-4"
    order = await iop.read(answer["order"]["reference"])
    assert [parts(one)["rule"] for one in V.all(order, "iop-override")] == ["INV-SR-1"]
    (member,) = (await iop.read(clinic.GROUP))["member"]
    assert [parts(one)["rule"] for one in V.all(member, "iop-override")] == ["INV-GR-4"]


# --- the contract of operations ----------------------------------------------------------------


async def test_a_dry_run_says_what_would_come_of_it_and_stores_nothing(iop: Iop) -> None:
    await ready(iop)

    answer = said(await iop.call(ADMIT, *asking(), param("dry-run", valueBoolean=True)))

    assert answer["episode"]["reference"].startswith("EpisodeOfCare/")
    assert await counted(iop, "EpisodeOfCare", "CarePlan", "Provenance") == [0, 0, 0]
    assert "member" not in await iop.read(clinic.GROUP)


async def test_a_call_that_comes_again_under_its_key_gets_the_same_answer(iop: Iop) -> None:
    await ready(iop)

    first = await iop.call(ADMIT, *asking(), Idempotency_Key="a1")
    again = await iop.call(ADMIT, *asking(), Idempotency_Key="a1")

    assert (first.status_code, again.status_code) == (200, 200)
    assert said(again)["episode"] == said(first)["episode"]
    assert len(await iop.search("EpisodeOfCare")) == 1


async def test_an_admission_is_posted(iop: Iop) -> None:
    reply = await iop.client.get(ADMIT)

    assert reply.status_code == 405
