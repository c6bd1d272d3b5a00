"""An EHR launch: what is open, who may say so, and what becomes of it."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from app.api import grants, smart
from app.config import Settings
from tests.conftest import BASE_URL
from tests.smart.office import HOUR, MINUTE, Office, asking, opened, query_of

SCOPE = "launch openid patient/Patient.r"
LAUNCH_URI = "https://app.example.org/launch?tenant=7"


@pytest.fixture
async def office(settings: Settings) -> AsyncIterator[Office]:
    """An authorization server."""
    async with opened(settings) as office:
        yield office


async def token(office: Office, account: grants.Account | None, scope: str = "user/*.rs") -> str:
    """Return an access token of an account, or of a system."""
    client_id, _ = await office.register("asymmetric", backend=True, scope=scope)
    secret = grants.new_secret()
    await grants.issue(
        office.database,
        kind="access",
        secret=secret,
        family="f",
        client=client_id,
        account=account.id if account else "",
        scope=scope,
        now=office.server.now(),
        seconds=3600,
    )
    return secret


async def launch(office: Office, secret: str, **said: Any) -> httpx.Response:
    """Return the answer to a launch about Ada, unless something else is said."""
    body = {name: value for name, value in {"patient": "ada", **said}.items() if value is not None}
    headers = {"Authorization": f"Bearer {secret}"}
    return await office.http.post("/oauth/launch", json=body, headers=headers)


async def test_what_is_open_reaches_the_application(office: Office) -> None:
    account = await office.account()
    client_id, _ = await office.register(launch_uri=LAUNCH_URI)
    what = {
        "encounter": "visit",
        "fhirContext": [{"reference": "ImagingStudy/1"}],
        "intent": "reconcile-medications",
        "need_patient_banner": False,
        "smart_style_url": "https://ehr.example.org/style.json",
    }

    begun = await launch(office, await token(office, account), client_id=client_id, **what)
    opening = begun.json()
    code = await office.code(client_id, account, scope=SCOPE, chosen="", launch=opening["launch"])
    answer = (await office.exchange(client_id, code)).json()

    assert begun.status_code == 200
    assert begun.headers["cache-control"] == "no-store"
    assert opening["iss"] == BASE_URL
    assert opening["launch_url"].startswith(f"{LAUNCH_URI}&")
    assert query_of(opening["launch_url"])["launch"] == opening["launch"]
    assert query_of(opening["launch_url"])["iss"] == BASE_URL
    assert {name: answer[name] for name in ("patient", *what)} == {"patient": "ada", **what}


async def test_a_launch_is_good_once(office: Office) -> None:
    account = await office.account()
    client_id, _ = await office.register()
    opening = (await launch(office, await token(office, account))).json()
    given = asking(client_id, scope=SCOPE, launch=opening["launch"])
    asked = await smart.requested(office.app.state, tuple(given.items()))
    kept, now = asked.scopes.text.split(), office.server.now()

    await smart.granted(office.app.state, asked, account, kept, "", "", now)
    with pytest.raises(smart.Refused) as second:
        await smart.granted(office.app.state, asked, account, kept, "", "", now)
    with pytest.raises(smart.Refused) as later:
        await smart.requested(office.app.state, tuple(given.items()))

    assert query_of(second.value.location)["error"] == "access_denied"
    assert query_of(later.value.location)["error"] == "invalid_request"


async def test_a_launch_is_for_the_account_that_asked_for_it(office: Office) -> None:
    mine, other = await office.account("ines"), await office.account("eve")
    client_id, _ = await office.register()
    opening = (await launch(office, await token(office, mine))).json()

    with pytest.raises(smart.Refused) as caught:
        await office.code(client_id, other, scope=SCOPE, chosen="", launch=opening["launch"])

    assert query_of(caught.value.location)["error"] == "access_denied"


async def test_a_launch_is_for_the_client_that_it_names(office: Office) -> None:
    account = await office.account()
    mine, _ = await office.register()
    other, _ = await office.register()
    opening = (await launch(office, await token(office, account), client_id=mine)).json()

    with pytest.raises(smart.Refused) as caught:
        await office.code(other, account, scope=SCOPE, chosen="", launch=opening["launch"])

    assert query_of(caught.value.location)["error"] == "invalid_request"


async def test_a_launch_of_a_system_is_for_whoever_may_see_the_patient(office: Office) -> None:
    client_id, _ = await office.register()
    system = await token(office, None, "system/*.rs launch")
    bela = await office.account("bela", kind="patient", fhir_user="Patient/bela")
    opening = (await launch(office, system)).json()

    with pytest.raises(smart.Refused) as caught:
        await office.code(client_id, bela, scope=SCOPE, chosen="", launch=opening["launch"])
    code = await office.code(
        client_id, await office.account(), scope=SCOPE, chosen="", launch=opening["launch"]
    )

    assert query_of(caught.value.location)["error"] == "access_denied"
    assert (await office.exchange(client_id, code)).json()["patient"] == "ada"


async def test_the_patient_of_a_launch_is_not_chosen_anew(office: Office) -> None:
    account = await office.account()
    client_id, _ = await office.register()
    opening = (await launch(office, await token(office, account))).json()

    code = await office.code(
        client_id, account, scope=SCOPE, chosen="Patient/bela", launch=opening["launch"]
    )

    assert (await office.exchange(client_id, code)).json()["patient"] == "ada"


async def test_only_the_workforce_and_systems_launch(office: Office) -> None:
    ada = await office.account("ada", kind="patient", fhir_user="Patient/ada")
    root = await office.account("root", kind="administrator", fhir_user="")
    callers = {
        "patient": await token(office, ada, "patient/*.rs launch"),
        "administrator": await token(office, root, "user/*.rs launch"),
        "system without the scope": await token(office, None, "system/*.rs"),
        "nobody": "x" * 43,
    }

    replies = {name: await launch(office, secret) for name, secret in callers.items()}
    bare = await office.http.post("/oauth/launch", json={"patient": "ada"})

    assert {name: (r.status_code, r.json()["error"]) for name, r in replies.items()} == {
        "patient": (403, "access_denied"),
        "administrator": (403, "access_denied"),
        "system without the scope": (403, "access_denied"),
        "nobody": (401, "invalid_token"),
    }
    assert bare.status_code == 401
    assert bare.headers["www-authenticate"] == 'Bearer realm="Milepost"'


WRONG: dict[str, dict[str, Any]] = {
    "no patient": {"patient": None},
    "odd patient": {"patient": 7},
    "unknown patient": {"patient": "nobody"},
    "another type": {"patient": "Practitioner/ines"},
    "a path": {"patient": "ada/../bela"},
    "unknown encounter": {"encounter": "nothing"},
    "an encounter of another": {"patient": "bela", "encounter": "visit"},
    "unknown client": {"client_id": "nobody"},
    "odd client": {"client_id": []},
    "NUL": {"client_id": "\0"},
    "unknown field": {"hello": 1},
    "odd banner": {"need_patient_banner": "yes"},
    "odd style": {"smart_style_url": "javascript:alert(1)"},
    "plain style": {"smart_style_url": "http://ehr.example.org/style.json"},
    "odd intent": {"intent": ["x"]},
    "empty intent": {"intent": ""},
    "context that is no list": {"fhirContext": {}},
    "context of texts": {"fhirContext": ["ImagingStudy/1"]},
    "context about nothing": {"fhirContext": [{"role": "x"}]},
    "context with more": {"fhirContext": [{"reference": "ImagingStudy/1", "x": 1}]},
    "context with the patient": {"fhirContext": [{"reference": "Patient/ada"}]},
    "absolute context": {"fhirContext": [{"reference": "https://evil.example.org/X/1"}]},
}


async def test_a_launch_that_says_something_odd_is_refused(office: Office) -> None:
    secret = await token(office, await office.account())

    replies = {name: await launch(office, secret, **said) for name, said in WRONG.items()}

    expected = dict.fromkeys(WRONG, (400, "invalid_request"))
    assert {name: (r.status_code, r.json()["error"]) for name, r in replies.items()} == expected


async def test_a_body_that_is_no_object_is_refused(office: Office) -> None:
    headers = {
        "Authorization": f"Bearer {await token(office, await office.account())}",
        "Content-Type": "application/json",
    }

    bodies = (b"", b"[]", b"{", b"\xff", b'{"patient": "ada"}' + b" " * 70_000, b"[" * 5000)
    replies = [
        await office.http.post("/oauth/launch", content=body, headers=headers) for body in bodies
    ]

    assert [reply.status_code for reply in replies] == [400, 400, 400, 400, 413, 400]


async def test_a_launch_is_good_for_ten_minutes(office: Office) -> None:
    account = await office.account()
    client_id, _ = await office.register()
    opening = (await launch(office, await token(office, account))).json()
    office.later(10 * MINUTE)

    with pytest.raises(smart.Refused):
        await office.code(client_id, account, scope=SCOPE, chosen="", launch=opening["launch"])


async def test_an_expired_token_launches_nothing(office: Office) -> None:
    secret = await token(office, await office.account())
    office.later(HOUR)

    assert (await launch(office, secret)).status_code == 401
