"""Ignore files by Docker's rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.base.errors import Failure
from godwit.builder import ignore

# pattern file, path, ignored: from moby's patternmatcher_test.go and Docker's documentation.
CASES = [
    ("*", "a", True),
    ("*", "a/b", True),
    ("*\n!a", "a", False),
    ("*\n!a", "a/b", False),
    ("*\n!a/b", "a/b", False),
    ("*\n!a/b", "a/c", True),
    ("*.log", "x.log", True),
    ("*.log", "d/x.log", False),
    ("**/*.log", "x.log", True),
    ("**/*.log", "d/e/x.log", True),
    ("*/temp*", "somedir/temporary.txt", True),
    ("*/temp*", "a/b/temp", False),
    ("*/*/temp*", "a/b/temp", True),
    ("temp?", "tempa", True),
    ("temp?", "temp", False),
    ("temp?", "tempab", False),
    ("/a", "a", True),
    ("a/", "a/b", True),
    ("./a", "a", True),
    ("a/../b", "b", True),
    ("d", "d/e/f", True),
    ("d", "x/d", False),
    ("**/d", "x/d/f", True),
    ("**", "a/b", True),
    ("d/**", "d/a/b", True),
    ("d/**", "d", False),
    ("d/**/x", "d/x", True),
    ("d/**/x", "d/a/b/x", True),
    ("**/.git", ".git/config", True),
    ("a**b", "a/x/b", True),
    ("a**b", "axxb", False),
    ("[ab].txt", "a.txt", True),
    ("[^ab].txt", "a.txt", False),
    ("[^ab].txt", "c.txt", True),
    ("[a-c]x", "bx", True),
    ("a[b-d]e", "ace", True),
    (r"a\*b", "a*b", True),
    (r"a\*b", "axb", False),
    ("a.c", "abc", False),
    ("a+c", "a+c", True),
    ("(a)", "(a)", True),
    ("a$b^c{}|", "a$b^c{}|", True),
    ("# comment\na", "a", True),
    ("#a", "#a", False),
    (" a ", "a", True),
    ("\n\n", "a", False),
    ("\ufeffa", "a", True),
    ("*.md\n!README*.md\nREADME-secret.md", "README-x.md", False),
    ("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", True),
    ("*.md\nREADME-secret.md\n!README*.md", "README-secret.md", False),
    ("!a\na", "a", True),
    ("node_modules\n!node_modules/keep", "node_modules/keep/x", False),
    ("node_modules\n!node_modules/keep", "node_modules/other", True),
    ("*\n!src\nsrc/*.tmp", "src/x.tmp", True),
    (".", "a", False),
    ("/", "a", False),
    ("ünï", "ünï", True),
]


@pytest.mark.parametrize(("text", "path", "ignored"), CASES)
def test_docker_and_we_agree(text, path, ignored):
    assert ignore.parse(text).ignores(path) is ignored


@pytest.mark.parametrize("text", ["!", "a\n! ", "[", "a[]b", "[z-a]"])
def test_what_is_no_pattern_is_refused_with_its_line(text):
    with pytest.raises(Failure, match=r"line [12]"):
        ignore.parse(text)


def test_taking_back_is_known():
    assert ignore.parse("a\n!b").takes_back
    assert not ignore.parse("a").takes_back


names = st.text("abc*?.!#[]\\/ ", min_size=1, max_size=8)


@given(st.lists(names, max_size=4).map("\n".join), st.text("abc./", min_size=1, max_size=8))
def test_any_file_is_rules_or_a_failure(text, path):
    try:
        ignore.parse(text).ignores(path)
    except Failure as failure:
        if failure.code != "invalid_argument":
            raise


@given(st.lists(st.text("ab", min_size=1, max_size=2), min_size=1, max_size=4))
def test_a_pattern_ignores_everything_below(parts):
    rules = ignore.parse(parts[0])
    assert rules.ignores("/".join(parts))
