"""FHIRPath Patch: a Parameters resource that says what becomes of elements, in the spec's terms.

https://hl7.org/fhir/R4/fhirpatch.html

Theory of operation. Every element of an object is a list of occurrences: one or none for an element
that does not repeat, and for a primitive each is its value with the object that JSON keeps beside
it (`_birthDate`). `occurrences` reads such a list, `keep` writes it, and all five operations change
the list between. Where an element stands comes from the `Node`s that its path finds.

A path may use what finds elements below the one that it starts from. `resolve()` is ruled out by
the page; regular expressions, `repeat()`, variables and arithmetic by us, since a client could ask
for more work than the resource is long.

Where the page leaves a choice:
a primitive may come as another one that JSON writes alike (a `code` as `valueString`): validation
looks at the result; the type of a choice is taken from the value, so `name` is `value`, `value[x]`
or `valueQuantity`; parts without value make an object of whatever type the element has.
"""

from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from app.fhir.errors import FhirError, refused
from app.fhir.path import (
    Binary,
    Call,
    Expression,
    Field,
    Index,
    Literal,
    Member,
    Model,
    Node,
    TypeTest,
    Variable,
    compile,  # noqa: A004 (the spec's word)
    parse,
)
from app.fhir.validation import Validator
from app.fhir.wire import Resource, decode

Pair = tuple[Any, Any]  # a value, and what stands beside a primitive

PARAMETER = "Parameters.parameter"

# What a path may call: each looks at what it is given, or at what is below
FUNCTIONS = (
    "all", "contains", "count", "empty", "endsWith", "exists", "extension", "first", "hasValue",
    "last", "lower", "not", "single", "skip", "startsWith", "tail", "take", "upper", "where",
)  # fmt: skip
OPERATORS = (
    "and", "or", "xor", "implies", "=", "!=", "~", "!~", "<", "<=", ">", ">=", "in", "contains",
)  # fmt: skip

# Characters of paths times values in resource and patch: at worst a few seconds of work
COSTLY = 50_000_000

SHAPELESS = ("structure", "value", "too-long")  # the issues of what is not even formed right

# json.html#primitive: primitives that JSON does not write as strings
NUMBERS = frozenset({"decimal", "integer", "positiveInt", "unsignedInt"})


def changed(resource: Resource, patch: bytes, validator: Validator, largest: int) -> Resource:  # noqa: ARG001
    """Return the resource after all operations of a FHIRPath Patch, which change it in place."""
    asked = decode(patch, "Parameters", exact=True)
    if asked.get("resourceType") != "Parameters":
        text = "A FHIRPath Patch is a Parameters resource"
        raise refused("invalid", text, "Parameters.resourceType", 400)
    # Only their form: what the values say is judged where they have come to stand
    malformed = [issue for issue in validator.validate(decode(patch)) if issue.code in SHAPELESS]
    if malformed:
        raise FhirError(malformed, 400)
    operations = [
        operation(row, f"Parameters.parameter[{n}]")
        for n, row in enumerate(asked.get("parameter", ()))
    ]
    values = sum(map(patch.count, (b",", b"{")))
    asked_for = sum(len(one.path) for one in operations)
    if asked_for * (values + _size(resource)) > COSTLY:
        raise refused("too-costly", "The patch has too many operations; send it in parts")
    document = _Document(resource, validator.model)
    for one in operations:
        try:
            document.perform(one)
        except FhirError as error:
            issue = error.issues[0]
            raise refused(
                issue.code, issue.text, issue.expression or one.at, error.status
            ) from None
    return resource


def _size(value: Any) -> int:
    """Return how many values a JSON value holds."""
    inner = value.values() if isinstance(value, dict) else value
    return 1 + sum(map(_size, inner)) if isinstance(value, dict | list) else 1


