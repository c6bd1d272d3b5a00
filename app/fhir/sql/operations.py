"""The whole meaning of search in SQL: one row for each way in which a term can fit an index row.

https://hl7.org/fhir/R4/search.html#ptypes

A row of `OPERATIONS` asks `bind` for its values in the order in which the lowering gives them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import sqlalchemy as sa

from app import db
from app.fhir.values import DAY

Clause = sa.ColumnElement[bool]
Bind = Callable[..., Any]
Fits = Callable[[Any, Bind], Clause]

MILLISECOND = 1000
SHORT: Any = sa.literal_column("0")
LONG: Any = sa.literal_column("1")
ONE: Any = sa.literal_column("1")
NONE: Any = sa.literal_column("0")


def fence(select: sa.Select[Any]) -> Clause:
    """Return an EXISTS that stays a probe: the planner may neither flatten nor reorder it."""
    return sa.exists(select.limit(ONE).offset(NONE))


def any_of(clauses: Sequence[Clause]) -> Clause:
    """Return whether one of the clauses holds, as a balanced tree: SQLite limits its depth."""
    return _balanced(clauses, sa.or_)


def all_of(clauses: Sequence[Clause]) -> Clause:
    """Return whether all of the clauses hold, as a balanced tree."""
    return _balanced(clauses, sa.and_)


def _balanced(clauses: Sequence[Clause], join: Callable[..., Clause]) -> Clause:
    if len(clauses) <= 8:
        return join(*clauses)
    half = len(clauses) // 2
    return join(*(db.grouped(_balanced(part, join)) for part in (clauses[:half], clauses[half:])))


@dataclass(frozen=True, slots=True)
class Operation:
    """One way in which a term fits an index row.

    `fits(table, bind)` is the condition. `ordered` says that the rows come in key order, `unique`
    that each is of another resource; `drives` that the condition is a range of the table's index,
    or that each of `ranges` is, which a driver walks one after the other. A probe must not have
    those, or a planner walks the range instead of looking the key up. A table of None is the
    resource itself. `beside` is a table whose rows list what the term stands for: its range drives.
    """

    table: sa.Table | None
    fits: Fits
    ordered: bool = False
    unique: bool = False
    drives: bool = True
    ranges: tuple[Fits, ...] = ()
    beside: Callable[[Any, Any, Bind], Clause] | None = None
    other: sa.Table | None = None


def key_of(bind: Bind) -> Any:
    """Return the key of the resource with a type and an id, as a scalar."""
    r = db.resource.alias()
    return (
        sa.select(r.c.key)
        .where(r.c.type == bind(db.Small), r.c.id == bind(db.Text))
        .scalar_subquery()
    )


def _keys_of(bind: Bind) -> Any:
    r = db.resource.alias()
    types = bind(db.Small, many=True)
    return sa.select(r.c.key).where(db.among(r.c.type, types), r.c.id == bind(db.Text))


# --- ordered values ----------------------------------------------------------------------------

# search.html#prefix: the row is [lo, hi), the term [a, b)
DATES: dict[str, Callable[[Any, Any, Any, Any], Clause]] = {
    "eq": lambda lo, hi, a, b: sa.and_(lo >= a, hi <= b),
    "ne": lambda lo, hi, a, b: sa.or_(lo < a, hi > b),
    "gt": lambda lo, hi, a, b: hi > b,
    "lt": lambda lo, hi, a, b: lo < a,
    "ge": lambda lo, hi, a, b: sa.or_(hi > b, sa.and_(lo >= a, hi <= b)),
    "le": lambda lo, hi, a, b: sa.or_(lo < a, sa.and_(lo >= a, hi <= b)),
    "sa": lambda lo, hi, a, b: lo >= b,
    "eb": lambda lo, hi, a, b: hi <= a,
    "ap": lambda lo, hi, a, b: sa.and_(lo < b, hi > a),
    "co": lambda lo, hi, a, b: sa.and_(lo <= a, hi >= b),  # search_filter.html#ops
}
# Here the row is the closed [lo, hi], mostly a point. `v` is the number as written, [a, b) what
# its precision implies: search.html#number uses that for eq and ne alone
NUMBERS: dict[str, Callable[[Any, Any, Any, Any, Any], Clause]] = {
    "eq": lambda lo, hi, v, a, b: sa.and_(lo >= a, hi < b),
    "ne": lambda lo, hi, v, a, b: sa.or_(lo < a, hi >= b),
    "gt": lambda lo, hi, v, a, b: hi > v,
    "lt": lambda lo, hi, v, a, b: lo < v,
    "ge": lambda lo, hi, v, a, b: hi >= v,
    "le": lambda lo, hi, v, a, b: lo <= v,
    "sa": lambda lo, hi, v, a, b: lo > v,
    "eb": lambda lo, hi, v, a, b: hi < v,
    "ap": lambda lo, hi, v, a, b: sa.and_(lo <= b, hi >= a),
}


def _date(prefix: str, t: Any, bind: Bind, kind: Any = db.Key) -> Clause:
    a, b = bind(kind), bind(kind)
    return DATES[prefix](t.c.lo, t.c.hi, a, b)


def _short_or_long(prefix: str, long: int, t: Any, bind: Bind) -> Clause:
    """Return the condition of a date on short or long rows, with bounds on their start written out.

    The index is (param, long, lo). A short row ends within a day of its start, so a bound on its
    end is one on its start; of the few long rows many are looked at.
    """
    return sa.and_(t.c.long == sa.literal_column(str(long)), bound(prefix, t, bind, long))


def bound(prefix: str, t: Any, bind: Bind, long: int) -> Clause:
    """Return the condition of a date on one row, short or long, with bounds on its start."""
    a, b = bind(db.Key), bind(db.Key)
    fits = DATES[prefix](t.c.lo, t.c.hi, a, b)
    if prefix == "eq":
        return sa.and_(t.c.lo >= a, t.c.lo < b, fits)
    if prefix in ("lt", "le", "eb"):
        return sa.and_(t.c.lo < b, fits)
    if prefix in ("gt", "ge", "ap") and not long:
        # a short row that ends after a moment begins at most a day before it
        start = (b if prefix == "gt" else a) - sa.literal(DAY, db.Key)
        return sa.and_(t.c.lo > start, fits)
    return fits


def _updated(prefix: str, r: Any, bind: Bind) -> Clause:
    """Return the condition on lastUpdated, a moment of one millisecond, as a range of its index."""
    a, b = bind(db.Key), bind(db.Key)
    at, last = r.c.updated, b - sa.literal(MILLISECOND, db.Key)
    before = a - sa.literal(MILLISECOND, db.Key)
    inside = sa.and_(at >= a, at <= last)
    table: dict[str, Callable[[], Clause]] = {
        "eq": lambda: inside,
        "ne": lambda: sa.or_(at < a, at > last),
        "gt": lambda: at > last,
        "lt": lambda: at < a,
        "ge": lambda: at >= a,
        "le": lambda: at <= last,
        "sa": lambda: at >= b,
        "eb": lambda: at <= before,
        "ap": lambda: sa.and_(at < b, at > before),
        "co": lambda: sa.and_(at <= a, at >= last),
    }
    return table[prefix]()


def _number(
    prefix: str, unit: str, t: Any, bind: Bind, table: Any = NUMBERS, part: int | None = None
) -> Clause:
    """Return the condition on a number in any unit, or in that of a code, a system or both.

    `canonical` rows say the same once more, in UCUM's base units, so a term that does not mean
    them by system and code must leave them out.
    """
    v, a, b = bind(db.Float), bind(db.Float), bind(db.Float)
    found = table[prefix](t.c.lo, t.c.hi, v, a, b)
    fits: Clause = found if part is None else found[part]
    if unit == "system code":
        return sa.and_(t.c.unit == bind(db.Int), t.c.code == bind(db.Text), fits)
    if unit == "system":
        return sa.and_(t.c.unit == bind(db.Int), fits)
    if unit == "code":
        return sa.and_(t.c.code == bind(db.Text), t.c.unit != bind(db.Int), fits)
    return sa.and_(t.c.unit != bind(db.Int), fits)


# Prefixes that a row fits by its end, which its index does not begin with
REACHING: dict[str, Callable[[Any, Any, Any, Any, Any], tuple[Clause, Clause]]] = {
    "gt": lambda lo, hi, v, a, b: (lo > v, sa.and_(lo <= v, hi > v)),
    "ge": lambda lo, hi, v, a, b: (lo >= v, sa.and_(lo < v, hi >= v)),
    "ap": lambda lo, hi, v, a, b: (sa.and_(lo >= a, lo <= b), sa.and_(lo < a, hi >= a)),
}


def _narrow(prefix: str, unit: str, t: Any, bind: Bind) -> Clause:
    """Return the rows that fit by their beginning: all points do, and they are nearly all rows."""
    return _number(prefix, unit, t, bind, REACHING, 0)


def _wide(prefix: str, unit: str, t: Any, bind: Bind) -> Clause:
    """Return the other rows that fit: intervals that begin before. They have a small index."""
    return sa.and_(t.c.lo < t.c.hi, _number(prefix, unit, t, bind, REACHING, 1))


# --- tokens, texts, places ---------------------------------------------------------------------


def _token_any(t: Any, bind: Bind) -> Clause:
    return sa.or_(t.c.code == bind(db.Text), t.c.code == bind(db.Text))


def _member(t: Any, m: Any, bind: Bind) -> Clause:
    return sa.and_(m.c.vs == bind(db.Key), m.c.system == t.c.system, m.c.code == t.c.code)


def _below(t: Any, a: Any, bind: Bind) -> Clause:
    named = sa.and_(
        a.c.system == bind(db.Int), a.c.ancestor == bind(db.Text), a.c.cs == bind(db.Key)
    )
    return sa.and_(named, a.c.system == t.c.system, a.c.descendant == t.c.code)


def _above(t: Any, a: Any, bind: Bind) -> Clause:
    named = sa.and_(
        a.c.system == bind(db.Int), a.c.descendant == bind(db.Text), a.c.cs == bind(db.Key)
    )
    return sa.and_(named, a.c.system == t.c.system, a.c.ancestor == t.c.code)


def _listed(other: sa.Table, beside: Callable[[Any, Any, Bind], Clause]) -> Operation:
    """Return the operation of a term that stands for the codes that another table lists."""

    def fits(t: Any, bind: Bind) -> Clause:
        o = other.alias()
        return fence(sa.select(ONE).select_from(o).where(beside(t, o, bind)))

    return Operation(db.index_token, fits, beside=beside, other=other)


def _string(column: str, t: Any, bind: Bind) -> Clause:
    return sa.and_(t.c[column] >= bind(db.Text), t.c[column] < bind(db.Text))


# search_filter.html#ops: a filter compares strings as well
COMPARED: dict[str, Callable[[Any, Any], Clause]] = {
    "eq": lambda norm, text: norm == text,
    "ne": lambda norm, text: norm != text,
    "gt": lambda norm, text: norm > text,
    "lt": lambda norm, text: norm < text,
    "ge": lambda norm, text: norm >= text,
    "le": lambda norm, text: norm <= text,
}


def _compared(prefix: str, t: Any, bind: Bind) -> Clause:
    return COMPARED[prefix](t.c.norm, bind(db.Text))


def _words(t: Any, bind: Bind) -> Clause:
    return db.has_words(t, bind(db.Text))


def _near(t: Any, bind: Bind) -> Clause:
    """Return whether a point of the unit sphere is within a chord of another."""
    low, high = bind(db.Float), bind(db.Float)
    x, y, z, chord = (bind(db.Float) for _ in range(4))
    distance = (t.c.x - x) * (t.c.x - x) + (t.c.y - y) * (t.c.y - y) + (t.c.z - z) * (t.c.z - z)
    return sa.and_(t.c.z >= low, t.c.z <= high, distance <= chord)


def _uri_below(t: Any, bind: Bind) -> Clause:
    under = sa.and_(t.c.uri >= bind(db.Text), t.c.uri < bind(db.Text))
    return sa.or_(t.c.uri == bind(db.Text), under)


def _uri_versions(t: Any, bind: Bind) -> Clause:
    within = sa.and_(t.c.version >= bind(db.Text), t.c.version < bind(db.Text))
    return sa.and_(t.c.uri == bind(db.Text), sa.or_(t.c.version == bind(db.Text), within))


def _uri_above(t: Any, bind: Bind) -> Clause:
    return db.among(t.c.uri, bind(db.Text, many=True))


# --- composites --------------------------------------------------------------------------------

HALVES: dict[str, Callable[[Any, Any, Bind], Clause]] = {
    "code": lambda _, code, bind: code == bind(db.Text),
    "codes": lambda _, code, bind: sa.or_(code == bind(db.Text), code == bind(db.Text)),
    "system code": lambda system, code, bind: sa.and_(
        code == bind(db.Text), system == bind(db.Int)
    ),
    "system": lambda system, _, bind: system == bind(db.Int),
    "text": lambda _, code, bind: sa.and_(code >= bind(db.Text), code < bind(db.Text)),
}


class _Unit:
    """The columns of a composite row's second half, named as those of a quantity are."""

    def __init__(self, t: Any) -> None:
        self.c = _Columns(t.c.lo, t.c.hi, t.c.system2, t.c.code2)


