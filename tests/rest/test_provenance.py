"""X-Provenance: http.html#provenance."""

import json
from typing import Any

import httpx
import pytest

from tests.support.patches import JSON_PATCH
from tests.support.replies import issue, issues, resources
from tests.support.resources import (
    batch,
    delete,
    get,
    observation,
    patient,
    post,
    put,
    reference,
    resource,
    transaction,
)

WHO: dict[str, Any] = {
    "recorded": "2026-03-02T09:30:00Z",
    "agent": [{"who": {"display": "Ines Vale"}}],
    "activity": {"text": "intake"},
}
PROVENANCE = resource("Provenance", WHO, {})
TWO_PATIENTS = transaction(
    post(patient()), put(patient(id="eve")), delete("Patient/ada"), get("Patient/eve")
)


def header(changes: Any = None) -> dict[str, str]:
    """Return X-Provenance with changes to a good one."""
    return {"X-Provenance": json.dumps({**PROVENANCE, **(changes or {})})}


async def stored(client: httpx.AsyncClient) -> list[list[str]]:
    """Return the targets of all Provenances."""
    found = resources(await client.get("/Provenance?_sort=_lastUpdated"))
    return [[target["reference"] for target in one["target"]] for one in found]


async def test_a_create_stores_the_provenance_of_its_version(client: httpx.AsyncClient) -> None:
    reply = await client.post("/Patient", json=patient(), headers=header())

    assert reply.status_code == 201
    assert reply.json()["resourceType"] == "Patient"
    (made,) = resources(await client.get("/Provenance"))
    target = {"reference": f"Patient/{reply.json()['id']}/_history/1"}
    assert {**made, "meta": {}, "id": ""} == {
        **PROVENANCE,
        "target": [target],
        "meta": {},
        "id": "",
    }
    found = await client.get(f"/Provenance?target=Patient/{reply.json()['id']}")
    assert found.json()["total"] == 1


async def test_each_write_stores_the_provenance_of_its_version(client: httpx.AsyncClient) -> None:
    url = "/Patient/ada"

    await client.put(url, json=patient(id="ada"), headers=header())
    await client.put(url, json=patient(id="ada", gender="male"), headers=header())
    operations = [{"op": "remove", "path": "/gender"}]
    await client.patch(url, json=operations, headers={**JSON_PATCH, **header()})
    await client.delete(url, headers=header())

    assert await stored(client) == [[f"Patient/ada/_history/{n}"] for n in (1, 2, 3, 4)]


async def test_a_transaction_stores_one_provenance_of_all_that_it_writes(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Patient/ada", json=patient(id="ada"))

    reply = await client.post("/", json=TWO_PATIENTS, headers=header())

    assert reply.status_code == 200
    assert len(reply.json()["entry"]) == 4
    location = reply.json()["entry"][0]["response"]["location"]
    (targets,) = await stored(client)
    assert sorted(targets) == sorted([location, "Patient/eve/_history/1", "Patient/ada/_history/2"])


async def test_a_batch_stores_the_provenance_of_each_write(client: httpx.AsyncClient) -> None:
    entries = batch(put(patient(id="ada")), get("Patient/ada"), put(patient(id="eve")))

    reply = await client.post("/", json=entries, headers=header())

    statuses = [entry["response"]["status"][:3] for entry in reply.json()["entry"]]
    assert statuses == ["201", "200", "201"]
    assert await stored(client) == [["Patient/ada/_history/1"], ["Patient/eve/_history/1"]]


async def test_what_writes_nothing_stores_no_provenance(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/ada", json=patient(id="ada"))

    replies = [
        await client.put("/Patient/ada", json=patient(id="ada"), headers=header()),
        await client.delete("/Patient/nobody", headers=header()),
        await client.post(
            "/Patient", json=patient(), headers={**header(), "If-None-Exist": "family=Marsh"}
        ),
    ]

    assert [reply.status_code for reply in replies] == [200, 204, 200]
    assert await stored(client) == []


MALFORMED: dict[str, str] = {
    "no JSON": "{",
    "no object": "[]",
    "a text": '"Provenance"',
    "a property twice": '{"resourceType":"Provenance","agent":[],"agent":[]}',
    "another resource": json.dumps(patient()),
    "a target": json.dumps({**PROVENANCE, "target": [reference("Patient/ada")]}),
    "an unknown property": json.dumps({**PROVENANCE, "colour": "red"}),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_header_is_a_400_and_nothing_is_written(
    client: httpx.AsyncClient, name: str
) -> None:
    headers = {"X-Provenance": MALFORMED[name]}

    replies = [
        await client.put("/Patient/ada", json=patient(id="ada"), headers=headers),
        await client.post("/", json=transaction(post(patient())), headers=headers),
    ]

    for reply in replies:
        assert reply.status_code == 400
        assert all(text.startswith("X-Provenance") for _, text in issues(reply))
    assert (await client.get("/Patient")).json()["total"] == 0


@pytest.mark.parametrize("missing", ["agent", "recorded"])
async def test_a_header_that_is_not_valid_is_refused_and_nothing_is_written(
    client: httpx.AsyncClient, missing: str
) -> None:
    kept = {name: value for name, value in PROVENANCE.items() if name != missing}
    headers = {"X-Provenance": json.dumps(kept)}

    reply = await client.put("/Patient/ada", json=patient(id="ada"), headers=headers)

    assert reply.status_code in (400, 422)
    assert issue(reply)[1].startswith("X-Provenance: ")
    assert (await client.get("/Patient/ada")).status_code == 404


async def test_a_refused_write_stores_no_provenance(client: httpx.AsyncClient) -> None:
    reply = await client.post("/Observation", json=observation(status="no"), headers=header())

    assert reply.status_code == 422
    assert await stored(client) == []


@pytest.mark.parametrize("url", ["/Patient/ada", "/Patient", "/Patient/ada/_history", "/metadata"])
async def test_the_header_is_refused_where_nothing_is_written(
    client: httpx.AsyncClient, url: str
) -> None:
    await client.put("/Patient/ada", json=patient(id="ada"))

    reply = await client.get(url, headers=header())

    assert reply.status_code == 400
    assert "X-Provenance goes with a write" in issue(reply)[1]
