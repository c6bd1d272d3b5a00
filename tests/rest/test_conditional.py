"""http.html#ccreate, #cond-update, #patch, #delete: writes that say by criteria what they mean."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from app.config import Settings
from tests.conftest import BASE_URL
from tests.support.application import connected
from tests.support.replies import ids, issue
from tests.support.resources import observation, patient, practitioner

Json = dict[str, Any]

STAFF = "identifier=https://example.org/staff|7"
VALE = f"/Practitioner?{STAFF}"
PATCH = {"Content-Type": "application/json-patch+json"}
RETIRED = [{"op": "add", "path": "/active", "value": False}]

# Criteria that name nothing in particular, or nothing that the server knows
MEANINGLESS = [
    "",
    "?",
    "?identifier=",
    "?_format=json",
    "?_count=1",
    "?shoe-size=44",
    "?birthdate=x",
    f"?{STAFF}&shoe-size=44",
    f"?{STAFF}&_sort=name",
    f"?{STAFF}&_include=*",
    f"?{STAFF}&_summary=true",
]


@pytest.fixture
async def lavish(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server on which a conditional delete may delete several resources."""
    async with connected(settings.model_copy(update={"conditional_delete": "multiple"})) as client:
        yield client


async def versions(client: httpx.AsyncClient, path: str) -> list[str]:
    """Return the method of each version of a resource, oldest first."""
    entries = (await client.get(f"{path}/_history?_count=1000")).json()["entry"]
    return [entry["request"]["method"] for entry in reversed(entries)]


# --- update --------------------------------------------------------------------------------------


async def test_an_update_by_criteria_that_nothing_fits_creates_under_a_new_id(
    client: httpx.AsyncClient,
) -> None:
    reply = await client.put(VALE, json=practitioner())

    id = reply.json()["id"]
    assert reply.status_code == 201
    assert reply.headers["Location"] == f"{BASE_URL}/Practitioner/{id}/_history/1"
    assert (await client.get(f"/Practitioner/{id}")).content == reply.content


async def test_an_update_by_criteria_that_nothing_fits_creates_under_the_id_of_the_body(
    client: httpx.AsyncClient,
) -> None:
    reply = await client.put(VALE, json=practitioner(id="vale"))

    assert reply.status_code == 201
    assert reply.headers["Location"] == f"{BASE_URL}/Practitioner/vale/_history/1"


