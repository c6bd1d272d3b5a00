"""The collections of FHIRPath: items that know their type and place; walking; equality and order.

https://hl7.org/fhirpath/N1/#collections and https://hl7.org/fhir/R4/fhirpath.html#types

Rule 1: no syntax here. Rule 2: a type is looked up in the definitions at every step down, which is
what lets `value` find `valueQuantity`, and a contained resource be of its own type.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from itertools import zip_longest
from typing import Any

from app.fhir.definitions import Definitions
from app.fhir.errors import FhirError, Issue
from app.fhir.path.grammar import Measure
from app.fhir.values import Interval, parse_date

# fhirpath.html#types: the System type that each primitive counts as
KINDS = {
    "boolean": "Boolean",
    "integer": "Integer",
    "positiveInt": "Integer",
    "unsignedInt": "Integer",
    "decimal": "Decimal",
    "date": "Date",
    "dateTime": "DateTime",
    "instant": "DateTime",
    "time": "Time",
    "Quantity": "Quantity",
    "Age": "Quantity",
    "Count": "Quantity",
    "Distance": "Quantity",
    "Duration": "Quantity",
    "MoneyQuantity": "Quantity",
    "SimpleQuantity": "Quantity",
}  # every other primitive is a String

NUMBERS = {"Integer", "Decimal"}
MOMENTS = {"Date", "DateTime", "Time"}


@dataclass(frozen=True, slots=True)
class Field:
    """One JSON property of a structure: its element's name, its type, and how it is held."""

    key: str
    name: str
    type: str
    many: bool
    primitive: bool


class Model:
    """What navigation needs of the definitions, by structure, worked out at first use."""

    def __init__(self, definitions: Definitions) -> None:
        self.definitions = definitions
        self._named: dict[str, dict[str, list[Field]]] = {}
        self._keyed: dict[str, dict[str, Field]] = {}

    def named(self, type: str) -> Mapping[str, Sequence[Field]]:
        """Return the properties that each element name stands for: several for a choice."""
        if type not in self._named:
            found: dict[str, list[Field]] = {}
            for field in self.keyed(type).values():
                found.setdefault(field.name, []).append(field)
            self._named[type] = found
        return self._named[type]

    def keyed(self, type: str) -> Mapping[str, Field]:
        """Return the properties of a structure by JSON key, in the order of the definition."""
        if type not in self._keyed:
            self._keyed[type] = {field.key: field for field in self._fields(type)}
        return self._keyed[type]

    def _fields(self, type: str) -> Iterator[Field]:
        structures = self.definitions.structures
        structure = structures.get(type)
        for element in structure.elements if structure else ():
            if structure and structure.kind == "primitive-type" and element.name == "value":
                continue
            for code in element.types:
                key = element.name + code[0].upper() + code[1:] if element.choice else element.name
                primitive = code in structures and structures[code].kind == "primitive-type"
                yield Field(key, element.name, code, element.many, primitive)

    def resource_type(self, value: Any) -> str:
        """Return the type that a resource says it has, `Resource` for one that is unknown."""
        name = value.get("resourceType") if isinstance(value, dict) else None
        return name if isinstance(name, str) and name in self.definitions.structures else "Resource"

    def is_a(self, type: str, wanted: str) -> bool:
        """Return whether `type` is `wanted` or specialises it."""
        if type == wanted:
            return True
        return type in self.definitions.structures and wanted in self.definitions.ancestors(type)


class Node:
    """An item of a collection: a JSON value that knows its type and where it was found.

    `extra` is the object that JSON keeps under `_name` for a primitive's id and extensions; `value`
    is None where a primitive has only that. `parent`, `key` and `index` (None where JSON holds no
    array) say where it stands; they are None for what an expression computed.
    """

    __slots__ = ("extra", "index", "key", "parent", "type", "value")

    def __init__(
        self,
        value: Any,
        type: str,
        extra: Any = None,
        parent: "Node | None" = None,
        key: str | None = None,
        index: int | None = None,
    ) -> None:
        self.value = value
        self.type = type
        self.extra = extra
        self.parent = parent
        self.key = key
        self.index = index

    @property
    def kind(self) -> str:
        """Return the System type that the value counts as, or "" for a complex one."""
        if self.type.startswith("System."):
            return self.type[7:]
        kind = KINDS.get(self.type)
        return kind or ("" if isinstance(self.value, dict) else "String")


