"""Rules that hold for every write, from wherever it comes: what the record must never say.

A rule is data; `rest` runs it. Inside the transaction of a write, in this order: `fill` completes
a resource before it is validated and stored; all rows are written; `locks` names what other
transactions have to wait for; `check` reads what then stands there, as the system, and returns what
is wrong. An error undoes the transaction, a warning goes into the answer.

Rule 1: the text of a finding names no patient but the one whose resource was written.
Rule 2: a rule that a write does not concern must cost next to nothing: `types`, then `marks`, which
are looked for in the bytes, are asked before anything is decoded or read.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from app.fhir.errors import Severity
from app.fhir.manifest import Identity
from app.fhir.reader import Reader
from app.fhir.wire import Resource


@dataclass(frozen=True)
class Change:
    """What a transaction has made of one resource, each with id and meta.

    `before` is None where it is new, `after` where it is deleted.
    """

    type: str
    id: str
    before: Resource | None
    after: Resource | None

    @property
    def reference(self) -> str:
        """Return the relative reference of the resource."""
        return f"{self.type}/{self.id}"


@dataclass(frozen=True)
class Finding:
    """What a rule has found wrong with a change, in words, at an element of it (`member`, "").

    `code` is the issue type: "forbidden" refuses with 403, "conflict" and "duplicate" with 409, all
    others with 422. `rule` is the code of the rule where a check is about several, "" for its own.
    """

    change: Change
    text: str
    at: str = ""
    severity: Severity = "error"
    code: str = "business-rule"
    rule: str = ""


Check = Callable[[Sequence[Change], Reader], Awaitable[Iterable[Finding]]]
Fill = Callable[[Resource, Resource | None, Reader], Awaitable[Resource]]
Locks = Callable[[Change], Iterable[str]]


def no_locks(change: Change) -> Iterable[str]:
    """Return that a rule needs no other resource to stand still."""
    del change
    return ()


@dataclass(frozen=True)
class Rule:
    """One rule: its code, what it is about, and how it is kept.

    It is about resources of `types` with one of `marks` in their bytes, now or (of the `past`)
    before the change; no marks: all. `check` gets all changes of a transaction that it is about.
    `fill` gets what is to be stored and what stands there, None for nothing, and returns what is to
    be stored in its place (the same object for no change). `locks` gives references. What the
    `ground` rules say the others take for granted: they are not asked where one of those finds an
    error.
    """

    code: str
    types: frozenset[str]
    marks: tuple[bytes, ...] = ()
    check: Check | None = None
    fill: Fill | None = None
    locks: Locks = no_locks
    past: bool = True
    ground: bool = False

    def concerns(self, *bodies: bytes) -> bool:
        """Return whether one of the bodies of a resource has a mark."""
        return not self.marks or any(mark in body for body in bodies for mark in self.marks)


@dataclass(frozen=True)
class Rules:
    """The rules of a server; `system` is the CodeSystem of their codes."""

    rows: tuple[Rule, ...] = ()
    system: str = ""

    @cached_property
    def by_type(self) -> Mapping[str, tuple[Rule, ...]]:
        """Return the rules about each type, in their order."""
        found: dict[str, tuple[Rule, ...]] = {}
        for rule in self.rows:
            for type in rule.types:
                found[type] = (*found.get(type, ()), rule)
        return found

    @cached_property
    def filling(self) -> frozenset[str]:
        """Return the types of which a rule completes resources."""
        return frozenset(type for rule in self.rows if rule.fill for type in rule.types)


@dataclass
class Concerned:
    """The changes that a rule is about."""

    rule: Rule
    changes: list[Change] = field(default_factory=list)


def identities(references: Iterable[str]) -> list[Identity]:
    """Return type and id of relative references, sorted, each once."""
    return sorted({(type, id) for type, _, id in (r.partition("/") for r in references) if id})
