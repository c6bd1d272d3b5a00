"""What anybody may know: where to go, what works there, and who may read it from a browser."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from app import db
from app.api import grants
from app.config import Settings
from app.fhir.access import parse_scopes
from app.main import create_app
from tests.conftest import BASE_URL
from tests.smart.office import ROOT, Office, opened
from tests.support.application import started
from tests.support.tokens import AUTHORIZED

APP = "https://app.example.org"
OTHER = "https://other.example.org"
EVIL = "https://evil.example.org"
SMART = "/fhir/.well-known/smart-configuration"
OPENID = "/.well-known/openid-configuration"


@pytest.fixture
async def office(settings: Settings) -> AsyncIterator[Office]:
    """An authorization server."""
    async with opened(settings) as office:
        yield office


async def documents(office: Office) -> dict[str, dict[str, Any]]:
    """Return what anybody may read."""
    places = (SMART, OPENID, "/.well-known/oauth-authorization-server")
    replies = {place: await office.http.get(place) for place in places}
    assert {reply.status_code for reply in replies.values()} == {200}
    assert {r.headers["content-type"] for r in replies.values()} == {"application/json"}
    return {place: reply.json() for place, reply in replies.items()}


async def test_an_application_finds_where_to_go(office: Office) -> None:
    found = await documents(office)

    for said in found.values():
        assert said["issuer"] == ROOT
        assert said["authorization_endpoint"] == f"{ROOT}/oauth/authorize"
        assert said["token_endpoint"] == f"{ROOT}/oauth/token"
        assert said["introspection_endpoint"] == f"{ROOT}/oauth/introspect"
        assert said["revocation_endpoint"] == f"{ROOT}/oauth/revoke"
        assert said["jwks_uri"] == f"{ROOT}/oauth/jwks"
        assert said["code_challenge_methods_supported"] == ["S256"]
        assert said["response_types_supported"] == ["code"]
        assert said["token_endpoint_auth_signing_alg_values_supported"] == ["RS384", "ES384"]
    assert found["/.well-known/oauth-authorization-server"] == found[OPENID]
    assert found[OPENID]["id_token_signing_alg_values_supported"] == ["RS256"]
    assert found[OPENID]["subject_types_supported"] == ["public"]


async def test_what_is_listed_is_what_works(office: Office) -> None:
    said = (await documents(office))[SMART]
    scopes = parse_scopes(" ".join(said["scopes_supported"]), office.server.language)

    assert scopes.refused == ()
    assert {"launch-ehr", "launch-standalone", "permission-v2", "sso-openid-connect"} <= set(
        said["capabilities"]
    )
    assert not {"context-standalone-encounter", "smart-app-state"} & set(said["capabilities"])
    assert "registration_endpoint" not in said
    assert set(said["grant_types_supported"]) == {
        "authorization_code",
        "refresh_token",
        "client_credentials",
    }


async def test_the_capability_statement_says_where_to_go(office: Office) -> None:
    statement = (await office.http.get("/fhir/metadata")).json()

    security = statement["rest"][0]["security"]
    (oauth,) = security["extension"]
    coding = security["service"][0]["coding"][0]
    assert coding["code"] == "SMART-on-FHIR"
    assert {one["url"]: one["valueUri"] for one in oauth["extension"]} == {
        "token": f"{ROOT}/oauth/token",
        "authorize": f"{ROOT}/oauth/authorize",
        "introspect": f"{ROOT}/oauth/introspect",
        "revoke": f"{ROOT}/oauth/revoke",
    }


async def test_keys_are_shown_by_their_public_half(office: Office) -> None:
    reply = await office.http.get("/oauth/jwks")

    (key,) = reply.json()["keys"]
    assert set(key) == {"kty", "n", "e", "kid", "use", "alg"}
    assert "max-age" in reply.headers["cache-control"]


async def test_a_key_that_was_rotated_is_still_shown(office: Office) -> None:
    (before,) = (await office.http.get("/oauth/jwks")).json()["keys"]
    await grants.rotate_keys(office.database, office.server.now())

    keys = (await office.http.get("/oauth/jwks")).json()["keys"]
    _, answer = await office.let_in()

    header = json.loads(base64.urlsafe_b64decode(answer["id_token"].split(".")[0] + "=="))
    assert [key["kid"] for key in keys][1:] == [before["kid"]]
    assert header["kid"] == keys[0]["kid"] != before["kid"]


PREFIXES = {
    "http://milepost.test/fhir": "",
    "http://milepost.test/a/b/fhir": "/a/b",
    "http://milepost.test/a": "",
    "http://milepost.test": "",
}


@pytest.mark.parametrize("base", PREFIXES)
async def test_the_root_is_above_the_api(database_url: str, base: str) -> None:
    root = f"http://milepost.test{PREFIXES[base]}"
    app = create_app(Settings(database_url=database_url, base_url=base, log_level="warning"))
    async with started(app), httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
        found = await client.get(f"{base}/.well-known/smart-configuration")
        openid = await client.get(f"{root}{OPENID}")
        other = f"http://milepost.test/.well-known/oauth-authorization-server{PREFIXES[base]}"
        named = await client.get(other)
        token = await client.post(f"{root}/oauth/token", data={"grant_type": "x"})
        read = await client.get(f"{base}/Patient/nobody", headers=AUTHORIZED)

    assert found.json()["issuer"] == root
    assert openid.json() == named.json()
    assert token.json()["error"] == "unsupported_grant_type"
    assert read.status_code == 404


# --- pages of other origins ---------------------------------------------------------------------


def allowed(reply: httpx.Response) -> str:
    """Return whose pages may read an answer, "" for nobody's."""
    return str(reply.headers.get("access-control-allow-origin", ""))


