"""Who is calling, and what a caller may see: a query tree for each type and right.

https://hl7.org/fhir/smart-app-launch/STU2.2/scopes-and-launch-context.html

`policy` is what one may see, `caller` who asks, `scopes` what a client may ask for, and `accounts`
the table from all of these to a policy.
"""

from app.fhir.access.accounts import Grant, policy_of, table
from app.fhir.access.caller import ANYONE, EVERYTHING, SYSTEM, Caller, Kind
from app.fhir.access.policy import Policy, Right, Sight, either
from app.fhir.access.scopes import TOO_MANY, Scope, Scopes, meet, parse_scopes, too_many

__all__ = [
    "ANYONE",
    "EVERYTHING",
    "SYSTEM",
    "TOO_MANY",
    "Caller",
    "Grant",
    "Kind",
    "Policy",
    "Right",
    "Scope",
    "Scopes",
    "Sight",
    "either",
    "meet",
    "parse_scopes",
    "policy_of",
    "table",
    "too_many",
]
