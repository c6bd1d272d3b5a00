"""An authorization server with people, patients and applications, and what those send to it."""

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
from fastapi import FastAPI
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from app import db
from app.api import grants, smart
from app.config import Settings
from app.fhir.access import SYSTEM
from app.fhir.rest import Server
from app.main import create_app
from tests.access.door import Door
from tests.conftest import BASE_URL
from tests.support.application import started
from tests.support.resources import encounter, patient, practitioner, reference

ROOT = BASE_URL.removesuffix("/fhir")
TOKEN_URL = f"{ROOT}/oauth/token"
CALLBACK = "https://app.example.org/callback"
PASSWORD = "four small green lamps"
VERIFIER = "a-verifier-of-at-least-forty-three-characters-0123456789"
MINUTE = 60_000_000
HOUR = 60 * MINUTE
PATIENT_SCOPE = "launch launch/patient openid fhirUser offline_access online_access patient/*.cruds"
SCOPE = "openid fhirUser launch/patient patient/Observation.rs patient/Patient.r"
JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

EC = ECKey.generate_key("P-384", {"kid": "ec"}, private=True)
RSA = RSAKey.generate_key(2048, {"kid": "rsa"}, private=True)


def challenge(verifier: str = VERIFIER) -> str:
    """Return what an application sends of its verifier first."""
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def key_set(*keys: ECKey | RSAKey) -> str:
    """Return what a client publishes of its keys."""
    return json.dumps({"keys": [key.as_dict(private=False) for key in keys]})


def asking(client: str, /, **changes: str | None) -> dict[str, str]:
    """Return an authorization request in which nothing is wrong, but for the changes."""
    said: dict[str, str | None] = {
        "response_type": "code",
        "client_id": client,
        "redirect_uri": CALLBACK,
        "scope": SCOPE,
        "state": "xyz",
        "aud": BASE_URL,
        "code_challenge": challenge(),
        "code_challenge_method": "S256",
        "nonce": "n-0S6",
        **changes,
    }
    return {name: value for name, value in said.items() if value is not None}


def query_of(url: str) -> dict[str, str]:
    """Return the parameters in an address."""
    return dict(parse_qsl(urlsplit(url).query))


@dataclass
class Office:
    """A running server, and who asks it; paths begin at its root."""

    app: FastAPI
    http: httpx.AsyncClient

    @property
    def server(self) -> Server:
        """The engine of this moment."""
        server: Server = self.app.state.server
        return server

    @property
    def database(self) -> db.Database:
        """Where the rows are."""
        return self.server.database

    def later(self, microseconds: int) -> None:
        """Let time pass."""
        before = self.server.now
        self.app.state.server = replace(self.server, now=lambda: before() + microseconds)

    async def register(self, kind: grants.ClientKind = "public", **said: Any) -> tuple[str, str]:
        """Add an application; return its id and its secret."""
        backend = said.pop("backend", False)
        known: dict[str, Any] = {
            "redirect_uris": () if backend else (CALLBACK,),
            "grant_types": ("client_credentials",)
            if backend
            else ("authorization_code", "refresh_token"),
            "scope": "system/*.cruds" if backend else PATIENT_SCOPE,
            "jwks": key_set(EC, RSA) if kind == "asymmetric" and "jwks_uri" not in said else "",
            "name": f"An application {self.server.new_id()}",
            **said,
        }
        id, now = self.server.new_id(), self.server.now()
        client, secret = await grants.add_client(
            self.database, id=id, kind=kind, now=now, loopback=True, **known
        )
        return client.id, secret

    async def account(self, name: str = "ines", **said: Any) -> grants.Account:
        """Add an account, of the workforce unless something else is said."""
        known: dict[str, Any] = {"kind": "workforce", "fhir_user": "Practitioner/ines", **said}
        return await grants.add_account(
            self.database,
            id=self.server.new_id(),
            name=name,
            password=PASSWORD,
            once=False,
            now=self.server.now(),
            **known,
        )

    async def code(
        self,
        client_id: str,
        account: grants.Account,
        scopes: str = "",
        chosen: str = "Patient/ada",
        session: str = "",
        **changes: str | None,
    ) -> str:
        """Return the code that an application gets when somebody lets it in."""
        asked = await smart.requested(self.app.state, tuple(asking(client_id, **changes).items()))
        texts = scopes.split() or asked.scopes.text.split()
        location = await smart.granted(
            self.app.state,
            asked,
            account,
            texts,
            chosen,
            "",
            self.server.now(),
            session=session,
        )
        return query_of(location)["code"]

    async def send(self, form: Mapping[str, str], **said: Any) -> httpx.Response:
        """Return the answer of the token endpoint."""
        return await self.http.post("/oauth/token", data=dict(form), **said)

    async def exchange(self, client: str, secret: str, /, **changes: str | None) -> httpx.Response:
        """Return the answer to a code."""
        said: dict[str, str | None] = {
            "grant_type": "authorization_code",
            "client_id": client,
            "code": secret,
            "redirect_uri": CALLBACK,
            "code_verifier": VERIFIER,
            **changes,
        }
        return await self.send({k: v for k, v in said.items() if v is not None})

    async def let_in(self, **changes: str) -> tuple[str, dict[str, Any]]:
        """Return a public application, and what it got when somebody let it in."""
        client_id, _ = await self.register()
        account = await grants.find_account(self.database, "ines") or await self.account()
        code = await self.code(client_id, account, **changes)
        reply = await self.exchange(client_id, code)
        answer: dict[str, Any] = reply.json()
        return client_id, answer

    async def refresh(self, client_id: str, token: str, **changes: str) -> httpx.Response:
        """Return the answer to a refresh token."""
        form = {"grant_type": "refresh_token", "client_id": client_id, "refresh_token": token}
        return await self.send({**form, **changes})

    async def is_good(self, token: str) -> bool:
        """Return whether an access token is worth something."""
        found = await grants.find(self.database, token, {"access", "refresh"})
        return found is not None and found.good(self.server.now())

    def assertion(
        self,
        client_id: str,
        key: ECKey | RSAKey = EC,
        header: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> str:
        """Return what a client signs to show who it is; a claim that is None is left out."""
        algorithm = "ES384" if isinstance(key, ECKey) else "RS384"
        claims = {
            "iss": client_id,
            "sub": client_id,
            "aud": TOKEN_URL,
            "exp": self.server.now() // 1_000_000 + 200,
            "jti": self.server.new_id(),
            **changes,
        }
        said = {name: value for name, value in claims.items() if value is not None}
        headers = {"alg": algorithm, "kid": key.kid, "typ": "JWT", **(header or {})}
        shown = {name: value for name, value in headers.items() if value is not None}
        return jwt.encode(shown, said, key, algorithms=[shown["alg"]])

    async def backend(self, assertion: str, **changes: str) -> httpx.Response:
        """Return the answer to a client that wants a token for itself."""
        form = {
            "grant_type": "client_credentials",
            "scope": "system/*.rs",
            "client_assertion_type": JWT_BEARER,
            "client_assertion": assertion,
        }
        return await self.send({**form, **changes})


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Office]:
    """Yield an office whose server has a few patients and who works there."""
    app = create_app(settings)
    async with started(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=ROOT) as client:
            office = Office(app, client)
            door = Door(office.server, SYSTEM)
            visit = encounter(id="visit", subject=reference("Patient/ada"))
            for body in (patient(id="ada"), patient(id="bela"), practitioner(id="ines"), visit):
                assert (await door.put(body)).status == 201
            yield office
