"""From a query tree to a shape, and the values that the shape asks for.

A *shape* is a tree of nested tuples without any value: what SQL is built from, once for each shape.
The values are listed in the order in which `gate` and `statements` ask `bind` for them, so each
node here says in its comment what it lists.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import cos, pi, radians, sin
from typing import Any, NamedTuple, Protocol

from app.fhir import ucum
from app.fhir.access import Policy, Sight
from app.fhir.definitions import Definitions
from app.fhir.errors import refused
from app.fhir.query import (
    BINARY,
    CONTEXT,
    POINTS,
    All,
    And,
    Attached,
    Chain,
    Composite,
    Has,
    Match,
    Member,
    Near,
    Not,
    Nothing,
    Or,
    Ordered,
    Owned,
    Present,
    Query,
    Same,
    Term,
    TypedIdentifier,
    hierarchy,
)
from app.fhir.sql.operations import operation
from app.fhir.values import (
    NORM_LENGTH,
    Interval,
    NumberTerm,
    QuantityTerm,
    Reference,
    Token,
    bounded,
    fold,
    fold_code,
    split_canonical,
    stored_code,
    stored_typed,
)

Shape = tuple[Any, ...]
Numbers = Mapping[tuple[str, str], int]

EXTERNAL = 0  # the type number of a phantom that stands for a URL elsewhere
UCUM = "http://unitsofmeasure.org"
CANONICAL = "http://unitsofmeasure.org#canonical"
EARTH_KILOMETRES = 6371.0088  # mean radius
WORDS = {"_text": "text", "_content": "content"}  # operations on words
MANY = 8  # values that are worth a list
OF_ANY_TYPE = (All, Nothing, Owned, Member)  # trees that mean the same of each
NOBODY = -1  # no system, parameter or resource has this number


class Kind(Protocol):
    """Where the rows of a search parameter are, as `index` says it."""

    @property
    def tables(self) -> Collection[str]:
        """The kinds of rows that it has: token, reference, uri ..."""

    @property
    def canonical(self) -> bool:
        """Whether its URLs may carry a version."""

    @property
    def single(self) -> bool:
        """Whether a resource has at most one row."""


class Terminology(NamedTuple):
    """The numbers of value sets and of hierarchies of code systems, by their URLs."""

    value_sets: dict[str, int]
    hierarchies: dict[str, int]


NOTHING_NAMED = Terminology({}, {})


@dataclass(frozen=True, slots=True)
class Lowering:
    """What turns a tree into a shape and its values, for one worker's dictionaries.

    `kinds(type)` says of each parameter where its rows are; `base_url` is the server's own;
    `terminology` is what the tree names, `underneath` what the policy's own trees name: the caller
    need not see that. `policy` is what is seen of resources, those at the ends of chains
    among them: that of the caller under a `right`, or None inside of a policy, which looks at all.
    """

    definitions: Definitions
    params: Numbers
    bits: Numbers
    systems: Mapping[str, int]
    terminology: Terminology
    kinds: Callable[[str], Mapping[str, Kind]]
    base_url: str
    policy: Policy | None = None
    underneath: Terminology = NOTHING_NAMED
    right: Sight = "search"

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
            case Owned(kind, id):
                values += [self.definitions.type_numbers[kind], id]
                return ("owned",)
            case Attached():
                return self.attached(node, values)
            case Present(code) if (type, code) in self.bits:
                values.append(1 << self.bits[type, code])
                return ("present",)
            case Present(code):  # a parameter beyond the last bit
                tables = tuple(self.kinds(type)[code].tables)
                values += [self.params[type, code]] * len(tables)
                return ("indexed", *(f"index_{table}" for table in tables))
            case Chain():
                return self.chain(node, type, values)
            case Has():
                return self.has(node, type, values)
            case Match():
                return self.match(node, type, values)
            case Same():
                shape, own = self.same(node, type)
                values += own
                return shape

    def gate(self, type: str, values: list[Any]) -> Shape:
        """Return what the caller may see of the resources of a type, for a search."""
        if self.policy is None:
            return ("all",)
        return self.inside().tree(self.policy.of(type, self.right), type, values)

    def inside(self) -> "Lowering":
        """Return the lowering of a policy's own trees: these look underneath."""
        return Lowering(
            self.definitions,
            self.params,
            self.bits,
            self.systems,
            self.underneath,
            self.kinds,
            self.base_url,
            underneath=self.underneath,
        )

    def attached(self, node: Attached, values: list[Any]) -> Shape:
        """Return ("attached", gate): parameter, gate, parameter, gate; of what points, of context.

        The gate is that of the resources which are shown, each group after its types' numbers.
        """
        within: list[Any] = []
        trees = [(type, tree) for types, tree in node.shown for type in types]
        gate = self.types(trees, within)
        for code in (POINTS, CONTEXT):
            values += [self.params[BINARY, code], *within]
        return ("attached", gate)

    def types(self, trees: Iterable[tuple[str, Query]], values: list[Any]) -> Shape:
        """Return ("types", part ...): before the values of each part the numbers of its types."""
        groups: dict[Query | str, tuple[Shape, list[Any], list[int]]] = {}
        for type, tree in trees:
            number = self.definitions.type_numbers[type]
            if tree in groups:
                groups[tree][2].append(number)
                continue
            own: list[Any] = []
            shape = self.tree(tree, type, own)
            about = tree if isinstance(tree, OF_ANY_TYPE) else repr((shape, own))
            groups.setdefault(about, (shape, own, []))[2].append(number)
        for _, own, some in groups.values():
            values += [some, *own]
        return ("types", *(shape for shape, _, _ in groups.values()))

    def chain(self, node: Chain, type: str, values: list[Any]) -> Shape:
        """Return ("chain", table, part, gate): parameter, [url, version], type, part, gate."""
        shapes = []
        for table in self.links(type, node.parameter, node.target):
            values.append(self.params[type, node.parameter])
            if table == "uri":
                values += [self.params[node.target, name] for name in ("url", "version")]
            values.append(self.definitions.type_numbers[node.target])
            part = self.tree(node.part, node.target, values)
            shapes.append(("chain", table, part, self.gate(node.target, values)))
        return either(shapes)

    def has(self, node: Has, type: str, values: list[Any]) -> Shape:
        """Return ("has", table, part, gate): parameter, [url, version], type, part, gate."""
        shapes = []
        for table in self.links(node.type, node.parameter, type):
            values.append(self.params[node.type, node.parameter])
            if table == "uri":
                values += [self.params[type, name] for name in ("url", "version")]
            values.append(self.definitions.type_numbers[node.type])
            part = self.tree(node.part, node.type, values)
            shapes.append(("has", table, part, self.gate(node.type, values)))
        return either(shapes)

    def links(self, type: str, code: str, target: str) -> list[str]:
        """Return how a parameter refers to resources of a type: by key, by canonical URL."""
        tables = self.kinds(type)[code].tables
        by_url = "uri" in tables and has_canonical_url(self.definitions, target)
        return [t for t, may in (("reference", "reference" in tables), ("uri", by_url)) if may]

    # --- matches -------------------------------------------------------------------------------

    def match(self, node: Match, type: str, values: list[Any]) -> Shape:
        """Return the shape of a match: one of `matches`, or all of them in an "or"."""
        shapes = []
        for shape, own in self.matches(node, type):
            shapes.append(shape)
            values += own
        return either(shapes)

    def matches(self, node: Match, type: str) -> list[tuple[Shape, list[Any]]]:
        """Return ("match", table, operations), one for each table: parameter, then the terms'.

        A term that cannot fit any row leaves none.
        """
        code = node.parameter
        if node.modifier in ("text", "identifier", "of-type"):
            code = f"{code}:{node.modifier}"
        groups: dict[str, tuple[list[str], list[Any]]] = {}
        found: list[tuple[Shape, list[Any]]] = []
        for term in node.terms:
            if isinstance(term, Reference) and node.modifier == "below" and term.version:
                url, version = bounded(term.url), bounded(term.version)
                names, own = groups.setdefault("index_uri", ([], []))
                names.append("uri versions")
                own += [f"{version}.", f"{version}/", url, version]
                continue
            if node.type == "reference" and node.modifier in ("below", "above"):
                found += self.placed(node, type, term)
                continue
            for name, given in self.term(node, type, term):
                table = operation(name).table
                names, own = groups.setdefault(table.name if table is not None else "", ([], []))
                names.append(name)
                own += given
        for table_name, (names, own) in groups.items():
            names, own = _listed(names, own)
            param = [self.params[type, code]] if table_name else []
            found.append((("match", table_name, *names), [*param, *own]))
        return found

    def same(self, node: Same, type: str) -> tuple[Shape, list[Any]]:
        """Return ("same", table, operations of each match): parameter, then the terms' of each."""
        groups: list[tuple[str, ...]] = []
        values: list[Any] = []
        table = ""
        for part in node.parts:
            ((shape, own),) = self.matches(part, type)
            table = shape[1]
            groups.append(shape[2:])
            values += own[1:] if table and values else own
        return ("same", table, *groups), values

    def placed(self, node: Match, type: str, term: Term) -> list[tuple[Shape, list[Any]]]:
        """Return ("placed", direction, gate): parameter, type, id, gate, hierarchy, gate."""
        assert isinstance(term, Reference)
        targets = [term.type] if term.type else self.definitions.targets(type, node.parameter)
        found: list[tuple[Shape, list[Any]]] = []
        for target in targets:
            if code := hierarchy(self.definitions, target):
                number = self.definitions.type_numbers[target]
                values: list[Any] = [self.params[type, node.parameter], number, term.id]
                gate = self.gate(target, values)
                values.append(self.params[target, code])
                self.gate(target, values)
                found.append((("placed", node.modifier, gate), values))
        return found

    def term(self, node: Match, type: str, term: Term) -> Iterator[tuple[str, list[Any]]]:
        """Yield each way in which the term can fit: the operation and its values."""
        match term:
            case Token(system, code) if node.modifier in ("below", "above"):
                yield from self.related(node.modifier, system, code)
            case Token(system, code):
                for half, given in self.token(system, code):
                    yield f"token {half}", given
            case TypedIdentifier(system, code, value):
                stored = stored_typed(system, code, value, self.definitions.case_sensitive)
                yield "token system code", [stored, self.systems.get(bounded(system), NOBODY)]
            case Reference():
                yield from self.reference(node, type, term)
            case Ordered(prefix, Interval(lo, hi)) if node.parameter == "_lastUpdated":
                # shorter than the millisecond that lastUpdated is: nothing is contained in it
                lo = min(lo, hi - 999) if prefix == "ge" else lo
                yield f"updated:{prefix}", [lo, max(hi, lo + 999) if prefix == "le" else hi]
            case Ordered(prefix, Interval(lo, hi)):
                yield f"date:{prefix}", [lo, hi]
            case Ordered(prefix, NumberTerm() as number):
                yield f"quantity :{prefix}", [*_floats(prefix, number), self.canonical]
            case Ordered(prefix, QuantityTerm() as quantity):
                for unit, given in self.quantity(prefix, quantity):
                    yield f"quantity {unit}:{prefix}", given
            case Ordered(prefix, str() as text):
                yield f"string:{prefix}", [text]
            case Near():
                yield "near", _sphere(term)
            case Composite(parts):
                yield from self.composite(type, node.parameter, parts)
            case str():
                yield from self.text(node, type, term)
            case _:
                raise AssertionError(term)

    def text(self, node: Match, type: str, term: str) -> Iterator[tuple[str, list[Any]]]:
        """Yield how a plain text fits: an id, the beginning of a string, a uri, words ..."""
        if node.parameter == "_id":
            yield "id", [term]
        elif node.parameter in WORDS:
            yield WORDS[node.parameter], [term]
        elif node.modifier == "in":
            yield "token in", [self.terminology.value_sets[term]]
        elif node.modifier == "exact":
            yield "string exact", [fold(term)[:NORM_LENGTH], term]
        elif node.modifier in ("contains", "ends"):
            yield f"string {node.modifier}", [term]
        elif node.type == "string" or node.modifier == "text":
            yield "string", [term, after(term)]
        elif node.modifier == "below":
            within = term if term.endswith("/") else f"{term}/"
            yield "uri below", [within, f"{within[:-1]}0", bounded(term)]
        elif node.modifier == "above":
            yield "uri above", [_ancestors(term)]
        elif self.kinds(type)[node.parameter].canonical:
            yield self.url(term)
        else:
            yield "uri", [bounded(term)]

    def token(self, system: str | None, code: str) -> Iterator[tuple[str, list[Any]]]:
        """Yield how a token fits; a system without a number fits nothing (search.html#token)."""
        exact, folded = bounded(code), bounded(fold_code(code))
        if system is None:
            same = exact == folded
            yield ("code", [exact]) if same else ("codes", [exact, folded])
        elif bounded(system) in self.systems:
            number = self.systems[bounded(system)]
            stored = exact if system in self.definitions.case_sensitive else folded
            yield ("system code", [stored, number]) if code else ("system", [number])

    def related(
        self, direction: str, system: str | None, code: str
    ) -> Iterator[tuple[str, list[Any]]]:
        """Yield how a code's descendants or ancestors fit, itself among them."""
        assert system is not None
        stored = stored_code(system, code, self.definitions.case_sensitive)
        number = self.systems.get(bounded(system), NOBODY)
        yield f"token {direction}", [number, stored, self.terminology.hierarchies[system]]

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

    @property
    def canonical(self) -> int:
        """The number of the system that stands for UCUM's base units."""
        return self.systems.get(CANONICAL, NOBODY)

    def quantity(self, prefix: str, term: QuantityTerm) -> Iterator[tuple[str, list[Any]]]:
        """Yield how a quantity fits: in any unit, a unit, any unit of a system, or one of it.

        A unit of UCUM that can be converted is looked for in base units (search.html#quantity).
        """
        given = _floats(prefix, term.number)
        code = [bounded(term.code)] if term.code else []
        if term.system is None:
            yield "code" if code else "", [*given, *code, self.canonical]
        elif term.system == UCUM and code and (unit := ucum.canonical(term.code)):
            try:
                scaled = _floats(prefix, term.number.scaled(unit.scale))
            except ValueError as error:
                raise refused("value", f"A quantity in base units: {error}", status=400) from None
            yield "system code", [*scaled, self.canonical, unit.code]
        elif (system := bounded(term.system)) in self.systems:
            yield "system code" if code else "system", [*given, self.systems[system], *code]

    # --- composites ----------------------------------------------------------------------------

    def composite(
        self, type: str, code: str, parts: tuple[Term, ...]
    ) -> Iterator[tuple[str, list[Any]]]:
        """Yield each way in which the terms of a composite fit one instance together."""
        halves = [list(self.half(part)) for part in parts]
        for n in range(2, len(parts)):  # a third component has rows of its own
            number = self.params[type, f"{code}:{n + 1}"]
            halves[n] = [(name, [number, *given]) for name, given in halves[n]]
        for chosen in product(*halves):
            names, given = [name for name, _ in chosen], [v for _, own in chosen for v in own]
            yield f"composite {'|'.join(names)}", given

    def half(self, term: Term) -> Iterator[tuple[str, list[Any]]]:
        """Yield how one component fits its half of the row."""
        match term:
            case Token(system, code):
                yield from self.token(system, code)
            case Ordered(prefix, Interval(lo, hi)):
                yield f"date:{prefix}", [float(lo), float(hi)]
            case Ordered(prefix, NumberTerm() as number):
                yield f"quantity :{prefix}", [*_floats(prefix, number), self.canonical]
            case Ordered(prefix, QuantityTerm() as quantity):
                for unit, given in self.quantity(prefix, quantity):
                    yield f"quantity {unit}:{prefix}", given
            case Reference():
                types = [term.type] if term.type else self.definitions.resource_types
                for kind in types if term.id else [""]:
                    yield "code", [bounded(f"{kind}/{term.id}" if term.id else term.url)]
            case str():
                yield "text", [term, after(term)]


