"""After any sequence of writes the index holds the rows of the current versions, and no other."""

from collections.abc import Iterable, Mapping
from typing import Any

from hypothesis import given

from app import db
from app.fhir import manifest
from app.fhir.wire import decode
from tests.access.door import Door
from tests.properties.conftest import DATABASE, fresh
from tests.properties.operations import Body, Operation, operations
from tests.support.resources import reference

Rows = list[tuple[Any, ...]]
Stored = Mapping[str, Rows]

DAY = 86_400_000_000

NAME = "p.code || CASE p.variant WHEN '' THEN '' ELSE ':' || p.variant END"

# Each index table with its numbers written out: what the resource is, and what the row says of it
SYMBOLIC = {
    "token": f"SELECT r.type, r.id, {NAME}, coalesce(s.uri, ''), t.code, t.owner, p.type"
    " FROM index_token t LEFT JOIN system_dictionary s ON s.system = t.system",
    "reference": f"SELECT r.type, r.id, {NAME}, o.type, o.id, t.owner, p.type"
    " FROM index_reference t LEFT JOIN resource o ON o.key = t.target",
    "date": f"SELECT r.type, r.id, {NAME}, t.lo, t.hi, t.long, t.owner, p.type FROM index_date t",
    "quantity": f"SELECT r.type, r.id, {NAME}, coalesce(s.uri, ''), t.code, t.lo, t.hi, t.owner,"
    " p.type FROM index_quantity t LEFT JOIN system_dictionary s ON s.system = t.unit",
    "string": f"SELECT r.type, r.id, {NAME}, t.norm, t.exact, t.owner, p.type FROM index_string t",
    "uri": f"SELECT r.type, r.id, {NAME}, t.uri, t.version, 0, p.type FROM index_uri t",
    "composite": f"SELECT r.type, r.id, {NAME}, t.k, coalesce(s.uri, ''), t.code,"
    " coalesce(u.uri, ''), t.code2, t.lo, t.hi, t.owner, p.type FROM index_composite t"
    " LEFT JOIN system_dictionary s ON s.system = t.system"
    " LEFT JOIN system_dictionary u ON u.system = t.system2",
    "position": f"SELECT r.type, r.id, {NAME}, t.z, t.x, t.y, 0, p.type FROM index_position t",
}
JOINS = " LEFT JOIN resource r ON r.key = t.key LEFT JOIN param_dictionary p ON p.param = t.param"
MEMBERS = (
    "SELECT r.type, r.id, o.type, o.id, t.type, t.occurred FROM compartment t"
    " LEFT JOIN resource r ON r.key = t.key LEFT JOIN resource o ON o.key = t.comp"
)
CURRENT = (
    "SELECT r.type, r.id, r.key, r.owner, r.state, r.present, r.occurred, r.manifest, v.body,"
    " o.type, o.id, v.owner FROM resource r"
    " LEFT JOIN resource_version v ON v.key = r.key AND v.version = r.version"
    " LEFT JOIN resource o ON o.key = r.owner"
)


async def everything(door: Door) -> Stored:
    """Return what the database holds: symbolic index rows, members, current rows, raw rows."""
    texts = {
        **{name: text + JOINS for name, text in SYMBOLIC.items()},
        "members": MEMBERS,
        "current": CURRENT,
        **{
            table.name: f"SELECT key, {', '.join(columns)} FROM {table.name}"
            for table, columns in manifest.INDEX.items()
        },
    }

    async def work(connection: db.Connection) -> Stored:
        return {
            name: [tuple(row) for row in await connection.rows(db.Statement(text, ()), {})]
            for name, text in texts.items()
        }

    return await door.server.database.read(work)


def expected_rows(door: Door, current: Rows) -> dict[str, set[tuple[Any, ...]]]:
    """Return the symbolic rows that the bodies of the live resources ask for."""
    numbers = door.server.definitions.type_numbers
    found: dict[str, set[tuple[Any, ...]]] = {name: set() for name in SYMBOLIC}
    for type, id, _, owner, state, _, _, _, body, *_ in current:
        if state != 1:
            continue
        rows = door.server.catalogue.indexer.rows(decode(body))
        for code, system, value in rows.token:
            found["token"].add((type, id, code, system, value, owner, type))
        for code, kind, target in rows.reference:
            named = (numbers[kind], target) if kind and "/" not in target else (0, target)
            found["reference"].add((type, id, code, *named, owner, type))
        for code, lo, hi in rows.date:
            found["date"].add((type, id, code, lo, hi, int(hi - lo > DAY), owner, type))
        for code, system, unit, low, high in rows.quantity:
            found["quantity"].add((type, id, code, system, unit, low, high, owner, type))
        for code, norm, exact in rows.string:
            found["string"].add((type, id, code, norm, exact, owner, type))
        for code, uri, version in rows.uri:
            found["uri"].add((type, id, code, uri, version, 0, type))
        for code, *columns in rows.composite:
            found["composite"].add((type, id, code, *columns, owner, type))
        for code, *columns in rows.position:
            found["position"].add((type, id, code, *columns, 0, type))
    return found


