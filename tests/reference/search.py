"""A search over a small world that asks every resource for every criterion.

https://hl7.org/fhir/R4/search.html

    world = World(resources, definitions, base_url, now)
    world.search("Patient", [("name", "marsh"), ("_sort", "-birthdate")])

The world's resources are in the order in which they were created, with `meta.lastUpdated`. What
the page leaves open is decided as docs/decisions.md says.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from app.fhir.definitions import Definitions, SearchParameter
from tests.reference.paths import Resource, Value, values, within
from tests.reference.rules import (
    TEXTS,
    Coded,
    Codes,
    amounts,
    canonical_fits,
    date_fits,
    dates,
    folded,
    labels,
    number_fits,
    place_fits,
    plain,
    quantity_fits,
    split,
    strings,
    uri_fits,
)

Pairs = Sequence[tuple[str, str]]

INCLUDES = ("_include", "_revinclude")
# search.html#Summary: not criteria
OF_THE_ANSWER = (
    *("_format", "_pretty", "_count", "_total", "_summary", "_elements", "_sort", "_type"),
    *INCLUDES,
)
# The expressions of its components have changed places
SWAPPED = "http://hl7.org/fhir/SearchParameter/DocumentReference-relationship"


@dataclass(frozen=True, slots=True)
class Found:
    """The `Type/id` of what a search finds, in order, and of what it includes."""

    matches: list[str]
    included: set[str]


class World:
    """Resources, and what the definitions say of them."""

    def __init__(
        self, resources: Sequence[Resource], definitions: Definitions, base_url: str, now: datetime
    ) -> None:
        self.resources = {name(one): one for one in resources}
        self.ages = {one: n for n, one in enumerate(self.resources)}
        self.definitions = definitions
        self.base_url = base_url
        self.now = now
        self.codes = Codes(definitions.case_sensitive, self.implied)
        self.kept: dict[tuple[str, str], list[Value]] = {}

    def search(self, path: str, pairs: Pairs) -> Found:
        """Return what a search finds: of all types (""), one type, or a compartment.

        The path of a compartment is `Patient/1/Observation` or `Patient/1/*`.
        """
        *compartment, type = path.strip("/").split("/")
        asked = [(name, value) for name, value in pairs if value]
        named = [one for name, value in asked if name == "_type" for one in value.split(",")]
        types = [type] if type not in ("", "*") else named or self.types
        criteria = [pair for pair in asked if pair[0].split(":")[0] not in OF_THE_ANSWER]
        matches = [
            one
            for one in self.resources.values()
            if one["resourceType"] in types
            and (not compartment or self.in_compartment(one, *compartment))
            and all(self.fits(one, name, value) for name, value in criteria)
        ]
        order = next((value for name, value in asked if name == "_sort"), "")
        order = order or self.order_of_dates(types, criteria)
        return Found(
            [name(one) for one in self.in_order(matches, order)],
            self.included(matches, [pair for pair in asked if pair[0].split(":")[0] in INCLUDES]),
        )

    @property
    def types(self) -> Sequence[str]:
        """Return all types."""
        return self.definitions.resource_types

    def of_type(self, type: str) -> list[Resource]:
        """Return the resources of a type."""
        return [one for one in self.resources.values() if one["resourceType"] == type]

    # --- criteria -------------------------------------------------------------------------------

    def fits(self, resource: Resource, name: str, value: str) -> bool:
        """Return whether a resource fits one criterion of any kind."""
        if name.startswith("_has:"):  # search.html#has
            _, type, code, rest = name.split(":", 3)
            return any(
                resource in self.targets(other, code) and self.fits(other, rest, value)
                for other in self.of_type(type)
            )
        link, dot, rest = name.partition(".")
        if dot:  # search.html#chaining
            code, _, type = link.partition(":")
            return any(
                self.knows(target, rest) and self.fits(target, rest, value)
                for target in self.targets(resource, code, type)
            )
        code, _, modifier = name.partition(":")
        if code == "_list":  # search.html#list
            lists = [self.resources.get(f"List/{id}") for id in split(value, ",")]
            return any(resource in self.targets(one, "item") for one in lists if one)
        if modifier == "missing":
            return self.has_value(resource, code) is (value == "false")
        terms = split(value, ",")
        if modifier == "not":  # search.html#modifiers: what has no value is found as well
            return not any(self.term_fits(resource, code, "", term) for term in terms)
        return any(self.term_fits(resource, code, modifier, term) for term in terms)

    def term_fits(self, resource: Resource, code: str, modifier: str, term: str) -> bool:
        """Return whether some value of a parameter fits one term."""
        if code == "_id":
            return bool(resource["id"] == term)
        parameter = self.parameter(resource, code)
        found = self.values(resource, code)
        if parameter.type == "composite":
            return any(self.composite_fits(resource, parameter, one, term) for one in found)
        return any(self.value_fits(parameter, one, modifier, term) for one in found)

    def has_value(self, resource: Resource, code: str) -> bool:
        """Return whether a parameter has any value; of a composite all parts must have one."""
        found = self.values(resource, code)
        parameter = self.parameter(resource, code)
        return any(all(self.parts(parameter, one, resource)) for one in found)

    def parts(
        self, parameter: SearchParameter, element: Value, resource: Resource
    ) -> list[list[Value]]:
        """Return the values of each component of a composite in one element; [] of no composite."""
        expressions = [component.expression for component in parameter.components]
        if parameter.url == SWAPPED:
            expressions.reverse()
        return [within(element, expression, resource) for expression in expressions]

    def composite_fits(
        self, resource: Resource, parameter: SearchParameter, element: Value, term: str
    ) -> bool:
        """Return whether one element fits all parts of a term (search.html#composite)."""
        codes = [self.by_url[component.code] for component in parameter.components]
        found = self.parts(parameter, element, resource)
        return all(
            any(self.value_fits(code, one, "", part) for one in each)
            for code, each, part in zip(codes, found, split(term, "$"), strict=True)
        )

    def value_fits(
        self, parameter: SearchParameter, value: Value, modifier: str, term: str
    ) -> bool:
        """Return whether one value fits one term."""
        match parameter.type, modifier:
            case "number", _:
                return number_fits(value, term)
            case "quantity", _:
                return quantity_fits(value, term)
            case "date", _:
                return date_fits(value, term, self.now)
            case "string", _:
                return any(TEXTS[modifier](one, plain(term)) for one in strings(value))
            case "uri", _:
                return uri_fits(value, plain(term), modifier)
            case "token", "text":
                return any(TEXTS[""](one, plain(term)) for one in labels(value) if one)
            case "token", "of-type":
                return self.typed_identifier_fits(value, term)
            case "token", _:
                return any(self.codes.fits(one, term) for one in self.codes.of(value))
            case "reference", "identifier":
                own = value.data.get("identifier", {}) if value.type == "Reference" else {}
                coded = Coded(own.get("system", ""), own.get("value", ""))
                return bool(own) and self.codes.fits(coded, term)
            case "reference", _:
                return self.reference_fits(parameter, value, modifier, plain(term))
            case "special", "":
                return place_fits(value, term)
        raise LookupError(f"{parameter.code}:{modifier}")

    def typed_identifier_fits(self, value: Value, term: str) -> bool:
        """Return whether an Identifier fits `system|code|value` of `:of-type`."""
        system, code, text = split(term, "|")
        own = value.data.get("value", "")
        return self.codes.form("", own) == self.codes.form("", plain(text)) and any(
            self.codes.fits(Coded(one.get("system", ""), one.get("code", "")), f"{system}|{code}")
            for one in value.data.get("type", {}).get("coding", ())
        )

    # --- references -----------------------------------------------------------------------------

    def reference_fits(
        self, parameter: SearchParameter, value: Value, modifier: str, term: str
    ) -> bool:
        """Return whether a reference or canonical fits `id`, `Type/id` or a URL."""
        type = "" if modifier in ("below", "above") else modifier
        if "/" in term or ":" in term:
            asked = {self.place(term)}
        else:
            asked = {f"{one}/{term}" for one in ([type] if type else self.may_refer_to(parameter))}
        if value.type == "canonical":
            return any(
                canonical_fits(value.data, url, modifier)
                for one in asked
                for url in (one, f"{self.base_url}/{one}")
            )
        found = {self.pointed(value)}
        if modifier == "below":
            found |= self.above(*found)
        if modifier == "above":
            asked = {place for one in asked for place in (one, *self.above(one))}
        return any(one in asked and (not type or one.startswith(f"{type}/")) for one in found)

    def above(self, place: str) -> set[str]:
        """Return what a Location or Organization is part of (search.html#recursive)."""
        found: set[str] = set()
        here = self.resources.get(place)
        while here and self.knows(here, "partof") and name(here) not in found:
            found |= {name(here)} - {place}
            here = next(iter(self.targets(here, "partof")), None)
        return found

    def may_refer_to(self, parameter: SearchParameter) -> Sequence[str]:
        """Return the types that a bare id may belong to."""
        return parameter.target or self.definitions.resource_types

    def place(self, text: str) -> str:
        """Return `Type/id` of a literal reference to this server, else the URL as it is."""
        relative = text.removeprefix(f"{self.base_url}/")
        type, *rest = relative.split("/")
        return "/".join([type, *rest[:1]]) if type in self.definitions.type_numbers else text

    def pointed(self, value: Value) -> str:
        """Return what a reference, or a resource that stands in place, points at; "" if nowhere."""
        if "resourceType" in value.data:
            return name(value.data)
        text = value.data.get("reference", "")
        return "" if text.startswith("#") else self.place(text)

    def targets(self, resource: Resource, code: str, type: str = "") -> list[Resource]:
        """Return the resources of the world that a parameter of a resource refers to."""
        if not self.knows(resource, code):
            return []
        parameter = self.parameter(resource, code)
        found: dict[str, Resource] = {}
        for value in self.values(resource, code):
            places = [self.pointed(value)] if value.type != "canonical" else self.defining(value)
            found |= {one: self.resources[one] for one in places if one in self.resources}
        allowed = (type,) if type else self.may_refer_to(parameter)
        return [one for one in found.values() if one["resourceType"] in allowed]

    def defining(self, value: Value) -> Iterator[str]:
        """Yield the resources that a canonical may mean (references.html#canonical)."""
        yield self.place(value.data.partition("|")[0])
        for place, one in self.resources.items():
            if "url" in one and canonical_fits(
                f"{one['url']}|{one.get('version', '')}", value.data
            ):
                yield place

    def in_compartment(self, resource: Resource, type: str, id: str) -> bool:
        """Return whether a resource is in a compartment (compartmentdefinition.html)."""
        codes = self.definitions.compartments[type].get(resource["resourceType"], ())
        return name(resource) == f"{type}/{id}" or any(
            self.pointed(value) == f"{type}/{id}"
            for code in codes
            if code != "{def}"  # the resource itself
            for value in self.values(resource, code)
        )

    def included(self, matches: Sequence[Resource], pairs: Pairs) -> set[str]:
        """Return what is included in addition to the matches (search.html#include)."""
        found = {name(one): one for one in matches}
        fresh, steps = list(matches), list(pairs)
        while fresh:
            new = [
                target
                for key, value in steps
                for one in fresh
                for target in self.linked(one, key.split(":")[0], value)
            ]
            fresh = [one for one in new if name(one) not in found]
            found |= {name(one): one for one in fresh}
            steps = [pair for pair in steps if pair[0].endswith(":iterate")]
        return set(found) - {name(one) for one in matches}

    def linked(self, resource: Resource, way: str, value: str) -> Iterator[Resource]:
        """Yield what one `_include` or `_revinclude` adds for one resource."""
        source, _, rest = value.partition(":")
        code, _, type = rest.partition(":")
        sources = [resource] if way == "_include" else list(self.resources.values())
        for one in sources:
            if source not in ("*", one["resourceType"]):
                continue
            codes = self.reference_codes(one) if code in ("", "*") else [code]
            targets = [target for each in codes for target in self.targets(one, each, type)]
            if way == "_include":
                yield from targets
            elif resource in targets:
                yield one

    # --- order ----------------------------------------------------------------------------------

    def order_of_dates(self, types: Sequence[str], criteria: Pairs) -> str:
        """Return the order without `_sort`: what is asked for by date comes newest date first.

        The page leaves it open; "" is the order of creation, newest first (docs/decisions.md).
        """
        own = self.definitions.search_parameters[types[0]] if len(set(types)) == 1 else {}
        for name, value in criteria:
            ranges = not any(term.startswith("ne") for term in value.split(","))
            if name in own and own[name].type == "date" and ranges:
                return f"-{name}"
        return ""

    def in_order(self, matches: Sequence[Resource], order: str) -> list[Resource]:
        """Return the matches by the keys of `_sort`, newest first where those are equal."""
        found = sorted(matches, key=lambda one: self.ages[name(one)], reverse=True)
        for key in reversed(order.split(",") if order else []):
            code, down = key.removeprefix("-"), key.startswith("-")
            keys = {name(one): self.sort_keys(one, code) for one in found}
            first = [one for one in found if keys[name(one)]]
            least = max if down else min
            first.sort(key=lambda one: least(keys[name(one)]), reverse=down)
            found = first + [one for one in found if not keys[name(one)]]
        return found

    def sort_keys(self, resource: Resource, code: str) -> list[Any]:
        """Return what a resource may be sorted by (search.html#sort)."""
        if code == "_id":
            return [resource["id"]]
        if self.parameter(resource, code).type == "quantity":
            # In the first unit of what is measured, where there is one: mg compare with g
            found = [amount for value in self.values(resource, code) for amount in amounts(value)]
            scaled = [one.scaled().low for one in found if one.measured]
            return scaled or [one.span.low for one in found]
        keys: dict[str, Callable[[Value], list[Any]]] = {
            "date": lambda value: [span.low for span in dates(value)],
            "number": lambda value: [amount.span.low for amount in amounts(value)],
            "string": lambda value: [folded(text) for text in strings(value)],
            "token": lambda value: [
                self.codes.form(one.system, one.code) for one in self.codes.of(value)
            ],
            "uri": lambda value: [value.data.partition("|")[0]],
            "reference": lambda value: [
                self.place(value.data.partition("|")[0])
                if value.type == "canonical"
                else self.pointed(value)
            ],
        }
        read = keys[self.parameter(resource, code).type]
        return [key for value in self.values(resource, code) for key in read(value) if key != ""]

    # --- definitions ----------------------------------------------------------------------------

    def values(self, resource: Resource, code: str) -> list[Value]:
        """Return the values of a parameter."""
        place = name(resource), code
        if place not in self.kept:
            self.kept[place] = values(resource, self.parameter(resource, code).expression)
        return self.kept[place]

    def knows(self, resource: Resource, name: str) -> bool:
        """Return whether a type has the parameter that a criterion or a chain begins with."""
        code = name.split(":")[0].split(".")[0]
        own = self.definitions.search_parameters[resource["resourceType"]]
        return code in own or code in ("_has", "_list")

    def parameter(self, resource: Resource, code: str) -> SearchParameter:
        """Return a parameter of a resource."""
        return self.definitions.search_parameters[resource["resourceType"]][code]

    def reference_codes(self, resource: Resource) -> list[str]:
        """Return all parameters of a resource that are references."""
        own = self.definitions.search_parameters[resource["resourceType"]]
        return [code for code, parameter in own.items() if parameter.type == "reference"]

    @cached_property
    def by_url(self) -> dict[str, SearchParameter]:
        """Return the parameters by their canonical URL."""
        return {parameter.url: parameter for parameter in self.definitions.parameters}

    def implied(self, place: str, code: str) -> str:
        """Return the system that the required binding of an element implies for a code, or ""."""
        within, *steps = place.split(".")
        binding = None
        for step in steps:
            elements = self.definitions.structures[within].elements
            element = next((one for one in elements if one.name == step), None)
            if element is None:
                return ""
            within, binding = element.types[0], element.binding
        return self.definitions.codes.get(binding or "", {}).get(code, "")


def name(resource: Resource) -> str:
    """Return `Type/id`."""
    return f"{resource['resourceType']}/{resource['id']}"
