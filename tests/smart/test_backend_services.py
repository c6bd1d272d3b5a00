"""Clients that act for themselves, and how they show who they are."""

import base64
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

from app.api import grants
from app.api.smart import routes
from app.api.smart.fetching import Fetched, Unfetchable
from app.config import Settings
from tests.smart.office import EC, HOUR, MINUTE, ROOT, RSA, TOKEN_URL, Office, key_set, opened

JWKS_URI = "https://keys.example.org/jwks.json"
OTHER = ECKey.generate_key("P-384", {"kid": "ec"}, private=True)
SMALL = {"kty": "RSA", "kid": "small", "e": "AQAB", "n": "w" * 171}  # of 1026 bits
P256 = ECKey.generate_key("P-256", {"kid": "p256"}, private=True)


@pytest.fixture
async def office(settings: Settings) -> AsyncIterator[Office]:
    """An authorization server."""
    async with opened(settings) as office:
        yield office


def refused(reply: httpx.Response) -> tuple[int, str, str]:
    """Return the status, the error and the sentence of an answer."""
    said = reply.json()
    assert reply.headers["cache-control"] == "no-store"
    return reply.status_code, said["error"], said["error_description"]


@pytest.mark.parametrize("key", [EC, RSA], ids=["ES384", "RS384"])
async def test_a_client_gets_a_token_for_its_signature(office: Office, key: ECKey | RSAKey) -> None:
    client_id, _ = await office.register("asymmetric", backend=True)

    reply = await office.backend(office.assertion(client_id, key))

    answer = reply.json()
    assert reply.status_code == 200
    assert set(answer) == {"access_token", "token_type", "expires_in", "scope"}
    assert (answer["token_type"], answer["expires_in"]) == ("Bearer", 300)
    assert answer["scope"] == "system/*.rs"
    assert await office.is_good(answer["access_token"])
    office.later(5 * MINUTE)
    assert not await office.is_good(answer["access_token"])


async def test_a_client_gets_a_token_for_its_secret(office: Office) -> None:
    client_id, secret = await office.register("symmetric", backend=True)
    form = {"grant_type": "client_credentials", "scope": "system/Patient.rs"}

    reply = await office.send(form, auth=(client_id, secret))

    assert reply.status_code == 200
    assert reply.json()["scope"] == "system/Patient.rs"


WRONG_ID = "iss and sub of the assertion have to be the client_id"
WRONG_AUDIENCE = "aud of the assertion has to be the address of the token endpoint"
NO_EXP = "The assertion has no exp"
EXPIRED = "The assertion has expired"
FAR = "exp of the assertion is more than five minutes ahead"
EARLY = "The assertion is not good yet"
NO_JTI = "The assertion needs a jti, of 255 characters at most"
NO_KEY = "The client has no key with that kid for that algorithm, or more than one"
SIGNED = "The assertion has to be signed with RS384 or ES384"
NO_KID = "The assertion has to name its key: kid is missing, or too long"
NO_JWT = "The assertion is no signed JWT"
NOBODY = "The assertion is of no client that is registered"
FORGED = "The signature of the assertion is wrong"

Claims = Callable[[int], dict[str, Any]]
CLAIMS: dict[str, tuple[Claims, str]] = {
    "another issuer": (lambda now: {"iss": "https://elsewhere.example.org"}, WRONG_ID),
    "no issuer": (lambda now: {"iss": None}, WRONG_ID),
    "no subject": (lambda now: {"sub": None}, NOBODY),
    "odd subject": (lambda now: {"sub": {"a": 1}}, NOBODY),
    "unknown subject": (lambda now: {"sub": "nobody", "iss": "nobody"}, NOBODY),
    "no audience": (lambda now: {"aud": None}, WRONG_AUDIENCE),
    "the issuer as audience": (lambda now: {"aud": ROOT}, WRONG_AUDIENCE),
    "another audience": (lambda now: {"aud": "https://elsewhere.example.org"}, WRONG_AUDIENCE),
    "almost the audience": (lambda now: {"aud": f"{TOKEN_URL}/"}, WRONG_AUDIENCE),
    "no exp": (lambda now: {"exp": None}, NO_EXP),
    "odd exp": (lambda now: {"exp": "soon"}, NO_EXP),
    "true exp": (lambda now: {"exp": True}, NO_EXP),
    "expired": (lambda now: {"exp": now}, EXPIRED),
    "too far ahead": (lambda now: {"exp": now + 310}, FAR),
    "not yet": (lambda now: {"nbf": now + 60}, EARLY),
    "from the future": (lambda now: {"iat": now + 60}, EARLY),
    "no jti": (lambda now: {"jti": None}, NO_JTI),
    "empty jti": (lambda now: {"jti": ""}, NO_JTI),
    "odd jti": (lambda now: {"jti": 7}, NO_JTI),
    "long jti": (lambda now: {"jti": "j" * 300}, NO_JTI),
}


