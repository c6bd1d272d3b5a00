"""Parameters into an operation and out of it, as its OperationDefinition has them.

https://hl7.org/fhir/R4/operations.html#request
https://hl7.org/fhir/R4/parameters.html

Values come in the URL, in a Parameters resource, or as the one resource that an operation takes.
All become rows of a Parameters resource first, so that each is checked in the same way.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import Any

from app.fhir.errors import FhirError, refused
from app.fhir.interaction import Interaction
from app.fhir.operations.operation import ANY_TYPE, Operation
from app.fhir.query import CURSOR, PRESENTATION
from app.fhir.validation import Validator
from app.fhir.wire import Resource, decode, encode

BODY = "Parameters.parameter"
TRUTHS = {"true": True, "false": False}
# The place of a row in a request, and the row
Placed = tuple[str, Resource]
INTEGER = re.compile(r"[+-]?[0-9]{1,20}")


def _integer(text: str) -> int:
    if not INTEGER.fullmatch(text):
        raise ValueError(text)
    return int(text)


# How the text of a URL becomes a JSON value, by type; of all others the text is the value
READ: Mapping[str, Callable[[str], Any]] = {
    "boolean": TRUTHS.__getitem__,
    "integer": _integer,
    "positiveInt": _integer,
    "unsignedInt": _integer,
    "decimal": Decimal,
}


def given(
    operation: Operation, asked: Interaction, validator: Validator
) -> dict[str, tuple[Any, ...]]:
    """Return the values that a call gives to the parameters of an operation, by name.

    The value of a parameter with parts is a dict of the same kind. Raises a 400 that names the
    place for a parameter or part that there is not, for a value of another type, and for one that
    is given too often or not at all.
    """
    whole = Inputs(f"${operation.code}", "parameter", operation.inputs, validator)
    rows = _in_url(operation, whole, asked)
    rows += [(f"{BODY}[{n}]", row) for n, row in enumerate(_in_body(operation, asked, validator))]
    return whole.values(rows, BODY)


def criteria(operation: Operation, asked: Interaction) -> tuple[tuple[str, str], ...]:
    """Return the pairs that are search parameters beside the operation's own."""
    if not operation.criteria:
        return ()
    own = operation.inputs.keys() | PRESENTATION | ({CURSOR} if operation.paged else set())
    return tuple((name, value) for name, value in asked.pairs if value and name not in own)


def answered(operation: Operation, values: Mapping[str, Any]) -> bytes:
    """Return the Parameters resource of what comes out, each value by the name of its parameter.

    A list gives its parameter several times, None not at all; a parameter with parts takes a dict
    of the same kind. https://hl7.org/fhir/R4/operations.html#response
    """
    out = [p for p in operation.definition["parameter"] if p["use"] == "out"]
    rows = _rows(out, values)
    return encode({"resourceType": "Parameters", **({"parameter": rows} if rows else {})})


def _rows(definitions: Iterable[Resource], values: Mapping[str, Any]) -> list[Resource]:
    known = {definition["name"]: definition for definition in definitions}
    return [
        {"name": name, **_held(known[name], one)}
        for name, value in values.items()
        for one in (value if isinstance(value, (list, tuple)) else [value])
        if one is not None
    ]


def _held(definition: Resource, value: Any) -> Resource:
    """Return what a row of Parameters holds: parts, a resource, or the value of a datatype."""
    if "type" not in definition:
        return {"part": _rows(definition["part"], value)}
    if isinstance(value, dict) and "resourceType" in value:
        return {"resource": value}
    return {key(definition["type"]): value}


def key(type: str) -> str:
    """Return the property of a Parameters row that holds a value of a type (not a resource)."""
    return f"value{type[0].upper()}{type[1:]}"


# --- where values come from --------------------------------------------------------------------


def _in_url(operation: Operation, whole: "Inputs", asked: Interaction) -> list[Placed]:
    """Return a row of Parameters for each value in the URL; of primitive types only."""
    skipped = PRESENTATION | ({CURSOR} if operation.paged else set())
    elsewhere = {name for name, _ in criteria(operation, asked)}
    rows = []
    for name, text in asked.pairs:
        if not text or name in skipped or name in elsewhere:
            continue
        place = f"http.{name[:80]}"
        type = whole.known(name, place).get("type", "")
        if not type or type in ANY_TYPE or not whole.validator.is_primitive(type):
            article = f"is a {type}" if type else "has parts"
            said = f"{name} {article}, which no URL can hold: POST a Parameters resource"
            raise refused("value", said, place, 400)
        rows.append((place, {"name": name, key(type): _read(type, text)}))
    return rows


def _read(type: str, text: str) -> Any:
    try:
        return READ[type](text) if type in READ else text
    except (KeyError, ValueError, InvalidOperation):
        return text  # of the wrong type, which is what the client is told


