"""Applications: what they may ask for, where people come back to, and how they prove who they are.

https://www.rfc-editor.org/rfc/rfc6749#section-2
https://www.rfc-editor.org/rfc/rfc8252#section-7
https://hl7.org/fhir/smart-app-launch/client-authentication.html

A redirect URI is compared as a text, character by character (RFC 9700, 2.1).
"""

import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec
import sqlalchemy as sa
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from app import db
from app.api.grants.rows import BAD, GOOD, Refused, Taken, given, inserted, read
from app.api.grants.tokens import hashed, new_secret, revoke_of

ClientKind = Literal["public", "symmetric", "asymmetric"]
KINDS = ("public", "symmetric", "asymmetric")
GRANT_TYPES = ("authorization_code", "refresh_token", "client_credentials")

COMMAND_LINE = "command-line"  # the id, and the name, of the client of `milepost token`
NAME = 100  # characters
URL = 2000  # characters
JWKS = 64 * 1024  # bytes
RSA_MODULUS = 342  # characters of base64 that 2048 bits take
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
PRINTED = re.compile(r"[!-~]+")  # neither spaces, which part one from the next, nor controls

C = db.client
COLUMNS = tuple(column for column in C.c if column.name != "secret")
FIELDS = tuple(column.name for column in COLUMNS)


@dataclass(frozen=True, slots=True)
class Client:
    """An application; `scope` is the most that it may be granted.

    `jwks` is its JSON Web Key Set as JSON, or `jwks_uri` where that is: an asymmetric one has one
    of them. `state` is 1 for an active one; `created` is in microseconds.
    """

    id: str
    name: str
    kind: ClientKind
    jwks: str = ""
    jwks_uri: str = ""
    redirect_uris: tuple[str, ...] = ()
    grant_types: tuple[str, ...] = ()
    scope: str = ""
    launch_uri: str = ""
    logo_uri: str = ""
    state: int = 1
    created: int = 0


def client_of(row: Sequence[Any]) -> Client:
    """Return the client in a row of `COLUMNS`."""
    id, name, kind, jwks, jwks_uri, redirect_uris, grant_types, *rest = row
    uris, grants = tuple(redirect_uris.split()), tuple(grant_types.split())
    return Client(id, name, kind, jwks, jwks_uri, uris, grants, *rest)


@cache
def _statements(dialect: db.Dialect) -> dict[str, db.Statement]:
    one = C.c.id == given(C.c.id)
    active = C.c.state == GOOD
    named = sa.or_(one, C.c.name == given(C.c.name))
    found = {
        "one": sa.select(*COLUMNS).where(named).order_by(C.c.id != given(C.c.id)),
        "all": sa.select(*COLUMNS).order_by(C.c.name),
        "secret": sa.select(C.c.secret).where(one, active),
        "revoke": sa.update(C).where(one, active).values(state=BAD).returning(C.c.id),
    }
    return {name: db.statement(clause, dialect) for name, clause in found.items()}


async def add_client(
    database: db.Database,
    *,
    id: str,
    name: str,
    kind: ClientKind,
    redirect_uris: Sequence[str] = (),
    grant_types: Sequence[str],
    scope: str,
    jwks: str = "",
    jwks_uri: str = "",
    launch_uri: str = "",
    logo_uri: str = "",
    now: int,
    loopback: bool = False,
    also: Sequence[db.Change] = (),
) -> tuple[Client, str]:
    """Add a client; return it, and the secret of a symmetric one, which nobody sees again.

    Addresses from which we would fetch something are https, or may be http on `loopback` as well.
    Raises Taken, or Refused where it would be no client; what `scope` says is not looked at.
    """
    uris, grants = tuple(redirect_uris), tuple(grant_types)
    client = Client(
        id, name, kind, jwks, jwks_uri, uris, grants, scope, launch_uri, logo_uri, created=now
    )
    if problem := _problem(client, loopback=loopback):
        raise Refused(problem)
    secret = new_secret() if kind == "symmetric" else ""
    row = _row(client, hashed(secret) if secret else b"")

    async def work(connection: db.Connection) -> None:
        await connection.exclusive([f"client {name}"])
        known = _statements(database.dialect)["one"]
        if await connection.rows(known, {"id": name, "name": name}):
            raise Taken(f"There is a client {name} already")
        await connection.change([inserted(C, row), *also])

    await database.write(work)
    return client, secret


def _row(client: Client, secret: bytes) -> dict[str, object]:
    """Return the columns of a client."""
    row: dict[str, object] = {name: getattr(client, name) for name in FIELDS}
    uris, grants = " ".join(client.redirect_uris), " ".join(client.grant_types)
    return {**row, "secret": secret, "redirect_uris": uris, "grant_types": grants}


def _problem(client: Client, *, loopback: bool) -> str:
    """Return what keeps a client from being one, as a sentence."""
    if not 0 < len(client.name) <= NAME or not client.name.isprintable():
        return f"A name has 1 to {NAME} characters, all of them printable"
    if client.name != client.name.strip():
        return "A name neither begins nor ends with a space"
    if client.name == COMMAND_LINE:
        return f"{COMMAND_LINE} is the name of the client of milepost token"
    if client.kind not in KINDS:
        return f"The kind of a client is one of {', '.join(KINDS)}"
    return (
        _grants_problem(client)
        or next(filter(None, map(redirect_problem, client.redirect_uris)), "")
        or _keys_problem(client)
        or next(
            (
                f"{uri!r} is no https address"
                for uri in (client.jwks_uri, client.launch_uri, client.logo_uri)
                if uri and not _is_web(uri, loopback=loopback)
            ),
            "",
        )
    )


