"""$eligibility-screen: the rules of 3.1, first pure, then over HTTP."""

from typing import Any

import pytest

from app.domain.admission.eligibility import (
    BLOCKING,
    CONDITIONS,
    CRITERIA,
    NEEDS,
    Facts,
    answers,
    recommended,
    screened,
)
from tests.domain import clinic
from tests.domain.office import Iop, param, ref, said

SUITED: dict[str, Any] = {
    "needs-wm": False,
    "needs-24h": False,
    "acute-safety-risk": False,
    "unsafe-or-unsupportive-home": False,
    "severity": "moderate",
    "prior-episode": False,
    "recommended-level": "2.1",
    "support-network": True,
    "motivated": True,
    "stable-home": True,
}


def facts(age: int | None = 30, populations: tuple[str, ...] = (), **changed: Any) -> Facts:
    """Return what is known of somebody who is suited, with changes; None is not answered."""
    given = SUITED | {name.replace("_", "-"): value for name, value in changed.items()}
    known = {name: (value,) for name, value in given.items() if value is not None}
    return Facts(known, age, populations)


@pytest.mark.parametrize(
    ("known", "advice"),
    [
        (facts(), "suitable"),
        # 1: a need for more comes first
        (facts(needs_wm=True), "refer-higher"),
        (facts(needs_24h=True), "refer-higher"),
        (facts(acute_safety_risk=True), "refer-higher"),
        (facts(needs_wm=True, needs_24h=None, motivated=False), "refer-higher"),
        # 2: an unsafe home, where there is no recovery house either
        (facts(unsafe_or_unsupportive_home=True, no_recovery_housing=True), "refer-higher"),
        (facts(unsafe_or_unsupportive_home=True, no_recovery_housing=False), "suitable"),
        # 3: less is enough
        (facts(severity="mild", recommended_level="1.5"), "refer-lower"),
        (facts(severity="mild", recommended_level="2.1"), "suitable"),
        (facts(severity="mild", recommended_level="1.5", prior_episode=True), "suitable"),
        (facts(severity="mild", recommended_level="1.5", prior_episode=None), "suitable"),
        (facts(severity="moderate", recommended_level="1.5"), "suitable"),
        (facts(severity="mild", recommended_level="1.5", needs_wm=None), "needs-review"),
        # 4: what an admission hangs on is not known, or not met where it is age or population
        (facts(needs_wm=None), "needs-review"),
        (facts(acute_safety_risk=None), "needs-review"),
        (facts(age=None), "needs-review"),
        (facts(age=11), "needs-review"),
        (facts(age=15), "needs-review"),
        (facts(age=15, populations=("adolescents",)), "suitable"),
        (facts(age=18, populations=("adolescents",)), "needs-review"),
        (facts(populations=("women",)), "needs-review"),
        (facts(populations=("women",), population="women"), "suitable"),
        (facts(populations=("women",), population="veterans"), "needs-review"),
        # 5: what can be worked on
        (facts(support_network=False), "suitable-with-conditions"),
        (facts(motivated=False), "suitable-with-conditions"),
        (facts(stable_home=False), "suitable-with-conditions"),
        (facts(motivated=None), "suitable"),
        # advice of no weight
        (facts(structure_preference=False, schedule_fit=False, post_residential=False), "suitable"),
    ],
)
def test_the_first_rule_that_applies_makes_the_recommendation(known: Facts, advice: str) -> None:
    assert recommended(known) == advice


@pytest.mark.parametrize(
    ("code", "known", "met"),
    [
        ("no-wm-need", facts(), True),
        ("no-wm-need", facts(needs_wm=True), False),
        ("no-wm-need", facts(needs_wm=None), None),
        ("no-wm-need", facts(needs_wm=None, no_wm_need=True), True),
        ("no-wm-need", facts(needs_wm=False, no_wm_need=False), False),
        ("age", facts(age=12), True),
        ("age", facts(age=11), False),
        ("population", facts(age=17), False),
        ("population", facts(populations=("veterans",)), None),
        ("recovery-environment", facts(unsafe_or_unsupportive_home=True), None),
        ("severity-mild-moderate", facts(severity="severe"), False),
        ("severity-mild-moderate", facts(severity="mild"), True),
        ("severity-mild-moderate", facts(severity=None), None),
        ("schedule-fit", facts(), None),
    ],
)
def test_a_criterion_is_met_or_not_or_unknown(code: str, known: Facts, met: bool | None) -> None:
    assert screened(known)[code] is met


