"""Pages for machines that look after the server; they tell nothing but a word."""

import asyncio

import httpx
import pytest
from sqlalchemy import text

from app.config import Settings
from tests.house.test_migrations import connected as in_database
from tests.support.application import connected

ROOT = "http://milepost.test"


async def execute(database_url: str, statement: str) -> None:
    """Execute one statement as another process would."""
    await asyncio.to_thread(in_database, database_url, lambda c: c.execute(text(statement)))


async def test_a_server_that_answers_is_alive_and_ready(client: httpx.AsyncClient) -> None:
    live = await client.get(f"{ROOT}/health/live")
    ready = await client.get(f"{ROOT}/health/ready")

    assert (live.status_code, live.json()) == (200, {"status": "live"})
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
    assert ready.headers["Cache-Control"] == "no-store"


async def test_a_server_whose_schema_was_changed_is_alive_but_not_ready(
    settings: Settings,
) -> None:
    async with connected(settings) as client:
        await execute(settings.database_url, "UPDATE alembic_version SET version_num = '0001'")
        live = await client.get(f"{ROOT}/health/live")
        ready = await client.get(f"{ROOT}/health/ready")

    assert live.status_code == 200
    assert ready.status_code == 503
    assert ready.json() == {
        "status": "not ready",
        "problem": "the database schema is not that of this version",
    }


async def test_a_server_whose_database_is_gone_is_alive_but_not_ready(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(settings) as client:
        await execute(settings.database_url, "DROP TABLE alembic_version")
        live = await client.get(f"{ROOT}/health/live")
        ready = await client.get(f"{ROOT}/health/ready")

    assert live.status_code == 200
    assert ready.status_code == 503
    assert ready.json()["problem"] == "the database does not answer"
    assert "alembic" not in caplog.text


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics"])
async def test_the_pages_are_read_and_nothing_else(client: httpx.AsyncClient, path: str) -> None:
    got, head = await client.get(f"{ROOT}{path}"), await client.head(f"{ROOT}{path}")
    posted = await client.post(f"{ROOT}{path}", json={})

    assert (got.status_code, head.status_code) == (200, 200)
    assert head.content == b""
    assert (posted.status_code, posted.headers["Allow"]) == (405, "GET, HEAD")
