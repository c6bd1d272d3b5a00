"""Commands that begin: `migrate` makes or updates the database, `serve` answers requests.

The first `serve` makes what nobody should have to think of: the key that tokens are signed with,
and an administrator, whose password is printed once and has to be changed when it is first used.
"""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from app import db
from app import main as house
from app.api import grants, serving
from app.cli.terminal import err, out, settings_or_exit
from app.cli.tokens import issued
from app.config import Settings
from app.fhir import audit
from app.private import SQLITE

ADMINISTRATOR = "admin"
SCOPE = "system/*.cruds"
SECONDS = 3600  # for which the printed token is good
BEFORE = Path("milepost.db")  # where earlier versions had the database


@dataclass(frozen=True)
class Printed:
    """What is shown once: a token to try the server with, the first administrator's password."""

    token: str = ""
    password: str = ""


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on")] = "",
    port: Annotated[int, typer.Option(help="Port to listen on")] = -1,
    workers: Annotated[int, typer.Option(help="Server processes (PostgreSQL only)")] = 0,
) -> None:
    """Serve the FHIR API until interrupted; the first time, make keys and an administrator."""
    given = {"HOST": host, "PORT": str(port) if port >= 0 else "", "WORKERS": str(workers or "")}
    os.environ.update({f"MILEPOST_{name}": value for name, value in given.items() if value})
    settings = settings_or_exit()
    if "MILEPOST_BASE_URL" not in os.environ:
        os.environ["MILEPOST_BASE_URL"] = reached_at(settings)
        settings = settings_or_exit()
    try:
        serving.check(settings)
        asyncio.run(house.check_ready(settings))
    except (serving.Unsafe, house.NotMigrated) as error:
        err.print(f"[red]{escape(str(error))}[/red]", soft_wrap=True)
        raise typer.Exit(1) from None
    greet(settings, asyncio.run(prepared(settings)))
    serving.run(settings)


def reached_at(settings: Settings) -> str:
    """Return the FHIR base of a server that nobody gave an address: where it listens."""
    scheme = "https" if settings.tls_certificate else "http"
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.port}/fhir"


async def prepared(settings: Settings) -> Printed:
    """Make what a server cannot be without, if it is not there, and return what is to be shown."""
    database = db.connect(settings.database_url, settings.search_timeout_seconds, 1)
    await database.open()
    try:
        trail = audit.Trail(database, {}, os.getpid())
        password = await first_administrator(database, trail)
        now = house.clock()
        made = audit.security_event(now, "command line", "key", audit.SUCCESS)
        await grants.signing_keys(database, now, trail.changes([made]))
        token = ""
        if to_be_tried(settings):
            token = await issued(database, trail, scope=SCOPE, seconds=SECONDS)
        return Printed(token, password)
    finally:
        await database.close()


def to_be_tried(settings: Settings) -> bool:
    """Return whether a token may be printed: nobody but this machine can use the server.

    What is printed may end in a log. Where the server is asked from elsewhere, somebody else may
    read that, and `milepost token` is a command away.
    """
    return settings.local and not (settings.tls_certificate or settings.trusted_proxies)


async def first_administrator(database: db.Database, trail: audit.Trail) -> str:
    """Add an administrator where there is no account at all; return the password, else ""."""
    if await grants.list_accounts(database):
        return ""
    id, password, now = house.fresh_id(), grants.new_password(), house.clock()
    event = audit.security_event(now, "command line", "user", audit.SUCCESS, added=ADMINISTRATOR)
    try:
        await grants.add_account(
            database,
            id=id,
            name=ADMINISTRATOR,
            kind="administrator",
            password=password,
            once=True,
            now=now,
            also=trail.changes([event]),
        )
    except grants.Taken:  # another server, which was started at the same moment, has done it
        return ""
    return password


def greet(settings: Settings, printed: Printed) -> None:
    """Print where the server is, who can administer it, and three requests to try."""
    base, root = settings.base_url, settings.base_url.rsplit("/", 1)[0]
    out.print(f"\n[bold]Milepost[/bold] serves FHIR R4 at [bold]{base}[/bold]\n")
    if printed.password:
        show("There is one account, which administers the others. This is shown once:\n")
        show(f"  name      {ADMINISTRATOR}")
        show(f"  password  {printed.password}")
        show(f"\nSign in at {root}/oauth/sign-in to choose another password.\n")
    token = printed.token or "$TOKEN"
    if printed.token:
        show("Try, for an hour:")
    else:
        show("Try:")
        show(f'  TOKEN=$(milepost token --scope "{SCOPE}")')
    allowed = f'-H "Authorization: Bearer {token}"'
    patient = '{"resourceType":"Patient","name":[{"family":"Rivera","given":["Ana"]}]}'
    json = "-H 'Content-Type: application/fhir+json'"
    show(f"  curl '{base}/metadata?_pretty=true'")
    show(f"  curl {allowed} {json} -d '{patient}' {base}/Patient")
    show(f"  curl {allowed} '{base}/Patient?name=rivera&_pretty=true'")
    show(f"\nPages for people: {root}/docs\n")


def show(line: str) -> None:
    """Print a line as it is, however long."""
    out.print(line, markup=False, highlight=False, soft_wrap=True)


def migrate() -> None:
    """Bring the database to the schema of this version; a new SQLite file is made."""
    settings = settings_or_exit()
    refuse_to_begin_anew(settings)
    house.migrate(settings)
    house.furnish(settings)
    out.print("The database schema is up to date.")


def refuse_to_begin_anew(settings: Settings) -> None:
    """Stop rather than make an empty database beside one that an earlier version left here."""
    default = Settings.model_fields["database_url"].default
    file = Path(default.removeprefix(SQLITE))
    if settings.database_url == default and BEFORE.exists() and not file.exists():
        err.print(
            f"The database is kept in {file} now, and there is a {BEFORE} of an earlier version."
            f" Stop its server and move it: mkdir -m 700 -p {file.parent}"
            f" && mv {BEFORE}* {file.parent}/ && chmod 600 {file.parent}/*",
            soft_wrap=True,
        )
        raise typer.Exit(1)
