"""The patients among whom one is chosen: those whom the account may see, and no other.

They are searched and read through the one door as the account, whatever the client was granted,
so each look is in the audit trail and no rule about access is repeated here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from app.api.grants import Account
from app.api.smart import caller_of
from app.fhir.access import Caller
from app.fhir.interaction import ID, Interaction, Pairs
from app.fhir.query import CURSOR
from app.fhir.rest import Server, handle
from app.fhir.wire import decode

PAGE = 10
SHOWN = ("_elements", "name,birthDate,identifier,active,deceased")
WORDS = 5  # of a name, at most


@dataclass(frozen=True, slots=True)
class Person:
    """A patient as people know them: the id, the name, and what tells two of a name apart."""

    id: str
    name: str
    about: str


class Found(NamedTuple):
    """A page of patients, and the cursor of the next one, "" where there is none."""

    patients: Sequence[Person]
    next: str = ""


async def search(server: Server, account: Account, text: str, cursor: str) -> Found:
    """Return the patients of a name or an identifier, by name; all of them without a text.

    The cursor is of a page before; one that is none finds nothing.
    """
    pairs: Pairs = (("_count", str(PAGE)), ("_sort", "family,given"), SHOWN, *_sought(text))
    if cursor:
        pairs = (*pairs, (CURSOR, cursor))
    asked = Interaction("search-type", "Patient", method="GET", pairs=pairs)
    reply = await handle(server, _caller(server, account), asked)
    if reply.status != 200:
        return Found(())
    bundle = decode(reply.body)
    entries = [entry["resource"] for entry in bundle.get("entry", ())]
    patients = [_person(one) for one in entries if one["resourceType"] == "Patient"]
    return Found(patients, _next(bundle))


async def read(server: Server, account: Account, reference: str) -> Person | None:
    """Return the patient of a reference (`Patient/1`), None if the account does not see one."""
    type, _, id = reference.partition("/")
    if type != "Patient" or not ID.fullmatch(id):
        return None
    asked = Interaction("read", "Patient", id, method="GET")
    reply = await handle(server, _caller(server, account), asked)
    return _person(decode(reply.body)) if reply.status == 200 else None


def _caller(server: Server, account: Account) -> Caller:
    return caller_of(server, account, server.now())


def _sought(text: str) -> Pairs:
    """Return the criteria: each word begins a name, or all of it is an identifier."""
    words = text.split()[:WORDS]
    if not words:
        return ()
    names = " and ".join(f"name sw {_quoted(word)}" for word in words)
    return (("_filter", f"({names}) or identifier eq {_quoted(' '.join(words))}"),)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _next(bundle: dict[str, Any]) -> str:
    links = {link["relation"]: link["url"] for link in bundle.get("link", ())}
    if "next" not in links:
        return ""
    return str(parse_qs(urlsplit(links["next"]).query)[CURSOR][0])


def _person(patient: dict[str, Any]) -> Person:
    about = [f"born {patient['birthDate']}"] if "birthDate" in patient else []
    about += [one["value"] for one in patient.get("identifier", ())[:2] if "value" in one]
    if patient.get("active") is False:
        about.append("not active")
    if patient.get("deceasedBoolean") or "deceasedDateTime" in patient:
        about.append("deceased")
    return Person(f"Patient/{patient['id']}", _name(patient), ", ".join(about))


def _name(patient: dict[str, Any]) -> str:
    """Return the name that is in use: the official one, else the first."""
    names = patient.get("name") or [{}]
    name = next((one for one in names if one.get("use") == "official"), names[0])
    parts = [*(name.get("given") or ()), name.get("family") or ""]
    said = name.get("text") or " ".join(part for part in parts if part)
    return said or "Patient without a name"
