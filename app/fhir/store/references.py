"""Who refers to a resource, whoever asks: what an integrity check looks at.

A reference is found by the index: by the search parameters that read it, or as one of the others.
"""

from collections.abc import AsyncIterator

from app import db
from app.fhir.index import OTHER_REFERENCES
from app.fhir.store.catalogue import Catalogue

PAGE = 100
MOST_PAGES = 100  # after which nobody is interested in more

Referrers = dict[str, dict[int, tuple[str, bytes]]]


async def referrers(
    connection: db.Connection, catalogue: Catalogue, type: str, id: str
) -> AsyncIterator[Referrers]:
    """Yield pages of the live resources with a reference to this one, in order of type and id.

    Of each, by type and key, its id and its body; whether anybody may see it is not asked.
    """
    numbers, names = catalogue.definitions.type_numbers, catalogue.definitions.resource_types
    params = catalogue.referring.get(type)
    if params is None:
        params = catalogue.referring[type] = referring(catalogue, type)
    after = {"after_type": 0, "after_id": ""}
    for _ in range(MOST_PAGES):
        plan = catalogue.compiler.referrers(
            type=numbers[type], id=id, params=params, limit=PAGE, **after
        )
        rows = await connection.rows(plan.statement, plan.values)
        page: Referrers = {}
        for key, number, name, body in rows:
            page.setdefault(names[number - 1], {})[key] = (name, body)
        if page:
            yield page
        if len(rows) < PAGE:
            return
        after = {"after_type": rows[-1][1], "after_id": rows[-1][2]}


def referring(catalogue: Catalogue, type: str) -> list[int]:
    """Return the numbers of the search parameters whose rows may point at a type."""
    definitions = catalogue.definitions
    others = [catalogue.params[source, OTHER_REFERENCES] for source in definitions.resource_types]
    return others + [
        catalogue.params[source, code]
        for source, parameters in definitions.search_parameters.items()
        for code, parameter in parameters.items()
        if parameter.type == "reference"
        and parameter.expression
        and type in (definitions.targets(source, code) or (type,))
    ]
