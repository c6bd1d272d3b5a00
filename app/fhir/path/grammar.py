"""The FHIRPath language: from text to a tree.

https://hl7.org/fhirpath/N1/ (syntax: #expressions, #lexical-elements, #operator-precedence)

Rule 1: nothing here knows FHIR or evaluates anything. Rule 2: a tree is a value; its nodes are
frozen, compare by what they hold, and can be keys.

A tree hangs from its last step: `name.given.exists()` is `Call(Member(Member(None, "name"),
"given"), "exists", ())`, and a source of None is the focus, the element that the expression is
evaluated on. The functions `is`, `as` and `ofType` take a type, not an expression, so they become
a `TypeTest` however they were written.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from typing import Literal as OneOf

from app.fhir.errors import FhirError, Issue

Test = OneOf["is", "as", "ofType"]
TYPE_TESTS: dict[str, Test] = {"is": "is", "as": "as", "ofType": "ofType"}


@dataclass(frozen=True, slots=True)
class Member:
    """The children of `source` with this name; after None, the focus's, or a type's own name."""

    source: "Expression | None"
    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """A function applied to `source`; its arguments are trees, evaluated by the function."""

    source: "Expression | None"
    name: str
    arguments: "tuple[Expression, ...]"


@dataclass(frozen=True, slots=True)
class Index:
    """One item of `source`, counted from 0."""

    source: "Expression"
    index: "Expression"


@dataclass(frozen=True, slots=True)
class TypeTest:
    """`source is type`, `source as type`, or `source.ofType(type)`."""

    operator: Test
    source: "Expression | None"
    type: str


@dataclass(frozen=True, slots=True)
class Temporal:
    """A literal date, dateTime or time; `text` is what follows the `@`."""

    kind: OneOf["date", "dateTime", "time"]
    text: str


@dataclass(frozen=True, slots=True)
class Measure:
    """A literal quantity: `4 days`, `10 'mg'`."""

    value: Decimal
    unit: str


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant; None is the empty collection `{}`."""

    value: bool | int | Decimal | str | Temporal | Measure | None


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable with its sigil: `%resource`, `%ucum`, `$this`, `$index`, `$total`."""

    name: str


@dataclass(frozen=True, slots=True)
class Unary:
    """`+` or `-` before an operand."""

    operator: str
    operand: "Expression"


@dataclass(frozen=True, slots=True)
class Binary:
    """Two operands and one of the operators of `PRECEDENCE`, except `is` and `as`."""

    operator: str
    left: "Expression"
    right: "Expression"


Expression = Member | Call | Index | TypeTest | Literal | Variable | Unary | Binary

# N1#operator-precedence, loosest first; all of them associate to the left
PRECEDENCE = {
    operator: power
    for power, operators in enumerate(
        (
            "implies",
            "or xor",
            "and",
            "in contains",
            "= ~ != !~",
            "< > <= >=",
            "|",
            "is as",
            "+ - &",
            "* / div mod",
        ),
        start=1,
    )
    for operator in operators.split()
}
UNARY = len(PRECEDENCE)  # tighter than any of them
NESTING = 50  # a limit of ours: what a client sends must not exhaust the stack
LENGTH = 500  # tokens, likewise: a chain of steps is as deep as it is long

# N1#time-valued-quantities: words that make a quantity of the number before them
CALENDAR = {
    word + plural
    for word in ("year", "month", "week", "day", "hour", "minute", "second", "millisecond")
    for plural in ("", "s")
}

# N1#string; \uXXXX is apart
ESCAPES = {
    "'": "'", '"': '"', "`": "`", "\\": "\\", "/": "/", "r": "\r", "n": "\n", "t": "\t", "f": "\f"
}  # fmt: skip

TOKENS = re.compile(
    r"""
      (?P<space>(?:\s+|/\*.*?\*/|//[^\n]*)+)
    | @(?P<temporal>T?\d[\dT:.]*(?:-\d\d(?:-\d\d)?)?(?:T[\d:.]*(?:Z|[+-]\d\d:\d\d)?)?)
    | (?P<number>\d+(?:\.\d+)?)
    | '(?P<string>(?:[^'\\]|\\.)*)'
    | `(?P<quoted>(?:[^`\\]|\\.)*)`
    | (?P<variable>%(?:[A-Za-z_][\w-]*|`[^`]*`|'[^']*')|\$(?:this|index|total))
    | (?P<word>[A-Za-z_]\w*)
    | (?P<mark><=|>=|!=|!~|[-+*/&|<>=~.,()\[\]{}])
    | (?P<end>\Z)
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)
DATE = re.compile(r"\d{4}(-\d\d(-\d\d)?)?")
DATE_TIME = re.compile(r"\d{4}(-\d\d(-\d\d)?)?T(\d\d(:\d\d(:\d\d(\.\d+)?)?)?(Z|[+-]\d\d:\d\d)?)?")
TIME = re.compile(r"T\d\d(:\d\d(:\d\d(\.\d+)?)?)?")


