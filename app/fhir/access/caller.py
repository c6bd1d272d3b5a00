"""Who is asking."""

from dataclasses import dataclass
from typing import Literal

from app.fhir.access.policy import Policy

# What an account or a client is (docs/security.md); `system` is a client that acts for itself
Kind = Literal[
    "administrator", "workforce", "privacy-officer", "patient", "representative", "system"
]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking, and under which policy.

    `name` is who in the books: answers that are kept belong to it, and a token of the same person
    with other rights has another. `subject` is the id of the account, or of the client where that
    acts for itself; `fhir_user`, `organization` and `patient` are references (`Patient/1`), "" for
    none; `purpose` is a code of v3-PurposeOfUse; `scopes` are as they were granted.
    """

    name: str
    policy: Policy
    kind: Kind = "system"
    subject: str = ""
    roles: tuple[str, ...] = ()
    organization: str = ""
    fhir_user: str = ""
    purpose: str = ""
    patient: str = ""
    client: str = ""
    scopes: tuple[str, ...] = ()


EVERYTHING = Policy()
SYSTEM = Caller("system", Policy(may_erase=True))
ANYONE = Caller("anyone", EVERYTHING)