def either(shapes: list[Shape]) -> Shape:
    """Return what one of the shapes finds; nothing, where there is none."""
    if not shapes:
        return ("nothing",)
    return shapes[0] if len(shapes) == 1 else ("or", *shapes)


def has_canonical_url(definitions: Definitions, type: str) -> bool:
    """Return whether a canonical can name resources of a type: the `url` of a Device is none.

    What a canonical names has a version as well (references.html#canonical).
    """
    known = definitions.search_parameters[type]
    kinds = [known[code].type for code in ("url", "version") if code in known]
    return kinds == ["uri", "token"]


def _listed(names: list[str], values: list[Any]) -> tuple[list[str], list[Any]]:
    """Return many operations of one value each as one of a list: then any number has one shape."""
    if len(names) > MANY and len(set(names)) == 1 and names[0] in ("id", "token code"):
        return [f"{names[0]} list"], [values]
    return names, values


def _floats(prefix: str, number: NumberTerm) -> list[Any]:
    lo, hi = number.near() if prefix == "ap" else (number.lo, number.hi)
    return [number.exact, lo, hi]


def _ancestors(url: str) -> list[str]:
    """Return a URL and those above it, cut at each slash (search.html#uri)."""
    scheme, slashes, rest = url.rstrip("/").partition("://")
    if not slashes:
        return [bounded(url)]
    parts = rest.split("/")
    above = [f"{scheme}://{'/'.join(parts[:n])}" for n in range(1, len(parts) + 1)]
    return [bounded(one) for one in dict.fromkeys([url, *above, *(f"{one}/" for one in above)])]