@dataclass(frozen=True, slots=True)
class _Columns:
    lo: Any
    hi: Any
    unit: Any
    code: Any


def _half(name: str, t: Any, bind: Bind, part: int | None = None) -> Clause:
    """Return the condition on the second half of a composite row; `part` as for a quantity."""
    kind, _, rest = name.partition(" ")
    if kind == "quantity":
        unit, _, prefix = rest.partition(":")
        if part is None:
            return _number(prefix, unit, _Unit(t), bind)
        return (_wide if part else _narrow)(prefix, unit, _Unit(t), bind)
    if kind.startswith("date:"):
        return _date(kind[5:], t, bind, db.Float)
    return HALVES[name](t.c.system2, t.c.code2, bind)


def _composite(name: str, part: int | None, t: Any, bind: Bind) -> Clause:
    """Return the condition of `first|second[|third]`: all of one instance of the element."""
    first, second, *third = name.split("|")
    fits = sa.and_(HALVES[first](t.c.system, t.c.code, bind), _half(second, t, bind, part))
    if not third:
        return fits
    o = db.index_composite.alias()
    same = sa.and_(o.c.key == t.c.key, o.c.k == t.c.k, o.c.param == bind(db.Int))
    return sa.and_(fits, fence(sa.select(ONE).select_from(o).where(same, _half(third[0], o, bind))))


