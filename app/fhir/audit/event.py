"""What happened, as one row of the audit trail has it: who did what, and to whose record.

https://hl7.org/fhir/R4/auditevent.html
https://hl7.org/fhir/R4/valueset-restful-interaction.html

An `Event` is what a request leaves, allowed or refused; `trail` writes it, `rendering` shows it as
AuditEvents, one for each patient. Codes and outcomes are tables, the rest is in `detail`, under the
names that `interaction_event` and `security_event` give.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from app.fhir.access import Caller
from app.fhir.interaction import Interaction
from app.fhir.store import Seen

SUCCESS, MINOR, SERIOUS = 0, 4, 8  # valueset-audit-event-outcome.html

# valueset-audit-event-action.html: what each interaction does
ACTIONS = {
    "read": "R",
    "vread": "R",
    "history-instance": "R",
    "history-type": "R",
    "history-system": "R",
    "search-type": "E",
    "search-system": "E",
    "search-compartment": "E",
    "create": "C",
    "update": "U",
    "patch": "U",
    "delete": "D",
    "operation": "E",
    "batch": "E",
    "transaction": "E",
}
SECURITY_CODES = frozenset(
    {
        "sign-in",
        "sign-out",
        "lock-out",
        "password",
        "token",
        "token-refused",
        "revoke",
        "introspect",
        "launch",
        "consent",
        "user",
        "client",
        "key",
    }
)
NOBODY = (0,)  # in place of the keys of Patients
# The interactions that leave no row
UNAUDITED = frozenset({"capabilities"})


class Event(NamedTuple):
    """One row of the trail: who (`agent`, the id of an account or a client) did what, and when.

    `at` is in microseconds since 1970. `code` is an interaction or one of `SECURITY_CODES`,
    `action` one of C R U D E, `outcome` one of the three above, `type` a resource type or "".
    `patients` are the resource keys of the Patients whose record it was, `detail` is all else.
    """

    at: int
    agent: str
    code: str
    action: str
    outcome: int
    type: str
    detail: Mapping[str, Any]
    patients: tuple[int, ...] = ()


def outcome_of(status: int) -> int:
    """Return the outcome that an HTTP status stands for."""
    return SUCCESS if status < 400 else MINOR if status < 500 else SERIOUS


def interaction_event(
    at: int,
    caller: Caller | None,
    asked: Interaction,
    status: int,
    seen: Iterable[Seen] = (),
    code: str = "",
) -> Event:
    """Return the event of one interaction; `code` where the trail calls it otherwise.

    `detail["of"]` are the versions that were seen (`Type/id/version`, and a letter where one was
    written), by the key of the Patient that they are of, 0 for what is of no patient. A version of
    two Patients is in both lists.
    """
    code = code or asked.code
    detail: dict[str, Any] = _by(caller)
    detail["status"] = status
    said = (
        ("request", asked.request),
        ("address", asked.address),
        ("id", asked.id),
        ("version", asked.version),
        ("within", asked.within),
        ("operation", asked.operation),
        ("method", asked.method),
        ("url", asked.url),
        ("query", asked.pairs),
    )
    detail |= {name: value for name, value in said if value}
    of: dict[int, list[str]] = {}
    for type, id, version, owners, wrote in dict.fromkeys(seen):
        place = f"{type}/{id}/{version}/{wrote}" if wrote else f"{type}/{id}/{version}"
        for owner in owners or NOBODY:
            places = of.get(owner)
            if places is None:
                of[owner] = [place]
            else:
                places.append(place)
    patients: tuple[int, ...] = ()
    if of:
        detail["of"] = of
        patients = tuple(sorted(owner for owner in of if owner))
    action = ACTIONS.get(code, "E")
    agent = caller.subject or caller.name if caller else ""
    return Event(at, agent, code, action, outcome_of(status), asked.type, detail, patients)


def _by(caller: Caller | None) -> dict[str, Any]:
    """Return what is noted of a caller: only what there is."""
    if caller is None:
        return {}
    found: dict[str, Any] = {"kind": caller.kind}
    if caller.client:
        found["client"] = caller.client
    if caller.roles:
        found["roles"] = caller.roles
    if caller.organization:
        found["organization"] = caller.organization
    if caller.fhir_user:
        found["fhir_user"] = caller.fhir_user
    if caller.patient:
        found["patient"] = caller.patient
    if caller.purpose:
        found["purpose"] = caller.purpose
    return found


def refused_at_the_edge(
    at: int,
    caller: Caller | None,
    method: str,
    path: str,
    status: int,
    request: str = "",
    code: str = "",
    type: str = "",
    address: str = "",
) -> Event:
    """Return the event of a request that was refused before it came to the door.

    `caller` is None where nobody is known; `path` is below the base, without the query; `code` and
    `type` are those of the route, where there is one.
    """
    asked = Interaction(
        code or "unknown", type, method=method, url=path, request=request, address=address
    )
    return interaction_event(at, caller, asked, status)


def security_event(
    at: int,
    agent: str,
    code: str,
    outcome: int,
    *,
    patients: tuple[int, ...] = (),
    **detail: object,
) -> Event:
    """Return an event of accounts, clients, tokens and keys; `detail` holds no secret.

    `agent` is the id of the account or client, or the name that was tried, "" for nobody; `code`
    one of `SECURITY_CODES`; `outcome` one of SUCCESS, MINOR, SERIOUS.
    """
    if code not in SECURITY_CODES:
        raise ValueError(f"{code} is no code of a security event")
    return Event(at, agent, code, "E", outcome, "", detail, patients)