Items = list[Node]


class Constant(list[Node]):
    """A collection that stays the same during an evaluation, and is searched by key."""

    @cached_property
    def keys(self) -> frozenset[Any]:
        """Return what makes each item the same as another."""
        return frozenset(map(identity, self))


TRUE = [Node(True, "System.Boolean")]
FALSE = [Node(False, "System.Boolean")]


def truth(value: bool | None) -> Items:
    """Return a truth value as a collection; None is the empty one."""
    return [] if value is None else TRUE if value else FALSE


SYSTEM = {bool: "Boolean", str: "String", int: "Integer", Decimal: "Decimal", Measure: "Quantity"}


def item_of(value: Any) -> Items:
    """Return a value that an expression computed as a collection."""
    return [Node(value, f"System.{SYSTEM[type(value)]}")]


def text_of(node: Node | None) -> str:
    """Return what `toString()` says of an item, and nothing of none."""
    if node is None or node.value is None:
        return ""
    if isinstance(node.value, bool):
        return "true" if node.value else "false"
    if isinstance(node.value, Measure):
        return f"{node.value.value} '{node.value.unit}'"
    return f"{node.value:f}" if isinstance(node.value, Decimal) else str(node.value)


def refused(what: str) -> FhirError:
    """Return the refusal of an expression that cannot be evaluated."""
    return FhirError([Issue("error", "invalid", f"FHIRPath: {what}")])


def only(items: Items, what: str) -> Node | None:
    """Return the one item, None where there is none; refuse more (N1#singleton-evaluation)."""
    if len(items) > 1:
        raise refused(f"{what} needs a single item, and there are {len(items)}")
    return items[0] if items else None


def boolean(items: Items, what: str) -> bool | None:
    """Return a collection as a condition: a single item that is no boolean counts as true."""
    item = only(items, what)
    if item is None:
        return None
    return item.value if isinstance(item.value, bool) else True


def held(node: Node, field: Field, model: Model) -> Iterator[Node]:
    """Yield the items that a node holds under one JSON key, each with its type and place."""
    holder = node.value if isinstance(node.value, dict) else node.extra
    if not isinstance(holder, dict):
        return
    value = holder.get(field.key)
    extra = holder.get("_" + field.key) if field.primitive else None
    if value is None and extra is None:
        return
    if not field.many:
        yield Node(value, typed(field, value, model), extra, node, field.key)
        return
    for n, (one, more) in enumerate(zip_longest(value or (), extra or ())):
        if one is not None or more is not None:
            yield Node(one, typed(field, one, model), more, node, field.key, n)


def typed(field: Field, value: Any, model: Model) -> str:
    """Return the type of a value found in `field`; a resource says its own."""
    if field.type == "Resource" and isinstance(value, dict):
        return model.resource_type(value)
    return field.type


def member(node: Node, name: str, model: Model) -> Iterator[Node]:
    """Yield the children of a node that have this element name."""
    for field in model.named(node.type).get(name, ()):
        yield from held(node, field, model)


def children(node: Node, model: Model) -> Iterator[Node]:
    """Yield all children of a node, in the order of the definition."""
    for field in model.keyed(node.type).values():
        yield from held(node, field, model)


def descendants(node: Node, model: Model) -> Iterator[Node]:
    """Yield everything below a node, each parent before its children."""
    for child in children(node, model):
        yield child
        yield from descendants(child, model)


def matches_type(node: Node, wanted: str, model: Model) -> bool:
    """Return whether a node is of a type named in an expression, with or without namespace."""
    space, _, name = wanted.rpartition(".")
    if space == "System" or (not space and name not in model.definitions.structures):
        return node.kind == name
    return model.is_a(node.type, name)


def measure(node: Node) -> tuple[Any, Any] | None:
    """Return the value and unit of a quantity, None where it has no value."""
    if isinstance(node.value, Measure):
        return node.value.value, node.value.unit
    if node.value is None or node.value.get("value") is None:
        return None
    return node.value["value"], node.value.get("code") or node.value.get("unit") or "1"