# --- the table ---------------------------------------------------------------------------------

OPERATIONS: dict[str, Operation] = {
    "id": Operation(None, lambda r, bind: r.c.id == bind(db.Text)),
    **{f"updated:{p}": Operation(None, partial(_updated, p)) for p in DATES},
    "token code": Operation(
        db.index_token, lambda t, bind: t.c.code == bind(db.Text), ordered=True
    ),
    "id list": Operation(None, lambda r, bind: db.among(r.c.id, bind(db.Text, many=True))),
    "token code list": Operation(
        db.index_token, lambda t, bind: db.among(t.c.code, bind(db.Text, many=True))
    ),
    "token codes": Operation(db.index_token, _token_any),
    "token system code": Operation(
        db.index_token,
        lambda t, bind: sa.and_(t.c.code == bind(db.Text), t.c.system == bind(db.Int)),
        ordered=True,
        unique=True,
    ),
    "token system": Operation(
        db.index_token, lambda t, bind: t.c.system == bind(db.Int), drives=False
    ),
    "token in": _listed(db.value_set_member, _member),
    "token below": _listed(db.concept_ancestor, _below),
    "token above": _listed(db.concept_ancestor, _above),
    "reference": Operation(
        db.index_reference,
        lambda t, bind: t.c.target == key_of(bind),
        ordered=True,
        unique=True,
    ),
    "reference types": Operation(
        db.index_reference, lambda t, bind: t.c.target.in_(_keys_of(bind))
    ),
    "string": Operation(db.index_string, partial(_string, "norm")),
    "string exact": Operation(
        db.index_string,
        lambda t, bind: sa.and_(t.c.norm == bind(db.Text), t.c.exact == bind(db.Text)),
    ),
    "string contains": Operation(
        db.index_string, lambda t, bind: db.contains(t.c.norm, bind(db.Text)), drives=False
    ),
    "string ends": Operation(
        db.index_string, lambda t, bind: db.ends_with(t.c.norm, bind(db.Text)), drives=False
    ),
    **{f"string:{p}": Operation(db.index_string, partial(_compared, p)) for p in COMPARED},
    "uri": Operation(db.index_uri, lambda t, bind: t.c.uri == bind(db.Text), ordered=True),
    "uri version": Operation(
        db.index_uri,
        lambda t, bind: sa.and_(t.c.uri == bind(db.Text), t.c.version == bind(db.Text)),
        ordered=True,
        unique=True,
    ),
    "uri versions": Operation(db.index_uri, _uri_versions),
    "uri below": Operation(db.index_uri, _uri_below),
    "uri above": Operation(db.index_uri, _uri_above),
    "near": Operation(db.index_position, _near),
    "text": Operation(db.index_text, _words, unique=True),
    "content": Operation(db.index_content, _words, unique=True),
    **{
        f"date:{p}": Operation(
            db.index_date,
            partial(_date, p),
            ranges=(partial(_short_or_long, p, 0), partial(_short_or_long, p, 1)),
        )
        for p in DATES
    },
    **{
        f"quantity {unit}:{p}": Operation(
            db.index_quantity,
            partial(_number, p, unit),
            drives="code" in unit,
            ranges=(partial(_narrow, p, unit), partial(_wide, p, unit)) if p in REACHING else (),
        )
        for p in NUMBERS
        for unit in ("", "code", "system", "system code")
    },
}


@lru_cache(4096)
def operation(name: str) -> Operation:
    """Return the operation of a name; that of a composite is put together from its halves."""
    if name.startswith("composite "):
        halves = name.removeprefix("composite ")
        second = halves.split("|")[1]
        reaching = second.startswith("quantity") and second.rpartition(":")[2] in REACHING
        return Operation(
            db.index_composite,
            partial(_composite, halves, None),
            drives=not halves.startswith("system|"),
            ranges=tuple(partial(_composite, halves, n) for n in (0, 1)) if reaching else (),
        )
    return OPERATIONS[name]


# Which driver is taken without asking how many rows it has: the lower, the better
CERTAIN = {"id": 0, "id list": 0, "reference": 1, "reference types": 2, "uri version": 3, "uri": 3}
