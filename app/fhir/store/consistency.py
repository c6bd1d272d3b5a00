"""Does the database agree with itself? Every fault that it can have, and how it is repaired.

Theory of operation. The bodies are the truth: the index, the manifest and the columns of a
resource follow from the body of its current version and are made again from it. The walk goes
through all keys in ranges; each range is one snapshot, in which the rows of every table are read
by key. A repair locks the resource, looks again, and writes the difference as any writer does.

Placeholders that nothing refers to any more are left over by updates. They do no harm, so they are
no fault, but a repair takes them away.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial

import sqlalchemy as sa

from app import db
from app.fhir import manifest
from app.fhir.access import SYSTEM
from app.fhir.errors import FhirError
from app.fhir.manifest import INDEX, WITH_OWNER, Manifest
from app.fhir.store.catalogue import Catalogue, raise_version, state
from app.fhir.store.record import Store
from app.fhir.store.versions import DELETED, GONE, LIVE, digest, present_bits
from app.fhir.wire import Resource, decode, encode

RANGE = 500  # resources that are looked at in one snapshot
LAST = 2**63 - 1
PHANTOM = 0
NOTHING = -1  # no number, key or owner that there is

R, V, F, C = db.resource, db.resource_version, db.index_reference, db.compartment
E = db.expunged
# What keeps a placeholder: the audit trail names patients by their keys, for ever
REFERRING = (F.c.target, C.c.comp, db.audit_patient.c.owner)
COLUMNS = tuple(R.c.keys())

MISSING = "index rows are missing"
TOO_MANY = "index rows do not follow from the body"
ORPHANS = "index rows of no live resource"
MANIFEST = "the list of its index rows is wrong"
OWNER = "the owner is wrong"
OCCURRED = "the clinical date is wrong"
PRESENT = "the list of parameters that have a value is wrong"
HASH = "the hash is wrong"
VERSIONS = "versions are missing"
STRAY = "versions of no resource"
STATE = "the state is not what the last version made it"
UNUSED = "placeholders that nothing refers to"
BODY = "the body cannot be read, or is of another resource"
COLUMN_FAULTS = {OCCURRED: "occurred", PRESENT: "present", HASH: "hash"}
BEYOND_REPAIR = frozenset({VERSIONS, STRAY, STATE, BODY})


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault of one resource, named as `Type/id`, or by its key where there is no resource."""

    fault: str
    place: str
    key: int
    mended: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """What was found in a range of so many resources that ends with the key `last`.

    `unused` are its placeholders that no index row refers to, `owners` the owners of its versions,
    which keep a placeholder alive as well.
    """

    last: int
    size: int
    findings: Sequence[Finding]
    unused: Mapping[int, str] = field(default_factory=dict)
    owners: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Expected:
    """What follows from the body of a live resource."""

    manifest: Manifest
    occurred: int
    present: int
    hash: bytes


@dataclass(slots=True)
class Held:
    """The index rows of one resource as they are in the tables, and the owners in them."""

    tables: list[list[tuple[object, ...]]] = field(default_factory=lambda: [[] for _ in INDEX])
    owners: set[int] = field(default_factory=set)


def _given(name: str) -> sa.BindParameter[object]:
    return sa.bindparam(name, type_=db.Key)


@cache
def _statements(dialect: db.Dialect) -> dict[str, db.Statement]:
    def within(table: sa.FromClause) -> sa.ColumnElement[bool]:
        return sa.and_(table.c.key > _given("after"), table.c.key <= _given("last"))

    r = R.alias("r")
    lock = sa.select(R).where(db.among(R.c.key, "keys")).order_by(R.c.key)
    unused = (
        sa.select(r.c.key)
        .where(within(r), r.c.state == sa.literal_column(str(PHANTOM)))
        .where(*(~sa.exists().where(column == r.c.key) for column in REFERRING))
    )
    found: dict[str, sa.ClauseElement] = {
        "resources": sa.select(R)
        .where(R.c.key > _given("after"))
        .order_by(R.c.key)
        .limit(_given("limit")),
        "locked": lock.with_for_update() if dialect == "postgresql" else lock,
        "versions": sa.select(V.c.key, V.c.version, V.c.owner, V.c.op)
        .where(within(V))
        .order_by(V.c.key, V.c.version),
        "bodies": sa.select(V.c.key, V.c.body)
        .select_from(R.join(V, sa.and_(V.c.key == R.c.key, V.c.version == R.c.version)))
        .where(within(R), sa.text("resource.state = 1")),
        "expunged": sa.select(E.c.key, E.c.version).where(within(E)),
        "unused": unused,
        "count": sa.select(sa.func.count()).select_from(R),
        "remove": sa.delete(R)
        .where(db.among(R.c.key, "keys"), R.c.state == sa.literal_column(str(PHANTOM)))
        .where(*(~sa.exists().where(column == R.c.key) for column in REFERRING))
        .returning(R.c.key),
    }
    for table, columns in INDEX.items():
        owner = table.c.owner if table in WITH_OWNER else sa.literal_column("NULL")
        found[table.name] = sa.select(table.c.key, owner, *(table.c[c] for c in columns)).where(
            within(table)
        )
    return {name: db.statement(clause, dialect) for name, clause in found.items()}


