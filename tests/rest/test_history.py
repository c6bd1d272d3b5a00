"""http.html#history: every version of one resource, of a type, of everything, newest first."""

import asyncio
from datetime import datetime, timedelta
from itertools import count as counting
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
    query = "_count=2&_since=2020-01-01T00:00:00Z&_format=json&_pretty=true"

    reply = await client.get(f"/Patient/_history?{query}&x=")

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
        "_sort=-_lastUpdated", "gender=male", "_summary=count", "_list=$current-problems",
        "_list=no/id", "_at=ge2020", "_at=now", "_at=2020-02-30", "_at=2020&_at=2021",
        "_count=-1", "_count=x", "_count=1.5", "_count=99999999999999999999", "_since=yesterday",
        "_since=2020-13-01T00:00:00Z", "_count=1&_count=2",
    ]  # fmt: skip

    replies = {query: await client.get(f"/Patient/a/_history?{query}") for query in queries}

    assert {query: r.status_code for query, r in replies.items()} == dict.fromkeys(queries, 400)


async def test_at_shows_the_versions_that_were_current_at_some_moment_of_it(
    client: httpx.AsyncClient,
) -> None:
    written = []
    for gender in ("male", "female", "other"):
        reply = await client.put("/Patient/a", json=patient(id="a", gender=gender))
        written.append(reply.json()["meta"]["lastUpdated"])
        await asyncio.sleep(MOMENT)
    first, second, third = written
    expected = {
        "1999": [],
        before(first): [],
        first: [1],
        before(second): [1],
        second: [2],
        before(third): [2],
        third: [3],
        "2999-01-01T00:00:00Z": [3],
        "2999": [3],
    }

    found = {
        (path, at): versions(await client.get(path, params={"_at": at}))
        for path in ("/_history", "/Patient/_history", "/Patient/a/_history")
        for at in expected
    }

    assert {at for _, at in found} == set(expected)
    assert found == {(path, at): expected[at] for path, at in found}


async def test_at_takes_a_period_as_wide_as_it_is_written(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/a", json=patient(id="a"))
    updated = (await client.delete("/Patient/a")).headers["Last-Modified"]
    assert updated
    today = entries(await client.get("/Patient/a/_history"))[0]["response"]["lastModified"][:4]

    of_the_year = await client.get(f"/Patient/a/_history?_at={today}")
    of_the_next = await client.get(f"/Patient/a/_history?_at={int(today) + 1}")

    assert [e["request"]["method"] for e in entries(of_the_year)] == ["DELETE", "POST"]
    assert [e["request"]["method"] for e in entries(of_the_next)] == ["DELETE"]


async def test_at_and_since_and_list_narrow_together(client: httpx.AsyncClient) -> None:
    await versions_of_two_types(client)
    await client.put("/List/l", json=list_of("l", "Patient/a", "Patient/nobody"))
    await client.put("/List/empty", json=list_of("empty"))
    expected = {
        "/_history?_list=l": 4,
        "/_history?_list=l,empty": 4,
        "/_history?_list=l&_at=2999": 1,
        "/_history?_list=l&_since=2999-01-01T00:00:00Z": 0,
        "/_history?_at=2999&_since=2000-01-01T00:00:00Z": 4,
        "/_history?_list=empty": 0,
        "/_history?_list=nobody": 0,
        "/Patient/_history?_list=l": 4,
        "/Practitioner/_history?_list=l": 0,
        "/Patient/a/_history?_list=l": 4,
        "/Practitioner/b/_history?_list=l": 0,
    }

    found = {url: len(entries(await client.get(url))) for url in expected}

    assert found == expected


async def test_at_and_list_stay_in_force_on_every_page(client: httpx.AsyncClient) -> None:
    bodies = [patient(id=f"p{n}") for n in range(5)]
    await client.post("/", json=transaction(*(put(body) for body in bodies)))
    others = [put({**body, "gender": "male"}) for body in bodies]
    await client.post("/", json=transaction(*others, put(patient(id="other"))))
    await client.put("/List/l", json=list_of("l", *(f"Patient/p{n}" for n in range(5))))

    cut = await pages(client, "/_history?_list=l&_at=2999&_count=2")

    assert [len(entries(page)) for page in cut] == [2, 2, 1]
    assert {e["response"]["etag"] for e in entries(*cut)} == {'W/"2"'}


async def test_a_cursor_keeps_to_the_moment_and_the_list_that_it_was_given_for(
    client: httpx.AsyncClient,
) -> None:
    await versions_of_two_types(client)
    following = link(await client.get("/_history?_at=2999&_count=1"), "next") or ""
    cursor = httpx.URL(following).params["_cursor"]
    others = ["_at=2998", "_at=2999&_list=l", "_since=2000-01-01T00:00:00Z", ""]

    replies = [await client.get(f"/_history?_count=1&_cursor={cursor}&{more}") for more in others]

    assert [reply.status_code for reply in replies] == [400] * len(others)
    assert (await client.get(following)).status_code == 200


async def test_the_total_is_told_where_one_page_holds_all_and_where_it_is_asked_for(
    client: httpx.AsyncClient,
) -> None:
    await versions_of_two_types(client)
    expected = {
        "/_history": (5, 5),
        "/_history?_count=5": (5, 5),
        "/_history?_count=4": (None, 4),
        "/_history?_count=0": (5, 0),
        "/Patient/_history?_count=0": (4, 0),
        "/Patient/a/_history?_count=0&_since=2000-01-01T00:00:00Z": (4, 0),
        "/Patient/a/_history?_count=0&_at=2999-01-01": (1, 0),
        "/Encounter/_history": (0, 0),
    }

    found = {url: await client.get(url) for url in expected}

    told = {url: (r.json().get("total"), len(entries(r))) for url, r in found.items()}
    assert told == expected
    assert link(found["/_history?_count=0"], "next") is None


async def test_a_walk_while_others_write_shows_all_that_was_there_once_and_in_order(
    client: httpx.AsyncClient,
) -> None:
    await client.post("/", json=transaction(*(put(patient(id=f"p{n}")) for n in range(30))))
    there = entries(await client.get("/_history?_count=1000"))
    numbers = counting()

    async def write() -> None:
        n = next(numbers)
        bodies = [patient(id=f"p{m}", name=[{"family": f"N{n}"}]) for m in range(n % 4)]
        await client.post("/", json=transaction(put(patient(id=f"n{n}")), *map(put, bodies)))

    walked: list[Json] = []
    following: str | None = "/_history?_count=3"
    while following:
        page, *_ = await asyncio.gather(client.get(following), write(), write())
        walked += entries(page)
        following = link(page, "next")

    places = [(entry["fullUrl"], entry["response"]["etag"]) for entry in walked]
    assert len(places) == len(set(places)), "nothing comes twice"
    assert walked[-len(there) :] == there, "nothing that was there is lost"
    whole = entries(await client.get("/_history?_count=1000"))
    assert whole[-len(walked) :] == walked, "what was shown stays as it was shown"


def versions(reply: httpx.Response) -> list[int]:
    """Return the versions that a history of one resource shows."""
    return [int(entry["response"]["etag"].strip('W/"')) for entry in entries(reply)]


def before(instant: str) -> str:
    """Return the millisecond before an instant."""
    moment = datetime.fromisoformat(instant) - timedelta(milliseconds=1)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def list_of(id: str, *references: str) -> Json:
    """Return a List of these references."""
    items = [{"item": {"reference": one}} for one in references]
    known: Json = {"entry": items} if items else {"emptyReason": {"text": "none"}}
    return {"resourceType": "List", "id": id, "status": "current", "mode": "working", **known}
