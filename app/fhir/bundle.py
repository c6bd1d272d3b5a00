"""Bundle algebra: requests out of a Bundle, links rewritten, answers put together. All pure.

https://hl7.org/fhir/R4/bundle.html
https://hl7.org/fhir/R4/http.html#transaction

A Bundle is cut into its entries without decoding the resources (`plan`), links between entries are
rewritten in the bytes (`Links`), and pages are joined from stored bytes (`searchset`, `history`):
a resource is decoded once on its way in, and not at all on its way out.
"""

import re
from base64 import b64decode
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from app.fhir.definitions import Definitions
from app.fhir.errors import FhirError, Issue, refused
from app.fhir.interaction import Interaction, Reply, Route, parse_query, route
from app.fhir.values import parse_date, parse_reference, references_in
from app.fhir.wire import Buffer, Resource, decode, encode, fields, items, join

# http.html#trules: the order in which a transaction is processed
ORDER = {"delete": 0, "create": 1, "update": 2}
READS = 3
NOTHING = Interaction("")
FHIR_JSON = "application/fhir+json"

REFERENCE = re.compile(rb'("reference":")([^"\\]+)"')
ESCAPED_REFERENCE = re.compile(rb'"reference":"[^"\\]*\\')
LINK = re.compile(rb'"((?:urn:|https?://)[^"\\]+)"')
IN_NARRATIVE = re.compile(r"""((?:href|src)\s*=\s*["'])([^"']+)(["'])""")