@dataclass(frozen=True, slots=True)
class Token:
    """A word of the language: its kind (a group of TOKENS), its text, and where it starts."""

    kind: str
    text: str
    at: int


def parse(expression: str) -> Expression:
    """Return the tree of a FHIRPath expression; refuse what N1 does not allow, with its place."""
    return Parser(expression).whole()


def refused(what: str, at: int) -> FhirError:
    """Return the refusal of a text, naming the place as people count, from 1."""
    return FhirError([Issue("error", "invalid", f"FHIRPath, at character {at + 1}: {what}")])


def tokens(expression: str) -> Iterator[Token]:
    """Yield the tokens of a text, the last of them of kind `end`."""
    at = 0
    while at <= len(expression):
        match = TOKENS.match(expression, at)
        if match is None:
            raise refused("no word, literal or operator starts here", at)
        kind = match.lastgroup or ""
        if kind != "space":
            yield Token(kind, match[kind], at)
        if kind == "end":
            return
        at = match.end()


def unescape(text: str, at: int) -> str:
    """Return the characters that a quoted text stands for (N1#string)."""

    def one(match: re.Match[str]) -> str:
        code = match[1]
        if len(code) == 5:
            return chr(int(code[1:], 16))
        if code not in ESCAPES:
            raise refused(f"\\{code} is not an escape sequence", at)
        return ESCAPES[code]

    return re.sub(r"\\(u[0-9A-Fa-f]{4}|.)", one, text, flags=re.DOTALL) if "\\" in text else text


def temporal(text: str, at: int) -> Temporal:
    """Return the literal that stood behind an `@`."""
    if DATE.fullmatch(text):
        return Temporal("date", text)
    if DATE_TIME.fullmatch(text):
        return Temporal("dateTime", text.removesuffix("T"))
    if TIME.fullmatch(text):
        return Temporal("time", text[1:])
    raise refused("not a date, dateTime or time literal", at)


