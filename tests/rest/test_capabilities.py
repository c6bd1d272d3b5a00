"""http.html#capabilities: what /metadata lists works, and what does not work is not listed."""

import asyncio
from typing import Any

import httpx

from app.fhir import definitions
from tests.conftest import BASE_URL
from tests.support.resources import patient, transaction

Json = dict[str, Any]
JSON_PATCH = "application/json-patch+json"

# Types whose search parameters are of every kind, and those that this server is for
SAMPLE = [
    "Appointment", "CarePlan", "Composition", "Encounter", "Goal", "ImagingStudy", "Location",
    "MedicationRequest", "MolecularSequence", "Observation", "Patient", "QuestionnaireResponse",
    "RiskAssessment", "SearchParameter", "Substance", "ValueSet",
]  # fmt: skip

# http.html#capabilities
MODES = ["full", "normative", "terminology"]
# A search parameter that R4 does not have
ACTIVE = {
    "resourceType": "SearchParameter",
    "id": "a",
    "url": "https://example.org/SearchParameter/lives",
    "name": "lives",
    "status": "active",
    "description": "Whether the record is in use",
    "code": "lives",
    "base": ["Patient"],
    "type": "token",
    "expression": "Patient.active",
}

# A value that a parameter of each type takes
PROBE = {
    "token": "http://loinc.org|44261-6",
    "string": "marsh",
    "date": "ge2026-03-02T09:30:00Z",
    "number": "0.5",
    "quantity": "11|http://unitsofmeasure.org|kg",
    "reference": "Patient/a",
    "uri": "https://example.org/x",
}


async def listed(client: httpx.AsyncClient) -> Json:
    """Return the only `rest` of the CapabilityStatement."""
    (rest,) = (await client.get("/metadata")).json()["rest"]
    found: Json = rest
    return found


async def test_references_to_other_servers_are_taken_and_said_to_be(
    client: httpx.AsyncClient,
) -> None:
    body = patient(managingOrganization={"reference": "https://example.org/fhir/Organization/x"})

    reply = await client.post("/Patient", json=body)

    written = [one for one in (await listed(client))["resource"] if one["type"] != "AuditEvent"]
    policies = [resource["referencePolicy"] for resource in written]
    assert reply.status_code == 201
    assert policies == [["literal", "logical"]] * len(policies)


async def test_the_statement_says_what_it_is(client: httpx.AsyncClient) -> None:
    reply = await client.get("/metadata")

    said = reply.json()
    assert reply.status_code == 200
    assert said["resourceType"] == "CapabilityStatement"
    assert (said["kind"], said["status"], said["fhirVersion"]) == ("instance", "active", "4.0.1")
    assert said["implementation"]["url"] == BASE_URL
    assert said["rest"][0]["mode"] == "server"


async def test_the_statement_is_a_resource_that_the_server_itself_accepts(
    client: httpx.AsyncClient,
) -> None:
    reply = await client.post("/CapabilityStatement", json=(await client.get("/metadata")).json())

    assert reply.status_code == 201, reply.text


async def test_the_statement_is_the_full_one_whatever_mode_is_asked_for(
    client: httpx.AsyncClient,
) -> None:
    plain = await client.get("/metadata")

    # http.html#capabilities: servers may ignore the mode
    replies = [await client.get(f"/metadata?mode={mode}") for mode in MODES]

    assert [reply.content for reply in replies] == [plain.content] * len(MODES)


async def test_the_statement_has_an_etag_by_which_a_client_knows_that_it_has_it(
    client: httpx.AsyncClient,
) -> None:
    plain = await client.get("/metadata")
    tag = plain.headers["ETag"]

    known = await client.get("/metadata", headers={"If-None-Match": tag})
    other = await client.get("/metadata", headers={"If-None-Match": 'W/"0"'})
    await client.put("/SearchParameter/a", json=ACTIVE)
    changed = plain
    async with asyncio.timeout(30):
        while changed.content == plain.content:
            changed = await client.get("/metadata")

    assert (known.status_code, known.content, known.headers["ETag"]) == (304, b"", tag)
    assert (other.status_code, other.headers["ETag"]) == (200, tag)
    assert changed.headers["ETag"] != tag


async def test_as_much_of_the_statement_is_answered_as_is_asked_for(
    client: httpx.AsyncClient,
) -> None:
    elements = (await client.get("/metadata?_elements=fhirVersion")).json()
    summary = await client.get("/metadata?_summary=true&_format=xml")

    assert elements["fhirVersion"] == "4.0.1"
    assert "rest" not in elements
    assert elements["meta"]["tag"][0]["code"] == "SUBSETTED"
    assert summary.content.startswith(b"<?xml")


