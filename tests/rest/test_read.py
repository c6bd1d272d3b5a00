"""http.html#read, http.html#vread and http.html#cread."""

from datetime import datetime
from email.utils import parsedate_to_datetime

import httpx

from tests.support.replies import issue
from tests.support.resources import patient

NEVER_A_VERSION = ["0", "01", "2", "-1", "x", "1.0", "9" * 30]

# The header of a client that holds some version, and what a read of version 1 answers
KNOWN_TAGS = {
    'W/"1"': 304,
    '"1"': 304,
    "*": 304,
    'W/"7", W/"1"': 304,
    'W/"2"': 200,
    'W/"11"': 200,
}


async def test_read_returns_the_resource_and_its_version_in_the_headers(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Patient/ada", json=patient(id="ada"))

    reply = await client.get("/Patient/ada")

    assert reply.status_code == 200
    assert reply.headers["Content-Type"].split(";")[0] == "application/fhir+json"
    assert reply.headers["ETag"] == 'W/"1"'
    assert reply.json()["meta"]["versionId"] == "1"
    updated = datetime.fromisoformat(reply.json()["meta"]["lastUpdated"])
    assert parsedate_to_datetime(reply.headers["Last-Modified"]) == updated.replace(microsecond=0)


async def test_read_of_what_was_never_there_is_404(client: httpx.AsyncClient) -> None:
    reply = await client.get("/Patient/nobody")

    assert reply.status_code == 404
    assert issue(reply) == ("not-found", "There is no Patient/nobody")


async def test_a_resource_does_not_exist_because_another_refers_to_it(
    client: httpx.AsyncClient,
) -> None:
    link = {"other": {"reference": "Patient/b"}, "type": "seealso"}
    await client.put("/Patient/a", json=patient(id="a", link=[link]))

    replies = [await client.get(f"/Patient/b{path}") for path in ("", "/_history/1", "/_history")]

    assert [reply.status_code for reply in replies] == [404, 404, 404]


async def test_vread_returns_every_version_as_it_was(client: httpx.AsyncClient) -> None:
    first = await client.put("/Patient/ada", json=patient(id="ada", gender="unknown"))
    second = await client.put("/Patient/ada", json=patient(id="ada", gender="female"))

    replies = [await client.get(f"/Patient/ada/_history/{version}") for version in (1, 2)]

    assert [reply.content for reply in replies] == [first.content, second.content]
    assert [reply.headers["ETag"] for reply in replies] == ['W/"1"', 'W/"2"']
    assert [reply.headers["Last-Modified"] for reply in replies] == [
        first.headers["Last-Modified"],
        second.headers["Last-Modified"],
    ]


async def test_vread_of_a_version_that_never_was_is_404(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/ada", json=patient(id="ada"))

    replies = {v: await client.get(f"/Patient/ada/_history/{v}") for v in NEVER_A_VERSION}

    assert {v: reply.status_code for v, reply in replies.items()} == dict.fromkeys(replies, 404)
    assert {issue(reply)[0] for reply in replies.values()} == {"not-found"}


async def test_versions_before_a_deletion_stay_readable_and_the_deletion_is_410(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Patient/ada", json=patient(id="ada"))
    await client.delete("/Patient/ada")

    before = await client.get("/Patient/ada/_history/1")
    deletion = await client.get("/Patient/ada/_history/2")

    assert before.status_code == 200
    assert (deletion.status_code, issue(deletion)[0]) == (410, "deleted")


async def test_if_none_match_answers_304_for_the_version_that_the_client_has(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Patient/ada", json=patient(id="ada"))

    replies = {
        tag: await client.get("/Patient/ada", headers={"If-None-Match": tag}) for tag in KNOWN_TAGS
    }

    assert {tag: reply.status_code for tag, reply in replies.items()} == KNOWN_TAGS
    assert replies['W/"1"'].content == b""
    assert replies['W/"1"'].headers["ETag"] == 'W/"1"'


async def test_if_none_match_of_an_older_version_answers_the_current_one(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Patient/ada", json=patient(id="ada"))
    await client.put("/Patient/ada", json=patient(id="ada", gender="other"))

    reply = await client.get("/Patient/ada", headers={"If-None-Match": 'W/"1"'})

    assert (reply.status_code, reply.json()["gender"]) == (200, "other")


async def test_if_modified_since_answers_304_until_the_resource_changes(
    client: httpx.AsyncClient,
) -> None:
    created = await client.put("/Patient/ada", json=patient(id="ada"))
    since = {
        created.headers["Last-Modified"]: 304,
        "Fri, 31 Dec 2100 00:00:00 GMT": 304,
        "Sat, 01 Jan 2000 00:00:00 GMT": 200,
        "yesterday": 200,  # RFC 9110, 13.1.3: what is no date is ignored
    }

    replies = {
        date: await client.get("/Patient/ada", headers={"If-Modified-Since": date})
        for date in since
    }

    assert {date: reply.status_code for date, reply in replies.items()} == since


async def test_if_none_match_wins_over_if_modified_since(client: httpx.AsyncClient) -> None:
    created = await client.put("/Patient/ada", json=patient(id="ada"))
    headers = {
        "If-None-Match": 'W/"2"',
        "If-Modified-Since": created.headers["Last-Modified"],
    }

    reply = await client.get("/Patient/ada", headers=headers)

    assert reply.status_code == 200  # RFC 9110, 13.1.3


async def test_a_conditional_read_of_a_deleted_resource_is_410(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/ada", json=patient(id="ada"))
    await client.delete("/Patient/ada")

    reply = await client.get("/Patient/ada", headers={"If-None-Match": 'W/"1"'})

    assert reply.status_code == 410
