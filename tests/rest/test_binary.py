"""binary.html#rest: a Binary travels as the content that it holds, unless FHIR is asked for."""

import base64
import gzip
import json
import re
from collections.abc import AsyncIterator

import httpx
import pytest

from app.config import Settings
from tests.conftest import BASE_URL
from tests.support.application import connected
from tests.support.replies import ids, issue, issues, places
from tests.support.resources import Resource, batch, patient, put, resource, transaction

JSON, XML = "application/fhir+json", "application/fhir+xml"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
PDF = b"%PDF-1.7\r\n\x00\xff\xfe binary"
LIMIT = 4_000

# What a client accepts, and the media type in which it gets a PDF
ACCEPT = {
    "*/*": "application/pdf",
    "": "application/pdf",
    "application/pdf": "application/pdf",
    BROWSER: "application/pdf",
    "application/json, text/plain, */*": "application/pdf",
    "image/png": "application/pdf",
    "application/fhir+json;q=0, */*": "application/pdf",
    "application/fhir+json; fhirVersion=5.0, application/pdf": "application/pdf",
    "application/fhir+json": JSON,
    "application/fhir+xml": XML,
    "application/fhir+json, */*": JSON,
    "application/json": "application/json",
    "application/xml": "application/xml",
}
# Content types, and whether a browser may show such content
SHOWN = {
    "application/pdf": True,
    "image/png": True,
    "text/plain; charset=utf-8": True,
    "text/html": False,
    "text/html; charset=utf-8": False,
    "image/svg+xml": False,
    "application/xhtml+xml": False,
    "text/javascript": False,
    "application/octet-stream": False,
    "application/x-unheard-of": False,
}
# Content in formats that FHIR has too
OTHER_CONTENT = [
    ("application/json", b'{"a": 1}'),
    ("application/json", b"[]"),
    ("application/json", json.dumps(patient()).encode()),
    ("application/xml", b"<a/>"),
    ("text/xml", b"<Patient xmlns='http://hl7.org/fhir'/>"),
    # binary.html#rest: also where it is FHIR, unless it is a Binary
    (JSON, json.dumps(patient()).encode()),
    (JSON, b"[]"),
    (JSON, json.dumps(transaction(put(resource("Binary", {}, {"id": "b"})))).encode()),
    ("application/json", b'{"a":[{"resourceType":"Binary"}]}'),
    (XML, b"<Patient xmlns='http://hl7.org/fhir'/>"),
    ("application/xml", b"<!-- <Binary> --><a><Binary/></a>"),
    ("application/x-www-form-urlencoded", b"a=b"),
    ("application/json-patch+json", b"[]"),
]
# RFC 9110, 5.6 and 8.3.1
GRAMMAR = [
    "text/plain;",
    'text/plain; a="b \\"c\\""',
    "application/pdf; filename*=UTF-8''a%20b",
    "application/vnd.a+b~c|d; e=`f`",
]
# Codes that are no media types: they must not become a header
NO_MEDIA_TYPES = ["pdf", "text/html\nSet-Cookie: a=b", "text/plain; a", "a/b/c", "ä/b", 'a/"b"']


def binary(content: bytes, content_type: str = "application/pdf", **changes: object) -> Resource:
    """Return a Binary that holds `content`."""
    data = base64.b64encode(content).decode()
    return resource("Binary", {"contentType": content_type, "data": data}, changes)


def as_content(content_type: str = "application/pdf", **headers: str) -> dict[str, str]:
    """Return the headers of a request that sends content."""
    return {"Content-Type": content_type, **headers}


@pytest.fixture
async def pdf(client: httpx.AsyncClient) -> httpx.Response:
    """The answer to the update that made Binary/a, a PDF."""
    return await client.put("/Binary/a", content=PDF, headers=as_content())


