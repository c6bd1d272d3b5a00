"""What resources refer to, and what that refers to: each once, and nobody else's.

https://hl7.org/fhir/R4/patient-operation-everything.html
https://hl7.org/fhir/R4/documents.html#content

Theory of operation. References are read from the bodies, because not every one has a search
parameter; their targets are searched by id, so each passes the gate. The walk goes on from what it
finds. It takes along what belongs to no patient (staff, places, devices, definitions) and what
belongs to the patients at hand; what belongs to others stays out, even if the caller may see it: a
shared appointment opens no second record.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from app.fhir.operations.operation import Call
from app.fhir.query import And, Match, Member, Not, Nothing, Or, Present, Query, Search
from app.fhir.store import Entry
from app.fhir.values import Reference, links_in, parse_reference

MOST = 1000  # resources that are taken along
MOST_BYTES = 32 * 1024 * 1024
PATIENT = "Patient"

Named = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What was taken along; `cut` says that there was more than one answer may hold."""

    entries: Sequence[Entry]
    cut: bool


async def surroundings(
    call: Call,
    seeds: Iterable[Named],
    known: Collection[Named],
    patients: Sequence[str],
) -> Surroundings:
    """Return what `seeds` name, and what that refers to, without what is `known` already.

    `patients` are the ids of those at hand.
    """
    found: list[Entry] = []
    seen = set(known)
    size = 0
    frontier = [one for one in dict.fromkeys(seeds) if one not in seen]
    while frontier:
        seen.update(frontier)
        brought = await fetched(call, frontier, patients)
        frontier = []
        for entry in brought:
            size += len(entry.body)
            if len(found) >= MOST or size > MOST_BYTES:
                return Surroundings(found, True)
            found.append(entry)
            frontier += [one for one in named(call, entry.body) if one not in seen]
        frontier = list(dict.fromkeys(frontier))
    return Surroundings(found, False)


def named(call: Call, body: bytes) -> Iterator[Named]:
    """Yield type and id of each resource of this server that a compact body points at."""
    return ((target.type, target.id) for target in targets(call, body))


def targets(call: Call, body: bytes) -> Iterator[Reference]:
    """Yield each link of a compact body that leads to a resource, or a version, of this server.

    A link is a reference, or the URL of an attachment.
    """
    types = call.validator.definitions.type_numbers
    for link in links_in(body):
        target = parse_reference(link, call.language.base_url)
        if target.id and target.type in types:
            yield target


async def fetched(
    call: Call,
    identities: Iterable[Named],
    patients: Sequence[str] | None = None,
    where: Query | None = None,
) -> list[Entry]:
    """Return those of these resources that the caller may see, in the order of types and ids.

    With `patients`, those that belong to nobody else; with `where`, those that fit it.
    """
    by_type: dict[str, list[str]] = {}
    for type, id in sorted(identities):
        by_type.setdefault(type, []).append(id)
    found: list[Entry] = []
    for type, ids in by_type.items():
        for start in range(0, len(ids), MOST):
            some = ids[start : start + MOST]
            parts: list[Query] = [Match("_id", "token", tuple(some))]
            if patients is not None and (nobodys := _nobodys(call, type)):
                parts.append(Or((*(Member(PATIENT, one) for one in patients), nobodys)))
            if where is not None:
                parts.append(where)
            search = Search(((type, And(tuple(parts))),), count=len(some))
            page = await call.store.search(search, "show")
            found += sorted(page.entries, key=lambda entry: entry.id)
    return found


def _nobodys(call: Call, type: str) -> Query | None:
    """Return what belongs to no patient, of a type that can; None for any other type."""
    if type == PATIENT:
        return Nothing()
    parameters = call.validator.definitions.compartments[PATIENT].get(type)
    return And(tuple(Not(Present(one)) for one in parameters)) if parameters else None
