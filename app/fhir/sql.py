"""From a query tree to one SELECT; the gate that every mention of a resource passes.

https://hl7.org/fhir/R4/search.html

Theory of operation. A tree is lowered to a *shape* (nested tuples without any value) and a list of
values in the order in which the shape asks for them. A shape is built into SQL once for each
dialect and kept as text; after that a search costs a walk over its tree. `OPERATIONS` is the whole
meaning of search in SQL: one row for each way in which a term can fit an index row.

A page is found by walking one index, the driver, in key order where it has one; every other
criterion and the gate are fenced probes, `EXISTS (... LIMIT 1 OFFSET 0)`, which no planner
flattens. docs/decisions.md says why.

Rule 1: `visible()` is the only way to name a resource. Rule 2: values never enter the text.
"""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import sqlalchemy as sa

from app import db
from app.fhir.definitions import Definitions
from app.fhir.query import (
    All,
    And,
    Match,
    Member,
    Not,
    Nothing,
    Or,
    Ordered,
    Query,
    Term,
)
from app.fhir.values import (
    DAY,
    Interval,
    NumberTerm,
    QuantityTerm,
    Reference,
    Token,
    bounded,
    fold_code,
    split_canonical,
)

Clause = sa.ColumnElement[bool]
Bind = Callable[..., Any]
Shape = tuple[Any, ...]
Numbers = Mapping[tuple[str, str], int]

LIVE, DELETED = 1, 2
EXTERNAL = 0  # the type number of a phantom that stands for a URL elsewhere
PROBE_LIMIT = 2001
AFTER_ANY = 2**62


@dataclass(frozen=True, slots=True)
class Operation:
    """One way in which a term fits an index row.

    `fits(table, bind)` is the condition; it asks `bind` for its values in the order in which the
    lowering gives them. `ordered` says that the rows come in key order; `drives` that the
    condition is a range of the table's index, or `range` one beside it: a probe must not have it,
    or a planner walks the range instead of looking the key up.
    """

    table: sa.Table | None
    fits: Callable[[Any, Bind], Clause]
    ordered: bool = False
    drives: bool = True
    range: Callable[[Any, Bind], Clause] | None = None


def _key_of(bind: Bind) -> Any:
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


def _token_any(t: Any, bind: Bind) -> Clause:
    return sa.or_(t.c.code == bind(db.Text), t.c.code == bind(db.Text))


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
MILLISECOND = 1000
SHORT: Any = sa.literal_column("0")
LONG: Any = sa.literal_column("1")


def _date(prefix: str, t: Any, bind: Bind) -> Clause:
    a, b = bind(db.Key), bind(db.Key)
    return DATES[prefix](t.c.lo, t.c.hi, a, b)


def _date_range(prefix: str, t: Any, bind: Bind) -> Clause:
    """Return the condition of a prefix, and beside it the range of the index in which it holds.

    The index is (param, long, lo). A short row ends within a day of its start, so a bound on its
    end is one on its start; of the few long rows all are looked at.
    """
    a, b = bind(db.Key), bind(db.Key)
    fits = DATES[prefix](t.c.lo, t.c.hi, a, b)
    both = t.c.long.in_([SHORT, LONG])
    match prefix:
        case "eq":
            return sa.and_(both, t.c.lo >= a, t.c.lo < b, fits)
        case "sa":
            return sa.and_(both, fits)
        case "lt" | "le" | "eb":
            return sa.and_(both, t.c.lo < b, fits)
        case "gt" | "ge" | "ap":
            # one range of the index: the short rows from there on, then all long ones
            start = (b if prefix == "gt" else a) - sa.literal(DAY, db.Key)
            return sa.and_(sa.tuple_(t.c.long, t.c.lo) > sa.tuple_(SHORT, start), fits)
    return fits


def _updated(prefix: str, t: Any, bind: Bind) -> Clause:
    a, b = bind(db.Key), bind(db.Key)
    return DATES[prefix](t.c.updated, t.c.updated + sa.literal(MILLISECOND, db.Key), a, b)


def _number(prefix: str, unit: str, t: Any, bind: Bind) -> Clause:
    v, a, b = bind(db.Float), bind(db.Float), bind(db.Float)
    fits = NUMBERS[prefix](t.c.lo, t.c.hi, v, a, b)
    if unit == "code":
        return sa.and_(t.c.code == bind(db.Text), fits)
    if unit == "system code":
        return sa.and_(t.c.unit == bind(db.Int), t.c.code == bind(db.Text), fits)
    if unit == "system":
        return sa.and_(t.c.unit == bind(db.Int), fits)
    return fits


