"""The pages that people see, as a browser without a screen meets them: a launch from end to end."""

import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from fastapi import FastAPI

from app import db
from app.api import grants
from app.config import Settings
from app.fhir.rest import Server
from app.main import create_app
from tests.conftest import BASE_URL
from tests.smart.browser import Browser, Page
from tests.smart.people import CALLBACK, EVIL, PASSWORD, REGISTERED, SCOPE, VERIFIER, asked, settle
from tests.support.application import started

HOUR = 3600 * 1_000_000


@dataclass
class Site:
    """A running server, and a browser in front of it."""

    app: FastAPI
    browser: Browser

    @property
    def server(self) -> Server:
        """The engine of this moment."""
        server: Server = self.app.state.server
        return server

    @property
    def database(self) -> db.Database:
        """Where the rows are."""
        return self.server.database

    def later(self, microseconds: int) -> None:
        """Let time pass."""
        before = self.server.now
        self.app.state.server = replace(self.server, now=lambda: before() + microseconds)

    async def launch(self, **changes: str | None) -> Page:
        """Return the page that an app's request leads to."""
        return await self.browser.open("/oauth/authorize", asked(**changes))

    async def signed_in(self, name: str = "ines", **changes: str | None) -> Page:
        """Return the page after the sign-in of an app's request."""
        page = await self.launch(**changes)
        return await self.browser.press(page, "Sign in", name=name, password=PASSWORD)

    async def token(self, page: Page) -> httpx.Response:
        """Return the answer to the code that a browser was sent away with."""
        form = {
            "grant_type": "authorization_code",
            "code": told(page)["code"],
            "redirect_uri": CALLBACK,
            "client_id": "app",
            "code_verifier": VERIFIER,
        }
        return await self.browser.http.post("/oauth/token", data=form)


def told(page: Page) -> dict[str, str]:
    """Return what the app is told in the address to which a browser was sent away."""
    assert page.away.startswith(CALLBACK), page.words
    return {name: value for name, (value,) in parse_qs(urlsplit(page.away).query).items()}


@pytest.fixture
async def site(settings: Settings) -> AsyncIterator[Site]:
    """A server with people, patients and an app that is registered for much."""
    app = create_app(settings)
    async with started(app):
        await settle(app.state.server)
        transport = httpx.ASGITransport(app)
        root = BASE_URL.removesuffix("/fhir")
        async with httpx.AsyncClient(transport=transport, base_url=root) as http:
            yield Site(app, Browser(http))


async def audited(site: Site) -> list[tuple[str, str, int]]:
    """Return the rows of the audit trail about people: code, agent and outcome."""
    query = "SELECT code, agent, outcome FROM audit WHERE code IN ({}) ORDER BY id"
    codes = ", ".join(f"'{code}'" for code in ("sign-in", "sign-out", "lock-out", "password"))
    statement = db.Statement(query.format(f"{codes}, 'consent'"), ())
    rows = await site.database.read(lambda connection: connection.rows(statement, {}))
    return [(code, agent, outcome) for code, agent, outcome in rows]


# --- launches -----------------------------------------------------------------------------------


async def test_a_standalone_launch_ends_with_a_token_for_the_chosen_patient(site: Site) -> None:
    page = await site.signed_in()
    assert page.title == "Choose a patient"

    page = await site.browser.press(page, "Ada Marsh")
    assert page.title == "What may Growth Chart do?"
    page = await site.browser.press(page, "Allow")

    assert told(page)["state"] == "of-the-app"
    reply = await site.token(page)
    assert (reply.status_code, reply.json()["patient"]) == (200, "ada")
    assert set(reply.json()["scope"].split()) == set(SCOPE.split())
    headers = {"Authorization": f"Bearer {reply.json()['access_token']}"}
    found = await site.browser.http.get("/fhir/Observation?code=44261-6", headers=headers)
    assert [entry["resource"]["id"] for entry in found.json()["entry"]] == ["score"]


async def test_a_patient_is_asked_for_no_patient(site: Site) -> None:
    page = await site.signed_in("ada")

    assert page.title == "What may Growth Chart do?"
    assert "Read and search your observations" in page.labels()
    page = await site.browser.press(page, "Allow")
    assert (await site.token(page)).json()["patient"] == "ada"


