"""The words of a resource: those of its narrative, and all of them.

https://hl7.org/fhir/R4/search.html#text
"""

from collections.abc import Iterable, Iterator
from typing import Any

from app.fhir import narrative
from app.fhir.values import words
from app.fhir.wire import Resource

# Elements that hold encoded bytes, never a text
BYTES = frozenset({"data", "valueBase64Binary"})
# What the server writes itself, and differs from version to version
OURS = frozenset({"versionId", "lastUpdated"})
MOST_BYTES = 500_000  # PostgreSQL keeps at most a megabyte of words


def narrative_words(resource: Resource) -> str:
    """Return the words of a resource's narrative, parted by single spaces."""
    text = resource.get("text")
    div = text.get("div") if isinstance(text, dict) else None
    return joined([narrative.text(div)] if isinstance(div, str) else [])


def all_words(resource: Resource) -> str:
    """Return the words of all texts of a resource, parted by single spaces."""
    meta = resource.get("meta")
    if isinstance(meta, dict):
        meta = {name: value for name, value in meta.items() if name not in OURS}
        resource = {**resource, "meta": meta}
    return joined(texts(resource))


def texts(value: Any, name: str = "") -> Iterator[str]:
    """Yield the texts in a JSON value, which its parent calls `name`; of XHTML what is shown."""
    if isinstance(value, str):
        if name not in BYTES:
            yield narrative.text(value) if name == "div" else value
    elif isinstance(value, dict):
        for key, held in value.items():
            yield from texts(held, key)
    elif isinstance(value, list):
        for held in value:
            yield from texts(held, name)


def joined(found: Iterable[str]) -> str:
    """Return the words of these texts, each once, as many as an index entry holds."""
    distinct: dict[str, None] = {}
    size = 0
    for text in found:
        for word in words(text):
            if word not in distinct:
                size += len(word.encode()) + 1
                if size > MOST_BYTES:
                    return " ".join(distinct)
                distinct[word] = None
    return " ".join(distinct)