async def test_an_assertion_with_a_wrong_claim_is_refused(office: Office) -> None:
    client_id, _ = await office.register("asymmetric", backend=True)
    now = office.server.now() // 1_000_000

    replies = {
        name: await office.backend(office.assertion(client_id, **claims(now)))
        for name, (claims, _) in CLAIMS.items()
    }

    expected = {name: (400, "invalid_client", text) for name, (_, text) in CLAIMS.items()}
    assert {name: refused(reply) for name, reply in replies.items()} == expected


async def test_an_assertion_may_name_several_audiences(office: Office) -> None:
    client_id, _ = await office.register("asymmetric", backend=True)

    reply = await office.backend(office.assertion(client_id, aud=[ROOT, TOKEN_URL]))

    assert reply.status_code == 200


def unsigned(assertion: str, **header: Any) -> str:
    """Return an assertion whose header says something else, with the signature that it had."""
    said = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()
    return ".".join([said, *assertion.split(".")[1:]])


async def test_an_assertion_that_is_signed_wrongly_is_refused(office: Office) -> None:
    client_id, _ = await office.register("asymmetric", backend=True, jwks=key_set(EC, RSA, P256))
    good = office.assertion(client_id)
    bare = good.rpartition(".")[0]
    secret = OctKey.import_key(key_set(EC), {"kid": "ec"})
    cases: dict[str, tuple[str, str]] = {
        "another key": (office.assertion(client_id, OTHER), FORGED),
        "no signature": (f"{bare}.", FORGED),
        "alg none": (unsigned(f"{bare}.", alg="none", kid="ec"), SIGNED),
        "alg None": (unsigned(f"{bare}.", alg="None", kid="ec"), SIGNED),
        "alg HS384": (_hmac(office, client_id, secret), SIGNED),
        "alg ES256": (unsigned(good, alg="ES256", kid="p256"), SIGNED),
        "no alg": (unsigned(good, kid="ec"), NO_JWT),
        "the other alg": (unsigned(good, alg="RS384", kid="ec"), NO_KEY),
        "a key for another curve": (unsigned(good, alg="ES384", kid="p256"), NO_KEY),
        "unknown kid": (office.assertion(client_id, header={"kid": "new"}), NO_KEY),
        "no kid": (office.assertion(client_id, header={"kid": None}), NO_KID),
        "long kid": (office.assertion(client_id, header={"kid": "k" * 300}), NO_KID),
        "empty kid": (office.assertion(client_id, header={"kid": ""}), NO_KID),
        "another jku": (
            office.assertion(client_id, header={"jku": "https://evil.example.org"}),
            "The jku is not the address that is registered",
        ),
        "odd typ": (
            office.assertion(client_id, header={"typ": "at+jwt"}),
            "The typ of the assertion has to be JWT",
        ),
        "crit": (unsigned(good, alg="ES384", kid="ec", crit=["x"], x=1), NO_JWT),
        "garbage": ("a.b.c", NO_JWT),
        "words": ("hello", NO_JWT),
        "five parts": ("a.b.c.d.e", NO_JWT),
        "no object": (unsigned("x.W10.x", alg="ES384", kid="ec"), NO_JWT),
        "not ASCII": ("é.è.ê", NO_JWT),
    }

    replies = {name: await office.backend(text) for name, (text, _) in cases.items()}

    expected = {name: (400, "invalid_client", text) for name, (_, text) in cases.items()}
    assert {name: refused(reply) for name, reply in replies.items()} == expected
    assert (await office.backend(good)).status_code == 200


