"""Whether the server would accept a resource: $validate.

https://hl7.org/fhir/R4/resource-operation-validate.html

Content alone is checked by what checks every write. With a mode the very write is made, and
undone: so nothing can be refused later that was not refused here.
"""

from collections.abc import Sequence

from app.fhir.errors import Issue, outcome, refused
from app.fhir.interaction import Interaction, Reply
from app.fhir.operations.operation import Call, Level, Plan, Trial, level
from app.fhir.wire import Resource, encode

BASE_PROFILES = "http://hl7.org/fhir/StructureDefinition/"
# valueset-resource-validation-mode.html, and at which levels each makes sense; profile is not for
# servers that do not store what they validate against
MODES: dict[str, tuple[Level, ...]] = {
    "create": ("type",),
    "update": ("instance",),
    "delete": ("instance",),
}


async def validate(call: Call) -> Reply | Plan | Trial:
    """Return an OperationOutcome with all that is wrong: a 200, whatever it says."""
    asked, mode, resource = call.asked, call.one("mode"), call.one("resource")
    where = level(asked)
    if mode is not None and mode not in MODES:
        text = f"mode must be one of {', '.join(MODES)}"
        raise refused("value", text, "http.mode", 400)
    if mode is not None and where not in MODES[mode]:
        text = f"The mode {mode} is for a call at the level of the {MODES[mode][0]}"
        raise refused("invalid", text, "http.mode", 400)
    if resource is None and mode != "delete":
        text = "$validate needs a resource, unless the mode is delete"
        raise refused("required", text, "Parameters.parameter", 400)
    if mode == "delete":
        return Trial(Interaction("delete", asked.type, asked.id, if_match=asked.if_match), _told)
    profiles = _profiles(call, resource)
    if mode is None:
        return _told([*_content(call, resource), *profiles])
    write = Interaction(
        mode,
        asked.type,
        asked.id,
        body=encode(resource),
        if_match=asked.if_match,
        if_none_exist=asked.if_none_exist,
    )
    return Trial(write, lambda issues: _told([*issues, *profiles]))


def _content(call: Call, resource: Resource) -> Sequence[Issue]:
    found = resource.get("resourceType")
    if found != call.asked.type:
        text = f"resourceType must be {call.asked.type}, as in the URL"
        return [Issue("error", "invalid", text, f"{call.asked.type}.resourceType")]
    return call.validator.validate(resource)


def _profiles(call: Call, resource: Resource) -> list[Issue]:
    """Return an error for a profile that is asked for, a warning for each that the resource claims.

    The base definition of the type is the one profile that can be checked.
    """
    known = BASE_PROFILES + call.asked.type
    issues: list[Issue] = []
    asked = call.one("profile")
    if asked is not None and asked.partition("|")[0] != known:
        text = "The profile that was asked for is not known here: this says nothing about it"
        issues.append(Issue("error", "not-supported", text, "http.profile"))
    meta = resource.get("meta")
    claimed = meta.get("profile") if isinstance(meta, dict) else None
    for n, url in enumerate(claimed if isinstance(claimed, list) else ()):
        if url not in (known, asked):
            text = "This profile is not known here: nothing was checked against it"
            place = f"{call.asked.type}.meta.profile[{n}]"
            issues.append(Issue("warning", "not-supported", text, place))
    return issues


def _told(issues: Sequence[Issue]) -> Reply:
    return Reply(200, encode(outcome(issues)))
