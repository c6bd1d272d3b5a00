"""From shapes to statements: one text for each shape and dialect.

Theory of operation. A page is found by walking one index, the *driver*; every other criterion and
the gate are fenced probes, `EXISTS (... LIMIT 1 OFFSET 0)`, which no planner flattens
(docs/decisions.md). There are four ways to a page:

* `keys`: the driver's rows come in key order, which is the order of a search without `_sort`;
* `sorted`: they do not, so its keys are put in order first and probed until the page is full;
* `gather`: all that fit are found, given their sort values, and the best are taken;
* `walk`: the index of the first sort key is the driver, so the page is the beginning of a range.
  What has no value for it follows in a second phase, `missing`.

Each arm of a page is one type; arms are merged. A page continues after the sort values and the key
of its cursor (`a0`, `a1` ..., `after`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from app import db
from app.fhir.sql.gate import (
    LIVE,
    Binder,
    condition,
    driven,
    found,
    of_version,
    probed,
    unique,
    visible,
    visible_version,
)
from app.fhir.sql.lowering import Shape
from app.fhir.sql.operations import NONE, ONE, Clause, any_of, bound, fence

PROBE_LIMIT = 1801
AFTER_ANY = 2**62
NEVER = str(AFTER_ANY)  # when a current version ends

SortKind = Literal[
    "id", "updated", "date", "string", "token", "uri", "number", "quantity", "reference"
]


class Key(NamedTuple):
    """One key of an order: what its values are, and whether the last come first."""

    kind: SortKind
    descending: bool


class Arm(NamedTuple):
    """How the resources of one type get to a page.

    `way` is one of the four, or `missing`; `bounds` are the date operations on the first sort key
    that limit a walk, those of each match; `single` says that a resource has one row of it.
    """

    way: Literal["keys", "sorted", "gather", "walk", "missing"]
    driver: Shape
    rest: Shape
    gate: Shape
    bounds: tuple[tuple[str, ...], ...] = ()
    single: bool = False


class History(NamedTuple):
    """Which versions a history shows: of what, by which conditions, and which of its pages.

    `level` is instance, type or system, `of` is asked of the resources; `since` and `at` say that
    only what was written since then, or was current then, is shown; `after` that the page follows
    another.
    """

    level: str
    gate: Shape
    of: Shape = ("all",)
    since: bool = False
    at: bool = False
    after: bool = False


TABLES: dict[str, tuple[sa.Table, str]] = {
    "date": (db.index_date, "lo"),
    "string": (db.index_string, "norm"),
    "token": (db.index_token, "code"),
    "uri": (db.index_uri, "uri"),
    "number": (db.index_quantity, "lo"),
    "quantity": (db.index_quantity, "lo"),
    "reference": (db.index_reference, "target"),
}
WALKABLE = frozenset({"id", "updated", "date", "string", "token", "uri"})
TEXT_KINDS = frozenset({"id", "string", "token", "uri", "reference"})
LAST_TEXT = "\U0010ffff" * 3
BIGGEST = 2**63 - 1


def missing(key: Key) -> Any:
    """Return the value that stands for none, which is last in either direction."""
    if key.kind in TEXT_KINDS:
        return "" if key.descending else LAST_TEXT
    if key.kind in ("number", "quantity"):
        return float("-inf") if key.descending else float("inf")
    return -BIGGEST if key.descending else BIGGEST


@dataclass(frozen=True, slots=True)
class Plan:
    """A statement and the values of its parameters."""

    statement: db.Statement
    values: dict[str, Any]


class Compiler:
    """Builds statements for one dialect and keeps the text of each shape."""

    def __init__(self, dialect: db.Dialect) -> None:
        self.dialect = dialect
        self.texts: dict[Shape, db.Statement] = {}

    def plan(
        self,
        kind: str,
        build: Callable[..., sa.Select[Any]],
        shape: Shape,
        values: Sequence[Any],
        **named: Any,
    ) -> Plan:
        """Return the statement that `build(*shape, bind)` gives, built on first use."""
        key = (kind, shape)
        statement = self.texts.get(key)
        if statement is None:
            if len(self.texts) > 2000:
                self.texts.clear()
            statement = db.statement(build(*shape, Binder(self.dialect)), self.dialect)
            self.texts[key] = statement
        return Plan(statement, {**{f"p{n}": v for n, v in enumerate(values)}, **named})

    def read(self, gate: Shape, values: Sequence[Any], type: int, id: str) -> Plan:
        """Return the current row of one resource: key, state, version, updated, body, owner."""
        return self.plan("read", _read, (gate,), values, type=type, id=id)

    def vread(self, gate: Shape, values: Sequence[Any], **named: Any) -> Plan:
        """Return one version: op, version, updated, body, owner; `named`: type, id, version."""
        # the gate is asked twice: of the resource and of the version
        return self.plan("vread", _vread, (gate,), [*values, *values], **named)

    def history(self, shape: History, gate: Sequence[Any], of: Sequence[Any], **named: Any) -> Plan:
        """Return a page of versions, newest first.

        They are seq, type, id, op, version, updated, body, owner. Of one resource in the order of
        its versions; of more in that in which they were written. `gate` and `of` are the values of
        those shapes; `named`: limit, and key, type, since and first, at and until, place where the
        shape asks for them.
        """
        return self.plan("history", _history, (shape,), [*gate, *gate, *of], **named)

    def first_since(self, since: int) -> Plan:
        """Return the lowest seq of what was written since a moment, NULL if nothing was."""
        return self.plan("first since", _first_since, (), (), since=since)

    def versions_counted(
        self, shape: History, gate: Sequence[Any], of: Sequence[Any], **named: Any
    ) -> Plan:
        """Return how many versions all pages of a history have together."""
        return self.plan("versions counted", _counted, (shape,), [*gate, *gate, *of], **named)

    def look(self, gate: Shape, values: Sequence[Any], keys: list[int], type: int) -> Plan:
        """Return which of `keys` are visible resources of a type."""
        return self.plan("look", _look, (gate,), values, keys=keys, type=type)

    def page(
        self, order: tuple[Key, ...], arms: tuple[Arm, ...], continued: bool, values: Sequence[Any],
        **named: Any,
    ) -> Plan:  # fmt: skip
        """Return the rows of a page, in no order: key, type, id, body, owner, version, and sorting.

        With an `order`, then the transaction that wrote the version, the horizon of the statement,
        and the sort values. To put the few rows in order is left to the caller: an engine would
        sort them with their bodies. `named`: limit, and `after` a cursor its key and a0, a1 ...
        """
        return self.plan("page", _page, (order, arms, continued), values, **named)

    def known(self, gate: Shape, values: Sequence[Any], type: int, id: str) -> Plan:
        """Return the key of a resource that is live and visible, or no row."""
        return self.plan("known", _known, (gate,), values, type=type, id=id)

    def labelled(self, table: str, gate: Shape, values: Sequence[Any], **named: Any) -> Plan:
        """Return, for each label of `params`, a resource that has it: key, type, body.

        `table` has the rows of these parameters; `named`: params, limit.
        """
        return self.plan("labelled", _labelled, (table, gate), values, **named)

    def count(self, arm: Arm, values: Sequence[Any], limit: int) -> Plan:
        """Return how many resources fit, counting no further than `limit` (0: to the end)."""
        return self.plan("count", _count, (arm, limit), values)

    def probe(self, driver: Shape, values: Sequence[Any], limit: int) -> Plan:
        """Return the keys in the index rows of a driver, gathered, from `limit` rows at most."""
        return self.plan("probe", _probe, (driver,), values, limit=limit)

    def fitting(self, driver: Shape, rest: Shape, gate: Shape, values: Sequence[Any]) -> Plan:
        """Return the keys, gathered, of what a driver finds that fulfils the rest and the gate."""
        return self.plan("fitting", _fitting, (driver, rest, gate), values)

    def included(
        self, table: str, gate: Shape, values: Sequence[Any], *, reverse: bool, **named: Any
    ) -> Plan:
        """Return what `keys` refer to, or (`reverse`) what refers to them.

        As key, type, id, body, owner, version.
        `named`: keys, params, types, limit; for a `table` of URLs also `urls` and `versions`, the
        parameters that name a resource.
        """
        return self.plan("included", _included, (table, reverse, gate), values, **named)

    def referrers(self, **named: Any) -> Plan:
        """Return who refers to a resource, visible or not, by type and id: key, type, id, body.

        `named`: type, id, params, after_type, after_id, limit.
        """
        return self.plan("referrers", _referrers, (), (), **named)

    def bodies(self) -> Plan:
        """Return key, type, id, body of resources by their keys; the caller has found them."""
        return self.plan("bodies", _bodies, (), ())

    def versions(self) -> Plan:
        """Return the latest versions of a resource, newest first: xid, updated, op, body."""
        return self.plan("versions", _versions, (), ())

    def members(self, **named: Any) -> Plan:
        """Return the members of some resources' compartments: key, and key of the member.

        `named`: keys, and the type of the members.
        """
        return self.plan("members", _members, (), (), **named)

    def types(self) -> Plan:
        """Return the numbers of the types of which there are live resources."""
        return self.plan("types", _types, (), ())


def _named(name: str, kind: Any) -> Any:
    return sa.bindparam(name, type_=kind)


def _current(r: Any, v: Any) -> Clause:
    return sa.and_(v.c.key == r.c.key, v.c.version == r.c.version)


def _read(gate: Shape, bind: Binder) -> sa.Select[Any]:
    r, v = db.resource.alias("r"), db.resource_version.alias("v")
    return (
        sa.select(r.c.key, r.c.state, r.c.version, r.c.updated, v.c.body, r.c.owner)
        .select_from(r.join(v, _current(r, v)))
        .where(r.c.type == _named("type", db.Small), r.c.id == _named("id", db.Text))
        .where(visible(r, gate, bind, deleted=True))
    )


def _known(gate: Shape, bind: Binder) -> sa.Select[Any]:
    r = db.resource.alias("r")
    mine = sa.and_(r.c.type == _named("type", db.Small), r.c.id == _named("id", db.Text))
    return sa.select(r.c.key).where(mine, visible(r, gate, bind))


def _labelled(table: str, gate: Shape, bind: Binder) -> sa.Select[Any]:
    t = TABLES[table][0].alias("t")
    r, v = db.resource.alias("r"), db.resource_version.alias("v")
    label = (t.c.code, t.c.system) if table == "token" else (t.c.uri, t.c.version)
    one: Any = (
        sa.select(sa.func.max(t.c.key).label("key"))
        .select_from(t.join(r, r.c.key == t.c.key))
        .where(db.among(t.c.param, "params"), visible(r, gate, bind))
        .group_by(*label)
        .limit(_named("limit", db.Int))
        .subquery("k")
    )
    joined = one.join(r, r.c.key == one.c.key).join(v, _current(r, v))
    return sa.select(r.c.key, r.c.type, v.c.body).select_from(joined)


def _vread(gate: Shape, bind: Binder) -> sa.Select[Any]:
    r, v = db.resource.alias("r"), db.resource_version.alias("v")
    return (
        sa.select(v.c.op, v.c.version, v.c.updated, v.c.body, v.c.owner)
        .select_from(r.join(v, v.c.key == r.c.key))
        .where(r.c.type == _named("type", db.Small), r.c.id == _named("id", db.Text))
        .where(v.c.version == _named("version", db.Int))
        .where(visible_version(r, v, gate, bind))
    )


def _history(shape: History, bind: Binder) -> sa.Select[Any]:
    r, v = db.resource.alias("r"), db.resource_version.alias("v")
    columns = (v.c.seq, v.c.type, r.c.id, v.c.op, v.c.version, v.c.updated, v.c.body, v.c.owner)
    order = v.c.version if shape.level == "instance" else v.c.seq
    rows: sa.Select[Any] = sa.select(*columns).select_from(v.join(r, r.c.key == v.c.key))
    rows = _versions_of(shape, rows, r, v, bind)
    if shape.after:
        rows = rows.where(order < _named("place", db.Key))
    return rows.order_by(order.desc()).limit(_named("limit", db.Int))


def _first_since(bind: Binder) -> sa.Select[Any]:  # noqa: ARG001
    v = db.resource_version
    # the sum keeps planners from the index on seq, whose beginning is as far away as can be
    return sa.select(sa.func.min(v.c.seq + NONE)).where(v.c.updated >= _named("since", db.Key))


def _counted(shape: History, bind: Binder) -> sa.Select[Any]:
    r, v = db.resource.alias("r"), db.resource_version.alias("v")
    rows = sa.select(sa.func.count()).select_from(v.join(r, r.c.key == v.c.key))
    return _versions_of(shape, rows, r, v, bind)


def _versions_of(
    shape: History, rows: sa.Select[Any], r: Any, v: Any, bind: Binder
) -> sa.Select[Any]:
    """Return `rows` with what makes a version one of this history."""
    if shape.level == "instance":
        rows = rows.where(v.c.key == _named("key", db.Key))
    elif shape.level == "type":
        rows = rows.where(v.c.type == _named("type", db.Small))
    if shape.since:
        rows = rows.where(v.c.updated >= _named("since", db.Key))
        if shape.level != "instance":  # where the walk ends: it would pass all that is older
            rows = rows.where(v.c.seq >= _named("first", db.Key))
    if shape.at:
        n = db.resource_version.alias("n")
        following = sa.select(n.c.updated).where(n.c.key == v.c.key, n.c.version > v.c.version)
        ended = following.order_by(n.c.version).limit(ONE).scalar_subquery()
        rows = rows.where(v.c.updated < _named("until", db.Key))
        rows = rows.where(sa.func.coalesce(ended, sa.literal_column(NEVER)) > _named("at", db.Key))
    rows = rows.where(visible_version(r, v, shape.gate, bind))
    return rows if shape.of == ("all",) else rows.where(condition(shape.of, r, bind))


def _look(gate: Shape, bind: Binder) -> sa.Select[Any]:
    r = db.resource.alias("r")
    mine = sa.and_(db.among(r.c.key, "keys"), r.c.type == _named("type", db.Small))
    return sa.select(r.c.key).where(mine, visible(r, gate, bind))


def _probe(driver: Shape, bind: Binder) -> sa.Select[Any]:
    tables, fits, key = driven(driver, bind)
    rows = sa.select(key.label("key")).select_from(tables).where(fits)
    some = rows.limit(_named("limit", db.Int)).subquery("some")
    return sa.select(sa.func.count(), db.gathered(some.c.key, bind.dialect))


def _fitting(driver: Shape, rest: Shape, gate: Shape, bind: Binder) -> sa.Select[Any]:
    some = found(driver, rest, gate, bind).subquery("some")
    return sa.select(db.gathered(some.c.key, bind.dialect))


def _count(arm: Arm, limit: int, bind: Binder) -> sa.Select[Any]:
    rows = found(arm.driver, arm.rest, arm.gate, bind)
    if limit:
        rows = rows.limit(sa.literal_column(str(limit)))
    return sa.select(sa.func.count()).select_from(rows.subquery("found"))


# --- pages -------------------------------------------------------------------------------------


def _page(
    order: tuple[Key, ...], arms: tuple[Arm, ...], after: bool, bind: Binder
) -> sa.Select[Any]:
    limit = _named("limit", db.Int)
    walks = [walk for arm in arms for walk in _arm(arm, order, after, bind)]
    if len(walks) == 1:
        walk = walks[0].subquery("k")
    else:
        merged = sa.union(*[sa.select(one.subquery()) for one in walks]).subquery()
        walk = sa.select(merged).order_by(*_ordering(order, merged)).limit(limit).subquery("k")
    r, v = db.resource.alias("r"), db.resource_version.alias("v")
    columns: list[Any] = [r.c.key, r.c.type, r.c.id, v.c.body, r.c.owner, r.c.version]
    if order:
        columns += [v.c.xid, db.horizon(), *(walk.c[f"s{n}"] for n in range(len(order)))]
    joined = walk.join(r, r.c.key == walk.c.key).join(v, _current(r, v))
    return sa.select(*columns).select_from(joined)


def _arm(arm: Arm, order: tuple[Key, ...], after: bool, bind: Binder) -> list[sa.Select[Any]]:
    """Return the selects, of sort values and key, that make up one arm."""
    if arm.way == "walk":
        if order[0].kind == "date":
            return [_walk(arm, order, after, bind, long) for long in (0, 1)]
        return [_walk(arm, order, after, bind)]
    if order:
        return [_gather(arm, order, after, bind)]
    limit = _named("limit", db.Int)
    continued = _named("after", db.Key)
    r = db.resource.alias()
    if arm.driver[0] == "all":
        rows = sa.select(r.c.key).where(r.c.type == bind(db.Small), r.c.key < continued)
        rows = rows.where(condition(arm.rest, r, bind), visible(r, arm.gate, bind))
        return [rows.order_by(r.c.key.desc()).limit(limit)]
    tables, fits, key = driven(arm.driver, bind)
    keys = sa.select(key.label("key")).select_from(tables).where(fits, key < continued)
    if not unique(arm.driver):
        keys = keys.distinct()
    if arm.way == "keys":
        probe = probed(arm.driver, arm.rest, arm.gate, key, bind)
        return [keys.where(probe).order_by(key.desc()).limit(limit)]
    inner = keys.order_by(sa.desc("key")).offset(NONE).subquery()
    probe = probed(arm.driver, arm.rest, arm.gate, inner.c.key, bind)
    return [sa.select(inner.c.key).where(probe).order_by(inner.c.key.desc()).limit(limit)]


def _gather(arm: Arm, order: tuple[Key, ...], after: bool, bind: Binder) -> sa.Select[Any]:
    """Return the best of all that fit; in the phase `missing`, of those without a first value."""
    keys = found(arm.driver, arm.rest, arm.gate, bind).subquery()
    own = any(key.kind in ("id", "updated") for key in order)
    r: Any = db.resource.alias() if own else keys
    values = []
    without: list[Clause] = []
    for n, key in enumerate(order):
        if n == 0 and arm.way == "missing":
            table, _ = TABLES[key.kind]
            t = table.alias()
            rows = sa.select(ONE).select_from(t)
            rows = rows.where(t.c.key == r.c.key, t.c.param == bind(db.Int))
            without.append(sa.not_(fence(rows)))
            values.append(_constant(missing(key), key))
        else:
            values.append(_value(key, r, bind))
    labelled = [value.label(f"s{n}") for n, value in enumerate(values)]
    inner = (
        sa.select(*labelled, keys.c.key.label("key"))
        .select_from(keys.join(r, r.c.key == keys.c.key) if own else keys)
        .where(*without)
        .offset(NONE)  # a fence: the values are worked out once
        .subquery()
    )
    rows = sa.select(inner)
    if after:
        rows = rows.where(_beyond(order, inner))
    return rows.order_by(*_ordering(order, inner)).limit(_named("limit", db.Int))


def _value(key: Key, r: Any, bind: Binder) -> Any:
    """Return the sort value of a resource: of several, the one that comes first in the order."""
    if key.kind == "id":
        return r.c.id
    if key.kind == "updated":
        return r.c.updated
    best = sa.func.max if key.descending else sa.func.min
    table, column = TABLES[key.kind]
    t = table.alias()
    if key.kind == "reference":
        return _target_value(key, r, bind)
    mine = sa.and_(t.c.key == r.c.key, t.c.param == bind(db.Int))
    value: Any = sa.select(best(t.c[column])).where(mine)
    if key.kind == "quantity":
        # in base units where there are such rows: milligrams compare with grams
        canonical = value.where(t.c.unit == bind(db.Int)).scalar_subquery()
        t2 = table.alias()
        raw = sa.select(best(t2.c[column])).where(t2.c.key == r.c.key, t2.c.param == bind(db.Int))
        return sa.func.coalesce(canonical, raw.scalar_subquery(), _constant(missing(key), key))
    return sa.func.coalesce(value.scalar_subquery(), _constant(missing(key), key))


def _target_value(key: Key, r: Any, bind: Binder) -> Any:
    """Return what a reference is sorted by: the type and id of its target, or its URL."""
    best = sa.func.max if key.descending else sa.func.min
    f, target, u = db.index_reference.alias(), db.resource.alias(), db.index_uri.alias()
    # types are numbered in alphabetical order; a target elsewhere, type 0, has its URL as id
    number = sa.case((target.c.type == NONE, sa.literal_column("2000")), else_=target.c.type + 1000)
    text = sa.cast(number, sa.Text()) + sa.literal_column("'/'") + target.c.id
    by_key = sa.select(best(text)).select_from(f.join(target, target.c.key == f.c.target))
    by_key = by_key.where(f.c.key == r.c.key, f.c.param == bind(db.Int))
    by_url: Any = sa.select(best(sa.literal_column("'2000/'") + u.c.uri))
    by_url = by_url.where(u.c.key == r.c.key, u.c.param == bind(db.Int))
    return sa.func.coalesce(
        by_key.scalar_subquery(), by_url.scalar_subquery(), _constant(missing(key), key)
    )


def _constant(value: Any, key: Key) -> Any:
    kind = db.Text if key.kind in TEXT_KINDS else db.Float
    return sa.literal(value, kind if not isinstance(value, int) else db.Key)


def _ordering(order: tuple[Key, ...], rows: Any) -> list[Any]:
    keys = [rows.c[f"s{n}"].desc() if k.descending else rows.c[f"s{n}"].asc()
            for n, k in enumerate(order)]  # fmt: skip
    return [*keys, rows.c.key.desc()]


def _beyond(order: tuple[Key, ...], rows: Any) -> Clause:
    """Return whether a row comes after the cursor: later in the first key that differs."""

    def later(inner: Clause, n: int) -> Clause:
        column, key = rows.c[f"s{n}"], order[n]
        value = _named(f"a{n}", _kind(key))
        further = column < value if key.descending else column > value
        return sa.or_(further, sa.and_(column == value, inner))

    tail: Clause = rows.c.key < _named("after", db.Key)
    return reduce(later, range(len(order) - 1, -1, -1), tail)


def _kind(key: Key) -> Any:
    if key.kind in TEXT_KINDS:
        return db.Text
    return db.Float if key.kind in ("number", "quantity") else db.Key


class _Row:
    """The sort columns of a walk under the names that `_beyond` knows."""

    def __init__(self, columns: dict[str, Any]) -> None:
        self.c = _Named(columns)


class _Named:
    def __init__(self, columns: dict[str, Any]) -> None:
        self.columns = columns

    def __getitem__(self, name: str) -> Any:
        return self.columns[name]

    def __getattr__(self, name: str) -> Any:
        return self.columns[name]


def _walk(
    arm: Arm, order: tuple[Key, ...], after: bool, bind: Binder, long: int | None = None
) -> sa.Select[Any]:
    """Return the beginning of the range of the first sort key's index."""
    first = order[0]
    r = db.resource.alias()
    if first.kind in ("id", "updated"):
        t, value = r, r.c[first.kind]
        here: list[Clause] = [r.c.type == bind(db.Small), condition(arm.rest, r, bind),
                              visible(r, arm.gate, bind)]  # fmt: skip
    else:
        table, column = TABLES[first.kind]
        t = table.alias()
        value = t.c[column]
        here = [t.c.param == bind(db.Int)]
        if long is not None:
            here.append(t.c.long == sa.literal_column(str(long)))
        for names in arm.bounds:
            prefixes = [name.partition(":")[2] for name in names]
            here.append(any_of([bound(prefix, t, bind, long or 0) for prefix in prefixes]))
        if not arm.single:
            here.append(_first_of_key(first, table, t, value, bind))
        # the rows of the walk are of one type, as those of any match are
        walked: Shape = ("match", table.name)
        here.append(probed(walked, arm.rest, arm.gate, t.c.key, bind))
    columns = {"s0": value, "key": t.c.key}
    others = []
    if len(order) > 1:
        o = db.resource.alias()
        for n, key in enumerate(order[1:], 1):
            columns[f"s{n}"] = _other(key, t.c.key, o, bind)
            others.append(columns[f"s{n}"].label(f"s{n}"))
    if after:
        edge = _named("a0", _kind(first))
        here.append(value <= edge if first.descending else value >= edge)
        here.append(_beyond(order, _Row(columns)))
    rows = sa.select(value.label("s0"), *others, t.c.key.label("key")).select_from(t)
    if not arm.single and first.kind not in ("id", "updated"):
        rows = rows.distinct()
    ordering = [columns[f"s{n}"].desc() if k.descending else columns[f"s{n}"].asc()
                for n, k in enumerate(order)]  # fmt: skip
    return rows.where(*here).order_by(*ordering, t.c.key.desc()).limit(_named("limit", db.Int))