# http.html#trules: links are replaced in elements of these types. Canonicals are not named there;
# oid and uuid are, but no `Type/id` is one, so replacing it would leave the resource invalid
LINK_TYPES = frozenset({"uri", "url"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One request of a batch or transaction: its place, its identity in the Bundle, and itself.

    `head` says that the answer shows no resource. `refusal` says why it is no proper request, if it
    is none.
    """

    place: str
    full_url: str = ""
    interaction: Interaction = NOTHING
    head: bool = False
    refusal: FhirError | None = None


def plan(raw: bytes, definitions: Definitions, base_url: str, most: int) -> tuple[str, list[Entry]]:
    """Return "batch" or "transaction", and the entries of a compact Bundle in their order.

    An improper request (bundle.html, bdl-3) is the answer of its entry in a batch; in a
    transaction all such are refused at once. More than `most` entries are a 413.
    """
    found = fields(raw)
    kind = value(found, "type")
    if kind not in ("batch", "transaction"):
        text = "Only a Bundle of type batch or transaction can be posted here"
        raise FhirError([Issue("error", "value", text, "Bundle.type")], 400)
    cuts = items(found.get("entry", b"[]"))
    if len(cuts) > most:
        text = f"The Bundle has {len(cuts)} entries, {most} is the most that one may have"
        raise refused("too-long", text, "Bundle.entry")
    entries: list[Entry] = []
    for n, cut in enumerate(cuts):
        place = f"Bundle.entry[{n}]"
        try:
            entries.append(_entry(place, cut, definitions, base_url))
        except FhirError as error:
            entries.append(Entry(place, refusal=error))
    issues = [i.under(e.place) for e in entries if e.refusal for i in e.refusal.issues]
    if issues and kind == "transaction":
        raise FhirError(issues, 400)
    return str(kind), entries


def value(parts: Mapping[str, Buffer], name: str) -> Any:
    """Return one raw property decoded, None if it is not there."""
    return decode(join([(name, parts[name])]))[name] if name in parts else None


def envelope(raw: bytes) -> Resource:
    """Return a compact Bundle decoded, without the resources in its entries."""
    found: dict[str, Buffer] = {**fields(raw)}
    if "entry" in found:
        cuts = [fields(cut) for cut in items(found["entry"])]
        bare = [join((n, v) for n, v in cut.items() if n != "resource") for cut in cuts]
        found["entry"] = b"[" + b",".join(bare) + b"]"
    return decode(join(found))


def _entry(place: str, cut: bytes, definitions: Definitions, base_url: str) -> Entry:
    parts = fields(cut)
    asked = decode(bytes(parts["request"])) if "request" in parts else {}
    method, url = asked.get("method"), asked.get("url")
    if not isinstance(method, str) or not isinstance(url, str):
        raise refused("required", "An entry needs a request with method and url", "request", 400)
    full_url = str(value(parts, "fullUrl") or "")
    path, _, query = url.removeprefix(base_url).lstrip("/").partition("?")
    found = route("GET" if method == "HEAD" else method, path, definitions.type_numbers)
    body = bytes(parts.get("resource", b""))
    _check_request(found.route, body)
    stored = body if found.route.code in ("create", "update") else b""
    _check_full_url(full_url, stored, definitions.type_numbers)
    if ESCAPED_REFERENCE.search(stored):  # links are looked for as they are, not as `http:\/\/`
        body = encode(decode(stored, "resource", exact=True))
    content_type = FHIR_JSON
    if found.route.code == "patch":
        content_type, body = _patch(body)
    interaction = found.asked(
        pairs=parse_query(query),
        body=body,
        content_type=content_type,
        if_match=str(asked.get("ifMatch", "")),
        if_none_match=str(asked.get("ifNoneMatch", "")),
        if_modified_since=_moment(asked.get("ifModifiedSince")),
        if_none_exist=str(asked.get("ifNoneExist", "")),
        url=url,
    )
    return Entry(place, full_url, interaction, method == "HEAD")


def _patch(body: bytes) -> tuple[str, bytes]:
    """Return the media type and the bytes of the patch that an entry carries (http.html#patch).

    A Binary has them inside; Parameters are a FHIRPath Patch themselves.
    """
    parts = fields(body)
    kind = value(parts, "resourceType")
    if kind == "Parameters":
        return FHIR_JSON, body
    if kind != "Binary":
        text = "A patch in a Bundle is a Binary, or Parameters with a FHIRPath Patch"
        raise refused("invalid", text, "resource", 400)
    media_type, data = value(parts, "contentType"), str(value(parts, "data") or "")
    try:
        return str(media_type), b64decode("".join(data.split()), validate=True)
    except ValueError:
        text = "The data of the Binary is not base64"
        raise refused("value", text, "resource.data", 400) from None


def _check_full_url(full_url: str, body: bytes, types: Container[str]) -> None:
    """Refuse a fullUrl that is no identity, or not that of the resource (bundle.html#Bundle).

    What is given twice, or with a version, the invariants of Bundle refuse.
    """
    if not full_url:
        return
    if not full_url.startswith(("http://", "https://", "urn:")):
        text = "fullUrl must be absolute, or a urn:uuid or urn:oid"
        raise refused("value", text, "fullUrl", 400)
    named = parse_reference(full_url, "")
    if not body or named.version or named.type not in types:
        return
    parts = fields(body)
    type, id = value(parts, "resourceType"), value(parts, "id")
    kind, identity = full_url.split("/")[-2:]
    if type != kind or id not in (None, identity):
        text = "fullUrl must agree with the type and the id of the resource"
        raise refused("invalid", text, "fullUrl", 400)


def _moment(text: Any) -> int | None:
    """Return ifModifiedSince, an instant, in microseconds."""
    if text is None:
        return None
    try:
        return parse_date(str(text)).lo
    except ValueError as error:
        raise refused("value", f"ifModifiedSince: {error}", "request", 400) from None


def _check_request(found: Route, body: bytes) -> None:
    if found.code == "batch":
        raise refused("not-supported", "A Bundle cannot be part of a Bundle", "request.url")
    if found.code in ("create", "update", "patch") and not body:
        raise refused("required", "This request needs a resource", "resource", 400)


def conditions(raw: bytes) -> list[str]:
    """Return the conditional references of a compact resource, each once."""
    return sorted(filter(conditional, references_in(raw)))


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries as a transaction processes them: DELETE, POST, PUT, then GET."""
    return sorted(entries, key=lambda e: ORDER.get(e.interaction.code, READS))


def check_identities(writes: Iterable[Entry]) -> None:
    """Refuse a transaction in which two writes are about one resource (http.html#trules).

    Creates that have found it, which are reads of it, may be several.
    """
    seen: dict[tuple[str, str], Entry] = {}
    for entry in writes:
        asked = entry.interaction
        first = seen.setdefault((asked.type, asked.id), entry)
        if first.place != entry.place and {first.interaction.code, asked.code} != {"read"}:
            text = f"This is about {asked.type}/{asked.id}, as {first.place} is"
            raise refused("invalid", text, entry.place, 400)


# --- links -------------------------------------------------------------------------------------


def conditional(reference: str) -> bool:
    """Return whether a reference is a search, `Type?parameters` (http.html#transaction)."""
    return "?" in reference and not reference.startswith(("http://", "https://", "urn:", "#"))


@dataclass(frozen=True, slots=True)
class Links:
    """What every link of a transaction becomes: fullUrl or conditional reference -> `Type/id`."""

    targets: Mapping[str, str]
    definitions: Definitions

    def rewrite(self, raw: bytes, full_url: str) -> bytes:
        """Return a compact resource with its links to other entries replaced.

        References are replaced in the bytes. Links elsewhere (uri, url, oid, uuid elements, and
        href and src in the narrative) are rare, so only a resource that has one is decoded.
        """
        if not self.targets:
            return raw
        root = _root(full_url)

        def target(found: re.Match[bytes]) -> bytes:
            link = found[2].decode()
            absolute = root + link if root and not parse_reference(link, "").url else link
            known = self.targets.get(link) or self.targets.get(absolute)
            return found[1] + known.encode() + b'"' if known else found[0]

        raw = REFERENCE.sub(target, raw)
        if self._has_other_links(raw):
            resource = decode(raw, exact=True)
            if self._walk(resource, str(resource.get("resourceType"))):
                return encode(resource)
        return raw

    def _has_other_links(self, raw: bytes) -> bool:
        if b"<div" in raw and (b"href" in raw or b"src" in raw):
            return True
        if rb'"http:\/' in raw or rb'"https:\/' in raw:
            return True
        return any(link[1].decode() in self.targets for link in LINK.finditer(raw))

    def _walk(self, value: Resource, type: str) -> bool:
        """Replace links in place, element by element; return whether there was one."""
        structure = self.definitions.structures.get(type)
        if structure is None:
            return False
        changed = False
        for element in structure.elements:
            for kind in element.types:
                name = element.name + kind[0].upper() + kind[1:] if element.choice else element.name
                if name in value:
                    changed |= self._replace(value, name, kind)
        return changed

    def _replace(self, value: Resource, name: str, kind: str) -> bool:
        held = value[name]
        if isinstance(held, list):
            box: Any = dict(enumerate(held))
            changed = sum(self._replace(box, n, kind) for n in box) > 0
            if changed:
                value[name] = list(box.values())
            return changed
        if isinstance(held, dict):
            inner = str(held.get("resourceType")) if kind == "Resource" else kind
            return self._walk(held, inner)
        new = held
        if isinstance(held, str) and kind in LINK_TYPES:
            new = self.targets.get(held, held)
        elif isinstance(held, str) and kind == "xhtml":
            new = IN_NARRATIVE.sub(lambda m: f"{m[1]}{self.targets.get(m[2], m[2])}{m[3]}", held)
        value[name] = new
        return bool(new != held)


def _root(full_url: str) -> str:
    """Return the base that relative references of an entry have (bundle.html#references)."""
    found = parse_reference(full_url, "")
    if not found.url or not found.type:
        return ""
    return full_url.rsplit("/", 2)[0] + "/"


# --- answers -----------------------------------------------------------------------------------


def _quoted(text: str) -> bytes:
    return encode(text)


def _links(links: Sequence[tuple[str, str]]) -> bytes:
    rows = [b'{"relation":%b,"url":%b}' % (_quoted(r), _quoted(url)) for r, url in links]
    return b"[" + b",".join(rows) + b"]"


def _bundle(kind: str, parts: Iterable[tuple[str, bytes]], entries: Sequence[bytes]) -> bytes:
    rows = [("entry", b"[" + b",".join(entries) + b"]")] if entries else []
    return join([("resourceType", b'"Bundle"'), ("type", _quoted(kind)), *parts, *rows])


def page_links(url: str, applied: str, here: str, following: str) -> list[tuple[str, str]]:
    """Return the links of a page: self, first, and next where there is more.

    `applied` is the query that took effect; `here` and `following` are cursors, "" for none.
    """

    def at(cursor: str) -> str:
        query = "&".join(part for part in (applied, cursor and f"_cursor={cursor}") if part)
        return f"{url}?{query}" if query else url

    links = [("self", at(here)), ("first", at(""))]
    return [*links, ("next", at(following))] if following else links


Shown = tuple[str, str, bytes]


def searchset(
    base_url: str,
    entries: Iterable[Shown],
    included: Iterable[Shown],
    links: Sequence[tuple[str, str]],
    total: int | None,
    outcome: Resource | None = None,
) -> bytes:
    """Return a searchset of stored bytes (search.html#response); no `total` where it is None.

    Entries are (type, id, body). An `outcome` is the last entry, of mode outcome.
    """
    rows = [*_found(base_url, entries, b"match"), *_found(base_url, included, b"include")]
    if outcome is not None:
        rows.append(b'{"resource":%b,"search":{"mode":"outcome"}}' % encode(outcome))
    known = [("total", b"%d" % total)] if total is not None else []
    return _bundle("searchset", [*known, ("link", _links(links))], rows)


def _found(base_url: str, entries: Iterable[Shown], mode: bytes) -> Iterator[bytes]:
    """Yield entries with their full URLs; what is the same for all is put together once."""
    end = b',"search":{"mode":"%b"}}' % mode
    starts: dict[str, bytes] = {}
    for type, id, body in entries:
        start = starts.get(type)
        if start is None:
            start = starts[type] = f'{{"fullUrl":"{base_url}/{type}/'.encode()
        yield b'%b%b","resource":%b%b' % (start, id.encode(), body, end)


def document(base_url: str, id: str, timestamp: str, entries: Iterable[Shown]) -> bytes:
    """Return a document with this id of stored bytes, the Composition first (documents.html)."""
    identifier = {"system": "urn:ietf:rfc:3986", "value": f"urn:uuid:{id}"}
    rows = [
        join([("fullUrl", _quoted(f"{base_url}/{type}/{one}")), ("resource", body)])
        for type, one, body in entries
    ]
    parts = [("identifier", encode(identifier)), ("timestamp", _quoted(timestamp))]
    whole = _bundle("document", parts, rows)
    kind, *rest = fields(whole).items()
    return join([kind, ("id", _quoted(id)), *rest])


# bundle.html#history: the request that made a version, and the status of its answer
MADE = {1: ("POST", "201 Created"), 2: ("PUT", "200 OK"), 3: ("DELETE", "204 No Content")}


def history_entry(
    base_url: str, type: str, id: str, version: int, updated: str, op: int, body: bytes
) -> bytes:
    """Return one entry of a history Bundle; a deletion has no resource (http.html#history)."""
    method, status = MADE[op]
    url = type if op == 1 else f"{type}/{id}"
    response = {"status": status, "etag": f'W/"{version}"', "lastModified": updated}
    parts = [("fullUrl", _quoted(f"{base_url}/{type}/{id}"))]
    if body:
        parts.append(("resource", body))
    parts.append(("request", encode({"method": method, "url": url})))
    parts.append(("response", encode(response)))
    return join(parts)


def history(entries: Sequence[bytes], links: Sequence[tuple[str, str]], total: int | None) -> bytes:
    """Return a history Bundle of these entries; no `total` where it is None."""
    known = [("total", b"%d" % total)] if total is not None else []
    return _bundle("history", [*known, ("link", _links(links))], entries)


def response_entry(reply: Reply, updated: str, *, resource: bytes, outcome: bytes) -> bytes:
    """Return the entry that answers one request: status, location, etag, lastModified, outcome."""
    told: dict[str, Any] = {"status": f"{reply.status} {HTTPStatus(reply.status).phrase}"}
    if reply.location:
        told["location"] = reply.location
    if reply.version:
        told["etag"] = f'W/"{reply.version}"'
        told["lastModified"] = updated
    response = encode(told)
    if outcome:
        response = response[:-1] + b',"outcome":' + outcome + b"}"
    shown = [("resource", resource)] if resource else []
    return join([*shown, ("response", response)])


def response(kind: str, entries: Sequence[bytes]) -> bytes:
    """Return the batch-response or transaction-response with these entries."""
    return _bundle(f"{kind}-response", [], entries)
