"""The terminology that searches join: members of value sets, ancestors of codes.

https://hl7.org/fhir/R4/search.html#token (`:in`, `:not-in`, `:below`, `:above`)

Theory of operation. `terminology` has a row for each CodeSystem and ValueSet, stored or shipped,
with what expansion reads of it. When one is written, the value sets that depend on it, directly
or through others, are expanded again in the same transaction (`record`), and `value_set_member`
and `concept_ancestor` change by the difference. So a search finds members and never expands.

Rule 1: terminology is written by one transaction at a time (`claim`), which reads only after it
holds that right. Else two of them would each miss what the other is about to commit.
Rule 2: expansion sees all definitions. Which value set a caller can name is the caller's gate's to
say: one that it hides is unknown, and gives way to what else has its URL.
"""

import gzip
import zlib
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib import resources
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from app import db
from app.fhir import terminology
from app.fhir.definitions import Definitions
from app.fhir.errors import FhirError, refused
from app.fhir.store.catalogue import Catalogue
from app.fhir.terminology import (
    CodeSystem,
    Definition,
    Library,
    Member,
    Unexpandable,
    ValueSet,
    definition,
    newest,
    newest_of,
    uses,
)
from app.fhir.values import bounded, parse_reference, split_canonical
from app.fhir.wire import decode

TYPES = ("CodeSystem", "ValueSet")
SHIPPED, CODE_SYSTEM, VALUE_SET = 0, 1, 2  # terminology.kind
FORM = 1  # raised when the same shipped file comes to mean other rows

MaySee = Callable[[list[int]], Awaitable[set[int]]]

T, U, M, A, R = (
    db.terminology,
    db.terminology_use,
    db.value_set_member,
    db.concept_ancestor,
    db.resource,
)
COLUMNS = tuple(T.c.keys())
TRAITS = (T.c.key, T.c.version, T.c.kind, T.c.code, T.c.problem)


class Trait(NamedTuple):
    """What a search needs to know of an entry; the columns TRAITS."""

    key: int
    version: str
    kind: int
    code: str
    problem: str


def _given(name: str, kind: Any) -> sa.BindParameter[Any]:
    return sa.bindparam(name, type_=kind)


STATEMENTS: Mapping[str, sa.Select[Any]] = {
    # The columns of `terminology`, or of the other tables, in the order of the table
    "of keys": sa.select(T).where(db.among(T.c.key, "keys")),
    "of urls": sa.select(T).where(
        sa.or_(db.among(T.c.url, "urls"), db.among(T.c.value_set, "urls"))
    ),
    "users of urls": sa.select(T).where(
        T.c.key.in_(sa.select(U.c.key).where(db.among(U.c.url, "urls")))
    ),
    "uses of keys": sa.select(U).where(db.among(U.c.key, "keys")),
    "members of keys": sa.select(M).where(db.among(M.c.vs, "keys")),
    "pairs of keys": sa.select(A).where(db.among(A.c.system, "systems"), db.among(A.c.cs, "keys")),
    # The columns of TRAITS
    "value sets of a url": sa.select(*TRAITS).where(T.c.value_set == _given("url", sa.Text())),
    "value set of an id": sa.select(*TRAITS)
    .join(R, R.c.key == T.c.key)
    .where(R.c.type == _given("type", db.Small), R.c.id == _given("id", sa.Text())),
    "code systems of a url": sa.select(*TRAITS).where(
        T.c.url == _given("url", sa.Text()), T.c.kind == CODE_SYSTEM
    ),
    "shipped": sa.select(T.c.key).where(T.c.key < 0),
    "mark": sa.select(T.c.version).where(T.c.key == 0),
}


@cache
def _statement(name: str, dialect: db.Dialect) -> db.Statement:
    return db.statement(STATEMENTS[name], dialect)


# --- asking ------------------------------------------------------------------------------------

# Families of value sets that are named by a rule instead of a resource
BY_RULE = {"http://snomed.info/sct": "SNOMED CT", "http://loinc.org/vs": "LOINC"}


async def value_set(
    connection: db.Connection, catalogue: Catalogue, uri: str, may_see: MaySee
) -> int:
    """Return the number under which `value_set_member` holds the codes of a value set.

    `uri` is a canonical, with or without version, or `ValueSet/id`, also under the base URL;
    `may_see` returns those of some resource keys that the caller may see. A value set that is
    unknown or cannot be expanded is a 400 that says why.
    """
    found: Sequence[Trait] = ()
    here = parse_reference(uri, catalogue.base_url)
    url, version = split_canonical(uri)
    if here.type == "ValueSet" and here.id:
        type = catalogue.definitions.type_numbers["ValueSet"]
        values = {"type": type, "id": here.id}
        found = await _seen(connection, catalogue, may_see, "value set of an id", values)
    if not found and url:
        values = {"url": bounded(url)}
        found = await _seen(connection, catalogue, may_see, "value sets of a url", values)
        found = [one for one in found if not version or one.version == version]
    explicit = [one[:2] for one in found if one.kind == VALUE_SET]
    implicit = [one[:2] for one in found if one.kind == CODE_SYSTEM]
    key = newest_of(explicit, implicit, "")
    if key is None:
        raise _unknown(uri)
    one = next(one for one in found if one.key == key)
    if one.code:
        text = f"ValueSet {uri[:200]} cannot be expanded: {one.problem}"
        raise refused(one.code, text, status=400)
    return key