class Parser:
    """A Pratt parser: each operator binds as tightly as PRECEDENCE says."""

    def __init__(self, expression: str) -> None:
        self.tokens = list(islice(tokens(expression), LENGTH + 1))
        if len(self.tokens) > LENGTH:
            raise refused(f"longer than {LENGTH} words", self.tokens[-1].at)
        self.at = 0
        self.depth = 0

    @property
    def next(self) -> Token:
        """Return the token to be read next."""
        return self.tokens[self.at]

    def take(self, text: str | None = None) -> Token:
        """Return the next token and step over it; refuse one that is not `text`."""
        token = self.next
        if text is not None and (token.text != text or token.kind not in {"mark", "word"}):
            raise refused(f"{text} expected", token.at)
        self.at += 1
        return token

    def sees(self, mark: str) -> bool:
        """Return whether a certain mark comes next."""
        return self.next.kind == "mark" and self.next.text == mark

    def whole(self) -> Expression:
        """Return the tree of the whole text."""
        tree = self.expression(0)
        if self.next.kind != "end":
            raise refused("the expression should have ended", self.next.at)
        return tree

    def expression(self, floor: int) -> Expression:
        """Return the longest expression whose operators all bind tighter than `floor`."""
        self.depth += 1
        if self.depth > NESTING:
            raise refused(f"nested more than {NESTING} deep", self.next.at)
        tree = self.operators(floor)
        self.depth -= 1
        return tree

    def operators(self, floor: int) -> Expression:
        """Return an operand and all that operators tighter than `floor` join to it."""
        left = self.operand()
        while True:
            token = self.next
            power = PRECEDENCE.get(token.text, 0) if token.kind in {"mark", "word"} else 0
            if power <= floor:
                return left
            self.take()
            if test := TYPE_TESTS.get(token.text):
                left = TypeTest(test, left, self.type_name())
            else:
                left = Binary(token.text, left, self.expression(power))

    def operand(self) -> Expression:
        """Return a term with the steps and indexes that follow it, or a signed one."""
        if self.sees("+") or self.sees("-"):
            operator = self.take().text
            return Unary(operator, self.expression(UNARY))
        tree = self.term()
        while True:
            if self.sees("."):
                self.take()
                tree = self.step(tree)
            elif self.sees("["):
                self.take()
                tree = Index(tree, self.expression(0))
                self.take("]")
            else:
                return tree

    def term(self) -> Expression:
        """Return what can stand alone: a literal, a variable, a name, or a parenthesis."""
        token = self.next
        if token.kind in {"word", "quoted"} and token.text not in {"true", "false"}:
            return self.step(None)
        self.take()
        match token.kind, token.text:
            case "word", text:
                return Literal(text == "true")
            case "variable", text:
                return Variable(re.sub("[`']", "", text))
            case "string", text:
                return Literal(unescape(text, token.at))
            case "temporal", text:
                return Literal(temporal(text, token.at))
            case "number", text:
                return self.number(text)
            case "mark", "(":
                tree = self.expression(0)
                self.take(")")
                return tree
            case "mark", "{":
                self.take("}")
                return Literal(None)
        raise refused("a value or a path expected", token.at)

    def number(self, text: str) -> Literal:
        """Return a number, or the quantity that it makes with the unit behind it."""
        unit = self.next
        if unit.kind == "string" or (unit.kind == "word" and unit.text in CALENDAR):
            self.take()
            return Literal(Measure(Decimal(text), unescape(unit.text, unit.at)))
        return Literal(Decimal(text) if "." in text else int(text))

    def step(self, source: Expression | None) -> Expression:
        """Return the member or function call that the next tokens name.

        After a dot any word is a name, also an operator's (`text.div`), since nothing else fits.
        """
        token = self.take()
        if token.kind == "variable" and token.text.startswith("$") and source is not None:
            return Variable(token.text)
        if token.kind not in {"word", "quoted"}:
            raise refused("a name expected", token.at)
        name = unescape(token.text, token.at) if token.kind == "quoted" else token.text
        if not self.sees("("):
            return Member(source, name)
        self.take()
        if test := TYPE_TESTS.get(name):
            tree = TypeTest(test, source, self.type_name())
            self.take(")")
            return tree
        return Call(source, name, self.arguments())

    def arguments(self) -> tuple[Expression, ...]:
        """Return the arguments of a call, whose opening parenthesis has been read."""
        found: list[Expression] = []
        while not self.sees(")"):
            if found:
                self.take(",")
            found.append(self.expression(0))
        self.take(")")
        return tuple(found)

    def type_name(self) -> str:
        """Return a type's name as written, with its namespace (`System.Boolean`)."""
        names = [self.type_word()]
        while self.sees("."):
            self.take()
            names.append(self.type_word())
        return ".".join(names)

    def type_word(self) -> str:
        """Return one part of a type's name."""
        token = self.take()
        if token.kind not in {"word", "quoted"}:
            raise refused("the name of a type expected", token.at)
        return token.text
