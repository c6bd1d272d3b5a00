"""The search language: from name-value pairs to a tree, and back to text.

https://hl7.org/fhir/R4/search.html

Rule 1: nothing here knows SQL. Rule 2: nothing here knows who is asking.

A query string is a list of pairs. Pairs are joined by And, the values of a pair by Or: a `Match`
holds the terms of one pair, of which one has to fit. Policies are trees of the same nodes, so that
one compiler serves both.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from datetime import tzinfo
from urllib.parse import quote, urlencode

from app.fhir.definitions import Definitions, ParameterType
from app.fhir.errors import refused
from app.fhir.interaction import Pairs
from app.fhir.values import (
    NORM_LENGTH,
    Interval,
    NumberTerm,
    QuantityTerm,
    Reference,
    Token,
    fold,
    is_id,
    parse_date,
    parse_number,
    parse_quantity,
    parse_reference,
    parse_token,
    split_escaped,
    split_prefix,
    unescape,
    widen,
)

CURSOR = "_cursor"
MAX_INTEGER = 2**63 - 1

# What one search may ask: a value takes up to two of the 1000 levels of an SQL expression on SQLite
MOST_PAIRS = 200
MOST_VALUES = 400

# search.html#Summary and http.html#parameters: asked of the answer, not of the resources.
# A value is what we accept (None: the caller of `parse` looks); others are refused by name.
RESULT_PARAMETERS: Mapping[str, frozenset[str] | None] = {
    "_count": None,
    CURSOR: None,
    "_format": None,
    "_pretty": None,
    "_summary": frozenset({"false"}),
}
TYPES = frozenset({"token", "string", "date", "number", "quantity", "reference", "uri"})


@dataclass(frozen=True, slots=True)
class All:
    """Every resource of the type."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """No resource."""


@dataclass(frozen=True, slots=True)
class And:
    """What all parts find."""

    parts: "tuple[Query, ...]"


@dataclass(frozen=True, slots=True)
class Or:
    """What one of the parts finds."""

    parts: "tuple[Query, ...]"


@dataclass(frozen=True, slots=True)
class Not:
    """What the part does not find."""

    part: "Query"


@dataclass(frozen=True, slots=True)
class Ordered:
    """A number, date or quantity with its prefix (search.html#prefix)."""

    prefix: str
    value: Interval | NumberTerm | QuantityTerm


Term = Token | Reference | Ordered | str


@dataclass(frozen=True, slots=True)
class Match:
    """Resources of which `parameter` has a value that fits one of the terms.

    A term is a Token, a Reference, an Ordered, or text: the folded beginning of a string, a whole
    uri, or an id.
    """

    parameter: str
    type: ParameterType
    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Member:
    """Resources in the compartment of one resource (compartmentdefinition.html)."""

    type: str
    id: str


Query = All | Nothing | And | Or | Not | Match | Member


@dataclass(frozen=True, slots=True)
class Search:
    """A parsed search: what to find, how many on a page, after which cursor.

    `applied` is the query string of the pairs that took effect, as the self link shows it.
    """

    type: str
    where: Query
    count: int
    cursor: str
    applied: str


@dataclass(frozen=True, slots=True)
class Language:
    """What the meaning of a query depends on besides its text."""

    definitions: Definitions
    base_url: str
    zone: tzinfo
    page_size: int
    max_page_size: int

    def parse(self, type: str, pairs: Pairs, now: int) -> Search:
        """Return the search that `pairs` ask of `type`; `now` (microseconds) widens `ap` dates.

        A pair without a value is ignored (search.html#general). Raises a 400 that names the pair
        for a parameter, modifier or value that the server does not understand: never ignored.
        """
        used = tuple((name, value) for name, value in pairs if value)
        values = sum(value.count(",") + 1 for _, value in used)
        if len(used) > MOST_PAIRS or values > MOST_VALUES:
            limits = f"{MOST_PAIRS} parameters and {MOST_VALUES} values"
            raise refused("too-costly", f"A search may have {limits}", status=400)
        parts = tuple(
            self.match(type, name, value, now)
            for name, value in used
            if name not in RESULT_PARAMETERS
        )
        for name, value in used:
            accepted = RESULT_PARAMETERS.get(name)
            if accepted is not None and value not in accepted:
                raise refused(
                    "not-supported", f"{name} accepts {', '.join(sorted(accepted))} only", at(name)
                )
        given = single(used, ("_count", CURSOR))
        return Search(
            type=type,
            where=And(parts) if parts else All(),
            count=self.count(given.get("_count")),
            cursor=given.get(CURSOR, ""),
            applied=unparse(
                tuple((n, v) for n, v in used if n not in (CURSOR, "_format", "_pretty"))
            ),
        )

    def count(self, text: str | None) -> int:
        """Return the entries on a page: `_count`, at most `max_page_size` (search.html#count)."""
        if text is None:
            return self.page_size
        if not text.isascii() or not text.isdigit() or not 0 < int(text[:20]) <= MAX_INTEGER:
            raise refused("value", "_count must be a whole number from 1", at("_count"), 400)
        return min(int(text), self.max_page_size)

    def match(self, type: str, name: str, value: str, now: int) -> Query:
        """Return the tree of one pair."""
        code, colon, modifier = name.partition(":")
        if "." in code or code == "_has":
            raise refused(
                "not-supported", f"Chained search ({name[:80]}) is not supported", at(name)
            )
        parameter = self.definitions.search_parameters[type].get(code)
        if parameter is None:
            known = ", ".join(sorted(self.supported(type)))
            text = f"{type} has no search parameter {code[:80]!r}; it has: {known}"
            raise refused("not-supported", text, at(name))
        if parameter.type not in TYPES or (not parameter.expression and code not in COLUMNS):
            raise refused(
                "not-supported", f"The search parameter {code} is not supported", at(name)
            )
        if colon:
            raise refused(
                "not-supported", f"The modifier :{modifier[:40]} is not supported", at(name)
            )
        kind: ParameterType = parameter.type
        terms: list[Term] = []
        for text in split_escaped(value, ","):
            try:
                terms.append(self.term(kind, type, code, text, now))
            except ValueError as error:
                raise refused("value", f"{code}: {error}", at(name), 400) from None
        return Match(code, kind, tuple(terms))

    def supported(self, type: str) -> list[str]:
        """Return the codes of the parameters of `type` that can be searched."""
        return [
            code
            for code, parameter in self.definitions.search_parameters[type].items()
            if parameter.type in TYPES and (parameter.expression or code in COLUMNS)
        ]

    def term(self, kind: ParameterType, type: str, code: str, text: str, now: int) -> Term:
        """Return what one value asks for; ValueError says what was expected."""
        if not text:
            raise ValueError("an empty value between commas")
        if code == "_id":
            if not is_id(text):
                raise ValueError("an id is 1 to 64 characters of A-Z a-z 0-9 - .")
            return text
        match kind:
            case "token":
                return parse_token(text)
            case "string":
                folded = fold(unescape(text))
                if not folded:
                    raise ValueError("a text must have more than white space and accents")
                if len(folded) > NORM_LENGTH:  # the index knows no more of a text
                    raise ValueError(f"a text of more than {NORM_LENGTH} characters is too long")
                return folded
            case "uri":
                return unescape(text)
            case "reference":
                return self.reference(unescape(text), self.definitions.targets(type, code))
            case "date":
                prefix, rest = split_prefix(text)
                interval = parse_date(rest, self.zone)
                return Ordered(prefix, widen(interval, now) if prefix == "ap" else interval)
            case "number":
                prefix, rest = split_prefix(text)
                return Ordered(prefix, parse_number(rest))
            case _:
                prefix, rest = split_prefix(text)
                return Ordered(prefix, parse_quantity(rest))

    def reference(self, text: str, targets: tuple[str, ...]) -> Reference:
        """Return where the text points; a bare id leaves the type open (search.html#reference).

        A version is refused, because to leave it out would find other versions as well.
        """
        if is_id(text) and text not in self.definitions.type_numbers:
            return Reference(id=text, type=targets[0] if len(targets) == 1 else "")
        found = parse_reference(text, self.base_url)
        if found.type and found.version:
            raise ValueError("a reference to one version of a resource cannot be searched for")
        if found.id and found.type not in self.definitions.type_numbers:
            raise ValueError("expected an id, Type/id or a URL")
        if not found.id and not found.url:
            raise ValueError("expected an id, Type/id or a URL")
        return found


def single(pairs: Pairs, names: Container[str]) -> dict[str, str]:
    """Return the values of parameters that may be given once; a 400 for one given twice."""
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in names and value:
            if name in found:
                raise refused("invalid", f"{name} is given more than once", at(name))
            found[name] = value
    return found


# Parameters without an index row: columns of the resource itself
COLUMNS = frozenset({"_id", "_lastUpdated"})


def at(name: str) -> str:
    """Return how an issue names a parameter (operationoutcome.html: `http.` for the request)."""
    return f"http.{name[:80]}"


def unparse(pairs: Pairs) -> str:
    """Return the query string of these pairs."""
    return urlencode(pairs, quote_via=quote, safe=":/,|$")
