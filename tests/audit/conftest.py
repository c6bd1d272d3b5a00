"""A client of a server that has records, and people who may ask it."""

from collections.abc import AsyncIterator

import httpx
import pytest

from app.config import Settings
from tests.audit.office import admit, settle, trail
from tests.support.application import connected


@pytest.fixture
async def clinic(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server with records and people; without headers of its own it may do all."""
    await admit(settings.database_url)
    async with connected(settings) as client:
        await settle(client)
        yield client


@pytest.fixture
async def before(clinic: httpx.AsyncClient, settings: Settings) -> int:
    """How many rows there are before the test does anything."""
    return len(await trail(settings.database_url))
