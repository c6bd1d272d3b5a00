"""The trail as AuditEvents: valid, one for each patient, for privacy officers alone."""

import base64
import json
from typing import Any

import httpx
import pytest
from fhir.resources.R4B.auditevent import AuditEvent

from app.config import Settings
from app.fhir import definitions
from app.fhir.audit import TYPE, security_event
from app.fhir.validation import Validator
from tests.audit.office import ADA, BOB, by
from tests.support.resources import Resource, batch, get, post, put, transaction

OFFICER = by("officer")


async def events(client: httpx.AsyncClient, query: str = "") -> list[Resource]:
    """Return the AuditEvents on the first page of a search by the privacy officer."""
    reply = await client.get(f"/AuditEvent{query}", headers=OFFICER)
    assert reply.status_code == 200, reply.text
    return [entry["resource"] for entry in reply.json().get("entry", [])]


def named(event: Resource) -> list[str]:
    """Return the resources that the entities of an AuditEvent name."""
    found = (entity.get("what", {}).get("reference") for entity in event.get("entity", ()))
    return [reference for reference in found if reference]


def query(event: Resource) -> str:
    """Return what an AuditEvent of a search says of its query."""
    (text,) = [entity["query"] for entity in event["entity"] if "query" in entity]
    return base64.b64decode(text).decode()


async def test_a_read_is_one_audit_event(clinic: httpx.AsyncClient) -> None:
    await clinic.get("/Observation/hers", headers={**by("nurse"), "X-Request-Id": "of-the-test"})

    (event,) = await events(clinic, "?agent=nurse")

    assert (event["action"], event["outcome"]) == ("R", "0")
    assert event["type"]["code"] == "rest"
    assert [one["code"] for one in event["subtype"]] == ["read"]
    assert named(event) == [ADA, "Observation/hers/_history/1"]
    person, client, server = event["agent"]
    assert person["who"] == {
        "reference": "Practitioner/ines",
        "identifier": {"value": "nurse"},
    }
    assert (person["requestor"], person["role"][0]["text"]) == (True, "of-tests")
    assert client["who"]["identifier"]["value"] == "app"
    assert not server["requestor"]
    assert event["meta"]["profile"] == [
        "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit.PatientRead"
    ]


async def test_what_is_about_two_patients_is_an_audit_event_of_each(
    clinic: httpx.AsyncClient,
) -> None:
    await clinic.get("/Observation", headers=by("nurse"))

    found = await events(clinic, "?agent=nurse")

    assert [named(event) for event in found] == [
        [ADA, "Observation/hers/_history/1"],
        [BOB, "Observation/his/_history/1"],
    ]
    assert len({event["id"] for event in found}) == 2


@pytest.mark.parametrize(
    ("method", "url", "body"),
    [
        ("GET", "/Observation?subject=Patient/ada,Patient/bob", None),
        ("GET", "/Observation?patient=ada,bob", None),
        ("GET", "/Patient?_id=ada,bob", None),
        ("GET", "/Patient?_id=ada,bob&_revinclude=Observation:subject", None),
        ("GET", "/Patient/ada/Group", None),
        ("GET", "/Patient/ada/$everything", None),
        ("GET", "/Group/roster", None),
        ("GET", "/Observation?_has:Nothing:subject:_id=bob", None),
        ("GET", "/Observation?subject:Patient._id=ada,bob", None),
        ("GET", "/_history", None),
        ("DELETE", "/Group/roster", None),
        (
            "POST",
            "/",
            transaction(get("Observation/hers"), get("Observation/his"), get("Patient?_id=bob")),
        ),
    ],
)
async def test_an_audit_event_about_one_patient_names_no_other(
    clinic: httpx.AsyncClient, method: str, url: str, body: Resource | None
) -> None:
    await clinic.request(method, url, json=body)

    found = await events(clinic, "?agent=tests&_count=1000")

    others = {ADA: (BOB, "bob", "his"), BOB: (ADA, "ada", "hers")}
    for event in found:
        patient = next((name for name in named(event) if name in others), "")
        if patient:
            texts = [json.dumps(event), *(query(event) for e in event["entity"] if "query" in e)]
            words = {word for text in texts for word in _words(text)}
            assert not words & {*others[patient]}, texts


def _words(text: str) -> set[str]:
    for sign in '/,=:&?" {}[]':
        text = text.replace(sign, " ")
    return {*text.split()}


async def test_a_query_about_one_patient_is_told_as_far_as_it_names_nobody_else(
    clinic: httpx.AsyncClient,
) -> None:
    await clinic.get("/Observation?subject=Patient/ada,Patient/x&date=2026", headers=by("nurse"))
    await clinic.get("/Patient?family=marsh&_count=1", headers=by("nurse"))

    last, first = await events(clinic, "?agent=nurse")

    assert query(first).endswith("/Observation?subject=Patient/ada,-&date=2026")
    assert query(last).endswith("/Patient?family=marsh&_count=1")


