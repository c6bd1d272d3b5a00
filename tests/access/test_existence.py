"""Existence is not an answer: what is hidden, what was deleted and what never was are alike.

The same is asked about ids of one length, of which one belongs to somebody else, one was deleted by
somebody else, one went to somebody else, one is shared with somebody else, one is only referred to,
and one was never there. Every answer must be the same in status, headers and text.
"""

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import httpx
import pytest

from app import db
from app.config import Settings
from app.fhir.access import SYSTEM, Caller, Grant, Kind, parse_scopes, policy_of
from app.main import build
from tests.access.clinic import AFTER, CATEGORY, anonymous, numbered
from tests.access.door import Door, content
from tests.access.tokens import authorized
from tests.support.resources import (
    batch,
    coded,
    delete,
    entry,
    get,
    observation,
    patient,
    post,
    put,
    reference,
    resource,
    transaction,
)

Body = dict[str, Any]

UNSEEN = ("u-other", "u-erase", "u-moved", "u-share", "u-named", "u-never")
PATCHES: Mapping[str, tuple[str, Any]] = {
    "application/json-patch+json": (
        "json",
        [
            {"op": "test", "path": "/status", "value": "final"},
            {"op": "replace", "path": "/status", "value": "amended"},
        ],
    ),
    "application/merge-patch+json": ("merge", {"status": "amended"}),
    "application/fhir+json": (
        "fhirpath",
        {
            "resourceType": "Parameters",
            "parameter": [
                {
                    "name": "operation",
                    "part": [
                        {"name": "type", "valueCode": "replace"},
                        {"name": "path", "valueString": "Observation.status"},
                        {"name": "value", "valueCode": "amended"},
                    ],
                }
            ],
        },
    ),
}
WHY = json.dumps(
    {
        "resourceType": "Provenance",
        "recorded": "2026-03-02T09:30:00Z",
        "agent": [{"who": {"display": "Ada"}}],
    }
).encode()
LABEL: Body = {
    "resourceType": "Parameters",
    "parameter": [{"name": "meta", "valueMeta": {"tag": [{"code": "x"}]}}],
}


class Ask(NamedTuple):
    """A request about one id, and the status of its answer; 0 where more than one would do."""

    status: int
    method: str
    url: str
    body: Any = None
    conditions: Mapping[str, Any] = {}


# --- the world ---------------------------------------------------------------------------------


def about(owner: str) -> Body:
    """Return a Reference to a patient."""
    return reference(f"Patient/p-{owner}")


def laboratory(id: str | None, owner: str = "ada", **changes: Any) -> Body:
    """Return a laboratory Observation of a patient."""
    given = {"category": [coded("laboratory", CATEGORY)], "subject": about(owner), **changes}
    return observation(id=id, **given)


def of_type(type: str, id: str, owner: str, *others: str) -> Body:
    """Return a small resource of a type that belongs to these patients."""
    match type:
        case "Observation":
            return laboratory(id, owner, performer=[about(other) for other in others] or None)
        case "Task":
            made = {"id": id, "status": "requested", "intent": "order", "for": about(owner)}
            return resource("Task", made, {})
        case "Device":
            return resource("Device", {"id": id, "patient": about(owner)}, {})
        case "Patient":
            link = [{"other": about(one), "type": "seealso"} for one in others] or None
            return patient(id=id, link=link)
        case "Binary":
            return resource("Binary", {"id": id, "contentType": "text/plain", "data": "eA=="}, {})
        case "Group":
            parts = [{"entity": about(one)} for one in (owner, *others)]
            return resource(
                "Group", {"id": id, "type": "person", "actual": True, "member": parts}, {}
            )
    raise AssertionError(type)


TYPES = ("Observation", "Task", "Device", "Patient", "Binary", "Group")