async def test_an_ehr_launch_asks_for_no_patient(site: Site) -> None:
    headers = {"Authorization": f"Bearer {await user_token(site)}"}
    body = {"client_id": "app", "patient": "bela"}
    made = await site.browser.http.post("/oauth/launch", json=body, headers=headers)
    assert made.status_code in (200, 201), made.text

    scope = "launch openid fhirUser patient/Observation.rs"
    page = await site.signed_in(scope=scope, launch=made.json()["launch"])

    assert "Bela Kovács" in page.words
    page = await site.browser.press(page, "Allow")
    assert (await site.token(page)).json()["patient"] == "bela"


async def user_token(site: Site) -> str:
    """Return an access token of Ines for the records that she may see."""
    secret = grants.new_secret()
    await grants.issue(
        site.database,
        kind="access",
        secret=secret,
        family="a-family",
        client="app",
        account="id-of-ines",
        scope="user/*.rs",
        now=site.server.now(),
        seconds=600,
    )
    return secret


async def test_a_request_without_patients_goes_straight_to_the_decision(site: Site) -> None:
    page = await site.signed_in(scope="openid user/Observation.rs")

    assert page.labels() == [
        "Read and search all observations that you may see",
        "Know that it is you who signed in",
    ]
    page = await site.browser.press(page, "Allow")
    assert "patient" not in (await site.token(page)).json()


async def test_who_is_signed_in_is_not_asked_again_but_decides_each_time(site: Site) -> None:
    page = await site.signed_in(scope="user/Observation.rs")
    await site.browser.press(page, "Allow")

    again = await site.launch(scope="user/Observation.rs")

    assert again.title == "What may Growth Chart do?"


async def test_a_client_may_send_its_request_in_a_body(site: Site) -> None:
    page = await site.browser.send("/oauth/authorize", [*asked().items()])

    assert page.title == "Sign in"
    assert "Growth Chart" in page.words
    page = await site.browser.press(page, "Sign in", name="ada", password=PASSWORD)
    assert page.title == "What may Growth Chart do?"


async def test_what_is_unticked_is_not_granted(site: Site) -> None:
    page = await site.signed_in("ada", scope=f"{SCOPE} offline_access")
    ticked = [one for one in page.form("Allow").values("scope") if one.startswith("patient/Pat")]

    page = await site.browser.press(page, "Allow", scope=ticked)

    granted = (await site.token(page)).json()["scope"].split()
    assert set(granted) == {"launch/patient", "patient/Patient.r"}


async def test_what_was_not_asked_for_is_not_granted_to_a_forged_form(site: Site) -> None:
    page = await site.signed_in("ada")

    forged = ["patient/Patient.r", "patient/*.cruds", "user/*.rs", "offline_access"]
    page = await site.browser.press(page, "Allow", scope=forged)

    granted = (await site.token(page)).json()["scope"].split()
    assert set(granted) == {"launch/patient", "patient/Patient.r"}


async def test_nothing_ticked_is_told_and_not_sent(site: Site) -> None:
    page = await site.signed_in("ada")

    page = await site.browser.press(page, "Allow", scope=[])

    assert page.reply.status_code == 400
    assert "Tick at least one" in page.alert


async def test_deny_sends_access_denied_with_the_state(site: Site) -> None:
    page = await site.signed_in("ada")

    page = await site.browser.press(page, "Deny")

    assert (told(page)["error"], told(page)["state"]) == ("access_denied", "of-the-app")
    assert "code" not in told(page)


async def test_cancel_in_the_list_of_patients_denies(site: Site) -> None:
    page = await site.signed_in()

    page = await site.browser.press(page, "Cancel")

    assert told(page)["error"] == "access_denied"


# --- what a client may wish ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signed_in", "error"), [(False, "login_required"), (True, "consent_required")]
)
async def test_prompt_none_shows_no_page(site: Site, signed_in: bool, error: str) -> None:
    if signed_in:
        await site.signed_in("ada")

    page = await site.launch(prompt="none")

    assert (told(page)["error"], told(page)["state"]) == (error, "of-the-app")


