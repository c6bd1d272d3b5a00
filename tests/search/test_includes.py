"""`_include` and `_revinclude` (search.html#include, search.html#revinclude)."""

from typing import Any

import httpx
import pytest

from tests.search.asking import posted
from tests.support.replies import link
from tests.support.resources import (
    coded,
    encounter,
    observation,
    patient,
    practitioner,
    put,
    reference,
    resource,
    transaction,
)


def organization(id: str, part_of: str | None = None) -> dict[str, Any]:
    parent = {"partOf": reference(f"Organization/{part_of}")} if part_of else {}
    return resource("Organization", {"id": id, "name": id.title(), **parent}, {})


def location(id: str, part_of: str | None = None) -> dict[str, Any]:
    parent = {"partOf": reference(f"Location/{part_of}")} if part_of else {}
    return resource("Location", {"id": id, "name": id.title(), **parent}, {})


def provenance(id: str, *targets: str) -> dict[str, Any]:
    agent = [{"who": reference("Practitioner/ines")}]
    named = [reference(target) for target in targets]
    made = {"id": id, "target": named, "recorded": "2026-03-02T09:30:00Z", "agent": agent}
    return resource("Provenance", made, {})


ADA, BOB = reference("Patient/ada"), reference("Patient/bob")
INES, CLINIC = reference("Practitioner/ines"), reference("Organization/clinic")
WORLD = [
    organization("holding"),
    organization("clinic", "holding"),
    practitioner(id="ines"),
    patient(id="ada", managingOrganization=CLINIC, generalPractitioner=[INES]),
    patient(id="bob", managingOrganization=CLINIC),
    patient(id="lonely"),
    resource("Group", {"id": "family", "type": "person", "actual": True}, {}),
    encounter(id="first", subject=ADA, serviceProvider=CLINIC),
    encounter(id="follow-up", subject=ADA, partOf=reference("Encounter/first")),
    observation(
        id="ada-1", subject=ADA, performer=[INES, CLINIC], encounter=reference("Encounter/first")
    ),
    observation(id="ada-2", subject=ADA, code=coded("2")),
    observation(id="bob-1", subject=BOB, hasMember=[reference("Observation/ada-2")]),
    observation(id="of-family", subject=reference("Group/family"), status="amended"),
    observation(id="dangling", subject=reference("Patient/nobody"), status="amended"),
    observation(
        id="external", subject=reference("http://other.example/fhir/Patient/ada"), status="amended"
    ),
    provenance("of-two", "Observation/ada-1", "Observation/bob-1"),
    *(location("left", "right"), location("right", "left"), location("itself", "itself")),
    *(location(f"l{n}", f"l{n + 1}" if n < 9 else None) for n in range(10)),
    resource(
        "Questionnaire",
        {"id": "phq", "url": "http://example.org/phq", "version": "1", "status": "active"},
        {},
    ),
    resource(
        "QuestionnaireResponse",
        {"id": "answers", "status": "completed", "questionnaire": "http://example.org/phq|1"},
        {},
    ),
]


