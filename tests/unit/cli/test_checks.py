"""`godwit checks list`."""

import dataclasses

import pytest

CONFIG = {"checks": {"alive": {}, "db": {}}}


@pytest.fixture
def hello(cli):
    cli.fake.add_app("hello")
    cli.write("fly.toml", 'app = "hello"\n')
    return cli


def test_every_check_of_every_machine_is_a_line(hello):
    first, second = (hello.fake.add_machine("hello", CONFIG) for _ in range(2))
    done = hello("checks", "list")
    lines = [line.split()[:3] for line in done.stdout.splitlines()]
    assert lines[0] == ["NAME", "STATUS", "MACHINE"]
    pairs = [(name, machine) for machine in sorted((first, second)) for name in ("alive", "db")]
    assert lines[1:] == [[name, "passing", machine] for name, machine in pairs]


def test_one_check_by_its_name_and_all_that_is_known_as_json(hello):
    machine = hello.fake.add_machine("hello", CONFIG)
    assert hello("checks", "list", "--check-name", "db", "--json").json == [
        {
            "machine_id": machine,
            "name": "db",
            "status": "passing",
            "output": hello.fake.script(hello.fake.machines[machine]).output,
            "updated_at": "2026-01-01T00:00:00Z",
        }
    ]


def test_a_long_output_is_one_line_in_the_table(hello):
    machine = hello.fake.machines[hello.fake.add_machine("hello", {"checks": {"alive": {}}})]
    script = dataclasses.replace(hello.fake.script(machine), output="not\nwell " * 50)
    hello.fake.script = lambda _: script
    assert hello("checks", "list").stdout.splitlines()[1].endswith(" not w…")


def test_no_checks_is_said_and_is_an_empty_list_as_json(hello):
    hello.fake.add_machine("hello", {})
    done = hello("checks", "list")
    assert (done.code, done.stdout, done.stderr) == (0, "", "no checks\n")
    assert hello("checks", "list", "--json").json == []
