"""What the official expressions find in a resource, with the datatype and the place of each value.

https://hl7.org/fhir/R4/search.html#currentcanonical
https://hl7.org/fhir/R4/fhirpath.html

The library evaluates FHIRPath, but lacks `resolve()`, and its `as` takes single values only. So
`X as T` becomes `X.ofType(T)`, and `resolve() is T` a look at what the reference itself says.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import fhirpathpy
from fhirpathpy.models import models

Resource = Mapping[str, Any]

REWRITTEN = (
    (re.compile(r"\((\S+) as (\w+)\)"), r"\1.ofType(\2)"),
    (re.compile(r"(\S+) as (\w+)$"), r"\1.ofType(\2)"),
    (re.compile(r"\.as\((\w+)\)"), r".ofType(\1)"),
    (re.compile(r"ofType\(DateTime\)"), "ofType(dateTime)"),  # misspelt in code-value-date
    (re.compile(r"hasExtension\(('[^']*')\)"), r"extension(\1).exists()"),
    (
        re.compile(r"resolve\(\) is (\w+)"),
        r"type = '\1' or reference.matches('(^|/)\1/[^/]+(/_history/[^/]+)?$')",
    ),
)
INHERITED = re.compile(r"^(Resource|DomainResource)\b")
LEADING = re.compile(r"^\(*(\w+)")
INDEX = re.compile(r"\[\d+\]")


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """One value that an expression finds.

    `type` is its datatype (`Quantity`, `code`, `Observation.component`), `place` the path of its
    element; `node` is what the library knows it as, to go on from.
    """

    type: str
    data: Any
    place: str
    node: Any


def values(resource: Resource, expression: str) -> list[Value]:
    """Return what an expression finds, of its alternatives those for the resource's type."""
    type = resource["resourceType"]
    found: list[Value] = []
    for branch in alternatives(expression):
        own = INHERITED.sub(type, branch)
        leading = LEADING.match(own)
        if leading is not None and leading[1] == type:
            found += evaluated(own, resource, resource)
    return found


def within(value: Value, expression: str, resource: Resource) -> list[Value]:
    """Return what an expression finds inside of a value of that resource."""
    branches = alternatives(expression)
    return [one for branch in branches for one in evaluated(branch, value.node, resource)]


def evaluated(expression: str, start: Any, resource: Resource) -> Iterator[Value]:
    """Yield what one alternative finds."""
    for node in compiled(expression)(start, {"resource": resource}):
        if isinstance(node, bool):
            yield Value("boolean", node, "", node)
        elif node.data is not None:
            yield Value(node.path, node.data, INDEX.sub("", node.propName or ""), node)


@cache
def compiled(expression: str) -> Callable[..., Any]:
    """Return an expression as the library understands it, ready to be evaluated."""
    for pattern, replacement in REWRITTEN:
        expression = pattern.sub(replacement, expression)
    return fhirpathpy.compile(expression, models["r4"], {"returnRawData": True})


@cache
def alternatives(expression: str) -> tuple[str, ...]:
    """Return the parts of a union; there is no other `|` in an official expression."""
    return tuple(part.strip() for part in expression.split("|"))
