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

import base64
import hmac
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import sqlalchemy as sa

from app import db
from app.fhir import manifest
from app.fhir.access import Caller, Right
from app.fhir.definitions import Definitions
from app.fhir.errors import refused
from app.fhir.index import Indexer, Rows
from app.fhir.manifest import Difference, Identity, Manifest, Numbers
from app.fhir.query import All, And, Query, Search
from app.fhir.sql import (
    AFTER_ANY,
    CERTAIN,
    EXTERNAL,
    OPERATIONS,
    PROBE_LIMIT,
    Compiler,
    Lowering,
    Shape,
    ordered,
    systems_in,
)
from app.fhir.wire import Resource, canonical, splice

CREATED, UPDATED, DELETED = 1, 2, 3
LIVE, GONE = 1, 2  # 0 is a phantom

VERSION = re.compile(r"[1-9][0-9]{0,9}")  # as versionId is written: no leading zero
RESOURCE_COLUMNS = tuple(db.resource.c.keys())
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


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a search: (id, body) in order, the total where it is known, the next cursor."""

    entries: Sequence[tuple[str, bytes]]
    total: int | None
    cursor: str


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """One page of a history, newest first, and the next cursor."""

    entries: Sequence[Version]
    cursor: str


@dataclass(frozen=True)
class Catalogue:
    """What a store needs of its process: definitions, the indexer, the numbers, a secret.

    `params` gives (type, parameter) its number, `bits` its bit in `resource.present`.
    """

    definitions: Definitions
    indexer: Indexer
    compiler: Compiler
    params: Mapping[tuple[str, str], int]
    bits: Mapping[tuple[str, str], int]
    secret: bytes
    base_url: str

    def sign(self, place: int, about: str) -> str:
        """Return the cursor for a place in the result that `about` describes."""
        return f"{place}.{self._tag(str(place), about)}"

    def place(self, cursor: str, about: str) -> int:
        """Return the place that a cursor names; a 400 if it was made for anything else."""
        text, _, tag = cursor.rpartition(".")
        if not hmac.compare_digest(tag.encode(), self._tag(text, about).encode()):
            raise refused("invalid", "The cursor does not belong to this request", "http._cursor")
        return int(text)

    def _tag(self, text: str, about: str) -> str:
        digest = hmac.digest(self.secret, f"{text}\n{about}".encode(), "sha256")[:16]
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


async def open_catalogue(
    database: db.Database, definitions: Definitions, base_url: str, zone: tzinfo, entropy: bytes
) -> Catalogue:
    """Return the catalogue of an open database; parameters that it does not know get numbers.

    `entropy` becomes the secret of the cursors if the database has none yet.
    """
    bits = {
        (type, code): bit
        for type, parameters in definitions.search_parameters.items()
        for bit, code in enumerate(sorted(parameters))
    }
    numbers = definitions.type_numbers
    p, s = db.param_dictionary, db.secret
    known = db.statement(sa.select(p.c.type, p.c.code, p.c.param), database.dialect)
    named = s.c.name == sa.bindparam("name", type_=sa.Text())
    secret = db.statement(sa.select(s.c.value).where(named), database.dialect)

    async def work(connection: db.Connection) -> Catalogue:
        found = {(row[0], row[1]): row[2] for row in await connection.rows(known, {})}
        missing = [
            (numbers[type], code, "", bit)
            for (type, code), bit in bits.items()
            if (numbers[type], code) not in found
        ]
        own = await connection.rows(secret, {"name": "cursor"})
        if missing or not own:
            columns = ("type", "code", "variant", "bit")
            await connection.change(
                [
                    db.Change("add", p, columns, missing),
                    db.Change("add", s, ("name", "value"), [("cursor", entropy)]),
                ]
            )
            found = {(row[0], row[1]): row[2] for row in await connection.rows(known, {})}
            own = await connection.rows(secret, {"name": "cursor"})
        params = {(type, code): found[numbers[type], code] for type, code in bits}
        compiler = Compiler(database.dialect)
        indexer = Indexer(definitions, base_url, zone)
        signing = bytes(own[0][0])
        return Catalogue(definitions, indexer, compiler, params, bits, signing, base_url)

    return await database.write(work)


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

    # --- reading -------------------------------------------------------------------------------

    async def read(self, type: str, id: str) -> Version:
        """Return the current version of a resource; 404 if there is none, 410 if it is deleted."""
        rows = await self._current(type, id)
        if not rows:
            raise refused("not-found", f"There is no {type}/{id}")
        _, state, version, updated, body = rows[0]
        if state == GONE:
            raise refused("deleted", f"{type}/{id} was deleted (version {version})")
        return Version(type, id, version, updated, UPDATED, body)

    async def vread(self, type: str, id: str, version: str) -> Version:
        """Return one version; 404 if there is none, 410 if it is the mark of a deletion."""
        gate, values = await self.gate(type, "read")
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
        return Version(type, id, number, updated, op, body)

    async def history(
        self, type: str, id: str, *, since: int, count: int, cursor: str
    ) -> HistoryPage:
        """Return a page of versions, newest first: of one resource, of a type, or of everything.

        Of one resource by version; of more in the order in which the versions were written.
        """
        types = self.catalogue.definitions.type_numbers
        level = "instance" if id else "type" if type else "system"
        gate, values = await self.gate(type, "read")
        named: dict[str, Any] = {"since": since, "limit": count + 1}
        if level == "instance":
            await self.connection.snapshot()
            named["key"] = await self._known(type, id)
        if level == "type":
            named["type"] = types[type]
        about = f"history {type} {id} {since} {self.caller.policy.digest}"
        if cursor:
            named["place"] = self.catalogue.place(cursor, about)
        plan = self.catalogue.compiler.history(level, gate, values, after=bool(cursor), **named)
        rows = await self.connection.rows(plan.statement, plan.values)
        names = self.catalogue.definitions.resource_types
        found = [
            Version(
                names[number - 1],
                vid,
                version,
                updated,
                op,
                body,
                version if level == "instance" else seq,
            )
            for seq, number, vid, op, version, updated, body in rows
        ]
        more = len(found) > count
        following = self.catalogue.sign(found[count - 1].place, about) if more else ""
        return HistoryPage(found[:count], following)

    async def _known(self, type: str, id: str) -> int:
        """Return the key of a resource that the caller may know of, deleted or not; else 404."""
        rows = await self._current(type, id)
        if not rows:
            raise refused("not-found", f"There is no {type}/{id}")
        key: int = rows[0][0]
        return key

    async def _current(self, type: str, id: str) -> Sequence[db.Row]:
        """Return key, state, version, updated and body of a visible resource, or no row."""
        gate, values = await self.gate(type, "read")
        number = self.catalogue.definitions.type_numbers[type]
        plan = self.catalogue.compiler.read(gate, values, number, id)
        return await self.connection.rows(plan.statement, plan.values)

    async def search(self, search: Search) -> Page:
        """Return one page of a search, newest key first (the key follows the order of creation)."""
        compiler = self.catalogue.compiler
        type = search.type
        policy = self.caller.policy.of(type, "search")
        lowering = await self._lowering(And((search.where, policy)))
        about = f"search {type} {search.applied} {self.caller.policy.digest}"
        after = self.catalogue.place(search.cursor, about) if search.cursor else AFTER_ANY
        driver, rest, values = await self._driver(lowering, search.where, type)
        gate = lowering.tree(policy, type, values)
        number = self.catalogue.definitions.type_numbers[type]
        plan = compiler.page(
            driver, rest, gate, values, type=number, after=after, limit=search.count + 1
        )
        found = await self.connection.rows(plan.statement, plan.values)
        rows = sorted(found, key=lambda row: row[0], reverse=True)
        more = len(rows) > search.count
        entries = [(id, body) for _, id, body in rows[: search.count]]
        following = self.catalogue.sign(rows[search.count - 1][0], about) if more else ""
        total = len(entries) if not more and not search.cursor else None
        return Page(entries, total, following)

    async def _driver(
        self, lowering: Lowering, where: Query, type: str
    ) -> tuple[Shape, Shape, list[Any]]:
        """Return the criterion whose index is walked, the others as one shape, and all values."""
        parts = (
            where.parts if isinstance(where, And) else () if isinstance(where, All) else (where,)
        )
        lowered: list[tuple[Shape, list[Any]]] = []
        for part in parts:
            own: list[Any] = []
            lowered.append((lowering.tree(part, type, own), own))
        chosen = await self._choose(lowered)
        others = [pair for n, pair in enumerate(lowered) if n != chosen]
        driver, values = lowered[chosen] if chosen is not None else (("all",), [])
        rest = ("and", *(shape for shape, _ in others)) if others else ("all",)
        return driver, rest, [*values, *(v for _, own in others for v in own)]

    async def _choose(self, lowered: Sequence[tuple[Shape, list[Any]]]) -> int | None:
        """Return which criterion drives; None to walk the type, newest first.

        A reference, an id or a URL is taken as it is. Else every candidate's rows are counted up
        to PROBE_LIMIT: the fewest win; above the limit only an index in key order is worth it.
        """
        able: dict[int, int] = {}
        for n, (shape, _) in enumerate(lowered):
            if shape[0] == "match" and all(OPERATIONS[op].drives for op in shape[2:]):
                able[n] = max(CERTAIN.get(op, 9) for op in shape[2:])
        if not able:
            return None
        best = min(able, key=lambda n: able[n])
        if able[best] == CERTAIN["id"]:
            return None  # the unique index on (type, id) drives
        in_order = {n for n in able if ordered(lowered[n][0])}
        if able[best] < 9 or (len(able) == 1 and best in in_order):
            return best
        counts: dict[int, int] = {}
        await self.connection.snapshot()
        for n in able:
            plan = self.catalogue.compiler.probe(*lowered[n])
            counts[n] = (await self.connection.rows(plan.statement, plan.values))[0][0]
        fewest = min(counts, key=lambda n: counts[n])
        if counts[fewest] < PROBE_LIMIT or fewest in in_order:
            return fewest
        return min(in_order) if in_order else None

    # --- the gate ------------------------------------------------------------------------------

    async def gate(self, type: str, right: Right) -> tuple[Shape, list[Any]]:
        """Return the policy for a type ("" for all types) as a shape and its values."""
        policy = self.caller.policy
        if not type:
            return await self._gate_of_all(right)
        tree = policy.of(type, right)
        if isinstance(tree, All):
            return ("all",), []
        values: list[Any] = []
        lowering = await self._lowering(tree)
        return lowering.tree(tree, type, values), values

    async def _gate_of_all(self, right: Right) -> tuple[Shape, list[Any]]:
        """Return the policies of all types side by side, those of open types as one."""
        numbers = self.catalogue.definitions.type_numbers
        policy = self.caller.policy
        open_types = [n for t, n in numbers.items() if isinstance(policy.of(t, right), All)]
        if len(open_types) == len(numbers):
            return ("all",), []
        shapes: list[Shape] = [("all",)]
        values: list[Any] = [open_types]
        for type, number in numbers.items():
            if number not in open_types:
                shape, own = await self.gate(type, right)
                shapes.append(shape)
                values += [[number], *own]
        return ("types", *shapes), values

    async def _lowering(self, tree: Query) -> Lowering:
        named = set(systems_in(tree))
        known = await self.connection.known_systems(named)
        own = self.catalogue
        kinds = own.indexer.parameter_kinds
        return Lowering(own.definitions, own.params, known, kinds, own.base_url)

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
        found = await self._identify(wanted, lock=True)
        missing = [i for i in wanted if i not in found and i in claimed]
        if missing:
            await self._add_phantoms(missing)
            found = await self._identify(wanted, lock=True)
        return found

    async def visible(self, current: Current, type: str, right: Right) -> bool:
        """Return whether the caller may know of this live resource under `right`."""
        if isinstance(self.caller.policy.of(type, right), All):
            return True
        return bool(await self._visible_keys([current.key], type, right))

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
        content = digest(resource)
        if current is not None and current.state == LIVE and current.hash == content:
            return Version(type, id, current.version, current.updated, UPDATED, b""), False
        exists = current is not None and current.state == LIVE
        version = current.version + 1 if current is not None else 1
        updated = max(now, current.updated) if current is not None else now
        body = splice(raw, id, version, instant(updated))
        op = UPDATED if exists else CREATED
        rows = self.catalogue.indexer.rows({**resource, "id": id})
        right: Right = "update" if exists else "create"
        self.staged.append(
            Staged(type, id, version, updated, op, body, right, current, rows, content)
        )
        return Version(type, id, version, updated, op, body), True

    def delete(self, type: str, id: str, current: Current, now: int) -> Version:
        """Stage the deletion of a live resource; return the version that marks it."""
        updated = max(now, current.updated)
        version = current.version + 1
        self.staged.append(
            Staged(type, id, version, updated, DELETED, b"", "delete", current, None, b"")
        )
        return Version(type, id, version, updated, DELETED, b"")

    async def flush(self) -> None:
        """Write all staged versions, one statement a table, then look whether each is visible.

        Raises a 403 for a resource that the caller may not have written as it stands now.
        """
        staged, self.staged = self.staged, []
        if not staged:
            return
        systems = await self.connection.systems(
            {system for s in staged if s.rows for system in manifest.systems(s.rows)}
        )
        fresh = [s for s in staged if s.current is None]
        given = iter(await self.connection.keys(len(fresh)))
        keys = {(s.type, s.id): s.current.key if s.current else next(given) for s in staged}
        targets = {t for s in staged if s.rows for t in manifest.targets(s.rows)} - keys.keys()
        keys.update(await self._keys_of(sorted(targets)))
        look = any(not isinstance(self.caller.policy.of(s.type, s.right), All) for s in staged)
        changes = self._changes(staged, keys, systems)
        await self.connection.change(changes, final=not look)
        await self._look(staged, keys)

    async def _look(self, staged: Sequence[Staged], keys: Mapping[Identity, int]) -> None:
        """Refuse the transaction if a row it wrote is hidden from its writer."""
        groups: dict[tuple[str, Right], list[int]] = {}
        for s in staged:
            closed = not isinstance(self.caller.policy.of(s.type, s.right), All)
            if closed and s.op != DELETED:
                groups.setdefault((s.type, s.right), []).append(keys[s.type, s.id])
        for (type, right), written in groups.items():
            if len(await self._visible_keys(written, type, right)) < len(set(written)):
                raise refused("forbidden", f"You may not {right} this {type}")

    async def _visible_keys(self, keys: list[int], type: str, right: Right) -> Sequence[db.Row]:
        gate, values = await self.gate(type, right)
        plan = self.catalogue.compiler.look(gate, values, keys)
        return await self.connection.rows(plan.statement, plan.values)

    async def _identify(
        self, wanted: Sequence[Identity], *, lock: bool = False
    ) -> dict[Identity, Current]:
        """Return the rows that exist of these identities, visible or not."""
        numbers = {**self.catalogue.definitions.type_numbers, "": EXTERNAL}
        names = {number: name for name, number in numbers.items()}
        statement = db.identify(self.catalogue.compiler.dialect, lock=lock)
        pairs = [[numbers[type], id] for type, id in wanted]
        values = {"pairs": pairs, "types": [p[0] for p in pairs], "ids": [p[1] for p in pairs]}
        rows = await self.connection.rows(statement, values)
        return {(names[row[0]], row[1]): Current(*row[2:]) for row in rows}

    async def _add_phantoms(self, missing: Sequence[Identity]) -> None:
        numbers = {**self.catalogue.definitions.type_numbers, "": EXTERNAL}
        keys = await self.connection.keys(len(missing))
        rows = [
            _resource_row(key, numbers[type], id)
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
        difference = Difference.empty()
        for s in staged:
            key, type = keys[s.type, s.id], types[s.type]
            new = numbers.manifest(s.type, s.rows) if s.rows else Manifest()
            old = manifest.read(s.current.manifest if s.current else b"")
            owner = s.current.owner if s.op == DELETED and s.current else new.owner
            row = _resource_row(
                key,
                type,
                s.id,
                owner=owner,
                updated=s.updated,
                occurred=(s.rows.occurred or 0) if s.rows else 0,
                present=self._present(s),
                version=s.version,
                state=GONE if s.op == DELETED else LIVE,
                hash=s.hash,
                manifest=manifest.write(new) if s.rows else b"",
            )
            (inserted if s.current is None else updated).append(row)
            versions.append((key, s.version, owner, 0, s.updated, type, s.op, s.body))
            difference.add(key, old, new)
        return [
            db.Change("insert", db.resource, RESOURCE_COLUMNS, inserted),
            db.Change("update", db.resource, RESOURCE_COLUMNS, updated),
            db.Change("insert", db.resource_version, VERSION_COLUMNS, versions),
            *difference.changes(),
        ]

    def _present(self, s: Staged) -> int:
        bits = self.catalogue.bits
        return sum(1 << bits[s.type, code] for code in s.rows.present) if s.rows else 0


def _resource_row(key: int, type: int, id: str, **known: Any) -> tuple[Any, ...]:
    """Return a row of `resource` in the order of its columns; a phantom unless more is known."""
    row = {"key": key, "type": type, "id": id, **known}
    blank = {"hash": b"", "manifest": b""}
    return tuple(row.get(name, blank.get(name, 0)) for name in RESOURCE_COLUMNS)
