"""The OpenAPI document: served, checked in, valid, and true of what is answered.

`python -m tests.unit.api.test_openapi` writes contracts/openapi.json.
"""

import asyncio
import json
import tempfile
from pathlib import Path

import httpx
import jsonschema
from openapi_spec_validator import validate

from godwit.api import app as api
from godwit.testing.control import world
from tests.unit.api import table
from tests.unit.api.conftest import Served

CONTRACT = Path(__file__).resolve().parents[3] / "contracts" / "openapi.json"


def render(document: object) -> str:
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


async def test_the_checked_in_document_is_the_one_served(served: Served) -> None:
    for path in ("/openapi.json", "/v1/openapi.json"):
        document = (await served.nobody.get(path)).json()
        assert render(document) == CONTRACT.read_text(), (
            "write it again: python -m tests.unit.api.test_openapi"
        )


async def test_the_document_is_valid_openapi(served: Served) -> None:
    validate(served.app.openapi())


async def test_every_operation_has_an_id_of_its_own_and_says_its_scope(served: Served) -> None:
    operations = [
        operation
        for methods in served.app.openapi()["paths"].values()
        for operation in methods.values()
    ]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names) == len(table.CASES)
    for operation in operations:
        public = operation["x-godwit-scope"] == "public"
        assert (operation["security"] == []) == public
        assert "default" in operation["responses"]


def check(document: dict, case: table.Case, answer: httpx.Response) -> None:
    """Hold an answer to what the document says of it."""
    responses = document["paths"][case.path][case.method.lower()]["responses"]
    declared = responses.get(str(answer.status_code), responses["default"])
    schema = declared.get("content", {}).get("application/json", {}).get("schema")
    if schema is not None:
        jsonschema.validate(answer.json(), {**schema, "components": document["components"]})


async def test_answers_are_what_the_document_says(served: Served) -> None:
    things = await table.make_things(served)
    document = served.app.openapi()
    for case in table.destroying_last():
        for client in (served.nobody, served.rival, served.operator):
            check(document, case, await table.send(client, case, things))


async def _write() -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with world(Path(directory)) as around:
            CONTRACT.write_text(render(api.create(around.ctx).openapi()))


if __name__ == "__main__":
    asyncio.run(_write())
