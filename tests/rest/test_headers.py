"""http.html#general and RFC 9110: what goes with a request and an answer beside the body."""

import gzip
import json
import zlib
from collections.abc import AsyncIterator, Mapping

import httpx
import pytest

from app.config import Settings
from tests.conftest import BASE_URL
from tests.support.application import connected
from tests.support.replies import ids, issue
from tests.support.resources import batch, get, observation, patient, post, transaction
from tests.support.tokens import AUTHORIZED

LIMIT = 20_000
APP = "https://app.example.org"

READS = [
    "/metadata",
    "/Patient/a",
    "/Patient/a/_history/1",
    "/Patient/a/_history",
    "/Patient",
    "/Patient?name=marsh",
    "/_history",
    "/Patient/nobody",
    "/Nothing",
    "/Patient?shoe-size=44",
    "/Patient/a?_elements=name",
    "/Patient/a?_format=xml&_pretty=true",
]
ALLOW = {
    "": "GET, HEAD, OPTIONS, POST",
    "/metadata": "GET, HEAD, OPTIONS",
    "/Patient": "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT",
    "/Patient/a": "DELETE, GET, HEAD, OPTIONS, PATCH, PUT",
    "/Patient/a/_history/1": "GET, HEAD, OPTIONS",
    "/Patient/_search": "OPTIONS, POST",
}
# What a client says of encodings, and whether it gets gzip
ENCODINGS = {
    "gzip": True,
    "GZIP": True,
    "x-gzip": True,
    "deflate, gzip;q=0.5": True,
    "*": True,
    "br, *;q=0.1": True,
    "": False,
    "identity": False,
    "br": False,
    "gzip;q=0": False,
    "gzip;q=0, *": False,
    "gzip;q=x": False,
}
SAFE_IDS = ["a", "req-7:b/c.d_e=+1", "x" * 64]
UNSAFE_IDS = [b"", b"x" * 65, b"a b", b"a,b", b'"a"', b"<b>", b"a\tb", b"\xe4"]
CHANGING = ("date", "x-request-id")


def constant(reply: httpx.Response) -> Mapping[str, str]:
    """Return the headers that do not differ from answer to answer."""
    return {name: value for name, value in reply.headers.items() if name not in CHANGING}


@pytest.fixture
async def ada(client: httpx.AsyncClient) -> httpx.Response:
    """The answer to the update that made Patient/a."""
    return await client.put("/Patient/a", json=patient(id="a"))


# --- HEAD and OPTIONS ----------------------------------------------------------------------------


async def test_head_is_get_without_the_body(client: httpx.AsyncClient, ada: httpx.Response) -> None:
    whole = {path: await client.get(path) for path in READS}
    heads = {path: await client.head(path) for path in READS}

    assert {p: r.status_code for p, r in heads.items()} == {
        p: r.status_code for p, r in whole.items()
    }
    assert {p: constant(r) for p, r in heads.items()} == {p: constant(r) for p, r in whole.items()}
    assert {r.content for r in heads.values()} == {b""}
    assert {r.headers.get("Content-Length", "0") for r in heads.values()}.isdisjoint({"0"})


async def test_head_of_what_the_client_has_is_304(
    client: httpx.AsyncClient, ada: httpx.Response
) -> None:
    reply = await client.head("/Patient/a", headers={"If-None-Match": ada.headers["ETag"]})

    assert reply.status_code == 304


async def test_options_tells_the_methods_of_an_address(client: httpx.AsyncClient) -> None:
    replies = {path: await client.options(path or BASE_URL) for path in ALLOW}

    assert {(r.status_code, r.content) for r in replies.values()} == {(204, b"")}
    assert {path: reply.headers["Allow"] for path, reply in replies.items()} == ALLOW


# --- what the answer is --------------------------------------------------------------------------


async def test_every_answer_is_for_who_asked_and_asks_before_it_is_used_again(
    client: httpx.AsyncClient, ada: httpx.Response
) -> None:
    replies = [
        ada,
        *[await client.get(path) for path in READS],
        await client.get("/Patient/a", headers={"If-None-Match": 'W/"1"'}),
        await client.post("/Patient", content="nonsense"),
        await client.post("/", json=transaction(post(patient()))),
        await client.delete("/Patient/a"),
        await client.options("/Patient"),
    ]

    assert {reply.headers["Cache-Control"] for reply in replies} == {"private, no-cache"}
    vary = {tuple(reply.headers["Vary"].split(", "))[:3] for reply in replies}
    assert vary == {("Accept", "Authorization", "Prefer")}


