"""The matrix: each way of reading sees what the policy shows, and nothing else.

What is not visible does not exist. A way of reading is a function that returns the
`Type/id` of what it could tell from a resource that is not there.
"""

from collections.abc import Awaitable, Callable, Mapping

import pytest

from tests.access.door import Door, content, entries, named, next_link
from tests.access.world import FIRST_VERSIONS, NAMES, POLICIES, REFERS, TYPES, WORLD
from tests.support.resources import batch, get, post, reference, resource, transaction

FIRST = "vread of the first version"
Way = Callable[[Door], Awaitable[set[str]]]


async def reading(door: Door) -> set[str]:
    return {name for name in NAMES if (await door.get(name)).status == 200}


async def reading_what_one_has(door: Door) -> set[str]:
    asked = {name: await door.ask("GET", name, if_none_match='W/"2"') for name in NAMES}
    return {name for name, reply in asked.items() if reply.status == 304}


async def reading_the_first_version(door: Door) -> set[str]:
    return {name for name in NAMES if (await door.get(f"{name}/_history/1")).status == 200}


async def reading_the_current_version(door: Door) -> set[str]:
    return {name for name in NAMES if (await door.get(f"{name}/_history/2")).status == 200}


async def history_of_each(door: Door) -> set[str]:
    return {name for name in NAMES if (await door.get(f"{name}/_history")).status == 200}


async def history_since_then(door: Door) -> set[str]:
    url = "_history?_since=2020-01-01T00:00:00Z"
    return {name for name in NAMES if (await door.get(f"{name}/{url}")).status == 200}


async def walk(door: Door, url: str) -> set[str]:
    """Return what is on any of the pages that begin at `url`."""
    seen: set[str] = set()
    while url:
        reply = await door.get(url)
        seen.update(named(reply))
        url = next_link(reply)
    return seen


async def history_of_types(door: Door) -> set[str]:
    return {name for t in TYPES for name in named(await door.get(f"{t}/_history?_count=100"))}


async def history_of_types_by_pages(door: Door) -> set[str]:
    return {name for t in TYPES for name in await walk(door, f"{t}/_history?_count=1")}


async def history_of_the_system(door: Door) -> set[str]:
    return set(named(await door.get("_history?_count=100")))


async def history_of_the_system_by_pages(door: Door) -> set[str]:
    return await walk(door, "_history?_count=1")


async def history_of_the_system_at_a_time(door: Door) -> set[str]:
    return await walk(door, "_history?_at=2999&_count=2")


def searching(query: str) -> Way:
    """Return the way of searching all types with `query`."""

    async def search(door: Door) -> set[str]:
        return {name for t in TYPES for name in await walk(door, f"{t}?{query}")}

    return search


async def searching_by_patient(door: Door) -> set[str]:
    """Return what the references of visible resources find; the Patients as they are."""
    seen = {name for name in named(await door.get("Patient")) if name in NAMES}
    for t in ("Observation", "Appointment"):
        seen |= await walk(door, f"{t}?patient=Patient/ada,Patient/bob")
    items = ",".join(name for name in NAMES if not name.startswith("List/"))
    return seen | await walk(door, f"List?item={items}")


async def searching_by_code(door: Door) -> set[str]:
    """Return what the criteria of each type find that all of the world fit."""
    queries = {
        "Patient": "name=marsh",
        "Observation": "code=44261-6&date=2026&value-quantity=gt10",
        "Appointment": "status=proposed",
        "List": "status=current",
    }
    return {name for t in TYPES for name in await walk(door, f"{t}?{queries[t]}")}


def searching_all(query: str) -> Way:
    """Return the way of searching all types at once with `query`."""

    async def search(door: Door) -> set[str]:
        return await walk(door, f"?{query}")

    return search


async def getting_in_a_batch(door: Door) -> set[str]:
    answers = entries(await door.ask("POST", "", batch(*(get(name) for name in NAMES))))
    shown = zip(NAMES, answers, strict=True)
    return {name for name, answer in shown if answer["response"]["status"].startswith("200")}


async def getting_in_a_transaction(door: Door) -> set[str]:
    asked = {name: await door.ask("POST", "", transaction(get(name))) for name in NAMES}
    return {name for name, reply in asked.items() if reply.status == 200}


async def searching_in_a_transaction(door: Door) -> set[str]:
    reply = await door.ask("POST", "", transaction(*(get(t) for t in TYPES)))
    found = [entry["resource"] for entry in entries(reply)]
    shown = [inner["resource"] for bundle in found for inner in bundle.get("entry", [])]
    return {f"{r['resourceType']}/{r['id']}" for r in shown}


async def deleting_another_version(door: Door) -> set[str]:
    asked = {name: await door.ask("DELETE", name, if_match='W/"99"') for name in NAMES}
    return {name for name, reply in asked.items() if b"version 2" in reply.body}


async def updating_another_version(door: Door) -> set[str]:
    asked = {f"{r['resourceType']}/{r['id']}": await door.put(r, if_match='W/"99"') for r in WORLD}
    return {name for name, reply in asked.items() if b"version 2" in reply.body}


async def conditional_references(door: Door) -> set[str]:
    """Return what a conditional reference finds; the Basic that refers to it may be refused."""
    seen = set()
    for name in NAMES:
        kind, id = name.split("/")
        body = resource(
            "Basic", {"code": {"text": "x"}}, {"subject": reference(f"{kind}?_id={id}")}
        )
        reply = await door.ask("POST", "", transaction(post(body)))
        if reply.status != 412:
            seen.add(name)
    return seen


