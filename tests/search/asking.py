"""Asking a search in every form: by URL, by form, page by page."""

from collections.abc import Sequence
from urllib.parse import quote, urlencode

import httpx

from tests.support.replies import ids, link

Pairs = Sequence[tuple[str, str]]
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


async def found(client: httpx.AsyncClient, path: str, asked: Pairs) -> httpx.Response:
    """Return the searchset of a search by URL."""
    reply = await client.get(path, params=list(asked))
    assert reply.status_code == 200, reply.text
    return reply


async def posted(client: httpx.AsyncClient, path: str, asked: Pairs) -> httpx.Response:
    """Return the answer to the same search by POST (http.html#search)."""
    form = urlencode(list(asked), quote_via=quote)
    return await client.post(f"{path.rstrip('/')}/_search", content=form, headers=FORM)


async def pages(client: httpx.AsyncClient, path: str, asked: Pairs) -> list[str]:
    """Return the ids on all pages, following the next links to the end."""
    reply = await found(client, path, asked)
    seen = ids(reply)
    while (following := link(reply, "next")) is not None:
        assert len(seen) < 1000, "the next links never end"
        reply = await client.get(following)
        assert reply.status_code == 200, reply.text
        seen += ids(reply)
    return seen
