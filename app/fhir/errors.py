"""The one exception, and the one table from issue code to HTTP status.

https://hl7.org/fhir/R4/operationoutcome.html
https://hl7.org/fhir/R4/valueset-issue-type.html

Every refusal below `api` is a `FhirError` raised through a constructor that reads as the sentence
the client will see. Texts never quote clinical content: they name places, rules and expectations.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Severity = Literal["fatal", "error", "warning", "information"]

# valueset-issue-type.html: each code we use, and the HTTP status that it stands for (http.html)
STATUS: dict[str, int] = {
    "invalid": 400,
    "structure": 400,
    "not-supported": 400,
    "required": 422,
    "value": 422,
    "invariant": 422,
    "code-invalid": 422,
    "business-rule": 422,
    "processing": 422,
    "security": 403,
    "login": 401,
    "forbidden": 403,
    "not-found": 404,
    "deleted": 410,
    "conflict": 409,
    "duplicate": 412,
    "multiple-matches": 412,
    "too-long": 413,
    "too-costly": 422,
    "throttled": 429,
    "lock-error": 503,
    "timeout": 503,
    "transient": 503,
    "exception": 500,
    "informational": 200,
}


@dataclass(frozen=True, slots=True)
class Issue:
    """One finding: how bad, which kind (issue-type), in words, and the element it is about.

    `expression` is a simple FHIRPath (`Patient.name[0].family`) or, for a URL, `http.<parameter>`;
    it is empty where no single place is at fault. `details` is the (system, code) of the rule that
    found it, where there is one: OperationOutcome.issue.details.
    """

    severity: Severity
    code: str
    text: str
    expression: str = ""
    details: tuple[str, str] | None = None

    def under(self, place: str) -> "Issue":
        """Return the same finding with its place named from `place` downward (a bundle entry)."""
        inside = f"{place}.{self.expression}" if self.expression else place
        return replace(self, expression=inside)


class FhirError(Exception):
    """A refusal: the HTTP status, the issues that the client is told, and further headers."""

    def __init__(
        self,
        issues: Iterable[Issue],
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.issues = tuple(issues)
        self.status = status or STATUS[self.issues[0].code]
        self.headers = headers or {}
        super().__init__("; ".join(issue.text for issue in self.issues))


def refused(code: str, text: str, at: str = "", status: int | None = None) -> FhirError:
    """Return the refusal of a request with one issue about `at`."""
    return FhirError([Issue("error", code, text, at)], status)


def outcome(issues: Iterable[Issue]) -> dict[str, Any]:
    """Return the OperationOutcome that carries `issues`; with none, one informational "All OK"."""
    found = list(issues) or [Issue("information", "informational", "All OK")]
    rows = []
    for issue in found:
        row: dict[str, Any] = {
            "severity": issue.severity,
            "code": issue.code,
            "diagnostics": issue.text,
        }
        if issue.details:
            system, code = issue.details
            row["details"] = {"coding": [{"system": system, "code": code}], "text": issue.text}
        if issue.expression:
            row["expression"] = [issue.expression]
        rows.append(row)
    return {"resourceType": "OperationOutcome", "issue": rows}