async def settle(door: Door) -> None:
    """Write what is there: two patients, and of each type all that is unseen by Ada."""
    for owner in ("ada", "bob"):
        await made(door, patient(id=f"p-{owner}"))
    await made(door, laboratory("o-ada"))
    names: list[str] = []
    for type in TYPES:
        await made(door, of_type(type, "u-other", "bob"), of_type(type, "u-erase", "bob"))
        reply = await door.ask("DELETE", f"{type}/u-erase")
        assert reply.status == 204
        first = "ada" if type in ("Observation", "Task", "Device", "Group") else "bob"
        await made(door, of_type(type, "u-moved", first), of_type(type, "u-moved", "bob"))
        await made(door, of_type(type, "u-share", "bob", "ada"))
        names += [f"{type}/u-named", f"{type}/u-other"]
    names += ["Observation/u-share"]
    entries = [{"item": reference(name)} for name in names]
    listed = {"id": "l-bob", "status": "current", "mode": "working", "entry": entries}
    await made(door, resource("List", {**listed, "subject": about("bob")}, {}))
    for id in UNSEEN:  # Ada has named each of them, and has something to name it again
        await made(door, laboratory(f"o-{id}"))
        await made(
            door,
            resource(
                "Composition",
                {
                    "id": f"c-{id}",
                    "status": "final",
                    "type": {"text": "note"},
                    "title": "note",
                    "date": "2026-03-02",
                    "author": [{"display": "Ada"}],
                    "subject": about("ada"),
                    "section": [{"entry": [reference(f"Observation/{id}")]}],
                },
                {},
            ),
        )


async def made(door: Door, *bodies: Body) -> None:
    """Put resources that must be valid."""
    for body in bodies:
        reply = await door.put(body)
        assert reply.status in (200, 201), reply.body


@pytest.fixture
async def door(settings: Settings) -> AsyncIterator[Door]:
    """The door of a server whose clock stands still, and whose new ids are of one length."""
    async with build(settings) as server:
        door = numbered(Door(server, SYSTEM))
        await settle(door)
        yield door


# Who asks: kind of account, scopes, and a patient
NARROW: Mapping[str, tuple[Kind, str, str]] = {
    "a patient": ("patient", "patient/*.cruds", "Patient/p-ada"),
    "a client with a patient": ("system", "patient/*.cruds", "Patient/p-ada"),
    "the laboratory of a patient": (
        "workforce",
        f"patient/Observation.cruds?category={CATEGORY}|laboratory patient/Task.cruds"
        " patient/Device.cruds patient/Patient.cruds patient/Binary.cruds patient/Group.cruds"
        " patient/Provenance.c patient/Composition.rs patient/List.rs",
        "Patient/p-ada",
    ),
    "a client of Ada's": (
        "system",
        " ".join(
            [
                "system/Observation.cruds?patient=Patient/p-ada",
                "system/Task.cruds?patient=Patient/p-ada",
                "system/Device.cruds?patient=Patient/p-ada",
                "system/Patient.cruds?_id=p-ada",
                "system/Binary.cruds?_id=b-ada",
                "system/Group.cruds?_id=g-ada",
                "system/Provenance.c system/Composition.rs?patient=Patient/p-ada system/List.rs"
                "?patient=Patient/p-ada",
            ]
        ),
        "",
    ),
}


def under(door: Door, name: str, **server: Any) -> Door:
    """Return the door of one of NARROW, of a server with these settings."""
    kind, scope, whose = NARROW[name]
    language = door.server.language
    parsed = parse_scopes(scope, language)
    assert parsed.refused == ()
    user = whose if kind == "patient" else ""
    policy = policy_of(Grant(kind, parsed.granted, patient=whose, fhir_user=user), language, AFTER)
    caller = Caller(name, policy, kind, name, patient=whose, fhir_user=user)
    return Door(replace(door.server, **server), caller)


# --- what is asked -------------------------------------------------------------------------------


