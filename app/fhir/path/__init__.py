"""FHIRPath: parsed to a tree, compiled once to Python, evaluated on JSON.

https://hl7.org/fhirpath/N1/ and https://hl7.org/fhir/R4/fhirpath.html

`grammar` is the language, `collection` the values, `functions` and `evaluation` what is done.
"""

from app.fhir.path.collection import Field, Model, Node
from app.fhir.path.evaluation import Compiled, compile  # noqa: A004 (the spec's word)
from app.fhir.path.grammar import (
    Binary,
    Call,
    Expression,
    Index,
    Literal,
    Measure,
    Member,
    Temporal,
    TypeTest,
    Unary,
    Variable,
    parse,
)

__all__ = [
    "Binary",
    "Call",
    "Compiled",
    "Expression",
    "Field",
    "Index",
    "Literal",
    "Measure",
    "Member",
    "Model",
    "Node",
    "Temporal",
    "TypeTest",
    "Unary",
    "Variable",
    "compile",
    "parse",
]