async def test_a_version_is_answered_with_its_address_and_its_moment(
    client: httpx.AsyncClient, ada: httpx.Response
) -> None:
    created = await client.post("/Patient", json=patient())
    updated = await client.put("/Patient/a", json=patient(id="a", active=False))
    patch = [{"op": "replace", "path": "/active", "value": True}]
    of_patches = {"Content-Type": "application/json-patch+json"}
    patched = await client.patch("/Patient/a", json=patch, headers=of_patches)
    read = await client.get("/Patient/a")
    vread = await client.get("/Patient/a/_history/1")
    known = await client.get("/Patient/a", headers={"If-None-Match": 'W/"3"'})

    id = created.json()["id"]
    assert {
        "create": created.headers["Content-Location"],
        "update": updated.headers["Content-Location"],
        "patch": patched.headers["Content-Location"],
        "read": read.headers["Content-Location"],
        "vread": vread.headers["Content-Location"],
        "known": known.headers["Content-Location"],
    } == {
        "create": f"{BASE_URL}/Patient/{id}/_history/1",
        "update": f"{BASE_URL}/Patient/a/_history/2",
        "patch": f"{BASE_URL}/Patient/a/_history/3",
        "read": f"{BASE_URL}/Patient/a/_history/3",
        "vread": f"{BASE_URL}/Patient/a/_history/1",
        "known": f"{BASE_URL}/Patient/a/_history/3",
    }
    assert created.headers["Location"] == created.headers["Content-Location"]
    assert [r.headers["ETag"] for r in (read, known, patched)] == ['W/"3"'] * 3
    assert {r.headers["Last-Modified"] for r in (read, known)} == {patched.headers["Last-Modified"]}
    assert vread.headers["Last-Modified"] == ada.headers["Last-Modified"]


async def test_what_shows_no_version_has_no_content_location(
    client: httpx.AsyncClient, ada: httpx.Response
) -> None:
    body = patient(id="a", active=False)
    replies = [
        await client.put("/Patient/a", json=body, headers={"Prefer": "return=minimal"}),
        await client.put("/Patient/a", json=body, headers={"Prefer": "return=OperationOutcome"}),
        await client.put("/Patient/a", json=body, headers={"If-Match": 'W/"1"'}),
        await client.get("/Patient/nobody"),
        await client.get("/Patient"),
        await client.get("/metadata"),
        await client.delete("/Patient/a"),
        await client.get("/Patient/a"),
    ]

    assert [reply.status_code for reply in replies] == [200, 200, 412, 404, 200, 200, 204, 410]
    assert [r.headers.get("Content-Location") for r in replies] == [None] * len(replies)


# --- X-Request-Id --------------------------------------------------------------------------------


async def test_a_request_keeps_the_id_that_the_client_gave_it(client: httpx.AsyncClient) -> None:
    replies = {
        (path, given): await client.get(path, headers={"X-Request-Id": given})
        for path in ("/metadata", "/Nothing")
        for given in SAFE_IDS
    }

    assert {key: reply.headers["X-Request-Id"] for key, reply in replies.items()} == {
        key: key[1] for key in replies
    }


async def test_a_request_without_a_safe_id_gets_one_of_its_own(client: httpx.AsyncClient) -> None:
    headers = [{}, {}, *({b"X-Request-Id": given} for given in UNSAFE_IDS)]

    replies = [await client.get("/metadata", headers=one) for one in headers]

    found = {reply.headers["X-Request-Id"] for reply in replies}
    assert len(found) == len(headers)
    assert all(id.isascii() and 8 <= len(id) <= 64 for id in found)
    assert found.isdisjoint(given.decode("latin-1") for given in UNSAFE_IDS)


# --- gzip ----------------------------------------------------------------------------------------


async def test_gzip_is_for_who_accepts_it_and_for_what_is_long(
    client: httpx.AsyncClient, ada: httpx.Response
) -> None:
    got = {}
    for header in ENCODINGS:
        reply = await client.get("/metadata", headers={"Accept-Encoding": header})
        got[header] = reply.headers.get("Content-Encoding") == "gzip"
        plain = reply.json()["resourceType"]
        assert plain == "CapabilityStatement"
    short = await client.get("/Patient/a", headers={"Accept-Encoding": "gzip"})

    assert got == ENCODINGS
    assert "Content-Encoding" not in short.headers
    assert "Accept-Encoding" not in short.headers["Vary"]
    assert "Accept-Encoding" in reply.headers["Vary"]