async def test_prompt_login_asks_for_the_password_once_more_and_only_once(site: Site) -> None:
    await site.signed_in("ada")

    page = await site.launch(prompt="login consent")
    assert page.title == "Sign in"
    page = await site.browser.press(page, "Sign in", name="ada", password=PASSWORD)

    assert page.title == "What may Growth Chart do?"


async def test_max_age_asks_who_signed_in_long_ago(site: Site) -> None:
    await site.signed_in("ada")
    site.later(120 * 1_000_000)

    assert (await site.launch(max_age="300")).title == "What may Growth Chart do?"
    assert (await site.launch(max_age="60")).title == "Sign in"


async def test_a_login_hint_fills_in_the_name(site: Site) -> None:
    page = await site.launch(login_hint="ada")

    assert page.form("Sign in").values("name") == ["ada"]


# --- patients -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("mar", ["Ada Marsh"]),
        ("Ada Marsh", ["Ada Marsh"]),
        ("kovacs", ["Bela Kovács"]),
        ("MRN-7731", ["Ada Marsh"]),
        ('a" or name sw "b', []),
        ("\\", []),
        ("nobody", []),
    ],
)
async def test_patients_are_found_by_name_or_identifier(
    site: Site, text: str, found: list[str]
) -> None:
    page = await site.signed_in()

    page = await site.browser.press(page, "Find", text=text)

    assert chosen(page) == found
    assert page.form("Find").values("text") == [text]


def chosen(page: Page) -> list[str]:
    """Return the names of the patients on a page."""
    return [text.strip() for text in page.read.text.get("strong", []) if text in names(page)]


def names(page: Page) -> set[str]:
    rows = [b[2] for form in page.read.forms for b in form.buttons if b[0] == "patient"]
    return {row.split("\n")[0].strip() for row in rows}


async def test_all_patients_come_page_by_page(site: Site) -> None:
    page = await site.signed_in()
    first = chosen(page)

    page = await site.browser.press(page, "More patients")
    second = chosen(page)

    assert (len(first), len(second)) == (10, 5)
    assert len({*first, *second}) == 15
    back = await site.browser.press(page, "First page")
    assert chosen(back) == first


@pytest.mark.parametrize("id", ["Patient/gone", "Patient/", "Observation/score", "../Patient/ada"])
async def test_a_patient_that_is_not_there_cannot_be_chosen(site: Site, id: str) -> None:
    page = await site.signed_in()
    form = page.form("Ada Marsh")

    page = await site.browser.send("/oauth/authorize", [*form.fields, ("patient", id)])

    assert page.title == "Choose a patient"
    assert "Choose a patient from the list" in page.alert


@pytest.mark.parametrize("id", ["Patient/bela", "Patient/gone"])
async def test_a_patient_account_cannot_choose_another_patient(site: Site, id: str) -> None:
    page = await site.signed_in("ada")

    page = await site.browser.press(page, "Allow", patient=id)

    assert (await site.token(page)).json()["patient"] == "ada"


async def test_a_patient_account_gets_no_list_of_patients(site: Site) -> None:
    page = await site.signed_in("ada")
    form = [(name, value) for name, value in page.form("Allow").fields if name != "step"]

    page = await site.browser.send("/oauth/authorize", [*form, ("step", "search"), ("text", "")])

    assert chosen(page) == ["Ada Marsh"]


async def test_an_administrator_sees_no_patients(site: Site) -> None:
    page = await site.signed_in("root")

    assert "There are no patients that you may see" in page.words
    assert "Marsh" not in page.reply.text
    form = page.form("Cancel").fields
    pairs = [(name, value) for name, value in form if name != "step"]
    page = await site.browser.send(
        "/oauth/authorize", [*pairs, ("step", "patient"), ("patient", "Patient/ada")]
    )
    assert "Choose a patient from the list" in page.alert


# --- signing in and out -------------------------------------------------------------------------

FAILED = " The name or the password is wrong, or there were too many attempts. Try again later."


