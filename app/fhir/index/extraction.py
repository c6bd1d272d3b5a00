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
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from app.fhir.definitions import Definitions, Element
from app.fhir.index.converters import Table
from app.fhir.path import Binary, Call, Expression, Index, Member, TypeTest
from app.fhir.path import Literal as Constant

# ------------------------------------------------------------------------------------ paths


@dataclass(frozen=True, slots=True)
class Step:
    """One move: to the children of a JSON name, past a test, or to a computed value.

    `source` is Python over {v}, the value so far; `over` says what to do with its result.
    """

    source: str
    over: Literal["each", "each primitive", "one", "if"]


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


def resolve(tree: Expression, kind: str, definitions: Definitions) -> list[Path]:
    """Return the paths that a search expression means for resources of type `kind`.

    What search parameters use is understood: members, unions, casts, an index, `where` with a
    simple test or `resolve() is T`, `extension`, and a test as the whole expression. Alternatives
    that belong to other types give nothing. ValueError for anything else.
    https://hl7.org/fhir/R4/searchparameter.html#expression
    """

    def inside(source: Expression | None) -> list[Path]:
        return [Path((), kind)] if source is None else resolve(source, kind, definitions)

    match tree:
        case Member(None, name) if name in definitions.structures and name[0].isupper():
            known = name == kind or name in definitions.ancestors(kind)
            return [Path((), kind)] if known else []
        case Member(source, name):
            return [c for p in inside(source) for c in children(p, name, definitions)]
        case Binary("|", left, right):
            return inside(left) + inside(right)
        case TypeTest("as" | "ofType", source, named):
            return [p for p in inside(source) if named in (p.type, *definitions.ancestors(p.type))]
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
        return Step(f"{{v}}.get({name!r})", "one")
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
        case Call(None, "hasExtension", (Constant(str(url)),)):
            return f"has_extension({{v}}, {url!r})"
    raise ValueError(f"{tree} is more than a search expression may test")


def any_of(comparison: str, tree: Expression, focus: str, definitions: Definitions) -> str:
    """Return whether a comparison holds for one of the types of a single child, as Python."""
    paths = resolve(tree, focus, definitions)
    if not paths or any(len(p.steps) != 1 or p.steps[0].over != "one" for p in paths):
        raise ValueError(f"{tree} is more than a search expression may test")
    return "(" + " or ".join(f"{p.steps[0].source} {comparison}" for p in paths) + ")"


# ------------------------------------------------------------------------ generated functions


@dataclass(frozen=True, slots=True)
class Leaf:
    """A parameter that ends here, and the call that makes its rows; "" where there are none."""

    code: str
    call: str
    table: Table = "token"
    only: str = ""


@dataclass(slots=True)
class Node:
    """The paths of all parameters of a type, laid over each other."""

    leaves: list[Leaf] = field(default_factory=list)
    next: dict[Step, "Node"] = field(default_factory=dict)

    def at(self, steps: Iterable[Step]) -> "Node":
        """Return the node that `steps` lead to, made where it was not there."""
        node = self
        for step in steps:
            node = node.next.setdefault(step, Node())
        return node


TABLES: tuple[Table, ...] = ("token", "reference", "date", "quantity", "string", "uri")
WIDTH = {"quantity": 4}  # columns of a row besides its parameter; the other tables have two


def function(root: Node) -> str:
    """Return the source of a function from a resource to the rows of each table, and `present`.

    Each element of the resource is tried by itself, so that a broken one costs its own rows only.
    """
    names = [f"{table}_rows" for table in TABLES] + ["present"]
    lines = ["def extract(v0):", f"    {', '.join(names)} = {', '.join('{}' for _ in names)}"]
    for step, node in root.next.items():
        lines += ["    try:", *block(Node(next={step: node}), 0, "        ")]
        lines += ["    except BROKEN:", "        pass"]
    return "\n".join([*lines, f"    return {', '.join(names)}\n"])


def block(node: Node, depth: int, indent: str) -> Iterator[str]:
    """Yield the statements for a node whose value is the variable `v{depth}`."""
    value, deeper = f"v{depth}", f"v{depth + 1}"
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


def grouped(leaves: Iterable[Leaf]) -> dict[str, list[Leaf]]:
    """Return the leaves by their call: what several parameters want is converted once."""
    found: dict[str, list[Leaf]] = {}
    for leaf in leaves:
        found.setdefault(leaf.call, []).append(leaf)
    return found


def additions(leaves: list[Leaf], call: str, value: str, indent: str) -> Iterator[str]:
    """Yield the statements that add the rows of one call under the code of each parameter."""
    table = leaves[0].table
    columns = ", ".join("abcd"[: WIDTH.get(table, 2)])
    by_type: dict[str, list[str]] = {}
    for leaf in leaves:
        by_type.setdefault(leaf.only, []).append(leaf.code)
    if "" in by_type:
        yield indent + "".join(f"present[{code!r}] = " for code in by_type[""]) + "None"
    if call:
        yield f"{indent}for {columns} in {call}:"
    for only, codes in sorted(by_type.items()):
        rows = "".join(f"{table}_rows[{code!r}, {columns}] = " for code in codes)
        if call and not only:
            yield f"{indent}    {rows}None"
        elif call:
            here = "".join(f"present[{code!r}] = " for code in codes)
            yield f"{indent}    if (a or elsewhere({value}, base_url)) == {only!r}:"
            yield f"{indent}        {rows}{here}None"
