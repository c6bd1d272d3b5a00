"""The composition root: settings in, a running application out. The one place that wires."""

import asyncio
import gc
import logging
import math
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from fastapi import FastAPI

from app import db, logs, private
from app.api import docs, grants, page, smart
from app.api.bearer import Bearer
from app.api.deferring import Deferring
from app.api.health import pages, sample
from app.api.http import Endpoint
from app.api.metrics import Metrics
from app.api.watch import Watch
from app.config import Settings
from app.domain import furnishing
from app.domain import operations as iop
from app.domain.vocabulary import Vocabulary
from app.fhir import audit, capability, definitions
from app.fhir.edition import Edition, Editions
from app.fhir.operations import Operations, standard
from app.fhir.query import Language
from app.fhir.rest import Server
from app.fhir.store import (
    Catalogue,
    instant,
    is_current,
    maintenance,
    membership,
    open_catalogue,
)
from app.fhir.validation import Validator
from app.fhir.values import new_id

log = logging.getLogger("milepost")

ROOT = Path(__file__).parents[1]
BODIES = 4  # bodies of the largest kind that may be in memory at once


class NotMigrated(Exception):
    """The database is not at the migration head; the text says what to run."""


def software_version() -> str:
    """Return the version of the installed package."""
    try:
        return version("milepost")
    except PackageNotFoundError:
        return "0"


def alembic_config(database_url: str) -> Config:
    """Return Alembic's configuration for a database."""
    config = Config(toml_file=ROOT / "pyproject.toml")
    config.attributes["database_url"] = database_url
    return config


def migrate(settings: Settings) -> None:
    """Bring the database to the migration head, and the shipped terminology into it.

    A new SQLite file is made. No event loop may be running in this thread.
    """
    command.upgrade(alembic_config(settings.database_url), "head")
    asyncio.run(install_terminology(settings))


async def install_terminology(settings: Settings) -> None:
    """Put the terminology of this version into a migrated database that has another, or none."""
    database = db.connect(settings.database_url, settings.search_timeout_seconds, 1)
    await database.open()
    try:
        if not await membership.installed(database):
            await membership.install(database, definitions.load())
    finally:
        await database.close()


def furnish(settings: Settings) -> None:
    """Bring the vocabulary of a program into a migrated database, so that all searches find it.

    No event loop may be running in this thread.
    """
    asyncio.run(install_vocabulary(settings))


async def install_vocabulary(settings: Settings) -> None:
    """Store what of the vocabulary the database has otherwise, or not, and index by it."""
    async with build(settings, maintaining=True, audited=False) as server:
        await furnishing.furnish(server, settings.canonical_base)
        await server.editions.renew()
        await maintenance.finish(server.database, server.newest().catalogue, fresh_id(), clock)


def head(settings: Settings) -> str:
    """Return the revision of the schema that this version needs."""
    script = ScriptDirectory.from_config(alembic_config(settings.database_url))
    return script.get_current_head() or ""


async def check_migrated(database: db.Database, settings: Settings) -> None:
    """Raise NotMigrated unless the schema is at the head."""
    if await database.revision() != head(settings):
        raise NotMigrated("The database schema is not up to date. Run: milepost migrate")


async def check_installed(database: db.Database) -> None:
    """Raise NotMigrated unless an open database has the terminology of this version."""
    if not await membership.installed(database):
        raise NotMigrated("The shipped terminology is not up to date. Run: milepost migrate")


STALE = "The index is of another version, zone or vocabulary. Run: milepost reindex"


UNFURNISHED = "The vocabulary is of another version or base. Run: milepost migrate"


async def check_indexed(database: db.Database, settings: Settings) -> None:
    """Raise NotMigrated unless searches of this version find all that is in an open database."""
    zone, rosters = settings.zone, Vocabulary(settings.canonical_base).rosters

    async def current(connection: db.Connection, *, texts: bool) -> bool:
        return await is_current(connection, database.dialect, zone, texts=texts, rosters=rosters)

    if not await database.read(partial(current, texts=False)):
        raise NotMigrated(STALE)
    if settings.text_search and not await database.read(partial(current, texts=True)):
        raise NotMigrated("The search index has no texts yet. Run: milepost reindex")


