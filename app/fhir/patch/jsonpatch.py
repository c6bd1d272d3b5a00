"""JSON Patch: a list of operations on the JSON of a resource.

https://hl7.org/fhir/R4/http.html#patch, RFC 6902 (the operations) and RFC 6901 (the pointers)

Rule 1: nothing here knows FHIR. Rule 2: a text names the operation by its number and the place by
its pointer, as the client wrote it; what stands there is never quoted.

The document is kept in an object of one property, so that the whole of it (the pointer "") has a
place like everything else.
"""

import re
from collections.abc import Callable
from typing import Any

from app.fhir.errors import FhirError, refused
from app.fhir.validation import Validator
from app.fhir.wire import MAX_DEPTH, Resource, compact, decode, encode

Tokens = tuple[str, ...]

INDEX = re.compile(r"0|[1-9][0-9]{0,8}")
UNESCAPED = re.compile(r"~(?![01])")
WHOLE = ""  # the name under which the document is kept
SHOWN = 200  # characters of a pointer that a text repeats
SHIFTS = 100_000_000  # items of arrays that may make room for others, or close up


def changed(resource: Resource, patch: bytes, validator: Validator, largest: int) -> Resource:  # noqa: ARG001
    """Return the resource after all operations of a JSON Patch, which change it in place."""
    operations = decode(b'{"patch":%b}' % compact(patch), exact=True)["patch"]
    if not isinstance(operations, list):
        raise refused("structure", "A JSON Patch is an array of operations")
    document = _Document(resource, largest)
    for number, operation in enumerate(operations, 1):
        try:
            document.perform(operation)
        except FhirError as error:
            text = f"Operation {number}: {error.issues[0].text}"
            raise refused(error.issues[0].code, text, status=error.status) from None
    whole = document.box[WHOLE]
    if not isinstance(whole, dict):
        raise refused("processing", "The patch leaves something that is no JSON object")
    return whole


class _Document:
    """A document that is being changed.

    `room` is how many bytes may still be added by copying, `shifts` how many items of arrays may
    still be shifted: a short patch can ask for more of either than a machine has.
    """

    def __init__(self, whole: Any, room: int) -> None:
        self.box: Resource = {WHOLE: whole}
        self.room = room
        self.shifts = SHIFTS

    def perform(self, operation: Any) -> None:
        """Perform one operation; a 400 where it is none, a 422 where it does not fit."""
        given = operation if isinstance(operation, dict) else {}
        name = given.get("op")
        if not isinstance(name, str) or name not in OPERATIONS:
            raise refused("structure", f"op must be one of {', '.join(OPERATIONS)}")
        method, members = OPERATIONS[name]
        for member in members:
            if member not in given:
                raise refused("required", f"{name} needs {member}", status=400)
        arguments = [
            given[member] if member == "value" else pointer(given[member], member)
            for member in members
        ]
        method(self, *arguments)

    def add(self, path: Tokens, value: Any) -> None:
        """RFC 6902, 4.1: into an object, or into an array before the item with this number."""
        holder, last = self.holder(path)
        if isinstance(holder, dict):
            holder[last] = value
            return
        at = len(holder) if last == "-" else place(last, path, len(holder) + 1)
        self.shift(len(holder) - at)
        holder.insert(at, value)

    def remove(self, path: Tokens) -> Any:
        """RFC 6902, 4.2; return what was there."""
        if len(path) == 1:
            raise refused("processing", "The whole resource cannot be removed")
        self.value(path)
        holder, last = self.holder(path)
        if isinstance(holder, dict):
            return holder.pop(last)
        self.shift(len(holder) - int(last))
        return holder.pop(int(last))

    def replace(self, path: Tokens, value: Any) -> None:
        """RFC 6902, 4.3."""
        self.value(path)
        holder, last = self.holder(path)
        holder[last if isinstance(holder, dict) else int(last)] = value

    def move(self, origin: Tokens, path: Tokens) -> None:
        """RFC 6902, 4.4: the place moved to is that of the document after the removal."""
        if path[: len(origin)] == origin and path != origin:
            raise refused("invalid", f"{shown(origin)} cannot be moved into itself")
        if path == origin:
            self.value(origin)
        else:
            self.add(path, self.remove(origin))

    def copy(self, origin: Tokens, path: Tokens) -> None:
        """RFC 6902, 4.5."""
        raw = encode(self.value(origin))
        self.room -= len(raw)
        if self.room < 0:
            raise refused("too-long", "The patch copies more than a resource may hold")
        self.add(path, decode(b'{"copy":%b}' % raw, exact=True)["copy"])

    def test(self, path: Tokens, value: Any) -> None:
        """RFC 6902, 4.6."""
        if not equal(self.value(path), value):
            raise refused("processing", f"test: {shown(path)} does not have the expected value")

    def shift(self, items: int) -> None:
        """Count items that are shifted, and refuse more than anybody needs."""
        self.shifts -= items
        if self.shifts < 0:
            raise refused("too-costly", "The patch moves too many items of arrays")

    def holder(self, path: Tokens) -> tuple[Any, str]:
        """Return the object or array that a pointer leads into, and what it names there."""
        holder = self.value(path[:-1])
        if not isinstance(holder, dict | list):
            raise absent(path)
        return holder, path[-1]

    def value(self, path: Tokens) -> Any:
        """Return what a pointer names; a 422 if there is nothing (RFC 6901, 4)."""
        found: Any = self.box
        for token in path:
            if isinstance(found, dict) and token in found:
                found = found[token]
            elif isinstance(found, list):
                found = found[place(token, path, len(found))]
            else:
                raise absent(path)
        return found


OPERATIONS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "add": (_Document.add, ("path", "value")),
    "remove": (_Document.remove, ("path",)),
    "replace": (_Document.replace, ("path", "value")),
    "move": (_Document.move, ("from", "path")),
    "copy": (_Document.copy, ("from", "path")),
    "test": (_Document.test, ("path", "value")),
}


def pointer(text: Any, member: str) -> Tokens:
    """Return the steps of a JSON Pointer, from the box of the document (RFC 6901, 3)."""
    if not isinstance(text, str) or (text and text[0] != "/") or UNESCAPED.search(text):
        raise refused("invalid", f"{member} must be a JSON Pointer, such as /name/0/family")
    if text.count("/") > MAX_DEPTH:
        raise refused("invalid", f"{member} has more than {MAX_DEPTH} steps")
    return tuple(step.replace("~1", "/").replace("~0", "~") for step in (WHOLE + text).split("/"))


def place(token: str, path: Tokens, end: int) -> int:
    """Return the number that a token gives, below `end`; a 422 for any other."""
    if not INDEX.fullmatch(token) or int(token) >= end:
        raise absent(path)
    return int(token)


def absent(path: Tokens) -> FhirError:
    """Return the refusal of a pointer to what the resource does not have."""
    return refused("processing", f"The resource has nothing at {shown(path)}")


def shown(path: Tokens) -> str:
    """Return a pointer as it was written, "the root" for that of the whole document."""
    text = "/".join(step.replace("~", "~0").replace("/", "~1") for step in path)
    return text[:SHOWN] or "the root"


def equal(one: Any, other: Any) -> bool:
    """Return whether two JSON values are equal (RFC 6902, 4.6): numbers by what they count."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    # True equals 1 in Python, but not in JSON
    return isinstance(one, bool) is isinstance(other, bool) and bool(one == other)