async def test_every_listed_format_is_answered_and_no_other(client: httpx.AsyncClient) -> None:
    formats = (await client.get("/metadata")).json()["format"]

    replies = [await client.get("/metadata", params={"_format": name}) for name in formats]

    assert [reply.status_code for reply in replies] == [200] * len(formats)
    assert not any("ttl" in name for name in formats)


async def test_every_concrete_resource_type_of_r4_is_listed_once(
    client: httpx.AsyncClient,
) -> None:
    types = [resource["type"] for resource in (await listed(client))["resource"]]

    assert sorted(types) == sorted(set(types))
    # resourcelist.html of 4.0.1: 148 names, with Resource and DomainResource, which are abstract
    assert len(types) == 146
    assert {"Patient", "Bundle", "Parameters", "Binary", "OperationOutcome"} <= set(types)
    assert not {"Resource", "DomainResource"} & set(types)


async def patched(client: httpx.AsyncClient, url: str) -> httpx.Response:
    """Return the reply to a JSON Patch that sets the language."""
    body = [{"op": "add", "path": "/language", "value": "en"}]
    return await client.patch(url, json=body, headers={"Content-Type": JSON_PATCH})


async def test_every_listed_interaction_of_the_system_is_answered(
    client: httpx.AsyncClient,
) -> None:
    answers = {
        "transaction": await client.post("/", json=transaction()),
        "batch": await client.post("/", json={**transaction(), "type": "batch"}),
        "history-system": await client.get("/_history"),
        "search-system": await client.get("/?_type=Patient"),
    }

    codes = [interaction["code"] for interaction in (await listed(client))["interaction"]]

    assert {reply.status_code for reply in answers.values()} == {200}
    assert sorted(set(codes)) == sorted(answers)


async def test_every_listed_search_parameter_is_answered(client: httpx.AsyncClient) -> None:
    resources = {r["type"]: r for r in (await listed(client))["resource"]}

    found = {
        (type, parameter["name"]): (
            await client.get(f"/{type}", params={parameter["name"]: value_of(type, parameter)})
        ).status_code
        for type in SAMPLE
        for parameter in resources[type]["searchParam"]
    }

    assert {key: status for key, status in found.items() if status != 200} == {}
    kinds = {p["type"] for type in SAMPLE for p in resources[type]["searchParam"]}
    assert kinds == {*PROBE, "composite", "special"}


SPECIAL = {"_id": "a", "_filter": "_id eq a", "near": "42.25|-83.69|11.2|km"}


def value_of(type: str, parameter: Json) -> str:
    """Return a value that the parameter takes."""
    if special := SPECIAL.get(parameter["name"]):
        return special
    if parameter["type"] == "composite":
        parts = definitions.load().components(type, parameter["name"])
        return "$".join(PROBE[component.type] for component, _ in parts)
    return PROBE[parameter["type"]]


async def test_a_search_parameter_of_r4_that_is_not_listed_is_refused(
    client: httpx.AsyncClient,
) -> None:
    resources = {r["type"]: r for r in (await listed(client))["resource"]}
    r4 = definitions.load().search_parameters

    unlisted = [
        (type, code)
        for type in SAMPLE
        for code in r4[type]
        if code not in {p["name"] for p in resources[type]["searchParam"]}
    ]
    found = {
        key: (await client.get(f"/{key[0]}", params={key[1]: "x"})).status_code for key in unlisted
    }

    assert ("Patient", "_query") in unlisted
    assert found == dict.fromkeys(unlisted, 400)


async def test_conditional_interactions_are_listed_as_they_are_answered(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Patient/a", json=patient(id="a"))
    said = {r["type"]: r for r in (await listed(client))["resource"]}["Patient"]

    create = await client.post("/Patient", json=patient(), headers={"If-None-Exist": "_id=a"})
    read = await client.get("/Patient/a", headers={"If-None-Match": 'W/"1"'})
    update = await client.put("/Patient?_id=a", json=patient(id="a"))
    patch = await patched(client, "/Patient?_id=a")
    upsert = await client.put("/Patient/new", json=patient(id="new"))
    deletion = await client.delete("/Patient?_id=a")

    assert (said["conditionalCreate"], create.status_code) == (True, 200)
    assert (said["conditionalRead"], read.status_code) == ("full-support", 304)
    assert (said["conditionalUpdate"], update.status_code) == (True, 200)
    assert (said["conditionalDelete"], deletion.status_code) == ("single", 204)
    assert (await client.get("/Patient/a")).status_code == 410
    assert (said["updateCreate"], upsert.status_code) == (True, 201)
    assert ("patch" in str(said["interaction"]), patch.status_code) == (True, 200)
    assert (said["versioning"], said["readHistory"]) == ("versioned", True)
