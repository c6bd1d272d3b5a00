"""What somebody tries who means no good, and what it comes to; one test for each fault that was.

https://www.rfc-editor.org/rfc/rfc9700
"""

import asyncio
import base64
import hashlib
import json
import os
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from urllib.parse import urlencode

import pytest

from app import db
from app.api import grants
from app.api.grants import accounts
from app.api.smart.fetching import permitted
from app.api.smart.keys import chosen
from app.config import Settings
from tests.smart.office import CALLBACK, PATIENT_SCOPE, SCOPE, Office, asking, opened
from tests.support.tokens import AUTHORIZED

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
ONLINE, OFFLINE = f"{SCOPE} online_access", f"{SCOPE} offline_access"
LONG = base64.b85encode(os.urandom(12_000)).decode()
WIDE = " ".join(f"user/*.r?_id={n}" for n in range(230))
MANY = " ".join(f"patient/Observation.r?_id={n}" for n in range(101))


@pytest.fixture
async def office(settings: Settings) -> AsyncIterator[Office]:
    """An authorization server."""
    async with opened(settings) as office:
        yield office


async def rows(office: Office, query: str) -> list[tuple[object, ...]]:
    """Return the rows of a statement."""
    statement = db.Statement(query, ())
    found = await office.database.read(lambda connection: connection.rows(statement, {}))
    return [tuple(row) for row in found]


async def written(office: Office, change: db.Change) -> None:
    """Write a change."""
    await office.database.write(lambda connection: connection.change([change]))


# --- theft --------------------------------------------------------------------------------------


async def refreshed(office: Office, secret: str, token: grants.Token, times: int) -> None:
    """Exchange a refresh token for another one again and again, as long as that works."""
    for _ in range(times):
        following = grants.new_secret()
        fresh = [(following, token), (grants.new_secret(), replace(token, kind="access"))]
        if not await grants.exchange(office.database, secret, "refresh", fresh, token.issued):
            return
        secret = following


@pytest.mark.parametrize("pause", range(12))
async def test_a_thief_who_goes_on_refreshing_does_not_survive_the_fall_of_the_family(
    office: Office, pause: int
) -> None:
    now, secret = office.server.now(), grants.new_secret()
    token = grants.Token("refresh", "stolen", "app", issued=now, expires=now + 1_000_000_000)
    await written(office, grants.row_of(secret, token))

    async def fall() -> None:
        await asyncio.sleep(0.002 + pause * 0.001)
        await grants.revoke_family(office.database, "stolen")

    await asyncio.gather(refreshed(office, secret, token, 50), fall())

    good = "SELECT count(*) FROM token WHERE family = 'stolen' AND state = 1"
    assert await rows(office, good) == [(0,)]


async def test_an_assertion_that_comes_many_times_at_once_is_good_once(office: Office) -> None:
    client_id, _ = await office.register("asymmetric", backend=True)
    assertion = office.assertion(client_id)

    replies = await asyncio.gather(*(office.backend(assertion) for _ in range(8)))

    assert sorted(reply.status_code for reply in replies) == [200, *[400] * 7]


async def test_an_assertion_of_one_client_is_not_used_up_by_another(office: Office) -> None:
    first, _ = await office.register("asymmetric", backend=True)
    second, _ = await office.register("asymmetric", backend=True)

    replies = [await office.backend(office.assertion(one, jti="1")) for one in (first, second)]

    assert [reply.status_code for reply in replies] == [200, 200]


async def test_a_secret_of_one_kind_is_none_of_another(office: Office) -> None:
    account, now = await office.account(), office.server.now()
    client_id, answer = await office.let_in(scope=OFFLINE)
    secrets = {"code": await office.code(client_id, account), "refresh": answer["refresh_token"]}
    for kind in ("session", "launch"):
        secrets[kind] = grants.new_secret()
        row = grants.Token(kind, kind, client_id, account.id, issued=now, expires=now + 10**9)
        await written(office, grants.row_of(secrets[kind], row))

    for kind, secret in {**secrets, "access": answer["access_token"]}.items():
        bearer = {"Authorization": f"Bearer {secret}"}
        cookie = {"Cookie": f"milepost_session={secret}"}
        tried = {
            "access": (await office.http.get("/fhir/Patient/ada", headers=bearer)).status_code,
            "code": (await office.exchange(client_id, secret)).status_code,
            "refresh": (await office.refresh(client_id, secret)).status_code,
            "session": (await office.http.get("/oauth/sign-in", headers=cookie)).text.count(
                "Signed in as"
            ),
        }
        good = {name for name, came in tried.items() if came in (200, 1)}
        assert good == {kind} - {"launch"}, kind


