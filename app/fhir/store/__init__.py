"""The record as one caller may see it: the only reader and writer of resources."""

from app.fhir.store.catalogue import Catalogue, is_current, open_catalogue, state
from app.fhir.store.erasure import Erased, expunge, purge
from app.fhir.store.includes import Entry
from app.fhir.store.labels import labelled
from app.fhir.store.parameters import refusals
from app.fhir.store.record import Store
from app.fhir.store.versions import (
    CREATED,
    DELETED,
    LIVE,
    Current,
    Seen,
    Version,
    digest,
    instant,
    nothing,
)

__all__ = [
    "CREATED",
    "DELETED",
    "LIVE",
    "Catalogue",
    "Current",
    "Entry",
    "Erased",
    "Seen",
    "Store",
    "Version",
    "digest",
    "expunge",
    "instant",
    "is_current",
    "labelled",
    "nothing",
    "open_catalogue",
    "purge",
    "refusals",
    "state",
]