async def test_any_page_reads_what_anybody_may_know(office: Office) -> None:
    places = (SMART, OPENID, "/oauth/jwks", "/fhir/metadata")

    replies = [await office.http.get(place, headers={"Origin": EVIL}) for place in places]

    assert [allowed(reply) for reply in replies] == ["*"] * 4


async def test_pages_of_registered_applications_call_the_api(office: Office) -> None:
    await office.register()
    await office.register("symmetric", redirect_uris=(f"{OTHER}/callback",))
    origins = (APP, OTHER, EVIL, "null")

    async def answers(place: str) -> list[str]:
        """Return whose pages may read what is at a place."""
        replies = [
            await office.http.post(place, data={"a": "b"}, headers={"Origin": origin})
            for origin in origins
        ]
        return [allowed(reply) for reply in replies]

    assert await answers("/oauth/token") == [APP, "", "", ""]
    assert await answers("/oauth/introspect") == [APP, "", "", ""]
    assert await answers("/oauth/revoke") == [APP, "", "", ""]
    assert await answers("/fhir/Patient/_search") == [APP, "", "", ""]


async def test_a_page_asks_first_whether_it_may(office: Office) -> None:
    await office.register()
    asks = {
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "authorization",
    }

    good = await office.http.options("/fhir/Patient/ada", headers={"Origin": APP, **asks})
    evil = await office.http.options("/fhir/Patient/ada", headers={"Origin": EVIL, **asks})

    assert (good.status_code, allowed(good)) == (200, APP)
    assert good.headers["access-control-allow-headers"] == "authorization"
    assert (evil.status_code, allowed(evil)) == (400, "")


async def test_the_reason_of_a_refusal_can_be_read_by_a_page(office: Office) -> None:
    await office.register()

    reply = await office.http.get("/fhir/Patient/ada", headers={"Origin": APP})

    assert reply.status_code == 401
    assert allowed(reply) == APP
    assert "www-authenticate" in reply.headers["access-control-expose-headers"].lower()


async def test_no_page_reads_where_people_sign_in(office: Office) -> None:
    await office.register()
    places = ("/oauth/authorize", "/oauth/sign-in", "/oauth/launch", "/docs", "/openapi.json")

    replies = [await office.http.get(place, headers={"Origin": APP}) for place in places]

    assert [allowed(reply) for reply in replies] == [""] * 5
    assert not any("access-control-allow-credentials" in reply.headers for reply in replies)


async def test_a_revoked_application_has_no_origin(office: Office) -> None:
    client_id, _ = await office.register()
    await grants.revoke_client(office.database, client_id)

    reply = await office.http.post("/oauth/token", data={"a": "b"}, headers={"Origin": APP})

    assert allowed(reply) == ""


async def test_origins_of_the_settings_call_the_api_as_well(database_url: str) -> None:
    settings = Settings(
        database_url=database_url, base_url=BASE_URL, log_level="warning", cors_origins=OTHER
    )
    async with opened(settings) as office:
        await office.register()

        async def answer(origin: str) -> str:
            """Return whether a page of that origin may read what a token is good for."""
            reply = await office.http.post("/oauth/token", data={}, headers={"Origin": origin})
            return allowed(reply)

        assert [await answer(one) for one in (APP, OTHER, EVIL)] == [APP, OTHER, ""]


async def test_the_first_key_leaves_a_row_and_no_later_look_at_it(office: Office) -> None:
    for _ in range(2):
        reply = await office.http.get("/oauth/jwks")
        assert len(reply.json()["keys"]) == 1

    statement = db.Statement("SELECT agent, outcome FROM audit WHERE code = 'key'", ())
    found = await office.database.read(lambda connection: connection.rows(statement, {}))
    assert [tuple(row) for row in found] == [("system", 0)]
