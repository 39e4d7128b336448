"""Lines of NAME=VALUE: what they set, and which are refused without being quoted."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.base import errors
from godwit.cli import dotenv

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,10}", fullmatch=True)
TEXT = st.text(st.characters(exclude_characters="\r", exclude_categories=("Cs",)), max_size=60)


def escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


@given(st.dictionaries(NAMES, TEXT))
def test_what_is_quoted_comes_back(values: dict[str, str]) -> None:
    lines = "".join(f'{name}="{escaped(value)}"\n' for name, value in values.items())
    assert dotenv.parse(lines) == values


@given(st.dictionaries(NAMES, TEXT.filter(lambda value: "'" not in value)))
def test_single_quotes_take_everything_as_it_is(values: dict[str, str]) -> None:
    lines = "\n".join(f"export {name} = '{value}' # a comment" for name, value in values.items())
    assert dotenv.parse(lines) == values


@given(TEXT.filter(lambda value: "'''" not in value and not value.endswith("'")))
def test_three_quotes_hold_lines(value: str) -> None:
    assert dotenv.parse(f"A='''\n{value}'''\nB=1") == {"A": value, "B": "1"}


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(errors.Failure):
        assert isinstance(dotenv.parse(text), dict)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("# nothing\n\n   # here\n", {}),
        ("A=1\nB = two words  # said\r\nC=\n", {"A": "1", "B": "two words", "C": ""}),
        ("URL=http://x/#frag", {"URL": "http://x/#frag"}),
        ("A=#no value", {"A": ""}),
        ("A=1\nA=2", {"A": "2"}),
        ("A=$HOME ${B}", {"A": "$HOME ${B}"}),
        ('A="a\\tb\\qc"', {"A": "a\tb\\qc"}),
        ('A="one\ntwo"', {"A": "one\ntwo"}),
        ('K="""\n-----BEGIN-----\n"x"\n"""', {"K": '-----BEGIN-----\n"x"\n'}),
        ("A=it's", {"A": "it's"}),
    ],
)
def test_lines_as_people_write_them(text: str, found: dict[str, str]) -> None:
    assert dotenv.parse(text) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A=1\ngeheim", "line 2 is not NAME=VALUE"),
        ("9A=geheim", "line 1 is not NAME=VALUE"),
        ('A="geheim', 'line 1 has no closing "'),
        ("\nA='''geheim'", "line 2 has no closing '''"),
        ("A='geheim' x", "line 1 has something after"),
    ],
)
def test_what_cannot_be_read_is_refused_by_line_and_not_quoted(text: str, said: str) -> None:
    with pytest.raises(errors.Failure) as refused:
        dotenv.parse(text)
    assert said in refused.value.message
    assert "geheim" not in refused.value.message