async def test_every_kind_of_audit_event_is_valid(
    clinic: httpx.AsyncClient, settings: Settings
) -> None:
    urn = "urn:uuid:0f2b9d5a-8f61-4f0c-9f3e-7c1f0b8f2a11"
    await clinic.get("/Observation?code:in=nothing", headers=by("nurse"))
    await clinic.get("/Nothing/1", headers=by("nobody"))
    await clinic.get("/Patient/ada/$everything", headers=by("nurse"))
    await clinic.get("/Observation", headers={"Prefer": "respond-async"})
    bundle = [post({"resourceType": "Patient"}, urn), get("Patient/ada/_history")]
    await clinic.post("/", json=transaction(*bundle))
    await clinic.post("/", json=batch(get("Nothing"), put({"resourceType": "Patient", "id": "x"})))
    await clinic.delete("/Patient/x")
    server = clinic._transport.app.state.server  # type: ignore[attr-defined]
    noted = [
        security_event(server.now(), "nurse", code, 4, client="app", scope="user/*.rs", family="f")
        for code in ("sign-in", "sign-out", "lock-out", "password", "token", "token-refused")
    ]
    more = ("revoke", "introspect", "launch", "consent", "user", "client", "key")
    await server.trail.note(*noted, *(security_event(server.now(), "", code, 0) for code in more))

    found = await events(clinic, "?_count=1000")

    validator = Validator(definitions.load())
    assert len(found) > 25
    for event in found:
        assert validator.validate(event) == [], event
        AuditEvent.model_validate(event)
    codes = {
        (event["type"]["code"], one["code"]) for event in found for one in event.get("subtype", ())
    }
    assert {("110114", "110122"), ("110114", "110123"), ("110113", "110137")} <= codes


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        ("?agent=nurse", 4),
        ("?agent=Practitioner/ines", 4),
        ("?agent=nurse&patient=ada", 2),
        ("?agent=nurse&patient=Patient/bob", 1),
        ("?agent=nurse&patient=Patient/bob,Patient/ada", 3),
        ("?agent=nurse&patient=nobody", 0),
        ("?agent=nurse&entity=Observation/hers", 2),
        ("?agent=nurse&entity=Patient/bob", 1),
        ("?agent=nurse&entity=Observation/nothing", 1),
        ("?agent=nurse&action=R", 2),
        ("?agent=nurse&action=E", 2),
        ("?agent=nurse&outcome=4", 1),
        ("?agent=nurse&outcome=0,4", 4),
        ("?agent=nurse&type=rest", 4),
        ("?agent=nurse&type=http://dicom.nema.org/resources/ontology/DCM|110114", 0),
        ("?agent=nurse&subtype=read", 2),
        ("?agent=nurse&subtype=http://hl7.org/fhir/restful-interaction|search-type", 2),
        ("?agent=nurse&date=gt2020", 4),
        ("?agent=nurse&date=lt2020", 0),
        ("?agent=nurse&date=ge2020&date=le2100", 4),
    ],
)
async def test_audit_events_are_searched(clinic: httpx.AsyncClient, asked: str, count: int) -> None:
    await clinic.get("/Observation/hers", headers=by("nurse"))
    await clinic.get("/Observation", headers=by("nurse"))
    await clinic.get("/Observation/nothing", headers=by("nurse"))

    found = await events(clinic, asked)

    assert len(found) == count


async def test_pages_follow_each_other_also_inside_a_row(clinic: httpx.AsyncClient) -> None:
    for _ in range(3):
        await clinic.get("/Observation", headers=by("nurse"))
    for order in ("-date", "date"):
        whole = [event["id"] for event in await events(clinic, f"?agent=nurse&_sort={order}")]

        url, walked = f"/AuditEvent?agent=nurse&_count=1&_sort={order}", []
        while url:
            page = (await clinic.get(url, headers=OFFICER)).json()
            walked += [entry["resource"]["id"] for entry in page.get("entry", [])]
            url = next((one["url"] for one in page["link"] if one["relation"] == "next"), "")

        assert walked == whole
        assert len({*whole}) == 6


async def test_one_audit_event_is_read_by_its_id(clinic: httpx.AsyncClient) -> None:
    await clinic.get("/Observation", headers=by("nurse"))
    (_, second) = await events(clinic, "?agent=nurse")

    reply = await clinic.get(f"/AuditEvent/{second['id']}", headers=OFFICER)

    assert (reply.status_code, reply.json()) == (200, second)


@pytest.mark.parametrize("id", ["1", "1-1", "x", "9" * 30, "nothing-1"])
async def test_an_unknown_audit_event_is_not_found(clinic: httpx.AsyncClient, id: str) -> None:
    assert (await clinic.get(f"/AuditEvent/{id}", headers=OFFICER)).status_code == 404


