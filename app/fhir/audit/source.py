"""The trail as resources: read and search of AuditEvent, the one type with a table of its own.

https://hl7.org/fhir/R4/auditevent.html#search

For the role privacy-officer, under a scope that allows it. `PARAMETERS` are all that a search
takes; anything else is a 400, and a write of a client a 405. A row is shown as one AuditEvent for
each of its patients (`rendering`), so a page may end inside a row: its cursor is the row
and the place in it. The order of ids is that of time (`trail`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import sqlalchemy as sa

from app import db
from app.fhir import bundle
from app.fhir.access import Caller, Right
from app.fhir.audit.event import ACTIONS
from app.fhir.audit.rendering import REST, SECURITY, TYPE, Renderer, Row, codings
from app.fhir.audit.seal import place
from app.fhir.audit.trail import first_id
from app.fhir.definitions import Definitions
from app.fhir.errors import FhirError, Issue, refused
from app.fhir.interaction import Interaction, Pairs, Reply
from app.fhir.query import CURSOR, PRESENTATION, Language, single, unparse, written_as
from app.fhir.store import Catalogue, Seen
from app.fhir.values import parse_date
from app.fhir.wire import Resource, encode

A, P, R, ACCOUNT = db.audit, db.audit_patient, db.resource, db.account
CONTROLS = ("_count", "_sort", CURSOR)
ALLOWED = "GET, HEAD, OPTIONS, POST"  # POST to _search
LATEST = 3_800_000_000_000_000  # microseconds: in 2090, before the ids are used up

Clause = sa.ColumnElement[bool]
Shown = tuple[tuple[int, ...], Resource]  # whose an AuditEvent is, and itself


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page ended: the id of the row, and which of its AuditEvents it was."""

    row: int
    n: int


@dataclass(frozen=True, slots=True)
class Asked:
    """What a search asks of a row, and of the AuditEvents that it is shown as."""

    where: Sequence[Clause]
    patients: Sequence[frozenset[str]]  # `Patient/id`: one of each has to be named
    entities: Sequence[frozenset[str]]  # `Type/id`: one of each has to be named

    def shows(self, event: Resource) -> bool:
        """Return whether an AuditEvent of a row that fits is one that was asked for."""
        if not self.patients and not self.entities:
            return True
        named = [entity.get("what", {}).get("reference", "") for entity in event.get("entity", ())]
        plain = {"/".join(reference.split("/")[:2]) for reference in named}
        return all(wanted & plain for wanted in (*self.patients, *self.entities))


async def answered(
    database: db.Database,
    language: Language,
    catalogue: Catalogue,
    caller: Caller,
    asked: Interaction,
    seen: list[Seen] | None,
) -> Reply:
    """Return the answer to an interaction with AuditEvent; `seen` learns what it shows."""
    if asked.code in ("create", "update", "patch", "delete"):
        text = "The server alone writes AuditEvents, and nobody changes them"
        raise FhirError([Issue("error", "not-supported", text)], 405, {"Allow": ALLOWED})
    if asked.code not in ("read", "search-type"):
        text = f"{TYPE} has the interactions read and search-type, not {asked.code}"
        raise refused("not-supported", text)
    right: Right = "read" if asked.code == "read" else "search"
    if caller.kind != "privacy-officer" or not caller.policy.may(TYPE, right):
        raise refused("forbidden", f"Only a privacy officer may {right} the audit trail")
    if asked.code == "read":
        reply, shown = await _read(database, language, asked)
    else:
        reply, shown = await _search(database, language, catalogue, caller, asked)
    if seen is not None:
        seen += [Seen(TYPE, event["id"], 1, of) for of, event in shown]
    return reply