@pytest.fixture
async def world(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """A client of a server that holds WORLD."""
    reply = await client.post("/", json=transaction(*(put(body) for body in WORLD)))
    assert reply.status_code == 200, reply.text
    return client


def named(reply: httpx.Response, mode: str) -> list[str]:
    """Return `Type/id` of the entries of that mode, in order."""
    assert reply.status_code == 200, reply.text
    return [
        f"{entry['resource']['resourceType']}/{entry['resource']['id']}"
        for entry in reply.json().get("entry", [])
        if entry["search"]["mode"] == mode
    ]


# A search, what it matches, and what it includes
ROWS: list[tuple[str, list[str], list[str]]] = [
    # forward
    (
        "Observation?patient=ada&_include=Observation:patient",
        ["Observation/ada-1", "Observation/ada-2"],
        ["Patient/ada"],
    ),
    (
        "Observation?_id=ada-1,bob-1,of-family&_include=Observation:subject",
        ["Observation/ada-1", "Observation/bob-1", "Observation/of-family"],
        ["Group/family", "Patient/ada", "Patient/bob"],
    ),
    # the type of the target
    (
        "Observation?_id=ada-1,of-family&_include=Observation:subject:Patient",
        ["Observation/ada-1", "Observation/of-family"],
        ["Patient/ada"],
    ),
    (
        "Observation?_id=ada-1&_include=Observation:performer:Organization",
        ["Observation/ada-1"],
        ["Organization/clinic"],
    ),
    (
        "Observation?_id=ada-1&_include=Observation:performer",
        ["Observation/ada-1"],
        ["Organization/clinic", "Practitioner/ines"],
    ),
    # several, and all
    (
        "Observation?_id=ada-1&_include=Observation:patient&_include=Observation:encounter",
        ["Observation/ada-1"],
        ["Encounter/first", "Patient/ada"],
    ),
    (
        "Observation?_id=ada-1&_include=Observation:*",
        ["Observation/ada-1"],
        ["Encounter/first", "Organization/clinic", "Patient/ada", "Practitioner/ines"],
    ),
    (
        "Observation?_id=ada-1&_include=*",
        ["Observation/ada-1"],
        ["Encounter/first", "Organization/clinic", "Patient/ada", "Practitioner/ines"],
    ),
    # nothing to include
    (
        "Observation?_id=dangling,external&_include=Observation:subject",
        ["Observation/dangling", "Observation/external"],
        [],
    ),
    ("Patient?_id=lonely&_include=Patient:organization", ["Patient/lonely"], []),
    ("Patient?name=nobody&_include=Patient:organization", [], []),
    # what is a match is not included as well
    (
        "Observation?_id=bob-1,ada-2&_include=Observation:has-member",
        ["Observation/ada-2", "Observation/bob-1"],
        [],
    ),
    (
        "Observation?_id=bob-1&_include=Observation:has-member",
        ["Observation/bob-1"],
        ["Observation/ada-2"],
    ),
    # without iterate, matches alone are followed
    (
        "Observation?_id=ada-1&_include=Observation:patient&_include=Patient:organization",
        ["Observation/ada-1"],
        ["Patient/ada"],
    ),
    # with iterate, what was included is followed too
    (
        "Observation?_id=ada-1&_include=Observation:patient&_include:iterate=Patient:organization",
        ["Observation/ada-1"],
        ["Organization/clinic", "Patient/ada"],
    ),
    (
        "Observation?_id=ada-1&_include=Observation:patient&_include:iterate=Patient:organization"
        "&_include:iterate=Organization:partof",
        ["Observation/ada-1"],
        ["Organization/clinic", "Organization/holding", "Patient/ada"],
    ),
    (
        "Encounter?_id=follow-up&_include:iterate=Encounter:part-of",
        ["Encounter/follow-up"],
        ["Encounter/first"],
    ),
    # one level after the other, to the end
    (
        "Location?_id=l0&_include=Location:partof",
        ["Location/l0"],
        ["Location/l1"],
    ),
    (
        "Location?_id=l0&_include:iterate=Location:partof",
        ["Location/l0"],
        [f"Location/l{n}" for n in range(1, 10)],
    ),
    # loops end
    ("Location?_id=left&_include:iterate=Location:partof", ["Location/left"], ["Location/right"]),
    ("Location?_id=itself&_include:iterate=Location:partof", ["Location/itself"], []),
    (
        "Location?_id=left&_include:iterate=Location:partof&_revinclude:iterate=Location:partof",
        ["Location/left"],
        ["Location/right"],
    ),
    # reverse
    (
        "Patient?_id=ada&_revinclude=Observation:patient",
        ["Patient/ada"],
        ["Observation/ada-1", "Observation/ada-2"],
    ),
    (
        "Patient?_id=ada&_revinclude=Observation:subject&_revinclude=Encounter:patient",
        ["Patient/ada"],
        ["Encounter/first", "Encounter/follow-up", "Observation/ada-1", "Observation/ada-2"],
    ),
    (
        "Observation?_id=ada-1,bob-1&_revinclude=Provenance:target",
        ["Observation/ada-1", "Observation/bob-1"],
        ["Provenance/of-two"],
    ),
    ("Patient?_id=lonely&_revinclude=Observation:patient", ["Patient/lonely"], []),
    (
        "Patient?_id=ada,bob&_revinclude:iterate=Observation:patient"
        "&_revinclude:iterate=Provenance:target",
        ["Patient/ada", "Patient/bob"],
        [
            *("Observation/ada-1", "Observation/ada-2", "Observation/bob-1"),
            "Provenance/of-two",
        ],
    ),
    (
        "Location?_id=l3&_revinclude:iterate=Location:partof",
        ["Location/l3"],
        ["Location/l0", "Location/l1", "Location/l2"],
    ),
    # both ways
    (
        "Patient?_id=bob&_revinclude=Observation:patient&_include=Patient:organization",
        ["Patient/bob"],
        ["Observation/bob-1", "Organization/clinic"],
    ),
    (
        "Patient?_id=bob&_revinclude=Observation:patient"
        "&_include:iterate=Observation:has-member&_include:iterate=Observation:encounter",
        ["Patient/bob"],
        ["Observation/ada-2", "Observation/bob-1"],
    ),
    # canonical references
    (
        "QuestionnaireResponse?_include=QuestionnaireResponse:questionnaire",
        ["QuestionnaireResponse/answers"],
        ["Questionnaire/phq"],
    ),
    (
        "Questionnaire?_revinclude=QuestionnaireResponse:questionnaire",
        ["Questionnaire/phq"],
        ["QuestionnaireResponse/answers"],
    ),
    # of another type than that which is searched: nothing to follow
    ("Patient?_id=ada&_include=Observation:patient", ["Patient/ada"], []),
]


async def test_a_search_includes_this_and_nothing_else(world: httpx.AsyncClient) -> None:
    found = {}
    for query, _, _ in ROWS:
        reply = await world.get(f"/{query}")
        found[query] = (sorted(named(reply, "match")), sorted(named(reply, "include")))

    assert found == {query: (match, include) for query, match, include in ROWS}


async def test_each_resource_comes_once_and_matches_come_first(world: httpx.AsyncClient) -> None:
    for query, _, _ in ROWS:
        reply = await world.get(f"/{query}")
        entries = reply.json().get("entry", [])
        modes = [entry["search"]["mode"] for entry in entries]
        urls = [entry["fullUrl"] for entry in entries]

        assert modes == sorted(modes, reverse=True), query  # match before include
        assert len(urls) == len(set(urls)), query


async def test_an_included_resource_is_what_a_read_answers(world: httpx.AsyncClient) -> None:
    reply = await world.get("/Observation?_id=ada-1&_include=Observation:patient")

    assert reply.json()["entry"][1] == {
        "fullUrl": "http://milepost.test/fhir/Patient/ada",
        "resource": (await world.get("/Patient/ada")).json(),
        "search": {"mode": "include"},
    }


async def test_what_is_included_is_neither_counted_nor_paged(world: httpx.AsyncClient) -> None:
    base = "/Observation?status=final&_include=Observation:patient"
    whole = await world.get(base)
    page = await world.get(f"{base}&_count=2&_total=accurate")
    rest = await world.get(link(page, "next") or "")

    assert whole.json()["total"] == page.json()["total"] == rest.json()["total"] == 3
    # every page has what its own matches refer to
    assert named(page, "match") == ["Observation/bob-1", "Observation/ada-2"]
    assert sorted(named(page, "include")) == ["Patient/ada", "Patient/bob"]
    assert named(rest, "match") == ["Observation/ada-1"]
    assert named(rest, "include") == ["Patient/ada"]


async def test_a_sorted_search_includes_as_well(world: httpx.AsyncClient) -> None:
    reply = await world.get(
        "/Observation?status=final&_sort=_id&_count=2&_include=Observation:patient"
    )

    assert named(reply, "match") == ["Observation/ada-1", "Observation/ada-2"]
    assert named(reply, "include") == ["Patient/ada"]


async def test_the_same_by_form(world: httpx.AsyncClient) -> None:
    for query, match, include in ROWS:
        path, _, rest = query.partition("?")
        pairs = httpx.QueryParams(rest).multi_items()
        reply = await posted(world, f"/{path}", pairs)

        found = (sorted(named(reply, "match")), sorted(named(reply, "include")))
        assert found == (match, include), query


async def test_what_was_deleted_is_not_included(world: httpx.AsyncClient) -> None:
    await world.delete("/Practitioner/ines")
    await world.delete("/Observation/ada-2")

    forward = await world.get("/Observation?_id=ada-1&_include=Observation:performer")
    reverse = await world.get("/Patient?_id=ada&_revinclude=Observation:patient")

    assert named(forward, "include") == ["Organization/clinic"]
    assert named(reverse, "include") == ["Observation/ada-1"]


async def test_a_reference_to_a_version_includes_the_resource(world: httpx.AsyncClient) -> None:
    body = observation(id="versioned", subject=reference("Patient/ada/_history/1"))
    await world.put("/Observation/versioned", json=body)

    reply = await world.get("/Observation?_id=versioned&_include=Observation:patient")

    assert named(reply, "include") == ["Patient/ada"]


async def test_a_compartment_includes_as_well(world: httpx.AsyncClient) -> None:
    reply = await world.get("/Patient/ada/Observation?_include=Observation:encounter&_sort=_id")

    assert named(reply, "match") == ["Observation/ada-1", "Observation/ada-2"]
    assert named(reply, "include") == ["Encounter/first"]
