"""From a query tree to SQL; the gate that every mention of a resource passes.

https://hl7.org/fhir/R4/search.html

`lowering` turns a tree into a shape and values, `operations` says what each term means in SQL,
`gate` what a caller may see, `statements` builds whole statements and keeps their text.
"""

from app.fhir.sql.gate import LIVE, of_one_type, ranges
from app.fhir.sql.lowering import (
    CANONICAL,
    EXTERNAL,
    NOBODY,
    NOTHING_NAMED,
    Lowering,
    Named,
    Shape,
    Terminology,
    has_canonical_url,
    named,
)
from app.fhir.sql.operations import CERTAIN, operation
from app.fhir.sql.statements import (
    AFTER_ANY,
    PROBE_LIMIT,
    TABLES,
    WALKABLE,
    Arm,
    Compiler,
    History,
    Key,
    Plan,
    SortKind,
    missing,
)

__all__ = [
    "AFTER_ANY",
    "CANONICAL",
    "CERTAIN",
    "EXTERNAL",
    "LIVE",
    "NOBODY",
    "NOTHING_NAMED",
    "PROBE_LIMIT",
    "TABLES",
    "WALKABLE",
    "Arm",
    "Compiler",
    "History",
    "Key",
    "Lowering",
    "Named",
    "Plan",
    "Shape",
    "SortKind",
    "Terminology",
    "has_canonical_url",
    "missing",
    "named",
    "of_one_type",
    "operation",
    "ranges",
]
