"""Pages while others write: nothing twice, and nothing lost that stays where it is."""

import asyncio
import random
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.support.replies import ids, link
from tests.support.resources import patient, put, transaction

SIZE = 60
YEARS = range(1950, 1980)

# Sorts, and whether a change of the birth date moves a resource in them
SORTS = ["birthdate", "-birthdate", "family,birthdate", "gender,-birthdate", "birthdate,_id"]


def born(n: int, year: int, **changes: object) -> dict[str, object]:
    """Return the Patient number n, born in that year."""
    gender = ("female", "male")[n % 2]
    return patient(id=f"p{n:02}", birthDate=f"{year}-01-01", gender=gender, **changes)


def first_year(n: int) -> int:
    """Return when number n was born at first: every two in the same year."""
    return YEARS[(n * 7) % len(YEARS)]


@pytest.fixture
async def sixty(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """A client of a server with SIZE Patients."""
    bodies = [born(n, first_year(n)) for n in range(SIZE)]
    await client.post("/", json=transaction(*(put(body) for body in bodies)))
    return client


async def walk(client: httpx.AsyncClient, url: str) -> AsyncIterator[list[str]]:
    """Yield the ids of each page."""
    following: str | None = url
    while following:
        reply = await client.get(following)
        assert reply.status_code == 200, reply.text
        yield ids(reply)
        following = link(reply, "next")


class Writer:
    """Writes at random, and remembers which Patients did not move."""

    def __init__(self, client: httpx.AsyncClient, seed: int) -> None:
        self.client = client
        self.chance = random.Random(seed)
        self.moved: set[str] = set()
        self.alive = set(range(SIZE))
        self.next = SIZE

    async def write(self) -> None:
        """Move, touch, delete or add one Patient."""
        n = self.chance.choice(sorted(self.alive))
        match self.chance.choice(["move", "move", "touch", "delete", "add"]):
            case "move":
                self.moved.add(f"p{n:02}")
                await self.put(n, self.chance.choice(YEARS))
            case "touch" if f"p{n:02}" not in self.moved and n < SIZE:
                await self.put(n, first_year(n), active=bool(self.chance.randrange(2)))
            case "delete":
                self.alive.discard(n)
                self.moved.add(f"p{n:02}")
                await self.client.delete(f"/Patient/p{n:02}")
            case _:
                self.alive.add(self.next)
                self.moved.add(f"p{self.next:02}")
                await self.put(self.next, self.chance.choice(YEARS))
                self.next += 1

    async def put(self, n: int, year: int, **changes: object) -> None:
        reply = await self.client.put(f"/Patient/p{n:02}", json=born(n, year, **changes))
        assert reply.status_code in (200, 201), reply.text

    @property
    def still(self) -> set[str]:
        """The Patients that are where they were from the beginning."""
        return {f"p{n:02}" for n in range(SIZE)} - self.moved


@pytest.mark.parametrize("sort", SORTS)
async def test_a_sorted_walk_with_writes_between_its_pages(
    sixty: httpx.AsyncClient, sort: str
) -> None:
    writer = Writer(sixty, seed=len(sort))
    seen: list[str] = []

    async for page in walk(sixty, f"/Patient?_sort={sort}&_count=7"):
        seen += page
        for _ in range(4):
            await writer.write()

    assert sorted(seen) == sorted(set(seen)), "nothing comes twice"
    assert writer.still - set(seen) == set(), "nothing that stayed is lost"


async def test_a_resource_that_moves_ahead_of_the_walk_does_not_come_again(
    sixty: httpx.AsyncClient,
) -> None:
    walked = walk(sixty, "/Patient?_sort=birthdate&_count=5")
    first = await anext(walked)
    for id in first:
        await sixty.put(f"/Patient/{id}", json=born(int(id[1:]), 1999))

    rest = [id async for page in walked for id in page]

    assert sorted(first + rest) == [f"p{n:02}" for n in range(SIZE)]


async def test_an_update_that_moves_nothing_loses_nothing(sixty: httpx.AsyncClient) -> None:
    walked = walk(sixty, "/Patient?_sort=birthdate&_count=5")
    seen = await anext(walked)
    for n in range(SIZE):
        await sixty.put(f"/Patient/p{n:02}", json=born(n, first_year(n), active=False))

    seen += [id async for page in walked for id in page]

    assert sorted(seen) == [f"p{n:02}" for n in range(SIZE)]


async def test_another_value_of_the_sort_parameter_moves_nothing(client: httpx.AsyncClient) -> None:
    names = {"a": ["Aa"], "b": ["Bb"], "c": ["Cc"], "d": ["Dd"]}
    for id, families in names.items():
        await client.put(f"/Patient/{id}", json=named(id, *families))
    first = await client.get("/Patient?_sort=family&_count=2")

    await client.put("/Patient/c", json=named("c", "Zz", "Cc"))

    rest = await client.get(link(first, "next") or "")
    assert (ids(first), ids(rest)) == (["a", "b"], ["c", "d"])


def named(id: str, *families: str) -> dict[str, object]:
    """Return a Patient with these names."""
    return {"resourceType": "Patient", "id": id, "name": [{"family": f} for f in families]}


async def test_a_walk_in_the_order_of_updates_ends_though_all_is_updated(
    sixty: httpx.AsyncClient,
) -> None:
    seen: list[str] = []
    touched = 0
    async for page in walk(sixty, "/Patient?_sort=_lastUpdated&_count=10"):
        seen += page
        for id in page[:5]:
            touched += 1
            assert touched < 10 * SIZE, "the walk never ends"
            await sixty.put(f"/Patient/{id}", json=born(int(id[1:]), 1999, active=False))

    assert sorted(seen) == [f"p{n:02}" for n in range(SIZE)]


async def test_walks_while_somebody_writes_all_the_time(sixty: httpx.AsyncClient) -> None:
    writer = Writer(sixty, seed=7)
    stop = asyncio.Event()

    async def write() -> None:
        while not stop.is_set():
            await writer.write()
            await asyncio.sleep(0)

    async def read(url: str) -> list[str]:
        return [id async for page in walk(sixty, url) for id in page]

    writing = asyncio.create_task(write())
    urls = [f"/Patient?_sort={sort}&_count=4" for sort in SORTS] + ["/Patient?_count=4"]
    walks = await asyncio.gather(*(read(url) for url in urls))
    stop.set()
    await writing

    assert [len(seen) for seen in walks] == [len(set(seen)) for seen in walks]
    assert [writer.still - set(seen) for seen in walks] == [set()] * len(walks)
    assert writer.moved, "nothing was written meanwhile"