async def count(database: db.Database) -> int:
    """Return how many resources there are to look at."""
    statement = _statements(database.dialect)["count"]
    ((number,),) = await database.read(lambda connection: connection.rows(statement, {}))
    return int(number)


async def looks(
    database: db.Database, catalogue: Catalogue, *, repair: bool
) -> AsyncIterator[Look]:
    """Yield what was found in every range, in the order of keys, mended where a repair is wanted.

    The last one is about placeholders, which are known to be unused only at the end. Raises
    Outdated if the definitions change meanwhile, because then the index is another.
    """
    after = 0
    unused: dict[int, str] = {}
    owners: set[int] = set()
    while after < LAST:
        found = await database.search(partial(_look, catalogue=catalogue, after=after))
        unused.update(found.unused)
        owners |= found.owners
        after = found.last
        if repair and found.findings:
            found = await _mended(database, catalogue, found)
        yield found
    left = [key for key in sorted(unused) if key not in owners]
    gone = await _remove(database, left) if repair else set()
    yield Look(LAST, 0, [Finding(UNUSED, unused[key], key, key in gone) for key in left])


async def _mended(database: db.Database, catalogue: Catalogue, look: Look) -> Look:
    """Repair what can be repaired of a range; return its findings with what was."""
    hopeless = {f.key for f in look.findings if f.fault in (BODY, STATE)}
    broken = {f.key for f in look.findings if f.fault not in BEYOND_REPAIR} - hopeless
    for key in sorted(broken):
        await database.write(partial(_repair, catalogue=catalogue, key=key))
    return replace(
        look,
        findings=[
            replace(f, mended=f.key in broken and f.fault not in BEYOND_REPAIR)
            for f in look.findings
        ],
    )


async def _look(connection: db.Connection, catalogue: Catalogue, after: int) -> Look:
    """Return what is wrong in the range that begins after a key."""
    dialect = catalogue.compiler.dialect
    asked = _statements(dialect)
    await connection.snapshot()
    version, _ = await state(connection, dialect)
    if version != catalogue.version:
        raise db.Outdated
    rows = await connection.rows(asked["resources"], {"after": after, "limit": RANGE})
    last = rows[-1][0] if len(rows) == RANGE else LAST
    span = {"after": after, "last": last}
    resources = {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in rows}
    bodies = {key: bytes(body) for key, body in await connection.rows(asked["bodies"], span)}
    chains: dict[int, list[db.Row]] = {}
    for row in await connection.rows(asked["versions"], span):
        chains.setdefault(row[0], []).append(row)
    erased = dict(map(tuple, await connection.rows(asked["expunged"], span)))
    held = await _held(connection, dialect, span)
    expected = await _expected(connection, catalogue, _parsed(catalogue, resources, bodies))
    findings = []
    for key in sorted(resources.keys() | held.keys() | chains.keys()):
        resource, chain, there = resources.get(key), chains.get(key, []), held.get(key, Held())
        place = _place(catalogue, resource) if resource else f"key {key}"
        faults = [
            *_chain_faults(resource, chain, erased.get(key, 0)),
            *_row_faults(resource, chain, there, expected.get(key)),
        ]
        findings += [Finding(fault, place, key) for fault in faults]
    idle = [key for (key,) in await connection.rows(asked["unused"], span)]
    unused = {key: _place(catalogue, resources[key]) for key in idle}
    owners = {row[2] for chain in chains.values() for row in chain}
    owners.update(resource["owner"] for resource in resources.values())
    return Look(last, len(rows), findings, unused, frozenset(owners))


async def _held(
    connection: db.Connection, dialect: db.Dialect, span: Mapping[str, int]
) -> dict[int, Held]:
    """Return what the index tables hold, by key."""
    held: dict[int, Held] = {}
    for n, table in enumerate(INDEX):
        for key, owner, *row in await connection.rows(_statements(dialect)[table.name], span):
            mine = held.setdefault(key, Held())
            mine.tables[n].append(tuple(row))
            if owner is not None:
                mine.owners.add(owner)
    return held


def _parsed(
    catalogue: Catalogue, resources: Mapping[int, Resource], bodies: Mapping[int, bytes]
) -> dict[int, Resource]:
    """Return the live resources, by key, whose body can be read and is theirs."""
    parsed: dict[int, Resource] = {}
    for key, body in bodies.items():
        with suppress(FhirError):
            found = decode(body)
            if f"{found.get('resourceType')}/{found.get('id')}" == _place(
                catalogue, resources[key]
            ):
                parsed[key] = found
    return parsed


