"""What a token is, and giving one back."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from app import db
from app.api import grants
from app.config import Settings
from tests.conftest import BASE_URL
from tests.smart.office import HOUR, JWT_BEARER, ROOT, SCOPE, Office, opened
from tests.support.tokens import AUTHORIZED

OFFLINE = f"{SCOPE} offline_access"


@pytest.fixture
async def office(settings: Settings) -> AsyncIterator[Office]:
    """An authorization server."""
    async with opened(settings) as office:
        yield office


async def introspected(office: Office, token: str, **said: Any) -> dict[str, Any]:
    """Return what is said of a token to the client of all tests, which is a system."""
    known = said or {"headers": AUTHORIZED}
    reply = await office.http.post("/oauth/introspect", data={"token": token}, **known)
    assert reply.status_code == 200
    assert reply.headers["cache-control"] == "no-store"
    answer: dict[str, Any] = reply.json()
    return answer


async def revoked(office: Office, token: str, client_id: str, **said: str) -> httpx.Response:
    """Return the answer to a public client that gives a token back."""
    form = {"token": token, "client_id": client_id, **said}
    return await office.http.post("/oauth/revoke", data=form)


async def test_whoever_serves_resources_learns_what_a_token_is_good_for(office: Office) -> None:
    client_id, answer = await office.let_in(scope=OFFLINE)
    account = await grants.find_account(office.database, "ines")

    access = await introspected(office, answer["access_token"])
    refresh = await introspected(office, answer["refresh_token"])

    assert account is not None
    assert access == {
        "active": True,
        "scope": answer["scope"],
        "client_id": client_id,
        "sub": account.id,
        "iss": ROOT,
        "aud": BASE_URL,
        "token_type": "Bearer",
        "patient": "ada",
        "need_patient_banner": True,
        "fhirUser": f"{BASE_URL}/Practitioner/ines",
        "iat": access["iat"],
        "exp": access["iat"] + 3600,
    }
    assert refresh["active"]
    assert "token_type" not in refresh


async def test_of_a_token_that_is_worth_nothing_nothing_else_is_said(office: Office) -> None:
    client_id, used = await office.let_in(scope=OFFLINE)
    await office.refresh(client_id, used["refresh_token"])
    other, given_back = await office.let_in()
    await revoked(office, given_back["access_token"], other)
    _, expired = await office.let_in()
    office.later(HOUR)
    session = grants.new_secret()
    await grants.issue(
        office.database,
        kind="session",
        secret=session,
        family="f",
        now=office.server.now(),
        seconds=60,
    )
    code = await office.code(client_id, await office.account("eve"))
    tokens = {
        "unknown": "x" * 43,
        "odd": "é\u0001",
        "used": used["refresh_token"],
        "given back": given_back["access_token"],
        "expired": expired["access_token"],
        "session": session,
        "code": code,
    }

    found = {name: await introspected(office, token) for name, token in tokens.items()}

    assert found == {name: {"active": False} for name in tokens}


async def test_a_token_of_who_was_sent_away_is_not_active(office: Office) -> None:
    _, answer = await office.let_in(scope=OFFLINE)
    account = await grants.find_account(office.database, "ines")
    assert account is not None

    await grants.disable_account(office.database, account.id)

    assert await introspected(office, answer["access_token"]) == {"active": False}
    assert await introspected(office, answer["refresh_token"]) == {"active": False}


async def test_a_client_learns_of_its_own_tokens_alone(office: Office) -> None:
    _, other = await office.let_in()
    client_id, secret = await office.register("symmetric")
    account = await grants.find_account(office.database, "ines")
    assert account is not None
    code = await office.code(client_id, account)
    mine = (await office.exchange(client_id, code, client_secret=secret)).json()
    auth = (client_id, secret)

    assert (await introspected(office, mine["access_token"], auth=auth))["active"]
    assert await introspected(office, other["access_token"], auth=auth) == {"active": False}


async def test_a_system_shows_who_it_is_by_a_signature_too(office: Office) -> None:
    _, answer = await office.let_in()
    client_id, _ = await office.register("asymmetric", backend=True)
    form = {
        "token": answer["access_token"],
        "client_assertion_type": JWT_BEARER,
        "client_assertion": office.assertion(client_id),
    }

    reply = await office.http.post("/oauth/introspect", data=form)

    assert reply.json()["active"]


async def test_who_does_not_show_who_it_is_learns_nothing(office: Office) -> None:
    public, answer = await office.let_in()
    confidential, _ = await office.register("symmetric")
    form = {"token": answer["access_token"]}
    bearer = {"Authorization": f"Bearer {answer['access_token']}"}

    replies = {
        "nobody": await office.http.post("/oauth/introspect", data=form),
        "public": await office.http.post("/oauth/introspect", data={**form, "client_id": public}),
        "wrong": await office.http.post(
            "/oauth/introspect", data=form, auth=(confidential, "wrong")
        ),
        "workforce": await office.http.post("/oauth/introspect", data=form, headers=bearer),
        "unknown": await office.http.post(
            "/oauth/introspect", data=form, headers={"Authorization": "Bearer x"}
        ),
        "no token": await office.http.post(
            "/oauth/introspect", data={"hint": "x"}, headers=AUTHORIZED
        ),
    }

    assert {name: (r.status_code, r.json()["error"]) for name, r in replies.items()} == {
        "nobody": (400, "invalid_client"),
        "public": (400, "invalid_client"),
        "wrong": (401, "invalid_client"),
        "workforce": (403, "access_denied"),
        "unknown": (401, "invalid_token"),
        "no token": (400, "invalid_request"),
    }


async def test_an_access_token_that_is_given_back_is_worth_nothing(office: Office) -> None:
    client_id, answer = await office.let_in(scope=OFFLINE)

    reply = await revoked(office, answer["access_token"], client_id)

    assert (reply.status_code, reply.json()) == (200, {})
    assert reply.headers["cache-control"] == "no-store"
    assert not await office.is_good(answer["access_token"])
    assert await office.is_good(answer["refresh_token"])


async def test_a_refresh_token_that_is_given_back_takes_its_family_along(office: Office) -> None:
    client_id, answer = await office.let_in(scope=OFFLINE)
    second = (await office.refresh(client_id, answer["refresh_token"])).json()

    await revoked(office, second["refresh_token"], client_id, token_type_hint="access_token")

    tokens = [answer["access_token"], second["access_token"], second["refresh_token"]]
    assert [await office.is_good(token) for token in tokens] == [False] * 3


async def test_giving_back_is_answered_alike_whatever_it_was(office: Office) -> None:
    _, answer = await office.let_in()
    thief, _ = await office.register()

    replies = [
        await revoked(office, answer["access_token"], thief),
        await revoked(office, "x" * 43, thief),
        await revoked(office, "x" * 43, thief, token_type_hint="hello"),
    ]

    assert {(reply.status_code, reply.content) for reply in replies} == {(200, b"{}")}
    assert await office.is_good(answer["access_token"])


async def test_who_gives_back_has_to_show_who_it_is(office: Office) -> None:
    client_id, secret = await office.register("symmetric")
    code = await office.code(client_id, await office.account())
    answer = (await office.exchange(client_id, code, client_secret=secret)).json()

    bare = await revoked(office, answer["access_token"], client_id)
    missing = await office.http.post("/oauth/revoke", auth=(client_id, secret), data={"a": "b"})
    shown = await revoked(office, answer["access_token"], client_id, client_secret=secret)

    assert [r.status_code for r in (bare, missing, shown)] == [400, 400, 200]
    assert not await office.is_good(answer["access_token"])


async def audited(office: Office) -> list[tuple[str, str, int]]:
    """Return the rows of the trail about tokens: code, agent and outcome."""
    codes = ("token", "token-refused", "revoke", "introspect", "launch")
    listed = ", ".join(f"'{code}'" for code in codes)
    query = f"SELECT code, agent, outcome FROM audit WHERE code IN ({listed}) ORDER BY id"
    statement = db.Statement(query, ())
    rows = await office.database.read(lambda connection: connection.rows(statement, {}))
    return [(code, agent, outcome) for code, agent, outcome in rows]


async def test_everything_about_tokens_is_in_the_trail(office: Office) -> None:
    client_id, answer = await office.let_in(scope=OFFLINE)
    account = await grants.find_account(office.database, "ines")
    assert account is not None
    await office.exchange(client_id, "wrong")
    await introspected(office, answer["access_token"])
    await office.http.post("/oauth/introspect", data={"token": "x", "client_id": client_id})
    await office.refresh(client_id, answer["refresh_token"])
    await office.refresh(client_id, answer["refresh_token"])  # used twice
    other, second = await office.let_in()
    await revoked(office, second["access_token"], other)
    system, secret = await office.register("symmetric", backend=True)
    form = {"grant_type": "client_credentials", "scope": "system/*.rs"}
    await office.send(form, auth=(system, secret))
    for place in ("introspect", "launch"):
        await office.http.post(f"/oauth/{place}", headers={"Authorization": "Bearer x"})
    await office.http.post("/oauth/launch", headers=AUTHORIZED, json={"patient": "ada"})

    assert await audited(office) == [
        ("token", account.id, 0),
        ("token-refused", client_id, 4),
        ("introspect", "tests", 0),
        ("introspect", "", 4),  # it has not shown who it is
        ("token", account.id, 0),
        ("revoke", account.id, 4),
        ("token-refused", client_id, 4),
        ("token", account.id, 0),
        ("revoke", account.id, 0),
        ("token", system, 0),
        ("introspect", "", 4),
        ("launch", "", 4),
        ("launch", "tests", 4),
    ]


async def test_no_secret_is_in_the_trail(office: Office) -> None:
    client_id, answer = await office.let_in(scope=OFFLINE)
    symmetric, secret = await office.register("symmetric")
    await office.refresh(client_id, answer["refresh_token"])
    await office.exchange(client_id, answer["access_token"])
    await office.exchange(secret, "a secret in the wrong place")
    await office.send({"grant_type": "refresh_token"}, auth=(secret, symmetric))
    await office.exchange(symmetric, "x", client_secret="wrong")
    statement = db.Statement("SELECT agent, detail FROM audit ORDER BY id", ())

    rows = await office.database.read(lambda connection: connection.rows(statement, {}))

    text = "".join(f"{agent} {detail}" for agent, detail in rows)
    issued = [answer[name] for name in ("access_token", "refresh_token", "id_token")]
    assert not any(one in text for one in (*issued, secret))
    assert [agent for agent, _ in rows][-3:] == ["", "", symmetric]
