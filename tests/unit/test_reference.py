"""The reference pages are what the code says today, and leave nothing out."""

import json

import pytest
from tools import reference

from godwit.base import principal
from godwit.cli import tree


@pytest.mark.parametrize("name", reference.RENDER)
def test_a_reference_page_is_what_the_code_says(name: str) -> None:
    kept = (reference.PAGES / name).read_text()
    assert kept == reference.RENDER[name](), f"write it again: {reference.COMMAND}"


def test_no_page_is_kept_that_nothing_writes() -> None:
    assert {page.name for page in reference.PAGES.iterdir()} == set(reference.RENDER)


def test_every_command_has_a_section_with_its_usage_and_options() -> None:
    page = (reference.PAGES / "cli.md").read_text()
    sections = {part.partition("\n")[0]: part for part in page.split("\n## ")[1:]}
    for command in reference.commands():
        section = sections[command.path]
        if command.is_group:
            continue
        assert f"    {command.path}" in section
        for option in command.click.params:
            if option.param_type_name == "option" and option.name not in tree.EVERYWHERE:
                assert all(f"`{name}" in section for name in option.opts), (command.path, option)


def test_every_entry_of_the_program_is_walked() -> None:
    walked = {command.path.split()[1] for command in reference.commands()}
    assert walked == {entry.name for entry in reference.entries()}


def test_every_command_says_what_it_is_for_and_shows_an_example() -> None:
    for command in reference.commands():
        assert command.click.help, command.path
        if not command.is_group:
            assert command.path in (command.click.epilog or ""), command.path


def test_every_route_is_listed_with_a_scope_there_is() -> None:
    page = (reference.PAGES / "api.md").read_text()
    document = json.loads((reference.ROOT / "contracts" / "openapi.json").read_text())
    scopes = {*principal.ALL_SCOPES, "public", "token", "basic"}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["x-godwit-scope"] in scopes
            own = " or own" if operation.get("x-godwit-own") else ""
            scope = f"`{operation['x-godwit-scope']}`{own}"
            assert f"| {method.upper()} | `{path}` | {scope} |" in page