async def test_a_refresh_token_of_a_session_that_has_ended_is_not_active(office: Office) -> None:
    account, now, session = await office.account(), office.server.now(), grants.new_secret()
    await grants.issue(
        office.database,
        kind="session",
        secret=session,
        family="sitting",
        account=account.id,
        now=now,
        seconds=3600,
    )
    _, answer = await office.let_in(scope=ONLINE, session="sitting")
    form = {"token": answer["refresh_token"]}
    before = await office.http.post("/oauth/introspect", data=form, headers=AUTHORIZED)

    await grants.revoke_family(office.database, "sitting")

    after = await office.http.post("/oauth/introspect", data=form, headers=AUTHORIZED)
    assert before.json()["active"] is True
    assert after.json() == {"active": False}


# --- what a request costs, and what it leaves ---------------------------------------------------


@pytest.mark.parametrize("scope", [WIDE[:4000], MANY, f"user/*.rs?_id=1{'&_id=1' * 600}"])
async def test_nobody_asks_for_more_scopes_than_are_worth_looking_at(
    office: Office, scope: str
) -> None:
    client_id, _ = await office.register(scope=f"{PATIENT_SCOPE} user/*.rs")
    system, secret = await office.register("symmetric", backend=True)

    reply = await office.http.get("/oauth/authorize", params=asking(client_id, scope=scope))
    form = {"grant_type": "client_credentials", "scope": scope}
    token = await office.send(form, auth=(system, secret))

    assert "error=invalid_scope" in reply.headers["location"]
    assert token.json()["error"] == "invalid_scope"


@pytest.mark.parametrize(
    "name",
    [LONG, "a\0b", "é", "a%00b", ""],
    ids=["long", "NUL", "not ASCII", "encoded", "none"],
)
async def test_who_a_client_says_to_be_is_no_text_for_the_trail(office: Office, name: str) -> None:
    replies = [
        await office.send({"grant_type": "client_credentials"}, auth=(name, "of nobody")),
        await office.send({"grant_type": "client_credentials", "client_id": name, "code": "x"}),
    ]

    assert {reply.status_code for reply in replies} <= {400, 401}
    agents = await rows(office, "SELECT DISTINCT agent FROM audit WHERE code = 'token-refused'")
    assert agents == [("",)]


async def test_a_wrong_secret_is_put_down_to_its_client(office: Office) -> None:
    client_id, _ = await office.register("symmetric", backend=True)

    await office.send({"grant_type": "client_credentials"}, auth=(client_id, "wrong"))

    agents = await rows(office, "SELECT agent FROM audit WHERE code = 'token-refused'")
    assert agents == [(client_id,)]


def test_an_address_of_ipv6_cannot_be_changed_for_its_neighbour() -> None:
    throttle = grants.Throttle()
    for n in range(accounts.ADDRESS_FAILURES):
        throttle.failed(f"2001:db8:1:2::{n:x}", 0)

    assert throttle.wait("2001:db8:1:2:ffff::1", 0)
    assert not throttle.wait("2001:db8:1:3::1", 0)


def test_addresses_of_ipv4_are_not_one_neighbourhood_behind_ipv6() -> None:
    throttle = grants.Throttle()
    for n in range(accounts.ADDRESS_FAILURES):
        throttle.failed(f"::ffff:10.0.0.{n}", 0)

    assert not throttle.wait("::ffff:10.0.0.1", 0)


# --- odd input ----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["[" * 60_000, '{"keys":' + "[" * 5000, "null", "[]", ""])
def test_a_key_set_that_is_none_has_no_key(text: str) -> None:
    assert chosen(text, "ec", "ES384") is None
    assert grants.keys_problem(text)