@pytest.mark.parametrize("name", ["ines", "nobody", "", EVIL, "i" * 5000])
async def test_a_wrong_password_tells_nothing_about_the_account(site: Site, name: str) -> None:
    page = await site.launch()

    page = await site.browser.press(page, "Sign in", name=name, password="not the password")

    assert (page.reply.status_code, page.alert.startswith(FAILED)) == (403, True)
    assert "<script" not in page.reply.text
    assert await audited(site) == [("sign-in", "id-of-ines" if name == "ines" else "", 4)]


async def test_a_locked_account_is_answered_like_a_wrong_password(site: Site) -> None:
    page = await site.launch()
    for _ in range(5):
        page = await site.browser.press(page, "Sign in", name="ines", password="wrong wrong wrong")

    page = await site.browser.press(page, "Sign in", name="ines", password=PASSWORD)

    assert (page.reply.status_code, page.alert.startswith(FAILED)) == (403, True)
    assert ("lock-out", "id-of-ines", 4) in await audited(site)
    site.later(HOUR)
    page = await site.browser.press(page, "Sign in", name="ines", password=PASSWORD)
    assert page.title == "Choose a patient"


async def test_a_disabled_account_is_answered_like_a_wrong_password(site: Site) -> None:
    await grants.disable_account(site.database, "id-of-ines")

    page = await site.signed_in()

    assert (page.reply.status_code, page.alert.startswith(FAILED)) == (403, True)


async def test_disabling_an_account_ends_its_session(site: Site) -> None:
    await site.signed_in()

    await grants.disable_account(site.database, "id-of-ines")

    assert (await site.launch()).title == "Sign in"


async def test_a_one_time_password_has_to_be_changed_first(site: Site) -> None:
    page = await site.signed_in("new")
    assert page.title == "Choose a new password"
    fresh = "seven slow grey boats"

    page = await site.browser.press(page, "Change", current=PASSWORD, password=fresh, again=fresh)

    assert page.title == "Choose a patient"
    await site.browser.press(page, "Sign out")
    page = await site.signed_in("new")
    assert page.reply.status_code == 403
    page = await site.browser.press(page, "Sign in", name="new", password=fresh)
    assert page.title == "Choose a patient"


async def test_nothing_is_done_before_a_one_time_password_is_changed(site: Site) -> None:
    page = await site.signed_in("new")
    pairs = [*page.form("Change").fields, ("step", "patient"), ("patient", "Patient/ada")]

    page = await site.browser.send("/oauth/authorize", pairs)

    assert page.title == "Choose a new password"


@pytest.mark.parametrize(
    ("current", "password", "again", "said"),
    [
        ("wrong wrong wrong", "seven slow grey boats", "seven slow grey boats", "not your"),
        (PASSWORD, "seven slow grey boats", "seven slow grey boat", "not the same"),
        (PASSWORD, "short", "short", "at least 12"),
        (PASSWORD, PASSWORD, PASSWORD, "old one"),
        (PASSWORD, "aaaaabbbbbaaaa", "aaaaabbbbbaaaa", "A password"),
    ],
)
async def test_a_new_password_that_is_none_is_refused(
    site: Site, current: str, password: str, again: str, said: str
) -> None:
    page = await site.signed_in("new")

    page = await site.browser.press(page, "Change", current=current, password=password, again=again)

    assert page.title == "Choose a new password"
    assert said in page.alert
    assert password not in page.reply.text


async def test_a_password_is_changed_without_an_app_too(site: Site) -> None:
    page = await site.browser.open("/oauth/sign-in")
    page = await site.browser.press(page, "Sign in", name="ines", password=PASSWORD)
    assert page.title == "You are signed in"
    fresh = "seven slow grey boats"

    page = await site.browser.open(page.read.links[-1])
    page = await site.browser.press(page, "Change", current=PASSWORD, password=fresh, again=fresh)

    assert page.title == "You are signed in"
    assert await audited(site) == [("sign-in", "id-of-ines", 0), ("password", "id-of-ines", 0)]


