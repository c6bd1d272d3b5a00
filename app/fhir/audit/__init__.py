"""Who did what, and to whose record: the audit trail.

https://hl7.org/fhir/R4/auditevent.html
https://profiles.ihe.net/ITI/BALP/

`event` says what happened, `trail` writes it, `seal` proves that nothing was changed afterwards,
`rendering` and `source` show the rows as AuditEvents.
"""

from app.fhir.audit.event import (
    MINOR,
    SERIOUS,
    SUCCESS,
    UNAUDITED,
    Event,
    interaction_event,
    refused_at_the_edge,
    security_event,
)
from app.fhir.audit.rendering import TYPE
from app.fhir.audit.seal import Report, keep_sealed, seal, verify
from app.fhir.audit.source import PARAMETERS, answered
from app.fhir.audit.trail import SLOTS, Line, Trail

__all__ = [
    "MINOR",
    "PARAMETERS",
    "SERIOUS",
    "SLOTS",
    "SUCCESS",
    "TYPE",
    "UNAUDITED",
    "Event",
    "Line",
    "Report",
    "Trail",
    "answered",
    "interaction_event",
    "keep_sealed",
    "refused_at_the_edge",
    "seal",
    "security_event",
    "verify",
]