async def test_content_comes_back_as_it_was_sent(
    client: httpx.AsyncClient, pdf: httpx.Response
) -> None:
    created = await client.post("/Binary", content=PDF, headers=as_content())
    id = created.json()["id"]
    everything = {"Accept": "*/*"}

    replies = [
        await client.get(path, headers=everything)
        for path in (f"/Binary/{id}", "/Binary/a", "/Binary/a/_history/1")
    ]

    assert (pdf.status_code, created.status_code) == (201, 201)
    assert [reply.content for reply in replies] == [PDF] * 3
    assert {reply.headers["Content-Type"] for reply in replies} == {"application/pdf"}
    assert {reply.headers["Content-Length"] for reply in replies} == {str(len(PDF))}
    assert [reply.headers["ETag"] for reply in replies] == ['W/"1"'] * 3
    assert replies[2].headers["Content-Location"] == f"{BASE_URL}/Binary/a/_history/1"


async def test_sent_content_is_a_binary_like_any_other(
    client: httpx.AsyncClient, pdf: httpx.Response
) -> None:
    found = (await client.get("/Binary/a")).json()

    del found["meta"]
    assert found == binary(PDF, id="a")
    assert ids(await client.get("/Binary")) == ["a"]


async def test_a_binary_that_came_as_a_resource_goes_as_content(client: httpx.AsyncClient) -> None:
    created = await client.post("/Binary", json=binary(PDF))

    reply = await client.get(f"/Binary/{created.json()['id']}", headers={"Accept": "*/*"})

    assert (reply.content, reply.headers["Content-Type"]) == (PDF, "application/pdf")


async def test_accept_says_whether_the_content_is_wanted_or_the_resource(
    client: httpx.AsyncClient, pdf: httpx.Response
) -> None:
    replies = {h: await client.get("/Binary/a", headers={"Accept": h}) for h in ACCEPT}

    assert {h: r.headers["Content-Type"].split(";")[0] for h, r in replies.items()} == ACCEPT
    assert {r.content for r in replies.values() if "pdf" in r.headers["Content-Type"]} == {PDF}
    assert replies[JSON].json()["data"] == base64.b64encode(PDF).decode()
    assert b"<contentType" in replies[XML].content


async def test_a_parameter_of_resources_asks_for_the_resource(
    client: httpx.AsyncClient, pdf: httpx.Response
) -> None:
    replies = [
        await client.get(f"/Binary/a?{query}", headers={"Accept": "*/*"})
        for query in ("_format=json", "_summary=data", "_elements=contentType", "_pretty=true")
    ]

    assert [reply.json()["resourceType"] for reply in replies] == ["Binary"] * 4


async def test_content_that_the_client_has_is_304_and_head_has_no_body(
    client: httpx.AsyncClient, pdf: httpx.Response
) -> None:
    known = {"Accept": "*/*", "If-None-Match": pdf.headers["ETag"]}

    unchanged = await client.get("/Binary/a", headers=known)
    head = await client.head("/Binary/a", headers={"Accept": "*/*"})

    assert unchanged.status_code == 304
    assert (head.content, head.headers["Content-Length"]) == (b"", str(len(PDF)))
    assert head.headers["Content-Type"] == "application/pdf"


async def test_a_missing_binary_is_an_outcome_whatever_is_accepted(
    client: httpx.AsyncClient, pdf: httpx.Response
) -> None:
    missing = await client.get("/Binary/b", headers={"Accept": "application/pdf"})
    await client.delete("/Binary/a")
    gone = await client.get("/Binary/a", headers={"Accept": "application/pdf"})

    assert (missing.status_code, issue(missing)[0]) == (404, "not-found")
    assert (gone.status_code, issue(gone)[0]) == (410, "deleted")


async def test_pages_of_binaries_are_bundles(
    client: httpx.AsyncClient, pdf: httpx.Response
) -> None:
    found = await client.get("/Binary", headers={"Accept": "*/*"})
    history = await client.get("/Binary/a/_history", headers={"Accept": "*/*"})
    refused = await client.get("/Binary", headers={"Accept": "application/pdf"})

    assert (ids(found), ids(history)) == (["a"], ["a"])
    assert refused.status_code == 406


