"""What the authorization server keeps: accounts, clients, tokens and keys, on both engines."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import sqlalchemy as sa
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

from app import db
from app.api import grants
from app.api.grants import accounts, keys, tokens
from app.api.grants.clients import redirect_problem
from app.fhir.access import Kind

NOW = 1_800_000_000_000_000
SECOND = 1_000_000
PASSWORD = "correct horse battery"
OTHER = "staple of another kind"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[db.Database]:
    """The open database of this test."""
    opened = db.connect(database_url, 30, 8)
    await opened.open()
    yield opened
    await opened.close()


async def anne(database: db.Database, **given: object) -> grants.Account:
    """Add an account of the staff."""
    values: dict[str, object] = {
        "id": "account-1",
        "name": "anne",
        "kind": "workforce",
        "password": PASSWORD,
        "once": False,
        "now": NOW,
        **given,
    }
    return await grants.add_account(database, **values)  # type: ignore[arg-type]


async def app(database: db.Database, **given: object) -> tuple[grants.Client, str]:
    """Add a confidential client of Backend Services."""
    values: dict[str, object] = {
        "id": "client-1",
        "name": "Night jobs",
        "kind": "symmetric",
        "grant_types": ["client_credentials"],
        "scope": "system/*.rs",
        "now": NOW,
        **given,
    }
    return await grants.add_client(database, **values)  # type: ignore[arg-type]


async def secret_of(
    database: db.Database,
    kind: grants.TokenKind = "code",
    family: str = "family-1",
    *,
    account: str = "",
    client: str = "",
    seconds: float = 60,
) -> str:
    """Issue something and return its secret."""
    secret = grants.new_secret()
    await grants.issue(
        database,
        kind=kind,
        secret=secret,
        family=family,
        account=account,
        client=client,
        context={"patient": "1"},
        now=NOW,
        seconds=seconds,
    )
    return secret


async def is_good(database: db.Database, secret: str, now: int = NOW) -> bool:
    """Return whether an access token, a refresh token or a session is worth something."""
    token = await grants.find(database, secret, ["access", "refresh", "session"])
    assert token is not None
    return token.good(now)


# --- tokens -------------------------------------------------------------------------------------


async def test_a_secret_is_nowhere_in_the_database(database: db.Database) -> None:
    secret = await secret_of(database)

    table = db.statement(sa.select(db.token), database.dialect)
    rows = await database.read(lambda connection: connection.rows(table, {}))

    assert secret not in repr(rows)
    assert grants.hashed(secret) in [bytes(row[0]) for row in rows]


async def test_a_token_is_found_with_all_that_was_said_of_it(database: db.Database) -> None:
    secret = await secret_of(database, "access", account="account-1", client="client-1")

    found = await grants.find(database, secret, ["access"])

    assert found == grants.Token(
        "access",
        "family-1",
        "client-1",
        "account-1",
        "",
        {"patient": "1"},
        NOW,
        NOW + 60 * SECOND,
        1,
    )


async def test_a_code_is_no_access_token(database: db.Database) -> None:
    secret = await secret_of(database, "code")

    assert await grants.find(database, secret, ["access"]) is None
    assert await grants.use(database, secret, "refresh", NOW) is None
    assert await grants.use(database, secret, "code", NOW) is not None


async def test_of_many_who_use_a_code_at_once_one_gets_it(database: db.Database) -> None:
    secret = await secret_of(database)

    found = await asyncio.gather(*(grants.use(database, secret, "code", NOW) for _ in range(20)))

    assert len([one for one in found if one is not None]) == 1


async def test_what_is_over_cannot_be_used(database: db.Database) -> None:
    secret = await secret_of(database, seconds=60)

    assert await grants.use(database, secret, "code", NOW + 60 * SECOND) is None
    assert await grants.use(database, secret, "code", NOW + 59 * SECOND) is not None


async def test_of_many_exchanges_at_once_one_succeeds_and_the_others_revoke_it(
    database: db.Database,
) -> None:
    secret = await secret_of(database)
    fresh = [grants.new_secret() for _ in range(10)]

    done = await asyncio.gather(
        *(
            grants.exchange(database, secret, "code", [(one, access("family-1"))], NOW)
            for one in fresh
        )
    )

    assert sum(done) == 1
    given = fresh[done.index(True)]
    assert not await is_good(database, given)


def access(family: str) -> grants.Token:
    """Return an access token as one exchanges a code for it."""
    return grants.Token("access", family, issued=NOW, expires=NOW + 300 * SECOND)


async def test_an_exchanged_secret_gives_what_was_asked_in_its_place(database: db.Database) -> None:
    secret, fresh = await secret_of(database, "refresh"), grants.new_secret()

    assert await grants.exchange(database, secret, "refresh", [(fresh, access("family-1"))], NOW)

    assert await is_good(database, fresh)
    assert not await is_good(database, secret)


async def test_an_unknown_secret_exchanges_for_nothing(database: db.Database) -> None:
    kept, fresh = await secret_of(database, "access", ""), grants.new_secret()

    assert not await grants.exchange(database, "guess", "code", [(fresh, access("x"))], NOW)

    assert await grants.find(database, fresh, ["access"]) is None
    assert await is_good(database, kept)


async def test_a_family_falls_together(database: db.Database) -> None:
    mine = [
        await secret_of(database, "access", "mine"),
        await secret_of(database, "refresh", "mine"),
    ]
    theirs = await secret_of(database, "access", "theirs")

    assert await grants.revoke_family(database, "mine") == 2

    assert [await is_good(database, one) for one in (*mine, theirs)] == [False, False, True]


async def test_one_token_can_be_revoked_once(database: db.Database) -> None:
    secret = await secret_of(database, "access")

    assert await grants.revoke(database, secret)
    assert not await grants.revoke(database, secret)
    assert not await is_good(database, secret)


async def test_a_session_is_alive_until_it_ends_or_is_prolonged(database: db.Database) -> None:
    secret = await secret_of(database, "session", "seat", seconds=60)
    later = NOW + 90 * SECOND

    assert await grants.is_alive(database, "seat", NOW)
    assert not await grants.is_alive(database, "seat", later)
    assert await grants.prolong(database, secret, "session", NOW + 120 * SECOND)
    assert await grants.is_alive(database, "seat", later)
    await grants.revoke_family(database, "seat")
    assert not await grants.is_alive(database, "seat", NOW)
    assert not await grants.prolong(database, secret, "session", NOW + 180 * SECOND)


async def test_an_assertion_is_taken_once_from_each_client(database: db.Database) -> None:
    until = NOW + 300 * SECOND

    first = await asyncio.gather(
        *(grants.remember_assertion(database, "one", "jti", until) for _ in range(8))
    )

    assert sorted(first) == [False] * 7 + [True]
    assert await grants.remember_assertion(database, "two", "jti", until)


async def test_what_is_long_over_is_dropped(database: db.Database) -> None:
    old = await secret_of(database, "access", seconds=1)
    late = await secret_of(database, "access", seconds=3600)

    await grants.expire(database, NOW + SECOND + tokens.KEPT + 1)

    assert await grants.find(database, old, ["access"]) is None
    assert await grants.find(database, late, ["access"]) is not None


def test_a_secret_needs_no_quotes_anywhere() -> None:
    for _ in range(200):
        secret = grants.new_secret()
        assert len(secret) == 43
        assert secret.isascii()
        assert not secret.startswith("-")


# --- accounts -----------------------------------------------------------------------------------


async def test_a_name_and_its_password_sign_in(database: db.Database) -> None:
    added = await anne(database, roles=["nurse", "lead"], fhir_user="Practitioner/7")

    assert await grants.sign_in(database, " Anne", PASSWORD, NOW) == added
    assert await grants.find_account(database, "ANNE") == added
    assert await grants.find_account(database, "account-1") == added
    assert await grants.list_accounts(database) == [added]


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("anne", OTHER),
        ("bob", PASSWORD),
        ("anne", ""),
        ("", ""),
        ("anne", "x" * 2000),
        ("\ud800", "\ud800"),
        ("an\0ne", PASSWORD),
    ],
)
async def test_a_wrong_name_or_password_does_not(
    database: db.Database, name: str, password: str
) -> None:
    await anne(database)

    assert await grants.sign_in(database, name, password, NOW) is None


async def test_a_password_is_the_same_from_every_keyboard(database: db.Database) -> None:
    await anne(database, password="caf\u00e9 au lait bitte")

    assert await grants.sign_in(database, "anne", "cafe\u0301 au lait bitte", NOW)


async def test_wrong_passwords_lock_an_account_for_a_while(database: db.Database) -> None:
    await anne(database)

    for _ in range(accounts.FAILURES):
        assert await grants.sign_in(database, "anne", OTHER, NOW) is None

    locked = await grants.find_account(database, "anne")
    assert locked is not None
    assert locked.locked == NOW + accounts.LOCKED
    assert await grants.sign_in(database, "anne", PASSWORD, NOW + accounts.LOCKED - 1) is None
    freed = await grants.sign_in(database, "anne", PASSWORD, NOW + accounts.LOCKED)
    assert freed is not None
    assert (freed.failures, freed.locked) == (0, 0)


async def test_a_lock_that_has_ended_gives_as_many_attempts_again(database: db.Database) -> None:
    await anne(database)
    for _ in range(accounts.FAILURES):
        await grants.sign_in(database, "anne", OTHER, NOW)
    later = NOW + accounts.LOCKED

    await grants.sign_in(database, "anne", OTHER, later)

    assert await grants.sign_in(database, "anne", PASSWORD, later) is not None


async def test_a_right_password_forgives_the_wrong_ones_before(database: db.Database) -> None:
    await anne(database)

    for password in (OTHER, OTHER, OTHER, OTHER, PASSWORD, OTHER, OTHER, OTHER, OTHER):
        await grants.sign_in(database, "anne", password, NOW)

    assert await grants.sign_in(database, "anne", PASSWORD, NOW) is not None


async def test_guesses_at_the_same_time_are_all_counted(database: db.Database) -> None:
    await anne(database)

    guesses = [OTHER] * accounts.FAILURES
    await asyncio.gather(*(grants.sign_in(database, "anne", guess, NOW) for guess in guesses))

    assert await grants.sign_in(database, "anne", PASSWORD, NOW) is None


async def test_a_disabled_account_cannot_sign_in_and_has_no_tokens(database: db.Database) -> None:
    await anne(database)
    token = await secret_of(database, "access", account="account-1")

    assert await grants.disable_account(database, "account-1")

    assert await grants.sign_in(database, "anne", PASSWORD, NOW) is None
    assert not await is_good(database, token)
    assert not await grants.disable_account(database, "account-1")


async def test_another_password_ends_what_the_old_one_began(database: db.Database) -> None:
    await anne(database, once=True)
    session = await secret_of(database, "session", account="account-1")
    other = await secret_of(database, "session", account="account-2")

    await grants.set_password(database, "account-1", OTHER)

    assert [await is_good(database, one) for one in (session, other)] == [False, True]
    assert await grants.sign_in(database, "anne", PASSWORD, NOW) is None
    found = await grants.sign_in(database, "anne", OTHER, NOW)
    assert found is not None
    assert not found.once


@pytest.mark.parametrize(
    ("password", "says"),
    [
        ("eleven chrs", "at least 12"),
        ("x" * 1025, "at most 1024"),
        ("my name is Anne!", "the name"),
        ("aaaaaaaaaaaaaaaa", "again and again"),
        (PASSWORD, "the old one"),
    ],
)
async def test_a_password_that_is_none_is_refused(
    database: db.Database, password: str, says: str
) -> None:
    await anne(database)

    with pytest.raises(grants.Weak, match=says):
        await grants.set_password(database, "account-1", password)


async def test_a_name_is_there_once(database: db.Database) -> None:
    await anne(database)

    with pytest.raises(grants.Taken):
        await anne(database, id="account-2", name="ANNE")


async def test_of_two_who_take_a_name_at_once_one_gets_it(database: db.Database) -> None:
    added = await asyncio.gather(
        *(anne(database, id=f"account-{n}") for n in range(4)), return_exceptions=True
    )

    assert len([one for one in added if isinstance(one, grants.Account)]) == 1
    assert len([one for one in added if isinstance(one, grants.Taken)]) == 3


@pytest.mark.parametrize(
    ("kind", "who", "fits"),
    [
        ("workforce", "Practitioner/1", True),
        ("workforce", "", True),
        ("workforce", "Patient/1", False),
        ("administrator", "", True),
        ("privacy-officer", "Practitioner/1", True),
        ("patient", "Patient/1", True),
        ("patient", "", False),
        ("patient", "RelatedPerson/1", False),
        ("representative", "RelatedPerson/1", True),
        ("representative", "Patient/1", False),
        ("system", "", False),
    ],
)
async def test_an_account_is_that_of_whom_its_kind_is_for(
    database: db.Database, kind: Kind, who: str, fits: bool
) -> None:
    try:
        await anne(database, kind=kind, fhir_user=who)
    except grants.Refused:
        assert not fits
    else:
        assert fits


@pytest.mark.parametrize("name", ["", "two words", "a\nb", "x" * 101, "\u202eanna"])
async def test_a_name_that_is_none_is_refused(database: db.Database, name: str) -> None:
    with pytest.raises(grants.Refused):
        await anne(database, name=name)


def test_an_address_that_tries_many_names_has_to_wait() -> None:
    throttle = grants.Throttle()
    for _ in range(accounts.ADDRESS_FAILURES):
        assert throttle.wait("10.0.0.1", NOW) == 0
        throttle.failed("10.0.0.1", NOW)

    assert throttle.wait("10.0.0.1", NOW) == 900
    assert throttle.wait("10.0.0.2", NOW) == 0
    assert throttle.wait("10.0.0.1", NOW + accounts.LOCKED) == 0


def test_a_throttle_does_not_grow_without_end() -> None:
    throttle = grants.Throttle()
    for n in range(accounts.ADDRESSES + 10):
        throttle.failed(str(n), NOW)

    assert len(throttle.known) == accounts.ADDRESSES


@pytest.mark.parametrize(
    "given",
    [
        {"fhir_user": "Practitioner/"},
        {"fhir_user": "Practitioner/1/2"},
        {"fhir_user": "Practitioner/a b"},
        {"organization": "Patient/1"},
        {"organization": "1"},
        {"roles": ["two words"]},
        {"roles": [""]},
    ],
)
async def test_what_is_no_reference_or_role_is_refused(
    database: db.Database, given: dict[str, object]
) -> None:
    with pytest.raises(grants.Refused):
        await anne(database, **given)


# --- clients ------------------------------------------------------------------------------------


async def test_the_secret_of_a_client_is_checked(database: db.Database) -> None:
    client, secret = await app(database)

    assert await grants.check_client_secret(database, client.id, secret)
    assert not await grants.check_client_secret(database, client.id, secret + "x")
    assert not await grants.check_client_secret(database, client.id, "")
    assert not await grants.check_client_secret(database, "nobody", secret)


async def test_a_client_without_a_secret_has_no_right_one(database: db.Database) -> None:
    client, secret = await app(
        database,
        kind="public",
        grant_types=["authorization_code"],
        redirect_uris=["https://app.example.org/back"],
    )

    assert secret == ""
    assert not await grants.check_client_secret(database, client.id, "")


async def test_a_revoked_client_has_no_secret_and_no_tokens(database: db.Database) -> None:
    client, secret = await app(database)
    token = await secret_of(database, "access", client=client.id)

    assert await grants.revoke_client(database, client.id)

    assert not await grants.check_client_secret(database, client.id, secret)
    assert not await is_good(database, token)
    found = await grants.find_client(database, "Night jobs")
    assert found is not None
    assert found.state == 0


async def test_clients_are_found_as_they_were_added(database: db.Database) -> None:
    client, _ = await app(
        database,
        grant_types=["authorization_code", "refresh_token"],
        redirect_uris=["https://a.example.org/1", "http://127.0.0.1:9000/2"],
        launch_uri="https://a.example.org/launch",
    )

    assert await grants.find_client(database, client.id) == client
    assert client in await grants.list_clients(database)
    with pytest.raises(grants.Taken):
        await app(database, id="client-2")


@pytest.mark.parametrize(
    ("uri", "fits"),
    [
        ("https://app.example.org/back", True),
        ("https://app.example.org/back?to=1", True),
        ("http://127.0.0.1:1234/back", True),
        ("http://[::1]:1234/back", True),
        ("http://localhost/back", True),
        ("org.example.app:/back", True),
        ("http://app.example.org/back", False),
        ("https://app.example.org/back#here", False),
        ("https://app.example.org/#", False),
        ("https://*.example.org/back", False),
        ("https://user@app.example.org/", False),
        ("https://app.example.org\\@evil.example/", False),
        ("https:///back", False),
        ("/back", False),
        ("//app.example.org/back", False),
        ("app:/back", False),
        ("javascript:alert(1)", False),
        ("data:text/html,x", False),
        ("https://a.example.org/a b", False),
        ("https://a.example.org/\u00e9", False),
        ("http://127.0.0.1.example.org/", False),
        ("https://[::1/", False),
        ("", False),
    ],
)
def test_a_redirect_uri_cannot_lead_astray(uri: str, fits: bool) -> None:
    assert (redirect_problem(uri) == "") is fits


def jwks(*given: RSAKey | ECKey | OctKey, private: bool = False) -> str:
    """Return a key set as JSON."""
    return json.dumps({"keys": [key.as_dict(private=private) for key in given]})


RSA = RSAKey.generate_key(2048, {"kid": "r"})
EC = ECKey.generate_key("P-384", {"kid": "e"})
EC_UNNAMED = ECKey.generate_key("P-384")


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        (jwks(RSA, EC), True),
        (jwks(EC), True),
        (jwks(EC, private=True), False),
        (jwks(EC, EC), False),
        ('{"keys": [{"kty": "RSA", "kid": "s", "e": "AQAB", "n": "%s"}]}' % ("x" * 171), False),
        (jwks(EC_UNNAMED), False),
        (jwks(OctKey.import_key(b"0" * 32, {"kid": "o"}), private=True), False),
        ("{}", False),
        ('{"keys": []}', False),
        ('{"keys": {}}', False),
        ('{"keys": [{"kty": "RSA"}]}', False),
        ('{"keys": [1]}', False),
        ("[]", False),
        ("null", False),
        ("no JSON", False),
    ],
    ids=itertools.count(),
)
async def test_a_client_proves_itself_by_public_keys_only(
    database: db.Database, text: str, fits: bool
) -> None:
    try:
        await app(database, kind="asymmetric", jwks=text)
    except grants.Refused:
        assert not fits
    else:
        assert fits


@pytest.mark.parametrize(
    "given",
    [
        {"name": ""},
        {"name": " edge"},
        {"name": "new\nline"},
        {"kind": "secret"},
        {"grant_types": []},
        {"grant_types": ["password"]},
        {"grant_types": ["authorization_code"]},
        {"grant_types": ["client_credentials", "refresh_token"]},
        {"redirect_uris": ["https://app.example.org/"]},
        {"kind": "public"},
        {"kind": "asymmetric"},
        {"kind": "asymmetric", "jwks": jwks(EC), "jwks_uri": "https://app.example.org/jwks"},
        {"jwks": jwks(EC)},
        {"kind": "asymmetric", "jwks_uri": "http://app.example.org/jwks"},
        {"kind": "asymmetric", "jwks_uri": "http://127.0.0.1/jwks"},
        {"logo_uri": "javascript:alert(1)"},
        {"launch_uri": "http://app.example.org/launch"},
    ],
    ids=itertools.count(),
)
async def test_a_client_that_is_none_is_refused(
    database: db.Database, given: dict[str, object]
) -> None:
    with pytest.raises(grants.Refused):
        await app(database, **given)


async def test_the_keys_of_a_client_may_be_on_loopback_where_we_are(database: db.Database) -> None:
    uri = "http://127.0.0.1:9000/jwks"

    client, _ = await app(database, kind="asymmetric", jwks_uri=uri, loopback=True)

    assert client.jwks_uri == uri


# --- keys ---------------------------------------------------------------------------------------


async def test_two_workers_that_start_at_once_make_one_key(database: db.Database) -> None:
    found = await asyncio.gather(*(grants.signing_keys(database, NOW) for _ in range(4)))

    assert len({key.kid for shown in found for key in shown}) == 1


async def test_a_key_signs_what_its_public_part_proves(database: db.Database) -> None:
    (key,) = await grants.signing_keys(database, NOW)
    private = RSAKey.import_key(dict(key.jwk))
    public = RSAKey.import_key(private.as_dict(private=False))

    signed = jwt.encode({"alg": "RS256", "kid": key.kid}, {"sub": "1"}, private)

    assert jwt.decode(signed, public).claims == {"sub": "1"}
    assert public.kid == key.kid == private.thumbprint()


async def test_a_retired_key_is_shown_for_a_day(database: db.Database) -> None:
    (first,) = await grants.signing_keys(database, NOW)

    second = (await grants.rotate_keys(database, NOW + SECOND))[0]

    day = NOW + SECOND + keys.SHOWN
    shown = [await grants.signing_keys(database, now) for now in (day - 1, day)]
    assert [[key.kid for key in some] for some in shown] == [[second.kid, first.kid], [second.kid]]


# --- together with the trail --------------------------------------------------------------------


def note(database: db.Database) -> tuple[db.Change, Callable[[], Awaitable[int]]]:
    """Return a row to be written along, and a function that counts how often it was."""
    row = db.Change("insert", db.secret, ("name", "value"), [("note", b"1")])
    count = db.statement(
        sa.select(sa.func.count()).where(db.secret.c.name == sa.literal_column("'note'")),
        database.dialect,
    )

    async def counted() -> int:
        ((found,),) = await database.read(lambda connection: connection.rows(count, {}))
        return int(found)

    return row, counted


async def test_what_is_written_along_is_committed_with_a_change(database: db.Database) -> None:
    row, counted = note(database)

    await anne(database, also=[row])

    assert await counted() == 1


async def test_what_is_written_along_is_not_where_nothing_changed(database: db.Database) -> None:
    row, counted = note(database)
    await anne(database)

    with pytest.raises(grants.Taken):
        await anne(database, id="account-2", also=[row])
    await grants.revoke(database, "guess", also=[row])
    await grants.use(database, "guess", "code", NOW, also=[row])

    assert await counted() == 0