async def _read(
    database: db.Database, language: Language, asked: Interaction
) -> tuple[Reply, list[Shown]]:
    """Return one AuditEvent: its id is that of its row, and which of it it is."""
    if any(name not in PRESENTATION for name, value in asked.pairs if value):
        raise refused("not-supported", f"The read of an {TYPE} has no parameters")
    number = asked.id.partition("-")[0]
    if number.isascii() and number.isdigit() and len(number) < 20 and int(number) < 2**63:
        one = sa.select(A).where(A.c.id == int(number))
        rows = await database.search(partial(_rows, database.dialect, language.definitions, one))
        for row in rows:
            renderer = await _renderer(database, language, rows)
            for of, event in renderer.events(row):
                if event["id"] == asked.id:
                    return Reply(200, encode(event), 1, row.at), [(of, event)]
    raise refused("not-found", f"There is no {TYPE}/{asked.id}")


async def _search(
    database: db.Database,
    language: Language,
    catalogue: Catalogue,
    caller: Caller,
    asked: Interaction,
) -> tuple[Reply, list[Shown]]:
    """Return a page of AuditEvents, the newest first unless the oldest are asked for."""
    given = tuple((n, v) for n, v in asked.pairs if v and n not in PRESENTATION)
    controls = single(given, CONTROLS)
    wanted = criteria(language, tuple(pair for pair in given if pair[0] not in CONTROLS))
    count = language.count(controls.get("_count"))
    order = controls.get("_sort", "-date")
    if order not in ("date", "-date"):
        raise refused("not-supported", f"{TYPE} is sorted by date or -date", "http._sort")
    applied = unparse(pair for pair in given if pair[0] != CURSOR)
    about = f"{TYPE} {applied} {caller.policy.digest}"
    here = controls.get(CURSOR, "")
    after = Place(*msgspec.json.decode(catalogue.place(here, about))) if here else None
    found = await _page(database, language, wanted, after, order == "-date", count)
    shown = [(of, event) for of, event, _ in found[:count]]
    following = ""
    if 0 < count < len(found):
        last = found[count - 1][2]
        text = msgspec.json.encode([last.row, last.n]).decode()
        following = catalogue.sign(text, about)
    body = bundle.searchset(
        language.base_url,
        [(TYPE, event["id"], encode(event)) for _, event in shown],
        [],
        bundle.page_links(
            f"{language.base_url}/{TYPE}", written_as(applied, asked.pairs), here, following
        ),
        len(found) if count and not here and len(found) <= count else None,
    )
    return Reply(200, body), shown


async def _page(
    database: db.Database,
    language: Language,
    wanted: Asked,
    after: Place | None,
    descending: bool,
    count: int,
) -> list[tuple[tuple[int, ...], Resource, Place]]:
    """Return the AuditEvents of a page, and one more where there is one."""
    found: list[tuple[tuple[int, ...], Resource, Place]] = []
    order = A.c.id.desc() if descending else A.c.id.asc()
    limit = count + 1
    start = after.row if after else None
    again = True  # the row of the cursor may have more to show
    while count and len(found) <= count:
        rows = sa.select(A).where(*wanted.where).order_by(order).limit(limit)
        if start is not None:
            beyond = A.c.id < start if descending else A.c.id > start
            rows = rows.where(sa.or_(beyond, A.c.id == start) if again else beyond)
        some = await database.search(partial(_rows, database.dialect, language.definitions, rows))
        renderer = await _renderer(database, language, some)
        for one in some:
            for n, (of, event) in enumerate(renderer.events(one)):
                place = Place(one.id, n)
                passed = after is not None and one.id == after.row and n <= after.n
                if not passed and wanted.shows(event):
                    found.append((of, event, place))
        if len(some) < limit:
            break
        start, again = some[-1].id, False
    return found[: count + 1]


# --- rows --------------------------------------------------------------------------------------


