"""http.html#concurrency: what happens at once happens in some order, and to one version once.

Two servers share the database, so that no lock inside one process does the work of the database's.
"""

import asyncio
import shutil
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from threading import Timer

import httpx
import pytest

from app import db
from app.config import Settings
from app.fhir.access import SYSTEM
from app.fhir.interaction import Reply
from app.fhir.rest import Server
from app.fhir.store import Store
from app.fhir.wire import encode
from app.main import build
from tests.access.door import Door
from tests.rest import integrity
from tests.support.application import connected
from tests.support.replies import ids
from tests.support.resources import (
    delete,
    entry,
    observation,
    patient,
    post,
    practitioner,
    put,
    reference,
    transaction,
)

AT_ONCE = 12
STAFF = "identifier=https://example.org/staff|7"
Clients = list[httpx.AsyncClient]


@pytest.fixture
async def clients(settings: Settings) -> AsyncIterator[Clients]:
    """Clients of two servers on one database, by turns."""
    async with connected(settings) as one, connected(settings) as other:
        yield [one, other] * (AT_ONCE // 2)


def codes(replies: list[httpx.Response]) -> Counter[int]:
    """Return how often each status was answered."""
    return Counter(reply.status_code for reply in replies)


async def versions(client: httpx.AsyncClient, path: str) -> list[int]:
    """Return the versions of a resource, oldest first."""
    entries = (await client.get(f"{path}/_history?_count=1000")).json()["entry"]
    return [int(entry["response"]["etag"].strip('W/"')) for entry in reversed(entries)]


async def test_of_updates_with_one_if_match_exactly_one_wins(clients: Clients) -> None:
    await clients[0].put("/Patient/a", json=patient(id="a"))

    replies = await asyncio.gather(
        *(
            client.put(
                "/Patient/a",
                json=patient(id="a", name=[{"family": f"N{n}"}]),
                headers={"If-Match": 'W/"1"'},
            )
            for n, client in enumerate(clients)
        )
    )

    assert codes(replies) == {200: 1, 412: AT_ONCE - 1}
    (winner,) = (reply for reply in replies if reply.status_code == 200)
    assert (await clients[0].get("/Patient/a")).content == winner.content
    assert await versions(clients[0], "/Patient/a") == [1, 2]


async def test_updates_without_if_match_all_succeed_with_consecutive_versions(
    clients: Clients, database_url: str
) -> None:
    await clients[0].put("/Patient/a", json=patient(id="a"))

    replies = await asyncio.gather(
        *(
            client.put("/Patient/a", json=patient(id="a", name=[{"family": f"N{n}"}]))
            for n, client in enumerate(clients)
        )
    )

    assert codes(replies) == {200: AT_ONCE}
    made = sorted(int(reply.json()["meta"]["versionId"]) for reply in replies)
    assert made == list(range(2, AT_ONCE + 2))
    assert await versions(clients[0], "/Patient/a") == list(range(1, AT_ONCE + 2))
    (current,) = (r for r in replies if r.json()["meta"]["versionId"] == str(AT_ONCE + 1))
    assert (await clients[0].get("/Patient/a")).content == current.content
    family = current.json()["name"][0]["family"]
    assert ids(await clients[1].get(f"/Patient?family={family}")) == ["a"]
    assert await integrity.broken(database_url) == {}


async def test_lastupdated_never_goes_back(clients: Clients) -> None:
    await clients[0].put("/Patient/a", json=patient(id="a"))

    await asyncio.gather(
        *(
            client.put("/Patient/a", json=patient(id="a", name=[{"family": f"N{n}"}]))
            for n, client in enumerate(clients)
        )
    )

    history = (await clients[0].get("/Patient/a/_history?_count=1000")).json()["entry"]
    moments = [entry["response"]["lastModified"] for entry in history]
    assert moments == sorted(moments, reverse=True)


async def test_one_of_many_creates_under_one_id_creates_it(clients: Clients) -> None:
    replies = await asyncio.gather(
        *(
            client.put("/Patient/new", json=patient(id="new", name=[{"family": f"N{n}"}]))
            for n, client in enumerate(clients)
        )
    )

    assert codes(replies) == {201: 1, 200: AT_ONCE - 1}
    (first,) = (reply for reply in replies if reply.status_code == 201)
    assert first.headers["ETag"] == 'W/"1"'
    assert await versions(clients[0], "/Patient/new") == list(range(1, AT_ONCE + 1))
    assert ids(await clients[0].get("/Patient")) == ["new"]


async def test_one_of_many_equal_creates_under_one_id_makes_a_version(clients: Clients) -> None:
    replies = await asyncio.gather(
        *(client.put("/Patient/new", json=patient(id="new")) for client in clients)
    )

    assert codes(replies) == {201: 1, 200: AT_ONCE - 1}
    assert {reply.headers["ETag"] for reply in replies} == {'W/"1"'}
    assert await versions(clients[0], "/Patient/new") == [1]


async def test_only_one_may_create_what_must_be_new(clients: Clients) -> None:
    replies = await asyncio.gather(
        *(
            client.put("/Patient/new", json=patient(id="new"), headers={"If-None-Match": "*"})
            for client in clients
        )
    )

    assert codes(replies) == {201: 1, 412: AT_ONCE - 1}


async def test_conditional_creates_with_one_condition_make_one_resource(
    clients: Clients, database_url: str
) -> None:
    replies = await asyncio.gather(
        *(
            client.post("/Practitioner", json=practitioner(), headers={"If-None-Exist": STAFF})
            for client in clients
        )
    )

    assert codes(replies) == {201: 1, 200: AT_ONCE - 1}
    assert len({reply.json()["id"] for reply in replies}) == 1
    assert len(ids(await clients[0].get("/Practitioner"))) == 1
    assert await integrity.broken(database_url) == {}


async def test_conditional_creates_in_transactions_make_one_resource(clients: Clients) -> None:
    vale = "urn:uuid:0f2b9d5a-8f61-4f0c-9f3e-7c1f0b8f2a11"
    entries = transaction(
        post(practitioner(), vale, ifNoneExist=STAFF),
        post(observation(performer=[reference(vale)])),
    )

    replies = await asyncio.gather(*(client.post("/", json=entries) for client in clients))

    assert codes(replies) == {200: AT_ONCE}
    (id,) = ids(await clients[0].get("/Practitioner"))
    found = await clients[1].get(f"/Observation?performer=Practitioner/{id}")
    assert len(ids(found)) == AT_ONCE


async def test_updates_by_one_criterion_make_one_resource(
    clients: Clients, database_url: str
) -> None:
    replies = await asyncio.gather(
        *(
            client.put(f"/Practitioner?{STAFF}", json=practitioner(name=[{"family": f"N{n}"}]))
            for n, client in enumerate(clients)
        )
    )

    assert codes(replies) == {201: 1, 200: AT_ONCE - 1}
    (id,) = {reply.json()["id"] for reply in replies}
    assert ids(await clients[0].get("/Practitioner")) == [id]
    assert await versions(clients[0], f"/Practitioner/{id}") == list(range(1, AT_ONCE + 1))
    assert await integrity.broken(database_url) == {}


async def test_creates_and_updates_by_one_criterion_make_one_resource(clients: Clients) -> None:
    entries = transaction(entry("PUT", f"Practitioner?{STAFF}", practitioner()))

    replies = await asyncio.gather(
        *(
            client.post("/Practitioner", json=practitioner(), headers={"If-None-Exist": STAFF})
            if n % 3 == 0
            else client.put(f"/Practitioner?{STAFF}", json=practitioner())
            if n % 3 == 1
            else client.post("/", json=entries)
            for n, client in enumerate(clients)
        )
    )

    assert set(codes(replies)) <= {200, 201}
    assert len(ids(await clients[0].get("/Practitioner"))) == 1


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)  # SQLite has one writer
async def test_what_leaves_the_criteria_while_they_are_searched_is_not_deleted(
    settings: Settings,
) -> None:
    changed = patient(id="a", gender="other")
    async with build(settings) as server:
        door = Door(server, SYSTEM)
        await door.put(patient(id="a"))

        async def change(connection: db.Connection) -> asyncio.Task[Reply]:
            store = Store(connection, server.catalogue, SYSTEM)
            (current,) = (await store.lock([("Patient", "a")])).values()
            deletion = asyncio.create_task(door.ask("DELETE", "Patient?gender=female"))
            await somebody_waits(server)
            store.put("Patient", "a", encode(changed), changed, current, server.now())
            await store.flush()
            return deletion

        reply = await (await server.database.write(change))

        assert (reply.status, reply.version) == (204, 0)
        assert (await door.get("Patient/a")).version == 2


