"""Which pages of other origins may call the server: CORS, path by path.

https://hl7.org/fhir/smart-app-launch/STU2.2/app-launch.html#considerations-for-cross-origin-resource-sharing-cors-support

Any page reads what an application has to find out first. The FHIR API and the endpoints that
applications talk to are for the origins of public clients, which is where their redirect URIs lead,
and for those in the settings. All else, the pages where people sign in above all, is for the
settings' origins alone, as it was before there were clients.

Cookies are never asked for, so no answer depends on who sits at the browser.
"""

from urllib.parse import urlsplit

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from app import db
from app.api import grants
from app.api.http import cors
from app.api.smart.places import Places
from app.fhir.rest import Server

FRESH = 5_000_000  # microseconds for which the origins of clients are not looked up again


class Registered(CORSMiddleware):
    """CORS for origins that are found while the server runs: `found` beside those it was given."""

    found: frozenset[str] = frozenset()

    def is_allowed_origin(self, origin: str) -> bool:
        """Return whether a page of that origin may read the answer."""
        return origin in self.found or super().is_allowed_origin(origin)


class Origins:
    """Lets pages of other origins read what is for them; the outermost layer of the application."""

    def __init__(self, app: ASGIApp, places: Places, prefix: str, origins: str) -> None:
        self.app = app
        self.prefix = prefix
        root = places.root_path
        self.public = frozenset(
            {
                f"{prefix}/metadata",
                f"{prefix}/.well-known/smart-configuration",
                f"{root}/.well-known/openid-configuration",
                f"/.well-known/oauth-authorization-server{root}",
                f"{root}/oauth/jwks",
            }
        )
        self.called = frozenset(
            f"{root}/oauth/{name}" for name in ("token", "introspect", "revoke")
        )
        self.pages = f"{root}/oauth/"
        self.anywhere = CORSMiddleware(app, **cors("*"))
        self.registered = Registered(app, **cors(origins))
        self.configured = CORSMiddleware(app, **cors(origins)) if origins else app
        self.looked = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, by way of the layer that knows its path's origins."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        if not any(name == b"origin" for name, _ in scope["headers"]):
            await self.configured(scope, receive, send)
        elif path in self.public:
            await self.anywhere(scope, receive, send)
        elif path in self.called or self.below(path):
            await self.look(scope["app"].state.server)
            await self.registered(scope, receive, send)
        else:
            await self.configured(scope, receive, send)

    def below(self, path: str) -> bool:
        """Return whether a path is the FHIR base or below it."""
        if not path.startswith(self.prefix) or path.startswith(self.pages):
            return False
        return path[len(self.prefix) :][:1] in ("", "/")

    async def look(self, server: Server) -> None:
        """Look up the origins of public clients, unless that was done a moment ago."""
        now = server.now()
        if now - self.looked < FRESH:
            return
        self.looked = now
        try:
            clients = await grants.list_clients(server.database)
        except (db.Unavailable, db.TooSlow):
            return  # those that are known are as good as any: the token decides
        self.registered.found = frozenset(
            origin
            for client in clients
            if client.kind == "public" and client.state
            for uri in client.redirect_uris
            if (origin := origin_of(uri))
        )


def origin_of(uri: str) -> str:
    """Return the web origin of a redirect URI, "" for the private scheme of a native app."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc}" if parts.scheme in ("http", "https") else ""
