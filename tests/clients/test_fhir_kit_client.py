"""fhir-kit-client, a client for JavaScript: its tests are beside this file.

`make test-clients` installs it and says where: CLIENTS is that directory.
"""

import os
import subprocess

import pytest

from tests.support.process import Process
from tests.support.tokens import TOKEN

CLIENTS = os.environ.get("CLIENTS", "")


@pytest.mark.skipif(not CLIENTS, reason="`make test-clients` runs it: it needs npm")
def test_fhir_kit_client_does_what_its_documentation_shows(server: Process) -> None:
    done = subprocess.run(
        ["node", "--test", "--test-reporter=tap"],
        cwd=CLIENTS,
        env={**os.environ, "BASE_URL": server.base_url, "TOKEN": TOKEN},
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert done.returncode == 0, done.stdout
    assert "# pass 8\n" in done.stdout
