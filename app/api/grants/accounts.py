"""People: who they are, and how they prove it.

https://pages.nist.gov/800-63-4/sp800-63b.html#password
https://www.rfc-editor.org/rfc/rfc9106

Rule 1: whoever tries a name learns nothing about it: an unknown, a disabled and a locked account
are answered like a wrong password, after the same time.
Rule 2: an attempt is counted before the password is looked at, so that many at once are counted.
"""

import asyncio
import re
import secrets
import time
import unicodedata
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv6Address, ip_address
from typing import Any, get_args

import argon2
import sqlalchemy as sa

from app import db
from app.api.grants.rows import BAD, GOOD, Refused, Taken, given, inserted, new, read, write
from app.api.grants.tokens import lock, new_secret, revoke_of
from app.fhir.access import Kind
from app.fhir.interaction import ID

KINDS: tuple[Kind, ...] = tuple(kind for kind in get_args(Kind) if kind != "system")
# What the accounts of a kind are people of; of others nobody, or a Practitioner
PEOPLE = {"patient": ("Patient",), "representative": ("RelatedPerson",)}
STAFF = ("", "Practitioner")

SHORTEST = 12  # characters; NIST asks for 15, or for 8 beside a second factor
TELLING = 4  # letters of a name that a password must not have in it
LONGEST = 1024  # bytes, so that nobody makes us hash a book
NAME = 100  # characters
FAILURES = 5  # wrong passwords in a row: a person's typing errors, not a list of passwords
LOCKED = 15 * 60 * 1_000_000  # microseconds: some 500 guesses a day, of 12 characters
ANSWERED = 0.3  # seconds until a failure is told: more than the work takes, whatever it was
AT_ONCE = 4  # passwords that are hashed at the same time, each in 64 MiB and some 50 ms

ADDRESS_FAILURES = 50  # of one address in `LOCKED`, over all names: a clinic behind one router
ADDRESSES = 10_000  # that are remembered

A = db.account
COLUMNS = tuple(column for column in A.c if column.name != "password")
TYPED = "abcdefghjkmnpqrstuvwxyz23456789"
ROLE = re.compile(r"[!-~]{1,100}")
HASHER = argon2.PasswordHasher()  # RFC 9106's second choice: 64 MiB, 3 passes, 4 lanes


