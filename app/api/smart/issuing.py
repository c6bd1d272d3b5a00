"""The token endpoint: which tokens a code, a refresh token or a client itself is good for.

https://hl7.org/fhir/smart-app-launch/STU2.2/app-launch.html#obtain-access-token
https://hl7.org/fhir/smart-app-launch/STU2.2/backend-services.html
https://www.rfc-editor.org/rfc/rfc9700 (best current practice)

Theory of operation. Authlib leads through the three grants and calls what is here. It is
synchronous, so a request runs in a thread of its own, where `Desk.wait` reaches the rows through
the event loop. Authlib's hooks mostly do not know their request, so there is one `Authority` for
each.

Rule 1: what is handed out and what it is handed out for change in one transaction
(`grants.exchange`): of two that use a code at once one gets tokens, and the other takes them away.
Rule 2: a scope is met with what the client is registered for each time that a token is issued.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import msgspec
from authlib.oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import (
    InvalidClientError,
    InvalidGrantError,
    InvalidRequestError,
    InvalidScopeError,
)
from joserfc import jwt
from joserfc.jwk import RSAKey

from app.api import grants
from app.api.smart import discovery
from app.api.smart.clients import SECOND, Desk, Known, by_assertion, known
from app.api.smart.flows import Asked, Backend, Challenge, Code, Held, Refresh, Unauthenticated
from app.fhir import audit
from app.fhir.access import TOO_MANY, Scopes, meet, parse_scopes, too_many
from app.fhir.rest import Server

ACCESS = 3600  # seconds that an access token of a person is good
BACKEND = 300  # backend-services.html: a token of a client for itself should be good no longer
ONLINE = 8 * 3600  # a refresh token of somebody who is there; it ends with the session in any case
OFFLINE = 90 * 24 * 3600  # and of somebody who is not, since it was last used

# What an application is told of its launch (scopes-and-launch-context.html), as it is kept
TOLD = ("fhirContext", "intent", "need_patient_banner", "smart_style_url")
CARRIED = ("patient", "encounter", *TOLD, "session", "auth_time")

Answer = tuple[int, dict[str, Any], dict[str, str]]


async def signing(server: Server) -> list[grants.SigningKey]:
    """Return our keys, the one that signs first; where there is none one is made, and noted."""
    made = audit.security_event(server.now(), "system", "key", audit.SUCCESS)
    row = server.trail.changes([made]) if server.trail else ()
    return await grants.signing_keys(server.database, server.now(), row)


class Authority(AuthorizationServer):  # type: ignore[misc]
    """Authlib's server, for one request.

    `events` are refusals that have to be written down, `agent` is the registered client that asks,
    or that somebody says to be: nothing that a client wrote gets there, for it may be a secret.
    """

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self.events: list[audit.Event] = []
        self.agent = ""
        self.register_grant(Code, [Challenge(required=True)])
        self.register_grant(Refresh)
        self.register_grant(Backend)
        self.register_client_auth_method(
            "private_key_jwt", lambda query, asked: by_assertion(desk, query, asked.form)
        )

    # --- what Authlib calls

    def query_client(self, client_id: str) -> Known | None:
        """Return the client with that id."""
        found = known(self.desk, client_id)
        self.agent = found.client_id if found else ""
        return found

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    def create_oauth2_request(self, request: Asked) -> Asked:
        """Return the request as it is."""
        return request

    def handle_response(self, status: int, body: Any, headers: Any) -> Answer:
        """Return the answer as it is."""
        return status, dict(body), dict(headers)

    def validate_requested_scope(self, scope: str | None) -> None:
        """Do nothing: `generate_token` decides."""

    def authenticate_client(
        self, request: Asked, methods: Sequence[str], endpoint: str = "token"
    ) -> Known:
        """Return who asks. Raises an OAuth error, the same for a wrong id and a wrong secret."""
        basic = request.headers.get("authorization", "")
        ways = {
            "client_secret_basic": bool(basic),
            "client_secret_post": "client_secret" in request.form,
            "private_key_jwt": "client_assertion" in request.form,
        }
        shown = [method for method, used in ways.items() if used] or ["none"]
        if len(shown) > 1:  # RFC 6749, 2.3
            raise InvalidRequestError("A client must not authenticate in more than one way")
        client = self._authenticated(request, shown[0], shown[0] in methods, endpoint)
        if request.form.get("client_id", client.client_id) != client.client_id:
            raise Unauthenticated(description="The client_id is that of another client")
        request.client = client
        return client

    def _authenticated(self, request: Asked, method: str, may: bool, endpoint: str) -> Known:
        status = 401 if method == "client_secret_basic" else 400
        try:
            if may:
                found: Known = super().authenticate_client(request, [method], endpoint)
                return found
        except InvalidClientError as error:
            if method == "private_key_jwt":
                raise Unauthenticated(description=error.description) from None
        except ValueError:  # Basic that is not UTF-8
            pass
        text = "The client is not registered, or it has not shown that it is who it says"
        raise Unauthenticated(description=text, status_code=status)

    # --- what the grants ask

    def held(self, secret: str, kind: grants.TokenKind, client: Known) -> Held | None:
        """Return a code or refresh token of a client that is still good, None for another.

        One of the client's that was used before is used by two: nobody may keep what came of it.
        """
        database, now = self.desk.server.database, self.desk.now
        row = self.desk.wait(grants.find(database, secret, (kind,)))
        if row is None or row.client != client.client_id:
            return None
        if row.state != 1:
            also = self.also(self.used_twice(row))
            self.desk.wait(grants.revoke_family(database, row.family, also=also))
            return None
        return Held(row) if now < row.expires else None

    def account(self, held: Held) -> grants.Account:
        """Return who let the application in; an OAuth error where it may stay in no longer."""
        row, database = held.row, self.desk.server.database
        account = self.desk.wait(grants.find_account(database, row.account))
        if account is None or not account.state:
            raise InvalidGrantError("The account is not active")
        session = row.context.get("session", "")
        if row.kind == "refresh" and session:
            now = self.desk.now
            if not self.desk.wait(grants.is_alive(database, session, now)):
                raise InvalidGrantError("The session has ended, and online_access with it")
        return account

    def scopes(self, text: str) -> Scopes:
        """Return the scopes in a text."""
        return parse_scopes(text, self.desk.server.language)

    def within(self, text: str, granted: str) -> bool:
        """Return whether a text asks for nothing that is not in what was granted."""
        asked, had = self.scopes(text), self.scopes(granted)
        covered = all(any(one.covers(scope) for one in had.granted) for scope in asked.granted)
        return covered and not asked.refused and set(asked.others) <= set(had.others)

    def generate_token(
        self,
        client: Known,
        user: grants.Account | None = None,
        scope: str | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        """Return the answer as far as it follows from the scope; raises an OAuth error."""
        found = meet(self.scopes(scope or ""), self.scopes(client.row.scope))
        if user is None:  # a client for itself: nobody is there whom other words could be about
            own = tuple(one for one in found.granted if one.context == "system")
            lost = [one.text for one in found.granted if one.context != "system"]
            others = tuple(word for word in found.others if word == "launch")
            lost += [word for word in found.others if word != "launch"]
            found = Scopes(own, others, (*found.refused, *lost))
        if not found.granted and not found.others:
            raise InvalidScopeError("No scope is left: the client is registered for none of them")
        answer: dict[str, Any] = {
            "token_type": "Bearer",
            "access_token": grants.new_secret(),
            "expires_in": BACKEND if user is None else ACCESS,
            "scope": found.text,
        }
        if found.refused:
            answer["refused_scope"] = " ".join(found.refused)
        return answer

    def save_token(self, token: dict[str, Any], request: Asked) -> None:
        """Write down what is issued, and complete the answer; raises an OAuth error."""
        held: Held | None = request.authorization_code or request.refresh_token
        row = held.row if held else None
        family = row.family if row else self.desk.server.new_id()
        client: Known = request.client
        account: grants.Account | None = request.user if row else None
        context = carried(row)
        access = grants.Token(
            "access",
            family,
            client.client_id,
            account.id if account else "",
            token["scope"],
            context,
            self.desk.now,
            self.desk.now + token["expires_in"] * SECOND,
        )
        fresh = [(token["access_token"], access)]
        if row and client.check_grant_type("refresh_token"):
            again = refresh_token(access, row)
            if again:
                secret = token["refresh_token"] = grants.new_secret()
                fresh.append((secret, again))
        event = self.event(
            "token",
            audit.SUCCESS,
            account.id if account else client.client_id,
            client=client.client_id,
            grant=request.form["grant_type"],
            scope=token["scope"],
        )
        self.issue(request, row, fresh, event)
        if account and row:
            self.complete(token, account, row)

    def issue(
        self,
        request: Asked,
        row: grants.Token | None,
        fresh: list[tuple[str, grants.Token]],
        event: audit.Event,
    ) -> None:
        """Write the tokens, in exchange for what was shown; raises an OAuth error."""
        database, now, also = self.desk.server.database, self.desk.now, self.also(event)
        if row is None:
            ((secret, token),) = fresh
            made = grants.issue(
                database,
                kind="access",
                secret=secret,
                family=token.family,
                client=token.client,
                scope=token.scope,
                now=now,
                seconds=BACKEND,
                also=also,
            )
            self.desk.wait(made)
            return
        shown = request.form["code" if row.kind == "code" else "refresh_token"]
        exchanged = grants.exchange(database, shown, row.kind, fresh, now, also=also)
        if not self.desk.wait(exchanged):
            self.events.append(self.used_twice(row))
            raise InvalidGrantError("It was used before")

    def complete(self, token: dict[str, Any], account: grants.Account, row: grants.Token) -> None:
        """Add what the application is told of its launch, and of who is there."""
        token.update(told(row.context))
        if row.kind != "code":
            return
        if refused := row.context.get("refused"):
            more = token.get("refused_scope", "").split()
            token["refused_scope"] = " ".join(dict.fromkeys([*refused, *more]))
        words = token["scope"].split()
        if "openid" not in words:
            return
        seconds = self.desk.now // SECOND
        claims = {
            "iss": self.desk.places.root,
            "sub": account.id,
            "aud": row.client,
            "iat": seconds,
            "exp": seconds + ACCESS,
            "auth_time": row.context.get("auth_time", row.issued // SECOND),
        }
        if nonce := row.context.get("nonce"):
            claims["nonce"] = nonce
        if account.fhir_user and "fhirUser" in words:
            claims["fhirUser"] = f"{self.desk.places.base}/{account.fhir_user}"
        token["id_token"] = self.signed(claims)

    def signed(self, claims: Mapping[str, Any]) -> str:
        """Return claims as a JWT under the key that is in use."""
        keys = self.desk.wait(signing(self.desk.server))
        header = {"alg": "RS256", "kid": keys[0].kid, "typ": "JWT"}
        key = signer(msgspec.json.encode(keys[0].jwk))
        return jwt.encode(header, dict(claims), key, algorithms=["RS256"])

    # --- the books

    def event(self, code: str, outcome: int, agent: str, **detail: Any) -> audit.Event:
        """Return an event of this request."""
        said = {**detail, "request": self.desk.request}
        return audit.security_event(self.desk.now, agent, code, outcome, **said)

    def used_twice(self, row: grants.Token) -> audit.Event:
        """Return the event of a secret that somebody has a copy of."""
        reason = f"{row.kind} used twice"
        return self.event("revoke", audit.MINOR, row.account, client=row.client, reason=reason)

    def also(self, *events: audit.Event) -> Any:
        """Return the rows of events, for the transaction that they are about."""
        trail = self.desk.server.trail
        return trail.changes(list(events)) if trail else ()


def carried(row: grants.Token | None) -> dict[str, Any]:
    """Return what of a code's or refresh token's context its tokens need as well."""
    return {name: row.context[name] for name in CARRIED if name in row.context} if row else {}


def refresh_token(access: grants.Token, row: grants.Token) -> grants.Token | None:
    """Return the refresh token that goes with an access token; None where nobody asked for one.

    It keeps the scope of the one before it, however narrow the access token is.
    """
    scope = row.scope if row.kind == "refresh" else access.scope
    words = scope.split()
    context, seconds = dict(access.context), OFFLINE
    if "offline_access" in words:
        context.pop("session", None)
    elif "online_access" in words and "session" in context:
        seconds = ONLINE
    else:
        return None
    expires = access.issued + seconds * SECOND
    return replace(access, kind="refresh", scope=scope, context=context, expires=expires)


@lru_cache(8)
def signer(jwk: bytes) -> RSAKey:
    """Return a private key; taking it apart costs more than signing with it."""
    return RSAKey.import_key(msgspec.json.decode(jwk))


def told(context: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an application is told of a launch, from what is kept of it.

    app-launch.html#obtain-access-token: patient and encounter are ids, not references.
    """
    ids = {
        name: str(context[name]).partition("/")[2]
        for name in ("patient", "encounter")
        if context.get(name)
    }
    return {**ids, **{name: context[name] for name in TOLD if name in context}}


def answered(authority: Authority, asked: Asked) -> Answer:
    """Return the answer of the token endpoint; what was refused is in the authority's events."""
    grant_type = asked.form.get("grant_type", "")
    if too_many(asked.form.get("scope", "")):
        answer: Answer = 400, _error("invalid_scope", TOO_MANY), {}
    elif not grant_type:
        answer = 400, _error("invalid_request", "grant_type is missing"), {}
    elif grant_type not in discovery.GRANT_TYPES:
        may = ", ".join(discovery.GRANT_TYPES)
        answer = 400, _error("unsupported_grant_type", f"grant_type has to be one of {may}"), {}
    else:
        answer = authority.create_token_response(asked)
    status, body, _ = answer
    if status != 200:
        error = body.get("error", "")
        event = authority.event(
            "token-refused",
            audit.MINOR,
            authority.agent,
            error=error,
            grant=grant_type[:40],
        )
        authority.events.append(event)
    return answer


def _error(error: str, description: str) -> dict[str, str]:
    return {"error": error, "error_description": description}
