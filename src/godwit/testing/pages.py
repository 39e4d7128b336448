"""What the user's pages show, as steps to take: commands to run, config files to write."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGES = tuple(
    ROOT / "docs" / "howto" / f"{name}.md"
    for name in (
        *("launch", "deploy", "configuration", "process-groups", "secrets", "checks"),
        "containers",
    )
)
OF_MACHINES = tuple(
    ROOT / "docs" / "howto" / f"{name}.md" for name in ("scale", "console", "machines")
)
"""Pages about machines by name and hosts in several regions: run on simulated hosts alone."""
OF_AN_APP_THAT_RUNS = frozenset({"configuration", "secrets", "checks"})
"""Pages whose first command is about an app that was deployed."""
STANDARD_INPUT: dict[tuple[str, ...], str] = {
    ("secrets", "set", "TLS_KEY=-"): "-----BEGIN PRIVATE KEY-----\n",
    ("secrets", "import"): "# from .env\nSMTP_PASSWORD='a b'\n",
    ("console", "--machine", "148ed193b95948", "--command", "cat -n"): "select 1\n",
}
"""What commands read that take it from standard input."""
_INDENT = "    "


@dataclass(frozen=True)
class Step:
    """One thing that a page shows.

    Attributes:
        line: Where it begins.
        words: A command's; none for a file.
        file: A config file's text, whole or a part of one.
    """

    line: int
    words: tuple[str, ...] = ()
    file: str = ""

    @property
    def whole(self) -> bool:
        """Whether it is a whole config file: one that names an app."""
        return "app" in tomllib.loads(self.file) if self.file else False


def steps(page: Path) -> list[Step]:
    """Return the steps of a page's indented blocks, in their order."""
    return [step for line, block in _blocks(page.read_text()) for step in _steps(line, block)]


def _steps(line: int, block: list[str]) -> Iterator[Step]:
    text = "\n".join(block)
    if re.match(r"\[|[a-z_]+ = ", text):
        tomllib.loads(text)
        yield Step(line, file=f"{text}\n")
        return
    for number, one in enumerate(block):
        piped = one.rpartition(" | ")[2]
        words = shlex.split(re.split(r"\s+#", piped)[0])
        if words and words[0] == "godwit":
            yield Step(line + number, words=tuple(words[1:]))


def _blocks(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield indented blocks; in one of TOML blank lines are kept."""
    block: list[str] = []
    began = 0
    for number, line in enumerate([*text.splitlines(), "end"], 1):
        if line.startswith(_INDENT):
            began = began if block else number
            block.append(line.removeprefix(_INDENT))
        elif block and not line.strip():
            block.append("")
        elif block:
            yield began, "\n".join(block).rstrip().splitlines()
            block = []
