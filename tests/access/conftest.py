"""A server without HTTP, asked by whomever a test names; and one with a world that stays."""

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from app.config import Settings
from app.fhir.access import SYSTEM
from app.main import build
from tests.access.door import Door
from tests.access.world import WORLD
from tests.conftest import BASE_URL, ENGINES, disposable


@pytest.fixture
async def door(settings: Settings) -> AsyncIterator[Door]:
    """The door of somebody who may do everything."""
    async with build(settings) as server:
        yield Door(server, SYSTEM)


@pytest.fixture
async def world(door: Door) -> Door:
    """The door of a server on which all of WORLD is at version 2."""
    await settle(door)
    return door


async def settle(door: Door) -> None:
    """Put all of WORLD, twice."""
    for changes in ({"language": "en"}, {}):
        for body in WORLD:
            reply = await door.put({**body, **changes})
            assert reply.status in (200, 201), reply.body


@pytest.fixture(scope="session", params=ENGINES)
def lasting_settings(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """The settings of a server on a database that many tests read."""
    yield from lasting(request, tmp_path_factory)


@pytest.fixture(scope="session", params=ENGINES)
def clinic_settings(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """The settings of another such server, which searches by words."""
    for settings in lasting(request, tmp_path_factory):
        yield settings.model_copy(update={"text_search": True})


def lasting(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """Yield the settings of a server on a database of its own, on the engine of this run."""
    if request.param == "sqlite":
        template: Path = request.getfixturevalue("sqlite_template")
        file = shutil.copy(template, tmp_path_factory.mktemp("world") / "milepost.db")
        yield Settings(database_url=f"sqlite:///{file}", base_url=BASE_URL)
        return
    server = request.getfixturevalue("postgresql_server")
    for url in disposable(server, request.getfixturevalue("postgresql_template")):
        yield Settings(database_url=url, base_url=BASE_URL)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def lasting_world(lasting_settings: Settings) -> AsyncIterator[Door]:
    """A world that nobody writes to."""
    async with build(lasting_settings) as server:
        door = Door(server, SYSTEM)
        await settle(door)
        yield door
