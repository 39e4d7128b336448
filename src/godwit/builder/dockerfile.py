"""Reading a Dockerfile, as far as a builder has to: stages, base images, ports, volumes. Pure.

Finds which images a build needs before it starts, and the mistakes worth a sentence with a
line number. What a step does is Buildah's business.
"""

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from godwit.base import errors

_KNOWN: Final = (
    "ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL",
    "MAINTAINER", "ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR",
)  # fmt: skip
_DIRECTIVE: Final = re.compile(r"^#\s*([A-Za-z]+)\s*=\s*(\S+)\s*$")
_FLAG: Final = re.compile(r"^--([a-z][a-z-]*)(?:=(\S+))?\s+")
_HEREDOC: Final = re.compile(r"(?:^|\s)\d*<<-?([\"']?)[A-Za-z_]\w*\1")
_VARIABLE: Final = re.compile(
    r"\\(?P<escaped>.)|\$(?:(?P<plain>[A-Za-z_]\w*)"
    r"|\{(?P<name>[A-Za-z_]\w*)(?::?(?P<how>[-+])(?P<word>[^}]*))?\})"
)
_PORT: Final = re.compile(r"(\d{1,5})(?:-\d{1,5})?(?:/(tcp|udp|sctp))?", re.IGNORECASE)
_WORD: Final = re.compile(r"""(?:"[^"]*"|'[^']*'|[^\s"'])+""")
_PIECE: Final = re.compile(r""""([^"]*)"|'([^']*)'|([^"']+)""")
_MAX_BYTES: Final = 1 << 20
_PLATFORM: Final = {
    "TARGETPLATFORM": "linux/amd64",
    "TARGETOS": "linux",
    "TARGETARCH": "amd64",
    "TARGETVARIANT": "",
    "BUILDPLATFORM": "linux/amd64",
    "BUILDOS": "linux",
    "BUILDARCH": "amd64",
    "BUILDVARIANT": "",
}


@dataclass(frozen=True)
class Stage:
    """One stage, from its FROM to the next.

    Attributes:
        base: What follows FROM, variables expanded: an image, `scratch` or another stage.
        uses: What `COPY --from` and `RUN --mount=…,from=` name: stages or images.
        ports: As `EXPOSE` says them: `8080/tcp`.
        line: Of the FROM.
    """

    index: int
    name: str
    base: str
    uses: tuple[str, ...]
    ports: tuple[str, ...]
    volumes: tuple[str, ...]
    line: int


@dataclass(frozen=True)
class Dockerfile:
    """All stages of a file."""

    stages: tuple[Stage, ...]

    def target(self, name: str) -> Stage:
        """Return the stage to build: by name or number, the last one for an empty name.

        Raises:
            Failure: `invalid_argument`, suggesting the name that was meant.
        """
        if not name:
            return self.stages[-1]
        found = self._find(name, len(self.stages))
        if found is not None:
            return found
        names = [stage.name for stage in self.stages if stage.name]
        close = difflib.get_close_matches(name.lower(), names, n=1)
        hint = f"did you mean {close[0]}?" if close else f"stages: {', '.join(names) or 'unnamed'}"
        raise errors.invalid(f"the Dockerfile has no stage {name!r}", hint=hint)

    def images(self, target: str = "") -> tuple[str, ...]:
        """Return the images that a build of a target needs, each once, in order."""
        needed: dict[str, None] = {}
        todo = [self.target(target)]
        seen: set[int] = set()
        while todo:
            stage = todo.pop()
            if stage.index in seen:
                continue
            seen.add(stage.index)
            for name in (stage.base, *stage.uses):
                other = self._find(name, stage.index)
                if other is not None:
                    todo.append(other)
                elif name.lower() != "scratch":
                    needed[name] = None
        return tuple(needed)

    def ports(self, target: str = "") -> tuple[str, ...]:
        """Return what a target and the stages it stands on expose, the nearest first."""
        stage: Stage | None = self.target(target)
        found: dict[str, None] = {}
        while stage is not None:
            found.update(dict.fromkeys(stage.ports))
            stage = self._find(stage.base, stage.index)
        return tuple(found)

    def _find(self, name: str, before: int) -> Stage | None:
        earlier = self.stages[:before]
        if name.isdigit() and int(name) < len(earlier):
            return earlier[int(name)]
        return next((s for s in reversed(earlier) if s.name and s.name == name.lower()), None)


def parse(text: str, args: Mapping[str, str] | None = None) -> Dockerfile:
    """Return the stages of a Dockerfile.

    Args:
        text: The file.
        args: Values given for ARG; they decide what `FROM ${BASE}` means.

    Raises:
        Failure: `invalid_argument`, with the line that is wrong.
    """
    if len(text) > _MAX_BYTES:
        raise errors.invalid("the Dockerfile is longer than 1 MiB")
    reader = _Reader(args or {})
    for line, keyword, rest in _instructions(text):
        reader.take(line, keyword, rest)
    stages = reader.finish()
    if not stages:
        raise errors.invalid(
            "the Dockerfile has no FROM", hint="begin it with, say, FROM debian:bookworm-slim"
        )
    return Dockerfile(stages)


