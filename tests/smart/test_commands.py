"""The commands of tokens, people, applications and keys, as somebody types them."""

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import sqlalchemy as sa
from joserfc.jwk import ECKey
from typer.testing import CliRunner, Result

from app import db
from app.api import grants
from app.cli import app
from app.config import Settings
from app.main import clock
from tests.conftest import BASE_URL
from tests.support.application import connected
from tests.support.tokens import CLIENT

Command = Callable[..., Result]
T = TypeVar("T")

BACK = "https://app.example.org/back"
ON_SQLITE = pytest.mark.parametrize("engine", ["sqlite"])  # what never gets to the database


@pytest.fixture
def run(database_url: str) -> Command:
    """Run `milepost ARGUMENTS` on this test's database."""
    environment = {
        "MILEPOST_DATABASE_URL": database_url,
        "MILEPOST_BASE_URL": BASE_URL,
        "COLUMNS": "300",
    }

    def run(*arguments: str | Path) -> Result:
        return CliRunner().invoke(app, [str(one) for one in arguments], env=environment)

    return run


def asked(database_url: str, work: Callable[[db.Database], Any]) -> Any:
    """Return what a function of the open database gives."""

    async def ask() -> Any:
        database = db.connect(database_url, 30, 1)
        await database.open()
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(ask())


def statuses(settings: Settings, token: str, *paths: str) -> list[int]:
    """Return how a server answers reads with a token."""

    async def read() -> list[int]:
        headers = {"Authorization": f"Bearer {token}"}
        async with connected(settings) as client:
            return [(await client.get(path, headers=headers)).status_code for path in paths]

    return asyncio.run(read())