PAYLOADS = (b"", b"no JSON", b"[]", b"[" * 20_000, b'{"sub":[]}', b'{"exp":1e400}', b"\xff\xfe")
HEADERS = (
    *(b"", b"no JSON", b"[]", b"[" * 20_000, b'{"alg":[]}', b'{"alg":null}', b'{"alg":"none"}'),
    *(
        b'{"alg":"HS256","kid":"ec"}',
        b'{"alg":"ES384","kid":{}}',
        b'{"alg":"ES384","kid":"\\u0000"}',
    ),
    b'{"alg":"ES384","kid":"ec","b64":false}',
    b'{"alg":"ES384","kid":"ec","b64":false,"crit":["b64"]}',
)


def coded(text: bytes) -> str:
    """Return a text in base64url."""
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


@pytest.mark.parametrize("signature", ["", "AAAA", coded(b"x" * 96), "!!"])
async def test_an_assertion_of_odd_parts_shows_nobody(office: Office, signature: str) -> None:
    client_id, _ = await office.register("asymmetric", backend=True)
    claims = json.dumps({"iss": client_id, "sub": client_id, "jti": "1"}).encode()
    parts = [(header, claims) for header in HEADERS]
    parts += [(b'{"alg":"ES384","kid":"ec"}', payload) for payload in PAYLOADS]

    for header, payload in parts:
        reply = await office.backend(f"{coded(header)}.{coded(payload)}.{signature}")
        assert (reply.status_code, reply.json()["error"]) == (400, "invalid_client")


ODD = (
    *("a=%ff", "a=1&a=2", "&&&", "=", "a=%00", "token=%00", "a[]=1", "a=1;b=2", "%", "é"),
    "&".join(f"a{n}=1" for n in range(200)),
    urlencode({"token": "\u202e🤖", "grant_type": "refresh_token", "refresh_token": "\r\nA: b"}),
    urlencode({"grant_type": "authorization_code", "code": "x" * 60_000}),
    "a=" + "x" * 70_000,
)
AUTHORIZATIONS = ("", "Basic", "Basic ", "Basic !!!", "Basic //46YQ==", "Bearer", "Digest a", "é")


@pytest.mark.parametrize("place", ["token", "introspect", "revoke"])
async def test_no_form_makes_the_server_fail(office: Office, place: str) -> None:
    for authorization in AUTHORIZATIONS:
        for body in ODD:
            headers = {**FORM, "Authorization": authorization}
            raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
            reply = await office.http.post(
                f"/oauth/{place}", content=body.encode("utf-8"), headers=raw
            )
            assert reply.status_code in (400, 401, 413), (authorization, body[:40])
            assert reply.headers["cache-control"] == "no-store"
            assert reply.json()["error"]


@pytest.mark.parametrize(
    "uri",
    [
        *(f"{CALLBACK}/", f"{CALLBACK}?a=1", f"{CALLBACK}#", f" {CALLBACK}", f"{CALLBACK}\t"),
        *(CALLBACK.upper(), "https://app.example.org/callback/../evil", f"{CALLBACK}%20"),
        *("https://app.example.org@evil.example/callback", "//app.example.org/callback"),
    ],
)
async def test_a_redirect_uri_that_is_almost_right_is_wrong(office: Office, uri: str) -> None:
    client_id, _ = await office.register()

    reply = await office.http.get("/oauth/authorize", params=asking(client_id, redirect_uri=uri))

    assert reply.status_code == 400
    assert "location" not in reply.headers


@pytest.mark.parametrize("place", ["/oauth/authorize/", "/oauth/sign-in/", "/docs/"])
async def test_no_redirect_is_made_of_what_a_browser_calls_the_host(
    office: Office, place: str
) -> None:
    reply = await office.http.get(place, headers={"Host": "evil.example"})

    assert "evil.example" not in reply.headers.get("location", "")


async def test_no_script_of_others_runs_where_people_sign_in(office: Office) -> None:
    reply = await office.http.get("/docs")

    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", reply.text, re.DOTALL)
    policy = reply.headers["content-security-policy"]
    assert [("integrity=" in about) != bool(own) for about, own in scripts] == [True, True]
    own = base64.b64encode(hashlib.sha256(scripts[1][1].encode()).digest()).decode()
    assert f"'sha256-{own}'" in policy
    assert "frame-ancestors 'none'" in policy
    assert (await office.http.get("/redoc")).status_code == 404


@pytest.mark.parametrize("address", ["fec0::1", "::ffff:10.0.0.1", "::ffff:169.254.169.254"])
def test_an_address_within_a_site_is_not_fetched(address: str) -> None:
    assert not permitted(address, loopback=False)
