"""The `_filter` parameter: an expression over the search parameters of a type.

https://hl7.org/fhir/R4/search_filter.html

Theory of operation. The text is read into an expression of `Comparison`, `Negation` and `Logic`,
which knows no types yet, for a chain may lead to several. `tree` then writes it for one type in the
nodes of every search, asking a `Reader` for what a parameter, a value and a link of a chain are:
what is hidden from a caller in a search is hidden here as well.

    subject[active eq true].name sw "ma" and not (status eq final or date po 2026-03)

Rule 1: `and` and `or` have no precedence; they are applied from left to right. Rule 2: a test is
about the set of values at the end of its path, so `subject.name pr false` also finds what has no
subject.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Literal, NoReturn, Protocol, cast

from app.fhir.definitions import ParameterType, SearchParameter
from app.fhir.errors import refused
from app.fhir.query.terms import TEXTS
from app.fhir.query.tree import (
    And,
    Match,
    Modifier,
    Not,
    Or,
    Ordered,
    Query,
    Term,
)
from app.fhir.values import split_escaped

MOST_TESTS = 100
MOST_NESTED = 20
PLACE = "http._filter"

# search_filter.html#ops: names that stand for a code system in a token or quantity
SYSTEMS = {
    "loinc": "http://loinc.org",
    "snomed": "http://snomed.info/sct",
    "rxnorm": "http://www.nlm.nih.gov/research/umls/rxnorm",
    "ucum": "http://unitsofmeasure.org",
}

# search_filter.html#params, as far as R4 has the parameters: names of elements, which take a test
# in brackets. Both are then true of one instance: that is what the composite parameter says
Element = tuple[str, Mapping[str, str]]
ELEMENTS: Mapping[tuple[str, str], Element] = {
    ("Group", "characteristic"): (
        "characteristic-value",
        {"code": "characteristic", "value": "value"},
    ),
    ("DocumentReference", "relatesTo"): (
        "relationship",
        {"target": "relatesto", "code": "relation"},
    ),
}

Kind = ParameterType | Literal["id", "text"]


@dataclass(frozen=True, slots=True)
class Meaning:
    """How an operation matches one kind of parameter: a modifier, or the prefix of an `Ordered`.

    With `others` it is the values that do not match, where there are any.
    """

    modifier: Modifier = ""
    prefix: str = ""
    others: bool = False


SAME = Meaning()
NUMERIC: tuple[Kind, ...] = ("number", "date", "quantity")
ORDERED: tuple[Kind, ...] = ("string", *NUMERIC)
UNORDERED: tuple[Kind, ...] = ("token", "uri", "composite", "id")

# search_filter.html#ops: the table of operations and parameter types; what is not in it is n/a.
# The page leaves out uri, composite and special parameters: they take eq, and the first two ne.
# `co` of a number would need the precision that was written, which the index does not keep.
# `ne` of a token is about the concept: it may have codings of several systems, none is the value.
OPERATIONS: Mapping[str, Mapping[Kind, Meaning]] = {
    "eq": {
        **dict.fromkeys(ORDERED, Meaning(prefix="eq")),
        **dict.fromkeys((*UNORDERED, "special"), SAME),
    },
    "ne": {
        **dict.fromkeys(ORDERED, Meaning(prefix="ne")),
        **dict.fromkeys(UNORDERED, Meaning(others=True)),
    },
    "co": {"string": Meaning("contains"), "date": Meaning(prefix="co"), "text": SAME},
    "sw": {"string": SAME},
    "ew": {"string": Meaning("ends")},
    "gt": dict.fromkeys(ORDERED, Meaning(prefix="gt")),
    "lt": dict.fromkeys(ORDERED, Meaning(prefix="lt")),
    "ge": dict.fromkeys(ORDERED, Meaning(prefix="ge")),
    "le": dict.fromkeys(ORDERED, Meaning(prefix="le")),
    "ap": dict.fromkeys(NUMERIC, Meaning(prefix="ap")),
    "sa": dict.fromkeys(NUMERIC, Meaning(prefix="sa")),
    "eb": dict.fromkeys(NUMERIC, Meaning(prefix="eb")),
    "pr": {},  # of every kind but texts: `Writer.leaf`
    "po": {"date": Meaning(prefix="po")},
    "ss": {"token": Meaning("below")},
    "sb": {"token": Meaning("above")},
    "in": {"token": Meaning("in")},
    "ni": {"token": Meaning("in")},  # none is: `Writer.tree`
    "re": {"reference": SAME},
}
# What is asked of the moments of a date: that the row's hold all of them, or share some with them
BETWEEN = {"co": "co", "po": "ap"}
# In these nothing parts a value, so what escapes stand for in a search is meant as it is
LITERAL = frozenset({"string", "uri", "reference", "text"})
ESCAPE = re.compile(r"[\\,|$]")


# ------------------------------------------------------------------------------- expressions


@dataclass(frozen=True, slots=True)
class Step:
    """One name of a path, and what is asked in brackets of the resources that it leads to."""

    name: str
    condition: "Expression | None" = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """`path operation value`; the value as the client meant it, quotes and escapes resolved."""

    path: tuple[Step, ...]
    operation: str
    value: str


@dataclass(frozen=True, slots=True)
class Negation:
    """`not (part)`."""

    part: "Expression"


@dataclass(frozen=True, slots=True)
class Logic:
    """Parts joined by one operator."""

    operator: Literal["and", "or"]
    parts: "tuple[Expression, ...]"


Expression = Comparison | Negation | Logic

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
WORD = re.compile(r"[^\s\])]+")
UNFIT = re.compile("[\0\ud800-\udfff]")


def parse(text: str) -> Expression:
    """Return the expression that a filter is; a 400 that says where it is none."""
    found = Scanner(text)
    expression = found.expression(0)
    if found.at < len(text):
        found.fail("`and`, `or` or the end of the filter")
    return expression


@dataclass(slots=True)
class Scanner:
    """A filter's text, read up to `at`; after each part the white space that follows is read."""

    text: str
    at: int = 0
    tests: int = 0

    def __post_init__(self) -> None:
        self.skip()

    def skip(self) -> None:
        """Read white space."""
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def fail(self, expected: str) -> NoReturn:
        """Refuse the text for what stands, or does not stand, here."""
        text = f"_filter: expected {expected} at character {self.at + 1}"
        raise refused("invalid", text, PLACE, 400)

    def take(self, pattern: re.Pattern[str], expected: str) -> str:
        """Return what a pattern finds here."""
        match = pattern.match(self.text, self.at)
        if match is None:
            self.fail(expected)
        self.at = match.end()
        return match[0]

    def mark(self, mark: str) -> bool:
        """Return whether a mark stands here; then it is read."""
        if not self.text.startswith(mark, self.at):
            return False
        self.at += len(mark)
        return True

    def keyword(self, *words: str) -> str:
        """Return the one of these words that stands here and is read, "" for none."""
        match = NAME.match(self.text, self.at)
        if match is None or match[0] not in words:
            return ""
        self.at = match.end()
        self.skip()
        return match[0]

    def expression(self, deep: int) -> Expression:
        """Return tests joined by `and` and `or`, from left to right."""
        if deep > MOST_NESTED:
            text = f"A _filter may nest {MOST_NESTED} levels"
            raise refused("too-costly", text, PLACE, 400)
        found = self.operand(deep)
        while operator := self.keyword("and", "or"):
            right = self.operand(deep)
            if isinstance(found, Logic) and found.operator == operator:
                found = replace(found, parts=(*found.parts, right))
            else:
                found = Logic(cast('Literal["and", "or"]', operator), (found, right))
        return found

    def operand(self, deep: int) -> Expression:
        """Return a test, a filter in parentheses, or the negation of one."""
        negated = self.keyword("not")
        if not self.mark("("):
            if negated:
                self.fail("`(` after `not`")
            return self.test(deep)
        self.skip()
        found = self.expression(deep + 1)
        self.close(")")
        self.skip()
        return Negation(found) if negated else found

    def close(self, mark: str) -> None:
        """Read the mark that ends a part."""
        if not self.mark(mark):
            self.fail(f"`and`, `or` or `{mark}`")

    def test(self, deep: int) -> Comparison:
        """Return `path operation value`."""
        self.tests += 1
        if self.tests > MOST_TESTS:
            raise refused("too-costly", f"A _filter may have {MOST_TESTS} tests", PLACE, 400)
        path = [self.step(deep)]
        while self.mark("."):
            path.append(self.step(deep))
        if path[-1].condition is not None:
            self.fail("`.` and a parameter after the brackets")
        self.skip()
        operation = self.take(NAME, "an operation")
        if operation not in OPERATIONS:
            text = f"_filter has no operation {operation[:40]!r}; it has {', '.join(OPERATIONS)}"
            raise refused("not-supported", text, PLACE, 400)
        self.skip()
        return Comparison(tuple(path), operation, self.value())

    def step(self, deep: int) -> Step:
        """Return one name of a path, with its condition."""
        name = self.take(NAME, "the name of a search parameter")
        if not self.mark("["):
            return Step(name)
        self.skip()
        condition = self.expression(deep + 1)
        self.close("]")
        return Step(name, condition)

    def value(self) -> str:
        """Return a value: a JSON string, or a token, which ends at white space, `)` or `]`."""
        if not self.text.startswith('"', self.at):
            found = self.take(WORD, "a value")
        else:
            start = self.at
            quoted = self.take(STRING, "a closing quote")
            try:
                found = str(json.loads(quoted, strict=False))
            except ValueError:
                self.at = start
                self.fail("a JSON string")
        if UNFIT.search(found):
            self.fail("a text without NUL and half surrogate pairs")
        self.skip()
        return found


