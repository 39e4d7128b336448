"""Several processes in one machine: they end together, and their lines stay whole."""

import dataclasses

import pytest

from godwit.wire import guest
from tests.host import network_lab as lab
from tests.vm import vm_lab

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]


def beside(machine: vm_lab.Machine, *scripts: str) -> vm_lab.Machine:
    """Give a machine more processes."""
    more = tuple(
        guest.Process(argv=("sh", "-c", script), env={"PATH": vm_lab.PATH}, user="app")
        for script in scripts
    )
    spec = machine.plan.run_spec.model_copy(update={"beside": more})
    machine.plan = dataclasses.replace(machine.plan, run_spec=spec)
    return machine


@lab.own_namespace
async def test_a_machine_ends_with_the_first_of_its_processes():
    async with vm_lab.host() as here:
        main = "printf 'half '; sleep 2; echo of main; sleep 1000"
        worker = "printf 'half '; sleep 3; echo of worker as $(id -un); sleep 2; exit 7"
        machine = beside(here.machine(5, script=main), worker)
        await machine.boot()
        record = await machine.ended()
        assert record.guest.exit_code == 7
        for line in ("half of main", "half of worker as app"):
            assert f'"m":"{line}"' in machine.log()


@lab.own_namespace
async def test_a_stop_gives_each_process_its_time_and_the_main_one_says_how_it_ended():
    async with vm_lab.host() as here:
        main = "trap 'exit 3' INT; echo main up; while :; do sleep 0.1; done"
        worker = "trap 'sleep 2; echo worker done; exit 4' INT; echo worker up;"
        machine = beside(here.machine(5, script=main), worker + " while :; do sleep 0.1; done")
        await machine.boot()
        await machine.says("main up")
        await machine.says("worker up")
        await machine.session.stop("SIGINT", 60_000)
        record = await machine.ended()
        assert record.guest.exit_code == 3
        assert '"m":"worker done"' in machine.log()
