"""Letting an application in: what it may ask for, and the code that it is given.

https://hl7.org/fhir/smart-app-launch/STU2.2/app-launch.html#obtain-authorization-code
https://www.rfc-editor.org/rfc/rfc6749#section-4.1.1
https://openid.net/specs/openid-connect-core-1_0.html#AuthRequest

These are functions for the pages where people decide (`api.page`). A request is checked anew at
each step, because it comes back from a browser; nothing is used up before the code is made.

Rule: as long as client and redirect URI are not known to belong together nobody is sent anywhere.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit, urlunsplit

from app.api import grants
from app.api.smart.clients import named
from app.api.smart.places import places
from app.fhir.access import (
    TOO_MANY,
    Caller,
    Grant,
    Scope,
    Scopes,
    meet,
    parse_scopes,
    policy_of,
    too_many,
)
from app.fhir.interaction import Interaction, Pairs
from app.fhir.rest import Server, handle

SECOND = 1_000_000
CODE_SECONDS = 60
CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")  # RFC 7636, 4.2: SHA-256 in base64url
LONG = 4096  # characters of a parameter that comes back or is kept
PROMPTS = frozenset({"none", "login", "consent", "select_account"})


class State(Protocol):
    """What an application keeps as its state (`app.state`)."""

    server: Server


class Refused(Exception):
    """A request that gets no code. `location` is where to send the browser, "" for nowhere."""

    def __init__(self, error: str, description: str, location: str = "") -> None:
        super().__init__(description)
        self.error, self.description, self.location = error, description, location


@dataclass(frozen=True, slots=True)
class Requested:
    """A request of a registered client that may be granted.

    `scopes` are what it may get, `refused` what it asked for in vain. `launch` is the secret of an
    EHR launch, `account` who launched it ("" where that does not matter), `patient` and
    `encounter` are references (`Patient/1`), `context` is what else the launch tells.
    """

    client: grants.Client
    redirect_uri: str
    state: str
    scopes: Scopes
    issuer: str
    challenge: str
    nonce: str = ""
    prompt: tuple[str, ...] = ()
    max_age: int | None = None
    login_hint: str = ""
    launch: str = ""
    account: str = ""
    patient: str = ""
    encounter: str = ""
    context: Mapping[str, Any] = field(default_factory=dict)

    @property
    def refused(self) -> tuple[str, ...]:
        """The scopes that are not granted: nobody understands them, or the client has them not."""
        return self.scopes.refused

    @property
    def needs_patient(self) -> bool:
        """Whether somebody has to choose a patient: a scope is about one, and none was launched.

        scopes-and-launch-context.html: patient/ scopes imply launch/patient.
        """
        about = any(scope.context == "patient" for scope in self.scopes.granted)
        return not self.patient and (about or "launch/patient" in self.scopes.others)


async def requested(state: State, params: Pairs) -> Requested:
    """Return what the parameters of an authorization request ask for; raises Refused."""
    server, given = state.server, dict(params)
    client = await _client(server, params, given)
    redirect_uri, issuer = given["redirect_uri"], places(server.base_url).root
    back = given.get("state", "")
    error, description = _wrong(server, params, given)
    if not error and "authorization_code" not in client.grant_types:
        error, description = "unauthorized_client", "The client is not registered for this"
    if error:
        back = "" if len(back) > LONG else back
        raise _back(redirect_uri, back, issuer, error, description)
    language = server.newest().language
    scopes = meet(parse_scopes(given["scope"], language), parse_scopes(client.scope, language))
    launch = await _launched(server, given, scopes, client)
    if isinstance(launch, str):
        raise _back(redirect_uri, back, issuer, "invalid_request", launch)
    scopes = _possible(scopes, launch)
    if not scopes.granted and not scopes.others:
        text = "The client is registered for none of the scopes that it asks for"
        raise _back(redirect_uri, back, issuer, "invalid_scope", text)
    context = dict(launch.context) if launch else {}
    return Requested(
        client=client,
        redirect_uri=redirect_uri,
        state=back,
        scopes=scopes,
        issuer=issuer,
        challenge=given["code_challenge"],
        nonce=given.get("nonce", ""),
        prompt=tuple(given.get("prompt", "").split()),
        max_age=int(given["max_age"]) if "max_age" in given else None,
        login_hint=given.get("login_hint", ""),
        launch=given.get("launch", ""),
        account=launch.account if launch else "",
        patient=str(context.pop("patient", "")),
        encounter=str(context.pop("encounter", "")),
        context=context,
    )


async def _client(server: Server, params: Pairs, given: Mapping[str, str]) -> grants.Client:
    """Return the client of a request whose redirect URI is its own; raises Refused.

    RFC 6749, 3.1.2.4: the browser is not sent to where nobody has registered.
    """
    names = [name for name, _ in params]
    if names.count("client_id") != 1 or names.count("redirect_uri") != 1:
        text = "The application has to say once who it is, and once where to return to"
        raise Refused("invalid_request", text)
    client_id = given["client_id"]
    client = await grants.find_client(server.database, client_id) if named(client_id) else None
    if client is None or not client.state or client.id != client_id:
        raise Refused("invalid_client", "This application is not registered")
    if given["redirect_uri"] not in client.redirect_uris:
        text = "The address to return to is not one that the application has registered"
        raise Refused("invalid_request", text)
    return client


def _wrong(server: Server, params: Pairs, given: Mapping[str, str]) -> tuple[str, str]:
    """Return the error of a request and a sentence about it, "" if nothing is wrong."""
    names = [name for name, _ in params]
    prompt, age = given.get("prompt", "").split(), given.get("max_age", "0")
    challenge, method = given.get("code_challenge", ""), given.get("code_challenge_method", "")
    rows = (
        (len(set(names)) != len(names), "invalid_request", "A parameter is given more than once"),
        (
            any(len(value) > LONG for value in given.values()),
            "invalid_request",
            f"A parameter is longer than {LONG} characters",
        ),
        (not given.get("state"), "invalid_request", "state is missing"),
        ("request" in given, "request_not_supported", "Requests are not taken as JWT"),
        ("request_uri" in given, "request_uri_not_supported", "Requests are not taken as JWT"),
        (
            given.get("response_type") != "code",
            "unsupported_response_type",
            "response_type has to be code",
        ),
        (
            given.get("response_mode", "query") != "query",
            "invalid_request",
            "response_mode has to be query",
        ),
        (
            given.get("aud", "").rstrip("/") != server.base_url,
            "invalid_request",
            "aud has to be the address of the FHIR API",
        ),
        (method != "S256", "invalid_request", "code_challenge_method has to be S256"),
        (
            not CHALLENGE.fullmatch(challenge),
            "invalid_request",
            "code_challenge has to be a SHA-256 in base64url, 43 characters",
        ),
        (
            not PROMPTS.issuperset(prompt) or ("none" in prompt and len(prompt) > 1),
            "invalid_request",
            "prompt has to be none, or some of login, consent and select_account",
        ),
        (
            not (age.isascii() and age.isdigit() and len(age) < 10),
            "invalid_request",
            "max_age has to be a number of seconds",
        ),
        (not given.get("scope", "").split(), "invalid_scope", "scope is missing"),
        (too_many(given.get("scope", "")), "invalid_scope", TOO_MANY),
    )
    for is_wrong, error, description in rows:
        if is_wrong:
            return error, description
    return "", ""


async def _launched(
    server: Server, given: Mapping[str, str], scopes: Scopes, client: grants.Client
) -> grants.Token | str | None:
    """Return the launch that a request is part of, None for none, or what is wrong with it."""
    secret = given.get("launch", "")
    if not secret:
        return "The scope launch wants the parameter launch" if "launch" in scopes.others else None
    if "launch" not in scopes.others:
        return "The parameter launch wants the scope launch"
    launch = await grants.find(server.database, secret, {"launch"})
    if launch is None or not launch.good(server.now()) or launch.client not in ("", client.id):
        return "The launch is over, or it is that of another application"
    return launch


def _possible(scopes: Scopes, launch: grants.Token | None) -> Scopes:
    """Return the scopes without those that no person grants, or that lack what they are about."""
    persons = tuple(scope for scope in scopes.granted if scope.context != "system")
    lost = [scope.text for scope in scopes.granted if scope.context == "system"]
    if not (launch and launch.context.get("encounter")):  # nobody chooses an encounter here
        lost += [word for word in scopes.others if word == "launch/encounter"]
    others = tuple(word for word in scopes.others if word not in lost)
    return Scopes(persons, others, (*scopes.refused, *lost))


def refusal(asked: Requested, error: str, description: str) -> str:
    """Return where to send the browser of somebody who does not let the application in."""
    return _returned(asked.redirect_uri, asked.state, asked.issuer, _said(error, description))


def _back(redirect_uri: str, state: str, issuer: str, error: str, description: str) -> Refused:
    location = _returned(redirect_uri, state, issuer, _said(error, description))
    return Refused(error, description, location)


def _said(error: str, description: str) -> dict[str, str]:
    return {"error": error, "error_description": description}


def _returned(redirect_uri: str, state: str, issuer: str, said: Mapping[str, str]) -> str:
    """Return a redirect URI with an answer; RFC 9207: and with who gives it."""
    parts = urlsplit(redirect_uri)
    answer = urlencode({**said, **({"state": state} if state else {}), "iss": issuer})
    query = f"{parts.query}&{answer}" if parts.query else answer
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))


async def granted(
    state: State,
    asked: Requested,
    account: grants.Account,
    scopes: Collection[str],
    patient: str,
    encounter: str,
    now: int,
    *,
    signed_in: int = 0,
    session: str = "",
) -> str:
    """Make the code for what somebody lets an application do; return where to send the browser.

    `scopes` are the texts that were kept, `patient` and `encounter` references that were chosen
    ("" for none; those of a launch count in any case). `signed_in` is when the account was, in
    microseconds, `session` the family of its session. Raises Refused.
    """
    server = state.server
    patient, encounter = asked.patient or patient, asked.encounter or encounter
    if asked.account and asked.account != account.id:
        raise _denied(asked, "The launch is that of another account")
    kept, lost = _kept(server, asked, account, set(scopes), patient, now)
    if not kept.granted and not kept.others:
        raise _denied(asked, "Nothing is left that the application may do")
    caller = caller_of(server, account, now)
    for place, type in ((patient, "Patient"), (encounter, "Encounter")):
        if place and not (place.startswith(f"{type}/") and await seen(server, caller, place)):
            raise _denied(asked, "The account may not see that record")
    if asked.launch and not await grants.use(server.database, asked.launch, "launch", now):
        raise _denied(asked, "The launch is over")
    context: dict[str, Any] = {
        "redirect_uri": asked.redirect_uri,
        "challenge": asked.challenge,
        "nonce": asked.nonce,
        "auth_time": (signed_in or now) // SECOND,
        "patient": patient,
        "encounter": encounter,
        "session": session,
        "refused": lost,
        # who was not launched from a chart has nobody else who shows whose it is
        **({"need_patient_banner": True} if patient and not asked.launch else {}),
        **asked.context,
    }
    code = grants.new_secret()
    await grants.issue(
        server.database,
        kind="code",
        secret=code,
        family=server.new_id(),
        client=asked.client.id,
        account=account.id,
        scope=kept.text,
        context={name: value for name, value in context.items() if value not in ("", ())},
        now=now,
        seconds=CODE_SECONDS,
    )
    return _returned(asked.redirect_uri, asked.state, asked.issuer, {"code": code})


def _kept(
    server: Server,
    asked: Requested,
    account: grants.Account,
    texts: Collection[str],
    patient: str,
    now: int,
) -> tuple[Scopes, tuple[str, ...]]:
    """Return the scopes that were kept and that grant the account something, and all others.

    What somebody has unticked is not among the latter: it is nobody's mistake.
    """
    language = server.newest().language

    def grants_something(scope: Scope) -> bool:
        grant = Grant(account.kind, (scope,), patient, account.fhir_user)
        policy = policy_of(grant, language, now)
        types = language.definitions.resource_types if scope.type == "*" else (scope.type,)
        return any(policy.may(type, right) for type in types for right in scope.rights)

    chosen = [scope for scope in asked.scopes.granted if scope.text in texts]
    useful = [scope for scope in chosen if grants_something(scope)]
    others = [word for word in asked.scopes.others if word in texts]
    if not patient:
        others = [word for word in others if word != "launch/patient"]
    lost = [scope.text for scope in chosen if scope not in useful]
    kept = Scopes(tuple(useful), tuple(others))
    return kept, tuple(dict.fromkeys([*asked.refused, *lost]))


def _denied(asked: Requested, description: str) -> Refused:
    return Refused("access_denied", description, refusal(asked, "access_denied", description))


def caller_of(server: Server, account: grants.Account, now: int) -> Caller:
    """Return an account as a caller that may read what its account lets it see, and no more."""
    language = server.newest().language
    context = "patient" if account.kind == "patient" else "user"
    text = f"{context}/Patient.rs {context}/Encounter.rs"
    scopes = parse_scopes(text, language).granted
    grant = Grant(account.kind, scopes, fhir_user=account.fhir_user)
    policy = policy_of(grant, language, now)
    return Caller(
        name=f"{account.id} sign-in {policy.digest}",
        policy=policy,
        kind=account.kind,
        subject=account.id,
        roles=account.roles,
        organization=account.organization,
        fhir_user=account.fhir_user,
        scopes=tuple(text.split()),
    )


async def seen(server: Server, caller: Caller, place: str) -> bytes:
    """Return what a reference (`Patient/1`) names, as JSON; b"" where the caller sees nothing."""
    type, _, id = place.partition("/")
    reply = await handle(server, caller, Interaction("read", type=type, id=id))
    return reply.body if reply.status == 200 else b""
