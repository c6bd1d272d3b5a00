"""The newest observations of each code: $lastn.

https://hl7.org/fhir/R4/observation-operation-lastn.html
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from app.fhir import bundle
from app.fhir.errors import refused
from app.fhir.interaction import Reply
from app.fhir.operations.operation import Call, Plan, Trial
from app.fhir.operations.parameters import criteria
from app.fhir.query import RESULT_PARAMETERS, Search, unparse, written_as
from app.fhir.store import Entry
from app.fhir.values import parse_date
from app.fhir.wire import Resource, decode

WALKED = 500  # resources that are read at once
MOST = 10_000  # that are looked at
SUBJECTS = frozenset({"patient", "subject"})
# The search parameters that read Observation.code or .category
CODES = frozenset({"category", "code", "combo-code", "code-value-concept", "code-value-string"}
                  | {"code-value-date", "code-value-quantity"})  # fmt: skip


async def lastn(call: Call) -> Reply | Plan | Trial:
    """Return the newest so many resources of each code, newest first; ties are all there."""
    pairs = criteria(call.operation, call.asked)
    search = _search(call, pairs)
    await call.store.connection.snapshot()
    found = [(entry, decode(entry.body)) for entry in await _walk(call, search)]
    groups = _groups([_codes(resource) for _, resource in found])
    most = call.one("max") or 1
    chosen = [entry.shown for entry in _newest(call, found, groups, most)]
    applied = written_as(unparse([("max", str(most)), *pairs]), call.asked.pairs)
    base = call.language.base_url
    links = [("self", f"{base}/{call.asked.type}/$lastn?{applied}")]
    return Reply(200, bundle.searchset(base, chosen, (), links, len(chosen)))


def _search(call: Call, pairs: tuple[tuple[str, str], ...]) -> Search:
    names = {name.partition(":")[0].partition(".")[0] for name, _ in pairs}
    for name in names & RESULT_PARAMETERS:
        raise refused("not-supported", f"$lastn takes no {name}", f"http.{name}")
    if not names & SUBJECTS or not names & CODES:
        text = "$lastn needs patient or subject, and category or code"
        raise refused("required", text, "http.patient", 400)
    newest_first = (*pairs, ("_sort", "-date"))
    search = call.language.parse(call.asked.type, newest_first, call.now, hidden=call.hidden)
    return replace(search, count=WALKED)


async def _walk(call: Call, search: Search) -> list[Entry]:
    """Return what a search finds; a 422 where that is too much to group."""
    found: list[Entry] = []
    while True:
        page = await call.store.search(search)
        found += page.entries
        if len(found) > MOST:
            text = f"$lastn looks at {MOST} resources at most; narrow it by code or date"
            raise refused("too-costly", text, "http.date")
        if not page.cursor:
            return found
        search = replace(search, cursor=page.cursor)


def _codes(resource: Resource) -> list[tuple[str, str]]:
    """Return what groups a resource: the codings of its code, else the text."""
    code = resource.get("code", {})
    codings = [(c.get("system", ""), c.get("code", "")) for c in code.get("coding", ())]
    return codings or [("text", code.get("text", ""))]


def _groups(codes: Sequence[Iterable[tuple[str, str]]]) -> list[int]:
    """Return the number of each one's group: those that share a code are equal, transitively."""
    heads: dict[tuple[str, str], tuple[str, str]] = {}

    def head(code: tuple[str, str]) -> tuple[str, str]:
        while heads.setdefault(code, code) != code:
            heads[code] = code = heads[heads[code]]
        return code

    for some in codes:
        first, *rest = map(head, some)
        for other in rest:
            heads[head(other)] = head(first)
    numbers: dict[tuple[str, str], int] = {}
    return [numbers.setdefault(head(next(iter(some))), len(numbers)) for some in codes]


def _newest(
    call: Call, found: Sequence[tuple[Entry, Resource]], groups: Sequence[int], most: int
) -> list[Entry]:
    """Return the first so many of each group, and those that are as new as the last of them."""
    taken: dict[int, list[Any]] = {}
    chosen = []
    for (entry, resource), group in zip(found, groups, strict=True):
        when, times = _when(call, resource), taken.setdefault(group, [])
        if len(times) < most or times[-1] == when:
            times.append(when)
            chosen.append(entry)
    return chosen


def _when(call: Call, resource: Resource) -> Any:
    """Return what the order was made by, as far as two of them can be equal."""
    effective = {k: v for k, v in resource.items() if k.startswith("effective")}
    for value in effective.values():
        if isinstance(value, str):
            return parse_date(value, call.language.zone).lo
    return repr(effective)
