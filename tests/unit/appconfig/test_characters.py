import json

import pytest

from godwit.appconfig import characters, files
from godwit.appconfig.problems import dotted


@pytest.mark.parametrize(
    ("document", "place", "message"),
    [
        ({"env": {"A": "x\0"}}, "env.A", "has a NUL character in it"),
        ({"env": {"A\0": "x"}}, "env", "a key has a NUL character in it"),
        ({"x": ["a", "\ud800"]}, "x[1]", "has half a character in it"),
    ],
)
def test_characters_that_fit_nowhere_are_told_with_their_place(document, place, message):
    assert [(dotted(one.path), one.message) for one in characters.problems(document)] == [
        (place, message)
    ]


def test_all_other_characters_are_fine():
    assert characters.problems({"env": {"A": "é\n\t\x01😀"}, "n": 3, "b": None}) == []


def test_a_file_with_them_has_a_mistake(tmp_path):
    path = tmp_path / "fly.json"
    path.write_text(json.dumps({"app": "x", "env": {"A": "\ud800"}}))
    loaded = files.load(path)
    assert loaded.config is None
    assert [one.told("fly.json") for one in loaded.found] == [
        "fly.json:1: env.A: has half a character in it"
    ]
