"""http.html#brules: the entries of a batch are answered as if each had come alone."""

from typing import Any

import httpx

from tests.conftest import BASE_URL
from tests.support.replies import ids, issue
from tests.support.resources import (
    batch,
    bundle,
    delete,
    entry,
    get,
    patient,
    post,
    practitioner,
    put,
)

Json = dict[str, Any]

# Entries that fail, each with its status: http.html#brules, the others are not affected
FAILING = {
    "a resource that is not valid": (post(patient(gender="f")), "422"),
    "a resource of another type": (entry("POST", "Patient", practitioner()), "400"),
    "an id that is not that of the url": (entry("PUT", "Patient/b", patient(id="c")), "400"),
    "a stale version": (put(patient(id="a", gender="other"), ifMatch='W/"7"'), "412"),
    "a read of nothing": (get("Patient/nobody"), "404"),
    "a search that is not understood": (get("Patient?shoe-size=44"), "400"),
    "an unknown type": (entry("POST", "Nothing", patient()), "404"),
    "an unknown path": (get("Patient/a/b"), "404"),
    "a method that is not supported": (entry("DELETE", "Patient/a/_history/1"), "405"),
    "a patch that is none": (entry("PATCH", "Patient/a", patient()), "400"),
    "an id that is none": (get("Patient/a_b"), "400"),
    "a write without a resource": (entry("POST", "Patient"), "400"),
    "an update by criteria of another id": (entry("PUT", "Patient?_id=a", patient(id="b")), "400"),
    "a delete without criteria": (entry("DELETE", "Patient"), "400"),
}


def responses(reply: httpx.Response) -> list[Json]:
    """Return the response of each entry."""
    assert reply.status_code == 200, reply.text
    return [entry["response"] for entry in reply.json().get("entry", [])]


