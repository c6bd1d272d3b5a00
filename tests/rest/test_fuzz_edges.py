"""Whatever is sent as a patch, as XML, in a URL or in a header: no failure of the server."""

import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rest.test_fuzz import FEW, FRAGMENTS, JSON, REFUSED, SEEDS, TEXT, quoted
from tests.support.replies import outcome
from tests.support.resources import Resource, patient

XML = "application/fhir+xml"
JSON_PATCH = "application/json-patch+json"
PATCHES = [JSON_PATCH, "application/merge-patch+json", "application/json", "application/fhir+json"]

POINTERS = st.sampled_from(
    ["", "/", "/id", "/name", "/name/0", "/name/-", "/name/0/given/0", "/name/0/given/-", "/name/9",
     "/meta", "/meta/versionId", "/identifier/0/system", "/birthDate", "/_birthDate",
     "/contained/0", "/gender", "/a~1b", "/a~2", "name", "/name/00", "/extension/0/valueString",
     "/multipleBirthInteger"]
)  # fmt: skip
OPERATIONS = st.fixed_dictionaries(
    {"op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test", "x"])},
    optional={"path": POINTERS | JSON, "from": POINTERS | JSON, "value": JSON},
)
PATHS = st.sampled_from(
    ["Patient", "Patient.name", "Patient.name[0]", "Patient.name.given", "Patient.birthDate",
     "name", "Patient.name.where(family = 'Marsh')", "Patient.identifier.first()",
     "Patient.contained", "Patient.multipleBirth", "Patient.extension('u')",
     "Patient.name.given[1]", "%resource", "$this", "Patient.name |", "1 + 1",
     "Patient.descendants()", "Patient.name.repeat(given)", "''", "Patient.x"]
)  # fmt: skip
VALUES = st.sampled_from(
    [
        {"valueString": "x"}, {"valueCode": "male"}, {"valueDate": "1990"}, {"valueInteger": 1},
        {"valueBoolean": False}, {"valueHumanName": {"family": "Vale"}}, {"valueDecimal": 1.50},
        {"part": [{"name": "family", "valueString": "Vale"}]}, {"part": []}, {},
        {"resource": {"resourceType": "Basic"}}, {"valueIdentifier": {"value": "1"}},
    ]
)  # fmt: skip
PARTS = st.one_of(
    st.sampled_from(
        [
            {"name": "type", "valueCode": one}
            for one in ("add", "insert", "delete", "replace", "move")
        ]
    ),
    st.builds(lambda path: {"name": "path", "valueString": path}, PATHS | TEXT),
    st.builds(
        lambda name: {"name": "name", "valueString": name},
        st.sampled_from(["given", "name", "birthDate", "value", "contained", "id", "x", "_given"]),
    ),
    st.builds(lambda value: {"name": "value", **value}, VALUES),
    st.builds(
        lambda name, number: {"name": name, "valueInteger": number},
        st.sampled_from(["index", "source", "destination"]),
        st.integers(-2, 3) | st.just(2**40),
    ),
    JSON,
)
FHIRPATH = st.builds(
    lambda operations: {
        "resourceType": "Parameters",
        "parameter": [{"name": "operation", "part": parts} for parts in operations],
    },
    st.lists(st.lists(PARTS, max_size=5), max_size=2),
)
BODIES = st.lists(OPERATIONS | JSON, max_size=3) | FHIRPATH | JSON


async def answered(client: httpx.AsyncClient, method: str, url: str, **asked: Any) -> Any:
    """Return the reply; it is a resource, and a refusal says why."""
    reply = await client.request(method, url, **asked)
    assert reply.status_code < 500, reply.text
    if reply.status_code >= 400:
        assert reply.status_code in {*REFUSED, 406, 410, 414, 415, 431}
    return reply


@FEW
@given(content_type=st.sampled_from(PATCHES), body=BODIES)
async def test_any_patch_is_performed_or_refused_and_leaves_what_is_valid(
    client: httpx.AsyncClient, content_type: str, body: Any
) -> None:
    await client.put("/Patient/a", json={**SEEDS[0], "id": "a"})

    reply = await answered(
        client,
        "PATCH",
        "/Patient/a",
        content=json.dumps(body),
        headers={"Content-Type": content_type},
    )

    read = await client.get("/Patient/a")
    again = await client.put("/Patient/a", content=read.content)
    assert again.status_code == 200, again.text
    assert read.json()["id"] == "a"
    if reply.status_code == 200:
        assert reply.content == read.content


