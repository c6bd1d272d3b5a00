"""The addresses of the pages, and what all of them have in common.

Whatever sends a form has to send the token of the browser's cookie too, before anything is done.
What goes wrong is a page, never a trace.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import NamedTuple
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app import db
from app.api import grants, smart
from app.api.page import accounts, launching
from app.api.page.asking import Asking
from app.api.page.document import Form, Unreadable, fields, form, sent_on, style
from app.api.page.sessions import Place, Visitor, remember, visitor
from app.api.smart import places
from app.fhir.errors import FhirError
from app.fhir.interaction import Pairs
from app.fhir.rest import Server

REQUEST_LIMIT = 8 * 1024  # of a client's request: it is an address before and after
STALE = (
    "This page was too old, it came from somewhere else, or your browser keeps no cookies.",
    "Nothing was done.",
)
BUSY = "The server has too much to do. Try again in a minute."

Page = Callable[[Asking, Form], Awaitable[Response]]
Endpoint = Callable[[Request], Awaitable[Response]]


class Row(NamedTuple):
    """One address: what it does, and what it is shown."""

    method: str
    name: str
    page: Page


ROWS = (
    Row("GET", "authorize", launching.authorize),
    Row("POST", "authorize", launching.answer),
    Row("GET", "sign-in", accounts.home),
    Row("POST", "sign-in", accounts.sign_in),
    Row("GET", "password", accounts.password),
    Row("POST", "password", accounts.change_password),
    Row("GET", "sign-out", accounts.leave),
    Row("POST", "sign-out", accounts.sign_out),
)


def router(base_url: str) -> APIRouter:
    """Return the routes of the pages of a server at this address."""
    found = places(base_url)
    place = Place(found.root_path, found.root.startswith("https:"))
    throttle = grants.Throttle()
    routes = APIRouter(include_in_schema=False)
    for row in ROWS:
        routes.add_api_route(
            f"{place.at}/{row.name}",
            _endpoint(place, throttle, row),
            methods=[row.method],
            response_model=None,
        )
    routes.add_api_route(f"{place.at}/style.css", _style, methods=["GET"], response_model=None)
    return routes


async def _style() -> Response:
    return style()


def _endpoint(place: Place, throttle: grants.Throttle, row: Row) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        state = request.app.state
        server: Server = state.server.newest()
        address = request.client.host if request.client else ""
        asking = Asking(state, server, place, Visitor(""), address, throttle)
        try:
            asking = replace(asking, who=await visitor(server, request, place))
            response = await _answered(asking, row, request)
        except smart.Refused as refused:
            response = _refusal(asking, refused)
        except (Unreadable, FhirError) as error:
            response = asking.message("That did not work", str(error), status=error.status)
        except (db.Unavailable, db.TooSlow):
            response = asking.message("Not now", BUSY, status=503)
            response.headers["Retry-After"] = "60"
        # A form of another site comes without a cookie: an answer with one would end the session
        if asking.who.fresh and row.method == "GET":
            remember(response, asking.who, place)
        return response

    return endpoint


async def _answered(asking: Asking, row: Row, request: Request) -> Response:
    """Return the page; for a form only if it is this browser's own."""
    if row.method == "GET":
        launch = row.name == "authorize"
        pairs = fields(request.scope["query_string"]) if launch else ()
        return await row.page(await _checked(asking, pairs), Form())
    sent = await form(request)
    if row.name == "authorize" and sent.one("step") not in launching.STEPS:
        # A client's own POST: browsers send no SameSite=Lax cookie with it, but with a GET
        return sent_on(asking.link("authorize", _bounded(sent.pairs)))
    pairs = fields(sent.one("request").encode())
    if not asking.who.sent(sent.one("csrf")):
        again = asking.link("authorize", _bounded(pairs)) if pairs else asking.link("sign-in")
        return asking.message("Try again", *STALE, status=403, again=again)
    return await row.page(await _checked(asking, pairs), sent)


async def _checked(asking: Asking, pairs: Pairs) -> Asking:
    """Return the asking with the request of a client, if there is one; raises smart.Refused."""
    if not pairs:
        return asking
    _bounded(pairs)
    return replace(asking, pairs=pairs, requested=await smart.requested(asking.state, pairs))


def _bounded(pairs: Pairs) -> str:
    """Return the request of a client as text; raises Unreadable for a long one."""
    text = urlencode(pairs)
    if len(text) > REQUEST_LIMIT:
        raise Unreadable("The request of the app is too long.", 414)
    return text


def _refusal(asking: Asking, refused: smart.Refused) -> Response:
    """Return the way back to the client; or a page, where the browser may be sent nowhere."""
    if refused.location:
        return sent_on(refused.location)
    texts = ("The app that sent you here asked for something that cannot be.", refused.description)
    return asking.message("This app cannot be opened", *texts, status=400)
