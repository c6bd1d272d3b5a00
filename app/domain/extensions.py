"""Extensions of ours: what a value of each has to be.

https://hl7.org/fhir/R4/extensibility.html

All else here believes an extension its type, so that this rule comes first. What is right follows
from the StructureDefinitions that are shipped; of extensions that others define it knows nothing.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from app.domain import shipped
from app.domain.vocabulary import Vocabulary
from app.fhir.reader import Reader
from app.fhir.rules import Change, Finding, Rule
from app.fhir.wire import Resource


@dataclass
class Shape:
    """What an extension holds: a value under a key such as `valueCode`, or parts that have one.

    `needed` are the parts that have to be there.
    """

    key: str = ""
    parts: dict[str, str] = field(default_factory=dict)
    needed: set[str] = field(default_factory=set)

    def fits(self, extension: Resource) -> bool:
        """Return whether an Extension is as it has to be."""
        inner = extension.get("extension", ())
        if self.key:
            return self.key in extension
        given = {one["url"] for one in inner}
        return given >= self.needed and all(
            self.parts[one["url"]] in one for one in inner if one["url"] in self.parts
        )


@cache
def shapes(base: str) -> Mapping[str, Shape]:
    """Return the shape of each extension that is shipped, by its URL."""
    return {
        one["url"]: _shape(one)
        for one in shipped.resources(base)
        if one["resourceType"] == "StructureDefinition" and one["type"] == "Extension"
    }


def _shape(definition: Resource) -> Shape:
    shape = Shape()
    for element in definition["differential"]["element"]:
        part = element["id"].partition(":")[2].partition(".")[0]
        if part and element["path"] == "Extension.extension" and element["min"]:
            shape.needed.add(part)
        for type in element.get("type", ()):
            key = f"value{type['code'][0].upper()}{type['code'][1:]}"
            if part:
                shape.parts[part] = key
            else:
                shape.key = key
    return shape


@cache
def types(base: str) -> frozenset[str]:
    """Return the types of resources that have extensions of ours."""
    contexts = [
        context["expression"]
        for one in shipped.resources(base)
        if one["resourceType"] == "StructureDefinition"
        for context in one.get("context", ())
    ]
    return frozenset(one.partition(".")[0] for one in contexts)


def malformed(vocabulary: Vocabulary, resource: Resource) -> list[str]:
    """Return where in a resource extensions of ours are not as they have to be."""
    known = shapes(vocabulary.base)
    return [
        place
        for place, one in _extensions(resource, "")
        if one.get("url") in known and not known[one["url"]].fits(one)
    ]


def _extensions(element: Any, place: str) -> Iterator[tuple[str, Resource]]:
    """Yield all extensions inside of an element, with their places."""
    if isinstance(element, list):
        for n, one in enumerate(element):
            yield from _extensions(one, f"{place}[{n}]")
        return
    if not isinstance(element, dict):
        return
    for name, held in element.items():
        inner = f"{place}.{name}" if place else name
        if name == "extension":
            yield from ((f"{inner}[{n}]", one) for n, one in enumerate(held))
        elif isinstance(held, dict | list):
            yield from _extensions(held, inner)


async def check(
    vocabulary: Vocabulary, changes: Sequence[Change], reader: Reader
) -> Iterable[Finding]:
    """Return extensions of ours whose value is of another type, or that lack a part."""
    del reader
    text = "The extension is not as its StructureDefinition has it"
    return [
        Finding(change, text, place, code="structure")
        for change in changes
        if change.after is not None
        for place in malformed(vocabulary, change.after)
    ]


def rules(vocabulary: Vocabulary) -> tuple[Rule, ...]:
    """Return the rule of this module."""
    known = types(vocabulary.base)
    return (
        Rule(
            "extension",
            known,
            (vocabulary.mark,),
            partial(check, vocabulary),
            past=False,
            ground=True,
        ),
    )
