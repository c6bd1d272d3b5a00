"""Searches as large as they may be, results of thousands, and the zone of the server."""

from collections.abc import Callable

import httpx

from app.config import Settings
from tests.search.asking import posted
from tests.support.application import connected
from tests.support.replies import ids, issue, link
from tests.support.resources import observation, patient, put, reference, transaction

VALUES: dict[str, Callable[[int], str]] = {
    "code": lambda n: f"urn:s{n}|C{n}",
    "_tag": lambda n: f"C{n}",
    "date": lambda n: f"ge{2000 + n % 20}-01-{n % 28 + 1:02}",
    "_lastUpdated": lambda n: f"ne{2000 + n % 20}",
    "value-quantity": lambda n: f"ne{n}|http://unitsofmeasure.org|mg{n}",
    "value-string": lambda n: f"text {n}",
    "subject": lambda n: f"p{n}",
    "patient": lambda n: f"Patient/p{n}",
    "_profile": lambda n: f"http://example.org/{n}|{n}",
    "_source": lambda n: f"urn:{n}",
    "_id": lambda n: f"o{n}",
}


async def test_a_search_may_have_four_hundred_values_and_two_hundred_parameters(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Observation/o1", json=observation(id="o1", subject=reference("Patient/p1")))

    statuses = {
        (name, size): (await posted(client, "/Observation", asked)).status_code
        for name, value in VALUES.items()
        for size, asked in {
            "400 values": [(name, ",".join(value(n) for n in range(400)))],
            "200 parameters": [(name, value(n)) for n in range(200)],
            "200 parameters with 400 values": [
                (name, f"{value(n)},{value(n + 1)}") for n in range(200)
            ],
        }.items()
    }

    assert statuses == dict.fromkeys(statuses, 200)


async def test_a_search_that_asks_for_too_much_is_told_the_limits(
    client: httpx.AsyncClient,
) -> None:
    values = await posted(client, "/Patient", [("name", ",".join("a" * 401))])
    parameters = await posted(client, "/Patient", [("name", "a")] * 201)

    assert [reply.status_code for reply in (values, parameters)] == [400, 400]
    assert {issue(reply) for reply in (values, parameters)} == {
        ("too-costly", "A search may have 200 parameters and 400 values")
    }


async def test_a_chain_that_is_too_long_or_too_wide_is_told_the_limits(
    client: httpx.AsyncClient,
) -> None:
    asked = {
        "twelve links": "Location?" + "partof." * 12 + "name=a",
        "twelve links backwards": "Location?" + "_has:Location:partof:" * 12 + "name=a",
        "links to anything": "Observation?" + "focus." * 4 + "identifier=a",
    }

    replies = {name: await client.get(f"/{query}") for name, query in asked.items()}

    told = {name: (reply.status_code, issue(reply)[0]) for name, reply in replies.items()}
    assert told == dict.fromkeys(asked, (400, "too-costly"))


async def test_a_chain_of_eight_links_is_followed_to_its_end(client: httpx.AsyncClient) -> None:
    for n in range(9):
        above = {"partOf": reference(f"Location/l{n + 1}")} if n < 8 else {"name": "Campus"}
        await client.put(
            f"/Location/l{n}", json={"resourceType": "Location", "id": f"l{n}", **above}
        )

    forward = await client.get("/Location?" + "partof." * 8 + "name=campus")
    backward = await client.get("/Location?" + "_has:Location:partof:" * 8 + "_id=l0")

    assert (ids(forward), ids(backward)) == (["l0"], ["l8"])


async def test_a_result_of_thousands_is_the_same_whatever_index_it_is_walked_by(
    client: httpx.AsyncClient,
) -> None:
    count = 2_100  # more than the store counts before it chooses an index
    bodies = [
        patient(
            id=f"p{n:04}",
            name=None,
            gender="female" if n % 2 else "male",
            birthDate=f"{1900 + n % 100}",
        )
        for n in range(count)
    ]
    older = [observation(id=f"o{n}") for n in range(3)]
    await client.post("/", json=transaction(*(put(body) for body in older)))
    await client.post("/", json=transaction(*(put(body) for body in bodies)))
    newest_first = [body["id"] for body in reversed(bodies)]
    women = [id for id in newest_first if int(id[1:]) % 2]
    young = [id for id in newest_first if id.endswith("99")]

    async def walk(query: str) -> list[str]:
        found, following = [], f"/Patient?{query}&_count=1000"
        while following:
            reply = await client.get(following)
            found += ids(reply)
            following = link(reply, "next") or ""
        return found

    def youngest_first(some: list[str]) -> list[str]:
        return sorted(some, key=lambda one: int(one[-2:]), reverse=True)

    assert await walk("gender=female") == women
    assert await walk("gender=female&active=true") == women
    assert await walk("gender=male,female&gender=female") == women
    assert await walk("birthdate=ge1900&gender=female") == youngest_first(women)
    assert await walk("birthdate=lt2000") == youngest_first(newest_first)
    assert await walk("birthdate=ge1900&birthdate=lt2000") == youngest_first(newest_first)
    assert await walk("birthdate=1999&active=true") == young
    # nobody has a tag: of two types, one is walked and the other gathered
    untagged = await client.get(
        "/?_type=Observation,Patient&_lastUpdated=ge2000&_sort=_tag&_count=2"
    )
    assert ids(untagged) == newest_first[:2]
    assert await walk("birthdate=ge1950&birthdate=lt1952&_sort=birthdate") == [
        id for year in ("50", "51") for id in newest_first if id.endswith(year)
    ]


async def test_dates_without_a_zone_are_read_in_the_zone_of_the_server(settings: Settings) -> None:
    berlin = settings.model_copy(update={"time_zone": "Europe/Berlin"})
    async with connected(berlin) as client:
        for id, when in {
            "day": "2013-07-14",
            "past-midnight": "2013-07-13T22:30:00Z",
            "before-midnight": "2013-07-14T22:30:00Z",
        }.items():
            await client.put(f"/Observation/{id}", json=observation(id=id, effectiveDateTime=when))

        found = {
            asked: sorted(ids(await client.get("/Observation", params={"date": asked})))
            for asked in (
                "2013-07-14",
                "2013-07-14T00:30",
                "2013-07-13T22:30Z",
                "sa2013-07-14",
                "ge2013-07-13T22:00:00Z",
                "lt2013-07-13T22:00:00Z",
            )
        }

    # search.html#date: the zone of the server, here two hours ahead of UTC
    assert found == {
        "2013-07-14": ["day", "past-midnight"],
        "2013-07-14T00:30": ["past-midnight"],
        "2013-07-13T22:30Z": ["past-midnight"],
        "sa2013-07-14": ["before-midnight"],
        "ge2013-07-13T22:00:00Z": ["before-midnight", "day", "past-midnight"],
        "lt2013-07-13T22:00:00Z": [],
    }
