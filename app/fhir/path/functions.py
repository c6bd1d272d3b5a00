"""The functions of FHIRPath, in the order of the specification.

https://hl7.org/fhirpath/N1/#functions and https://hl7.org/fhir/R4/fhirpath.html#functions

Rule 1: a function is a row of a table. The table says how its arguments come: COLLECTING functions
get collections, SCALAR ones get plain values after the rules of single items and of emptiness have
been applied, ITERATING ones get their arguments unevaluated, as closures.

Left out, because nothing that the server evaluates needs them: `now`, `today`, `timeOfDay` (an
expression has no clock), `toDate`, `toDateTime`, `toTime`, `toQuantity`, `type`, `memberOf`,
`subsumes`, `conformsTo`, `slice`, `elementDefinition`, `checkModifiers`. Like any unknown name they
are refused when an expression is compiled.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal, DecimalException
from typing import Any

from app.fhir.narrative import flaws
from app.fhir.path.collection import (
    Constant,
    Items,
    Model,
    Node,
    boolean,
    children,
    descendants,
    distinct,
    identity,
    item_of,
    keys,
    member,
    only,
    refused,
    text_of,
    truth,
)


@dataclass(frozen=True, slots=True)
class Scope:
    """What stays the same during one evaluation: the environment variables and the model.

    `memo` keeps what was read from them, which a criterion asks for again at every item (sdf-8).
    """

    resource: Node
    root: Node
    context: Node
    model: Model
    memo: dict[Any, Constant] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Frame:
    """What a part of an expression is evaluated on: `$this`, `$index`, `$total`."""

    this: Items
    scope: Scope
    index: int = 0
    total: Items | None = None

    def on(self, items: Items, index: int = 0, total: Items | None = None) -> "Frame":
        """Return the frame for other items of the same evaluation."""
        return Frame(items, self.scope, index, self.total if total is None else total)


Step = Callable[[Frame], Items]

# --- Existence, filtering and projection: arguments evaluated for each item ----------------------


def each(items: Items, frame: Frame, argument: Step) -> Iterator[tuple[Node, Items]]:
    """Yield each item with what the argument gives for it."""
    for n, item in enumerate(items):
        yield item, argument(frame.on([item], n))


def where(items: Items, frame: Frame, criteria: Step) -> Items:
    """Return the items for which the criteria hold."""
    return [item for item, answer in each(items, frame, criteria) if boolean(answer, "where")]


def exists(items: Items, frame: Frame, criteria: Step | None = None) -> Items:
    """Return whether there is an item, or one for which the criteria hold."""
    return truth(bool(items if criteria is None else where(items, frame, criteria)))


def all_hold(items: Items, frame: Frame, criteria: Step) -> Items:
    """Return whether the criteria hold for every item."""
    return truth(all(boolean(answer, "all") for _, answer in each(items, frame, criteria)))


def select(items: Items, frame: Frame, projection: Step) -> Items:
    """Return what the projection gives for each item, in one collection."""
    return [found for _, answer in each(items, frame, projection) for found in answer]


def repeat(items: Items, frame: Frame, projection: Step) -> Items:
    """Return what the projection gives for each item, and for what it gave, until nothing is new.

    Nothing is new when it equals something found before, which also ends circles.
    """
    found: dict[Any, Node] = {}
    todo = items
    while todo:
        fresh = {identity(item): item for item in select(todo, frame, projection)}
        todo = [item for key, item in fresh.items() if key not in found]
        found |= fresh
    return list(found.values())


def iif(items: Items, frame: Frame, test: Step, then: Step, otherwise: Step | None = None) -> Items:
    """Return one of two results; only that one is evaluated."""
    inner = frame.on(items)
    if boolean(test(inner), "iif"):
        return then(inner)
    return otherwise(inner) if otherwise else []


def aggregate(items: Items, frame: Frame, aggregator: Step, start: Step | None = None) -> Items:
    """Return `$total` after every item has been added to it."""
    total = start(frame) if start else []
    for n, item in enumerate(items):
        total = aggregator(frame.on([item], n, total))
    return total


def trace(items: Items, frame: Frame, name: Step, projection: Step | None = None) -> Items:  # noqa: ARG001
    """Return the items; what a trace would show is nobody's business."""
    return items


