"""The commands `client add|list|revoke`: applications, and what they may ask for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast
from urllib.parse import quote, urlencode, urlsplit

import typer
from rich.markup import escape
from rich.table import Column, Table

from app.api import grants, smart
from app.cli.engine import Unfit, noted, stop, with_engine
from app.cli.terminal import err, out, show
from app.config import loopback
from app.fhir.access import Scopes, parse_scopes
from app.fhir.rest import Server

Name = Annotated[str, typer.Argument(help="Name of the application, which people see")]


@dataclass(frozen=True)
class Added:
    """A client that was added, its secret, and where it finds the server."""

    client: grants.Client
    secret: str
    where: smart.Places


def add(
    name: Name,
    kind: Annotated[str, typer.Option(help="One of: public, symmetric, asymmetric")],
    scope: Annotated[str, typer.Option(help="The most that it may be granted")],
    redirect: Annotated[
        list[str] | None, typer.Option(help="Redirect URI; may be repeated")
    ] = None,
    grant: Annotated[
        list[str] | None,
        typer.Option(help="authorization_code, refresh_token or client_credentials; repeatable"),
    ] = None,
    jwks: Annotated[Path | None, typer.Option(help="File with the public keys")] = None,
    jwks_uri: Annotated[str, typer.Option(help="Address of the public keys")] = "",
    launch: Annotated[str, typer.Option(help="Address at which it is launched")] = "",
    logo: Annotated[str, typer.Option(help="Address of its logo")] = "",
) -> None:
    """Add an application; prints what its developer needs."""
    keys = _read(jwks) if jwks else ""
    if problem := grants.keys_problem(keys) if jwks else "":
        stop(problem, 2)

    async def work(server: Server) -> Added:
        scopes = parse_scopes(scope, server.language)
        usual = ("authorization_code", "refresh_token") if redirect else ("client_credentials",)
        types = tuple(dict.fromkeys(grant or usual))
        _check(scopes, types)
        id, where = server.new_id(), smart.places(server.base_url)
        client, secret = await grants.add_client(
            server.database,
            id=id,
            name=name,
            kind=cast("grants.ClientKind", kind),
            redirect_uris=tuple(dict.fromkeys(redirect or ())),
            grant_types=types,
            scope=scopes.text,
            jwks=keys,
            jwks_uri=jwks_uri,
            launch_uri=launch,
            logo_uri=logo,
            now=server.now(),
            loopback=_is_local(server.base_url),
            also=noted(server, "client", added=id, name=name, kind=kind, scope=scopes.text),
        )
        return Added(client, secret, where)

    for line in told(with_engine(work)):
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, ValueError):
        stop(f"{file} cannot be read", 2)


def _is_local(base_url: str) -> bool:
    return loopback(urlsplit(base_url).hostname or "")


def _check(scopes: Scopes, grant_types: tuple[str, ...]) -> None:
    """Raise Unfit for scopes that cannot be, or that no grant of this client gives."""
    if scopes.refused:
        raise Unfit("These are no scopes: " + ", ".join(scopes.refused))
    contexts = {scope.context for scope in scopes.granted}
    if not contexts:
        raise Unfit("A client without a scope of patient/, user/ or system/ may ask for nothing")
    if "system" in contexts and "client_credentials" not in grant_types:
        raise Unfit("A scope of system/ goes with --grant client_credentials")
    if contexts != {"system"} and "authorization_code" not in grant_types:
        raise Unfit("A scope of patient/ or user/ goes with --grant authorization_code")


def told(added: Added) -> list[str]:
    """Return what an application's developer needs, line by line."""
    client, where = added.client, added.where
    rows = [
        ("client_id", client.id),
        ("client_secret", added.secret),
        ("scope", client.scope),
        *(("redirect_uri", uri) for uri in client.redirect_uris),
        ("FHIR base (aud)", where.base),
        ("discovery", f"{where.base}/.well-known/smart-configuration"),
        ("authorize", where.authorize if client.redirect_uris else ""),
        ("token", where.token),
        ("introspect", where.introspect if client.kind != "public" else ""),
        ("revoke", where.revoke),
        ("keys", where.jwks),
    ]
    lines = [f"{name:<17}{value}" for name, value in rows if value]
    if added.secret:
        lines += ["", "The secret is shown once. Keep it where nobody else reads it."]
    return [*lines, "", *_example(added)]


def _example(added: Added) -> list[str]:
    """Return how the application gets its first token."""
    client, where = added.client, added.where
    lines = []
    if client.redirect_uris:
        query = urlencode(
            {
                "response_type": "code",
                "client_id": client.id,
                "redirect_uri": client.redirect_uris[0],
                "scope": client.scope,
                "aud": where.base,
                "state": "RANDOM",
                "code_challenge": "CHALLENGE",
                "code_challenge_method": "S256",
            },
            quote_via=quote,
        )
        lines += ["A person lets it in at", f"  {where.authorize}?{query}"]
    if "client_credentials" in client.grant_types:
        lines += ["It gets a token by", *_request(added)]
    return lines


def _request(added: Added) -> list[str]:
    client, where = added.client, added.where
    system = " ".join(one for one in client.scope.split() if one.startswith("system/"))
    if client.kind == "symmetric":
        proof = [f"-u '{client.id}:{added.secret}'"]
    else:
        kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        proof = [f"-d client_assertion_type={kind}", '-d client_assertion="$JWT"']
    lines = ["-d grant_type=client_credentials", f"--data-urlencode 'scope={system}'", *proof]
    found = [f"  curl {where.token} \\", *(f"    {line} \\" for line in lines[:-1])]
    found.append(f"    {lines[-1]}")
    if client.kind == "asymmetric":
        found += [
            "where JWT is signed with RS384 or ES384, has the kid of its key as a header, and says",
            f"  iss and sub {client.id}, aud {where.token}, exp in 5 minutes at most, a new jti",
        ]
    return found


def list_all() -> None:
    """Show the applications."""

    async def work(server: Server) -> list[grants.Client]:
        return await grants.list_clients(server.database)

    found = with_engine(work)
    table = Table("Name", Column("client_id", no_wrap=True), "Kind", "Grants", "Scope", "State")
    for one in found:
        row = one.name, one.id, one.kind, " ".join(one.grant_types), one.scope
        table.add_row(*map(escape, row), "active" if one.state else "revoked")
    if found:
        show(table)
    else:
        out.print("There are no clients.")


def revoke(name: Annotated[str, typer.Argument(help="Name or client_id")]) -> None:
    """Let an application do nothing any more; what it was given ends with it."""

    async def work(server: Server) -> grants.Client:
        client = await grants.find_client(server.database, name)
        if client is None:
            raise Unfit(f"There is no client {name}")
        also = noted(server, "client", revoked=client.id)
        if not await grants.revoke_client(server.database, client.id, also):
            raise Unfit(f"{client.name} is revoked already")
        return client

    client = with_engine(work)
    out.print(f"{escape(client.name)} is revoked.", highlight=False, soft_wrap=True)
    if client.id == grants.COMMAND_LINE:
        err.print("The next milepost token lets it in again; older tokens stay revoked.")
