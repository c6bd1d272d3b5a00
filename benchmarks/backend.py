"""A backend service that asks for tokens: its client, and the requests that it signs.

https://hl7.org/fhir/smart-app-launch/STU2.2/backend-services.html

No two requests are alike, because an assertion is good for one token.
"""

import asyncio
import json
import time
from urllib.parse import urlencode
from uuid import uuid4

from joserfc import jwt
from joserfc.jwk import ECKey

from app import db
from app.api.grants.rows import inserted
from tests.support.tokens import SINCE

NAME = "bench"
SCOPE = "system/*.cruds"
ASSERTED = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
KEY = ECKey.generate_key("P-384", {"kid": "bench"}, private=True)
SECONDS = 240  # for which an assertion is good


def register(url: str) -> None:
    """Put the client into a migrated database; no event loop may be running here."""
    keys = json.dumps({"keys": [KEY.as_dict(private=False)]})
    unused = dict.fromkeys(("jwks_uri", "redirect_uris", "launch_uri", "logo_uri"), "")
    row = {
        "id": NAME,
        "name": NAME,
        "kind": "asymmetric",
        "secret": b"",
        "jwks": keys,
        **unused,
        "grant_types": "client_credentials",
        "scope": SCOPE,
        "state": 1,
        "created": SINCE,
    }

    async def add() -> None:
        database = db.connect(url, 30, 1)
        await database.open()
        try:
            change = inserted(db.client, row)
            await database.write(lambda connection: connection.change([change], final=True))
        finally:
            await database.close()

    asyncio.run(add())


def requests(port: int, count: int) -> list[bytes]:
    """Return so many requests for a token to the server on a port, each good for one."""
    audience = f"http://127.0.0.1:{port}/oauth/token"
    header = {"alg": "ES384", "kid": KEY.kid, "typ": "JWT"}
    claims = {"iss": NAME, "sub": NAME, "aud": audience, "exp": int(time.time()) + SECONDS}
    return [
        _posted(jwt.encode(header, {**claims, "jti": uuid4().hex}, KEY, algorithms=["ES384"]))
        for _ in range(count)
    ]


def _posted(assertion: str) -> bytes:
    form = {"grant_type": "client_credentials", "scope": SCOPE, "client_assertion_type": ASSERTED}
    body = urlencode({**form, "client_assertion": assertion}).encode()
    head = (
        "POST /oauth/token HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\n"
    )
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