# -------------------------------------------------------------------------------------- trees


class Reader(Protocol):
    """What a query of one caller knows besides its text."""

    def known(self, type: str, code: str, name: str) -> SearchParameter:
        """Return a parameter that can be searched; a 400 about `name` else."""

    def term(
        self, type: str, parameter: SearchParameter, modifier: str, named: str, text: str
    ) -> Term:
        """Return what one value asks for; ValueError says what was expected."""

    def missing(self, code: str, value: str, name: str) -> Query:
        """Return what has no value for a parameter ("true"), or has one ("false")."""

    def linked(
        self, type: str, head: str, rest: str, name: str, deep: int, part: Callable[[str], Query]
    ) -> Query:
        """Return the chain over a reference; `part` gives for a target type what `rest` means."""


def tree(text: str, type: str, reader: Reader) -> Query:
    """Return the tree of a filter over resources of a type; a 400 says what is wrong with it."""
    return Writer(reader).tree(parse(text), type, 0)


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes expressions as trees, `deep` links of a chain away from what is searched."""

    reader: Reader

    def tree(self, found: Expression, type: str, deep: int) -> Query:
        """Return the tree of an expression over resources of a type."""
        match found:
            case Negation(part):
                return Not(self.tree(part, type, deep))
            case Logic(operator, parts):
                trees = tuple(self.tree(part, type, deep) for part in parts)
                return And(trees) if operator == "and" else Or(trees)
            case Comparison(path, "pr", value):
                if value.lower() not in ("true", "false"):
                    raise refused("value", "_filter: pr must be true or false", PLACE, 400)
                some = self.walk(path, found, type, deep)
                return some if value.lower() == "true" else Not(some)
            case Comparison(path, "ni", _):
                return Not(self.walk(path, replace(found, operation="in"), type, deep))
        return self.walk(found.path, found, type, deep)

    def walk(self, path: tuple[Step, ...], test: Comparison, type: str, deep: int) -> Query:
        """Return the tree of a test, from a step of its path on."""
        step, rest = path[0], path[1:]
        if not rest:
            return self.leaf(type, step.name, test.operation, test.value)
        condition = step.condition
        if condition and (type, step.name) in ELEMENTS:
            return self.instance(type, step.name, condition, replace(test, path=rest))

        def follow(target: str) -> Query:
            end = self.walk(rest, test, target, deep + 1)
            return And((self.tree(condition, target, deep + 1), end)) if condition else end

        names = ".".join(each.name for each in rest)
        return self.reader.linked(type, step.name, names, "_filter", deep, follow)

    def instance(self, type: str, name: str, condition: Expression, test: Comparison) -> Query:
        """Return the tree of `element[name eq value].name eq value`, about one instance.

        Both parts of the elements that search_filter.html#params names are mandatory, so that `pr`
        of one asks nothing more than the condition on the other.
        """
        composite, names = ELEMENTS[type, name]
        match condition, test:
            case (
                Comparison((Step(one, None),), "eq" | "re" as how, value),
                Comparison((Step(two, None),), "pr"),
            ):
                if {one, two} == names.keys():
                    return self.leaf(type, names[one], how, value)
            case (
                Comparison((Step(one, None),), "eq" | "re", value),
                Comparison((Step(two, None),), "eq" | "re", other),
            ):
                if {one, two} == names.keys():
                    values = {one: value, two: other}
                    parts = ["\\$".join(split_escaped(values[part], "$")) for part in names]
                    return self.leaf(type, composite, "eq", "$".join(parts))
        form = " or ".join(f"{name}[{a} eq value].{b} eq value" for a, b in permutations(names))
        raise refused("not-supported", f"_filter: expected {form}", PLACE, 400)

    def leaf(self, type: str, code: str, operation: str, value: str) -> Query:
        """Return the tree of one operation on one parameter of a type."""
        if code == "_filter":
            text = "A _filter cannot be part of another one; use parentheses"
            raise refused("not-supported", text, PLACE)
        parameter = self.reader.known(type, code, "_filter")
        kind = kind_of(parameter)
        if operation == "pr" and kind != "text":
            return self.reader.missing(code, "false", "_filter")
        meaning = OPERATIONS[operation].get(kind)
        if meaning is None:
            extra = "pr" if kind != "text" else ""
            takes = [name for name, kinds in OPERATIONS.items() if kind in kinds or name == extra]
            text = f"_filter: {code} is a {kind} parameter, which takes {', '.join(takes)}"
            raise refused("not-supported", f"{text}, not {operation}", PLACE, 400)
        try:
            term = self.term(type, parameter, kind, meaning, value)
        except ValueError as error:
            raise refused("value", f"_filter: {code}: {error}", PLACE, 400) from None
        match = Match(code, parameter.type, (term,), meaning.modifier)
        if meaning.others:
            return And((self.reader.missing(code, "false", "_filter"), Not(match)))
        return match

    def term(
        self, type: str, parameter: SearchParameter, kind: Kind, meaning: Meaning, value: str
    ) -> Term:
        """Return what a value asks for; ValueError says what was expected."""

        def read(text: str) -> Term:
            return self.reader.term(type, parameter, meaning.modifier, "", text)

        if kind in ("token", "quantity"):
            value = with_system(value, 0 if kind == "token" else 1)
        elif kind in LITERAL:
            value = ESCAPE.sub(r"\\\g<0>", value)
        if kind == "string" and meaning.prefix:
            folded = read(value)
            assert isinstance(folded, str)
            return Ordered(meaning.prefix, folded)
        if meaning.prefix in BETWEEN:
            moments = read(f"eq{value}")
            assert isinstance(moments, Ordered)
            return replace(moments, prefix=BETWEEN[meaning.prefix])
        return read(meaning.prefix + value)


def kind_of(parameter: SearchParameter) -> Kind:
    """Return which column of the table of operations a parameter has."""
    if parameter.code in TEXTS:
        return "text"
    return "id" if parameter.code == "_id" else parameter.type


def with_system(value: str, at: int) -> str:
    """Return a token or quantity whose part `at` is a system's URL where it was its short name."""
    parts = split_escaped(value, "|")
    if len(parts) > at + 1:
        parts[at] = SYSTEMS.get(parts[at].lower(), parts[at])
    return "|".join(parts)
