"""What clients publish at addresses of their own, fetched so that no address leads inside.

https://www.rfc-editor.org/rfc/rfc9700#name-server-side-request-forgery (and OWASP on SSRF)

Theory of operation. The name in an address is resolved once, every address that it stands for is
looked at, and the connection is made to one of those very addresses: the certificate is still that
of the name. Between the look and the connection nobody can give the name another meaning. There
are no redirects, no proxies, and little time and room.
"""

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

import httpx

from app import config

SECONDS = 3.0  # for all of it: the name, the connection, the answer
BYTES = 64 * 1024
URL_LENGTH = 2048
DEFAULT_SECONDS = 300  # for which an answer is good that does not say
LONGEST_SECONDS = 24 * 3600
MAX_AGE = re.compile(r"max-age\s*=\s*\"?(\d{1,9})")
PORTS = {"https": 443, "http": 80}

# Addresses that Python counts as global, but that lead inside: into IPv4 by way of IPv6, within a
# site, and to a cloud's own services
INSIDE = tuple(
    ipaddress.ip_network(text)
    for text in (
        *("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "fec0::/10"),
        "168.63.129.16/32",
    )
)

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class Unfetchable(Exception):
    """There is nothing at an address that may be used; the text says why in a sentence."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A text from an address, and for how many seconds its publisher calls it good."""

    text: str
    seconds: int


async def resolved(host: str, port: int) -> Sequence[str]:
    """Return the addresses that a name stands for now."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def checked(url: str, *, loopback: bool) -> SplitResult:
    """Return the parts of an address that clients may give us; raises Unfetchable for another."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Unfetchable("This is no address") from None
    if len(url) > URL_LENGTH or not url.isascii() or not url.isprintable() or " " in url:
        raise Unfetchable("This is no address")
    if not parts.hostname or parts.username is not None or parts.fragment or port == 0:
        raise Unfetchable("An address needs a host, and has no user and no fragment")
    plain = loopback and parts.scheme == "http" and config.loopback(parts.hostname)
    if parts.scheme != "https" and not plain:
        raise Unfetchable("The address has to begin with https://")
    return parts


def permitted(address: str, *, loopback: bool) -> bool:
    """Return whether a connection may go there: to the open network, or to this machine."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped:
        found = found.ipv4_mapped
    if found.is_loopback:
        return loopback
    if any(found in network for network in INSIDE if network.version == found.version):
        return False
    return found.is_global and not found.is_multicast and not found.is_reserved


async def fetch(
    url: str,
    *,
    loopback: bool,
    resolve: Resolve = resolved,
    trust: ssl.SSLContext | None = None,
) -> Fetched:
    """Return the JSON text at an address of a client.

    This machine is reached only where `loopback` says so. `trust` has the authorities that may
    vouch for the host, by default those of this machine. Raises Unfetchable.
    """
    parts = checked(url, loopback=loopback)
    try:
        async with asyncio.timeout(SECONDS):
            return await _fetched(parts, loopback, resolve, trust)
    except TimeoutError:
        raise Unfetchable(f"The address has not answered in {SECONDS:.0f} seconds") from None
    except (OSError, UnicodeError, httpx.HTTPError, httpx.InvalidURL):
        raise Unfetchable("The address does not answer") from None


async def _fetched(
    parts: SplitResult, loopback: bool, resolve: Resolve, trust: ssl.SSLContext | None
) -> Fetched:
    host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    addresses = await resolve(host, port)
    if not addresses or not all(permitted(one, loopback=loopback) for one in addresses):
        raise Unfetchable("The address leads to a place that is not on the open network")
    place = f"[{addresses[0]}]" if ":" in addresses[0] else addresses[0]
    path = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
    if trust is None:
        trust = await asyncio.to_thread(ssl.create_default_context)
    headers = {
        "Host": parts.netloc,
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }
    async with (
        httpx.AsyncClient(verify=trust, trust_env=False, timeout=SECONDS) as client,
        client.stream(
            "GET",
            f"{parts.scheme}://{place}:{port}{path}",
            headers=headers,
            extensions={"sni_hostname": host},
        ) as answer,
    ):
        return await _read(answer)


async def _read(answer: httpx.Response) -> Fetched:
    """Return the text of an answer as far as it is one that we take."""
    if answer.status_code != 200:
        raise Unfetchable(f"The address answers with status {answer.status_code}")
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise Unfetchable("The address does not answer with JSON")
    if answer.headers.get("content-encoding", "identity").lower() != "identity":
        raise Unfetchable("The address answers with a Content-Encoding that was not asked for")
    body = bytearray()
    async for part in answer.aiter_raw(BYTES):
        body += part
        if len(body) > BYTES:
            raise Unfetchable(f"The address answers with more than {BYTES} bytes")
    return Fetched(body.decode(), good_for(answer.headers.get("cache-control", "")))


def good_for(cache_control: str) -> int:
    """Return for how many seconds an answer with this Cache-Control may be kept."""
    said = cache_control.lower()
    if "no-store" in said or "no-cache" in said:
        return 0
    found = MAX_AGE.search(said)
    return min(int(found[1]), LONGEST_SECONDS) if found else DEFAULT_SECONDS