def resolve(items: Items, frame: Frame) -> Items:
    """Return the contained resources that `#id` references point at; nothing for any other.

    fhirpath.html#functions: what cannot be resolved is ignored.
    """
    root = frame.scope.root
    contained = {
        node.value.get("id"): node for node in member(root, "contained", frame.scope.model)
    }
    found = []
    for item in items:
        target = item.value.get("reference") if isinstance(item.value, dict) else item.value
        if target == "#":
            found.append(root)
        elif isinstance(target, str) and target[:1] == "#" and target[1:] in contained:
            found.append(contained[target[1:]])
    return found


def extension(items: Items, frame: Frame, url: Step) -> Items:
    """Return the extensions with this URL (fhirpath.html#functions)."""
    wanted = only(url(frame), "extension")
    if wanted is None:
        return []
    found = (one for item in items for one in member(item, "extension", frame.scope.model))
    return [one for one in found if one.value.get("url") == wanted.value]


def all_children(items: Items, frame: Frame) -> Items:
    """Return the children of every item."""
    return [child for item in items for child in children(item, frame.scope.model)]


def all_descendants(items: Items, frame: Frame) -> Items:
    """Return everything below every item."""
    return [below for item in items for below in descendants(item, frame.scope.model)]


ITERATING: dict[str, tuple[Callable[..., Items], int, int]] = {
    "exists": (exists, 0, 1),
    "all": (all_hold, 1, 1),
    "where": (where, 1, 1),
    "select": (select, 1, 1),
    "repeat": (repeat, 1, 1),
    "iif": (iif, 2, 3),
    "aggregate": (aggregate, 1, 2),
    "trace": (trace, 1, 2),
    "resolve": (resolve, 0, 0),
    "extension": (extension, 1, 1),
    "children": (all_children, 0, 0),
    "descendants": (all_descendants, 0, 0),
}

# --- Collections in, a collection out ------------------------------------------------------------


def flags(items: Items) -> list[bool]:
    """Return the items as truth values."""
    return [boolean([item], "allTrue") is True for item in items]


def count_of(items: Items, what: str) -> int:
    """Return the single integer of a collection, 0 for none."""
    item = only(items, what)
    if item is not None and item.kind != "Integer":
        raise refused(f"{what} needs an integer")
    return item.value if item else 0


def skip(items: Items, number: Items) -> Items:
    """Return the items without the first so many."""
    return items[max(count_of(number, "skip"), 0) :]


def take(items: Items, number: Items) -> Items:
    """Return the first so many items."""
    return items[: max(count_of(number, "take"), 0)]


def single(items: Items) -> Items:
    """Return the one item; more are refused."""
    item = only(items, "single")
    return [] if item is None else [item]


def intersect(items: Items, others: Items) -> Items:
    """Return the distinct items that are in both."""
    known = keys(others)
    return distinct([item for item in items if identity(item) in known])


def exclude(items: Items, others: Items) -> Items:
    """Return the items that are not among the others; order and repeats stay."""
    known = keys(others)
    return [item for item in items if identity(item) not in known]


def has_value(items: Items) -> bool:
    """Return whether there is a single primitive that has a value (fhirpath.html#functions)."""
    return len(items) == 1 and items[0].value is not None and not isinstance(items[0].value, dict)


def negated(items: Items) -> Items:
    """Return the opposite of a single truth value."""
    value = boolean(items, "not")
    return [] if value is None else truth(not value)


def html_checks(items: Items) -> Items:
    """Return whether a narrative's div keeps the rules (narrative.html#xhtml)."""
    item = only(items, "htmlChecks")
    return [] if item is None or item.value is None else truth(not flaws(item.value))


