"""Refresh tokens: each is good once, for no more than was granted, and falls with its family."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from app.api import grants
from app.config import Settings
from tests.smart.office import HOUR, Office, opened

DAY = 24 * HOUR
SCOPE = "openid launch/patient patient/Observation.rs patient/Patient.r"
OFFLINE = f"{SCOPE} offline_access"
ONLINE = f"{SCOPE} online_access"
SESSION = "session-of-ines"


@pytest.fixture
async def office(settings: Settings) -> AsyncIterator[Office]:
    """An authorization server."""
    async with opened(settings) as office:
        yield office


def refused(reply: httpx.Response) -> tuple[int, str]:
    """Return the status and the error of an answer."""
    return reply.status_code, reply.json()["error"]


async def test_a_refresh_token_is_good_for_new_tokens_about_the_same(office: Office) -> None:
    client_id, first = await office.let_in(scope=OFFLINE)

    reply = await office.refresh(client_id, first["refresh_token"])

    second = reply.json()
    assert reply.status_code == 200
    assert reply.headers["cache-control"] == "no-store"
    assert set(second["scope"].split()) == set(OFFLINE.split())
    assert second["patient"] == "ada"
    assert second["access_token"] != first["access_token"]
    assert second["refresh_token"] != first["refresh_token"]
    assert "id_token" not in second


async def test_a_refresh_token_that_comes_twice_revokes_its_family(office: Office) -> None:
    client_id, first = await office.let_in(scope=OFFLINE)
    second = (await office.refresh(client_id, first["refresh_token"])).json()

    again = await office.refresh(client_id, first["refresh_token"])

    assert refused(again) == (400, "invalid_grant")
    every = [
        answer[kind] for answer in (first, second) for kind in ("access_token", "refresh_token")
    ]
    assert [await office.is_good(token) for token in every] == [False] * 4
    assert refused(await office.refresh(client_id, second["refresh_token"]))[0] == 400


async def test_of_two_that_refresh_at_once_nobody_keeps_a_token(office: Office) -> None:
    client_id, first = await office.let_in(scope=OFFLINE)
    token = first["refresh_token"]

    replies = await asyncio.gather(*(office.refresh(client_id, token) for _ in range(4)))

    given = [reply.json() for reply in replies if reply.status_code == 200]
    assert len(given) == 1
    assert not await office.is_good(given[0]["access_token"])
    assert not await office.is_good(given[0]["refresh_token"])


async def test_a_scope_can_be_narrowed_and_comes_back(office: Office) -> None:
    client_id, first = await office.let_in(scope=OFFLINE)

    narrow = await office.refresh(
        client_id, first["refresh_token"], scope="patient/Observation.r?status=final"
    )
    wide = await office.refresh(client_id, narrow.json()["refresh_token"])

    assert narrow.json()["scope"] == "patient/Observation.r?status=final"
    assert set(wide.json()["scope"].split()) == set(OFFLINE.split())


WIDER = (
    "patient/Observation.cruds",
    "patient/*.rs",
    "patient/Patient.rs",
    "user/Observation.rs",
    "system/*.cruds",
    "fhirUser",
    "hello",
    f"{OFFLINE} patient/Condition.r",
)


async def test_a_scope_is_never_widened(office: Office) -> None:
    client_id, first = await office.let_in(scope=OFFLINE)

    replies = [
        await office.refresh(client_id, first["refresh_token"], scope=scope) for scope in WIDER
    ]
    after = await office.refresh(client_id, first["refresh_token"])

    assert [refused(reply) for reply in replies] == [(400, "invalid_scope")] * len(WIDER)
    assert after.status_code == 200


async def test_a_refresh_token_is_that_of_its_client(office: Office) -> None:
    client_id, first = await office.let_in(scope=OFFLINE)
    thief, _ = await office.register()

    stolen = await office.refresh(thief, first["refresh_token"])
    odd = await office.refresh(client_id, "x" * 43)
    access = await office.refresh(client_id, first["access_token"])
    missing = await office.send({"grant_type": "refresh_token", "client_id": client_id})

    assert [refused(reply) for reply in (stolen, odd, access)] == [(400, "invalid_grant")] * 3
    assert refused(missing) == (400, "invalid_request")
    assert (await office.refresh(client_id, first["refresh_token"])).status_code == 200


async def test_a_confidential_client_has_to_show_who_it_is(office: Office) -> None:
    client_id, secret = await office.register("symmetric")
    code = await office.code(client_id, await office.account(), scope=OFFLINE)
    first = (await office.exchange(client_id, code, client_secret=secret)).json()

    bare = await office.refresh(client_id, first["refresh_token"])
    shown = await office.refresh(client_id, first["refresh_token"], client_secret=secret)

    assert refused(bare) == (400, "invalid_client")
    assert shown.status_code == 200


async def test_offline_access_ends_ninety_days_after_it_was_last_used(office: Office) -> None:
    client_id, first = await office.let_in(scope=OFFLINE)
    office.later(89 * DAY)
    second = (await office.refresh(client_id, first["refresh_token"])).json()
    office.later(90 * DAY)

    late = await office.refresh(client_id, second["refresh_token"])

    assert refused(late) == (400, "invalid_grant")


async def signed_in(office: Office) -> str:
    """Return the secret of a session."""
    secret = grants.new_secret()
    await grants.issue(
        office.database,
        kind="session",
        secret=secret,
        family=SESSION,
        now=office.server.now(),
        seconds=8 * 3600,
    )
    return secret


async def test_online_access_ends_with_the_session(office: Office) -> None:
    secret = await signed_in(office)
    client_id, first = await office.let_in(scope=ONLINE, session=SESSION)
    second = (await office.refresh(client_id, first["refresh_token"])).json()
    await grants.revoke(office.database, secret)

    late = await office.refresh(client_id, second["refresh_token"])

    assert refused(late) == (400, "invalid_grant")


async def test_offline_access_outlives_the_session(office: Office) -> None:
    secret = await signed_in(office)
    both = f"{ONLINE} offline_access"
    client_id, first = await office.let_in(scope=both, session=SESSION)
    await grants.revoke(office.database, secret)

    reply = await office.refresh(client_id, first["refresh_token"])

    assert reply.status_code == 200


async def test_without_either_scope_or_the_grant_there_is_no_refresh_token(
    office: Office,
) -> None:
    _, neither = await office.let_in(scope=SCOPE)
    client_id, _ = await office.register(grant_types=("authorization_code",))
    account = await grants.find_account(office.database, "ines")
    assert account is not None
    code = await office.code(client_id, account, scope=OFFLINE)
    unregistered = (await office.exchange(client_id, code)).json()

    assert "refresh_token" not in neither
    assert "refresh_token" not in unregistered


async def test_what_a_client_or_an_account_lost_is_not_refreshed(office: Office) -> None:
    client_id, first = await office.let_in(scope=OFFLINE)
    account = await grants.find_account(office.database, "ines")
    assert account is not None
    await grants.disable_account(office.database, account.id)

    reply = await office.refresh(client_id, first["refresh_token"])

    assert refused(reply) == (400, "invalid_grant")
