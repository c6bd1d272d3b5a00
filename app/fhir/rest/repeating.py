"""Calls that their client may send again, not knowing whether they were made: Idempotency-Key.

https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-idempotency-key-header

What a call told is committed with what it wrote, under a name made of the key, of who calls, and of
the URL. A call of the same name is then not made again: its answer is made anew from what was told,
for who asks now. An operation that tells nothing is made again; it is one that may be.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from app.fhir.access import Caller
from app.fhir.errors import FhirError, Issue, refused
from app.fhir.interaction import Interaction
from app.fhir.rest.server import Server
from app.fhir.store import Store, idempotency
from app.fhir.wire import canonical, decode

KEY = re.compile(r"[!-~]{1,128}")
MISMATCH = "idempotency-mismatch"


@dataclass(frozen=True, slots=True)
class Repeatable:
    """A call with a key: its name, and the digest of what was sent."""

    name: bytes
    digest: bytes


def repeatable(caller: Caller, asked: Interaction) -> Repeatable | None:
    """Return what a call with a key goes by, None for one without; a 400 for what is no key."""
    key = asked.idempotency_key
    if not key:
        return None
    if not KEY.fullmatch(key):
        raise refused("value", "An Idempotency-Key is 1 to 128 visible characters", status=400)
    who = [caller.client, caller.subject, caller.patient]
    place = [asked.method, asked.type, asked.id, asked.operation]
    sent = {
        "pairs": sorted(asked.pairs),
        "body": decode(asked.body) if asked.body else None,
    }
    return Repeatable(
        sha256(canonical({"of": [*who, *place, key]})).digest(),
        sha256(canonical(sent)).digest(),
    )


@contextmanager
def alone(server: Server, call: Repeatable | None) -> Iterator[None]:
    """Refuse a call while this process is making one of the same name."""
    if call is None:
        yield
        return
    if call.name in server.under_way:
        raise _busy()
    server.under_way.add(call.name)
    try:
        yield
    finally:
        server.under_way.remove(call.name)


async def recalled(server: Server, store: Store, call: Repeatable) -> Mapping[str, Any] | None:
    """Return what a call of this name told, None if there was none, or it told nothing.

    Raises a 409 while another process makes one, and a 422 where something else was sent.
    """
    if not await store.connection.claim(f"call {call.name.hex()}"):
        raise _busy()
    dialect, now = server.database.dialect, server.now()
    found = await idempotency.recall(store.connection, dialect, call.name, now)
    if found is None:
        return None
    if found.digest != call.digest:
        text = "This Idempotency-Key came before, with a request that said something else"
        details = (server.rules.system, MISMATCH) if server.rules.system else None
        raise FhirError([Issue("error", "business-rule", text, details=details)])
    return found.told


async def remember(
    server: Server, store: Store, call: Repeatable, told: Mapping[str, Any] | None
) -> None:
    """Keep what a call has told; it is committed with what the call has written."""
    known = idempotency.Told(call.digest, told)
    dialect, now = server.database.dialect, server.now()
    await idempotency.remember(store.connection, dialect, call.name, known, now)


def _busy() -> FhirError:
    text = "A request with this Idempotency-Key is under way; ask again for its answer"
    return FhirError([Issue("error", "conflict", text)], 409, {"Retry-After": "1"})
