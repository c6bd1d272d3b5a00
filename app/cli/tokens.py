"""The command `token`: whoever may open the database needs nobody to let them in.

What comes out is the token alone, so that `TOKEN=$(milepost token --scope ...)` works; all else is
told beside it, on the standard error.
"""

from typing import Annotated, Any

import typer
from rich.markup import escape

from app import db
from app import main as house
from app.api import grants
from app.cli.engine import AGENT, Unfit, stop, with_engine
from app.cli.terminal import err
from app.fhir import audit
from app.fhir.access import Grant, Kind, Scope, Scopes, meet, parse_scopes, policy_of
from app.fhir.interaction import ID
from app.fhir.rest import Server

LONGEST = 90 * 24 * 3600  # seconds

# Why a scope may grant nothing to whom the token would be of
NEEDS = {
    "patient": "it needs --patient, or a --user who is a patient",
    "user": "it needs a --user, of the staff or a patient",
    "system": "it is for a client that acts for itself, without --user",
}


def token(
    scope: Annotated[str, typer.Option(help="SMART scopes, such as 'system/*.cruds'")],
    client: Annotated[str, typer.Option(help="Client that it is for; else the built-in")] = "",
    user: Annotated[str, typer.Option(help="Account that it is of; else the client's own")] = "",
    patient: Annotated[str, typer.Option(help="Id of the Patient of patient/ scopes")] = "",
    ttl: Annotated[int, typer.Option(help="Seconds for which it is good")] = 3600,
) -> None:
    """Print an access token for local work and scripts; a running server takes it at once."""
    if not 0 < ttl <= LONGEST:
        stop(f"--ttl is between 1 and {LONGEST} seconds", 2)
    id = patient.removeprefix("Patient/")
    if patient and not ID.fullmatch(id):
        stop(f"{patient!r} is no id of a Patient", 2)

    async def work(server: Server) -> str:
        if server.trail is None:
            raise Unfit("Nothing is recorded")
        account = await _account(server, user)
        application = await _client(server, client)
        scopes = _granted(server, scope, application)
        kind: Kind = account.kind if account else "system"
        own = account.fhir_user if account else ""
        chosen = f"Patient/{id}" if id else own if kind == "patient" else ""
        _check(server, scopes, Grant(kind, scopes.granted, chosen, own))
        return await issued(
            server.database,
            server.trail,
            scope=scopes.text,
            seconds=ttl,
            client=application.id if application else "",
            account=account.id if account else "",
            patient=f"Patient/{id}" if id else "",
        )

    typer.echo(with_engine(work))


async def _account(server: Server, name: str) -> grants.Account | None:
    found = await grants.find_account(server.database, name) if name else None
    if name and (found is None or not found.state):
        raise Unfit(f"There is no account {name}" + (", it is disabled" if found else ""))
    return found


async def _client(server: Server, name: str) -> grants.Client | None:
    found = await grants.find_client(server.database, name) if name else None
    if name and (found is None or not found.state):
        raise Unfit(f"There is no client {name}" + (", it is revoked" if found else ""))
    return found


def _granted(server: Server, scope: str, client: grants.Client | None) -> Scopes:
    """Return what a client may get of the scopes; says what it may not."""
    asked = parse_scopes(scope, server.language)
    if asked.refused:
        raise Unfit("These are no scopes: " + ", ".join(asked.refused))
    if client is None or client.id == grants.COMMAND_LINE:
        found = asked
    else:
        found = meet(asked, parse_scopes(client.scope, server.language))
    for text in found.refused:
        told = f"The client is not registered for {text}; it is left out"
        err.print(escape(told), soft_wrap=True)
    if found.text and found.text != asked.text:
        err.print(escape(f"Granted: {found.text}"), soft_wrap=True)
    if not found.text:
        raise Unfit("A token of no scope grants nothing")
    return found


def _check(server: Server, scopes: Scopes, grant: Grant) -> None:
    """Raise Unfit for a scope that comes to nothing, rather than print a token that is useless."""
    idle = [scope for scope in scopes.granted if not _grants(server, scope, grant)]
    if idle and grant.kind in ("administrator", "representative"):
        raise Unfit(f"An account of the kind {grant.kind} sees no record: its scope is openid")
    if idle:
        lines = (f"{one.text} grants nothing: {NEEDS[one.context]}" for one in idle)
        raise Unfit("\n".join(lines))


def _grants(server: Server, scope: Scope, grant: Grant) -> bool:
    one = Grant(grant.kind, (scope,), grant.patient, grant.fhir_user)
    policy = policy_of(one, server.language, server.now())
    types = server.definitions.resource_types
    return any(policy.may(type, right) for type in types for right in scope.rights)


async def issued(
    database: db.Database,
    trail: audit.Trail,
    *,
    scope: str,
    seconds: int,
    client: str = "",
    account: str = "",
    patient: str = "",
) -> str:
    """Return a new access token, which is in the audit trail; scope and patient are taken as given.

    The patient is a reference (`Patient/1`), as it is in every token.
    Without a client it is one of the built-in client of the command line, which is made on demand.
    """
    now, secret = house.clock(), grants.new_secret()
    if not client:
        made = audit.security_event(now, AGENT, "client", audit.SUCCESS, added=grants.COMMAND_LINE)
        client = (await grants.command_line(database, now, trail.changes([made]))).id
    told = {"client": client, "scope": scope, "account": account, "patient": patient}
    known: dict[str, Any] = {name: value for name, value in told.items() if value}
    event = audit.security_event(now, AGENT, "token", audit.SUCCESS, **known)
    await grants.issue(
        database,
        kind="access",
        secret=secret,
        family=house.fresh_id(),
        client=client,
        account=account,
        scope=scope,
        context={"patient": patient} if patient else {},
        now=now,
        seconds=seconds,
        also=trail.changes([event]),
    )
    return secret
