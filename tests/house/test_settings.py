"""Settings say what is wrong with them before anything starts."""

from datetime import UTC
from typing import Any

import pytest
from pydantic import ValidationError

from app.config import Settings


def settings(**given: Any) -> Settings:
    return Settings(**given)


@pytest.mark.parametrize(
    "url", ["sqlite:///a.db", "sqlite:////srv/a.db", "postgresql://me:secret@db:5432/milepost"]
)
def test_a_database_url_is_kept_as_it_is_written(url: str) -> None:
    assert settings(database_url=url).database_url == url


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"database_url": "sqlite://"}, "expected sqlite:///relative.db"),
        ({"database_url": "sqlite:///"}, "expected sqlite:///relative.db"),
        ({"database_url": "mysql://db/a"}, "expected sqlite:///relative.db"),
        ({"base_url": "/fhir"}, "expected an absolute http or https address"),
        ({"base_url": "http://a/fhir?x=1"}, "expected an absolute http or https address"),
        ({"canonical_base": "urn:iop"}, "expected an absolute http or https address"),
        ({"trusted_proxies": "proxy.example.org"}, "expected IP addresses, with commas between"),
        ({"trusted_proxies": "10.0.0.1,*"}, "expected IP addresses, with commas between"),
        ({"time_zone": "Europe/Atlantis"}, "expected the name of a time zone"),
        ({"time_zone": "../etc/passwd"}, "expected the name of a time zone"),
        ({"page_size": 50, "max_page_size": 20}, "page_size is larger than max_page_size"),
        ({"workers": 2}, "use PostgreSQL for more than one worker"),
        ({"max_resource_bytes": 0}, "greater than or equal to 1024"),
        ({"colour": "blue"}, "Extra inputs are not permitted"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_was_expected(
    given: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValidationError, match=told):
        settings(**given)


def test_a_base_loses_its_final_slash() -> None:
    assert settings(base_url="https://example.org/fhir/").base_url == "https://example.org/fhir"
    assert settings(canonical_base="https://a.org/iop/").canonical_base == "https://a.org/iop"


def test_proxies_are_addresses_and_networks_or_any() -> None:
    assert settings(trusted_proxies="10.0.0.1, 10.1.0.0/16,::1").trusted_proxies == (
        "10.0.0.1,10.1.0.0/16,::1"
    )
    assert settings(trusted_proxies=" * ").trusted_proxies == "*"


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1:8000", True), ("localhost", True), ("[::1]:8000", True), ("127.8.8.8", True),
     ("localhost.example.org", False), ("0.0.0.0", False), ("10.0.0.1", False)],
)  # fmt: skip
def test_clients_are_local_where_they_ask_at_a_loopback_address(host: str, local: bool) -> None:
    assert settings(base_url=f"http://{host}/fhir").local == local


def test_the_environment_gives_settings_and_arguments_override_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MILEPOST_PORT", "9000")
    monkeypatch.setenv("MILEPOST_HOST", "0.0.0.0")

    found = settings(host="::1")

    assert (found.host, found.port) == ("::1", 9000)


def test_utc_is_the_zone_of_dates_without_one() -> None:
    assert settings().zone is UTC