async def test_a_new_password_ends_the_sessions_of_the_old_one(site: Site) -> None:
    await site.signed_in()
    elsewhere = [*site.browser.http.cookies.jar]
    page = await site.browser.open("/oauth/password")
    fresh = "seven slow grey boats"

    await site.browser.press(page, "Change", current=PASSWORD, password=fresh, again=fresh)

    assert (await site.launch()).title == "Choose a patient"
    site.browser.http.cookies.jar.clear()
    for cookie in elsewhere:
        site.browser.http.cookies.jar.set_cookie(cookie)
    assert (await site.launch()).title == "Sign in"


async def test_signing_out_kills_the_session_itself(site: Site) -> None:
    page = await site.signed_in()
    kept = site.browser.http.cookies["milepost_session"]

    page = await site.browser.press(page, "Sign out")

    assert page.title == "You are signed out"
    site.browser.http.cookies.set("milepost_session", kept)
    assert (await site.launch()).title == "Sign in"
    assert (await audited(site))[-1] == ("sign-out", "id-of-ines", 0)


async def test_an_address_alone_signs_nobody_out(site: Site) -> None:
    await site.signed_in()

    page = await site.browser.open("/oauth/sign-out")

    assert page.title == "Sign out"
    assert (await site.launch()).title == "Choose a patient"


