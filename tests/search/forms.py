"""The other forms of a search: what they ask, and what they find if the search itself is right.

A form is derived from a row of a topic, and is None where the row has no such form.
"""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from app.fhir.definitions import load
from tests.search.asking import Pairs
from tests.search.topics import Topic
from tests.support.resources import reference, resource

PARAMETERS = load().search_parameters

# search.html#return: asked of the answer, so that no chain ends in them. A list is none of the
# criteria of a resource either: `_list` is asked of a search as a whole
RESULT = frozenset(
    {
        *("_sort", "_count", "_total", "_include", "_revinclude", "_summary", "_elements"),
        *("_format", "_pretty", "_contained", "_containedType", "_type", "_list", "_cursor"),
    }
)

# search.html#modifiers: the token modifiers that find all that another does not
OPPOSITES = {"": "not", "in": "not-in"}


class Form(NamedTuple):
    """One more search, and the ids that it must find, in this order."""

    path: str
    asked: Pairs
    finds: list[str]


def referrer(target: dict[str, Any]) -> dict[str, Any]:
    """Return a resource that refers to `target` alone; Linkage has no part in any topic."""
    items = [{"type": kind, "resource": reference(target)} for kind in ("source", "alternate")]
    id = f"{target['resourceType']}-{target['id']}"
    return resource("Linkage", {"id": id, "item": items}, {})


def newest_first(topic: Topic, path: str, found: Collection[str]) -> list[str]:
    """Return the ids in the order of creation, newest first, of what a search of a type found."""
    type = path.removeprefix("/")
    return [
        r["id"] for r in reversed(topic.resources) if r["resourceType"] == type and r["id"] in found
    ]


def criteria(asked: Pairs) -> Pairs:
    """Return the pairs that say which resources are meant."""
    return [(n, v) for n, v in asked if v and n.partition(":")[0] not in RESULT]


def chained(path: str, asked: Pairs, answer: Sequence[str]) -> Form | None:
    """Return the search for the referrers of what was found (search.html#chaining)."""
    type, wanted = path.removeprefix("/"), criteria(asked)
    if not wanted or type not in PARAMETERS:
        return None
    names = [(f"item:{type}.{name}", value) for name, value in wanted]
    return Form("/Linkage", names, [f"{type}-{id}" for id in answer])


def reversed_chain(path: str, asked: Pairs, answer: Sequence[str]) -> Form | None:
    """Return the search for what the referrers of what was found refer to (search.html#has)."""
    chain = chained(path, asked, answer)
    if chain is None:
        return None
    return Form(path, [(f"_has:Linkage:item:{n}", v) for n, v in chain.asked], list(answer))


def negated(topic: Topic, path: str, asked: Pairs, answer: Sequence[str]) -> Form | None:
    """Return the search for all that was not found, where tokens can ask that."""
    type, wanted = path.removeprefix("/"), criteria(asked)
    if len(wanted) != 1 or type not in PARAMETERS:
        return None
    ((name, value),) = wanted
    code, _, modifier = name.partition(":")
    parameter = PARAMETERS[type].get(code)
    if parameter is None or parameter.type != "token" or modifier not in OPPOSITES:
        return None
    others = {r["id"] for r in topic.resources if r["resourceType"] == type} - set(answer)
    asked = [(f"{code}:{OPPOSITES[modifier]}", value)]
    return Form(path, asked, newest_first(topic, path, others))