# --- What is asked --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: its parts by name as they came, and its place in the Parameters."""

    type: str
    path: str
    parts: dict[str, Resource]
    at: str

    def number(self, name: str) -> int:
        """Return the integer of a part, from 0; a 400 for anything else."""
        value = self.parts[name].get("valueInteger")
        if not isinstance(value, int) or value < 0:
            raise refused("invalid", f"{name} must be a valueInteger from 0", self.at, 400)
        return value

    def text(self, name: str) -> str:
        """Return the string of a part; a 400 for anything else."""
        return _text(self.parts[name], name, self.at)


# fhirpatch.html#concept: the parts of each type beside `type` and `path`, all of them required
PARTS = {
    "add": ("name", "value"),
    "insert": ("index", "value"),
    "delete": (),
    "replace": ("value",),
    "move": ("source", "destination"),
}


def operation(row: Resource, at: str) -> Operation:
    """Return an operation with the parts that its type has; a 400 for any other."""
    if _name(row, at) != "operation":
        raise refused("invalid", "Each parameter must have the name operation", at, 400)
    parts: dict[str, Resource] = {}
    for part in row.get("part", ()):
        name = _name(part, at)
        if name in parts:
            raise refused("invalid", f"An operation has one part {name[:64]}", at, 400)
        parts[name] = part
    for name in ("type", "path"):
        if name not in parts:
            raise refused("required", f"An operation needs the part {name}", at, 400)
    type = _text(parts["type"], "type", at)
    if type not in PARTS:
        raise refused("invalid", f"type must be one of {', '.join(PARTS)}", at, 400)
    for name in PARTS[type]:
        if name not in parts:
            raise refused("required", f"{type} needs the part {name}", at, 400)
    for name in parts.keys() - {"type", "path", *PARTS[type]}:
        raise refused("invalid", f"{type} has no part {name[:64]!r}", at, 400)
    return Operation(type, _text(parts["path"], "path", at), parts, at)


def _name(part: Resource, at: str) -> str:
    """Return the name of a parameter or part; a 400 for one without."""
    if "name" not in part:
        raise refused("required", "Each parameter and each part has a name", at, 400)
    name: str = part["name"]
    return name


def _text(part: Resource, name: str, at: str) -> str:
    """Return the text of a part: a string or a code."""
    texts: list[str] = [part[key] for key in ("valueString", "valueCode") if key in part]
    if len(texts) != 1:
        raise refused("invalid", f"{name} must be a valueString or valueCode", at, 400)
    return texts[0]


def checked(tree: Expression | None) -> None:
    """Refuse what a path may not use."""
    match tree:
        case None | Literal() | Variable("$this"):
            inner: tuple[Expression | None, ...] = ()
        case Member(source, _) | TypeTest(_, source, _):
            inner = (source,)
        case Index(source, index):
            inner = (source, index)
        case Call(source, name, arguments) if name in FUNCTIONS:
            inner = (source, *arguments)
        case Binary(operator, left, right) if operator in OPERATORS:
            inner = (left, right)
        case _:
            text = f"A path may use names, indexes, comparisons and {', '.join(FUNCTIONS)}"
            raise refused("not-supported", text)
    for one in inner:
        checked(one)


# --- Occurrences ----------------------------------------------------------------------------------


def occurrences(holder: Resource, field: Field) -> list[Pair]:
    """Return the values that an object has under one JSON key, with what stands beside them."""
    value, extra = holder.get(field.key), None
    if field.primitive:
        extra = holder.get("_" + field.key)
    if field.many:
        return list(zip_longest(value or (), extra or ()))
    return [(value, extra)] if value is not None or extra is not None else []


def keep(holder: Resource, field: Field, pairs: list[Pair]) -> None:
    """Make these the values that an object has under one JSON key."""
    keys = (field.key, "_" + field.key) if field.primitive else (field.key,)
    for n, key in enumerate(keys):
        column = [pair[n] for pair in pairs]
        if all(one is None for one in column):
            holder.pop(key, None)
        else:
            holder[key] = column if field.many else column[0]