async def test_a_session_ends_when_nobody_uses_it_for_half_an_hour(site: Site) -> None:
    await site.signed_in()

    site.later(HOUR // 2 - 60_000_000)
    assert (await site.launch()).title == "Choose a patient"
    site.later(HOUR // 2 - 60_000_000)
    assert (await site.launch()).title == "Choose a patient"
    site.later(HOUR // 2 + 60_000_000)
    assert (await site.launch()).title == "Sign in"


async def test_a_session_ends_after_eight_hours_whoever_uses_it(site: Site) -> None:
    await site.signed_in()

    for _ in range(19):
        site.later(25 * 60_000_000)
        assert (await site.launch()).title == "Choose a patient"
    site.later(10 * 60_000_000)

    assert (await site.launch()).title == "Sign in"


# --- attacks ------------------------------------------------------------------------------------


async def test_a_sign_in_makes_a_new_session(site: Site) -> None:
    page = await site.launch()
    before = site.browser.http.cookies["milepost_session"]

    await site.browser.press(page, "Sign in", name="ines", password=PASSWORD)

    after = site.browser.http.cookies["milepost_session"]
    assert after != before
    site.browser.http.cookies.set("milepost_session", before, "milepost.test", "/oauth")
    assert (await site.launch()).title == "Sign in"


async def test_a_planted_cookie_is_worth_nothing_after_the_sign_in(site: Site) -> None:
    planted = "p" * 43
    site.browser.http.cookies.set("milepost_session", planted, "milepost.test", "/oauth")

    await site.signed_in()

    assert site.browser.http.cookies["milepost_session"] != planted
    assert await grants.find(site.database, planted, ["session"]) is None


@pytest.mark.parametrize("token", ["", "0" * 64, "é"])
@pytest.mark.parametrize("button", ["Allow", "Deny", "Sign out"])
async def test_a_form_without_the_token_of_the_browser_does_nothing(
    site: Site, button: str, token: str
) -> None:
    page = await site.signed_in("ada")

    page = await site.browser.press(page, button, csrf=token)

    assert (page.reply.status_code, page.title) == (403, "Try again")
    assert (await site.launch()).title == "What may Growth Chart do?"


async def test_a_form_of_another_browser_does_nothing(site: Site) -> None:
    page = await site.launch()
    site.browser.http.cookies.clear()
    await site.launch()

    page = await site.browser.press(page, "Sign in", name="ines", password=PASSWORD)

    assert (page.reply.status_code, page.title) == (403, "Try again")
    assert (await site.browser.open(page.read.links[-1])).title == "Sign in"


@pytest.mark.parametrize("name", ["authorize", "sign-in", "sign-out", "password"])
async def test_a_form_without_a_cookie_gets_none(site: Site, name: str) -> None:
    page = await site.signed_in("ada")
    pairs = page.form("Allow").fields
    site.browser.http.cookies.clear()  # as a form of another site comes

    reply = await site.browser.http.post(f"/oauth/{name}", data=dict(pairs))

    assert (reply.status_code, "set-cookie" in reply.headers) == (403, False)


async def test_a_browser_without_cookies_cannot_sign_in(site: Site) -> None:
    page = await site.launch()
    site.browser.http.cookies.clear()

    page = await site.browser.press(page, "Sign in", name="ines", password=PASSWORD)

    assert (page.reply.status_code, page.title) == (403, "Try again")


@pytest.mark.parametrize(
    "changes",
    [
        {"client_id": "unknown"},
        {"client_id": EVIL},
        {"client_id": None},
        {"redirect_uri": "https://evil.example/callback"},
        {"redirect_uri": f"{CALLBACK}/../x"},
        {"redirect_uri": f"{CALLBACK}?x=1"},
        {"redirect_uri": "//evil.example"},
        {"redirect_uri": "javascript:alert(1)"},
        {"redirect_uri": None},
    ],
)
async def test_nobody_is_sent_to_where_the_client_is_not_registered(
    site: Site, changes: dict[str, str | None]
) -> None:
    page = await site.launch(**changes)

    assert (page.reply.status_code, page.title) == (400, "This app cannot be opened")
    assert "<script" not in page.reply.text


@pytest.mark.parametrize("target", ["https://evil.example", "//evil.example", "/\\evil.example"])
async def test_a_sign_in_leads_nowhere_but_to_the_launch(site: Site, target: str) -> None:
    page = await site.browser.open("/oauth/sign-in")

    page = await site.browser.press(
        page, "Sign in", name="ines", password=PASSWORD, request=urlencode({"next": target})
    )

    assert page.away == ""
    assert page.reply.url.host == "milepost.test"


HOSTILE = [
    *((name, EVIL) for name in ("state", "scope", "login_hint", "launch", "nonce", "prompt")),
    *((name, EVIL) for name in ("aud", "code_challenge", "unknown", "max_age")),
    ("state", "\r\nSet-Cookie: a=b"),
    ("login_hint", "\x00"),
    ("login_hint", "x" * 20_000),
]


@pytest.mark.parametrize(("name", "value"), HOSTILE)
async def test_nothing_that_a_client_sends_becomes_markup(
    site: Site, name: str, value: str
) -> None:
    page = await site.launch(**{name: value})

    assert page.reply.status_code < 500
    assert "<script" not in page.reply.text
    assert "a" not in site.browser.http.cookies


FIELDS = ("request", "step", "text", "page", "patient", "scope", "answer", "name", "csrf")


@pytest.mark.parametrize("field", FIELDS)
async def test_nothing_that_a_form_sends_becomes_markup(site: Site, field: str) -> None:
    page = await site.signed_in()

    for button in ("Find", "Ada Marsh", "Cancel"):
        form = page.form(button)
        pairs = [pair for pair in form.fields if pair[0] != field]
        reply = await site.browser.send(form.action, [*pairs, (field, EVIL)])
        assert reply.reply.status_code < 500
        assert "<script" not in reply.reply.text


async def test_names_of_patients_and_clients_are_text(site: Site) -> None:
    await grants.add_client(
        site.database,
        id="evil",
        name=EVIL,
        kind="public",
        redirect_uris=[CALLBACK],
        grant_types=["authorization_code"],
        scope=REGISTERED,
        now=site.server.now(),
    )

    page = await site.signed_in(client_id="evil")
    page = await site.browser.press(page, "Find", text="Zed")
    page = await site.browser.press(page, "Zed")

    assert page.title == f"What may {EVIL} do?"
    assert EVIL in page.labels()[0]
    assert "<script" not in page.reply.text
    assert "49" not in page.title


async def test_no_page_can_be_framed_cached_or_scripted(site: Site) -> None:
    pages = [await site.launch(), await site.signed_in(), await site.launch(client_id="x")]
    pages.append(await site.browser.open("/oauth/sign-out"))

    for page in pages:
        headers = page.reply.headers
        assert headers["cache-control"] == "no-store"
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "base-uri 'none'" in policy
        assert "script" not in {tag for tag, _ in page.read.tags}


@pytest.mark.parametrize(
    ("redirect_uri", "source"),
    [(CALLBACK, "https://app.example.org"), ("com.example.app:/callback", "com.example.app:")],
)
async def test_forms_lead_to_this_server_and_to_the_client_alone(
    site: Site, redirect_uri: str, source: str
) -> None:
    page = await site.launch(redirect_uri=redirect_uri)

    policy = page.reply.headers["content-security-policy"]
    assert policy.endswith(f"form-action 'self' {source}")


async def test_the_cookie_is_for_this_server_alone(site: Site) -> None:
    reply = await site.browser.http.get("/oauth/sign-in")

    cookie = reply.headers["set-cookie"]
    assert cookie.startswith("milepost_session=")
    said = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert said == {"httponly", "path=/oauth", "samesite=lax"}


@pytest.mark.parametrize(
    ("base_url", "start", "said"),
    [
        (
            "https://milepost.test/fhir",
            "__Host-milepost_session=",
            {"httponly", "path=/", "samesite=lax", "secure"},
        ),
        (
            "https://milepost.test/clinic/fhir",
            "milepost_session=",
            {"httponly", "path=/clinic/oauth", "samesite=lax", "secure"},
        ),
    ],
)
async def test_with_https_the_cookie_is_secure_and_bound_to_the_host(
    settings: Settings, base_url: str, start: str, said: set[str]
) -> None:
    app = create_app(settings.model_copy(update={"base_url": base_url}))
    root = base_url.removesuffix("/fhir")
    async with (
        started(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=root) as http,
    ):
        reply = await http.get(f"{root}/oauth/sign-in")

    cookie = reply.headers["set-cookie"]
    assert cookie.startswith(start)
    assert {part.strip().lower() for part in cookie.split(";")[1:]} == said


async def test_the_database_has_no_secret_of_a_session(site: Site) -> None:
    await site.signed_in()
    secret = site.browser.http.cookies["milepost_session"]

    statement = db.Statement("SELECT hash, context FROM token WHERE kind = 'session'", ())
    rows = await site.database.read(lambda connection: connection.rows(statement, {}))

    assert [bytes(hash) for hash, _ in rows] == [hashlib.sha256(secret.encode()).digest()]
    assert secret not in json.dumps([context for _, context in rows])


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{}", "application/json", 415),
        (b"x=1", "text/plain", 415),
        (b"x=" + b"a" * 70_000, "application/x-www-form-urlencoded", 413),
        (b"x=%ff", "application/x-www-form-urlencoded", 400),
        (b"x=%00", "application/x-www-form-urlencoded", 400),
        (b"&".join([b"x=1"] * 2000), "application/x-www-form-urlencoded", 400),
    ],
)
async def test_what_is_no_form_is_refused_on_a_page(
    site: Site, body: bytes, content_type: str, status: int
) -> None:
    http, headers = site.browser.http, {"Content-Type": content_type}

    replies = [
        await http.post(f"/oauth/{path}", content=body, headers=headers)
        for path in ("authorize", "sign-in", "password", "sign-out")
    ]

    assert [reply.status_code for reply in replies] == [status] * 4
    assert all("<h1>" in reply.text for reply in replies)


# --- what is written down -----------------------------------------------------------------------


async def test_sign_ins_and_decisions_are_in_the_audit_trail(site: Site) -> None:
    page = await site.signed_in("ada")
    await site.browser.press(page, "Allow")
    page = await site.launch()
    await site.browser.press(page, "Deny")

    assert await audited(site) == [
        ("sign-in", "id-of-ada", 0),
        ("consent", "id-of-ada", 0),
        ("consent", "id-of-ada", 4),
    ]


async def test_looking_for_patients_is_in_the_audit_trail(site: Site) -> None:
    await site.signed_in()

    statement = db.Statement("SELECT agent FROM audit WHERE code = 'search-type'", ())
    rows = await site.database.read(lambda connection: connection.rows(statement, {}))

    assert [agent for (agent,) in rows] == ["id-of-ines"]