async def _rows(
    dialect: db.Dialect,
    definitions: Definitions,
    chosen: sa.Select[Any],
    connection: db.Connection,
) -> list[Row]:
    """Return the rows that a statement finds, decoded, with their Patients."""
    await connection.snapshot()
    xid, seq = await place(connection, dialect)
    types = ("", *definitions.resource_types)
    asked = db.statement(chosen, dialect)
    found = await connection.rows(asked, {"xid": xid, "seq": seq})
    details = [msgspec.json.decode(row[-1]) for row in found]
    keys = sorted({key for detail in details for key in detail.get("patients", ())})
    named = db.statement(sa.select(R.c.key, R.c.id).where(db.among(R.c.key, "keys")), dialect)
    ids = dict(map(tuple, await connection.rows(named, {"keys": keys}))) if keys else {}
    return [
        Row(
            id,
            at,
            agent,
            code,
            action,
            outcome,
            types[type],
            detail,
            [(key, ids.get(key, "unknown")) for key in detail.get("patients", ())],
        )
        for (id, at, _, _, agent, code, action, outcome, type, _), detail in zip(
            found, details, strict=True
        )
    ]


async def _renderer(database: db.Database, language: Language, rows: Sequence[Row]) -> Renderer:
    """Return what shows these rows: it knows the references of who has an account."""
    agents = sorted({row.agent for row in rows if row.agent and "fhir_user" not in row.detail})
    users: dict[str, str] = {}
    if agents:
        named = sa.select(ACCOUNT.c.id, ACCOUNT.c.fhir_user).where(db.among(ACCOUNT.c.id, "agents"))
        asked = db.statement(named, database.dialect)
        found = await database.read(lambda c: c.rows(asked, {"agents": agents}))
        users = {id: reference for id, reference in found if reference}
    return Renderer(language.definitions, language.base_url, users)


# --- criteria ----------------------------------------------------------------------------------


def criteria(language: Language, pairs: Pairs) -> Asked:
    """Return what the parameters of a search ask for; a 400 for one that there is not.

    Rows that wait for their seals are not entered by their patients yet: they all fit a patient,
    and are told apart by what they are shown as. They are those after `xid` and `seq`.
    """
    where: list[Clause] = []
    patients: list[frozenset[str]] = []
    entities: list[frozenset[str]] = []
    for name, value in pairs:
        if name not in CRITERIA:
            has = ", ".join((*sorted(CRITERIA), "_count", "_sort"))
            text = f"{TYPE} has no search parameter {name[:80]!r}; it has {has}"
            raise refused("not-supported", text, f"http.{name[:80]}")
        parts = [part for part in value.split(",") if part]
        where.append(sa.or_(sa.false(), *(CRITERIA[name](language, part) for part in parts)))
        if name == "patient":
            patients.append(frozenset(f"Patient/{_id(language, part)}" for part in parts))
        if name == "entity":
            entities.append(frozenset(_relative(language, part) for part in parts))
    return Asked(where, patients, entities)


# search.html#prefix: an instant is as long as a millisecond. The id of a row tells its time
PREFIXES: Mapping[str, Callable[[int, int], Clause]] = {
    "eq": lambda lo, hi: sa.and_(A.c.id >= first_id(lo), A.c.id < first_id(hi)),
    "ne": lambda lo, hi: sa.or_(A.c.id < first_id(lo), A.c.id >= first_id(hi)),
    "gt": lambda _, hi: A.c.id >= first_id(hi),
    "lt": lambda lo, _: A.c.id < first_id(lo),
    "ge": lambda lo, _: A.c.id >= first_id(lo),
    "le": lambda _, hi: A.c.id < first_id(hi),
    "sa": lambda _, hi: A.c.id >= first_id(hi),
    "eb": lambda lo, _: A.c.id < first_id(lo),
}


def _date(language: Language, text: str) -> Clause:
    prefix, rest = (text[:2], text[2:]) if text[:2].isalpha() else ("eq", text)
    if prefix not in PREFIXES:
        has = ", ".join(PREFIXES)
        raise refused("not-supported", f"date has the prefixes {has}", "http.date")
    try:
        span = parse_date(rest, language.zone)
    except ValueError as error:
        raise refused("value", f"date: {error}", "http.date", 400) from None
    return PREFIXES[prefix](min(span.lo, LATEST), min(span.hi, LATEST))


