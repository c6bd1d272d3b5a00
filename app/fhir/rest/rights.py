"""Which rights each interaction needs, and the refusal of a caller who has not got them.

https://hl7.org/fhir/smart-app-launch/STU2.2/scopes-and-launch-context.html

It is asked before anything is looked up, so the answer is the same whether there is something or
not. What the caller has a right for is then a matter of what is visible.
"""

from collections.abc import Iterable, Mapping

from app.fhir.access import Caller, Right
from app.fhir.errors import refused
from app.fhir.interaction import Interaction, Pairs
from app.fhir.operations import Operation, level
from app.fhir.rest.provenance import TYPE as PROVENANCE
from app.fhir.rest.server import Server

# r is for what has an id, s for what has none; a patch reads what it changes
NEEDS: Mapping[str, tuple[Right, ...]] = {
    "read": ("read",),
    "vread": ("read",),
    "history-instance": ("read",),
    "history-type": ("search",),
    "history-system": ("search",),
    "search-type": ("search",),
    "search-compartment": ("search",),
    "search-system": ("search",),
    "create": ("create",),
    "update": ("update",),
    "patch": ("read", "update"),
    "delete": ("delete",),
}


def check(server: Server, caller: Caller, asked: Interaction) -> None:
    """Refuse an interaction that the caller has no right for, whatever it is about: a 403."""
    if caller.policy.open:
        return
    needed = NEEDS.get(asked.code, ())
    if asked.if_none_exist or (asked.code in ("update", "patch", "delete") and not asked.id):
        needed = (*needed, "search")  # it says by criteria what it is about
    _require(server, caller, asked.type, needed)
    if asked.within and not caller.policy.may(asked.within, "show"):
        raise refused("forbidden", f"You have no right to see a {asked.within}")
    if needed == ("search",) and not asked.type:
        _check_types(server, caller, asked.pairs)
    if asked.provenance:
        _require(server, caller, PROVENANCE, ("create",))


def check_operation(
    server: Server, caller: Caller, operation: Operation, asked: Interaction
) -> None:
    """Refuse the call of an operation that the caller has no right for; as `check`."""
    if caller.policy.open:
        return
    needed = operation.needs.get(level(asked))
    if needed is None:
        _require_any(server, caller, asked.type)
    else:
        _require(server, caller, asked.type, needed)
    _check_types(server, caller, asked.pairs)
    if asked.provenance:
        _require(server, caller, PROVENANCE, ("create",))


def searched(caller: Caller, types: Iterable[str]) -> list[str]:
    """Return those of some types that the caller may search."""
    return [type for type in types if caller.policy.may(type, "search")]


def _require(server: Server, caller: Caller, type: str, needed: Iterable[Right]) -> None:
    """Refuse whoever lacks a right for a type, or, of no type ("") in particular, for all."""
    types = [type] if type else server.definitions.resource_types
    for right in needed:
        if not any(caller.policy.may(one, right) for one in types):
            raise refused("forbidden", f"You have no right to {right} {type or 'anything'}")


def _require_any(server: Server, caller: Caller, type: str) -> None:
    """Refuse whoever has no right at all for a type."""
    types = [type] if type else server.definitions.resource_types
    rights: tuple[Right, ...] = ("create", "read", "update", "delete", "search")
    if not any(caller.policy.may(one, right) for one in types for right in rights):
        raise refused("forbidden", f"You have no right for {type or 'anything'}")


def _check_types(server: Server, caller: Caller, pairs: Pairs) -> None:
    """Refuse a search of types (search.html#type) of which the caller may not search one."""
    known = server.definitions.type_numbers
    for name, value in pairs:
        for type in value.split(",") if name == "_type" else ():
            if type in known:
                _require(server, caller, type, ("search",))
