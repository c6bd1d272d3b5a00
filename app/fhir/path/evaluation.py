"""FHIRPath, compiled once to Python.

https://hl7.org/fhirpath/N1/ and https://hl7.org/fhir/R4/fhirpath.html

Rule 1: what `compile` returns keeps no state between calls. Rule 2: nothing here reads the clock,
the network or the store; `resolve()` looks into `contained` only.

Theory of operation: a tree (`app.fhir.expression`) becomes nested closures, `Frame -> Items`. A
collection is a list of `Node`s: a JSON value together with its type, the `_name` object beside it
and the place it was found at. The type is looked up in the definitions at every step, which is
what lets `value` find `valueQuantity` and `ofType(Quantity)` keep it. `this` of the frame is what a
name without a dot in front is read from; functions that iterate make a new frame for each item.

Where the specification leaves a choice:
`as` keeps the items of the type, also from more than one item (the R4 definitions rely on it);
`x is Boolean` holds for a FHIR boolean, although its type is spelled `boolean` (que-7);
quantities compare when their units are the same text, else the answer is empty.
"""

from collections.abc import Callable
from decimal import Decimal, localcontext
from typing import Any

from app.fhir.definitions import Definitions
from app.fhir.path.collection import (
    NUMBERS,
    Constant,
    Items,
    Model,
    Node,
    boolean,
    compare,
    distinct,
    equal,
    equivalent,
    identity,
    item_of,
    keys,
    matches_type,
    member,
    only,
    refused,
    text_of,
    truth,
)
from app.fhir.path.functions import Frame, Scope, Step, call
from app.fhir.path.grammar import (
    Binary,
    Call,
    Expression,
    Index,
    Literal,
    Member,
    Temporal,
    TypeTest,
    Unary,
    Variable,
    parse,
)

# fhirpath.html#variables
CONSTANTS = {
    "%ucum": "http://unitsofmeasure.org",
    "%sct": "http://snomed.info/sct",
    "%loinc": "http://loinc.org",
}
PREFIXES = {
    "%vs-": "http://hl7.org/fhir/ValueSet/",
    "%ext-": "http://hl7.org/fhir/StructureDefinition/",
}


# --- Operators ------------------------------------------------------------------------------------


def all_equal(left: Items, right: Items) -> bool | None:
    """Return whether two collections are equal, item by item; None where either is empty."""
    if not left or not right:
        return None
    if len(left) != len(right):
        return False
    answers = [equal(a, b) for a, b in zip(left, right, strict=True)]
    return None if None in answers and False not in answers else all(answers)


def all_equivalent(left: Items, right: Items) -> bool:
    """Return whether two collections are equivalent, in any order; two empty ones are."""
    rest = list(right)
    for item in left:
        found = next((n for n, other in enumerate(rest) if equivalent(item, other)), None)
        if found is None:
            return False
        del rest[found]
    return not rest


def conjunction(left: bool | None, right: bool | None) -> bool | None:
    """Return `left and right` in three values (N1#and)."""
    if left is False or right is False:
        return False
    return True if left and right else None


def disjunction(left: bool | None, right: bool | None) -> bool | None:
    """Return `left or right` in three values (N1#or)."""
    if left or right:
        return True
    return None if left is None or right is None else False


def exclusion(left: bool | None, right: bool | None) -> bool | None:
    """Return `left xor right` in three values (N1#xor)."""
    return None if left is None or right is None else left is not right


def implication(left: bool | None, right: bool | None) -> bool | None:
    """Return `left implies right` in three values (N1#implies)."""
    return disjunction(None if left is None else not left, right)


LOGIC = {"and": conjunction, "or": disjunction, "xor": exclusion, "implies": implication}


def arithmetic(operator: str, left: Node, right: Node) -> Items:
    """Return the result of a mathematical operator; empty where it has none (N1#math)."""
    a, b = left.value, right.value
    if left.kind == right.kind == "String" and operator == "+":
        return item_of(a + b)
    if not {left.kind, right.kind} <= NUMBERS:
        raise refused(f"{operator} needs two numbers")
    with localcontext() as context:
        context.traps = dict.fromkeys(context.traps, False)
        answer = ARITHMETIC[operator](a, b)
    if answer is None or (isinstance(answer, Decimal) and not answer.is_finite()):
        return []
    return item_of(answer)


