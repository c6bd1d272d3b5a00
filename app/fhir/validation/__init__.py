"""Whether a resource is valid R4.

https://hl7.org/fhir/R4/validation.html

`primitives` knows the texts of single values, `references` what a Reference may say, `invariants`
the rules in FHIRPath; `structure` walks a resource once and asks all of them.
"""

from app.fhir.validation.structure import Validator

__all__ = ["Validator"]
