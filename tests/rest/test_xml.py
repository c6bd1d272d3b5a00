"""The API in XML: https://hl7.org/fhir/R4/xml.html. The format itself: tests/fhir/test_xml.py."""

import json
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.fhir.definitions import load
from app.fhir.wire import encode
from app.fhir.xml import Xml
from tests.conformance.official import exact
from tests.support.replies import ids, issues, places, resources
from tests.support.resources import get, observation, patient, post, reference, transaction

XML = "application/fhir+xml"
IN_XML = {"Accept": XML, "Content-Type": XML}
TO_READ = {"Accept": XML}
NAMES = {"f": "http://hl7.org/fhir"}
XHTML = "http://www.w3.org/1999/xhtml"

PATIENT = f"""<?xml version="1.0" encoding="UTF-8"?>
<Patient xmlns="http://hl7.org/fhir">
  <!-- of the morning group -->
  <id value="a"/>
  <text><status value="generated"/><div xmlns="{XHTML}">Ada <b>Marsh</b>&#160;</div></text>
  <extension url="https://example.org/weight"><valueDecimal value="61.50"/></extension>
  <active value="true"/>
  <name id="n"><family value="Marsh"/><given value="Ada &amp; &quot;A&quot;&#10;"/></name>
  <gender value="female"/>
  <birthDate value="1985-04-12"/>
</Patient>"""
AS_JSON = {
    "resourceType": "Patient",
    "id": "a",
    "text": {
        "status": "generated",
        "div": f'<div xmlns="{XHTML}">Ada <b>Marsh</b>&#160;</div>',
    },
    "extension": [{"url": "https://example.org/weight", "valueDecimal": 61.5}],
    "active": True,
    "name": [{"id": "n", "family": "Marsh", "given": ['Ada & "A"\n']}],
    "gender": "female",
    "birthDate": "1985-04-12",
}


def root(reply: httpx.Response) -> ElementTree.Element:
    """Return the root element of an answer, which must be in XML."""
    assert reply.headers["Content-Type"].split(";")[0] == XML, reply.text
    return ElementTree.fromstring(reply.content)


def values(reply: httpx.Response, path: str) -> list[str | None]:
    """Return the values of the elements at a path: `f:entry/f:response/f:status`."""
    return [found.get("value") for found in root(reply).findall(path, NAMES)]


def as_xml(resource: dict[str, Any]) -> bytes:
    """Return a resource in XML."""
    return Xml(load()).write(encode(resource))


async def test_a_resource_that_came_in_xml_is_the_one_that_came_in_json(
    client: httpx.AsyncClient,
) -> None:
    reply = await client.put("/Patient/a", content=PATIENT, headers=IN_XML)
    read = await client.get("/Patient/a")

    assert reply.status_code == 201
    assert values(reply, "f:name/f:family") == ["Marsh"]
    assert {**read.json(), "meta": None} == {**AS_JSON, "meta": None}
    assert b'"valueDecimal":61.50' in read.content


async def test_a_resource_is_read_in_either_format(client: httpx.AsyncClient) -> None:
    created = await client.post("/Patient", content=PATIENT, headers=IN_XML)
    url = created.headers["Location"]

    read = await client.get(url, headers=TO_READ)
    bare = await client.get(url.partition("/_history")[0], headers=TO_READ)
    asked = await client.get(url + "?_format=xml")

    assert created.status_code == 201
    assert read.content == bare.content == asked.content == created.content
    assert f'<div xmlns="{XHTML}">Ada <b>Marsh</b>&#160;</div>'.encode() in read.content
    assert b'<valueDecimal value="61.50"/>' in read.content
    assert values(read, "f:meta/f:versionId") == ["1"]


