"""A person's own pages: sign in, another password, sign out.

https://pages.nist.gov/800-63-3/sp800-63b.html

What is told of a sign-in that failed is the same whether the account does not exist, is disabled
or locked, or the password was wrong.
"""

from dataclasses import replace

from fastapi.responses import Response

from app.api import grants
from app.api.page.asking import Asking, Errors
from app.api.page.document import Form, sent_on
from app.api.page.sessions import begin, end, remember
from app.fhir import audit
from app.fhir.interaction import Pairs

WRONG = "The name or the password is wrong, or there were too many attempts. Try again later."
NOT_YOURS = "This is not your password, or there were too many attempts."
DIFFERENT = "The two new passwords are not the same."
FREED = "login", "select_account"  # prompts that a sign-in has answered


async def home(asking: Asking, _: Form) -> Response:
    """Answer who comes without a client: sign in, or what there is to do."""
    account = asking.who.account
    if account is None:
        return sign_in_page(asking)
    if account.once:
        return password_page(asking)
    text = "An app that you open sends you here, and you decide what it may do."
    link = asking.link("password")
    return asking.message("You are signed in", text, again=link, label="Change the password")


async def sign_in(asking: Asking, sent: Form) -> Response:
    """Begin a session, and go on with the launch if there is one."""
    server, name = asking.server, sent.one("name")
    account = None
    if not asking.throttle.wait(asking.address, server.now()):
        account = await grants.sign_in(server.database, name, sent.one("password"), server.now())
    if account is None:
        asking.throttle.failed(asking.address, server.now())
        await _note_failure(asking, name)
        return sign_in_page(asking, WRONG, name)
    who = await begin(server, asking.who, account)
    signed_in = replace(asking, who=who, pairs=_freed(asking.pairs))
    await signed_in.note("sign-in")
    return _onward(signed_in)


async def password(asking: Asking, _: Form) -> Response:
    """Show the form for another password."""
    return password_page(asking) if asking.who.account else sign_in_page(asking)


async def change_password(asking: Asking, sent: Form) -> Response:
    """Change the password, and begin a new session: what the old password opened is over."""
    server, account = asking.server, asking.who.account
    if account is None:
        return sign_in_page(asking)
    errors = await _changed(asking, account, sent)
    if errors:
        await asking.note("password", outcome=audit.MINOR)
        return password_page(asking, errors)
    who = await begin(server, asking.who, replace(account, once=False))
    changed = replace(asking, who=who)
    await changed.note("password")
    return _onward(changed)


async def leave(asking: Asking, _: Form) -> Response:
    """Show the way out: an address alone, which anybody may link to, ends no session."""
    if asking.who.account is None:
        text = "Close the browser too if others use it."
        return asking.message("You are signed out", text)
    return asking.page("sign_out", "Sign out", values={"account": ""})


async def sign_out(asking: Asking, _: Form) -> Response:
    """End the session, and with it what lasts no longer."""
    if asking.who.account is not None:
        await end(asking.server, asking.who)
        await asking.note("sign-out")
    return sent_on(asking.link("sign-out"))


def sign_in_page(asking: Asking, wrong: str = "", name: str = "") -> Response:
    """Return the page that asks who it is; nobody is signed in on it."""
    errors: Errors = (("name", wrong),) if wrong else ()
    hint = asking.requested.login_hint if asking.requested else ""
    unknown = replace(asking, who=replace(asking.who, account=None))
    status = 403 if wrong else 200
    values = {"name": name or hint}
    return unknown.page("sign_in", "Sign in", values=values, errors=errors, status=status)


def password_page(asking: Asking, errors: Errors = ()) -> Response:
    """Return the form for another password; one that works once has to be changed."""
    account = asking.who.account
    once = account is not None and bool(account.once)
    title = "Choose a new password" if once else "Change the password"
    return asking.page("password", title, values={"once": once}, errors=errors)


async def _changed(asking: Asking, account: grants.Account, sent: Form) -> Errors:
    """Change the password, or return what is wrong."""
    database, now = asking.server.database, asking.server.now()
    current, new = sent.one("current"), sent.one("password")
    if new != sent.one("again"):
        return (("again", DIFFERENT),)
    if await grants.sign_in(database, account.name, current, now) is None:
        return (("current", NOT_YOURS),)
    try:
        await grants.set_password(database, account.id, new)
    except grants.Weak as weak:
        return (("password", str(weak)),)
    return ()


async def _note_failure(asking: Asking, name: str) -> None:
    """Leave a row about a sign-in that failed, of the account that was meant if there is one.

    A name that nobody has is not kept: now and then it is a password.
    """
    server = asking.server
    account = await grants.find_account(server.database, name)
    meant = replace(asking, who=replace(asking.who, account=account))
    locked = account is not None and account.locked > server.now()
    await meant.note("lock-out" if locked else "sign-in", outcome=audit.MINOR)


def _onward(asking: Asking) -> Response:
    response = sent_on(asking.again())
    remember(response, asking.who, asking.place)
    return response


def _freed(pairs: Pairs) -> Pairs:
    """Return a client's request without the wish for a sign-in that just took place."""
    found: list[tuple[str, str]] = []
    for name, value in pairs:
        if name == "prompt":
            value = " ".join(word for word in value.split() if word not in FREED)
        if (name, value) not in (("prompt", ""), ("max_age", "0")):
            found.append((name, value))
    return tuple(found)
