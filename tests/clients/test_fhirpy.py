"""fhirpy: an asynchronous client without models."""

from typing import Any

import pytest
from fhirpy import AsyncFHIRClient
from fhirpy.base.exceptions import MultipleResourcesFound, OperationOutcome, ResourceNotFound

from tests.support.process import Process
from tests.support.resources import observation, patient
from tests.support.tokens import AUTHORIZED

STAFF = "https://example.org/staff"
LENIENT = {"Prefer": "handling=lenient", **AUTHORIZED}


@pytest.fixture
def fhir(server: Process) -> AsyncFHIRClient:
    """A client as its documentation makes one."""
    return AsyncFHIRClient(server.base_url, extra_headers=AUTHORIZED)


def known(fhir: AsyncFHIRClient, body: dict[str, Any]) -> Any:
    """Return what fhirpy makes of a resource."""
    return fhir.resource(body["resourceType"], **body)


async def test_a_resource_is_created_read_changed_and_deleted(fhir: AsyncFHIRClient) -> None:
    ada = known(fhir, patient())

    await ada.save()
    ada["gender"] = "other"
    await ada.save()
    read = await fhir.reference("Patient", ada.id).to_resource()
    await ada.delete()

    assert (read["gender"], read["meta"]["versionId"]) == ("other", "2")
    with pytest.raises(ResourceNotFound):
        await fhir.reference("Patient", ada.id).to_resource()


async def test_an_invalid_resource_is_refused_with_an_outcome(fhir: AsyncFHIRClient) -> None:
    with pytest.raises(OperationOutcome, match="gender"):
        await known(fhir, patient(gender="x")).save()


async def test_a_search_walks_all_pages(fhir: AsyncFHIRClient) -> None:
    ada = await known(fhir, patient()).create()
    for _ in range(5):
        await known(fhir, observation(subject={"reference": ada.reference})).create()
    about = fhir.resources("Observation").search(patient=ada, code="44261-6")

    first = await about.limit(2).fetch()
    every = [one.id async for one in about.sort("-date").limit(2)]
    included = await about.include("Observation", "subject").limit(1).fetch_raw()

    assert len(first) == 2
    assert len(every) == len(set(every)) == 5
    assert [e["resource"]["resourceType"] for e in included["entry"]] == ["Observation", "Patient"]


async def test_a_count_needs_no_entries(server: Process) -> None:
    # fhirpy asks with a parameter that no server has: a client may say that this is no fault
    lenient = AsyncFHIRClient(server.base_url, extra_headers=LENIENT)
    await known(lenient, patient(identifier=[{"system": STAFF, "value": "counted"}])).create()

    counted = await lenient.resources("Patient").search(identifier=f"{STAFF}|counted").count()

    assert counted == 1


async def test_a_patch_changes_what_it_names(fhir: AsyncFHIRClient) -> None:
    ada = await known(fhir, patient(telecom=[{"system": "phone", "value": "555"}])).create()

    await ada.patch(gender="male")
    await fhir.patch("Patient", ada.id, birthDate="1990-01-01", telecom=None)
    read = await fhir.get("Patient", ada.id)

    assert (read["gender"], read["birthDate"]) == ("male", "1990-01-01")
    assert "telecom" not in read
    assert read["name"] == ada["name"]


async def test_a_json_patch_goes_through_execute(fhir: AsyncFHIRClient) -> None:
    ada = await known(fhir, patient()).create()
    steps = [{"op": "replace", "path": "/name/0/family", "value": "Vale"}]

    await ada.execute("", method="patch", data=steps)
    read = await fhir.get("Patient", ada.id)

    assert read["name"][0]["family"] == "Vale"


async def test_conditions_make_update_and_delete_one_resource(fhir: AsyncFHIRClient) -> None:
    body = patient(identifier=[{"system": STAFF, "value": "conditional"}])
    found = fhir.resources("Patient").search(identifier=f"{STAFF}|conditional")

    made, created = await found.update(known(fhir, body))
    same, again = await found.update(known(fhir, {**body, "gender": "male"}))
    _, status = await found.delete()

    assert (created, again, status) == (True, False, 204)
    assert made.id == same.id
    assert await found.first() is None


async def test_several_matches_are_told_apart_from_none(fhir: AsyncFHIRClient) -> None:
    body = patient(identifier=[{"system": STAFF, "value": "twice"}])
    for _ in range(2):
        await known(fhir, body).create()

    with pytest.raises(MultipleResourcesFound):
        await (
            fhir.resources("Patient").search(identifier=f"{STAFF}|twice").update(known(fhir, body))
        )


async def test_a_transaction_is_posted_to_the_base(fhir: AsyncFHIRClient) -> None:
    entries = [
        {"resource": patient(), "fullUrl": "urn:uuid:0f2b9d5a-8f61-4f0c-9f3e-7c1f0b8f2a11",
         "request": {"method": "POST", "url": "Patient"}},
        {"resource": observation(
            subject={"reference": "urn:uuid:0f2b9d5a-8f61-4f0c-9f3e-7c1f0b8f2a11"}
         ), "request": {"method": "POST", "url": "Observation"}},
    ]  # fmt: skip
    body = {"resourceType": "Bundle", "type": "transaction", "entry": entries}

    reply = await fhir.execute("/", method="post", data=body)

    assert [one["response"]["status"] for one in reply["entry"]] == ["201 Created"] * 2
