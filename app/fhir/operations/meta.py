"""Profiles, tags and security labels: $meta, $meta-add and $meta-delete.

https://hl7.org/fhir/R4/resource-operation-meta.html
https://hl7.org/fhir/R4/resource-operation-meta-add.html
https://hl7.org/fhir/R4/resource-operation-meta-delete.html
"""

from collections.abc import Callable, Iterable
from typing import Any

from app.fhir.errors import refused
from app.fhir.interaction import Interaction, Reply
from app.fhir.operations.operation import Call, Labels, Perform, Plan, Trial
from app.fhir.operations.parameters import answered
from app.fhir.store import Store, labelled
from app.fhir.wire import Resource, decode, encode, fields

JSON_PATCH = "application/json-patch+json"
SETS = ("profile", "security", "tag")  # of Meta, in its order


async def shown(call: Call) -> Reply | Plan | Trial:
    """Return the Meta of a resource, of a version, or of all that a type or the server has."""
    asked, store = call.asked, call.store
    if asked.version:
        found = _meta((await store.vread(asked.type, asked.id, asked.version)).body)
    elif asked.id:
        found = _meta((await store.read(asked.type, asked.id)).body)
    else:
        found = await _in_use(call)
    return Reply(200, answered(call.operation, {"return": found}))


async def _in_use(call: Call) -> Resource:
    """Return all profiles, labels and tags of the resources that the caller may see.

    Without texts for people, which differ from resource to resource.
    """
    metas = [_meta(body) for body in await labelled(call.store, call.asked.type)]
    found: Resource = {}
    for name in SETS:
        given = [one for meta in metas for one in meta.get(name, ())]
        bare = [_bare(one) if isinstance(one, dict) else one for one in given]
        if union := _union((), bare):
            found[name] = sorted(union, key=lambda one: str(_identity(one)))
    return found


def _bare(coding: Resource) -> Resource:
    return {name: coding[name] for name in ("system", "code") if name in coding}


def changed(change: Callable[[Resource, Resource, Labels], Resource]) -> Perform:
    """Return what performs $meta-add or $meta-delete: `change` makes the new Meta of the old."""

    async def perform(call: Call) -> Reply | Plan | Trial:
        asked, store = call.asked, call.store
        await store.lock(await store.reachable({(asked.type, asked.id): "update"}))
        held = _meta((await store.read(asked.type, asked.id)).body)
        meta = change(held, call.one("meta"), call.kept)
        write = Interaction(
            "patch",
            asked.type,
            asked.id,
            body=encode([{"op": "replace", "path": "/meta", "value": meta}]),
            content_type=JSON_PATCH,
        )

        async def answer(store: Store) -> Reply:
            found = await store.read(asked.type, asked.id)
            body = answered(call.operation, {"return": _meta(found.body)})
            return Reply(200, body, found.version, found.updated)

        return Plan([write], answer)

    return perform


def added(held: Resource, given: Resource, kept: Labels) -> Resource:
    """Return a Meta with what another one has as well; nothing comes twice."""
    del kept
    sets = {name: _union(held.get(name, ()), given.get(name, ())) for name in SETS}
    return _with(held, sets)


def deleted(held: Resource, given: Resource, kept: Labels) -> Resource:
    """Return a Meta without what another one has; a 422 for a label that the server keeps."""
    sets = {}
    for name in SETS:
        away = {_identity(one) for one in given.get(name, ())}
        if name != "profile" and away & kept & {_identity(one) for one in held.get(name, ())}:
            text = "The server has set this label, and no client takes it away"
            raise refused("business-rule", text, f"meta.{name}")
        sets[name] = [one for one in held.get(name, ()) if _identity(one) not in away]
    return _with(held, sets)


def _union(held: Iterable[Any], given: Iterable[Any]) -> list[Any]:
    found = {_identity(one): one for one in held}
    for one in given:
        found.setdefault(_identity(one), one)
    return list(found.values())


def _identity(one: Any) -> Any:
    """Return what makes a tag or label itself, system and code; of a profile its URL."""
    return (one.get("system", ""), one.get("code", "")) if isinstance(one, dict) else one


def _with(held: Resource, sets: Resource) -> Resource:
    rest = {name: value for name, value in held.items() if name not in SETS}
    return {**rest, **{name: value for name, value in sets.items() if value}}


def _meta(body: bytes) -> Resource:
    return decode(bytes(fields(body).get("meta", b"{}")))
