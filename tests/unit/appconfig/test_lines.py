from hypothesis import given
from hypothesis import strategies as st

from godwit.appconfig import lines

TEXT = '''# a comment
app = "x"
text = """
[not a table]
key = 1
"""
list = [
  "[nor this]",
  { a = 1 },
]

[env]
"A B" = "1"
C.d = 2

[[services]]
internal_port = 1
  [[services.ports]]
  port = 80
  [[services.ports]]
  port = 443
[[services]]
[services.concurrency]
type = "x"
'''


def test_finds_keys_tables_and_items_of_lists():
    places = lines.of_toml(TEXT)
    assert places[("app",)] == 2
    assert places[("list",)] == 7
    assert places[("env",)] == 12
    assert places[("env", "A B")] == 13
    assert places[("env", "C", "d")] == 14
    assert places[("services", 0, "internal_port")] == 17
    assert places[("services", 0, "ports", 1, "port")] == 21
    assert places[("services", 1)] == 22
    assert places[("services", 1, "concurrency", "type")] == 24
    assert not [path for path in places if "key" in path or "not a table" in str(path)]


def test_a_key_that_is_not_there_has_the_line_of_its_table():
    places = lines.of_toml(TEXT)
    assert lines.find(places, ("services", 1, "concurrency", "soft_limit")) == 23
    assert lines.find(places, ("nothing",)) is None


def test_legacy_names_are_found_under_the_new_ones():
    places = lines.of_toml("[mount]\nsource = 'x'\n")
    assert lines.find(places, ("mounts", 0, "source")) == 2


def test_yaml_and_json_have_lines():
    places = lines.of_yaml("a:\n  - b: 1\n    c: 2\n")
    assert places[("a", 0, "c")] == 3
    assert lines.of_yaml("{") == {}


@given(st.text(max_size=200))
def test_any_text_is_scanned(text):
    lines.of_toml(text)
    lines.of_yaml(text)


@given(st.lists(st.from_regex(r"[a-z]{1,6}", fullmatch=True), unique=True, max_size=8))
def test_every_plain_key_is_found_on_its_line(keys):
    text = "".join(f"{key} = 1\n" for key in keys)
    assert lines.of_toml(text) == {(key,): at for at, key in enumerate(keys, start=1)}