OPERATIONS: dict[str, Operation] = {
    "id": Operation(None, lambda r, bind: r.c.id == bind(db.Text)),
    **{f"updated:{p}": Operation(None, partial(_updated, p), drives=False) for p in DATES},
    "token code": Operation(
        db.index_token, lambda t, bind: t.c.code == bind(db.Text), ordered=True
    ),
    "token codes": Operation(db.index_token, _token_any),
    "token system code": Operation(
        db.index_token,
        lambda t, bind: sa.and_(t.c.code == bind(db.Text), t.c.system == bind(db.Int)),
        ordered=True,
    ),
    "token system": Operation(
        db.index_token, lambda t, bind: t.c.system == bind(db.Int), drives=False
    ),
    "reference": Operation(
        db.index_reference, lambda t, bind: t.c.target == _key_of(bind), ordered=True
    ),
    "reference types": Operation(
        db.index_reference, lambda t, bind: t.c.target.in_(_keys_of(bind))
    ),
    "string": Operation(
        db.index_string,
        lambda t, bind: sa.and_(t.c.norm >= bind(db.Text), t.c.norm < bind(db.Text)),
    ),
    "uri": Operation(db.index_uri, lambda t, bind: t.c.uri == bind(db.Text), ordered=True),
    "uri version": Operation(
        db.index_uri,
        lambda t, bind: sa.and_(t.c.uri == bind(db.Text), t.c.version == bind(db.Text)),
        ordered=True,
    ),
    **{
        f"date:{p}": Operation(db.index_date, partial(_date, p), range=partial(_date_range, p))
        for p in DATES
    },
    **{
        f"quantity {unit}:{p}": Operation(
            db.index_quantity, partial(_number, p, unit), drives="code" in unit
        )
        for p in NUMBERS
        for unit in ("", "code", "system", "system code")
    },
}

# Which driver is taken without asking how many rows it has: the lower, the better
CERTAIN = {"id": 0, "reference": 1, "reference types": 2, "uri version": 3, "uri": 3}


def fence(select: sa.Select[Any]) -> Clause:
    """Return an EXISTS that stays a probe: the planner may neither flatten nor reorder it."""
    one: Any = sa.literal_column("1")
    none: Any = sa.literal_column("0")
    return sa.exists(select.limit(one).offset(none))


# --- lowering ----------------------------------------------------------------------------------


class Kind(Protocol):
    """Where the rows of a search parameter are, as `index` says it."""

    @property
    def tables(self) -> Container[str]:
        """The kinds of rows that it has: token, reference, uri ..."""

    @property
    def canonical(self) -> bool:
        """Whether its URLs may carry a version."""


