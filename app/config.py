"""The settings: every one an environment variable `MILEPOST_<NAME>`, all in the README.

A setting is a fact about one installation, never a switch for tests: the clock and the maker of
ids are handed in by `app.main`. There are fewer than 25, so a new one has to replace a constant
that operators really do change.
"""

import re
from datetime import UTC, tzinfo
from ipaddress import ip_address, ip_network
from typing import Annotated, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 1024 * 1024
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[A-Za-z0-9.-]+(:[0-9]+)?")


def openable(url: str) -> str:
    """Return `url` if it names a database that Milepost can open, else say which it can."""
    scheme, _, rest = url.partition("://")
    sqlite = scheme == "sqlite" and rest.startswith("/") and rest != "/"
    if sqlite or (scheme == "postgresql" and rest):
        return url
    raise ValueError(
        "expected sqlite:///relative.db, sqlite:////absolute.db"
        " or postgresql://user:password@host/database"
    )


def absolute(url: str) -> str:
    """Return `url` without a final slash; it must be absolute, because clients store it."""
    if not url.startswith(("http://", "https://")) or "?" in url or "#" in url:
        raise ValueError("expected an absolute http or https address without a query")
    return url.rstrip("/")


def origins(text: str) -> str:
    """Return a list of web origins without spaces; each is a scheme, a host and perhaps a port."""
    found = [part.strip().rstrip("/") for part in text.split(",") if part.strip()]
    if found == ["*"] or all(ORIGIN.fullmatch(one) for one in found):
        return ",".join(found)
    raise ValueError("expected origins such as https://app.example.org, with commas between, or *")


def proxies(text: str) -> str:
    """Return a list of addresses and networks (`10.0.0.0/8`) without spaces, or `*` for any."""
    found = [part.strip() for part in text.split(",") if part.strip()]
    try:
        for one in found:
            if found != ["*"]:
                ip_network(one)
    except ValueError as unknown:
        raise ValueError("expected IP addresses, with commas between, or *") from unknown
    return ",".join(found)


def loopback(host: str) -> bool:
    """Return whether only this machine reaches `host`; of names just `localhost` says so."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def zone(name: str) -> tzinfo:
    """Return the time zone of that name (`Europe/Berlin`); UTC needs no zone database."""
    return UTC if name == "UTC" else ZoneInfo(name)


def known_zone(name: str) -> str:
    """Return `name` if this machine's zone database knows it."""
    try:
        zone(name)
    except (ZoneInfoNotFoundError, OSError, ValueError) as unknown:
        raise ValueError("expected the name of a time zone, such as Europe/Berlin") from unknown
    return name


