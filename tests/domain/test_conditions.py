"""INV-CO-2 to 4 and INV-PT-1: what Conditions and Patients may say."""

from typing import Any

import pytest

from app.domain.admission.conditions import is_substance_use
from app.domain.vocabulary import ICD10, SNOMED
from tests.domain import clinic
from tests.domain.office import Iop, rule

CLINICAL = "http://terminology.hl7.org/CodeSystem/condition-clinical"


def condition(code: str = "F11.20", status: str = "active", **fields: Any) -> dict[str, Any]:
    """Return a Condition of p1."""
    clinical = clinic.coded(CLINICAL, status)
    return {**clinic.condition("p1", code), "clinicalStatus": clinical, **fields}


@pytest.mark.parametrize(
    ("system", "code", "is_one"),
    [
        (ICD10, "F10.10", True),
        (ICD10, "F11.20", True),
        (ICD10, "F19.21", True),
        (ICD10, "F17.210", True),
        (ICD10, "F20.9", False),
        (ICD10, "F33.1", False),
        (ICD10, "F1", False),
        (SNOMED, "75544000", True),
        (SNOMED, "370143000", False),
        ("urn:other", "F11.20", False),
    ],
)
def test_a_substance_use_disorder_is_known_by_its_code(
    system: str, code: str, is_one: bool
) -> None:
    """INV-CO-1."""
    assert is_substance_use({"code": clinic.coded(system, code)}) is is_one


@pytest.mark.parametrize("code", ["F10.2", "F10.9", "Z91.14", "Z91.19", "F11", "F33"])
async def test_a_heading_of_the_classification_is_refused(iop: Iop, code: str) -> None:
    """INV-CO-3."""
    await iop.put(clinic.patient("p1"))

    reply = await iop.client.put("/Condition/oud-p1", json=condition(code))

    assert (reply.status_code, rule(reply)) == (422, "INV-CO-3")
    assert reply.json()["issue"][0]["expression"] == ["Condition.code.coding[0]"]


@pytest.mark.parametrize("code", ["F10.20", "F32.A", "F33.1", "Z59.01", "R45.851"])
async def test_a_code_that_can_be_billed_is_taken(iop: Iop, code: str) -> None:
    await iop.put(clinic.patient("p1"))

    reply = await iop.client.put("/Condition/oud-p1", json=condition(code))

    assert reply.status_code == 201


@pytest.mark.parametrize(
    ("found", "status"),
    [
        (condition("F11.20", "remission"), 422),
        (condition("F11.20", "remission", abatementDateTime="2026-01-01"), 201),
        (condition("F11.20", "remission", note=[{"text": "Since the new year"}]), 201),
        (condition("F11.21", "active"), 422),
        (condition("F10.11", "relapse"), 422),
        (condition("F11.91", "recurrence"), 422),
        (condition("F11.21", "inactive"), 201),
        (condition("F11.21", "resolved", abatementDateTime="2026-01-01"), 201),
        (condition("F33.1", "remission"), 201),
    ],
    ids=[
        "remission without more",
        "remission with its date",
        "remission with a note",
        "coded as remission, but active",
        "coded as remission, but relapse",
        "coded as remission, but recurrence",
        "coded as remission, and inactive",
        "coded as remission, and resolved",
        "no substance use",
    ],
)
async def test_remission_is_said_by_code_status_and_abatement_alike(
    iop: Iop, found: dict[str, Any], status: int
) -> None:
    """INV-CO-2."""
    await iop.put(clinic.patient("p1"))

    reply = await iop.client.put("/Condition/oud-p1", json=found)

    assert reply.status_code == status
    assert status == 201 or rule(reply) == "INV-CO-2"


async def test_a_mistake_is_under_no_rule(iop: Iop) -> None:
    verified = "http://terminology.hl7.org/CodeSystem/condition-ver-status"
    wrong = condition("F10.2", verificationStatus=clinic.coded(verified, "entered-in-error"))
    del wrong["clinicalStatus"]
    await iop.put(clinic.patient("p1"))

    reply = await iop.client.put("/Condition/oud-p1", json=wrong)

    assert reply.status_code == 201


async def test_a_relapse_is_a_new_status_and_not_another_condition(iop: Iop) -> None:
    """INV-CO-4."""
    await iop.put(clinic.patient("p1"), condition())

    another = await iop.client.put(
        "/Condition/again", json={**condition(status="relapse"), "id": "again"}
    )
    same = await iop.client.put("/Condition/oud-p1", json=condition(status="relapse"))

    assert (another.status_code, rule(another)) == (422, "INV-CO-4")
    assert same.status_code == 200


async def test_a_relapse_in_treatment_asks_for_a_review_of_the_plan(iop: Iop) -> None:
    await iop.put(*clinic.program(), *clinic.admitted("p1"))
    answer = {"Prefer": "return=OperationOutcome"}

    reply = await iop.client.put(
        "/Condition/oud-p1", json=condition(status="relapse"), headers=answer
    )

    (issue,) = reply.json()["issue"]
    assert (issue["severity"], rule(reply)) == ("warning", "INV-CO-4")


async def test_a_review_that_is_planned_is_asked_for_no_more(iop: Iop) -> None:
    await iop.put(*clinic.program(), *clinic.admitted("p1"))
    review = {
        "resourceType": "Task",
        "id": "review",
        "status": "requested",
        "intent": "order",
        "code": clinic.V.concept("iop-task", "treatment-plan-review"),
        "for": clinic.reference("Patient/p1"),
    }
    await iop.put(review)
    answer = {"Prefer": "return=OperationOutcome"}

    reply = await iop.client.put(
        "/Condition/oud-p1", json=condition(status="relapse"), headers=answer
    )

    assert [one["severity"] for one in reply.json()["issue"]] == ["information"]


@pytest.mark.parametrize(("born", "status"), [("2026-03-02", 201), ("2026-03-03", 422)])
async def test_nobody_is_born_tomorrow(iop: Iop, born: str, status: int) -> None:
    """INV-PT-1, of the patients of a program: those with its numbers."""
    number = {"system": f"{clinic.V.base}/identifier/mrn", "value": "1"}

    reply = await iop.client.put(
        "/Patient/p1", json={**clinic.patient("p1", born), "identifier": [number]}
    )

    assert reply.status_code == status
    assert status == 201 or rule(reply) == "INV-PT-1"
