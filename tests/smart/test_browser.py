"""Launches in a real browser, headless Chromium, against a real `milepost serve`.

What a page says to people who do not see it, use no mouse or have a small screen is looked at here,
too: https://www.w3.org/TR/WCAG22/
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

from tests.smart.around import App, listening, peopled
from tests.smart.people import PASSWORD, SCOPE, VERIFIER, asked
from tests.support.process import Process

CHROMIUM = shutil.which("chromium") or ""
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (Debian package `chromium`)")

SMALL: ViewportSize = {
    "width": 320,
    "height": 640,
}  # reflow.html: no page has to be scrolled sideways
LARGE: ViewportSize = {"width": 1000, "height": 800}

# What is wrong with a page, as a list of sentences. Contrast is that of WCAG 2.2, 1.4.3
FAULTS = """() => {
  const faults = [];
  const all = (css) => [...document.querySelectorAll(css)];
  const shown = (e) => e.getClientRects().length > 0;
  if (!document.documentElement.lang) faults.push("no lang");
  if (!document.title.includes("Milepost")) faults.push("no title");
  if (all("h1").length !== 1) faults.push("not one h1");
  if (all("main").length !== 1) faults.push("not one main");
  let level = 0;
  for (const e of all("h1, h2, h3, h4")) {
    const n = Number(e.tagName[1]);
    if (n > level + 1) faults.push(`h${n} after h${level}`);
    level = n;
  }
  for (const e of all("input:not([type=hidden]), select, textarea")) {
    if (![...e.labels].some((l) => l.textContent.trim())) faults.push(`no label: ${e.name}`);
    if (e.type !== "checkbox" && !e.autocomplete) faults.push(`no autocomplete: ${e.name}`);
  }
  for (const e of all("button, a[href], summary"))
    if (!e.textContent.trim()) faults.push("a button or link without a name");
  for (const e of all("fieldset"))
    if (!e.querySelector("legend")) faults.push("a fieldset without a legend");
  const ids = all("[id]").map((e) => e.id);
  if (new Set(ids).size !== ids.length) faults.push("an id is there twice");
  for (const name of ["aria-describedby", "aria-labelledby"])
    for (const e of all(`[${name}]`))
      for (const id of e.getAttribute(name).trim().split(/\\s+/))
        if (!document.getElementById(id)) faults.push(`${name} names no ${id}`);
  if (document.documentElement.scrollWidth > window.innerWidth) faults.push("too wide");
  for (const e of all("button, input:not([type=hidden])")) {
    const box = e.getBoundingClientRect();
    if (shown(e) && (box.width < 24 || box.height < 24)) faults.push(`too small: ${e.textContent}`);
  }
  const numbers = (colour) => (colour.match(/[0-9.]+/g) || []).map(Number);
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => {
      const s = v / 255;
      return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (e) => {
    for (let at = e; at; at = at.parentElement) {
      const found = numbers(getComputedStyle(at).backgroundColor);
      if (found.length === 3 || found[3] === 1) return found.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const e = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !shown(e)) continue;
    const one = light(numbers(getComputedStyle(e).color).slice(0, 3)), other = light(ground(e));
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (ratio < 4.5) faults.push(`contrast ${ratio.toFixed(2)}: ${texts.currentNode.data.trim()}`);
  }
  return faults;
}"""
FOCUSED = """() => {
  const e = document.activeElement, style = getComputedStyle(e);
  const label = e.labels && e.labels.length ? e.labels[0].textContent : e.textContent;
  return [label.trim().replace(/\\s+/g, " "), parseFloat(style.outlineWidth), style.outlineStyle];
}"""


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    """An app that is registered."""
    with listening() as found:
        yield found


@pytest.fixture(scope="module")
def server(
    app: App, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Process]:
    """A server with people, patients and the app."""
    with peopled(sqlite_template, tmp_path_factory.mktemp("browser"), app) as process:
        yield process


@pytest.fixture(scope="module")
def chromium(server: Process) -> Iterator[Browser]:
    """A browser; from then on no other event loop can be run."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--headless"]
        )
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A page of a browser that nobody used before, which runs no scripts."""
    context = chromium.new_context(viewport=LARGE, java_script_enabled=False)
    yield context.new_page()
    context.close()


@pytest.fixture
def scripted(chromium: Browser) -> Iterator[Page]:
    """A page in which a test can look around with scripts."""
    context = chromium.new_context(viewport=SMALL)
    yield context.new_page()
    context.close()


def authorize(server: Process, app: App, **changes: str | None) -> str:
    """Return the address to which the app sends a browser."""
    said = {"aud": server.base_url, "redirect_uri": app.callback, **changes}
    root = server.base_url.removesuffix("/fhir")
    return f"{root}/oauth/authorize?{urlencode(asked(**said))}"


def sign_in(page: Page, name: str = "ines", password: str = PASSWORD) -> None:
    """Fill in the first page."""
    page.get_by_label("User name").fill(name)
    page.get_by_label("Password").fill(password)
    press(page, "Sign in")


def press(page: Page, button: str) -> None:
    """Press a button, and wait for the next page."""
    with page.expect_navigation():
        page.get_by_role("button", name=button).click()


def heading(page: Page) -> str:
    """Return what the page is called."""
    return page.locator("h1").inner_text()


def tokens(server: Process, app: App) -> dict[str, Any]:
    """Return what the app gets for the code that the browser brought."""
    form = {
        "grant_type": "authorization_code",
        "code": app.code,
        "redirect_uri": app.callback,
        "client_id": "app",
        "code_verifier": VERIFIER,
    }
    root = server.base_url.removesuffix("/fhir")
    reply = httpx.post(f"{root}/oauth/token", data=form)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def test_a_launch_is_completed_without_scripts(page: Page, server: Process, app: App) -> None:
    page.goto(authorize(server, app))
    sign_in(page)
    page.get_by_label("Find by name or identifier").fill("kov")
    press(page, "Find")
    press(page, "Bela Kovács")
    assert heading(page) == "What may Growth Chart do?"
    page.get_by_label("Read the personal data of Bela Kovács").uncheck()
    press(page, "Allow")
    page.wait_for_url(f"{app.callback}*")

    found = tokens(server, app)
    assert (app.came[-1]["state"], found["patient"]) == ("of-the-app", "bela")
    assert "patient/Observation.rs" in found["scope"]
    assert "patient/Patient.r" not in found["scope"]


def test_a_refusal_comes_back_to_the_app(page: Page, server: Process, app: App) -> None:
    page.goto(authorize(server, app))
    sign_in(page, "ada")
    press(page, "Deny")
    page.wait_for_url(f"{app.callback}*")

    assert app.came[-1]["error"] == "access_denied"


def test_a_launch_is_completed_with_the_keyboard_alone(
    scripted: Page, server: Process, app: App
) -> None:
    scripted.goto(authorize(server, app))

    walk(scripted, "User name")
    scripted.keyboard.type("ines")
    walk(scripted, "Password")
    scripted.keyboard.type(PASSWORD)
    walk(scripted, "Sign in")
    enter(scripted)
    walk(scripted, "Ada Marsh")
    enter(scripted)
    walk(scripted, "Read the personal data of Ada Marsh")
    scripted.keyboard.press("Space")
    walk(scripted, "Allow")
    scripted.keyboard.press("Enter")
    scripted.wait_for_url(f"{app.callback}*")

    found = tokens(server, app)
    assert found["patient"] == "ada"
    assert "patient/Patient.r" not in found["scope"]


def walk(page: Page, label: str) -> None:
    """Go to what has this label with the Tab key; wherever one comes past is to be seen."""
    for _ in range(40):
        page.keyboard.press("Tab")
        text, width, style = page.evaluate(FOCUSED)
        assert width >= 2, f"nobody sees that the focus is on {text}"
        assert style not in ("none", "hidden")
        if text.startswith(label):
            return
    raise AssertionError(f"the Tab key does not lead to {label}")


def enter(page: Page) -> None:
    """Press Enter, and wait for the next page."""
    with page.expect_navigation():
        page.keyboard.press("Enter")


@pytest.mark.parametrize("width", [SMALL, LARGE], ids=["small", "large"])
def test_every_page_is_accessible(
    scripted: Page, server: Process, app: App, width: ViewportSize
) -> None:
    scripted.set_viewport_size(width)
    seen = []

    def look() -> None:
        seen.append(heading(scripted))
        assert scripted.evaluate(FAULTS) == [], seen

    scripted.goto(
        authorize(server, app, scope=f"{SCOPE} offline_access user/Goal.rs?category=dietary")
    )
    look()
    sign_in(scripted, "nobody")
    assert "wrong" in scripted.get_by_role("alert").inner_text()
    look()
    sign_in(scripted)
    look()
    scripted.get_by_label("Find by name or identifier").fill("nobody")
    press(scripted, "Find")
    look()
    scripted.get_by_label("Find by name or identifier").fill("Ada")
    press(scripted, "Find")
    press(scripted, "Ada Marsh")
    look()
    for box in scripted.get_by_role("checkbox").all():
        box.uncheck()
    press(scripted, "Allow")
    look()
    scripted.goto(authorize(server, app, client_id="unknown"))
    look()
    root = server.base_url.removesuffix("/fhir")
    for name in ("sign-in", "password", "sign-out"):
        scripted.goto(f"{root}/oauth/{name}")
        look()
    press(scripted, "Sign out")
    look()

    assert seen == [
        *("Sign in", "Sign in", "Choose a patient", "Choose a patient"),
        *("What may Growth Chart do?", "What may Growth Chart do?", "This app cannot be opened"),
        *("You are signed in", "Change the password", "Sign out", "You are signed out"),
    ]


def test_an_error_is_said_where_the_field_is(scripted: Page, server: Process, app: App) -> None:
    scripted.goto(authorize(server, app))
    sign_in(scripted, password="wrong wrong wrong")

    name = scripted.get_by_label("User name")
    assert name.get_attribute("aria-invalid") == "true"
    assert "errors" in (name.get_attribute("aria-describedby") or "").split()
    scripted.get_by_role("alert").get_by_role("link").click()
    assert scripted.evaluate("document.activeElement.id") == "name"
    assert scripted.title().startswith("Error: ")


def test_a_launch_is_completed_without_the_stylesheet(
    page: Page, server: Process, app: App
) -> None:
    page.route("**/style.css", lambda route: route.abort())

    page.goto(authorize(server, app))
    sign_in(page, "ada")
    press(page, "Allow")
    page.wait_for_url(f"{app.callback}*")

    assert tokens(server, app)["patient"] == "ada"


def test_a_page_asks_nobody_but_the_server(scripted: Page, server: Process, app: App) -> None:
    hosts = set()
    scripted.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))

    scripted.goto(authorize(server, app))
    sign_in(scripted, "ada")

    assert hosts == {urlsplit(server.base_url).netloc}


def test_no_other_page_can_show_ours_in_a_frame(scripted: Page, server: Process, app: App) -> None:
    scripted.goto(app.address)

    root = server.base_url.removesuffix("/fhir")
    scripted.set_content(f'<iframe src="{root}/oauth/sign-in"></iframe>')
    scripted.wait_for_load_state("networkidle")

    frame = scripted.frames[-1]
    assert frame is not scripted.main_frame
    assert frame.locator("input").count() == 0


def test_a_form_on_another_site_signs_nobody_out_and_allows_nothing(
    scripted: Page, server: Process, app: App
) -> None:
    scripted.goto(authorize(server, app))
    sign_in(scripted, "ada")
    assert heading(scripted) == "What may Growth Chart do?"
    fields = "".join(
        f'<input type="hidden" name="{name}" value="{scripted.evaluate(value)}">'
        for name, value in (
            ("request", "document.querySelector('main [name=request]').value"),
            ("step", "'consent'"),
            ("scope", "'patient/Observation.rs'"),
            ("answer", "'allow'"),
        )
    )
    came, root = len(app.came), server.base_url.removesuffix("/fhir")
    for path in ("authorize", "sign-out"):
        scripted.goto(app.address.replace("127.0.0.1", "localhost"))  # another site
        scripted.set_content(
            f'<form method="post" action="{root}/oauth/{path}">{fields}<button>Win</button></form>'
        )
        press(scripted, "Win")

    assert len(app.came) == came
    scripted.goto(authorize(server, app))
    assert heading(scripted) == "What may Growth Chart do?"
