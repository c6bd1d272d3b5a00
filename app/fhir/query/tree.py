"""The tree of a search: what a query string, a policy or a criterion asks for.

https://hl7.org/fhir/R4/search.html

Rule 1: nothing here knows SQL. Rule 2: nothing here knows who is asking. A policy is a tree of the
same nodes, so that one compiler serves both; inside a policy `Chain` and `Has` look at all rows,
inside a search at those that the caller may see.
"""

from dataclasses import dataclass
from typing import Literal

from app.fhir.definitions import ParameterType
from app.fhir.values import Interval, NumberTerm, QuantityTerm, Reference, Token

# search.html#modifiers, and `ends` of search_filter.html; less `missing` (Present), `not` (Not)
# and `[type]` (a Reference with a type)
Modifier = Literal[
    "", "exact", "contains", "ends", "text", "in", "below", "above", "of-type", "identifier"
]


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
    """A number, date or quantity with its prefix (search.html#prefix); in a filter, a string."""

    prefix: str
    value: Interval | NumberTerm | QuantityTerm | str


@dataclass(frozen=True, slots=True)
class Composite:
    """Terms that fit one instance of an element together, in the order of the components."""

    parts: "tuple[Term, ...]"


@dataclass(frozen=True, slots=True)
class TypedIdentifier:
    """An identifier with a type: `[system]|[code]|[value]` of `:of-type` (search.html#token)."""

    system: str
    code: str
    value: str


@dataclass(frozen=True, slots=True)
class Near:
    """Places within so many kilometres of a point in degrees (location.html#near)."""

    latitude: float
    longitude: float
    kilometres: float


Term = Token | Reference | Ordered | Composite | TypedIdentifier | Near | str


@dataclass(frozen=True, slots=True)
class Match:
    """Resources of which `parameter` has a value that fits one of the terms.

    Under the modifier a term is: "" by the parameter's type a Token, Reference, Ordered,
    Composite, Near, folded beginning of a string, whole uri, id (`_id`), or words (`_text`,
    `_content`); exact: a string as it is; contains: a folded string; ends: its
    folded end, in a filter; text: a folded beginning; in:
    the URL or `ValueSet/id` of a value set; below and above: a Token, a Reference or a uri;
    of-type: a TypedIdentifier; identifier: a Token.
    """

    parameter: str
    type: ParameterType
    terms: tuple[Term, ...]
    modifier: Modifier = ""


@dataclass(frozen=True, slots=True)
class Same:
    """Resources of which one value fits all of these, which are about the same parameter.

    Not written by anybody: a search becomes it where a resource has but one value, so that
    `date=ge2026&date=lt2027` is one range.
    """

    parts: tuple[Match, ...]


@dataclass(frozen=True, slots=True)
class Present:
    """Resources that have any value for `parameter` (`:missing=false`)."""

    parameter: str


@dataclass(frozen=True, slots=True)
class Chain:
    """Resources whose `parameter` refers to a resource of `target` that `part` finds."""

    parameter: str
    target: str
    part: "Query"


@dataclass(frozen=True, slots=True)
class Has:
    """Resources that `parameter` of a resource of `type` refers to, which `part` finds."""

    type: str
    parameter: str
    part: "Query"


@dataclass(frozen=True, slots=True)
class Member:
    """Resources in the compartment of one resource (compartmentdefinition.html)."""

    type: str
    id: str


@dataclass(frozen=True, slots=True)
class Owned:
    """Resources that lie in the compartment of one Patient and in that of no other Patient."""

    type: str
    id: str


# What links Binaries stands in the index under these names, as what links others does under those
# of their parameters: what points at one, and what one names as its security context
BINARY, POINTS, CONTEXT = "Binary", "_reference:binary", "_reference:context"


@dataclass(frozen=True, slots=True)
class Attached:
    """Binaries of a resource that is shown: it points at them, or they name it as their context.

    `shown` are trees, each with the types of which it shows something; made by policies, without a
    text form. https://hl7.org/fhir/R4/binary.html#security-context
    """

    shown: "tuple[tuple[tuple[str, ...], Query], ...]"


Query = (
    All
    | Nothing
    | And
    | Or
    | Not
    | Match
    | Same
    | Present
    | Chain
    | Has
    | Member
    | Owned
    | Attached
)