async def check_ready(settings: Settings) -> None:
    """Raise NotMigrated unless a server could start on these settings."""
    limits = (settings.search_timeout_seconds, settings.database_connections)
    database = db.connect(settings.database_url, *limits)
    await check_migrated(database, settings)
    await database.open()
    try:
        await check_installed(database)
        await check_indexed(database, settings)
    finally:
        await database.close()


def clock() -> int:
    """Return microseconds since 1970, cut to the milliseconds that lastUpdated shows."""
    return time.time_ns() // 1_000_000 * 1000


def fresh_id() -> str:
    """Return a new UUIDv7."""
    return new_id(time.time_ns() // 1_000_000, os.urandom(10))


def settle() -> None:
    """Tell the collector that what is here now stays, so that it need not look at it again.

    For a process that has one server until it ends: whatever is frozen is never given back.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@asynccontextmanager
async def build(
    settings: Settings,
    *,
    maintaining: bool = False,
    seconds: float = math.inf,
    audited: bool = True,
) -> AsyncIterator[Server]:
    """Yield the engine on an open database, without HTTP; raises NotMigrated.

    One for `maintaining` the index takes it as it is, and does no job unasked. A read, a
    transaction and a batch may take so many `seconds`. What is not `audited` leaves no trail.
    """
    limits = (settings.search_timeout_seconds, settings.database_connections)
    database = db.connect(settings.database_url, *limits)
    await check_migrated(database, settings)
    await database.open()
    try:
        await check_installed(database)
        if not maintaining:
            await check_indexed(database, settings)
        known = definitions.load()
        operations = offered(settings)
        editions = await open_editions(settings, database, known, operations)
        server = Server(
            base_url=settings.base_url,
            database=database,
            editions=editions,
            edition=editions.current,
            validator=Validator(known),
            operations=operations,
            now=clock,
            new_id=fresh_id,
            conditional_delete=settings.conditional_delete,
            referential_integrity=settings.referential_integrity,
            max_resource_bytes=settings.max_resource_bytes,
            batch_seconds=seconds,
            trail=audit.Trail(database, known.type_numbers, secrets.randbelow(audit.SLOTS))
            if audited
            else None,
            sources={audit.TYPE: partial(audit.answered, database)},
            rules=iop.rules(Vocabulary(settings.canonical_base)),
        )
        if maintaining:
            yield server
            return
        await database.limit(seconds)
        keeping = [asyncio.create_task(editions.keep(fresh_id(), clock))]
        if audited:
            keeping.append(asyncio.create_task(audit.keep_sealed(database)))
        try:
            yield server
        finally:
            for task in keeping:
                task.cancel()
            await asyncio.wait(keeping)
    finally:
        await database.close()


async def open_editions(
    settings: Settings,
    database: db.Database,
    known: definitions.Definitions,
    operations: Operations,
) -> Editions:
    """Return what follows from the definitions that are in force in an open database."""
    entropy = os.urandom(32)
    offer = capability.Offer(
        software=software_version(),
        started=instant(clock()),
        operations=operations,
        conditional_delete=settings.conditional_delete,
        enforced=settings.referential_integrity == "enforce",
        security=smart.places(settings.base_url).security,
    )

    async def read(before: Catalogue | None) -> Catalogue:
        return await open_catalogue(
            database,
            known,
            settings.base_url,
            settings.zone,
            entropy,
            before,
            texts=settings.text_search,
            rosters=Vocabulary(settings.canonical_base).rosters,
        )

    def made(catalogue: Catalogue) -> Edition:
        building = catalogue.building
        kinds = catalogue.indexer.parameter_kinds
        language = replace(
            search_language(settings, catalogue.definitions),
            building=building,
            variants=lambda kind, code: kinds(kind)[code].variants,
        )
        write = partial(capability.statement, language, offer, building)
        return Edition(catalogue, language, cache(write))

    return Editions(database, read, made, await read(None))


def offered(settings: Settings) -> Operations:
    """Return the operations of a server with these settings: R4's, ours, and the program's."""
    known = standard(settings.base_url)
    of_program = iop.operations(Vocabulary(settings.canonical_base))
    return replace(known, rows=(*known.rows, *of_program))


def search_language(settings: Settings, known: definitions.Definitions) -> Language:
    """Return the search language of a server with these settings."""
    return Language(
        known,
        settings.base_url,
        settings.zone,
        settings.page_size,
        settings.max_page_size,
        lenient=settings.search_handling == "lenient",
        texts=settings.text_search,
    )


def create_app(settings: Settings, *, alone: bool = False, guarded: bool = True) -> FastAPI:
    """Return the application: the FHIR routes, and pages that describe them.

    Serving starts once the lifespan has opened the database. It may be `alone` in its process until
    that ends. One that is not `guarded` lets anybody do anything and records nothing: with it
    benchmarks measure what guarding costs.
    """
    prefix = urlsplit(settings.base_url).path
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        seconds = settings.request_timeout_seconds
        async with build(settings, seconds=seconds, audited=guarded) as server:
            if not await furnishing.is_furnished(server, settings.canonical_base):
                log.warning(UNFURNISHED)
            app.state.server = server
            app.state.bearer = Bearer(server.database, lambda: app.state.server)
            app.state.deferring = deferring = Deferring(server)
            if alone:
                settle()
            beside = [
                asyncio.create_task(sample_for_others(metrics, server)),
                asyncio.create_task(deferring.keep()),
                asyncio.create_task(grants.keep_clean(server.database, server.now)),
            ]
            yield
            await deferring.close(settings.request_timeout_seconds)
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)

    app = FastAPI(
        title="Milepost",
        version=software_version(),
        description="A FHIR R4 server for intensive outpatient programs.",
        lifespan=lifespan,
        docs_url=None,  # `docs` has a page that runs nobody else's scripts
        redoc_url=None,
        redirect_slashes=False,  # to the host that a client names, whoever that is
    )
    app.add_middleware(
        Endpoint,
        prefix=prefix,
        max_resource_bytes=settings.max_resource_bytes,
        max_bundle_bytes=settings.max_bundle_bytes,
        guarded=guarded,
    )
    app.add_middleware(  # the last one is the outermost
        Watch,
        pages=pages(head(settings), metrics, proxied=bool(settings.trusted_proxies)),
        metrics=metrics,
        access=logs.access_log(settings.log_format, settings.log_level),
        limit=settings.max_concurrent_requests,
        body_seconds=settings.request_timeout_seconds,
        body_bytes=BODIES * max(settings.max_bundle_bytes, settings.max_resource_bytes),
    )
    where = smart.places(settings.base_url)
    app.include_router(smart.router(settings.base_url))
    app.include_router(page.router(settings.base_url))
    app.include_router(docs.router)
    app.add_middleware(smart.Origins, where, prefix, settings.cors_origins)
    app.openapi = _described(app, settings, prefix)  # type: ignore[method-assign]
    return app


def application() -> FastAPI:
    """Return the application with the settings of the environment: what a server process runs."""
    settings = Settings()
    private.check(settings.database_url, settings.tls_certificate)
    logs.configure(settings.log_level, settings.log_format)
    return create_app(settings, alone=True)


async def sample_for_others(metrics: Metrics, server: Server) -> None:
    """Note every second what is under way, for a sibling that is asked for all numbers."""
    while metrics.shared:
        sample(metrics, server)
        await asyncio.sleep(1)


def _described(app: FastAPI, settings: Settings, prefix: str) -> Callable[[], dict[str, Any]]:
    """Return the function that gives /openapi.json: FastAPI's own, and the FHIR routes."""
    own = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = own()
            language = search_language(settings, definitions.load())
            paths = capability.openapi(language, offered(settings), prefix)
            schema["paths"] = {**paths, **schema["paths"]}
            app.openapi_schema = schema
        return app.openapi_schema or {}

    return openapi
