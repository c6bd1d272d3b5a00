"""What the search index holds of a resource: its rows, the patients it is about, when it happened.

https://hl7.org/fhir/R4/search.html
https://hl7.org/fhir/R4/compartmentdefinition.html

Rule 1: rows are symbolic. They hold parameter codes, systems and ids as text; the store knows the
numbers that stand for them. Rule 2: no column is None and no text is longer than an index entry
may be (`values.bounded`, NORM_LENGTH). Rule 3: total. Validation comes before, so a value that is
broken all the same loses its own row and raises nothing.

Theory of operation. The expression of every search parameter of a type is resolved against the
definitions into paths: choices, unions and casts become plain child steps with a known datatype at
the end. The paths of all parameters are laid into one tree, so that a shared beginning is walked
once, and the tree is written out as one Python function per type, compiled on first use. At a leaf
stands a call of a converter, chosen from CONVERTERS by search type and datatype, which returns the
row without the parameter's code; each parameter that ends there adds the row under its own code.

    v1 = resource.get("status")
    if v1 is not None:
        present["status"] = None
        for a, b in code(v1, c1):
            token["status", a, b] = None

Composites will read the same converters: they pair the tails of two components per element.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, tzinfo
from decimal import Decimal
from functools import lru_cache
from typing import Any, Literal

from app.fhir.definitions import Definitions, Element, SearchParameter
from app.fhir.path import Binary, Call, Expression, Index, Member, TypeTest, parse
from app.fhir.path import Literal as Constant
from app.fhir.values import (
    ALWAYS,
    LEAST,
    MOST,
    NEVER,
    NORM_LENGTH,
    bounded,
    bounds,
    fold,
    is_id,
    parse_date,
    parse_reference,
    split_canonical,
    stored_code,
)
from app.fhir.wire import Resource

Table = Literal["token", "reference", "date", "quantity", "string", "uri"]
Pair = tuple[str, str]
Quantity = tuple[str, str, float, float]


@dataclass(frozen=True, slots=True)
class Rows:
    """All that the index holds of one resource; every table without duplicates, in a fixed order.

    The columns after the parameter's code: of a token its system and code; of a reference the type
    and id or, for a resource elsewhere, "" and the URL; of a date lo and hi, half-open; of a
    quantity or number its system, its unit, lo and hi, closed; of a string its folded and its
    exact beginning; of a uri the URL and the version.

    `present` names the parameters with any value, indexed or not. `patients` are the ids of the
    Patients whose compartment holds the resource, `compartments` the (type, id) of the others.
    `occurred` is the microsecond of the primary clinical date.
    """

    token: tuple[tuple[str, str, str], ...]
    reference: tuple[tuple[str, str, str], ...]
    date: tuple[tuple[str, int, int], ...]
    quantity: tuple[tuple[str, str, str, float, float], ...]
    string: tuple[tuple[str, str, str], ...]
    uri: tuple[tuple[str, str, str], ...]
    present: tuple[str, ...]
    patients: tuple[str, ...]
    compartments: tuple[tuple[str, str], ...]
    occurred: int | None


@dataclass(frozen=True, slots=True)
class ParameterRows:
    """Where the rows of a parameter are, for whoever writes a query over them.

    `tables` is empty for a parameter without rows (`_id`, composites, special ones) and has two
    entries where a reference may also be a canonical. `systems` are the systems that stand by
    themselves for a code. `canonical` says that `|` parts a version from every URL.
    """

    tables: tuple[Table, ...] = ()
    systems: frozenset[str] = frozenset()
    canonical: bool = False


# ------------------------------------------------------------------------------- converters
#
# search.html#ptypes: from a value to the ends of its rows. They raise on broken values, and the
# generated functions catch that at the element.

BROKEN = (AttributeError, TypeError, ValueError, LookupError, ArithmeticError)

SPECIAL_VALUES = "http://terminology.hl7.org/CodeSystem/special-values"
CURRENCY = "urn:iso:std:iso:4217"

Known = Callable[[str, str], Pair]


def concept(value: Resource, known: Known) -> list[Pair]:
    """Return the codings of a CodeableConcept; each may match."""
    return [pair for one in value.get("coding", ()) for pair in coding(one, known)]


def coding(value: Resource, known: Known) -> tuple[Pair, ...]:
    """Return the system and the code of a Coding."""
    system, code = value.get("system", ""), value.get("code", "")
    return (known(system, code),) if system or code else ()


def identifier(value: Resource, sensitive: Container[str]) -> tuple[Pair, ...]:
    """Return the system and the value of an Identifier."""
    system, text = value.get("system", ""), value.get("value", "")
    return ((bounded(system), stored_code(system, text, sensitive)),) if system or text else ()


def contact(value: Resource) -> tuple[Pair, ...]:
    """Return the value of a ContactPoint, which has no namespace (search.html#token)."""
    text = value.get("value")
    return (("", stored_code("", text, ())),) if text else ()


def code(value: str, systems: Mapping[str, Pair]) -> tuple[Pair, ...]:
    """Return a code with the system that its required binding implies, "" where none does."""
    return (systems.get(value) or ("", stored_code("", value, ())),)


def boolean(value: bool) -> tuple[Pair, ...]:
    """Return true or false as a code of the system that search.html#token names for them."""
    return ((SPECIAL_VALUES, "true" if value else "false"),)


def string(value: str) -> tuple[Pair, ...]:
    """Return the beginning of a string, folded and as it is."""
    return ((fold(value)[:NORM_LENGTH], value[:NORM_LENGTH]),)


def parts(value: Resource, names: tuple[str, ...]) -> Iterator[Pair]:
    """Yield the strings of a HumanName or an Address: any of its parts may match."""
    for name in names:
        found = value.get(name)
        if found is not None:
            for text in found if isinstance(found, list) else (found,):
                if text is not None:
                    yield fold(text)[:NORM_LENGTH], text[:NORM_LENGTH]


NAME_PARTS = ("text", "family", "given", "prefix", "suffix")
ADDRESS_PARTS = ("text", "line", "city", "district", "state", "postalCode", "country")


def moment(value: str, zone: tzinfo) -> tuple[tuple[int, int], ...]:
    """Return the interval of a date, dateTime or instant."""
    return (parse_date(value, zone),)


def period(value: Resource, zone: tzinfo) -> tuple[tuple[int, int], ...]:
    """Return the interval of a Period, from the start of its start to the end of its end."""
    start, end = value.get("start"), value.get("end")
    lo = ALWAYS if start is None else parse_date(start, zone).lo
    hi = NEVER if end is None else parse_date(end, zone).hi
    return ((lo, hi),) if lo < hi and (start or end) else ()


def timing(value: Resource, zone: tzinfo) -> tuple[tuple[int, int], ...]:
    """Return the outer limits of a Timing; what lies between does not matter (search.html#date)."""
    found: list[tuple[int, int]] = [parse_date(e, zone) for e in value.get("event", ()) if e]
    found += period(value.get("repeat", {}).get("boundsPeriod", {}), zone)
    return ((min(lo for lo, _ in found), max(hi for _, hi in found)),) if found else ()


def quantity(value: Resource) -> Iterator[Quantity]:
    """Yield the row of a Quantity and, where its unit reads otherwise than its code, another."""
    if (number := value.get("value")) is None:
        return
    lo, hi = bounds(number, value.get("comparator"))
    written, unit = value.get("code", ""), value.get("unit", "")
    if written or not unit:
        yield bounded(value.get("system", "")), bounded(written), lo, hi
    if unit and unit != written:  # search.html#quantity: ||mg is the code or the stated unit
        yield "", bounded(unit), lo, hi


def money(value: Resource) -> tuple[Quantity, ...]:
    """Return an amount in the currency that is its unit."""
    if (number := value.get("value")) is None:
        return ()
    return ((CURRENCY, bounded(value.get("currency", "")), *bounds(number)),)


def span(value: Resource) -> Iterator[Quantity]:
    """Yield a Range as a Quantity whose value is an interval, open where a limit is missing."""
    low, high = value.get("low", {}), value.get("high", {})
    for limit in (low, high):
        if "value" in limit:
            lo = bounds(low["value"])[0] if "value" in low else LEAST
            hi = bounds(high["value"])[1] if "value" in high else MOST
            for system, unit, _, _ in quantity(limit):
                yield system, unit, lo, hi


def number(value: int | Decimal) -> tuple[Quantity, ...]:
    """Return a number as a quantity without unit."""
    return (("", "", *bounds(value)),)


def reference(value: Resource, base_url: str, types: Container[str]) -> tuple[Pair, ...]:
    """Return the type and id of a resource of this server, or "" and the URL of one elsewhere.

    A contained resource, or an identifier without a literal reference, gives ().
    """
    text = value.get("reference", "")
    kind, _, identity = text.partition("/")
    if kind in types and is_id(identity):
        return ((kind, identity),)
    target = parse_reference(text, base_url)
    if target.id and target.type in types:
        return ((target.type, target.id),)
    url = target.url or (text if target.id else "")
    return (("", bounded(url)),) if url else ()


def elsewhere(value: Resource, base_url: str) -> str:
    """Return the type of what a Reference finds elsewhere, as far as it or its URL says so."""
    return value.get("type") or parse_reference(value["reference"], base_url).type


def inline(value: Resource, types: Container[str]) -> tuple[Pair, ...]:
    """Return the type and id of a resource that stands in place (Bundle.entry.resource)."""
    kind, identity = value.get("resourceType", ""), value.get("id", "")
    return ((kind, identity),) if kind in types and is_id(identity) else ()


def uri(value: str) -> tuple[Pair, ...]:
    """Return a URI whole."""
    return ((bounded(value), ""),)


def canonical(value: str) -> tuple[Pair, ...]:
    """Return the URL and the version of a canonical; () for a contained resource."""
    url, version = split_canonical(value)
    return ((bounded(url), bounded(version)),) if url else ()


def has_extension(value: Resource, url: str) -> bool:
    """Return whether an element has an extension of this URL."""
    return any(one.get("url") == url for one in value.get("extension", ()))


# search.html#ptypes: search type, its datatypes, the table, and the call. What the names in a call
# stand for is in `Indexer.names`; {systems} is what the binding of a code implies. SampledData has
# no entry (no single value), nor has text where a date is asked for: they count for `present` only.
CALLS: tuple[tuple[str, str, Table, str], ...] = (
    ("token", "CodeableConcept", "token", "concept({v}, known)"),
    ("token", "Coding", "token", "coding({v}, known)"),
    ("token", "Identifier", "token", "identifier({v}, sensitive)"),
    ("token", "ContactPoint", "token", "contact({v})"),
    ("token", "boolean", "token", "boolean({v})"),
    ("token", "code id string uri url canonical oid uuid", "token", "code({v}, {systems})"),
    ("string", "string markdown", "string", "string({v})"),
    ("string", "HumanName", "string", "parts({v}, NAME_PARTS)"),
    ("string", "Address", "string", "parts({v}, ADDRESS_PARTS)"),
    ("date", "date dateTime instant", "date", "moment({v}, zone)"),
    ("date", "Period", "date", "period({v}, zone)"),
    ("date", "Timing", "date", "timing({v}, zone)"),
    ("quantity", "Quantity Age Count Distance Duration", "quantity", "quantity({v})"),
    ("quantity", "Money", "quantity", "money({v})"),
    ("quantity number", "Range", "quantity", "span({v})"),
    ("number", "integer decimal positiveInt unsignedInt", "quantity", "number({v})"),
    ("reference", "Reference", "reference", "reference({v}, base_url, types)"),
    ("reference", "Resource", "reference", "inline({v}, types)"),
    ("reference uri", "canonical", "uri", "canonical({v})"),
    ("reference uri", "uri url oid uuid", "uri", "uri({v})"),
)
CONVERTERS: dict[tuple[str, str], tuple[Table, str]] = {
    (search_type, datatype): (table, call)
    for search_types, datatypes, table, call in CALLS
    for search_type in search_types.split()
    for datatype in datatypes.split()
}

WIDTH = {"quantity": 4}  # columns of a row besides its parameter; the other tables have two

# The parameter that says when a resource happened: the first of these that a resource has a row
# for. `date` is R4's own common name for it; then when it was asked for, when it was so, and when
# it was written down.
CLINICAL_DATES = (
    *("date", "authoredon", "authored-on", "authored", "datewritten", "datetime"),
    *("onset-date", "occurrence", "effective", "effective-time", "started", "start"),
    *("start-date", "collected", "sent", "received", "whenhandedover", "whenprepared"),
    *("identified", "when", "event-date", "period", "recorded-date", "recorded"),
    *("entered-date", "created", "timestamp", "issued", "birthdate"),
)

# Parameters without rows: columns of the resource table, and kinds that have rooms of their own
COLUMNS = {"_id", "_lastUpdated"}
ELSEWHERE = {"composite", "special"}

# ------------------------------------------------------------------------------------ paths


@dataclass(frozen=True, slots=True)
class Step:
    """One move: to the children of a JSON name, past a test, or to a computed value.

    `source` is Python over {v}, the value so far; `over` says what to do with its result.
    """

    source: str
    over: Literal["each", "each primitive", "one", "if"]


@dataclass(frozen=True, slots=True)
class Path:
    """A way from a resource to values of one datatype.

    `binding` is the value set that a code there must be from, "" where none is required; `only`
    the type that a reference must point at, "" for any.
    """

    steps: tuple[Step, ...]
    type: str
    binding: str = ""
    only: str = ""


def resolve(tree: Expression, kind: str, definitions: Definitions) -> list[Path]:
    """Return the paths that a search expression means for resources of type `kind`.

    What search parameters use is understood: members, unions, casts, an index, `where` with a
    simple test or `resolve() is T`, `extension`, and a test as the whole expression. Alternatives
    that belong to other types give nothing. ValueError for anything else.
    https://hl7.org/fhir/R4/searchparameter.html#expression
    """

    def inside(source: Expression | None) -> list[Path]:
        return [Path((), kind)] if source is None else resolve(source, kind, definitions)

    match tree:
        case Member(None, name) if name in definitions.structures and name[0].isupper():
            known = name == kind or name in definitions.ancestors(kind)
            return [Path((), kind)] if known else []
        case Member(source, name):
            return [c for p in inside(source) for c in children(p, name, definitions)]
        case Binary("|", left, right):
            return inside(left) + inside(right)
        case TypeTest("as" | "ofType", source, named):
            return [p for p in inside(source) if named in (p.type, *definitions.ancestors(p.type))]
        case Index(source, Constant(int(at))):
            return [item(p, at) for p in inside(source)]
        case Call(source, "where", (TypeTest("is", Call(None, "resolve", ()), named),)):
            return [replace(p, only=named) for p in inside(source)]
        case Call(source, "where", (condition,)):
            return [
                replace(p, steps=(*p.steps, Step(test(condition, p.type, definitions), "if")))
                for p in inside(source)
            ]
        case Call(source, "extension", (Constant(str(url)),)):
            matching = Step(f"{{v}}.get('url') == {url!r}", "if")
            return [
                replace(c, steps=(*c.steps, matching))
                for p in inside(source)
                for c in children(p, "extension", definitions)
            ]
    return [Path((Step(test(tree, kind, definitions), "one"),), "boolean")]


def children(path: Path, name: str, definitions: Definitions) -> list[Path]:
    """Return the paths to the child elements of this name, one for each type of a choice."""
    if path.only:
        raise ValueError("nothing may follow where(resolve() is ...)")
    structure = definitions.structures[path.type]
    for element in structure.elements:
        if element.name == name:
            binding = element.binding if element.binding in definitions.codes else None
            return [
                Path(
                    (*path.steps, child(element, datatype, definitions)),
                    datatype,
                    binding or "",
                )
                for datatype in element.types
            ]
    return []


def child(element: Element, datatype: str, definitions: Definitions) -> Step:
    """Return the step to an element; where there is a choice, to the one of this datatype."""
    name = element.name + (datatype[0].upper() + datatype[1:] if element.choice else "")
    if not element.many:
        return Step(f"{{v}}.get({name!r})", "one")
    primitive = definitions.structures[datatype].kind == "primitive-type"
    return Step(f"{{v}}.get({name!r}, ())", "each primitive" if primitive else "each")


def item(path: Path, at: int) -> Path:
    """Return the path to one item of the array that `path` ends with."""
    *before, last = path.steps
    return replace(path, steps=(*before, replace(last, source=f"{last.source}[{at}:{at + 1}]")))


def test(tree: Expression, focus: str, definitions: Definitions) -> str:
    """Return a truth about an element of type `focus` as Python over {v}."""
    match tree:
        case Binary("and" | "or" as operator, left, right):
            return (
                f"({test(left, focus, definitions)} {operator} {test(right, focus, definitions)})"
            )
        case Binary("=", source, Constant(value)):
            return any_of(f"== {value!r}", source, focus, definitions)
        case Binary("!=", source, Constant(value)):
            return any_of(f"not in (None, {value!r})", source, focus, definitions)
        case Call(source, "exists", ()) if source is not None:
            return any_of("is not None", source, focus, definitions)
        case Call(None, "hasExtension", (Constant(str(url)),)):
            return f"has_extension({{v}}, {url!r})"
    raise ValueError(f"{tree} is more than a search expression may test")


def any_of(comparison: str, tree: Expression, focus: str, definitions: Definitions) -> str:
    """Return whether a comparison holds for one of the types of a single child, as Python."""
    paths = resolve(tree, focus, definitions)
    if not paths or any(len(p.steps) != 1 or p.steps[0].over != "one" for p in paths):
        raise ValueError(f"{tree} is more than a search expression may test")
    return "(" + " or ".join(f"{p.steps[0].source} {comparison}" for p in paths) + ")"


# ------------------------------------------------------------------------ generated functions


@dataclass(frozen=True, slots=True)
class Leaf:
    """A parameter that ends here, and the call that makes its rows; "" where there are none."""

    code: str
    call: str
    table: Table = "token"
    only: str = ""


@dataclass(slots=True)
class Node:
    """The paths of all parameters of a type, laid over each other."""

    leaves: list[Leaf] = field(default_factory=list)
    next: dict[Step, "Node"] = field(default_factory=dict)

    def at(self, steps: Iterable[Step]) -> "Node":
        """Return the node that `steps` lead to, made where it was not there."""
        node = self
        for step in steps:
            node = node.next.setdefault(step, Node())
        return node


TABLES: tuple[Table, ...] = ("token", "reference", "date", "quantity", "string", "uri")


def function(root: Node) -> str:
    """Return the source of a function from a resource to the rows of each table, and `present`.

    Each element of the resource is tried by itself, so that a broken one costs its own rows only.
    """
    names = [f"{table}_rows" for table in TABLES] + ["present"]
    lines = ["def extract(v0):", f"    {', '.join(names)} = {', '.join('{}' for _ in names)}"]
    for step, node in root.next.items():
        lines += ["    try:", *block(Node(next={step: node}), 0, "        ")]
        lines += ["    except BROKEN:", "        pass"]
    return "\n".join([*lines, f"    return {', '.join(names)}\n"])


def block(node: Node, depth: int, indent: str) -> Iterator[str]:
    """Yield the statements for a node whose value is the variable `v{depth}`."""
    value, deeper = f"v{depth}", f"v{depth + 1}"
    for call, leaves in grouped(node.leaves).items():
        yield from additions(leaves, call.replace("{v}", value), value, indent)
    for step, following in node.next.items():
        source = step.source.replace("{v}", value)
        if step.over == "if":
            yield f"{indent}if {source}:"
            yield from block(following, depth, indent + "    ")
        elif step.over == "each":
            yield f"{indent}for {deeper} in {source}:"
            yield from block(following, depth + 1, indent + "    ")
        elif step.over == "each primitive":  # json.html#primitive: null stands in for extensions
            yield f"{indent}for {deeper} in {source}:"
            yield f"{indent}    if {deeper} is not None:"
            yield from block(following, depth + 1, indent + "        ")
        else:
            yield f"{indent}{deeper} = {source}"
            yield f"{indent}if {deeper} is not None:"
            yield from block(following, depth + 1, indent + "    ")


def grouped(leaves: Iterable[Leaf]) -> dict[str, list[Leaf]]:
    """Return the leaves by their call: what several parameters want is converted once."""
    found: dict[str, list[Leaf]] = {}
    for leaf in leaves:
        found.setdefault(leaf.call, []).append(leaf)
    return found


def additions(leaves: list[Leaf], call: str, value: str, indent: str) -> Iterator[str]:
    """Yield the statements that add the rows of one call under the code of each parameter."""
    table = leaves[0].table
    columns = ", ".join("abcd"[: WIDTH.get(table, 2)])
    by_type: dict[str, list[str]] = {}
    for leaf in leaves:
        by_type.setdefault(leaf.only, []).append(leaf.code)
    if "" in by_type:
        yield indent + "".join(f"present[{code!r}] = " for code in by_type[""]) + "None"
    if call:
        yield f"{indent}for {columns} in {call}:"
    for only, codes in sorted(by_type.items()):
        rows = "".join(f"{table}_rows[{code!r}, {columns}] = " for code in codes)
        if call and not only:
            yield f"{indent}    {rows}None"
        elif call:
            here = "".join(f"present[{code!r}] = " for code in codes)
            yield f"{indent}    if (a or elsewhere({value}, base_url)) == {only!r}:"
            yield f"{indent}        {rows}{here}None"


# ----------------------------------------------------------------------------------- indexer


@dataclass(frozen=True, slots=True)
class Extractor:
    """What is compiled for a type: its function, its parameters, and what follows from its rows.

    `members` are the compartment types that a reference of each parameter may place the resource
    in, `itself` those that it is the centre of, `dates` the rank of each clinical date.
    """

    extract: Callable[[Resource], tuple[dict[Any, None], ...]]
    parameters: Mapping[str, ParameterRows]
    members: Mapping[str, frozenset[str]]
    itself: tuple[str, ...]
    dates: Mapping[str, int]


class Indexer:
    """Makes the index rows of resources; owns the functions compiled for their types so far."""

    def __init__(self, definitions: Definitions, base_url: str, zone: tzinfo = UTC) -> None:
        self.definitions = definitions
        sensitive = definitions.case_sensitive
        self.implied = {
            value_set: {
                code: (bounded(system), stored_code(system, code, sensitive))
                for code, system in codes.items()
            }
            for value_set, codes in definitions.codes.items()
        }

        def known(system: str, code: str) -> Pair:
            return bounded(system), stored_code(system, code, sensitive)

        # Codes repeat from resource to resource, so their rows are made once and shared
        cached = lru_cache(4096)(known)
        self.names = dict(globals()) | {
            "known": lambda s, c: cached(s, c) if len(s) + len(c) < 300 else known(s, c),
            "sensitive": sensitive,
            "implied": {"": {}} | self.implied,
            "base_url": base_url.rstrip("/"),
            "types": frozenset(definitions.resource_types),
            "zone": zone,
        }
        self.trees = lru_cache(None)(parse)
        self.compiled: dict[str, Extractor] = {}

    def rows(self, resource: Resource) -> Rows:
        """Return everything that the index holds of a resource; broken values are left out."""
        kind = resource["resourceType"]
        compiled = self.compiled.get(kind) or self.compile(kind)
        tokens, references, dates, quantities, strings, uris, present = map(
            tuple, compiled.extract(resource)
        )
        patients, others = compartments(compiled, resource.get("id", ""), references)
        return Rows(
            token=tokens,
            reference=references,
            date=dates,
            quantity=quantities,
            string=strings,
            uri=uris,
            present=present,
            patients=patients,
            compartments=others,
            occurred=occurred(compiled.dates, dates),
        )

    def parameter_kinds(self, kind: str) -> Mapping[str, ParameterRows]:
        """Return, for every parameter of a type by code, where its rows are."""
        return (self.compiled.get(kind) or self.compile(kind)).parameters

    def compile(self, kind: str) -> Extractor:
        """Return the extractor of a type, made and kept."""
        root = Node()
        parameters = {
            code: self.place(parameter, kind, root)
            for code, parameter in self.definitions.search_parameters[kind].items()
        }
        made: dict[str, Any] = {}
        exec(compile(function(root), f"<index of {kind}>", "exec"), self.names, made)
        members: dict[str, set[str]] = {}
        placing = self.definitions.compartments
        for compartment, of in placing.items():
            for code in of.get(kind, ()):
                members.setdefault(code, set()).add(compartment)
        self.compiled[kind] = extractor = Extractor(
            extract=made["extract"],
            parameters=parameters,
            members={code: frozenset(found) for code, found in members.items()},
            itself=tuple(c for c in placing if c == kind),
            dates={c: n for n, c in enumerate(CLINICAL_DATES) if c in parameters},
        )
        return extractor

    def place(self, parameter: SearchParameter, kind: str, root: Node) -> ParameterRows:
        """Lay the paths of a parameter into the tree; return where its rows will be."""
        tables: dict[Table, None] = {}
        systems: set[str] = set()
        urls: set[str] = set()
        for path in self.paths(parameter, kind):
            leaf = Leaf(parameter.code, "", only=path.only)
            if found := CONVERTERS.get((parameter.type, path.type)):
                table, call = found
                leaf = replace(
                    leaf, table=table, call=call.replace("{systems}", f"implied[{path.binding!r}]")
                )
                tables[table] = None
                systems.update(system for system, _ in self.implied.get(path.binding, {}).values())
                urls.update([path.type] if table == "uri" else ())
            root.at(path.steps).leaves.append(leaf)
        return ParameterRows(tuple(tables), frozenset(systems), urls == {"canonical"})

    def paths(self, parameter: SearchParameter, kind: str) -> Iterator[Path]:
        """Yield the paths of a parameter to elements, with what its definition says besides.

        A parameter that ends at an extension means what the extension holds; one that ends at a
        resource in place (Bundle.entry.resource) means one of its target type.
        """
        if parameter.code in COLUMNS or parameter.type in ELSEWHERE or not parameter.expression:
            return
        for path in resolve(self.trees(parameter.expression), kind, self.definitions):
            if path.type == "Extension":
                for held in children(path, "value", self.definitions):
                    if (parameter.type, held.type) in CONVERTERS:
                        yield held
            elif path.type == "Resource" and len(parameter.target) == 1:
                yield replace(path, only=parameter.target[0])
            else:
                yield path


def compartments(
    compiled: Extractor, identity: str, reference: Iterable[tuple[str, str, str]]
) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Return the Patients whose compartment holds a resource, and its other compartments.

    A Patient is in its own patient compartment alone: a link opens no record to another Patient.
    """
    patients: dict[str, None] = {}
    members = compiled.members
    others = dict.fromkeys((kind, identity) for kind in compiled.itself if identity)
    for code, kind, target in reference:
        if kind in members.get(code, ()) and "/" not in target:  # an id, not a URL elsewhere
            if kind == "Patient":
                patients[target] = None
            else:
                others[kind, target] = None
    if others.pop(("Patient", identity), 0) is None:
        return (identity,), tuple(others)
    return tuple(patients), tuple(others)


def occurred(dates: Mapping[str, int], rows: Iterable[tuple[str, int, int]]) -> int | None:
    """Return the start of the first clinical date that has one."""
    found = [(dates[code], lo) for code, lo, _ in rows if code in dates and lo != ALWAYS]
    return min(found)[1] if found else None
