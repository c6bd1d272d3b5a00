"""http.html#mime-type, #parameters and #Status-Codes: formats, general parameters, addresses."""

import html
import json
import re
from collections.abc import AsyncIterator

import httpx

from tests.conftest import BASE_URL
from tests.support.replies import ids, issue, link, outcome
from tests.support.resources import observation, patient, transaction

JSON, XML = "application/fhir+json", "application/fhir+xml"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"

# What is accepted, and the media type of the answer; "" for a 406
ACCEPT = {
    "": JSON,
    "application/fhir+json": JSON,
    "application/json": "application/json",
    "text/json": "text/json",
    "Application/FHIR+JSON": JSON,
    "application/fhir+json; charset=utf-8": JSON,
    "application/fhir+xml": XML,
    "application/xml": "application/xml",
    "text/xml": "text/xml",
    "*/*": JSON,
    "application/*": JSON,
    "text/*": "text/json",
    "text/html, */*;q=0.1": JSON,
    "text/html, application/fhir+json;q=0.9": JSON,
    "text/html, application/fhir+xml;q=0.9": XML,
    BROWSER: JSON,
    "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2": JSON,
    # the best quality, then the most specific, then the first
    "application/fhir+json;q=0.5, application/fhir+xml;q=0.6": XML,
    "application/fhir+json;q=0.6, application/fhir+xml;q=0.5": JSON,
    "application/fhir+xml, */*;q=0.9": XML,
    "*/*, application/fhir+xml": XML,
    "application/fhir+xml, application/fhir+json": XML,
    "application/fhir+json, application/fhir+xml": JSON,
    "application/*;q=0.9, text/xml": "text/xml",
    "application/fhir+json;q=0, */*": XML,
    "*/*;q=0.5, application/*;q=0": "text/json",
    "application/fhir+json;q=0, application/fhir+xml;q=0": "",
    "*/*;q=0": "",
    "text/html": "",
    "text/turtle, image/png": "",
    "application/pdf": "",
    "nonsense": "",
    # http.html#version-parameter
    "application/fhir+json; fhirVersion=4.0": JSON,
    'application/fhir+xml; fhirVersion="4.0"': XML,
    "application/fhir+json; fhirVersion=5.0": "",
    "application/fhir+json; fhirVersion=3.0, application/fhir+xml; fhirVersion=4.0": XML,
    "application/fhir+json; charset=iso-8859-1": "",
}
FORMAT = {
    "json": JSON,
    "xml": XML,
    "application/json": "application/json",
    "application/fhir+json": JSON,
    "application%2Ffhir%2Bjson": JSON,
    "application/fhir+xml": XML,
    "application/fhir%2Bxml": XML,
    "application/xml": "application/xml",
    "text/xml": "text/xml",
    "text/json": "text/json",
    "application/fhir%2Bxml;fhirVersion=4.0": XML,
    "application/fhir%2Bxml;fhirVersion=5.0": "",
    "": JSON,
    "text/html": "",
    "ttl": "",
    "json5": "",
}
CONTENT_TYPE = {
    "application/fhir+json": 201,
    "application/json": 201,
    "text/json": 201,
    "application/fhir+json; charset=UTF-8": 201,
    'application/fhir+json; charset="utf-8"': 201,
    "application/fhir+json; fhirVersion=4.0": 201,
    "application/fhir+json; fhirVersion=4.0; charset=utf-8": 201,
    "APPLICATION/JSON": 201,
    "application/fhir+json; fhirVersion=5.0": 415,
    "text/plain": 415,
    "application/x-www-form-urlencoded": 415,
    "application/json-patch+json": 415,
    "application/json; charset=iso-8859-1": 415,
    "application/fhir+json, application/fhir+json": 415,
    "": 415,
}

# Every interaction, with the status that it answers
INTERACTIONS = {
    ("GET", "/metadata"): 200,
    ("GET", "/_history"): 200,
    ("GET", "/Patient"): 200,
    ("GET", "/Patient/_history"): 200,
    ("GET", "/Patient/a"): 200,
    ("GET", "/Patient/a/_history"): 200,
    ("GET", "/Patient/a/_history/1"): 200,
    ("POST", "/Patient"): 201,
    ("PUT", "/Patient/a"): 200,
    ("POST", ""): 200,
    ("DELETE", "/Patient/nobody"): 204,
}
# What has pages, and the reference that makes a record of Patient/a
PAGED = ["/Patient?", "/_history?", "/Patient/_history?", "/Patient/a/$everything?"]
TO_A = {"reference": "Patient/a"}
GENERAL = ["_format=json", "_pretty=true", "_pretty=false", "_summary=false"]
EMPTY = ["_format=", "_pretty=", "_summary=", "_count=", "_since=", "name=", "no-such-thing=", "="]

