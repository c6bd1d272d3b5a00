"""Who is calling, and what a caller may see: a query tree for each type and right.

A `Policy` is data that `sql` compiles into every statement: `visible()` puts it beside every
mention of a resource. Scopes, consent and compartments become such trees (docs/decisions.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Literal

from app.fhir.query import All, Query

Right = Literal["create", "read", "update", "delete", "search"]


@dataclass(frozen=True)
class Policy:
    """What may be seen: the tree of a (type, right), else `otherwise`, less what is masked.

    What the tree does not find does not exist for the caller: it is no 403 but a 404, and it is
    missing from totals, pages and history. `mask` names, for each type, the paths of elements
    (`Patient.birthDate`) that the caller does not get; a search parameter that reads one does not
    exist for the caller either. `may_erase` is the right to erase for good what may be deleted.
    """

    trees: Mapping[tuple[str, Right], Query] = field(default_factory=dict)
    otherwise: Query = field(default_factory=All)
    mask: Mapping[str, frozenset[str]] = field(default_factory=dict)
    may_erase: bool = False

    @cached_property
    def all_trees(self) -> tuple[Query, ...]:
        """The trees of which one decides, each once; none where nothing is hidden."""
        trees = dict.fromkeys((*self.trees.values(), self.otherwise))
        return tuple(tree for tree in trees if not isinstance(tree, All))

    @cached_property
    def open(self) -> bool:
        """Whether nothing at all is hidden from the caller."""
        return not self.mask and not self.all_trees

    def of(self, type: str, right: Right) -> Query:
        """Return the tree that resources of `type` must satisfy under `right`."""
        return self.trees.get((type, right), self.otherwise)

    @cached_property
    def digest(self) -> str:
        """Return a short text that differs between policies: a cursor is bound to it."""
        rows = sorted((*key, repr(tree)) for key, tree in self.trees.items())
        masks = sorted((type, sorted(paths)) for type, paths in self.mask.items())
        return sha256(repr((rows, self.otherwise, masks)).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking, and under which policy."""

    name: str
    policy: Policy


EVERYTHING = Policy()
SYSTEM = Caller("system", Policy(may_erase=True))
ANYONE = Caller("anyone", EVERYTHING)
