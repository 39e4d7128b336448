"""Labs for tests, in namespaces of their own (see the Makefile); nothing may be left of one."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from godwit.testing.platform import Traces, traces
from lab.laboratory import Lab
from lab.plan import Plan

Made = Callable[[Plan], Lab]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(str(item.fspath)).is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.lab)


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """Return a folder for labs; short, as paths of sockets are, and open to machines' users."""
    folder = Path(tempfile.mkdtemp(prefix="lab-", dir="/var/tmp"))
    folder.chmod(0o711)
    yield folder
    assert list(folder.iterdir()) == []
    folder.rmdir()


def seen(name: str, root: Path) -> Traces:
    """Look at all that a lab could leave on a machine."""
    return traces(name, root)


def loops(root: Path) -> list[str]:
    """Return the files below a folder that loop devices hold."""
    found = []
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if file.read_text().startswith(str(root)):
                found.append(file.read_text().strip())
    return found


@contextlib.contextmanager
def made(plan: Plan, root: Path) -> Iterator[Lab]:
    """Yield a lab; take it down and look for what is left."""
    before = seen(plan.name, root)
    lab = Lab(plan, root)
    try:
        lab.start()
        yield lab
    finally:
        keep = os.environ.get("GODWIT_TEST_KEEP")
        for host in lab.hosts.values() if keep else ():
            logs = host.tree.directory / "data" / "log"
            if logs.exists():
                shutil.copytree(logs, f"{keep}/{host.name}", dirs_exist_ok=True)
        lab.down()
    root.mkdir(mode=0o711, exist_ok=True)
    assert loops(root) == []
    after = seen(plan.name, root)
    assert after == before, f"left behind: {after.beside(before)}"