def equal(left: Node, right: Node) -> bool | None:
    """Return whether two items are equal (N1#equals), None where that cannot be known."""
    kinds = {left.kind, right.kind}
    if left.value is None or right.value is None:
        return None
    if kinds <= MOMENTS:
        order = compare(left, right)
        return None if order is None else order == 0
    if kinds == {"Quantity"}:
        one, other = measure(left), measure(right)
        if one and other and one[1] != other[1]:
            return None
        return one == other
    return (kinds <= NUMBERS or len(kinds) == 1) and bool(left.value == right.value)


def compare(left: Node, right: Node) -> int | None:
    """Return -1, 0 or 1 as `left` is before, at or after `right`; None where unknown."""
    if left.value is None or right.value is None:
        return None
    kinds = {left.kind, right.kind}
    a, b = left.value, right.value
    if kinds <= MOMENTS:
        if "Time" in kinds:
            return compare_times(a, b) if kinds == {"Time"} else None
        return compare_moments(a, b)
    if kinds == {"Quantity"}:
        one, other = measure(left), measure(right)
        if one is None or other is None or one[1] != other[1]:
            return None
        a, b = one[0], other[0]
    elif not (kinds <= NUMBERS or kinds == {"String"}):
        raise refused("values of these types have no order")
    return int(a > b) - int(a < b)


# hours by which a date without a zone may lie elsewhere: the zones go from -12:00 to +14:00
WEST, EAST = 12 * 3_600_000_000, 14 * 3_600_000_000


def compare_moments(left: str, right: str) -> int | None:
    """Return the order of two dates or dateTimes; None where their precision leaves it open.

    N1#comparison: seconds and fractions are one precision. Where one of the two names a zone and
    the other does not, only an order that holds in every zone is an order. Texts that are equally
    long and have the same fraction and zone are in the order of their characters.
    """
    if len(left) == len(right) and left[19:] == right[19:]:
        return int(left > right) - int(left < right)
    one, other = parse_date(left), parse_date(right)
    if len(left) > 16 and len(right) > 16:
        return int(one.lo > other.lo) - int(one.lo < other.lo)
    if zoned(left) and not zoned(right):
        other = Interval(other.lo - EAST, other.hi + WEST)
    elif zoned(right) and not zoned(left):
        one = Interval(one.lo - EAST, one.hi + WEST)
    if one == other:
        return 0
    return -1 if one.hi <= other.lo else 1 if one.lo >= other.hi else None


def zoned(text: str) -> bool:
    """Return whether a date names its time zone."""
    return len(text) > 10 and (text[-1] == "Z" or text[-6] in "+-")


def compare_times(left: str, right: str) -> int | None:
    """Return the order of two times of day; None where their precision leaves it open."""
    one, other = left.split(":"), right.split(":")
    for a, b in zip(one, other, strict=False):
        if Decimal(a) != Decimal(b):
            return 1 if Decimal(a) > Decimal(b) else -1
    return 0 if len(one) == len(other) else None


def identity(node: Node) -> Any:
    """Return a key that is the same for items that count as the same (`distinct`, `|`, `in`)."""
    kind = node.kind
    if kind == "Boolean" or node.value is None:
        return kind, node.value
    return ("number" if kind in NUMBERS else kind), frozen(node.value)


def frozen(value: Any) -> Any:
    """Return a JSON value as something that can be a key."""
    if isinstance(value, dict):
        return frozenset((key, frozen(one)) for key, one in value.items())
    return tuple(map(frozen, value)) if isinstance(value, list) else value


def equivalent(left: Node, right: Node) -> bool:
    """Return whether two items are equivalent (N1#equivalent): case and white space aside."""
    if left.kind == right.kind == "String" and left.value and right.value:
        return bool(left.value.casefold().split() == right.value.casefold().split())
    return equal(left, right) is True


def keys(items: Items) -> frozenset[Any]:
    """Return what makes each item the same as another."""
    return items.keys if isinstance(items, Constant) else frozenset(map(identity, items))


def distinct(items: Items) -> Items:
    """Return the items without the later ones that equal an earlier one."""
    return list({identity(item): item for item in reversed(items)}.values())[::-1]
