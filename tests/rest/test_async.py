"""async.html: what takes long runs in the background, and its answer is fetched later."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import asyncpg
import httpx
import pytest

from app import db, deferred
from app.api.bearer import Bearer
from app.api.deferring import LOST, MOST, RUNNING, Deferring
from app.config import Settings
from app.deferred import Deferred
from app.fhir.access import SYSTEM
from app.fhir.errors import FhirError
from app.fhir.rest import Server
from app.main import create_app
from tests.support.application import JSON, connected, started
from tests.support.replies import issue
from tests.support.resources import Resource, batch, get, patient, post, put, transaction
from tests.support.tokens import AUTHORIZED

ASYNC = {"Prefer": "respond-async"}


async def fetched(client: httpx.AsyncClient, accepted: httpx.Response) -> httpx.Response:
    """Return the answer of a request in the background, once it is there."""
    assert accepted.status_code == 202, accepted.text
    while True:
        reply = await client.get(accepted.headers["Content-Location"])
        if reply.status_code != 202:
            return reply
        assert reply.headers["X-Progress"]
        assert reply.headers["Retry-After"]
        await asyncio.sleep(0.01)


def only_entry(reply: httpx.Response) -> Resource:
    """Return the one entry of a batch-response."""
    assert reply.status_code == 200, reply.text
    body: Resource = reply.json()
    assert (body["resourceType"], body["type"]) == ("Bundle", "batch-response")
    (entry,) = body["entry"]
    found: Resource = entry
    return found


async def test_a_search_is_answered_later_as_it_would_have_been_at_once(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Patient/a", json=patient(id="a"))

    accepted = await client.get("/Patient?name=marsh", headers=ASYNC)
    entry = only_entry(await fetched(client, accepted))
    now = await client.get("/Patient?name=marsh")

    assert accepted.headers["Preference-Applied"] == "respond-async"
    assert accepted.content == b""
    assert entry["response"]["status"].startswith("200")
    assert entry["resource"]["entry"] == now.json()["entry"]


async def test_a_transaction_a_batch_and_a_history_run_in_the_background(
    client: httpx.AsyncClient,
) -> None:
    written = await client.post("/", json=transaction(put(patient(id="a"))), headers=ASYNC)
    wrote = only_entry(await fetched(client, written))
    read = await client.post("/", json=batch(get("Patient/a"), post(patient())), headers=ASYNC)
    answered = only_entry(await fetched(client, read))
    history = await client.get("/Patient/a/_history", headers=ASYNC)
    versions = only_entry(await fetched(client, history))

    assert wrote["resource"]["type"] == "transaction-response"
    assert [e["response"]["status"][:3] for e in answered["resource"]["entry"]] == ["200", "201"]
    assert versions["resource"]["type"] == "history"
    assert (await client.get("/Patient/a")).status_code == 200


async def test_what_is_refused_later_is_an_outcome_in_the_answer(
    client: httpx.AsyncClient,
) -> None:
    accepted = await client.get("/Patient?nonsense=1", headers=ASYNC)
    entry = only_entry(await fetched(client, accepted))

    assert entry["response"]["status"].startswith("400")
    assert entry["response"]["outcome"]["resourceType"] == "OperationOutcome"
    assert "resource" not in entry


async def test_what_is_short_is_answered_at_once(client: httpx.AsyncClient) -> None:
    created = await client.put("/Patient/a", json=patient(id="a"), headers=ASYNC)
    read = await client.get("/Patient/a", headers=ASYNC)

    assert (created.status_code, read.status_code) == (201, 200)
    assert "Preference-Applied" not in created.headers


async def test_any_server_on_the_database_has_the_answer(settings: Settings) -> None:
    async with connected(settings) as one, connected(settings) as other:
        accepted = await one.get("/Patient", headers=ASYNC)
        entry = only_entry(await fetched(other, accepted))

    assert entry["resource"]["type"] == "searchset"


async def test_an_answer_can_be_fetched_again_until_it_is_deleted(
    client: httpx.AsyncClient,
) -> None:
    accepted = await client.get("/Patient", headers=ASYNC)
    address = accepted.headers["Content-Location"]
    first = await fetched(client, accepted)
    again = await client.get(address)
    deleted = await client.delete(address)
    gone = await client.get(address)
    twice = await client.delete(address)
    put = await client.put(address, json={})

    assert again.content == first.content
    assert deleted.status_code == 202
    assert (gone.status_code, twice.status_code) == (404, 404)
    assert (put.status_code, put.headers["Allow"]) == (405, "DELETE, GET")


async def test_an_address_that_nobody_was_given_is_a_404(client: httpx.AsyncClient) -> None:
    reply = await client.get("/_async/guessed")

    assert (reply.status_code, issue(reply)[0]) == (404, "not-found")


@asynccontextmanager
async def deferring(settings: Settings) -> AsyncIterator[tuple[httpx.AsyncClient, Deferring]]:
    """Yield a client of a server, and what that runs in the background."""
    app = create_app(settings)
    transport, headers = httpx.ASGITransport(app), {"Content-Type": JSON, **AUTHORIZED}
    async with (
        started(app),
        httpx.AsyncClient(
            transport=transport, base_url=settings.base_url, headers=headers
        ) as client,
    ):
        yield client, app.state.deferring


async def test_only_who_asked_has_the_answer(settings: Settings) -> None:
    async with deferring(settings) as (client, background):
        accepted = await client.get("/Patient", headers=ASYNC)
        await fetched(client, accepted)
        id = accepted.headers["Content-Location"].rsplit("/", 1)[1]

        with pytest.raises(FhirError) as read:
            await background.status(SYSTEM, id)
        with pytest.raises(FhirError) as dropped:
            await background.cancel(SYSTEM, id)
        still = await client.get(accepted.headers["Content-Location"])

    assert (read.value.status, dropped.value.status) == (404, 404)
    assert still.status_code == 200


async def test_a_request_whose_server_ended_is_told_as_lost(settings: Settings) -> None:
    async with deferring(settings) as (client, background):
        server = background.server
        me, past = await name_of_asker(server), server.now() - 1
        await deferred.add(server.database, Deferred("lost", me, past, past), MOST)
        reply = await client.get("/_async/lost")

    assert (reply.status_code, issue(reply)) == (500, ("exception", LOST))


async def test_a_request_that_runs_here_is_never_lost_though_no_sign_of_it_was_written(
    settings: Settings,
) -> None:
    held = asyncio.Event()
    async with deferring(settings) as (client, background):
        server = background.server
        me, past = await name_of_asker(server), server.now() - 1
        await deferred.add(server.database, Deferred("slow", me, past, past), MOST)
        background.tasks["slow"] = task = asyncio.create_task(answered_when(held))
        running = await client.get("/_async/slow")
        held.set()
        await task
        del background.tasks["slow"]

    assert running.status_code == 202


async def name_of_asker(server: Server) -> str:
    """Return who the client is in the books of the server."""
    bearer = Bearer(server.database, lambda: server)
    return (await bearer.caller(AUTHORIZED["Authorization"])).name


async def answered_when(held: asyncio.Event) -> None:
    """Run until something happens."""
    await held.wait()


async def test_an_answer_that_was_kept_long_enough_is_gone(settings: Settings) -> None:
    async with deferring(settings) as (client, background):
        server = background.server
        me, now = await name_of_asker(server), server.now()
        await deferred.add(server.database, Deferred("old", me, now, now), MOST)
        await deferred.finish(server.database, "old", b"{}", now - 1)
        reply = await client.get("/_async/old")
        await deferred.expire(server.database, server.now())
        left = await deferred.find(server.database, "old", me)

    assert reply.status_code == 404
    assert left is None


async def test_who_fetches_nothing_is_told_to(settings: Settings) -> None:
    async with deferring(settings) as (client, background):
        server = background.server
        me, now = await name_of_asker(server), server.now()
        for n in range(MOST):
            await deferred.add(server.database, Deferred(f"{n}", me, now, now + 10**9), MOST)
        reply = await client.get("/Patient", headers=ASYNC)

    assert (reply.status_code, issue(reply)[0]) == (429, "throttled")
    assert reply.headers["Retry-After"]


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
async def test_what_runs_is_counted_and_can_be_cancelled(
    settings: Settings, database_url: str
) -> None:
    holder = await asyncpg.connect(database_url)
    patient_server = settings.model_copy(update={"search_timeout_seconds": 600.0})
    async with deferring(patient_server) as (client, background):
        held = holder.transaction()
        await held.start()
        await holder.execute("LOCK TABLE resource IN ACCESS EXCLUSIVE MODE")
        running = [await client.get("/Patient", headers=ASYNC) for _ in range(RUNNING)]
        too_many = await client.get("/Patient", headers=ASYNC)
        waiting = await client.get(running[0].headers["Content-Location"])
        cancelled = await client.delete(running[0].headers["Content-Location"])
        # Another server would find the row gone, and this one would end it at its next look
        while len(background.tasks) == RUNNING:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        left = len(background.tasks)
        await held.rollback()
        answers = [only_entry(await fetched(client, one)) for one in running[1:]]
        gone = await client.get(running[0].headers["Content-Location"])
    await holder.close()

    assert (too_many.status_code, issue(too_many)[0]) == (503, "throttled")
    assert waiting.status_code == 202
    assert waiting.headers["X-Progress"] == "in progress"
    assert (cancelled.status_code, gone.status_code) == (202, 404)
    assert left == RUNNING - 1
    assert [one["response"]["status"][:3] for one in answers] == ["200"] * (RUNNING - 1)


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
async def test_a_search_that_is_cancelled_twice_leaves_no_transaction_to_the_next(
    database_url: str,
) -> None:
    begun, used = asyncio.Event(), list[Any]()

    async def endless(connection: db.Connection) -> None:
        used.append(connection)
        await connection.snapshot()
        begun.set()
        await connection.rows(db.Statement("SELECT pg_sleep(600)", ()), {})

    async def short(connection: db.Connection) -> list[Any]:
        return list(await connection.rows(db.Statement("SELECT 1", ()), {}))

    database = db.connect(database_url, 600.0, 1)
    await database.open()
    searching = asyncio.create_task(database.search(endless))
    await begun.wait()
    searching.cancel()
    while used[0].in_transaction:  # until it ends it  # noqa: ASYNC110
        await asyncio.sleep(0)
    searching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await searching
    found = await database.search(short)
    await database.close()

    assert [tuple(row) for row in found] == [(1,)]


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
async def test_a_request_that_cannot_be_noted_is_told_to_come_again(
    settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.db.sqlite.BUSY_SECONDS", 0.05)
    async with connected(settings) as client:
        with closing(sqlite3.connect(database_url.removeprefix("sqlite:///"))) as other:
            other.execute("BEGIN IMMEDIATE")
            refused = await client.get("/Patient", headers=ASYNC)
        accepted = await client.get("/Patient", headers=ASYNC)

    assert (refused.status_code, issue(refused)[0]) == (503, "transient")
    assert refused.headers["Retry-After"]
    assert accepted.status_code == 202


async def test_a_server_that_ends_lets_what_runs_be_answered(settings: Settings) -> None:
    async with connected(settings) as client:
        entries = [post(patient()) for _ in range(50)]
        accepted = await client.post("/", json=transaction(*entries), headers=ASYNC)
    async with connected(settings) as client:
        entry = only_entry(await fetched(client, accepted))
        found = await client.get("/Patient?_summary=count&_total=accurate")

    assert len(entry["resource"]["entry"]) == 50
    assert found.json()["total"] == 50
