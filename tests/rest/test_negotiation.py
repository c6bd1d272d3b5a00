"""http.html#mime-type, #parameters and #Status-Codes: formats, general parameters, addresses."""

import json

import httpx

from tests.conftest import BASE_URL
from tests.support.replies import ids, issue, outcome
from tests.support.resources import patient, transaction

ACCEPT = {
    "application/fhir+json": 200,
    "application/json": 200,
    "Application/FHIR+JSON": 200,
    "application/fhir+json; charset=utf-8": 200,
    "application/fhir+json; fhirVersion=4.0": 200,
    "text/html, application/fhir+json;q=0.9": 200,
    "*/*": 200,
    "application/*": 200,
    "text/html, */*;q=0.1": 200,
    "application/fhir+xml": 406,
    "application/xml": 406,
    "text/html": 406,
    "text/turtle, application/fhir+xml": 406,
}
FORMAT = {
    "json": 200,
    "application/json": 200,
    "application/fhir+json": 200,
    "application%2Ffhir%2Bjson": 200,
    "": 200,
    "xml": 406,
    "application/fhir%2Bxml": 406,
    "text/html": 406,
    "ttl": 406,
    "json5": 406,
}
CONTENT_TYPE = {
    "application/fhir+json": 201,
    "application/json": 201,
    "application/fhir+json; charset=UTF-8": 201,
    'application/fhir+json; charset="utf-8"': 201,
    "application/fhir+json; fhirVersion=4.0": 201,
    "APPLICATION/JSON": 201,
    "application/fhir+xml": 415,
    "application/xml": 415,
    "text/plain": 415,
    "application/x-www-form-urlencoded": 415,
    "application/json-patch+json": 415,
    "application/json; charset=iso-8859-1": 415,
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
GENERAL = ["_format=json", "_pretty=true", "_pretty=false", "_summary=false"]
EMPTY = ["_format=", "_pretty=", "_summary=", "_count=", "_since=", "name=", "no-such-thing=", "="]

# Methods that an address does not take, and those that it takes
NOT_ALLOWED = {
    ("PATCH", "/Patient/a"): "DELETE, GET, PUT",
    ("POST", "/Patient/a"): "DELETE, GET, PUT",
    ("DELETE", "/Patient"): "GET, POST",
    ("PUT", "/Patient"): "GET, POST",
    ("GET", "/Patient/_search"): "POST",
    ("POST", "/Patient/_history"): "GET",
    ("DELETE", "/Patient/a/_history"): "GET",
    ("PUT", "/Patient/a/_history/1"): "GET",
    ("DELETE", "/Patient/a/_history/1"): "GET",
    ("DELETE", ""): "GET, POST",
    ("PUT", "/Patient/a/Observation"): "GET",
    ("PUT", "/_history"): "GET",
    ("OPTIONS", "/Patient"): "GET, POST",
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
    ("GET", "/Patient/a/$everything"),
    ("GET", "/$export"),
    ("GET", "/_nothing"),
    ("POST", "/_nothing"),
]
NO_IDS = ["a_b", "a%20b", "%C3%A4", "a" * 65, "a%00b", "a,b", "a%2Fb"]


def body(method: str, path: str) -> str | None:
    """Return a body that the interaction accepts."""
    if method not in ("POST", "PUT"):
        return None
    return json.dumps(patient(id="a") if path else transaction())


async def test_json_is_what_may_be_accepted(client: httpx.AsyncClient) -> None:
    await client.put("/Patient/a", json=patient(id="a"))

    replies = {h: await client.get("/Patient/a", headers={"Accept": h}) for h in ACCEPT}

    assert {header: reply.status_code for header, reply in replies.items()} == ACCEPT
    assert issue(replies["text/html"]) == (
        "not-supported",
        "Accept must allow application/fhir+json",
    )


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

    assert {name: reply.status_code for name, reply in replies.items()} == FORMAT
    assert saved.status_code == 200


async def test_a_write_in_a_format_that_cannot_be_answered_is_not_made(
    client: httpx.AsyncClient,
) -> None:
    header = await client.post("/Patient", json=patient(), headers={"Accept": "text/html"})
    parameter = await client.put("/Patient/a?_format=xml", json=patient(id="a"))

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


async def test_pretty_is_the_same_json_on_several_lines(client: httpx.AsyncClient) -> None:
    raw = '{"resourceType":"Basic","id":"b","code":{"text":"\\u00e4"},"extension":[{"url":"u",'
    plain = await client.put("/Basic/b", content=raw + '"valueDecimal":1.50}]}')

    pretty = await client.get("/Basic/b?_pretty=true")

    assert len(pretty.text.splitlines()) > 5
    assert pretty.json() == plain.json()
    assert '"valueDecimal": 1.50' in pretty.text


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
    assert {key: issue(reply) for key, reply in replies.items()} == {
        (method, path): (
            "not-supported",
            f"{method} is not supported here; this address takes {allowed}",
        )
        for (method, path), allowed in NOT_ALLOWED.items()
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

    # an encoded slash is a slash to ASGI: there is no such address
    assert {key: reply.status_code for key, reply in replies.items()} == {
        (method, id): 404 if "%2F" in id else 400 for method, id in replies
    }
    assert (await client.get("/_history")).json().get("entry", []) == []


async def test_an_address_that_is_too_long_is_414(client: httpx.AsyncClient) -> None:
    reply = await client.get("/Patient?name=" + "x" * 20_000)

    assert (reply.status_code, issue(reply)[0]) == (414, "too-long")
    assert "_search" in issue(reply)[1]


async def test_what_lies_outside_the_fhir_base_is_no_fhir(client: httpx.AsyncClient) -> None:
    reply = await client.get("http://milepost.test/nothing")

    assert reply.status_code == 404
