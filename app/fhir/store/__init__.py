"""The record as one caller may see it: the only reader and writer of resources."""

from app.fhir.store.catalogue import Catalogue, is_current, open_catalogue, state
from app.fhir.store.parameters import refusals
from app.fhir.store.record import CREATED, LIVE, Current, Store, Version, digest, instant

__all__ = [
    "CREATED",
    "LIVE",
    "Catalogue",
    "Current",
    "Store",
    "Version",
    "digest",
    "instant",
    "is_current",
    "open_catalogue",
    "refusals",
    "state",
]
