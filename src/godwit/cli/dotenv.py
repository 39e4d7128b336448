r"""`NAME=VALUE` lines as people write them into files, quotes and comments included. Pure.

    # a comment, as is an empty line
    export PLAIN=up to the end, without spaces around it   # and without this
    SINGLE='exactly what is here, a # too'
    DOUBLE="\n, \r, \t, \" and \\ mean what they mean in most languages"
    LONG='''as it is,
    until three quotes come again'''

Single and double quotes may hold line ends, too. Nothing is substituted: a $ is a $.
"""

import re

from godwit.base import errors

_NAME = re.compile(r"[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_.-]*)[ \t]*=[ \t]*")
_BLANK = re.compile(r"[ \t\r]*(?:#[^\n]*)?(?:\n|$)")
_BARE = re.compile(r"[^\n]*")
_COMMENT = re.compile(r"(?:^|[ \t])#.*$", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_MEANING = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\"}
_QUOTED = {
    '"""': re.compile(r'"""\n?(.*?)"""', re.DOTALL),
    "'''": re.compile(r"'''\n?(.*?)'''", re.DOTALL),
    '"': re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL),
    "'": re.compile(r"'([^']*)'", re.DOTALL),
}


def parse(text: str) -> dict[str, str]:
    """Return what a text sets, the last one of a name winning.

    Raises:
        Failure: `invalid_argument`, with the line but never what is on it.
    """
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        blank = _BLANK.match(text, at)
        if blank is not None:
            at = max(blank.end(), at + 1)
            continue
        name = _NAME.match(text, at)
        if name is None:
            raise _wrong(text, at, "is not NAME=VALUE")
        value, at = _value(text, name.end())
        rest = _BLANK.match(text, at)
        if rest is None:
            raise _wrong(text, at, "has something after the closing quote")
        found[name[1]] = value
        at = rest.end()
    return found


def _value(text: str, at: int) -> tuple[str, int]:
    """Return the value that begins here, and where it ends."""
    for quote, whole in _QUOTED.items():
        if text.startswith(quote, at):
            found = whole.match(text, at)
            if found is None:
                raise _wrong(text, at, f"has no closing {quote}")
            inside = found[1]
            if quote == '"':
                inside = _ESCAPED.sub(lambda one: _MEANING.get(one[1], one[0]), inside)
            return inside, found.end()
    found = _BARE.match(text, at)
    bare = "" if found is None else found[0]
    return _COMMENT.sub("", bare).strip(" \t\r"), at + len(bare)


def _wrong(text: str, at: int, what: str) -> errors.Failure:
    return errors.invalid(f"line {text.count(chr(10), 0, at) + 1} {what}")