class _Reader:
    """Collects instructions into stages."""

    def __init__(self, args: Mapping[str, str]) -> None:
        self._given = args
        self._globals = dict(_PLATFORM)
        self._scope = self._globals
        self._stages: list[Stage] = []
        self._open: tuple[int, str, str] | None = None
        self._uses: list[str] = []
        self._ports: list[str] = []
        self._volumes: list[str] = []

    def take(self, line: int, keyword: str, rest: str) -> None:
        if keyword == "FROM":
            self._from(line, rest)
        elif self._open is None and keyword != "ARG":
            raise _wrong(line, f"{keyword} comes before the first FROM")
        elif keyword == "ARG":
            self._arg(rest)
        elif keyword == "ENV":
            self._scope.update(_pairs(self._expanded(rest)))
        elif keyword == "EXPOSE":
            self._ports += [_port(line, word) for word in self._expanded(rest).split()]
        elif keyword == "VOLUME":
            self._volumes += _words(self._expanded(rest))
        elif keyword in ("COPY", "ADD", "RUN"):
            self._uses += _sources(keyword, rest)

    def finish(self) -> tuple[Stage, ...]:
        if self._open is not None:
            line, name, base = self._open
            stage = Stage(
                index=len(self._stages),
                name=name,
                base=base,
                uses=tuple(dict.fromkeys(self._uses)),
                ports=tuple(dict.fromkeys(self._ports)),
                volumes=tuple(dict.fromkeys(self._volumes)),
                line=line,
            )
            self._stages.append(stage)
            self._open = None
            self._uses, self._ports, self._volumes = [], [], []
        return tuple(self._stages)

    def _from(self, line: int, rest: str) -> None:
        self.finish()
        while match := _FLAG.match(rest):
            rest = rest[match.end() :]
        words = _expand(rest, self._globals).split()
        if not words:
            raise _wrong(line, f"FROM names no image: {rest!r} is empty")
        aliased = 3
        if len(words) not in (1, aliased) or (len(words) == aliased and words[1].lower() != "as"):
            raise _wrong(line, f"FROM takes an image, or an image AS a name; it has {rest!r}")
        name = words[2].lower() if len(words) == aliased else ""
        self._open = (line, name, words[0])
        self._scope = dict(_PLATFORM)

    def _arg(self, rest: str) -> None:
        for name, default in _arguments(rest):
            if name in self._given:
                self._scope[name] = self._given[name]
            elif default is not None:
                self._scope[name] = self._expanded(default)
            elif self._open is not None and name in self._globals:
                self._scope[name] = self._globals[name]

    def _expanded(self, text: str) -> str:
        return _expand(text, self._scope)


def _instructions(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield line number, keyword and the rest, continuation lines joined."""
    lines = text.removeprefix("\ufeff").splitlines()
    escape = _escape(lines)
    pending, began = "", 0
    for number, line in enumerate(lines, 1):
        stripped = line.strip()
        if stripped.startswith("#") or (pending and not stripped):
            continue
        began = began if pending else number
        if stripped.endswith(escape):
            pending += line.rstrip()[:-1] + " "
            continue
        whole = (pending + line).strip()
        pending = ""
        if whole:
            yield began, *_split(began, whole)
    if pending.strip():
        yield began, *_split(began, pending.strip())


def _split(line: int, whole: str) -> tuple[str, str]:
    word, _, rest = whole.partition(" ")
    word, tab, more = word.partition("\t")
    keyword = word.upper()
    if keyword not in _KNOWN:
        close = difflib.get_close_matches(keyword, _KNOWN, n=1)
        hint = f"did you mean {close[0]}?" if close else ""
        raise _wrong(line, f"{word} is not an instruction", hint)
    if keyword in ("RUN", "COPY", "ADD") and _HEREDOC.search(rest):
        raise _wrong(line, "here-documents are not supported", "put the lines into a file")
    return keyword, (more + " " + rest if tab else rest).strip()


def _escape(lines: Sequence[str]) -> str:
    for line in lines:
        match = _DIRECTIVE.match(line.strip())
        if match is None:
            break
        if match.group(1).lower() == "escape" and match.group(2) in ("\\", "`"):
            return match.group(2)
    return "\\"


def _expand(text: str, values: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        if match["escaped"] is not None:
            return match["escaped"]
        name = match["plain"] or match["name"]
        found = values.get(name, "")
        if match["how"] == "-":
            return found or match["word"]
        if match["how"] == "+":
            return match["word"] if found else ""
        return found

    return _VARIABLE.sub(value, text)


def _arguments(rest: str) -> Iterator[tuple[str, str | None]]:
    for word in _words(rest):
        name, equals, default = word.partition("=")
        yield name, default if equals else None


def _pairs(rest: str) -> dict[str, str]:
    first, space, value = rest.partition(" ")
    if "=" not in first and space:
        return {first: value.strip()}
    return dict(word.split("=", 1) for word in _words(rest) if "=" in word)


def _words(text: str) -> list[str]:
    """Split a list in either form, `["a", "b"]` or words with quotes."""
    if text.startswith("["):
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if isinstance(found, list):
            return [str(word) for word in found]
    return [
        "".join(double or single or bare for double, single, bare in _PIECE.findall(word))
        for word in _WORD.findall(text)
    ]


def _sources(keyword: str, rest: str) -> list[str]:
    found = []
    while match := _FLAG.match(rest):
        rest = rest[match.end() :]
        flag, value = match.group(1), match.group(2) or ""
        if flag == "from" and keyword == "COPY":
            found.append(value)
        elif flag == "mount":
            options = dict(part.partition("=")[::2] for part in value.split(","))
            if origin := options.get("from"):
                found.append(origin)
    return found


def _port(line: int, word: str) -> str:
    match = _PORT.fullmatch(word)
    highest = 65535
    if match is None or not 1 <= int(match.group(1)) <= highest:
        raise _wrong(line, f"EXPOSE {word}: not a port")
    return f"{match.group(1)}/{(match.group(2) or 'tcp').lower()}"


def _wrong(line: int, why: str, hint: str = "") -> errors.Failure:
    return errors.invalid(f"Dockerfile, line {line}: {why}", hint=hint)
