"""A clean, migrated database for every test, on both engines, and a client of a server on it.

A test that asks for `database_url`, `settings` or `client` runs twice: on SQLite and on
PostgreSQL. Each starts from a copy of a database that was migrated once and
knows one token, with which everything may be done.
"""

import gc
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import hypothesis
import pytest

from app.config import Settings
from tests.support.application import connected
from tests.support.migrations import upgrade
from tests.support.postgresql import PostgreSQL, postgresql
from tests.support.tokens import admit

ENGINES = ["sqlite", "postgresql"]
BASE_URL = "http://milepost.test/fhir"

# The same examples every time, and no verdict on how fast the machine is;
# `pytest --hypothesis-profile default` looks for new ones
hypothesis.settings.register_profile(
    "milepost",
    derandomize=True,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("milepost")


@pytest.fixture(scope="session", autouse=True)
def seldom_collected() -> None:
    """Let the collector look seldom, and never at what all tests share, as a server does."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(scope="session", autouse=True)
def no_settings_from_outside() -> Iterator[None]:
    """Keep the settings of whoever runs the tests out of them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in Settings.model_fields:
            patch.delenv(f"MILEPOST_{name.upper()}", raising=False)
        yield


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQL]:
    """A PostgreSQL server for the tests of this process."""
    with postgresql() as server:
        yield server


@pytest.fixture(scope="session")
def durable_postgresql_server() -> Iterator[PostgreSQL]:
    """A PostgreSQL server that writes to disk before it answers."""
    with postgresql(durable=True) as server:
        yield server


@pytest.fixture(scope="session")
def postgresql_template(postgresql_server: PostgreSQL) -> Iterator[str]:
    """The name of a migrated database that is only ever copied."""
    name = f"milepost_{os.getpid()}"
    url = postgresql_server.create(name)
    upgrade(url)
    admit(url)
    yield name
    postgresql_server.drop(name)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file that is only ever copied."""
    file = tmp_path_factory.mktemp("template") / "milepost.db"
    upgrade(f"sqlite:///{file}")
    admit(f"sqlite:///{file}")
    return file


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """The engine that this run of the test is about: sqlite or postgresql."""
    name: str = request.param
    return name


@pytest.fixture
def empty_database_url(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[str]:
    """The URL of a database without any table."""
    if engine == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    yield from disposable(request.getfixturevalue("postgresql_server"), "template0")


@pytest.fixture
def database_url(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a migrated database that only this test uses."""
    if engine == "sqlite":
        template = request.getfixturevalue("sqlite_template")
        yield f"sqlite:///{shutil.copy(template, tmp_path / 'milepost.db')}"
        return
    template = request.getfixturevalue("postgresql_template")
    yield from disposable(request.getfixturevalue("postgresql_server"), template)


def disposable(server: PostgreSQL, template: str) -> Iterator[str]:
    """Yield the URL of a new copy of `template` and drop it afterwards."""
    name = f"milepost_{uuid4().hex}"
    yield server.create(name, template)
    server.drop(name)


@pytest.fixture
def settings(database_url: str) -> Settings:
    """The settings of a server on this test's database, which does not tell of each request."""
    return Settings(database_url=database_url, base_url=BASE_URL, log_level="warning")


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a running server, whose paths begin at the FHIR base: `/Patient/1`."""
    async with connected(settings) as client:
        yield client
