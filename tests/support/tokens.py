"""The token that nearly all tests ask with: everything may be read and written with it.

It is put into a database once, before that is copied, so that a test that is not about tokens need
not make one. Whoever tests what another caller sees makes a token of its own.
"""

import asyncio
from hashlib import sha256

from app import db

TOKEN = "what-nearly-all-tests-ask-with"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
AUTHORIZATION = f"Authorization: Bearer {TOKEN}\r\n".encode()  # a line of a raw request
CLIENT = "tests"
SCOPE = "system/*.cruds"
SINCE = 1_577_836_800_000_000  # 2020, in microseconds
UNTIL = SINCE + 100 * 365 * 86_400_000_000


def admit(url: str) -> None:
    """Put TOKEN and its client into a migrated database; no event loop may be running here."""
    asyncio.run(admitted(url))


async def admitted(url: str) -> None:
    """Put TOKEN and its client into a migrated database that has them not."""
    client = {
        "id": CLIENT,
        "name": CLIENT,
        "kind": "symmetric",
        "secret": b"",
        "jwks": "",
        "jwks_uri": "",
        "redirect_uris": "",
        "grant_types": "client_credentials",
        "scope": SCOPE,
        "launch_uri": "",
        "logo_uri": "",
        "state": 1,
        "created": SINCE,
    }
    token = {
        "hash": sha256(TOKEN.encode()).digest(),
        "kind": "access",
        "family": CLIENT,
        "client": CLIENT,
        "account": "",
        "scope": SCOPE,
        "context": "{}",
        "issued": SINCE,
        "expires": UNTIL,
        "state": 1,
    }
    changes = [
        db.Change("add", table, tuple(row), [tuple(row.values())])
        for table, row in ((db.client, client), (db.token, token))
    ]

    async def work(connection: db.Connection) -> None:
        await connection.begin()
        await connection.change(changes)

    database = db.connect(url, 30, 1)
    await database.open()
    try:
        await database.write(work)
    finally:
        await database.close()
