import json
import tomllib

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from godwit.appconfig import writing
from godwit.appconfig.normalise import normalise


def test_a_new_file_has_top_level_keys_first_and_sections_in_order():
    text = writing.new(
        {
            "vm": [{"memory": "1gb"}],
            "http_service": {"internal_port": 8080, "checks": [{"path": "/"}]},
            "app": "hello",
            "build": {"dockerfile": "x"},
            "env": {},
            "primary_region": "lcl",
        },
        comment="what it is",
    )
    assert text == (
        '# what it is\n\napp = "hello"\nprimary_region = "lcl"\n\n[build]\ndockerfile = "x"\n\n'
        '[http_service]\ninternal_port = 8080\n\n[[http_service.checks]]\npath = "/"\n\n'
        '[[vm]]\nmemory = "1gb"\n'
    )


def test_a_change_keeps_comments_order_and_spacing():
    text = "# mine\n\n[env]\nA='1' # keep\n\n[http_service]\n  internal_port=1\n"
    changed = writing.changed(
        text, {"app": "y", "http_service.internal_port": 2, "env.B": "3", "build.image": "z"}
    )
    assert changed == (
        '# mine\napp = "y"\n\n[env]\nA=\'1\' # keep\nB = "3"\n\n[http_service]\n'
        '  internal_port=2\n\n[build]\nimage = "z"\n'
    )
    assert tomllib.loads(changed)["app"] == "y"


MINE = """# what it is
app = "hello"  # mine
kill_timeout = 5

# how it is built
[build]
  dockerfile = "Dockerfile"  # not the other one

[mount]
source = "data"
destination = "/data"

[env]
B = 2
A = "1" # first

[[services]]
internal_port = 80
concurrency = "5,10"
"""


def test_a_rewritten_file_keeps_comments_order_and_what_says_the_same() -> None:
    wanted = normalise(tomllib.loads(MINE))
    assert writing.rewritten(MINE, wanted) == MINE
    wanted |= {"app": "other", "env": {"A": "1", "C": "3"}, "primary_region": "fra"}
    wanted["services"][0]["internal_port"] = 81
    del wanted["kill_timeout"]
    text = writing.rewritten(MINE, wanted)
    assert normalise(tomllib.loads(text)) == normalise(wanted)
    assert text.startswith('# what it is\napp = "other"  # mine\n')
    for kept in (
        '# how it is built\n[build]\n  dockerfile = "Dockerfile"  # not the other one\n',
        '[mount]\nsource = "data"\n',
        'A = "1" # first\n',
    ):
        assert kept in text


def test_a_section_in_legacy_spelling_that_changes_is_written_once() -> None:
    wanted = normalise(tomllib.loads(MINE))
    wanted["mounts"][0]["destination"] = "/other"
    text = writing.rewritten(MINE, wanted)
    assert "[mount]" not in text
    assert normalise(tomllib.loads(text)) == normalise(wanted)


def test_a_section_can_go_and_another_kind_of_value_take_its_place() -> None:
    assert writing.rewritten("a = 1\n[build]\nimage = 'x'\n", {"a": 1}).strip() == "a = 1"
    text = writing.rewritten("checks = 1\napp = 'x'\n", {"app": "x", "checks": {"a": {"port": 1}}})
    assert tomllib.loads(text) == {"app": "x", "checks": {"a": {"port": 1}}}


def test_the_same_document_in_three_formats() -> None:
    document = {"vm": [{"cpus": 1}], "app": "x", "env": {}}
    wanted = {"app": "x", "vm": [{"cpus": 1}]}
    assert json.loads(writing.as_format(document, ".json")) == wanted
    assert yaml.safe_load(writing.as_format(document, ".yaml")) == wanted
    assert tomllib.loads(writing.as_format(document, ".toml")) == wanted


KEYS = st.sampled_from(["app", "env", "mounts", "metrics", "a", "b c", "", "kill_timeout"])
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
SCALARS = (
    st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | TEXTS, inner, max_size=3),
    max_leaves=10,
)
DOCUMENTS = st.dictionaries(KEYS | TEXTS, VALUES, max_size=5)


def without_empty(value):
    """Return a value without the tables and lists that say nothing."""
    if isinstance(value, dict):
        inner = {key: without_empty(one) for key, one in value.items()}
        return {key: one for key, one in inner.items() if one not in ({}, [])}
    return [without_empty(one) for one in value] if isinstance(value, list) else value


@given(DOCUMENTS)
@settings(max_examples=300)
def test_what_was_written_is_read_back(document) -> None:
    for suffix, read in (
        (".toml", tomllib.loads),
        (".json", json.loads),
        (".yaml", yaml.safe_load),
    ):
        assert without_empty(read(writing.as_format(document, suffix))) == without_empty(document)


@given(DOCUMENTS, DOCUMENTS)
@settings(max_examples=300)
def test_a_rewritten_file_says_what_it_shall(before, wanted) -> None:
    wanted = normalise(wanted)
    text = writing.rewritten(writing.new(normalise(before)), wanted)
    assert without_empty(normalise(tomllib.loads(text))) == without_empty(wanted)