def holder_of(node: Node) -> Resource:
    """Return the object that holds the children of an element, made for a primitive without one."""
    if isinstance(node.value, dict):
        return node.value
    if node.extra is None:
        if node.parent is None or node.key is None:
            raise refused("processing", "path must name an element of the resource")
        node.extra = {}
        holder = holder_of(node.parent)
        field = Field(node.key, node.key, node.type, node.index is not None, primitive=True)
        pairs = occurrences(holder, field)
        at = node.index or 0
        pairs[at] = (pairs[at][0], node.extra)
        keep(holder, field, pairs)
    extra: Resource = node.extra
    return extra


# --- What is done ---------------------------------------------------------------------------------


class _Document:
    """A resource that is being changed."""

    def __init__(self, resource: Resource, model: Model) -> None:
        self.resource = resource
        self.model = model
        self.type = model.resource_type(resource)

    def perform(self, asked: Operation) -> None:
        """Perform one operation; a 422 where it does not fit the resource."""
        tree = parse(asked.path)
        checked(tree)
        PERFORM[asked.type](self, asked, tree)

    def found(self, tree: Expression | None) -> list[Node]:
        """Return the elements that a path finds; the focus itself for None."""
        if tree is None:
            tree = Variable("$this")
        run = compile(tree, self.type, self.model)
        nodes = run.nodes(self.resource, resource=self.resource, root=self.resource)
        if any(node.parent is None and node.value is not self.resource for node in nodes):
            raise refused("processing", "path must name elements, not compute a value")
        return nodes

    def one(self, tree: Expression | None) -> Node:
        """Return the one element that a path finds; a 422 for none or several."""
        nodes = self.found(tree)
        if len(nodes) != 1:
            what = f"{len(nodes)} elements" if nodes else "nothing"
            raise refused("processing", f"path must name one element, and finds {what}")
        return nodes[0]

    def field(self, node: Node) -> tuple[Resource, Field]:
        """Return the object that holds an element, and the JSON key that it has there."""
        if node.parent is None or node.key is None:
            raise refused("processing", "path must name an element, not the whole resource")
        return holder_of(node.parent), self.model.keyed(node.parent.type)[node.key]

    def listed(self, tree: Expression) -> tuple[Resource, Field]:
        """Return the object and the key of a list that a path names, which may be empty."""
        if not isinstance(tree, Member):
            raise refused("processing", "path must end with the name of a list")
        owner = self.one(tree.source)
        kinds = self.model.named(owner.type).get(tree.name, ())
        if not kinds or not kinds[0].many:
            raise refused("processing", f"{owner.type} has no list {tree.name[:64]!r}")
        return holder_of(owner), kinds[0]

    def add(self, asked: Operation, tree: Expression) -> None:
        """Append a value to the element of a name; one that does not repeat must not be there."""
        owner = self.one(tree)
        name = asked.text("name")
        kinds = self.kinds(owner.type, name)
        holder = holder_of(owner)
        field, pair = self.value(asked.parts["value"], kinds, asked.at)
        present = [one for kind in kinds for one in occurrences(holder, kind)]
        if present and not field.many:
            text = f"{owner.type} has {field.name} already; replace it"
            raise refused("processing", text)
        keep(holder, field, [*occurrences(holder, field), pair])

    def insert(self, asked: Operation, tree: Expression) -> None:
        """Put a value before the item with this index, or behind the last one."""
        holder, field = self.listed(tree)
        index, pairs = asked.number("index"), occurrences(holder, field)
        if index > len(pairs):
            raise refused("processing", f"index must be at most {len(pairs)}")
        pairs.insert(index, self.value(asked.parts["value"], [field], asked.at)[1])
        keep(holder, field, pairs)

    def delete(self, asked: Operation, tree: Expression) -> None:  # noqa: ARG002
        """Delete an element; none to delete is no error, several are one."""
        if not self.found(tree):
            return
        node = self.one(tree)
        holder, field = self.field(node)
        pairs = occurrences(holder, field)
        del pairs[node.index or 0]
        keep(holder, field, pairs)

    def replace(self, asked: Operation, tree: Expression) -> None:
        """Put a value in the place of an element; a choice may change its type."""
        node = self.one(tree)
        holder, field = self.field(node)
        pairs = occurrences(holder, field)
        kinds = self.kinds(node.parent.type if node.parent else "", field.name)
        new, pair = self.value(asked.parts["value"], kinds, asked.at)
        pairs[node.index or 0] = pair
        if new.key != field.key:
            keep(holder, field, [])
        keep(holder, new, pairs)

    def move(self, asked: Operation, tree: Expression) -> None:
        """Move an item of a list to another index."""
        holder, field = self.listed(tree)
        pairs = occurrences(holder, field)
        source, destination = asked.number("source"), asked.number("destination")
        for name, index in (("source", source), ("destination", destination)):
            if index >= len(pairs):
                raise refused("processing", f"{name} must be below {len(pairs)}")
        pairs.insert(destination, pairs.pop(source))
        keep(holder, field, pairs)

    def kinds(self, type: str, name: str) -> list[Field]:
        """Return the keys that the element of a name can have; a 422 if there is no such element.

        A choice may be named with or without a type: `value`, `value[x]`, `valueQuantity`.
        """
        plain = name.removesuffix("[x]")
        named = self.model.named(type)
        if plain in named:
            return list(named[plain])
        keyed = self.model.keyed(type)
        if plain in keyed:
            return [keyed[plain]]
        raise refused("processing", f"{type} has no element {name[:64]!r}")

    def value(self, part: Resource, kinds: list[Field], at: str) -> tuple[Field, Pair]:
        """Return what a `value` part says, and under which of the keys it goes."""
        choices = self.model.named(PARAMETER)["value"]
        given = [(one, pair) for one in choices for pair in occurrences(part, one)]
        if len(given) + ("resource" in part) + ("part" in part) != 1:
            raise refused("required", "value needs one value[x], a resource, or parts", at, 400)
        if "part" in part:
            if len(kinds) > 1:
                text = f"name must say which type of {kinds[0].name} the parts make"
                raise refused("processing", text)
            return kinds[0], (self.made(part, kinds[0].type, at), None)
        if "resource" in part:
            if kinds[0].type != "Resource":
                raise refused("processing", f"{kinds[0].name} does not hold a resource")
            return kinds[0], (part["resource"], None)
        sent, pair = given[0]
        for kind in sorted(kinds, key=lambda kind: kind.type != sent.type):
            if fits(sent, kind, self.model, alone=len(kinds) == 1):
                return kind, pair
        allowed = " or ".join(kind.type for kind in kinds[:20])
        raise refused("processing", f"{kinds[0].name} is of type {allowed}, not {sent.type}")

    def made(self, part: Resource, type: str, at: str) -> Resource:
        """Return the object that parts make: each is an element of its name (fhirpatch.html)."""
        made: Resource = {}
        for inner in part["part"]:
            kinds = self.kinds(type, _name(inner, at))
            field, pair = self.value(inner, kinds, at)
            present = [one for kind in kinds for one in occurrences(made, kind)]
            if present and not field.many:
                raise refused("processing", f"{type} has one {field.name}, and there are two")
            keep(made, field, [*occurrences(made, field), pair])
        return made


def fits(sent: Field, kind: Field, model: Model, *, alone: bool) -> bool:
    """Return whether a value that was sent as one type can be of another.

    Of a choice only the type itself will do, or one that it specialises.
    """
    if sent.type == kind.type or model.is_a(sent.type, kind.type):
        return True
    if not alone:
        return False
    if sent.primitive and kind.primitive:
        return written(sent.type) == written(kind.type)
    return model.is_a(kind.type, sent.type)


def written(primitive: str) -> str:
    """Return how JSON writes a primitive: as a boolean, a number or a string."""
    if primitive == "boolean":
        return primitive
    return "number" if primitive in NUMBERS else "string"


PERFORM = {
    "add": _Document.add,
    "insert": _Document.insert,
    "delete": _Document.delete,
    "replace": _Document.replace,
    "move": _Document.move,
}