async def test_an_update_by_criteria_creates_under_an_id_again_that_was_deleted(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Practitioner/vale", json=practitioner(id="vale"))
    await client.delete("/Practitioner/vale")

    reply = await client.put(VALE, json=practitioner(id="vale"))

    assert (reply.status_code, reply.headers["ETag"]) == (201, 'W/"3"')


async def test_an_update_by_criteria_never_writes_a_resource_that_does_not_fit_them(
    client: httpx.AsyncClient,
) -> None:
    stored = await client.put("/Practitioner/vale", json=practitioner(id="vale", identifier=None))

    reply = await client.put(VALE, json=practitioner(id="vale"))

    assert (reply.status_code, issue(reply)) == (412, ("conflict", "Practitioner/vale exists"))
    assert (await client.get("/Practitioner/vale")).content == stored.content


async def test_an_update_by_criteria_writes_the_one_resource_that_fits(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Practitioner/vale", json=practitioner(id="vale"))

    without = await client.put(VALE, json=practitioner(active=True))
    equal = await client.put(VALE, json=practitioner(id="vale", active=False))

    assert [reply.status_code for reply in (without, equal)] == [200, 200]
    assert [reply.headers["ETag"] for reply in (without, equal)] == ['W/"2"', 'W/"3"']
    assert without.headers["Location"] == f"{BASE_URL}/Practitioner/vale/_history/2"
    assert (await client.get("/Practitioner/vale/_history/2")).content == without.content
    assert ids(await client.get("/Practitioner?active=false")) == ["vale"]
    assert list(without.json())[:3] == ["resourceType", "id", "meta"]


async def test_an_update_by_criteria_that_changes_nothing_keeps_the_version(
    client: httpx.AsyncClient,
) -> None:
    stored = await client.put("/Practitioner/vale", json=practitioner(id="vale"))

    replies = [
        await client.put(VALE, json=practitioner(), headers={"Prefer": f"return={preference}"})
        for preference in ("representation", "minimal", "")
    ]

    assert [reply.content for reply in replies] == [stored.content, b"", stored.content]
    assert {reply.headers["ETag"] for reply in replies} == {'W/"1"'}


async def test_an_update_by_criteria_of_a_resource_with_another_id_is_refused(
    client: httpx.AsyncClient,
) -> None:
    stored = await client.put("/Practitioner/vale", json=practitioner(id="vale"))

    reply = await client.put(VALE, json=practitioner(id="other"))

    assert reply.status_code == 400
    assert issue(reply) == ("invalid", "id must be vale, that of the resource which is updated")
    assert (await client.get("/Practitioner/vale")).content == stored.content
    assert (await client.get("/Practitioner/other")).status_code == 404


async def test_an_update_by_criteria_that_several_fit_is_refused(client: httpx.AsyncClient) -> None:
    for id in ("a", "b"):
        await client.put(f"/Practitioner/{id}", json=practitioner(id=id))

    replies = [
        await client.put(VALE, json=practitioner(active=True)),
        await client.put(VALE, json=practitioner(id="a", active=True)),
        await client.patch(VALE, json=RETIRED, headers=PATCH),
        await client.delete(VALE),
    ]

    assert [reply.status_code for reply in replies] == [412] * 4
    assert {issue(reply)[0] for reply in replies} == {"multiple-matches"}
    assert [await versions(client, f"/Practitioner/{id}") for id in "ab"] == [["POST"], ["POST"]]


async def test_if_match_and_if_none_match_hold_for_what_the_criteria_find(
    client: httpx.AsyncClient,
) -> None:
    nobody = "/Practitioner?identifier=nobody"
    conditions: list[tuple[str, Json, int]] = [
        (nobody, {"If-Match": 'W/"1"'}, 412),
        (nobody, {"If-Match": "*"}, 412),
        (VALE, {"If-Match": 'W/"2"'}, 412),
        (VALE, {"If-None-Match": "*"}, 412),
        (VALE, {"If-Match": "1"}, 400),
        (VALE, {"If-Match": 'W/"1"'}, 200),
        (nobody, {"If-None-Match": "*"}, 201),
    ]
    await client.put("/Practitioner/vale", json=practitioner(id="vale"))

    replies = [
        await client.put(url, json=practitioner(active=True), headers=headers)
        for url, headers, _ in conditions
    ]

    assert [reply.status_code for reply in replies] == [status for _, _, status in conditions]
    assert len(ids(await client.get("/Practitioner"))) == 2


async def test_an_update_by_criteria_is_validated(client: httpx.AsyncClient) -> None:
    replies = [
        await client.put(VALE, json=practitioner(gender="x")),
        await client.put(VALE, json=practitioner(id="not an id")),
        await client.put(VALE, json=patient()),
        await client.put(VALE, content=b"{"),
        await client.put(VALE, content=b"[]"),
    ]

    assert [reply.status_code for reply in replies] == [422, 422, 400, 400, 400]
    assert ids(await client.get("/Practitioner")) == []


async def test_a_search_parameter_may_be_updated_by_criteria(client: httpx.AsyncClient) -> None:
    parameter = {
        "resourceType": "SearchParameter",
        "url": "https://example.org/SearchParameter/marital",
        "name": "Marital",
        "status": "active",
        "description": "x",
        "code": "marital",
        "base": ["Patient"],
        "type": "token",
        "expression": "Patient.maritalStatus",
    }
    criteria = f"/SearchParameter?url={parameter['url']}"

    made = await client.put(criteria, json=parameter)
    changed = await client.put(criteria, json={**parameter, "description": "y"})

    assert [reply.status_code for reply in (made, changed)] == [201, 200]
    assert made.json()["id"] == changed.json()["id"]


# --- delete --------------------------------------------------------------------------------------


async def test_a_delete_by_criteria_that_nothing_fits_is_204_and_changes_nothing(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Practitioner/vale", json=practitioner(id="vale"))

    reply = await client.delete("/Practitioner?identifier=nobody")

    assert (reply.status_code, reply.content) == (204, b"")  # http.html#delete
    assert await versions(client, "/Practitioner/vale") == ["POST"]


async def test_a_delete_by_criteria_deletes_the_one_resource_that_fits(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Practitioner/vale", json=practitioner(id="vale"))
    await client.put("/Practitioner/other", json=practitioner(id="other", identifier=None))

    stale = await client.delete(VALE, headers={"If-Match": 'W/"7"'})
    reply = await client.delete(VALE, headers={"If-Match": 'W/"1"'})
    again = await client.delete(VALE, headers={"If-Match": 'W/"1"'})

    assert [r.status_code for r in (stale, reply, again)] == [412, 204, 412]
    assert reply.headers["ETag"] == 'W/"2"'
    assert (await client.get("/Practitioner/vale")).status_code == 410
    assert ids(await client.get("/Practitioner")) == ["other"]


async def test_a_delete_by_criteria_deletes_all_that_fit_where_that_is_allowed(
    lavish: httpx.AsyncClient,
) -> None:
    for id in ("a", "b", "c"):
        await lavish.put(f"/Practitioner/{id}", json=practitioner(id=id))
    await lavish.put("/Practitioner/other", json=practitioner(id="other", identifier=None))

    reply = await lavish.delete(VALE)
    told = await lavish.delete(VALE, headers={"Prefer": "return=OperationOutcome"})

    assert (reply.status_code, reply.content) == (204, b"")
    assert "ETag" not in reply.headers
    assert (told.status_code, issue(told)[1]) == (200, "0 resources were deleted")
    assert ids(await lavish.get("/Practitioner")) == ["other"]


async def test_a_delete_by_criteria_deletes_nothing_where_more_fit_than_it_says(
    lavish: httpx.AsyncClient,
) -> None:
    entries = [
        {"resource": practitioner(), "request": {"method": "POST", "url": "Practitioner"}}
        for _ in range(101)
    ]
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
    await lavish.post("/", json=bundle)

    refused = [await lavish.delete(VALE + limit) for limit in ("", "&_count=100", "&_count=0")]
    wrong = await lavish.delete(VALE + "&_count=many")
    kept = len(ids(await lavish.get("/Practitioner?_count=200")))
    reply = await lavish.delete(VALE + "&_count=101")

    assert [r.status_code for r in refused] == [412] * 3
    assert issue(refused[0]) == (
        "multiple-matches", "A conditional delete fits more than 100 Practitioner"
    )  # fmt: skip
    assert wrong.status_code == 400
    assert kept == 101
    assert reply.status_code == 204
    assert ids(await lavish.get("/Practitioner")) == []


async def test_one_stale_version_keeps_all_that_fit_from_being_deleted(
    lavish: httpx.AsyncClient,
) -> None:
    for id in ("a", "b"):
        await lavish.put(f"/Practitioner/{id}", json=practitioner(id=id))
    await lavish.put("/Practitioner/b", json=practitioner(id="b", active=True))

    reply = await lavish.delete(VALE, headers={"If-Match": 'W/"1"'})

    assert reply.status_code == 412
    assert sorted(ids(await lavish.get("/Practitioner"))) == ["a", "b"]


# --- patch ---------------------------------------------------------------------------------------


async def test_a_patch_by_criteria_changes_the_one_resource_that_fits(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Practitioner/vale", json=practitioner(id="vale"))

    reply = await client.patch(VALE, json=RETIRED, headers=PATCH)

    assert (reply.status_code, reply.headers["ETag"]) == (200, 'W/"2"')
    assert reply.json()["active"] is False
    assert (await client.get("/Practitioner/vale")).content == reply.content


async def test_a_patch_by_criteria_that_nothing_fits_is_404(client: httpx.AsyncClient) -> None:
    reply = await client.patch(VALE, json=RETIRED, headers=PATCH)
    versioned = await client.patch(VALE, json=RETIRED, headers={**PATCH, "If-Match": 'W/"1"'})

    assert (reply.status_code, issue(reply)[0]) == (404, "not-found")
    assert versioned.status_code == 412
    assert ids(await client.get("/Practitioner")) == []


# --- criteria ------------------------------------------------------------------------------------


async def test_criteria_that_mean_nothing_are_refused_and_nothing_is_written(
    lavish: httpx.AsyncClient,
) -> None:
    await lavish.put("/Practitioner/vale", json=practitioner(id="vale"))
    lenient = {"Prefer": "handling=lenient"}
    body = practitioner(active=True)

    found = {}
    for criteria in MEANINGLESS:
        url = f"/Practitioner{criteria}"
        condition = {"If-None-Exist": criteria.removeprefix("?") or "?"}
        replies = [
            await lavish.put(url, json=body),
            await lavish.delete(url),
            await lavish.delete(url, headers=lenient),
            await lavish.patch(url, json=RETIRED, headers=PATCH),
            await lavish.post("/Practitioner", json=body, headers={**condition, **lenient}),
        ]
        found[criteria] = [reply.status_code for reply in replies]

    assert found == dict.fromkeys(MEANINGLESS, [400] * 5)
    assert await versions(lavish, "/Practitioner/vale") == ["POST"]
    assert ids(await lavish.get("/Practitioner")) == ["vale"]


async def test_criteria_may_chain_and_stand_beside_a_format(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/ada", json=patient(id="ada"))
    subject = {"reference": "Patient/ada"}
    url = "/Observation?subject:Patient.family=marsh&code=44261-6&_format=json&_pretty=true"

    made = await client.put(url, json=observation(subject=subject))
    changed = await client.put(url, json=observation(subject=subject, status="amended"))
    gone = await client.delete("/Observation?subject:Patient.family=marsh")

    assert [reply.status_code for reply in (made, changed, gone)] == [201, 200, 204]
    assert made.json()["id"] == changed.json()["id"]
    assert ids(await client.get("/Observation")) == []
