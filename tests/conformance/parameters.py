"""Which search parameters have rows of some resources; and a resource for each parameter.

A specimen is made from the structures alone, not from how the index reads an expression: it has
every element whose name stands in the expression, and every text is one that the expression names.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from app.fhir.definitions import Definitions, Element, SearchParameter
from app.fhir.index import Indexer, Rows

TABLES = ("token", "reference", "date", "quantity", "string", "uri", "composite", "position")

# _id and _lastUpdated are columns of the resource itself
COLUMNS = {"_id", "_lastUpdated"}

LISTED = re.compile(r"`([A-Z]\w+\.[\w-]+)`")
"""A parameter in docs/conformance.md."""

Resource = dict[str, Any]


def indexed(definitions: Definitions) -> list[SearchParameter]:
    """Return the parameters that have an expression, less those that are columns."""
    return [p for p in definitions.parameters if p.expression and p.code not in COLUMNS]


def codes(rows: Rows) -> set[str]:
    """Return the codes of the parameters that have rows, whatever their values."""
    return {row[0] for table in TABLES for row in getattr(rows, table)}


def exercised(
    indexer: Indexer, resources: Iterable[Resource], *, present: bool = False
) -> set[str]:
    """Return the URLs of the parameters of which one of the resources has a row, or any value."""
    parameters = indexer.definitions.search_parameters
    return {
        parameters[resource["resourceType"]][code].url
        for resource in resources
        for rows in (indexer.rows(resource),)
        for code in (rows.present if present else codes(rows))
        if ":" not in code
    }


def named(parameter: SearchParameter) -> str:
    """Return `Patient.birthdate`; what several types share stands under the first."""
    return f"{parameter.base[0]}.{parameter.code}"


PRIMITIVES: dict[str, Any] = {
    "boolean": True,
    "integer": 1,
    "unsignedInt": 1,
    "positiveInt": 1,
    "decimal": 1,
    **dict.fromkeys(("date", "dateTime"), "2020-01-01"),
    "instant": "2020-01-01T00:00:00Z",
}
DEEPEST = 8
VARIANTS = 60  # more than any choice has types


class Specimen:
    """Makes resources of one type in which one parameter has a value, one for each choice."""

    def __init__(self, definitions: Definitions, parameter: SearchParameter, kind: str) -> None:
        self.structures = definitions.structures
        self.codes = definitions.codes
        self.kind = kind
        self.parameter = parameter
        parts = definitions.components(kind, parameter.code)
        text = " ".join([parameter.expression, *(expression for _, expression in parts)])
        self.words = set(re.findall(r"\w+", text.replace("hasExtension", "extension")))
        self.texts = re.findall(r"'([^']+)'", text) or ["a"]
        resolved = re.findall(r"resolve\(\) is (\w+)", text)
        self.target = (*resolved, *parameter.target, "Patient")[0]

    def variants(self) -> Iterator[Resource]:
        """Yield resources until every choice has had each of its types."""
        for n in range(VARIANTS):
            yield {"resourceType": self.kind} | self.value(self.kind, n, self.texts[0], 0)

    def value(self, type: str, n: int, text: str, depth: int) -> Any:
        """Return a value of a type; in a choice its n-th type is taken."""
        structure = self.structures[type]
        if structure.kind == "primitive-type":
            return PRIMITIVES.get(type, text)
        if type == "Resource":
            return {"resourceType": self.target, "id": "a"}
        if type == "Reference":
            return {"reference": f"{self.target}/a"}
        asked = [element for element in structure.elements if element.name in self.words]
        whole = structure.kind == "complex-type" or not asked  # no more is said of what is in it
        found: Resource = {}
        for element in structure.elements if whole else asked:
            found.update(self.element(element, n, text, depth))
        return found

    def element(self, element: Element, n: int, text: str, depth: int) -> Resource:
        """Return one property; an array has an item for each text of the expression."""
        if depth == DEEPEST or (element.name == "extension" and "extension" not in self.words):
            return {}
        allowed = self.codes.get(element.binding or "", {})
        if allowed and text not in allowed:
            text = next(iter(allowed))
        type = element.types[n % len(element.types)]
        key = element.name + (type[0].upper() + type[1:] if element.choice else "")
        if not element.many:
            return {key: self.value(type, n, text, depth + 1)}
        return {key: [self.value(type, n, own, depth + 1) for own in self.texts]}
