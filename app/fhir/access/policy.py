"""Who is calling, and what a caller may see: a query tree for each type and right.

A `Policy` is data that `sql` compiles into every statement: `visible()` puts it beside every
mention of a resource. Scopes, consent and compartments become such trees (docs/decisions.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Literal

from app.fhir.query import All, Nothing, Or, Query

Right = Literal["create", "read", "update", "delete", "search"]
# `show` is what either read or search shows: what may come along with something else
Sight = Right | Literal["show"]


@dataclass(frozen=True)
class Policy:
    """What may be seen: the tree of a (type, right), else that of the right, else `otherwise`.

    What the tree does not find does not exist for the caller: it is no 403 but a 404, and it is
    missing from totals, pages and history. A tree that is `Nothing` is a right that the caller has
    not got: a 403. `mask` names, for each type, the paths of elements (`Patient.birthDate`) that
    the caller does not get; a search parameter that reads one does not exist for the caller either.
    `may_erase` is the right to erase for good what may be deleted.
    """

    trees: Mapping[tuple[str, Right], Query] = field(default_factory=dict)
    otherwise: Query = field(default_factory=All)
    mask: Mapping[str, frozenset[str]] = field(default_factory=dict)
    may_erase: bool = False
    rights: Mapping[Right, Query] = field(default_factory=dict)

    @cached_property
    def all_trees(self) -> tuple[Query, ...]:
        """The trees of which one decides, each once; none where nothing is hidden."""
        trees = dict.fromkeys((*self.trees.values(), *self.rights.values(), self.otherwise))
        return tuple(tree for tree in trees if not isinstance(tree, All))

    @cached_property
    def open(self) -> bool:
        """Whether nothing at all is hidden from the caller."""
        return not self.mask and not self.all_trees

    def of(self, type: str, right: Sight) -> Query:
        """Return the tree that resources of `type` must satisfy under `right`."""
        if right == "show":
            read, search = self.of(type, "read"), self.of(type, "search")
            return read if read == search else either(read, search)
        tree = self.trees.get((type, right))
        return self.rights.get(right, self.otherwise) if tree is None else tree

    def may(self, type: str, right: Sight) -> bool:
        """Return whether the caller has this right for anything of the type; else it is a 403."""
        return not isinstance(self.of(type, right), Nothing)

    def sight(self, type: str, right: Right) -> Sight:
        """Return what tells the caller that a resource is there, who is about to do this to it.

        That it is shown; of a type of which nothing is shown, that it may do this.
        """
        return "show" if self.may(type, "show") else right

    def names(self, type: str) -> bool:
        """Return whether the caller may choose the ids of what it creates (http.html#upsert).

        From whom something is hidden may not: the answer would tell whether the id is taken.
        """
        needed: tuple[Sight, ...] = (self.sight(type, "update"), "update", "create")
        return all(isinstance(self.of(type, sight), All) for sight in needed)

    @cached_property
    def digest(self) -> str:
        """Return a short text that differs between policies: a cursor is bound to it."""
        rows = sorted((*key, repr(tree)) for key, tree in self.trees.items())
        rights = sorted((right, repr(tree)) for right, tree in self.rights.items())
        masks = sorted((type, sorted(paths)) for type, paths in self.mask.items())
        told = repr((rows, rights, self.otherwise, masks))
        return sha256(told.encode()).hexdigest()[:16]


def either(*trees: Query) -> Query:
    """Return what one of some trees finds, as simply as that can be said."""
    parts = {
        part: None for tree in trees for part in (tree.parts if isinstance(tree, Or) else (tree,))
    }
    parts.pop(Nothing(), None)
    if All() in parts:
        return All()
    if len(parts) < 2:
        return next(iter(parts), Nothing())
    return Or(tuple(parts))
