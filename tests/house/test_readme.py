"""Whatever the README shows works as it is written: its examples are run, in order.

The shell blocks are one session beside a server in a folder of its own, as `make run` starts it.
The last answer of a block has in it what the JSON block behind it shows.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from app.main import ROOT
from tests.support.process import Process, free_port, wait_until_answering
from tests.support.resources import patient, practitioner, put, reference, transaction

README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DEFAULT = "127.0.0.1:8000"
POSTGRESQL = "postgresql://milepost:secret@localhost/milepost"
SERVE = ".venv/bin/milepost serve"
END = "--- end of the block ---"
MISSING = [name for name in ("bash", "curl") if shutil.which(name) is None]

pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"the examples of the README need {' and '.join(MISSING)}"
)


class Example(NamedTuple):
    """Some commands, and what the last of them answers with if that is shown."""

    commands: str
    answer: str = ""


def examples() -> list[Example]:
    """Return the examples of the README in order."""
    found: list[Example] = []
    for language, text in BLOCK.findall(README):
        if language == "json":
            found[-1] = found[-1]._replace(answer=text)
        else:
            found.append(Example(text))
    return found


def answers(output: str) -> list[Any]:
    """Return the JSON texts that were printed one after the other."""
    decoder, found, rest = json.JSONDecoder(), [], output.lstrip()
    while rest:
        value, end = decoder.raw_decode(rest)
        found.append(value)
        rest = rest[end:].lstrip()
    return found


def holds(shown: Any, answer: Any) -> bool:
    """Return whether an answer has what is shown of it.

    Members of objects may be left out, and parameters, in their order; other elements not.
    """
    if isinstance(shown, dict):
        return isinstance(answer, dict) and all(
            name in answer and holds(value, answer[name]) for name, value in shown.items()
        )
    if isinstance(shown, list) and all(isinstance(one, dict) and "name" in one for one in shown):
        left = iter(answer)
        return all(any(holds(one, other) for other in left) for one in shown)
    if isinstance(shown, list):
        return (
            isinstance(answer, list)
            and len(shown) == len(answer)
            and all(map(holds, shown, answer))
        )
    return bool(shown == answer)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which somebody has installed Milepost, and has two files of Synthea's kind."""
    program = tmp_path / ".venv" / "bin" / "milepost"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m app.cli "$@"\n')
    program.chmod(0o700)
    (tmp_path / "synthea").mkdir()
    staff = transaction(put(practitioner(id="kim")))
    cared_for = patient(id="cared-for", generalPractitioner=[reference("Practitioner/kim")])
    (tmp_path / "synthea" / "0-practitioners.json").write_text(json.dumps(staff))
    (tmp_path / "synthea" / "ada.json").write_text(json.dumps(transaction(put(cared_for))))
    return tmp_path


def environment(port: int) -> dict[str, str]:
    """Return an environment without settings, but that the server takes this port."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MILEPOST_")}
    return {**kept, "PYTHONPATH": str(ROOT), "MILEPOST_PORT": str(port)}


@contextmanager
def started(commands: str, folder: Path, port: int) -> Iterator[Process]:
    """Yield the server that these commands start, and end it as somebody does who has tried it."""
    log = folder / "log"
    with log.open("wb") as output:
        popen = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=folder,
            env=environment(port),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    server = Process(f"http://127.0.0.1:{port}/fhir", popen, log)
    try:
        wait_until_answering(server)
        yield server
    finally:
        if popen.poll() is None:
            os.killpg(popen.pid, signal.SIGTERM)
            popen.wait(60)


def test_every_example_is_in_a_block_that_is_run() -> None:
    outside = BLOCK.sub("", README)

    assert {language for language, _ in BLOCK.findall(README)} == {"bash", "json"}
    assert re.findall(r"^(?:    |\t).*$", outside, re.MULTILINE) == []


def test_all_examples_work_and_answer_as_they_are_shown(folder: Path) -> None:
    port = free_port()
    tried = [one for one in examples() if SERVE not in one.commands]
    script = f"\necho '{END}'\n".join(["", *(one.commands for one in tried)])
    steps = [SERVE.replace("serve", step) for step in ("migrate", "seed --if-empty")]
    make_run = "\n".join([*steps, f"exec {SERVE}\n"])
    with started(make_run, folder, port):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script.replace(DEFAULT, f"127.0.0.1:{port}")],
            cwd=folder,
            env=environment(port),
            capture_output=True,
            text=True,
            timeout=300,
        )

    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    outputs = done.stdout.split(f"{END}\n")[1:]
    shown = {
        one.commands: (json.loads(one.answer), answers(output)[-1])
        for one, output in zip(tried, outputs, strict=True)
        if one.answer
    }
    assert len(shown) >= 3
    assert [pair for pair in shown.values() if not holds(*pair)] == []


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
def test_the_example_of_postgresql_serves(folder: Path, empty_database_url: str) -> None:
    port = free_port()
    (commands,) = [one.commands for one in examples() if SERVE in one.commands]
    assert POSTGRESQL in commands

    with started(commands.replace(POSTGRESQL, empty_database_url), folder, port) as server:
        told = server.log.read_text()

    assert "serves FHIR R4" in told
    assert server.popen.returncode is not None
