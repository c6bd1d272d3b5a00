"""X-Provenance: who did what a request writes, and why, stored with it.

https://hl7.org/fhir/R4/http.html#provenance and https://hl7.org/fhir/R4/provenance.html

The header holds a Provenance as JSON without `target`, which the server fills: with each version
that the request writes, a deletion too. Rule 1: nothing here reads or writes the database.
"""

from collections.abc import Iterable

from app.fhir.errors import FhirError, Issue, refused
from app.fhir.interaction import Interaction
from app.fhir.store import Version
from app.fhir.wire import Buffer, compact, encode, fields, join

TYPE = "Provenance"
TAKING = frozenset({"create", "update", "patch", "delete", "batch"})  # the codes that may have one

# What the target is while it is not known: the resource is checked before anything is written
STAND_IN = b'[{"reference":"urn:uuid:00000000-0000-0000-0000-000000000000"}]'


def check_taken(asked: Interaction) -> None:
    """Refuse the header where nothing is written, rather than forget it."""
    if asked.code not in TAKING:
        raise refused("not-supported", f"X-Provenance goes with a write, which {asked.code} is not")


def asserted(header: bytes) -> Interaction:
    """Return the create of the Provenance in a header, whose target still stands in for another.

    Raises a 400 for anything but a JSON object without `target`.
    """
    try:
        parts: dict[str, Buffer] = {**fields(compact(header, TYPE))}
    except FhirError as error:
        raise named(error) from None
    if "target" in parts:
        text = "X-Provenance must not have a target: the server fills it"
        raise refused("invalid", text, f"{TYPE}.target", 400)
    return Interaction("create", TYPE, body=join({**parts, "target": STAND_IN}))


def named(error: FhirError) -> FhirError:
    """Return a refusal of the resource in the header as one that says so."""
    issues = [
        Issue(issue.severity, issue.code, f"X-Provenance: {issue.text}", issue.expression)
        for issue in error.issues
    ]
    return FhirError(issues, error.status)


def about(raw: bytes, versions: Iterable[Version]) -> bytes:
    """Return a compact Provenance whose targets are these versions."""
    targets = [{"reference": f"{v.type}/{v.id}/_history/{v.version}"} for v in versions]
    parts: dict[str, Buffer] = {**fields(raw)}
    return join({**parts, "target": encode(targets)})
