"""Who is in front of the browser: the cookie, the session behind it, and the token of its forms.

https://www.rfc-editor.org/rfc/rfc6265#section-8

One cookie has a random secret. As long as nobody has signed in it only ties forms to the browser
that got them; a sign-in replaces it, so that a secret that somebody else has planted is worth
nothing. The database has its hash alone. A form's token is a MAC of its purpose under the secret:
who cannot read the cookie can make none.
"""

import hmac
from dataclasses import dataclass

from fastapi import Request
from fastapi.responses import Response

from app.api import grants
from app.fhir.rest import Server

SECOND = 1_000_000
LONGEST = 8 * 3600 * SECOND  # a working day
IDLE = 1800 * SECOND
STEP = 60 * SECOND  # a session is not prolonged for less
SECRET_LENGTHS = range(32, 129)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the pages are: the path of the issuer, "" at the top of a host; `https` or not."""

    path: str
    https: bool

    @property
    def at(self) -> str:
        """The path below which all pages are."""
        return f"{self.path}/oauth"

    @property
    def cookie(self) -> str:
        """The name of the cookie; browsers let nobody but this very host set a `__Host-` one."""
        return "__Host-milepost_session" if self.https and not self.path else "milepost_session"

    @property
    def cookie_path(self) -> str:
        """The path of the cookie; a `__Host-` one must have the top."""
        return "/" if self.cookie.startswith("__Host-") else self.at


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks: the secret of the cookie, and the account if somebody is signed in.

    The browser does not know a `fresh` secret yet. `since` is when the account signed in, in
    microseconds, and `family` what falls with the session.
    """

    secret: str
    account: grants.Account | None = None
    since: int = 0
    family: str = ""
    fresh: bool = False

    @property
    def csrf(self) -> str:
        """The token that a form of this browser has."""
        return hmac.digest(self.secret.encode(), b"milepost form", "sha256").hex()

    def sent(self, token: str) -> bool:
        """Return whether a form with this token is from a page that this browser got."""
        return not self.fresh and hmac.compare_digest(self.csrf.encode(), token.encode())


async def visitor(server: Server, request: Request, place: Place) -> Visitor:
    """Return who asks; a browser without a cookie gets a new secret."""
    secret = request.cookies.get(place.cookie, "")
    if len(secret) not in SECRET_LENGTHS or not secret.isascii():
        return Visitor(grants.new_secret(), fresh=True)
    now = server.now()
    found = await grants.find(server.database, secret, ["session"])
    if found is None or not found.state or found.expires <= now:
        return Visitor(secret)
    account = await grants.find_account(server.database, found.account)
    if account is None or not account.state:
        return Visitor(secret)
    until = min(found.issued + LONGEST, now + IDLE)
    if until > found.expires + STEP:
        await grants.prolong(server.database, secret, "session", until)
    return Visitor(secret, account, found.issued, found.family)


async def begin(server: Server, before: Visitor, account: grants.Account) -> Visitor:
    """Return the visitor with a new session of an account; the one before is over."""
    await end(server, before)
    now, secret, family = server.now(), grants.new_secret(), server.new_id()
    await grants.issue(
        server.database,
        kind="session",
        secret=secret,
        family=family,
        client="",
        account=account.id,
        scope="",
        context={},
        now=now,
        seconds=IDLE // SECOND,
    )
    return Visitor(secret, account, now, family)


async def end(server: Server, visitor: Visitor) -> None:
    """End a session, if there is one, and what lasts no longer than it."""
    if visitor.family:
        await grants.revoke_family(server.database, visitor.family)


def remember(response: Response, visitor: Visitor, place: Place) -> None:
    """Set the cookie; it lasts until the browser is closed, the session until the server says."""
    response.set_cookie(
        place.cookie,
        visitor.secret,
        path=place.cookie_path,
        secure=place.https,
        httponly=True,
        samesite="lax",
    )
