"""How many there are, and what the links of a page say (search.html#total, #count, #summary)."""

import shutil
from pathlib import Path

import httpx
import pytest

from app.config import Settings
from tests.conftest import BASE_URL
from tests.search.asking import found, posted
from tests.support.application import connected
from tests.support.replies import ids, issue, link
from tests.support.resources import observation, patient, practitioner, put, reference, transaction

WOMEN = [f"p{n:02}" for n in reversed(range(30)) if n % 2]


@pytest.fixture
async def thirty(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """A client of a server that holds 30 Patients, every other a woman."""
    await fill(client)
    return client


async def fill(client: httpx.AsyncClient) -> None:
    bodies = [
        patient(id=f"p{n:02}", gender="female" if n % 2 else "male", birthDate=f"19{50 + n}")
        for n in range(30)
    ]
    await client.post("/", json=transaction(*(put(body) for body in bodies)))


async def totals(client: httpx.AsyncClient, query: str) -> list[int | None]:
    """Return the total on each page."""
    following: str | None = f"/Patient?{query}"
    seen: list[int | None] = []
    while following:
        reply = await client.get(following)
        assert reply.status_code == 200, reply.text
        seen.append(reply.json().get("total"))
        following = link(reply, "next")
    return seen


async def test_an_accurate_total_is_on_every_page(thirty: httpx.AsyncClient) -> None:
    seen = {
        query: await totals(thirty, f"{query}&_total=accurate&_count=10")
        for query in (
            *("", "gender=female", "gender:not=female", "gender=female&birthdate=ge1970"),
            *("_sort=birthdate", "gender=female,male&_sort=-birthdate", "gender=other"),
        )
    }

    assert seen == {
        "": [30, 30, 30],
        "gender=female": [15, 15],
        "gender:not=female": [15, 15],
        "gender=female&birthdate=ge1970": [5],
        "_sort=birthdate": [30, 30, 30],
        "gender=female,male&_sort=-birthdate": [30, 30, 30],
        "gender=other": [0],
    }


async def test_an_estimate_is_there_and_exact_where_that_is_cheap(
    thirty: httpx.AsyncClient,
) -> None:
    assert await totals(thirty, "_total=estimate&_count=10") == [30, 30, 30]
    assert await totals(thirty, "gender=female&_total=estimate") == [15]


async def test_no_total_is_there_where_none_is_asked_for(thirty: httpx.AsyncClient) -> None:
    assert await totals(thirty, "_total=none&_count=20") == [None, None]
    assert await totals(thirty, "_total=none&gender=female") == [None]


async def test_a_total_is_known_by_default_where_the_result_ends_on_the_first_page(
    thirty: httpx.AsyncClient,
) -> None:
    assert await totals(thirty, "gender=female") == [15]
    assert await totals(thirty, "_count=20") == [None, None]


async def test_what_matches_twice_is_counted_once(client: httpx.AsyncClient) -> None:
    names = [{"family": "Abel", "given": ["Ada", "Ann"]}, {"family": "Baker"}]
    for id in ("x", "y"):
        await client.put(f"/Patient/{id}", json=patient(id=id, name=names))

    assert await totals(client, "name=a,b&_count=1&_total=accurate") == [2, 2]
    assert await totals(client, "name=a&_count=1&_total=accurate&_sort=name") == [2, 2]


COUNTS = ["_summary=count", "_count=0", "_count=0&_total=none", "_summary=count&_count=5"]


@pytest.mark.parametrize("only", COUNTS)
async def test_a_count_alone_is_asked_for_in_two_ways(thirty: httpx.AsyncClient, only: str) -> None:
    replies = {
        query: (await thirty.get(f"/Patient?{query}&{only}")).json()
        for query in ("", "gender=female", "gender=female&_sort=birthdate", "name=nobody")
    }

    # search.html#count: 0 "shall be treated the same as _summary=count"
    assert {query: body["total"] for query, body in replies.items()} == {
        "": 30,
        "gender=female": 15,
        "gender=female&_sort=birthdate": 15,
        "name=nobody": 0,
    }
    for body in replies.values():
        assert (body["type"], "entry" in body) == ("searchset", False)
        assert "next" not in {one["relation"] for one in body["link"]}


async def test_a_count_by_form_is_the_count_by_url(thirty: httpx.AsyncClient) -> None:
    reply = await posted(thirty, "/Patient", [("gender", "female"), ("_summary", "count")])

    assert reply.json()["total"] == 15


async def test_a_count_includes_nothing(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/a", json=patient(id="a"))
    for n in range(3):
        body = observation(id=f"o{n}", subject=reference("Patient/a"))
        await client.put(f"/Observation/o{n}", json=body)

    counted = await client.get("/Observation?_include=Observation:patient&_summary=count")
    total = await client.get("/Observation?_include=Observation:patient&_total=accurate&_count=2")

    assert (counted.json()["total"], "entry" in counted.json()) == (3, False)
    assert total.json()["total"] == 3  # bundle.html#Bundle.total: matches alone


# A query, and the query of its self link
APPLIED = {
    "_sort=-birthdate,family&_count=5": "?_sort=-birthdate,family&_count=5",
    "gender=female&_total=accurate": "?gender=female&_total=accurate",
    "_sort=&gender=female&_total=": "?gender=female",
    "_summary=count": "?_summary=count",
    "gender:not=male&birthdate:missing=false": "?gender:not=male&birthdate:missing=false",
    "_include=Patient:organization&_revinclude:iterate=Observation:patient": (
        "?_include=Patient:organization&_revinclude:iterate=Observation:patient"
    ),
    "_has:Observation:patient:code=a": "?_has:Observation:patient:code=a",
    "organization.name=a&general-practitioner:Practitioner.name=b": (
        "?organization.name=a&general-practitioner:Practitioner.name=b"
    ),
}


async def test_the_self_link_shows_what_was_applied(thirty: httpx.AsyncClient) -> None:
    replies = {query: await thirty.get(f"/Patient?{query}") for query in APPLIED}

    shown = {query: link(reply, "self") for query, reply in replies.items()}
    assert shown == {query: f"{BASE_URL}/Patient{applied}" for query, applied in APPLIED.items()}


async def test_the_self_link_shows_no_more_than_was_done(thirty: httpx.AsyncClient) -> None:
    reply = await thirty.get("/Patient?_count=1000000")

    shown = link(reply, "self") or ""
    assert shown != f"{BASE_URL}/Patient?_count=1000000"  # search.html#count: a page has a limit
    assert ids(await thirty.get(shown)) == ids(reply)


async def test_what_a_lenient_search_leaves_out_is_not_in_its_links(
    thirty: httpx.AsyncClient,
) -> None:
    asked = "/Patient?shoe=42&gender=female&_sort=hat&_count=2"

    reply = await thirty.get(asked, headers={"Prefer": "handling=lenient"})
    again = await thirty.get(link(reply, "next") or "")

    body = reply.json()
    shown = [e["resource"]["id"] for e in body["entry"] if e["search"]["mode"] == "match"]
    warnings = [e["resource"] for e in body["entry"] if e["search"]["mode"] == "outcome"]
    assert (shown, ids(again)[:2]) == (WOMEN[:2], WOMEN[2:4])
    assert "shoe" not in (link(reply, "self") or "shoe")
    assert "hat" not in (link(reply, "self") or "hat")
    assert {i["severity"] for w in warnings for i in w["issue"]} == {"warning"}
    assert any("shoe" in i["diagnostics"] for w in warnings for i in w["issue"])


async def test_a_strict_search_refuses_what_a_lenient_one_leaves_out(
    thirty: httpx.AsyncClient,
) -> None:
    reply = await thirty.get("/Patient?shoe=42", headers={"Prefer": "handling=strict"})

    assert (reply.status_code, issue(reply)[0]) == (400, "not-supported")


async def test_the_first_link_leads_back_to_the_beginning(thirty: httpx.AsyncClient) -> None:
    for query in ("gender=female&_count=4", "_sort=birthdate&_count=4", "_count=4&_total=accurate"):
        first = await thirty.get(f"/Patient?{query}")
        second = await thirty.get(link(first, "next") or "")
        third = await thirty.get(link(second, "next") or "")

        back = [await thirty.get(link(reply, "first") or "") for reply in (first, second, third)]

        assert [ids(reply) for reply in back] == [ids(first)] * 3
        assert ids(await thirty.get(link(second, "self") or "")) == ids(second)


CURSORS = {
    "_sort=birthdate": ["_sort=-birthdate", "_sort=birthdate,family", "", "_sort=family"],
    "gender=female": ["gender=male", "gender:not=female", "gender=female&_sort=birthdate"],
    "": ["_sort=birthdate", "_id=p01,p02,p03,p04", "gender:missing=false"],
    "organization:missing=true": [
        "organization:missing=false",
        "general-practitioner:missing=true",
    ],
}


@pytest.mark.parametrize("query", CURSORS)
async def test_a_cursor_belongs_to_its_query_and_order(
    thirty: httpx.AsyncClient, query: str
) -> None:
    following = link(await thirty.get(f"/Patient?{query}&_count=2"), "next") or ""
    cursor = httpx.URL(following).params["_cursor"]

    async def continued(asked: str) -> httpx.Response:
        pairs = httpx.QueryParams(asked).multi_items()
        return await thirty.get("/Patient", params=[*pairs, ("_count", "2"), ("_cursor", cursor)])

    own = await continued(query)
    others = [await continued(other) for other in CURSORS[query]]

    assert own.status_code == 200
    assert [reply.status_code for reply in others] == [400] * len(others)
    assert {issue(reply) for reply in others} == {
        ("invalid", "The cursor does not belong to this request")
    }


async def test_a_cursor_of_another_server_is_refused(
    thirty: httpx.AsyncClient, sqlite_template: Path, tmp_path: Path
) -> None:
    file = shutil.copy(sqlite_template, tmp_path / "other.db")
    async with connected(Settings(database_url=f"sqlite:///{file}", base_url=BASE_URL)) as other:
        await fill(other)
        for query in ("_count=4", "_sort=birthdate&_count=4"):
            own = link(await thirty.get(f"/Patient?{query}"), "next") or ""
            foreign = link(await other.get(f"/Patient?{query}"), "next") or ""

            assert (await thirty.get(own)).status_code == 200
            assert (await other.get(foreign)).status_code == 200
            assert (await thirty.get(foreign)).status_code == 400
            assert (await other.get(own)).status_code == 400


async def test_the_pairs_of_url_and_form_are_one_search(thirty: httpx.AsyncClient) -> None:
    reply = await posted(
        thirty, "/Patient", [("birthdate", "ge1970"), ("_count", "2"), ("_sort", "birthdate")]
    )
    merged = await thirty.post(
        "/Patient/_search?gender=female&_sort=birthdate",
        content="birthdate=ge1970&_count=2&_include=Patient:organization",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    rest = await thirty.get(link(merged, "next") or "")

    assert ids(reply) == ["p20", "p21"]
    assert (ids(merged), ids(rest)) == (["p21", "p23"], ["p25", "p27"])


async def test_a_result_parameter_given_in_url_and_form_is_given_twice(
    thirty: httpx.AsyncClient,
) -> None:
    reply = await thirty.post(
        "/Patient/_search?_sort=birthdate",
        content="_sort=family",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )

    assert (reply.status_code, issue(reply)[0]) == (400, "invalid")


async def test_pages_of_several_types_join_to_the_whole(thirty: httpx.AsyncClient) -> None:
    for n in range(5):
        await thirty.put(f"/Practitioner/d{n}", json=practitioner(id=f"d{n}"))
    asked = [("_type", "Patient,Practitioner"), ("_total", "accurate")]

    whole = await found(thirty, "/", [*asked, ("_count", "100")])
    walked, following = [], str(httpx.URL("/", params=[*asked, ("_count", "4")]))
    while following:
        reply = await thirty.get(following)
        assert reply.json()["total"] == 35
        walked += ids(reply)
        following = link(reply, "next") or ""

    assert walked == ids(whole)
    assert len(walked) == len(set(walked)) == 35
