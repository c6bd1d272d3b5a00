"""A browser without a screen: it reads pages, fills in forms, keeps cookies and runs no scripts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import httpx

HTML = {"Accept": "text/html"}


@dataclass
class Form:
    """One form: where it leads, what it would send, and its buttons as (name, value, text)."""

    action: str
    method: str
    fields: list[tuple[str, str]] = field(default_factory=list)
    inputs: list[Mapping[str, str]] = field(default_factory=list)
    buttons: list[list[str]] = field(default_factory=list)

    def values(self, name: str) -> list[str]:
        """Return what the form would send under a name."""
        return [value for key, value in self.fields if key == name]


class Reader(HTMLParser):
    """Reads what a page has that a test looks for."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.inside: list[str] = []
        self.text: dict[str, list[str]] = {}
        self.links: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        self.tags.append((tag, said))
        if tag not in ("input", "meta", "link", "br"):
            self.inside.append(tag)
            self.text.setdefault(tag, []).append("")
        if tag == "a":
            self.links.append(said["href"])
        if tag == "form":
            self.forms.append(Form(said["action"], said.get("method", "get")))
        elif tag == "button":
            self.forms[-1].buttons.append([said.get("name", ""), said.get("value", ""), ""])
        elif tag == "input":
            self.forms[-1].inputs.append(said)
            if said.get("type") != "checkbox" or "checked" in said:
                self.forms[-1].fields.append((said["name"], said.get("value", "")))

    def handle_endtag(self, tag: str) -> None:
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        for tag in set(self.inside):
            self.text[tag][-1] += data
        if "button" in self.inside:
            self.forms[-1].buttons[-1][2] += data


@dataclass
class Page:
    """A page that came back, or a redirect that leads away from the server."""

    reply: httpx.Response
    read: Reader

    @property
    def title(self) -> str:
        """The heading."""
        return squeezed(self.read.text["h1"][0])

    @property
    def words(self) -> str:
        """All that is written in it."""
        return squeezed(self.read.text["main"][0])

    @property
    def alert(self) -> str:
        """What is said to be wrong, "" if nothing is."""
        found = [said for tag, said in self.read.tags if said.get("role") == "alert"]
        return self.words.partition("again")[2] if found else ""

    @property
    def away(self) -> str:
        """Where the browser is sent, "" if it stays."""
        return str(self.reply.headers.get("location", ""))

    def form(self, button: str) -> Form:
        """Return the form with a button that begins with this text."""
        return next(f for f in self.read.forms if any(_is(b, button) for b in f.buttons))

    def labels(self) -> list[str]:
        """Return what stands beside the inputs."""
        return [squeezed(text) for text in self.read.text.get("label", [])]


class Browser:
    """Follows redirects as long as they stay on the server."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def open(self, url: str, params: Mapping[str, str] | None = None) -> Page:
        """Return the page at an address."""
        return await self._read(await self.http.get(url, params=params, headers=HTML))

    async def press(self, page: Page, button: str, **values: str | list[str]) -> Page:
        """Return what comes when a form is filled in and sent with one of its buttons."""
        form = page.form(button)
        name, value, _ = next(b for b in form.buttons if _is(b, button))
        sent = [(key, one) for key, one in form.fields if key not in values]
        for key, given in values.items():
            sent += [(key, one) for one in ([given] if isinstance(given, str) else given)]
        if name:
            sent.append((name, value))
        return await self.send(form.action, sent)

    async def send(self, url: str, pairs: list[tuple[str, str]]) -> Page:
        """Return what comes when a form is sent."""
        data: dict[str, list[str]] = {}
        for key, value in pairs:
            data.setdefault(key, []).append(value)
        return await self._read(await self.http.post(url, data=data, headers=HTML))

    async def _read(self, reply: httpx.Response) -> Page:
        while reply.is_redirect:
            target = urljoin(str(reply.url), reply.headers["location"])
            if urlsplit(target).netloc != reply.url.netloc.decode():
                return Page(reply, Reader())
            reply = await self.http.get(target, headers=HTML)
        read = Reader()
        read.feed(reply.text)
        return Page(reply, read)


def squeezed(text: str) -> str:
    return " ".join(text.split())


def _is(button: list[str], text: str) -> bool:
    return squeezed(button[2]).startswith(text)
