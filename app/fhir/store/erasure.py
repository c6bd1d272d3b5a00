"""Erasing for good: versions, and all that follows from them.

Unlike a deletion, which is one more version, this leaves nothing of the content: no version, no
row or word of the index, no answer that is kept. A row without content stays only where another
resource still refers to it. What is left of a file or of backups is for whoever runs the database
(docs/operations.md).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import sqlalchemy as sa

from app import db
from app.fhir.errors import refused
from app.fhir.manifest import INDEX, WORDS
from app.fhir.store.catalogue import raise_version
from app.fhir.store.consistency import remove_unused
from app.fhir.store.record import Store
from app.fhir.store.versions import GONE, LIVE, RESOURCE_COLUMNS, Current, resource_row

TOGETHER = 1000  # resources of a statement

R, V = db.resource, db.resource_version


@dataclass(frozen=True, slots=True)
class Erased:
    """How much was erased; `kept` are resources left because they belong to others as well."""

    resources: int
    versions: int
    kept: int = 0


def _given(name: str) -> sa.BindParameter[object]:
    return sa.bindparam(name, type_=db.Key)


@cache
def _statements(dialect: db.Dialect) -> dict[str, db.Statement]:
    owned = sa.select(R.c.key, R.c.type, R.c.id).where(R.c.owner == _given("owner"))
    owned = owned.order_by(R.c.key)
    # what belonged to the owner once: up to the last such version
    once = (
        sa.select(V.c.key, sa.func.max(V.c.version))
        .where(V.c.owner == _given("owner"))
        .group_by(V.c.key)
    )
    # Any of them may hold what is erased. One that is not done yet may be a write, to be told of
    kept = sa.delete(db.deferred).where(db.deferred.c.done == sa.text("1"))
    found: dict[str, sa.ClauseElement] = {
        "owned": owned.with_for_update() if dialect == "postgresql" else owned,
        "once": once,
        "shared": sa.select(sa.func.count())
        .select_from(db.compartment)
        .where(db.compartment.c.comp == _given("owner")),
        "answers": kept.returning(db.deferred.c.id),
        "all": sa.delete(V).where(db.among(V.c.key, "keys")).returning(V.c.version),
        "up to": sa.delete(V)
        .where(V.c.key == _given("key"), V.c.version <= _given("version"))
        .returning(V.c.version),
    }
    return {name: db.statement(clause, dialect) for name, clause in found.items()}


async def expunge(store: Store, type: str, id: str) -> Erased:
    """Erase the earlier versions of a live resource, or all of a deleted one; 404 for no other."""
    current = await _locked(store, type, id)
    if current.state == GONE:
        await _announce(store)
        erased = await _erase(store, [(current.key, type, id)])
    else:
        erased = Erased(0, await _up_to(store, current.key, current.version - 1))
    await _forget(store)
    return erased


async def purge(store: Store, type: str, id: str) -> Erased:
    """Erase a Patient, and all that belongs or belonged to that Patient alone; 404 for no other."""
    await _announce(store)
    current = await _locked(store, type, id)
    asked = _statements(store.catalogue.compiler.dialect)
    owner = {"owner": current.key}
    names = store.catalogue.definitions.resource_types
    rows = await store.connection.rows(asked["owned"], owner)
    owned = {key: (key, names[number - 1], one) for key, number, one in rows}
    owned[current.key] = (current.key, type, id)
    once = await store.connection.rows(asked["once"], owner)
    ((shared,),) = await store.connection.rows(asked["shared"], owner)
    erased = await _erase(store, list(owned.values()))
    moved = [await _up_to(store, key, version) for key, version in once if key not in owned]
    await _forget(store)
    return Erased(erased.resources, erased.versions + sum(moved), int(shared))


async def _announce(store: Store) -> None:
    """Raise the version of the definitions: who has looked up a row by then looks again.

    Rows that nothing refers to go away, and somebody may be about to refer to one.
    """
    store.version = await raise_version(store.connection, store.catalogue.compiler.dialect)


async def _forget(store: Store) -> None:
    """Drop the answers that are kept, and words that are no longer those of any resource."""
    dialect = store.catalogue.compiler.dialect
    words = (statement for table in WORDS for statement in db.forgotten(table, dialect))
    for statement in (_statements(dialect)["answers"], *words):
        await store.connection.rows(statement, {})


async def _locked(store: Store, type: str, id: str) -> Current:
    """Return the row of a resource that the caller may know of, deleted or not; else a 404."""
    found = (await store.lock([(type, id)])).get((type, id))
    known = found is not None and (
        found.state == GONE or (found.state == LIVE and await store.visible(found, type, "delete"))
    )
    if found is None or not known:
        raise refused("not-found", f"There is no {type}/{id}")
    return found


async def _up_to(store: Store, key: int, version: int) -> int:
    """Erase the versions of a resource up to one, and note that; return how many there were."""
    statement = _statements(store.catalogue.compiler.dialect)["up to"]
    rows = await store.connection.rows(statement, {"key": key, "version": version})
    if rows:
        noted = db.Change("put", db.expunged, ("key", "version"), [(key, version)])
        await store.connection.change([noted])
    return len(rows)


async def _erase(store: Store, resources: Sequence[tuple[int, str, str]]) -> Erased:
    """Erase all versions and index rows of some resources (key, type, id)."""
    dialect, types = store.catalogue.compiler.dialect, store.catalogue.definitions.type_numbers
    versions = 0
    for start in range(0, len(resources), TOGETHER):
        some = resources[start : start + TOGETHER]
        keys = [key for key, _, _ in some]
        statement = _statements(dialect)["all"]
        versions += len(await store.connection.rows(statement, {"keys": keys}))
        blank = [resource_row(key, types[type], id) for key, type, id in some]
        changes = [
            *_without(keys, (*INDEX, *WORDS, db.expunged)),
            db.Change("update", R, RESOURCE_COLUMNS, blank),
        ]
        await store.connection.change(changes)
    for start in range(0, len(resources), TOGETHER):
        keys = [key for key, _, _ in resources[start : start + TOGETHER]]
        await remove_unused(store.connection, keys, dialect)
    return Erased(len(resources), versions)


def _without(keys: Sequence[int], tables: Iterable[db.Table]) -> list[db.Change]:
    """Return what takes all rows of these keys out of some tables."""
    rows = [(key,) for key in keys]
    return [db.Change("delete", table, ("key",), rows) for table in tables]
