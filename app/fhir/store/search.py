"""One page of a search: in which order, after which cursor, how many there are.

https://hl7.org/fhir/R4/search.html

Theory of operation. Each searched type is an *arm*: `planning` chooses what drives it and in which
way it gets to a page. Several arms are one statement, merged here in the order of the search.

A page continues from its cursor: the sort values and the key of the last entry, and, where sort
values can change, the *horizon* of the first page. What was written after it is shown only if it
has the sort values that it had then: so nothing is shown twice, however much others write.

Rule: everything that one page shows comes from one snapshot.
"""

import base64
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any, NamedTuple, cast

import msgspec

from app import db
from app.fhir.access import Caller, Sight
from app.fhir.errors import refused
from app.fhir.query import Match, Member, Ordered, Query, Search, Sort, Term
from app.fhir.sql import AFTER_ANY, CANONICAL, TABLES, Arm, Key, Plan, SortKind, missing
from app.fhir.store.catalogue import Catalogue
from app.fhir.store.includes import Entry, Includer
from app.fhir.store.planning import Driven, Planner, parts_of
from app.fhir.store.visibility import Visibility
from app.fhir.wire import Resource, decode

ARMS_TOGETHER = 12  # types of one statement
ESTIMATED = 10_000  # `_total=estimate` counts no further
VERSIONS_BACK = 50


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a search.

    `entries` in order, `included` what comes along, `total` where it is known, the `cursor` of the
    next page. `cut` says that there was more to include than one answer may hold. `explained` says
    how the page was found, if that was asked for.
    """

    entries: Sequence[Entry]
    included: Sequence[Entry]
    total: int | None
    cursor: str
    cut: bool = False
    explained: Mapping[str, Any] | None = None


class Cursor(NamedTuple):
    """Where a page ended: sort values (None for a missing one) and key; the walk's horizon."""

    values: list[Any]
    key: int
    horizon: str