def of_manifests(current: Rows) -> dict[str, set[tuple[Any, ...]]]:
    """Return the numeric rows that the manifests say there are."""
    found: dict[str, set[tuple[Any, ...]]] = {table.name: set() for table in manifest.INDEX}
    for _, _, key, _, _, _, _, raw, *_ in current:
        for table, rows in zip(found, manifest.read(raw).tables, strict=False):
            found[table] |= {(key, *row) for row in rows}
    return found


def as_sets(stored: Stored, names: Iterable[str]) -> dict[str, set[tuple[Any, ...]]]:
    """Return the rows of some tables as sets, which must not make them fewer."""
    assert all(len(stored[name]) == len(set(stored[name])) for name in names)
    return {name: set(stored[name]) for name in names}


# compartmentdefinition-patient.html: through which elements a resource is in a Patient's
# compartment. Of the definition's parameters those that our resources have
def patients_of(body: Body) -> set[str]:
    """Return the ids of the Patients in whose compartment a resource is."""
    references: list[Body] = []
    match body["resourceType"]:
        case "Patient":
            references = [reference(f"Patient/{body['id']}")]
        case "Observation":
            references = [body.get("subject", {}), *body.get("performer", [])]
        case "Encounter":
            references = [body.get("subject", {})]
        case "Appointment":
            references = [part["actor"] for part in body["participant"]]
        case "Group":
            references = [member["entity"] for member in body.get("member", [])]
    own = [r.get("reference", "").removeprefix("http://milepost.test/fhir/") for r in references]
    return {text.removeprefix("Patient/") for text in own if text.startswith("Patient/")}


def others_of(body: Body) -> set[tuple[str, str]]:
    """Return the other compartments of a resource (compartmentdefinition.html)."""
    match body["resourceType"]:
        case "Encounter":
            return {("Encounter", body["id"])}
        case "Patient":
            return {("Practitioner", "d1")} if "generalPractitioner" in body else set()
        case "Observation":
            named = [body.get("subject", {}), body.get("encounter", {})]
            named += body.get("performer", [])
        case "Appointment":
            named = [part["actor"] for part in body["participant"]]
        case _:
            named = []
    texts = [r.get("reference", "") for r in named]
    kinds = ("Practitioner/", "Encounter/", "Device/")
    return {(t.split("/")[0], t.split("/")[1]) for t in texts if t.startswith(kinds)}


@DATABASE
@given(sequence=operations())
async def test_index_and_manifests_hold_the_rows_of_the_current_versions_and_no_other(
    door: Door, sequence: list[Operation]
) -> None:
    door = await fresh(door)
    for operation in sequence:
        assert (await operation.at(door)).status < 500

    stored = await everything(door)

    tables = [table.name for table in manifest.INDEX]
    absent = {key: raw for _, _, key, _, state, _, _, raw, *_ in stored["current"] if state != 1}
    assert as_sets(stored, SYMBOLIC) == expected_rows(door, stored["current"])
    assert as_sets(stored, tables) == of_manifests(stored["current"])
    assert {row[0] for name in tables for row in stored[name]}.isdisjoint(absent)
    assert set(absent.values()) <= {b""}


@DATABASE
@given(sequence=operations())
async def test_owner_and_compartments_are_those_of_the_specification(
    door: Door, sequence: list[Operation]
) -> None:
    door = await fresh(door)
    for operation in sequence:
        await operation.at(door)

    stored = await everything(door)

    names = door.server.definitions.resource_types
    owners, members = {}, set()
    wanted_owners, wanted_members = {}, set()
    for type, id, _, owner, state, _, _, _, body, owner_type, owner_id, version_owner in stored[
        "current"
    ]:
        if state != 1:
            continue
        content = decode(body)
        patients = patients_of(content)
        owners[type, id] = (names[owner_type - 1], owner_id) if owner else None
        wanted_owners[type, id] = ("Patient", *patients) if len(patients) == 1 else None
        shared = {("Patient", p) for p in patients} if len(patients) > 1 else set()
        wanted_members |= {(names[type - 1], id, *c) for c in shared | others_of(content)}
        assert version_owner == owner
    for type, id, kind, name, own_type, _ in stored["members"]:
        members.add((names[type - 1], id, names[kind - 1], name))
        assert own_type == type
    assert owners == wanted_owners
    assert members == wanted_members