def _relative(language: Language, text: str) -> str:
    """Return a reference relative to the base, as rows have it."""
    return text.removeprefix(f"{language.base_url}/")


def _id(language: Language, text: str) -> str:
    """Return the id of the Patient that a reference names."""
    return _relative(language, text).removeprefix("Patient/")


def _agent(language: Language, text: str) -> Clause:
    """Return whether an account or client did it: by its id, or by who has the account."""
    reference = _relative(language, text)
    theirs = sa.select(ACCOUNT.c.id).where(ACCOUNT.c.fhir_user == reference)
    return (
        sa.or_(A.c.agent == text, A.c.agent.in_(theirs))
        if "/" in reference
        else (A.c.agent == text)
    )


def _patient(language: Language, text: str) -> Clause:
    """Return whether it was about a Patient."""
    number = language.definitions.type_numbers["Patient"]
    key = sa.select(R.c.key).where(R.c.type == number, R.c.id == _id(language, text))
    entered = sa.select(P.c.id).where(P.c.owner == key.scalar_subquery())
    w = A.alias("w")
    last = sa.tuple_(sa.bindparam("xid", type_=db.Key), sa.bindparam("seq", type_=db.Key))
    waiting = sa.select(w.c.id).where(sa.tuple_(w.c.xid, w.c.seq) > last)
    return A.c.id.in_(sa.union_all(entered, waiting))


def _entity(language: Language, text: str) -> Clause:
    """Return whether a resource is among what was seen, written or asked for."""
    reference = _relative(language, text)
    type, _, id = reference.partition("/")
    if type not in language.definitions.type_numbers or not id or "/" in id:
        raise refused("value", "entity must be a reference Type/id", "http.entity", 400)
    asked = sa.and_(
        A.c.type == language.definitions.type_numbers[type],
        db.contains(A.c.detail, sa.literal(f'"id":"{id}"', db.Text)),
    )
    seen = db.contains(A.c.detail, sa.literal(f'"{reference}/', db.Text))
    return sa.or_(seen, asked, _patient(language, id) if type == "Patient" else sa.false())


def _coded(text: str, system: str) -> str | None:
    """Return the code of a token, None where it is of another system."""
    given, bar, code = text.rpartition("|")
    return None if bar and given != system else code


def _outcome(_: Language, text: str) -> Clause:
    code = _coded(text, "http://terminology.hl7.org/CodeSystem/audit-event-outcome")
    return A.c.outcome == int(code) if code in ("0", "4", "8", "12") else sa.false()


def _action(_: Language, text: str) -> Clause:
    code = _coded(text, "http://terminology.hl7.org/CodeSystem/audit-event-action")
    return A.c.action == code if code else sa.false()


def _type(_: Language, text: str) -> Clause:
    """Return whether an event has this type: those of `rest` are all that are not of security."""
    if _coded(text, REST[0]) == REST[1]:
        return sa.not_(_any(SECURITY))
    return _any(code for code in SECURITY if _has([codings(code)[0]], text))


def _subtype(_: Language, text: str) -> Clause:
    return _any(code for code in (*ACTIONS, *SECURITY) if _has(codings(code)[1], text))


def _any(codes: Iterable[str]) -> Clause:
    return sa.or_(sa.false(), *(A.c.code == code for code in codes))


def _has(given: Sequence[Resource], text: str) -> bool:
    """Return whether a token names one of these Codings."""
    return any(_coded(text, one["system"]) == one["code"] for one in given)


CRITERIA: Mapping[str, Callable[[Language, str], Clause]] = {
    "action": _action,
    "agent": _agent,
    "date": _date,
    "entity": _entity,
    "outcome": _outcome,
    "patient": _patient,
    "subtype": _subtype,
    "type": _type,
}
PARAMETERS = tuple(CRITERIA)