class Settings(BaseSettings):
    """The settings of one process: from arguments first, then the environment, then defaults."""

    model_config = SettingsConfigDict(env_prefix="MILEPOST_", frozen=True, extra="forbid")

    database_url: Annotated[
        str,
        AfterValidator(openable),
        Field(
            description="Database: `sqlite:///relative.db`, `sqlite:////absolute.db`"
            " or `postgresql://user:password@host/database`"
        ),
    ] = "sqlite:///.milepost/milepost.db"
    database_connections: Annotated[
        int,
        Field(
            ge=1,
            le=200,
            description="PostgreSQL connections of each worker for reads and writes;"
            " searches have as many of their own",
        ),
    ] = 8
    base_url: Annotated[
        str,
        AfterValidator(absolute),
        Field(description="Address at which clients reach the FHIR API; links begin with it"),
    ] = "http://127.0.0.1:8000/fhir"
    canonical_base: Annotated[
        str,
        AfterValidator(absolute),
        Field(
            description="Address below which the code systems, profiles and operations of a program"
            " have their names; choose it once, before there are data: they are written with it"
        ),
    ] = "https://example.org/fhir/iop"
    host: Annotated[
        str, Field(min_length=1, description="Address that `milepost serve` listens on")
    ] = "127.0.0.1"
    port: Annotated[
        int, Field(ge=0, le=65535, description="Port that `milepost serve` listens on")
    ] = 8000
    workers: Annotated[
        int, Field(ge=1, le=256, description="Server processes; more than one needs PostgreSQL")
    ] = 1
    tls_certificate: Annotated[
        str,
        Field(
            description="PEM file with the certificates and the private key of the server, for"
            " https without a proxy"
        ),
    ] = ""
    trusted_proxies: Annotated[
        str,
        AfterValidator(proxies),
        Field(
            description="Addresses of the proxies in front that end TLS, with commas between, `*`"
            " for any: their X-Forwarded-For and X-Forwarded-Proto count"
        ),
    ] = ""
    cors_origins: Annotated[
        str,
        AfterValidator(origins),
        Field(
            description="Origins of browser applications that may call the API, with commas"
            " between; `*` for any, empty for none"
        ),
    ] = ""
    max_resource_bytes: Annotated[
        int, Field(ge=1024, description="Largest body of one resource; a larger one is a 413")
    ] = 16 * MIB
    max_bundle_bytes: Annotated[
        int, Field(ge=1024, description="Largest body of a batch or transaction")
    ] = 64 * MIB
    max_concurrent_requests: Annotated[
        int,
        Field(
            ge=1,
            description="Requests that each worker has under way at once; more are a 503 at once",
        ),
    ] = 256
    request_timeout_seconds: Annotated[
        float,
        Field(
            gt=0,
            le=3600,
            description="Time for the body of a request to arrive (a 408), and for a read or a"
            " transaction in the database (a 503, nothing is written)",
        ),
    ] = 60.0
    conditional_delete: Annotated[
        Literal["single", "multiple"],
        Field(
            description="What a DELETE by criteria may delete: one resource, or as many as fit, up"
            " to its `_count` or 100; where more fit, nothing is deleted: a 412"
        ),
    ] = "single"
    referential_integrity: Annotated[
        Literal["off", "warn", "enforce"],
        Field(
            description="References to resources that this server does not have, and deletions of"
            " what others refer to: not looked for, told with `Prefer: return=OperationOutcome`, or"
            " refused with a 422 and a 409"
        ),
    ] = "off"
    page_size: Annotated[
        int, Field(ge=1, description="Entries on a page where `_count` is absent")
    ] = 20
    max_page_size: Annotated[
        int, Field(ge=1, description="Most entries on a page; a larger `_count` is lowered to it")
    ] = 1000
    search_timeout_seconds: Annotated[
        float, Field(gt=0, le=3600, description="Time after which a search is given up: a 503")
    ] = 30.0
    search_handling: Annotated[
        Literal["strict", "lenient"],
        Field(
            description="An unknown search parameter, modifier or value is refused (`strict`) or"
            " ignored with a warning (`lenient`) where a client does not say `Prefer: handling=`"
        ),
    ] = "strict"
    text_search: Annotated[
        bool,
        Field(
            description="Search by the words of narratives (`_text`) and of whole resources"
            " (`_content`); to turn it on later, stop the servers and run `milepost reindex`"
        ),
    ] = False
    time_zone: Annotated[
        str,
        AfterValidator(known_zone),
        Field(
            description="Zone of dates and searches that are written without one; another one needs"
            " `milepost reindex`"
        ),
    ] = "UTC"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error", "critical"],
        Field(description="Least severe message that is logged"),
    ] = "info"
    log_format: Annotated[
        Literal["json", "text"],
        Field(description="One JSON object a line, or lines for people"),
    ] = "json"

    @model_validator(mode="after")
    def consistent(self) -> "Settings":
        """Refuse settings that contradict each other."""
        if self.page_size > self.max_page_size:
            raise ValueError("page_size is larger than max_page_size")
        if self.workers > 1 and self.database_url.startswith("sqlite:"):
            raise ValueError(
                "SQLite has one writing process: use PostgreSQL for more than one worker"
            )
        return self

    @property
    def local(self) -> bool:
        """Whether all clients are on this machine: the server is asked at a loopback address."""
        return loopback(urlsplit(self.base_url).hostname or "")

    @property
    def zone(self) -> tzinfo:
        """The zone of dates and searches that are written without one."""
        return zone(self.time_zone)
