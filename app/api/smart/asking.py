"""What a token is, and giving one back: introspection and revocation.

https://www.rfc-editor.org/rfc/rfc7662 and https://www.rfc-editor.org/rfc/rfc7009
https://hl7.org/fhir/smart-app-launch/STU2.2/token-introspection.html

Who may not know of a token hears what is said of one that does not exist.
"""

from typing import Any

from authlib.oauth2.rfc6749 import InvalidRequestError
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7662 import IntrospectionEndpoint

from app.api import grants
from app.api.smart import discovery
from app.api.smart.clients import SECOND, Desk, Known
from app.api.smart.flows import Asked
from app.api.smart.issuing import Answer, Authority, told
from app.fhir import audit
from app.fhir.access import Caller

KINDS: tuple[grants.TokenKind, ...] = ("access", "refresh")


class Revocation(RevocationEndpoint):  # type: ignore[misc]
    """A client gives a token back. The answer is the same whatever the token was."""

    CLIENT_AUTH_METHODS = (*discovery.METHODS, "none")

    def authenticate_token(self, request: Asked, client: Known) -> grants.Token | None:
        """Return the token if it is one of the client's; a type hint is no help to us."""
        token = _found(self.server, request)
        return token if token and token.client == client.client_id else None

    def revoke_token(self, token: grants.Token, request: Asked) -> None:
        """Make it worth nothing, and with a refresh token all that came of its authorization."""
        authority: Authority = self.server
        database, wait = authority.desk.server.database, authority.desk.wait
        agent = token.account or token.client
        event = authority.event("revoke", audit.SUCCESS, agent, client=token.client)
        also = authority.also(event)
        if token.kind == "refresh":
            wait(grants.revoke_family(database, token.family, also=also))
        else:
            wait(grants.revoke(database, request.form["token"], also=also))


class Introspection(IntrospectionEndpoint):  # type: ignore[misc]
    """Whoever may know learns what a token is good for."""

    CLIENT_AUTH_METHODS = discovery.METHODS

    def __init__(self, server: Authority, caller: Caller | None) -> None:
        super().__init__(server)
        self.caller = caller

    def authenticate_endpoint_client(self, request: Asked) -> Known | None:
        """Return the client that asks, None where it is known by its token already."""
        if self.caller:
            return None
        client: Known = super().authenticate_endpoint_client(request)
        return client

    def authenticate_token(self, request: Asked, client: Known | None) -> grants.Token | None:
        """Return the token that is asked about, if the client may know of it."""
        token = _found(self.server, request)
        if client is None or "client_credentials" in client.row.grant_types:
            return token  # who serves resources has to know of every token
        return token if token and token.client == client.client_id else None

    def create_introspection_payload(self, token: grants.Token | None) -> dict[str, Any]:
        """Return what is said of a token: of one that is worth nothing, only that."""
        desk = self.server.desk
        if token is None or not token.good(desk.now) or not (owner := _owner(desk, token)):
            return {"active": False}
        return {
            "active": True,
            "scope": token.scope,
            "client_id": token.client,
            "sub": owner,
            "iss": desk.places.root,
            "aud": desk.places.base,
            "iat": token.issued // SECOND,
            "exp": token.expires // SECOND,
            **({"token_type": "Bearer"} if token.kind == "access" else {}),
            **told(token.context),
            **_user(desk, token),
        }


def _found(authority: Authority, request: Asked) -> grants.Token | None:
    """Return the token that a form is about, None for what is none."""
    secret = request.form.get("token", "")
    if not secret:
        raise InvalidRequestError("token is missing")
    return authority.desk.wait(grants.find(authority.desk.server.database, secret, KINDS))


def _owner(desk: Desk, token: grants.Token) -> str:
    """Return whose token it is, "" where that account or client may do nothing any more."""
    database = desk.server.database
    client = desk.wait(grants.find_client(database, token.client))
    if client is None or not client.state:
        return ""
    if not token.account:
        return client.id
    session = token.context.get("session", "") if token.kind == "refresh" else ""
    if session and not desk.wait(grants.is_alive(database, session, desk.now)):
        return ""  # online_access has ended
    account = desk.wait(grants.find_account(database, token.account))
    return account.id if account and account.state else ""


def _user(desk: Desk, token: grants.Token) -> dict[str, str]:
    """Return the FHIR resource of whoever let the application in, if it may know that."""
    if not token.account or "fhirUser" not in token.scope.split():
        return {}
    account = desk.wait(grants.find_account(desk.server.database, token.account))
    user = account.fhir_user if account else ""
    return {"fhirUser": f"{desk.places.base}/{user}"} if user else {}


def introspected(authority: Authority, asked: Asked, caller: Caller | None) -> Answer:
    """Return the answer of the introspection endpoint, to a client or to the bearer of a token."""
    authority.register_endpoint(Introspection(authority, caller))
    answer: Answer = authority.create_endpoint_response("introspection", asked)
    status, body, _ = answer
    outcome = audit.SUCCESS if status == 200 else audit.MINOR
    agent = caller.subject if caller else authority.agent
    said = {"active": body["active"]} if status == 200 else {"error": body.get("error", "")}
    authority.events.append(authority.event("introspect", outcome, agent, **said))
    return answer


def revoked(authority: Authority, asked: Asked) -> Answer:
    """Return the answer of the revocation endpoint."""
    authority.register_endpoint(Revocation(authority))
    answer: Answer = authority.create_endpoint_response("revocation", asked)
    status, body, _ = answer
    if status != 200:
        said = {"error": body.get("error", "")}
        authority.events.append(authority.event("revoke", audit.MINOR, authority.agent, **said))
    return answer
