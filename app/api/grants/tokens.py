"""Whatever is handed out as a secret text: access and refresh tokens, codes, launches, sessions.

https://www.rfc-editor.org/rfc/rfc6749
https://www.rfc-editor.org/rfc/rfc9700

A secret is 32 random bytes; the database has only its SHA-256, so that whoever reads the database
can call nobody's name. A random text of 256 bits needs no salt and no slow hash.

Rule 1: what may be used once is marked by the statement that looks whether it is good, so that of
two who come at once one finds it used.
Rule 2: what came of one authorization has one `family`, and falls together. Whoever adds to a
family, or makes it fall, has its name to himself until the end (`exclusive`): otherwise PostgreSQL
adds beside a fall that does not see it.
"""

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from app import db
from app.api.grants.rows import BAD, GOOD, given, inserted, new, read, write
from app.logs import fault

log = logging.getLogger("milepost")

TokenKind = Literal["access", "refresh", "code", "launch", "session", "assertion"]

SECRET_BYTES = 32
# Microseconds for which an expired row is kept: a code that comes again is known as used, and
# whoever looks into a complaint finds it
KEPT = 3_600_000_000
CLEAN_SECONDS = 60.0
DROPPED_AT_ONCE = 1000  # rows, so that the one writer of SQLite is not held up

A, C, T = db.account, db.client, db.token


@dataclass(frozen=True, slots=True)
class Token:
    """What a secret stands for: whose it is, what it may do, and how long (microseconds).

    `context` is what its kind needs beside: patient, encounter, redirect_uri ... `state` is 1 as
    long as it was neither used nor revoked.
    """

    kind: TokenKind
    family: str
    client: str = ""
    account: str = ""
    scope: str = ""
    context: Mapping[str, Any] = field(default_factory=dict)
    issued: int = 0
    expires: int = 0
    state: int = 1

    def good(self, now: int) -> bool:
        """Return whether it is worth something now."""
        return self.state == 1 and now < self.expires


@dataclass(frozen=True, slots=True)
class Bearing:
    """An access token, and its account: kind "" and no more for a client that acts for itself.

    `active`: neither the account nor the client is disabled.
    """

    token: Token
    active: bool
    kind: str = ""
    roles: tuple[str, ...] = ()
    organization: str = ""
    fhir_user: str = ""


def new_secret() -> str:
    """Return a fresh secret: 43 characters that need no quotes in a URL, a header or a shell."""
    while (found := secrets.token_urlsafe(SECRET_BYTES)).startswith("-"):
        pass  # which a shell would take for an option
    return found


