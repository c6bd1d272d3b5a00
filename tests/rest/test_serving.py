"""`milepost serve` is safe without a setting: what it refuses, makes and prints at its start."""

import asyncio
import json
import re
import shutil
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from app import db
from app.api import grants
from app.api.serving import configuration
from app.cli import serving as starting
from app.config import Settings
from app.main import clock
from tests.rest import integrity
from tests.support.certificate import write_certificate
from tests.support.process import Process, free_port, milepost, serving
from tests.support.tokens import AUTHORIZED

HTTPS = "https://fhir.example.org/fhir"


@pytest.fixture
def url(sqlite_template: Path, tmp_path: Path) -> str:
    """The URL of an SQLite database that only this test uses."""
    return f"sqlite:///{shutil.copy(sqlite_template, tmp_path / 'milepost.db')}"


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 with its key."""
    return write_certificate(tmp_path / "tls.pem", datetime.now(UTC))


# --- what it refuses ------------------------------------------------------------------------------

UNSAFE = {
    "every address": {"host": "0.0.0.0"},
    "every address of IPv6": {"host": "::"},
    "an address of the network": {"host": "192.0.2.7"},
    "a name": {"host": "fhir.example.org"},
}


@pytest.mark.parametrize("given", UNSAFE.values(), ids=UNSAFE)
def test_nothing_is_served_to_other_machines_unencrypted(url: str, given: dict[str, str]) -> None:
    ended = milepost("serve", database_url=url, port=free_port(), **given)

    assert ended.returncode == 1
    assert ended.stdout == ""
    assert f"Other machines could reach {given['host']}," in ended.stderr
    assert "MILEPOST_TLS_CERTIFICATE" in ended.stderr
    assert "MILEPOST_TRUSTED_PROXIES" in ended.stderr


def test_the_option_host_is_looked_at_as_the_setting_is(url: str) -> None:
    ended = milepost("serve", "--host", "0.0.0.0", "--port", "0", database_url=url)

    assert ended.returncode == 1
    assert "Other machines could reach 0.0.0.0" in ended.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_clients_are_not_told_to_send_tokens_unencrypted(url: str, host: str) -> None:
    base_url = "http://fhir.example.org/fhir"
    given = {"host": host, "trusted_proxies": "192.0.2.1", "base_url": base_url}

    ended = milepost("serve", database_url=url, port=free_port(), **given)

    assert ended.returncode == 1
    assert f"tokens unencrypted, to {base_url}" in ended.stderr
    assert "MILEPOST_BASE_URL has to be the https address" in ended.stderr


def test_a_certificate_goes_with_an_address_that_begins_with_https(
    url: str, certificate: Path
) -> None:
    given = {"tls_certificate": certificate, "base_url": "http://127.0.0.1:1/fhir"}

    ended = milepost("serve", database_url=url, port=free_port(), **given)

    assert ended.returncode == 1
    assert "MILEPOST_BASE_URL has to be the https address" in ended.stderr


@pytest.mark.parametrize("content", ["", "nonsense", "only the certificate", "none"])
def test_what_is_no_certificate_with_its_key_is_told(
    url: str, certificate: Path, content: str
) -> None:
    whole = certificate.read_text()
    if content == "none":
        certificate.unlink()
    elif content == "only the certificate":
        certificate.write_text(whole[whole.index("-----BEGIN CERTIFICATE") :])
    else:
        certificate.write_text(content)

    ended = milepost("serve", database_url=url, port=free_port(), tls_certificate=certificate)

    assert ended.returncode == 1
    assert f"{certificate} is no PEM file with certificates" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_private_key_that_others_may_read_is_not_used(url: str, certificate: Path) -> None:
    certificate.chmod(0o640)

    ended = milepost("serve", database_url=url, port=free_port(), tls_certificate=certificate)

    assert ended.returncode == 1
    assert f"Others may open the private key, {certificate}" in ended.stderr
    assert f"chmod 600 {certificate}" in ended.stderr


@pytest.mark.parametrize("proxies", ["proxy.example.org", "10.0.0.1/8", "10.0.0.1, *"])
def test_proxies_that_are_no_addresses_are_refused(url: str, proxies: str) -> None:
    ended = milepost("serve", database_url=url, trusted_proxies=proxies)

    assert ended.returncode == 2
    assert "MILEPOST_TRUSTED_PROXIES: expected IP addresses" in ended.stderr


# --- https, by itself or behind a proxy -----------------------------------------------------------


def test_with_a_certificate_the_server_speaks_https_alone(
    url: str, certificate: Path, tmp_path: Path
) -> None:
    port = free_port()
    base_url = f"https://127.0.0.1:{port}/fhir"
    given = {"host": "0.0.0.0", "port": port, "base_url": base_url, "tls_certificate": certificate}
    context = ssl.create_default_context(cafile=str(certificate))
    with serving(url, tmp_path / "log", **given) as server:
        patients = httpx.get(f"{base_url}/Patient", headers=AUTHORIZED, verify=context)
        with pytest.raises(httpx.TransportError):
            httpx.get(server.base_url.replace("https:", "http:") + "/metadata")

    assert patients.status_code == 200
    assert patients.json()["link"][0]["url"].startswith(base_url)


async def passed_on(settings: Settings) -> tuple[str, str]:
    """Return from where, and how, a request seems to come that a proxy on this machine sends on."""
    seen: dict[str, Any] = {}

    async def look(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope)

    headers = [(b"x-forwarded-for", b"192.0.2.55"), (b"x-forwarded-proto", b"https")]
    config = configuration(settings)
    config.app, config.factory = look, False
    config.load()
    scope = {"type": "http", "scheme": "http", "client": ("127.0.0.1", 1), "headers": headers}
    await config.loaded_app(scope, None, None)
    return seen["client"][0], seen["scheme"]


@pytest.mark.parametrize(
    ("proxies", "seen"),
    [
        ("*", ("192.0.2.55", "https")),
        ("127.0.0.0/8", ("192.0.2.55", "https")),
        ("192.0.2.1", ("127.0.0.1", "http")),
        # Whoever comes through a proxy that nobody named is not on this machine
        ("", ("192.0.2.55", "https")),
    ],
)
async def test_what_a_proxy_says_counts_if_it_is_trusted(
    proxies: str, seen: tuple[str, str]
) -> None:
    assert await passed_on(Settings(trusted_proxies=proxies)) == seen


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ({}, "http://127.0.0.1:8000/fhir"),
        ({"host": "::1", "port": 80}, "http://[::1]:80/fhir"),
        ({"host": "0.0.0.0"}, "http://127.0.0.1:8000/fhir"),
        ({"tls_certificate": "tls.pem"}, "https://127.0.0.1:8000/fhir"),
    ],
)
def test_without_a_base_url_it_is_where_the_server_listens(
    given: dict[str, Any], base: str
) -> None:
    assert starting.reached_at(Settings(**given)) == base


# --- what the first start makes -------------------------------------------------------------------


def printed(server: Process) -> str:
    """Return what a server has printed, without its log."""
    lines = server.log.read_text().splitlines()
    return "\n".join(line for line in lines if not line.startswith("{"))


def logged(server: Process) -> str:
    """Return the log of a server, without what it has printed."""
    lines = server.log.read_text().splitlines()
    return "\n".join(line for line in lines if line.startswith("{"))


def test_the_first_start_makes_an_administrator_with_a_password_for_once(
    database_url: str, tmp_path: Path
) -> None:
    with serving(database_url, tmp_path / "first.log") as server:
        first = printed(server)
        logs = logged(server)
    with serving(database_url, tmp_path / "second.log") as server:
        second = printed(server)

    (password,) = re.findall(r"password  (\S+)", first)
    account = asyncio.run(signed_in(database_url, "admin", password))
    assert account is not None
    assert (account.kind, account.once, account.fhir_user) == ("administrator", True, "")
    assert "password" not in second
    assert password not in logs


async def signed_in(url: str, name: str, password: str) -> grants.Account | None:
    """Return whom that name and password sign in."""
    database = db.connect(url, 30, 1)
    await database.open()
    try:
        return await grants.sign_in(database, name, password, clock())
    finally:
        await database.close()


async def test_servers_that_start_at_once_make_one_administrator(settings: Settings) -> None:
    both = await asyncio.gather(starting.prepared(settings), starting.prepared(settings))

    assert sorted(len(one.password) > 0 for one in both) == [False, True]
    keys = "SELECT count(*) FROM signing_key WHERE retired = 0"
    assert await integrity.number(settings.database_url, keys) == 1
    accounts = "SELECT count(*) FROM account WHERE kind = 'administrator'"
    assert await integrity.number(settings.database_url, accounts) == 1


async def test_what_the_start_makes_is_in_the_audit_trail(settings: Settings) -> None:
    here = settings.model_copy(update={"base_url": "http://127.0.0.1:8000/fhir"})
    shown = await starting.prepared(here)

    rows = "SELECT count(*) FROM audit WHERE agent = 'command line' AND code IN ('user', 'token')"
    assert await integrity.number(settings.database_url, rows) == 2
    for secret in (shown.password, shown.token):
        told = f"SELECT count(*) FROM audit WHERE detail LIKE '%{secret}%'"
        assert await integrity.number(settings.database_url, told) == 0


def test_a_database_with_an_account_gets_no_other(database_url: str, tmp_path: Path) -> None:
    async def add() -> None:
        database = db.connect(database_url, 30, 1)
        await database.open()
        await grants.add_account(
            database,
            id="a",
            name="somebody",
            kind="workforce",
            password="four words in a row",
            once=False,
            now=1,
        )
        await database.close()

    asyncio.run(add())

    with serving(database_url, tmp_path / "log") as server:
        told = printed(server)

    assert "password" not in told
    count = "SELECT count(*) FROM account"
    assert asyncio.run(integrity.number(database_url, count)) == 1


# --- what is printed ------------------------------------------------------------------------------


def test_the_printed_token_is_good_for_an_hour_and_in_no_log(url: str, tmp_path: Path) -> None:
    with serving(url, tmp_path / "log") as server:
        (token,) = set(re.findall(r"Bearer (\S+)\"", printed(server)))
        headers = {"Authorization": f"Bearer {token}"}
        reply = httpx.get(f"{server.base_url}/Patient", headers=headers)
        server.popen.terminate()
        server.popen.wait()  # by then it has told of everything
        logs = logged(server)

    lives = "SELECT (expires - issued) / 1000000 FROM token WHERE client = 'command-line'"
    assert reply.status_code == 200
    assert asyncio.run(integrity.number(url, lives)) == 3600
    assert [json.loads(line)["status"] for line in logs.splitlines() if '"/[type]"' in line] == [
        200
    ]
    assert token not in logs


@pytest.mark.parametrize(
    "given",
    [
        {"base_url": HTTPS, "trusted_proxies": "127.0.0.1"},
        {"host": "0.0.0.0", "trusted_proxies": "*"},
    ],
    ids=["asked from elsewhere", "in a container"],
)
def test_no_token_is_printed_where_others_may_read_what_a_server_prints(
    url: str, tmp_path: Path, given: dict[str, str]
) -> None:
    port = free_port()
    with serving(url, tmp_path / "log", **{"port": port, **given}) as server:
        told = printed(server)

    assert 'TOKEN=$(milepost token --scope "system/*.cruds")' in told
    assert set(re.findall(r"Bearer (\S+)\"", told)) == {"$TOKEN"}
    tokens = "SELECT count(*) FROM token WHERE client = 'command-line'"
    assert asyncio.run(integrity.number(url, tokens)) == 0
