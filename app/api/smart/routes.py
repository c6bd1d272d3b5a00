"""The endpoints of the authorization server that programs talk to.

The pages where people sign in and decide are in `api.page`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, TypeVar

from fastapi import APIRouter
from joserfc.jwk import RSAKey
from starlette.requests import Request
from starlette.responses import Response

from app import db
from app.api import grants
from app.api.smart import asking, discovery, issuing, messages
from app.api.smart.clients import Desk
from app.api.smart.fetching import fetch
from app.api.smart.flows import Asked
from app.api.smart.issuing import Answer, Authority, signing
from app.api.smart.keys import KeySets
from app.api.smart.launch import NAMES, launched
from app.api.smart.messages import Bad, reply
from app.api.smart.places import Places, places
from app.fhir import audit
from app.fhir.access import Caller
from app.fhir.errors import FhirError
from app.fhir.rest import Server

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]

# Threads in which Authlib waits for the event loop. They are for nothing else: what the loop itself
# hands to a thread must never wait for one of these
THREADS = 16
WAIT = 60.0  # seconds that a thread waits for the loop at most: the database has limits of its own
ERRORS = {401: "invalid_token", 503: "temporarily_unavailable"}
KEPT = {"Cache-Control": "public, max-age=300", "Pragma": ""}
TAG = "Authorization"
# What the forms hold, for people who read the OpenAPI document
SHOWN = ("client_id", "client_secret", "client_assertion_type", "client_assertion")
TOKEN = ("grant_type", "scope", "code", "redirect_uri", "code_verifier", "refresh_token")
ABOUT = ("token", "token_type_hint")


@dataclass(frozen=True, slots=True)
class Counter:
    """Where forms are answered: the addresses, the key sets of clients, the threads."""

    where: Places
    key_sets: KeySets
    threads: ThreadPoolExecutor


async def answered(
    counter: Counter, request: Request, work: Callable[[Authority, Asked], Answer]
) -> Response:
    """Return the answer to a form, once what was refused is in the audit trail; raises Bad."""
    form = await messages.form(request)
    loop = asyncio.get_running_loop()

    def wait(work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, loop).result(WAIT)

    server: Server = request.app.state.server
    named = request.scope.get("request_id", "")
    desk = Desk(server.newest(), counter.where, counter.key_sets, wait, server.now(), named)
    authority, asked = Authority(desk), Asked(form, request.headers)
    status, body, headers = await loop.run_in_executor(counter.threads, work, authority, asked)
    if server.trail and authority.events:
        await server.trail.note(*authority.events)
    return reply(body, status, headers)


def answering(handler: Handler) -> Handler:
    """Return a handler that answers in JSON when something is wrong, whatever that is."""

    @wraps(handler)
    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except Bad as bad:
            return bad.reply()
        except FhirError as error:  # of a bearer token, or of a body that does not arrive
            code = ERRORS.get(error.status, "invalid_request")
            return Bad(error.issues[0].text, code, error.status, error.headers).reply()
        except (db.Unavailable, db.TooSlow, TimeoutError):
            text = "The server is busy; try again in a moment"
            return Bad(text, "temporarily_unavailable", 503, {"Retry-After": "1"}).reply()

    return answer


async def bearer(request: Request) -> Caller | None:
    """Return who has sent a bearer token with a request, None where there is none.

    Raises a FhirError for one that is not good.
    """
    header = request.headers.get("authorization", "")
    if header.partition(" ")[0].lower() != "bearer":
        return None
    caller: Caller = await request.app.state.bearer.caller(header)
    return caller


async def noted(request: Request, code: str, caller: Caller | None, outcome: int) -> None:
    """Write down what the bearer of a token has done, or was refused."""
    server: Server = request.app.state.server
    if server.trail:
        agent, client = (caller.subject, caller.client) if caller else ("", "")
        told = {"client": client, "request": request.scope.get("request_id", "")}
        event = audit.security_event(server.now(), agent, code, outcome, **told)
        await server.trail.note(event)


def kept(body: Mapping[str, Any]) -> Response:
    """Return JSON that is nobody's secret, and that caches may keep for five minutes."""
    answer = reply(body, headers=KEPT)
    del answer.headers["pragma"]
    return answer


