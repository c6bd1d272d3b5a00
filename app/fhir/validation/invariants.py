"""Invariants as predicates on JSON: quick where their form allows, exact everywhere.

https://hl7.org/fhir/R4/conformance-rules.html#constraints

Rule 1: a quick form says what the FHIRPath engine says, only sooner; the tests compare the two.
Rule 2: a rule is asked only about a value whose JSON shape is right.

Most invariants ask whether an element is there, or compare a code with a constant. With the types
known beforehand that is a few dictionary look-ups, a hundredth of the cost of collections. `Quick`
turns those parts of a tree into closures that answer in three values (None is the empty
collection); a part of any other form becomes a closure that calls the engine for that part alone.

An invariant fails when it is false. Empty does not fail: bdl-8 (`fullUrl.contains(...).not()`) is
empty for every entry without fullUrl, per-1 for dates whose precision leaves their order open.
"""

from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha1
from itertools import chain
from typing import Any

from app.fhir.definitions import Constraint
from app.fhir.errors import FhirError
from app.fhir.path import (
    Binary,
    Call,
    Expression,
    Field,
    Literal,
    Member,
    Model,
    TypeTest,
    Variable,
    compile,  # noqa: A004
    parse,
)
from app.fhir.path.collection import KINDS, Constant, boolean, compare_moments
from app.fhir.path.evaluation import LOGIC, ORDER, Compiled, step


@dataclass(frozen=True)
class Within:
    """Where a value stands: its resource, and for a contained one, where its container stands."""

    resource: dict[str, Any]
    around: "Within | None" = None

    @property
    def root(self) -> dict[str, Any]:
        """Return the resource that contains this one, or this one."""
        return self.around.root if self.around else self.resource

    @cached_property
    def memo(self) -> dict[Any, Constant]:
        """Return what expressions have read from `%resource` and `%rootResource`."""
        return {}

    @cached_property
    def contained(self) -> dict[str, str]:
        """Return the types that the root's contained resources say they have, by their ids."""
        if self.around:
            return self.around.contained
        contained = self.resource.get("contained")
        return {
            one["id"]: one["resourceType"]
            for one in (contained if isinstance(contained, list) else ())
            if isinstance(one, dict)
            and isinstance(one.get("id"), str)
            and isinstance(one.get("resourceType"), str)
        }


