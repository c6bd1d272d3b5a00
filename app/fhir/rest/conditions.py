"""Conditional writes: which resources their criteria find, and what is then to be written.

https://hl7.org/fhir/R4/http.html#ccreate
https://hl7.org/fhir/R4/http.html#cond-update

Theory of operation. Criteria are locked by their text before they are searched: of two requests at
once with the same criteria, the second finds what the first has written. What is found is locked
next, and everything is searched once more, until nothing has changed: whoever held a row meanwhile
may have taken it out of the criteria. A plain write that begins to fit after that counts as the
later one. What comes out are plain writes that name their resource: nothing after this knows
conditions.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from app.fhir import bundle
from app.fhir.access import Right
from app.fhir.bundle import Entry
from app.fhir.errors import FhirError, refused
from app.fhir.interaction import ID, Interaction, Pairs, parse_query
from app.fhir.manifest import Identity
from app.fhir.query import RESULT_PARAMETERS, All, Search, single, unparse
from app.fhir.rest.reading import hidden_from
from app.fhir.rest.server import Server
from app.fhir.store import Current, Store
from app.fhir.wire import Buffer, compact, encode, fields, join

WRITES = frozenset({"create", "update", "patch", "delete"})
RIGHTS: Mapping[str, Right] = {
    "read": "search",
    "update": "update",
    "patch": "update",
    "delete": "delete",
}
MOST_DELETED = 100  # by one conditional delete that says no `_count`
NOT_CRITERIA = frozenset({"_format", "_pretty"})  # http.html#parameters: of every interaction


@dataclass(frozen=True, slots=True)
class Resolved:
    """The plain writes that some writes come to; each keeps its place, and names its resource.

    A conditional create that found its resource is a `read` of it. `twins` are places of creates
    with the criteria of an earlier one: they mean the same resource. `locked` are the rows that
    exist of all but what is created.
    """

    writes: Sequence[Entry]
    twins: Mapping[str, str]
    locked: Mapping[Identity, Current]


def claims(store: Store, asked: Interaction) -> bool:
    """Return whether a write creates what it names where that is not there (http.html#upsert).

    Whoever names a version expects the resource to be there: no row is made for it.
    """
    return asked.code == "update" and not asked.if_match and store.caller.policy.names(asked.type)


async def reachable(store: Store, writes: Sequence[Interaction]) -> list[Identity]:
    """Return what of some writes their caller may know of: nothing else is locked, or waited for.

    A conditional create that found its resource locks it as well.
    """
    rights = {(i.type, i.id): RIGHTS[i.code] for i in writes}
    return await store.reachable(rights)


def conditional(asked: Interaction) -> bool:
    """Return whether a write says by criteria what it is about."""
    return bool(asked.if_none_exist) if asked.code == "create" else not asked.id


async def resolve(server: Server, store: Store, entries: Sequence[Entry]) -> Resolved:
    """Return what writes come to once their criteria are searched, all they are about locked."""
    await store.begin()
    texts = {e.place: _text(e.interaction) for e in entries if conditional(e.interaction)}
    await store.connection.exclusive(texts.values())
    twins = _twins(entries, texts)
    asked = [e for e in entries if e.place not in twins]
    found = await _found(server, store, asked)
    while True:
        writes = [plain for e in asked for plain in _plain(server, e, found.get(e.place))]
        named = [e.interaction for e in writes if e.interaction.code != "create"]
        claimed = {(i.type, i.id) for i in named if claims(store, i)}
        locked = await store.lock(await reachable(store, named), claimed) if named else {}
        again = await _found(server, store, asked) if named else found  # a lock may have waited
        if again == found:
            return Resolved(writes, twins, locked)
        found = again


async def find(
    server: Server, store: Store, type: str, pairs: Pairs, where: str, most: int = 1
) -> list[str]:
    """Return the ids of the resources that fit; a 412 if there are more than `most`.

    `where` begins the sentence of a refusal. Criteria are read strictly, whatever the client
    prefers, and those that ask for nothing in particular are a 400.
    """
    for name, _ in pairs:
        if name.partition(":")[0] in RESULT_PARAMETERS:
            text = f"{where} takes search parameters only, not {name[:80]}"
            raise refused("not-supported", text, f"http.{name[:80]}")
    hidden = hidden_from(server, store.caller)
    search = server.language.parse(type, pairs, server.now(), hidden=hidden)
    if isinstance(search.arms[0][1], All):
        raise refused("invalid", f"{where} needs search parameters", status=400)
    page = await store.search(Search(search.arms, count=most + 1, applied=search.applied))
    if len(page.entries) > most:
        number = "one" if most == 1 else most
        raise refused("multiple-matches", f"{where} fits more than {number} {type}")
    return sorted(entry.id for entry in page.entries)


@contextmanager
def placed(entry: Entry) -> Iterator[None]:
    """Name the entry, if it has a place, in every refusal that is raised inside."""
    try:
        yield
    except FhirError as error:
        if not entry.place:
            raise
        issues = [issue.under(entry.place) for issue in error.issues]
        raise FhirError(issues, error.status, error.headers) from None


def _criteria(asked: Interaction) -> Pairs:
    pairs = parse_query(asked.if_none_exist) if asked.code == "create" else asked.pairs
    limits = {"_count"} if asked.code == "delete" else set()
    return tuple(pair for pair in pairs if pair[0] not in NOT_CRITERIA | limits)


def _text(asked: Interaction) -> str:
    """Return a name for the criteria of a write: equal criteria, equal name."""
    return f"{asked.type}?{unparse(sorted(_criteria(asked)))}"


def _twins(entries: Sequence[Entry], texts: Mapping[str, str]) -> dict[str, str]:
    """Return the places of creates with criteria that an earlier one has, with the earlier place.

    http.html#trules: two writes of other kinds with the same criteria are about one identity, even
    where it does not exist yet.
    """
    twins: dict[str, str] = {}
    first: dict[str, Entry] = {}
    for entry in entries:
        if entry.place not in texts:
            continue
        earlier = first.setdefault(texts[entry.place], entry)
        if earlier is entry:
            continue
        if {earlier.interaction.code, entry.interaction.code} != {"create"}:
            with placed(entry):
                raise refused("invalid", f"This has the criteria of {earlier.place}", status=400)
        twins[entry.place] = earlier.place
    return twins


async def _found(
    server: Server, store: Store, entries: Sequence[Entry]
) -> dict[str, Sequence[str]]:
    """Return by place the ids that the criteria of each conditional write find."""
    found: dict[str, Sequence[str]] = {}
    for entry in entries:
        asked = entry.interaction
        if not conditional(asked):
            continue
        with placed(entry):
            where = "If-None-Exist" if asked.code == "create" else f"A conditional {asked.code}"
            most = _most(server, asked)
            found[entry.place] = await find(
                server, store, asked.type, _criteria(asked), where, most
            )
    return found


def _most(server: Server, asked: Interaction) -> int:
    """Return how many resources a conditional write may be about."""
    if asked.code != "delete":
        return 1
    limit = MOST_DELETED if server.conditional_delete == "multiple" else 1
    given = single(asked.pairs, ("_count",)).get("_count")
    if given is None:
        return limit
    count = server.language.count(given)
    return count if limit > 1 else min(count, 1)


def _plain(server: Server, entry: Entry, found: Sequence[str] | None) -> list[Entry]:
    """Return the plain writes of an entry whose criteria `found` these ids; None: it has none."""
    asked = entry.interaction
    with placed(entry):
        if found is None or (not found and asked.code == "create"):
            writes = [replace(asked, id=server.new_id()) if asked.code == "create" else asked]
        elif found:
            writes = [_of_found(asked, id) for id in found]
        else:
            writes = _of_nothing(server, asked)
    return [replace(entry, interaction=write) for write in writes]


def _of_found(asked: Interaction, id: str) -> Interaction:
    """Return what is done to a resource that the criteria find."""
    if asked.code == "create":
        return replace(asked, code="read", id=id)
    if asked.code != "update":
        return replace(asked, id=id)
    # http.html#cond-update: the body has the id of what was found, or none
    raw = compact(asked.body)
    parts = fields(raw)
    if "id" not in parts:
        given: dict[str, Buffer] = {"resourceType": parts.get("resourceType", b"null")}
        raw = join({**given, "id": encode(id), **parts})
    return replace(asked, id=id, body=raw)


def _of_nothing(server: Server, asked: Interaction) -> list[Interaction]:
    """Return what is written where the criteria of an update, patch or delete find nothing."""
    if asked.if_match:
        raise refused("conflict", f"No {asked.type} fits, so none is at that version", status=412)
    if asked.code == "delete":
        return []  # http.html#delete: as if one deleted what is not there
    if asked.code == "patch":
        raise refused("not-found", f"No {asked.type} fits, so none can be patched")
    id = bundle.value(fields(compact(asked.body)), "id")
    if isinstance(id, str) and ID.fullmatch(id):
        # http.html#cond-update: an update that creates; what is there already did not fit
        return [replace(asked, id=id, if_none_match="*")]
    return [replace(asked, code="create", id=server.new_id())]
