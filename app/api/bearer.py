"""Whoever presents a token: the one place that turns a token into a Caller.

https://www.rfc-editor.org/rfc/rfc6750

A token is opaque, so what it stands for is in the database. A process remembers what it has found
for a second: a request costs a look into a dict, and what was revoked is worth nothing a second
later, in every process and on every machine.

A token of another issuer would be told from ours here, by what it looks like (a JWT has dots); as
long as nobody else is trusted, it is as unknown as any other.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import NamedTuple, NoReturn, cast

from app import db
from app.api import grants
from app.fhir.access import Caller, Grant, Kind, Policy, parse_scopes, policy_of
from app.fhir.errors import FhirError, Issue
from app.fhir.query import Language
from app.fhir.rest import Server

FRESH = 1_000_000  # microseconds for which nobody asks the database again
MOST = 4096  # tokens that are remembered, and policies, of some 20 KB each
LONGEST = 1024  # characters of a header that can hold a token

CHALLENGE = 'Bearer realm="Milepost"'
INVALID_REQUEST = f'{CHALLENGE}, error="invalid_request"'
INVALID_TOKEN = f'{CHALLENGE}, error="invalid_token"'
INSUFFICIENT_SCOPE = f'{CHALLENGE}, error="insufficient_scope"'

ABSENT = "This needs an access token: send it as Authorization: Bearer [token]"
MALFORMED = "Authorization must be: Bearer [token]"
UNKNOWN = "The access token is unknown, has expired or was revoked"


@dataclass(slots=True)
class Known:
    """What was found of a token: when (`checked`), and what it was made from.

    Times are in microseconds.
    """

    caller: Caller
    checked: int
    expires: int
    found: grants.Bearing
    language: Language


class Rights(NamedTuple):
    """What tokens with the same scopes, of the same kind of caller, may do."""

    policy: Policy
    scopes: tuple[str, ...]


class Bearer:
    """Knows callers by their tokens; one for a process."""

    def __init__(self, database: db.Database, server_of: Callable[[], Server]) -> None:
        self.database = database
        self.server_of = server_of
        self.known: OrderedDict[bytes, Known] = OrderedDict()
        self.asked: dict[bytes, asyncio.Task[Caller]] = {}
        self.language: Language | None = None
        self.rights: OrderedDict[tuple[str, ...], Rights] = OrderedDict()

    async def caller(self, authorization: str) -> Caller:
        """Return who presents a token in the header; raises a 401 that says how to be let in."""
        server = self.server_of()
        # Not the token itself: a dump of the memory should show none that is not in use
        key = sha256(authorization.encode("utf-8", "surrogatepass")).digest()
        known = self.known.get(key)
        if known is not None:
            now = server.now()
            if (
                0 <= now - known.checked < FRESH
                and now < known.expires
                and known.language is server.editions.current.language
            ):
                return known.caller
        return await self._asked_for(key, token_in(authorization))

    async def _asked_for(self, key: bytes, token: str) -> Caller:
        """Return what the database says of a token; those who come at once ask it once."""
        task = self.asked.get(key)
        if task is None:
            task = asyncio.create_task(self._found(key, token))
            self.asked[key] = task
            task.add_done_callback(partial(self._answered, key))
        return await asyncio.shield(task)

    def _rights(self, found: grants.Bearing, language: Language, now: int) -> Rights:
        """Return what a token may do; to work that out takes milliseconds, so many share it."""
        if self.language is not language:
            self.language = language
            self.rights.clear()
        key = found.token.scope, found.kind, patient_of(found), found.fhir_user
        rights = self.rights.pop(key, None) or rights_of(found, language, now)
        self.rights[key] = rights
        if len(self.rights) > MOST:
            self.rights.popitem(last=False)
        return rights

    def _answered(self, key: bytes, task: asyncio.Task[Caller]) -> None:
        del self.asked[key]
        if not task.cancelled():
            task.exception()  # it counts as seen, although whoever asked may have gone away

    async def _found(self, key: bytes, token: str) -> Caller:
        server = self.server_of()
        now = server.now()  # before it is looked for: what is revoked meanwhile counts from here
        before = self.known.pop(key, None)
        found = await grants.known_by(self.database, token)
        if found is None or not found.active or not found.token.good(now):
            refuse(INVALID_TOKEN, UNKNOWN)
        language = server.editions.current.language
        if before and before.found == found and before.language is language:
            caller = before.caller
        else:
            caller = caller_of(found, self._rights(found, language, now))
        self.known[key] = Known(caller, now, found.token.expires, found, language)
        if len(self.known) > MOST:
            self.known.popitem(last=False)
        return caller


def token_in(authorization: str) -> str:
    """Return the token in an Authorization header; raises a 401 where there is none."""
    if not authorization:
        refuse(CHALLENGE, ABSENT)
    scheme, _, token = authorization.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer":
        refuse(CHALLENGE, ABSENT)
    if not token or " " in token or not token.isascii() or len(authorization) > LONGEST:
        refuse(INVALID_REQUEST, MALFORMED)
    return token


def refuse(challenge: str, text: str) -> NoReturn:
    """Raise the 401 that says what is wrong, and nothing of what was presented."""
    raise FhirError([Issue("error", "login", text)], 401, {"WWW-Authenticate": challenge})


def rights_of(found: grants.Bearing, language: Language, now: int) -> Rights:
    """Return what account, client and scopes of a token come to."""
    scopes = parse_scopes(found.token.scope, language)
    grant = Grant(kind_of(found), scopes.granted, patient_of(found), found.fhir_user)
    words = (*scopes.others, *(scope.text for scope in scopes.granted))
    return Rights(policy_of(grant, language, now), words)


def kind_of(found: grants.Bearing) -> Kind:
    """Return what kind of caller presents a token; without an account a client acts for itself."""
    return cast("Kind", found.kind or "system")


def patient_of(found: grants.Bearing) -> str:
    """Return the Patient of the launch, or of the account, as a reference; "" for none."""
    chosen = str(found.token.context.get("patient", "")).removeprefix("Patient/")
    own = found.fhir_user if found.kind == "patient" else ""
    return f"Patient/{chosen}" if chosen else own


def caller_of(found: grants.Bearing, rights: Rights) -> Caller:
    """Return who presents a token that is good."""
    token = found.token
    subject = token.account or token.client
    return Caller(
        name=f"{subject} {token.client} {rights.policy.digest}",
        policy=rights.policy,
        kind=kind_of(found),
        subject=subject,
        roles=found.roles,
        organization=found.organization,
        fhir_user=found.fhir_user,
        purpose=str(token.context.get("purpose", "")),
        patient=patient_of(found),
        client=token.client,
        scopes=rights.scopes,
    )