def hashed(secret: str) -> bytes:
    """Return what the database has of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def row_of(secret: str, token: Token) -> db.Change:
    """Return the change that makes a secret stand for a token."""
    return inserted(T, _row(hashed(secret), token))


def _row(hash: bytes, token: Token) -> dict[str, object]:
    return {
        "hash": hash,
        "kind": token.kind,
        "family": token.family,
        "client": token.client,
        "account": token.account,
        "scope": token.scope,
        "context": msgspec.json.encode(token.context).decode(),
        "issued": token.issued,
        "expires": token.expires,
        "state": token.state,
    }


COLUMNS = tuple(column for column in T.c if column.name != "hash")


def token_of(row: Sequence[Any]) -> Token:
    """Return the token in a row of `COLUMNS`."""
    kind, family, client, account, scope, context, issued, expires, state = row
    known = msgspec.json.decode(context)
    return Token(kind, family, client, account, scope, known, issued, expires, state)


@cache
def _statements(dialect: db.Dialect) -> dict[str, db.Statement]:
    one = T.c.hash == given(T.c.hash)
    good = sa.and_(T.c.state == GOOD, T.c.expires > given(T.c.expires, "now"))
    kind = T.c.kind == given(T.c.kind)
    fall = sa.update(T).where(T.c.state == GOOD).values(state=BAD).returning(T.c.kind)
    insert = (postgresql if dialect == "postgresql" else sqlite).insert(T)
    long_over = (
        sa.select(T.c.hash)
        .where(T.c.expires < given(T.c.expires, "before"))
        .limit(sa.literal_column(str(DROPPED_AT_ONCE)))
    )
    session: sa.ColumnClause[str] = sa.literal_column("'session'")
    found = {
        "one": sa.select(*COLUMNS).where(one),
        "use": sa.update(T).where(one, kind, good).values(state=BAD).returning(*COLUMNS),
        "revoke": fall.where(one),
        "revoke_family": fall.where(T.c.family == given(T.c.family)),
        "revoke_account": fall.where(T.c.account == given(T.c.account)),
        "revoke_client": fall.where(T.c.client == given(T.c.client)),
        "prolong": sa.update(T)
        .where(one, kind, T.c.state == GOOD)
        .values(new(T.c.expires))
        .returning(T.c.kind),
        "alive": sa.select(T.c.kind)
        .where(T.c.family == given(T.c.family), T.c.kind == session, good)
        .limit(sa.literal_column("1")),
        "remember": insert.values(new(*T.c)).on_conflict_do_nothing().returning(T.c.kind),
        "expire": sa.delete(T).where(T.c.hash.in_(long_over)).returning(T.c.kind),
    }
    return {name: db.statement(clause, dialect) for name, clause in found.items()}


async def issue(
    database: db.Database,
    *,
    kind: TokenKind,
    secret: str,
    family: str,
    client: str = "",
    account: str = "",
    scope: str = "",
    context: Mapping[str, Any] | None = None,
    now: int,
    seconds: float,
    also: Sequence[db.Change] = (),
) -> None:
    """Make a secret stand for a token that is good for so many seconds."""
    expires = now + int(seconds * 1_000_000)
    token = Token(kind, family, client, account, scope, context or {}, now, expires)
    changes = [row_of(secret, token), *also]

    async def work(connection: db.Connection) -> None:
        await connection.change(changes, final=True)

    await database.write(work)


async def find(database: db.Database, secret: str, kinds: Collection[TokenKind]) -> Token | None:
    """Return what a secret stands for, be it used, revoked or expired; None if for none of these.

    The kinds: nobody can present a code where a token is asked for.
    """
    rows = await read(database, _statements(database.dialect)["one"], {"hash": hashed(secret)})
    token = token_of(rows[0]) if rows else None
    return token if token and token.kind in kinds else None


async def known_by(database: db.Database, secret: str) -> Bearing | None:
    """Return what is known of who presents an access token, in one point read; None for nothing."""
    rows = await read(database, _bearing(database.dialect), {"hash": hashed(secret)})
    if not rows or rows[0][0] != "access":
        return None
    *token, kind, roles, organization, fhir_user, state, client_state = rows[0]
    found = token_of(token)
    active = (state == 1 or not found.account) and (client_state == 1 or not found.client)
    roles = tuple(roles.split()) if roles else ()
    return Bearing(found, active, kind or "", roles, organization or "", fhir_user or "")


@cache
def _bearing(dialect: db.Dialect) -> db.Statement:
    person = [A.c[name] for name in ("kind", "roles", "organization", "fhir_user", "state")]
    joined = T.outerjoin(A, A.c.id == T.c.account).outerjoin(C, C.c.id == T.c.client)
    select = sa.select(*COLUMNS, *person, C.c.state).select_from(joined)
    return db.statement(select.where(T.c.hash == given(T.c.hash)), dialect)


async def use(
    database: db.Database,
    secret: str,
    kind: TokenKind,
    now: int,
    also: Sequence[db.Change] = (),
) -> Token | None:
    """Use up what is good for one use; None if it is not, or not any more: for one of two."""
    values = {"hash": hashed(secret), "kind": kind, "now": now}
    rows = await write(database, _statements(database.dialect)["use"], values, also)
    return replace(token_of(rows[0]), state=1) if rows else None


async def exchange(
    database: db.Database,
    secret: str,
    kind: TokenKind,
    fresh: Sequence[tuple[str, Token]],
    now: int,
    also: Sequence[db.Change] = (),
) -> bool:
    """Use up a secret and make the fresh ones good in its place, in one transaction.

    Returns False, and writes nothing, for one that is not good. One that was used before revokes
    its family: somebody has a copy (RFC 6749, 4.1.2; RFC 9700, 4.14.2).
    """
    known = _statements(database.dialect)
    hash = hashed(secret)

    async def work(connection: db.Connection) -> bool:
        await connection.begin()
        rows = await connection.rows(known["one"], {"hash": hash})
        if not rows:
            return False
        before = token_of(rows[0])
        await connection.exclusive([lock(family=before.family), lock(account=before.account)])
        values = {"hash": hash, "kind": kind, "now": now}
        if await connection.rows(known["use"], values):
            await connection.change([*(row_of(*one) for one in fresh), *also])
            return True
        rows = await connection.rows(known["one"], {"hash": hash})
        if before.kind == kind and rows and not token_of(rows[0]).state:
            await connection.rows(known["revoke_family"], {"family": before.family})
        return False

    return await database.write(work)


async def revoke(database: db.Database, secret: str, also: Sequence[db.Change] = ()) -> bool:
    """Make a secret worth nothing; return whether it was worth something."""
    known = _statements(database.dialect)["revoke"]
    return bool(await write(database, known, {"hash": hashed(secret)}, also))


async def revoke_family(database: db.Database, family: str, also: Sequence[db.Change] = ()) -> int:
    """Make what came of one authorization worth nothing; return how much of it was good."""
    known = _statements(database.dialect)["revoke_family"]

    async def work(connection: db.Connection) -> int:
        await connection.exclusive([lock(family=family)])
        rows = await connection.rows(known, {"family": family})
        if rows:
            await connection.change(also)
        return len(rows)

    return await database.write(work)


def lock(*, family: str = "", account: str = "") -> str:
    """Return the name to lock while the tokens of a family, or of an account, change."""
    return f"tokens of family {family}" if family else f"tokens of account {account}"


async def revoke_of(
    connection: db.Connection, dialect: db.Dialect, *, account: str = "", client: str = ""
) -> None:
    """Make all that an account, or a client, has worth nothing, within a transaction."""
    if account:
        await connection.rows(_statements(dialect)["revoke_account"], {"account": account})
    if client:
        await connection.rows(_statements(dialect)["revoke_client"], {"client": client})


async def prolong(database: db.Database, secret: str, kind: TokenKind, expires: int) -> bool:
    """Let a secret that was not revoked be good until `expires`; return whether there is one."""
    values = {"hash": hashed(secret), "kind": kind, "new_expires": expires}
    return bool(await write(database, _statements(database.dialect)["prolong"], values))


async def is_alive(database: db.Database, family: str, now: int) -> bool:
    """Return whether somebody is still signed in, in a session of this family."""
    values: dict[str, object] = {"family": family, "now": now}
    return bool(await read(database, _statements(database.dialect)["alive"], values))


async def remember_assertion(database: db.Database, client: str, jti: str, expires: int) -> bool:
    """Note that a client has used an assertion; False if it was used before (RFC 7523, 3).

    `expires` is when the assertion itself does, in microseconds: nobody takes it after that.
    """
    hash = hashed(f"assertion {client} {jti}")
    token = Token("assertion", "", client, expires=expires, state=0)
    values = {f"new_{name}": value for name, value in _row(hash, token).items()}
    return bool(await write(database, _statements(database.dialect)["remember"], values))


async def keep_clean(database: db.Database, now: Callable[[], int]) -> None:
    """Drop what is long over, now and then; ends when it is cancelled."""
    while True:
        await asyncio.sleep(CLEAN_SECONDS)
        try:
            await expire(database, now())
        except (db.Unavailable, db.TooSlow):
            pass  # there is a next time
        except Exception as error:
            log.error("Dropping old tokens failed: %s", fault(error))


async def expire(database: db.Database, now: int) -> None:
    """Drop what is long over."""
    values: dict[str, object] = {"before": now - KEPT}
    known = _statements(database.dialect)["expire"]
    while len(await write(database, known, values)) == DROPPED_AT_ONCE:
        pass
