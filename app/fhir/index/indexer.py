"""The index of a resource: its rows, the compartments that hold it, when it happened.

https://hl7.org/fhir/R4/search.html
https://hl7.org/fhir/R4/compartmentdefinition.html
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, tzinfo
from functools import lru_cache
from itertools import combinations
from typing import Any

from app.fhir.definitions import Definitions, SearchParameter
from app.fhir.index import converters
from app.fhir.index.converters import CONVERTERS, VARIANTS, VARIANTS_OF, Pair, Table, Variant
from app.fhir.index.extraction import (
    COLUMNS,
    FIRST,
    SECOND,
    Leaf,
    Node,
    Path,
    Step,
    children,
    function,
    resolve,
)
from app.fhir.index.texts import all_words, narrative_words
from app.fhir.path import parse
from app.fhir.query import BINARY, CONTEXT, POINTS
from app.fhir.values import (
    ALWAYS,
    bounded,
    links_in,
    parse_reference,
    references_in,
    stored_code,
)
from app.fhir.wire import Resource

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

# The name of the rows of references that no search parameter reads: some have to know them all
OTHER_REFERENCES = "_reference:other"

# Elements on a path: Python has at most 20 loops in each other
DEEPEST = 16

Coded = tuple[str, str]  # a system, and a code of it

# Parameters without rows: they are columns of the resource table
IN_RESOURCE = {"_id", "_lastUpdated"}


@dataclass(frozen=True, slots=True)
class Rows:
    """All that the index holds of one resource; every table without duplicates, in a fixed order.

    The columns after the parameter's code: of a token its system and code; of a reference the type
    and id or, for a resource elsewhere, "" and the URL; of a date lo and hi, half-open; of a
    quantity or number its system, its unit, lo and hi, closed; of a string its folded and its
    exact beginning; of a uri the URL and the version; of a position its z, x and y on the unit
    sphere. A composite has the number of the element, then system and code of its first component,
    then system, code, lo and hi of its second; what a component has none of is "" and 0.0.

    References that no search parameter reads, and are to no version, stand under OTHER_REFERENCES;
    whatever points at a Binary stands under POINTS as well, and what a Binary names as its security
    context under CONTEXT.

    Rows for a modifier stand under `code:text`, `code:identifier`, `code:of-type`; those of a
    composite's first and third component under `code:3`.

    `present` names the parameters with any value, indexed or not. `patients` are the ids of the
    Patients whose compartment holds the resource, `compartments` the (type, id) of the others.
    `occurred` is the microsecond of the primary clinical date.

    `texts` are the words of the narrative and of the whole resource, parted by spaces; none of both
    where they are not indexed.
    """

    token: tuple[tuple[str, str, str], ...]
    reference: tuple[tuple[str, str, str], ...]
    date: tuple[tuple[str, int, int], ...]
    quantity: tuple[tuple[str, str, str, float, float], ...]
    string: tuple[tuple[str, str, str], ...]
    uri: tuple[tuple[str, str, str], ...]
    composite: tuple[tuple[str, int, str, str, str, str, float, float], ...]
    position: tuple[tuple[str, float, float, float], ...]
    present: tuple[str, ...]
    patients: tuple[str, ...]
    compartments: tuple[tuple[str, str], ...]
    occurred: int | None
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ParameterRows:
    """Where the rows of a parameter are, for whoever writes a query over them.

    `tables` is empty for a parameter without rows (`_id`, `_filter`) and has two entries where a
    reference may also be a canonical. `systems` are the systems that stand by themselves for a
    code. `canonical` says that `|` parts a version from every URL. `variants` are the modifiers
    that have rows of their own. `single` says that no resource has two rows in the one table.
    """

    tables: tuple[Table, ...] = ()
    systems: frozenset[str] = frozenset()
    canonical: bool = False
    variants: frozenset[Variant] = frozenset()
    single: bool = False


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
    """Makes the index rows of resources; owns the functions compiled for their types so far.

    `texts` says whether it indexes words as well. `rosters` is the system and code of the Groups
    that are in no compartment: to be in one tells nobody who else is, and no record opens it.
    """

    def __init__(
        self,
        definitions: Definitions,
        base_url: str,
        zone: tzinfo = UTC,
        *,
        texts: bool = False,
        rosters: Coded | None = None,
    ) -> None:
        self.definitions = definitions
        self.base_url = base_url.rstrip("/")
        self.types = frozenset(definitions.resource_types)
        self.zone = zone
        self.texts = texts
        self.rosters = rosters
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
        self.names = vars(converters) | {
            "known": lambda s, c: cached(s, c) if len(s) + len(c) < 300 else known(s, c),
            "sensitive": sensitive,
            "implied": {"": {}} | self.implied,
            "base_url": self.base_url,
            "types": self.types,
            "zone": zone,
        }
        self.roster = ("code", *known(*rosters)) if rosters else None
        self.trees = lru_cache(None)(parse)
        self.compiled: dict[str, Extractor] = {}

    def rows(self, resource: Resource, raw: bytes = b"") -> Rows:
        """Return everything that the index holds of a resource; broken values are left out.

        `raw` is the same as compact JSON: where references are found that no parameter reads.
        """
        kind = resource["resourceType"]
        compiled = self.compiled.get(kind) or self.compile(kind)
        (tokens, references, dates, quantities, strings, uris, composites, positions, present) = (
            map(tuple, compiled.extract(resource))
        )
        closed = kind == "Group" and self.roster in tokens
        placing = () if closed else references
        patients, others = compartments(compiled, resource.get("id", ""), placing)
        return Rows(
            token=tokens,
            reference=(
                *references,
                *self.other_references(raw, references),
                *self.binaries(resource, raw),
            ),
            date=dates,
            quantity=quantities,
            string=strings,
            uri=uris,
            composite=composites,
            position=positions,
            present=present,
            patients=patients,
            compartments=others,
            occurred=occurred(compiled.dates, dates),
            texts=(narrative_words(resource), all_words(resource)) if self.texts else (),
        )

    def other_references(
        self, raw: bytes, references: Iterable[tuple[str, str, str]]
    ) -> tuple[tuple[str, str, str], ...]:
        """Return rows for the references in `raw` to resources of this server that have none."""
        known = {f"{kind}/{identity}" for _, kind, identity in references}
        rest = references_in(raw) - known
        if not rest:
            return ()
        found: dict[tuple[str, str, str], None] = {}
        for text in rest:
            target = parse_reference(text, self.base_url)
            ours = target.type in self.types and target.id and not target.version
            if ours and f"{target.type}/{target.id}" not in known:
                found[OTHER_REFERENCES, target.type, target.id] = None
        return tuple(sorted(found))

    def binaries(self, resource: Resource, raw: bytes) -> tuple[tuple[str, str, str], ...]:
        """Return rows for what of `raw` points at Binaries of this server, and for their context.

        A reference to a version points at the Binary as well, and so does the URL of an attachment.
        """
        found: dict[tuple[str, str, str], None] = {}
        for text in links_in(raw) if BINARY.encode() in raw else ():
            target = parse_reference(text, self.base_url)
            if target.type == BINARY and target.id:
                found[POINTS, BINARY, target.id] = None
        context = resource.get("securityContext")
        if resource["resourceType"] == BINARY and isinstance(context, dict):
            target = parse_reference(str(context.get("reference", "")), self.base_url)
            if target.type in self.types and target.id:
                found[CONTEXT, target.type, target.id] = None
        return tuple(sorted(found))

    def parameter_kinds(self, kind: str) -> Mapping[str, ParameterRows]:
        """Return, for every parameter of a type by code, where its rows are."""
        return (self.compiled.get(kind) or self.compile(kind)).parameters

    def clinical_dates(self, kind: str) -> tuple[str, ...]:
        """Return the parameters of a type from which `occurred` is taken, the first first."""
        return tuple((self.compiled.get(kind) or self.compile(kind)).dates)

    def numbered(self, kind: str) -> tuple[str, ...]:
        """Return the names under which a type may have rows: `code`, `code:text`, `code:3`.

        By the search types alone, so that a server can start without compiling anything: some of
        the variants never get a row.
        """
        searched = (
            name
            for code, parameter in self.definitions.search_parameters[kind].items()
            for name in (
                code,
                *(f"{code}:{variant}" for variant in VARIANTS_OF.get(parameter.type, ())),
                *(f"{code}:{n}" for n in range(3, len(parameter.components) + 1)),
            )
        )
        return (*searched, OTHER_REFERENCES, *((POINTS, CONTEXT) if kind == BINARY else ()))

    def compile(self, kind: str) -> Extractor:
        """Return the extractor of a type, made and kept."""
        root = Node()
        parameters = {
            code: (self.pair if parameter.components else self.place)(parameter, kind, root)
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

    def understood(self, parameter: SearchParameter, kind: str) -> ParameterRows:
        """Return where the rows of a parameter would be; ValueError says why there can be none."""
        root = Node()
        rows = (self.pair if parameter.components else self.place)(parameter, kind, root)
        if root.depth() > DEEPEST:
            raise ValueError(f"it is more than {DEEPEST} elements deep")
        return rows

    def place(self, parameter: SearchParameter, kind: str, root: Node) -> ParameterRows:
        """Lay the paths of a parameter into the tree; return where its rows will be."""
        tables: dict[Table, None] = {}
        systems: set[str] = set()
        urls: set[str] = set()
        variants: set[Variant] = set()
        indexed: list[Path] = []
        single = True
        for path in self.paths(parameter, kind):
            leaf = Leaf(present=parameter.code, only=path.only)
            if found := CONVERTERS.get((parameter.type, path.type)):
                columns = COLUMNS[found.table]
                leaf = replace(
                    leaf,
                    call=self.call(found.call, path),
                    row=f"{found.table}_rows[{parameter.code!r}, {columns}]",
                    columns=columns,
                )
                tables[found.table] = None
                systems.update(system for system, _ in self.implied.get(path.binding, {}).values())
                urls.update([path.type] if found.table == "uri" else ())
                variants.update(self.vary(parameter, path, root))
                indexed.append(path)
                single &= found.single and path.single
            root.at(path.steps).leaves.append(leaf)
            if (parameter.type, path.type) == ("reference", "canonical"):
                # references.html#canonical: it may be the address at which a resource is kept
                row = f"reference_rows[{parameter.code!r}, {COLUMNS['reference']}]"
                call = "ours({v}, base_url, types)"
                root.at(path.steps).leaves.append(Leaf(call, row, COLUMNS["reference"]))
                tables["reference"] = None
        single &= all(one.excludes(other) for one, other in combinations(indexed, 2))
        return ParameterRows(
            tuple(tables),
            frozenset(systems),
            canonical=urls == {"canonical"},
            variants=frozenset(variants),
            single=single and len(tables) == 1,
        )

    def vary(self, parameter: SearchParameter, path: Path, root: Node) -> Iterator[Variant]:
        """Lay the ways from a value to what modifiers look at into the tree; yield those there are.

        https://hl7.org/fhir/R4/search.html#modifiers
        """
        for search_type, datatype, variant, way, table, call in VARIANTS:
            if (search_type, datatype) == (parameter.type, path.type):
                row = f"{table}_rows['{parameter.code}:{variant}', {COLUMNS[table]}]"
                leaf = Leaf(call, row, COLUMNS[table])
                steps = path.steps
                if path.only:
                    test = f"{way!r} in {{v}} and elsewhere({{v}}, base_url) == {path.only!r}"
                    steps = (*steps, Step(test, "if"))
                for further in resolve(self.trees(way), path.type, self.definitions):
                    root.at((*steps, *further.steps)).leaves.append(leaf)
                yield variant

    def pair(self, parameter: SearchParameter, kind: str, root: Node) -> ParameterRows:
        """Lay the halves of a composite into the tree at each of its elements.

        https://hl7.org/fhir/R4/search.html#composite
        """
        components = self.definitions.components(kind, parameter.code)
        for path in self.paths(parameter, kind):
            element = root.at(path.steps)
            first, *others = (
                self.half(component, expression, path, root, FIRST if n == 0 else SECOND)
                for n, (component, expression) in enumerate(components)
            )
            for n, other in enumerate(others, 2):
                name = parameter.code if n == 2 else f"{parameter.code}:{n}"
                element.pairs.setdefault((first, other), []).append(name)
        return ParameterRows(("composite",))

    def half(
        self,
        component: SearchParameter,
        expression: str,
        path: Path,
        root: Node,
        columns: Mapping[Table, str],
    ) -> str:
        """Return the name of a half, filled by what a component has in the element at `path`."""
        halves = root.at(path.steps).halves
        filled_by = ("first" if columns is FIRST else "second", component.type, expression)
        if filled_by in halves:
            return halves[filled_by]
        # A name for each half on the way to an element is enough: no two elements are open twice
        halves[filled_by] = name = f"h{len(path.steps)}_{len(halves)}"
        for further in resolve(self.trees(expression), path.type, self.definitions):
            if found := CONVERTERS.get((component.type, further.type)):
                leaf = Leaf(
                    self.call(found.call, further),
                    f"{name}[{columns[found.table]}]",
                    COLUMNS[found.table],
                )
                root.at((*path.steps, *further.steps)).leaves.append(leaf)
        return name

    def call(self, call: str, path: Path) -> str:
        """Return a converter's call with what the binding of a code implies."""
        return call.replace("{systems}", f"implied[{path.binding!r}]")

    def paths(self, parameter: SearchParameter, kind: str) -> Iterator[Path]:
        """Yield the paths of a parameter to elements, with what its definition says besides.

        A parameter that ends at an extension means what the extension holds; one that ends at a
        resource in place (Bundle.entry.resource) means one of its target type.
        """
        if parameter.code in IN_RESOURCE or not parameter.expression:
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
