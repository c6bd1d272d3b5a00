"""The rules, kept: resources completed before they are stored, changes checked once written."""

from collections.abc import Iterable, Mapping

from app.fhir.access import SYSTEM
from app.fhir.errors import FhirError, Issue
from app.fhir.interaction import Interaction
from app.fhir.manifest import Identity
from app.fhir.reader import Reader, relative
from app.fhir.rest.server import Server
from app.fhir.rules import Change, Concerned, Finding, Rule, identities
from app.fhir.store import DELETED, Store, Version
from app.fhir.wire import Resource, decode

REFUSED = {"forbidden": 403, "conflict": 409, "duplicate": 409}  # all others 422

Findings = dict[Identity, list[Issue]]


def concerned(server: Server, versions: Iterable[Version]) -> bool:
    """Return whether a rule may be about what some versions changed."""
    known = server.rules.by_type
    return any(
        _may_concern(rule, version) for version in versions for rule in known.get(version.type, ())
    )


def _may_concern(rule: Rule, version: Version) -> bool:
    """Return whether a rule may be about a version, as far as that itself and its number say."""
    return (rule.past and version.version > 1) or rule.concerns(version.body)


async def filled(
    server: Server, store: Store, asked: Interaction, raw: bytes, resource: Resource
) -> Resource:
    """Return a resource completed by the rules: the same object where they add nothing."""
    if asked.type not in server.rules.filling:
        return resource
    rules = [r for r in server.rules.by_type[asked.type] if r.fill and r.concerns(raw)]
    if not rules:
        return resource
    reader = _reader(server, store)
    there = asked.id and asked.code != "create"
    before = await reader.get(f"{asked.type}/{asked.id}") if there else None
    for rule in rules:
        assert rule.fill is not None
        resource = await rule.fill(resource, before, reader)
    return resource


async def checked(server: Server, store: Store, places: Mapping[Identity, str]) -> Findings:
    """Return the warnings of the rules about what this transaction has written, by resource.

    Raises what they find wrong: a 403 or 409 (REFUSED), else a 422. `places` are those of what was
    written, in a Bundle.
    """
    about = await _about(server, store)
    if not about:
        return {}
    reader = _reader(server, store)
    warnings: Findings = {}
    for ground in (True, False):
        some = [one for one in about if one.rule.ground is ground]
        locks = {r for one in some for change in one.changes for r in one.rule.locks(change)}
        if locks:
            await store.lock(identities(locks))
        errors: list[Issue] = []
        for one in some:
            assert one.rule.check is not None
            for finding in await one.rule.check(one.changes, reader):
                key = (finding.change.type, finding.change.id)
                issue = _issue(server, one.rule, finding)
                warnings.setdefault(key, []).append(issue.under(key[0]))
                if issue.severity == "error":
                    place = f"{places[key]}.resource" if key in places else key[0]
                    errors.append(issue.under(place))
        if errors:
            raise FhirError(errors, min(REFUSED.get(issue.code, 422) for issue in errors))
    return warnings


def _issue(server: Server, rule: Rule, finding: Finding) -> Issue:
    details = (server.rules.system, finding.rule or rule.code)
    return Issue(finding.severity, finding.code, finding.text, finding.at, details)


async def _about(server: Server, store: Store) -> list[Concerned]:
    """Return each rule that has something to check, with the changes that it is about."""
    known = server.rules.by_type
    latest: dict[Identity, Version] = {}
    first: dict[Identity, int] = {}
    for version in store.written:
        if version.type in known:
            latest[version.type, version.id] = version
            first.setdefault((version.type, version.id), version.version)
    found = {id(rule): Concerned(rule) for rule in server.rules.rows if rule.check}
    system = _of_system(store)
    for key, version in latest.items():
        if not any(_may_concern(rule, version) for rule in known[version.type]):
            continue
        old = await _body_before(system, key, first[key])
        rules = [
            rule
            for rule in known[version.type]
            if rule.check and rule.concerns(version.body, old if rule.past else b"")
        ]
        if rules:
            change = Change(
                *key,
                decode(relative(old, server.base_url)) if old else None,
                decode(relative(version.body, server.base_url)) if version.op != DELETED else None,
            )
            for rule in rules:
                found[id(rule)].changes.append(change)
    return [one for one in found.values() if one.changes]


async def _body_before(system: Store, key: Identity, version: int) -> bytes:
    """Return the body of what stood there before a version, b"" for nothing."""
    if version == 1:
        return b""
    try:
        return (await system.vread(*key, str(version - 1))).body
    except FhirError:  # a deletion
        return b""


def _of_system(store: Store) -> Store:
    """Return a store on the same transaction that sees everything and tells nobody."""
    return Store(store.connection, store.catalogue, SYSTEM)


def _reader(server: Server, store: Store) -> Reader:
    known = server.language, server.now()
    return Reader(_of_system(store), *known, comparing=True, asker=store.caller)