@dataclass(frozen=True, slots=True)
class Lowering:
    """What turns a tree into a shape and its values, for one worker's dictionaries.

    `kinds(type)` says of each parameter where its rows are; `base_url` is the server's own.
    """

    definitions: Definitions
    params: Numbers
    systems: Mapping[str, int]
    kinds: Callable[[str], Mapping[str, Kind]]
    base_url: str

    def tree(self, node: Query, type: str, values: list[Any]) -> Shape:
        """Return the shape of `node` for resources of `type`, appending its values in order."""
        match node:
            case All():
                return ("all",)
            case Nothing():
                return ("nothing",)
            case Not(part):
                return ("not", self.tree(part, type, values))
            case And(parts):
                return ("and", *(self.tree(part, type, values) for part in parts))
            case Or(parts):
                return ("or", *(self.tree(part, type, values) for part in parts))
            case Member(kind, id):
                values += [self.definitions.type_numbers[kind], id] * 2
                return ("member",)
            case Match():
                return self.match(node, type, values)

    def match(self, node: Match, type: str, values: list[Any]) -> Shape:
        """Return ("match", table, operations): a term that cannot fit any row leaves none."""
        groups: dict[str, tuple[list[str], list[Any]]] = {}
        for term in node.terms:
            for operation, given in self.term(node, type, term):
                table = OPERATIONS[operation].table
                names, own = groups.setdefault(table.name if table is not None else "", ([], []))
                names.append(operation)
                own += given
        shapes: list[Shape] = []
        for table_name, (names, own) in groups.items():
            if table_name:
                values.append(self.params[type, node.parameter])
            values += own
            shapes.append(("match", table_name, *names))
        if not shapes:
            return ("nothing",)
        return shapes[0] if len(shapes) == 1 else ("or", *shapes)

    def term(self, node: Match, type: str, term: Term) -> Iterator[tuple[str, list[Any]]]:
        """Yield each way in which the term can fit: the operation and its values."""
        match term:
            case Token(system, code):
                yield from self.token(system, code)
            case Reference():
                yield from self.reference(node, type, term)
            case Ordered(prefix, Interval(lo, hi)):
                column = "updated" if node.parameter == "_lastUpdated" else "date"
                yield f"{column}:{prefix}", [lo, hi]
            case Ordered(prefix, NumberTerm() as number):
                yield f"quantity :{prefix}", _floats(prefix, number)
            case Ordered(prefix, QuantityTerm() as quantity):
                yield from self.quantity(prefix, quantity)
            case str() if node.parameter == "_id":
                yield "id", [term]
            case str() if node.type == "string":
                yield "string", [term[:200], _after(term[:200])]
            case str() if self.kinds(type)[node.parameter].canonical:
                yield self.url(term)
            case str():
                yield "uri", [bounded(term)]
            case _:
                raise AssertionError(term)

    def token(self, system: str | None, code: str) -> Iterator[tuple[str, list[Any]]]:
        """Yield how a token fits; a system without a number fits nothing (search.html#token)."""
        exact, folded = bounded(code), bounded(fold_code(code))
        if system is None:
            same = exact == folded
            yield ("token code", [exact]) if same else ("token codes", [exact, folded])
        elif bounded(system) in self.systems:
            number = self.systems[bounded(system)]
            stored = exact if system in self.definitions.case_sensitive else folded
            yield ("token system code", [stored, number]) if code else ("token system", [number])

    def reference(self, node: Match, type: str, term: Reference) -> Iterator[tuple[str, list[Any]]]:
        """Yield how a reference fits: a key, or a URL that a canonical may hold as well."""
        numbers = self.definitions.type_numbers
        tables = self.kinds(type)[node.parameter].tables
        own = f"{self.base_url}/{term.type}/{term.id}" if term.id and term.type else ""
        if "reference" in tables:
            if own:
                yield "reference", [numbers[term.type], term.id]
            elif term.id:
                targets = self.definitions.targets(type, node.parameter) or tuple(numbers)
                yield "reference types", [[numbers[t] for t in targets], term.id]
            else:
                yield "reference", [EXTERNAL, bounded(term.url)]
        if "uri" in tables and (term.url or own):
            url = term.url or own
            yield self.url(f"{url}|{term.version}" if term.version else url)

    def url(self, text: str) -> tuple[str, list[Any]]:
        """Return how a canonical fits: without a version, any version does."""
        url, version = split_canonical(text)
        if version:
            return "uri version", [bounded(url), bounded(version)]
        return "uri", [bounded(url)]

    def quantity(self, prefix: str, term: QuantityTerm) -> Iterator[tuple[str, list[Any]]]:
        """Yield how a quantity fits: in any unit, a unit, any unit of a system, or one of it."""
        given = _floats(prefix, term.number)
        code = [bounded(term.code)] if term.code else []
        if term.system is None:
            yield f"quantity {'code' if code else ''}:{prefix}", [*given, *code]
        elif (system := bounded(term.system)) in self.systems:
            unit = "system code" if code else "system"
            yield f"quantity {unit}:{prefix}", [*given, self.systems[system], *code]


def _floats(prefix: str, number: NumberTerm) -> list[Any]:
    lo, hi = number.near() if prefix == "ap" else (number.lo, number.hi)
    return [number.exact, lo, hi]


def _after(text: str) -> str:
    """Return the first text after all that begin with `text`, in code point order."""
    for n in range(len(text) - 1, -1, -1):
        point = ord(text[n])
        if point < 0x10FFFF:
            following = 0xE000 if point == 0xD7FF else point + 1  # no surrogates
            return text[:n] + chr(following)
    return "\U0010ffff" * 201


def systems_in(node: Query) -> Iterator[str]:
    """Yield the systems that the terms of a tree name."""
    match node:
        case Not(part):
            yield from systems_in(part)
        case And(parts) | Or(parts):
            for part in parts:
                yield from systems_in(part)
        case Match(_, _, terms):
            for term in terms:
                if isinstance(term, Token) and term.system:
                    yield bounded(term.system)
                elif isinstance(term, Ordered) and isinstance(term.value, QuantityTerm):
                    yield bounded(term.value.system or "")


# --- building ----------------------------------------------------------------------------------