def _other(key: Key, resource: Any, o: Any, bind: Binder) -> Any:
    """Return a later sort value of the resource that a walk stands at."""
    inner = sa.select(_value(key, o, bind)).where(o.c.key == resource)
    return inner.scalar_subquery()


def _first_of_key(first: Key, table: sa.Table, t: Any, value: Any, bind: Binder) -> Clause:
    """Return whether a row is the one of its resource that comes first in the order."""
    o = table.alias()
    other = o.c[TABLES[first.kind][1]]
    better = other > value if first.descending else other < value
    rows = sa.select(ONE).select_from(o)
    return sa.not_(fence(rows.where(o.c.key == t.c.key, o.c.param == bind(db.Int), better)))


# --- what comes along --------------------------------------------------------------------------


def _included(table: str, reverse: bool, gate: Shape, bind: Binder) -> sa.Select[Any]:
    r, v = db.resource.alias("r"), db.resource_version.alias("v")
    if table == "reference":
        f = db.index_reference.alias("f")
        from_key, to_key = (f.c.target, f.c.key) if reverse else (f.c.key, f.c.target)
        links: Any = f
        where: list[Clause] = [db.among(f.c.param, "params")]
    else:
        u, n = db.index_uri.alias("u"), db.index_uri.alias("n")
        from_key, to_key = (n.c.key, u.c.key) if reverse else (u.c.key, n.c.key)
        links = u.join(n, n.c.uri == u.c.uri)
        version = of_version(u, n.c.key, lambda column: db.among(column, "versions"))
        where = [db.among(u.c.param, "params"), db.among(n.c.param, "urls"), version]
    keys = sa.select(to_key.label("key")).distinct().select_from(links)
    keys = keys.where(db.among(from_key, "keys"), *where)
    wanted = keys.subquery("i")
    return (
        sa.select(r.c.key, r.c.type, r.c.id, v.c.body, r.c.owner, r.c.version)
        .select_from(wanted.join(r, r.c.key == wanted.c.key).join(v, _current(r, v)))
        .where(db.among(r.c.type, "types"), visible(r, gate, bind))
        .limit(_named("limit", db.Int))
    )


