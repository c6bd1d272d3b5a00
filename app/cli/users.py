"""The commands `user add|list|disable|password`: who can sign in."""

from typing import Annotated, cast

import typer
from rich.markup import escape
from rich.table import Table

from app.api import grants
from app.cli.engine import Unfit, noted, stop, with_engine
from app.cli.terminal import err, out, show
from app.fhir.access import Kind
from app.fhir.rest import Server
from app.fhir.store import instant

Name = Annotated[str, typer.Argument(help="Name that somebody signs in with")]


def add(
    name: Name,
    kind: Annotated[str, typer.Option(help=f"One of: {', '.join(grants.KINDS)}")],
    role: Annotated[list[str] | None, typer.Option(help="Role; may be repeated")] = None,
    practitioner: Annotated[str, typer.Option(help="Id of the Practitioner who it is")] = "",
    patient: Annotated[str, typer.Option(help="Id of the Patient who it is")] = "",
    related_person: Annotated[str, typer.Option(help="Id of the RelatedPerson")] = "",
    organization: Annotated[str, typer.Option(help="Id of the Organization")] = "",
) -> None:
    """Add an account; prints a password that has to be changed when it is first used."""
    people = {"Practitioner": practitioner, "Patient": patient, "RelatedPerson": related_person}
    who = [_reference(type, id) for type, id in people.items() if id]
    if len(who) > 1:
        stop("An account is that of one person: --practitioner, --patient or --related-person", 2)

    async def work(server: Server) -> tuple[str, str]:
        id, password = server.new_id(), grants.new_password()
        added = await grants.add_account(
            server.database,
            id=id,
            name=name,
            kind=cast("Kind", kind),
            roles=role or (),
            organization=_reference("Organization", organization),
            fhir_user=who[0] if who else "",
            password=password,
            once=True,
            now=server.now(),
            also=noted(server, "user", added=id, kind=kind, roles=role, fhir_user=who),
        )
        return added.name, password

    _print_password(*with_engine(work))


def _reference(type: str, id: str) -> str:
    return f"{type}/{id.removeprefix(f'{type}/')}" if id else ""


def _print_password(name: str, password: str) -> None:
    for what, value in (("name", name), ("password", password)):
        out.print(f"{what:<10}{value}", markup=False, highlight=False, soft_wrap=True)
    err.print("This is shown once. It has to be changed when it is first used.", soft_wrap=True)


def list_all() -> None:
    """Show the accounts."""

    async def work(server: Server) -> tuple[list[grants.Account], int]:
        return await grants.list_accounts(server.database), server.now()

    found, now = with_engine(work)
    table = Table("Name", "Kind", "Roles", "Who", "Organization", "State")
    for one in found:
        row = one.name, one.kind, " ".join(one.roles), one.fhir_user, one.organization
        table.add_row(*map(escape, row), _state(one, now))
    if found:
        show(table)
    else:
        out.print("There are no accounts.")


def _state(account: grants.Account, now: int) -> str:
    if not account.state:
        return "disabled"
    if account.locked > now:
        return f"locked until {instant(account.locked)}"
    return "has to change the password" if account.once else "active"


def disable(name: Name) -> None:
    """Let somebody sign in no more; sessions and tokens end with it."""

    async def work(server: Server) -> str:
        account = await _found(server, name)
        also = noted(server, "user", disabled=account.id)
        if not await grants.disable_account(server.database, account.id, also):
            raise Unfit(f"{account.name} is disabled already")
        return account.name

    out.print(f"{escape(with_engine(work))} is disabled.", highlight=False)


def password(name: Name) -> None:
    """Give somebody a new password to sign in with once; sessions and tokens end with it."""

    async def work(server: Server) -> tuple[str, str]:
        account = await _found(server, name)
        fresh, also = grants.new_password(), noted(server, "password", account=account.id)
        await grants.set_password(server.database, account.id, fresh, once=True, also=also)
        return account.name, fresh

    _print_password(*with_engine(work))


async def _found(server: Server, name: str) -> grants.Account:
    account = await grants.find_account(server.database, name)
    if account is None:
        raise Unfit(f"There is no account {name}")
    return account
