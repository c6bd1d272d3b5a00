"""http.html#patch over HTTP. What a patch makes of a resource: tests/fhir/test_patch.py."""

import base64
import json
from typing import Any

import httpx
import pytest

from app.config import Settings
from tests.conftest import BASE_URL
from tests.support.application import connected
from tests.support.patches import JSON_PATCH, add, delete, fhirpath_patch, insert, replace
from tests.support.replies import issue, issues, places
from tests.support.resources import batch, entry, observation, patient, post, transaction

GENDER = [{"op": "replace", "path": "/gender", "value": "male"}]
WEIGHED = (
    '{"resourceType":"Observation","id":"w","status":"final","code":{"text":"weight"},'
    '"valueQuantity":{"value":150e-2,"unit":"kg"},"component":[{"code":{"text":"a"},'
    '"valueQuantity":{"value":1.50}},{"code":{"text":"b"},"valueQuantity":{"value":-0.0}}]}'
)
STATUS = [{"op": "replace", "path": "/status", "value": "amended"}]


async def ada(client: httpx.AsyncClient) -> None:
    """Put Patient/ada, at version 1."""
    assert (await client.put("/Patient/ada", json=patient(id="ada"))).status_code == 201


async def patch(
    client: httpx.AsyncClient, url: str, operations: Any, **headers: str
) -> httpx.Response:
    """Return the answer to a JSON Patch."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.patch(url, json=operations, headers={**JSON_PATCH, **named})


# --- What it does --------------------------------------------------------------------------------


async def test_a_json_patch_makes_a_new_version(client: httpx.AsyncClient) -> None:
    await ada(client)

    reply = await patch(client, "/Patient/ada", GENDER)

    assert reply.status_code == 200
    assert reply.headers["ETag"] == 'W/"2"'
    assert reply.headers["Location"] == f"{BASE_URL}/Patient/ada/_history/2"
    made = reply.json()
    assert made == {**patient(id="ada"), "gender": "male", "meta": made["meta"]}
    assert (await client.get("/Patient/ada")).content == reply.content
    before = (await client.get("/Patient/ada/_history/1")).json()
    assert before["gender"] == "female"


async def test_a_fhirpath_patch_makes_a_new_version(client: httpx.AsyncClient) -> None:
    await ada(client)
    operations = fhirpath_patch(
        replace("Patient.gender", valueCode="male"),
        insert("Patient.name[0].given", 0, valueString="Eva"),
        add("Patient", "deceased", valueBoolean=False),
        delete("Patient.birthDate"),
    )

    reply = await client.patch("/Patient/ada", json=operations)

    made = reply.json()
    assert reply.status_code == 200
    assert made["gender"] == "male"
    assert made["name"][0]["given"] == ["Eva", "Ada"]
    assert made["deceasedBoolean"] is False
    assert "birthDate" not in made


async def test_a_fhirpath_patch_may_be_xml(client: httpx.AsyncClient) -> None:
    await ada(client)
    body = (
        '<Parameters xmlns="http://hl7.org/fhir"><parameter><name value="operation"/>'
        '<part><name value="type"/><valueCode value="replace"/></part>'
        '<part><name value="path"/><valueString value="Patient.gender"/></part>'
        '<part><name value="value"/><valueCode value="male"/></part></parameter></Parameters>'
    )

    reply = await client.patch(
        "/Patient/ada", content=body, headers={"Content-Type": "application/fhir+xml"}
    )

    assert (reply.status_code, reply.json()["gender"]) == (200, "male")


async def test_what_is_patched_is_found_by_its_new_content(client: httpx.AsyncClient) -> None:
    await ada(client)

    await patch(client, "/Patient/ada", GENDER)

    for gender, total in (("male", 1), ("female", 0)):
        assert (await client.get(f"/Patient?gender={gender}")).json()["total"] == total


async def test_a_patch_keeps_every_digit_that_it_does_not_touch(client: httpx.AsyncClient) -> None:
    await client.put("/Observation/w", content=WEIGHED)

    reply = await patch(client, "/Observation/w", STATUS)

    assert reply.status_code == 200
    for written in (b'"value":150e-2', b'"value":1.50', b'"value":-0.0'):
        assert written in reply.content


async def test_a_patch_keeps_the_digits_that_it_brings(client: httpx.AsyncClient) -> None:
    await client.put("/Observation/w", content=WEIGHED)
    body = '[{"op":"replace","path":"/valueQuantity/value","value":2.500}]'

    reply = await client.patch("/Observation/w", content=body, headers=JSON_PATCH)

    assert b'"value":2.500' in reply.content


async def test_a_patch_that_changes_nothing_makes_no_version(client: httpx.AsyncClient) -> None:
    await ada(client)
    same = [{"op": "test", "path": "/gender", "value": "female"}]

    reply = await patch(client, "/Patient/ada", same)

    assert (reply.status_code, reply.headers["ETag"]) == (200, 'W/"1"')
    assert reply.json()["gender"] == "female"


async def test_removing_the_last_item_of_an_array_removes_the_array(
    client: httpx.AsyncClient,
) -> None:
    await ada(client)

    reply = await patch(client, "/Patient/ada", [{"op": "remove", "path": "/name/0"}])

    assert reply.status_code == 200
    assert "name" not in reply.json()


# --- Conditions and preferences -------------------------------------------------------------------


async def test_a_patch_of_another_version_is_refused(client: httpx.AsyncClient) -> None:
    await ada(client)
    await patch(client, "/Patient/ada", GENDER)

    stale = await patch(client, "/Patient/ada", GENDER, If_Match='W/"1"')
    fresh = await patch(
        client, "/Patient/ada", [{"op": "remove", "path": "/gender"}], If_Match='W/"2"'
    )

    assert stale.status_code == 412
    assert issue(stale) == ("conflict", "Patient is at version 2, not 1")
    assert (fresh.status_code, fresh.headers["ETag"]) == (200, 'W/"3"')


@pytest.mark.parametrize("preference", ["minimal", "representation", "OperationOutcome"])
async def test_a_patch_answers_as_prefer_asks(client: httpx.AsyncClient, preference: str) -> None:
    await ada(client)

    reply = await patch(client, "/Patient/ada", GENDER, Prefer=f"return={preference}")

    assert reply.status_code == 200
    assert reply.headers["ETag"] == 'W/"2"'
    kind = reply.json()["resourceType"] if reply.content else ""
    expected = {"minimal": "", "representation": "Patient"}
    assert kind == expected.get(preference, preference)


# --- What is refused -----------------------------------------------------------------------------


async def test_a_patch_of_what_never_was_is_a_404(client: httpx.AsyncClient) -> None:
    reply = await patch(client, "/Patient/nobody", GENDER)

    assert reply.status_code == 404
    assert (await client.get("/Patient/nobody")).status_code == 404


async def test_a_patch_of_what_is_deleted_is_a_410(client: httpx.AsyncClient) -> None:
    await ada(client)
    await client.delete("/Patient/ada")

    reply = await patch(client, "/Patient/ada", GENDER)

    assert reply.status_code == 410


async def test_a_test_that_fails_is_a_422_that_quotes_nothing(client: httpx.AsyncClient) -> None:
    await ada(client)
    operations = [*GENDER, {"op": "test", "path": "/birthDate", "value": "1999-09-09"}]

    reply = await patch(client, "/Patient/ada", operations)

    assert reply.status_code == 422
    assert issue(reply)[1] == "Operation 2: test: /birthDate does not have the expected value"
    assert "1985" not in reply.text
    assert (await client.get("/Patient/ada")).headers["ETag"] == 'W/"1"'


async def test_a_malformed_patch_is_a_400(client: httpx.AsyncClient) -> None:
    await ada(client)

    replies = [
        await patch(client, "/Patient/ada", {"gender": "male"}),
        await patch(client, "/Patient/ada", [{"op": "merge", "path": "/gender"}]),
        await client.patch("/Patient/ada", content=b"[", headers=JSON_PATCH),
        await client.patch("/Patient/ada", content=b"", headers=JSON_PATCH),
        await client.patch("/Patient/ada", json=patient(id="ada")),
        await client.patch("/Patient/ada", json=fhirpath_patch(delete("Patient.name("))),
    ]

    assert [reply.status_code for reply in replies] == [400] * 6


async def test_a_patch_of_another_media_type_is_a_415(client: httpx.AsyncClient) -> None:
    await ada(client)

    for kind in ("application/xml-patch+xml", "application/yaml", "text/plain"):
        reply = await client.patch("/Patient/ada", json=GENDER, headers={"Content-Type": kind})

        assert reply.status_code == 415


async def test_a_resource_does_not_grow_beyond_the_limit_by_patches(settings: Settings) -> None:
    limited = settings.model_copy(update={"max_resource_bytes": 2048})
    longer = [{"op": "add", "path": "/name/-", "value": {"text": "x" * 1200}}]
    async with connected(limited) as client:
        await ada(client)

        statuses = [(await patch(client, "/Patient/ada", longer)).status_code for _ in range(2)]

    assert statuses == [200, 413]


async def test_a_patch_is_refused_where_its_result_is_not_valid(client: httpx.AsyncClient) -> None:
    await client.put("/Observation/o", json=observation(id="o"))
    operations = [
        {"op": "remove", "path": "/status"},
        {"op": "add", "path": "/colour", "value": "red"},
    ]

    reply = await patch(client, "/Observation/o", operations)

    assert reply.status_code in (400, 422)
    assert sorted(places(reply)) == ["Observation.colour", "Observation.status"]
    assert (await client.get("/Observation/o")).json()["status"] == "final"


async def test_a_fhirpath_patch_is_refused_where_its_result_is_not_valid(
    client: httpx.AsyncClient,
) -> None:
    await ada(client)

    reply = await client.patch(
        "/Patient/ada", json=fhirpath_patch(replace("Patient.gender", valueCode="unheard-of"))
    )

    assert reply.status_code == 422
    assert places(reply) == ["Patient.gender"]


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "replace", "path": "/id", "value": "eve"},
        {"op": "remove", "path": "/id"},
        {"op": "replace", "path": "/resourceType", "value": "Person"},
        {"op": "replace", "path": "", "value": {"resourceType": "Patient", "id": "eve"}},
    ],
)
async def test_a_patch_cannot_make_another_resource(
    client: httpx.AsyncClient, operation: dict[str, Any]
) -> None:
    await ada(client)

    reply = await patch(client, "/Patient/ada", [operation])

    assert reply.status_code in (400, 422)
    assert (await client.get("/Patient/ada")).headers["ETag"] == 'W/"1"'
    assert (await client.get("/Patient/eve")).status_code == 404


async def test_a_patch_does_not_choose_the_version(client: httpx.AsyncClient) -> None:
    await ada(client)
    operations = [*GENDER, {"op": "replace", "path": "/meta/versionId", "value": "41"}]

    reply = await patch(client, "/Patient/ada", operations)

    assert reply.json()["meta"]["versionId"] == "2"


# --- In Bundles ----------------------------------------------------------------------------------


def of_json_patch(url: str, operations: Any, **request: str) -> dict[str, Any]:
    """Return a Bundle entry with a JSON Patch: a Binary that holds it (http.html#patch)."""
    data = base64.b64encode(json.dumps(operations).encode()).decode()
    binary = {
        "resourceType": "Binary",
        "contentType": "application/json-patch+json",
        "data": data,
    }
    return entry("PATCH", url, binary, **request)


@pytest.mark.parametrize("kind", [batch, transaction])
async def test_patches_of_both_kinds_may_be_entries_of_a_bundle(
    client: httpx.AsyncClient, kind: Any
) -> None:
    await ada(client)
    await client.put("/Observation/w", content=WEIGHED)

    reply = await client.post(
        "/",
        json=kind(
            of_json_patch("Patient/ada", GENDER, ifMatch='W/"1"'),
            entry("PATCH", "Observation/w", fhirpath_patch(delete("Observation.component[1]"))),
        ),
    )

    answers = [answer["response"] for answer in reply.json()["entry"]]
    assert [answer["status"] for answer in answers] == ["200 OK", "200 OK"]
    assert [answer["etag"] for answer in answers] == ['W/"2"', 'W/"2"']
    assert (await client.get("/Patient/ada")).json()["gender"] == "male"
    weighed = await client.get("/Observation/w")
    assert len(weighed.json()["component"]) == 1
    assert b"150e-2" in weighed.content


async def test_a_patch_that_is_refused_undoes_its_transaction(client: httpx.AsyncClient) -> None:
    await ada(client)
    failing = of_json_patch("Patient/ada", [{"op": "remove", "path": "/nothing"}])

    reply = await client.post("/", json=transaction(post(observation()), failing))

    assert reply.status_code == 422
    assert issues(reply)[0][1] == "Operation 1: The resource has nothing at /nothing"
    assert places(reply)[0].startswith("Bundle.entry[1]")
    assert (await client.get("/Observation")).json()["total"] == 0
