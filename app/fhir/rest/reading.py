"""Interactions that read: read, vread, search, history; as much of a resource as is asked for.

https://hl7.org/fhir/R4/http.html
https://hl7.org/fhir/R4/search.html
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from app.fhir import bundle
from app.fhir.access import Caller
from app.fhir.cut import MODES, cut
from app.fhir.errors import FhirError, Issue, outcome, refused
from app.fhir.interaction import Interaction, Reply
from app.fhir.query import (
    CURSOR,
    All,
    Hidden,
    Member,
    listed,
    nothing_hidden,
    single,
    unparse,
    written_as,
)
from app.fhir.rest.rights import searched
from app.fhir.rest.server import Perform, Server, check_parameters, matches
from app.fhir.store import Store, Version, instant
from app.fhir.values import Interval, parse_date
from app.fhir.wire import Resource, encode

SUBSETS = ("_summary", "_elements")  # http.html#parameters: of every interaction that reads
HISTORY = ("_count", "_since", "_at", "_list", *SUBSETS)  # http.html#history


async def read(server: Server, store: Store, asked: Interaction) -> Reply:
    """Return the current version, or 304 if the client has it (http.html#read).

    What the server itself publishes is there as well, unless something is stored in its place.
    """
    check_parameters(asked, SUBSETS)
    show = presented(server, asked)
    try:
        return _reading(asked, await store.read(asked.type, asked.id), show)
    except FhirError as error:
        shipped = server.operations.definitions.get((asked.type, asked.id))
        if shipped is None or error.status != 404:
            raise
        return Reply(200, show(Version(asked.type, asked.id, 0, 0, 0, encode(shipped))))


def capabilities(server: Server, asked: Interaction) -> Reply:
    """Return the CapabilityStatement, or 304 if the client has it (http.html#capabilities).

    Whatever `mode` asks for, it is the full one, as the specification lets a server do.
    """
    check_parameters(asked, ("mode", *SUBSETS))
    body = server.edition.statement()
    tag = _tag(body)
    headers = {"ETag": f'W/"{tag}"'}
    if asked.if_none_match and matches(asked.if_none_match, tag):
        return Reply(304, extra=headers)
    show = presented(server, replace(asked, type="CapabilityStatement"))
    return Reply(200, show(Version("CapabilityStatement", "", 0, 0, 0, body)), extra=headers)


@lru_cache(1)
def _tag(statement: bytes) -> str:
    """Return what tells a statement from all others."""
    return blake2b(statement, digest_size=8).hexdigest()


async def vread(server: Server, store: Store, asked: Interaction) -> Reply:
    """Return one version (http.html#vread)."""
    check_parameters(asked, SUBSETS)
    show = presented(server, asked)
    return _reading(asked, await store.vread(asked.type, asked.id, asked.version), show)


def _reading(asked: Interaction, found: Version, show: Callable[[Version], bytes]) -> Reply:
    if _not_modified(asked, found):
        return Reply(304, b"", found.version, found.updated)
    return Reply(200, show(found), found.version, found.updated)


def _not_modified(asked: Interaction, found: Version) -> bool:
    """Return whether the client has this version already (http.html#cread)."""
    if asked.if_none_match:
        return matches(asked.if_none_match, found.version)
    since = asked.if_modified_since
    return since is not None and found.updated // 1_000_000 <= since // 1_000_000


def presented(server: Server, asked: Interaction) -> Callable[[Version], bytes]:
    """Return what makes the answer's bytes of a version: as `_summary` or `_elements` asks.

    https://hl7.org/fhir/R4/search.html#summary (count is for searches alone) and #elements
    """
    given = single(asked.pairs, SUBSETS) if asked.pairs else {}
    if not given:
        return whole
    summary, elements = given.get("_summary", ""), given.get("_elements", "")
    names = tuple(elements.split(",")) if elements else ()
    if summary and summary not in (*MODES, "false"):
        text = f"_summary must be one of {', '.join(MODES)}, false"
        raise refused("value", text, "http._summary", 400)
    if summary in MODES and names:
        text = "_summary and _elements exclude each other"
        raise refused("invalid", text, "http._elements", 400)
    check_elements(server, asked.type, names)

    def show(found: Version) -> bytes:
        cuts = server.cutter.cuts(found.type, summary=summary, elements=names)
        return cut(found.body, *cuts) if found.body else found.body

    return show


def whole(found: Version) -> bytes:
    """Return the bytes of a version as they are."""
    return found.body


async def search(server: Server, store: Store, asked: Interaction) -> Reply:
    """Return a searchset (http.html#search)."""
    member = Member(asked.within, asked.id) if asked.within else None
    parsed = server.language.parse(
        asked.type,
        asked.pairs,
        server.now(),
        hidden=hidden_from(server, store.caller),
        lenient=asked.handling == "lenient" or (server.language.lenient and not asked.handling),
        within=member,
    )
    if not asked.type:
        may = searched(store.caller, (type for type, _ in parsed.arms))
        parsed = replace(parsed, arms=tuple(arm for arm in parsed.arms if arm[0] in may))
    if parsed.explain and not store.caller.policy.open:
        text = "_explain tells of rows that you may not see"
        raise refused("forbidden", text, "http._explain")
    page = await store.search(parsed)
    if page.explained is not None:
        return Reply(200, encode(explanation(page.explained)))
    issues = [*parsed.ignored]
    if page.cut:
        text = "There is more to include than one answer holds; ask for fewer entries a page"
        issues.append(Issue("warning", "too-costly", text, "http._include"))
    check_elements(server, asked.type, parsed.elements)
    show = shower(server, parsed.summary, parsed.elements)
    # search.html#elements: only the matches are cut to what it names
    beside = shower(server, parsed.summary, ())
    path = "/".join(part for part in (asked.within, asked.within and asked.id) if part)
    path = "/".join(p for p in (server.base_url, path, asked.type or ("*" if path else "")) if p)
    applied = written_as(parsed.applied, asked.pairs)
    body = bundle.searchset(
        server.base_url,
        [show(entry) for entry in page.entries],
        [beside(entry) for entry in page.included],
        bundle.page_links(path, applied, parsed.cursor, page.cursor),
        page.total,
        outcome(issues) if issues else None,
    )
    return Reply(200, body)


def check_elements(server: Server, type: str, names: Sequence[str]) -> None:
    """Refuse a name of `_elements` that no element of the type ("" for any) has."""
    for name in names:
        if not server.cutter.known(type, name):
            text = f"_elements names {name[:64]!r}, which is no element of {type or 'any type'}"
            raise refused("value", text, "http._elements", 400)


def hidden_from(server: Server, caller: Caller) -> Hidden:
    """Return which search parameters do not exist for a caller: they read a masked element."""
    masks = caller.policy.mask
    if not masks:
        return nothing_hidden
    parameters = server.definitions.search_parameters

    def hidden(type: str, code: str) -> bool:
        return server.cutter.masked(type, parameters[type][code], masks)

    return hidden


def shower(
    server: Server, summary: str, elements: tuple[str, ...]
) -> Callable[[Any], tuple[str, str, bytes]]:
    """Return what makes the answer's (type, id, bytes) of a found resource."""
    if not elements and summary in ("", "false"):
        return lambda entry: (entry.type, entry.id, entry.body)

    def show(entry: Any) -> tuple[str, str, bytes]:
        cuts = server.cutter.cuts(entry.type, summary=summary, elements=elements)
        return entry.type, entry.id, cut(entry.body, *cuts)

    return show


def explanation(explained: Mapping[str, Any]) -> Resource:
    """Return how a search was done as a Parameters resource."""
    parts: list[Resource] = [{"name": "tree", "valueString": t} for t in explained["tree"]]
    for arm in explained["arms"]:
        told: list[Resource] = [
            {"name": name, "valueString": arm[name]} for name in arm if name != "estimate"
        ]
        told.append({"name": "estimate", "valueInteger": arm["estimate"]})
        parts.append({"name": "arm", "part": told})
    for step in explained["statements"]:
        told = [
            {"name": "purpose", "valueCode": step["purpose"]},
            {"name": "rows", "valueInteger": step["rows"]},
            {"name": "milliseconds", "valueDecimal": round(step["milliseconds"], 3)},
            {"name": "sql", "valueString": step["sql"]},
        ]
        told += [
            {"name": "value", "part": [
                {"name": "parameter", "valueString": name}, {"name": "is", "valueString": text}
            ]}
            for name, text in step["values"].items()
        ]  # fmt: skip
        parts.append({"name": "statement", "part": told})
    return {"resourceType": "Parameters", "parameter": parts}


async def history(server: Server, store: Store, asked: Interaction) -> Reply:
    """Return a history Bundle, newest first (http.html#history)."""
    check_parameters(asked, (*HISTORY, CURSOR))
    given = single(asked.pairs, (*HISTORY, CURSOR))
    show = presented(server, asked)
    since = _moments(server, given, "_since")
    page = await store.history(
        asked.type,
        asked.id,
        since=since.lo if since else None,
        at=_moments(server, given, "_at"),
        of=listed(given["_list"]) if "_list" in given else All(),
        count=server.language.count(given.get("_count")),
        cursor=given.get(CURSOR, ""),
    )
    entries = [
        bundle.history_entry(
            server.base_url, v.type, v.id, v.version, instant(v.updated), v.op, show(v)
        )
        for v in page.entries
    ]
    path = "/".join(part for part in (server.base_url, asked.type, asked.id, "_history") if part)
    applied = unparse(tuple(p for p in asked.pairs if p[1] and p[0] in HISTORY))
    applied = written_as(applied, asked.pairs)
    links = bundle.page_links(path, applied, given.get(CURSOR, ""), page.cursor)
    return Reply(200, bundle.history(entries, links, page.total))


def _moments(server: Server, given: Mapping[str, str], name: str) -> Interval | None:
    """Return the moments that a parameter names: an instant, a day, a year ...; None if absent."""
    if name not in given:
        return None
    try:
        return parse_date(given[name], server.language.zone)
    except ValueError as error:
        raise refused("value", f"{name}: {error}", f"http.{name}", 400) from None


PERFORM: Mapping[str, Perform] = {
    "read": read,
    "vread": vread,
    "search-type": search,
    "search-system": search,
    "search-compartment": search,
    "history-instance": history,
    "history-type": history,
    "history-system": history,
}
