"""Search behaviour as data: a YAML file a topic, read as JSON would be.

A topic has `resources`, which are put in this order, and `rows`: a `query` and the ids that it
`finds`, in this order if it says `order: true`. `refused` are queries that are answered with a 400
(or `status`), their issue `code` and a piece of its `text`. `why` cites the specification where the
row alone does not explain itself.

Each resource of a topic gets a referrer (`forms.referrer`), so that the runner can ask every row at
the end of a chain as well; a topic about all there is says `referrers: false`.

A query is written as it is meant: values are percent-encoded by `pairs`, `%` and two digits stand
for a character that cannot be written (`%26` is `&`). The server's base URL is written `{base}`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec
import yaml

from tests.conftest import BASE_URL
from tests.search.asking import Pairs

HERE = Path(__file__).parent
WRITER = msgspec.json.Encoder(decimal_format="number")


@dataclass(frozen=True, eq=False)
class Row:
    """One search and what it finds."""

    query: str
    finds: list[str]
    why: str = ""
    order: bool = False


@dataclass(frozen=True, eq=False)
class Refusal:
    """One search that is refused; `text` is a piece of what the client is told."""

    query: str
    text: str
    code: str = "value"
    status: int = 400
    why: str = ""


@dataclass(frozen=True, eq=False)
class Topic:
    """The rows of one file, and the resources that they are about."""

    name: str
    resources: Sequence[dict[str, Any]]
    rows: Sequence[Row]
    refused: Sequence[Refusal]
    referrers: bool = True


class Json(yaml.SafeLoader):
    """YAML in which plain scalars are what they would be in JSON: a date is text, 1.50 exact."""


Json.yaml_implicit_resolvers = {}
for tag, pattern, first in (
    ("bool", r"true|false", "tf"),
    ("null", r"null", "n"),
    ("int", r"-?(0|[1-9]\d*)", "-0123456789"),
    ("float", r"-?\d+(\.\d+)?([eE][+-]?\d+)?", "-0123456789"),
    ("merge", r"<<", "<"),
):
    Json.add_implicit_resolver(
        f"tag:yaml.org,2002:{tag}", re.compile(rf"(?:{pattern})\Z"), list(first)
    )
Json.add_constructor("tag:yaml.org,2002:float", lambda loader, node: Decimal(str(node.value)))


def load(path: Path) -> Topic:
    """Return the topic of a file."""
    found = yaml.load(path.read_text().replace("{base}", BASE_URL), Json)
    return Topic(
        path.stem,
        found["resources"],
        [Row(**row) for row in found["rows"]],
        [Refusal(**row) for row in found.get("refused", ())],
        found.get("referrers", True),
    )


TOPICS = [load(path) for path in sorted(HERE.glob("*.yaml"))]


def pairs(query: str) -> tuple[str, Pairs]:
    """Return the path and the parameters of a query, as a client would encode them."""
    path, _, rest = query.partition("?")
    parts = [part.partition("=") for part in rest.split("&") if part]
    return f"/{path}", [(unquote(name), unquote(value)) for name, _, value in parts]
