"""The agent's own cost: resident memory per machine, and CPU while a thousand machines idle.

Measured from outside on `tools.scripted_agent`: the real agent over scripted VMs, on a real bus.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.bench import Row, row

FEW, MANY = 10, 1_000
_SETTLE_S = 20.0
_LOOK_S = 30.0
_LOOKS = 3
_BASE_MB = 80.0
_EACH_KB = 150.0


def rows() -> list[Row]:
    """Return the rows of the agent."""
    few_mb, _ = _measured(FEW)
    many_mb, busy = _measured(MANY)
    each_kb = (many_mb - few_mb) * 1024 / (MANY - FEW)
    allowed_mb = _BASE_MB + MANY * _EACH_KB / 1024
    return [
        row("machine.agent_resident", f"VmRSS, {MANY} machines", "MB", [many_mb], must=allowed_mb),
        row("machine.agent_base", f"VmRSS, {FEW} machines", "MB", [few_mb], must=_BASE_MB),
        row("machine.agent_each", "VmRSS per machine", "KB", [each_kb], must=_EACH_KB),
        row("machine.agent_idle", f"{MANY} machines, of a core", "%", busy, aim=5.0),
    ]


def _measured(machines: int) -> tuple[float, list[float]]:
    """Return MB resident and the percents of a core that idling took."""
    with _agent(machines) as pid:
        time.sleep(_SETTLE_S)
        busy = []
        for _ in range(_LOOKS):
            before = _cpu_s(pid)
            began = time.monotonic()
            time.sleep(_LOOK_S)
            busy.append(100 * (_cpu_s(pid) - before) / (time.monotonic() - began))
        return _resident_mb(pid), busy


@contextmanager
def _agent(machines: int) -> Iterator[int]:
    with subprocess.Popen(
        [sys.executable, "-m", "tools.scripted_agent", str(machines)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", "the scripted agent did not come up"
        yield process.pid
        assert process.stdin is not None
        process.stdin.close()


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_mb(pid: int) -> float:
    found = [
        float(line.split()[1]) / 1024
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmRSS")
    ]
    return statistics.fmean(found)
