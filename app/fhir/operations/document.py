"""A Composition with all that it refers to, as a Bundle that stands alone: $document.

https://hl7.org/fhir/R4/composition-operation-document.html
https://hl7.org/fhir/R4/documents.html
"""

from collections.abc import Sequence
from contextlib import suppress

from app.fhir import bundle
from app.fhir.errors import FhirError, Issue, refused
from app.fhir.interaction import Interaction, Reply
from app.fhir.operations.operation import Call, Plan, Trial
from app.fhir.operations.surroundings import PATIENT, fetched, named, surroundings, targets
from app.fhir.store import Entry, Store, instant
from app.fhir.values import Reference, parse_reference


async def document(call: Call) -> Reply | Plan | Trial:
    """Return a Bundle of type document: the Composition first, then what it refers to.

    With `persist` it is stored too, under the id that it has. Raises a 422 where the Composition
    refers to something that is not here.
    """
    asked = call.asked
    type, id = asked.type, _id(call)
    if call.one("graph") is not None:
        raise refused("not-supported", "$document does not follow a GraphDefinition", "http.graph")
    await call.store.connection.snapshot()
    composition = Entry(0, type, id, (await call.store.read(type, id)).body)
    links = list(dict.fromkeys(targets(call, composition.body)))
    direct = [(link.type, link.id) for link in links]
    first = await _linked(call, links)
    subjects = [one for kind, one in direct if kind == PATIENT]
    seeds = [one for entry in first for one in named(call, entry.body)]
    known = {(type, id), *direct}
    rest = await surroundings(call, seeds, known, subjects)
    if rest.cut:
        text = "The document would hold more than one answer may"
        raise refused("too-costly", text)
    made = call.new_id()
    entries = [entry.shown for entry in (composition, *first, *rest.entries)]
    body = bundle.document(call.language.base_url, made, instant(call.now), entries)
    if not call.one("persist"):
        return Reply(200, body)

    async def answer(store: Store) -> Reply:
        stored = await store.read("Bundle", made)
        location = f"Bundle/{made}/_history/{stored.version}"
        return Reply(200, stored.body, stored.version, stored.updated, location)

    write = Interaction("create", "Bundle", made, body=body)
    return Plan([write], answer)


def _id(call: Call) -> str:
    """Return the id of the Composition: of the URL, or of the parameter at the type's level."""
    asked, given = call.asked, call.one("id")
    if asked.id:
        if given is not None:
            raise refused("invalid", "id is for a call at the level of the type", "http.id", 400)
        return asked.id
    if given is None:
        raise refused("required", "$document needs the id of a Composition", "http.id", 400)
    target = parse_reference(given, call.language.base_url)
    found = target.id if target.type == asked.type else ""
    if not found and "/" in given:
        text = "id names a Composition that is not one of this server"
        raise refused("not-supported", text, "http.id")
    return found or str(given)


async def _linked(call: Call, links: Sequence[Reference]) -> list[Entry]:
    """Return what the Composition refers to, once each: the current version, or the one it names.

    Raises a 422 that names all that is not here.
    """
    type = call.asked.type
    current = await fetched(call, {(link.type, link.id) for link in links if not link.version})
    there = {(entry.type, entry.id, ""): Entry(0, *entry.shown) for entry in current}
    for link in links:
        if link.version:
            with suppress(FhirError):  # told below, with all others
                body = (await call.store.vread(link.type, link.id, link.version)).body
                there[link.type, link.id, link.version] = Entry(0, link.type, link.id, body)
    issues = [
        Issue("error", "processing", f"The {type} refers to {_text(link)}, which is not here", type)
        for link in links
        if (link.type, link.id, link.version) not in there
    ]
    if issues:
        raise FhirError(issues)
    return list(dict.fromkeys(there.values()))


def _text(link: Reference) -> str:
    version = f"/_history/{link.version}" if link.version else ""
    return f"{link.type}/{link.id}{version}"
