"""Reading replies, so that a test compares one value with one value."""

from typing import Any

import httpx


def issues(reply: httpx.Response) -> list[tuple[str, str]]:
    """Return the (code, text) of every issue in the reply's OperationOutcome."""
    return [(found["code"], found["diagnostics"]) for found in outcome(reply)["issue"]]


def issue(reply: httpx.Response) -> tuple[str, str]:
    """Return the (code, text) of the only issue in the reply's OperationOutcome."""
    (only,) = issues(reply)
    return only


def places(reply: httpx.Response) -> list[str]:
    """Return the element that each issue is about, empty text where it names none."""
    return [next(iter(found.get("expression", [])), "") for found in outcome(reply)["issue"]]


def outcome(reply: httpx.Response) -> dict[str, Any]:
    """Return the OperationOutcome that the reply is."""
    body: dict[str, Any] = reply.json()
    assert body["resourceType"] == "OperationOutcome", body
    return body


def resources(reply: httpx.Response) -> list[dict[str, Any]]:
    """Return the resources of the reply's Bundle in its order."""
    bundle = reply.json()
    assert bundle["resourceType"] == "Bundle", bundle
    return [entry["resource"] for entry in bundle.get("entry", []) if "resource" in entry]


def ids(reply: httpx.Response) -> list[str]:
    """Return the ids of the resources of the reply's Bundle in its order."""
    return [resource["id"] for resource in resources(reply)]


def link(reply: httpx.Response, relation: str) -> str | None:
    """Return the URL of the Bundle's link of that relation, or None."""
    links = reply.json().get("link", [])
    return next((one["url"] for one in links if one["relation"] == relation), None)