async def test_what_is_read_in_xml_can_be_put_in_xml(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/a", content=PATIENT, headers=IN_XML)
    before = await client.get("/Patient/a", headers=TO_READ)

    changed = before.content.replace(b"female", b"other")
    reply = await client.put("/Patient/a", content=changed, headers=IN_XML)
    after = (await client.get("/Patient/a")).json()

    assert (reply.status_code, after["meta"]["versionId"]) == (200, "2")
    assert {**after, "meta": None} == {**AS_JSON, "meta": None, "gender": "other"}


async def test_searches_and_histories_are_bundles_in_xml(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/a", content=PATIENT, headers=IN_XML)
    await client.put("/Patient/b", json=patient(id="b"))

    found = await client.get("/Patient?name=marsh&_sort=_id", headers=TO_READ)
    history = await client.get("/Patient/a/_history", headers=TO_READ)

    assert root(found).tag == root(history).tag == "{http://hl7.org/fhir}Bundle"
    assert values(found, "f:total") == ["2"]
    assert values(found, "f:entry/f:resource/f:Patient/f:id") == ["a", "b"]
    assert values(found, "f:entry/f:search/f:mode") == ["match", "match"]
    assert values(history, "f:entry/f:resource/f:Patient/f:id") == ["a"]


async def test_pages_follow_each_other_in_xml(client: httpx.AsyncClient) -> None:
    for id in "abc":
        await client.put(f"/Patient/{id}", json=patient(id=id))

    first = await client.get("/Patient?_sort=_id&_count=2", headers=TO_READ)
    links = {
        link.find("f:relation", NAMES).get("value"): link.find("f:url", NAMES).get("value")  # type: ignore[union-attr]
        for link in root(first).findall("f:link", NAMES)
    }
    second = await client.get(str(links["next"]), headers=TO_READ)

    assert values(second, "f:entry/f:resource/f:Patient/f:id") == ["c"]


async def test_a_transaction_in_xml_is_answered_in_xml(client: httpx.AsyncClient) -> None:
    urn = "urn:uuid:0f2b9d5a-8f61-4f0c-9f3e-7c1f0b8f2a11"
    bundle = transaction(
        post(patient(), urn), post(observation(subject=reference(urn))), get("Patient?name=marsh")
    )

    reply = await client.post("/", content=as_xml(bundle), headers=IN_XML)
    (stored,) = resources(await client.get("/Observation"))

    statuses = values(reply, "f:entry/f:response/f:status")
    assert [str(status)[:3] for status in statuses] == ["201", "201", "200"]
    assert values(reply, "f:entry/f:resource/f:Bundle/f:total") == ["1"]
    assert stored["subject"]["reference"].startswith("Patient/")


async def test_a_batch_in_xml_says_in_xml_what_is_wrong(client: httpx.AsyncClient) -> None:
    bundle = {**transaction(get("Patient/nobody")), "type": "batch"}

    reply = await client.post("/", content=as_xml(bundle), headers=IN_XML)

    outcome = "f:entry/f:response/f:outcome/f:OperationOutcome/f:issue/f:code"
    assert values(reply, outcome) == ["not-found"]


async def test_a_fhirpath_patch_may_come_in_xml(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/a", json=patient(id="a"))
    parts = [
        {"name": "type", "valueCode": "replace"},
        {"name": "path", "valueString": "Patient.birthDate"},
        {"name": "value", "valueDate": "1985-04-13"},
    ]
    patch = {"resourceType": "Parameters", "parameter": [{"name": "operation", "part": parts}]}

    reply = await client.patch("/Patient/a", content=as_xml(patch), headers=IN_XML)

    assert reply.status_code == 200, reply.text
    assert values(reply, "f:birthDate") == ["1985-04-13"]


async def test_an_operation_takes_and_gives_xml(client: httpx.AsyncClient) -> None:
    body = PATIENT.replace("female", "f")

    reply = await client.post("/Patient/$validate", content=body, headers=IN_XML)

    assert reply.status_code == 200
    assert values(reply, "f:issue/f:expression") == ["Patient.gender"]


async def test_the_capability_statement_is_there_in_xml_and_names_the_format(
    client: httpx.AsyncClient,
) -> None:
    reply = await client.get("/metadata", headers=TO_READ)

    assert XML in values(reply, "f:format")


async def test_validation_names_the_places_of_what_came_in_xml(client: httpx.AsyncClient) -> None:
    body = PATIENT.replace("female", "f").replace("1985-04-12", "1985-13-12")

    reply = await client.put(
        "/Patient/a", content=body, headers={"Content-Type": XML, "Accept": "application/fhir+json"}
    )

    assert reply.status_code == 422
    assert places(reply) == ["Patient.gender", "Patient.birthDate"]


async def test_a_refusal_in_xml_is_an_operation_outcome(client: httpx.AsyncClient) -> None:
    reply = await client.put("/Patient/a", content="<Patient/>", headers=IN_XML)

    assert reply.status_code == 400
    assert root(reply).tag == "{http://hl7.org/fhir}OperationOutcome"
    assert values(reply, "f:issue/f:diagnostics") == [
        "Patient must be in the namespace http://hl7.org/fhir (line 1)"
    ]


WRONG = {
    "": "The body is not well-formed XML: no element found at line 1 column 1",
    "{}": "The body is not well-formed XML: not well-formed (invalid token) at line 1 column 1",
    PATIENT.replace("<active", "<foo/><active"): "Patient has no element foo (line 7)",
    PATIENT.replace('value="true"', ""): "Must have a value, or extensions (line 7)",
    PATIENT.replace("</Patient>", "<active value='true'/></Patient>"): (
        "active must come before birthDate (line 11)"
    ),
}


@pytest.mark.parametrize(("body", "text"), WRONG.items())
async def test_what_is_no_resource_in_xml_is_400_and_changes_nothing(
    client: httpx.AsyncClient, body: str, text: str
) -> None:
    reply = await client.put("/Patient/a", content=body, headers={"Content-Type": XML})

    assert reply.status_code == 400
    assert issues(reply) == [("structure", text)]
    assert ids(await client.get("/Patient")) == []


ENTITIES = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(30))
DOCUMENT_TYPES = {
    "a bomb": f'<!DOCTYPE Patient [<!ENTITY e0 "aaaaaaaaaa">{ENTITIES}]>',
    "a file": '<!DOCTYPE Patient [<!ENTITY e30 SYSTEM "file:///etc/hostname">]>',
    "an address": '<!DOCTYPE Patient [<!ENTITY e30 SYSTEM "http://127.0.0.1:9/">]>',
    "an external subset": '<!DOCTYPE Patient SYSTEM "http://127.0.0.1:9/a.dtd">',
}


@pytest.mark.parametrize("what", DOCUMENT_TYPES)
async def test_no_entity_is_expanded_or_fetched(client: httpx.AsyncClient, what: str) -> None:
    content = PATIENT.partition("?>")[2].replace("Marsh", "&e30;")

    reply = await client.put(
        "/Patient/a", content=DOCUMENT_TYPES[what] + content, headers={"Content-Type": XML}
    )

    assert reply.status_code == 400
    assert issues(reply) == [
        ("structure", "The XML must not have a document type or entities (line 1)")
    ]


UNFIT = ["\0", "\x0b", "\x1f", "\ufffe", "\uffff"]


@pytest.mark.parametrize("character", UNFIT)
async def test_a_text_that_xml_cannot_hold_keeps_no_page_from_being_read(
    client: httpx.AsyncClient, character: str
) -> None:
    await client.put("/Patient/a", json=patient(id="a", name=[{"family": f"a{character}b"}]))

    found = await client.get("/Patient", headers=TO_READ)

    assert found.status_code == 200


async def test_an_xml_body_is_limited_as_one_in_json_is(client: httpx.AsyncClient) -> None:
    body = PATIENT.replace("</Patient>", " " * 20_000_000 + "</Patient>")

    reply = await client.put("/Patient/a", content=body, headers=IN_XML)

    assert reply.status_code == 413


SEEDS = [
    PATIENT.encode(),
    as_xml(observation(id="a", component=[{"code": {"text": "b"}, "valueInteger": 1}])),
    as_xml(
        {"resourceType": "Basic", "id": "a", "code": {"text": "b"}, "contained": [patient(id="p")]}
    ),
]
FRAGMENTS = st.binary(max_size=3) | st.sampled_from(
    [b"<", b"/>", b"</", b">", b'"', b"&", b"&#9;", b"&lt;", b"<!-- -->", b"<![CDATA[ ]]>", b"]]>",
     b"<?a?>", b"<!DOCTYPE a>", b' xmlns="urn:x"', b' xmlns=""', b' xmlns:f="http://hl7.org/fhir"',
     b"f:", b"<id value='b'/>", b"<active/>", b' value="1"', b' id="i"', b"\xef\xbb\xbf", b"\0",
     b"\xff", b"1e999", b"9" * 5000, b"<extension url='u'>", b"</extension>", b"&#xFFFE;"]
)  # fmt: skip


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """Return a resource in XML in which some places are cut or overwritten."""
    raw = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(1, 2))):
        start = draw(st.integers(0, len(raw)))
        length = draw(st.sampled_from([0, 0, 1, 3, 8]))
        raw = raw[:start] + draw(FRAGMENTS) + raw[start + length :]
    return raw


# The client belongs to all examples of a test: they share one database, as requests do
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mangled())
async def test_mangled_xml_is_accepted_or_refused(client: httpx.AsyncClient, raw: bytes) -> None:
    type = next(
        name for name in ("Patient", "Observation", "Basic") if name.encode() in raw[:90] + b"Basic"
    )

    reply = await client.post(f"/{type}", content=raw, headers={"Content-Type": XML})

    if reply.status_code == 201:
        read = await client.get(reply.headers["Location"], headers=TO_READ)
        again = exact(Xml(load()).read(read.content))
        assert again == exact((await client.get(reply.headers["Location"])).content)
    else:
        assert reply.status_code in (400, 422), reply.text
        assert json.loads(reply.content)["issue"]