class Binder:
    """Hands out parameters p0, p1, ... in the order in which a shape asks for them."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, kind: Any, *, many: bool = False) -> Any:
        """Return the next parameter, or its name where a list is wanted."""
        name = f"p{len(self.names)}"
        self.names.append(name)
        return name if many else sa.bindparam(name, type_=kind)


def condition(shape: Shape, r: Any, bind: Binder, owner: Any = None) -> Clause:
    """Return whether the resource row `r` (its key, id, updated, owner) satisfies a shape."""
    owner = r.c.owner if owner is None else owner
    match shape[0]:
        case "all":
            return sa.true()
        case "nothing":
            return sa.false()
        case "not":
            return sa.not_(condition(shape[1], r, bind, owner))
        case "and":
            return sa.and_(sa.true(), *[condition(part, r, bind, owner) for part in shape[1:]])
        case "or":
            return sa.or_(sa.false(), *[condition(part, r, bind, owner) for part in shape[1:]])
        case "types":
            return _by_type(shape, r, bind, lambda part: condition(part, r, bind, owner))
        case "member":
            c = db.compartment.alias()
            shared = sa.select(c.c.key).where(c.c.key == r.c.key)
            # nobody has the key -1: what is not there has no members, also under a Not
            own = owner == sa.func.coalesce(_key_of(bind), sa.literal_column("-1"))
            return sa.or_(own, fence(shared.where(c.c.comp == _key_of(bind))))
        case _:
            return matches(shape, r, bind)


def matches(shape: Shape, r: Any, bind: Binder) -> Clause:
    """Return whether `r` has an index row that fits one of the operations."""
    operations = [OPERATIONS[name] for name in shape[2:]]
    table = operations[0].table
    if table is None:
        return sa.or_(*[operation.fits(r, bind) for operation in operations])
    t = table.alias()
    rows = sa.select(t.c.key).where(t.c.key == r.c.key, t.c.param == bind(db.Int))
    return fence(rows.where(sa.or_(*[operation.fits(t, bind) for operation in operations])))


def ordered(shape: Shape) -> bool:
    """Return whether a driver's rows come in key order."""
    return len(shape) == 3 and OPERATIONS[shape[2]].ordered


def _by_type(shape: Shape, r: Any, bind: Binder, inner: Callable[[Shape], Clause]) -> Clause:
    """Return the condition of ("types", ...): each part after the list of its type numbers."""
    parts = [sa.and_(db.among(r.c.type, bind(db.Small, many=True)), inner(p)) for p in shape[1:]]
    return sa.or_(sa.false(), *parts)


