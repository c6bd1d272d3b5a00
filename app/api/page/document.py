"""Pages as they travel: forms in, HTML out, and the headers that keep others from using them.

https://www.w3.org/TR/CSP3/

Rule 1: every value in a page goes through the autoescaping of its template. Rule 2: no page is
cached, framed, or says in a Referer where it was; none runs a script. Rule 3: what people type is
in bodies, never in addresses.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import ClientDisconnect

from app.fhir.interaction import Pairs

FORM = "application/x-www-form-urlencoded"
FORM_LIMIT = 64 * 1024
FIELDS = 1000

HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
STYLE_SECONDS = 3600


class Unreadable(Exception):
    """A form cannot be read; the text says why, `status` how HTTP calls it."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of a form, each as often as it was sent."""

    pairs: Pairs = ()

    def one(self, name: str) -> str:
        """Return the first value of a field, "" if it was not sent."""
        return next((value for key, value in self.pairs if key == name), "")

    def all(self, name: str) -> tuple[str, ...]:
        """Return all values of a field."""
        return tuple(value for key, value in self.pairs if key == name)


async def form(request: Request) -> Form:
    """Return the fields of a body; raises Unreadable."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != FORM:
        raise Unreadable(f"A form is sent as {FORM}.", 415)
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > FORM_LIMIT:
                raise Unreadable("The form is too long.", 413)
    except ClientDisconnect:
        raise Unreadable("The browser went away.") from None
    return Form(fields(bytes(body)))


def fields(text: bytes) -> Pairs:
    """Return the fields of a form or of a query; raises Unreadable."""
    try:
        found = tuple(
            parse_qsl(text.decode(), keep_blank_values=True, errors="strict", max_num_fields=FIELDS)
        )
    except ValueError:
        raise Unreadable("The form is not UTF-8, or has too many fields.") from None
    if any("\0" in part for pair in found for part in pair):
        raise Unreadable("The form has a character that is in no text.")
    return found


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("app.api.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def style() -> Response:
    """Return the stylesheet of all pages."""
    text = _templates().get_template("style.css").render()
    headers = {
        "Cache-Control": f"public, max-age={STYLE_SECONDS}",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(text, media_type="text/css", headers=headers)


def shown(
    template: str, values: Mapping[str, Any], *, status: int = 200, onward: str = ""
) -> HTMLResponse:
    """Return a page; its forms may lead to `onward` (a redirect URI) and to this server alone."""
    defaults = {"errors": (), "account": "", "csrf": "", "request": ""}
    text = _templates().get_template(f"{template}.html").render({**defaults, **values})
    return HTMLResponse(text, status, {**HEADERS, "Content-Security-Policy": policy(onward)})


def sent_on(location: str) -> RedirectResponse:
    """Return a redirect that is a GET, whatever led to it (RFC 9700, 4.12: never a 307)."""
    return RedirectResponse(location, 303, HEADERS)


def policy(onward: str) -> str:
    """Return the Content-Security-Policy of a page.

    Browsers apply form-action to the redirects that follow a form, so the address of the client
    that may come at the end has to be in it.
    """
    actions = f"'self' {source(onward)}".strip()
    return (
        "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none';"
        f" form-action {actions}"
    )


def source(address: str) -> str:
    """Return what a Content-Security-Policy calls the origin of an absolute address.

    It knows no IPv6 address, and of a scheme without hosts the scheme alone.
    """
    if not address:
        return ""
    found = urlsplit(address)
    if found.scheme not in ("http", "https") or "[" in found.netloc:
        return f"{found.scheme}:"
    return f"{found.scheme}://{found.netloc.rpartition('@')[2]}"
