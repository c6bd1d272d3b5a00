"""What one caller may see: policies as shapes, and what trees name, looked up."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from app import db
from app.fhir.access import Caller, Sight
from app.fhir.cut import cut
from app.fhir.errors import FhirError, refused
from app.fhir.query import All, Query
from app.fhir.sql import (
    NOTHING_NAMED,
    Lowering,
    Named,
    Shape,
    Terminology,
    named,
)
from app.fhir.store import membership
from app.fhir.store.catalogue import Catalogue


@dataclass(frozen=True, slots=True)
class Visibility:
    """The policy of a caller on one connection."""

    connection: db.Connection
    catalogue: Catalogue
    caller: Caller

    async def gate(self, type: str, right: Sight) -> tuple[Shape, list[Any]]:
        """Return the policy for a type ("" for all types) as a shape and its values."""
        if not type:
            return await self.gate_of(self.catalogue.definitions.resource_types, right)
        tree = self.caller.policy.of(type, right)
        if isinstance(tree, All):
            return ("all",), []
        values: list[Any] = []
        lowering = await self.lowering(())
        return lowering.inside().tree(tree, type, values), values

    async def gate_of(self, types: Iterable[str], right: Sight) -> tuple[Shape, list[Any]]:
        """Return the policies of several types side by side, equal ones as one.

        The gate looks at the type only where policies differ, so types that are not among `types`
        must be kept out by whoever uses it.
        """
        policy = self.caller.policy
        trees = {type: policy.of(type, right) for type in types}
        lowering = (await self.lowering(())).inside()
        values: list[Any] = []
        shape = lowering.types(trees.items(), values)
        # the types are a condition only where there is more than one
        return (shape[1], values[1:]) if len(shape) == 2 else (shape, values)

    async def lowering(
        self, trees: Iterable[Query], systems: Iterable[str] = (), right: Sight = "search"
    ) -> Lowering:
        """Return what lowers these trees, and the caller's policies where chains meet them.

        `systems` are those whose numbers are needed besides, `right` that of the search. Raises a
        400 for a value set or a code system that the caller does not know.
        """
        policy, catalogue = self.caller.policy, self.catalogue
        asked, underneath = named(trees), named(policy.all_trees)
        return Lowering(
            catalogue.definitions,
            catalogue.params,
            catalogue.bits,
            await self.connection.known_systems(asked.systems.union(underneath.systems, systems)),
            await self.terminology(asked, self.may_see),
            catalogue.indexer.parameter_kinds,
            catalogue.base_url,
            policy,
            await self.underneath(underneath),
            right,
        )

    async def underneath(self, named: Named) -> Terminology:
        """Return the numbers of what the policy names; a 403 where one of it is not known."""
        try:
            return await self.terminology(named, everything)
        except FhirError:  # nothing can be shown: under a Not, it would be too much
            text = "What you may see depends on a value set or code system that is not known here"
            raise refused("forbidden", text) from None

    async def terminology(self, asked: Named, see: membership.MaySee) -> Terminology:
        """Return the numbers of value sets and hierarchies, as far as they are seen."""
        if not asked.value_sets and not asked.hierarchies:
            return NOTHING_NAMED
        one, catalogue = self.connection, self.catalogue
        return Terminology(
            {uri: await membership.value_set(one, catalogue, uri, see) for uri in asked.value_sets},
            {
                uri: await membership.hierarchy(one, catalogue, uri, see)
                for uri in asked.hierarchies
            },
        )

    def shown(self, type: str, body: bytes) -> bytes:
        """Return a resource as the caller gets it: without the elements that are masked."""
        masks = self.caller.policy.mask
        if not masks or not body:
            return body
        return cut(body, *self.catalogue.cutter.cuts(type, masks=masks))

    async def may_see(self, keys: list[int]) -> set[int]:
        """Return those keys of value sets and code systems that the caller may search."""
        seen: set[int] = set()
        for type in ("CodeSystem", "ValueSet"):
            seen |= await self.of_keys(keys, type, "search")
        return seen

    async def of_keys(self, keys: list[int], type: str, right: Sight) -> set[int]:
        """Return those of `keys` that are visible under the policy of a type."""
        gate, values = await self.gate(type, right)
        number = self.catalogue.definitions.type_numbers[type]
        plan = self.catalogue.compiler.look(gate, values, keys, number)
        return {row[0] for row in await self.connection.rows(plan.statement, plan.values)}


async def everything(keys: list[int]) -> set[int]:
    """Return all keys: what a policy sees when it looks underneath."""
    return set(keys)
