"""Conditions on a resource row, and THE gate that every mention of a resource passes.

Rule: `visible()` is the only way to name a resource. Values never enter the text.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa

from app import db
from app.fhir.sql.lowering import Shape
from app.fhir.sql.operations import (
    NONE,
    ONE,
    Clause,
    Operation,
    all_of,
    any_of,
    fence,
    key_of,
    operation,
)

LIVE, DELETED = 1, 2


class Binder:
    """Hands out parameters p0, p1, ... in the order in which a shape asks for them."""

    def __init__(self, dialect: db.Dialect) -> None:
        self.dialect = dialect
        self.names: list[str] = []

    def __call__(self, kind: Any, *, many: bool = False) -> Any:
        """Return the next parameter, or its name where a list is wanted."""
        name = f"p{len(self.names)}"
        self.names.append(name)
        return name if many else sa.bindparam(name, type_=kind)


class Past(NamedTuple):
    """A version that is asked about in the place of its resource: its owner, whether it is current.

    Of an older version no index row is left. So what is not its owner's cannot be known of it; and
    what is not known is what hides it, which under a Not (`denied`) is that it fits.
    """

    owner: Any
    current: Clause
    denied: bool = False


def condition(shape: Shape, r: Any, bind: Binder, past: Past | None = None) -> Clause:
    """Return whether the resource row `r` satisfies a shape; of a `past` version, whether that did.

    A past version is judged by what is kept of it (`Past`).
    """
    match shape[0]:
        case "all":
            return sa.true()
        case "nothing":
            return sa.false()
        case "not":
            other = past and past._replace(denied=not past.denied)
            return sa.not_(condition(shape[1], r, bind, other))
        case "and":
            return all_of([condition(part, r, bind, past) for part in shape[1:]])
        case "or":
            return any_of([condition(part, r, bind, past) for part in shape[1:]])
        case "types":
            return _by_type(shape, r, bind, lambda part: condition(part, r, bind, past))
        case "owned":
            return _owned(past.owner if past else r.c.owner, bind)
        case "member":
            c = db.compartment.alias()
            own = _owned(past.owner if past else r.c.owner, bind)
            shared = fence(sa.select(c.c.key).where(c.c.key == r.c.key, c.c.comp == key_of(bind)))
            if past is None:
                return sa.or_(own, shared)
            several = sa.and_(sa.not_(past.current), past.owner == NONE) if past.denied else None
            now = sa.and_(past.current, shared)
            return sa.or_(own, now) if several is None else sa.or_(own, now, several)
    now = _indexed(shape, r, bind)
    if past is None:
        return now
    return sa.or_(sa.not_(past.current), now) if past.denied else sa.and_(past.current, now)


def _owned(owner: Any, bind: Binder) -> Clause:
    """Return whether an owner is the resource that is asked for."""
    # nobody has the key -1: what is not there owns nothing, also under a Not
    fits: Clause = owner == sa.func.coalesce(key_of(bind), sa.literal_column("-1"))
    return fits


def _indexed(shape: Shape, r: Any, bind: Binder) -> Clause:
    """Return whether the resource row `r` satisfies a shape that is about its index rows."""
    match shape[0]:
        case "present":
            has: Clause = r.c.present.op("&")(bind(db.Key)) != NONE
            return has
        case "indexed":
            tables = [db.metadata.tables[name].alias() for name in shape[1:]]
            mine = [sa.and_(t.c.key == r.c.key, t.c.param == bind(db.Int)) for t in tables]
            return any_of([fence(sa.select(ONE).where(one)) for one in mine])
        case "chain" | "has":
            return fence(linked(shape, r.c.key, bind))
        case "of few":
            return of_few(shape, r.c.key, bind)
        case "listed":
            return db.among(r.c.key, bind(db.Key, many=True))
        case "placed":
            f = db.index_reference.alias()
            rows = sa.select(f.c.key).where(f.c.key == r.c.key, f.c.param == bind(db.Int))
            return fence(rows.where(f.c.target.in_(_closure(shape, bind))))
        case "attached":
            return _attached(shape[1], r.c.key, bind)
        case _:
            return matches(shape, r, bind)


def _attached(gate: Shape, key: Any, bind: Binder) -> Clause:
    """Return whether what the gate shows points at a Binary, or is what that names as context."""
    ways = []
    for back in (False, True):
        f, s = db.index_reference.alias(), db.resource.alias()
        near, far = (f.c.key, f.c.target) if back else (f.c.target, f.c.key)
        rows = sa.select(f.c.key).select_from(f.join(s, s.c.key == far))
        rows = rows.where(f.c.param == bind(db.Int), near == key, visible(s, gate, bind))
        ways.append(fence(rows))
    return any_of(ways)


def linked(shape: Shape, key: Any, bind: Binder) -> sa.Select[Any]:
    """Return the visible resources that fulfil a chain from, or a `_has` of, the resource `key`.

    Shape: ("chain" | "has", table, part, gate).
    """
    part, gate = shape[2:]
    tables, conditions, near, far = _hop(shape, bind)
    conditions = [near == key, *conditions]
    while speaks_for_itself(shape):
        bind(db.Small)
        if part[0] not in ("chain", "has") or not speaks_for_itself(part):
            rows = sa.select(far).select_from(tables)
            return rows.where(*conditions, condition(part, Keyed(far), bind))
        # the next link joins this one: SQLite's parser has no room for many EXISTS in each other
        shape, (further, more, near, beyond) = part, _hop(part, bind)
        tables, conditions = tables.join(further, near == far), [*conditions, *more]
        far, part = beyond, shape[2]
    r = db.resource.alias()
    rows = sa.select(far).select_from(tables.join(r, r.c.key == far)).where(*conditions)
    rows = rows.where(r.c.type == bind(db.Small))
    return rows.where(condition(part, r, bind), visible(r, gate, bind))


def _hop(shape: Shape, bind: Binder) -> tuple[Any, list[Clause], Any, Any]:
    """Return one link of a chain: the tables, their conditions, where it begins and ends."""
    joined, (one, other, *conditions) = _link(shape[1], bind)
    return (joined, conditions, one, other) if shape[0] == "chain" else (
        joined, conditions, other, one
    )  # fmt: skip


def speaks_for_itself(shape: Shape) -> bool:
    """Return whether the rows at the end of a link need not be looked up.

    Whoever refers, or has a URL, has index rows: it is live and of its parameter's type.
    """
    kind, table, part, gate = shape
    known = kind == "has" or table == "uri" or implies(part)
    return gate == ("all",) and known and by_key(part)


def of_few(shape: Shape, key: Any, bind: Binder) -> Clause:
    """Return whether the resource `key` is linked with one of a few, which are found once.

    Shape: ("of few", "chain" | "has", table, driver, rest, gate), as of "through".
    """
    _, kind, table, driver, rest, gate = shape
    joined, link = _link(table, bind, from_key=kind == "has")
    near, far = (link[0], link[1]) if kind == "chain" else (link[1], link[0])
    if kind == "chain":
        links = sa.select(near).select_from(joined).where(near == key, *link[2:])
        return fence(links.where(_one_of(far, driver, rest, gate, bind)))
    inner = found(driver, rest, gate, bind).offset(NONE)
    few = inner.subquery()
    joined = few.join(joined, far == few.c.key)
    keys = sa.select(near).select_from(joined).where(*link[2:])
    among: Clause = key.in_(keys.offset(NONE)).is_(sa.true())  # so that it is not made a join
    return among


def _one_of(key: Any, driver: Shape, rest: Shape, gate: Shape, bind: Binder) -> Clause:
    """Return whether a key is one of those that are found; a list that is all needs no finding."""
    if (driver, rest, gate) == (("listed", True), ("all",), ("all",)):
        fits = db.among(key, bind(db.Key, many=True))
        bind(db.Small)
        return fits
    among: Clause = key.in_(found(driver, rest, gate, bind).offset(NONE))
    return among


class Keyed:
    """A resource of which only the key is at hand, in the place of its row."""

    def __init__(self, key: Any) -> None:
        self.c = _Key(key)


@dataclass(frozen=True, slots=True)
class _Key:
    key: Any
    owner: Any = None


# What needs more of a resource than its key
OF_THE_ROW = frozenset({"member", "owned", "present", "types"})


def by_key(shape: Shape) -> bool:
    """Return whether a shape can be told from the key of a resource alone."""
    if shape[0] in OF_THE_ROW or (shape[0] in ("match", "same") and not shape[1]):
        return False
    if shape[0] in ("and", "or", "not"):
        return all(by_key(part) for part in shape[1:])
    return True


def implies(shape: Shape) -> bool:
    """Return whether what fulfils a shape is live and of the type that it is about.

    Index rows are of live resources alone, and a parameter's number is one type's.
    """
    if shape[0] == "and":
        return any(implies(part) for part in shape[1:])
    if shape[0] == "or":
        return len(shape) > 1 and all(implies(part) for part in shape[1:])
    chained = shape[0] == "chain" or shape[:2] == ("of few", "chain")
    return (
        chained
        or shape[0] in ("placed", "indexed")
        or shape == ("listed", True)
        or (shape[0] in ("match", "same") and bool(shape[1]))
    )


def _link(table: str, bind: Binder, *, from_key: bool = False) -> tuple[Any, list[Any]]:
    """Return the tables that link two resources, and: the one's key, the other's, conditions.

    With `from_key` the references of a few resources are looked for, by their keys.
    """
    if table == "reference":
        f = db.index_reference.alias()
        param = db.unindexed(f.c.param) if from_key else f.c.param
        return f, [f.c.key, f.c.target, param == bind(db.Int)]
    u, named = db.index_uri.alias(), db.index_uri.alias()
    params = sa.and_(u.c.param == bind(db.Int), named.c.param == bind(db.Int))
    version = of_version(u, named.c.key, lambda column: column == bind(db.Int))
    return u.join(named, named.c.uri == u.c.uri), [u.c.key, named.c.key, params, version]


def of_version(u: Any, key: Any, is_version: Callable[[Any], Clause]) -> Clause:
    """Return whether a canonical means the resource `key` of its URL (references.html#canonical).

    Without a version it means any; `is_version` says of a parameter that it is that of versions.
    """
    v = db.index_token.alias()
    same = sa.and_(v.c.key == key, is_version(v.c.param), v.c.code == sa.func.lower(u.c.version))
    return sa.or_(u.c.version == sa.literal_column("''"), fence(sa.select(ONE).where(same)))


def _closure(shape: Shape, bind: Binder) -> Any:
    """Return the keys of a resource and of all below or above it, as far as they are visible."""
    _, direction, gate = shape
    r = db.resource.alias()
    mine = sa.and_(r.c.type == bind(db.Small), r.c.id == bind(db.Text))
    start = sa.select(r.c.key, r.c.type).where(mine)
    known = start.where(visible(r, gate, bind)).cte(recursive=True)
    f, n = db.index_reference.alias(), db.resource.alias()
    here, there = (f.c.target, f.c.key) if direction == "below" else (f.c.key, f.c.target)
    # a hierarchy is one of resources of one type, as the gate is
    alike = sa.and_(n.c.key == there, n.c.type == known.c.type)
    step = sa.select(n.c.key, n.c.type).select_from(
        known.join(f, here == known.c.key).join(n, alike)
    )
    step = step.where(f.c.param == bind(db.Int), visible(n, gate, bind))
    return sa.select(known.union(step).c.key)


def groups(shape: Shape) -> list[list[Operation]]:
    """Return the operations of a match; of matches of the same row those of each."""
    return [
        [operation(name) for name in names]
        for names in (shape[2:] if shape[0] == "same" else [shape[2:]])
    ]


def matches(shape: Shape, r: Any, bind: Binder) -> Clause:
    """Return whether `r` has an index row that fits one of the operations of each group."""
    every = groups(shape)
    table = every[0][0].table
    t = r if table is None else table.alias()
    param = t.c.param == bind(db.Int) if table is not None else sa.true()
    fits = all_of([any_of([one.fits(t, bind) for one in group]) for group in every])
    if table is None:
        return fits
    return fence(sa.select(t.c.key).where(t.c.key == r.c.key, param, fits))


def _by_type(shape: Shape, r: Any, bind: Binder, inner: Callable[[Shape], Clause]) -> Clause:
    """Return the condition of ("types", ...): each part after the list of its type numbers."""
    parts = [sa.and_(db.among(r.c.type, bind(db.Small, many=True)), inner(p)) for p in shape[1:]]
    return sa.or_(sa.false(), *parts)


INDEXED = frozenset(
    ("match", "same", "of few", "indexed", "chain", "has", "placed", "present", "attached")
)


def needs_index(shape: Shape) -> bool:
    """Return whether a policy's shape reads index rows, which deleted resources do not have."""
    return shape[0] in INDEXED or any(
        needs_index(part) for part in shape[1:] if isinstance(part, tuple)
    )


def visible(r: Any, gate: Shape, bind: Binder, *, deleted: bool = False) -> Clause:
    """Return whether the caller may know of the resource row `r`: THE gate.

    With `deleted`, also of a deleted one, unless the policy reads index rows (it has
    none left to read, so it is hidden).
    """
    if gate[0] == "types":
        return _by_type(gate, r, bind, lambda part: visible(r, part, bind, deleted=deleted))
    # written out, because a partial index is used only where its predicate stands in the text
    state: Clause = r.c.state == sa.literal_column(str(LIVE))
    if deleted and not needs_index(gate):
        state = sa.or_(state, r.c.state == sa.literal_column(str(DELETED)))
    return sa.and_(state, condition(gate, r, bind))


def visible_version(r: Any, v: Any, gate: Shape, bind: Binder) -> Clause:
    """Return whether the caller may know of one version: itself and its resource must pass."""
    now = visible(r, gate, bind, deleted=True)
    past = Past(v.c.owner, v.c.version == r.c.version)
    return sa.and_(now, condition(gate, r, bind, past))


# --- drivers -----------------------------------------------------------------------------------


def driven(shape: Shape, bind: Binder) -> tuple[Any, Clause, Any]:
    """Return what a driver walks: the tables, which rows of them, and the column of the key.

    Shapes: ("match" | "same", table, operations), ("member",), ("owned",), ("union", drivers),
    ("through", "chain" | "has", table, driver, rest, gate) for the links of what another finds, and
    ("listed", of_one_type) for keys that are at hand.
    """
    match shape[0]:
        case "match" | "same":
            return _rows(shape, bind)
        case "member":
            return _members(bind)
        case "owned":
            return _owned_keys(bind)
        case "listed":
            some = db.listed(bind(db.Key, many=True), bind.dialect)
            return some, sa.true(), some.c.key
        case "union":
            keys = sa.union(*[keys_of(part, bind) for part in shape[1:]]).subquery()
            return keys, sa.true(), keys.c.key
        case _:
            return _through(shape, bind)


def keys_of(shape: Shape, bind: Binder) -> sa.Select[Any]:
    """Return the keys that a driver finds, some perhaps more than once."""
    tables, fits, key = driven(shape, bind)
    return sa.select(key.label("key")).select_from(tables).where(fits)


def _rows(shape: Shape, bind: Binder) -> tuple[Any, Clause, Any]:
    every = groups(shape)
    first = every[0][0]
    if first.table is None:
        r = db.resource.alias()
        live = sa.and_(r.c.type == bind(db.Small), r.c.state == sa.literal_column(str(LIVE)))
        fits = [any_of([one.fits(r, bind) for one in group]) for group in every]
        return r, sa.and_(live, all_of(fits)), r.c.key
    if len(every) == len(every[0]) == 1 and first.beside and first.other is not None:
        t, o = first.table.alias(), first.other.alias()
        param = t.c.param == bind(db.Int)
        return o.join(t, sa.true()), sa.and_(param, first.beside(t, o, bind)), t.c.key
    walks = []
    for n in range(ranges(shape)):
        t = first.table.alias()
        param = t.c.param == bind(db.Int)
        fits = [any_of([(one.ranges[n] if one.ranges else one.fits)(t, bind) for one in group])
                for group in every]  # fmt: skip
        walks.append((t, sa.and_(param, all_of(fits)), t.c.key))
    if len(walks) == 1:
        return walks[0]
    keys = sa.union_all(
        *[sa.select(key.label("key")).select_from(t).where(fits) for t, fits, key in walks]
    ).subquery()
    return keys, sa.true(), keys.c.key


def ranges(shape: Shape) -> int:
    """Return how many ranges of its index a driver walks; each asks for all of its values."""
    if shape[0] not in ("match", "same"):
        return 1
    return max(len(one.ranges) or 1 for group in groups(shape) for one in group)


def _members(bind: Binder) -> tuple[Any, Clause, Any]:
    """Return the members of a compartment: those it owns, and those it shares."""
    r, c = db.resource.alias(), db.compartment.alias()
    number = bind(db.Small)
    own = sa.select(r.c.key.label("key")).where(
        r.c.owner == key_of(bind), r.c.type == number, r.c.state == sa.literal_column(str(LIVE))
    )
    shared = sa.select(c.c.key.label("key")).where(c.c.comp == key_of(bind), c.c.type == number)
    keys = sa.union_all(own, shared).subquery()
    return keys, sa.true(), keys.c.key


def _owned_keys(bind: Binder) -> tuple[Any, Clause, Any]:
    """Return what a Patient owns, fenced: a planner would walk all of the type in key order."""
    r = db.resource.alias()
    mine = sa.and_(r.c.type == bind(db.Small), r.c.state == sa.literal_column(str(LIVE)))
    keys = sa.select(r.c.key).where(mine, _owned(r.c.owner, bind)).offset(NONE).subquery()
    return keys, sa.true(), keys.c.key


def _through(shape: Shape, bind: Binder) -> tuple[Any, Clause, Any]:
    _, kind, table, driver, rest, gate = shape
    joined, link = _link(table, bind, from_key=kind == "has")
    near, far = (link[0], link[1]) if kind == "chain" else (link[1], link[0])
    # fenced twice, or a planner would walk all links instead of those of the few
    inner = found(driver, rest, gate, bind).offset(NONE).subquery()
    links = sa.select(near.label("key")).select_from(inner.join(joined, far == inner.c.key))
    keys = links.where(*link[2:]).offset(NONE).subquery()
    return keys, sa.true(), keys.c.key


def found(driver: Shape, rest: Shape, gate: Shape, bind: Binder) -> sa.Select[Any]:
    """Return the distinct keys of visible resources of a type that fulfil driver and rest."""
    if driver[0] == "all":
        r = db.resource.alias()
        every = sa.select(r.c.key.label("key")).where(r.c.type == bind(db.Small))
        return every.where(condition(rest, r, bind), visible(r, gate, bind))
    tables, fits, key = driven(driver, bind)
    keys = sa.select(key.label("key")).select_from(tables).where(fits)
    if not unique(driver):
        keys = keys.distinct()
    return keys.where(probed(driver, rest, gate, key, bind))


def probed(driver: Shape, rest: Shape, gate: Shape, key: Any, bind: Binder) -> Clause:
    """Return whether a driven key is a visible resource of the type that fulfils the rest."""
    if gate == ("all",) and by_key(rest) and (of_one_type(driver) or implies(rest)):
        bind(db.Small)
        return condition(rest, Keyed(key), bind)
    r = db.resource.alias()
    probe = sa.select(ONE).select_from(r).where(r.c.key == key, r.c.type == bind(db.Small))
    return fence(probe.where(condition(rest, r, bind), visible(r, gate, bind)))


def unique(driver: Shape) -> bool:
    """Return whether a driver finds each key once."""
    if driver[0] in ("listed", "owned"):
        return True
    if driver[0] == "match" and len(driver) == 3:
        return operation(driver[2]).unique or not driver[1]
    return False


def of_one_type(driver: Shape) -> bool:
    """Return whether all that a driver finds is live and of the searched type."""
    if driver[0] == "union":
        return all(of_one_type(part) for part in driver[1:])
    if driver[0] == "through":
        return bool(driver[1] == "chain")  # whoever refers has index rows
    return driver[0] in ("match", "same", "member", "owned") or driver[1:] == (True,)