async def somebody_waits(server: Server) -> None:
    """Return when a transaction of the database waits for a row that another one holds."""
    waiting = db.Statement(
        "SELECT 1 FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'",
        (),
    )
    for _ in range(6000):
        if await server.database.read(lambda connection: connection.rows(waiting, {})):
            return
        await asyncio.sleep(0.01)
    raise TimeoutError("nobody waits")


async def test_patches_at_once_are_all_made(clients: Clients) -> None:
    await clients[0].put("/Patient/a", json=patient(id="a", name=[{"family": "Marsh"}]))

    replies = await asyncio.gather(
        *(
            client.patch(
                "/Patient/a",
                json=[{"op": "add", "path": "/name/-", "value": {"family": f"N{n}"}}],
                headers={"Content-Type": "application/json-patch+json"},
            )
            for n, client in enumerate(clients)
        )
    )

    assert codes(replies) == {200: AT_ONCE}
    names = (await clients[0].get("/Patient/a")).json()["name"]
    assert sorted(name["family"] for name in names) == sorted(
        ["Marsh", *(f"N{n}" for n in range(AT_ONCE))]
    )


async def test_conditions_in_other_orders_do_not_lock_each_other_out(clients: Clients) -> None:
    conditions = [post(practitioner(), ifNoneExist=f"identifier={n}") for n in range(4)]
    orders = [transaction(*conditions[n % 4 :], *conditions[: n % 4]) for n in range(AT_ONCE)]

    replies = await asyncio.gather(
        *(client.post("/", json=order) for client, order in zip(clients, orders, strict=True))
    )

    assert codes(replies) == {200: AT_ONCE}


