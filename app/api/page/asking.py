"""One request of a browser: who it is, what a client asked for, and the pages that answer it.

What a client asked for travels from form to form as its own text, percent-encoded; whoever answers
has had it checked anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from fastapi.responses import HTMLResponse, RedirectResponse

from app.api import grants, smart
from app.api.page.document import sent_on, shown
from app.api.page.sessions import Place, Visitor
from app.fhir import audit
from app.fhir.interaction import Pairs
from app.fhir.rest import Server

Errors = tuple[tuple[str, str], ...]  # the field ("" for none) and what is wrong with it


@dataclass(frozen=True, slots=True)
class Asking:
    """Who asks, where, and for what: `pairs` are the request of a client, none without one.

    `requested` is that request once it is checked. `address` is where the browser is, and
    `throttle` knows how often a sign-in failed from there.
    """

    state: Any
    server: Server
    place: Place
    who: Visitor
    address: str
    throttle: grants.Throttle
    pairs: Pairs = ()
    requested: smart.Requested | None = None

    @property
    def text(self) -> str:
        """The request of the client, percent-encoded."""
        return urlencode(self.pairs)

    def link(self, name: str, query: str = "") -> str:
        """Return the address of a page."""
        return f"{self.place.at}/{name}{'?' if query else ''}{query}"

    def page(
        self,
        template: str,
        title: str,
        *,
        values: Mapping[str, object],
        errors: Errors = (),
        status: int = 0,
    ) -> HTMLResponse:
        """Return a page for this browser, a 400 where it tells of errors.

        `values` are what its template shows beside what all of them do.
        """
        account, requested = self.who.account, self.requested
        said = {
            "title": title,
            "at": self.place.at,
            "account": account.name if account else "",
            "csrf": self.who.csrf,
            "request": self.text,
            "client": requested.client.name if requested else "",
            "errors": errors,
            **values,
        }
        onward = requested.redirect_uri if requested else ""
        return shown(template, said, status=status or (400 if errors else 200), onward=onward)

    def message(
        self, title: str, *texts: str, status: int = 200, again: str = "", label: str = "Try again"
    ) -> HTMLResponse:
        """Return a page of a few sentences, and perhaps a link."""
        link = {"again": again, "again_label": label}
        return self.page("message", title, status=status, values={"texts": texts, **link})

    def again(self) -> str:
        """Return the address where all begins: the launch, or the sign-in without one."""
        return self.link("authorize", self.text) if self.pairs else self.link("sign-in")

    def refused(self, error: str, description: str) -> RedirectResponse:
        """Return the way back to the client, with an error."""
        assert self.requested
        return sent_on(smart.refusal(self.requested, error, description))

    async def note(
        self, code: str, detail: Mapping[str, str] | None = None, outcome: int = audit.SUCCESS
    ) -> None:
        """Leave a row in the audit trail; who did it is the account that is signed in."""
        account = self.who.account
        if self.server.trail is not None:
            agent, now = account.id if account else "", self.server.now()
            event = audit.security_event(now, agent, code, outcome, patients=(), **(detail or {}))
            await self.server.trail.note(event)
