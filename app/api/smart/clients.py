"""Whether a client is who it says: registered clients as Authlib sees them, and their assertions.

https://www.rfc-editor.org/rfc/rfc6749#section-2.3
https://hl7.org/fhir/smart-app-launch/STU2.2/client-confidential-asymmetric.html

Authlib's own check of assertions refuses RS384 and ES384, which SMART asks for, reads the clock
itself, and knows no `kid`; so the check is here, and is one of the methods that Authlib calls.
"""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec
from authlib.oauth2.rfc6749 import ClientMixin, InvalidClientError
from joserfc import jws, jwt
from joserfc.errors import JoseError

from app.api import grants
from app.api.smart.keys import ALGORITHMS, KeySets
from app.api.smart.places import Places
from app.fhir.rest import Server

T = TypeVar("T")

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
LONGEST = 300  # seconds that an assertion may have left
SKEW = 5  # seconds by which the clock of a client may be ahead
SECOND = 1_000_000
NAMES = 255  # characters of an id

# How a client of each kind may show who it is
METHODS: Mapping[str, frozenset[str]] = {
    "public": frozenset({"none"}),
    "symmetric": frozenset({"client_secret_basic", "client_secret_post"}),
    "asymmetric": frozenset({"private_key_jwt"}),
}


class Wait(Protocol):
    """What gives the result of a coroutine that runs in the event loop, to a thread."""

    def __call__(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for the result."""


@dataclass(frozen=True, slots=True)
class Desk:
    """What the answer to one request needs: the engine, the addresses, the keys, the time.

    `now` is in microseconds since 1970; `request` is the id of the request.
    """

    server: Server
    places: Places
    key_sets: KeySets
    wait: Wait
    now: int
    request: str = ""


class Known(ClientMixin):  # type: ignore[misc]
    """A registered client; `row` is what is registered."""

    def __init__(self, row: grants.Client, right: Callable[[str], bool]) -> None:
        self.row = row
        self.client_id = row.id
        self.check_client_secret = right

    def get_client_id(self) -> str:
        """Return its id."""
        return self.row.id

    def check_endpoint_auth_method(self, method: str, _: str) -> bool:
        """Return whether a client of its kind may show in that way who it is."""
        return method in METHODS[self.row.kind]

    def check_grant_type(self, grant_type: str) -> bool:
        """Return whether it is registered for that way to get a token."""
        return grant_type in self.row.grant_types

    def get_allowed_scope(self, scope: str | None) -> str:
        """Return the text as it is: what may be granted is decided when a token is issued."""
        return scope or ""


def named(client_id: object) -> bool:
    """Return whether that may be the id of a client: a database takes no NUL, for one."""
    return isinstance(client_id, str) and 0 < len(client_id) <= NAMES and client_id.isprintable()


def known(desk: Desk, client_id: str) -> Known | None:
    """Return the client with that id, None where there is none that may do anything."""
    if not named(client_id):
        return None
    row = desk.wait(grants.find_client(desk.server.database, client_id))
    if row is None or not row.state or row.id != client_id:
        return None

    def right(secret: str) -> bool:
        return desk.wait(grants.check_client_secret(desk.server.database, row.id, secret))

    return Known(row, right)


def by_assertion(
    desk: Desk, query: Callable[[str], Known | None], form: Mapping[str, str]
) -> Known:
    """Return the client that signed the assertion in a form; `query` finds one by its id.

    Raises InvalidClientError with a sentence for its developer. An assertion is good once.
    """
    if form.get("client_assertion_type") != ASSERTION_TYPE:
        raise InvalidClientError(description=f"client_assertion_type has to be {ASSERTION_TYPE}")
    text = form.get("client_assertion", "")
    header, claims = opened(text)
    client_id = claims.get("sub")
    client = query(client_id) if isinstance(client_id, str) else None
    if client is None or not client.check_endpoint_auth_method("private_key_jwt", ""):
        raise InvalidClientError(description="The assertion is of no client that is registered")
    algorithm, kid = header["alg"], header["kid"]
    if "jku" in header and header["jku"] != client.row.jwks_uri:
        raise InvalidClientError(description="The jku is not the address that is registered")
    key = desk.wait(desk.key_sets.key(client.row, kid, algorithm, desk.now))
    if key is None:
        text = "The client has no key with that kid for that algorithm, or more than one"
        raise InvalidClientError(description=text)
    try:
        jwt.decode(text, key, algorithms=[algorithm])
    except JoseError:
        raise InvalidClientError(description="The signature of the assertion is wrong") from None
    if problem := wrong(claims, desk.places.token, desk.now // SECOND):
        raise InvalidClientError(description=problem)
    expires = (int(claims["exp"]) + SKEW) * SECOND
    remembered = grants.remember_assertion(
        desk.server.database, client.row.id, claims["jti"], expires
    )
    if not desk.wait(remembered):
        raise InvalidClientError(description="The assertion was used before")
    return client


def opened(assertion: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the header and the claims of an assertion whose signature nobody has looked at."""
    try:
        token = jws.extract_compact(assertion.encode())
        header = dict(token.headers())
        claims = msgspec.json.decode(token.payload)
    except (JoseError, ValueError, TypeError, RecursionError):
        raise InvalidClientError(description="The assertion is no signed JWT") from None
    texts = all(isinstance(header.get(name, ""), str) for name in ("alg", "kid", "jku", "typ"))
    if not isinstance(claims, dict) or not texts or "crit" in header:
        raise InvalidClientError(description="The assertion is no signed JWT")
    if header.get("alg") not in ALGORITHMS:
        may = " or ".join(ALGORITHMS)
        raise InvalidClientError(description=f"The assertion has to be signed with {may}")
    if not 0 < len(header.get("kid", "")) <= NAMES:
        raise InvalidClientError(
            description="The assertion has to name its key: kid is missing, or too long"
        )
    if header.get("typ", "JWT").upper() != "JWT":
        raise InvalidClientError(description="The typ of the assertion has to be JWT")
    return header, claims


def wrong(claims: Mapping[str, Any], audience: str, now: int) -> str:
    """Return what is wrong with the claims of an assertion, "" if nothing is; `now` in seconds."""
    named = claims.get("aud")
    audiences = named if isinstance(named, list) else [named]
    expires, jti = claims.get("exp"), claims.get("jti")
    if claims.get("iss") != claims.get("sub"):
        return "iss and sub of the assertion have to be the client_id"
    if audience not in audiences:
        return "aud of the assertion has to be the address of the token endpoint"
    if not isinstance(expires, int | float) or isinstance(expires, bool):
        return "The assertion has no exp"
    if expires <= now:
        return "The assertion has expired"
    if expires > now + LONGEST + SKEW:
        return "exp of the assertion is more than five minutes ahead"
    if any(name in claims and not _passed(claims[name], now) for name in ("nbf", "iat")):
        return "The assertion is not good yet"
    if not isinstance(jti, str) or not jti or len(jti) > NAMES:
        return f"The assertion needs a jti, of {NAMES} characters at most"
    return ""


def _passed(moment: object, now: int) -> bool:
    return isinstance(moment, int | float) and moment <= now + SKEW
