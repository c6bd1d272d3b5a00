"""The index of a resource: its rows, the compartments that hold it, when it happened.

https://hl7.org/fhir/R4/search.html
https://hl7.org/fhir/R4/compartmentdefinition.html
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, tzinfo
from functools import lru_cache
from typing import Any

from app.fhir.definitions import Definitions, SearchParameter
from app.fhir.index import converters
from app.fhir.index.converters import CONVERTERS, Pair, Table
from app.fhir.index.extraction import Leaf, Node, Path, children, function, resolve
from app.fhir.path import parse
from app.fhir.values import ALWAYS, bounded, stored_code
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

# Parameters without rows: columns of the resource table, and kinds that have rooms of their own
COLUMNS = {"_id", "_lastUpdated"}
ELSEWHERE = {"composite", "special"}


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
        self.names = vars(converters) | {
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