def _sphere(place: Near) -> list[float]:
    """Return the band of z, the point and the squared chord within which a place is near."""
    latitude, longitude = radians(place.latitude), radians(place.longitude)
    angle = min(place.kilometres / EARTH_KILOMETRES, pi)
    low = sin(max(latitude - angle, -pi / 2)) if latitude - angle > -pi / 2 else -1.0
    high = sin(min(latitude + angle, pi / 2)) if latitude + angle < pi / 2 else 1.0
    x, y, z = cos(latitude) * cos(longitude), cos(latitude) * sin(longitude), sin(latitude)
    chord = 2 * sin(angle / 2)
    return [low - 1e-12, high + 1e-12, x, y, z, chord * chord + 1e-15]


def after(text: str) -> str:
    """Return the first text after all that begin with `text`, in code point order."""
    for n in range(len(text) - 1, -1, -1):
        point = ord(text[n])
        if point < 0x10FFFF:
            following = 0xE000 if point == 0xD7FF else point + 1  # no surrogates
            return text[:n] + chr(following)
    return "\U0010ffff" * 201


class Named(NamedTuple):
    """What trees name that has to be looked up before they can be lowered.

    `hierarchies` are the code systems whose hierarchy is asked for, "" where a term names none.
    """

    systems: set[str]
    value_sets: set[str]
    hierarchies: set[str]


