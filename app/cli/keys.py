"""The commands `keys rotate|list`: the keys that id tokens are signed with."""

from rich.table import Column, Table

from app.api import grants
from app.cli.engine import noted, with_engine
from app.cli.terminal import show
from app.fhir.rest import Server
from app.fhir.store import instant


def rotate() -> None:
    """Sign with a new key from now on; the old one is shown for a day more."""

    async def work(server: Server) -> list[grants.SigningKey]:
        return await grants.rotate_keys(server.database, server.now(), noted(server, "key"))

    show(_table(with_engine(work)))


def list_all() -> None:
    """Show the keys that are published, the signing one first."""

    async def work(server: Server) -> list[grants.SigningKey]:
        return await grants.signing_keys(server.database, server.now(), noted(server, "key"))

    show(_table(with_engine(work)))


def _table(keys: list[grants.SigningKey]) -> Table:
    table = Table(Column("kid", overflow="fold"), "Made", "Retired")
    for key in keys:
        table.add_row(key.kid, instant(key.created), instant(key.retired) if key.retired else "")
    return table