def reads(type: str, id: str) -> Iterator[tuple[str, Ask]]:
    """Yield what reads or searches for an id."""
    name = f"{type}/{id}"
    found = {
        "read": Ask(404, "GET", name),
        "read if changed": Ask(404, "GET", name, None, {"if_none_match": 'W/"1"'}),
        "read if changed since": Ask(404, "GET", name, None, {"if_modified_since": AFTER}),
        "summary": Ask(404, "GET", f"{name}?_summary=text"),
        "vread 1": Ask(404, "GET", f"{name}/_history/1"),
        "vread 2": Ask(404, "GET", f"{name}/_history/2"),
        "vread 9": Ask(404, "GET", f"{name}/_history/9"),
        "vread if changed": Ask(404, "GET", f"{name}/_history/1", None, {"if_none_match": "*"}),
        "history": Ask(404, "GET", f"{name}/_history"),
        "history counted": Ask(404, "GET", f"{name}/_history?_count=0"),
        "history since": Ask(404, "GET", f"{name}/_history?_since=2020-01-01T00:00:00Z"),
        "search": Ask(200, "GET", f"{type}?_id={id}"),
        "search counted": Ask(200, "GET", f"{type}?_id={id}&_summary=count"),
        "search posted": Ask(200, "POST", f"{type}/_search?_id={id}"),
        "search of what refers": Ask(200, "GET", f"Observation?subject={name}"),
        "chain": Ask(200, "GET", f"Observation?subject:Patient._id={id}"),
        "has": Ask(200, "GET", f"Patient?_has:Observation:subject:_id={id}"),
        "filter": Ask(200, "GET", f'{type}?_filter=_id eq "{id}"'),
        "meta": Ask(404, "GET", f"{name}/$meta"),
        "meta of a version": Ask(404, "GET", f"{name}/_history/1/$meta"),
        "in a batch": Ask(200, "POST", "", batch(get(name), get(f"{name}/_history/1"))),
        "in a transaction": Ask(404, "POST", "", transaction(get(name))),
        "compartment": Ask(200, "GET", f"Patient/{id}/Observation"),
        "list": Ask(200, "GET", f"Observation?_list={id}"),
        "history of a list": Ask(200, "GET", f"Observation/_history?_list={id}"),
    }
    yield from found.items()
    if type == "Patient":
        yield "everything", Ask(404, "GET", f"{name}/$everything")
        yield "lastn", Ask(200, "GET", f"Observation/$lastn?patient={name}&category=laboratory")
    if type == "Observation":
        yield "document", Ask(422, "GET", f"Composition/c-{id}/$document")


def writes(type: str, id: str) -> Iterator[tuple[str, Ask]]:
    """Yield what changes or deletes an id."""
    name = f"{type}/{id}"
    own, other = of_type(type, id, "ada"), of_type(type, id, "bob")
    bare = {key: value for key, value in own.items() if key != "id"}
    for label, body in (("own", own), ("of another", other)):
        yield f"update, {label}", Ask(404, "PUT", name, body)
        yield f"conditional update, {label}", Ask(404, "PUT", f"{type}?_id={id}", body)
    for header in ("if_match", "if_none_match"):
        for tag in ('W/"1"', 'W/"2"', 'W/"9"', "*"):
            yield f"update {header} {tag}", Ask(0, "PUT", name, own, {header: tag})
            yield f"delete {header} {tag}", Ask(0, "DELETE", name, None, {header: tag})
    tagged = {"if_match": 'W/"1"'}
    yield "conditional update if_match", Ask(0, "PUT", f"{type}?_id={id}", own, tagged)
    yield "conditional update without an id", Ask(0, "PUT", f"{type}?_id={id}", bare)
    yield "conditional update by another criterion", Ask(404, "PUT", f"{type}?_tag=nothing", own)
    yield "update, minimal", Ask(404, "PUT", name, own, {"prefer": "minimal"})
    yield "update that is invalid", Ask(0, "PUT", name, {**own, "nothing": 1})
    yield "update, attested", Ask(404, "PUT", name, own, {"provenance": WHY})
    yield "delete", Ask(204, "DELETE", name)
    yield "delete, told", Ask(200, "DELETE", name, None, {"prefer": "OperationOutcome"})
    yield "delete, attested", Ask(204, "DELETE", name, None, {"provenance": WHY})
    yield "conditional delete", Ask(204, "DELETE", f"{type}?_id={id}")
    yield "conditional delete if_match", Ask(0, "DELETE", f"{type}?_id={id}", None, tagged)
    for kind, (form, patch) in PATCHES.items():
        said = {"content_type": kind}
        yield f"{form} patch", Ask(404, "PATCH", name, patch, said)
        yield f"{form} patch if_match", Ask(0, "PATCH", name, patch, {**said, **tagged})
        yield (
            f"{form} patch if_match 9",
            Ask(0, "PATCH", name, patch, {**said, "if_match": 'W/"9"'}),
        )
        yield f"conditional {form} patch", Ask(404, "PATCH", f"{type}?_id={id}", patch, said)
        yield f"broken {form} patch", Ask(0, "PATCH", name, [{"op": "nothing"}], said)
    yield "meta-add", Ask(404, "POST", f"{name}/$meta-add", LABEL)
    yield "meta-delete", Ask(404, "POST", f"{name}/$meta-delete", LABEL)
    yield "expunge", Ask(0, "POST", f"{name}/$expunge")
    yield "validate", Ask(0, "POST", f"{name}/$validate?mode=update", own)
    yield "validate a deletion", Ask(0, "POST", f"{name}/$validate?mode=delete")
    yield "create if none exists", Ask(0, "POST", type, bare, {"if_none_exist": f"_id={id}"})
    for label, bundle in (("batch", batch), ("transaction", transaction)):
        for what, asked in in_bundles(type, id, own):
            yield f"{what} in a {label}", Ask(0, "POST", "", bundle(asked))