# Methods that an address does not take, and those that it takes
NOT_ALLOWED = {
    ("POST", "/Patient/a"): "DELETE, GET, HEAD, OPTIONS, PATCH, PUT",
    ("GET", "/Patient/_search"): "OPTIONS, POST",
    ("HEAD", "/Patient/_search"): "OPTIONS, POST",
    ("POST", "/Patient/_history"): "GET, HEAD, OPTIONS",
    ("DELETE", "/Patient/a/_history"): "GET, HEAD, OPTIONS",
    ("PUT", "/Patient/a/_history/1"): "GET, HEAD, OPTIONS",
    ("DELETE", "/Patient/a/_history/1"): "GET, HEAD, OPTIONS",
    ("DELETE", ""): "GET, HEAD, OPTIONS, POST",
    ("PUT", "/Patient/a/Observation"): "GET, HEAD, OPTIONS",
    ("PUT", "/_history"): "GET, HEAD, OPTIONS",
    ("BREW", "/Patient"): "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT",
}
NOT_FOUND = [
    ("GET", "/Nothing"),
    ("GET", "/patient"),
    ("GET", "/Patients/a"),
    ("POST", "/Nothing"),
    ("PUT", "/Nothing/a"),
    ("DELETE", "/Nothing/a"),
    ("GET", "/Nothing/_history"),
    ("GET", "/Resource"),
    ("GET", "/DomainResource/a"),
    ("GET", "/Element"),
    ("GET", "/Patient/a/b"),
    ("GET", "/Patient/a/_history/1/2"),
    ("GET", "/Patient/a/$nothing"),
    ("GET", "/$nothing"),
    ("OPTIONS", "/Nothing"),
    ("OPTIONS", "/_nothing"),
    ("GET", "/_nothing"),
    ("POST", "/_nothing"),
]
NO_IDS = ["a_b", "a%20b", "%C3%A4", "a" * 65, "a%00b", "a,b", "a%2Fb"]


def body(method: str, path: str) -> str | None:
    """Return a body that the interaction accepts."""
    if method not in ("POST", "PUT"):
        return None
    return json.dumps(patient(id="a") if path else transaction())


def written(reply: httpx.Response) -> str:
    """Return the media type of an answer, "" for a 406."""
    return "" if reply.status_code == 406 else reply.headers["Content-Type"].split(";")[0]