@pytest.mark.parametrize(
    "asked",
    [
        *("_id=1", "agent-name=x", "date=ap2020", "date=tomorrow", "agent:identifier=x"),
        *("_include=AuditEvent:patient", "_summary=true", "_elements=id", "_total=accurate"),
        *("patient.name=x", "_sort=agent", "_has:Provenance:target:_id=1", "_filter=id eq 1"),
        *("_cursor=x", "_count=x", "entity=x"),
    ],
)
async def test_all_else_is_refused(clinic: httpx.AsyncClient, asked: str) -> None:
    reply = await clinic.get(f"/AuditEvent?{asked}", headers=OFFICER)

    assert reply.status_code == 400


async def test_a_refused_parameter_is_answered_with_those_that_there_are(
    clinic: httpx.AsyncClient,
) -> None:
    reply = await clinic.get("/AuditEvent?site=x", headers=OFFICER)

    known = "action, agent, date, entity, outcome, patient, subtype, type, _count, _sort"
    assert reply.json()["issue"][0]["diagnostics"].endswith(known)


@pytest.mark.parametrize("name", ["nurse", "root", "ada", "deaf"])
@pytest.mark.parametrize("url", ["/AuditEvent", "/AuditEvent/1"])
async def test_nobody_else_sees_the_trail(clinic: httpx.AsyncClient, name: str, url: str) -> None:
    assert (await clinic.get(url, headers=by(name))).status_code == 403


async def test_a_client_that_may_do_everything_does_not_see_the_trail(
    clinic: httpx.AsyncClient,
) -> None:
    assert (await clinic.get("/AuditEvent")).status_code == 403


EVENT: Resource = {"resourceType": TYPE, "id": "1"}


@pytest.mark.parametrize("name", ["officer", "nurse", "tests"])
@pytest.mark.parametrize(
    ("method", "url"),
    [
        *(("POST", "/AuditEvent"), ("PUT", "/AuditEvent/1"), ("DELETE", "/AuditEvent/1")),
        *(("PATCH", "/AuditEvent/1"), ("PUT", "/AuditEvent?agent=x")),
        ("DELETE", "/AuditEvent?agent=x"),
    ],
)
async def test_nobody_writes_an_audit_event(
    clinic: httpx.AsyncClient, name: str, method: str, url: str
) -> None:
    headers: dict[str, str] = {} if name == "tests" else by(name)
    if method == "PATCH":
        headers["Content-Type"] = "application/json-patch+json"

    reply = await clinic.request(method, url, json=EVENT, headers=headers)

    assert (reply.status_code, reply.headers["Allow"]) == (405, "GET, HEAD, OPTIONS, POST")


async def test_nobody_writes_an_audit_event_in_a_bundle(clinic: httpx.AsyncClient) -> None:
    whole = await clinic.post("/", json=transaction(put(EVENT)))
    single = await clinic.post("/", json=batch(put(EVENT), post(EVENT)))

    assert whole.status_code == 405
    statuses = [entry["response"]["status"][:3] for entry in single.json()["entry"]]
    assert statuses == ["405", "405"]


@pytest.mark.parametrize(
    "url",
    [
        *("/AuditEvent/_history", "/AuditEvent/1/_history", "/AuditEvent/1/_history/1"),
        "/Patient/ada/AuditEvent",
    ],
)
async def test_audit_events_have_no_history_and_are_in_no_compartment(
    clinic: httpx.AsyncClient, url: str
) -> None:
    assert (await clinic.get(url, headers=OFFICER)).status_code == 400


@pytest.mark.parametrize(
    "url",
    [
        *("/?_type=AuditEvent", "/Patient?_id=ada&_revinclude=AuditEvent:patient", "/_history"),
        *(
            "/Patient/ada/$everything",
            "/Patient/ada/*",
            "/Patient?_has:AuditEvent:patient:action=R",
        ),
    ],
)
async def test_no_other_way_leads_to_the_trail(clinic: httpx.AsyncClient, url: str) -> None:
    reply = await clinic.get(url)

    assert '"resourceType":"AuditEvent"' not in reply.text


async def test_reading_the_trail_is_in_the_trail(clinic: httpx.AsyncClient) -> None:
    await clinic.get("/Observation/hers", headers=by("nurse"))
    (seen,) = await events(clinic, "?agent=nurse")

    (event,) = await events(clinic, "?agent=officer")

    assert named(event) == [ADA, f"AuditEvent/{seen['id']}/_history/1"]


async def test_the_capability_statement_says_so(clinic: httpx.AsyncClient) -> None:
    statement: dict[str, Any] = (await clinic.get("/metadata")).json()
    (rest,) = statement["rest"]
    (found,) = [one for one in rest["resource"] if one["type"] == TYPE]

    assert [one["code"] for one in found["interaction"]] == ["read", "search-type"]
    names = [one["name"] for one in found["searchParam"]]
    assert names == [
        *("action", "agent", "date", "entity", "outcome", "patient", "subtype", "type")
    ]
    revincludes = [name for one in rest["resource"] for name in one.get("searchRevInclude", ())]
    assert not [name for name in revincludes if name.startswith(TYPE)]
