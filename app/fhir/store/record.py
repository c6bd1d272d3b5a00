"""The record as one caller may see it: the only reader and writer of resources.

https://hl7.org/fhir/R4/http.html

Theory of operation. A `Store` lives as long as one read, one search or one transaction. Callers
use six verbs: `read`, `vread`, `history`, `search`, `put`, `delete`. Writes are staged: `put` and
`delete` decide the new version in memory, `flush` sends all staged rows to the database with one
statement a table, and then looks whether each row it wrote is visible under the caller's policy
("write, then look"). A target is locked before it is read: `lock`.

A reference is stored as the key of its target. A target that is not there yet gets a phantom row
(state 0), so that every reference is an integer and `_revinclude` works once the target arrives.

Rule 1: every SELECT of resources passes `sql.visible`. Rule 2: no rule of FHIR about interactions
is decided here; that is `rest`.
"""

import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from app import db
from app.fhir import manifest, sql
from app.fhir.access import Caller, Right
from app.fhir.errors import refused
from app.fhir.index import Rows
from app.fhir.manifest import Difference, Identity, Manifest, Numbers
from app.fhir.query import All, Query, Search
from app.fhir.sql import EXTERNAL, Shape
from app.fhir.store import membership, parameters, references
from app.fhir.store.catalogue import Catalogue, redefine
from app.fhir.store.search import Page, Searcher
from app.fhir.store.visibility import Visibility
from app.fhir.values import Interval
from app.fhir.wire import Resource, canonical, decode, splice

CREATED, UPDATED, DELETED = 1, 2, 3
INDEXED = 0  # no version: the rows of the current one, made anew
LIVE, GONE = 1, 2  # 0 is a phantom
ANY = All()

VERSION = re.compile(r"[1-9][0-9]{0,9}")  # as versionId is written: no leading zero
RESOURCE_COLUMNS = tuple(db.resource.c.keys())
OWNED = ("key", "version", "owner")
VERSION_COLUMNS = ("key", "version", "owner", "labels", "updated", "type", "op", "body")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Version:
    """One stored version; `body` is empty where it says that the resource was deleted."""

    type: str
    id: str
    version: int
    updated: int
    op: int
    body: bytes
    place: int = 0


@dataclass(frozen=True, slots=True)
class Current:
    """The locked row of a resource, which may be a phantom or deleted."""

    key: int
    version: int
    state: int
    updated: int
    hash: bytes
    manifest: bytes
    owner: int


@dataclass(frozen=True, slots=True)
class Staged:
    """One write that waits for `flush`."""

    type: str
    id: str
    version: int
    updated: int
    op: int
    body: bytes
    right: Right
    current: Current | None
    rows: Rows | None
    hash: bytes
    was: db.Row = ()  # the whole row, where it may stay as it is


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """One page of a history, newest first, the next cursor, and the total where it is known."""

    entries: Sequence[Version]
    cursor: str
    total: int | None


def digest(resource: Resource) -> bytes:
    """Return a hash that is equal for equal content: order, versionId, lastUpdated do not count."""
    meta = {
        k: v for k, v in resource.get("meta", {}).items() if k not in ("versionId", "lastUpdated")
    }
    content = {**resource, "meta": meta}
    if not meta:
        del content["meta"]
    return blake2b(canonical(content), digest_size=16).digest()


@lru_cache(256)
def instant(updated: int) -> str:
    """Return microseconds as an instant with milliseconds (datatypes.html#instant)."""
    moment = EPOCH + timedelta(microseconds=updated)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