COLLECTING: dict[str, tuple[Callable[..., Items], int, int]] = {
    "empty": (lambda a: truth(not a), 0, 0),
    "not": (negated, 0, 0),
    "allTrue": (lambda a: truth(all(flags(a))), 0, 0),
    "anyTrue": (lambda a: truth(any(flags(a))), 0, 0),
    "allFalse": (lambda a: truth(not any(flags(a))), 0, 0),
    "anyFalse": (lambda a: truth(not all(flags(a))), 0, 0),
    "subsetOf": (lambda a, b: truth(keys(a) <= keys(b)), 1, 1),
    "supersetOf": (lambda a, b: truth(keys(a) >= keys(b)), 1, 1),
    "count": (lambda a: item_of(len(a)), 0, 0),
    "distinct": (distinct, 0, 0),
    "isDistinct": (lambda a: truth(len(keys(a)) == len(a)), 0, 0),
    "single": (single, 0, 0),
    "first": (lambda a: a[:1], 0, 0),
    "last": (lambda a: a[-1:], 0, 0),
    "tail": (lambda a: a[1:], 0, 0),
    "skip": (skip, 1, 1),
    "take": (take, 1, 1),
    "intersect": (intersect, 1, 1),
    "exclude": (exclude, 1, 1),
    "union": (lambda a, b: distinct(a + b), 1, 1),
    "combine": (lambda a, b: a + b, 1, 1),
    "hasValue": (lambda a: truth(has_value(a)), 0, 0),
    "getValue": (lambda a: item_of(a[0].value) if has_value(a) else [], 0, 0),
    "htmlChecks": (html_checks, 0, 0),
}

# --- Conversion, text and numbers: plain values --------------------------------------------------