def trail(database_url: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Return agent, code and detail of the audit rows, oldest first."""

    async def work(database: db.Database) -> list[tuple[str, str, dict[str, Any]]]:
        columns = db.audit.c.agent, db.audit.c.code, db.audit.c.detail
        select = db.statement(sa.select(*columns).order_by(db.audit.c.id), database.dialect)
        rows = await database.read(lambda connection: connection.rows(select, {}))
        return [(agent, code, json.loads(detail)) for agent, code, detail in rows]

    found: list[tuple[str, str, dict[str, Any]]] = asked(database_url, work)
    return found


def value(result: Result, name: str) -> str:
    """Return what a line of the output says of `name`."""
    found = re.search(rf"^{re.escape(name)} +(\S.*)$", result.stdout, re.MULTILINE)
    assert found, result.output
    return found[1]


# --- token --------------------------------------------------------------------------------------


def test_a_token_is_all_that_is_printed(run: Command, settings: Settings) -> None:
    result = run("token", "--scope", "system/*.cruds")

    assert result.exit_code == 0
    assert re.fullmatch(r"[\w-]{43}\n", result.stdout)
    assert result.stderr == ""
    assert statuses(settings, result.stdout.strip(), "/Patient") == [200]


async def test_a_running_server_takes_a_token_at_once(run: Command, settings: Settings) -> None:
    async with connected(settings) as client:
        result = await asyncio.to_thread(run, "token", "--scope", "system/*.rs")

        headers = {"Authorization": f"Bearer {result.stdout.strip()}"}
        reply = await client.get("/Patient", headers=headers)

    assert reply.status_code == 200


def test_a_token_of_a_patient_sees_its_types_alone(run: Command, settings: Settings) -> None:
    result = run("token", "--scope", "patient/Observation.rs openid", "--patient", "Patient/1")

    token = result.stdout.strip()
    assert statuses(settings, token, "/Observation", "/Patient") == [200, 403]


def test_a_token_of_a_user_has_the_rights_of_the_account(run: Command, settings: Settings) -> None:
    run("user", "add", "anne", "--kind", "workforce", "--practitioner", "7")

    result = run("token", "--scope", "user/Patient.rs", "--user", "Anne")

    assert statuses(settings, result.stdout.strip(), "/Patient", "/Observation") == [200, 403]


def test_a_patient_with_an_account_needs_not_be_named_twice(
    run: Command, settings: Settings
) -> None:
    run("user", "add", "ada", "--kind", "patient", "--patient", "1")

    result = run("token", "--scope", "patient/*.rs", "--user", "ada")

    assert statuses(settings, result.stdout.strip(), "/Observation") == [200]


def test_a_token_of_a_client_has_no_more_than_it_is_registered_for(
    run: Command, settings: Settings
) -> None:
    run("client", "add", "Night", "--kind", "symmetric", "--scope", "system/Observation.rs")

    result = run("token", "--scope", "system/*.cruds", "--client", "Night")

    assert "Granted: system/Observation.rs" in result.stderr
    assert statuses(settings, result.stdout.strip(), "/Observation", "/Patient") == [200, 403]


def test_a_token_is_good_for_as_long_as_it_is_asked(run: Command, database_url: str) -> None:
    token = run("token", "--scope", "system/*.rs", "--ttl", "60").stdout.strip()

    found = asked(database_url, lambda database: grants.find(database, token, ["access"]))

    assert found.expires - found.issued == 60_000_000
    assert found.client == grants.COMMAND_LINE


def test_a_token_leaves_a_row_without_itself(run: Command, database_url: str) -> None:
    token = run("token", "--scope", "patient/*.rs", "--patient", "1").stdout.strip()

    made, row = trail(database_url)

    known = {"client": grants.COMMAND_LINE, "scope": "patient/*.rs", "patient": "Patient/1"}
    assert made == ("command line", "client", {"added": grants.COMMAND_LINE})
    assert row == ("command line", "token", known)
    assert token not in str(row)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--scope", ""], "grants nothing"),
        (["--scope", "everything"], "no scopes: everything"),
        (["--scope", "system/Patient.dc"], "no scopes: system/Patient.dc"),
        (["--scope", "system/*.rs system/Nothing.rs"], "no scopes: system/Nothing.rs"),
        (["--scope", "patient/*.rs"], "needs --patient"),
        (["--scope", "user/*.rs"], "needs a --user"),
        (["--scope", "system/*.rs user/Patient.r"], "user/Patient.r grants nothing"),
        (["--scope", "system/*.rs", "--ttl", "0"], "--ttl is between"),
        (["--scope", "system/*.rs", "--ttl", "99999999"], "--ttl is between"),
        (["--scope", "patient/*.rs", "--patient", "a b"], "no id of a Patient"),
        (["--scope", "system/*.rs", "--client", "nobody"], "no client nobody"),
        (["--scope", "user/*.rs", "--user", "nobody"], "no account nobody"),
        (["--scope", "user/*.rs", "--client", CLIENT], "not registered for user/*.rs"),
    ],
    ids=range(13),
)
@ON_SQLITE
def test_a_token_that_would_be_useless_is_not_printed(
    run: Command, engine: str, arguments: list[str], says: str
) -> None:
    result = run("token", *arguments)

    assert result.exit_code == 2
    assert result.stdout == ""
    assert says in result.stderr


@pytest.mark.parametrize(
    ("kind", "scope", "says"),
    [
        ("administrator", "user/*.rs", "sees no record"),
        ("workforce", "system/*.rs", "without --user"),
    ],
)
@ON_SQLITE
def test_a_user_who_may_not_gets_no_token(
    run: Command, engine: str, kind: str, scope: str, says: str
) -> None:
    run("user", "add", "anne", "--kind", kind)

    result = run("token", "--scope", scope, "--user", "anne")

    assert (result.exit_code, result.stdout) == (2, "")
    assert says in result.stderr


@ON_SQLITE
def test_an_administrator_gets_a_token_without_a_record(run: Command, engine: str) -> None:
    run("user", "add", "root", "--kind", "administrator")

    assert run("token", "--scope", "openid", "--user", "root").exit_code == 0


@ON_SQLITE
def test_who_is_gone_gets_no_token(run: Command, engine: str) -> None:
    run("user", "add", "anne", "--kind", "workforce")
    run("user", "disable", "anne")
    run("client", "revoke", CLIENT)

    user = run("token", "--scope", "user/*.rs", "--user", "anne")
    client = run("token", "--scope", "system/*.rs", "--client", CLIENT)

    assert (user.exit_code, client.exit_code) == (2, 2)
    assert "disabled" in user.stderr
    assert "revoked" in client.stderr


def test_tokens_of_the_command_line_can_be_revoked_all_at_once(
    run: Command, settings: Settings
) -> None:
    old = run("token", "--scope", "system/*.rs").stdout.strip()

    run("client", "revoke", grants.COMMAND_LINE)
    new = run("token", "--scope", "system/*.rs").stdout.strip()

    assert statuses(settings, old, "/Patient") == [401]
    assert statuses(settings, new, "/Patient") == [200]


# --- user ---------------------------------------------------------------------------------------


def test_a_user_gets_a_password_for_once(run: Command, database_url: str) -> None:
    result = run(
        *("user", "add", "Anne", "--kind", "workforce", "--role", "nurse", "--role", "lead"),
        *("--practitioner", "7", "--organization", "Organization/1"),
    )

    name, password = value(result, "name"), value(result, "password")
    found = asked(database_url, lambda database: grants.sign_in(database, name, password, clock()))
    assert found.once
    assert (found.kind, found.roles) == ("workforce", ("nurse", "lead"))
    assert (found.fhir_user, found.organization) == ("Practitioner/7", "Organization/1")


def test_users_are_listed_with_their_state(run: Command, database_url: str) -> None:
    run("user", "add", "anne", "--kind", "workforce", "--practitioner", "7")
    run("user", "add", "bob", "--kind", "patient", "--patient", "1")
    run("user", "add", "cleo", "--kind", "administrator")
    run("user", "disable", "cleo")

    async def locked(database: db.Database) -> None:
        for _ in range(5):
            await grants.sign_in(database, "bob", "wrong password", clock())

    asked(database_url, locked)

    lines = {
        name: line
        for line in run("user", "list").stdout.splitlines()
        for name in ("anne", "bob", "cleo")
        if name in line
    }
    assert "Practitioner/7" in lines["anne"]
    assert "has to change the password" in lines["anne"]
    assert "locked until 20" in lines["bob"]
    assert "disabled" in lines["cleo"]


def test_a_new_password_takes_the_place_of_the_old_one(run: Command, database_url: str) -> None:
    old = value(run("user", "add", "anne", "--kind", "workforce"), "password")

    new = value(run("user", "password", "anne"), "password")

    async def signed_in(database: db.Database) -> list[bool]:
        found = [await grants.sign_in(database, "anne", one, clock()) for one in (old, new)]
        return [one is not None for one in found]

    assert asked(database_url, signed_in) == [False, True]


def test_a_disabled_user_has_no_token_any_more(run: Command, settings: Settings) -> None:
    run("user", "add", "anne", "--kind", "workforce", "--practitioner", "7")
    token = run("token", "--scope", "user/*.rs", "--user", "anne").stdout.strip()
    before = statuses(settings, token, "/Patient")

    result = run("user", "disable", "anne")

    assert "anne is disabled" in result.stdout
    assert (before, statuses(settings, token, "/Patient")) == ([200], [401])


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["add", "anne"], 2, "--kind"),
        (["add", "anne", "--kind", "boss"], 1, "kind of an account is one of"),
        (["add", "anne", "--kind", "system"], 1, "kind of an account is one of"),
        (["add", "two words", "--kind", "workforce"], 1, "no spaces"),
        (["add", "anne", "--kind", "patient"], 1, "that of a Patient"),
        (["add", "anne", "--kind", "workforce", "--patient", "1"], 1, "that of a Practitioner"),
        (["add", "anne", "--kind", "patient", "--patient", "1/2"], 1, "no reference"),
        (["add", "anne", "--kind", "workforce", "--role", "a b"], 1, "A role is a word"),
        (
            ["add", "anne", "--kind", "patient", "--patient", "1", "--practitioner", "2"],
            2,
            "one person",
        ),
        (["disable", "anne"], 2, "no account anne"),
        (["password", "anne"], 2, "no account anne"),
        (["remove", "anne"], 2, "No such command"),
    ],
    ids=range(12),
)
@ON_SQLITE
def test_a_wrong_argument_about_a_user_is_told(
    run: Command, engine: str, arguments: list[str], status: int, says: str
) -> None:
    result = run("user", *arguments)

    assert result.exit_code == status
    assert says in result.stderr
    assert "no accounts" in run("user", "list").stdout


@ON_SQLITE
def test_a_name_that_is_taken_and_a_second_disabling_are_told(run: Command, engine: str) -> None:
    run("user", "add", "anne", "--kind", "workforce")

    taken = run("user", "add", "ANNE", "--kind", "workforce")
    run("user", "disable", "anne")
    again = run("user", "disable", "anne")

    assert (taken.exit_code, again.exit_code) == (1, 2)
    assert "There is an account anne already" in taken.stderr
    assert "disabled already" in again.stderr


# --- client -------------------------------------------------------------------------------------


def test_an_application_is_told_all_that_it_needs(run: Command, database_url: str) -> None:
    result = run(
        *(
            "client",
            "add",
            "My App",
            "--kind",
            "public",
            "--redirect",
            BACK,
            "--redirect",
            "org.app:/b",
        ),
        *("--scope", "openid fhirUser launch/patient offline_access patient/*.rs"),
        *("--launch", "https://app.example.org/launch"),
    )

    id = value(result, "client_id")
    client = asked(database_url, lambda database: grants.find_client(database, id))
    assert client.redirect_uris == (BACK, "org.app:/b")
    assert client.grant_types == ("authorization_code", "refresh_token")
    assert client.launch_uri == "https://app.example.org/launch"
    assert value(result, "FHIR base (aud)") == BASE_URL
    assert value(result, "discovery") == f"{BASE_URL}/.well-known/smart-configuration"
    assert value(result, "token").endswith("/oauth/token")
    assert "code_challenge_method=S256" in result.stdout
    assert "client_secret" not in result.stdout


def test_a_secret_is_shown_once_and_is_right(run: Command, database_url: str) -> None:
    result = run("client", "add", "Night", "--kind", "symmetric", "--scope", "system/*.rs")

    id, secret = value(result, "client_id"), value(result, "client_secret")
    assert asked(database_url, lambda database: grants.check_client_secret(database, id, secret))
    assert secret not in run("client", "list").stdout
    assert secret not in str(trail(database_url))


def test_an_application_proves_itself_by_its_keys(
    run: Command, database_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "jwks.json"
    key = ECKey.generate_key("P-384", {"kid": "one"})
    file.write_text(json.dumps({"keys": [key.as_dict(private=False)]}))

    result = run(
        *("client", "add", "Export", "--kind", "asymmetric", "--jwks", file),
        *("--grant", "client_credentials", "--scope", "system/*.rs"),
    )

    id = value(result, "client_id")
    client = asked(database_url, lambda database: grants.find_client(database, id))
    assert json.loads(client.jwks)["keys"][0]["kid"] == "one"
    assert "client_assertion" in result.stdout
    assert "client_secret" not in result.stdout


def test_a_revoked_application_is_listed_as_such(run: Command, settings: Settings) -> None:
    run("client", "add", "Night", "--kind", "symmetric", "--scope", "system/*.rs")
    token = run("token", "--scope", "system/*.rs", "--client", "Night").stdout.strip()

    revoked = run("client", "revoke", "Night")

    assert "Night is revoked" in revoked.stdout
    assert re.search(r"Night.*revoked", run("client", "list").stdout)
    assert statuses(settings, token, "/Patient") == [401]


PUBLIC = ["add", "App", "--kind", "public", "--scope", "patient/*.rs"]
SYSTEM = ["add", "App", "--kind", "symmetric", "--scope", "system/*.rs"]
KEYED = ["add", "App", "--kind", "asymmetric", "--scope", "system/*.rs"]


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["add", "App"], 2, "--kind"),
        (["add", "App", "--kind", "public"], 2, "--scope"),
        (["add", "App", "--kind", "odd", "--scope", "system/*.rs"], 1, "one of public, symmetric"),
        (PUBLIC, 2, "--grant authorization_code"),
        ([*PUBLIC, "--redirect", "http://app.example.org/"], 1, "a redirect URI is absolute"),
        ([*PUBLIC, "--redirect", f"{BACK}#x"], 1, "no fragment"),
        ([*PUBLIC, "--redirect", BACK, "--grant", "client_credentials"], 2, "authorization_code"),
        ([*PUBLIC, "--redirect", BACK, "--logo", "http://a.example.org/l"], 1, "no https"),
        ([*PUBLIC, "--redirect", BACK, "--launch", "app"], 1, "no https"),
        ([*PUBLIC[:-1], "patient/*.rs foo", "--redirect", BACK], 2, "no scopes: foo"),
        ([*PUBLIC[:-1], "openid", "--redirect", BACK], 2, "may ask for nothing"),
        ([*PUBLIC[:-1], "system/*.rs", "--redirect", BACK], 2, "--grant client_credentials"),
        ([*SYSTEM, "--grant", "password"], 2, "client_credentials"),
        ([*SYSTEM, "--grant", "client_credentials", "--grant", "password"], 1, "A grant is one of"),
        ([*SYSTEM, "--redirect", BACK], 2, "--grant client_credentials"),
        ([*SYSTEM, "--jwks", "nowhere.json"], 2, "cannot be read"),
        ([*SYSTEM, "--jwks", __file__], 2, "A key set is JSON"),
        (KEYED, 1, "either keys or an address"),
        ([*KEYED, "--jwks-uri", "http://127.0.0.1/jwks"], 1, "no https"),
        (["revoke", "App"], 2, "no client App"),
    ],
    ids=range(20),
)
@ON_SQLITE
def test_a_wrong_argument_about_a_client_is_told(
    run: Command, engine: str, arguments: list[str], status: int, says: str
) -> None:
    result = run("client", *arguments)

    assert result.exit_code == status
    assert says in result.stderr
    assert "App " not in run("client", "list").stdout


@ON_SQLITE
def test_a_client_is_added_once_and_revoked_once(run: Command, engine: str) -> None:
    run("client", *SYSTEM)

    taken = run("client", *SYSTEM)
    reserved = run("client", *[grants.COMMAND_LINE if one == "App" else one for one in SYSTEM])
    run("client", "revoke", "App")
    again = run("client", "revoke", "App")

    assert (taken.exit_code, reserved.exit_code, again.exit_code) == (1, 1, 2)
    assert "There is a client App already" in taken.stderr
    assert "milepost token" in reserved.stderr
    assert "revoked already" in again.stderr


# --- keys and the audit trail -------------------------------------------------------------------


def test_a_new_key_is_shown_before_the_old_one(run: Command) -> None:
    first = re.findall(r"[\w-]{43}", run("keys", "list").stdout)

    rotated = re.findall(r"[\w-]{43}", run("keys", "rotate").stdout)

    assert len(first) == 1
    assert rotated[1:] == first
    assert re.findall(r"[\w-]{43}", run("keys", "list").stdout) == rotated


def test_every_change_leaves_a_row(run: Command, database_url: str) -> None:
    run("user", "add", "anne", "--kind", "workforce")
    run("user", "password", "anne")
    run("user", "disable", "anne")
    run("client", *SYSTEM)
    run("client", "revoke", "App")
    run("keys", "rotate")
    run("user", "list")
    run("client", "list")

    found = trail(database_url)

    codes = ["user", "password", "user", "client", "client", "key"]
    assert [(agent, code) for agent, code, _ in found] == [("command line", one) for one in codes]


def test_what_is_made_on_demand_leaves_a_row_once(run: Command, database_url: str) -> None:
    for _ in range(2):
        run("keys", "list")
        run("token", "--scope", "system/*.rs")

    codes = [code for _, code, _ in trail(database_url)]
    assert codes == ["key", "client", "token", "token"]


def test_the_audit_trail_of_the_commands_is_proved(run: Command) -> None:
    run("keys", "rotate")

    result = run("audit", "verify")

    assert result.exit_code == 0
    assert "as they were" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["token", "--scope", "system/*.rs"],
        ["user", "list"],
        ["client", "list"],
        ["keys", "list"],
        ["audit", "verify"],
    ],
    ids=" ".join,
)
@ON_SQLITE
def test_a_database_that_is_not_migrated_is_told(
    engine: str, empty_database_url: str, arguments: list[str]
) -> None:
    environment = {"MILEPOST_DATABASE_URL": empty_database_url, "COLUMNS": "300"}

    result = CliRunner().invoke(app, arguments, env=environment)

    assert result.exit_code == 1
    assert "milepost migrate" in result.stderr


async def test_commands_wait_for_a_server_that_writes(
    run: Command, settings: Settings, client: httpx.AsyncClient
) -> None:
    async def write(n: int) -> int:
        put = await client.put(f"/Patient/{n}", json={"resourceType": "Patient", "id": str(n)})
        return put.status_code

    written, result = await asyncio.gather(
        asyncio.gather(*(write(n) for n in range(40))),
        asyncio.to_thread(run, "user", "add", "anne", "--kind", "workforce"),
    )

    assert set(written) == {201}
    assert result.exit_code == 0