@pytest.fixture
async def in_xml(client: httpx.AsyncClient) -> list[tuple[str, bytes]]:
    """Type and XML of some resources."""
    found = []
    for seed in SEEDS:
        made = await client.post(f"/{seed['resourceType']}", json=seed)
        read = await client.get(made.headers["Location"], headers={"Accept": XML})
        assert read.headers["Content-Type"].startswith(XML)
        found.append((seed["resourceType"], read.content))
    return found


MARKUP = FRAGMENTS | st.sampled_from(
    [b"<", b">", b"/>", b"</", b"&", b"&lt;", b"&x;", b"&#0;", b"&#x110000;", b"<!--", b"-->",
     b"]]>", b"<![CDATA[", b"<?xml version='1.0'?>", b"<!DOCTYPE a [<!ENTITY x 'y'>]>",
     b" value=''", b" id='x'", b"<name/>", b"<extension url='u'/>", b"<x:y/>", b" xmlns:x='urn:x'",
     b"xmlns=''", b"<?p i?>", b"<contained><Patient/></contained>",
     b"<div xmlns='http://www.w3.org/1999/xhtml'/>", b"\xfe\xff"]
)  # fmt: skip


@FEW
@given(data=st.data())
async def test_mangled_xml_is_accepted_or_refused(
    client: httpx.AsyncClient, in_xml: list[tuple[str, bytes]], data: st.DataObject
) -> None:
    type, raw = data.draw(st.sampled_from(in_xml))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(raw)))
        length = data.draw(st.integers(0, 6))
        raw = raw[:start] + data.draw(MARKUP) + raw[start + length :]

    reply = await answered(
        client, "POST", f"/{type}", content=raw, headers={"Content-Type": XML, "Accept": XML}
    )

    if reply.status_code == 201:
        read = await client.get(reply.headers["Location"], headers={"Accept": XML})
        again = await client.put(
            read.headers["Content-Location"].split("/_history")[0],
            content=read.content,
            headers={"Content-Type": XML},
        )
        assert (again.status_code, again.headers["ETag"]) == (200, 'W/"1"'), again.text


SEGMENTS = st.sampled_from(
    ["Patient", "Observation", "a", "nobody", "_history", "_search", "1", "2", "0", "metadata", "*",
     "$validate", "$meta", "$everything", "$nothing", "$", "_", "..", ".", "%2e%2e", "%00", "%",
     "%zz", "a%2Fb", "Patient%3Fname=x", ";", "Nothing", "patient", "x" * 65, "x" * 9_000]
)  # fmt: skip
NAMES = st.sampled_from(
    ["_count", "_since", "_at", "_list", "_format", "_pretty", "_summary", "_elements", "_sort",
     "_include", "_revinclude", "_total", "_type", "_cursor", "_has:Observation:patient:code",
     "name", "_filter", "start", "end", "_id", "identifier", "_explain", "_contained", "_query",
     "_score"]
)  # fmt: skip


@FEW
@given(
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]),
    segments=st.lists(SEGMENTS | TEXT.map(quoted), max_size=5),
    pairs=st.lists(st.tuples(NAMES, TEXT.map(quoted)), max_size=3),
)
async def test_any_address_is_answered_or_refused(
    client: httpx.AsyncClient, method: str, segments: list[str], pairs: list[tuple[str, str]]
) -> None:
    await client.put("/Patient/a", json=patient(id="a"))
    query = "&".join(f"{name}={value}" for name, value in pairs)
    path = "/".join(["/fhir", *segments])
    url = httpx.URL("http://milepost.test").copy_with(raw_path=f"{path}?{query}".encode())

    reply = await client.request(method, url, content=b"{}" if method in ("POST", "PUT") else b"")

    assert reply.status_code < 500, reply.text


