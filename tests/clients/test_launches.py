"""Both libraries called fhirclient let themselves be launched: the Python one, and that of npm.

The Python one (4.4) sends a PKCE challenge by S256 of its own accord; that of npm does where
`pkceMode` is "required", says who it is when it refreshes where it is told to
(`refreshTokenWithClientId`), and as it runs in a browser it needs our answers to be readable by
pages of other origins.

`make test-clients` installs the one of npm and says where: CLIENTS is that directory.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fhirclient import client
from fhirclient.models.observation import Observation
from playwright.sync_api import sync_playwright

from tests.smart.around import App, listening, peopled
from tests.smart.browser import Browser
from tests.smart.people import PASSWORD
from tests.support.process import Process

CLIENTS = os.environ.get("CLIENTS", "")
CHROMIUM = shutil.which("chromium") or ""
LIBRARY = "node_modules/fhirclient/build/fhir-client.pure.js"
LAUNCH = """<!doctype html><title>Launch</title><script src="/fhir-client.js"></script>
<script>
FHIR.oauth2.authorize({
  clientId: "app", iss: "%s", redirectUri: "/callback", pkceMode: "required",
  scope: "launch/patient openid fhirUser offline_access patient/Observation.rs patient/Patient.r",
});
</script>"""
INDEX = """<!doctype html><title>App</title><script src="/fhir-client.js"></script><h1></h1>
<script>
FHIR.oauth2.settings.refreshTokenWithClientId = true;
FHIR.oauth2.ready().then(async (client) => {
  const patient = await client.patient.read();
  const found = await client.request("Observation?patient=" + client.patient.id);
  await client.refresh();
  const again = await client.patient.request("Observation");
  document.querySelector("h1").textContent =
    [patient.name[0].family, found.total, again.total, client.user.fhirUser].join(" ");
}).catch((error) => { document.querySelector("h1").textContent = error; });
</script>"""


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
    with peopled(sqlite_template, tmp_path_factory.mktemp("launches"), app) as process:
        yield process


async def test_fhirclient_of_python_completes_a_launch(server: Process, app: App) -> None:
    smart = client.FHIRClient(
        settings={
            "app_id": "app",
            "api_base": server.base_url,
            "redirect_uri": app.callback,
            "scope": "openid fhirUser offline_access patient/Observation.rs patient/Patient.r",
        }
    )
    assert not smart.prepare()  # it has found where to ask, and that nobody has let it in

    root = server.base_url.removesuffix("/fhir")
    async with httpx.AsyncClient(base_url=root, timeout=30) as http:
        browser = Browser(http)
        page = await browser.open(smart.authorize_url)
        page = await browser.press(page, "Sign in", name="ines", password=PASSWORD)
        page = await browser.press(page, "Ada Marsh")
        page = await browser.press(page, "Allow")
    smart.handle_callback(page.away)

    assert smart.ready
    assert smart.human_name(smart.patient.name[0]) == "Ada Marsh"
    scores = list(Observation.where({"patient": "ada"}).perform_resources_iter(smart.server))
    assert [score.id for score in scores] == ["score"]
    assert smart.reauthorize()
    assert smart.launch_context["patient"] == "ada"


@pytest.mark.skipif(not CLIENTS, reason="`make test-clients` runs it: it needs npm")
@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (Debian package `chromium`)")
def test_fhirclient_of_npm_completes_a_launch_in_a_browser(server: Process, app: App) -> None:
    app.pages["/fhir-client.js"] = ("text/javascript", (Path(CLIENTS) / LIBRARY).read_bytes())
    app.pages["/launch"] = ("text/html", (LAUNCH % server.base_url).encode())
    app.pages["/callback"] = ("text/html", INDEX.encode())

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--headless"]
        )
        page = chromium.new_page()
        page.goto(f"{app.address}/launch")
        page.get_by_label("User name").fill("ines")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("button", name="Ada Marsh").click()
        page.get_by_role("button", name="Allow").click()
        page.wait_for_url(f"{app.callback}*")
        page.wait_for_function("document.querySelector('h1').textContent")
        said = page.locator("h1").inner_text()
        chromium.close()

    assert said == "Marsh 1 1 Practitioner/ines"
