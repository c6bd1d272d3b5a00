"""The engine without HTTP, for the time of one command; and what such a command leaves behind."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar

import typer
from rich.markup import escape

from app import db
from app import main as house
from app.api import grants
from app.cli.terminal import err, settings_or_exit
from app.fhir import audit
from app.fhir.rest import Server

T = TypeVar("T")

AGENT = "command line"  # who it was, in the audit trail


class Unfit(Exception):
    """What was asked for is not possible; the text is a sentence, or several lines of them."""


def with_engine(work: Callable[[Server], Awaitable[T]]) -> T:
    """Return what `work` does with the engine; where it is refused, say why and stop."""
    settings = settings_or_exit()

    async def run() -> T:
        async with house.build(settings, maintaining=True) as server:
            return await work(server)

    try:
        return asyncio.run(run())
    except Unfit as error:
        stop(str(error), 2)
    except (house.NotMigrated, grants.Refused) as error:
        stop(str(error), 1)


def stop(text: str, status: int) -> NoReturn:
    """Say why a command cannot be carried out, and end it."""
    err.print(f"[red]{escape(text)}[/red]", soft_wrap=True)
    raise typer.Exit(status)


def noted(server: Server, code: str, **detail: object) -> list[db.Change]:
    """Return the row of the audit trail that is written along with what a command changes."""
    if server.trail is None:
        return []
    told: dict[str, Any] = {name: value for name, value in detail.items() if value}
    event = audit.security_event(server.now(), AGENT, code, audit.SUCCESS, **told)
    return server.trail.changes([event])