async def test_every_entry_is_answered_in_its_place(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/a", json=patient(id="a"))
    await client.put("/Patient/old", json=patient(id="old"))

    reply = await client.post(
        "/",
        json=batch(
            get("Patient/a"),
            post(patient()),
            put(patient(id="new")),
            put(patient(id="a", gender="other")),
            delete("Patient/old"),
            get("Patient?gender=unknown"),
            get("Patient/a/_history/1"),
            get("Patient/_history?_count=1"),
        ),
    )

    answers = responses(reply)
    assert reply.json()["type"] == "batch-response"
    assert [answer["status"][:3] for answer in answers] == [
        "200", "201", "201", "200", "204", "200", "200", "200",
    ]  # fmt: skip
    assert [answer.get("etag") for answer in answers] == [
        'W/"1"', 'W/"1"', 'W/"1"', 'W/"2"', 'W/"2"', None, 'W/"1"', None,
    ]  # fmt: skip
    assert answers[2]["location"].endswith("Patient/new/_history/1")
    assert answers[3]["location"].endswith("Patient/a/_history/2")
    created = await client.get("/" + answers[1]["location"])
    assert answers[1]["lastModified"] == created.json()["meta"]["lastUpdated"]
    shown = [entry.get("resource", {}) for entry in reply.json()["entry"]]
    assert [resource.get("resourceType") for resource in shown] == [
        "Patient", None, None, None, None, "Bundle", "Patient", "Bundle",
    ]  # fmt: skip


async def test_an_entry_that_fails_does_not_keep_the_others_from_being_performed(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Patient/a", json=patient(id="a"))
    wrong = [given for given, _ in FAILING.values()]
    good = [post(patient(gender="unknown")), put(patient(id="b"))]

    reply = await client.post("/", json=batch(good[0], *wrong, good[1]))

    first, *failed, last = responses(reply)
    found = dict(zip(FAILING, (answer["status"][:3] for answer in failed), strict=True))
    assert {
        name for name, (_, status) in FAILING.items() if not found[name].startswith(status)
    } == set()
    assert [first["status"][:3], last["status"][:3]] == ["201", "201"]
    assert {answer["outcome"]["resourceType"] for answer in failed} == {"OperationOutcome"}
    assert len(ids(await client.get("/Patient"))) == 3


async def test_a_batch_writes_one_resource_as_often_as_it_says(client: httpx.AsyncClient) -> None:
    reply = await client.post(
        "/", json=batch(put(patient(id="a")), put(patient(id="a", gender="other")))
    )

    assert [answer["status"][:3] for answer in responses(reply)] == ["201", "200"]


async def test_a_conditional_create_finds_what_an_earlier_entry_made(
    client: httpx.AsyncClient,
) -> None:
    conditional = post(practitioner(), ifNoneExist="identifier=https://example.org/staff|7")

    reply = await client.post("/", json=batch(conditional, conditional))

    assert [answer["status"][:3] for answer in responses(reply)] == ["201", "200"]
    first, second = (answer["location"] for answer in responses(reply))
    assert first == second


async def test_conditions_of_reads_are_heeded(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/a", json=patient(id="a"))

    reply = await client.post(
        "/",
        json=batch(
            get("Patient/a", ifNoneMatch='W/"1"'),
            get("Patient/a", ifNoneMatch='W/"2"'),
            get("Patient/a", ifModifiedSince="2100-01-01T00:00:00Z"),
            get("Patient/a", ifModifiedSince="2000-01-01T00:00:00Z"),
        ),
    )

    assert [answer["status"][:3] for answer in responses(reply)] == ["304", "200", "304", "200"]


async def test_prefer_decides_whether_entries_show_what_was_written(
    client: httpx.AsyncClient,
) -> None:
    entries = batch(post(patient()), put(patient(id="a")))
    preferences = ["minimal", "representation", "OperationOutcome", ""]

    shown = {}
    for preference in preferences:
        headers = {"Prefer": f"return={preference}"} if preference else {}
        reply = await client.post("/", json=entries, headers=headers)
        made = reply.json()["entry"]
        shown[preference] = [
            (e.get("resource", {}).get("resourceType"), "outcome" in e["response"]) for e in made
        ]

    assert shown == {
        "minimal": [(None, False)] * 2,
        "representation": [("Patient", False)] * 2,
        "OperationOutcome": [(None, True)] * 2,
        "": [(None, False)] * 2,  # http.html#ops: a Bundle with the responses alone
    }


async def test_urls_may_be_absolute_or_begin_with_a_slash(client: httpx.AsyncClient) -> None:
    reply = await client.post(
        "/",
        json=batch(
            entry("PUT", f"{BASE_URL}/Patient/a", patient(id="a")),
            entry("PUT", "/Patient/b", patient(id="b")),
            get(f"{BASE_URL}/Patient?_id=a"),
        ),
    )

    assert [answer["status"][:3] for answer in responses(reply)] == ["201", "201", "200"]


async def test_an_empty_batch_is_answered_with_an_empty_one(client: httpx.AsyncClient) -> None:
    reply = await client.post("/", json=batch())

    assert responses(reply) == []
    assert "entry" not in reply.json()  # json.html: no empty arrays


async def test_a_bundle_of_another_type_is_refused(client: httpx.AsyncClient) -> None:
    types = ["collection", "document", "message", "searchset", "history", "batch-response", "x"]

    replies = [await client.post("/", json=bundle(type, post(patient()))) for type in types]

    assert [reply.status_code for reply in replies] == [400] * len(types)
    assert ids(await client.get("/Patient")) == []


async def test_another_resource_at_the_base_is_refused(client: httpx.AsyncClient) -> None:
    reply = await client.post("/", json=patient())

    assert reply.status_code == 400
    assert issue(reply) == ("invalid", "resourceType must be Bundle at the base of the server")


async def test_a_bundle_posted_to_its_type_is_stored_and_not_performed(
    client: httpx.AsyncClient,
) -> None:
    reply = await client.post("/Bundle", json=batch(post(patient())))

    assert reply.status_code == 201
    assert ids(await client.get("/Patient")) == []
    assert ids(await client.get("/Bundle")) == [reply.json()["id"]]
