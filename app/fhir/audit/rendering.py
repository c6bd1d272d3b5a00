"""Rows of the trail as AuditEvents, one for each patient.

https://hl7.org/fhir/R4/auditevent.html
https://profiles.ihe.net/ITI/BALP/content.html (Basic Audit Log Patterns)

Rule: an AuditEvent about a patient may be shown to that patient, so it names no other one, and
nothing that is part of another's record. What was asked can name them: of a query it keeps what
names this patient and what can name nobody (dates, numbers, quantities, codes), of the rest it has
the parameter with `-` for its value. A row that is about nobody shows the query as it came.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from app.fhir.audit.event import ACTIONS, SECURITY_CODES
from app.fhir.definitions import Definitions
from app.fhir.store import instant
from app.fhir.wire import Resource

TYPE = "AuditEvent"
DCM = "http://dicom.nema.org/resources/ontology/DCM"
TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"
INTERACTIONS = "http://hl7.org/fhir/restful-interaction"
BALP = "https://profiles.ihe.net/ITI/BALP"
OWN = "urn:milepost:security-event"
HIDDEN = "-"

REST = (f"{TERMINOLOGY}/audit-event-type", "rest", "RESTful Operation")
AUTHENTICATION = (DCM, "110114", "User Authentication")
ALERT = (DCM, "110113", "Security Alert")

# What a security event is in DICOM's terms: its type, and its subtype where there is one
SECURITY: Mapping[str, tuple[tuple[str, str, str], tuple[str, str, str] | None]] = {
    "sign-in": (AUTHENTICATION, (DCM, "110122", "Login")),
    "sign-out": (AUTHENTICATION, (DCM, "110123", "Logout")),
    "lock-out": (ALERT, (DCM, "110137", "User Security Attributes Changed")),
    "password": (ALERT, (DCM, "110137", "User Security Attributes Changed")),
    "token": (AUTHENTICATION, None),
    "token-refused": (AUTHENTICATION, None),
    "revoke": (AUTHENTICATION, None),
    "introspect": (AUTHENTICATION, None),
    "launch": (AUTHENTICATION, None),
    "consent": (ALERT, (DCM, "110136", "Security Roles Changed")),
    "user": (ALERT, (DCM, "110137", "User Security Attributes Changed")),
    "client": (ALERT, (DCM, "110136", "Security Roles Changed")),
    "key": (ALERT, (DCM, "110129", "Security Configuration")),
}
assert SECURITY.keys() == SECURITY_CODES

# The interactions that valueset-restful-interaction.html calls otherwise
CALLED = {"search-compartment": "search"}
READS = frozenset({"read", "vread", "history-instance", "history-type", "history-system"})
WRITES = frozenset({"create", "update", "patch", "delete"})

# The pattern of BALP that an interaction follows, without and with a patient
PATTERNS = {
    "read": "Read",
    "vread": "Read",
    "create": "Create",
    "update": "Update",
    "delete": "Delete",
    "search-type": "Query",
    "search-system": "Query",
    "search-compartment": "Query",
}
LIFECYCLE = {
    "C": ("1", "Origination / Creation"),
    "U": ("3", "Amendment"),
    "D": ("14", "Logical deletion"),
}
# Compartments whose centre is nobody's record
OF_NOBODY = frozenset({"Practitioner"})
# Types of search parameters whose values can name nobody
HARMLESS = frozenset({"date", "number", "quantity"})


class Row(NamedTuple):
    """One row of the trail, its `detail` decoded, with its Patients: key and id, by key."""

    id: int
    at: int
    agent: str
    code: str
    action: str
    outcome: int
    type: str
    detail: Mapping[str, Any]
    patients: Sequence[tuple[int, str]]


@dataclass(frozen=True, slots=True)
class Renderer:
    """Makes AuditEvents of rows; `users` gives the reference of who has an account."""

    definitions: Definitions
    base_url: str
    users: Mapping[str, str]

    def events(self, row: Row) -> list[tuple[tuple[int, ...], Resource]]:
        """Return the AuditEvents of a row, each with the key of its Patient, if it has one."""
        if not row.patients:
            return [((), self.event(row, str(row.id), None))]
        return [
            ((key,), self.event(row, f"{row.id}-{n}", (key, id)))
            for n, (key, id) in enumerate(row.patients, 1)
        ]

    def event(self, row: Row, id: str, patient: tuple[int, str] | None) -> Resource:
        """Return the AuditEvent that a row is for one patient, or for nobody."""
        known = row.detail
        kind, subtypes = codings(row.code)
        entities = list(self.entities(row, patient))
        found: Resource = {"resourceType": TYPE, "id": id}
        found["meta"] = {"versionId": "1", "lastUpdated": instant(row.at)}
        profile = PATTERNS.get(row.code, "")
        if profile and not row.outcome and known.get("address") and known.get("client"):
            profile = f"Patient{profile}" if patient else profile
            url = f"{BALP}/StructureDefinition/IHE.BasicAudit.{profile}"
            found["meta"]["profile"] = [url]
        found["type"] = kind
        found["subtype"] = subtypes
        if not subtypes:
            del found["subtype"]
        found["action"] = row.action
        found["recorded"] = instant(row.at)
        found["outcome"] = str(row.outcome)
        if "status" in known:
            found["outcomeDesc"] = f"HTTP status {known['status']}"
        found["agent"] = list(self.agents(row))
        observer = {"display": "Milepost", "identifier": {"value": self.base_url}}
        server = coding(f"{TERMINOLOGY}/security-source-type", "4", "Application Server")
        found["source"] = {"observer": observer, "type": [server]}
        if entities:
            found["entity"] = entities
        return found

    def agents(self, row: Row) -> Iterator[Resource]:
        """Yield who took part: the person, the client, the server."""
        known = row.detail
        client = known.get("client", "")
        person = known.get("kind") != "system" and (row.agent or not client)
        if person:
            yield self.person(row)
        elif not client:
            client = row.agent
        reads = row.code in READS
        if client:
            role = DESTINATION if reads else SOURCE
            one: Resource = {"type": role, "who": {"identifier": {"value": client}}}
            one["requestor"] = not person
            if address := known.get("address"):
                one["network"] = {"address": address, "type": "2"}
            yield one
        role = SOURCE if reads else DESTINATION
        here = {"address": self.base_url, "type": "5"}
        who = {"identifier": {"value": self.base_url}}
        yield {"type": role, "who": who, "requestor": False, "network": here}

    def person(self, row: Row) -> Resource:
        """Return the agent who is a person, or nobody that is known."""
        known = row.detail
        who: Resource = {}
        if reference := known.get("fhir_user") or self.users.get(row.agent):
            who["reference"] = reference
        if row.agent:
            who["identifier"] = {"value": row.agent}
        else:
            who["display"] = "nobody known"
        author = row.code in WRITES
        part = ("AUT", "author (originator)") if author else ("IRCP", "information recipient")
        kind = concept(f"{TERMINOLOGY}/v3-ParticipationType", *part)
        one: Resource = {"type": kind}
        if roles := [*known.get("roles", ()), *([known["kind"]] if "kind" in known else [])]:
            one["role"] = [{"text": role} for role in roles]
        one["who"] = who
        one["requestor"] = True
        if purpose := known.get("purpose"):
            one["purposeOfUse"] = [concept(f"{TERMINOLOGY}/v3-ActReason", purpose)]
        return one

    def entities(self, row: Row, patient: tuple[int, str] | None) -> Iterator[Resource]:
        """Yield what it was about: the patient, the resources, the query, the request."""
        known = row.detail
        if patient:
            yield {
                "what": {"reference": f"Patient/{patient[1]}"},
                "type": coding(f"{TERMINOLOGY}/audit-entity-type", "1", "Person"),
                "role": coding(f"{TERMINOLOGY}/object-role", "1", "Patient"),
            }
        of = known.get("of", {})
        places = of.get(str(patient[0] if patient else 0), ())
        searched = row.code.startswith("search")
        for place in places:
            yield resource(place, searched=searched)
        asked = f"{row.type}/{known['id']}" if row.type and "id" in known else ""
        if not patient and not places and asked and "within" not in known:
            yield resource(asked, searched=searched)
        if searched:
            yield self.query(row, patient)
        elif row.code == "operation":
            yield {
                "type": coding(f"{TERMINOLOGY}/audit-entity-type", "2", "System Object"),
                "role": coding(f"{TERMINOLOGY}/object-role", "20", "Job"),
                "name": f"${known.get('operation', '')}",
            }
        elif row.code in SECURITY:
            if details := [
                {"type": name, "valueString": value}
                for name, value in known.items()
                if isinstance(value, str) and value and name not in ("client", "kind", "address")
            ]:
                yield {
                    "type": coding(f"{TERMINOLOGY}/audit-entity-type", "2", "System Object"),
                    "name": row.code,
                    "detail": details,
                }
        elif not patient and not places and not asked and "url" in known:
            yield {
                "type": coding(f"{TERMINOLOGY}/audit-entity-type", "2", "System Object"),
                "name": f"{known.get('method', '')} {known['url']}".strip(),
            }
        if request := known.get("request"):
            yield {
                "what": {"identifier": {"value": request}},
                "type": coding(f"{BALP}/CodeSystem/BasicAuditEntityType", "XrequestId"),
            }

    def query(self, row: Row, patient: tuple[int, str] | None) -> Resource:
        """Return what was searched, as far as it may be told."""
        known = row.detail
        pairs = [(str(name), str(value)) for name, value in known.get("query", ())]
        within, centre = known.get("within", ""), known.get("id", "")
        if patient:
            alone = len(row.patients) == 1
            pairs = [
                (name, self.told(row.type, name, value, patient[1], alone=alone))
                for name, value in pairs
            ]
            own = (within, centre) == ("Patient", patient[1])
            if not own and within not in OF_NOBODY and (within == "Patient" or not alone):
                centre = HIDDEN
        path = "/".join(p for p in (within, within and centre, row.type) if p)
        text = f"{self.base_url}/{path}?{urlencode(pairs, quote_via=quote, safe=':/,$')}"
        return {
            "type": coding(f"{TERMINOLOGY}/audit-entity-type", "2", "System Object"),
            "role": coding(f"{TERMINOLOGY}/object-role", "24", "Query"),
            "query": base64.b64encode(text.encode()).decode(),
        }

    def told(self, type: str, name: str, value: str, patient: str, *, alone: bool) -> str:
        """Return the value of a parameter as it may be told to a patient.

        Where the row is about this patient `alone`, a value that stands alone found them, or it
        named a patient whom nothing was found of.
        """
        code = name.partition(":")[0]
        parameter = self.definitions.search_parameters.get(type, {}).get(code)
        if parameter is None and code.startswith("_") and code not in ("_id", "_has", "_filter"):
            return value  # _count, _sort, _include ...
        kind = parameter.type if parameter else ""
        if kind in HARMLESS or (kind == "token" and code not in ("_id", "identifier")):
            return value
        own = (patient, f"Patient/{patient}", f"{self.base_url}/Patient/{patient}")
        parts = value.split(",")
        single = alone and len(parts) == 1 and not code.startswith("_") and "Patient/" not in value
        if kind == "reference" and "/" not in value:  # it may be the id of a Patient
            single = False
        return ",".join(part if part in own or single else HIDDEN for part in parts)


def coding(system: str, code: str, display: str = "") -> Resource:
    """Return a Coding."""
    found = {"system": system, "code": code}
    return {**found, "display": display} if display else found


def concept(system: str, code: str, display: str = "") -> Resource:
    """Return a CodeableConcept of one Coding."""
    return {"coding": [coding(system, code, display)]}


SOURCE = concept(DCM, "110153", "Source Role ID")
DESTINATION = concept(DCM, "110152", "Destination Role ID")


def codings(code: str) -> tuple[Resource, list[Resource]]:
    """Return the type and the subtypes of an event."""
    if code in SECURITY:
        kind, subtype = SECURITY[code]
        also = [coding(*subtype)] if subtype else []
        return coding(*kind), [*also, coding(OWN, code)]
    known = code in ACTIONS
    return coding(*REST), [coding(INTERACTIONS, CALLED.get(code, code))] if known else []


def resource(place: str, *, searched: bool) -> Resource:
    """Return the entity of a version: `Type/id/version`, with a letter where it was written."""
    type, id, version, action = (*place.split("/"), "", "")[:4]
    reference = f"{type}/{id}/_history/{version}" if version else f"{type}/{id}"
    # BALP's pattern of a query has one System Object, the query itself
    kind = ("4", "Other") if searched else ("2", "System Object")
    found: Resource = {
        "what": {"reference": reference},
        "type": coding(f"{TERMINOLOGY}/audit-entity-type", *kind),
        "role": coding(f"{TERMINOLOGY}/object-role", "4", "Domain Resource"),
    }
    if action:
        found["lifecycle"] = coding(f"{TERMINOLOGY}/dicom-audit-lifecycle", *LIFECYCLE[action])
    return found
