"""The keys that id tokens are signed with.

https://openid.net/specs/openid-connect-core-1_0.html#RotateSigKeys

They are in the database: the one place that all workers share, whose file nobody else may read.
The one in use signs; one that was retired is shown for a day, longer than what it signed is good.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
import sqlalchemy as sa
from joserfc.jwk import RSAKey

from app import db
from app.api.grants.rows import BAD, given, inserted, new, read

BITS = 2048
SHOWN = 24 * 3600 * 1_000_000  # microseconds

K = db.signing_key


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An RSA key: `jwk` is the private one as a dict, `retired` when it signed last (0: not yet).

    Times are in microseconds.
    """

    kid: str
    jwk: Mapping[str, Any]
    created: int
    retired: int


@cache
def _statements(dialect: db.Dialect) -> dict[str, db.Statement]:
    shown = sa.or_(K.c.retired == BAD, K.c.retired > given(K.c.retired, "before"))
    found = {
        "all": sa.select(K).where(shown).order_by(K.c.retired != BAD, K.c.created.desc(), K.c.kid),
        "retire": sa.update(K).where(K.c.retired == BAD).values(new(K.c.retired)),
        "drop": sa.delete(K).where(sa.not_(shown)),
    }
    return {name: db.statement(clause, dialect) for name, clause in found.items()}


def _fresh() -> tuple[str, str]:
    """Return the name of a new key, which is its thumbprint (RFC 7638), and the key as JSON."""
    key = RSAKey.generate_key(BITS, {"use": "sig", "alg": "RS256"}, private=True)
    kid = key.thumbprint()
    return kid, msgspec.json.encode({**key.as_dict(private=True), "kid": kid}).decode()


def _keys_of(rows: Sequence[db.Row]) -> list[SigningKey]:
    return [SigningKey(kid, msgspec.json.decode(jwk), *times) for kid, jwk, *times in rows]


async def signing_keys(
    database: db.Database, now: int, also: Sequence[db.Change] = ()
) -> list[SigningKey]:
    """Return the keys that are shown; the first one signs.

    It is made when there is none yet; what is to be written `also` is written with it alone.
    """
    values: dict[str, object] = {"before": now - SHOWN}
    found = _keys_of(await read(database, _statements(database.dialect)["all"], values))
    if found and not found[0].retired:
        return found
    return await _add(database, now, also, only_first=True)


async def rotate_keys(
    database: db.Database, now: int, also: Sequence[db.Change] = ()
) -> list[SigningKey]:
    """Let a new key sign from now on; return the keys that are shown."""
    return await _add(database, now, also, only_first=False)


async def _add(
    database: db.Database, now: int, also: Sequence[db.Change], *, only_first: bool
) -> list[SigningKey]:
    """Add a key, and drop those that are long retired; two that start at once add one first key."""
    known = _statements(database.dialect)
    kid, jwk = await asyncio.to_thread(_fresh)
    row: dict[str, object] = {"kid": kid, "jwk": jwk, "created": now, "retired": 0}
    values: dict[str, object] = {"before": now - SHOWN}

    async def work(connection: db.Connection) -> Sequence[db.Row]:
        await connection.exclusive(["signing keys"])
        rows = await connection.rows(known["all"], values)
        if not (only_first and rows and not rows[0][3]):
            await connection.rows(known["retire"], {"new_retired": now})
            await connection.rows(known["drop"], values)
            await connection.change([inserted(K, row), *also])
            rows = await connection.rows(known["all"], values)
        return rows

    return _keys_of(await database.write(work))