def _unknown(uri: str) -> FhirError:
    for start, name in BY_RULE.items():
        if uri.startswith(start):
            text = f"ValueSet {uri[:200]}: the implicit value sets of {name} are not supported"
            return refused("not-supported", text, status=400)
    return refused("not-found", f"No ValueSet {uri[:200]} is stored or shipped", status=400)


async def hierarchy(
    connection: db.Connection, catalogue: Catalogue, system: str, may_see: MaySee
) -> int:
    """Return the number (`cs`) under which `concept_ancestor` holds the hierarchy of a system.

    A system of which none is known is a 400 that says why. `may_see` is as in `value_set`.
    """
    values = {"url": bounded(system)}
    found = await _seen(connection, catalogue, may_see, "code systems of a url", values)
    key = newest([one[:2] for one in found], "") if system else None
    if key is None:
        text = f"No CodeSystem {system[:200]} is stored or shipped"
        raise refused("not-found", text, status=400)
    one = next(one for one in found if one.key == key)
    if one.code:
        text = f"The hierarchy of CodeSystem {system[:200]} is not known: {one.problem}"
        raise refused(one.code, text, status=400)
    return key


async def _seen(
    connection: db.Connection,
    catalogue: Catalogue,
    may_see: MaySee,
    name: str,
    values: Mapping[str, Any],
) -> list[Trait]:
    """Return the entries that are shipped, or of resources that the caller may see."""
    statement = _statement(name, catalogue.compiler.dialect)
    found = [Trait(*row) for row in await connection.rows(statement, values)]
    stored = [one.key for one in found if one.key > 0]
    visible = await may_see(stored) if stored else set()
    return [one for one in found if one.key < 0 or one.key in visible]


# --- recording ---------------------------------------------------------------------------------


async def claim(connection: db.Connection) -> None:
    """Wait until no other transaction writes terminology, and keep others out until the end."""
    await connection.exclusive(["terminology"])


async def changed(
    connection: db.Connection, catalogue: Catalogue, bodies: Mapping[int, bytes]
) -> None:
    """Record CodeSystems and ValueSets that were written, by resource key; deleted ones are empty.

    The transaction has made its `claim` before it wrote them. Recording a resource again changes
    nothing.
    """
    sensitive = catalogue.definitions.case_sensitive
    ledger = Ledger(connection, catalogue.compiler.dialect, sensitive)
    await ledger.record({k: definition(decode(b)) if b else None for k, b in bodies.items()})


class Entry(NamedTuple):
    """A row of `terminology`."""

    key: int
    size: int
    kind: int
    url: str
    version: str
    value_set: str
    code: str
    problem: str
    definition: bytes


@dataclass(frozen=True, slots=True)
class Known:
    """What is recorded of one definition: its entry, its members, its pairs of codes."""

    entry: Entry
    members: Set[Member] = frozenset()
    pairs: Set[tuple[str, str]] = frozenset()


def _packed(one: Definition) -> bytes:
    return zlib.compress(terminology.write(one))


def _unpacked(entry: Entry) -> Definition:
    return terminology.read(zlib.decompress(entry.definition))


def _known(key: int, one: Definition, library: Library) -> Known:
    """Return what a definition comes to, a problem included."""
    code = problem = ""
    members: Set[Member] = frozenset()
    pairs: Set[tuple[str, str]] = frozenset()
    try:
        if isinstance(one, CodeSystem) and one.url:
            pairs = library.hierarchy(key).pairs()
        if one.value_set or isinstance(one, ValueSet):
            members = library.members(key)
    except Unexpandable as error:
        code, problem = error.code, error.text
    kind = CODE_SYSTEM if isinstance(one, CodeSystem) else VALUE_SET
    size = len(one.concepts) if isinstance(one, CodeSystem) else len(members)
    named = (bounded(one.url), one.version, bounded(one.value_set))
    return Known(Entry(key, size, kind, *named, code, problem, _packed(one)), members, pairs)