async def test_accept_chooses_how_the_answer_is_written(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/a", json=patient(id="a"))

    replies = {h: await client.get("/Patient/a", headers={"Accept": h}) for h in ACCEPT}

    assert {header: written(reply) for header, reply in replies.items()} == ACCEPT
    assert {r.content[:5] for r in replies.values() if "xml" in written(r)} == {b"<?xml"}
    assert issue(replies["text/html"]) == (
        "not-supported",
        "Accept must allow application/fhir+json or application/fhir+xml, of fhirVersion 4.0",
    )


async def test_an_answer_says_that_it_is_utf_8_and_its_version_to_whoever_asked(
    client: httpx.AsyncClient,
) -> None:
    plain = await client.get("/metadata", headers={"Accept": JSON})
    versioned = await client.get("/metadata", headers={"Accept": f"{XML}; fhirVersion=4.0"})

    assert plain.headers["Content-Type"] == f"{JSON}; charset=utf-8"
    assert versioned.headers["Content-Type"] == f"{XML}; charset=utf-8; fhirVersion=4.0"


async def test_a_browser_gets_json_that_people_can_read(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/a", json=patient(id="a"))

    reply = await client.get("/Patient/a", headers={"Accept": BROWSER})

    assert reply.json()["id"] == "a"
    assert len(reply.text.splitlines()) > 5


async def test_an_accept_header_with_a_quality_that_is_none_is_400(
    client: httpx.AsyncClient,
) -> None:
    replies = [
        await client.get("/metadata", headers={"Accept": f"{JSON};q={quality}"})
        for quality in ("x", "2", "-1", "nan", "inf", "")
    ]

    assert {(reply.status_code, issue(reply)) for reply in replies} == {
        (400, ("invalid", "Accept: q must be a number from 0 to 1"))
    }


async def test_a_refusal_is_written_as_the_client_accepts_it(client: httpx.AsyncClient) -> None:
    header = {"Accept": "application/fhir+xml"}

    missing = await client.get("/Patient/nobody", headers=header)
    nowhere = await client.get("/Nothing", headers=header)
    unacceptable = await client.get("/Patient/nobody", headers={"Accept": "image/png"})

    assert [written(missing), written(nowhere)] == [XML, XML]
    assert b"<OperationOutcome" in missing.content
    assert b"<OperationOutcome" in nowhere.content
    assert unacceptable.headers["Content-Type"].split(";")[0] == JSON


async def test_a_client_that_accepts_nothing_in_particular_gets_fhir_json(
    client: httpx.AsyncClient,
) -> None:
    request = client.build_request("GET", "/metadata")
    del request.headers["Accept"]

    reply = await client.send(request)

    assert reply.status_code == 200
    assert reply.headers["Content-Type"].split(";")[0] == "application/fhir+json"


async def test_format_wins_over_accept(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/a", json=patient(id="a"))

    replies = {name: await client.get(f"/Patient/a?_format={name}") for name in FORMAT}
    saved = await client.get("/Patient/a?_format=json", headers={"Accept": "text/html"})
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    posted = await client.post("/Patient/_search", content="_format=xml", headers=form)
    twice = await client.get("/Patient/a?_format=json&_format=xml")

    assert {name: written(reply) for name, reply in replies.items()} == FORMAT
    assert (saved.status_code, written(posted), twice.status_code) == (200, XML, 400)


async def test_the_format_that_a_form_asks_for_wins_over_accept_too(
    client: httpx.AsyncClient,
) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "text/html"}

    named = await client.post("/Patient/_search", content="_format=xml", headers=headers)
    unnamed = await client.post("/Patient/_search", content="_pretty=true", headers=headers)

    assert (named.status_code, written(named)) == (200, XML)
    assert unnamed.status_code == 406


def linked(reply: httpx.Response) -> dict[str, str]:
    """Return the links of a Bundle in XML, by their relation."""
    found = re.findall(r'<relation value="(\w+)"/>\s*<url value="([^"]+)"', reply.text)
    return {relation: html.unescape(url) for relation, url in found}


async def test_the_links_of_a_page_lead_to_pages_in_the_same_format(
    client: httpx.AsyncClient,
) -> None:
    for id in "abc":
        await client.put(f"/Patient/{id}", json=patient(id=id))
        await client.put(f"/Observation/{id}", json=observation(id=id, subject=TO_A))
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    asked = "_format=application/fhir%2Bxml&_pretty=true"

    firsts = [await client.get(f"{path}{asked}&_count=1") for path in PAGED]
    content = f"{asked}&_count=1"
    firsts.append(await client.post("/Patient/_search", content=content, headers=form))
    links = [linked(first) for first in firsts]
    seconds = [await client.get(each["next"]) for each in links]
    again = [await client.get(each["self"]) for each in links]

    assert [written(page) for page in (*firsts, *seconds, *again)] == [XML] * 3 * len(firsts)
    assert all("\n  <" in page.text for page in (*seconds, *again))
    assert [page.content for page in again] == [page.content for page in firsts]
    assert all("_cursor" in linked(page)["self"] for page in seconds)


async def test_a_page_may_be_asked_for_in_another_format_than_the_one_before(
    client: httpx.AsyncClient,
) -> None:
    for id in "ab":
        await client.put(f"/Patient/{id}", json=patient(id=id))

    for path in ("/Patient", "/Patient/_history"):
        plain = link(await client.get(f"{path}?_count=1"), "next") or ""
        asked = link(await client.get(f"{path}?_count=1&_format=json"), "next") or ""

        assert written(await client.get(f"{plain}&_format=xml")) == XML
        assert ids(await client.get(asked.replace("&_format=json", ""))) == ["a"]


async def test_a_write_in_a_format_that_cannot_be_answered_is_not_made(
    client: httpx.AsyncClient,
) -> None:
    header = await client.post("/Patient", json=patient(), headers={"Accept": "text/html"})
    parameter = await client.put("/Patient/a?_format=ttl", json=patient(id="a"))

    assert (header.status_code, parameter.status_code) == (406, 406)
    assert ids(await client.get("/Patient")) == []


async def test_json_in_utf_8_is_what_may_be_sent(client: httpx.AsyncClient) -> None:
    raw = json.dumps(patient())

    replies = {
        header: await client.post("/Patient", content=raw, headers={"Content-Type": header})
        for header in CONTENT_TYPE
    }

    assert {header: reply.status_code for header, reply in replies.items()} == CONTENT_TYPE
    assert issue(replies["text/plain"])[0] == "not-supported"
    assert "application/fhir+json" in issue(replies["text/plain"])[1]


async def test_post_search_takes_a_form(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/a", json=patient(id="a", gender="male"))
    await client.put("/Patient/b", json=patient(id="b"))
    form = {"Content-Type": "application/x-www-form-urlencoded"}

    found = await client.post("/Patient/_search", content="gender=male", headers=form)
    both = await client.post("/Patient/_search?gender=male", content="_id=b", headers=form)
    refused = await client.post("/Patient/_search", content="gender=male")

    assert (ids(found), ids(both)) == (["a"], [])
    assert refused.status_code == 415


async def test_a_form_is_utf_8_percent_encoded_or_not(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/a", json=patient(id="a", name=[{"family": "Zoë"}]))
    form = {"Content-Type": "application/x-www-form-urlencoded"}

    replies = [
        await client.post("/Patient/_search", content=content, headers=form)
        for content in ("family=Zo%C3%AB", "family=Zoë".encode(), "family=Zoë".encode("latin-1"))
    ]

    assert [ids(reply) for reply in replies[:2]] == [["a"], ["a"]]
    assert (replies[2].status_code, issue(replies[2])[1]) == (400, "The form is not UTF-8")


async def test_the_criteria_in_a_header_are_utf_8_too(client: httpx.AsyncClient) -> None:
    body = patient(name=[{"family": "Zoë"}])
    await client.put("/Patient/a", json={**body, "id": "a"})

    replies = [
        await client.post("/Patient", json=body, headers={b"If-None-Exist": query})
        for query in (b"family=Zo%C3%AB", "family=Zoë".encode(), "family=Zoë".encode("latin-1"))
    ]

    assert [reply.status_code for reply in replies] == [200, 200, 400]
    assert issue(replies[2]) == ("invalid", "If-None-Exist is not UTF-8")


async def test_an_operation_without_a_body_needs_no_content_type(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Patient/a", json=patient(id="a"))

    async def nothing() -> AsyncIterator[bytes]:
        yield b""  # sent in chunks: that there are none shows at the end

    async def something() -> AsyncIterator[bytes]:
        yield b"{}"

    replies = []
    for content in (b"", nothing(), something()):
        request = client.build_request("POST", "/Patient/a/$meta", content=content)
        del request.headers["Content-Type"]
        replies.append(await client.send(request))

    assert [reply.status_code for reply in replies] == [200, 200, 415]


async def test_pretty_is_the_same_json_on_several_lines(client: httpx.AsyncClient) -> None:
    raw = '{"resourceType":"Basic","id":"b","code":{"text":"\\u00e4"},"extension":[{"url":"u",'
    plain = await client.put("/Basic/b", content=raw + '"valueDecimal":1.50}]}')

    pretty = await client.get("/Basic/b?_pretty=true")

    assert len(pretty.text.splitlines()) > 5
    assert pretty.json() == plain.json()
    assert '"valueDecimal": 1.50' in pretty.text


async def test_pretty_xml_is_the_same_xml_on_several_lines(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/a", json=patient(id="a"))

    plain = await client.get("/Patient/a?_format=xml")
    pretty = await client.get("/Patient/a?_format=xml&_pretty=true")

    assert len(plain.text.splitlines()) <= 2 < len(pretty.text.splitlines())
    assert "".join(pretty.text.split()) == "".join(plain.text.split())


async def test_pretty_is_true_or_false(client: httpx.AsyncClient) -> None:
    reply = await client.get("/metadata?_pretty=perhaps")

    assert (reply.status_code, issue(reply)) == (400, ("value", "_pretty must be true or false"))


async def test_general_parameters_are_accepted_by_every_interaction(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Patient/a", json=patient(id="a"))

    found = {
        (method, path, query): (
            await client.request(method, f"{path}?{query}", content=body(method, path))
        ).status_code
        for method, path in INTERACTIONS
        for query in GENERAL
    }

    assert found == {
        (*asked, query): status for asked, status in INTERACTIONS.items() for query in GENERAL
    }


async def test_a_parameter_with_an_empty_value_is_ignored_by_every_interaction(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Patient/a", json=patient(id="a"))

    found = {
        (method, path, query): (
            await client.request(method, f"{path}?{query}", content=body(method, path))
        ).status_code
        for method, path in INTERACTIONS
        for query in EMPTY
    }

    assert found == {
        (*asked, query): status for asked, status in INTERACTIONS.items() for query in EMPTY
    }


async def test_an_unknown_parameter_is_refused_by_every_interaction(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Patient/a", json=patient(id="a"))

    replies = {
        (method, path): await client.request(
            method, f"{path}?shoe-size=44", content=body(method, path)
        )
        for method, path in INTERACTIONS
    }

    assert {key: r.status_code for key, r in replies.items()} == dict.fromkeys(INTERACTIONS, 400)
    assert {outcome(r)["issue"][0]["expression"][0] for r in replies.values()} == {"http.shoe-size"}
    assert len((await client.get("/_history")).json()["entry"]) == 1


async def test_a_method_that_an_address_does_not_take_is_405_and_told_which_it_takes(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/Patient/a", json=patient(id="a"))

    replies = {
        (method, path): await client.request(method, path or BASE_URL)
        for method, path in NOT_ALLOWED
    }

    assert {key: r.status_code for key, r in replies.items()} == dict.fromkeys(NOT_ALLOWED, 405)
    assert {key: issue(reply) for key, reply in replies.items() if reply.content} == {
        (method, path): (
            "not-supported",
            f"{method} is not supported here; this address takes {allowed}",
        )
        for (method, path), allowed in NOT_ALLOWED.items()
        if method != "HEAD"
    }
    # RFC 9110, 15.5.6: a 405 must say in Allow which methods there are
    assert {key: reply.headers.get("Allow") for key, reply in replies.items()} == NOT_ALLOWED


async def test_an_unknown_type_or_path_is_404(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/a", json=patient(id="a"))

    replies = {
        (method, path): await client.request(method, path, content=body(method, path))
        for method, path in NOT_FOUND
    }

    assert {key: r.status_code for key, r in replies.items()} == dict.fromkeys(NOT_FOUND, 404)
    assert {issue(reply)[0] for reply in replies.values()} == {"not-found"}
    assert issue(replies["GET", "/Nothing"])[1] == "'Nothing' is not an R4 resource type"


async def test_what_is_no_id_is_refused_in_an_address(client: httpx.AsyncClient) -> None:
    replies = {
        (method, id): await client.request(
            method, f"/Patient/{id}", content=json.dumps(patient(id=id))
        )
        for method in ("GET", "PUT", "DELETE")
        for id in NO_IDS
    }

    assert {key: reply.status_code for key, reply in replies.items()} == dict.fromkeys(replies, 400)
    assert (await client.get("/_history")).json().get("entry", []) == []


async def test_an_encoded_slash_is_no_slash(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/a", json=patient(id="a"))

    replies = [
        await client.get(f"{BASE_URL}/{path}")
        for path in ("Patient%2Fa", "Patient%2fa", "Patient/a%2F_history", "%2FPatient/a")
    ]
    letter = await client.get(f"{BASE_URL}/Patient/%61")

    assert [(reply.status_code, issue(reply)[0]) for reply in replies] == [(400, "invalid")] * 4
    assert letter.status_code == 200


async def test_an_address_that_is_too_long_is_414(client: httpx.AsyncClient) -> None:
    reply = await client.get("/Patient?name=" + "x" * 20_000)

    assert (reply.status_code, issue(reply)[0]) == (414, "too-long")
    assert "_search" in issue(reply)[1]


async def test_what_lies_outside_the_fhir_base_is_no_fhir(client: httpx.AsyncClient) -> None:
    reply = await client.get("http://milepost.test/nothing")

    assert reply.status_code == 404