def router(base_url: str) -> APIRouter:
    """Return the endpoints of a server whose FHIR API is at `base_url`."""
    where = places(base_url)
    key_sets = KeySets(partial(fetch, loopback=where.local))
    counter = Counter(where, key_sets, ThreadPoolExecutor(THREADS, "oauth"))
    found = APIRouter(tags=[TAG])
    _discovery(found, where)
    _tokens(found, where.root_path, counter)
    _launch(found, where)
    return found


def _discovery(found: APIRouter, where: Places) -> None:
    """Add what anybody may know."""
    root = where.root_path
    base_path = where.base[len(where.root) - len(root) :]

    @found.get(f"{base_path}/.well-known/smart-configuration", openapi_extra={"parameters": []})
    async def smart_configuration() -> Response:
        """Say where an application goes to be let in, and what works there."""
        return kept(discovery.smart_configuration(where))

    @found.get(f"{root}/.well-known/openid-configuration")
    @found.get(f"/.well-known/oauth-authorization-server{root}", include_in_schema=False)
    async def openid_configuration() -> Response:
        """Say the same for OpenID."""
        return kept(discovery.openid_configuration(where))

    @found.get(f"{root}/oauth/jwks")
    @answering
    async def jwks(request: Request) -> Response:
        """Show the keys that id tokens are signed with."""
        server: Server = request.app.state.server
        return kept({"keys": [published(key) for key in await signing(server)]})


def published(key: grants.SigningKey) -> dict[str, Any]:
    """Return the public half of a key."""
    public = RSAKey.import_key(dict(key.jwk)).as_dict(private=False)
    return {**public, "kid": key.kid, "use": "sig", "alg": "RS256"}


def _body(kind: str, *names: str) -> dict[str, Any]:
    """Return what OpenAPI says of a body with such members."""
    schema = {"type": "object", "properties": {name: {} for name in names}}
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema}}}}


def _tokens(found: APIRouter, root: str, counter: Counter) -> None:
    """Add what clients do with tokens."""

    @found.post(f"{root}/oauth/token", openapi_extra=_body(messages.FORM, *TOKEN, *SHOWN))
    @answering
    async def token(request: Request) -> Response:
        """Exchange a code or a refresh token for tokens, or get one for the client itself."""
        return await answered(counter, request, issuing.answered)

    @found.post(f"{root}/oauth/introspect", openapi_extra=_body(messages.FORM, *ABOUT, *SHOWN))
    @answering
    async def introspect(request: Request) -> Response:
        """Say what a token is good for."""
        caller = None
        try:
            caller = await bearer(request)
            if caller and caller.kind not in ("administrator", "system"):
                text = "Only administrators and systems ask about tokens with one of their own"
                raise Bad(text, "access_denied", 403)
        except (Bad, FhirError):
            await noted(request, "introspect", caller, audit.MINOR)
            raise
        work = partial(asking.introspected, caller=caller)
        return await answered(counter, request, work)

    @found.post(f"{root}/oauth/revoke", openapi_extra=_body(messages.FORM, *ABOUT, *SHOWN))
    @answering
    async def revoke(request: Request) -> Response:
        """Give a token back: from now on it is worth nothing."""
        return await answered(counter, request, asking.revoked)


def _launch(found: APIRouter, where: Places) -> None:
    """Add where an EHR launch begins."""

    @found.post(f"{where.root_path}/oauth/launch", openapi_extra=_body(messages.JSON, *NAMES))
    @answering
    async def launch(request: Request) -> Response:
        """Open an application on what is open: the value of `launch`, and where to open it."""
        server: Server = request.app.state.server
        caller, outcome = None, audit.MINOR
        try:
            caller = await bearer(request)
            if caller is None:
                challenge = {"WWW-Authenticate": 'Bearer realm="Milepost"'}
                raise Bad("A token is needed", "invalid_token", 401, challenge)
            said = await messages.document(request)
            answer = await launched(server, where, caller, said, server.now())
            outcome = audit.SUCCESS
        finally:
            await noted(request, "launch", caller, outcome)
        return reply(answer)
