"""http.html#history: every version of one resource, of a type, of everything, newest first."""

import asyncio
from typing import Any

import httpx

from tests.conftest import BASE_URL
from tests.support.replies import issue, link
from tests.support.resources import delete, patient, post, practitioner, put, transaction

Json = dict[str, Any]
MOMENT = 0.005  # seconds: longer than the millisecond that lastUpdated can tell apart


async def versions_of_two_types(client: httpx.AsyncClient) -> None:
    """Write Patient/a in four versions, the third a deletion, and Practitioner/b between them."""
    await client.put("/Patient/a", json=patient(id="a"))
    await client.put("/Patient/a", json=patient(id="a", gender="other"))
    await client.put("/Practitioner/b", json=practitioner(id="b"))
    await client.delete("/Patient/a")
    await client.put("/Patient/a", json=patient(id="a", gender="male"))


async def pages(client: httpx.AsyncClient, url: str) -> list[httpx.Response]:
    """Return the page at `url` and all that follow it."""
    found = [await client.get(url)]
    while following := link(found[-1], "next"):
        found.append(await client.get(following))
    return found


def entries(*replies: httpx.Response) -> list[Json]:
    """Return the entries of some pages, one after the other."""
    return [entry for reply in replies for entry in reply.json().get("entry", [])]


def asked(reply: httpx.Response) -> list[tuple[str, str]]:
    """Return method and url of each entry's request."""
    return [(e["request"]["method"], e["request"]["url"]) for e in entries(reply)]


async def test_history_of_a_resource_shows_every_version_newest_first(
    client: httpx.AsyncClient,
) -> None:
    await versions_of_two_types(client)

    reply = await client.get("/Patient/a/_history")

    assert (reply.status_code, reply.json()["type"]) == (200, "history")
    assert [e["response"]["etag"] for e in entries(reply)] == [
        'W/"4"', 'W/"3"', 'W/"2"', 'W/"1"'
    ]  # fmt: skip
    shown = {e["response"]["etag"]: e.get("resource") for e in entries(reply)}
    for version in (1, 2, 4):
        stored = await client.get(f"/Patient/a/_history/{version}")
        assert shown[f'W/"{version}"'] == stored.json()
    assert shown['W/"3"'] is None


async def test_an_entry_tells_the_request_that_made_the_version_and_its_answer(
    client: httpx.AsyncClient,
) -> None:
    created = (await client.post("/Patient", json=patient())).json()
    id = created["id"]
    updated = (await client.put(f"/Patient/{id}", json={**created, "gender": "other"})).json()
    await client.delete(f"/Patient/{id}")

    deletion, update, creation = entries(await client.get(f"/Patient/{id}/_history"))

    full_url = f"{BASE_URL}/Patient/{id}"
    assert creation == {
        "fullUrl": full_url,
        "resource": created,
        "request": {"method": "POST", "url": "Patient"},
        "response": {
            "status": "201 Created",
            "etag": 'W/"1"',
            "lastModified": created["meta"]["lastUpdated"],
        },
    }
    assert update == {
        "fullUrl": full_url,
        "resource": updated,
        "request": {"method": "PUT", "url": f"Patient/{id}"},
        "response": {
            "status": "200 OK",
            "etag": 'W/"2"',
            "lastModified": updated["meta"]["lastUpdated"],
        },
    }
    assert deletion["fullUrl"] == full_url
    assert deletion["request"] == {"method": "DELETE", "url": f"Patient/{id}"}
    assert deletion["response"]["status"].startswith("204")
    assert deletion["response"]["lastModified"] >= updated["meta"]["lastUpdated"]
    assert "resource" not in deletion


async def test_history_of_a_type_and_of_the_system_are_newest_first_across_resources(
    client: httpx.AsyncClient,
) -> None:
    await versions_of_two_types(client)

    of_type = await client.get("/Patient/_history")
    of_system = await client.get("/_history")

    patients = [
        ("POST", "Patient"),
        ("DELETE", "Patient/a"),
        ("PUT", "Patient/a"),
        ("POST", "Patient"),
    ]
    assert asked(of_type) == patients
    assert asked(of_system) == [*patients[:2], ("POST", "Practitioner"), *patients[2:]]


