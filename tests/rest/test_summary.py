"""search.html#summary and search.html#elements, on every interaction that reads."""

import httpx
import pytest

from app.fhir.cut import SUBSETTED
from tests.support.replies import issue, link, resources
from tests.support.resources import batch, coded, get, observation, patient, reference

NARRATIVE = {"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml">Ada</div>'}
STORED = patient(id="ada", text=NARRATIVE, maritalStatus=coded("M"), language="en")

# What is left of the patient, besides its type, id and meta
LEFT = {
    "_summary=true": {"active", "name", "gender", "birthDate"},
    "_summary=text": {"text"},
    "_summary=data": {"active", "name", "gender", "birthDate", "maritalStatus", "language"},
    "_elements=gender": {"gender"},
    "_elements=gender,maritalStatus": {"gender", "maritalStatus"},
    "_elements=Patient.gender": {"gender"},
    "_elements=deceased": set(),
    "_elements=gender&_summary=false": {"gender"},
}
READS = ("/Patient/ada", "/Patient/ada/_history/1")
HISTORIES = ("/Patient/ada/_history", "/Patient/_history", "/_history")

# What is refused, and the code and place of the issue
REFUSED = {
    "_summary=count": ("value", "http._summary"),
    "_summary=yes": ("value", "http._summary"),
    "_summary=True": ("value", "http._summary"),
    "_summary=true&_summary=true": ("invalid", "http._summary"),
    "_elements=shoeSize": ("value", "http._elements"),
    "_elements=gender,": ("value", "http._elements"),
    "_elements=name.family": ("value", "http._elements"),
    "_elements=gender&_elements=name": ("invalid", "http._elements"),
    "_elements=gender&_summary=true": ("invalid", "http._elements"),
}


def content(resource: dict[str, object]) -> set[str]:
    """Return the names of a resource's elements, without those that every answer has."""
    return set(resource) - {"resourceType", "id", "meta"}


@pytest.mark.parametrize("query", LEFT)
async def test_every_read_answers_the_part_that_is_asked_for(
    client: httpx.AsyncClient, query: str
) -> None:
    await client.put("/Patient/ada", json=STORED)

    read = [(await client.get(f"{path}?{query}")).json() for path in READS]
    listed = [resources(await client.get(f"{path}?{query}")) for path in HISTORIES]
    batched = resources(await client.post("", json=batch(get(f"Patient/ada?{query}"))))

    found = [*read, *(resource for page in [*listed, batched] for resource in page)]
    assert [content(resource) for resource in found] == [LEFT[query]] * 6
    assert [resource["meta"]["tag"] for resource in found] == [[SUBSETTED]] * 6
    assert {resource["meta"]["versionId"] for resource in found} == {"1"}


@pytest.mark.parametrize("query", LEFT)
async def test_a_search_answers_the_part_that_is_asked_for(
    client: httpx.AsyncClient, query: str
) -> None:
    await client.put("/Patient/ada", json=STORED)

    reply = await client.get(f"/Patient?{query}")

    (found,) = resources(reply)
    assert content(found) == LEFT[query]
    assert found["meta"]["tag"] == [SUBSETTED]
    assert {pair.partition("=")[0] for pair in query.split("&")} <= {
        pair.partition("=")[0] for pair in (link(reply, "self") or "").partition("?")[2].split("&")
    }


async def test_elements_are_not_those_of_included_resources(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/ada", json=STORED)
    await client.put("/Observation/o", json=observation(id="o", subject=reference("Patient/ada")))

    reply = await client.get("/Observation?_elements=status&_include=Observation:subject")

    match, included = resources(reply)
    assert content(match) == {"status", "code"}
    assert included == (await client.get("/Patient/ada")).json()


async def test_what_is_stored_stays_whole(client: httpx.AsyncClient) -> None:
    written = await client.put("/Patient/ada", json=STORED)

    await client.get("/Patient/ada?_summary=true")

    assert (await client.get("/Patient/ada")).content == written.content
    assert (await client.get("/Patient/ada?_summary=false")).content == written.content


async def test_a_part_has_the_version_and_the_conditions_of_the_whole(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Patient/ada", json=STORED)

    part = await client.get("/Patient/ada?_elements=gender")
    again = await client.get(
        "/Patient/ada?_elements=gender", headers={"If-None-Match": part.headers["ETag"]}
    )

    assert part.headers["ETag"] == 'W/"1"'
    assert (again.status_code, again.content) == (304, b"")


async def test_the_next_page_of_a_history_answers_the_same_part(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/ada", json=STORED)
    await client.put("/Patient/ada", json=STORED | {"gender": "other"})

    first = await client.get("/Patient/ada/_history?_count=1&_elements=gender")
    following = await client.get(link(first, "next") or "")

    (older,) = resources(following)
    assert (content(older), older["gender"]) == ({"gender"}, "female")


async def test_a_deletion_in_a_history_has_no_part(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/ada", json=STORED)
    await client.delete("/Patient/ada")

    reply = await client.get("/Patient/ada/_history?_summary=true")

    assert [("resource" in entry) for entry in reply.json()["entry"]] == [False, True]


@pytest.mark.parametrize("path", [*READS, *HISTORIES])
@pytest.mark.parametrize("query", REFUSED)
async def test_what_cannot_be_a_part_is_refused_by_name(
    client: httpx.AsyncClient, path: str, query: str
) -> None:
    await client.put("/Patient/ada", json=STORED)

    reply = await client.get(f"{path}?{query}")

    (found,) = reply.json()["issue"]
    assert reply.status_code == 400
    assert (found["code"], found["expression"][0]) == REFUSED[query]


async def test_an_element_of_any_type_can_be_asked_of_a_history_of_all(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Patient/ada", json=STORED)
    await client.put("/Observation/o", json=observation(id="o"))

    every = await client.get("/_history?_elements=birthDate")
    typed = await client.get("/Patient/_history?_elements=valueQuantity")

    assert [content(found) for found in resources(every)] == [{"status", "code"}, {"birthDate"}]
    assert issue(typed) == (
        "value",
        "_elements names 'valueQuantity', which is no element of Patient",
    )


async def test_a_write_has_no_part(client: httpx.AsyncClient) -> None:
    reply = await client.put("/Patient/ada?_summary=true", json=STORED)

    assert reply.status_code == 400
    assert issue(reply)[0] == "not-supported"
