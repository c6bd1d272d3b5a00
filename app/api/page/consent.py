"""What a person decides about: the scopes that a client asks for, as choices in words.

https://hl7.org/fhir/smart-app-launch/STU2.2/scopes-and-launch-context.html
"""

from collections.abc import Container, Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from app.api.page import words
from app.api.smart.issuing import ACCESS, OFFLINE
from app.fhir.access import Scopes
from app.fhir.access.accounts import THROUGH
from app.fhir.definitions import Definitions
from app.fhir.query import BINARY

# What cannot be unticked: the client was opened for this patient, or does nothing without one
NEEDED = frozenset({"launch", "launch/patient"})
# Two scopes of one meaning to people: the second is nothing without the first
WHO = ("openid", "fhirUser", "profile")

HOW_LONG = {
    "offline_access": f"It stays connected until it was not used for {OFFLINE // 86_400} days, or"
    " somebody here ends it.",
    "online_access": "It stays connected until you sign out here,"
    f" or for {ACCESS // 60} minutes more at most.",
    "": f"It stays connected for {ACCESS // 60} minutes at most.",
}


@dataclass(frozen=True, slots=True)
class Choice:
    """One tick: the scopes that it stands for, with spaces between, and what they mean."""

    value: str
    text: str
    ticked: bool = True


def choices(
    scopes: Scopes, whose: str, of_patients: Container[str], *, ticked: bool = True
) -> list[Choice]:
    """Return what can be ticked, first what is clinical.

    `whose` is the patient's name, "" for the reader; `of_patients` the types about one patient.
    """
    said = [(scope.text, words.sentence(scope, whose, of_patients)) for scope in scopes.granted]
    if who := [name for name in WHO if name in scopes.others]:
        said.append((" ".join(who), words.other(who[-1])))
    rest = [name for name in scopes.others if name not in (*NEEDED, *WHO)]
    said += [(name, words.other(name)) for name in rest]
    return [Choice(value, text, ticked) for value, text in said]


def is_choice(scopes: Scopes) -> bool:
    """Return whether there is anything that can be ticked."""
    return bool(scopes.granted or set(scopes.others) - NEEDED)


def of_patients(definitions: Definitions) -> frozenset[str]:
    """Return the types that `patient/` scopes admit one patient's resources of."""
    return frozenset((*definitions.compartments["Patient"], *THROUGH, BINARY))


def needed(scopes: Scopes) -> list[str]:
    """Return in words what goes with everything else and cannot be unticked."""
    return [words.other(name) for name in scopes.others if name in NEEDED]


def kept(scopes: Scopes, ticked: Iterable[str]) -> tuple[str, ...]:
    """Return the scopes that were left: of those asked for the ticked ones, and what is needed."""
    left = {scope for value in ticked for scope in value.split()} | NEEDED
    return tuple(scope for scope in exact(scopes) if scope in left)


def exact(scopes: Scopes) -> tuple[str, ...]:
    """Return the scopes as they are written."""
    return (*(scope.text for scope in scopes.granted), *scopes.others)


def how_long(scopes: Scopes) -> str:
    """Return how long the client stays connected, in words."""
    return next((said for name, said in HOW_LONG.items() if name in scopes.others), HOW_LONG[""])


def destination(redirect_uri: str) -> str:
    """Return where a browser goes in the end: a web address, or an app on the device."""
    found = urlsplit(redirect_uri)
    if found.scheme in ("http", "https"):
        return f"{found.scheme}://{found.netloc}"
    return f"the app {found.scheme} on this device"
