"""What is logged: a line for each request and each failure, and nothing of what is stored."""

import contextlib
import json
import logging
import os
import sqlite3
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
import uvicorn

from app import logs
from app.config import Settings
from app.fhir.store import Store
from app.main import create_app
from tests.support.application import connected
from tests.support.resources import patient

SECRET = "Quendolin"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The settings of a server that tells of each request, as it does by default."""
    return settings.model_copy(update={"log_level": Settings.model_fields["log_level"].default})


def lines(captured: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Return what was written to standard error, a JSON object a line."""
    return [json.loads(line) for line in captured.readouterr().err.splitlines()]


async def test_each_request_is_one_line_with_its_route(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    async with connected(settings) as client:
        await client.put("/Patient/a", json=patient(id="a"), headers={"X-Request-Id": "mine"})
        await client.get("/Patient?name=x")
        await client.get("/Nonsense/a/b/c/d")

    told = lines(capsys)
    wanted = ("level", "logger", "method", "route", "interaction", "status")
    assert [tuple(line[name] for name in wanted) for line in told] == [
        ("info", "milepost.access", "PUT", "/[type]/[id]", "update", 201),
        ("info", "milepost.access", "GET", "/[type]", "search-type", 200),
        ("info", "milepost.access", "GET", "", "none", 404),
    ]
    assert told[0]["request"] == "mine"
    assert told[1]["request"]
    assert all(line["milliseconds"] >= 0 and line["time"].endswith("Z") for line in told)


async def test_no_line_tells_what_was_asked_or_stored(
    settings: Settings, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    body = patient(id=SECRET, name=[{"family": SECRET}])
    async with connected(settings) as client:
        await client.put(f"/Patient/{SECRET}", json=body)
        await client.get(f"/Patient/{SECRET}")
        await client.get(f"/Patient?name={SECRET}")
        await client.get(f"/Patient?{SECRET}=x")
        await client.post("/Patient/_search", content=f"name={SECRET}")
        await client.request(SECRET.upper(), f"/Patient/{SECRET}")
        await client.put(f"/Patient/{SECRET}", json={**body, SECRET: 1})
        await client.post("/Patient", json=body, headers={"If-None-Exist": f"name={SECRET}"})
        await client.get(f"/{SECRET}")

    assert SECRET.lower() not in (capsys.readouterr().err + caplog.text).lower()


async def test_lines_for_people_and_none_at_all(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    for given in ({"log_format": "text"}, {"log_level": "warning"}):
        changed = Settings(**{**settings.model_dump(), **given})
        async with connected(changed) as client:
            await client.get("/Patient/none")

    (only,) = capsys.readouterr().err.splitlines()
    assert " info milepost.access: request method=GET route=/[type]/[id] " in only


async def test_requests_are_answered_though_nobody_takes_the_lines(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.pipe()
    os.close(read)
    nobody = os.fdopen(write, "w", buffering=1)
    with monkeypatch.context() as patched:
        patched.setattr("sys.stderr", nobody)
        async with connected(settings) as client:
            replies = [await client.get("/Patient/none") for _ in range(2)]
    with contextlib.suppress(BrokenPipeError):
        nobody.close()

    assert [reply.status_code for reply in replies] == [404, 404]


async def test_why_a_server_cannot_start_is_told_without_data(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise ValueError(SECRET)

    monkeypatch.setattr("app.main.build", fails)
    config = uvicorn.Config(create_app(settings), port=0, log_config=None)
    with pytest.raises(SystemExit):
        await uvicorn.Server(config).serve()

    told = "".join(logs.Lines("text").format(record) for record in caplog.records)
    assert "The server cannot start or end: ValueError" in told
    assert "Application startup failed" in told
    assert SECRET not in told


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, which is afterwards as it was before."""
    logger = logging.getLogger()
    before, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:] = before
    logger.setLevel(level)


def test_of_an_exception_its_text_is_never_written(
    root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("info", "json")
    try:
        try:
            raise ValueError(SECRET)
        except ValueError as error:
            raise RuntimeError(f"Key (family)=({SECRET}) exists") from error
    except RuntimeError:
        logging.getLogger("anybody").exception("It failed")

    (line,) = lines(capsys)
    assert (line["level"], line["logger"], line["message"]) == ("error", "anybody", "It failed")
    assert line["trace"].endswith("RuntimeError")
    assert "test_of_an_exception" in line["trace"]
    assert SECRET not in str(line)


def test_a_database_error_is_its_code_and_constraint() -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE person (name TEXT UNIQUE)")
    connection.execute("INSERT INTO person VALUES (?)", [SECRET])
    with pytest.raises(sqlite3.IntegrityError) as sqlite:
        connection.execute("INSERT INTO person VALUES (?)", [SECRET])
    connection.close()
    fields = {"C": "23505", "n": "person_name_key", "D": f"Key (name)=({SECRET}) already exists."}
    postgresql = asyncpg.PostgresError.new(fields)

    assert logs.fault(sqlite.value) == ("IntegrityError SQLITE_CONSTRAINT_UNIQUE person.name")
    assert logs.fault(postgresql) == "UniqueViolationError 23505 person_name_key"
    assert logs.fault(ValueError(SECRET)) == "ValueError"


async def test_a_failure_inside_is_a_500_and_a_line_without_data(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(*_: Any) -> Any:
        raise ValueError(SECRET)

    monkeypatch.setattr(Store, "read", fails)
    async with connected(settings) as client:
        reply = await client.get("/Patient/a")

    assert reply.status_code == 500
    assert reply.json()["resourceType"] == "OperationOutcome"
    assert "read failed: ValueError" in caplog.text
    assert SECRET not in caplog.text + reply.text
