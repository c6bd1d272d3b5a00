"""Pages: order, links, totals and cursors (search.html#count, http.html#paging)."""

from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from tests.search.asking import FORM, pages, posted
from tests.support.replies import ids, issue, link
from tests.support.resources import observation, patient, practitioner

NEWEST_FIRST = ["p5", "p4", "p3", "p2", "p1"]


@pytest.fixture
async def five(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """A client of a server on which p1 to p5 were created in this order; p1, p3, p5 are women."""
    for n in range(1, 6):
        body = patient(id=f"p{n}", gender="female" if n % 2 else "male")
        await client.put(f"/Patient/p{n}", json=body)
    return client


def cursor(reply: httpx.Response) -> str:
    """Return the cursor in the next link."""
    following = link(reply, "next")
    assert following is not None
    return dict(parse_qsl(urlsplit(following).query))["_cursor"]


async def test_the_newest_comes_first(five: httpx.AsyncClient) -> None:
    reply = await five.get("/Patient")

    assert ids(reply) == NEWEST_FIRST


async def test_every_way_to_find_the_same_gives_the_same_order(five: httpx.AsyncClient) -> None:
    queries = [
        *("gender=female,male", "birthdate=1985", "birthdate=gt1900", "name=a", "name=ada,marsh"),
        *("active=true", "_lastUpdated=gt1990", "_id=p1,p2,p3,p4,p5"),
        "gender=female,male&birthdate=1985&name=marsh",
    ]

    found = {query: ids(await five.get(f"/Patient?{query}")) for query in queries}

    assert found == dict.fromkeys(queries, NEWEST_FIRST)


async def test_an_update_does_not_move_a_resource(five: httpx.AsyncClient) -> None:
    await five.put("/Patient/p2", json=patient(id="p2", active=False))

    reply = await five.get("/Patient")

    assert ids(reply) == NEWEST_FIRST


async def test_resources_of_a_transaction_keep_their_order_of_creation(
    client: httpx.AsyncClient,
) -> None:
    for family in ("One", "Two", "Three"):
        await client.post("/Practitioner", json=practitioner(name=[{"family": family}]))

    reply = await client.get("/Practitioner")

    names = [entry["resource"]["name"][0]["family"] for entry in reply.json()["entry"]]
    assert names == ["Three", "Two", "One"]


async def test_the_searchset_says_what_each_entry_is(five: httpx.AsyncClient) -> None:
    reply = await five.get("/Patient?_id=p3")

    stored = (await five.get("/Patient/p3")).json()
    body = reply.json()
    assert (body["resourceType"], body["type"]) == ("Bundle", "searchset")
    assert body["entry"] == [
        {
            "fullUrl": "http://milepost.test/fhir/Patient/p3",
            "resource": stored,
            "search": {"mode": "match"},
        }
    ]


async def test_nothing_found_is_an_empty_searchset(client: httpx.AsyncClient) -> None:
    reply = await client.get("/Patient?name=nobody")

    body = reply.json()
    assert (reply.status_code, body["type"], body["total"]) == (200, "searchset", 0)
    assert "entry" not in body  # json.html: no empty arrays


async def test_count_is_the_size_of_a_page(five: httpx.AsyncClient) -> None:
    async def sizes(count: int) -> list[int]:
        reply = await five.get("/Patient", params={"_count": count})
        seen = [len(ids(reply))]
        while following := link(reply, "next"):
            reply = await five.get(following)
            seen.append(len(ids(reply)))
        return seen

    found = {count: await sizes(count) for count in (1, 2, 4, 5, 6, 1000000)}

    assert found == {1: [1] * 5, 2: [2, 2, 1], 4: [4, 1], 5: [5], 6: [5], 1000000: [5]}


async def test_a_page_has_twenty_entries_if_nobody_asks_for_more(
    client: httpx.AsyncClient,
) -> None:
    for n in range(21):
        await client.put(f"/Patient/p{n}", json=patient(id=f"p{n}"))

    first = await client.get("/Patient")

    assert len(ids(first)) == 20
    assert await pages(client, "/Patient", []) == [f"p{n}" for n in reversed(range(21))]


async def test_the_total_is_known_where_the_result_ends_on_the_first_page(
    five: httpx.AsyncClient,
) -> None:
    whole = await five.get("/Patient?_count=5")
    first = await five.get("/Patient?_count=3")
    last = await five.get(link(first, "next") or "")

    assert whole.json()["total"] == 5
    assert link(whole, "next") is None
    assert "total" not in first.json()
    assert "total" not in last.json()
    assert link(last, "next") is None


# A query, and the query of its self link
APPLIED = {
    "": "",
    "gender=female": "?gender=female",
    "gender=&name=marsh&_tag=": "?name=marsh",
    "name=marsh&_count=2": "?name=marsh&_count=2",
    "_format=json&name=marsh&_pretty=true": "?name=marsh&_format=json&_pretty=true",
    "_format=&_pretty=": "",
    "name=a%26b%20%C3%A9": "?name=a%26b%20%C3%A9",
    "identifier=urn:x%7C1&identifier=urn:y%7C2": "?identifier=urn:x%7C1&identifier=urn:y%7C2",
}


async def test_the_self_link_shows_what_was_applied(five: httpx.AsyncClient) -> None:
    shown = {query: link(await five.get(f"/Patient?{query}"), "self") for query in APPLIED}

    # search.html#conformance
    base = "http://milepost.test/fhir/Patient"
    assert shown == {query: base + applied for query, applied in APPLIED.items()}


async def test_the_links_of_a_post_are_searches_by_get(five: httpx.AsyncClient) -> None:
    first = await posted(five, "/Patient", [("gender", "female"), ("_count", "2")])

    again = await five.get(link(first, "self") or "")
    rest = await five.get(link(first, "next") or "")

    assert (ids(first), ids(again), ids(rest)) == (["p5", "p3"], ["p5", "p3"], ["p1"])


async def test_parameters_of_url_and_form_are_joined(five: httpx.AsyncClient) -> None:
    reply = await five.post("/Patient/_search?gender=female", content="_id=p1,p2,p3", headers=FORM)

    assert ids(reply) == ["p3", "p1"]  # http.html#search: POST takes both


async def test_a_page_read_twice_is_the_same_page(five: httpx.AsyncClient) -> None:
    first = await five.get("/Patient?_count=2")
    following = link(first, "next") or ""

    once, twice = await five.get(following), await five.get(following)

    assert ids(once) == ids(twice) == ["p3", "p2"]


async def test_pages_do_not_repeat_or_lose_what_is_there_throughout(
    five: httpx.AsyncClient,
) -> None:
    first = await five.get("/Patient?_count=2")
    await five.put("/Patient/p6", json=patient(id="p6"))
    await five.delete("/Patient/p4")
    await five.delete("/Patient/p2")

    second = await five.get(link(first, "next") or "")

    assert (ids(first), ids(second)) == (["p5", "p4"], ["p3", "p1"])


async def test_a_cursor_belongs_to_its_query(five: httpx.AsyncClient) -> None:
    own = cursor(await five.get("/Patient?gender=female&_count=2"))
    others = [
        "/Patient?gender=male&_count=2",
        "/Patient?_count=2",
        "/Patient?gender=female&active=true&_count=2",
        "/Practitioner?gender=female&_count=2",
    ]

    replies = [await five.get(f"{other}&_cursor={own}") for other in others]

    assert [reply.status_code for reply in replies] == [400] * len(others)
    assert {issue(reply) for reply in replies} == {
        ("invalid", "The cursor does not belong to this request")
    }


async def test_a_cursor_of_a_history_is_none_of_a_search(five: httpx.AsyncClient) -> None:
    own = cursor(await five.get("/Patient/_history?_count=2"))

    reply = await five.get(f"/Patient?_count=2&_cursor={own}")

    assert reply.status_code == 400


async def test_a_cursor_that_was_changed_is_refused(five: httpx.AsyncClient) -> None:
    own = cursor(await five.get("/Patient?_count=2"))
    place, _, tag = own.rpartition(".")
    other, elsewhere = (chr(ord("A") + (text[0] == "A")) for text in (tag, place))

    changed = [
        f"{elsewhere}{place[1:]}.{tag}",
        f"{place}.{other}{tag[1:]}",
        f"{place}.",
        f".{tag}",
        tag,
        place,
        f"{own}.{own}",
        f"{own}%C3%A9",
        "x",
        "1",
        "%F0%9F%98%80",
        "9" * 400,
    ]
    replies = [await five.get(f"/Patient?_count=2&_cursor={one}") for one in changed]

    assert [reply.status_code for reply in replies] == [400] * len(changed)
    assert {issue(reply)[0] for reply in replies} == {"invalid"}


async def test_what_matches_twice_comes_once(client: httpx.AsyncClient) -> None:
    names = [{"family": "Abel", "given": ["Ada", "Ann"]}, {"family": "Baker", "given": ["Bo"]}]
    for id in ("x", "y"):
        await client.put(f"/Patient/{id}", json=patient(id=id, name=names))
    queries = ["name=a", "name=a,b", "birthdate=gt1900,lt1800", "gender=female,male", "_id=x,y"]

    found = {query: ids(await client.get(f"/Patient?{query}")) for query in queries}

    assert found == {query: ["y", "x"] for query in queries}


async def test_a_walk_over_a_long_result_meets_every_resource_once(
    client: httpx.AsyncClient,
) -> None:
    entries = [
        {
            "resource": observation(id=f"o{n}", effectiveDateTime=f"20{n % 30:02}-01-01"),
            "request": {"method": "PUT", "url": f"Observation/o{n}"},
        }
        for n in range(60)
    ]
    await client.post("/", json={"resourceType": "Bundle", "type": "transaction", "entry": entries})

    walked = await pages(
        client, "/Observation", [("date", "ge2000"), ("code", "44261-6"), ("_count", "7")]
    )

    whole = ids(await client.get("/Observation?_count=100&_sort=-date"))
    assert len(whole) == 60
    assert walked == whole