def in_bundles(type: str, id: str, own: Body) -> Iterator[tuple[str, Body]]:
    """Yield entries of a Bundle about an id."""
    name = f"{type}/{id}"
    bare = {key: value for key, value in own.items() if key != "id"}
    yield "update", put(own)
    yield "update if_match", put(own, ifMatch='W/"1"')
    yield "update if_match 9", put(own, ifMatch='W/"9"')
    yield "update if_none_match", put(own, ifNoneMatch="*")
    yield "delete", delete(name)
    yield "delete if_match", delete(name, ifMatch='W/"1"')
    yield "conditional delete", delete(f"{type}?_id={id}")
    yield "conditional update", entry("PUT", f"{type}?_id={id}", own)
    yield "conditional create", post(bare, ifNoneExist=f"_id={id}")
    yield "history", get(f"{name}/_history")
    patch = {
        "resourceType": "Binary",
        "contentType": "application/merge-patch+json",
        "data": "e30=",
    }
    yield "patch", entry("PATCH", name, patch)


def refers(type: str, id: str) -> Iterator[tuple[str, Ask]]:
    """Yield what refers to an id from a resource of one's own."""
    name = f"{type}/{id}"
    own = laboratory(None, focus=[reference(name)])
    yield "create", Ask(0, "POST", "Observation", own)
    yield "create, told", Ask(0, "POST", "Observation", own, {"prefer": "OperationOutcome"})
    version = laboratory(None, focus=[reference(f"{name}/_history/1")])
    yield "create, of a version", Ask(0, "POST", "Observation", version)
    yield "update", Ask(0, "PUT", f"Observation/o-{id}", {**own, "id": f"o-{id}"})
    patch = [{"op": "add", "path": "/derivedFrom", "value": [reference(name)]}]
    kind = {"content_type": "application/json-patch+json"}
    yield "patch", Ask(0, "PATCH", f"Observation/o-{id}", patch, kind)
    yield "validate", Ask(0, "POST", "Observation/$validate?mode=create", own)
    for label, bundle in (("batch", batch), ("transaction", transaction)):
        yield f"in a {label}", Ask(0, "POST", "", bundle(post(own)))
    by_criteria = laboratory(None, focus=[reference(f"{type}?_id={id}")])
    yield "by criteria", Ask(412, "POST", "", transaction(post(by_criteria)))
    origin = resource("Provenance", json.loads(WHY), {"target": [about("ada"), reference(name)]})
    yield "provenance", Ask(0, "POST", "Provenance", origin)


# --- and what is answered ------------------------------------------------------------------------


Asking = Callable[[str, str], Iterator[tuple[str, Ask]]]


async def told_apart(door: Door, asking: Asking, type: str) -> dict[str, Any]:
    """Return by label the requests whose answers are not all alike, or not of the status."""
    requests = {id: dict(asking(type, id)) for id in UNSEEN}
    apart: dict[str, Any] = {}
    for label, asked in requests["u-never"].items():
        answers = {}
        for id in UNSEEN:
            one = requests[id][label]
            reply = await door.ask(one.method, one.url, one.body, **one.conditions)
            answers[id] = anonymous(reply, id)
        if len({repr(answer) for answer in answers.values()}) > 1:
            apart[label] = answers
        elif asked.status not in (0, answers["u-never"][0]) or answers["u-never"][0] >= 500:
            apart[label] = answers["u-never"]
    return apart


async def rows(door: Door) -> int:
    """Return the number of resources and of keys for what is only named."""
    statement = db.Statement("SELECT count(*) FROM resource", ())
    found = await door.server.database.read(lambda connection: connection.rows(statement, {}))
    return int(found[0][0])


