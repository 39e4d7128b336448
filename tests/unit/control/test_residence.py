"""Which database it is: names for people, without secrets, and the files of a move."""

from pathlib import Path

import pytest

from godwit.base import errors
from godwit.control import residence


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("sqlite", "SQLite in the data directory"),
        (
            "postgresql://u:p@db.internal:5433/godwit",
            "PostgreSQL database godwit at db.internal:5433",
        ),
        ("postgres://u:p@db/godwit?sslmode=verify-full", "PostgreSQL database godwit at db:5432"),
        ("postgresql://u:p%40@[::1]/a%20b", "PostgreSQL database a b at [::1]:5432"),
        ("postgresql:///godwit?host=/run/pg&password=p", "PostgreSQL database godwit at /run/pg"),
        ("postgresql://u:p@a:1,b:2/godwit", "PostgreSQL database godwit at a:1,b:2"),
        ("postgresql+psycopg://u:p@db/godwit", "PostgreSQL database godwit at db:5432"),
    ],
)
def test_a_database_has_a_name_without_its_password(url: str, name: str) -> None:
    assert residence.place(url) == name


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mysql://u:geheim@h/d",
        "u:geheim@h",
        "postgresql:geheim",
        "postgresql://u:ge/geheim@h/d",
        "postgresql://u:12/geheim@h/d",
        "postgresql://u:geheim?x@h/d",
        "postgresql://u:12?geheim@h/d",
        "postgresql://u:geheim#x@h/d",
        "postgresql://u:geheim/x@h/d",
        "postgresql://u:x@h:geheim/d",
        "postgresql://u:geheim@h",
    ],
)
def test_what_names_no_database_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(errors.Failure) as caught:
        residence.place(url)
    assert "geheim" not in f"{caught.value.message} {caught.value.hint}"


def test_a_file_of_another_make_is_told_without_what_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "database.json"
    path.write_text('{"url": "postgresql://u:geheim@h/d"}')
    with pytest.raises(errors.Failure, match=r"database\.json") as caught:
        residence.read(path, residence.Residence)
    assert "geheim" not in f"{caught.value.message} {caught.value.__cause__}"
    assert residence.read(tmp_path / "none", residence.Residence) is None