async def test_a_packed_answer_says_how_long_it_is(client: httpx.AsyncClient) -> None:
    packed = await client.get("/metadata", headers={"Accept-Encoding": "gzip"})
    plain = await client.get("/metadata", headers={"Accept-Encoding": "identity"})

    length = int(packed.headers["Content-Length"])
    assert packed.num_bytes_downloaded == length
    assert length < int(plain.headers["Content-Length"]) / 5
    assert packed.content == plain.content


@pytest.fixture
async def narrow(database_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that takes small bodies alone."""
    settings = Settings(
        database_url=database_url,
        base_url=BASE_URL,
        max_resource_bytes=LIMIT,
        max_bundle_bytes=LIMIT,
        cors_origins=f"{APP}, https://other.example.org",
    )
    async with connected(settings) as client:
        yield client


def packed(body: bytes) -> tuple[bytes, dict[str, str]]:
    """Return a body as gzip, and the header that says so."""
    return gzip.compress(body), {"Content-Encoding": "gzip"}


async def test_a_packed_body_is_taken_by_every_interaction(client: httpx.AsyncClient) -> None:
    resource, headers = packed(json.dumps(patient(id="a")).encode())
    bundle, _ = packed(json.dumps(transaction(post(patient()))).encode())
    form, _ = packed(b"_id=a")
    of_forms = {**headers, "Content-Type": "application/x-www-form-urlencoded"}

    updated = await client.put("/Patient/a", content=resource, headers=headers)
    created = await client.post("/Patient", content=resource, headers=headers)
    bundled = await client.post("/", content=bundle, headers=headers)
    found = await client.post("/Patient/_search", content=form, headers=of_forms)
    named = {"Content-Encoding": "identity"}
    plain = await client.post("/Patient", json=patient(), headers=named)

    assert [r.status_code for r in (updated, created, bundled, plain)] == [201, 201, 200, 201]
    assert ids(found) == ["a"]
    assert updated.json()["name"] == patient()["name"]


async def test_a_packed_body_is_measured_unpacked(narrow: httpx.AsyncClient) -> None:
    def sized(length: int) -> bytes:
        return json.dumps(patient(id="a")).encode().ljust(length)

    fitting, headers = packed(sized(LIMIT))
    over, _ = packed(sized(LIMIT + 1))
    bomb, _ = packed(bytes(50_000_000))

    replies = {
        "fitting": await narrow.put("/Patient/a", content=fitting, headers=headers),
        "over": await narrow.put("/Patient/a", content=over, headers=headers),
        "bomb": await narrow.put("/Patient/a", content=bomb[: LIMIT - 1], headers=headers),
    }

    assert {name: reply.status_code for name, reply in replies.items()} == {
        "fitting": 201,
        "over": 413,
        "bomb": 413,
    }
    assert issue(replies["bomb"]) == ("too-long", f"The body is longer than {LIMIT} bytes")


NO_GZIP = "The body is not gzip, as Content-Encoding says"
CUT = "The gzip body is cut off, or something follows it"
BAD_GZIP = {
    b"{}": NO_GZIP,
    b"": CUT,
    zlib.compress(b"{}"): NO_GZIP,
    gzip.compress(b"{}", mtime=0)[:-9]: CUT,
    gzip.compress(b"{}", mtime=0) + b"more": CUT,
    gzip.compress(b"{}", mtime=0)[:-8] + b"wrong sum": NO_GZIP,
}


async def test_what_is_no_gzip_is_400(client: httpx.AsyncClient) -> None:
    headers = {"Content-Encoding": "gzip"}

    replies = {
        body: await client.post("/Patient", content=body, headers=headers) for body in BAD_GZIP
    }

    assert {reply.status_code for reply in replies.values()} == {400}
    assert {body: issue(r) for body, r in replies.items()} == {
        body: ("structure", told) for body, told in BAD_GZIP.items()
    }


async def test_another_encoding_is_415(client: httpx.AsyncClient) -> None:
    replies = [
        await client.post("/Patient", content=b"x", headers={"Content-Encoding": coding})
        for coding in ("br", "deflate", "gzip, gzip", "zstd")
    ]

    assert [(reply.status_code, issue(reply)[0]) for reply in replies] == [
        (415, "not-supported")
    ] * 4
    assert {reply.headers["Accept-Encoding"] for reply in replies} == {"gzip"}


# --- headers that contradict each other ----------------------------------------------------------


async def test_a_header_of_one_value_is_refused_twice(client: httpx.AsyncClient) -> None:
    names = ["content-type", "if-none-exist", "if-modified-since", "x-provenance", "authorization"]
    for name in names:
        headers = [*AUTHORIZED.items(), *[(name, "application/fhir+json")] * 2]
        request = httpx.Request("POST", f"{BASE_URL}/Patient", headers=headers, json=patient())

        reply = await client.send(request)

        told = ("invalid", f"The header {name} is given more than once")
        assert (reply.status_code, issue(reply)) == (400, told)
    assert ids(await client.get("/Patient")) == []


async def test_a_header_that_would_be_ignored_is_refused(
    client: httpx.AsyncClient, ada: httpx.Response
) -> None:
    context = {"X-Security-Context": "Patient/a"}

    reply = await client.put("/Patient/a", json=patient(id="a"), headers=context)

    assert (reply.status_code, issue(reply)[0]) == (400, "invalid")


async def test_lists_in_headers_may_come_in_several_lines(
    client: httpx.AsyncClient, ada: httpx.Response
) -> None:
    headers = [
        ("If-None-Match", 'W/"7"'),
        ("If-None-Match", 'W/"1"'),
        ("Prefer", "a"),
        ("Prefer", "b"),
        *AUTHORIZED.items(),
    ]
    request = httpx.Request("GET", f"{BASE_URL}/Patient/a", headers=headers)

    reply = await client.send(request)

    assert reply.status_code == 304


async def test_what_is_no_entity_tag_is_400(client: httpx.AsyncClient, ada: httpx.Response) -> None:
    conditions = [
        ("If-Match", "1"),
        ("If-Match", 'W/1"'),
        ("If-None-Match", "x"),
        ("If-Match", ","),
    ]

    replies = [
        await client.put("/Patient/a", json=patient(id="a"), headers=[condition])
        for condition in conditions
    ]

    assert [(reply.status_code, issue(reply)[0]) for reply in replies] == [(400, "invalid")] * 4


# --- CORS ----------------------------------------------------------------------------------------


async def test_a_page_of_a_known_origin_may_ask_and_read_the_headers(
    narrow: httpx.AsyncClient,
) -> None:
    asked = {
        "Origin": APP,
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": "authorization, if-match, prefer",
    }

    preflight = await narrow.options("/Patient/a", headers=asked)
    created = await narrow.put("/Patient/a", json=patient(id="a"), headers={"Origin": APP})
    missing = await narrow.get("/Patient/nobody", headers={"Origin": APP})

    assert preflight.status_code == 200
    assert preflight.headers["Access-Control-Allow-Origin"] == APP
    assert "PATCH" in preflight.headers["Access-Control-Allow-Methods"]
    assert "if-match" in preflight.headers["Access-Control-Allow-Headers"]
    assert [r.headers["Access-Control-Allow-Origin"] for r in (created, missing)] == [APP, APP]
    exposed = set(created.headers["Access-Control-Expose-Headers"].split(", "))
    assert exposed >= {"Content-Location", "ETag", "Last-Modified", "Location", "X-Request-Id"}
    assert "Origin" in created.headers["Vary"]
    assert "Access-Control-Allow-Credentials" not in created.headers


async def test_a_page_of_another_origin_is_told_nothing(narrow: httpx.AsyncClient) -> None:
    origin = {"Origin": "https://evil.example.org"}

    preflight = await narrow.options(
        "/Patient", headers={**origin, "Access-Control-Request-Method": "GET"}
    )
    reply = await narrow.get("/Patient", headers=origin)

    assert preflight.status_code == 400
    assert "Access-Control-Allow-Origin" not in reply.headers


async def test_no_origin_is_known_unless_it_is_set(client: httpx.AsyncClient) -> None:
    reply = await client.get("/Patient", headers={"Origin": APP})

    assert "Access-Control-Allow-Origin" not in reply.headers


# --- as one part of a Bundle ---------------------------------------------------------------------


async def test_a_long_page_is_the_same_packed_and_as_xml(client: httpx.AsyncClient) -> None:
    await client.post("/", json=batch(*(post(observation()) for _ in range(40))))

    page = await client.get("/Observation?_count=40", headers={"Accept-Encoding": "gzip"})
    xml = await client.get(
        "/Observation?_count=40&_format=xml", headers={"Accept-Encoding": "gzip"}
    )
    again = await client.post("/", json=batch(get("Observation?_count=40")))

    assert [r.headers["Content-Encoding"] for r in (page, xml)] == ["gzip", "gzip"]
    assert page.json()["entry"] == again.json()["entry"][0]["resource"]["entry"]
    assert xml.text.count("<Observation") == 40
