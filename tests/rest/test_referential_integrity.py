"""http.html#integrity: references that lead nowhere, and deletions of what others refer to.

What a caller may not see: tests/access/test_referential_integrity.py.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from app.config import Settings
from tests.conftest import BASE_URL
from tests.support.application import connected
from tests.support.patches import JSON_PATCH
from tests.support.replies import issue, issues, outcome, places
from tests.support.resources import (
    batch,
    delete,
    encounter,
    observation,
    patient,
    post,
    practitioner,
    put,
    reference,
    resource,
    transaction,
)

TOLD = {"Prefer": "return=OperationOutcome"}
OF_ADA = observation(id="o", subject=reference("Patient/ada"))
ORGANIZATION = {"resourceType": "Organization", "name": "O"}
PROVENANCE = '{"resourceType":"Provenance","recorded":"2026-03-02T09:30:00Z","agent":[{"who":%s}]}'


@pytest.fixture
def enforcing(settings: Settings) -> Settings:
    """The settings of a server that keeps references."""
    return settings.model_copy(update={"referential_integrity": "enforce"})


@pytest.fixture
async def strict(enforcing: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that keeps references."""
    async with connected(enforcing) as client:
        yield client


@pytest.fixture
async def warning(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that tells of broken references."""
    changed = settings.model_copy(update={"referential_integrity": "warn"})
    async with connected(changed) as client:
        yield client


# --- Writing -------------------------------------------------------------------------------------


async def test_without_the_setting_references_may_lead_anywhere(client: httpx.AsyncClient) -> None:
    wrote = await client.put("/Observation/o", json=OF_ADA, headers=TOLD)
    await client.put("/Patient/ada", json=patient(id="ada"))
    deleted = await client.delete("/Patient/ada", headers=TOLD)

    assert (wrote.status_code, deleted.status_code) == (201, 200)
    assert issues(wrote) == issues(deleted) == [("informational", "All OK")]


async def test_references_that_lead_nowhere_are_refused_each_with_its_place(
    strict: httpx.AsyncClient,
) -> None:
    await strict.put("/Practitioner/ines", json=practitioner(id="ines"))
    broken = observation(
        id="o",
        subject=reference("Patient/ada"),
        performer=[reference("Practitioner/ines"), reference(f"{BASE_URL}/Practitioner/nobody")],
        extension=[{"url": "urn:x", "valueReference": reference("Patient/ada")}],
    )

    reply = await strict.put("/Observation/o", json=broken)

    assert reply.status_code == 422
    assert dict(zip(places(reply), issues(reply), strict=True)) == {
        "Observation.subject": ("not-found", "There is no Patient/ada"),
        "Observation.performer[1]": ("not-found", "There is no Practitioner/nobody"),
        "Observation.extension[0].valueReference": ("not-found", "There is no Patient/ada"),
    }
    assert (await strict.get("/Observation/o")).status_code == 404


async def test_references_that_lead_somewhere_are_kept(strict: httpx.AsyncClient) -> None:
    await strict.put("/Patient/ada", json=patient(id="ada"))
    elsewhere = [
        reference("Patient/ada"),
        reference(f"{BASE_URL}/Patient/ada"),
        reference("Patient/ada/_history/1"),
        reference("http://elsewhere.test/fhir/Patient/nobody"),
        reference("urn:uuid:7f1d6f5a-0a5e-4f5e-9a3b-7f1d6f5a0a5e"),
        {"identifier": {"system": "urn:x", "value": "7"}},
        {"display": "Ada"},
    ]

    replies = [await strict.post("/Observation", json=observation(subject=r)) for r in elsewhere]

    assert [reply.status_code for reply in replies] == [201] * len(elsewhere)


async def test_a_reference_to_itself_is_kept(strict: httpx.AsyncClient) -> None:
    link = [{"other": reference("Patient/ada"), "type": "seealso"}]

    reply = await strict.put("/Patient/ada", json=patient(id="ada", link=link))

    assert reply.status_code == 201
    assert (await strict.delete("/Patient/ada")).status_code == 204


async def test_a_reference_to_what_is_deleted_is_refused(strict: httpx.AsyncClient) -> None:
    await strict.put("/Patient/ada", json=patient(id="ada"))
    await strict.delete("/Patient/ada")

    reply = await strict.put("/Observation/o", json=OF_ADA)

    assert (reply.status_code, issue(reply)) == (422, ("not-found", "There is no Patient/ada"))


async def test_a_reference_written_with_an_escape_is_looked_for_too(
    strict: httpx.AsyncClient,
) -> None:
    body = (
        '{"resourceType":"Observation","status":"final","code":{"text":"a"},'
        '"subject":{"reference":"Patient\\/ada"}}'
    )

    reply = await strict.post("/Observation", content=body)

    assert (reply.status_code, places(reply)) == (422, ["Observation.subject"])


async def test_a_reference_to_a_version_needs_that_version(strict: httpx.AsyncClient) -> None:
    await strict.put("/Patient/ada", json=patient(id="ada"))
    await strict.delete("/Patient/ada")

    replies = {
        version: await strict.post(
            "/Observation", json=observation(subject=reference(f"Patient/ada/_history/{version}"))
        )
        for version in ("1", "2", "3", "x")
    }

    assert {v: r.status_code for v, r in replies.items()} == {
        "1": 201,
        "2": 201,
        "3": 422,
        "x": 422,
    }
    assert issue(replies["3"]) == ("not-found", "There is no version 3 of Patient/ada")


async def test_a_contained_resource_is_looked_into(strict: httpx.AsyncClient) -> None:
    contained = [{**encounter(subject=reference("Patient/ada")), "id": "e"}]
    body = observation(contained=contained, encounter=reference("#e"))

    reply = await strict.post("/Observation", json=body)

    assert (reply.status_code, places(reply)) == (422, ["Observation.contained[0].subject"])


async def test_a_patch_cannot_break_a_reference(strict: httpx.AsyncClient) -> None:
    await strict.put("/Observation/o", json=observation(id="o"))
    operations = [{"op": "add", "path": "/subject", "value": reference("Patient/ada")}]

    reply = await strict.patch("/Observation/o", json=operations, headers=JSON_PATCH)

    assert (reply.status_code, places(reply)) == (422, ["Observation.subject"])
    assert "subject" not in (await strict.get("/Observation/o")).json()


async def test_the_provenance_of_a_write_is_looked_at_too(strict: httpx.AsyncClient) -> None:
    nobody, text = '{"reference":"Practitioner/ines"}', '{"display":"Ines"}'

    refused = await strict.put(
        "/Patient/ada", json=patient(id="ada"), headers={"X-Provenance": PROVENANCE % nobody}
    )
    await strict.put(
        "/Patient/ada", json=patient(id="ada"), headers={"X-Provenance": PROVENANCE % text}
    )
    deleted = await strict.delete("/Patient/ada", headers={"X-Provenance": PROVENANCE % text})

    assert (refused.status_code, places(refused)) == (422, ["Provenance.agent[0].who"])
    assert deleted.status_code == 204


async def test_references_between_the_entries_of_a_transaction_hold(
    strict: httpx.AsyncClient,
) -> None:
    reply = await strict.post(
        "/",
        json=transaction(
            post(observation(subject=reference("urn:uuid:00000000-0000-4000-8000-000000000001"))),
            post(patient(), "urn:uuid:00000000-0000-4000-8000-000000000001"),
            put(observation(id="o", subject=reference("Patient/eve"))),
            put(patient(id="eve")),
        ),
    )

    assert reply.status_code == 200


async def test_a_transaction_with_a_broken_reference_is_refused_and_names_the_entry(
    strict: httpx.AsyncClient,
) -> None:
    reply = await strict.post("/", json=transaction(put(patient(id="eve")), put(OF_ADA)))

    assert reply.status_code == 422
    assert places(reply) == ["Bundle.entry[1].resource.subject"]
    assert (await strict.get("/Patient/eve")).status_code == 404


@pytest.mark.parametrize("policy", ["off", "warn", "enforce"])
async def test_the_capability_statement_says_whether_references_are_enforced(
    settings: Settings, policy: str
) -> None:
    changed = settings.model_copy(update={"referential_integrity": policy})

    async with connected(changed) as client:
        said = (await client.get("/metadata")).json()["rest"][0]["resource"]

    stored = [one for one in said if one["type"] != "AuditEvent"]  # which no client writes
    enforced = {"enforced" in one["referencePolicy"] for one in stored}
    assert enforced == {policy == "enforce"}


# --- Deleting ------------------------------------------------------------------------------------


async def test_what_others_refer_to_is_not_deleted(strict: httpx.AsyncClient) -> None:
    await strict.put("/Patient/ada", json=patient(id="ada"))
    await strict.put("/Observation/o", json=OF_ADA)
    await strict.put("/Encounter/e", json=encounter(id="e", subject=reference("Patient/ada")))

    reply = await strict.delete("/Patient/ada")

    assert reply.status_code == 409
    text = "Patient/ada is still referred to by Encounter/e, Observation/o"
    assert issue(reply) == ("conflict", text)
    assert (await strict.get("/Patient/ada")).headers["ETag"] == 'W/"1"'


async def test_references_that_no_search_parameter_reads_count_too(
    strict: httpx.AsyncClient,
) -> None:
    await strict.put("/Organization/o", json={**ORGANIZATION, "id": "o"})
    contact = [{"name": {"text": "B"}, "organization": reference("Organization/o")}]
    await strict.put("/Patient/ada", json=patient(id="ada", contact=contact))
    inside = {**encounter(serviceProvider=reference("Organization/o")), "id": "e"}
    contained = observation(id="c", contained=[inside], encounter=reference("#e"))
    await strict.put("/Observation/c", json=contained)
    extension = [{"url": "urn:x", "valueReference": reference(f"{BASE_URL}/Organization/o")}]
    await strict.put("/Observation/x", json=observation(id="x", extension=extension))

    reply = await strict.delete("/Organization/o")

    text = "Organization/o is still referred to by Observation/c, Observation/x, Patient/ada"
    assert (reply.status_code, issue(reply)) == (409, ("conflict", text))
    await strict.put("/Patient/ada", json=patient(id="ada"))
    await strict.delete("/Observation/c")
    await strict.delete("/Observation/x")
    assert (await strict.delete("/Organization/o")).status_code == 204


async def test_twenty_referrers_are_named_and_that_there_are_others(
    strict: httpx.AsyncClient,
) -> None:
    await strict.put("/Patient/ada", json=patient(id="ada"))
    many = [observation(id=f"o{n:03}", subject=reference("Patient/ada")) for n in range(130)]
    await strict.post("/", json=transaction(*map(put, many)))

    reply = await strict.delete("/Patient/ada")

    named = ", ".join(f"Observation/o{n:03}" for n in range(20))
    text = f"Patient/ada is still referred to by {named}, others"
    assert issue(reply) == ("conflict", text)


async def test_a_reference_to_a_version_does_not_keep_the_resource(
    strict: httpx.AsyncClient,
) -> None:
    await strict.put("/Patient/ada", json=patient(id="ada"))
    of_version = observation(id="o", subject=reference("Patient/ada/_history/1"))
    await strict.put("/Observation/o", json=of_version)

    reply = await strict.delete("/Patient/ada")

    assert reply.status_code == 204


async def test_what_nobody_refers_to_any_longer_is_deleted(strict: httpx.AsyncClient) -> None:
    await strict.put("/Patient/ada", json=patient(id="ada"))
    await strict.put("/Observation/o", json=OF_ADA)
    await strict.put("/Observation/p", json={**OF_ADA, "id": "p"})
    await strict.delete("/Observation/o")
    await strict.put("/Observation/p", json=observation(id="p"))

    assert (await strict.delete("/Patient/ada")).status_code == 204


async def test_a_transaction_may_delete_what_it_frees(strict: httpx.AsyncClient) -> None:
    await strict.put("/Patient/ada", json=patient(id="ada"))
    await strict.put("/Observation/o", json=OF_ADA)
    await strict.put("/Observation/p", json={**OF_ADA, "id": "p"})

    reply = await strict.post(
        "/",
        json=transaction(delete("Patient/ada"), delete("Observation/o"), put(observation(id="p"))),
    )

    assert reply.status_code == 200
    assert (await strict.get("/Patient/ada")).status_code == 410


async def test_a_transaction_that_deletes_what_is_referred_to_is_refused(
    strict: httpx.AsyncClient,
) -> None:
    await strict.put("/Patient/ada", json=patient(id="ada"))

    reply = await strict.post("/", json=transaction(put(OF_ADA), delete("Patient/ada")))

    assert reply.status_code == 409
    assert set(places(reply)) == {"Bundle.entry[0].resource.subject", "Bundle.entry[1]"}
    assert (await strict.get("/Patient/ada")).status_code == 200


async def test_a_conditional_delete_is_refused_alike(strict: httpx.AsyncClient) -> None:
    await strict.put("/Patient/ada", json=patient(id="ada"))
    await strict.put("/Observation/o", json=OF_ADA)

    reply = await strict.delete("/Patient?family=Marsh")

    assert reply.status_code == 409


# --- Warnings ------------------------------------------------------------------------------------


def warned(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return severity, place and text of the issues of an OperationOutcome."""
    return [
        (one["severity"], next(iter(one.get("expression", [])), ""), one["diagnostics"])
        for one in found["issue"]
    ]


DANGLING = ("warning", "Observation.subject", "There is no Patient/ada")
NEEDED = ("warning", "", "Patient/eve is still referred to by Observation/p")


async def test_a_warning_tells_of_a_broken_reference(warning: httpx.AsyncClient) -> None:
    wrote = await warning.put("/Observation/o", json=OF_ADA, headers=TOLD)
    await warning.put("/Patient/eve", json=patient(id="eve"))
    await warning.put("/Observation/p", json=observation(id="p", subject=reference("Patient/eve")))
    deleted = await warning.delete("/Patient/eve", headers=TOLD)

    assert (wrote.status_code, warned(outcome(wrote))) == (201, [DANGLING])
    assert (deleted.status_code, warned(outcome(deleted))) == (200, [NEEDED])
    assert (await warning.get("/Patient/eve")).status_code == 410


async def test_warnings_do_not_hide_how_many_were_deleted(settings: Settings) -> None:
    changed = {"referential_integrity": "warn", "conditional_delete": "multiple"}
    async with connected(settings.model_copy(update=changed)) as client:
        for id in ("ada", "eve"):
            await client.put(f"/Patient/{id}", json=patient(id=id))
        await client.put(
            "/Observation/p", json=observation(id="p", subject=reference("Patient/eve"))
        )

        deleted = await client.delete("/Patient?gender=female", headers=TOLD)

        counted = ("information", "", "2 resources were deleted")
        assert warned(outcome(deleted)) == [counted, NEEDED]


@pytest.mark.parametrize("kind", [batch, transaction])
async def test_a_warning_is_told_in_the_entry_that_it_is_about(
    warning: httpx.AsyncClient, kind: Any
) -> None:
    await warning.put("/Patient/eve", json=patient(id="eve"))
    await warning.put("/Observation/p", json=observation(id="p", subject=reference("Patient/eve")))

    reply = await warning.post(
        "/",
        json=kind(delete("Patient/eve"), put(OF_ADA), put(patient(id="bob"))),
        headers=TOLD,
    )

    answers = [warned(entry["response"]["outcome"]) for entry in reply.json()["entry"]]
    assert answers == [[NEEDED], [DANGLING], [("information", "", "All OK")]]


# --- At once -------------------------------------------------------------------------------------


async def test_a_deletion_and_a_new_reference_at_once_leave_nothing_broken(
    enforcing: Settings,
) -> None:
    async with connected(enforcing) as one, connected(enforcing) as other:
        for n in range(16):
            url, of_it = f"/Patient/p{n}", reference(f"Patient/p{n}")
            await one.put(url, json=patient(id=f"p{n}"))

            deleted, referred = await asyncio.gather(
                one.delete(url), other.put(f"/Basic/b{n}", json=about(f"b{n}", of_it))
            )

            assert (deleted.status_code, referred.status_code) in {(204, 422), (409, 201)}


def about(id: str, subject: dict[str, Any]) -> dict[str, Any]:
    """Return a Basic about a subject."""
    return resource("Basic", {"id": id, "code": {"text": "note"}, "subject": subject}, {})