def quotient(a: Any, b: Any) -> int | None:
    """Return the whole part of a division."""
    return int(Decimal(a) / b) if b else None


ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: Decimal(a) / b if b else None,
    "div": quotient,
    "mod": lambda a, b: a - quotient(a, b) * b if b else None,
}

ORDER: dict[str, Callable[[int], bool]] = {
    "<": lambda order: order < 0,
    "<=": lambda order: order <= 0,
    ">": lambda order: order > 0,
    ">=": lambda order: order >= 0,
}


def inverted(value: bool | None) -> bool | None:
    """Return `not value` in three values."""
    return None if value is None else not value


def contains(items: Items, one: Items) -> bool | None:
    """Return whether the single item `one` is among `items` (N1#in)."""
    item = only(one, "in")
    if item is None or item.value is None:
        return None
    if item.kind == "String":
        return identity(item) in keys(items)
    return any(equal(item, other) for other in items)


COLLECTIONS: dict[str, Callable[[Items, Items], Items]] = {
    "=": lambda a, b: truth(all_equal(a, b)),
    "!=": lambda a, b: truth(inverted(all_equal(a, b))),
    "~": lambda a, b: truth(all_equivalent(a, b)),
    "!~": lambda a, b: truth(not all_equivalent(a, b)),
    "in": lambda a, b: truth(contains(b, a)),
    "contains": lambda a, b: truth(contains(a, b)),
    "|": lambda a, b: distinct(a + b),
}


def joined(left: Items, right: Items) -> Items:
    """Return two texts put together; empty counts as the empty text (N1#concatenate)."""
    one, other = only(left, "&"), only(right, "&")
    return item_of(text_of(one) + text_of(other))


# --- Compilation ----------------------------------------------------------------------------------


class Compiled:
    """An expression ready to be evaluated on values of one type."""

    __slots__ = ("expression", "model", "run", "type")

    def __init__(self, expression: str | Expression, type: str, model: Model, run: Step) -> None:
        self.expression = expression
        self.type = type
        self.model = model
        self.run = run

    def __call__(self, value: Any, *, resource: Any, root: Any) -> list[Any]:
        """Return the values found; None stands for a primitive that has only extensions."""
        return [node.value for node in self.nodes(value, resource=resource, root=root)]

    def nodes(
        self,
        value: Any,
        *,
        resource: Any,
        root: Any,
        extra: Any = None,
        memo: dict[Any, Constant] | None = None,
    ) -> Items:
        """Return what was found with its types and places; `extra` is `value`'s own `_name`.

        A caller that evaluates one expression on many values of a resource may keep `memo`, which
        holds what was read from the environment variables.
        """
        context = Node(value, self.type, extra)
        own = context if resource is value else self._resource(resource)
        outer = own if root is resource else self._resource(root)
        kept = {} if memo is None else memo
        return self.run(Frame([context], Scope(own, outer, context, self.model, kept)))

    def _resource(self, value: Any) -> Node:
        return Node(value, self.model.resource_type(value))


def compile(expression: str | Expression, type: str, definitions: Definitions | Model) -> Compiled:
    """Return an expression, a text or its tree, compiled for values of the structure `type`.

    A `Model` may be given in place of the definitions, so that many expressions share its tables.
    Unknown functions and wrong numbers of arguments are refused here, not when it runs.
    """
    model = definitions if isinstance(definitions, Model) else Model(definitions)
    tree = parse(expression) if isinstance(expression, str) else expression
    return Compiled(expression, type, model, step(tree))


def step(tree: Expression | None) -> Step:
    """Return the closure that evaluates a tree; None is `$this`."""
    run = plain_step(tree)
    if tree is None or isinstance(tree, Variable | Literal) or not is_constant(tree):
        return run

    place = object()

    def remembered(frame: Frame) -> Items:
        memo = frame.scope.memo
        if place not in memo:
            memo[place] = Constant(run(frame))
        return memo[place]

    return remembered


def is_constant(tree: Expression | None) -> bool:
    """Return whether a tree reads from environment variables and literals only."""
    match tree:
        case Variable(name):
            return name.startswith("%")
        case Literal():
            return True
        case Member(source, _) | TypeTest(_, source, _):
            return is_constant(source)
        case Index(source, index):
            return is_constant(source) and is_constant(index)
        case Call(source, _, arguments):
            return is_constant(source) and all(map(is_constant, arguments))
    return False


