"""A PostgreSQL server of the tests' own: in a temporary directory, on a Unix socket.

Its programs are Debian's `postgresql-15`. One server serves a whole test process; each test gets
a database of its own, copied from one that was migrated once. Nothing of it outlives the process.
"""

import atexit
import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import psycopg

_READY_S = 120.0
# What a crash of the machine would lose is nobody's to keep.
_OPTIONS = {
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "shared_buffers": "32MB",
    "max_connections": "100",
    "autovacuum": "off",
}


def programs() -> Path | None:
    """Return the directory of PostgreSQL's programs, the newest; `None` when there are none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=_version)
    return found[-1].parent if found else None


def _version(path: Path) -> int:
    return int(path.parts[-3])


class Server:
    """One server.

    Args:
        bin_directory: Where its programs are.
        listen: An address of its own network that it takes connections at as well.
        within: Returns the command that runs another one in that network.

    Attributes:
        directory: Its data and its socket.
    """

    def __init__(
        self,
        bin_directory: Path,
        *,
        listen: str = "",
        within: Callable[[list[str]], list[str]] = list,
    ) -> None:
        self._bin = bin_directory
        self._within = within
        # Root may not run PostgreSQL; `nobody` may.
        self._user = "nobody" if os.geteuid() == 0 else None
        self.directory = Path(tempfile.mkdtemp(prefix="godwit-pg-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        if self._user is not None:
            entry = pwd.getpwnam(self._user)
            os.chown(self.directory, entry.pw_uid, entry.pw_gid)
        options = ["-U", "godwit", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        subprocess.run(
            self._as_user("initdb", "-D", str(self.data), *options),
            check=True,
            capture_output=True,
            cwd=self.directory,
        )
        with (self.data / "postgresql.conf").open("a") as config:
            chosen = _OPTIONS | {"listen_addresses": listen}
            config.writelines(f"{name} = '{value}'\n" for name, value in chosen.items())
        with (self.data / "pg_hba.conf").open("a") as allowed:
            allowed.write("host all all 0.0.0.0/0 trust\n")

    @property
    def data(self) -> Path:
        """Where its files are."""
        return self.directory / "data"

    def url(self, database: str) -> str:
        """Return the URL of one of its databases."""
        return f"postgresql://godwit@/{database}?host={self.directory}"

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._within(
                    self._as_user("postgres", "-D", str(self.data), "-k", str(self.directory))
                ),
                stdout=log,
                stderr=log,
                cwd=self.directory,
            )
        end = time.monotonic() + _READY_S
        while not self._answers():
            assert self._process.poll() is None, (self.directory / "log").read_text()
            assert time.monotonic() < end, "PostgreSQL did not start in time"
            time.sleep(0.02)

    def stop(self, how: int = signal.SIGQUIT) -> None:
        """Stop it: without a word to its clients, unless told otherwise."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=_READY_S)
            self._process = None

    def freeze(self) -> None:
        """Have it keep silent: its processes stand still, its connections stay open."""
        for pid in self._pids():
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Have it go on, whether it was frozen or stopped."""
        for pid in self._pids():
            # One whose client had gone ends as soon as it goes on.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        if self._process is None:
            self.start()

    def _pids(self) -> list[int]:
        if self._process is None:
            return []
        first = self._process.pid
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return [first, *map(int, children)]

    def remove(self) -> None:
        """Stop it and remove its files."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def create(self, template: str = "template0") -> str:
        """Make a database, empty or a copy of another; return its name."""
        self._databases += 1
        name = f"test_{self._databases}"
        # Files are copied faster than logged; nothing is to survive a crash.
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY')
        return name

    def drop(self, name: str) -> None:
        """Remove a database, connected to or not."""
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run a statement past all code under test; return its rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            done = connection.execute(statement.encode())
            return done.fetchall() if done.description else []

    def _answers(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            self.execute("SELECT 1")
            return True
        return False

    def _as_user(self, program: str, *arguments: str) -> list[str]:
        argv = [str(self._bin / program), *arguments]
        # It goes with the test process, also with one that is killed.
        told = ["setpriv", "--pdeathsig", "QUIT"]
        if self._user is not None:
            told += ["--reuid", self._user, "--regid", "nogroup", "--clear-groups"]
        return [*told, *argv]


@cache
def shared() -> Server:
    """Return this process's server, started at the first call."""
    found = programs()
    assert found is not None, "PostgreSQL is not installed: `make setup`"
    server = Server(found)
    atexit.register(server.remove)
    server.start()
    return server
