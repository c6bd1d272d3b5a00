"""What the process knows, and what every interaction checks."""

import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from app import db
from app.fhir.access import Caller
from app.fhir.audit import Trail
from app.fhir.cut import Cutter
from app.fhir.definitions import Definitions
from app.fhir.edition import Edition, Editions
from app.fhir.errors import FhirError, outcome, refused
from app.fhir.interaction import Interaction, Reply
from app.fhir.operations import Operations
from app.fhir.query import PRESENTATION, Language
from app.fhir.rules import Rules
from app.fhir.store import Catalogue, Seen, Store
from app.fhir.validation import Validator
from app.fhir.wire import encode

Perform = Callable[["Server", Store, Interaction], Coroutine[Any, Any, Reply]]
# Answers every interaction with a type, and says what of it was seen
Source = Callable[
    [Language, Catalogue, Caller, Interaction, list[Seen] | None], Coroutine[Any, Any, Reply]
]


@dataclass(frozen=True)
class Server:
    """What the process knows: composed once by `app.main`.

    `now` gives microseconds since 1970, cut to milliseconds (the precision of lastUpdated);
    `new_id` a fresh id. `edition` is what a request knows of the definitions in force from its
    beginning to its end, `editions` has the newest. `trail` is where what happens is noted; without
    one nothing is. `sources` answer for types that are not in the store. `rules` hold for every
    write. `under_way` are the names of calls that may come twice, while they are made.
    """

    base_url: str
    database: db.Database
    editions: Editions
    edition: Edition
    validator: Validator
    operations: Operations
    now: Callable[[], int]
    new_id: Callable[[], str]
    conditional_delete: Literal["single", "multiple"] = "single"
    referential_integrity: Literal["off", "warn", "enforce"] = "off"
    max_bundle_entries: int = 10_000
    max_resource_bytes: int = 16 * 1024 * 1024
    batch_seconds: float = math.inf
    trail: Trail | None = None
    sources: Mapping[str, Source] = field(default_factory=dict)
    rules: Rules = field(default_factory=Rules)
    under_way: set[bytes] = field(default_factory=set)

    @property
    def definitions(self) -> Definitions:
        """Return R4's definitions and the search parameters that were added."""
        return self.edition.definitions

    @property
    def catalogue(self) -> Catalogue:
        """Return what a store needs."""
        return self.edition.catalogue

    @property
    def cutter(self) -> Cutter:
        """Return what cuts resources to what is asked for."""
        return self.edition.catalogue.cutter

    @property
    def language(self) -> Language:
        """Return the search language."""
        return self.edition.language

    def newest(self) -> "Server":
        """Return the server with the edition of this moment."""
        newest = self.editions.current
        return self if self.edition is newest else replace(self, edition=newest)


def check_parameters(asked: Interaction, known: Sequence[str]) -> None:
    """Refuse a query parameter that this interaction does not have: none is ignored."""
    for name, value in asked.pairs:
        if name in known or not value or name in PRESENTATION:
            continue
        if name == "_summary" and value == "false":
            continue
        may = f"; it has {', '.join(known)}" if known else ""
        text = f"{asked.code} has no parameter {name[:80]!r}{may}"
        raise refused("not-supported", text, f"http.{name[:80]}")


def matches(header: str, version: int | str) -> bool:
    """Return whether an If-Match or If-None-Match header names the version; a weak tag is fine.

    Raises a 400 for what is no entity tag.
    """
    if header == "*":
        return True
    tags = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    if any(len(tag) < 2 or tag[0] != '"' or tag[-1] != '"' for tag in tags):
        raise refused("invalid", 'If-Match and If-None-Match take an ETag such as W/"1"')
    return f'"{version}"' in tags


def refusal(error: FhirError) -> Reply:
    """Return a refusal as the OperationOutcome that the client gets."""
    return Reply(error.status, encode(outcome(error.issues)), extra=error.headers)
