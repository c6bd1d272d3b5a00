"""Codes for tokens: what an application gets, and everything that gets it nothing."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from app import logs
from app.api import grants, smart
from app.config import Settings
from tests.conftest import BASE_URL
from tests.smart.office import (
    CALLBACK,
    JWT_BEARER,
    MINUTE,
    ROOT,
    SCOPE,
    VERIFIER,
    Office,
    asking,
    challenge,
    opened,
    query_of,
)


@pytest.fixture
async def office(settings: Settings) -> AsyncIterator[Office]:
    """An authorization server."""
    async with opened(settings) as office:
        yield office


def refused(reply: httpx.Response) -> tuple[int, str]:
    """Return the status and the error of an answer that no cache keeps."""
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["pragma"] == "no-cache"
    assert reply.headers["content-type"] == "application/json"
    assert set(reply.json()) == {"error", "error_description"}
    return reply.status_code, reply.json()["error"]


async def test_a_code_is_good_for_tokens_and_for_what_was_launched(office: Office) -> None:
    client_id, _ = await office.register()
    account = await office.account()
    code = await office.code(client_id, account)

    reply = await office.exchange(client_id, code)

    answer = reply.json()
    assert reply.status_code == 200
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["pragma"] == "no-cache"
    assert (answer["token_type"], answer["expires_in"]) == ("Bearer", 3600)
    assert set(answer["scope"].split()) == set(SCOPE.split())
    assert (answer["patient"], answer["need_patient_banner"]) == ("ada", True)
    assert not {"refresh_token", "refused_scope", "encounter"} & set(answer)
    assert await office.is_good(answer["access_token"])


async def test_an_id_token_says_who_is_there(office: Office) -> None:
    client_id, answer = await office.let_in()
    account = await grants.find_account(office.database, "ines")
    keys = (await office.http.get("/oauth/jwks")).json()

    token = jwt.decode(answer["id_token"], KeySet.import_key_set(keys), algorithms=["RS256"])

    now = office.server.now() // 1_000_000
    assert account is not None
    assert token.claims["iss"] == ROOT
    assert token.claims["sub"] == account.id
    assert token.claims["aud"] == client_id
    assert token.claims["nonce"] == "n-0S6"
    assert token.claims["fhirUser"] == f"{BASE_URL}/Practitioner/ines"
    assert token.claims["iat"] <= now < token.claims["exp"] <= now + 3600
    assert token.claims["auth_time"] <= now
    assert token.header["kid"] == keys["keys"][0]["kid"]


async def test_who_is_there_is_told_to_those_alone_who_may_know(office: Office) -> None:
    _, nobody = await office.let_in(scopes="patient/Patient.r")
    _, somebody = await office.let_in(scopes="openid patient/Patient.r")
    keys = (await office.http.get("/oauth/jwks")).json()

    token = jwt.decode(somebody["id_token"], KeySet.import_key_set(keys), algorithms=["RS256"])

    assert "id_token" not in nobody
    assert "fhirUser" not in token.claims


CHANGES: dict[str, tuple[dict[str, str | None], tuple[int, str]]] = {
    "no grant type": ({"grant_type": None}, (400, "invalid_request")),
    "password grant": ({"grant_type": "password"}, (400, "unsupported_grant_type")),
    "odd grant type": ({"grant_type": 'a"\\é'}, (400, "unsupported_grant_type")),
    "no code": ({"code": None}, (400, "invalid_request")),
    "empty code": ({"code": ""}, (400, "invalid_request")),
    "wrong code": ({"code": "x" * 43}, (400, "invalid_grant")),
    "odd code": ({"code": "\ud7ff\u0001é"}, (400, "invalid_grant")),
    "no redirect URI": ({"redirect_uri": None}, (400, "invalid_grant")),
    "another redirect URI": ({"redirect_uri": f"{CALLBACK}/"}, (400, "invalid_grant")),
    "no verifier": ({"code_verifier": None}, (400, "invalid_request")),
    "empty verifier": ({"code_verifier": ""}, (400, "invalid_request")),
    "short verifier": ({"code_verifier": "short"}, (400, "invalid_request")),
    "wrong verifier": ({"code_verifier": "w" * 43}, (400, "invalid_grant")),
    "the challenge": ({"code_verifier": challenge()}, (400, "invalid_grant")),
    "plain": (
        {"code_verifier": challenge(), "code_challenge_method": "plain"},
        (400, "invalid_request"),
    ),
    "no client": ({"client_id": None}, (400, "invalid_client")),
    "unknown client": ({"client_id": "nobody"}, (400, "invalid_client")),
    "odd client": ({"client_id": "\u0001a"}, (400, "invalid_client")),
    "long client": ({"client_id": "x" * 5000}, (400, "invalid_client")),
    "a secret": ({"client_secret": "guessed"}, (400, "invalid_client")),
    "an assertion": (
        {"client_assertion_type": JWT_BEARER, "client_assertion": "a.b.c"},
        (400, "invalid_client"),
    ),
}


async def test_a_code_is_good_for_nothing_where_something_is_wrong(office: Office) -> None:
    client_id, _ = await office.register()
    code = await office.code(client_id, await office.account())

    replies = {
        name: await office.exchange(client_id, code, **changes)
        for name, (changes, _) in CHANGES.items()
    }
    after = await office.exchange(client_id, code)

    expected = {name: answer for name, (_, answer) in CHANGES.items()}
    assert {name: refused(reply) for name, reply in replies.items()} == expected
    assert after.status_code == 200  # no mistake has used it up


async def test_a_code_of_another_client_is_good_for_nothing(office: Office) -> None:
    account = await office.account()
    client_id, _ = await office.register()
    thief, _ = await office.register()
    code = await office.code(client_id, account)

    reply = await office.exchange(thief, code)

    assert refused(reply) == (400, "invalid_grant")
    assert (await office.exchange(client_id, code)).status_code == 200


async def test_a_reused_code_revokes_its_tokens(office: Office) -> None:
    client_id, _ = await office.register()
    account = await office.account()
    code = await office.code(client_id, account, scope=f"{SCOPE} offline_access")
    first = (await office.exchange(client_id, code)).json()

    again = await office.exchange(client_id, code)

    assert refused(again) == (400, "invalid_grant")
    assert not await office.is_good(first["access_token"])
    assert not await office.is_good(first["refresh_token"])


async def test_of_two_that_use_a_code_at_once_nobody_keeps_a_token(office: Office) -> None:
    client_id, _ = await office.register()
    code = await office.code(client_id, await office.account())

    replies = await asyncio.gather(*(office.exchange(client_id, code) for _ in range(4)))

    assert sorted(reply.status_code for reply in replies) == [200, 400, 400, 400]
    given = [reply.json()["access_token"] for reply in replies if reply.status_code == 200]
    assert not await office.is_good(given[0])


async def test_a_code_is_good_for_a_minute(office: Office) -> None:
    client_id, _ = await office.register()
    code = await office.code(client_id, await office.account())
    office.later(MINUTE)

    reply = await office.exchange(client_id, code)

    assert refused(reply) == (400, "invalid_grant")


async def test_what_is_no_code_is_good_for_nothing(office: Office) -> None:
    client_id, answer = await office.let_in(scope=f"{SCOPE} offline_access")

    replies = [
        await office.exchange(client_id, answer["access_token"]),
        await office.exchange(client_id, answer["refresh_token"]),
    ]

    assert [refused(reply) for reply in replies] == [(400, "invalid_grant")] * 2


async def test_a_disabled_account_lets_nobody_in(office: Office) -> None:
    client_id, _ = await office.register()
    account = await office.account()
    code = await office.code(client_id, account)
    await grants.disable_account(office.database, account.id)

    reply = await office.exchange(client_id, code)

    assert refused(reply) == (400, "invalid_grant")


async def test_a_revoked_client_gets_nothing(office: Office) -> None:
    client_id, _ = await office.register()
    code = await office.code(client_id, await office.account())
    await grants.revoke_client(office.database, client_id)

    reply = await office.exchange(client_id, code)

    assert refused(reply) == (400, "invalid_client")


async def test_a_client_with_a_secret_shows_it_in_one_way(office: Office) -> None:
    client_id, secret = await office.register("symmetric")
    account = await office.account()
    codes = [await office.code(client_id, account) for _ in range(2)]

    basic = await office.send(code_form(codes[0]), auth=(client_id, secret))
    post = await office.exchange(client_id, codes[1], client_secret=secret)

    assert (basic.status_code, post.status_code) == (200, 200)


def code_form(code: str) -> dict[str, str]:
    """Return what goes with a code, but for who asks."""
    return {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": CALLBACK,
        "code_verifier": VERIFIER,
    }


async def test_a_client_with_a_secret_gets_nothing_without_it(office: Office) -> None:
    client_id, secret = await office.register("symmetric")
    _, other = await office.register("symmetric")
    code = await office.code(client_id, await office.account())
    form = code_form(code)
    odd = {"Authorization": "Basic /////w=="}  # no UTF-8

    replies = {
        "none": await office.exchange(client_id, code),
        "wrong": await office.exchange(client_id, code, client_secret="wrong"),
        "another's": await office.exchange(client_id, code, client_secret=other),
        "both": await office.send({**form, "client_secret": secret}, auth=(client_id, secret)),
        "basic": await office.send(form, auth=(client_id, "wrong")),
        "unknown": await office.send(form, auth=("nobody", secret)),
        "odd": await office.send(form, headers=odd),
        "no base64": await office.send(form, headers={"Authorization": "Basic !"}),
        "NUL": await office.send(form, auth=("\0a", "x")),
        "long": await office.send(form, auth=("a" * 40_000, "x")),
        "bearer": await office.send(form, headers={"Authorization": "Bearer x"}),
        "two ids": await office.send({**form, "client_id": "nobody"}, auth=(client_id, secret)),
    }

    assert {name: refused(reply) for name, reply in replies.items()} == {
        "none": (400, "invalid_client"),
        "wrong": (400, "invalid_client"),
        "another's": (400, "invalid_client"),
        "both": (400, "invalid_request"),
        "basic": (401, "invalid_client"),
        "unknown": (401, "invalid_client"),
        "odd": (401, "invalid_client"),
        "no base64": (401, "invalid_client"),
        "NUL": (401, "invalid_client"),
        "long": (401, "invalid_client"),
        "bearer": (401, "invalid_client"),
        "two ids": (400, "invalid_client"),
    }
    assert replies["basic"].headers["www-authenticate"] == 'Basic realm="Milepost"'
    assert replies["basic"].content == replies["unknown"].content  # nobody learns who is known


async def test_a_wrong_secret_and_an_unknown_client_are_answered_alike(office: Office) -> None:
    client_id, _ = await office.register("symmetric")

    wrong = await office.exchange(client_id, "x", client_secret="wrong")
    unknown = await office.exchange("nobody", "x", client_secret="wrong")

    assert (wrong.status_code, wrong.content) == (unknown.status_code, unknown.content)


async def test_a_scope_that_nobody_understands_is_named_and_grants_nothing(
    office: Office,
) -> None:
    odd = "patient/Observation.sr patient/Dragon.r patient/Patient.rs?_include=x hello"
    _, answer = await office.let_in(scope=f"{odd} system/*.r patient/Patient.r")

    assert answer["scope"] == "patient/Patient.r"
    assert set(answer["refused_scope"].split()) == {*odd.split(), "system/*.r"}


async def test_what_a_client_is_not_registered_for_is_not_granted(office: Office) -> None:
    client_id, _ = await office.register(scope="patient/Observation.rs launch/patient")
    asked = "patient/*.cruds user/Patient.rs openid"

    code = await office.code(client_id, await office.account(), scope=asked)
    answer = (await office.exchange(client_id, code)).json()

    assert answer["scope"] == "patient/Observation.rs"
    assert set(answer["refused_scope"].split()) == {"user/Patient.rs", "openid"}


async def test_what_the_account_may_not_is_not_granted(office: Office) -> None:
    client_id, _ = await office.register(scope="user/*.rs patient/*.rs openid")
    admin = await office.account("root", kind="administrator", fhir_user="")

    code = await office.code(client_id, admin, scope="user/*.rs openid", chosen="")
    answer = (await office.exchange(client_id, code)).json()

    assert (answer["scope"], answer["refused_scope"]) == ("openid", "user/*.rs")


async def test_nobody_is_asked_twice_for_what_was_unticked(office: Office) -> None:
    _, answer = await office.let_in(scopes="patient/Patient.r")

    assert answer["scope"] == "patient/Patient.r"
    assert "refused_scope" not in answer


async def test_pages_cannot_add_a_scope(office: Office) -> None:
    _, answer = await office.let_in(scopes="patient/Patient.r patient/*.cruds system/*.cruds")

    assert answer["scope"] == "patient/Patient.r"


FORM = "application/x-www-form-urlencoded"
FORMS: dict[str, tuple[dict[str, Any], int]] = {
    "JSON": ({"json": {"grant_type": "client_credentials"}}, 400),
    "nothing": ({}, 400),
    "no form": ({"content": b"grant_type=x"}, 400),
    "no UTF-8": ({"content": b"grant_type=%ff", "headers": {}}, 400),
    "raw bytes": ({"content": b"\xff\xfe", "headers": {}}, 400),
    "twice": ({"content": b"grant_type=a&grant_type=b", "headers": {}}, 400),
    "zero": ({"content": b"grant_type=a%00", "headers": {}}, 400),
    "many": ({"content": b"&".join(b"a%d=1" % n for n in range(200)), "headers": {}}, 400),
    "long": ({"content": b"grant_type=" + b"x" * 70_000, "headers": {}}, 413),
    "packed": ({"content": b"\x1f\x8b", "headers": {"Content-Encoding": "gzip"}}, 400),
}


@pytest.mark.parametrize("place", ["token", "introspect", "revoke"])
async def test_a_body_that_is_no_form_is_refused(office: Office, place: str) -> None:
    replies = {}
    for name, (said, _) in FORMS.items():
        form = {"Content-Type": FORM} if "headers" in said else {}
        headers = {**form, **said.get("headers", {})}
        replies[name] = await office.http.post(f"/oauth/{place}", **{**said, "headers": headers})

    expected = {name: (status, "invalid_request") for name, (_, status) in FORMS.items()}
    assert {name: refused(reply) for name, reply in replies.items()} == expected


async def test_what_is_in_the_address_does_not_count(office: Office) -> None:
    client_id, _ = await office.register()
    code = await office.code(client_id, await office.account())
    form = {**code_form(code), "client_id": client_id}

    reply = await office.http.post("/oauth/token", params=form, data={"a": "b"})

    assert refused(reply) == (400, "invalid_request")


async def test_tokens_are_not_got_by_get(office: Office) -> None:
    assert (await office.http.get("/oauth/token")).status_code == 405


def test_no_token_is_ever_logged() -> None:
    """Authlib writes what it issues, for those who look for faults."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logs.configure("debug", "json")

        assert root.isEnabledFor(logging.DEBUG)
        assert not logging.getLogger("authlib.oauth2.rfc6749").isEnabledFor(logging.DEBUG)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


