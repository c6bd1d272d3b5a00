"""Servers with a clock and ids of their own, so that two of them give the same answers."""

import shutil
from collections.abc import AsyncIterator, Iterator
from copy import copy
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from app.config import Settings
from app.fhir.access import SYSTEM
from app.fhir.rest import Server
from app.main import build
from tests.access.door import Door, empty
from tests.conftest import BASE_URL, disposable

# The examples of a test share its database, which each of them finds empty (`fresh`). They are the
# same in each run: a test that fails must fail for whoever changed something.
settings.register_profile(
    "database",
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
DATABASE = settings.get_profile("database")

START = 1_780_000_000_000_000  # microseconds: 2026-05-28


def predictable(server: Server) -> Server:
    """Return the same server with a clock and ids that count."""
    ticks, ids = count(1), count(1)
    editions = copy(server.editions)
    editions.current = editions.made(replace(server.catalogue, secret=b"s" * 32))
    return replace(
        server,
        now=lambda: START + next(ticks) * 1000,
        new_id=lambda: f"n{next(ids)}",
        editions=editions,
        edition=editions.current,
    )


async def fresh(door: Door) -> Door:
    """Return the door of a server as it was on the first day."""
    await empty(door.server)
    return Door(predictable(door.server), door.caller)


@pytest.fixture
async def door(settings: Settings) -> AsyncIterator[Door]:
    """The door of a server on this test's database."""
    async with build(settings) as server:
        yield Door(server, SYSTEM)


@pytest.fixture
def both_settings(
    sqlite_template: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Settings, Settings]]:
    """The settings of two servers, one on each engine."""
    file = shutil.copy(sqlite_template, tmp_path / "twin.db")
    server = request.getfixturevalue("postgresql_server")
    for url in disposable(server, request.getfixturevalue("postgresql_template")):
        yield (
            Settings(database_url=f"sqlite:///{file}", base_url=BASE_URL),
            Settings(database_url=url, base_url=BASE_URL),
        )


@pytest.fixture
async def twins(both_settings: tuple[Settings, Settings]) -> AsyncIterator[tuple[Door, Door]]:
    """The doors of two servers that differ in their engine alone."""
    one, other = both_settings
    async with build(one) as first, build(other) as second:
        yield Door(first, SYSTEM), Door(second, SYSTEM)