def _referrers(bind: Binder) -> sa.Select[Any]:
    r, v, t, f = (
        table.alias(name)
        for table, name in (
            (db.resource, "r"),
            (db.resource_version, "v"),
            (db.resource, "t"),
            (db.index_reference, "f"),
        )
    )
    target = sa.select(t.c.key).where(
        t.c.type == _named("type", db.Small), t.c.id == _named("id", db.Text)
    )
    found = sa.select(f.c.key).distinct()
    found = found.where(db.among(f.c.param, "params"), f.c.target == target.scalar_subquery())
    wanted = found.subquery("i")
    place = sa.tuple_(r.c.type, r.c.id)
    after = sa.tuple_(_named("after_type", db.Small), _named("after_id", db.Text))
    return (
        sa.select(r.c.key, r.c.type, r.c.id, v.c.body)
        .select_from(wanted.join(r, r.c.key == wanted.c.key).join(v, _current(r, v)))
        .where(visible(r, ("all",), bind), place > after)
        .order_by(r.c.type, r.c.id)
        .limit(_named("limit", db.Int))
    )


def _bodies(bind: Binder) -> sa.Select[Any]:
    del bind
    r, v = db.resource.alias("r"), db.resource_version.alias("v")
    rows = sa.select(r.c.key, r.c.type, r.c.id, v.c.body).select_from(r.join(v, _current(r, v)))
    return rows.where(db.among(r.c.key, "keys"))