async def test_an_address_that_has_a_query_keeps_it(office: Office) -> None:
    client_id, _ = await office.register(redirect_uris=("https://app.example.org/cb?a=b",))
    given = asking(client_id, redirect_uri="https://app.example.org/cb?a=b")
    asked = await smart.requested(office.app.state, tuple(given.items()))

    location = await smart.granted(
        office.app.state,
        asked,
        await office.account(),
        asked.scopes.text.split(),
        "Patient/ada",
        "",
        office.server.now(),
    )

    said = query_of(location)
    assert location.startswith("https://app.example.org/cb?a=b&")
    assert (said["state"], said["iss"], set(said)) == ("xyz", ROOT, {"a", "code", "state", "iss"})


async def test_a_code_without_a_challenge_is_good_for_nothing(office: Office) -> None:
    client_id, _ = await office.register()
    account = await office.account()
    secret = grants.new_secret()
    await grants.issue(
        office.database,
        kind="code",
        secret=secret,
        family="f",
        client=client_id,
        account=account.id,
        scope="patient/Patient.r",
        context={"redirect_uri": CALLBACK},
        now=office.server.now(),
        seconds=60,
    )

    replies = [
        await office.exchange(client_id, secret, code_verifier=None),
        await office.exchange(client_id, secret),
    ]

    assert [refused(reply) for reply in replies] == [(400, "invalid_request")] * 2