async def _expected(
    connection: db.Connection, catalogue: Catalogue, parsed: Mapping[int, Resource]
) -> dict[int, Expected]:
    """Return what follows from each body; a system or target that is not known has no number."""
    rows = {key: catalogue.indexer.rows(found, encode(found)) for key, found in parsed.items()}
    systems = {s for found in rows.values() for s in manifest.systems(found)}
    known = await connection.known_systems(systems)
    targets = sorted({t for found in rows.values() for t in manifest.targets(found)})
    keys = await Store(connection, catalogue, SYSTEM).known_keys(targets)
    numbers = manifest.Numbers(
        catalogue.params,
        {system: known.get(system, NOTHING) for system in systems},
        {target: keys.get(target, NOTHING) for target in targets},
        catalogue.definitions.type_numbers,
    )
    return {
        key: Expected(
            manifest=numbers.manifest(parsed[key]["resourceType"], found),
            occurred=found.occurred or 0,
            present=present_bits(catalogue.bits, parsed[key]["resourceType"], found),
            hash=digest(parsed[key]),
        )
        for key, found in rows.items()
    }


def _place(catalogue: Catalogue, row: Resource) -> str:
    names = catalogue.definitions.resource_types
    type = names[row["type"] - 1] if row["type"] else "elsewhere"
    return f"{type}/{row['id']}"


def _chain_faults(resource: Resource | None, chain: Sequence[db.Row], erased: int) -> Iterator[str]:
    """Yield what is wrong with the versions of a resource, whose first ones may be `erased`."""
    if resource is None:
        if chain:
            yield STRAY
        return
    if [version for _, version, _, _ in chain] != list(range(erased + 1, resource["version"] + 1)):
        yield VERSIONS
    did = PHANTOM if not chain else GONE if chain[-1][3] == DELETED else LIVE
    if did != resource["state"]:
        yield STATE


def _row_faults(
    resource: Resource | None, chain: Sequence[db.Row], held: Held, expected: Expected | None
) -> Iterator[str]:
    """Yield what is wrong with the index of a resource, and with what else follows from it."""
    if resource is None or resource["state"] != LIVE:
        if any(held.tables):
            yield ORPHANS
        if resource and resource["manifest"]:
            yield MANIFEST
        return
    if expected is None:
        yield BODY
        return
    for fault, column in COLUMN_FAULTS.items():
        if resource[column] != getattr(expected, column):
            yield fault
    wanted = expected.manifest
    owners = {resource["owner"], *(version[2] for version in chain[-1:]), *held.owners}
    if owners != {wanted.owner}:
        yield OWNER
    noted = manifest.read(bytes(resource["manifest"]))
    if noted.owner != wanted.owner or _sets(noted.tables) != _sets(wanted.tables):
        yield MANIFEST
    there, should = _sets(held.tables), _sets(wanted.tables)
    if any(b - a for a, b in zip(there, should, strict=True)):
        yield MISSING
    if any(a - b for a, b in zip(there, should, strict=True)):
        yield TOO_MANY


def _sets(tables: Sequence[Sequence[tuple[object, ...]]]) -> list[set[tuple[object, ...]]]:
    """Return the rows of every table as a set; a table that a manifest does not have is empty."""
    found = [{tuple(row) for row in rows} for rows in tables]
    return found + [set() for _ in range(len(INDEX) - len(found))]


async def _repair(connection: db.Connection, catalogue: Catalogue, key: int) -> None:
    """Make everything that follows from the body of a resource as it should be."""
    dialect = catalogue.compiler.dialect
    await connection.begin()
    found = await connection.rows(_statements(dialect)["locked"], {"keys": [key]})
    row = found[0] if found else ()
    span = {"after": key - 1, "last": key}
    held = (await _held(connection, dialect, span)).get(key, Held())
    if row and row[COLUMNS.index("state")] == LIVE:
        ((_, body),) = await connection.rows(_statements(dialect)["bodies"], span)
        store = Store(connection, catalogue, SYSTEM)
        type = catalogue.definitions.resource_types[row[COLUMNS.index("type")] - 1]
        store.index(type, row, bytes(body), manifest.write(Manifest(NOTHING, held.tables)))
        await store.flush()
        return
    orphans = [
        db.Change(
            "delete", table, ("key", *columns), [(key, *row) for row in rows], by=("key", *columns)
        )
        for (table, columns), rows in zip(INDEX.items(), held.tables, strict=True)
    ]
    empty = [(key, b"")] if row else []
    await connection.change([*orphans, db.Change("update", R, ("key", "manifest"), empty)])


async def _remove(database: db.Database, keys: Sequence[int]) -> set[int]:
    """Remove placeholders; return those that were still unused.

    Whoever has looked one up already and is about to refer to it works under a version of the
    definitions that this raises, and so looks again.
    """
    removed: set[int] = set()
    for start in range(0, len(keys), RANGE):
        some = list(keys[start : start + RANGE])
        removed.update(
            await database.write(partial(_remove_some, keys=some, dialect=database.dialect))
        )
    return removed


async def _remove_some(
    connection: db.Connection, keys: list[int], dialect: db.Dialect
) -> list[int]:
    await raise_version(connection, dialect)
    return await remove_unused(connection, keys, dialect)


async def remove_unused(
    connection: db.Connection, keys: list[int], dialect: db.Dialect
) -> list[int]:
    """Remove those of these placeholders that nothing refers to; return them.

    In a transaction that has raised the version of the definitions.
    """
    return [key for (key,) in await connection.rows(_statements(dialect)["remove"], {"keys": keys})]
