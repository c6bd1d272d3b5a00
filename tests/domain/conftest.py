"""A furnished database for every test of the program, on both engines, and a client with a clock.

It is migrated and furnished once for each engine, then copied.
"""

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from app.config import Settings
from app.main import furnish
from tests.conftest import BASE_URL, disposable
from tests.domain.office import Iop, opened
from tests.support.migrations import upgrade
from tests.support.postgresql import PostgreSQL
from tests.support.tokens import admit


@pytest.fixture(scope="session")
def furnished_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the vocabulary of a program, only ever copied."""
    file = tmp_path_factory.mktemp("furnished") / "milepost.db"
    _furnish(f"sqlite:///{file}")
    return file


@pytest.fixture(scope="session")
def furnished_postgresql(postgresql_server: PostgreSQL) -> Iterator[str]:
    """The name of a database with the vocabulary of a program, only ever copied."""
    name = f"furnished_{os.getpid()}"
    _furnish(postgresql_server.create(name))
    yield name
    postgresql_server.drop(name)


def _furnish(url: str) -> None:
    upgrade(url)
    admit(url)
    furnish(Settings(database_url=url, base_url=BASE_URL))


@pytest.fixture
def program_url(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a furnished database that only this test uses."""
    if engine == "sqlite":
        template = request.getfixturevalue("furnished_sqlite")
        yield f"sqlite:///{shutil.copy(template, tmp_path / 'milepost.db')}"
        return
    template = request.getfixturevalue("furnished_postgresql")
    yield from disposable(request.getfixturevalue("postgresql_server"), template)


@pytest.fixture
def program_settings(program_url: str) -> Settings:
    """The settings of a server on this test's furnished database."""
    return Settings(database_url=program_url, base_url=BASE_URL, log_level="warning")


@pytest.fixture
async def iop(program_settings: Settings) -> AsyncIterator[Iop]:
    """A client of a running server of a program, with a clock that tests set."""
    async with opened(program_settings) as iop:
        yield iop
