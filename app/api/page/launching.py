"""The steps of a launch: who it is, which patient, what is allowed, and back to the app.

https://hl7.org/fhir/smart-app-launch/STU2.2/app-launch.html#obtain-authorization-code

What a form sends is a wish: the patient is read as the account, and of scopes only those that were
asked for can be kept.
"""

from collections.abc import Awaitable, Callable

from fastapi.responses import Response

from app.api import smart
from app.api.page import consent, patients
from app.api.page.accounts import password_page, sign_in_page
from app.api.page.asking import Asking, Errors
from app.api.page.document import Form, sent_on
from app.api.page.patients import Person
from app.api.page.sessions import SECOND
from app.fhir import audit

AGAIN = frozenset({"login", "select_account"})  # prompts that want a sign-in, whoever is here
NOBODY = "Choose a patient from the list."
NOTHING = "Tick at least one of these, or choose Deny."
NOT_THEIRS = "The launch is that of another account"
NOT_SEEN = "The patient is not one that this account may see"


async def authorize(asking: Asking, _: Form) -> Response:
    """Answer a client that sends a browser: begin where that is."""
    return gate(asking) or await choose(asking)


async def answer(asking: Asking, sent: Form) -> Response:
    """Answer a form of a launch."""
    return gate(asking) or await STEPS[sent.one("step")](asking, sent)


def gate(asking: Asking) -> Response | None:
    """Return the page that comes before all others: a sign-in, a new password; else None.

    OpenID Connect Core, 3.1.2.1: a client that wants no page gets an error instead, and as no
    decision is remembered here, it always gets one.
    """
    requested, account = asking.requested, asking.who.account
    if requested is None:
        return sent_on(asking.link("sign-in"))
    silent = "none" in requested.prompt
    if account is None or _outlived(asking, requested):
        if silent:
            return asking.refused("login_required", "Nobody is signed in")
        return sign_in_page(asking)
    if account.once:
        if silent:
            return asking.refused("interaction_required", "The password has to be changed")
        return password_page(asking)
    if silent:
        return asking.refused("consent_required", "A person has to decide, each time")
    return None


async def choose(asking: Asking) -> Response:
    """Show who can be chosen, or what is to be decided where nobody has to be."""
    requested, account = _requested(asking), asking.who.account
    if account and requested.account not in ("", account.id):
        return await _refuse(asking, NOT_THEIRS)
    if given := _given(asking):
        patient = await _read(asking, given)
        return consent_page(asking, patient) if patient else await _refuse(asking, NOT_SEEN)
    return await picker(asking) if requested.needs_patient else consent_page(asking, None)


async def found(asking: Asking, sent: Form) -> Response:
    """Show the patients of a text, or the next of them."""
    return await picker(asking, sent.one("text"), sent.one("page"))


async def chosen(asking: Asking, sent: Form) -> Response:
    """Show what is to be decided about the patient that was chosen."""
    patient = await _patient(asking, sent)
    return consent_page(asking, patient) if patient else await picker(asking, wrong=NOBODY)


async def decided(asking: Asking, sent: Form) -> Response:
    """Send the browser back to the client, with a code or a refusal."""
    requested, account = _requested(asking), asking.who.account
    assert account
    if sent.one("answer") != "allow":
        return await _refuse(asking, "The request was denied")
    patient = await _patient(asking, sent)
    if patient is None and (requested.needs_patient or _given(asking)):
        return await picker(asking, wrong=NOBODY)
    ticked = sent.all("scope")
    if not ticked and consent.is_choice(requested.scopes):
        return consent_page(asking, patient, NOTHING)
    kept = consent.kept(requested.scopes, ticked)
    about = patient.id if patient else ""
    said = {"client": requested.client.id, "patient": about, "scope": " ".join(kept)}
    try:
        location = await smart.granted(
            asking.state,
            requested,
            account,
            kept,
            about,
            requested.encounter,
            asking.server.now(),
            signed_in=asking.who.since,
            session=asking.who.family,
        )
    except smart.Refused:
        await asking.note("consent", said, audit.MINOR)
        raise
    await asking.note("consent", said)
    return sent_on(location)


Step = Callable[[Asking, Form], Awaitable[Response]]
# What the field `step` of a form says; a client's own request has none
STEPS: dict[str, Step] = {"search": found, "patient": chosen, "consent": decided}


async def picker(asking: Asking, text: str = "", cursor: str = "", *, wrong: str = "") -> Response:
    """Return the page on which a patient is chosen."""
    assert asking.who.account
    page = await patients.search(asking.server, asking.who.account, text, cursor)
    errors: Errors = (("", wrong),) if wrong else ()
    said = {"text": text, "page": cursor, "patients": page.patients, "next": page.next}
    return asking.page("patient", "Choose a patient", values=said, errors=errors)


def consent_page(asking: Asking, patient: Person | None, wrong: str = "") -> Response:
    """Return the page on which it is decided what the client may do."""
    requested = _requested(asking)
    own = bool(patient) and _own(asking) == (patient.id if patient else "")
    whose = "" if own or patient is None else patient.name
    types = consent.of_patients(asking.server.definitions)
    said = {
        "patient": patient,
        "own": own,
        "choices": consent.choices(requested.scopes, whose, types, ticked=not wrong),
        "needed": consent.needed(requested.scopes),
        "exact": consent.exact(requested.scopes),
        "how_long": consent.how_long(requested.scopes),
        "destination": consent.destination(requested.redirect_uri),
    }
    errors: Errors = (("scopes", wrong),) if wrong else ()
    title = f"What may {requested.client.name} do?"
    return asking.page("consent", title, values=said, errors=errors)


def _outlived(asking: Asking, requested: smart.Requested) -> bool:
    """Return whether the client wants a sign-in that is newer than this session."""
    if not AGAIN.isdisjoint(requested.prompt):
        return True
    if requested.max_age is None:
        return False
    return asking.server.now() - asking.who.since > requested.max_age * SECOND


def _requested(asking: Asking) -> smart.Requested:
    assert asking.requested  # the gate has seen it
    return asking.requested


def _own(asking: Asking) -> str:
    """Return the patient that the account is, "" for all others."""
    account = asking.who.account
    return account.fhir_user if account and account.kind == "patient" else ""


def _given(asking: Asking) -> str:
    """Return the patient that nobody has to choose: of the launch, or the account itself."""
    requested = _requested(asking)
    return requested.patient or (_own(asking) if requested.needs_patient else "")


async def _patient(asking: Asking, sent: Form) -> Person | None:
    """Return the patient that it is about, None if there is none that the account may see."""
    return await _read(asking, _given(asking) or sent.one("patient"))


async def _read(asking: Asking, reference: str) -> Person | None:
    assert asking.who.account
    return await patients.read(asking.server, asking.who.account, reference)


async def _refuse(asking: Asking, why: str) -> Response:
    await asking.note("consent", {"client": _requested(asking).client.id}, audit.MINOR)
    return asking.refused("access_denied", why)