WORDS = {
    **dict.fromkeys(("true", "t", "yes", "y", "1", "1.0"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0", "0.0"), False),
}
INTEGER = re.compile(r"[+-]?\d{1,18}", re.ASCII)
DECIMAL = re.compile(r"[+-]?\d{1,40}(\.\d{1,40})?", re.ASCII)


def to_boolean(value: Any) -> bool | None:
    """Return the truth value that a text or number stands for (N1#conversion)."""
    if isinstance(value, str):
        return WORDS.get(value.lower())
    return bool(value) if value in (0, 1) else None


def to_integer(value: Any) -> int | None:
    """Return the integer that a value stands for."""
    if isinstance(value, bool | int):
        return int(value)
    return int(value) if isinstance(value, str) and INTEGER.fullmatch(value) else None


def to_decimal(value: Any) -> Decimal | None:
    """Return the decimal that a value stands for."""
    if isinstance(value, bool | int | Decimal):
        return Decimal(value)
    return Decimal(value) if isinstance(value, str) and DECIMAL.fullmatch(value) else None


def to_string(value: Any) -> str | None:
    """Return a value as text; an object has none."""
    return None if isinstance(value, dict) else text_of(Node(value, ""))


def index_of(text: str, part: str) -> int:
    """Return where a part starts, -1 where it is not."""
    return text.find(part)


def substring(text: str, start: int, length: int | None = None) -> str | None:
    """Return a part of a text; nothing where it starts outside (N1#substring)."""
    if not 0 <= start < len(text):
        return None
    return text[start:] if length is None else text[start : start + max(length, 0)]


def matches(text: str, pattern: str) -> bool:
    """Return whether a regular expression matches anywhere in the text (N1#matches)."""
    return compiled(pattern).search(text) is not None


def replace_matches(text: str, pattern: str, substitution: str) -> str:
    """Return the text with every match replaced; `$1` in the substitution is a group."""
    return compiled(pattern).sub(re.sub(r"\$(\d)", r"\\\1", substitution), text)


def compiled(pattern: str) -> re.Pattern[str]:
    """Return a regular expression; refuse one that is none."""
    try:
        return re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise refused("not a regular expression") from error


def power(base: Any, exponent: Any) -> Decimal | None:
    """Return a power, as a decimal so that its size stays bounded."""
    return Decimal(base) ** Decimal(exponent)


def rounded(value: Any, precision: int = 0) -> Decimal:
    """Return a number rounded half up to so many places."""
    return Decimal(value).quantize(Decimal(1).scaleb(-precision), ROUND_HALF_UP)


def whole(value: Any, way: Callable[[Any], int]) -> int:
    """Return a number made whole; one of astronomical size is refused."""
    if abs(Decimal(value).adjusted()) > 30:
        raise refused("a number too large to be made whole")
    return way(value)


NUMBER = (int, Decimal)
ANY = (str, bool, int, Decimal)

# name: (function, the type of its input, fewest and most arguments)
SCALAR: dict[str, tuple[Callable[..., Any], Any, int, int]] = {
    "toBoolean": (to_boolean, ANY, 0, 0),
    "toInteger": (to_integer, ANY, 0, 0),
    "toDecimal": (to_decimal, ANY, 0, 0),
    "toString": (to_string, ANY, 0, 0),
    "convertsToBoolean": (lambda a: to_boolean(a) is not None, ANY, 0, 0),
    "convertsToInteger": (lambda a: to_integer(a) is not None, ANY, 0, 0),
    "convertsToDecimal": (lambda a: to_decimal(a) is not None, ANY, 0, 0),
    "convertsToString": (lambda a: to_string(a) is not None, ANY, 0, 0),
    "indexOf": (index_of, str, 1, 1),
    "substring": (substring, str, 1, 2),
    "startsWith": (str.startswith, str, 1, 1),
    "endsWith": (str.endswith, str, 1, 1),
    "contains": (str.__contains__, str, 1, 1),
    "upper": (str.upper, str, 0, 0),
    "lower": (str.lower, str, 0, 0),
    "replace": (str.replace, str, 2, 2),
    "matches": (matches, str, 1, 1),
    "replaceMatches": (replace_matches, str, 2, 2),
    "length": (len, str, 0, 0),
    "toChars": (list, str, 0, 0),
    "abs": (abs, NUMBER, 0, 0),
    "ceiling": (lambda a: whole(a, math.ceil), NUMBER, 0, 0),
    "floor": (lambda a: whole(a, math.floor), NUMBER, 0, 0),
    "truncate": (lambda a: whole(a, math.trunc), NUMBER, 0, 0),
    "exp": (lambda a: Decimal(a).exp(), NUMBER, 0, 0),
    "ln": (lambda a: Decimal(a).ln(), NUMBER, 0, 0),
    "log": (lambda a, b: Decimal(a).ln() / Decimal(b).ln(), NUMBER, 1, 1),
    "power": (power, NUMBER, 1, 1),
    "round": (rounded, NUMBER, 0, 1),
    "sqrt": (lambda a: Decimal(a).sqrt(), NUMBER, 0, 0),
}


def scalar(name: str, items: Items, arguments: list[Items]) -> Items:
    """Return what a function of plain values gives; empty for an empty input or argument."""
    function, wanted, _, _ = SCALAR[name]
    values = []
    for one in (items, *arguments):
        item = only(one, name)
        if item is None or item.value is None:
            return []
        values.append(item.value)
    if not isinstance(values[0], wanted) or (wanted is NUMBER and isinstance(values[0], bool)):
        raise refused(f"{name} does not apply to a value of this type")
    try:
        answer = function(*values)
    except (TypeError, DecimalException) as error:
        if isinstance(error, DecimalException):
            return []
        raise refused(f"{name} has an argument of the wrong type") from error
    if isinstance(answer, list):
        return [node for one in answer for node in item_of(one)]
    return [] if answer is None else item_of(answer)


def call(name: str, source: Step, arguments: list[Step]) -> Step:
    """Return the step of a function call; refuse one that does not exist, or is called wrongly.

    Arguments that are not evaluated item by item see what the whole call sees, not its source.
    """
    fewest, most = arity(name)
    if not fewest <= len(arguments) <= most:
        raise refused(f"{name}() takes {fewest} to {most} arguments, not {len(arguments)}")
    if name in ITERATING:
        iterating = ITERATING[name][0]
        return lambda frame: iterating(source(frame), frame, *arguments)
    if name in COLLECTING:
        collecting = COLLECTING[name][0]
        return lambda frame: collecting(source(frame), *(one(frame) for one in arguments))
    return lambda frame: scalar(name, source(frame), [one(frame) for one in arguments])


def arity(name: str) -> tuple[int, int]:
    """Return how few and how many arguments a function takes."""
    for row in (ITERATING.get(name), COLLECTING.get(name), SCALAR.get(name)):
        if row is not None:
            return row[-2], row[-1]
    raise refused(f"{name}() is not a function")