async def test_what_was_recreated_after_a_deletion_was_created_again(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Patient/a", json=patient(id="a"))
    await client.delete("/Patient/a")
    await client.put("/Patient/a", json=patient(id="a"))

    newest = entries(await client.get("/Patient/a/_history"))[0]

    assert newest["response"]["status"].startswith("201")


async def test_the_history_of_what_is_deleted_can_still_be_asked_for(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Patient/a", json=patient(id="a"))
    await client.delete("/Patient/a")

    reply = await client.get("/Patient/a/_history")

    assert [entry["request"]["method"] for entry in entries(reply)] == ["DELETE", "POST"]


async def test_the_history_of_what_never_was_is_404_and_of_an_unused_type_is_empty(
    client: httpx.AsyncClient,
) -> None:
    of_nobody = await client.get("/Patient/nobody/_history")
    of_type = await client.get("/Patient/_history")
    of_system = await client.get("/_history")

    assert (of_nobody.status_code, issue(of_nobody)[0]) == (404, "not-found")
    assert [entries(of_type), entries(of_system)] == [[], []]


async def test_an_update_that_changes_nothing_and_a_refused_one_leave_no_trace(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Patient/a", json=patient(id="a"))
    before = await client.get("/_history")

    await client.put("/Patient/a", json=patient(id="a"))
    await client.put("/Patient/a", json=patient(id="a", gender="x"))
    await client.put("/Patient/a", json=patient(id="a", gender="male"), headers={"If-Match": "W/"})
    await client.delete("/Patient/b")

    assert (await client.get("/_history")).content == before.content


async def test_pages_of_a_history_concatenate_to_the_whole_of_it(
    client: httpx.AsyncClient,
) -> None:
    await client.post("/", json=transaction(*(put(patient(id=f"p{n}")) for n in range(5))))
    await versions_of_two_types(client)
    await client.post(
        "/", json=transaction(delete("Patient/p1"), put(patient(id="p2", active=None)))
    )

    for path in ("/_history", "/Patient/_history", "/Patient/a/_history"):
        whole = await client.get(path)
        for count in (1, 2, 3, 100):
            cut = await pages(client, f"{path}?_count={count}")
            assert entries(*cut) == entries(whole), (path, count)
            sizes = [len(entries(page)) for page in cut]
            assert sizes[:-1] == [count] * (len(cut) - 1)
            assert 0 < sizes[-1] <= count


async def test_a_version_that_is_written_meanwhile_moves_no_page(
    client: httpx.AsyncClient,
) -> None:
    await versions_of_two_types(client)
    whole = await client.get("/_history")

    first = await client.get("/_history?_count=2")
    await client.put("/Patient/new", json=patient(id="new"))
    rest = await pages(client, link(first, "next") or "")

    assert entries(first, *rest) == entries(whole)


async def test_the_self_link_shows_what_was_understood(client: httpx.AsyncClient) -> None:
    await versions_of_two_types(client)
    query = "_count=2&_since=2020-01-01T00:00:00Z"

    reply = await client.get(f"/Patient/_history?{query}&_format=json&_pretty=true&x=")

    assert link(reply, "self") == f"{BASE_URL}/Patient/_history?{query}"
    assert len(entries(reply)) == 2


async def test_since_shows_the_versions_from_that_instant_on(client: httpx.AsyncClient) -> None:
    updated = []
    for gender in ("male", "female", "other"):
        reply = await client.put("/Patient/a", json=patient(id="a", gender=gender))
        updated.append(reply.json()["meta"]["lastUpdated"])
        await asyncio.sleep(MOMENT)

    found = {
        (path, since): len(entries(await client.get(path, params={"_since": since})))
        for path in ("/_history", "/Patient/_history", "/Patient/a/_history")
        for since in updated
    }

    assert found == {
        (path, since): 3 - n
        for path in ("/_history", "/Patient/_history", "/Patient/a/_history")
        for n, since in enumerate(updated)
    }


async def test_since_may_have_any_offset_and_lie_in_the_future(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/a", json=patient(id="a"))
    since = {
        "2000-01-01T00:00:00+14:00": 1,
        "2000-01-01T00:00:00.123456-12:00": 1,
        "2999-01-01T00:00:00Z": 0,
    }

    found = {
        text: len(entries(await client.get("/Patient/a/_history", params={"_since": text})))
        for text in since
    }

    assert found == since


async def test_since_stays_in_force_on_every_page(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/a", json=patient(id="a"))
    await asyncio.sleep(MOMENT)
    second = await client.put("/Patient/a", json=patient(id="a", gender="other"))
    since = second.json()["meta"]["lastUpdated"]
    await client.post("/", json=transaction(*(post(patient()) for _ in range(4))))

    cut = await pages(client, str(httpx.URL("/_history", params={"_since": since, "_count": "2"})))

    assert [len(entries(page)) for page in cut] == [2, 2, 1]


async def test_a_cursor_belongs_to_the_history_that_gave_it(client: httpx.AsyncClient) -> None:
    await versions_of_two_types(client)
    following = link(await client.get("/Patient/a/_history?_count=1"), "next") or ""
    cursor = httpx.URL(following).params["_cursor"]
    stolen = [
        ("/Patient/_history", cursor),
        ("/_history", cursor),
        ("/Practitioner/b/_history", cursor),
        ("/Patient/a/_history?_since=2020-01-01T00:00:00Z", cursor),
        ("/Patient/a/_history", "1" + cursor),
        ("/Patient/a/_history", cursor[:-1]),
        ("/Patient/a/_history", "é"),
        ("/Patient/a/_history", "..."),
    ]

    replies = [
        await client.get(httpx.URL(path).copy_merge_params({"_count": "1", "_cursor": text}))
        for path, text in stolen
    ]

    assert [reply.status_code for reply in replies] == [400] * len(stolen)
    assert (await client.get(following)).status_code == 200


async def test_a_history_refuses_parameters_and_values_that_it_does_not_know(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Patient/a", json=patient(id="a"))
    queries = [
        "_at=2020", "_sort=-_lastUpdated", "gender=male", "_list=1", "_summary=count",
        "_count=-1", "_count=x", "_count=1.5", "_count=99999999999999999999", "_since=yesterday",
        "_since=2020-13-01T00:00:00Z", "_count=1&_count=2",
    ]  # fmt: skip

    replies = {query: await client.get(f"/Patient/a/_history?{query}") for query in queries}

    assert {query: r.status_code for query, r in replies.items()} == dict.fromkeys(queries, 400)
