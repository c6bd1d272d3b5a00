"""From the expressions of search parameters to one Python function per type.

https://hl7.org/fhir/R4/searchparameter.html#expression

Theory of operation. The expression of every search parameter of a type is resolved against the
definitions into paths: choices, unions and casts become plain child steps with a known datatype at
the end. The paths of all parameters are laid into one tree, so that a shared beginning is walked
once, and the tree is written out as one function, compiled on first use. At a leaf stands a call of
a converter, which returns the row without the parameter's code; each parameter that ends there
adds the row under its own code.

    v1 = v0.get("status")
    if v1 is not None:
        present["status"] = None
        for a, b in code(v1, implied["http://hl7.org/fhir/ValueSet/observation-status"]):
            token_rows["status", a, b] = None

A composite opens a half for each of its components where its element begins. The leaves below fill
them, and where the element ends they are paired: no pair is ever of two elements.

    for v1 in v0.get("component", ()):
        h1 = {}
        h2 = {}
        ...
        k += 1
        if h1 and h2:
            for (a, b), (c, d, e, f) in pairs(h1, h2, composite_rows):
                composite_rows["component-code-value-quantity", k, a, b, c, d, e, f] = None
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from app.fhir.definitions import Definitions, Element
from app.fhir.index.converters import Table
from app.fhir.path import Binary, Call, Expression, Index, Member, TypeTest, Unary, Variable
from app.fhir.path import Literal as Constant

# ------------------------------------------------------------------------------------ paths


@dataclass(frozen=True, slots=True)
class Step:
    """One move: to the children of a JSON name, past a test, or to a computed value.

    `source` is Python over {v}, the value so far; `over` says what to do with its result. `choice`
    is the name of the element of which this is one type, "" where there is no choice.
    """

    source: str
    over: Literal["each", "each primitive", "one", "if"]
    choice: str = ""


@dataclass(frozen=True, slots=True)
class Path:
    """A way from a resource to values of one datatype.

    `binding` is the value set that a code there must be from, "" where none is required; `only`
    the type that a reference must point at, "" for any.
    """

    steps: tuple[Step, ...]
    type: str
    binding: str = ""
    only: str = ""

    @property
    def single(self) -> bool:
        """Whether nothing on the way repeats."""
        return all(step.over in ("one", "if") for step in self.steps)

    def excludes(self, other: "Path") -> bool:
        """Return whether no resource has values at both: they part at the types of one choice."""
        pairs = zip(self.steps, other.steps, strict=False)
        parting = next(((a, b) for a, b in pairs if a != b), None)
        return parting is not None and parting[0].choice == parting[1].choice != ""


def resolve(tree: Expression, kind: str, definitions: Definitions) -> list[Path]:
    """Return the paths that a search expression means for resources of type `kind`.

    What search parameters use is understood: members, unions, casts, an index, `where` with a
    simple test, `empty()` or `resolve() is T`, `extension`, and a test as the whole expression.
    Alternatives that belong to other types give nothing. `kind` may also be the type of an element,
    for the component of a composite: then `%resource` is the resource. ValueError for anything
    else.
    https://hl7.org/fhir/R4/searchparameter.html#expression
    """

    def inside(source: Expression | None) -> list[Path]:
        return [Path((), kind)] if source is None else resolve(source, kind, definitions)

    match tree:
        case Member(None, name) if name in definitions.structures and name[0].isupper():
            known = name == kind or name in definitions.ancestors(kind)
            return [Path((), kind)] if known else []
        case Variable("%resource"):
            return [Path((Step("v0", "one"),), kind.partition(".")[0])]
        case Member(source, name):
            return [c for p in inside(source) for c in children(p, name, definitions)]
        case Binary("|", left, right):
            return inside(left) + inside(right)
        case TypeTest("as" | "ofType", source, named):
            # The types of FHIRPath itself: a composite says DateTime where it means dateTime
            own = named if named in definitions.structures else named[0].lower() + named[1:]
            return [p for p in inside(source) if own in (p.type, *definitions.ancestors(p.type))]
        case Index(source, Constant(int(at))):
            return [item(p, at) for p in inside(source)]
        case Call(source, "where", (TypeTest("is", Call(None, "resolve", ()), named),)):
            return [replace(p, only=named) for p in inside(source)]
        case Call(source, "where", (condition,)):
            return [
                replace(p, steps=(*p.steps, Step(test(condition, p.type, definitions), "if")))
                for p in inside(source)
            ]
        case Call(source, "extension", (Constant(str(url)),)):
            matching = Step(f"{{v}}.get('url') == {url!r}", "if")
            return [
                replace(c, steps=(*c.steps, matching))
                for p in inside(source)
                for c in children(p, "extension", definitions)
            ]
    return [Path((Step(test(tree, kind, definitions), "one"),), "boolean")]


def children(path: Path, name: str, definitions: Definitions) -> list[Path]:
    """Return the paths to the child elements of this name, one for each type of a choice."""
    if path.only:
        raise ValueError("nothing may follow where(resolve() is ...)")
    structure = definitions.structures[path.type]
    for element in structure.elements:
        if element.name == name:
            binding = element.binding if element.binding in definitions.codes else None
            return [
                Path(
                    (*path.steps, child(element, datatype, definitions)),
                    datatype,
                    binding or "",
                )
                for datatype in element.types
            ]
    return []


def child(element: Element, datatype: str, definitions: Definitions) -> Step:
    """Return the step to an element; where there is a choice, to the one of this datatype."""
    name = element.name + (datatype[0].upper() + datatype[1:] if element.choice else "")
    if not element.many:
        return Step(f"{{v}}.get({name!r})", "one", element.name if element.choice else "")
    primitive = definitions.structures[datatype].kind == "primitive-type"
    return Step(f"{{v}}.get({name!r}, ())", "each primitive" if primitive else "each")


def item(path: Path, at: int) -> Path:
    """Return the path to one item of the array that `path` ends with."""
    *before, last = path.steps
    return replace(path, steps=(*before, replace(last, source=f"{last.source}[{at}:{at + 1}]")))


def test(tree: Expression, focus: str, definitions: Definitions) -> str:
    """Return a truth about an element of type `focus` as Python over {v}."""
    match tree:
        case Binary("and" | "or" as operator, left, right):
            return (
                f"({test(left, focus, definitions)} {operator} {test(right, focus, definitions)})"
            )
        case Binary("=", source, Constant(value)):
            return any_of(f"== {value!r}", source, focus, definitions)
        case Binary("!=", source, Constant(value)):
            return any_of(f"not in (None, {value!r})", source, focus, definitions)
        case Call(source, "exists", ()) if source is not None:
            return any_of("is not None", source, focus, definitions)
        case Call(source, "empty", ()) if source is not None:
            paths = resolve(source, focus, definitions)
            return f"not ({' or '.join(map(leads, paths)) or False})"
        case Call(None, "hasExtension", (Constant(str(url)),)):
            return f"has_extension({{v}}, {url!r})"
    raise ValueError(f"{named(tree)} is more than a search expression may test")


def any_of(comparison: str, tree: Expression, focus: str, definitions: Definitions) -> str:
    """Return whether a comparison holds for one of the types of a single child, as Python."""
    paths = resolve(tree, focus, definitions)
    if not paths or any(len(p.steps) != 1 or p.steps[0].over != "one" for p in paths):
        raise ValueError(f"{named(tree)} is more than a search expression may test")
    return "(" + " or ".join(f"{p.steps[0].source} {comparison}" for p in paths) + ")"


def leads(path: Path) -> str:
    """Return whether a path leads to anything, as Python over {v}."""
    at, clauses = "x0", ["for x0 in ({v},)"]
    for depth, step in enumerate(path.steps, 1):
        source = step.source.replace("{v}", at)
        if step.over == "if":
            clauses.append(f"if {source}")
            continue
        at = f"x{depth}"
        among = f"({source},)" if step.over == "one" else source
        clauses.append(f"for {at} in {among} if {at} is not None")
    return f"any(True {' '.join(clauses)})"


def named(tree: Expression) -> str:
    """Return what to call the outermost part of an expression that is not understood."""
    match tree:
        case Call(_, name, _):
            return f"{name}()"
        case Binary(operator) | Unary(operator) | TypeTest(operator):
            return f"the operator {operator}"
        case Member(_, name) | Variable(name):
            return name
    return f"this {type(tree).__name__.lower()}"


# ------------------------------------------------------------------------ generated functions


@dataclass(frozen=True, slots=True)
class Leaf:
    """What happens to a value: the call that makes rows of it, and what takes them.

    `call` is "" where there are none. `row` is Python that takes one, `columns` what it is made
    of. `present` is the parameter that has a value here, "" where that does not count; `only` the
    type that a reference must point at.
    """

    call: str = ""
    row: str = ""
    columns: str = ""
    present: str = ""
    only: str = ""


@dataclass(slots=True)
class Node:
    """The paths of all parameters of a type, laid over each other.

    `halves` are the names of what composites collect here, by what fills them; `pairs` the names
    of composites by the halves that they pair.
    """

    leaves: list[Leaf] = field(default_factory=list)
    next: dict[Step, "Node"] = field(default_factory=dict)
    halves: dict[tuple[str, ...], str] = field(default_factory=dict)
    pairs: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def depth(self) -> int:
        """Return the number of steps to the deepest node."""
        return max((1 + node.depth() for node in self.next.values()), default=0)

    def at(self, steps: Iterable[Step]) -> "Node":
        """Return the node that `steps` lead to, made where it was not there."""
        node = self
        for step in steps:
            node = node.next.setdefault(step, Node())
        return node


TABLES: tuple[Table, ...] = (
    *("token", "reference", "date", "quantity", "string", "uri", "composite", "position"),
)
COLUMNS: Mapping[Table, str] = {
    **dict.fromkeys(TABLES, "a, b"),
    "quantity": "a, b, c, d",
    "position": "a, b, c",
}

# What the rows of a component become in a composite: two columns of its first half, four of others
FIRST: Mapping[Table, str] = {
    "token": "a, b",
    "reference": "'', f'{a}/{b}' if a else b",
    "uri": "'', a",
}
SECOND: Mapping[Table, str] = {
    "token": "a, b, 0.0, 0.0",
    "reference": "'', f'{a}/{b}' if a else b, 0.0, 0.0",
    "date": "'', '', float(a), float(b)",
    "quantity": "a, b, c, d",
    "string": "'', a, 0.0, 0.0",
    "uri": "'', a, 0.0, 0.0",
}


def function(root: Node) -> str:
    """Return the source of a function from a resource to the rows of each table, and `present`.

    Each element of the resource is tried by itself, so that a broken one costs its own rows only.
    """
    names = [f"{table}_rows" for table in TABLES] + ["present"]
    lines = ["def extract(v0):", f"    {', '.join(names)} = {', '.join('{}' for _ in names)}"]
    lines += ["    k = 0", *opened(root, "    ")]
    for step, node in root.next.items():
        lines += ["    try:", *block(Node(next={step: node}), 0, "        ")]
        lines += ["    except BROKEN:", "        pass"]
    lines += ["    k = 0", *paired(root, "    ")]
    return "\n".join([*lines, f"    return {', '.join(names)}\n"])


def block(node: Node, depth: int, indent: str) -> Iterator[str]:
    """Yield the statements for a node whose value is the variable `v{depth}`."""
    value, deeper = f"v{depth}", f"v{depth + 1}"
    yield from opened(node, indent)
    for call, leaves in grouped(node.leaves).items():
        yield from additions(leaves, call.replace("{v}", value), value, indent)
    for step, following in node.next.items():
        source = step.source.replace("{v}", value)
        if step.over == "if":
            yield f"{indent}if {source}:"
            yield from block(following, depth, indent + "    ")
        elif step.over == "each":
            yield f"{indent}for {deeper} in {source}:"
            yield from block(following, depth + 1, indent + "    ")
        elif step.over == "each primitive":  # json.html#primitive: null stands in for extensions
            yield f"{indent}for {deeper} in {source}:"
            yield f"{indent}    if {deeper} is not None:"
            yield from block(following, depth + 1, indent + "        ")
        else:
            yield f"{indent}{deeper} = {source}"
            yield f"{indent}if {deeper} is not None:"
            yield from block(following, depth + 1, indent + "    ")
    if node.pairs:
        yield f"{indent}k += 1"
        yield from paired(node, indent)


def opened(node: Node, indent: str) -> Iterator[str]:
    """Yield the statements that begin the halves of composites."""
    for half in node.halves.values():
        yield f"{indent}{half} = {{}}"


def paired(node: Node, indent: str) -> Iterator[str]:
    """Yield the statements that pair the halves of one element, of which `k` is the number."""
    for (first, second), names in node.pairs.items():
        rows = "".join(f"composite_rows[{name!r}, k, a, b, c, d, e, f] = " for name in names)
        here = "".join(f"present[{name.partition(':')[0]!r}] = " for name in names)
        yield f"{indent}if {first} and {second}:"
        yield f"{indent}    for (a, b), (c, d, e, f) in pairs({first}, {second}, composite_rows):"
        yield f"{indent}        {rows}None"
        yield f"{indent}    {here}None"


def grouped(leaves: Iterable[Leaf]) -> dict[str, list[Leaf]]:
    """Return the leaves by their call: what several parameters want is converted once."""
    found: dict[str, list[Leaf]] = {}
    for leaf in leaves:
        found.setdefault(leaf.call, []).append(leaf)
    return found


def additions(leaves: list[Leaf], call: str, value: str, indent: str) -> Iterator[str]:
    """Yield the statements that give the rows of one call to each leaf."""
    by_type: dict[str, list[Leaf]] = {}
    for leaf in leaves:
        by_type.setdefault(leaf.only, []).append(leaf)
    if here := marks(by_type.get("", ())):
        yield f"{indent}{here}None"
    if call:
        yield f"{indent}for {leaves[0].columns} in {call}:"
    for only, own in sorted(by_type.items()):
        rows = "".join(f"{leaf.row} = " for leaf in own)
        if call and not only:
            yield f"{indent}    {rows}None"
        elif call:
            yield f"{indent}    if (a or elsewhere({value}, base_url)) == {only!r}:"
            yield f"{indent}        {rows}{marks(own)}None"


def marks(leaves: Iterable[Leaf]) -> str:
    """Return the assignments that make the parameters of leaves present."""
    return "".join(f"present[{leaf.present!r}] = " for leaf in leaves if leaf.present)
