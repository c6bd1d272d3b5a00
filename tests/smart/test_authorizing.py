"""What an application may ask for at /authorize, and where nobody is sent."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from app.api import grants, smart
from app.config import Settings
from tests.conftest import BASE_URL
from tests.smart.office import CALLBACK, MINUTE, ROOT, Office, asking, challenge, opened, query_of

EVIL = "https://evil.example.org/callback"


@pytest.fixture
async def office(settings: Settings) -> AsyncIterator[Office]:
    """An authorization server."""
    async with opened(settings) as office:
        yield office


async def refusal(office: Office, params: Mapping[str, str]) -> smart.Refused:
    """Return the refusal of an authorization request."""
    with pytest.raises(smart.Refused) as caught:
        await smart.requested(office.app.state, tuple(params.items()))
    return caught.value


async def test_a_request_is_read(office: Office) -> None:
    client_id, _ = await office.register()
    given = asking(client_id, prompt="login consent", max_age="60", login_hint="ines")

    asked = await smart.requested(office.app.state, tuple(given.items()))

    assert (asked.client.id, asked.redirect_uri, asked.state) == (client_id, CALLBACK, "xyz")
    assert (asked.prompt, asked.max_age, asked.login_hint) == (("login", "consent"), 60, "ines")
    assert (asked.refused, asked.needs_patient) == ((), True)


async def test_the_address_of_the_api_may_end_in_a_slash(office: Office) -> None:
    client_id, _ = await office.register()
    given = asking(client_id, aud=f"{BASE_URL}/")

    assert await smart.requested(office.app.state, tuple(given.items()))


NOWHERE: dict[str, dict[str, str | None]] = {
    "no client": {"client_id": None},
    "empty client": {"client_id": ""},
    "unknown client": {"client_id": "nobody"},
    "NUL": {"client_id": "\0"},
    "odd client": {"client_id": "é\u0001'--"},
    "no redirect URI": {"redirect_uri": None},
    "another redirect URI": {"redirect_uri": EVIL},
    "a longer redirect URI": {"redirect_uri": f"{CALLBACK}/more"},
    "a redirect URI with a query": {"redirect_uri": f"{CALLBACK}?a=b"},
    "a redirect URI in capitals": {"redirect_uri": CALLBACK.replace("app", "APP")},
    "a redirect URI with a user": {"redirect_uri": CALLBACK.replace("//", "//evil@")},
    "a redirect URI with a fragment": {"redirect_uri": f"{CALLBACK}#x"},
    "a script": {"redirect_uri": "javascript:alert(1)"},
}


async def test_nobody_is_sent_where_the_client_has_not_registered(office: Office) -> None:
    client_id, _ = await office.register()

    found = {
        name: await refusal(office, asking(client_id, **changes))
        for name, changes in NOWHERE.items()
    }

    assert {name: error.location for name, error in found.items()} == dict.fromkeys(NOWHERE, "")


async def test_nobody_is_sent_anywhere_when_it_is_said_twice_where(office: Office) -> None:
    client_id, _ = await office.register()
    for name in ("client_id", "redirect_uri"):
        pairs = (*asking(client_id).items(), (name, EVIL))

        with pytest.raises(smart.Refused) as caught:
            await smart.requested(office.app.state, pairs)

        assert caught.value.location == ""


async def test_a_revoked_client_is_nobody(office: Office) -> None:
    client_id, _ = await office.register()
    await grants.revoke_client(office.database, client_id)

    found = await refusal(office, asking(client_id))

    assert (found.error, found.location) == ("invalid_client", "")


async def test_a_name_is_no_client_id(office: Office) -> None:
    await office.register(name="growth-chart")

    found = await refusal(office, asking("growth-chart"))

    assert found.location == ""


BACK: dict[str, tuple[dict[str, str | None], str]] = {
    "no state": ({"state": None}, "invalid_request"),
    "no response type": ({"response_type": None}, "unsupported_response_type"),
    "implicit": ({"response_type": "token"}, "unsupported_response_type"),
    "hybrid": ({"response_type": "code id_token"}, "unsupported_response_type"),
    "fragment": ({"response_mode": "fragment"}, "invalid_request"),
    "request": ({"request": "a.b.c"}, "request_not_supported"),
    "request_uri": ({"request_uri": EVIL}, "request_uri_not_supported"),
    "no aud": ({"aud": None}, "invalid_request"),
    "another aud": ({"aud": "https://elsewhere.example.org/fhir"}, "invalid_request"),
    "the root as aud": ({"aud": ROOT}, "invalid_request"),
    "no challenge": ({"code_challenge": None}, "invalid_request"),
    "empty challenge": ({"code_challenge": ""}, "invalid_request"),
    "short challenge": ({"code_challenge": "short"}, "invalid_request"),
    "long challenge": ({"code_challenge": f"{challenge()}A"}, "invalid_request"),
    "no method": ({"code_challenge_method": None}, "invalid_request"),
    "plain": ({"code_challenge_method": "plain"}, "invalid_request"),
    "neither": ({"code_challenge": None, "code_challenge_method": None}, "invalid_request"),
    "no scope": ({"scope": None}, "invalid_scope"),
    "only spaces": ({"scope": "  "}, "invalid_scope"),
    "unknown scopes": ({"scope": "patient/Dragon.r hello"}, "invalid_scope"),
    "scopes of systems": ({"scope": "system/*.cruds"}, "invalid_scope"),
    "scopes of others": ({"scope": "user/*.cruds"}, "invalid_scope"),
    "odd prompt": ({"prompt": "later"}, "invalid_request"),
    "none and login": ({"prompt": "none login"}, "invalid_request"),
    "odd max_age": ({"max_age": "-1"}, "invalid_request"),
    "long": ({"login_hint": "x" * 5000}, "invalid_request"),
    "launch without its scope": ({"launch": "x"}, "invalid_request"),
    "the scope launch alone": ({"scope": "launch patient/Patient.r"}, "invalid_request"),
    "unknown launch": ({"scope": "launch openid", "launch": "x"}, "invalid_request"),
}


async def test_what_else_is_wrong_is_told_to_the_application(office: Office) -> None:
    client_id, _ = await office.register()

    found = {
        name: (await refusal(office, asking(client_id, **changes)), changes)
        for name, (changes, _) in BACK.items()
    }

    expected: dict[str, dict[str, Any]] = {
        name: {
            "error": error,
            "iss": ROOT,
            **({"state": "xyz"} if "state" not in changes else {}),
        }
        for name, (changes, error) in BACK.items()
    }
    said = {name: query_of(error.location) for name, (error, _) in found.items()}
    descriptions = {name: one.pop("error_description") for name, one in said.items()}
    assert said == expected
    assert all(error.location.startswith(f"{CALLBACK}?") for error, _ in found.values())
    assert all(text.isascii() and '"' not in text for text in descriptions.values())


async def test_a_parameter_that_is_given_twice_is_refused(office: Office) -> None:
    client_id, _ = await office.register()

    pairs = (*asking(client_id).items(), ("scope", "openid"))
    with pytest.raises(smart.Refused) as caught:
        await smart.requested(office.app.state, pairs)

    assert query_of(caught.value.location)["error"] == "invalid_request"


async def test_a_client_for_itself_lets_nobody_choose(office: Office) -> None:
    client_id, _ = await office.register("asymmetric", backend=True)

    found = await refusal(office, asking(client_id))

    assert found.location == ""  # it has no redirect URI


async def test_a_patient_is_chosen_where_a_scope_is_about_one(office: Office) -> None:
    client_id, _ = await office.register(scope="launch/patient patient/*.rs user/*.rs openid")
    needs = {}
    for scope in ("patient/Patient.r", "launch/patient user/*.rs", "user/*.rs", "openid"):
        given = asking(client_id, scope=scope)
        asked = await smart.requested(office.app.state, tuple(given.items()))
        needs[scope] = asked.needs_patient

    assert list(needs.values()) == [True, True, False, False]


async def test_a_patient_that_the_account_may_not_see_is_not_launched(office: Office) -> None:
    client_id, _ = await office.register()
    people = [
        (await office.account("ada", kind="patient", fhir_user="Patient/ada"), "Patient/bela"),
        (await office.account("ines"), "Patient/nobody"),
        (await office.account("eve"), "Practitioner/ines/../../Patient/ada"),
    ]

    for account, chosen in people:
        with pytest.raises(smart.Refused) as caught:
            await office.code(client_id, account, chosen=chosen)

        assert query_of(caught.value.location)["error"] == "access_denied"


async def test_without_a_patient_no_scope_is_about_one(office: Office) -> None:
    client_id, _ = await office.register()

    code = await office.code(client_id, await office.account(), chosen="")
    answer = (await office.exchange(client_id, code)).json()

    assert set(answer["scope"].split()) == {"openid", "fhirUser"}
    assert "patient" not in answer


async def test_a_patient_sees_its_own_record(office: Office) -> None:
    client_id, _ = await office.register()
    ada = await office.account("ada", kind="patient", fhir_user="Patient/ada")

    code = await office.code(client_id, ada)
    answer = (await office.exchange(client_id, code)).json()

    assert answer["patient"] == "ada"
    assert "patient/Patient.r" in answer["scope"]


async def test_who_says_no_is_told_so(office: Office) -> None:
    client_id, _ = await office.register()
    asked = await smart.requested(office.app.state, tuple(asking(client_id).items()))

    location = smart.refusal(asked, "access_denied", "No")

    assert query_of(location) == {
        "error": "access_denied",
        "error_description": "No",
        "state": "xyz",
        "iss": ROOT,
    }


async def test_a_launch_is_over_after_ten_minutes(office: Office) -> None:
    client_id, _ = await office.register()
    secret = grants.new_secret()
    await grants.issue(
        office.database,
        kind="launch",
        secret=secret,
        family="f",
        context={"patient": "Patient/ada"},
        now=office.server.now(),
        seconds=600,
    )
    given = asking(client_id, scope="launch patient/Patient.r", launch=secret)
    asked = await smart.requested(office.app.state, tuple(given.items()))
    office.later(10 * MINUTE)

    found = await refusal(office, given)

    assert (asked.patient, asked.needs_patient) == ("Patient/ada", False)
    assert found.error == "invalid_request"
