"""Who is there in the tests of launches: people, patients, an app, and what that asks for."""

import base64
import hashlib
from functools import cache

from argon2 import PasswordHasher

from app import db
from app.api import grants
from app.api.grants.rows import inserted
from app.fhir.access import SYSTEM, Kind
from app.fhir.rest import Server
from tests.access.door import Door
from tests.conftest import BASE_URL
from tests.support.resources import Resource, observation, patient, practitioner, reference

PASSWORD = "four small green lamps"
CALLBACK = "https://app.example.org/callback"
VERIFIER = "a-verifier-of-at-least-forty-three-characters-0123456789"
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=")
SCOPE = "launch/patient openid fhirUser patient/Observation.rs patient/Patient.r"
REGISTERED = (
    "launch launch/patient openid fhirUser offline_access online_access patient/*.cruds user/*.rs"
)
EVIL = "\"><script>alert(1)</script>{{7*7}}'"
RECORDS: tuple[Resource, ...] = (
    patient(id="ada", identifier=[{"system": "urn:mrn", "value": "MRN-7731"}]),
    patient(id="bela", name=[{"family": "Kovács", "given": ["Bela"]}], birthDate="1990-11-02"),
    patient(id="evil", name=[{"family": EVIL, "given": ["Zed"]}]),
    *(patient(id=f"p{n}", name=[{"family": f"Pond{n:02}", "given": ["Io"]}]) for n in range(12)),
    practitioner(id="ines"),
    observation(id="score", subject=reference("Patient/ada")),
)


def asked(**changes: str | None) -> dict[str, str]:
    """Return the request of an app; a change to None takes a parameter away."""
    request = {
        "response_type": "code",
        "client_id": "app",
        "redirect_uri": CALLBACK,
        "scope": SCOPE,
        "state": "of-the-app",
        "aud": BASE_URL,
        "code_challenge": CHALLENGE.decode(),
        "code_challenge_method": "S256",
        **changes,
    }
    return {name: value for name, value in request.items() if value is not None}


@cache
def hashed(password: str) -> str:
    """Return a password as the database has it: once for all tests, because that takes long."""
    return PasswordHasher().hash(password)


async def settle(server: Server, redirect_uri: str = CALLBACK) -> None:
    """Add the records, the accounts, all of one password, and the app."""
    door = Door(server, SYSTEM)
    for body in RECORDS:
        assert (await door.put(body)).status == 201
    table: tuple[tuple[str, Kind, str, bool], ...] = (
        ("ines", "workforce", "Practitioner/ines", False),
        ("new", "workforce", "Practitioner/ines", True),
        ("ada", "patient", "Patient/ada", False),
        ("root", "administrator", "", False),
    )
    rows = [
        inserted(
            db.account,
            {
                "id": f"id-of-{name}",
                "name": name,
                "kind": kind,
                "roles": "",
                "organization": "",
                "fhir_user": fhir_user,
                "password": hashed(PASSWORD),
                "once": int(once),
                "state": 1,
                "created": server.now(),
                "failures": 0,
                "locked": 0,
            },
        )
        for name, kind, fhir_user, once in table
    ]
    await server.database.write(lambda connection: connection.change(rows))
    await grants.add_client(
        server.database,
        id="app",
        name="Growth Chart",
        kind="public",
        redirect_uris=[redirect_uri, "com.example.app:/callback"],
        grant_types=["authorization_code", "refresh_token"],
        scope=REGISTERED,
        now=server.now(),
    )
