"""A scripted VMM: fail boot twice, exit 3 after 5 s, never answer. VMs outlive the agent."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

from godwit.agent import ports
from godwit.base import errors
from godwit.base.clock import Clock
from godwit.testing.guest_call import GuestCall
from godwit.testing.typed_back import PutIn, TypedBack
from godwit.testing.world import Boot, Hands, Saved, Vm, World
from godwit.wire import host_rpc, shim
from godwit.wire.guest_containers import CheckStanding, Standing

_numbers = itertools.count(1)
_RESUME_S = 0.1
_UNANSWERED_S = 10.0


class Machinery:
    """What makes VMs of a world go on: belongs to the world, not to an agent."""

    def __init__(self, world: World, clock: Clock) -> None:
        self.world = world
        self.clock = clock

    def spawn(self, plan: ports.VmPlan) -> None:
        """Begin a VM; one that runs already is left alone."""
        if self._runs_already(plan):
            return
        if plan.machine_id in self.world.saved:
            self.world.lies.append(f"{plan.machine_id}: booted beside its saved state")
        script = self.world.scripts[plan.machine_id]
        vm = self._add(plan, script.popleft() if script else Boot())
        loop = asyncio.get_running_loop()
        if vm.boot.outcome != "hangs":
            loop.call_later(vm.boot.boot_s, self.boots, vm)

    def save(self, vm: Vm) -> None:
        """Save a VM's state; it stands still then, its shim beside it."""
        machine_id = vm.plan.machine_id
        self.world.saved[machine_id] = Saved(vm.plan, vm.boot, self.world.disks[machine_id])
        vm.paused = True

    def load(self, plan: ports.VmPlan) -> None:
        """Let a saved VM run on; its saved state is spent by that.

        Raises:
            Failure: There is no usable one.
        """
        if self._runs_already(plan):
            return
        saved = self.world.saved.get(plan.machine_id)
        if saved is None or not saved.usable or saved.plan.instance_id != plan.instance_id:
            raise errors.Failure("failed_precondition", "there is no usable snapshot")
        if saved.disk != self.world.disks.get(plan.machine_id):
            self.world.lies.append(f"{plan.machine_id}: resumed over another disk")
        del self.world.saved[plan.machine_id]
        vm = self._add(plan, saved.boot)
        asyncio.get_running_loop().call_later(_RESUME_S, self._resumed, vm)

    def _runs_already(self, plan: ports.VmPlan) -> bool:
        vm = self.world.vms.get(plan.machine_id)
        if vm is not None and vm.plan.instance_id != plan.instance_id:
            self.world.lies.append(f"{plan.machine_id}: two versions at once")
        if vm is not None and vm.paused:
            self.world.lies.append(f"{plan.machine_id}: begun beside its paused VM")
        return vm is not None

    def _add(self, plan: ports.VmPlan, boot: Boot) -> Vm:
        world, machine_id = self.world, plan.machine_id
        if machine_id not in world.prepared:
            world.lies.append(f"{machine_id}: spawned without a disk")
        if plan.slot not in world.taps:
            world.lies.append(f"{machine_id}: spawned without a tap")
        if any(vm.plan.slot == plan.slot for vm in world.vms.values()):
            world.lies.append(f"{machine_id}: two VMs on slot {plan.slot}")
        vm = Vm(plan, boot, next(_numbers))
        world.vms[machine_id] = vm
        world.disks[machine_id] = vm.number
        return vm

    def _resumed(self, vm: Vm) -> None:
        if self._is_current(vm):
            vm.phase = "running"
            vm.started_at_ms = self.clock.now_ms()
            vm.tell()

    def boots(self, vm: Vm) -> None:
        """Let a VM come to the end of its boot, whatever that is."""
        if not self._is_current(vm):
            return
        if vm.boot.outcome == "dies":
            self.end(vm, cause="vmm", vmm=shim.VmmExit(exit_code=1))
        elif vm.boot.outcome == "refuses":
            failure = shim.GuestFailure(stage="spawn", message="no such program: serve")
            self.end(vm, cause="guest", failure=failure)
        else:
            vm.phase = "running"
            vm.started_at_ms = self.clock.now_ms()
            vm.tell()
            if vm.boot.exit_after_s is not None:
                loop = asyncio.get_running_loop()
                loop.call_later(vm.boot.exit_after_s, self.guest_exits, vm, vm.boot.exit_code)

    def guest_exits(self, vm: Vm, code: int, sig: int | None = None) -> None:
        """End a VM by its process's exit."""
        if self._is_current(vm) and not vm.paused:
            self.end(vm, cause="guest", guest=shim.GuestExit(exit_code=code, signal=sig))

    def end(
        self,
        vm: Vm,
        *,
        cause: str,
        guest: shim.GuestExit | None = None,
        failure: shim.GuestFailure | None = None,
        vmm: shim.VmmExit | None = None,
    ) -> None:
        """End a VM: exit.json first, then the shim tells, then it is gone."""
        if not self._is_current(vm):
            return
        machine_id = vm.plan.machine_id
        vm.exit = shim.ExitRecord.model_validate(
            {
                "machine_id": machine_id,
                "instance_id": vm.plan.instance_id,
                "exited_at_ms": self.clock.now_ms(),
                "cause": cause,
                "guest": guest,
                "failure": failure,
                "vmm": vmm or shim.VmmExit(exit_code=0),
            }
        )
        vm.phase = "exited"
        self.world.exits[machine_id] = vm.exit
        del self.world.vms[machine_id]
        vm.tell()

    def lose(self, machine_id: str) -> None:
        """Take VM and shim away without a word, as a power loss does."""
        vm = self.world.vms.pop(machine_id, None)
        if vm is not None:
            vm.phase = "exited"
            vm.tell()

    def restart_host(self) -> None:
        """Lose every VM and tap; disks and records stay."""
        for machine_id in tuple(self.world.vms):
            self.lose(machine_id)
        self.world.taps.clear()

    def _is_current(self, vm: Vm) -> bool:
        return self.world.vms.get(vm.plan.machine_id) is vm