class Weak(Refused):
    """A password that is none; the text says what one has to be."""


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who can sign in.

    `fhir_user` is who that is (`Practitioner/1`), `organization` a reference too; "" for none.
    `once`: the password has to be changed when it is first used. `state` is 1 for an active one.
    `failures` are the wrong passwords since the last right one, `locked` until when nobody can
    sign in; times are in microseconds.
    """

    id: str
    name: str
    kind: Kind
    roles: tuple[str, ...] = ()
    organization: str = ""
    fhir_user: str = ""
    once: bool = False
    state: int = 1
    created: int = 0
    failures: int = 0
    locked: int = 0


def account_of(row: Sequence[Any]) -> Account:
    """Return the account in a row of `COLUMNS`."""
    id, name, kind, roles, organization, fhir_user, once, *rest = row
    return Account(id, name, kind, tuple(roles.split()), organization, fhir_user, bool(once), *rest)


def folded(name: str) -> str:
    """Return a name as it is kept: two that look alike to people are one."""
    return unicodedata.normalize("NFKC", name).casefold().strip()


@cache
def _statements(dialect: db.Dialect) -> dict[str, db.Statement]:
    one = A.c.id == given(A.c.id)
    now = given(A.c.locked, "now")
    named = sa.or_(one, A.c.name == given(A.c.name))
    free = sa.and_(A.c.name == given(A.c.name), A.c.state == GOOD, A.c.locked <= now)
    # Once a lock has ended, counting begins again
    failures = sa.case((A.c.locked > BAD, GOOD), else_=A.c.failures + GOOD)
    most: sa.ColumnClause[int] = sa.literal_column(str(FAILURES))
    locked = sa.case((failures >= most, given(A.c.locked, "until")), else_=BAD)
    proved = sa.and_(one, A.c.state == GOOD, A.c.password == given(A.c.password))
    set_password = new(A.c.password, A.c.once)
    found = {
        "one": sa.select(*COLUMNS).where(named).order_by(A.c.id != given(A.c.id)),
        "all": sa.select(*COLUMNS).order_by(A.c.name),
        "password": sa.select(A.c.password).where(one),
        "attempt": sa.update(A)
        .where(free)
        .values(failures=failures, locked=locked)
        .returning(A.c.id, A.c.password),
        "proved": sa.update(A)
        .where(proved)
        .values(failures=BAD, locked=BAD, **new(A.c.password))
        .returning(*COLUMNS),
        "set_password": sa.update(A)
        .where(one)
        .values(failures=BAD, locked=BAD, **set_password)
        .returning(A.c.id),
        "disable": sa.update(A).where(one, A.c.state == GOOD).values(state=BAD).returning(A.c.id),
    }
    return {name: db.statement(clause, dialect) for name, clause in found.items()}


async def add_account(
    database: db.Database,
    *,
    id: str,
    name: str,
    kind: Kind,
    roles: Sequence[str] = (),
    organization: str = "",
    fhir_user: str = "",
    password: str,
    once: bool,
    now: int,
    also: Sequence[db.Change] = (),
) -> Account:
    """Add an account and return it; raises Taken, Weak, or Refused where it would be none."""
    account = Account(
        id, folded(name), kind, tuple(roles), organization, fhir_user, once, created=now
    )
    if problem := _problem(account):
        raise Refused(problem)
    check_password(name, password)
    row: dict[str, object] = {
        "id": id,
        "name": account.name,
        "kind": kind,
        "roles": " ".join(roles),
        "organization": organization,
        "fhir_user": fhir_user,
        "password": await _hashed(password),
        "once": int(once),
        "state": 1,
        "created": now,
        "failures": 0,
        "locked": 0,
    }

    async def work(connection: db.Connection) -> None:
        await connection.exclusive([f"account {account.name}"])
        known = _statements(database.dialect)["one"]
        if await connection.rows(known, {"id": account.name, "name": account.name}):
            raise Taken(f"There is an account {account.name} already")
        await connection.change([inserted(A, row), *also])

    await database.write(work)
    return account


def _problem(account: Account) -> str:
    """Return what keeps an account from being one, as a sentence."""
    name, kind = account.name, account.kind
    if not 0 < len(name) <= NAME or any(c.isspace() or not c.isprintable() for c in name):
        return f"A name has 1 to {NAME} letters, digits and signs, and no spaces"
    if kind not in KINDS:
        return f"The kind of an account is one of {', '.join(KINDS)}"
    wanted = PEOPLE.get(kind, STAFF)
    if account.fhir_user.partition("/")[0] not in wanted:
        nobody = " or nobody" if "" in wanted else ""
        return f"An account of the kind {kind} is that of a {wanted[-1]}{nobody}"
    for text, type in ((account.fhir_user, wanted[-1]), (account.organization, "Organization")):
        if text and not (text.startswith(f"{type}/") and ID.fullmatch(text[len(type) + 1 :])):
            return f"{text!r} is no reference such as {type}/1"
    if not all(ROLE.fullmatch(role) for role in account.roles):
        return "A role is a word of ASCII letters, digits and signs"
    return ""


def check_password(name: str, password: str) -> None:
    """Raise Weak for a password that is too easy to guess; there are no rules for characters."""
    text = _normal(password)
    if len(text) < SHORTEST:
        raise Weak(f"A password has at least {SHORTEST} characters")
    if len(password.encode("utf-8", "surrogatepass")) > LONGEST:
        raise Weak(f"A password has at most {LONGEST} bytes")
    if len(folded(name)) >= TELLING and folded(name) in folded(password):
        raise Weak("A password does not have the name in it")
    if len(set(text)) < SHORTEST // 3:
        raise Weak("A password is more than a few characters again and again")


def new_password() -> str:
    """Return a fresh password that people can type: 98 bits, no letters that look alike."""
    letters = [secrets.choice(TYPED) for _ in range(20)]
    return "-".join("".join(letters[n : n + 5]) for n in range(0, 20, 5))


def _normal(password: str) -> str:
    """Return a password as it is counted: the same, whichever keyboard it was typed on."""
    return unicodedata.normalize("NFKC", password)


def _hashed_as(password: str) -> bytes:
    return _normal(password).encode("utf-8", "surrogatepass")


async def find_account(database: db.Database, name_or_id: str) -> Account | None:
    """Return an account, whatever its state; None if there is none."""
    values: dict[str, object] = {"id": name_or_id, "name": folded(name_or_id)}
    rows = await read(database, _statements(database.dialect)["one"], values)
    return account_of(rows[0]) if rows else None


async def list_accounts(database: db.Database) -> list[Account]:
    """Return all accounts by name."""
    rows = await read(database, _statements(database.dialect)["all"], {})
    return [account_of(row) for row in rows]


async def sign_in(database: db.Database, name: str, password: str, now: int) -> Account | None:
    """Return whose name and password these are; None for a wrong one.

    After `FAILURES` wrong ones in a row the account is locked for a while: `find_account` tells.
    """
    began = time.monotonic()
    known = _statements(database.dialect)
    # Nobody has a password that is too long, nor an empty one
    password = "" if len(password.encode("utf-8", "surrogatepass")) > LONGEST else password
    values: dict[str, object] = {"name": folded(name), "now": now, "until": now + LOCKED}
    rows = await write(database, known["attempt"], values)
    id, stored = rows[0] if rows else ("", "")
    renewed = await _verified(stored, password)
    if renewed and rows:
        proof: dict[str, object] = {"id": id, "password": stored, "new_password": renewed}
        rows = await write(database, known["proved"], proof)
        if rows:
            return account_of(rows[0])
    await asyncio.sleep(began + ANSWERED - time.monotonic())
    return None


async def set_password(
    database: db.Database,
    id: str,
    password: str,
    *,
    once: bool = False,
    also: Sequence[db.Change] = (),
) -> None:
    """Give an account another password: whoever is signed in with the old one no longer is.

    Unlocks it. Raises Weak for one that is none, or is the old one; Refused without an account.
    """
    account = await find_account(database, id)
    if account is None:
        raise Refused("There is no such account")
    check_password(account.name, password)
    known = _statements(database.dialect)
    ((old,),) = await read(database, known["password"], {"id": account.id})
    if await _verified(old, password):
        raise Weak("The new password is the old one")
    values: dict[str, object] = {
        "id": account.id,
        "new_password": await _hashed(password),
        "new_once": int(once),
    }

    async def work(connection: db.Connection) -> None:
        await connection.exclusive([lock(account=account.id)])
        await connection.rows(known["set_password"], values)
        await revoke_of(connection, database.dialect, account=account.id)
        await connection.change(also)

    await database.write(work)


async def disable_account(database: db.Database, id: str, also: Sequence[db.Change] = ()) -> bool:
    """Let nobody sign in any more, nor use what was given out; False if it was so already."""

    async def work(connection: db.Connection) -> bool:
        await connection.exclusive([lock(account=id)])
        if not await connection.rows(_statements(database.dialect)["disable"], {"id": id}):
            return False
        await revoke_of(connection, database.dialect, account=id)
        await connection.change(also)
        return True

    return await database.write(work)


# --- the work of hashing ------------------------------------------------------------------------


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(AT_ONCE, "passwords")


@cache
def _of_nobody() -> str:
    """Return the hash of a password that nobody knows, for names that nobody has."""
    return HASHER.hash(new_secret())


async def _hashed(password: str) -> str:
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_threads(), HASHER.hash, _hashed_as(password))


async def _verified(stored: str, password: str) -> str:
    """Return what to store of a right password (anew, if it is hashed otherwise today), else ""."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_threads(), _proved, stored, _hashed_as(password))


def _proved(stored: str, password: bytes) -> str:
    try:
        HASHER.verify(stored or _of_nobody(), password)
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return ""
    return HASHER.hash(password) if HASHER.check_needs_rehash(stored) else stored


def neighbourhood(address: str) -> str:
    """Return what an address counts as: of IPv6 the first half, since whoever has one has all."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if not isinstance(found, IPv6Address) or found.ipv4_mapped:
        return address
    return f"{int(found) >> 64:x}::/64"


class Throttle:
    """What one process remembers of addresses from which names are tried one after another."""

    def __init__(self) -> None:
        self.known: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def wait(self, address: str, now: int) -> int:
        """Return for how many seconds an address may try no name, 0 if it may."""
        failures, until = self.known.get(neighbourhood(address), (0, 0))
        return -((now - until) // 1_000_000) if failures >= ADDRESS_FAILURES and now < until else 0

    def failed(self, address: str, now: int) -> None:
        """Count a failure; counting ends `LOCKED` after it began."""
        place = neighbourhood(address)
        failures, until = self.known.pop(place, (0, 0))
        self.known[place] = (failures + 1, until) if now < until else (1, now + LOCKED)
        if len(self.known) > ADDRESSES:
            self.known.popitem(last=False)