def _grants_problem(client: Client) -> str:
    grants = client.grant_types
    if not grants or not set(grants) <= set(GRANT_TYPES):
        return f"A grant is one of {', '.join(GRANT_TYPES)}"
    if client.kind == "public" and "client_credentials" in grants:
        return "A public client has nothing to prove who it is with, so no client_credentials"
    if "authorization_code" in grants and not client.redirect_uris:
        return "A client of authorization_code needs a redirect URI"
    if client.redirect_uris and "authorization_code" not in grants:
        return "A redirect URI goes with the grant authorization_code"
    if "refresh_token" in grants and "authorization_code" not in grants:
        return "The grant refresh_token goes with authorization_code"
    return ""


def redirect_problem(uri: str) -> str:
    """Return what is wrong with a redirect URI, "" if nothing is (RFC 8252, 7; RFC 6749, 3.1.2)."""
    if not PRINTED.fullmatch(uri) or len(uri) > URL:
        return f"{uri!r}: a redirect URI is printable ASCII without spaces"
    try:
        parts = urlsplit(uri)
        host = parts.hostname or ""
    except ValueError:
        return f"{uri!r} is no URI"
    if "#" in uri or "@" in parts.netloc or "\\" in uri or "*" in parts.netloc:
        return f"{uri!r}: a redirect URI has no fragment, no user and no wildcard"
    if parts.scheme == "https" and host:
        return ""
    if parts.scheme == "http" and host in LOOPBACK:
        return ""
    if "." in parts.scheme:
        return ""
    return (
        f"{uri!r}: a redirect URI is absolute: https, http on the loopback interface,"
        " or a scheme that is a domain name turned round, such as org.example.app:/back"
    )


def _keys_problem(client: Client) -> str:
    if client.kind != "asymmetric":
        return "" if not client.jwks + client.jwks_uri else "Only an asymmetric client has keys"
    if bool(client.jwks) == bool(client.jwks_uri):
        return "An asymmetric client has either keys or an address of keys"
    return keys_problem(client.jwks) if client.jwks else ""


def keys_problem(jwks: str) -> str:
    """Return what is wrong with a JSON Web Key Set as JSON, "" if a client can prove itself by it.

    https://www.rfc-editor.org/rfc/rfc7517#section-5
    """
    if len(jwks) > JWKS:
        return f"A key set has at most {JWKS} bytes"
    try:
        found = msgspec.json.decode(jwks)
        if any(raw["kty"] == "RSA" and len(raw["n"]) < RSA_MODULUS for raw in found["keys"]):
            return "An RSA key has at least 2048 bits"
        keys = KeySet.import_key_set(found).keys
        kids = [raw.get("kid") for raw in found["keys"]]
    except (JoseError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return 'A key set is JSON such as {"keys": [...]}, as RFC 7517 describes it'
    if not keys or any(key.key_type not in ("RSA", "EC") for key in keys):
        return "A key set has keys of the types RSA and EC, and at least one"
    if any(key.is_private for key in keys):
        return (
            "A key set has a private key in it: nobody but the client may have that. Make a new one"
        )
    if not all(isinstance(kid, str) and kid for kid in kids) or len(set(kids)) < len(kids):
        return "Each key has a kid of its own"
    return ""


def _is_web(uri: str, *, loopback: bool) -> bool:
    if not PRINTED.fullmatch(uri) or len(uri) > URL:
        return False
    try:
        parts = urlsplit(uri)
        host = parts.hostname
    except ValueError:
        return False
    if "@" in parts.netloc or not host:
        return False
    return parts.scheme == "https" or (loopback and parts.scheme == "http" and host in LOOPBACK)


async def find_client(database: db.Database, id_or_name: str) -> Client | None:
    """Return a client, whatever its state; None if there is none."""
    values: dict[str, object] = {"id": id_or_name, "name": id_or_name}
    rows = await read(database, _statements(database.dialect)["one"], values)
    return client_of(rows[0]) if rows else None


async def list_clients(database: db.Database) -> list[Client]:
    """Return all clients by name."""
    return [
        client_of(row) for row in await read(database, _statements(database.dialect)["all"], {})
    ]


async def check_client_secret(database: db.Database, id: str, secret: str) -> bool:
    """Return whether this is the secret of an active symmetric client."""
    rows = await read(database, _statements(database.dialect)["secret"], {"id": id})
    stored = bytes(rows[0][0]) if rows else b""
    return hmac.compare_digest(stored or hashed(new_secret()), hashed(secret))


async def command_line(database: db.Database, now: int, also: Sequence[db.Change] = ()) -> Client:
    """Return the client of the tokens that `milepost token` prints, made or let in on demand.

    It has no secret and no grant types: nobody gets a token for it but whoever has the database.
    What is to be written `also` is written only where it is made or let in.
    """
    client = Client(COMMAND_LINE, COMMAND_LINE, "symmetric", created=now)
    found = await find_client(database, COMMAND_LINE)
    if found and found.state:
        return found
    row = _row(client, b"")
    change = db.Change("put", C, tuple(row), [tuple(row.values())], by=("id",))

    async def work(connection: db.Connection) -> None:
        await connection.change([change, *also], final=True)

    await database.write(work)
    return client


async def revoke_client(database: db.Database, id: str, also: Sequence[db.Change] = ()) -> bool:
    """Let a client do nothing any more, nor use what it was given; False if it was so already."""

    async def work(connection: db.Connection) -> bool:
        await connection.begin()
        if not await connection.rows(_statements(database.dialect)["revoke"], {"id": id}):
            return False
        await revoke_of(connection, database.dialect, client=id)
        await connection.change(also)
        return True

    return await database.write(work)
