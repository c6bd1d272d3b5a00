"""Parameters into an operation and out of it, as its OperationDefinition has them.

https://hl7.org/fhir/R4/operations.html#request
https://hl7.org/fhir/R4/parameters.html

Values come in the URL, in a Parameters resource, or as the one resource that an operation takes.
All become rows of a Parameters resource first, so that each is checked in the same way.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import Any

from app.fhir.errors import FhirError, Issue, refused
from app.fhir.interaction import Interaction
from app.fhir.operations.operation import ANY_TYPE, Operation
from app.fhir.query import CURSOR, PRESENTATION
from app.fhir.validation import Validator
from app.fhir.wire import Resource, decode, encode

BODY = "Parameters.parameter"
TRUTHS = {"true": True, "false": False}
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

    Raises a 400 that names the parameter for one that the operation does not have, for a value
    of another type, and for one that is given too often or not at all.
    """
    found: dict[str, list[Any]] = {}
    for name, row in _in_url(operation, asked, validator):
        found.setdefault(name, []).append(_value(operation, row, f"http.{name}"))
    for n, row in enumerate(_in_body(operation, asked, validator)):
        place = f"{BODY}[{n}]"
        _check(row, validator, place)
        found.setdefault(row["name"], []).append(_value(operation, row, place))
    for name, parameter in operation.inputs.items():
        _count(operation, parameter, len(found.get(name, ())))
    return {name: tuple(values) for name, values in found.items()}


def criteria(operation: Operation, asked: Interaction) -> tuple[tuple[str, str], ...]:
    """Return the pairs that are search parameters beside the operation's own."""
    if not operation.criteria:
        return ()
    own = operation.inputs.keys() | PRESENTATION | ({CURSOR} if operation.paged else set())
    return tuple((name, value) for name, value in asked.pairs if value and name not in own)


def answered(operation: Operation, **values: Any) -> bytes:
    """Return the Parameters resource of what comes out, each value by the name of its parameter.

    https://hl7.org/fhir/R4/operations.html#response
    """
    out = {p["name"]: p for p in operation.definition["parameter"] if p["use"] == "out"}
    rows = [{"name": name, key(out[name]["type"]): value} for name, value in values.items()]
    return encode({"resourceType": "Parameters", "parameter": rows})


def key(type: str) -> str:
    """Return the property of a Parameters row that holds a value of a type (not a resource)."""
    return f"value{type[0].upper()}{type[1:]}"


# --- where values come from --------------------------------------------------------------------


def _in_url(
    operation: Operation, asked: Interaction, validator: Validator
) -> list[tuple[str, Resource]]:
    """Return a row of Parameters for each value in the URL, with its name."""
    skipped = PRESENTATION | ({CURSOR} if operation.paged else set())
    elsewhere = {name for name, _ in criteria(operation, asked)}
    rows = []
    for name, text in asked.pairs:
        if not text or name in skipped or name in elsewhere:
            continue
        place = f"http.{name[:80]}"
        type = _known(operation, name, place)["type"]
        if type in ANY_TYPE or not validator.is_primitive(type):
            said = f"{name} is a {type}, which no URL can hold: POST a Parameters resource"
            raise refused("value", said, place, 400)
        row = {"name": name, key(type): _read(type, text)}
        _check(row, validator, place)
        rows.append((name, row))
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
        takers = [p["name"] for p in operation.inputs.values() if _fits(body, p["type"], validator)]
        if len(takers) != 1:
            text = f"The body of ${operation.code} must be a Parameters resource"
            raise refused("invalid", text, "Parameters", 400)
        return [{"name": takers[0], "resource": body}]
    rows: list[Resource] = body.get("parameter", [])
    issues = validator.validate({name: v for name, v in body.items() if name != "parameter"})
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        issues = [*issues, Issue("error", "structure", "Expected an array of objects", BODY)]
    if issues:
        raise FhirError(issues, 400)
    return rows


def _fits(body: Resource, type: str, validator: Validator) -> bool:
    """Return whether a resource may be the value of a parameter of a type."""
    kind = body.get("resourceType")
    return type in ANY_TYPE or (type == kind and kind in validator.definitions.type_numbers)


# --- what they must be -------------------------------------------------------------------------


def _known(operation: Operation, name: str, place: str) -> Resource:
    found = operation.inputs.get(name)
    if found is None:
        takes = ", ".join(operation.inputs)
        has = f"it has {takes}" if takes else "it has none"
        text = f"${operation.code} has no parameter {name[:80]!r}; {has}"
        raise refused("not-supported", text, place)
    return found


def _check(row: Resource, validator: Validator, place: str) -> None:
    """Refuse a row that is no valid part of a Parameters resource; resources are not looked at."""
    rest = {name: value for name, value in row.items() if name != "resource"}
    if "resource" in row:
        if not isinstance(row["resource"], dict) or rest.keys() - {"name", "id", "extension"}:
            text = "Expected a name and a resource, nothing else"
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


def _value(operation: Operation, row: Resource, place: str) -> Any:
    """Return the value of a row; a 400 where the operation wants another type."""
    name = row["name"]
    type = _known(operation, name, place)["type"]
    held = row.get("resource")
    if held is not None:
        if type in ANY_TYPE or held.get("resourceType") == type:
            return held
    elif key(type) in row:
        return row[key(type)]
    raise refused("value", f"{name[:80]} must be of type {type}", place, 400)


def _count(operation: Operation, parameter: Resource, times: int) -> None:
    name, least, most = parameter["name"], parameter["min"], parameter["max"]
    if times < least:
        raise refused("required", f"${operation.code} needs the parameter {name}", BODY, 400)
    if most != "*" and times > int(most):
        raise refused("invalid", f"{name} may be given {most} time at most", BODY, 400)


def words(values: Sequence[str]) -> tuple[str, ...]:
    """Return the codes in values that may hold several, parted by commas."""
    return tuple(dict.fromkeys(word for value in values for word in value.split(",")))