def test_answers_are_found_at_every_depth_and_codings_are_their_codes() -> None:
    response = {
        "item": [
            {"linkId": "needs-wm", "answer": [{"valueBoolean": False}]},
            {
                "linkId": "home",
                "item": [
                    {"linkId": "stable-home", "answer": [{"valueBoolean": True}]},
                    {"linkId": "severity", "answer": [{"valueCoding": {"code": "mild"}}]},
                ],
            },
        ]
    }

    found = answers(response)

    assert found["needs-wm"] == (False,)
    assert found["stable-home"] == (True,)
    assert found["severity"] == ("mild",)


def test_every_rule_is_about_criteria_that_there_are() -> None:
    codes = {one.code for one in CRITERIA}

    assert codes.issuperset((*BLOCKING, *CONDITIONS, *NEEDS))


def response(patient: str = "p1", **changed: Any) -> dict[str, Any]:
    """Return the answers of somebody who is suited, as a QuestionnaireResponse."""
    given = SUITED | {name.replace("_", "-"): value for name, value in changed.items()}
    rows = [
        {
            "linkId": name,
            "answer": [{"valueBoolean" if isinstance(value, bool) else "valueString": value}],
        }
        for name, value in given.items()
    ]
    return {
        "resourceType": "QuestionnaireResponse",
        "id": "screening",
        "questionnaire": f"{clinic.V.base}/Questionnaire/eligibility-screen",
        "status": "completed",
        "subject": clinic.reference(f"Patient/{patient}"),
        "item": rows,
    }


SCREEN = "/HealthcareService/day/$eligibility-screen"


async def test_a_screening_advises_by_stored_answers_and_names_its_sources(iop: Iop) -> None:
    await iop.put(*clinic.program(), clinic.patient("p1"), response())

    answer = said(
        await iop.call(
            SCREEN,
            ref("patient", "Patient/p1"),
            ref("response", "QuestionnaireResponse/screening"),
        )
    )

    assert answer["recommendation"] == "suitable"
    criteria = {one["code"]["code"]: one for one in answer["criterion"]}
    assert criteria["motivated"]["result"] == "met"
    assert criteria["motivated"]["source"] == {"reference": "QuestionnaireResponse/screening"}
    assert criteria["age"]["source"] == {"reference": "Patient/p1"}
    assert criteria["schedule-fit"]["result"] == "unknown"
    assert all(one["seed-basis"] for one in criteria.values())


async def test_a_screening_takes_the_answers_themselves_and_stores_nothing(iop: Iop) -> None:
    await iop.put(*clinic.program(), clinic.patient("p1"))

    answer = said(
        await iop.call(
            SCREEN,
            ref("patient", "Patient/p1"),
            param("answers", resource=response(needs_24h=True)),
        )
    )

    assert answer["recommendation"] == "refer-higher"
    assert await iop.search("QuestionnaireResponse") == []
    assert await iop.search("EpisodeOfCare") == []


async def test_the_age_is_that_on_the_day_asked_for(iop: Iop) -> None:
    await iop.put(*clinic.program(), clinic.patient("p1", born="2008-04-01"))
    asked = [ref("patient", "Patient/p1"), param("answers", resource=response())]

    today = said(await iop.call(SCREEN, *asked))
    later = said(await iop.call(SCREEN, *asked, param("asof", valueDate="2026-04-01")))

    assert (today["recommendation"], later["recommendation"]) == ("needs-review", "suitable")


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ([ref("patient", "Patient/p1")], 400),
        ([ref("patient", "Patient/p1"), ref("response", "QuestionnaireResponse/none")], 422),
        ([ref("patient", "Patient/none"), param("answers", resource=response())], 422),
        ([ref("patient", "Patient/p1"), param("answers", resource=response("p2"))], 422),
    ],
    ids=["no answers", "answers that are not here", "no such patient", "another one's answers"],
)
async def test_a_screening_without_the_answers_of_the_patient_is_refused(
    iop: Iop, asked: list[dict[str, Any]], status: int
) -> None:
    await iop.put(*clinic.program(), clinic.patient("p1"))

    reply = await iop.call(SCREEN, *asked)

    assert reply.status_code == status