async def test_a_browser_never_runs_what_somebody_has_uploaded(client: httpx.AsyncClient) -> None:
    for content_type, shown in SHOWN.items():
        await client.put("/Binary/a", content=b"<script/>", headers=as_content(content_type))

        reply = await client.get("/Binary/a", headers={"Accept": BROWSER})

        assert reply.headers["Content-Type"] == content_type
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        download = reply.headers.get("Content-Disposition") == "attachment"
        sandbox = reply.headers.get("Content-Security-Policy") == "default-src 'none'; sandbox"
        assert (content_type, download, sandbox) == (content_type, not shown, not shown)


async def test_what_is_no_media_type_becomes_no_header(client: httpx.AsyncClient) -> None:
    for content_type in NO_MEDIA_TYPES:
        stored = await client.put("/Binary/a", json=binary(PDF, content_type, id="a"))

        reply = await client.get("/Binary/a", headers={"Accept": "*/*"})

        assert stored.is_success
        assert (reply.content, reply.headers["Content-Type"]) == (PDF, "application/octet-stream")
        assert "Set-Cookie" not in reply.headers


async def test_content_needs_a_media_type(client: httpx.AsyncClient) -> None:
    replies = [
        await client.post("/Binary", content=PDF, headers=as_content(content_type))
        for content_type in ("", "pdf", "application/pdf, text/html", "text/", "a/b; c")
    ]

    text = "Content-Type must be the media type of the content, such as application/pdf"
    assert {(r.status_code, issue(r)) for r in replies} == {(415, ("not-supported", text))}


async def test_every_media_type_of_the_grammar_is_kept(client: httpx.AsyncClient) -> None:
    for content_type in GRAMMAR:
        await client.put("/Binary/a", content=PDF, headers=as_content(content_type))

        reply = await client.get("/Binary/a", headers={"Accept": "*/*"})

        assert reply.headers["Content-Type"] == content_type.rstrip(";")


async def test_content_may_be_empty_or_packed(client: httpx.AsyncClient) -> None:
    empty = await client.put("/Binary/a", content=b"", headers=as_content())
    headers = as_content(**{"Content-Encoding": "gzip"})
    packed = await client.put("/Binary/b", content=gzip.compress(PDF), headers=headers)

    replies = [await client.get(f"/Binary/{id}", headers={"Accept": "*/*"}) for id in "ab"]

    assert (empty.status_code, packed.status_code) == (201, 201)
    assert [(reply.status_code, reply.content) for reply in replies] == [(200, b""), (200, PDF)]


async def test_json_and_xml_of_another_kind_are_content(client: httpx.AsyncClient) -> None:
    for content_type, body in OTHER_CONTENT:
        await client.put("/Binary/a", content=body, headers=as_content(content_type))

        reply = await client.get("/Binary/a", headers={"Accept": "*/*"})

        assert (reply.content, reply.headers["Content-Type"]) == (body, content_type)


async def test_a_binary_as_json_is_the_resource(client: httpx.AsyncClient) -> None:
    body = json.dumps(binary(PDF, id="a"))
    # the order of properties means nothing
    last = json.dumps(binary(bytes(3_000), id="a"), sort_keys=True)
    kinds = ["application/json", "text/json", JSON]

    stored = [
        await client.put("/Binary/a", content=one, headers=as_content(kind))
        for kind in kinds
        for one in (body, last)
    ]

    assert [reply.json()["contentType"] for reply in stored] == ["application/pdf"] * 6


