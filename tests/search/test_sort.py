"""Sorting at length (search.html#sort); the rows of sort.yaml say what the order is."""

import random
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.search.asking import pages, posted
from tests.support.replies import ids, link
from tests.support.resources import observation, patient, put, quantity, reference, transaction

FAMILIES = [None, "Abel", "ábel", "Baker", "O'Neil", "Zhang"]
BIRTHS = [None, "1980", "1980-01", "1980-01-01", "1999-12-31"]
GENDERS = [None, "female", "male", "other"]


def crowd(size: int) -> list[dict[str, Any]]:
    """Return Patients with few different values, so that many are equal in some of them."""
    chance = random.Random(3)
    return [
        patient(
            id=f"p{n:04}",
            name=[{"family": family}] if (family := chance.choice(FAMILIES)) else None,
            birthDate=chance.choice(BIRTHS),
            gender=chance.choice(GENDERS),
        )
        for n in range(size)
    ]


@pytest.fixture
async def many(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """A client of a server that holds a crowd of 120."""
    await client.post("/", json=transaction(*(put(body) for body in crowd(120))))
    return client


def folded(body: dict[str, Any]) -> str | None:
    """Return the sort key of a family name."""
    names = body.get("name")
    return names[0]["family"].lower().replace("á", "a") if names else None


# The keys of a `_sort`: what each reads from a Patient. Texts of dates order by their start: the
# longer text of two with the same start comes later, and these three start together
KEYS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "family": folded,
    "birthdate": lambda body: body.get("birthDate", "")[:4] or None,
    "gender": lambda body: body.get("gender"),
    "_id": lambda body: body["id"],
}


def ordered(bodies: list[dict[str, Any]], sort: str) -> list[str]:
    """Return the ids in the order of `sort`: values, then what has none; ties newest first."""
    found = list(reversed(bodies))
    for key in reversed(sort.split(",")):
        read = KEYS[key.removeprefix("-")]
        present = [body for body in found if read(body) is not None]
        missing = [body for body in found if read(body) is None]
        present.sort(key=read, reverse=key.startswith("-"))  # equals stay as they are
        found = present + missing
    return [body["id"] for body in found]


SORTS = [
    *("family", "-family", "birthdate", "-birthdate", "gender", "-gender", "_id", "-_id"),
    *("family,birthdate", "-family,birthdate", "gender,-birthdate", "-gender,-birthdate,_id"),
    "family,-gender,birthdate,-_id",
]


async def test_pages_of_a_sorted_search_join_to_the_whole_in_order(
    many: httpx.AsyncClient,
) -> None:
    bodies = crowd(120)

    walked = {
        sort: await pages(many, "/Patient", [("_sort", sort), ("_count", "17")]) for sort in SORTS
    }

    assert walked == {sort: ordered(bodies, sort) for sort in SORTS}


async def test_criteria_take_away_from_the_order_and_do_not_change_it(
    many: httpx.AsyncClient,
) -> None:
    women = [body for body in crowd(120) if body.get("gender") == "female"]
    young = [body for body in crowd(120) if body.get("birthDate") == "1999-12-31"]

    walked = {
        sort: [
            await pages(many, "/Patient", [*asked, ("_sort", sort), ("_count", "7")])
            for asked in ([("gender", "female")], [("birthdate", "1999")])
        ]
        for sort in SORTS
    }

    assert walked == {sort: [ordered(women, sort), ordered(young, sort)] for sort in SORTS}


async def test_a_sort_of_thousands_is_the_same_whatever_index_it_is_walked_by(
    client: httpx.AsyncClient,
) -> None:
    bodies = crowd(2_200)  # more than the store counts before it chooses an index
    await client.post("/", json=transaction(*(put(body) for body in bodies)))
    males = [body for body in bodies if body.get("gender") == "male"]

    async def walk(query: str) -> list[str]:
        found, following = [], f"/Patient?{query}&_count=500"
        while following:
            reply = await client.get(following)
            found += ids(reply)
            following = link(reply, "next") or ""
        return found

    assert await walk("_sort=family") == ordered(bodies, "family")
    assert await walk("gender=male&_sort=-birthdate,family") == ordered(males, "-birthdate,family")
    assert await walk("gender=male&active=true&_sort=_id") == ordered(males, "_id")
    assert await walk("gender=male&_sort=-_lastUpdated") == ordered(males, "-_id")


async def test_the_values_of_one_resource_give_it_one_place(client: httpx.AsyncClient) -> None:
    several = [{"family": f"{letter}x", "given": [letter, "m"]} for letter in "zab"]
    await client.put("/Patient/several", json=patient(id="several", name=several))
    await client.put("/Patient/one", json=patient(id="one", name=[{"family": "mx"}]))

    walked = {
        sort: await pages(client, "/Patient", [("_sort", sort), ("_count", "1")])
        for sort in ("family", "-family", "given,family", "-name")
    }

    # search.html#sort leaves open which value counts: the least, or the greatest when descending
    assert walked == {
        "family": ["several", "one"],
        "-family": ["several", "one"],
        "given,family": ["several", "one"],
        "-name": ["several", "one"],
    }


async def test_an_updated_resource_has_the_place_of_its_new_value(
    client: httpx.AsyncClient,
) -> None:
    for n in (1, 2, 3):
        body = observation(id=f"o{n}", valueQuantity=quantity(n, "mg"))
        await client.put(f"/Observation/o{n}", json=body)
    before = ids(await client.get("/Observation?_sort=value-quantity"))
    await client.put("/Observation/o1", json=observation(id="o1", valueQuantity=quantity(9, "mg")))
    await client.put("/Observation/o3", json=observation(id="o3", valueQuantity=None))

    after = ids(await client.get("/Observation?_sort=value-quantity"))
    updated = ids(await client.get("/Observation?_sort=-_lastUpdated"))

    assert (before, after) == (["o1", "o2", "o3"], ["o2", "o1", "o3"])
    assert updated == ["o3", "o1", "o2"]


async def test_references_to_what_is_not_there_are_sorted_as_well(
    client: httpx.AsyncClient,
) -> None:
    targets = ["Patient/b", "Group/z", "Patient/a", "http://other.example/fhir/Patient/c"]
    for n, target in enumerate(targets):
        await client.put(
            f"/Observation/o{n}", json=observation(id=f"o{n}", subject=reference(target))
        )

    reply = await client.get("/Observation?_sort=subject&subject:missing=false")

    local = [id for id in ids(reply) if id != "o3"]
    assert local == ["o1", "o2", "o0"]
    assert sorted(ids(reply)) == ["o0", "o1", "o2", "o3"]


async def test_a_sort_by_form_is_the_sort_by_url(many: httpx.AsyncClient) -> None:
    asked = [("gender", "female"), ("_sort", "family,-birthdate"), ("_count", "5")]

    by_url = await many.get("/Patient", params=httpx.QueryParams(dict(asked)))
    by_form = await posted(many, "/Patient", asked)
    rest = await many.get(link(by_form, "next") or "")

    assert ids(by_form) == ids(by_url)
    assert ids(rest) == ids(await many.get(link(by_url, "next") or ""))
