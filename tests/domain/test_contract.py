"""What all operations of a program have in common: how they are told of, and how called."""

from app.fhir.operations import Operation
from tests.domain.office import Iop

READ_ONLY = {"eligibility-screen", "weekly-hours", "census"}


def of_program(iop: Iop) -> list[Operation]:
    """Return the operations that are defined below the canonical base."""
    rows = iop.app.state.server.operations.rows
    return [row for row in rows if row.definition["url"].startswith(iop.vocabulary.base)]


async def test_every_definition_is_read_searched_and_listed(iop: Iop) -> None:
    stated = (await iop.client.get("/metadata")).json()["rest"][0]
    listed = {
        (one["type"], row["name"], row["definition"])
        for one in stated["resource"]
        for row in one.get("operation", ())
    }

    for operation in of_program(iop):
        id, url = operation.definition["id"], operation.definition["url"]
        assert url == f"{iop.vocabulary.base}/OperationDefinition/{id}"
        assert (await iop.read(f"OperationDefinition/{id}"))["code"] == operation.code
        named = await iop.search(f"OperationDefinition?code={operation.code}")
        assert url in {one["url"] for one in named}
        for type in operation.definition["resource"]:
            assert (type, operation.code, url) in listed


async def test_every_definition_is_valid(iop: Iop) -> None:
    validate = iop.app.state.server.validator.validate

    found = {one.code: validate(one.definition) for one in of_program(iop)}

    assert found == {code: [] for code in found}


async def test_every_operation_has_an_address_in_openapi(iop: Iop) -> None:
    paths = (await iop.client.get("http://milepost.test/openapi.json")).json()["paths"]

    for operation in of_program(iop):
        assert any(path.endswith(f"/${operation.code}") for path in paths), operation.code


async def test_what_changes_the_record_can_be_tried_and_needs_a_post(iop: Iop) -> None:
    for operation in of_program(iop):
        changes = operation.code not in READ_ONLY
        assert operation.affects_state == operation.writes == changes, operation.code
        assert ("dry-run" in operation.inputs) == changes, operation.code
        assert (operation.tell is not None) == changes, operation.code
        for _, address in operation.addresses():
            reply = await iop.client.get("/" + address.replace("[id]", "x"))
            assert (reply.status_code == 405) == changes, operation.code


async def test_names_are_in_kebab_case(iop: Iop) -> None:
    names = [
        part["name"]
        for operation in of_program(iop)
        for parameter in operation.definition.get("parameter", ())
        for part in (parameter, *parameter.get("part", ()))
    ]

    assert [name for name in names if name != name.lower() or "_" in name[1:]] == []