async def test_deletes_of_one_resource_make_one_deletion(clients: Clients) -> None:
    await clients[0].put("/Patient/a", json=patient(id="a"))

    replies = await asyncio.gather(*(client.delete("/Patient/a") for client in clients))

    assert codes(replies) == {204: AT_ONCE}
    assert await versions(clients[0], "/Patient/a") == [1, 2]


async def test_updates_and_deletes_at_once_leave_one_whole_state(
    clients: Clients, database_url: str
) -> None:
    await clients[0].put("/Patient/a", json=patient(id="a"))

    replies = await asyncio.gather(
        *(
            client.delete("/Patient/a")
            if n % 3 == 0
            else client.put("/Patient/a", json=patient(id="a", name=[{"family": f"N{n}"}]))
            for n, client in enumerate(clients)
        )
    )

    assert set(codes(replies)) <= {200, 201, 204}
    made = await versions(clients[0], "/Patient/a")
    assert made == list(range(1, len(made) + 1))
    assert await integrity.broken(database_url) == {}


async def test_transactions_that_write_the_same_resources_in_other_orders_all_succeed(
    clients: Clients, database_url: str
) -> None:
    names = ["a", "b", "c", "d"]
    await clients[0].post("/", json=transaction(*(put(patient(id=id)) for id in names)))

    replies = await asyncio.gather(
        *(
            client.post(
                "/",
                json=transaction(
                    *(
                        put(patient(id=id, name=[{"family": f"N{n}"}]))
                        for id in names[:: 1 if n % 2 else -1]
                    )
                ),
            )
            for n, client in enumerate(clients)
        )
    )

    assert codes(replies) == {200: AT_ONCE}
    current = [(await clients[0].get(f"/Patient/{id}")).json() for id in names]
    assert {one["meta"]["versionId"] for one in current} == {str(AT_ONCE + 1)}
    assert len({one["name"][0]["family"] for one in current}) == 1  # of one transaction
    assert await integrity.broken(database_url) == {}


async def test_new_resources_may_refer_to_each_other_at_once(
    clients: Clients, database_url: str
) -> None:
    # Each refers to what the others are just creating, and to what nobody ever creates
    names = ["a", "b", "c", "d"]
    links = [{"other": reference(f"Patient/{id}"), "type": "seealso"} for id in ["nobody", *names]]

    replies = await asyncio.gather(
        *(
            client.post(
                "/",
                json=transaction(
                    put(patient(id=id, link=links)),
                    put(observation(id=id, subject=reference("Patient/a"))),
                    delete("Patient/gone"),
                ),
            )
            for client, id in zip(clients, names, strict=False)
        )
    )

    assert codes(replies) == {200: len(names)}
    assert sorted(ids(await clients[0].get("/Observation?subject=Patient/a"))) == names
    assert sorted(ids(await clients[1].get("/Patient?link=Patient/nobody"))) == names
    assert await integrity.broken(database_url) == {}


async def test_new_systems_and_ids_of_two_servers_do_not_collide(
    clients: Clients, database_url: str
) -> None:
    replies = await asyncio.gather(
        *(
            client.post(
                "/Patient",
                json=patient(
                    identifier=[
                        {"system": f"https://example.org/{m}", "value": str(n)} for m in range(5)
                    ]
                ),
            )
            for n, client in enumerate(clients)
        )
    )

    assert codes(replies) == {201: AT_ONCE}
    for n, client in enumerate(clients):
        found = await client.get(f"/Patient?identifier=https://example.org/3|{n}")
        assert ids(found) == [replies[n].json()["id"]]
    assert await integrity.broken(database_url) == {}


async def test_whoever_opens_an_sqlite_file_waits_for_who_has_it_alone(
    sqlite_template: Path, tmp_path: Path
) -> None:
    file = shutil.copy(sqlite_template, tmp_path / "milepost.db")
    database = db.connect(f"sqlite:///{file}", 30, 1)
    # as a process has it for a moment that is the first to open it, or the last to close it
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN IMMEDIATE")
    other.execute("UPDATE definitions_version SET number = number")

    leaving = Timer(0.2, other.close)
    leaving.start()
    await database.open()
    leaving.join()

    assert await database.revision() != ""
    await database.close()
