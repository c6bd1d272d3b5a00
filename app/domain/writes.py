"""What an operation of the domain writes: interactions as any client would send them."""

from collections.abc import Iterable
from typing import Any

from app.domain.vocabulary import Vocabulary
from app.fhir.interaction import Interaction
from app.fhir.operations import Call
from app.fhir.store import instant
from app.fhir.wire import Resource, encode

PROVENANCE_ACTIVITY = "http://terminology.hl7.org/CodeSystem/v3-DataOperation"
PROVENANCE_AGENT = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"


def created(resource: Resource) -> Interaction:
    """Return the create of a resource under the id that it has."""
    body = {name: held for name, held in resource.items() if name != "id"}
    return Interaction("create", resource["resourceType"], resource["id"], body=encode(body))


def updated(resource: Resource) -> Interaction:
    """Return the update of a resource that was read: refused (412) if another came before."""
    version = resource["meta"]["versionId"]
    id = resource["id"]
    tag = f'W/"{version}"'
    return Interaction("update", resource["resourceType"], id, body=encode(resource), if_match=tag)


def versioned(write: Interaction) -> str:
    """Return the reference of the version that a write of this module makes."""
    before = int(write.if_match.strip('W/"')) if write.if_match else 0
    return f"{write.type}/{write.id}/_history/{before + 1}"


def provenance(
    vocabulary: Vocabulary,
    call: Call,
    writes: Iterable[Interaction],
    reason: str = "",
    activity: str = "",
) -> Interaction:
    """Return the Provenance of some writes, which are of one patient or of none.

    Its activity is the operation of the call, if no other is given; who calls is its agent.
    """
    caller = call.store.caller
    who: dict[str, Any] = {"reference": caller.fhir_user} if caller.fhir_user else {}
    if not who:
        named = caller.client or caller.subject or caller.name
        who = {"identifier": {"system": f"{vocabulary.base}/clients", "value": named}}
    resource: Resource = {
        "resourceType": "Provenance",
        "id": call.new_id(),
        "target": [{"reference": versioned(write)} for write in writes],
        "recorded": instant(call.now),
        "activity": vocabulary.concept("iop-activity", activity or call.operation.code),
        "agent": [
            {"type": {"coding": [{"system": PROVENANCE_AGENT, "code": "author"}]}, "who": who}
        ],
    }
    if reason:
        resource["reason"] = [{"text": reason}]
    return created(resource)
