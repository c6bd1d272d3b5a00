"""The application as a client sees it, without a socket between."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
from fastapi import FastAPI

from app.config import Settings
from app.main import create_app
from tests.support.tokens import AUTHORIZED

JSON = "application/fhir+json"


@asynccontextmanager
async def connected(settings: Settings, **constants: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of a server with these settings; its paths begin at the FHIR base.

    It asks with the token that is in every copy of the migrated database. `constants` are fields of
    the server that no setting changes.
    """
    app = create_app(settings)
    async with started(app):
        app.state.server = replace(app.state.server, **constants)
        transport = httpx.ASGITransport(app)
        headers = {"Accept": JSON, "Content-Type": JSON, **AUTHORIZED}
        async with httpx.AsyncClient(
            transport=transport, base_url=settings.base_url, headers=headers
        ) as client:
            yield client


@asynccontextmanager
async def started(app: FastAPI) -> AsyncIterator[None]:
    """Run the lifespan of `app` in one task of its own, as a server does.

    A fixture is left in another task than it was entered in, which task groups do not survive.
    """
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    done = asyncio.Event()

    async def live() -> None:
        async with app.router.lifespan_context(app):
            ready.set_result(None)
            await done.wait()

    task = asyncio.create_task(live())
    await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        ready.cancel()
        await task  # raises what stopped the start
    try:
        yield
    finally:
        done.set()
        await task
