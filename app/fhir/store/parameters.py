"""Search parameters of one's own: what a stored SearchParameter adds to those of R4.

https://hl7.org/fhir/R4/searchparameter.html

An active SearchParameter is searchable as soon as its transaction has committed and the resources
that are there already are indexed. What cannot be searched with is refused, so that nobody waits
for it; a draft or a retired one is stored like any other resource and does nothing.

Rule: what is in force follows from the stored resources alone, in the order of their keys.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import cast, get_args

from app.fhir.definitions import Component, Definitions, ParameterType, SearchParameter
from app.fhir.errors import FhirError, Issue
from app.fhir.index import Indexer
from app.fhir.wire import Resource

TYPE = "SearchParameter"
CODE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")  # "_" begins the specification's own
TYPES = frozenset(get_args(ParameterType)) - {"special"}
LONGEST = 4000  # characters of an expression

Custom = Mapping[str, SearchParameter]  # by the id of the resource


def declared(resource: Resource, official: Definitions) -> SearchParameter | None:
    """Return the parameter that a resource declares; None for one that adds nothing.

    That is a draft, a retired one, and one that is a parameter of R4 or derived from it: it has
    the code and the type of that parameter, and its URL as `url` or `derivedFrom`.
    """
    if resource.get("status") != "active":
        return None
    found = SearchParameter(
        code=resource.get("code", ""),
        url=resource.get("url", ""),
        type=cast("ParameterType", resource.get("type", "")),
        expression=resource.get("expression", ""),
        base=tuple(resource.get("base", ())),
        target=tuple(resource.get("target", ())),
        components=tuple(
            Component(c.get("definition", ""), c.get("expression", ""))
            for c in resource.get("component", ())
        ),
        description=resource.get("description", ""),
    )
    names = {found.url, resource.get("derivedFrom")}
    taken = [official.search_parameters[t].get(found.code) for t in official.heirs(found.base)]
    if taken and all(t and t.url in names and t.type == found.type for t in taken):
        return None
    return found


def in_force(resources: Iterable[Resource], official: Definitions) -> dict[str, SearchParameter]:
    """Return the parameters of stored resources by their ids; of two with one code the first."""
    found: dict[str, SearchParameter] = {}
    for resource in resources:
        id, parameter = resource["id"], declared(resource, official)
        if parameter and not list(issues({**found, id: parameter}, id, official)):
            found[id] = parameter
    return found


def refusals(id: str, resource: Resource, official: Definitions, custom: Custom) -> list[Issue]:
    """Return why a resource may not be stored as a SearchParameter under `id` beside the others.

    Places are relative to the resource, as are those of `issues`.
    """
    parameter = declared(resource, official)
    return list(issues({**custom, id: parameter}, id, official)) if parameter else []


def issues(custom: Custom, id: str, official: Definitions) -> Iterator[Issue]:
    """Yield why nobody could search with the parameter under `id` beside the others."""
    parameter = custom[id]
    if not CODE.fullmatch(parameter.code):
        text = "code must be a letter and up to 63 letters, digits, - or _"
        yield _issue("code-invalid", text, "code")
        return
    yield from _taken(parameter, id, official, custom)
    if parameter.type not in TYPES:
        yield _issue("processing", "A special parameter cannot be added", "type")
    elif not parameter.expression:
        yield _issue("required", "An active SearchParameter needs an expression", "expression")
    elif len(parameter.expression) > LONGEST:
        text = f"The expression is longer than {LONGEST} characters"
        yield _issue("processing", text, "expression")
    elif (parameter.type == "composite") != bool(parameter.components):
        yield _issue("required", "A composite needs components, and nothing else has any", "type")
    elif unknown := [c.code for c in parameter.components if c.code not in official.by_url]:
        text = f"A component must be a search parameter of R4; {unknown[0]} is none"
        yield _issue("processing", text, "component")
    else:
        yield from _not_understood(parameter, official)


def _taken(
    parameter: SearchParameter, id: str, official: Definitions, others: Custom
) -> Iterator[Issue]:
    """Yield which types have another parameter of the same code."""
    for type in official.heirs(parameter.base):
        if found := official.search_parameters[type].get(parameter.code):
            text = (
                f"{type} has the search parameter {parameter.code} ({found.url}): take another"
                " code, or say that this one is derivedFrom it"
            )
            yield _issue("business-rule", text, "code")
    mine = set(official.heirs(parameter.base))
    for other, one in others.items():
        if other != id and one.code == parameter.code:
            for type in sorted(mine.intersection(official.heirs(one.base))):
                text = f"{type} has the search parameter {one.code}, of {TYPE}/{other}"
                yield _issue("business-rule", text, "code")


def _not_understood(parameter: SearchParameter, official: Definitions) -> Iterator[Issue]:
    """Yield for which types the expression gives nothing that can be indexed."""
    indexer = Indexer(official.with_parameters([parameter]), "")
    for base in parameter.base:
        try:
            rows = [indexer.understood(parameter, type) for type in official.heirs([base])]
        except FhirError as error:
            yield _issue("processing", error.issues[0].text, "expression")
            return
        except (ValueError, RecursionError) as error:
            text = f"The expression is not understood for {base}: {str(error)[:500]}"
            yield _issue("processing", text, "expression")
            continue
        if not any(found.tables for found in rows):
            text = f"The expression finds nothing in {base} that a {parameter.type} can be made of"
            yield _issue("processing", text, "expression")


def _issue(code: str, text: str, element: str) -> Issue:
    return Issue("error", code, text, element)
