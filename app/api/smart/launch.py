"""An EHR launch: whoever has a chart open opens an application on it.

https://hl7.org/fhir/smart-app-launch/STU2.2/app-launch.html#launch-app-ehr-launch
https://hl7.org/fhir/smart-app-launch/STU2.2/scopes-and-launch-context.html#launch-context-parameters

The standard leaves open how the value of `launch` comes to be. Here a program of the clinic, with
the token of somebody who works there or one of its own, says what is open and gets the value.
"""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec

from app.api import grants
from app.api.smart.authorizing import seen
from app.api.smart.clients import named
from app.api.smart.messages import Bad
from app.api.smart.places import Places
from app.config import loopback
from app.fhir.access import Caller
from app.fhir.rest import Server

SECONDS = 600
ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
REFERENCE = re.compile(r"([A-Z][A-Za-z]+)/([A-Za-z0-9\-.]{1,64})")
LONG = 2048  # characters of a text
ITEMS = 50
SINGLE = frozenset({"Patient", "Encounter"})  # what is told by parameters of its own
# What may be said of one more thing that is open
ITEM = {"reference": str, "canonical": str, "identifier": dict, "type": str, "role": str}
NAMES = ("client_id", "patient", "encounter", "fhirContext", "intent", "need_patient_banner",
         "smart_style_url")  # fmt: skip


async def launched(
    server: Server, places: Places, caller: Caller, said: Mapping[str, Any], now: int
) -> dict[str, str]:
    """Return the value of `launch`, and where to open the application; raises Bad.

    It is good once, for ten minutes, for the account that asked for it; one that a system asked
    for is good for any account that may see the patient.
    """
    if not _may_launch(caller):
        text = "Only somebody of the workforce launches, or a system client with the scope launch"
        raise Bad(text, "access_denied", 403)
    context = checked(said, local=places.local)
    client = await _client(server, said.get("client_id"))
    patient, encounter = context["patient"], context.get("encounter", "")
    if not await seen(server, caller, patient):
        raise Bad("There is no such patient")
    if encounter and not _of(patient, await seen(server, caller, encounter)):
        raise Bad("There is no such encounter of the patient")
    secret = grants.new_secret()
    await grants.issue(
        server.database,
        kind="launch",
        secret=secret,
        family=server.new_id(),
        client=client.id if client else "",
        account=caller.subject if caller.kind != "system" else "",
        context=context,
        now=now,
        seconds=SECONDS,
    )
    answer = {"launch": secret, "iss": places.base}
    if client and client.launch_uri:
        mark = "&" if urlsplit(client.launch_uri).query else "?"
        answer["launch_url"] = f"{client.launch_uri}{mark}{urlencode(answer)}"
    return answer


def _may_launch(caller: Caller) -> bool:
    if caller.kind == "system":
        return "launch" in caller.scopes
    return caller.kind in ("workforce", "privacy-officer")


async def _client(server: Server, client_id: object) -> grants.Client | None:
    """Return the client that is launched, None where any may be; raises Bad."""
    if client_id is None:
        return None
    found = None
    if isinstance(client_id, str) and named(client_id):
        found = await grants.find_client(server.database, client_id)
    if found is None or not found.state or found.id != client_id:
        raise Bad("No client is registered with that client_id")
    return found


def _of(patient: str, encounter: bytes) -> bool:
    """Return whether an Encounter is one of the patient."""
    found = msgspec.json.decode(encounter or "{}").get("subject", {}).get("reference", "")
    return found == patient or str(found).endswith(f"/{patient}")


def checked(said: Mapping[str, Any], *, local: bool) -> dict[str, Any]:
    """Return the context of a launch, patient and encounter as references; raises Bad."""
    for name in said:
        if name not in NAMES:
            raise Bad(f"A launch is told by {', '.join(NAMES)}")
    context: dict[str, Any] = {}
    for name, type in (("patient", "Patient"), ("encounter", "Encounter")):
        value = said.get(name)
        if value is not None:
            id = value.removeprefix(f"{type}/") if isinstance(value, str) else ""
            if not ID.fullmatch(id):
                raise Bad(f"{name} has to be the id of a {type}")
            context[name] = f"{type}/{id}"
    if "patient" not in context:
        raise Bad("patient is missing")
    if "fhirContext" in said:
        context["fhirContext"] = _items(said["fhirContext"])
    if "intent" in said:
        context["intent"] = _text("intent", said["intent"])
    if "need_patient_banner" in said:
        if not isinstance(said["need_patient_banner"], bool):
            raise Bad("need_patient_banner has to be true or false")
        context["need_patient_banner"] = said["need_patient_banner"]
    if "smart_style_url" in said:
        url = _text("smart_style_url", said["smart_style_url"])
        parts = urlsplit(url)
        plain = local and parts.scheme == "http" and loopback(parts.hostname or "")
        if not parts.hostname or (parts.scheme != "https" and not plain):
            raise Bad("smart_style_url has to be an address that begins with https://")
        context["smart_style_url"] = url
    return context


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value or len(value) > LONG or not value.isprintable():
        raise Bad(f"{name} has to be a text of {LONG} characters at most")
    return value


def _items(value: object) -> list[dict[str, Any]]:
    """Return what else is open, if it is told as the specification says."""
    if not isinstance(value, list) or len(value) > ITEMS:
        raise Bad(f"fhirContext has to be a list of {ITEMS} objects at most")
    for item in value:
        if not isinstance(item, dict) or not {"reference", "canonical", "identifier"} & set(item):
            raise Bad("Each of fhirContext needs a reference, a canonical or an identifier")
        if not all(name in ITEM and isinstance(v, ITEM[name]) for name, v in item.items()):
            raise Bad(f"Each of fhirContext has {', '.join(ITEM)} and nothing else")
        reference = REFERENCE.fullmatch(item.get("reference", "Basic/1"))
        if not reference:
            raise Bad("A reference in fhirContext has to be relative: Type/id")
        if reference[1] in SINGLE and item.get("role", "launch") == "launch":
            raise Bad("The patient and the encounter of a launch do not belong in fhirContext")
    return value
