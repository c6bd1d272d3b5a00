"""Who is let in: tokens in requests, what is answered without one, and how soon one is over."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI

from app import db
from app.api import bearer as bearing
from app.api import grants, http
from app.api.bearer import Bearer
from app.config import Settings
from app.fhir.access import Kind
from app.fhir.rest import Server
from app.main import create_app
from tests.support.application import started
from tests.support.resources import patient
from tests.support.tokens import CLIENT, TOKEN

SECOND = 1_000_000
PASSWORD = "correct horse battery"
SUBJECT = "account-1"


class Gate:
    """A running server without a token, whose clock is turned by hand."""

    def __init__(self, app: FastAPI, client: httpx.AsyncClient) -> None:
        self.app = app
        self.client = client
        self.server: Server = app.state.server
        self.now = self.server.now()
        app.state.server = self.server = replace(self.server, now=lambda: self.now)

    @property
    def database(self) -> db.Database:
        return self.server.database

    async def token(self, **given: Any) -> str:
        """Return a new token; what is not said is that of a client which may do anything."""
        secret = grants.new_secret()
        known = {"client": CLIENT, "scope": "system/*.cruds", "seconds": 60, "family": "f", **given}
        await grants.issue(self.database, kind="access", secret=secret, now=self.now, **known)
        return secret

    async def account(self, kind: Kind, fhir_user: str = "") -> None:
        """Add the account of `SUBJECT`."""
        await grants.add_account(
            self.database,
            id=SUBJECT,
            name="anne",
            kind=kind,
            roles=["nurse"],
            fhir_user=fhir_user,
            organization="Organization/1",
            password=PASSWORD,
            once=False,
            now=self.now,
        )

    async def get(self, path: str, *tokens: str) -> httpx.Response:
        """Ask with the tokens in as many headers."""
        headers = [("Authorization", f"Bearer {token}") for token in tokens]
        return await self.client.get(path, headers=headers)

    async def status(self, token: str) -> int:
        """Return how a search is answered."""
        return (await self.get("/Patient", token)).status_code


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Gate]:
    """Yield a gate on the database of these settings."""
    app = create_app(settings)
    async with started(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=settings.base_url) as client:
            yield Gate(app, client)


@pytest.fixture
async def gate(settings: Settings) -> AsyncIterator[Gate]:
    """A running server of this test."""
    async with opened(settings) as found:
        yield found


def issues(reply: httpx.Response) -> list[tuple[str, str]]:
    """Return the codes and texts of an OperationOutcome."""
    outcome = reply.json()
    assert outcome["resourceType"] == "OperationOutcome"
    return [(issue["code"], issue["diagnostics"]) for issue in outcome["issue"]]


# --- what is answered without a token -----------------------------------------------------------

NO_TOKEN = 'Bearer realm="Milepost"'


@pytest.mark.parametrize(
    ("headers", "challenge", "text"),
    [
        ({}, NO_TOKEN, bearing.ABSENT),
        ({"Authorization": ""}, NO_TOKEN, bearing.ABSENT),
        ({"Authorization": "Basic YTpi"}, NO_TOKEN, bearing.ABSENT),
        ({"Authorization": "Bearer"}, bearing.INVALID_REQUEST, bearing.MALFORMED),
        ({"Authorization": "Bearer "}, bearing.INVALID_REQUEST, bearing.MALFORMED),
        ({"Authorization": "Bearer a b"}, bearing.INVALID_REQUEST, bearing.MALFORMED),
        ({"Authorization": b"Bearer \xff"}, bearing.INVALID_REQUEST, bearing.MALFORMED),
        ({"Authorization": "Bearer " + "x" * 2000}, bearing.INVALID_REQUEST, bearing.MALFORMED),
        ({"Authorization": "Bearer guess"}, bearing.INVALID_TOKEN, bearing.UNKNOWN),
        ({"Authorization": "Bearer a.b.c"}, bearing.INVALID_TOKEN, bearing.UNKNOWN),
    ],
    ids=range(10),
)
async def test_who_has_no_good_token_is_told_how_to_get_in(
    gate: Gate, headers: dict[str, str | bytes], challenge: str, text: str
) -> None:
    reply = await gate.client.get("/Patient", headers=headers)  # type: ignore[arg-type]

    assert reply.status_code == 401
    assert reply.headers["WWW-Authenticate"] == challenge
    assert issues(reply) == [("login", text)]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/Patient/1"),
        ("GET", "/"),
        ("GET", "/Nothing"),
        ("POST", ""),
        ("PUT", "/Patient/1"),
        ("DELETE", "/Patient/1"),
        ("PATCH", "/Patient/1"),
        ("POST", "/Patient/_search"),
        ("GET", "/_history"),
        ("GET", "/Patient/1/$everything"),
        ("GET", "/ValueSet/$expand"),
        ("GET", "/_async/1"),
        ("OPTIONS", "/Patient"),
        ("HEAD", "/Patient"),
        ("GET", "/metadata/"),
        ("GET", "/metadata/1"),
        ("POST", "/Metadata"),
    ],
)
async def test_nobody_is_told_anything_without_a_token(gate: Gate, method: str, path: str) -> None:
    reply = await gate.client.request(method, path)

    allowed = path.strip("/") == "metadata"
    assert (reply.status_code == 401) is not allowed


async def test_the_capability_statement_is_for_everybody(gate: Gate) -> None:
    reply = await gate.client.get("/metadata", headers={"Authorization": "Bearer guess"})

    assert reply.status_code == 200
    assert (await gate.client.options("/metadata")).status_code == 204


async def test_a_refusal_is_in_the_format_that_was_asked_for(gate: Gate) -> None:
    reply = await gate.client.get("/Patient", params={"_format": "xml"})

    assert reply.status_code == 401
    assert reply.headers["Content-Type"].startswith("application/fhir+xml")


async def test_two_authorizations_contradict_each_other(gate: Gate) -> None:
    reply = await gate.get("/Patient", TOKEN, TOKEN)

    assert reply.status_code == 400


@pytest.mark.parametrize("handling", ["strict", "lenient"])
async def test_a_token_in_a_query_is_refused(gate: Gate, handling: str) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "Prefer": f"handling={handling}"}
    form = {"Content-Type": "application/x-www-form-urlencoded"}

    url = await gate.client.get(f"/Patient?access_token={TOKEN}", headers=headers)
    alone = await gate.client.get(f"/Patient?access_token={TOKEN}")
    body = await gate.client.post(
        "/Patient/_search", headers={**headers, **form}, content=f"access_token={TOKEN}"
    )

    assert (url.status_code, body.status_code) == (400, 400)
    assert alone.status_code in (400, 401)
    assert TOKEN not in url.text + alone.text + body.text


async def test_the_scheme_may_be_written_in_any_case(gate: Gate) -> None:
    reply = await gate.client.get("/Patient", headers={"Authorization": f"bEARER  {TOKEN}"})

    assert reply.status_code == 200


# --- how long a token is good -------------------------------------------------------------------


async def test_a_token_is_over_when_it_expires(gate: Gate) -> None:
    token = await gate.token(seconds=60)

    before = await gate.status(token)
    gate.now += 60 * SECOND

    assert (before, await gate.status(token)) == (200, 401)


async def test_a_token_that_is_remembered_expires_to_the_microsecond(gate: Gate) -> None:
    token = await gate.token(seconds=0.5)

    before = await gate.status(token)
    gate.now += SECOND // 2

    assert (before, await gate.status(token)) == (200, 401)


async def test_a_revoked_token_is_worth_nothing_a_second_later(gate: Gate) -> None:
    token = await gate.token()
    assert await gate.status(token) == 200

    await grants.revoke(gate.database, token)
    gate.now += SECOND

    assert await gate.status(token) == 401


async def test_a_disabled_account_is_let_in_no_more(gate: Gate) -> None:
    await gate.account("workforce", "Practitioner/1")
    token = await gate.token(account=SUBJECT, scope="user/*.rs")
    assert await gate.status(token) == 200

    await grants.disable_account(gate.database, SUBJECT)
    gate.now += SECOND

    assert await gate.status(token) == 401


async def test_a_token_that_somehow_outlives_its_account_is_not_good(gate: Gate) -> None:
    await gate.account("workforce", "Practitioner/1")
    await grants.disable_account(gate.database, SUBJECT)

    token = await gate.token(account=SUBJECT, scope="user/*.rs")

    assert await gate.status(token) == 401
    assert await gate.status(await gate.token(account="nobody")) == 401


async def test_a_revoked_client_is_let_in_no_more(gate: Gate) -> None:
    token = await gate.token()
    assert await gate.status(token) == 200

    await grants.revoke_client(gate.database, CLIENT)
    gate.now += SECOND

    assert await gate.status(token) == 401
    assert await gate.status(await gate.token()) == 401
    assert await gate.status(await gate.token(client="nobody")) == 401


async def test_a_clock_that_is_put_back_does_not_keep_a_token_alive(gate: Gate) -> None:
    token = await gate.token()
    assert await gate.status(token) == 200
    await grants.revoke(gate.database, token)

    gate.now -= 10 * SECOND

    assert await gate.status(token) == 401


@pytest.mark.parametrize("kind", ["refresh", "code", "launch", "session", "assertion"])
async def test_nothing_but_an_access_token_lets_in(gate: Gate, kind: grants.TokenKind) -> None:
    secret = grants.new_secret()
    await grants.issue(
        gate.database,
        kind=kind,
        secret=secret,
        family="f",
        client=CLIENT,
        scope="system/*.cruds",
        now=gate.now,
        seconds=60,
    )

    assert await gate.status(secret) == 401


async def test_the_database_is_asked_once_a_second(gate: Gate) -> None:
    bearer: Bearer = gate.app.state.bearer
    header = f"Bearer {await gate.token()}"
    await bearer.caller(header)
    done = gate.database.load().done.statements

    for _ in range(10):
        await bearer.caller(header)
    in_between = gate.database.load().done.statements
    gate.now += SECOND
    await bearer.caller(header)

    assert in_between == done
    assert gate.database.load().done.statements > done


async def test_tokens_are_not_remembered_without_end(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bearing, "MOST", 3)
    bearer: Bearer = gate.app.state.bearer

    for _ in range(5):
        await bearer.caller(f"Bearer {await gate.token()}")

    assert len(bearer.known) == 3


# --- who it is ----------------------------------------------------------------------------------


async def test_a_caller_is_known_by_account_client_and_scopes(gate: Gate) -> None:
    await gate.account("workforce", "Practitioner/1")
    bearer: Bearer = gate.app.state.bearer
    token = await gate.token(
        account=SUBJECT,
        scope="openid launch/patient patient/Observation.rs user/Patient.r",
        context={"patient": "7", "purpose": "TREAT"},
    )

    caller = await bearer.caller(f"Bearer {token}")

    assert (caller.kind, caller.subject, caller.client) == ("workforce", SUBJECT, CLIENT)
    assert (caller.roles, caller.organization) == (("nurse",), "Organization/1")
    assert (caller.fhir_user, caller.patient) == ("Practitioner/1", "Patient/7")
    assert caller.purpose == "TREAT"
    assert set(caller.scopes) == {
        "openid",
        "launch/patient",
        "patient/Observation.rs",
        "user/Patient.r",
    }


async def test_a_patient_is_the_patient_of_an_account(gate: Gate) -> None:
    await gate.account("patient", "Patient/9")
    bearer: Bearer = gate.app.state.bearer

    caller = await bearer.caller(
        f"Bearer {await gate.token(account=SUBJECT, scope='patient/*.rs')}"
    )

    assert caller.patient == "Patient/9"


async def test_tokens_with_other_rights_are_other_callers(gate: Gate) -> None:
    bearer: Bearer = gate.app.state.bearer
    scopes = ["system/*.cruds", "system/*.rs", "system/*.rs"]

    names = [
        (await bearer.caller(f"Bearer {await gate.token(scope=scope)}")).name for scope in scopes
    ]

    assert names[1] == names[2] != names[0]


REFUSED: Sequence[tuple[Kind, str, str]] = [
    ("administrator", "", "user/*.cruds"),
    ("representative", "RelatedPerson/1", "patient/*.rs user/*.rs"),
    ("workforce", "Practitioner/1", "openid fhirUser"),
    ("workforce", "Practitioner/1", "system/*.cruds"),
    ("workforce", "Practitioner/1", "user/Patient.nonsense"),
]


@pytest.mark.parametrize(("kind", "who", "scope"), REFUSED)
async def test_who_is_known_but_may_not_is_told_so(
    gate: Gate, kind: Kind, who: str, scope: str
) -> None:
    await gate.account(kind, who)
    token = await gate.token(account=SUBJECT, scope=scope)

    replies = [
        await gate.get("/Patient", token),
        await gate.get("/Patient/1", token),
        await gate.get("/Observation", token),
    ]

    assert [reply.status_code for reply in replies] == [403, 403, 403]
    assert replies[0].headers["WWW-Authenticate"] == bearing.INSUFFICIENT_SCOPE


async def test_a_token_does_what_its_scopes_say(gate: Gate) -> None:
    token = await gate.token(scope="system/Patient.cr")
    headers = {"Authorization": f"Bearer {token}"}

    made = await gate.client.post("/Patient", json=patient(), headers=headers)
    read = await gate.get(f"/Patient/{made.json()['id']}", token)
    searched = await gate.get("/Patient", token)

    assert (made.status_code, read.status_code, searched.status_code) == (201, 200, 403)


async def test_an_answer_that_is_fetched_later_is_for_its_caller_alone(gate: Gate) -> None:
    mine, theirs = await gate.token(), await gate.token(scope="system/*.rs")
    ordered = await gate.client.get(
        "/Patient", headers={"Authorization": f"Bearer {mine}", "Prefer": "respond-async"}
    )
    address = ordered.headers["Content-Location"]

    assert ordered.status_code == 202
    assert (await gate.get(address)).status_code == 401
    assert (await gate.get(address, theirs)).status_code == 404
    assert (await gate.get(address, mine)).status_code in (200, 202)


async def test_one_caller_cannot_take_all_the_room(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "OF_ONE", 1)
    other, _ = await grants.add_client(
        gate.database,
        id="other",
        name="Other",
        kind="symmetric",
        grant_types=["client_credentials"],
        scope="system/*.rs",
        now=gate.now,
    )
    mine, theirs = await gate.token(), await gate.token(client=other.id)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        begun.set()
        await go_on.wait()
        yield b'{"resourceType":"Patient"}'

    headers = {"Authorization": f"Bearer {mine}", "Content-Type": "application/fhir+json"}
    slow = asyncio.create_task(gate.client.post("/Patient", content=slowly(), headers=headers))
    await begun.wait()
    second, another = await gate.get("/Patient", mine), await gate.get("/Patient", theirs)
    go_on.set()

    assert (second.status_code, second.headers["Retry-After"]) == (429, "1")
    assert issues(second)[0][0] == "throttled"
    assert another.status_code == 200
    assert (await slow).status_code == 201
    assert await gate.status(mine) == 200


# --- what is left of it -------------------------------------------------------------------------


async def rows(gate: Gate) -> list[dict[str, Any]]:
    """Return the audit trail, oldest first."""
    found = db.statement(sa.select(db.audit).order_by(db.audit.c.id), gate.database.dialect)
    every = await gate.database.read(lambda connection: connection.rows(found, {}))
    return [dict(zip(db.audit.c.keys(), row, strict=True)) for row in every]


@pytest.mark.parametrize(
    ("method", "path", "token", "status"),
    [
        ("GET", "/Patient/1?name=secret", "", 401),
        ("GET", "/Patient/1", "guess", 401),
        ("GET", "/Nothing/1", TOKEN, 404),
        ("GET", "/Patient/1%00", TOKEN, 400),
        ("PUT", "/Patient", TOKEN, 415),
        ("DELETE", "/metadata", TOKEN, 405),
        ("GET", "/_async/guess", TOKEN, 404),
    ],
)
async def test_what_is_refused_at_the_door_is_in_the_audit_trail(
    gate: Gate, method: str, path: str, token: str, status: int
) -> None:
    headers = {"Authorization": f"Bearer {token}"} if token else {}

    reply = await gate.client.request(method, path, headers=headers)

    written = await rows(gate)
    assert reply.status_code == status
    if path == "/metadata":
        assert not written
        return
    assert len(written) == 1
    assert written[0]["outcome"] == 4
    assert written[0]["agent"] == (CLIENT if token == TOKEN else "")
    assert "secret" not in str(written)
    assert "guess" not in str(written).replace("_async/guess", "")


async def test_no_token_is_in_a_log(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    token = await gate.token()

    with caplog.at_level("DEBUG"):
        await gate.get("/Patient", token)
        await gate.get("/Patient", "guess-of-somebody")

    assert token not in caplog.text
    assert "guess-of-somebody" not in caplog.text


# --- around the API -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "scope", "status"),
    [
        ("administrator", "openid", 200),
        ("workforce", "user/*.cruds", 403),
        ("privacy-officer", "user/*.rs", 403),
        ("system", "system/*.rs", 200),
        ("system", "launch", 403),
    ],
)
async def test_numbers_are_for_administrators_and_systems_from_anywhere(
    settings: Settings, kind: Kind, scope: str, status: int
) -> None:
    proxied = settings.model_copy(update={"trusted_proxies": "10.0.0.1"})
    async with opened(proxied) as gate:
        account = ""
        if kind != "system":
            account = SUBJECT
            await gate.account(kind)
        root = settings.base_url.removesuffix("/fhir")
        token = await gate.token(account=account, scope=scope)

        reply = await gate.get(f"{root}/metrics", token)

        assert reply.status_code == status
        assert (await gate.get(f"{root}/metrics")).status_code == 401
        assert (await gate.get(f"{root}/metrics", "guess")).status_code == 401


async def test_who_does_not_guard_lets_everybody_in(settings: Settings) -> None:
    app = create_app(settings, guarded=False)
    async with started(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=settings.base_url) as client:
            assert (await client.get("/Patient")).status_code == 200
            assert app.state.server.trail is None