Predicate = Callable[[Any, Within], bool]
Truth = Callable[[Any, Within], bool | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """An invariant ready to be asked: its key, what it says, and whether it holds."""

    key: str
    human: str
    holds: Predicate


def rules(constraints: Iterable[Constraint], type: str, model: Model) -> tuple[Rule, ...]:
    """Return the rules for values of `type`, without those that the validator checks itself."""
    found = []
    for one in constraints:
        if one.key not in STRUCTURAL:
            holds = REPLACED.get(one.key) or predicate(corrected(one), type, model)
            found.append(Rule(one.key, one.human, holds))
    return tuple(found)


def corrected(constraint: Constraint) -> str:
    """Return the expression of an invariant as it is meant."""
    if constraint.key in UNANCHORED:
        return constraint.expression.replace("('", "('^").replace("')", "$')")
    return CORRECTED.get(constraint.key, constraint.expression)


def predicate(expression: str, type: str, model: Model) -> Predicate:
    """Return whether an expression holds, which it does unless it is false."""
    if "%context" in expression:
        return exact(compile(expression, type, model))
    truth = Quick(model).truth(parse(expression), type)
    if any(word in expression for word in ELSEWHERE):
        return lenient(truth)
    return lambda value, within: truth(value, within) is not False


ELSEWHERE = ("%resource", "%rootResource", "resolve()")


def lenient(truth: Truth) -> Predicate:
    """Return the predicate of a rule that also looks at other parts of the resource.

    Those may have any shape; if they have not the one defined, that is reported there.
    """

    def holds(value: Any, within: Within) -> bool:
        try:
            return truth(value, within) is not False
        except (AttributeError, TypeError, FhirError):
            return True

    return holds


def exact(compiled: Compiled) -> Predicate:
    """Return the predicate that asks the engine for the whole expression."""

    def holds(value: Any, within: Within) -> bool:
        answer = compiled(value, resource=within.resource, root=within.root)
        return not (len(answer) == 1 and answer[0] is False)

    return holds


# --- Rules written by hand ------------------------------------------------------------------------

# ref-1 needs to say which reference, txt-1 and txt-2 which element: the validator does both
STRUCTURAL = {"ref-1", "txt-1", "txt-2"}

# R4 forgot the anchors of this pattern, which makes it true of nearly any text; R5 has them
UNANCHORED = {"eld-19"}

# R4 forgot that `when` repeats, so that it cannot be asked of two; R5 says
CORRECTED = {
    "tim-9": "offset.empty() or"
    " (when.exists() and when.select($this in ('C' | 'CM' | 'CD' | 'CV')).allFalse())"
}


def contains_nothing(resource: Any, within: Within) -> bool:  # noqa: ARG001
    """dom-2: contained resources do not contain any."""
    return not any("contained" in one for one in resource["contained"])


def is_referenced(resource: Any, within: Within) -> bool:  # noqa: ARG001
    """dom-3: each contained resource is pointed at, or points at the one around it with `#`.

    The official expression looks everything up again for each contained resource, and its
    `as(uri)` of a whole collection is an error in FHIRPath. Here: the texts that start with # in
    one walk. A contained resource may be pointed at from another one, as long as it is not itself.
    """
    contained = resource["contained"]
    inside = [local_references(one) for one in contained]
    around = local_references([part for key, part in resource.items() if key != "contained"])
    times = Counter(chain(around, *inside))
    for one, own in zip(contained, inside, strict=True):
        anchor = f"#{one.get('id')}"
        if "#" not in own and times[anchor] == (anchor in own):
            return False
    return True


def local_references(value: Any) -> set[str]:
    """Return the texts below a JSON value that start with `#`."""
    found: set[str] = set()
    todo = [value]
    while todo:
        one = todo.pop()
        if type(one) is str:
            if one[:1] == "#":
                found.add(one)
        elif type(one) is dict:
            todo.extend(one.values())
        elif type(one) is list:
            todo.extend(one)
    return found


def has_no_version(resource: Any, within: Within) -> bool:  # noqa: ARG001
    """dom-4: contained resources have neither meta.versionId nor meta.lastUpdated."""
    metas = (one.get("meta", {}) for one in resource["contained"])
    return not any("versionId" in meta or "lastUpdated" in meta for meta in metas)


def has_no_label(resource: Any, within: Within) -> bool:  # noqa: ARG001
    """dom-5: contained resources have no security label."""
    return not any("security" in one.get("meta", {}) for one in resource["contained"])


REPLACED: dict[str, Predicate] = {
    "dom-2": contains_nothing,
    "dom-3": is_referenced,
    "dom-4": has_no_version,
    "dom-5": has_no_label,
}


def has_its_size(attachment: Any, within: Within) -> bool:  # noqa: ARG001
    """Attachment.size: the bytes of `data` before they became base64, where both are there."""
    if "data" not in attachment or "size" not in attachment:
        return True
    text = "".join(attachment["data"].split())
    return bool(len(text) // 4 * 3 - text.count("=") == attachment["size"])


def has_its_hash(attachment: Any, within: Within) -> bool:  # noqa: ARG001
    """Attachment.hash: the SHA-1 of `data`, where both are there.

    What has not the length of a SHA-1 is left alone: an official example has one in hexadecimal.
    """
    if "data" not in attachment or "hash" not in attachment:
        return True
    known = b64decode(attachment["hash"])
    digest = sha1(b64decode(attachment["data"]), usedforsecurity=False)
    return len(known) != digest.digest_size or known == digest.digest()


# Rules that a page says in words alone, by the type that they are about
IN_WORDS = {
    "Attachment": (
        Rule("Attachment.size", "Must be the number of bytes of data", has_its_size),
        Rule("Attachment.hash", "Must be the SHA-1 of data, as base64", has_its_hash),
    )
}

# --- Quick forms ----------------------------------------------------------------------------------

Hop = tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Route:
    """A path whose every step is known beforehand; the last step may be a choice of types."""

    of_resource: bool
    hops: tuple[Hop, ...]
    type: str

    def single(self) -> Field | None:
        """Return the one property that a route of single, untyped steps ends at."""
        simple = self.hops and all(len(hop) == 1 and not hop[0].many for hop in self.hops)
        return self.hops[-1][0] if simple else None


class Quick:
    """Compiles trees into three-valued closures over JSON."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def truth(self, tree: Expression, type: str) -> Truth:
        """Return the closure that answers a condition on values of `type`."""
        return self.known(tree, type) or self.engine(tree, type)

    def engine(self, tree: Expression, type: str) -> Truth:
        """Return the closure that has the engine answer this part."""
        compiled = Compiled("", type, self.model, step(tree))

        def ask(value: Any, within: Within) -> bool | None:
            answer = compiled.nodes(
                value, resource=within.resource, root=within.root, memo=within.memo
            )
            return boolean(answer, "an invariant")

        return ask

    def known(self, tree: Expression, type: str) -> Truth | None:
        """Return the quick closure for a tree of a common form, None for any other."""
        match tree:
            case Literal(True):
                return lambda value, within: True  # noqa: ARG005
            case Binary(operator, left, right) if operator in LOGIC:
                return logic(operator, self.truth(left, type), self.truth(right, type))
            case Binary("=" | "!=" as operator, left, right) if decides(left) and decides(right):
                return agreement(operator, self.truth(left, type), self.truth(right, type))
            case Binary("=" | "!=" as operator, left, Literal(constant)):
                return self.equality(operator, self.route(left, type), (constant,))
            case Binary("in", left, right):
                return self.equality("=", self.route(left, type), constants(right))
            case Binary(operator, left, right) if operator in ORDER:
                return self.order(operator, left, right, type)
            case Call(source, "not", ()) if source is not None and decides(source):
                return negation(self.truth(source, type))
            case Call(Call(source, "where", (criteria,)), "exists" | "empty" as name, ()):
                return self.filtered(name, source, criteria, type)
            case Call(source, "exists" | "empty" as name, ()):
                return self.presence(name, self.route(source, type))
            case Call(source, "exists", (criteria,)):
                return self.filtered("exists", source, criteria, type)
            case Call(source, "all", (criteria,)):
                return self.filtered("all", source, criteria, type)
            case Call(source, "hasValue", ()):
                return has_value(self.route(source, type))
        return None

    def route(self, tree: Expression | None, type: str) -> Route | None:
        """Return the route that a tree walks from values of `type`, None where it is no route."""
        match tree:
            case None | Variable("$this"):
                return Route(False, (), type)
            case Variable("%resource"):
                name = type.split(".")[0]
                kind = self.model.definitions.structures[name].kind
                return Route(True, (), name) if kind == "resource" else None
            case Member(None, name) if name == type:
                return Route(False, (), type)
            case Member(source, name):
                return self.further(self.route(source, type), name)
            case TypeTest("as" | "ofType", source, wanted):
                return self.narrowed(self.route(source, type), wanted)
        return None

    def further(self, route: Route | None, name: str) -> Route | None:
        """Return a route made one step longer, where its end has one type that has children."""
        if route is None or (
            route.hops and (len(route.hops[-1]) > 1 or route.hops[-1][0].primitive)
        ):
            return None
        fields = tuple(self.model.named(route.type).get(name, ()))
        if not fields:
            return None
        return Route(route.of_resource, (*route.hops, fields), fields[0].type)

    def narrowed(self, route: Route | None, wanted: str) -> Route | None:
        """Return a route whose last step, a choice, keeps one type only."""
        if route is None or not route.hops:
            return None
        fields = tuple(f for f in route.hops[-1] if self.model.is_a(f.type, wanted))
        if len(fields) != 1:
            return None
        return Route(route.of_resource, (*route.hops[:-1], fields), fields[0].type)

    def presence(self, name: str, route: Route | None) -> Truth | None:
        """Return the closure of `exists()` or `empty()` on a route."""
        if route is None or not route.hops:
            return None
        there = present(route)
        if name == "exists":
            return there
        return lambda value, within: not there(value, within)

    def filtered(
        self, name: str, source: Expression | None, criteria: Expression, type: str
    ) -> Truth | None:
        """Return the closure that asks criteria of each item of a route."""
        route = self.route(source, type)
        if route is None or (
            route.hops and (len(route.hops[-1]) > 1 or route.hops[-1][0].primitive)
        ):
            return None
        if route.type == "Resource" or "$index" in repr(criteria):
            return None
        found, test = items(route), self.truth(criteria, route.type)
        if name == "all":
            return lambda value, within: all(test(one, within) for one in found(value, within))
        wanted = name == "exists"
        return lambda value, within: (
            any(test(one, within) for one in found(value, within)) is wanted
        )

    def equality(self, operator: str, route: Route | None, known: Any) -> Truth | None:
        """Return the closure that compares a single text, boolean or integer with constants."""
        field = route.single() if route else None
        if route is None or field is None or not field.primitive or not known:
            return None
        wanted = {"boolean": bool, "integer": int, "positiveInt": int, "unsignedInt": int}
        kind = wanted.get(field.type, None if field.type in KINDS else str)
        if kind is None or any(type(one) is not kind for one in known):
            return None
        value_of, among, same = getter(route), frozenset(known), operator == "="

        def compare(value: Any, within: Within) -> bool | None:
            one = value_of(value, within)
            return None if one is None else (one in among) is same

        return compare

    def order(self, operator: str, left: Expression, right: Expression, type: str) -> Truth | None:
        """Return the closure that orders two dates, or a number and a constant."""
        a, decide = self.route(left, type), ORDER[operator]
        first = a.single() if a else None
        if a is None or first is None:
            return None
        get_left = getter(a)
        if isinstance(right, Literal) and type_of(right) is int and first.type in NUMERIC:
            limit: Any = right.value

            def bounded(value: Any, within: Within) -> bool | None:
                one = get_left(value, within)
                return None if one is None else decide(int(one > limit) - int(one < limit))

            return bounded
        b = self.route(right, type)
        second = b.single() if b else None
        if b is None or second is None or {first.type, second.type} - DATES:
            return None
        get_right = getter(b)

        def ordered(value: Any, within: Within) -> bool | None:
            one, other = get_left(value, within), get_right(value, within)
            if one is None or other is None:
                return None
            answer = compare_moments(one, other)
            return None if answer is None else decide(answer)

        return ordered


NUMERIC = {"integer", "positiveInt", "unsignedInt", "decimal"}
DATES = {"date", "dateTime", "instant"}
DECIDING = {"exists", "empty", "not", "all", "hasValue", "isDistinct", "contains", "startsWith"}


def type_of(literal: Literal) -> type:
    """Return the Python type of a constant."""
    return type(literal.value)


def decides(tree: Expression) -> bool:
    """Return whether a tree can only give a truth value, or nothing."""
    match tree:
        case Binary(operator, _, _):
            return operator in LOGIC or operator in ORDER or operator in {"=", "!=", "in"}
        case Call(_, name, _):
            return name in DECIDING
    return False


def constants(tree: Expression) -> tuple[Any, ...]:
    """Return the constants of `('a' | 'b')`, nothing where something else is among them."""
    match tree:
        case Literal(value):
            return (value,)
        case Binary("|", left, right):
            before, after = constants(left), constants(right)
            return before + after if before and after else ()
    return ()


def logic(operator: str, left: Truth, right: Truth) -> Truth:
    """Return the closure of a Boolean operator; the right side waits until it matters."""
    if operator == "and":

        def both(value: Any, within: Within) -> bool | None:
            one = left(value, within)
            if one is False:
                return False
            other = right(value, within)
            return other if one else (False if other is False else None)

        return both
    if operator == "xor":
        return lambda value, within: LOGIC["xor"](left(value, within), right(value, within))
    deciding = operator == "or"

    def either(value: Any, within: Within) -> bool | None:
        one = left(value, within)
        if one is deciding:
            return True
        other = right(value, within)
        return other if one is not None else (True if other else None)

    return either


def agreement(operator: str, left: Truth, right: Truth) -> Truth:
    """Return the closure of `=` or `!=` between two conditions."""
    same = operator == "="

    def agree(value: Any, within: Within) -> bool | None:
        one, other = left(value, within), right(value, within)
        return None if one is None or other is None else (one is other) is same

    return agree


def negation(source: Truth) -> Truth:
    """Return the closure of `not()`."""

    def opposite(value: Any, within: Within) -> bool | None:
        one = source(value, within)
        return None if one is None else not one

    return opposite


def has_value(route: Route | None) -> Truth | None:
    """Return the closure of `hasValue()` on a single primitive."""
    field = route.single() if route else None
    if route is None or field is None or not field.primitive:
        return None
    value_of = getter(route)
    return lambda value, within: value_of(value, within) is not None


def getter(route: Route) -> Callable[[Any, Within], Any]:
    """Return the closure that reads the one value of a single route; None where it is missing."""
    keys = [hop[0].key for hop in route.hops]
    if len(keys) == 1 and not route.of_resource:
        key = keys[0]
        return lambda value, within: value.get(key)  # noqa: ARG005

    def read(value: Any, within: Within) -> Any:
        one = within.resource if route.of_resource else value
        for key in keys:
            if one is None:
                return None
            one = one.get(key)
        return one

    return read


def items(route: Route) -> Callable[[Any, Within], list[Any]]:
    """Return the closure that lists the objects at the end of a route."""
    steps = [(hop[0].key, hop[0].many) for hop in route.hops]

    def gather(value: Any, within: Within) -> list[Any]:
        found = [within.resource if route.of_resource else value]
        for key, many in steps:
            if many:
                found = [one for item in found for one in item.get(key, ())]
            else:
                found = [item[key] for item in found if key in item]
        return found

    return gather


def present(route: Route) -> Callable[[Any, Within], bool]:
    """Return the closure that says whether anything stands at the end of a route."""
    last = route.hops[-1]
    keys = tuple(name for f in last for name in ((f.key, "_" + f.key) if f.primitive else (f.key,)))
    if len(route.hops) == 1 and not route.of_resource:
        if len(keys) == 1:
            key = keys[0]
            return lambda value, within: key in value  # noqa: ARG005
        if len(keys) == 2:
            key, beside = keys
            return lambda value, within: key in value or beside in value  # noqa: ARG005
        among = frozenset(keys)
        return lambda value, within: not among.isdisjoint(value)  # noqa: ARG005
    above = items(Route(route.of_resource, route.hops[:-1], ""))
    return lambda value, within: any(key in one for one in above(value, within) for key in keys)