@dataclass(slots=True)
class Searcher:
    """One search of one caller while it runs."""

    connection: db.Connection
    catalogue: Catalogue
    caller: Caller
    right: Sight = "search"
    clock: Callable[[], float] = time.perf_counter
    log: list[dict[str, Any]] | None = None
    arms_taken: list[tuple[str, Arm, int]] = field(default_factory=list)

    @property
    def visibility(self) -> Visibility:
        """What the caller may see."""
        return Visibility(self.connection, self.catalogue, self.caller)

    async def page(self, search: Search) -> Page:
        """Return one page; a 400 for a cursor that belongs to another search."""
        search = self.ordered(search)
        if search.explain:
            self.log = []
        order = self.order(search)
        about = self.about(search)
        cursor = self.opened(search.cursor, about) if search.cursor else None
        several = len(search.arms) > 1 or search.total in ("accurate", "estimate")
        if several or search.includes or cursor:
            await self.connection.snapshot()
        arms = await self.arms(search)
        systems = [CANONICAL] if any(key.kind == "quantity" for key in order) else []
        trees = [where for _, where in arms]
        lowering = await self.visibility.lowering(trees, systems, self.right)
        planner = Planner(self.catalogue, lowering, self.run, self.connection.snapshot)
        if search.count == 0 or search.summary == "count":
            every = await self.total(planner, arms, 0)
            return Page((), (), every, "", explained=self.explained(search))
        entries, more, horizon = await self.rows(planner, arms, order, search, cursor)
        following = ""
        if more:
            last = entries[-1]
            place = Cursor(self.without(last.values, order), last.key, horizon)
            following = self.sealed(place, about)
        total: int | None = len(entries) if not more and not cursor else None
        if search.total == "accurate" and total is None:
            total = await self.total(planner, arms, 0)
        elif search.total == "estimate" and total is None:
            total = await self.total(planner, arms, ESTIMATED)
        elif search.total == "none":
            total = None
        includer = Includer(self.visibility, self.run)
        included, cut = await includer.included(search.includes, entries)
        return Page(entries, included, total, following, cut, self.explained(search))

    def ordered(self, search: Search) -> Search:
        """Return the search with an order: what is asked for by date comes newest date first.

        R4 leaves the order open where there is no `_sort`. In the order of creation a range of
        dates would have to be looked for all over the type (docs/decisions.md).
        """
        if search.sort or len(search.arms) != 1:
            return search
        ((type, where),) = search.arms
        kinds = self.catalogue.indexer.parameter_kinds(type)
        for part in parts_of(where):
            if isinstance(part, Match) and part.type == "date" and not part.modifier:
                single = part.parameter == "_lastUpdated" or kinds[part.parameter].single
                if single and all(is_range(term) for term in part.terms):
                    return replace(search, sort=(Sort(part.parameter, descending=True),))
        return search

    # --- cursors -------------------------------------------------------------------------------

    def about(self, search: Search) -> str:
        """Return what a cursor is bound to: the query, where it was asked, and the policy."""
        where = [(type, _within(where)) for type, where in search.arms]
        asked = f"{where} {search.applied} {self.caller.policy.digest}"
        return f"search {asked}"

    def sealed(self, cursor: Cursor, about: str) -> str:
        """Return a cursor as a signed text."""
        text = base64.urlsafe_b64encode(msgspec.json.encode(list(cursor))).rstrip(b"=").decode()
        return self.catalogue.sign(text, about)

    def opened(self, text: str, about: str) -> Cursor:
        """Return the cursor that a text holds; a 400 if it was made for anything else."""
        raw = self.catalogue.place(text, about)
        values, key, horizon = msgspec.json.decode(
            base64.urlsafe_b64decode(raw + "=" * (-len(raw) % 4))
        )
        return Cursor(values, key, horizon)

    # --- the rows of a page --------------------------------------------------------------------

    async def arms(self, search: Search) -> list[tuple[str, Query]]:
        """Return the arms that can find anything: of types in use, in a visible compartment."""
        arms = list(search.arms)
        within = parts_of(arms[0][1])
        member = next((part for part in within if isinstance(part, Member)), None)
        if member and not await self.seen(member):
            return []
        if len(arms) > ARMS_TOGETHER:
            types = await self.types()
            return [arm for arm in arms if arm[0] in types]
        return arms

    async def types(self) -> set[str]:
        """Return the types of which there is anything."""
        names = self.catalogue.definitions.resource_types
        rows = await self.run("types", self.catalogue.compiler.types())
        return {names[row[0] - 1] for row in rows}

    async def seen(self, member: Member) -> bool:
        """Return whether the caller may see the resource whose compartment is searched."""
        gate, values = await self.visibility.gate(member.type, "show")
        number = self.catalogue.definitions.type_numbers[member.type]
        plan = self.catalogue.compiler.known(gate, values, number, member.id)
        return bool(await self.run("compartment", plan))

    async def rows(
        self,
        planner: Planner,
        arms: Sequence[tuple[str, Query]],
        order: tuple[Key, ...],
        search: Search,
        cursor: Cursor | None,
    ) -> tuple[list[Entry], bool, str]:
        """Return the entries of a page, whether more follow, and the horizon of the walk."""
        plans = [(type, *await planner.way(type, where, order, search))
                 for type, where in arms]  # fmt: skip
        if self.log is not None:
            self.arms_taken = [(type, arm, driven.size) for type, arm, driven, _ in plans]
        if any(arm.way == "walk" for _, arm, _, _ in plans):  # it may take a second statement
            await self.connection.snapshot()
        wanted = search.count + 1
        horizon = cursor.horizon if cursor else ""
        rows: list[Entry] = []
        place = cursor
        while len(rows) < wanted:
            some, seen = await self.batch(planner, plans, order, search, place, wanted)
            horizon = horizon or seen
            first = cursor is None
            rows += [r for r in some if first or await self.settled(r, horizon, order, search)]
            if len(some) < wanted:
                break
            last = some[-1]
            place = Cursor(self.without(last.values, order), last.key, horizon)
        return rows[: search.count], len(rows) > search.count, horizon

    def without(self, values: Sequence[Any], order: tuple[Key, ...]) -> list[Any]:
        """Return sort values with None where one is missing."""
        return [None if v == missing(k) else v for v, k in zip(values, order, strict=True)]

    async def batch(
        self,
        planner: Planner,
        plans: Sequence[tuple[str, Arm, Driven, Driven]],
        order: tuple[Key, ...],
        search: Search,
        cursor: Cursor | None,
        limit: int,
    ) -> tuple[list[Entry], str]:
        """Return the next rows of all arms in order, and the horizon of the statement."""
        first: list[tuple[str, Arm, Driven]] = []
        second: list[tuple[str, Arm, Driven]] = []
        for type, arm, driven, found in plans:
            if arm.way != "walk":
                first.append((type, arm, driven))
                continue
            if cursor is None or cursor.values[0] is not None:
                first.append((type, arm, driven))
            if order[0].kind in TABLES and not arm.bounds:
                second.append((type, Arm("missing", *found[:3]), found))
        rows, horizon = await self.merged(planner, first, order, search, cursor, limit)
        # an arm that is gathered brings what has no value at once: the others' may come before it
        if second and (len(rows) < limit or rows[-1].values[0] == missing(order[0])):
            inside = cursor if cursor and cursor.values[0] is None else None
            late, seen = await self.merged(planner, second, order, search, inside, limit)
            rows = in_order([*rows, *late], order)[:limit]
            horizon = horizon or seen
        return rows, horizon

    async def merged(
        self,
        planner: Planner,
        plans: Sequence[tuple[str, Arm, Driven]],
        order: tuple[Key, ...],
        search: Search,
        cursor: Cursor | None,
        limit: int,
    ) -> tuple[list[Entry], str]:
        """Return the first rows of some arms, a statement for every few of them."""
        named: dict[str, Any] = {"limit": limit, "after": cursor.key if cursor else AFTER_ANY}
        if cursor:
            for n, (value, key) in enumerate(zip(cursor.values, order, strict=True)):
                named[f"a{n}"] = missing(key) if value is None else value
        names, show = self.catalogue.definitions.resource_types, self.visibility.shown
        rows: list[Entry] = []
        horizon = ""
        for start in range(0, len(plans), ARMS_TOGETHER):
            some = plans[start : start + ARMS_TOGETHER]
            values = [v for type, arm, driven in some
                      for v in planner.values(type, arm, driven, order, search)]  # fmt: skip
            plan = self.catalogue.compiler.page(
                order, tuple(arm for _, arm, _ in some), cursor is not None, values, **named
            )
            found = await self.run("page", plan)
            if order and found:
                horizon = found[0][7]
                rows += [
                    Entry(r[0], names[r[1] - 1], r[2], r[3], r[4], r[5], r[6], r[8:]) for r in found
                ]
            else:
                rows += [Entry(r[0], names[r[1] - 1], r[2], r[3], r[4], r[5]) for r in found]
        if self.caller.policy.mask:
            rows = [row._replace(body=show(row.type, row.body)) for row in rows]
        return in_order(rows, order)[:limit], horizon

    def order(self, search: Search) -> tuple[Key, ...]:
        """Return the keys of the order; a 400 where a parameter is of another type elsewhere."""
        keys = []
        parameters = self.catalogue.definitions.search_parameters
        for sort in search.sort:
            kinds = {SORT_KINDS.get(sort.parameter, parameters[type][sort.parameter].type)
                     for type, _ in search.arms}  # fmt: skip
            if len(kinds) > 1:
                text = f"_sort: {sort.parameter} is not of one type in all that is searched"
                raise refused("not-supported", text, "http._sort")
            keys.append(Key(cast("SortKind", kinds.pop()), sort.descending))
        return tuple(keys)

    # --- totals --------------------------------------------------------------------------------

    async def total(self, planner: Planner, arms: Sequence[tuple[str, Query]], limit: int) -> int:
        """Return how many resources the caller would find, no more than `limit` unless it is 0."""
        total = 0
        for type, where in arms:
            driven = await planner.driven(type, where)
            plan = self.catalogue.compiler.count(Arm("keys", *driven[:3]), driven.values, limit)
            total += (await self.run("total", plan))[0][0]
        return min(total, limit) if limit else total

    # --- what was written meanwhile ------------------------------------------------------------

    async def settled(
        self, row: Entry, horizon: str, order: tuple[Key, ...], search: Search
    ) -> bool:
        """Return whether a row had its place already when the walk began.

        What has moved since may have been shown before, and what is new need not be.
        """
        if all(key.kind == "id" for key in order) or db.sees(horizon, row.xid):
            return True
        plan = self.catalogue.compiler.versions()
        values = {"key": row.key, "limit": VERSIONS_BACK}
        versions = await self.connection.rows(plan.statement, values)
        now = self.sort_key(versions[0], order, search)
        then = next((v for v in versions if db.sees(horizon, v[0])), None)
        if then is None or not then[3]:
            return False
        return now == self.sort_key(then, order, search)

    def sort_key(self, version: db.Row, order: tuple[Key, ...], search: Search) -> list[Any]:
        """Return what one version is sorted by, as far as two of them can be compared."""
        _, updated, _, body = version
        resource: Resource = decode(body)
        rows = self.catalogue.indexer.rows(resource)
        found: list[Any] = []
        for key, sort in zip(order, search.sort, strict=True):
            if key.kind == "updated":
                found.append(updated)
            elif key.kind in SORTED_BY:
                table, column = SORTED_BY[key.kind]
                own = [row[column] for row in getattr(rows, table) if row[0] == sort.parameter]
                found.append((max if key.descending else min)(own, default=None))
            elif key.kind != "id":  # of these more than one column counts
                tables = (rows.quantity,) if key.kind == "quantity" else (rows.reference, rows.uri)
                found.append({row for table in tables for row in table if row[0] == sort.parameter})
        return found

    # --- statements ----------------------------------------------------------------------------

    async def run(self, purpose: str, plan: Plan) -> Sequence[db.Row]:
        """Return the rows of a statement, and note how it went."""
        if self.log is None:
            return await self.connection.rows(plan.statement, plan.values)
        started = self.clock()
        rows = await self.connection.rows(plan.statement, plan.values)
        self.log.append(
            {
                "purpose": purpose,
                "plan": plan,
                "rows": rows[0][0] if purpose in ("probe", "total") else len(rows),
                "milliseconds": (self.clock() - started) * 1000,
            }
        )
        return rows

    def explained(self, search: Search) -> Mapping[str, Any] | None:
        """Return the tree, and each statement with its purpose, rows and time."""
        if self.log is None:
            return None
        return {
            "tree": [f"{type}: {where}" for type, where in search.arms],
            "arms": [
                {"type": type, "way": arm.way, "driver": str(arm.driver), "estimate": size}
                for type, arm, size in self.arms_taken
            ],
            "statements": [
                {
                    **{k: v for k, v in step.items() if k != "plan"},
                    "sql": step["plan"].statement.text,
                    "values": {k: _told(v) for k, v in step["plan"].values.items()},
                }
                for step in self.log
            ],
        }


# Where the rows of the index have what they are sorted by, as the statements have it
SORTED_BY = {
    "date": ("date", 1),
    "string": ("string", 1),
    "token": ("token", 2),
    "uri": ("uri", 1),
    "number": ("quantity", 3),
}
SORT_KINDS: Mapping[str, str] = {"_id": "id", "_lastUpdated": "updated"}


def _told(value: Any) -> str:
    """Return a value as people read it: of a long list its length."""
    return f"{len(value)} values" if isinstance(value, list) and len(value) > 9 else repr(value)


def is_range(term: Term) -> bool:
    """Return whether a term is a range: all but `ne` are."""
    return isinstance(term, Ordered) and term.prefix != "ne"


def in_order(rows: Iterable[Entry], order: tuple[Key, ...]) -> list[Entry]:
    """Return entries as the search orders them; ties with the newest created first."""
    found = sorted(rows, key=itemgetter(0), reverse=True)  # by key
    for n in range(len(order) - 1, -1, -1):
        found.sort(key=lambda row: row.values[n], reverse=order[n].descending)
    return found


def _within(where: Query) -> Member | None:
    """Return the compartment that is searched, if one is."""
    return next((part for part in parts_of(where) if isinstance(part, Member)), None)
