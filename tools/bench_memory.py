"""What machines cost in memory: shim, init, and one more idle clone of a template.

A clone is counted by its share of what it has in common with others (PSS); beside it, among the
same machines, stands a bare clone of the same template.
"""

import time
from pathlib import Path

from godwit.agent.vmm import hypervisor
from godwit.testing.platform import eventually, sh
from tools import bench_bare
from tools.bench import Row, row
from tools.bench_use import APP, Use

CLONES = 20
_IDLE_S = 20.0


def rows(use: Use) -> list[Row]:
    """Return the rows of memory."""
    machines = [use.create() for _ in range(CLONES)]
    last = machines[-1]
    use.check(last, "warm")
    resident = _resident(use, last)
    directory = use.up.data / "store" / "machines" / last
    with (
        bench_bare.origin(directory, use.erofs(last), use.memory_mb) as origin,
        bench_bare.running(origin, 0, _template(last)) as bare,
    ):
        time.sleep(_IDLE_S)
        ours = _pss_mb(_vmm_pid(last)) + _pss_mb(_shim_pid(last))
        peer = _pss_mb(bare.process.pid)
    for machine in machines:
        use.destroy(machine)
    clone = row(
        "machine.clone_memory",
        f"PSS of VMM and shim, idle, the {CLONES}th",
        "MB",
        [ours],
        "bare clone",
        [peer],
        must=1.25,
    )
    return [clone, *resident]


def _resident(use: Use, machine: str) -> list[Row]:
    shim = _shim_pid(machine)
    outside = eventually(lambda: _vm_rss(Path(f"/proc/{shim}/status").read_text()))
    inside = _vm_rss(use.up.exec(APP, machine, "cat", "/proc/1/status")["stdout"])
    return [
        row("machine.shim_resident", "VmRSS", "MB", [outside / 1024], aim=3.0),
        row("machine.init_resident", "VmRSS", "MB", [inside / 1024], aim=1.5),
    ]


def _template(machine: str) -> hypervisor.Snapshot:
    """Return the template whose memory a machine's VMM has mapped."""
    maps = Path(f"/proc/{_vmm_pid(machine)}/maps").read_text()
    found = {line.split()[5] for line in maps.splitlines() if line.endswith("/memory")}
    (memory,) = map(Path, found)
    return hypervisor.Snapshot(memory.with_name("state"), memory)


def _shim_pid(machine: str) -> int:
    return int(sh("pgrep", "-f", f"godwit-shim --config .*{machine}").stdout.split()[0])


def _vmm_pid(machine: str) -> int:
    return int(sh("pgrep", "-f", f"^[^ ]*qemu.*godwit-{machine}").stdout.split()[0])


def _pss_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def _vm_rss(text: str) -> float:
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS"))
