"""What the server itself makes is R4, in the eyes of somebody else's models and of its own rules.

R4B's models serve as R4's: the types below did not change between them.
"""

from typing import Any

import httpx
from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.capabilitystatement import CapabilityStatement
from fhir.resources.R4B.operationoutcome import OperationOutcome

from tests.support.resources import (
    batch,
    delete,
    get,
    observation,
    patient,
    post,
    put,
    reference,
    transaction,
)

MODELS: dict[str, Any] = {
    "Bundle": Bundle,
    "CapabilityStatement": CapabilityStatement,
    "OperationOutcome": OperationOutcome,
}
ADA = "urn:uuid:0f2b9d5a-8f61-4f0c-9f3e-7c1f0b8f2a11"


async def emitted(client: httpx.AsyncClient) -> dict[str, httpx.Response]:
    """Return a reply of every kind that the server makes."""
    entries = [
        post(patient(), ADA),
        post(observation(subject=reference(ADA))),
        put(patient(id="a")),
        delete("Patient/old"),
        get("Patient/a"),
        get("Patient?name=marsh"),
        get("Patient/a/_history"),
    ]
    await client.put("/Patient/old", json=patient(id="old"))
    shown = {"Prefer": "return=representation"}
    told = {"Prefer": "return=OperationOutcome"}
    return {
        "transaction": await client.post("/", json=transaction(*entries)),
        "transaction, shown": await client.post("/", json=transaction(*entries), headers=shown),
        "transaction, told": await client.post("/", json=transaction(*entries), headers=told),
        "batch": await client.post(
            "/", json=batch(*entries, post(patient(gender="f")), get("Patient/nobody"))
        ),
        "empty batch": await client.post("/", json=batch()),
        "search": await client.get("/Patient?name=marsh"),
        "page": await client.get("/Patient?_count=1"),
        "empty search": await client.get("/Patient?name=nobody"),
        "history": await client.get("/_history"),
        "page of a history": await client.get("/Patient/_history?_count=2"),
        "empty history": await client.get("/Slot/_history"),
        "capabilities": await client.get("/metadata"),
        "all is well": await client.put("/Patient/a", json=patient(id="a"), headers=told),
        "not found": await client.get("/Patient/nobody"),
        "gone": await client.get("/Patient/old"),
        "not valid": await client.post("/Patient", json=patient(gender="f", shoeSize=4)),
        "no JSON": await client.post("/Patient", content="{"),
        "not allowed": await client.patch("/Patient/a"),
        "not acceptable": await client.get("/Patient", headers={"Accept": "text/html"}),
        "unknown parameter": await client.get("/Patient?shoe-size=44"),
        "another version": await client.put(
            "/Patient/a", json=patient(id="a", gender="other"), headers={"If-Match": 'W/"77"'}
        ),
        "another type of content": await client.post(
            "/Patient", content="x", headers={"Content-Type": "text/plain"}
        ),
    }


async def test_everything_emitted_parses_under_the_models_of_fhir_resources(
    client: httpx.AsyncClient,
) -> None:
    replies = await emitted(client)

    kinds = {reply.json()["resourceType"] for reply in replies.values()}
    assert kinds == set(MODELS)
    for reply in replies.values():
        MODELS[reply.json()["resourceType"]].model_validate(reply.json())
        assert reply.headers["Content-Type"].split(";")[0] == "application/fhir+json"


async def test_everything_emitted_is_accepted_by_the_server_itself(
    client: httpx.AsyncClient,
) -> None:
    replies = await emitted(client)

    stored = {
        name: await client.post(f"/{reply.json()['resourceType']}", content=reply.content)
        for name, reply in replies.items()
    }

    assert {name: r.text for name, r in stored.items() if r.status_code != 201} == {}


async def test_every_refusal_says_what_is_wrong_in_words(client: httpx.AsyncClient) -> None:
    replies = [reply for reply in (await emitted(client)).values() if reply.is_error]

    issues = [issue for reply in replies for issue in reply.json()["issue"]]
    assert {issue["severity"] for issue in issues} == {"error"}
    assert [issue for issue in issues if len(issue["diagnostics"].split()) < 3] == []
