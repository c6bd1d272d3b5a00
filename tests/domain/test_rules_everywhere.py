"""A rule holds for every write, by whichever door it comes; here that is INV-AP-1."""

from typing import Any

import pytest

from tests.domain.office import Iop, rule


def booked(id: str, *patients: str) -> dict[str, Any]:
    """Return a patient Appointment of a group session with so many Patients in it."""
    base = "https://example.org/fhir/iop"
    actors = [{"actor": {"reference": one}, "status": "accepted"} for one in patients]
    return {
        "resourceType": "Appointment",
        "id": id,
        "status": "proposed",
        "start": "2026-03-09T09:00:00-07:00",
        "end": "2026-03-09T12:15:00-07:00",
        "participant": actors,
        "extension": [
            {
                "url": f"{base}/StructureDefinition/iop-session",
                "valueReference": {"reference": "Appointment/session"},
            }
        ],
    }


GOOD = booked("a", "Patient/1")
BAD = booked("a", "Patient/1", "Patient/2")
PATCH = [{"op": "add", "path": "/participant/-", "value": BAD["participant"][1]}]


def entry(method: str, url: str, resource: Any = None, **request: str) -> dict[str, Any]:
    """Return a Bundle with one entry."""
    one: dict[str, Any] = {"request": {"method": method, "url": url, **request}}
    if resource is not None:
        one["resource"] = resource
    return {"resourceType": "Bundle", "type": "transaction", "entry": [one]}


async def test_a_create_that_breaks_a_rule_is_refused_and_leaves_nothing(iop: Iop) -> None:
    reply = await iop.client.post("/Appointment", json=BAD)

    assert reply.status_code == 422
    assert rule(reply) == "INV-AP-1"
    assert await iop.search("Appointment") == []


async def test_the_refusal_names_the_place_and_no_patient(iop: Iop) -> None:
    reply = await iop.client.put("/Appointment/a", json=BAD)

    (issue,) = reply.json()["issue"]
    assert issue["expression"] == ["Appointment.participant"]
    assert "Patient/" not in reply.text


async def test_an_update_that_breaks_a_rule_leaves_the_version_before(iop: Iop) -> None:
    await iop.put(GOOD)

    reply = await iop.client.put("/Appointment/a", json=BAD)

    assert (reply.status_code, rule(reply)) == (422, "INV-AP-1")
    assert (await iop.read("Appointment/a"))["meta"]["versionId"] == "1"


async def test_a_patch_that_breaks_a_rule_is_refused(iop: Iop) -> None:
    await iop.put(GOOD)

    reply = await iop.client.patch(
        "/Appointment/a", json=PATCH, headers={"Content-Type": "application/json-patch+json"}
    )

    assert (reply.status_code, rule(reply)) == (422, "INV-AP-1")


@pytest.mark.parametrize(
    "bundle",
    [
        entry("POST", "Appointment", BAD),
        entry("PUT", "Appointment/a", BAD),
        entry("PUT", "Appointment?identifier=x|y", {**BAD, "id": "a"}),
        entry("POST", "Appointment", BAD, ifNoneExist="identifier=x|y"),
    ],
    ids=["create", "update", "conditional update", "conditional create"],
)
async def test_an_entry_that_breaks_a_rule_undoes_the_transaction(
    iop: Iop, bundle: dict[str, Any]
) -> None:
    beside = {"resource": {"resourceType": "Patient"}, "request": {"method": "POST"}}
    beside["request"]["url"] = "Patient"
    bundle = {**bundle, "entry": [beside, *bundle["entry"]]}

    reply = await iop.client.post("/", json=bundle)

    assert (reply.status_code, rule(reply)) == (422, "INV-AP-1")
    assert reply.json()["issue"][0]["expression"] == ["Bundle.entry[1].resource.participant"]
    assert await iop.search("Patient") == []


async def test_an_entry_of_a_batch_that_breaks_a_rule_is_refused_alone(iop: Iop) -> None:
    batch = {**entry("PUT", "Appointment/a", BAD), "type": "batch"}
    batch["entry"].append(entry("PUT", "Appointment/a", GOOD)["entry"][0])

    reply = await iop.client.post("/", json=batch)

    first, second = (one["response"] for one in reply.json()["entry"])
    assert first["status"].startswith("422")
    assert second["status"].startswith("201")


async def test_what_uses_nothing_of_the_vocabulary_is_under_no_rule(iop: Iop) -> None:
    plain = {name: value for name, value in BAD.items() if name != "extension"}

    reply = await iop.client.put("/Appointment/a", json=plain)

    assert reply.status_code == 201


async def test_an_update_cannot_leave_the_rules_by_dropping_the_extension(iop: Iop) -> None:
    """What was of the program is judged as such: the version before counts too."""
    await iop.put(GOOD)
    plain = {name: value for name, value in BAD.items() if name != "extension"}

    reply = await iop.client.put("/Appointment/a", json=plain)

    assert (reply.status_code, rule(reply)) == (422, "INV-AP-1")