def _in_body(operation: Operation, asked: Interaction, validator: Validator) -> list[Resource]:
    """Return the rows of the Parameters in the body, or one for the resource that it is itself."""
    if not asked.body:
        return []
    body = decode(asked.body, "Parameters")
    if body.get("resourceType") != "Parameters":
        takers = [n for n, p in operation.inputs.items() if _fits(body, p.get("type"), validator)]
        if len(takers) != 1:
            text = f"The body of ${operation.code} must be a Parameters resource"
            raise refused("invalid", text, "Parameters", 400)
        return [{"name": takers[0], "resource": body}]
    if issues := validator.validate({n: v for n, v in body.items() if n != "parameter"}):
        raise FhirError(issues, 400)
    return _objects(body.get("parameter", []), BODY)


def _objects(rows: Any, place: str) -> list[Resource]:
    """Return what must be an array of objects."""
    if isinstance(rows, list) and all(isinstance(row, dict) for row in rows):
        return rows
    raise refused("structure", "Expected an array of objects", place, 400)


def _fits(body: Resource, type: str | None, validator: Validator) -> bool:
    """Return whether a resource may be the value of a parameter of a type."""
    kind = body.get("resourceType")
    return type in ANY_TYPE or (type == kind and kind in validator.definitions.type_numbers)


# --- what they must be -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Inputs:
    """The parameters of an operation, or the parts of a parameter: `definitions` by name.

    `owner` is what has them, and `kind` what they are, in messages.
    """

    owner: str
    kind: str
    definitions: Mapping[str, Resource]
    validator: Validator

    def values(self, rows: Iterable[Placed], inside: str) -> dict[str, tuple[Any, ...]]:
        """Return the values of checked rows by name; `inside` is the place of them all."""
        found: dict[str, list[Any]] = {}
        for place, row in rows:
            _check(row, self.validator, place)
            found.setdefault(row["name"], []).append(self.value(row, place))
        for name, definition in self.definitions.items():
            self.count(name, definition, len(found.get(name, ())), inside)
        return {name: tuple(values) for name, values in found.items()}

    def known(self, name: str, place: str) -> Resource:
        """Return the definition of a parameter; a 400 where there is none."""
        found = self.definitions.get(name)
        if found is None:
            takes = ", ".join(self.definitions)
            has = f"it has {takes}" if takes else "it has none"
            text = f"{self.owner} has no {self.kind} {name[:80]!r}; {has}"
            raise refused("not-supported", text, place)
        return found

    def value(self, row: Resource, place: str) -> Any:
        """Return the value of a row; a 400 where its definition wants another type."""
        name = row["name"]
        definition = self.known(name, place)
        type = definition.get("type")
        if type is None:
            return self.parts(name, definition, row, place)
        held = row.get("resource")
        if held is not None:
            if type in ANY_TYPE or held.get("resourceType") == type:
                return held
        elif key(type) in row:
            return row[key(type)]
        raise refused("value", f"{name[:80]} must be of type {type}", place, 400)

    def parts(self, name: str, definition: Resource, row: Resource, place: str) -> Any:
        """Return the values of the parts of a row by name."""
        if row.keys() - {"name", "id", "extension", "part"}:
            raise refused("value", f"{name} takes parts, and no value", place, 400)
        known = {one["name"]: one for one in definition["part"]}
        inner = f"{place}.part"
        rows = [
            (f"{inner}[{n}]", one) for n, one in enumerate(_objects(row.get("part", []), inner))
        ]
        return Inputs(name, "part", known, self.validator).values(rows, place)

    def count(self, name: str, definition: Resource, times: int, inside: str) -> None:
        """Refuse a parameter that is given too often, or not at all."""
        if times < definition["min"]:
            text = f"{self.owner} needs the {self.kind} {name}"
            raise refused("required", text, inside, 400)
        most = definition["max"]
        if most != "*" and times > int(most):
            raise refused("invalid", f"{name} may be given {most} time at most", inside, 400)


def _check(row: Resource, validator: Validator, place: str) -> None:
    """Refuse a row that is no valid part of a Parameters resource; what is inside is not looked at.

    That is: a resource, and parts, of which each is a row.
    """
    rest = {name: value for name, value in row.items() if name not in ("resource", "part")}
    if "resource" in row or "part" in row:
        both = "resource" in row and "part" in row
        whole = isinstance(row.get("resource", {}), dict)
        if both or not whole or rest.keys() - {"name", "id", "extension"}:
            text = "Expected a name and a value, a resource or parts, nothing else"
            raise refused("structure", text, place, 400)
        rest["valueBoolean"] = True  # stands for the resource, which may well be invalid
    issues = validator.validate({"resourceType": "Parameters", "parameter": [rest]})
    first = f"{BODY}[0]"
    in_url = place.startswith("http.")
    told = [
        replace(i, expression=place if in_url else i.expression.replace(first, place, 1))
        for i in issues
    ]
    if told:
        raise FhirError(told, 400)


def words(values: Sequence[str]) -> tuple[str, ...]:
    """Return the codes in values that may hold several, parted by commas."""
    return tuple(dict.fromkeys(word for value in values for word in value.split(",")))
