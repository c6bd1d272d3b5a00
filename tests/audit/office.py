"""The people of these tests, what they ask with, and the rows of the trail as they are stored."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from app import db
from app.api import grants
from app.api.grants.rows import inserted
from app.fhir.access import Kind
from tests.support.resources import Resource, observation, patient, practitioner, reference
from tests.support.tokens import SINCE, UNTIL

ADA, BOB = "Patient/ada", "Patient/bob"
GROUP: Resource = {
    "resourceType": "Group",
    "id": "roster",
    "type": "person",
    "actual": True,
    "member": [{"entity": reference(ADA)}, {"entity": reference(BOB)}],
}
RECORDS: tuple[Resource, ...] = (
    patient(id="ada"),
    patient(id="bob"),
    practitioner(id="ines"),
    observation(id="hers", subject=reference(ADA)),
    observation(id="his", subject=reference(BOB)),
    GROUP,
)
PEOPLE: dict[str, tuple[Kind, str, str]] = {
    "officer": ("privacy-officer", "Practitioner/ines", "user/AuditEvent.rs user/Patient.rs"),
    "deaf": ("privacy-officer", "", "user/Patient.rs"),
    "nurse": ("workforce", "Practitioner/ines", "user/*.cruds"),
    "root": ("administrator", "", "user/*.cruds"),
    "ada": ("patient", ADA, "patient/*.rs"),
}


@dataclass(frozen=True)
class Row:
    """One row of the trail."""

    agent: str
    code: str
    action: str
    outcome: int
    type: int
    detail: dict[str, Any]
    patients: tuple[str, ...]

    @property
    def seen(self) -> list[str]:
        """Every version that was seen or written, of whomever, in order."""
        return sorted({place for places in self.detail.get("of", {}).values() for place in places})


async def admit(url: str) -> None:
    """Put the people, the app through which they ask, and a token of each into a database."""
    app = {
        **dict.fromkeys(("jwks", "jwks_uri", "launch_uri", "logo_uri", "redirect_uris"), ""),
        "id": "app",
        "name": "app",
        "kind": "public",
        "secret": b"",
        "state": 1,
        "grant_types": "authorization_code",
        "scope": "user/*.cruds",
        "created": SINCE,
    }
    rows = [inserted(db.client, app)]
    for name, (kind, fhir_user, _) in PEOPLE.items():
        account = {
            "id": name,
            "name": name,
            "kind": kind,
            "fhir_user": fhir_user,
            "roles": "of-tests",
            "organization": "",
            "password": "",
            "once": 0,
            "state": 1,
            "created": SINCE,
            "failures": 0,
            "locked": 0,
        }
        rows.append(inserted(db.account, account))
    database = db.connect(url, 30, 1)
    await database.open()
    try:
        await database.write(lambda connection: connection.change(rows, final=True))
        for name, (_, _, scope) in PEOPLE.items():
            await grants.issue(
                database, kind="access", secret=name, family=name, client="app", account=name,
                scope=scope, now=SINCE, seconds=(UNTIL - SINCE) // 1_000_000,
            )  # fmt: skip
    finally:
        await database.close()


def by(name: str) -> dict[str, str]:
    """Return the header with which one of the people asks."""
    return {"Authorization": f"Bearer {name}"}


async def settle(client: httpx.AsyncClient) -> None:
    """Put the records there."""
    for body in RECORDS:
        reply = await client.put(f"/{body['resourceType']}/{body['id']}", json=body)
        assert reply.status_code == 201, reply.text


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[db.Database]:
    """Yield the database on connections of its own, so that only what is committed is seen."""
    database = db.connect(url, 30, 1)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


async def execute(database: db.Database, texts: Sequence[str]) -> None:
    """Execute statements behind the server's back."""

    async def work(connection: db.Connection) -> None:
        await connection.begin()
        for text in texts:
            await connection.rows(db.Statement(text, ()), {})

    await database.write(work)


async def trail(url: str, after: int = 0) -> list[Row]:
    """Return the rows that are committed, the oldest first, without the first few."""
    asked = db.Statement(
        "SELECT agent, code, action, outcome, type, detail, id FROM audit ORDER BY id", ()
    )
    whose = db.Statement("SELECT key, id FROM resource", ())
    async with opened(url) as database:
        rows = await database.read(lambda connection: connection.rows(asked, {}))
        named = await database.read(lambda connection: connection.rows(whose, {}))
    ids = dict(map(tuple, named))
    details = [json.loads(row[5]) for row in rows[after:]]
    patients = [tuple(sorted(ids[key] for key in detail.get("patients", ()))) for detail in details]
    return [
        Row(agent, code, action, outcome, type, detail, of)
        for (agent, code, action, outcome, type, *_), detail, of in zip(
            rows[after:], details, patients, strict=True
        )
    ]
