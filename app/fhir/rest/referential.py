"""Referential integrity: whether references hold once everything is written.

https://hl7.org/fhir/R4/http.html#integrity

The setting says what comes of it: `off` asks nothing, `warn` tells, `enforce` refuses the whole
transaction. "Write, then look": the rows are there, so a reference to what the same transaction
writes holds, and one to what it deletes does not.

A reference to a version holds while that version is there, which a deletion does not change; so it
does not keep its target from being deleted. What the caller may not see does not exist, and who
refers to a deleted resource is named to the caller as far as visible: of others the answer says
that there are some, neither which nor how many.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from app.fhir.errors import STATUS, FhirError, Issue, Severity
from app.fhir.manifest import Identity
from app.fhir.rest.server import Server
from app.fhir.store import DELETED, Store
from app.fhir.values import Reference, parse_reference, references_in
from app.fhir.wire import decode

LISTED = 20  # referrers that a refusal names
MOST = 500  # issues that one answer has

Findings = Mapping[Identity, list[Issue]]
NOWHERE: Mapping[Identity, str] = {}


async def look(server: Server, store: Store, entries: Mapping[Identity, str] = NOWHERE) -> Findings:
    """Return a warning of each reference that this transaction breaks, by what it wrote.

    Where they are to be kept it raises them: a 422 for references that lead nowhere, a 409 for
    deletions of what others refer to. `entries` are the places in a Bundle of what was written.
    """
    if server.referential_integrity == "off":
        return {}
    enforced = server.referential_integrity == "enforce"
    severity: Severity = "error" if enforced else "warning"
    issues: list[Issue] = []
    found: dict[Identity, list[Issue]] = {}
    for key, place, text in await _dangling(server, store, kept=enforced):
        issue = Issue(severity, "not-found", text, place)
        found.setdefault(key, []).append(issue.under(key[0]))
        issues.append(issue.under(f"{entries[key]}.resource" if key in entries else key[0]))
    refusal = 422
    for key, text in await _still_needed(server, store):
        found[key] = [Issue(severity, "conflict", text)]
        issues.append(Issue(severity, "conflict", text, entries.get(key, "")))
        refusal = 409
    if enforced and issues:
        raise FhirError(issues[:MOST], refusal)
    return found


async def _dangling(server: Server, store: Store, *, kept: bool) -> list[tuple[Identity, str, str]]:
    """Return the references of what was written that lead nowhere: whose, where, and a text.

    What the others lead to stays there until the end of the transaction, if it is to be `kept`.
    """
    types = server.definitions.type_numbers
    written = [v for v in store.written if v.op != DELETED]
    mine = {(v.type, v.id) for v in written}
    versions = {(v.type, v.id, str(v.version)) for v in store.written}
    links: dict[str, Reference] = {}
    for text in {text for v in written for text in references_in(v.body)}:
        reference = parse_reference(text, server.base_url)
        if reference.type in types and reference.id:
            links[text] = reference
    current = {(r.type, r.id) for r in links.values() if not r.version} - mine
    there = mine | await store.present(current, kept=kept) if current else mine
    broken: dict[str, str] = {}
    for text, r in links.items():
        if r.version:
            if (r.type, r.id, r.version) not in versions and not await _was(store, r):
                broken[text] = f"There is no version {r.version} of {r.type}/{r.id}"
        elif (r.type, r.id) not in there:
            broken[text] = f"There is no {r.type}/{r.id}"
    return [
        ((v.type, v.id), place, broken[text])
        for v in written
        if not broken.keys().isdisjoint(references_in(v.body))
        for place, text in _placed(decode(v.body))
        if text in broken
    ]


async def _was(store: Store, reference: Reference) -> bool:
    """Return whether a version is there that the caller may see; a deletion is one too."""
    try:
        await store.vread(reference.type, reference.id, reference.version)
    except FhirError as error:
        return error.status == STATUS["deleted"]
    return True


async def _still_needed(server: Server, store: Store) -> list[tuple[Identity, str]]:
    """Return what was deleted although others refer to it, each with a text that says who."""
    found = []
    for version in store.written:
        if version.op != DELETED:
            continue
        key = (version.type, version.id)

        def refers(body: bytes, key: Identity = key) -> bool:
            links = (parse_reference(text, server.base_url) for text in references_in(body))
            return any((r.type, r.id) == key and not r.version for r in links)

        named, others = await store.referrers(*key, LISTED, refers)
        who = [f"{type}/{id}" for type, id in named]
        if others:
            who.append("others")
        if who:
            text = f"{version.type}/{version.id} is still referred to by {', '.join(who)}"
            found.append((key, text))
    return found


def _placed(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield each Reference in a JSON value: the place of its element, and its text."""
    if isinstance(value, list):
        for n, one in enumerate(value):
            yield from _placed(one, f"{place}[{n}]")
    elif isinstance(value, dict):
        if isinstance(text := value.get("reference"), str):
            yield place, text
        for name, one in value.items():
            yield from _placed(one, f"{place}.{name}" if place else name)
