"""What one version is: as it is read, as it waits to be written, and as the rows that it becomes.

https://hl7.org/fhir/R4/http.html#versions
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

from app import db
from app.fhir import manifest
from app.fhir.access import Right
from app.fhir.index import Rows
from app.fhir.query import POINTS
from app.fhir.wire import Resource, canonical

CREATED, UPDATED, DELETED = 1, 2, 3
INDEXED = 0  # no version: the rows of the current one, made anew
LIVE, GONE = 1, 2  # 0 is a phantom
ACTIONS = {CREATED: "C", UPDATED: "U", DELETED: "D"}

RESOURCE_COLUMNS = tuple(db.resource.c.keys())
OWNED = ("key", "version", "owner")
VERSION_COLUMNS = ("key", "version", "owner", "labels", "updated", "type", "op", "body")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Version:
    """One stored version; `body` is empty where it says that the resource was deleted."""

    type: str
    id: str
    version: int
    updated: int
    op: int
    body: bytes
    place: int = 0


class Seen(NamedTuple):
    """One version that was returned, or written by an `action` (C, U or D).

    `patients` are the keys of the Patients whose record it is part of.
    """

    type: str
    id: str
    version: int
    patients: tuple[int, ...]
    action: str = ""


@dataclass(frozen=True, slots=True)
class Current:
    """The locked row of a resource, which may be a phantom or deleted."""

    key: int
    version: int
    state: int
    updated: int
    hash: bytes
    manifest: bytes
    owner: int


@dataclass(frozen=True, slots=True)
class Staged:
    """One write that waits for `flush`."""

    type: str
    id: str
    version: int
    updated: int
    op: int
    body: bytes
    right: Right
    current: Current | None
    rows: Rows | None
    hash: bytes
    was: db.Row = ()  # the whole row, where it may stay as it is


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """One page of a history, newest first, the next cursor, and the total where it is known."""

    entries: Sequence[Version]
    cursor: str
    total: int | None


def digest(resource: Resource) -> bytes:
    """Return a hash that is equal for equal content: order, versionId, lastUpdated do not count."""
    meta = {
        k: v for k, v in resource.get("meta", {}).items() if k not in ("versionId", "lastUpdated")
    }
    content = {**resource, "meta": meta}
    if not meta:
        del content["meta"]
    return blake2b(canonical(content), digest_size=16).digest()


def nothing() -> Sequence[db.Change]:
    """Return no change."""
    return ()


@lru_cache(256)
def instant(updated: int) -> str:
    """Return microseconds as an instant with milliseconds (datatypes.html#instant)."""
    moment = EPOCH + timedelta(microseconds=updated)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def binaries(staged: Staged) -> set[str]:
    """Return the ids of the Binaries that a write points at."""
    rows = staged.rows.reference if staged.rows else ()
    return {id for code, _, id in rows if code == POINTS}


def pointed_before(staged: Staged, param: int) -> set[int]:
    """Return the keys of the Binaries at which the version before a write points already."""
    if staged.current is None or staged.current.state != LIVE:
        return set()
    references = manifest.read(staged.current.manifest).tables[1:2]
    return {target for rows in references for number, target in rows if number == param}


def present_bits(bits: Mapping[tuple[str, str], int], type: str, rows: Rows) -> int:
    """Return the bits of the parameters that have a value, those that have a bit."""
    return sum(1 << bits[type, code] for code in rows.present if (type, code) in bits)


def resource_row(key: int, type: int, id: str, **known: Any) -> tuple[Any, ...]:
    """Return a row of `resource` in the order of its columns; a phantom unless more is known."""
    row = {"key": key, "type": type, "id": id, **known}
    blank = {"hash": b"", "manifest": b""}
    return tuple(row.get(name, blank.get(name, 0)) for name in RESOURCE_COLUMNS)