@pytest.mark.parametrize("name", NARROW)
async def test_nothing_read_tells_the_hidden_from_what_never_was(door: Door, name: str) -> None:
    somebody = under(door, name)

    assert {type: await told_apart(somebody, reads, type) for type in TYPES} == {
        type: {} for type in TYPES
    }


@pytest.mark.parametrize("name", NARROW)
async def test_nothing_written_tells_the_hidden_from_what_never_was(door: Door, name: str) -> None:
    somebody = under(door, name)

    apart = {type: await told_apart(somebody, writes, type) for type in TYPES}

    # a patch of a Binary, a Task ... fits none of the three forms: only Observations have a status
    assert apart == {type: {} for type in TYPES}


@pytest.mark.parametrize("name", ["a patient", "a client of Ada's"])
@pytest.mark.parametrize("integrity", ["off", "warn", "enforce"])
async def test_no_reference_tells_the_hidden_from_what_never_was(
    door: Door, name: str, integrity: Literal["off", "warn", "enforce"]
) -> None:
    somebody = under(door, name, referential_integrity=integrity)

    assert {type: await told_apart(somebody, refers, type) for type in TYPES} == {
        type: {} for type in TYPES
    }


@pytest.mark.parametrize("integrity", ["warn", "enforce"])
async def test_what_is_hidden_keeps_nothing_from_being_deleted(
    door: Door, integrity: Literal["warn", "enforce"]
) -> None:
    await made(door, laboratory("o-need"), laboratory("o-free"))
    entries = [{"item": reference("Observation/o-need")}]
    listed = {"id": "l-need", "status": "current", "mode": "working", "entry": entries}
    await made(door, resource("List", {**listed, "subject": about("bob")}, {}))
    somebody = under(door, "a patient", referential_integrity=integrity)
    told = {"prefer": "OperationOutcome"}

    answers = [
        anonymous(await somebody.ask("DELETE", f"Observation/{id}", None, **told), id)
        for id in ("o-need", "o-free")
    ]

    assert answers[0] == answers[1]
    assert answers[0][0] == 200


@pytest.mark.parametrize("name", ["a patient"])
async def test_attempts_leave_the_hidden_as_it_was(door: Door, name: str) -> None:
    names = [f"{type}/{id}" for type in TYPES for id in ("u-other", "u-moved", "u-share")]
    before = {one: (await door.get(one)).body for one in names}
    keys = await rows(door)
    somebody = under(door, name)

    for type in TYPES:
        for id in UNSEEN:
            for label, asked in writes(type, id):
                if "create" in label or "without an id" in label:
                    continue
                await somebody.ask(asked.method, asked.url, asked.body, **asked.conditions)

    assert {one: (await door.get(one)).body for one in names} == before
    assert await rows(door) == keys  # not even a key was made for what was never there


async def test_what_one_sees_can_still_be_told_from_what_one_does_not(door: Door) -> None:
    """The questions would prove nothing if whoever asks could do nothing."""
    somebody = under(door, "a patient")

    shown = await somebody.get("Observation/o-ada")
    changed = await somebody.put(laboratory("o-ada", status="amended"))
    created = await somebody.ask("POST", "Observation", laboratory(None))
    deleted = await somebody.ask("DELETE", "Observation/o-ada")
    gone = await somebody.get("Observation/o-ada")

    statuses = [reply.status for reply in (shown, changed, created, deleted, gone)]
    assert statuses == [200, 200, 201, 204, 410]


async def test_whoever_sees_all_of_a_type_chooses_ids(door: Door) -> None:
    language = door.server.language
    granted = parse_scopes("system/Observation.cruds", language).granted
    policy = policy_of(Grant("system", granted), language, AFTER)
    client = Door(door.server, Caller("a client", policy))

    reply = await client.put(laboratory("u-never"))
    taken = await client.put(laboratory("u-other", status="amended"))

    assert (reply.status, taken.status) == (201, 200)


