"""Operations: named procedures beside the REST interactions.

https://hl7.org/fhir/R4/operations.html

`operation` is what one is, `parameters` what goes in and out, `standard` the rows of those that R4
defines and of ours; each of the other modules performs one or a few of them.
"""

from app.fhir.operations.operation import Call, Operation, Operations, Plan, Trial, level
from app.fhir.operations.parameters import answered, given
from app.fhir.operations.standard import standard

__all__ = [
    "Call",
    "Operation",
    "Operations",
    "Plan",
    "Trial",
    "answered",
    "given",
    "level",
    "standard",
]