class FakeSession:
    """A connection to one VM's shim."""

    def __init__(self, hands: Hands, machinery: Machinery, vm: Vm) -> None:
        self._hands = hands
        self._machinery = machinery
        self._vm = vm

    async def status(self) -> shim.Status:
        """Return what the shim knows."""
        await self._hands.ask("session.status")
        if self._vm.deaf:
            await asyncio.sleep(_UNANSWERED_S)
            raise TimeoutError
        return self._status()

    async def changes(self) -> AsyncIterator[shim.Status]:
        """Yield the status now and at every change; ends when the shim is gone."""
        while True:
            self._hands.check()
            changed = self._vm.changed
            if self._vm.deaf and self._vm.phase != "exited":
                await changed.wait()
                continue
            status = self._status()
            if status.phase == "exited" and status.exit is None:
                return
            yield status
            if status.phase == "exited":
                return
            await changed.wait()

    async def stop(self, signal: str, timeout_ms: int) -> None:
        """Let the process end, now or when the timeout kills it."""
        await self._hands.ask("session.stop", self._vm.plan.machine_id)
        self._vm.signals.append(signal)
        vm = self._vm
        if vm.phase == "running" and not vm.boot.ignores_stop and not vm.paused:
            after = min(vm.boot.stop_s, timeout_ms / 1000 + 1)
            loop = asyncio.get_running_loop()
            loop.call_later(after, self._machinery.guest_exits, vm, 130, 2)

    async def signal(self, signal: str) -> None:
        """Remember the signal."""
        await self._hands.ask("session.signal")
        self._vm.signals.append(signal)

    async def kill(self) -> None:
        """End the VMM at once."""
        await self._hands.ask("session.kill", self._vm.plan.machine_id)
        if self._vm.deaf:
            return
        self._machinery.end(self._vm, cause="killed", vmm=shim.VmmExit(signal=9))

    async def exec(
        self, request: host_rpc.ExecRequest, env: dict[str, str]
    ) -> host_rpc.ExecAnswer:
        """Answer with what was asked."""
        await self._hands.ask("session.exec")
        if self._vm.phase != "running":
            raise errors.Failure("failed_precondition", "the machine's process does not run")
        said = _aimed(" ".join(request.command), request.container)
        return host_rpc.ExecAnswer(exit_code=0, stdout=f"{said} {env['FLY_APP_NAME']}", stderr="")

    async def open_exec(
        self,
        argv: tuple[str, ...],
        env: dict[str, str],
        *,
        user: str = "",
        working_directory: str = "/",
        tty: ports.Window | None = None,
        container: str = "",
    ) -> TypedBack:
        """Start a command that answers each line with itself and the app; `exit N` ends it."""
        await self._hands.ask("session.open_exec")
        if self._vm.phase != "running":
            raise errors.Failure("failed_precondition", "the machine's process does not run")
        if argv[:2] == ("/proc/1/exe", "put"):
            return PutIn(self._vm.files, argv[2])
        said = _aimed(" ".join(argv), container)
        said = f"{said} in {env.get('FLY_APP_NAME', 'no app')} at {working_directory}"
        return TypedBack(f"{said} for {user or 'root'}", tty)

    async def accept(self, credit: int) -> GuestCall:
        """Return who connects next to the machine's API socket."""
        del credit
        if self._vm.phase != "running":
            raise errors.Failure("failed_precondition", "the machine's process does not run")
        return await self._vm.calls.get()

    async def answer(self, answer: ports.Answer) -> None:
        """Remember the answer."""
        await self._hands.ask("session.answer")
        self._vm.answers.append(answer)

    async def stats(self) -> dict[str, object]:
        """Return half of the memory as available."""
        await self._hands.ask("session.stats")
        return {"memory": {"available": self._vm.plan.resources.memory_mb * 1024 * 512}}

    async def ps(self) -> tuple[host_rpc.GuestProcess, ...]:
        """Return the machine's processes."""
        await self._hands.ask("session.ps")
        if self._vm.phase != "running":
            raise errors.Failure("failed_precondition", "the machine's process does not run")
        spec = self._vm.plan.run_spec
        own = [spec.process] if spec.process else [one.process for one in spec.containers]
        return tuple(
            host_rpc.GuestProcess(pid=pid, command=" ".join(process.argv))
            for pid, process in enumerate(own, start=1)
        )

    async def close(self) -> None:
        """Drop the connection."""

    def _status(self) -> shim.Status:
        vm = self._vm
        return shim.Status(
            machine_id=vm.plan.machine_id,
            instance_id=vm.plan.instance_id,
            shim_version="0.1.0",
            shim_pid=vm.number,
            vmm_pid=None if vm.phase == "exited" else vm.number,
            phase=vm.phase,
            started_at_ms=vm.started_at_ms,
            containers=tuple(
                Standing(
                    name=one.name,
                    state="started",
                    run=1,
                    checks=tuple(
                        CheckStanding(status=vm.health.get(one.name, "passing"))
                        for _ in one.healthchecks
                    ),
                )
                for one in vm.plan.run_spec.containers
                if vm.phase == "running"
            ),
            exit=vm.exit,
        )