def _versions(bind: Binder) -> sa.Select[Any]:
    del bind
    v = db.resource_version.alias("v")
    rows = sa.select(v.c.xid, v.c.updated, v.c.op, v.c.body).where(v.c.key == _named("key", db.Key))
    return rows.order_by(v.c.version.desc()).limit(_named("limit", db.Int))


def _members(bind: Binder) -> sa.Select[Any]:
    del bind
    c, r = db.compartment.alias("c"), db.resource.alias("r")
    rows = sa.select(c.c.key, c.c.comp).select_from(c.join(r, r.c.key == c.c.comp))
    return rows.where(db.among(c.c.key, "keys"), r.c.type == _named("type", db.Small))


def _types(bind: Binder) -> sa.Select[Any]:
    """Skip from type to type along the index of live resources."""
    del bind
    live = db.resource.c.state == sa.literal_column(str(LIVE))
    first = sa.select(sa.func.min(db.resource.c.type).label("type")).where(live)
    known = first.cte(recursive=True)
    following = db.resource.alias()
    still = following.c.state == sa.literal_column(str(LIVE))
    least = sa.select(sa.func.min(following.c.type)).where(still, following.c.type > known.c.type)
    step = sa.select(least.correlate(known).scalar_subquery()).where(known.c.type.is_not(None))
    every = known.union_all(step)
    return sa.select(every.c.type).where(every.c.type.is_not(None))