def named(trees: Iterable[Query]) -> Named:
    """Return what all these trees name."""
    found = Named(set(), set(), set())
    for tree in trees:
        for match in _matches(tree):
            for term in match.terms:
                found.systems.update(_systems_of(term))
                if match.modifier == "in" and isinstance(term, str):
                    found.value_sets.add(term)
                if match.modifier in ("below", "above") and isinstance(term, Token):
                    found.hierarchies.add(term.system or "")
    return found


def _matches(node: Query) -> Iterator[Match]:
    """Yield the criteria of a tree, those at the ends of chains included."""
    match node:
        case Match():
            yield node
        case Not(part) | Chain(_, _, part) | Has(_, _, part):
            yield from _matches(part)
        case Attached(shown):
            for _, part in shown:
                yield from _matches(part)
        case And(parts) | Or(parts) | Same(parts):
            for part in parts:
                yield from _matches(part)


def _systems_of(term: Term) -> Iterator[str]:
    """Yield the systems of a term; quantities and numbers are also compared in base units."""
    match term:
        case Token(str(system), _) | TypedIdentifier(system, _, _):
            yield bounded(system)
        case Ordered(_, QuantityTerm() as quantity):
            yield bounded(quantity.system or "")
            yield CANONICAL
        case Ordered(_, NumberTerm()):
            yield CANONICAL
        case Composite(parts):
            for part in parts:
                yield from _systems_of(part)