def plain_step(tree: Expression | None) -> Step:
    """Return the closure that evaluates a tree each time that it is asked."""
    match tree:
        case None:
            return lambda frame: frame.this
        case Member(source, name):
            return member_step(source, name)
        case Literal(value):
            return literal_step(value)
        case Variable(name):
            return variable_step(name)
        case Index(source, index):
            return index_step(step(source), step(index))
        case TypeTest(operator, source, type):
            return type_step(operator, step(source), type)
        case Unary(operator, operand):
            return unary_step(operator, step(operand))
        case Binary(operator, left, right):
            return binary_step(operator, step(left), step(right))
        case Call(source, name, arguments):
            return call(name, step(source), [step(one) for one in arguments])


def member_step(source: Expression | None, name: str) -> Step:
    """Return the step to the children called `name`; a type's own name at the start stays put."""
    if source is None and name[0].isupper():

        def same(frame: Frame) -> Items:
            model = frame.scope.model
            return [item for item in frame.this if model.is_a(item.type, name)]

        return same
    origin = step(source)

    def down(frame: Frame) -> Items:
        model = frame.scope.model
        return [child for item in origin(frame) for child in member(item, name, model)]

    return down


def literal_step(value: Any) -> Step:
    """Return the step that always gives the constant."""
    if value is None:
        return lambda frame: []  # noqa: ARG005 (a step takes a frame)
    if isinstance(value, Temporal):
        kind = {"date": "Date", "dateTime": "DateTime", "time": "Time"}[value.kind]
        constant = [Node(value.text, f"System.{kind}")]
    else:
        constant = item_of(value)
    return lambda frame: constant  # noqa: ARG005


VARIABLES: dict[str, Step] = {
    "$this": lambda frame: frame.this,
    "$index": lambda frame: item_of(frame.index),
    "$total": lambda frame: frame.total or [],
    "%context": lambda frame: [frame.scope.context],
    "%resource": lambda frame: [frame.scope.resource],
    "%rootResource": lambda frame: [frame.scope.root],
}


def variable_step(name: str) -> Step:
    """Return the step that gives an environment variable; refuse one that nobody defines."""
    if name in VARIABLES:
        return VARIABLES[name]
    if name in CONSTANTS:
        return literal_step(CONSTANTS[name])
    for prefix, canonical in PREFIXES.items():
        if name.startswith(prefix):
            return literal_step(canonical + name.removeprefix(prefix))
    raise refused(f"{name} is not defined")


def index_step(source: Step, index: Step) -> Step:
    """Return the step to one item by its place."""

    def pick(frame: Frame) -> Items:
        place = only(index(frame), "an index")
        if place is None:
            return []
        if place.kind != "Integer":
            raise refused("an index must be an integer")
        return source(frame)[place.value : place.value + 1] if place.value >= 0 else []

    return pick


def type_step(operator: str, source: Step, type: str) -> Step:
    """Return the step of `is`, `as` and `ofType`."""

    def test(frame: Frame) -> Items:
        item = only(source(frame), "is")
        return [] if item is None else truth(matches_type(item, type, frame.scope.model))

    def keep(frame: Frame) -> Items:
        model = frame.scope.model
        return [item for item in source(frame) if matches_type(item, type, model)]

    return test if operator == "is" else keep


def unary_step(operator: str, operand: Step) -> Step:
    """Return the step of a sign."""

    def signed(frame: Frame) -> Items:
        item = only(operand(frame), operator)
        if item is None:
            return []
        if item.kind not in NUMBERS:
            raise refused(f"{operator} needs a number")
        return item_of(-item.value if operator == "-" else item.value)

    return signed


def binary_step(operator: str, left: Step, right: Step) -> Step:
    """Return the step of a binary operator, from the table that it is in."""
    if operator in LOGIC:
        decide = LOGIC[operator]
        return lambda frame: truth(
            decide(boolean(left(frame), operator), boolean(right(frame), operator))
        )
    if operator in COLLECTIONS:
        combine = COLLECTIONS[operator]
        return lambda frame: combine(left(frame), right(frame))
    if operator == "&":
        return lambda frame: joined(left(frame), right(frame))

    def calculate(frame: Frame) -> Items:
        a, b = only(left(frame), operator), only(right(frame), operator)
        if a is None or b is None or a.value is None or b.value is None:
            return []
        if operator in ORDER:
            order = compare(a, b)
            return [] if order is None else truth(ORDER[operator](order))
        return arithmetic(operator, a, b)

    return calculate