async def test_a_binary_as_xml_is_the_resource(client: httpx.AsyncClient) -> None:
    body = (
        b'<Binary xmlns="http://hl7.org/fhir"><id value="a"/>'
        b'<contentType value="text/plain"/><data value="YQ=="/></Binary>'
    )
    prefixed = re.sub(rb"<(/?)(?=\w)", rb"<\1f:", body).replace(b"xmlns", b"xmlns:f")
    headed = b'<?xml version="1.0"?>\n<!-- a > b -->\n' + body
    kinds = ["application/xml", "text/xml", XML]

    stored = [
        await client.put("/Binary/a", content=one, headers=as_content(kind))
        for kind in kinds
        for one in (body, prefixed, headed)
    ]

    assert [reply.json()["data"] for reply in stored] == ["YQ=="] * 9


async def test_a_broken_binary_is_not_taken_for_content(client: httpx.AsyncClient) -> None:
    whole = json.dumps(binary(PDF)).encode()
    xml = b'<Binary xmlns="http://hl7.org/fhir"><contentType value="text/plain"/>'

    replies = [
        await client.post("/Binary", content=content, headers=as_content(kind))
        for kind, content in (
            (JSON, whole[:-1]),
            ("application/json", whole[:-1]),
            (JSON, b""),
            (JSON, b"{"),
            (XML, xml),
            ("text/xml", xml),
        )
    ]

    assert [reply.status_code for reply in replies] == [400] * 6
    assert ids(await client.get("/Binary")) == []


async def test_the_head_of_an_xml_document_does_not_hold_up_anybody(
    client: httpx.AsyncClient,
) -> None:
    for part in (b"<!-- a -->", b"<?a b?>", b" ", b"<!--", b"<a:"):
        body = part * 100_000

        reply = await client.put("/Binary/a", content=body, headers=as_content("text/xml"))

        assert reply.is_success


async def test_the_security_context_of_content_is_in_the_resource(
    client: httpx.AsyncClient,
) -> None:
    context = {"X-Security-Context": "Patient/a"}

    await client.put("/Binary/a", content=PDF, headers=as_content(**context))
    refused = [
        await client.put("/Binary/b", content=PDF, headers=as_content(**{**context, **wrong}))
        for wrong in ({"X-Security-Context": "no reference"}, {"X-Security-Context": "Nothing/a"})
    ]
    beside = await client.put("/Binary/c", json=binary(PDF, id="c"), headers=context)

    found = await client.get("/Binary/a")
    assert found.json()["securityContext"] == {"reference": "Patient/a"}
    assert [reply.status_code for reply in refused] == [422, 422]
    assert (beside.status_code, issue(beside)[0]) == (400, "invalid")
    assert ids(await client.get("/Binary")) == ["a"]


async def test_content_is_updated_against_a_version_like_any_resource(
    client: httpx.AsyncClient, pdf: httpx.Response
) -> None:
    stale = await client.put("/Binary/a", content=b"b", headers=as_content(**{"If-Match": 'W/"2"'}))
    updated = await client.put(
        "/Binary/a", content=b"b", headers=as_content(**{"If-Match": 'W/"1"'})
    )
    first = await client.get("/Binary/a/_history/1", headers={"Accept": "*/*"})
    second = await client.get("/Binary/a", headers={"Accept": "*/*"})

    assert (stale.status_code, updated.status_code) == (412, 200)
    assert (first.content, second.content) == (PDF, b"b")


# --- limits and attachments ----------------------------------------------------------------------