@dataclass(frozen=True, slots=True)
class Ledger:
    """The tables of terminology, inside one transaction that has claimed them."""

    connection: db.Connection
    dialect: db.Dialect
    case_sensitive: Container[str]

    async def record(self, written: Mapping[int, Definition | None]) -> None:
        """Write definitions, None for those that go, and all that follows from them."""
        keys = list(written)
        fresh = {key: one for key, one in written.items() if one is not None}
        before = await self._entries("of keys", keys=keys)
        urls = {bounded(url) for one in fresh.values() for url in (one.url, one.value_set)}
        urls.update(url for entry in before.values() for url in (entry.url, entry.value_set))
        users = await self._users(urls - {""})
        given = {key: _unpacked(e) for key, e in users.items() if key not in written} | fresh
        library = Library(await self._completed(given, written), self.case_sensitive)
        known = [_known(key, one, library) for key, one in given.items()]

        await self._write_entries(before | users, [one.entry for one in known])
        used = {(key, bounded(url)) for key, one in fresh.items() for url in uses(one)}
        await self._write(U, "uses of keys", used, keys=keys)
        named = {system for one in known for system, _ in one.members}
        named.update(one.entry.url for one in known if one.pairs)
        numbers = await self.connection.systems({bounded(system) for system in named})
        members = {
            (one.entry.key, numbers[bounded(system)], code)
            for one in known
            for system, code in one.members
        }
        await self._write(M, "members of keys", members, keys=[*{*before, *given}])
        pairs = {
            (one.entry.key, numbers[one.entry.url], *pair) for one in known for pair in one.pairs
        }
        systems = {entry.url for entry in before.values() if entry.kind == CODE_SYSTEM}
        old = await self.connection.known_systems(systems)
        await self._write(
            A, "pairs of keys", pairs, keys=keys, systems=[old[s] for s in systems if s in old]
        )

    async def _entries(self, name: str, **values: Any) -> dict[int, Entry]:
        rows = await self.connection.rows(_statement(name, self.dialect), values)
        return {row[0]: Entry(*row) for row in rows}

    async def _users(self, urls: set[str]) -> dict[int, Entry]:
        """Return the value sets whose expansion reads one of these URLs, however far away."""
        found: dict[int, Entry] = {}
        seen, fresh = set(urls), urls
        while fresh:
            entries = await self._entries("users of urls", urls=list(fresh))
            found |= entries
            fresh = {entry.value_set for entry in entries.values()} - seen - {""}
            seen |= fresh
        return found

    async def _completed(
        self, given: Mapping[int, Definition], written: Container[int]
    ) -> dict[int, Definition]:
        """Return definitions and all that their expansion reads, less what is being replaced."""
        found = dict(given)
        seen: set[str] = set()
        fresh = list(given.values())
        while urls := {bounded(url) for one in fresh for url in uses(one)} - seen:
            seen |= urls
            entries = await self._entries("of urls", urls=list(urls))
            new = {k: _unpacked(e) for k, e in entries.items() if k not in found}
            new = {key: one for key, one in new.items() if key not in written}
            found |= new
            fresh = list(new.values())
        return found

    async def _write_entries(self, before: Mapping[int, Entry], after: Sequence[Entry]) -> None:
        gone = [(key,) for key in before.keys() - {entry.key for entry in after}]
        known = [entry for entry in after if entry.key in before]
        changes = [
            db.Change("delete", T, ("key",), gone),
            db.Change("update", T, COLUMNS, [e for e in known if e != before[e.key]]),
            db.Change("insert", T, COLUMNS, [e for e in after if e.key not in before]),
        ]
        await self.connection.change(changes)

    async def _write(self, table: db.Table, found: str, rows: set[Any], **values: Any) -> None:
        """Make the rows that a statement finds equal to `rows`, which have the same columns."""
        columns = tuple(table.c.keys())
        old = {
            tuple(row)
            for row in await self.connection.rows(_statement(found, self.dialect), values)
        }
        gone, new = sorted(old - rows), sorted(rows - old)
        changes = [
            db.Change("delete", table, columns, gone, by=columns),
            db.Change("insert", table, columns, new),
        ]
        await self.connection.change(changes)


# --- what is shipped ---------------------------------------------------------------------------


def shipped() -> tuple[bytes, str]:
    """Return the shipped definitions as they are packed, and a mark that changes with them."""
    packed = resources.files("app.fhir.data").joinpath("terminology.json.gz").read_bytes()
    return packed, f"{FORM} {sha256(packed).hexdigest()}"


async def installed(database: db.Database) -> bool:
    """Return whether the database has the terminology that this version ships."""
    _, mark = shipped()
    statement = _statement("mark", database.dialect)

    async def work(connection: db.Connection) -> bool:
        return [row[0] for row in await connection.rows(statement, {})] == [mark]

    return await database.read(work)


async def install(database: db.Database, definitions: Definitions) -> None:
    """Put what this version ships in the place of what an earlier one did."""
    packed, mark = shipped()
    found = msgspec.json.decode(gzip.decompress(packed))["definitions"]
    new = {-n: definition(resource) for n, resource in enumerate(found, 1)}

    async def work(connection: db.Connection) -> None:
        await claim(connection)
        rows = await connection.rows(_statement("shipped", database.dialect), {})
        ledger = Ledger(connection, database.dialect, definitions.case_sensitive)
        await ledger.record({**dict.fromkeys([row[0] for row in rows]), **new})
        marked = Entry(0, 0, SHIPPED, "", mark, "", "", "", b"")
        await connection.change(
            [
                db.Change("add", T, COLUMNS, [marked]),
                db.Change("update", T, COLUMNS, [marked]),
            ]
        )

    await database.write(work)
