"""`godwit control move-database`: what it asks, and what it says where nothing runs."""

import pytest

from godwit.cli import exits, registry
from godwit.cmd.cli import HOST_ENTRIES
from tests.unit.cli.conftest import Cli

ENTRIES = (*registry.ENTRIES, *HOST_ENTRIES)
URL = "postgresql://godwit:geheim@db.internal/godwit"


@pytest.fixture
def nowhere(cli: Cli) -> Cli:
    """The program, on a machine where nothing runs."""
    cli.environ["GODWIT_PATHS_DATA"] = str(cli.directory / "data")
    cli.environ["GODWIT_PATHS_RUN"] = str(cli.directory / "run")
    return cli


def move(cli: Cli, *arguments: str):
    return cli("control", "move-database", *arguments, entries=ENTRIES)


def test_where_nothing_runs_it_says_so_and_not_the_password(nowhere: Cli) -> None:
    done = move(nowhere, "--to", URL, "--yes")
    assert done.code == exits.FAILED
    assert "control does not run here" in done.stderr
    assert "geheim" not in done.stdout + done.stderr


def test_it_asks_first_and_names_the_database_only(nowhere: Cli) -> None:
    nowhere.interactive, nowhere.answers = True, ["n"]
    done = move(nowhere, "--to", URL)
    assert "PostgreSQL database godwit at db.internal:5432?" in done.stderr
    assert "Nothing was changed." in done.stderr
    assert "geheim" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("-", "neither `sqlite` nor"),
        ("mysql://godwit:geheim@db/godwit", "neither `sqlite` nor"),
        ("postgresql://godwit:ge/geheim@db/godwit", "malformed"),
    ],
)
def test_what_is_no_database_is_wrong_usage(nowhere: Cli, to: str, said: str) -> None:
    done = move(nowhere, "--to", to, "--yes")
    assert done.code == exits.USAGE
    assert said in done.stderr
    assert "geheim" not in done.stdout + done.stderr
