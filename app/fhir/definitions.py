"""The R4 specification as data: structures, search parameters, codes, compartments.

https://hl7.org/fhir/R4/downloads.html (the official package hl7.fhir.r4.core 4.0.1)

Rule 1: nothing here is written by hand about one resource type. `app/fhir/data/build.py` compiles
the official package into `data/r4.json.gz` (`make definitions`), and `load` reads that file back
into the values below. Rule 2: a `Definitions` is a value; it never changes once loaded.
"""

import gzip
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from typing import Any, Literal

import msgspec

RESOLVED = re.compile(r"\.where\(resolve\(\) is (\w+)\)$")

ParameterType = Literal[
    "number", "date", "string", "token", "reference", "composite", "quantity", "uri", "special"
]


@dataclass(frozen=True, slots=True)
class Constraint:
    """An invariant of error severity: its key (`pat-1`), what it says, and its FHIRPath."""

    key: str
    human: str
    expression: str


@dataclass(frozen=True, slots=True)
class Element:
    """One child of a structure, as elementdefinition.html gives it.

    `name` is the JSON name without `[x]`; `types` are type codes (`string`, `HumanName`), or the
    path of a backbone structure (`Patient.contact`); `many` says that JSON holds an array;
    `binding` is the value set of a required binding, without version; `targets` are the resource
    types that a Reference (or canonical) may point at, empty for any.
    """

    name: str
    types: tuple[str, ...]
    min: int
    max: int | None
    many: bool
    choice: bool
    binding: str | None
    targets: tuple[str, ...]
    constraints: tuple[Constraint, ...]
    is_summary: bool


@dataclass(frozen=True, slots=True)
class Structure:
    """A resource, a datatype, a primitive, or a backbone element inside one of them.

    `name` is the type code, or the path for a backbone (`Patient.contact`). `base` is the type it
    specialises (`DomainResource`, `Quantity`), empty at the top. `pattern` is the regular
    expression of a primitive's text, where the specification gives one.
    """

    name: str
    kind: Literal["resource", "complex-type", "primitive-type", "backbone"]
    base: str
    abstract: bool
    elements: tuple[Element, ...]
    constraints: tuple[Constraint, ...]
    pattern: str | None


@dataclass(frozen=True, slots=True)
class Component:
    """One part of a composite: the URL of its parameter, and where it is read from."""

    code: str
    expression: str


@dataclass(frozen=True, slots=True)
class SearchParameter:
    """A search parameter: https://hl7.org/fhir/R4/searchparameter.html."""

    code: str
    url: str
    type: ParameterType
    expression: str
    base: tuple[str, ...]
    target: tuple[str, ...]
    components: tuple[Component, ...]
    description: str


@dataclass(frozen=True)
class Definitions:
    """The whole specification.

    `structures` by name, `parameters` in the official order, `codes` from value set to its codes
    and their systems (only the value sets of required bindings, fully enumerable), `compartments`
    from compartment type to resource type to the parameters that place a resource in it, and
    `case_sensitive` the code systems that declare themselves so.
    """

    version: str
    source: str
    structures: Mapping[str, Structure]
    parameters: tuple[SearchParameter, ...]
    codes: Mapping[str, Mapping[str, str]]
    compartments: Mapping[str, Mapping[str, tuple[str, ...]]]
    case_sensitive: frozenset[str]

    @cached_property
    def resource_types(self) -> tuple[str, ...]:
        """Return the names of all concrete resource types in alphabetical order."""
        found = self.structures.values()
        return tuple(sorted(s.name for s in found if s.kind == "resource" and not s.abstract))

    @cached_property
    def type_numbers(self) -> Mapping[str, int]:
        """Return the number that stands for each resource type in the database, from 1.

        R4 is closed, so the alphabetical place is a constant.
        """
        return {name: n for n, name in enumerate(self.resource_types, 1)}

    @cached_property
    def search_parameters(self) -> Mapping[str, Mapping[str, SearchParameter]]:
        """Return, for each resource type, its parameters by code, inherited ones included."""
        heirs: dict[str, list[str]] = {}
        for name in self.resource_types:
            for base in (name, *self.ancestors(name)):
                heirs.setdefault(base, []).append(name)
        found: dict[str, dict[str, SearchParameter]] = {t: {} for t in self.resource_types}
        for parameter in self.parameters:
            for name in {heir for base in parameter.base for heir in heirs.get(base, ())}:
                found[name][parameter.code] = parameter
        return found

    def targets(self, type: str, code: str) -> tuple[str, ...]:
        """Return the types that a reference parameter of `type` can find, empty for any.

        `patient` may point at groups too by its definition, but the expression for most types
        ends in `where(resolve() is Patient)`.
        """
        parameter = self.search_parameters[type][code]
        own = [
            e.strip() for e in parameter.expression.split("|") if e.strip().startswith(f"{type}.")
        ]
        resolved = [RESOLVED.search(expression) for expression in own]
        if own and all(resolved):
            return tuple(found[1] for found in resolved if found)
        return parameter.target

    @cached_property
    def by_url(self) -> Mapping[str, SearchParameter]:
        """Return each search parameter by its canonical URL."""
        return {parameter.url: parameter for parameter in self.parameters}

    def components(self, type: str, code: str) -> tuple[tuple[SearchParameter, str], ...]:
        """Return the components of a composite of `type`, empty for any other parameter.

        Each with its parameter and its expression, which is relative to the composite's element.
        R4 swaps the expressions of DocumentReference.relationship, so a component has that of
        the composite's expressions with which the parameter's own ends, where there is one.
        """
        composite = self.search_parameters[type][code]
        written = [component.expression for component in composite.components]

        def meant(parameter: SearchParameter, expression: str) -> str:
            own = {e.strip() for e in parameter.expression.split("|")}
            fits = [e for e in written if f"{composite.expression}.{e}" in own]
            return expression if expression in fits or not fits else fits[0]

        return tuple(
            (parameter, meant(parameter, component.expression))
            for component in composite.components
            for parameter in (self.by_url[component.code],)
        )

    def with_parameters(self, more: Iterable[SearchParameter]) -> "Definitions":
        """Return the same definitions with more search parameters."""
        return replace(self, parameters=(*self.parameters, *more))

    def heirs(self, bases: Iterable[str]) -> tuple[str, ...]:
        """Return the concrete resource types among `bases` and those that specialise one."""
        wanted = set(bases)
        types = self.resource_types
        return tuple(t for t in types if t in wanted or not wanted.isdisjoint(self.ancestors(t)))

    def ancestors(self, name: str) -> tuple[str, ...]:
        """Return the types that `name` specialises, nearest first."""
        line = []
        while base := self.structures[name].base:
            line.append(base)
            name = base
        return tuple(line)


def load() -> Definitions:
    """Return the compiled R4 definitions that are shipped with the package."""
    packed = resources.files("app.fhir.data").joinpath("r4.json.gz").read_bytes()
    return msgspec.json.decode(gzip.decompress(packed), type=Definitions)


def load_operations() -> Mapping[str, dict[str, Any]]:
    """Return R4's OperationDefinitions by id (`Patient-everything`), as resources."""
    packed = resources.files("app.fhir.data").joinpath("operations.json.gz").read_bytes()
    found: dict[str, Any] = msgspec.json.decode(gzip.decompress(packed))
    return {definition["id"]: definition for definition in found["definitions"]}