def _hmac(office: Office, client_id: str, secret: OctKey) -> str:
    """Return an assertion that is signed with what everybody knows: the public key as a secret."""
    now = office.server.now() // 1_000_000
    claims = {"iss": client_id, "sub": client_id, "aud": TOKEN_URL, "exp": now + 60, "jti": "x"}
    return jwt.encode({"alg": "HS384", "kid": "ec"}, claims, secret, algorithms=["HS384"])


async def test_an_assertion_is_good_once(office: Office) -> None:
    client_id, _ = await office.register("asymmetric", backend=True)
    other, _ = await office.register("asymmetric", backend=True)
    assertion = office.assertion(client_id, jti="one")

    first = await office.backend(assertion)
    again = await office.backend(assertion)
    anew = await office.backend(office.assertion(client_id, RSA, jti="one"))
    of_another = await office.backend(office.assertion(other, jti="one"))

    assert [reply.status_code for reply in (first, again, anew, of_another)] == [200, 400, 400, 200]
    assert refused(again)[1:] == ("invalid_client", "The assertion was used before")


async def test_a_wrong_assertion_type_is_refused(office: Office) -> None:
    client_id, _ = await office.register("asymmetric", backend=True)

    reply = await office.backend(office.assertion(client_id), client_assertion_type="saml")

    assert refused(reply)[1] == "invalid_client"


SCOPES = {
    "": "no scope",
    "patient/*.rs": "about nobody",
    "user/*.rs": "as nobody",
    "openid fhirUser offline_access": "of nobody",
    "system/Dragon.r": "unknown",
    "system/*.sr": "out of order",
}


async def test_a_client_gets_nothing_for_scopes_that_are_not_its_own(office: Office) -> None:
    client_id, _ = await office.register("asymmetric", backend=True)

    replies = {
        scope: await office.backend(office.assertion(client_id), scope=scope) for scope in SCOPES
    }

    assert {refused(reply)[:2] for reply in replies.values()} == {(400, "invalid_scope")}


async def test_a_client_gets_what_it_is_registered_for_alone(office: Office) -> None:
    client_id, _ = await office.register(
        "asymmetric", backend=True, scope="system/Patient.rs system/Observation.r launch"
    )
    asked = "system/*.cruds patient/Patient.r launch openid"

    answer = (await office.backend(office.assertion(client_id), scope=asked)).json()

    assert set(answer["scope"].split()) == {"system/Patient.rs", "system/Observation.r", "launch"}
    assert set(answer["refused_scope"].split()) == {"patient/Patient.r", "openid"}


async def test_a_client_gets_tokens_in_the_ways_it_is_registered_for(office: Office) -> None:
    person, _ = await office.register("asymmetric")
    public, _ = await office.register()

    reply = await office.backend(office.assertion(person), scope="patient/*.rs")
    bare = await office.send({"grant_type": "client_credentials", "client_id": public})

    assert refused(reply)[:2] == (400, "unauthorized_client")
    assert refused(bare)[:2] == (400, "invalid_client")


async def test_a_revoked_client_gets_no_more_tokens(office: Office) -> None:
    client_id, _ = await office.register("asymmetric", backend=True)
    await grants.revoke_client(office.database, client_id)

    reply = await office.backend(office.assertion(client_id))

    assert refused(reply) == (400, "invalid_client", NOBODY)


class Publisher:
    """What a client has published at its address; counts how often somebody looks."""

    def __init__(self, text: str, seconds: int = 3600) -> None:
        self.text, self.seconds = text, seconds
        self.asked: list[str] = []

    async def fetch(self, url: str, **_: Any) -> Fetched:
        """Return what is there, as `fetching.fetch` does."""
        self.asked.append(url)
        if not self.text:
            raise Unfetchable("The address does not answer")
        return Fetched(self.text, self.seconds)


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Publisher:
    """A client's web server, which is not asked by way of the network."""
    found = Publisher(key_set(EC))
    monkeypatch.setattr(routes, "fetch", found.fetch)
    return found