class Store:
    """What one request may see and change."""

    def __init__(self, connection: db.Connection, catalogue: Catalogue, caller: Caller) -> None:
        self.connection = connection
        self.catalogue = catalogue
        self.caller = caller
        self.staged: list[Staged] = []
        self.written: list[Version] = []  # staged or flushed, in their order
        self.version = catalogue.version  # of the definitions; this transaction may raise it

    # --- reading -------------------------------------------------------------------------------

    async def read(self, type: str, id: str) -> Version:
        """Return the current version of a resource; 404 if there is none, 410 if it is deleted."""
        rows = await self._current(type, id)
        if not rows:
            raise refused("not-found", f"There is no {type}/{id}")
        _, state, version, updated, body = rows[0]
        if state == GONE:
            raise refused("deleted", f"{type}/{id} was deleted (version {version})")
        return Version(type, id, version, updated, UPDATED, self.visibility.shown(type, body))

    async def vread(self, type: str, id: str, version: str) -> Version:
        """Return one version; 404 if there is none, 410 if it is the mark of a deletion."""
        gate, values = await self.visibility.gate(type, "read")
        number = int(version) if VERSION.fullmatch(version) else 0
        rows: Sequence[db.Row] = []
        if 0 < number < 2**31:
            plan = self.catalogue.compiler.vread(
                gate,
                values,
                type=self.catalogue.definitions.type_numbers[type],
                id=id,
                version=number,
            )
            rows = await self.connection.rows(plan.statement, plan.values)
        if not rows:
            raise refused("not-found", f"There is no version {version} of {type}/{id}")
        op, number, updated, body = rows[0]
        if op == DELETED:
            raise refused("deleted", f"Version {version} marks the deletion of {type}/{id}")
        return Version(type, id, number, updated, op, self.visibility.shown(type, body))

    async def history(
        self,
        type: str,
        id: str,
        *,
        since: int | None = None,
        at: Interval | None = None,
        of: Query = ANY,
        count: int,
        cursor: str = "",
    ) -> HistoryPage:
        """Return a page of versions, newest first: of one resource, of a type, or of everything.

        Of one resource by version; of more in the order in which the versions were written. Only
        those written `since` a moment, that were current some time in `at`, of resources that `of`
        finds. Without a count there is but the total.
        """
        compiler = self.catalogue.compiler
        level = "instance" if id else "type" if type else "system"
        gate, values = await self.visibility.gate(type, "read")
        narrowed: list[Any] = []
        found_by: Shape = ("all",)
        if not isinstance(of, All):
            found_by = (await self.visibility.lowering([of])).tree(of, type, narrowed)
        named: dict[str, Any] = {} if since is None else {"since": since}
        if at is not None:
            named |= {"at": at.lo, "until": at.hi}
        if level == "instance" or since is not None:  # more than one statement
            await self.connection.snapshot()
        if level == "instance":
            named["key"] = await self._known(type, id)
        if level == "type":
            named["type"] = self.catalogue.definitions.type_numbers[type]
        about = f"history {type} {id} {since} {at} {of} {self.caller.policy.digest}"
        place, _, first = self.catalogue.place(cursor, about).partition("-") if cursor else [""] * 3
        if since is not None and level != "instance":
            named["first"] = int(first) if first else await self._first_since(since)
        shape = sql.History(level, gate, found_by, since is not None, at is not None, bool(cursor))
        if not count:
            plan = compiler.versions_counted(shape, values, narrowed, **named)
            ((total,),) = await self.connection.rows(plan.statement, plan.values)
            return HistoryPage([], "", total)
        if cursor:
            named["place"] = int(place)
        plan = compiler.history(shape, values, narrowed, limit=count + 1, **named)
        rows = await self.connection.rows(plan.statement, plan.values)
        names = self.catalogue.definitions.resource_types
        found = [
            Version(
                names[number - 1],
                vid,
                version,
                updated,
                op,
                self.visibility.shown(names[number - 1], body),
                version if level == "instance" else seq,
            )
            for seq, number, vid, op, version, updated, body in rows
        ]
        more = len(found) > count
        ended = f"{found[count - 1].place}-{named.get('first', '')}" if more else ""
        following = self.catalogue.sign(ended, about) if more else ""
        total = None if more or cursor else len(found)
        return HistoryPage(found[:count], following, total)

    async def _first_since(self, since: int) -> int:
        """Return where in the order of writing the versions since a moment begin."""
        plan = self.catalogue.compiler.first_since(since)
        ((seq,),) = await self.connection.rows(plan.statement, plan.values)
        return sql.AFTER_ANY if seq is None else int(seq)

    async def _known(self, type: str, id: str) -> int:
        """Return the key of a resource that the caller may know of, deleted or not; else 404."""
        rows = await self._current(type, id)
        if not rows:
            raise refused("not-found", f"There is no {type}/{id}")
        key: int = rows[0][0]
        return key

    async def _current(self, type: str, id: str) -> Sequence[db.Row]:
        """Return key, state, version, updated and body of a visible resource, or no row."""
        gate, values = await self.visibility.gate(type, "read")
        number = self.catalogue.definitions.type_numbers[type]
        plan = self.catalogue.compiler.read(gate, values, number, id)
        return await self.connection.rows(plan.statement, plan.values)

    async def search(self, search: Search) -> Page:
        """Return one page of a search (search.html)."""
        return await Searcher(self.connection, self.catalogue, self.caller).page(search)

    @property
    def visibility(self) -> Visibility:
        """What the caller may see."""
        return Visibility(self.connection, self.catalogue, self.caller)

    # --- writing -------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Make everything that follows one transaction; a single `flush` is one by itself."""
        await self.connection.begin()

    async def lock(
        self, identities: Iterable[Identity], claimed: Container[Identity] = ()
    ) -> dict[Identity, Current]:
        """Return the rows of these resources that exist, locked; a `claimed` one is made to exist.

        Rows are locked in key order, so that two transactions never wait for each other. Of two
        that claim the same new id, the second waits and finds what the first has written.
        """
        await self.begin()
        wanted = list(dict.fromkeys(identities))
        if any(type in membership.TYPES for type, _ in wanted):
            await membership.claim(self.connection)
        found = await self._identify(wanted, lock="update")
        missing = [i for i in wanted if i not in found and i in claimed]
        if missing:
            await self._add_phantoms(missing)
            found = await self._identify(wanted, lock="update")
        return found

    async def visible(self, current: Current, type: str, right: Right) -> bool:
        """Return whether the caller may know of this live resource under `right`."""
        if isinstance(self.caller.policy.of(type, right), All):
            return True
        return bool(await self.visibility.of_keys([current.key], type, right))

    def put(
        self,
        type: str,
        id: str,
        raw: bytes,
        resource: Resource,
        current: Current | None,
        now: int,
    ) -> tuple[Version, bool]:
        """Stage a new version; return it, and whether anything changed.

        `raw` are the compact bytes of `resource`; `current` is its locked row, None for a new id
        that nobody can know yet. Equal content stages nothing and returns the current version
        (http.html#update).
        """
        content = digest({**resource, "id": id})
        if current is not None and current.state == LIVE and current.hash == content:
            return Version(type, id, current.version, current.updated, UPDATED, b""), False
        exists = current is not None and current.state == LIVE
        version = current.version + 1 if current is not None else 1
        updated = max(now, current.updated) if current is not None else now
        body = splice(raw, id, version, instant(updated))
        op = UPDATED if exists else CREATED
        rows = self.catalogue.indexer.rows({**resource, "id": id}, raw)
        right: Right = "update" if exists else "create"
        self.staged.append(
            Staged(type, id, version, updated, op, body, right, current, rows, content)
        )
        self.written.append(Version(type, id, version, updated, op, body))
        return self.written[-1], True

    def delete(self, type: str, id: str, current: Current, now: int) -> Version:
        """Stage the deletion of a live resource; return the version that marks it."""
        updated = max(now, current.updated)
        version = current.version + 1
        self.staged.append(
            Staged(type, id, version, updated, DELETED, b"", "delete", current, None, b"")
        )
        self.written.append(Version(type, id, version, updated, DELETED, b""))
        return self.written[-1]

    def index(self, type: str, row: db.Row, raw: bytes, held: bytes) -> None:
        """Stage the index rows of a live resource anew; nothing else of it changes.

        `row` is its locked row, `raw` its current body, `held` the manifest of the rows there are.
        """
        key, _, updated, *_, version, _, state, id, hash, _ = row
        resource = decode(raw)
        rows = self.catalogue.indexer.rows(resource, raw)
        owner = manifest.read(held).owner
        current = Current(key, version, state, updated, hash, held, owner)
        content = digest(resource)
        self.staged.append(
            Staged(
                type,
                id,
                version,
                updated,
                INDEXED,
                b"",
                "update",
                current,
                rows,
                content,
                tuple(row),
            )
        )

    async def flush(self) -> None:
        """Write all staged versions, one statement a table, then look whether each is visible.

        Raises a 403 for a resource that the caller may not have written as it stands now, and
        Outdated if its rows were made by definitions that hold no longer.
        """
        staged, self.staged = self.staged, []
        if not staged:
            return
        defining = [s for s in staged if s.type in membership.TYPES and s.op != INDEXED]
        if defining:
            await membership.claim(self.connection)
        systems = await self.connection.systems(
            {system for s in staged if s.rows for system in manifest.systems(s.rows)}
        )
        fresh = [s for s in staged if s.current is None]
        given = iter(await self.connection.keys(len(fresh)))
        keys = {(s.type, s.id): s.current.key if s.current else next(given) for s in staged}
        targets = {t for s in staged if s.rows for t in manifest.targets(s.rows)} - keys.keys()
        keys.update(await self._keys_of(sorted(targets)))
        look = any(not isinstance(self.caller.policy.of(s.type, s.right), All) for s in staged)
        await self._redefine(staged)
        changes = self._changes(staged, keys, systems)
        final = not look and not defining
        await self.connection.change(changes, final=final, version=self.version)
        if defining:
            written = {keys[s.type, s.id]: s.body for s in defining}
            await membership.changed(self.connection, self.catalogue, written)
        await self._look(staged, keys)

    async def _redefine(self, staged: Sequence[Staged]) -> None:
        """Put the search parameters that are among what was staged in force."""
        written = {
            s.id: decode(s.body) if s.body else None
            for s in staged
            if s.type == parameters.TYPE and s.op != INDEXED
        }
        if written:
            self.version = await redefine(self.connection, self.catalogue, self.version, written)

    async def _look(self, staged: Sequence[Staged], keys: Mapping[Identity, int]) -> None:
        """Refuse the transaction if a row it wrote is hidden from its writer."""
        groups: dict[tuple[str, Right], list[int]] = {}
        for s in staged:
            closed = not isinstance(self.caller.policy.of(s.type, s.right), All)
            if closed and s.op != DELETED:
                groups.setdefault((s.type, s.right), []).append(keys[s.type, s.id])
        for (type, right), written in groups.items():
            if len(await self.visibility.of_keys(written, type, right)) < len(set(written)):
                raise refused("forbidden", f"You may not {right} this {type}")

    async def present(self, wanted: Iterable[Identity], *, kept: bool) -> set[Identity]:
        """Return those of these resources that are live and that the caller may read.

        What is to be `kept` cannot be deleted by others before this transaction ends.
        """
        found = await self._identify(sorted(wanted), lock="share" if kept else "")
        live = {key: current for key, current in found.items() if current.state == LIVE}
        groups: dict[str, list[Identity]] = {}
        for key in live:
            groups.setdefault(key[0], []).append(key)
        seen: set[Identity] = set()
        for type, some in groups.items():
            if isinstance(self.caller.policy.of(type, "read"), All):
                seen.update(some)
            else:
                keys = [live[key].key for key in some]
                visible = await self.visibility.of_keys(keys, type, "read")
                seen.update(key for key in some if live[key].key in visible)
        return seen

    async def referrers(
        self, type: str, id: str, most: int, refers: Callable[[bytes], bool]
    ) -> tuple[list[Identity], bool]:
        """Return who refers to a resource: at most so many, and whether there are others.

        By type and id, those that the caller may read, with a reference that is not masked; who is
        hidden is one of the others. An index row says that there is a reference, `refers` of the
        body whether it counts.
        """
        found = references.referrers(self.connection, self.catalogue, type, id)
        named: list[Identity] = []
        others = False
        async for page in found:
            for kind, some in page.items():
                counting = {key: one for key, (one, body) in some.items() if refers(body)}
                visible = await self.visibility.of_keys(list(counting), kind, "read")
                seen = {k for k in visible if refers(self.visibility.shown(kind, some[k][1]))}
                others |= len(seen) < len(counting)
                named += [(kind, counting[key]) for key in counting if key in seen]
            if len(named) > most:
                break
        return named[:most], others or len(named) > most

    async def _identify(
        self, wanted: Sequence[Identity], *, lock: db.Lock = ""
    ) -> dict[Identity, Current]:
        """Return the rows that exist of these identities, visible or not."""
        numbers = {**self.catalogue.definitions.type_numbers, "": EXTERNAL}
        names = {number: name for name, number in numbers.items()}
        statement = db.identify(self.catalogue.compiler.dialect, lock=lock)
        pairs = [[numbers[type], id] for type, id in wanted]
        values = {"pairs": pairs, "types": [p[0] for p in pairs], "ids": [p[1] for p in pairs]}
        rows = await self.connection.rows(statement, values)
        return {(names[row[0]], row[1]): Current(*row[2:]) for row in rows}

    async def known_keys(self, targets: Sequence[Identity]) -> dict[Identity, int]:
        """Return the key of each target that has one."""
        found = await self._identify(targets) if targets else {}
        return {target: current.key for target, current in found.items()}

    async def _add_phantoms(self, missing: Sequence[Identity]) -> None:
        numbers = {**self.catalogue.definitions.type_numbers, "": EXTERNAL}
        keys = await self.connection.keys(len(missing))
        rows = [
            resource_row(key, numbers[type], id)
            for key, (type, id) in zip(keys, sorted(missing), strict=True)
        ]
        await self.connection.add([db.Change("add", db.resource, RESOURCE_COLUMNS, rows)])

    async def _keys_of(self, targets: Sequence[Identity]) -> dict[Identity, int]:
        """Return the key of each target, of a phantom where nothing is stored (two statements)."""
        if not targets:
            return {}
        found = await self._identify(targets)
        missing = [target for target in targets if target not in found]
        if missing:
            await self._add_phantoms(missing)
            found.update(await self._identify(missing))
        return {target: current.key for target, current in found.items()}

    def _changes(
        self, staged: Sequence[Staged], keys: Mapping[Identity, int], systems: Mapping[str, int]
    ) -> list[db.Change]:
        """Return the rows of all staged writes, table by table."""
        types = self.catalogue.definitions.type_numbers
        numbers = Numbers(self.catalogue.params, systems, keys, types)
        inserted: list[db.Row] = []
        updated: list[db.Row] = []
        versions: list[db.Row] = []
        moved: list[db.Row] = []
        difference = Difference.empty()
        for s in staged:
            key, type = keys[s.type, s.id], types[s.type]
            new = numbers.manifest(s.type, s.rows) if s.rows else Manifest()
            old = manifest.read(s.current.manifest if s.current else b"")
            owner = s.current.owner if s.op == DELETED and s.current else new.owner
            row = resource_row(
                key,
                type,
                s.id,
                owner=owner,
                updated=s.updated,
                occurred=(s.rows.occurred or 0) if s.rows else 0,
                present=present_bits(self.catalogue.bits, s.type, s.rows) if s.rows else 0,
                version=s.version,
                state=GONE if s.op == DELETED else LIVE,
                hash=s.hash,
                manifest=manifest.write(new) if s.rows else b"",
            )
            if row != s.was:
                (inserted if s.current is None else updated).append(row)
            if s.op != INDEXED:
                versions.append((key, s.version, owner, 0, s.updated, type, s.op, s.body))
            elif s.current and s.current.owner != owner:
                moved.append((key, s.version, owner))
            difference.add(key, old, new)
            difference.add_words(key, old, new, numbers.words(s.type, s.rows) if s.rows else [])
        return [
            db.Change("insert", db.resource, RESOURCE_COLUMNS, inserted),
            db.Change("update", db.resource, RESOURCE_COLUMNS, updated),
            db.Change("insert", db.resource_version, VERSION_COLUMNS, versions),
            db.Change("update", db.resource_version, OWNED, moved, by=("key", "version")),
            *difference.changes(),
        ]


def present_bits(bits: Mapping[tuple[str, str], int], type: str, rows: Rows) -> int:
    """Return the bits of the parameters that have a value, those that have a bit."""
    return sum(1 << bits[type, code] for code in rows.present if (type, code) in bits)


def resource_row(key: int, type: int, id: str, **known: Any) -> tuple[Any, ...]:
    """Return a row of `resource` in the order of its columns; a phantom unless more is known."""
    row = {"key": key, "type": type, "id": id, **known}
    blank = {"hash": b"", "manifest": b""}
    return tuple(row.get(name, blank.get(name, 0)) for name in RESOURCE_COLUMNS)