HEADERS: dict[str, list[str]] = {
    "Accept": ["*/*", "text/html", "application/fhir+xml;q=0.1, */*;q=0", ";;;",
               "application/json;q=x"],
    "Accept-Encoding": ["gzip", "gzip;q=0", "br", "*", "identity;q=0"],
    "Accept-Charset": ["utf-8", "latin-1"],
    "Content-Type": ["text/plain", "application/fhir+json; charset=latin-1", "application/fhir+xml",
                     "multipart/form-data; boundary=x", "", ";",
                     "application/json; fhirVersion=3.0"],
    "Content-Encoding": ["gzip", "br", "identity", "gzip, gzip"],
    "If-Match": ['W/"1"', '"1"', "*", "1", "W/", '"', 'W/"99999999999999999999"', 'W/"1", W/"2"'],
    "If-None-Match": ['W/"1"', "*", "x", '"'],
    "If-Modified-Since": ["Wed, 21 Oct 2015 07:28:00 GMT", "yesterday",
                          "Wed, 99 Oct 99999 07:28:00 GMT"],
    "If-None-Exist": ["_id=a", "name=Marsh", "x=y", "", "_count=1", "%zz", "?", "name",
                      "Patient?name=x"],
    "Prefer": ["return=minimal", "return=OperationOutcome", "handling=lenient", "respond-async",
               "x=", "=", ";", "return=representation; handling=strict"],
    "X-Provenance": ["{}", "x", '{"resourceType":"Provenance"}', "[]", "é"],
    "X-Request-Id": ["1", "x" * 300, "a b"],
    "X-Security-Context": ["Patient/a", "x"],
    "Origin": ["https://example.org", "null", "x"],
    "Range": ["bytes=0-1", "x"],
    "Expect": ["x"],
}  # fmt: skip


@FEW
@given(
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
    path=st.sampled_from(
        ["/Patient/a", "/Patient", "/", "/Binary/a", "/Binary", "/Patient?name=Marsh"]
    ),
    headers=st.fixed_dictionaries(
        {}, optional={name: st.sampled_from(values) for name, values in HEADERS.items()}
    ),
    body=st.sampled_from(
        [
            b"",
            b"x",
            json.dumps(patient(id="a")).encode(),
            b"[]",
            b"<Patient xmlns='http://hl7.org/fhir'/>",
        ]
    ),
)
async def test_any_header_is_heeded_or_refused(
    client: httpx.AsyncClient, method: str, path: str, headers: dict[str, str], body: bytes
) -> None:
    await client.put("/Patient/a", json=patient(id="a"))
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]

    reply = await client.request(method, path, content=body, headers=raw)

    assert reply.status_code < 500, reply.text


OPERATION_NAMES = ["validate", "meta", "meta-add", "meta-delete", "everything", "lastn", "document",
                   "expunge", "purge", "nothing"]  # fmt: skip
LEVELS = ["", "Patient/", "Patient/a/", "Encounter/", "Observation/", "Composition/a/",
          "Patient/a/_history/1/", "Patient/nobody/"]  # fmt: skip
PARAMETERS = st.builds(
    lambda parts: {"resourceType": "Parameters", "parameter": parts},
    st.lists(
        st.builds(
            lambda name, value: {"name": name, **value} if isinstance(value, dict) else value,
            st.sampled_from(
                ["resource", "mode", "profile", "meta", "start", "end", "_since", "_type", "_count",
                 "max", "persist", "graph", "limit"]
            ),
            VALUES
            | st.builds(lambda one: {"resource": one}, st.sampled_from(SEEDS))
            | st.sampled_from([{"valueMeta": {"tag": [{"code": "x"}]}}, {"valueMeta": {}},
                               {"valueInstant": "2026-01-01T00:00:00Z"}, {"valueUri": "urn:x"}])
            | JSON,
        ),
        max_size=3,
    ),
)  # fmt: skip


@FEW
@given(
    method=st.sampled_from(["GET", "POST", "POST", "POST"]),
    level=st.sampled_from(LEVELS),
    name=st.sampled_from(OPERATION_NAMES),
    body=PARAMETERS | st.sampled_from(SEEDS) | JSON,
    pairs=st.lists(st.tuples(NAMES, TEXT.map(quoted)), max_size=2),
)
async def test_any_operation_is_performed_or_refused(
    client: httpx.AsyncClient,
    method: str,
    level: str,
    name: str,
    body: Resource,
    pairs: list[tuple[str, str]],
) -> None:
    await client.put("/Patient/a", json=patient(id="a"))
    query = "&".join(f"{one}={value}" for one, value in pairs)
    content = json.dumps(body) if method == "POST" else None

    reply = await client.request(method, f"/{level}${name}?{query}", content=content)

    assert reply.status_code < 500, reply.text
    if reply.status_code >= 400:
        assert outcome(reply)["issue"]
