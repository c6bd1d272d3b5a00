"""The operations that every server of ours has: the rows, and what performs each.

https://hl7.org/fhir/R4/operationslist.html

R4's own definitions are shipped as data. A server shows them under its own addresses, with `base`
naming R4's: what it says there is what it does, and where R4 leaves `affectsState` out, it is said.
"""

from collections.abc import Callable, Mapping
from typing import Any

from app.fhir.access import Right
from app.fhir.definitions import load_operations
from app.fhir.operations.document import document
from app.fhir.operations.erasing import erasing
from app.fhir.operations.everything import everything
from app.fhir.operations.lastn import lastn
from app.fhir.operations.meta import added, changed, deleted, shown
from app.fhir.operations.operation import Operation, Operations
from app.fhir.operations.validating import validate
from app.fhir.store import expunge, purge
from app.fhir.wire import Resource

OUTCOME = {
    "name": "return",
    "use": "out",
    "min": 1,
    "max": "1",
    "documentation": "What was erased, and what was not",
    "type": "OperationOutcome",
}
OURS: Mapping[str, Resource] = {
    "Patient-purge": {
        "name": "PatientPurge",
        "title": "Erase a patient for good",
        "description": "Erases a Patient and everything that belongs to that Patient alone: all"
        " versions, and all that searches know of them. What belongs to other patients as well is"
        " kept. Only for callers with the right to erase.",
        "code": "purge",
        "resource": ["Patient"],
        "system": False,
        "type": False,
        "instance": True,
        "parameter": [OUTCOME],
    },
    "Resource-expunge": {
        "name": "ResourceExpunge",
        "title": "Erase the history of a resource",
        "description": "Erases all versions of a resource but the current one, and a deleted"
        " resource altogether. Only for callers with the right to erase.",
        "code": "expunge",
        "resource": ["Resource"],
        "system": False,
        "type": False,
        "instance": True,
        "parameter": [OUTCOME],
    },
}

Row = Callable[[Resource], Operation]


def _row(**known: Any) -> Row:
    return lambda definition: Operation(definition, **known)


# What an operation does to the type that it is called of
READ: tuple[Right, ...] = ("read",)
SEARCH: tuple[Right, ...] = ("search",)
WALK: tuple[Right, ...] = ("read", "search")
CHANGE: tuple[Right, ...] = ("read", "update")
ERASE: tuple[Right, ...] = ("delete",)
# By the id of the OperationDefinition: what performs it, and how
ROWS: Mapping[str, Row] = {
    "Resource-validate": _row(perform=validate),  # of its modes, what the write needs that is tried
    "Resource-meta": _row(
        perform=shown,
        on_versions=True,
        needs={"system": SEARCH, "type": SEARCH, "instance": READ, "version": READ},
    ),
    "Resource-meta-add": _row(perform=changed(added), writes=True, needs={"instance": CHANGE}),
    "Resource-meta-delete": _row(perform=changed(deleted), writes=True, needs={"instance": CHANGE}),
    "Patient-everything": _row(perform=everything, paged=True, needs={"instance": WALK}),
    "Encounter-everything": _row(perform=everything, paged=True, needs={"instance": WALK}),
    "Observation-lastn": _row(perform=lastn, criteria=True, needs={"type": SEARCH}),
    "Composition-document": _row(perform=document, needs={"type": READ, "instance": READ}),
    "Patient-purge": _row(
        perform=erasing(purge), writes=True, right="erase", needs={"instance": ERASE}
    ),
    "Resource-expunge": _row(
        perform=erasing(expunge), writes=True, right="erase", needs={"instance": ERASE}
    ),
}

# What a definition of R4 offers and this server does not
NARROWED: Mapping[str, Resource] = {
    # the record of one patient: for those of all, an answer is no fitting form
    "Patient-everything": {"type": False},
}
NOT_TAKEN = {("Composition-document", "graph")}


def standard(base_url: str) -> Operations:
    """Return the standard operations of a server at `base_url`."""
    official = load_operations()
    found = []
    for id, row in ROWS.items():
        own = {"resourceType": "OperationDefinition", "id": id}
        given = OURS.get(id) or _narrowed(id, official[id])
        definition = {
            **own,
            "url": f"{base_url}/OperationDefinition/{id}",
            **given,
            "status": "active",
            "kind": "operation",
            "affectsState": row({}).writes,
        }
        found.append(row({n: v for n, v in definition.items() if v not in ([], "")}))
    return Operations(tuple(found))


def _narrowed(id: str, official: Resource) -> Resource:
    """Return a definition of R4 as what ours is based on."""
    rest = {n: v for n, v in official.items() if n not in ("resourceType", "id", "url")}
    taken = [p for p in official.get("parameter", ()) if (id, p["name"]) not in NOT_TAKEN]
    return {
        **rest,
        "name": id.replace("-", ""),
        "title": official["name"],
        "base": official["url"],
        "parameter": taken,
        **NARROWED.get(id, {}),
    }
