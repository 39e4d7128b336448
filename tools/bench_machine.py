"""Machines: cold, warm and resumed starts beside bare QEMU; many starts; memory; the agent.

A start is measured from the API being asked for it, to the guest's process running, as the shim
heard it. Its peer, in the same rounds, is a bare boot of the same kernel, initramfs and disks
(`bench_bare`).
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from godwit.testing import platform as testing
from tools import bench_agent, bench_bare, bench_images, bench_memory
from tools.bench import Row, row
from tools.bench_use import Use

ROUNDS = 9
COLD_BOOTS = 50
WARM_STARTS = 200
TOGETHER = 10
TOGETHER_ROUNDS = 5
CREATES = 15
_ROOM = {"GODWIT_HOST_MEMORY_MB": "20480"}
_COLD = {"GODWIT_HOST_WARM_STARTS": "false"}


def rows() -> list[Row]:
    """Return every row of the area."""
    with testing.world():
        with testing.platform(**_COLD) as up:
            cold = _cold(Use.of(up))
        with testing.platform(**_ROOM) as up:
            warm = _warm(Use.of(up))
    return [*cold, *warm, *bench_images.rows(), *bench_agent.rows()]


def _cold(use: Use) -> list[Row]:
    """Return the rows of starts that boot a kernel."""
    machine = use.create()
    ours, bare = [], []
    with _bare(use, machine) as origin:
        for _ in range(ROUNDS):
            use.stop(machine)
            bare.append(bench_bare.boot(origin))
            ours.append(use.start(machine))
    use.destroy(machine)
    failed = _failures(use, COLD_BOOTS, 2)
    return [
        _against_bare("machine.cold", ours, bare, must=1.25, aim=1.10),
        row(f"machine.{COLD_BOOTS}_boots", "failed, two at once", "boots", [failed], must=0),
    ]


def _warm(use: Use) -> list[Row]:
    """Return the rows of starts from a template and of suspended machines."""
    first = use.create()
    use.await_template(first)
    machines = [first, *(use.create() for _ in range(TOGETHER - 1))]
    sleeper = use.create(suspending=True)
    took: dict[str, list[float]] = defaultdict(list)
    with _bare(use, first) as origin:
        use.stop_all([*machines, sleeper])
        for _ in range(ROUNDS):
            took["bare"].append(bench_bare.boot(origin))
            took["warm"].append(use.start(first, expect="warm"))
            took["stream"].append(use.suspended_start(first))
            use.stop(first)
            use.start(sleeper)
            took["own"].append(use.suspended_start(sleeper))
            use.stop(sleeper)
        for _ in range(TOGETHER_ROUNDS):
            took["bare together"].append(bench_bare.boot_at_once(origin, TOGETHER))
            took["together"].append(use.start_together(machines))
            use.stop_all(machines)
    for each in (*machines, sleeper):
        use.destroy(each)
    bare = took["bare"]
    together = f"machine.warm_{TOGETHER}"
    return [
        _against_bare("machine.warm", took["warm"], bare, must=0.25, aim=0.10),
        _against_bare(
            together, took["together"], took["bare together"], must=0.35, what="at once, the last"
        ),
        _against_bare("machine.resume", took["own"], bare, must=0.15, aim=0.08),
        _against_bare(
            "machine.resume",
            took["stream"],
            bare,
            must=0.15,
            aim=0.08,
            what="not meant to suspend",
        ),
        row("machine.create", "answer to a create", "ms", _creates(use), must=150),
        row(
            f"machine.{WARM_STARTS}_warm",
            "failed, two at once",
            "starts",
            [_failures(use, WARM_STARTS, 2, expect="warm")],
            must=0,
        ),
        *bench_memory.rows(use),
    ]


@contextmanager
def _bare(use: Use, machine: str) -> Iterator[bench_bare.Origin]:
    directory = use.up.data / "store" / "machines" / machine
    with bench_bare.origin(directory, use.erofs(machine), use.memory_mb) as made:
        yield made


def _against_bare(
    bench: str,
    ours: list[float],
    bare: list[float],
    *,
    must: float,
    aim: float | None = None,
    what: str = "start to process running",
) -> Row:
    return row(bench, what, "s", ours, "bare QEMU boot", bare, must=must, aim=aim)


def _creates(use: Use) -> list[float]:
    """Return milliseconds to the answer of creates whose image is here."""
    took = []
    for _ in range(CREATES):
        began = time.time()
        machine = use.ask_for_one()
        took.append(1000 * (time.time() - began))
        use.wait(machine, "started")
        use.destroy(machine)
    return took


def _failures(use: Use, count: int, at_once: int, expect: str | None = None) -> int:
    """Create, use and destroy machines; return how many failed."""

    def one(_: int) -> int:
        try:
            machine = use.create()
            use.check(machine, expect)
            use.destroy(machine)
        except (OSError, AssertionError, RuntimeError, ValueError) as error:
            print(f"a start failed: {error}", flush=True)
            return 1
        return 0

    attempt: Callable[[int], int] = one
    with ThreadPoolExecutor(at_once) as pool:
        return sum(pool.map(attempt, range(count)))
