"""SMART scopes: what they say, and how much of what is asked for a client may get.

https://hl7.org/fhir/smart-app-launch/STU2.2/scopes-and-launch-context.html

`patient/Observation.rs?category=laboratory` has a context, a type, rights and criteria. Version 1
wrote words for the rights: `patient/Observation.read`. What else a client may ask for are the words
of OpenID and of the launch.

Rule: what is not understood to the last letter grants nothing.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, cast

from app.fhir.access.policy import Right
from app.fhir.errors import FhirError, refused
from app.fhir.interaction import Pairs, parse_query
from app.fhir.query import RESULT_PARAMETERS, All, And, Language, Query, unparse

Context = Literal["patient", "user", "system"]

EVERY_TYPE = "*"
LETTERS: Mapping[str, Right] = {
    "c": "create",
    "r": "read",
    "u": "update",
    "d": "delete",
    "s": "search",
}
WORDS = {"read": "rs", "write": "cud", "*": "cruds"}  # of version 1
# What grants nothing of the record, but is asked for in the same breath
OTHERS = (
    *("openid", "fhirUser", "launch", "launch/patient", "launch/encounter"),
    *("offline_access", "online_access"),
)
# What one request asks for at most: criteria are parsed for every type that their scope names
MOST = 100  # scopes
WIDE = 500  # characters of scopes that have criteria for every type
TOO_MANY = f"At most {MOST} scopes, and {WIDE} characters of those with criteria for every type"
SCOPE = re.compile(r"(patient|user|system)/([A-Za-z]+|\*)\.(c?r?u?d?s?|read|write|\*)(?:\?(.+))?")


@dataclass(frozen=True)
class Scope:
    """One scope: whose record, which type (`*` for all), which rights, and of what.

    `text` is how it was written; scopes that say the same are equal.
    """

    context: Context
    type: str
    rights: frozenset[Right]
    criteria: Pairs = ()
    text: str = field(default="", compare=False)

    def covers(self, other: "Scope") -> bool:
        """Return whether this grants all that another one does, by what they say."""
        return (
            self.context == other.context
            and self.type in (EVERY_TYPE, other.type)
            and self.rights >= other.rights
            and set(self.criteria) <= set(other.criteria)
        )


class Scopes(NamedTuple):
    """What was asked for: what grants something, other words, and what nobody grants."""

    granted: tuple[Scope, ...] = ()
    others: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """What is granted, as a token answer says it."""
        return " ".join((*self.others, *(scope.text for scope in self.granted)))


def parse_scopes(text: str, language: Language) -> Scopes:
    """Return the scopes in a text, each once; those that cannot be understood are `refused`.

    Criteria are search parameters of the type, or of every type where it is `*`.
    """
    granted: dict[Scope, None] = {}
    others: dict[str, None] = {}
    unknown: dict[str, None] = {}
    for word in text.split():
        if word in OTHERS:
            others[word] = None
        elif scope := _scope(word, language):
            granted.setdefault(scope)
        else:
            unknown[word] = None
    return Scopes(tuple(granted), tuple(others), tuple(unknown))


def too_many(text: str) -> bool:
    """Return whether a text, of anybody, has so many scopes that it should not be parsed."""
    words = text.split()
    wide = sum(len(word) for word in words if "/*." in word and "?" in word)
    return len(words) > MOST or wide > WIDE


def _scope(text: str, language: Language) -> Scope | None:
    """Return the scope that a word is, None for one that is none."""
    found = SCOPE.fullmatch(text)
    if found is None:
        return None
    context, type, rights, query = found.groups()
    letters = WORDS.get(rights, rights)
    types = language.definitions.type_numbers
    if not letters or not (type == EVERY_TYPE or type in types) or (query and rights in WORDS):
        return None
    named = frozenset(LETTERS[letter] for letter in letters)
    scope = Scope(cast("Context", context), type, named, (), text)
    if query is None:
        return scope
    try:
        scope = replace(scope, criteria=parse_query(query))
        for one in types if type == EVERY_TYPE else [type]:
            criteria(scope, one, language, 0)
    except FhirError:
        return None
    return scope


def criteria(scope: Scope, type: str, language: Language, now: int) -> Query:
    """Return the tree of what a scope's criteria find of a type; `now` in microseconds.

    Raises a FhirError for what is no search parameter of the type, and for what asks for nothing.
    """
    if not scope.criteria:
        return All()
    for name, value in scope.criteria:
        # a search leaves out what has no value: here that would grant more than was meant
        if not value or name.partition(":")[0] in RESULT_PARAMETERS:
            text = f"A scope takes search parameters with a value, not {name[:80]}"
            raise refused("not-supported", text)
    ((_, tree),) = language.parse(type, scope.criteria, now).arms
    return tree.parts[0] if isinstance(tree, And) and len(tree.parts) == 1 else tree


def meet(asked: Scopes, registered: Scopes) -> Scopes:
    """Return what of `asked` a client that is `registered` for some scopes may get.

    Of each scope the rights that both say, under the criteria of both. What is left of a scope that
    is not granted as it was asked for is written anew; what nothing is left of is refused.
    """
    found: dict[tuple[Context, str, Pairs], frozenset[Right]] = {}
    lost = dict.fromkeys(asked.refused)
    for scope in asked.granted:
        shared = [one for may in registered.granted if (one := _both(scope, may))]
        for one in shared:
            key = one.context, one.type, one.criteria
            found[key] = found.get(key, frozenset()) | one.rights
        if not shared:
            lost[scope.text] = None
    every = [Scope(*key[:2], rights, key[2]) for key, rights in found.items()]
    as_asked = {scope: scope for scope in asked.granted}
    granted = [as_asked.get(one, replace(one, text=written(one))) for one in _widest(every)]
    others = tuple(word for word in asked.others if word in registered.others)
    lost |= dict.fromkeys(word for word in asked.others if word not in registered.others)
    return Scopes(tuple(granted), others, tuple(lost))


def _both(one: Scope, other: Scope) -> Scope | None:
    """Return what two scopes both grant, None where that is nothing."""
    rights = one.rights & other.rights
    types = {one.type, other.type} - {EVERY_TYPE} or {EVERY_TYPE}
    if one.context != other.context or len(types) > 1 or not rights:
        return None
    pairs = tuple(dict.fromkeys((*one.criteria, *other.criteria)))
    return Scope(one.context, types.pop(), rights, pairs)


def _widest(scopes: Iterable[Scope]) -> list[Scope]:
    """Return the scopes that no other one covers, in their order."""
    kept: list[Scope] = []
    for scope in scopes:
        if not any(other.covers(scope) for other in kept):
            kept = [other for other in kept if not scope.covers(other)] + [scope]
    return kept


def written(scope: Scope) -> str:
    """Return a scope as version 2 writes it."""
    letters = "".join(letter for letter, right in LETTERS.items() if right in scope.rights)
    query = f"?{unparse(scope.criteria)}" if scope.criteria else ""
    return f"{scope.context}/{scope.type}.{letters}{query}"
