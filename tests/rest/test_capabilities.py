"""http.html#capabilities: what /metadata lists works, and what does not work is not listed."""

from typing import Any

import httpx

from app.fhir import definitions
from tests.conftest import BASE_URL
from tests.support.resources import patient, transaction

Json = dict[str, Any]

# Types whose search parameters are of every kind, and those that this server is for
SAMPLE = [
    "Appointment", "CarePlan", "Composition", "Encounter", "Goal", "ImagingStudy", "Location",
    "MedicationRequest", "MolecularSequence", "Observation", "Patient", "QuestionnaireResponse",
    "RiskAssessment", "SearchParameter", "Substance", "ValueSet",
]  # fmt: skip

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


async def test_every_listed_format_is_answered_and_no_other(client: httpx.AsyncClient) -> None:
    formats = (await client.get("/metadata")).json()["format"]

    replies = [await client.get("/metadata", params={"_format": name}) for name in formats]

    assert [reply.status_code for reply in replies] == [200] * len(formats)
    assert not any("xml" in name or "ttl" in name for name in formats)


async def test_every_concrete_resource_type_of_r4_is_listed_once(
    client: httpx.AsyncClient,
) -> None:
    types = [resource["type"] for resource in (await listed(client))["resource"]]

    assert sorted(types) == sorted(set(types))
    # resourcelist.html of 4.0.1: 148 names, with Resource and DomainResource, which are abstract
    assert len(types) == 146
    assert {"Patient", "Bundle", "Parameters", "Binary", "OperationOutcome"} <= set(types)
    assert not {"Resource", "DomainResource"} & set(types)


async def test_every_listed_interaction_of_a_type_is_answered(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/a", json=patient(id="a"))
    answers = {
        "read": await client.get("/Patient/a"),
        "vread": await client.get("/Patient/a/_history/1"),
        "update": await client.put("/Patient/a", json=patient(id="a")),
        "delete": await client.delete("/Patient/nobody"),
        "history-instance": await client.get("/Patient/a/_history"),
        "history-type": await client.get("/Patient/_history"),
        "create": await client.post("/Patient", json=patient()),
        "search-type": await client.get("/Patient"),
    }

    resources = (await listed(client))["resource"]

    assert {reply.is_success for reply in answers.values()} == {True}
    for resource in resources:
        codes = [interaction["code"] for interaction in resource["interaction"]]
        assert sorted(codes) == sorted(answers), resource["type"]


async def test_every_type_can_be_searched_and_has_a_history(client: httpx.AsyncClient) -> None:
    types = [resource["type"] for resource in (await listed(client))["resource"]]

    searches = {type: (await client.get(f"/{type}")).status_code for type in types}
    histories = {type: (await client.get(f"/{type}/_history")).status_code for type in types}

    assert searches == dict.fromkeys(types, 200)
    assert histories == dict.fromkeys(types, 200)


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
    deletion = await client.delete("/Patient?_id=a")
    upsert = await client.put("/Patient/new", json=patient(id="new"))
    patch = await client.patch("/Patient/a", json=[])

    assert (said["conditionalCreate"], create.status_code) == (True, 200)
    assert (said["conditionalRead"], read.status_code) == ("full-support", 304)
    assert (said["conditionalUpdate"], update.is_client_error) == (False, True)
    assert (said["conditionalDelete"], deletion.is_client_error) == ("not-supported", True)
    assert (await client.get("/Patient/a")).status_code == 200
    assert (said["updateCreate"], upsert.status_code) == (True, 201)
    assert ("patch" in str(said["interaction"]), patch.status_code) == (False, 405)
    assert (said["versioning"], said["readHistory"]) == ("versioned", True)