async def test_keys_at_an_address_are_fetched_once(
    publisher: Publisher, settings: Settings
) -> None:
    async with opened(settings) as office:
        client_id, _ = await office.register("asymmetric", backend=True, jwks_uri=JWKS_URI)
        jku = {"jku": JWKS_URI}

        replies = [
            await office.backend(office.assertion(client_id)),
            await office.backend(office.assertion(client_id, header=jku)),
        ]

        assert [reply.status_code for reply in replies] == [200, 200]
        assert publisher.asked == [JWKS_URI]


async def test_keys_are_fetched_anew_when_they_are_too_old(
    publisher: Publisher, settings: Settings
) -> None:
    async with opened(settings) as office:
        client_id, _ = await office.register("asymmetric", backend=True, jwks_uri=JWKS_URI)
        await office.backend(office.assertion(client_id))
        publisher.text = key_set(RSA)
        office.later(HOUR)

        reply = await office.backend(office.assertion(client_id))

        assert refused(reply)[2] == NO_KEY
        assert len(publisher.asked) == 2


async def test_an_unknown_key_is_looked_for_at_most_once_a_minute(
    publisher: Publisher, settings: Settings
) -> None:
    async with opened(settings) as office:
        client_id, _ = await office.register("asymmetric", backend=True, jwks_uri=JWKS_URI)
        await office.backend(office.assertion(client_id))
        publisher.text = key_set(EC, RSA)

        early = await office.backend(office.assertion(client_id, RSA))
        office.later(MINUTE)
        late = await office.backend(office.assertion(client_id, RSA))
        unknown = [
            await office.backend(office.assertion(client_id, header={"kid": f"k{n}"}))
            for n in range(3)
        ]

        assert (early.status_code, late.status_code) == (400, 200)
        assert {reply.status_code for reply in unknown} == {400}
        assert len(publisher.asked) == 2


async def test_an_address_that_does_not_answer_is_let_alone_for_a_while(
    publisher: Publisher, settings: Settings
) -> None:
    publisher.text = ""
    async with opened(settings) as office:
        client_id, _ = await office.register("asymmetric", backend=True, jwks_uri=JWKS_URI)

        replies = [await office.backend(office.assertion(client_id)) for _ in range(3)]

        assert {refused(reply)[2] for reply in replies} == {NO_KEY}
        assert len(publisher.asked) == 1


NO_SETS = ("[]", "{}", '{"keys": 7}', '{"keys": [7, {}]}', "<html>", '{"keys": [{"kid": "ec"}]}')


async def test_what_is_no_key_set_has_no_key(publisher: Publisher, settings: Settings) -> None:
    async with opened(settings) as office:
        client_id, _ = await office.register("asymmetric", backend=True, jwks_uri=JWKS_URI)
        replies = []
        for publisher.text in NO_SETS:
            office.later(HOUR)
            replies.append(await office.backend(office.assertion(client_id)))

        assert {refused(reply) for reply in replies} == {(400, "invalid_client", NO_KEY)}
        assert len(publisher.asked) == len(NO_SETS)


async def test_a_short_key_is_no_key(publisher: Publisher, settings: Settings) -> None:
    publisher.text = json.dumps({"keys": [SMALL]})
    async with opened(settings) as office:
        client_id, _ = await office.register("asymmetric", backend=True, jwks_uri=JWKS_URI)
        assertion = unsigned(office.assertion(client_id), alg="RS384", kid="small")

        reply = await office.backend(assertion)

        assert refused(reply)[2] == NO_KEY


async def test_a_private_key_that_is_published_serves_as_a_public_one(
    publisher: Publisher, settings: Settings
) -> None:
    twice = [EC.as_dict(private=True)] * 2
    async with opened(settings) as office:
        client_id, _ = await office.register("asymmetric", backend=True, jwks_uri=JWKS_URI)
        publisher.text = json.dumps({"keys": twice[:1]})
        one = await office.backend(office.assertion(client_id))
        office.later(HOUR)
        publisher.text = json.dumps({"keys": twice})
        two = await office.backend(office.assertion(client_id))

        assert one.status_code == 200
        assert refused(two)[2] == NO_KEY  # which of them is nobody's to guess
