"""Which profiles, tags and security labels are in use.

https://hl7.org/fhir/R4/resource-operation-meta.html

The index tells them apart, folded as searches need them; how each is written is in the body of a
resource that has it.
"""

from app.fhir.errors import refused
from app.fhir.store.record import Store

CODES = {"token": ("_security", "_tag"), "uri": ("_profile",)}
MOST = 1000  # of each kind


async def labelled(store: Store, type: str) -> list[bytes]:
    """Return resources of a type ("" for all) that together have every label which one has.

    Of those that the caller may see; a 422 where there are too many labels.
    """
    catalogue = store.catalogue
    types = [type] if type else catalogue.definitions.resource_types
    gate, values = await store.visibility.gate(type, "search")
    bodies: dict[int, bytes] = {}
    for table, codes in CODES.items():
        params = [catalogue.params[one, code] for one in types for code in codes]
        plan = catalogue.compiler.labelled(table, gate, values, params=params, limit=MOST + 1)
        rows = await store.connection.rows(plan.statement, plan.values)
        if len(rows) > MOST:
            raise refused("too-costly", f"There are more than {MOST} labels; name a type")
        for key, number, body in rows:
            kind = catalogue.definitions.resource_types[number - 1]
            bodies[key] = store.visibility.shown(kind, body)
    return list(bodies.values())