@pytest.fixture
async def narrow(database_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that takes small resources alone."""
    settings = Settings(database_url=database_url, base_url=BASE_URL, max_resource_bytes=LIMIT)
    async with connected(settings) as client:
        yield client


async def test_content_that_would_be_too_long_as_a_resource_is_413(
    narrow: httpx.AsyncClient,
) -> None:
    most = (LIMIT - 1024) * 3 // 4

    over = await narrow.put("/Binary/a", content=bytes(most + 1), headers=as_content())
    longer = await narrow.put("/Binary/a", content=bytes(LIMIT + 1), headers=as_content())
    fitting = await narrow.put("/Binary/a", content=bytes(most), headers=as_content())
    again = await narrow.put("/Binary/a", content=(await narrow.get("/Binary/a")).content)

    assert [over.status_code, longer.status_code] == [413, 413]
    assert issue(over) == ("too-long", f"The body is longer than {most} bytes")
    assert [fitting.status_code, again.status_code] == [201, 200]


async def test_what_a_bundle_or_a_patch_makes_longer_than_one_may_send_is_413(
    narrow: httpx.AsyncClient,
) -> None:
    await narrow.put("/Binary/a", json=binary(bytes(2_000), id="a"))
    entry = put(binary(bytes(LIMIT), id="a"))
    patch = [{"op": "add", "path": "/language", "value": "x" * (LIMIT - 1_500)}]
    of_patches = {"Content-Type": "application/json-patch+json"}

    bundled = await narrow.post("/", json=transaction(entry))
    batched = await narrow.post("/", json=batch(entry))
    patched = await narrow.patch("/Binary/a", json=patch, headers=of_patches)

    assert (bundled.status_code, patched.status_code) == (413, 413)
    assert batched.json()["entry"][0]["response"]["status"].split()[0] == "413"
    assert issue(bundled) == ("too-long", f"The resource is longer than {LIMIT} bytes")
    assert places(bundled) == ["Bundle.entry[0].resource"]
    assert (await narrow.get("/Binary/a")).headers["ETag"] == 'W/"1"'


def document(**attachment: object) -> Resource:
    """Return a DocumentReference whose content is an attachment."""
    content = [{"attachment": {"contentType": "text/plain", **attachment}}]
    return resource("DocumentReference", {"status": "current", "content": content}, {"id": "a"})


# An attachment, and what is wrong with it; `SUM` is the SHA-1 of "hello"
HELLO, SUM, OTHER = "aGVsbG8=", "qvTGHdzF6KLavt4PO0gs2a6pQ00=", "AAAAAAAAAAAAAAAAAAAAAAAAAAA="
SIZE = ("invariant", "Attachment.size: Must be the number of bytes of data")
HASH = ("invariant", "Attachment.hash: Must be the SHA-1 of data, as base64")
BASE64 = ("value", "Must be base64, in groups of four characters")
ATTACHMENTS: list[tuple[Resource, list[tuple[str, str]]]] = [
    ({"data": HELLO}, []),
    ({"data": HELLO, "size": 5}, []),
    ({"data": HELLO, "size": 5, "hash": SUM}, []),
    ({"data": "aGVs bG8=", "size": 5, "hash": SUM}, []),
    ({"url": "https://example.org/a", "size": 7, "hash": SUM}, []),
    # some write a SHA-1 in hexadecimal, or another hash: an official example does
    ({"data": HELLO, "hash": "571ef9c5655840f324e679072ed62b1b95eef8a0"}, []),
    ({"data": HELLO, "size": 8}, [SIZE]),
    ({"data": HELLO, "hash": OTHER}, [HASH]),
    ({"data": HELLO, "size": 4, "hash": OTHER}, [SIZE, HASH]),
    ({"data": "aGVsbG8"}, [BASE64]),
    ({"data": "aGVs*G8="}, [BASE64]),
    ({"data": "===="}, [BASE64]),
    ({"data": HELLO, "hash": "no base64!"}, [BASE64]),
]


async def test_the_size_and_the_hash_of_an_attachment_are_those_of_its_data(
    client: httpx.AsyncClient,
) -> None:
    for attachment, faults in ATTACHMENTS:
        reply = await client.put("/DocumentReference/a", json=document(**attachment))

        found = [] if reply.is_success else issues(reply)
        assert (attachment, found) == (attachment, faults)


async def test_an_attachment_in_a_transaction_is_checked_too(client: httpx.AsyncClient) -> None:
    reply = await client.post("/", json=transaction(put(document(data=HELLO, size=8))))

    assert reply.status_code == 422
    assert places(reply)[0].startswith("Bundle.entry[0].resource.content[0].attachment")