@pytest.mark.parametrize(
    ("scope", "method", "status"),
    [
        ("patient/Observation.rs", "PUT", 403),
        ("patient/Observation.rs", "DELETE", 403),
        ("patient/Observation.rs", "POST", 403),
        ("patient/Observation.cud", "GET", 403),
        ("patient/Observation.cu", "DELETE", 403),
        ("patient/Condition.cruds", "GET", 403),
    ],
)
@pytest.mark.parametrize("id", ["o-ada", "u-other", "u-never", "u-erase"])
async def test_a_right_that_one_has_not_is_403_whatever_there_is(
    door: Door, scope: str, method: str, status: int, id: str
) -> None:
    language = door.server.language
    granted = parse_scopes(scope, language).granted
    grant = Grant("patient", granted, patient="Patient/p-ada", fhir_user="Patient/p-ada")
    somebody = Door(door.server, Caller("ada", policy_of(grant, language, AFTER)))
    body = laboratory(id) if method in ("PUT", "POST") else None
    url = "Observation" if method == "POST" else f"Observation/{id}"

    reply = await somebody.ask(method, url, body)

    assert reply.status == status
    assert content(reply)["issue"][0]["code"] == "forbidden"
    assert id not in content(reply)["issue"][0]["diagnostics"]


# --- through HTTP, where headers are written ------------------------------------------------------

OVER_HTTP: list[tuple[str, str, Body | None, dict[str, str]]] = [
    ("GET", "/{}", None, {}),
    ("HEAD", "/{}", None, {}),
    ("GET", "/{}", None, {"If-None-Match": 'W/"1"'}),
    ("GET", "/{}", None, {"If-Modified-Since": "Mon, 02 Mar 2026 09:30:00 GMT"}),
    ("GET", "/{}", None, {"Accept": "application/fhir+xml"}),
    ("GET", "/{}/_history/1", None, {}),
    ("GET", "/{}/_history", None, {}),
    ("GET", "/{}?_format=xml&_pretty=true", None, {}),
    ("PUT", "/{}", {}, {"Prefer": "return=minimal"}),
    ("PUT", "/{}", {}, {"If-Match": 'W/"1"'}),
    ("PUT", "/{}", {}, {"If-None-Match": "*"}),
    ("PATCH", "/{}", {"status": "amended"}, {"Content-Type": "application/merge-patch+json"}),
    ("DELETE", "/{}", None, {}),
    ("DELETE", "/{}", None, {"If-Match": 'W/"1"'}),
    ("DELETE", "/{}", None, {"Prefer": "return=OperationOutcome"}),
    ("GET", "/{}/$meta", None, {}),
]
CHANGING = {"date", "x-request-id", "x-correlation-id"}


async def test_no_header_tells_the_hidden_from_what_never_was(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    for owner in ("ada", "bob"):
        await client.put(f"/Patient/p-{owner}", json=patient(id=f"p-{owner}"))
    for id in ("u-other", "u-erase"):
        await client.put(f"/Observation/{id}", json=laboratory(id, "bob"))
    await client.delete("/Observation/u-erase")
    header = await authorized(settings, "patient/*.cruds", "Patient/p-ada")

    def plain(reply: httpx.Response, id: str) -> tuple[Any, ...]:
        told = sorted((k, v) for k, v in reply.headers.items() if k not in CHANGING)
        return reply.status_code, repr(told).replace(id, "·" * 7), reply.text.replace(id, "·" * 7)

    apart = []
    for method, url, body, headers in OVER_HTTP:
        answers = []
        for id in ("u-other", "u-erase", "u-never"):
            sent = laboratory(id) if body == {} else body
            where = url.format(f"Observation/{id}")
            reply = await client.request(method, where, json=sent, headers={**headers, **header})
            answers.append(plain(reply, id))
        if len(set(answers)) > 1 or answers[0][0] not in (204, 200, 404, 412):
            apart.append((method, url, headers, answers))

    assert apart == []


async def test_an_answer_that_is_kept_is_not_there_for_anybody_else(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    await client.put("/Patient/p-ada", json=patient(id="p-ada"))
    header = await authorized(settings, "patient/*.rs", "Patient/p-ada")

    kept = await client.get("/Patient", headers={"Prefer": "respond-async"})
    place = kept.headers["Content-Location"]
    last = place.rsplit("/", 1)[1]
    never = place.replace(last, "x" * len(last))
    own = await client.get(place)
    others = [await client.get(url, headers=header) for url in (place, never)]
    dropped = [await client.delete(url, headers=header) for url in (place, never)]

    assert (kept.status_code, own.status_code) in [(202, 200), (202, 202)]
    for one, other in (others, dropped):
        assert one.status_code == other.status_code == 404
        assert one.text.replace(last, "") == other.text.replace("x" * len(last), "")
    assert (await client.get(place)).status_code in (200, 202)
