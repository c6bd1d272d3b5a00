"""/docs and /openapi.json: the FHIR routes for people and tools that know OpenAPI."""

import re
from typing import Any

import httpx

from tests.conftest import BASE_URL

Json = dict[str, Any]
HOST = BASE_URL.removesuffix("/fhir")
FIRST = ["Patient", "CarePlan", "Encounter", "MedicationRequest"]
METHODS = {"get", "post", "put", "delete", "patch", "head", "options"}


async def described(client: httpx.AsyncClient) -> Json:
    """Return the paths of /openapi.json, without those outside the FHIR base."""
    paths = (await client.get(f"{HOST}/openapi.json")).json()["paths"]
    return {path: item for path, item in paths.items() if path.startswith("/fhir")}


def operations(paths: Json) -> list[tuple[str, str, Json]]:
    """Return method, path and operation, in the order of the document."""
    return [
        (method.upper(), path, operation)
        for path, item in paths.items()
        for method, operation in item.items()
        if method in METHODS
    ]


async def test_docs_is_a_page_for_people(client: httpx.AsyncClient) -> None:
    reply = await client.get(f"{HOST}/docs", headers={"Accept": "text/html"})

    assert reply.status_code == 200
    assert reply.headers["Content-Type"].startswith("text/html")
    assert "/openapi.json" in reply.text


async def test_the_types_of_the_programme_come_first_in_their_order(
    client: httpx.AsyncClient,
) -> None:
    paths = await described(client)

    tags = dict.fromkeys(o["tags"][0] for _, _, o in operations(paths))

    assert list(tags)[: len(FIRST)] == FIRST


async def test_every_interaction_of_the_first_types_is_listed(client: httpx.AsyncClient) -> None:
    paths = await described(client)

    for type in FIRST:
        shown = {(m, path) for m, path, o in operations(paths) if o["tags"] == [type]}
        assert shown == {
            ("GET", f"/fhir/{type}"),
            ("POST", f"/fhir/{type}"),
            ("POST", f"/fhir/{type}/_search"),
            ("GET", f"/fhir/{type}/_history"),
            ("GET", f"/fhir/{type}/{{id}}"),
            ("PUT", f"/fhir/{type}"),
            ("PATCH", f"/fhir/{type}"),
            ("DELETE", f"/fhir/{type}"),
            ("PUT", f"/fhir/{type}/{{id}}"),
            ("PATCH", f"/fhir/{type}/{{id}}"),
            ("DELETE", f"/fhir/{type}/{{id}}"),
            ("GET", f"/fhir/{type}/{{id}}/_history"),
            ("GET", f"/fhir/{type}/{{id}}/_history/{{vid}}"),
        }


async def test_other_types_and_the_system_are_listed_too(client: httpx.AsyncClient) -> None:
    paths = await described(client)

    shown = {(method, path) for method, path, _ in operations(paths)}
    assert {
        ("GET", "/fhir/metadata"),
        ("POST", "/fhir"),
        ("GET", "/fhir/_history"),
        ("GET", "/fhir/{type}"),
        ("PUT", "/fhir/{type}/{id}"),
    } <= shown
    (parameter,) = [
        p for p in paths["/fhir/{type}/{id}"]["get"]["parameters"] if p["name"] == "type"
    ]
    statement = (await client.get("/metadata")).json()
    types = {resource["type"] for resource in statement["rest"][0]["resource"]}
    assert {*parameter["schema"]["enum"], *FIRST, "AuditEvent"} == types
    assert {method for method, path in shown if path.startswith("/fhir/AuditEvent")} == {
        *("GET", "POST")  # the latter to _search
    }


async def test_an_operation_is_shown_with_the_parameters_that_it_has_there(
    client: httpx.AsyncClient,
) -> None:
    shown = {
        path: [p["name"] for p in found["parameters"] if p["in"] == "query"]
        for method, path, found in operations(await described(client))
        if method == "GET" and path.endswith("$document")
    }

    assert shown == {
        "/fhir/Composition/$document": ["id", "persist"],
        "/fhir/Composition/{id}/$document": ["persist"],
    }


async def test_the_document_is_consistent_in_itself(client: httpx.AsyncClient) -> None:
    found = operations(await described(client))

    names = [operation["operationId"] for _, _, operation in found]
    assert sorted(names) == sorted(set(names))
    for _, path, operation in found:
        declared = [p["name"] for p in operation["parameters"] if p["in"] == "path"]
        assert sorted(declared) == sorted(re.findall(r"\{(\w+)\}", path)), path
        assert len({(p["in"], p["name"]) for p in operation["parameters"]}) == len(
            operation["parameters"]
        )
        assert operation["responses"]


async def test_the_first_types_show_the_search_parameters_that_metadata_lists(
    client: httpx.AsyncClient,
) -> None:
    paths = await described(client)
    statement = (await client.get("/metadata")).json()
    listed = {r["type"]: r["searchParam"] for r in statement["rest"][0]["resource"]}

    for type in FIRST:
        shown = {p["name"] for p in paths[f"/fhir/{type}"]["get"]["parameters"]}
        wanted = {p["name"] for p in listed[type] if not p["name"].startswith("_")}
        assert wanted <= shown
        assert "_count" in shown


async def test_every_write_of_the_first_types_has_an_example_that_the_server_accepts(
    client: httpx.AsyncClient,
) -> None:
    found = operations(await described(client))
    shown = {
        (method, path): (operation["parameters"], media_type, content["example"])
        for method, path, operation in found
        for media_type, content in operation.get("requestBody", {}).get("content", {}).items()
        if "example" in content
    }

    replies = {
        (method, path): await client.request(
            method,
            HOST + path.replace("{id}", "example"),
            params={p["name"]: p["example"] for p in parameters if "example" in p},
            json=example,
            headers={"Content-Type": media_type},
        )
        for (method, path), (parameters, media_type, example) in shown.items()
    }

    wanted = {("POST", f"/fhir/{type}") for type in FIRST} | {("POST", "/fhir")}
    for method in ("PUT", "PATCH"):
        wanted |= {(method, f"/fhir/{type}{id}") for type in FIRST for id in ("", "/{id}")}
    assert set(shown) == wanted
    assert {key: reply.text for key, reply in replies.items() if not reply.is_success} == {}