class FakeVmm:
    """The `Vmm` port over a world."""

    def __init__(self, hands: Hands, machinery: Machinery, logs: Path = Path("/logs")) -> None:
        self._hands = hands
        self._machinery = machinery
        self._logs = logs

    async def prepare(self, plan: ports.VmPlan) -> None:
        """Ensure a disk; exit and saved state of the boot before are forgotten."""
        await self._hands.ask("vmm.prepare", plan.machine_id)
        world = self._hands.world
        if plan.machine_id in world.vms:
            world.lies.append(f"{plan.machine_id}: disk taken from under a VM")
        world.saved.pop(plan.machine_id, None)
        if not (plan.keep_scratch and plan.machine_id in world.prepared):
            world.disks[plan.machine_id] = world.roots[plan.machine_id] = next(_numbers)
            world.roots_made[plan.machine_id].append(world.roots[plan.machine_id])
        world.prepared[plan.machine_id] = plan
        world.directories.add(plan.machine_id)
        world.exits.pop(plan.machine_id, None)

    async def await_turn(self, machine_id: str, org_id: str, hardware: ports.Hardware) -> None:
        """Let everybody boot at once."""
        del org_id, hardware
        await self._hands.ask("vmm.await_turn", machine_id)

    async def spawn(self, plan: ports.VmPlan) -> None:
        """Ensure the shim runs."""
        await self._hands.ask("vmm.spawn", plan.machine_id)
        self._machinery.spawn(plan)

    async def connect(self, machine_id: str) -> FakeSession | None:
        """Return a session, if there is a shim."""
        await self._hands.ask("vmm.connect", machine_id)
        vm = self._hands.world.vms.get(machine_id)
        return None if vm is None else FakeSession(self._hands, self._machinery, vm)

    async def exit_record(self, machine_id: str, instance_id: str) -> shim.ExitRecord | None:
        """Return exit.json, if it is of this version."""
        await self._hands.ask("vmm.exit_record", machine_id)
        record = self._hands.world.exits.get(machine_id)
        return record if record is not None and record.instance_id == instance_id else None

    async def suspend(self, machine_id: str, instance_id: str) -> None:
        """Ensure the state is saved and the VM stands still."""
        await self._hands.ask("vmm.suspend", machine_id)
        vm = self._hands.world.vms.get(machine_id)
        if self._is_saved(machine_id, instance_id):
            return
        if vm is None or vm.phase != "running" or vm.boot.unsuspendable:
            raise errors.Failure("failed_precondition", "the machine's state cannot be saved")
        if vm.plan.instance_id != instance_id:
            raise errors.Failure("failed_precondition", "another version of it runs")
        self._machinery.save(vm)

    async def resume(self, plan: ports.VmPlan) -> None:
        """Ensure the VM runs on."""
        await self._hands.ask("vmm.resume", plan.machine_id)
        self._machinery.load(plan)

    async def has_snapshot(self, machine_id: str, instance_id: str) -> bool:
        """Tell whether a saved state of this version is here."""
        await self._hands.ask("vmm.has_snapshot", machine_id)
        return self._is_saved(machine_id, instance_id)

    async def set_memory(self, machine_id: str, limit_mb: int) -> None:
        """Remember the limit."""
        await self._hands.ask("vmm.set_memory", machine_id)
        self._running(machine_id).limit_mb = limit_mb

    async def reclaim(self, machine_id: str, amount_mb: int) -> int:
        """Take half of what is asked."""
        await self._hands.ask("vmm.reclaim", machine_id)
        self._running(machine_id)
        return amount_mb // 2

    async def discard(self, machine_id: str, slot: int, *, keep: ports.Kept = "nothing") -> None:
        """Ensure no VM; and neither disk nor saved state, unless they are kept."""
        del slot
        await self._hands.ask("vmm.discard", machine_id)
        world = self._hands.world
        vm = world.vms.get(machine_id)
        if vm is not None:
            self._machinery.end(vm, cause="killed", vmm=shim.VmmExit(signal=9))
        if keep != "all":
            world.saved.pop(machine_id, None)
        if keep == "nothing":
            world.prepared.pop(machine_id, None)
            world.disks.pop(machine_id, None)
            world.roots.pop(machine_id, None)

    async def forget(self, machine_id: str) -> None:
        """Remove the directory."""
        await self._hands.ask("vmm.forget", machine_id)
        self._hands.world.directories.discard(machine_id)
        self._hands.world.exits.pop(machine_id, None)

    async def observed(self) -> frozenset[str]:
        """Return the machines whose shim runs."""
        await self._hands.ask("vmm.observed")
        return frozenset(self._hands.world.vms)

    async def ran_out(self, machine_id: str) -> bool:
        """Tell whether the world says so."""
        self._hands.check()
        return machine_id in self._hands.world.ran_out

    async def halted(self) -> frozenset[str]:
        """Return the machines somebody stopped."""
        await self._hands.ask("vmm.halted")
        return frozenset(self._hands.world.halted)

    async def carry_on(self, machine_id: str) -> None:
        """Ensure it goes on."""
        await self._hands.ask("vmm.carry_on", machine_id)
        self._hands.world.halted.discard(machine_id)

    def logs_directory(self, machine_id: str) -> Path:
        """Return where logs would be."""
        return self._logs / machine_id / "logs"

    def _is_saved(self, machine_id: str, instance_id: str) -> bool:
        saved = self._hands.world.saved.get(machine_id)
        return saved is not None and saved.plan.instance_id == instance_id

    def _running(self, machine_id: str) -> Vm:
        vm = self._hands.world.vms.get(machine_id)
        if vm is None or vm.phase != "running" or vm.paused:
            raise errors.Failure("failed_precondition", "the machine does not run")
        return vm


def _aimed(command: str, container: str) -> str:
    return f"{command} @{container}" if container else command
