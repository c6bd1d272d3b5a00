"""What is answered is in the trail before: groups, failures, crashes."""

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path

import httpx
import pytest

from app import db
from app.config import Settings
from app.fhir.audit import Trail, security_event
from tests.audit.office import admit, by, execute, opened, settle, trail
from tests.support.application import connected
from tests.support.process import serving
from tests.support.resources import patient
from tests.support.tokens import AUTHORIZED


async def test_who_comes_together_is_committed_together(settings: Settings) -> None:
    async with opened(settings.database_url) as database:
        noted = Trail(database, {}, 1)
        before = database.load().done.statements

        await asyncio.gather(
            *(noted.note(security_event(1, f"a{n}", "token", 0)) for n in range(150))
        )

        spent = database.load().done.statements - before
    rows = await trail(settings.database_url)
    assert Counter(row.agent for row in rows) == Counter(f"a{n}" for n in range(150))
    assert spent < 20


async def test_of_many_events_each_has_to_be_committed(settings: Settings) -> None:
    """More than a commit has room for are in several, and one of them cannot be written."""
    events = [security_event(1, f"a{n}", "token", 0) for n in range(450)]
    async with opened(settings.database_url) as database:
        noted = Trail(database, {}, 1)
        await noted.note(*events)
        assert len(await trail(settings.database_url)) == 450

        unwritable = security_event(1, "a", "token", 0, what=object())

        with pytest.raises(TypeError):
            await noted.note(unwritable, *events)


async def test_whoever_gives_up_waiting_takes_nothing_from_the_others(settings: Settings) -> None:
    async with opened(settings.database_url) as database:
        noted = Trail(database, {}, 1)
        tasks = [
            asyncio.create_task(noted.note(security_event(1, f"a{n}", "token", 0)))
            for n in range(9)
        ]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()

        await asyncio.gather(*tasks, return_exceptions=True)

    rows = await trail(settings.database_url)
    assert {row.agent for row in rows} >= {f"a{n}" for n in range(1, 9, 2)}


async def test_rows_of_several_processes_have_ids_of_their_own(settings: Settings) -> None:
    async with opened(settings.database_url) as one, opened(settings.database_url) as two:
        trails = [Trail(one, {}, 1), Trail(two, {}, 2)]

        await asyncio.gather(
            *(t.note(security_event(1, "a", "token", 0)) for t in trails for _ in range(50))
        )

    assert len(await trail(settings.database_url)) == 100


@pytest.mark.parametrize(
    "url",
    [
        *("/Patient/ada", "/Patient", "/Patient/_history", "/Patient/ada/$everything"),
        *("/Patient/ada?_format=x", "/Nothing/1", "/_async/nothing"),
    ],
)
async def test_what_cannot_be_recorded_is_not_answered(
    clinic: httpx.AsyncClient, settings: Settings, url: str
) -> None:
    async with opened(settings.database_url) as database:
        await execute(database, ["DROP TABLE audit"])

    reply = await clinic.get(url)

    assert reply.status_code == 503
    assert "Marsh" not in reply.text


async def test_what_cannot_be_recorded_is_not_written(
    clinic: httpx.AsyncClient, settings: Settings
) -> None:
    async with opened(settings.database_url) as database:
        await execute(database, ["DROP TABLE audit"])

        reply = await clinic.put("/Patient/new", json=patient(id="new"))

        found = db.Statement("SELECT id FROM resource WHERE id = 'new' AND state = 1", ())
        rows = await database.read(lambda connection: connection.rows(found, {}))
    assert reply.status_code >= 500
    assert list(rows) == []


async def test_many_at_once_leave_a_row_each(settings: Settings) -> None:
    await admit(settings.database_url)
    async with connected(settings) as client:
        await settle(client)
        before = len(await trail(settings.database_url))

        replies = await asyncio.gather(
            *(client.get(f"/Observation?_count={n}", headers=by("nurse")) for n in range(1, 41)),
            *(client.put(f"/Patient/p{n}", json=patient(id=f"p{n}")) for n in range(20)),
        )

    rows = await trail(settings.database_url, before)
    assert {reply.status_code for reply in replies} == {200, 201}
    assert Counter(row.code for row in rows) == {"search-type": 40, "update": 20}


async def test_a_crash_loses_no_row_of_what_was_answered(
    settings: Settings, tmp_path: Path
) -> None:
    await admit(settings.database_url)
    url = settings.database_url
    asked: list[str] = []
    with serving(url, tmp_path / "log") as server:
        async with httpx.AsyncClient(base_url=server.base_url, headers=AUTHORIZED) as client:
            await client.put("/Patient/ada", json=patient(id="ada"))

            async def ask(n: int) -> None:
                for m in range(1000):
                    id = f"asked-{n}-{m}"
                    reply = await client.get("/Patient/ada", headers={"X-Request-Id": id})
                    asked.append(reply.headers["X-Request-Id"])
                    if len(asked) == 100:
                        os.killpg(server.popen.pid, signal.SIGKILL)

            await asyncio.gather(*(ask(n) for n in range(6)), return_exceptions=True)

    noted = {row.detail.get("request") for row in await trail(url)}
    assert len(asked) >= 100
    assert {*asked} <= noted
