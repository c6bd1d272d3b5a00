"""Patches of both kinds; what a test is about it says itself."""

from typing import Any

Resource = dict[str, Any]

JSON_PATCH = {"Content-Type": "application/json-patch+json"}


def fhirpath_patch(*operations: Resource) -> Resource:
    """Return a FHIRPath Patch of these operations."""
    return {"resourceType": "Parameters", "parameter": list(operations)}


def add(path: str, name: str, **value: Any) -> Resource:
    """Return an operation that adds a value, `valueString="x"`, to the element of a name."""
    return operation("add", path, part("name", valueString=name), part("value", **value))


def insert(path: str, index: int, **value: Any) -> Resource:
    """Return an operation that puts a value into a list."""
    return operation("insert", path, part("index", valueInteger=index), part("value", **value))


def delete(path: str) -> Resource:
    """Return an operation that deletes an element."""
    return operation("delete", path)


def replace(path: str, **value: Any) -> Resource:
    """Return an operation that puts a value in the place of another."""
    return operation("replace", path, part("value", **value))


def move(path: str, source: int, destination: int) -> Resource:
    """Return an operation that moves an item of a list."""
    numbers = {"source": source, "destination": destination}
    return operation("move", path, *(part(n, valueInteger=v) for n, v in numbers.items()))


def operation(type: str, path: str, *parts: Resource) -> Resource:
    """Return an operation of any type with any parts."""
    named = [part("type", valueCode=type), part("path", valueString=path)]
    return {"name": "operation", "part": [*named, *parts]}


def part(name: str, *parts: Resource, **value: Any) -> Resource:
    """Return a part with a value, or with parts of its own."""
    return {"name": name, **value, **({"part": list(parts)} if parts else {})}
