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
from typing import Any

from app import db
from app.fhir import manifest, sql
from app.fhir.access import Caller, Right, Sight
from app.fhir.errors import refused
from app.fhir.manifest import Difference, Identity, Manifest, Numbers
from app.fhir.query import BINARY, POINTS, All, Query, Search
from app.fhir.sql import EXTERNAL, Shape
from app.fhir.store import membership, parameters, references
from app.fhir.store.catalogue import Catalogue, redefine
from app.fhir.store.search import Page, Searcher
from app.fhir.store.versions import (
    ACTIONS,
    CREATED,
    DELETED,
    GONE,
    INDEXED,
    LIVE,
    OWNED,
    RESOURCE_COLUMNS,
    UPDATED,
    VERSION_COLUMNS,
    Current,
    HistoryPage,
    Seen,
    Staged,
    Version,
    binaries,
    digest,
    instant,
    nothing,
    pointed_before,
    present_bits,
    resource_row,
)
from app.fhir.store.visibility import Visibility
from app.fhir.values import Interval
from app.fhir.wire import Resource, decode, splice

ANY = All()
VERSION = re.compile(r"[1-9][0-9]{0,9}")  # as versionId is written: no leading zero


class Store:
    """What one request may see and change."""

    def __init__(
        self,
        connection: db.Connection,
        catalogue: Catalogue,
        caller: Caller,
        seen: list[Seen] | None = None,
    ) -> None:
        self.connection = connection
        self.catalogue = catalogue
        self.caller = caller
        self.seen = seen  # what was returned or written, where somebody wants to know
        self.staged: list[Staged] = []
        self.written: list[Version] = []  # staged or flushed, in their order
        self.version = catalogue.version  # of the definitions; this transaction may raise it

    # --- reading -------------------------------------------------------------------------------

    async def read(self, type: str, id: str, right: Sight = "read") -> Version:
        """Return the current version of a resource; 404 if there is none, 410 if it is deleted."""
        rows = await self._current(type, id, right)
        if not rows:
            raise refused("not-found", f"There is no {type}/{id}")
        key, state, version, updated, body, owner = rows[0]
        if state == GONE:
            raise refused("deleted", f"{type}/{id} was deleted (version {version})")
        if self.seen is not None:
            await self._see([(type, id, version, owner, key)])
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
        op, number, updated, body, owner = rows[0]
        if op == DELETED:
            raise refused("deleted", f"Version {version} marks the deletion of {type}/{id}")
        if self.seen is not None:
            await self._see_versions([(type, id, number, owner, body)])
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
        gate, values = await self.visibility.gate(type, "read" if id else "search")
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
            for seq, number, vid, op, version, updated, body, _ in rows
        ]
        if self.seen is not None:
            await self._see_versions(
                [(names[r[1] - 1], r[2], r[4], r[7], r[6]) for r in rows[:count]]
            )
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

    async def _current(self, type: str, id: str, right: Sight = "read") -> Sequence[db.Row]:
        """Return key, state, version, updated, body and owner of a visible resource, or no row."""
        gate, values = await self.visibility.gate(type, right)
        number = self.catalogue.definitions.type_numbers[type]
        plan = self.catalogue.compiler.read(gate, values, number, id)
        return await self.connection.rows(plan.statement, plan.values)

    async def search(self, search: Search, right: Sight = "search") -> Page:
        """Return one page of a search (search.html)."""
        page = await Searcher(self.connection, self.catalogue, self.caller, right).page(search)
        if self.seen is not None:
            entries = (*page.entries, *page.included)
            await self._see([(e.type, e.id, e.version, e.owner, e.key) for e in entries])
        return page

    async def _see(self, found: Sequence[tuple[str, str, int, int, int]]) -> None:
        """Note current versions (type, id, version, owner, key) that are returned.

        What belongs to nobody alone is of all in whose compartment it is.
        """
        assert self.seen is not None
        kinds = self.catalogue.of_patients
        shared = [key for type, _, _, owner, key in found if not owner and type in kinds]
        members = await self._members(shared) if shared else {}
        self.seen += [
            Seen(type, id, version, (owner,) if owner else members.get(key, ()))
            for type, id, version, owner, key in found
        ]

    async def _members(self, keys: list[int]) -> dict[int, tuple[int, ...]]:
        """Return the keys of the Patients in whose compartments shared resources are."""
        patient = self.catalogue.definitions.type_numbers["Patient"]
        plan = self.catalogue.compiler.members(keys=keys, type=patient)
        found: dict[int, tuple[int, ...]] = {}
        for key, member in await self.connection.rows(plan.statement, plan.values):
            found[key] = (*found.get(key, ()), member)
        return found

    async def _see_versions(self, found: Sequence[tuple[str, str, int, int, bytes]]) -> None:
        """Note versions (type, id, version, owner, body) that are returned.

        The compartments of an old one, which belongs to nobody alone, are in its body only.
        """
        assert self.seen is not None
        kinds, rows = self.catalogue.of_patients, self.catalogue.indexer.rows
        named = [
            rows(decode(body), body).patients if body and not owner and type in kinds else ()
            for type, _, _, owner, body in found
        ]
        keys = await self.known_keys(sorted({("Patient", one) for some in named for one in some}))
        self.seen += [
            Seen(type, id, version, (owner,) if owner else tuple(keys["Patient", o] for o in of))
            for (type, id, version, owner, _), of in zip(found, named, strict=True)
        ]

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

    async def reachable(self, wanted: Mapping[Identity, Right]) -> list[Identity]:
        """Return those of these resources that the caller may know of, who is to do this to them.

        Whoever may know of all of a type may know that one is not there, and gets it too.
        """
        policy = self.caller.policy
        sights = {one: policy.sight(one[0], right) for one, right in wanted.items()}
        closed = [one for one, s in sights.items() if not isinstance(policy.of(one[0], s), All)]
        if not closed:
            return list(wanted)
        hidden = set(closed)
        groups: dict[tuple[str, Sight], dict[int, Identity]] = {}
        for one, current in (await self._identify(closed)).items():
            if current.state == LIVE:
                groups.setdefault((one[0], sights[one]), {})[current.key] = one
        for (type, sight), keys in groups.items():
            seen = await self.visibility.of_keys(list(keys), type, sight)
            hidden -= {keys[key] for key in seen}
        return [one for one in wanted if one not in hidden]

    async def visible(self, current: Current, type: str, right: Sight) -> bool:
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

    async def flush(self, beside: Callable[[], Sequence[db.Change]] = nothing) -> None:
        """Write all staged versions, one statement a table, then look whether each is visible.

        What is to be written `beside` them is asked for once it is known what they are; where
        nothing is staged it is not.
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
        await self._check_binaries(staged)
        targets = {t for s in staged if s.rows for t in manifest.targets(s.rows)} - keys.keys()
        keys.update(await self._keys_of(sorted(targets)))
        look = any(not isinstance(self.caller.policy.of(s.type, s.right), All) for s in staged)
        await self._redefine(staged)
        changes = self._changes(staged, keys, systems)
        if self.seen is not None:
            await self._see_written(staged, keys)
        changes += beside()
        final = not look and not defining
        await self.connection.change(changes, final=final, version=self.version)
        if defining:
            written = {keys[s.type, s.id]: s.body for s in defining}
            await membership.changed(self.connection, self.catalogue, written)
        await self._look(staged, keys)

    async def _see_written(self, staged: Sequence[Staged], keys: Mapping[Identity, int]) -> None:
        """Note what is written, and what of another's record it was before."""
        assert self.seen is not None
        kinds = self.catalogue.of_patients
        shared = [
            s.current.key
            for s in staged
            if s.current and s.current.state == LIVE and not s.current.owner and s.type in kinds
        ]
        members = await self._members(shared) if shared else {}
        for s in staged:
            if s.op == INDEXED:
                continue
            left: tuple[int, ...] = ()
            if s.current and s.current.state == LIVE:
                owner = s.current.owner
                left = (owner,) if owner else members.get(s.current.key, ())
            now = tuple({keys["Patient", id]: None for id in s.rows.patients}) if s.rows else left
            self.seen.append(Seen(s.type, s.id, s.version, now, ACTIONS[s.op]))
            if gone := tuple(one for one in left if one not in now):
                self.seen.append(Seen(s.type, s.id, s.version - 1, gone, ACTIONS[s.op]))

    async def _check_binaries(self, staged: Sequence[Staged]) -> None:
        """Refuse what newly points at a Binary that the caller may not see, or that is not there.

        It would be shown by what points at it. What this transaction has written may be pointed at.
        """
        if isinstance(self.caller.policy.of(BINARY, "show"), All):
            return
        mine = {v.id for v in self.written if v.type == BINARY and v.op != DELETED}
        pointed = [(s, binaries(s) - mine) for s in staged if s.op != INDEXED]
        wanted = sorted({(BINARY, id) for _, ids in pointed for id in ids})
        if not wanted:
            return
        found = await self._identify(wanted)
        live = [current.key for current in found.values() if current.state == LIVE]
        seen = await self.visibility.of_keys(live, BINARY, "show")
        for s, ids in pointed:
            allowed = seen | pointed_before(s, self.catalogue.params[BINARY, POINTS])
            for id in sorted(ids):
                if (BINARY, id) not in found or found[BINARY, id].key not in allowed:
                    raise refused("not-found", f"There is no {BINARY}/{id}", s.type, 422)

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
        policy = self.caller.policy
        known = sorted(wanted)
        if kept:  # what is hidden is not waited for
            closed = {w for w in known if not isinstance(policy.of(w[0], "show"), All)}
            shown = await self.present(closed, kept=False) if closed else set()
            known = [one for one in known if one in shown or one not in closed]
        found = await self._identify(known, lock="share" if kept else "")
        live = {key: current for key, current in found.items() if current.state == LIVE}
        groups: dict[str, list[Identity]] = {}
        for key in live:
            groups.setdefault(key[0], []).append(key)
        seen: set[Identity] = set()
        for type, some in groups.items():
            if isinstance(policy.of(type, "show"), All):
                seen.update(some)
            else:
                keys = [live[key].key for key in some]
                visible = await self.visibility.of_keys(keys, type, "show")
                seen.update(key for key in some if live[key].key in visible)
        return seen

    async def referrers(
        self, type: str, id: str, most: int, refers: Callable[[bytes], bool]
    ) -> tuple[list[Identity], bool]:
        """Return who refers to a resource: at most so many, and whether there are others.

        By type and id, those that the caller is shown, with a reference that is not masked; who is
        hidden does not count, as if it were not there. An index row says that there is a reference,
        `refers` of the body whether it counts.
        """
        found = references.referrers(self.connection, self.catalogue, type, id)
        named: list[Identity] = []
        others = False
        async for page in found:
            for kind, some in page.items():
                counting = {key: one for key, (one, body) in some.items() if refers(body)}
                seen = await self.visibility.of_keys(list(counting), kind, "show")
                plain = {k for k in seen if refers(self.visibility.shown(kind, some[k][1]))}
                others |= len(plain) < len(seen)
                named += [(kind, counting[key]) for key in counting if key in plain]
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
