"""What comes along with a page: `_include` and `_revinclude`.

https://hl7.org/fhir/R4/search.html#include

Every hop passes the gate of the types that it leads to, and nothing comes twice.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from app import db
from app.fhir.query import Include
from app.fhir.sql import Plan, has_canonical_url
from app.fhir.store.catalogue import Catalogue
from app.fhir.store.visibility import Visibility

MOST_INCLUDED = 1000
MOST_INCLUDED_BYTES = 32 * 1024 * 1024
MOST_HOPS = 20  # of `:iterate`


class Entry(NamedTuple):
    """One resource of a page; in an order, the transaction that wrote it and its sort values."""

    key: int
    type: str
    id: str
    body: bytes
    owner: int = 0
    version: int = 0
    xid: int = 0
    values: Sequence[Any] = ()

    @property
    def shown(self) -> tuple[str, str, bytes]:
        """Type, id and body, as a Bundle shows it."""
        return self.type, self.id, self.body


def alike(includes: Iterable[Include]) -> list[list[Include]]:
    """Return includes in groups that one statement serves."""
    groups: dict[tuple[bool, str], list[Include]] = {}
    for include in includes:
        groups.setdefault((include.reverse, include.target), []).append(include)
    return list(groups.values())


@dataclass(frozen=True, slots=True)
class Includer:
    """Follows references from and to the resources of a page, as far as the caller may see."""

    visibility: Visibility
    run: Callable[[str, Plan], Awaitable[Sequence[db.Row]]]

    @property
    def catalogue(self) -> Catalogue:
        """Return the definitions and numbers."""
        return self.visibility.catalogue

    async def included(
        self, includes: tuple[Include, ...], entries: Sequence[Entry]
    ) -> tuple[list[Entry], bool]:
        """Return what includes bring, each resource once, and whether it was more than allowed."""
        if not includes or not entries:
            return [], False
        known = {entry.key for entry in entries}
        found: list[Entry] = []
        size, cut = 0, False
        frontier = list(entries)
        for hop in range(MOST_HOPS):
            fresh: dict[int, Entry] = {}
            for group in alike(include for include in includes if include.iterate or not hop):
                brought, more = await self.brought(group, frontier)
                cut |= more
                fresh |= {entry.key: entry for entry in brought if entry.key not in known}
            for entry in sorted(fresh.values()):
                size += len(entry.body)
                if len(found) >= MOST_INCLUDED or size > MOST_INCLUDED_BYTES:
                    return found, True
                found.append(entry)
                known.add(entry.key)
            frontier = list(fresh.values())
            if cut or not frontier:
                return found, cut
        return found, True

    async def brought(
        self, includes: Sequence[Include], frontier: Sequence[Entry]
    ) -> tuple[list[Entry], bool]:
        """Return what some includes bring, all one way and to the same types; whether not all."""
        reverse, target = includes[0].reverse, includes[0].target
        wanted = [e for e in frontier if not (reverse and target) or e.type == target]
        links = self.links(includes, dict.fromkeys(entry.type for entry in wanted))
        types = {type for _, _, found in links for type in found}
        if not types:
            return [], False
        catalogue = self.catalogue
        numbers, names = catalogue.definitions.type_numbers, catalogue.definitions.resource_types
        gate, values = await self.visibility.gate_of(sorted(types), "show")
        named = {
            "keys": [entry.key for entry in wanted],
            "types": sorted(numbers[type] for type in types),
            "limit": MOST_INCLUDED + 1,
        }
        here = {entry.type for entry in wanted} if reverse else types
        by_url = {type for type in here if has_canonical_url(catalogue.definitions, type)}
        for code in ("url", "version"):
            named[f"{code}s"] = [catalogue.params[type, code] for type in sorted(by_url)]
        entries: list[Entry] = []
        cut = False
        for table in ("reference", "uri"):
            named["params"] = [param for name, param, _ in links if name == table]
            if not named["params"]:
                continue
            plan = catalogue.compiler.included(table, gate, values, reverse=reverse, **named)
            rows = await self.run("include", plan)
            cut |= len(rows) > MOST_INCLUDED
            for key, number, id, body, owner, version in rows:
                type = names[number - 1]
                body = self.visibility.shown(type, body)
                entries.append(Entry(key, type, id, body, owner, version))
        return entries, cut

    def links(
        self, includes: Sequence[Include], here: Mapping[str, None]
    ) -> list[tuple[str, int, tuple[str, ...]]]:
        """Return what to follow: the table, the parameter, and the types that it leads to."""
        catalogue = self.catalogue
        found: list[tuple[str, int, tuple[str, ...]]] = []
        for include in includes:
            for source in [include.source] if include.source else here:
                kinds = catalogue.indexer.parameter_kinds(source)
                for code in self.references(include, source):
                    types = self.led_to(include, source, code, here)
                    param = catalogue.params[source, code]
                    tables = kinds[code].tables if types else ()
                    found += [(table, param, types) for table in tables]
        return found

    def led_to(
        self, include: Include, source: str, code: str, here: Mapping[str, None]
    ) -> tuple[str, ...]:
        """Return the types to which a parameter leads from those that are `here`."""
        definitions = self.catalogue.definitions
        may = definitions.targets(source, code) or definitions.resource_types
        if include.reverse:
            return (source,) if set(may) & set(here) else ()
        if source not in here:
            return ()
        return tuple(one for one in may if include.target in ("", one))

    def references(self, include: Include, source: str) -> list[str]:
        """Return the codes of the references that an include follows from resources of a type."""
        if include.parameter != "*":
            return [include.parameter]
        parameters = self.catalogue.definitions.search_parameters[source].values()
        links = (p for p in parameters if p.type == "reference" and p.expression)
        masks, cutter = self.visibility.caller.policy.mask, self.catalogue.cutter
        return [p.code for p in links if not masks or not cutter.masked(source, p, masks)]