async def conditional_creates(door: Door) -> set[str]:
    """Return what If-None-Exist finds: else there is a new resource, or none may be made."""
    seen = set()
    for r in WORLD:
        kind, id = r["resourceType"], r["id"]
        reply = await door.ask("POST", kind, r, if_none_exist=f"_id={id}")
        if reply.status == 200:
            seen.add(f"{kind}/{id}")
    return seen


async def conditional_creates_in_a_transaction(door: Door) -> set[str]:
    seen = set()
    for r in WORLD:
        body = transaction(post(r, ifNoneExist=f"_id={r['id']}"))
        reply = await door.ask("POST", "", body)
        if reply.status == 200 and "200" in entries(reply)[0]["response"]["status"]:
            seen.add(f"{r['resourceType']}/{r['id']}")
    return seen


WAYS: Mapping[str, Way] = {
    "read": reading,
    "read with If-None-Match": reading_what_one_has,
    FIRST: reading_the_first_version,
    "vread of the current version": reading_the_current_version,
    "history of the instance": history_of_each,
    "history of the instance since": history_since_then,
    "history of the type": history_of_types,
    "history of the type, paged": history_of_types_by_pages,
    "history of the system": history_of_the_system,
    "history of the system, paged": history_of_the_system_by_pages,
    "history of the system at a time": history_of_the_system_at_a_time,
    "search": searching(""),
    "search, paged": searching("_count=1"),
    "search by _id": searching("_id=" + ",".join(name.split("/")[1] for name in NAMES)),
    "search by _lastUpdated": searching("_lastUpdated=gt1990"),
    "search by reference": searching_by_patient,
    "search by what all have": searching_by_code,
    "search by what none has": searching("_id:not=nobody&_tag:not=nothing"),
    "search sorted by what all have": searching("_sort=-_lastUpdated,_id&_count=1"),
    "search sorted by what some have": searching("_sort=_tag,-_security&_count=2"),
    "search with what it refers to": searching("_include=*&_include:iterate=*"),
    "search with what refers to it": searching(
        "_revinclude=Observation:subject&_revinclude=Appointment:actor&_revinclude=List:item"
        "&_revinclude:iterate=Observation:subject&_revinclude:iterate=List:item"
    ),
    "search with exact totals": searching("_total=accurate&_count=1"),
    "search of all types": searching_all("_lastUpdated=gt1990"),
    "search of some types": searching_all(f"_type={','.join(TYPES)}"),
    "search of all types, sorted": searching_all(
        f"_type={','.join(TYPES)}&_sort=-_lastUpdated&_count=2"
    ),
    "read in a batch": getting_in_a_batch,
    "read in a transaction": getting_in_a_transaction,
    "search in a transaction": searching_in_a_transaction,
    "delete of another version": deleting_another_version,
    "update of another version": updating_another_version,
}


# What may write: the resource that is made where nothing was found
CONDITIONS: Mapping[str, Way] = {
    "conditional reference": conditional_references,
    "conditional create": conditional_creates,
    "conditional create in a transaction": conditional_creates_in_a_transaction,
}


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("name", POLICIES)
async def test_each_way_of_reading_sees_what_the_policy_shows(
    lasting_world: Door, name: str
) -> None:
    policy, shown = POLICIES[name]
    somebody = lasting_world.under(policy)

    seen = {way: sorted(await look(somebody)) for way, look in WAYS.items()}

    first = {FIRST: sorted(FIRST_VERSIONS.get(name, shown))}
    assert seen == dict.fromkeys(WAYS, sorted(shown)) | first


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("name", POLICIES)
async def test_a_history_counts_what_it_shows_and_reads_no_list_that_is_hidden(
    lasting_world: Door, name: str
) -> None:
    policy, shown = POLICIES[name]
    somebody = lasting_world.under(policy)

    whole = await somebody.get("_history?_count=1000")
    total = content(await somebody.get("_history?_count=0"))["total"]
    listed = {one: await walk(somebody, f"_history?_list={one}") for one in ("open", "secret")}

    assert total == len(entries(whole))
    for one, found in listed.items():
        assert found == (REFERS[f"List/{one}"] & shown if f"List/{one}" in shown else set())


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("name", POLICIES)
async def test_a_total_counts_what_the_policy_shows(lasting_world: Door, name: str) -> None:
    policy, shown = POLICIES[name]
    somebody = lasting_world.under(policy)

    totals = {t: content(await somebody.get(f"{t}?_lastUpdated=gt1990"))["total"] for t in TYPES}

    assert totals == {t: len([s for s in shown if s.startswith(f"{t}/")]) for t in TYPES}


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("name", POLICIES)
async def test_what_is_hidden_is_told_as_what_is_not_there(lasting_world: Door, name: str) -> None:
    policy, shown = POLICIES[name]
    somebody = lasting_world.under(policy)
    ways = ["{}", "{}/_history", "{}/_history/1", "{}/_history/2", "{}/_history/3"]
    hidden = sorted(set(NAMES) - shown)

    told = [await somebody.get(way.format(name)) for name in hidden for way in ways]
    absent = [
        await somebody.get(way.format(f"{name.split('/')[0]}/{'x' * len(name.split('/')[1])}"))
        for name in hidden
        for way in ways
    ]

    assert [(r.status, len(r.body)) for r in told] == [(r.status, len(r.body)) for r in absent]
    assert {r.status for r in told} <= {404}


async def test_a_condition_finds_what_the_policy_shows(world: Door) -> None:
    seen = {
        (name, way): sorted(await look(world.under(policy)))
        for name, (policy, _) in POLICIES.items()
        for way, look in CONDITIONS.items()
    }

    assert seen == {
        (name, way): sorted(shown) for name, (_, shown) in POLICIES.items() for way in CONDITIONS
    }