def needs_index(shape: Shape) -> bool:
    """Return whether a policy's shape reads index rows, which deleted resources do not have."""
    return shape[0] == "match" or any(
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
    return sa.and_(now, condition(gate, r, bind, owner=v.c.owner))


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
            statement = db.statement(build(*shape, Binder()), self.dialect)
            self.texts[key] = statement
        return Plan(statement, {**{f"p{n}": v for n, v in enumerate(values)}, **named})

    def read(self, gate: Shape, values: Sequence[Any], type: int, id: str) -> Plan:
        """Return the current row of one resource: key, state, version, updated, body."""
        return self.plan("read", _read, (gate,), values, type=type, id=id)

    def vread(self, gate: Shape, values: Sequence[Any], **named: Any) -> Plan:
        """Return one version: op, version, updated, body; `named`: type, id, version."""
        # the gate is asked twice: of the resource and of the version
        return self.plan("vread", _vread, (gate,), [*values, *values], **named)

    def history(
        self, level: str, gate: Shape, values: Sequence[Any], *, after: bool, **named: Any
    ) -> Plan:
        """Return a page of versions, newest first; `named`: since, limit and what the level needs.

        Of one resource in the order of its versions; of more in that in which they were written.
        Columns: seq, type, id, op, version, updated, body.
        """
        shape = (level, after, gate)
        return self.plan("history", _history, shape, [*values, *values], **named)

    def look(self, gate: Shape, values: Sequence[Any], keys: list[int]) -> Plan:
        """Return which of `keys` are visible."""
        return self.plan("look", _look, (gate,), values, keys=keys)

    def page(
        self, driver: Shape, rest: Shape, gate: Shape, values: Sequence[Any], **named: Any
    ) -> Plan:
        """Return a page of a search in no order: key, id, body; `named`: type, after, limit.

        The page is that of the newest keys. To put its few rows in order is left to the caller:
        an engine would sort them with their bodies. `values` are those of the driver, the rest,
        and the gate, in this order.
        """
        return self.plan("page", _page, (driver, rest, gate), values, **named)

    def probe(self, shape: Shape, values: Sequence[Any]) -> Plan:
        """Return how many index rows a driver has, counting no further than PROBE_LIMIT."""
        return self.plan("probe", _probe, (shape,), values)


def _named(name: str, kind: Any) -> Any:
    return sa.bindparam(name, type_=kind)


def _current(r: Any, v: Any) -> Clause:
    return sa.and_(v.c.key == r.c.key, v.c.version == r.c.version)


def _read(gate: Shape, bind: Binder) -> sa.Select[Any]:
    r, v = db.resource.alias("r"), db.resource_version.alias("v")
    return (
        sa.select(r.c.key, r.c.state, r.c.version, r.c.updated, v.c.body)
        .select_from(r.join(v, _current(r, v)))
        .where(r.c.type == _named("type", db.Small), r.c.id == _named("id", db.Text))
        .where(visible(r, gate, bind, deleted=True))
    )


def _vread(gate: Shape, bind: Binder) -> sa.Select[Any]:
    r, v = db.resource.alias("r"), db.resource_version.alias("v")
    return (
        sa.select(v.c.op, v.c.version, v.c.updated, v.c.body)
        .select_from(r.join(v, v.c.key == r.c.key))
        .where(r.c.type == _named("type", db.Small), r.c.id == _named("id", db.Text))
        .where(v.c.version == _named("version", db.Int))
        .where(visible_version(r, v, gate, bind))
    )


def _history(level: str, after: bool, gate: Shape, bind: Binder) -> sa.Select[Any]:
    r, v = db.resource.alias("r"), db.resource_version.alias("v")
    columns = (v.c.seq, v.c.type, r.c.id, v.c.op, v.c.version, v.c.updated, v.c.body)
    found = sa.select(*columns).select_from(v.join(r, r.c.key == v.c.key))
    if level == "instance":
        found = found.where(v.c.key == _named("key", db.Key))
    elif level == "type":
        found = found.where(v.c.type == _named("type", db.Small))
    order = v.c.version if level == "instance" else v.c.seq
    if after:
        found = found.where(order < _named("place", db.Key))
    return (
        found.where(v.c.updated >= _named("since", db.Key))
        .where(visible_version(r, v, gate, bind))
        .order_by(order.desc())
        .limit(_named("limit", db.Int))
    )


def _look(gate: Shape, bind: Binder) -> sa.Select[Any]:
    r = db.resource.alias("r")
    return sa.select(r.c.key).where(db.among(r.c.key, "keys"), visible(r, gate, bind))


def _rows(shape: Shape, bind: Binder) -> tuple[Any, Clause]:
    """Return the index table that a driver walks, and which of its rows."""
    operations = [OPERATIONS[name] for name in shape[2:]]
    table = operations[0].table
    assert table is not None
    t = table.alias("t")
    param = t.c.param == bind(db.Int)
    ranges = [(operation.range or operation.fits)(t, bind) for operation in operations]
    return t, sa.and_(param, sa.or_(*ranges))


def _page(driver: Shape, rest: Shape, gate: Shape, bind: Binder) -> sa.Select[Any]:
    r0 = db.resource.alias("r0")
    after, limit = _named("after", db.Key), _named("limit", db.Int)
    if driver[0] == "match":
        t, fits = _rows(driver, bind)
        probe = sa.select(r0.c.key).where(r0.c.key == t.c.key)
        probe = probe.where(condition(rest, r0, bind), visible(r0, gate, bind))
        keys = sa.select(t.c.key).distinct().where(fits, t.c.key < after, fence(probe))
        walk = keys.order_by(t.c.key.desc()).limit(limit).subquery("k")
    else:
        own = condition(driver, r0, bind)
        rows = sa.select(r0.c.key).where(r0.c.type == _named("type", db.Small), r0.c.key < after)
        rows = rows.where(own, condition(rest, r0, bind), visible(r0, gate, bind))
        walk = rows.order_by(r0.c.key.desc()).limit(limit).subquery("k")
    r, v = db.resource.alias("r"), db.resource_version.alias("v")
    return (
        sa.select(r.c.key, r.c.id, v.c.body)
        .select_from(walk)
        .join(r, r.c.key == walk.c.key)
        .join(v, _current(r, v))
    )


def _probe(shape: Shape, bind: Binder) -> sa.Select[Any]:
    t, fits = _rows(shape, bind)
    some: sa.Select[Any] = sa.select(sa.literal_column("1")).select_from(t).where(fits)
    return sa.select(sa.func.count()).select_from(
        some.limit(sa.literal_column(str(PROBE_LIMIT))).subquery("some")
    )
