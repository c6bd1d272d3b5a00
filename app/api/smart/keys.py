"""The public keys of clients: which one an assertion names, from where it is registered.

https://hl7.org/fhir/smart-app-launch/STU2.2/client-confidential-asymmetric.html
#signature-verification

Of a key only its public members are read, whatever a client has published.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from app.api.grants import Client
from app.api.smart.fetching import Fetched, Unfetchable

Key = RSAKey | ECKey

SECOND = 1_000_000
AGAIN = 60 * SECOND  # before which a key that is not there does not make us ask again
FAILED = 10 * SECOND  # for which an address that does not answer is let alone
SHORTEST = 1  # seconds for which any key set is kept, so that nobody makes us ask without end
KEYS = 100  # in one set
RSA_BITS = 2048

# What signs an assertion: the type of its key, and the members that are its public half
ALGORITHMS: Mapping[str, tuple[type[Key], Mapping[str, str], tuple[str, ...]]] = {
    "RS384": (RSAKey, {"kty": "RSA"}, ("kty", "n", "e")),
    "ES384": (ECKey, {"kty": "EC", "crv": "P-384"}, ("kty", "crv", "x", "y")),
}


@dataclass(frozen=True, slots=True)
class Kept:
    """A key set that was fetched `at`, and is good `until`; "" where nothing was to be had."""

    text: str
    at: int
    until: int


class KeySets:
    """What clients have published, as long as it is good.

    `fetch` gets the text at an address. Times are microseconds since 1970.
    """

    def __init__(self, fetch: Callable[[str], Awaitable[Fetched]]) -> None:
        self.fetch = fetch
        self.kept: dict[str, Kept] = {}
        self.locks: dict[str, asyncio.Lock] = {}

    async def key(self, client: Client, kid: str, algorithm: str, now: int) -> Key | None:
        """Return the one key of a client with that id, for that algorithm; None if there is none.

        A set at an address is fetched anew where it has no such key, at most once a minute.
        """
        if not client.jwks_uri:
            return chosen(client.jwks, kid, algorithm)
        found = chosen(await self.text(client.jwks_uri, now), kid, algorithm)
        if found is None:
            text = await self.text(client.jwks_uri, now, anew=True)
            found = chosen(text, kid, algorithm)
        return found

    async def text(self, url: str, now: int, *, anew: bool = False) -> str:
        """Return the key set at an address, "" where there is none that may be used."""
        async with self.locks.setdefault(url, asyncio.Lock()):
            kept = self.kept.get(url)
            if kept and now < (kept.at + AGAIN if anew else kept.until):
                return kept.text
            try:
                fetched = await self.fetch(url)
                until = now + max(fetched.seconds, SHORTEST) * SECOND
                self.kept[url] = Kept(fetched.text, now, until)
            except Unfetchable:
                self.kept[url] = Kept("", now, now + FAILED)
            return self.kept[url].text


@lru_cache(256)
def chosen(text: str, kid: str, algorithm: str) -> Key | None:
    """Return the key of a set that fits; None if no key fits, or more than one does."""
    if algorithm not in ALGORITHMS or not kid:
        return None
    kind, fixed, members = ALGORITHMS[algorithm]
    wanted = {**fixed, "kid": kid}
    fitting = [
        one
        for one in keys_in(text)
        if all(one.get(name) == value for name, value in wanted.items())
        and one.get("use", "sig") == "sig"
        and one.get("alg", algorithm) == algorithm
    ]
    if len(fitting) != 1:
        return None
    public = {name: fitting[0].get(name) for name in members}
    if not all(isinstance(value, str) for value in public.values()):
        return None
    # of RSA the size is that of the modulus: six bits a character
    if len(str(public.get("n", ""))) * 6 < RSA_BITS and kind is RSAKey:
        return None
    try:
        return kind.import_key(public)  # type: ignore[arg-type]
    except (JoseError, ValueError, TypeError):
        return None


def keys_in(text: str) -> list[dict[str, Any]]:
    """Return the keys of a JSON Web Key Set, none where the text is no such set."""
    try:
        found = msgspec.json.decode(text or "{}")
    except (msgspec.DecodeError, RecursionError):
        return []
    keys = found.get("keys") if isinstance(found, dict) else None
    return [one for one in keys if isinstance(one, dict)][:KEYS] if isinstance(keys, list) else []
