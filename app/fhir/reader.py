"""The record as decoded resources: what operations and rules read, each resource once.

What a Reader returns is what its store may see. Nothing here caches longer than one request.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from app.fhir.access import Caller
from app.fhir.errors import FhirError
from app.fhir.query import Hidden, Language, nothing_hidden
from app.fhir.store import Store
from app.fhir.values import parse_reference
from app.fhir.wire import Resource, stored

PAGE = 1000  # resources of a search that are held at once as bytes
IDS = 200  # ids that one search asks for
VERSIONED = re.compile(rb'("reference":"[A-Z][A-Za-z]+/[A-Za-z0-9.-]{1,64})/_history/[0-9]+(?=")')
FEW = 25  # that are read one by one, where nothing is hidden: SQLite searches for ids slowly


@dataclass(frozen=True)
class Reader:
    """Reads through a store and decodes; `now` is in microseconds.

    One for `comparing` returns references as `relative` makes them. `asker` is who wrote what a
    rule is to judge, where that is not who reads.

    References are relative (`Patient/1`); absolute ones below the base URL are taken as such, and
    what a reference says of a version does not count: all is read as it is now.
    """

    store: Store
    language: Language
    now: int
    hidden: Hidden = nothing_hidden
    comparing: bool = False
    asker: Caller | None = None
    known: dict[str, Resource | None] = field(default_factory=dict)

    async def read(self, type: str, id: str) -> Resource:
        """Return a resource, with its id and meta; 404 or 410 if there is none."""
        return self._decoded((await self.store.read(type, id)).body)

    async def get(self, reference: str) -> Resource | None:
        """Return what a reference leads to, None where that is nothing the store may see."""
        return (await self.get_all([reference])).get(reference)

    async def get_all(self, references: Iterable[str]) -> dict[str, Resource]:
        """Return what is there of some references, by the text of the reference."""
        wanted = {text: self._name(text) for text in references}
        missing: dict[str, list[str]] = {}
        for name in dict.fromkeys(wanted.values()):
            type, _, id = name.partition("/")
            if id and name not in self.known:
                missing.setdefault(type, []).append(id)
        for type, ids in missing.items():
            if len(ids) <= FEW and self.store.caller.policy.open:
                self.known.update({f"{type}/{id}": await self._there(type, id) for id in ids})
                continue
            for n in range(0, len(ids), IDS):
                some = ids[n : n + IDS]
                found = await self.search(type, ("_id", ",".join(some)))
                self.known.update({f"{type}/{id}": None for id in some})
                self.known.update({f"{type}/{one['id']}": one for one in found})
        all = {text: self.known.get(name) for text, name in wanted.items()}
        return {text: resource for text, resource in all.items() if resource is not None}

    async def search(self, type: str, *pairs: tuple[str, str]) -> list[Resource]:
        """Return all that a search finds, in the order of its pages, never the same twice.

        Pairs are as in a query string, decoded: `("date", "ge2026-03-02")`. One with more values
        than a search may have is asked for in parts.
        """
        long = next((n for n, (_, value) in enumerate(pairs) if value.count(",") >= IDS), None)
        if long is not None:
            name, value = pairs[long]
            values, rest = value.split(","), (*pairs[:long], *pairs[long + 1 :])
            parts = [",".join(values[n : n + IDS]) for n in range(0, len(values), IDS)]
            each = [await self.search(type, (name, part), *rest) for part in parts]
            return list({one["id"]: one for some in each for one in some}.values())
        asked = self.language.parse(type, pairs, self.now, hidden=self.hidden)
        search = replace(asked, count=PAGE)
        found: list[Resource] = []
        while True:
            page = await self.store.search(search)
            found += [self._decoded(entry.body) for entry in page.entries]
            if not page.cursor:
                return found
            search = replace(search, cursor=page.cursor)

    async def count(self, type: str, *pairs: tuple[str, str]) -> int:
        """Return how many resources a search finds."""
        counting = (*pairs, ("_summary", "count"))
        asked = self.language.parse(type, counting, self.now, hidden=self.hidden)
        return (await self.store.search(asked)).total or 0

    async def _there(self, type: str, id: str) -> Resource | None:
        try:
            return await self.read(type, id)
        except FhirError as error:
            if error.status in (404, 410):
                return None
            raise

    def _decoded(self, body: bytes) -> Resource:
        return stored(relative(body, self.language.base_url) if self.comparing else body)

    def forget(self) -> None:
        """Read anew from now on: what was written since is seen."""
        self.known.clear()

    def _name(self, text: str) -> str:
        """Return type/id of a reference, "" for one that leads elsewhere."""
        try:
            reference = parse_reference(text, self.language.base_url)
        except FhirError:
            return ""
        known = self.language.definitions.type_numbers
        return f"{reference.type}/{reference.id}" if reference.type in known else ""


def relative(body: bytes, base_url: str) -> bytes:
    """Return a stored body whose references to resources here are relative, and name no version.

    So whoever compares references compares resources.
    """
    here = f'"reference":"{base_url}/'.encode()
    if here in body:
        body = body.replace(here, b'"reference":"')
    return VERSIONED.sub(rb"\1", body) if b"/_history/" in body else body


def named(resource: Resource) -> str:
    """Return the relative reference of a stored resource."""
    return f"{resource['resourceType']}/{resource['id']}"


def references(*fields: Mapping[str, object] | None) -> list[str]:
    """Return the texts of some Reference elements, those that have one."""
    texts = [one.get("reference") for one in fields if one]
    return [text for text in texts if isinstance(text, str)]
