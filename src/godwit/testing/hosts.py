"""Simulated hosts: agents without VMs, answering the host RPC with honest states.

`SimulatedHosts` is control's `Hosts` port; each `SimulatedHost` keeps books of memory, walks its
machines through their states and publishes facts. Scripts: `away` (does not answer),
`lose_replies` (does it, then is not heard), `refuse_reserve` (a failure to answer with),
`unready_looks` (apps that do not listen yet).
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from godwit.agent.machines import run_containers
from godwit.base import clock, errors, ids
from godwit.base.principal import Principal
from godwit.testing.facts import MemoryFacts
from godwit.testing.simulated_images import SimulatedImages
from godwit.testing.simulated_machine import SimulatedMachine, host_key
from godwit.testing.simulated_mesh import SimulatedMesh
from godwit.testing.simulated_policies import SimulatedPolicies
from godwit.testing.simulated_terminals import SimulatedTerminals
from godwit.wire import facts, host_rpc
from godwit.wire.guest_containers import Standing
from godwit.wire.record import Record

Handler = Callable[[dict[str, Any]], Awaitable[Record | dict[str, Any]]]

_STEPS = ("update", "start", "stop", "restart", "suspend", "destroy")
_TOUCHES = ("cordon", "uncordon", "drain", "undrain", "exec", "memory.set", "memory.reclaim")
GUARDED = frozenset(f"machine.{verb}" for verb in (*_STEPS, *_TOUCHES))
"""What a lease keeps others from."""

_REPLACED = ("instance_id", "image", "resources", "config", "secrets_version", "secrets")
_TRANSIENT = frozenset({"created", "starting", "stopping", "replacing", "destroying"})


class SimulatedHost(SimulatedImages):
    """One host.

    Attributes:
        away: Whether it does not answer.
        lose_replies: How many next requests are done but not answered.
        refuse_reserve: What the next reserves are refused with.
        unready_looks: How many next looks at processes find nothing that listens.
        lines: Log lines it has.
        asked: Every request, in order, as `(verb, body)`.
        sealing: The key that opens secrets sealed for it.
    """

    def __init__(
        self,
        host_id: str,
        *,
        region: str = "lcl",
        zone: str = "0000",
        memory_mb: int = 8192,
        stream: MemoryFacts | None = None,
        epoch: int = 1,
        time: clock.Clock | None = None,
    ) -> None:
        super().__init__()
        self.host_id = host_id
        self.region = region
        self.zone = zone
        self.memory_mb = memory_mb
        self.epoch = epoch
        self.machines: dict[str, SimulatedMachine] = {}
        self.away = False
        self.lose_replies = 0
        self.refuse_reserve: list[errors.Failure] = []
        self.unready_looks = 0
        self.lines: list[host_rpc.LogEntry] = []
        self.intervals: list[host_rpc.UsageInterval] = []
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.policies = SimulatedPolicies()
        self.sealing = host_key()
        self._stream = stream
        self._clock = time or clock.SystemClock()
        self._terminals = SimulatedTerminals()
        self.mesh = SimulatedMesh()
        self.beside: dict[str, Handler] = {}
        self._changed = asyncio.Condition()
        self._by_platform = False
        self._next_slot = 2
        self._revision = 0

    @property
    def free_mb(self) -> int:
        """Return the memory that running and resting machines leave."""
        kept = (one for one in self.machines.values() if one.state != "destroyed")
        return self.memory_mb - sum(one.offer.resources.memory_mb for one in kept)

    def bid(self, request: host_rpc.BidRequest) -> host_rpc.Bid:
        """Return what this host says to a machine."""
        fits = request.resources.memory_mb <= self.free_mb
        reason = f"{self.host_id} has {self.free_mb} MB free"
        return host_rpc.Bid(
            host_id=self.host_id,
            region=self.region,
            zone=self.zone,
            fits=fits,
            reasons=() if fits else (reason,),
            # As of a real host, never as much as a zone or an image counts for.
            score=self.free_mb / 2**20,
            free_memory_mb=self.free_mb,
        )

    async def answer(
        self, verb: str, body: dict[str, Any], who: Principal | None = None
    ) -> dict[str, Any]:
        """Answer one request.

        Raises:
            Failure: As the real host would.
        """
        self.asked.append((verb, body))
        if self.away:
            raise errors.Failure("unavailable", f"nobody answers on {self.host_id}")
        handler: Handler | None = self._handlers().get(verb)
        if handler is None:
            raise errors.not_found(f"this host does not know the request {verb}")
        self._by_platform = who is not None and who.subject.startswith("component:")
        if verb in GUARDED and not self._by_platform:
            self._check_lease(body)
        answer = await handler(body)
        if self.lose_replies > 0:
            self.lose_replies -= 1
            raise errors.Failure("deadline_exceeded", "no answer")
        return answer.model_dump(mode="json") if isinstance(answer, Record) else answer

    async def exit(self, machine_id: str, exit_code: int) -> None:
        """Let a machine's main process end."""
        machine = self._machine({"machine_id": machine_id})
        self._event(machine, "exit", "stopped", exit_code=exit_code)
        await self._move(machine, "stopped")

    def _handlers(self) -> dict[str, Handler]:
        return {
            "policies.set": self.policies.set,
            "machine.reserve": self._reserve,
            "machine.get": self._get,
            "machine.list": self._list,
            "machine.update": self._update,
            "machine.start": self._start,
            "machine.stop": self._stop,
            "machine.restart": self._restart,
            "machine.signal": self._signal,
            "machine.destroy": self._destroy,
            "machine.cordon": self._cordon,
            "machine.uncordon": self._uncordon,
            "machine.drain": self._drain,
            "machine.undrain": self._undrain,
            "machine.wait": self._wait,
            "machine.exec": self._exec,
            **self._terminals.handlers(),
            **self.mesh.handlers(),
            **self.beside,
            "machine.events": self._events,
            "machine.suspend": self._suspend,
            "machine.versions": self._versions,
            "machine.ps": self._ps,
            "machine.lease.get": self._get_lease,
            "machine.lease.acquire": self._acquire_lease,
            "machine.lease.release": self._release_lease,
            "machine.metadata.patch": self._patch_metadata,
            "machine.cpu": self._cpu,
            "machine.memory.get": self._get_memory,
            "machine.memory.set": self._set_memory,
            "machine.memory.reclaim": self._reclaim,
            **self.image_handlers(),
            "logs.read": self._logs,
            "usage.read": self._usage,
        }

    async def _reserve(self, body: dict[str, Any]) -> Record:
        offer = host_rpc.Offer.model_validate(body)
        known = self.machines.get(offer.machine_id)
        if known is not None:
            return self._view(known)
        if self.refuse_reserve:
            raise self.refuse_reserve.pop(0)
        if offer.resources.memory_mb > self.free_mb:
            raise errors.Failure("insufficient_capacity", f"{self.host_id} is full")
        self.policies.keep(offer.policies)
        now_ms = self._clock.now_ms()
        machine = SimulatedMachine(offer, self._next_slot, cordoned=offer.cordoned)
        machine.created_at_ms = machine.updated_at_ms = now_ms
        self._next_slot += 1
        self.machines[offer.machine_id] = machine
        self._event(machine, "launch", "created")
        machine.versions = [machine.version]
        answer = self._minted(machine, offer.lease_ttl_s, offer.lease_owner)
        if offer.skip_launch:
            await self._move(machine, "stopped")
        else:
            await self._launch(machine)
        return answer

    async def _get(self, body: dict[str, Any]) -> Record:
        machine = self._machine(body)
        for old in machine.versions[1:]:
            if old.version == body.get("version"):
                shown = {"instance_id": old.version, "config": old.user_config}
                return self._view(machine).model_copy(update={**shown, "state": "replaced"})
        return self._view(machine)

    async def _list(self, body: dict[str, Any]) -> dict[str, Any]:
        found = [
            self._view(machine).model_dump(mode="json")
            for machine in self.machines.values()
            if machine.offer.app_id == body["app_id"]
            and machine.offer.machine_id in body.get("machine_ids", self.machines)
        ]
        return {"machines": found}

    async def _update(self, body: dict[str, Any]) -> Record:
        update = host_rpc.Update.model_validate(body)
        machine = self._machine(body)
        if update.current_version not in (None, machine.offer.instance_id):
            raise errors.Failure("conflict", f"current version is {machine.offer.instance_id}")
        if update.resources.memory_mb > self.free_mb + machine.offer.resources.memory_mb:
            raise errors.Failure("insufficient_capacity", f"{self.host_id} is full")
        machine.offer = machine.offer.model_copy(
            update={key: getattr(update, key) for key in _REPLACED}
        )
        self.policies.keep(update.policies)
        machine.versions.insert(0, machine.version)
        machine.metadata = None
        self._event(machine, "update", "replacing")
        answer = self._minted(machine, update.lease_ttl_s, update.lease_owner)
        if update.skip_launch:
            await self._move(machine, "stopped")
        else:
            await self._launch(machine)
        return answer

    async def _start(self, body: dict[str, Any]) -> dict[str, Any]:
        machine = self._machine(body, alive=True)
        previous = machine.state
        if previous == "created":
            raise errors.Failure(
                "failed_precondition", "unable to start machine from current state: 'created'"
            )
        if previous != "started":
            await self._launch(machine)
        return {"previous_state": previous}

    async def _stop(self, body: dict[str, Any]) -> dict[str, Any]:
        machine = self._machine(body, alive=True)
        if machine.state == "started":
            self._event(machine, "exit", "stopped", exit_code=0)
            await self._move(machine, "stopped")
        return {}

    async def _suspend(self, body: dict[str, Any]) -> dict[str, Any]:
        machine = self._running(body)
        self._event(machine, "suspend", "suspended")
        await self._move(machine, "suspended")
        return {}

    async def _restart(self, body: dict[str, Any]) -> dict[str, Any]:
        machine = self._machine(body, alive=True)
        self._event(machine, "restart", "starting")
        await self._launch(machine)
        return {}

    async def _signal(self, body: dict[str, Any]) -> dict[str, Any]:
        self._running(body).signals.append(body["signal"])
        return {}

    async def _destroy(self, body: dict[str, Any]) -> dict[str, Any]:
        machine = self._machine(body)
        if machine.state == "started" and not body.get("force"):
            raise errors.Failure(
                "failed_precondition",
                "unable to destroy machine: it is started; stop it first or use force",
            )
        if machine.state != "destroyed":
            self._event(machine, "destroy", "destroyed")
            await self._move(machine, "destroyed")
        return {}

    async def _cordon(self, body: dict[str, Any]) -> dict[str, Any]:
        self._machine(body, alive=True).cordoned = True
        return {}

    async def _uncordon(self, body: dict[str, Any]) -> dict[str, Any]:
        self._machine(body, alive=True).cordoned = False
        return {}

    async def _drain(self, body: dict[str, Any]) -> Record:
        return self._machine(body, alive=True).drain()

    async def _undrain(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._machine(body, alive=True).undrain()

    async def _wait(self, body: dict[str, Any]) -> Record:
        request = host_rpc.WaitRequest.model_validate(body)
        machine = self._machine(body)

        def over() -> bool:
            if machine.state in request.states or machine.state == "destroyed":
                return True
            return "settled" in request.states and machine.state not in _TRANSIENT

        try:
            async with asyncio.timeout(request.timeout_s), self._changed:
                await self._changed.wait_for(over)
        except TimeoutError as error:
            raise errors.Failure(
                "deadline_exceeded",
                "machine failed to reach desired state,"
                f" {','.join(request.states)}, currently {machine.state}",
            ) from error
        if machine.state == "destroyed" and not {"destroyed", "settled"} & set(request.states):
            raise errors.not_found("machine is destroyed")
        return host_rpc.WaitAnswer(
            state=machine.state,
            version=machine.offer.instance_id,
            event_id=machine.events[0].id,
        )

    async def _exec(self, body: dict[str, Any]) -> Record:
        request = host_rpc.ExecRequest.model_validate(body)
        machine = self._running(body)
        run_containers.meant(machine.config, request.container, machine=request.machine)
        if request.command[0] == "sleep":
            raise errors.Failure("deadline_exceeded", "the command did not end in time")
        return host_rpc.ExecAnswer(
            exit_code=1 if request.command[0] == "false" else 0,
            stdout=" ".join(request.command[1:]) + request.stdin,
            stderr="",
        )

    async def _events(self, body: dict[str, Any]) -> dict[str, Any]:
        found = self._machine(body).events[: body["limit"]]
        return {"events": [event.model_dump(mode="json") for event in found]}

    async def _versions(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"versions": [one.model_dump(mode="json") for one in self._machine(body).versions]}

    async def _ps(self, body: dict[str, Any]) -> dict[str, Any]:
        self._running(body)
        ready = self.unready_looks == 0
        self.unready_looks = max(0, self.unready_looks - 1)
        listening = (host_rpc.ListenSocket(proto="tcp", address="[::]:80"),) if ready else ()
        found = (
            host_rpc.GuestProcess(pid=1, command="/init", rss=1_000),
            host_rpc.GuestProcess(pid=7, command="nginx", rss=9_000, listen_sockets=listening),
            host_rpc.GuestProcess(pid=9, command="nginx", rss=5_000, cpu=12),
        )
        return {"processes": [one.model_dump(mode="json") for one in found]}

    async def _get_lease(self, body: dict[str, Any]) -> dict[str, Any]:
        machine, now_s = self._machine(body), self._now_s()
        lease = machine.held(now_s) if self._by_platform else machine.shown_lease(now_s)
        return {"lease": None if lease is None else lease.model_dump(mode="json")}

    async def _acquire_lease(self, body: dict[str, Any]) -> dict[str, Any]:
        request = host_rpc.LeaseRequest.model_validate(body)
        machine = self._machine(body, alive=True)
        self._check_lease(body)
        lease = machine.take_lease(
            self._now_s(),
            request.ttl_s,
            owner=request.owner,
            description=request.description,
        )
        return {"lease": lease.model_dump(mode="json")}

    async def _release_lease(self, body: dict[str, Any]) -> dict[str, Any]:
        if not self._by_platform:
            self._check_lease(body)
        self._machine(body).lease = None
        return {}

    async def _patch_metadata(self, body: dict[str, Any]) -> dict[str, Any]:
        patch = host_rpc.MetadataPatch.model_validate(body)
        machine = self._machine(body, alive=True)
        if patch.machine_version not in (None, machine.offer.instance_id):
            raise errors.Failure("failed_precondition", "the machine is at another version")
        if patch.updated_at not in (None, clock.rfc3339(machine.updated_at_ms)):
            raise errors.Failure("failed_precondition", "it was changed since")
        values = {**(machine.config.get("metadata") or {}), **patch.metadata}
        machine.metadata = {key: value for key, value in values.items() if value}
        await self._move(machine, machine.state)
        return {}

    async def _cpu(self, body: dict[str, Any]) -> dict[str, Any]:
        self._running(body)
        return {"cpu": {"baseline": 0.0625, "balance": 500, "throttle": 0}}

    async def _get_memory(self, body: dict[str, Any]) -> Record:
        machine = self._running(body)
        limit = machine.limit_mb or machine.offer.resources.memory_mb
        return host_rpc.Memory(available_mb=limit // 2, limit_mb=limit)

    async def _set_memory(self, body: dict[str, Any]) -> Record:
        machine = self._running(body)
        most = (machine.offer.config.get("guest") or {}).get("max_memory_mb")
        if body["limit_mb"] > (most or machine.offer.resources.memory_mb):
            raise errors.invalid("limit_mb: over guest.max_memory_mb")
        machine.limit_mb = body["limit_mb"]
        return await self._get_memory(body)

    async def _reclaim(self, body: dict[str, Any]) -> dict[str, Any]:
        memory = host_rpc.Memory.model_validate(await self._get_memory(body))
        return {"actual_mb": min(body["amount_mb"], memory.available_mb)}

    async def _logs(self, body: dict[str, Any]) -> Record:
        request = host_rpc.LogsRequest.model_validate(body)
        mine = {
            machine.offer.machine_id
            for machine in self.machines.values()
            if machine.offer.app_id == request.app_id
        }
        found = [
            line
            for line in self.lines
            if line.machine_id in mine
            and line.t > request.after
            and request.machine_id in (None, line.machine_id)
        ]
        chosen = found[: request.limit] if request.after else found[-request.limit :]
        return host_rpc.LogsAnswer(lines=tuple(chosen))

    async def _usage(self, body: dict[str, Any]) -> dict[str, Any]:
        found = [
            one.model_dump(mode="json")
            for one in self.intervals
            if one.id > body["after"] and body.get("org_id") in (None, one.org_id)
        ]
        return {"intervals": found[: body["limit"]]}

    def _machine(self, body: dict[str, Any], *, alive: bool = False) -> SimulatedMachine:
        machine = self.machines.get(body["machine_id"])
        if machine is None or (alive and machine.state == "destroyed"):
            raise errors.not_found("machine not found")
        return machine

    def _running(self, body: dict[str, Any]) -> SimulatedMachine:
        machine = self._machine(body, alive=True)
        if machine.state != "started":
            raise errors.Failure("failed_precondition", f"machine is {machine.state}")
        return machine

    def _check_lease(self, body: dict[str, Any]) -> None:
        machine = self.machines.get(body.get("machine_id", ""))
        if machine is not None:
            machine.check_lease(body.get("nonce"), self._now_s())

    def _now_s(self) -> int:
        return self._clock.now_ms() // 1000

    def _minted(self, machine: SimulatedMachine, ttl_s: int, owner: str) -> host_rpc.MachineView:
        """Return a view, with the lease that was asked for together with the change."""
        view = self._view(machine)
        if not ttl_s:
            return view
        lease = machine.take_lease(self._now_s(), ttl_s, owner=owner)
        return view.model_copy(update={"lease": lease})

    async def _launch(self, machine: SimulatedMachine) -> None:
        self._event(machine, "launch", "starting")
        self._event(machine, "start", "started")
        await self._move(machine, "started")

    async def _move(self, machine: SimulatedMachine, state: str) -> None:
        async with self._changed:
            machine.state = state
            machine.updated_at_ms = self._clock.now_ms()
            self._revision += 1
            machine.revision = self._revision + 1
            self._changed.notify_all()
        if self._stream is not None:
            await self._stream.publish(self.fact(machine))

    def _event(
        self, machine: SimulatedMachine, kind: str, status: str, exit_code: int | None = None
    ) -> None:
        ended = {"exit_event": {"exit_code": exit_code, "requested_stop": True}}
        event = host_rpc.MachineEvent(
            id=ids.ulid(),
            type=kind,
            status=status,
            source="user",
            timestamp=self._clock.now_ms(),
            request=None if exit_code is None else {**ended, "MonitorEvent": ended},
        )
        machine.events.insert(0, event)

    def fact(self, machine: SimulatedMachine) -> facts.MachineFact:
        """Return what edges, DNS and control are told of a machine."""
        offer = machine.offer
        return facts.MachineFact(
            owner=self.host_id,
            epoch=self.epoch,
            revision=machine.revision,
            deleted=machine.state == "destroyed",
            org_id=offer.org_id,
            network_id=offer.network_id,
            network_number=offer.network_number,
            app_id=offer.app_id,
            app=offer.app,
            machine_id=offer.machine_id,
            instance_id=offer.instance_id,
            name=offer.name,
            host_id=self.host_id,
            region=self.region,
            state=machine.state,
            cordoned=machine.cordoned or machine.draining,
            draining=machine.draining,
            private_ip=f"fdaa::{offer.network_number}:{machine.slot}",
            local_ipv4=f"172.16.0.{machine.slot}",
        )

    def _view(self, machine: SimulatedMachine) -> host_rpc.MachineView:
        offer = machine.offer
        return host_rpc.MachineView(
            machine_id=offer.machine_id,
            instance_id=offer.instance_id,
            name=offer.name,
            org_id=offer.org_id,
            network_id=offer.network_id,
            app_id=offer.app_id,
            app=offer.app,
            host_id=self.host_id,
            region=self.region,
            state=machine.state,
            cordoned=machine.cordoned,
            private_ip=f"fdaa::{offer.network_number}:{machine.slot}",
            image=offer.image,
            config=machine.config,
            metadata=machine.config.get("metadata") or {},
            lease=machine.shown_lease(self._now_s()),
            secrets_version=offer.secrets_version,
            created_at=clock.rfc3339(machine.created_at_ms),
            updated_at=clock.rfc3339(machine.updated_at_ms),
            events=tuple(machine.events[:5]),
            checks=machine.checks,
            containers=tuple(
                Standing(name=one["name"], state="started")
                for one in machine.config.get("containers") or ()
                if machine.state == "started"
            ),
            epoch=self.epoch,
            revision=machine.revision,
        )


class SimulatedHosts:
    """Control's `Hosts` port over simulated hosts.

    Attributes:
        cut_off: Regions whose bus is away.
    """

    def __init__(self, *hosts: SimulatedHost) -> None:
        self.by_id = {host.host_id: host for host in hosts}
        self.cut_off: set[str] = set()
        self.principals: list[Principal] = []

    async def call(
        self,
        host_id: str,
        verb: str,
        body: Record | dict[str, Any],
        principal: Principal,
        timeout_s: float = 10.0,
    ) -> dict[str, Any]:
        """Ask one host and return the body of its answer."""
        self.principals.append(principal)
        host = self.by_id.get(host_id)
        if host is None:
            raise errors.Failure("unavailable", f"nobody answers on {host_id}")
        plain = body.model_dump(mode="json") if isinstance(body, Record) else body
        try:
            async with asyncio.timeout(timeout_s):
                return await host.answer(verb, plain, principal)
        except TimeoutError as error:
            raise errors.Failure("deadline_exceeded", "no answer") from error

    async def bids(
        self,
        region: str,
        request: host_rpc.BidRequest,
        wait_s: float = 1.0,
        *,
        hosts: int = 8,
    ) -> list[host_rpc.Bid]:
        """Ask every host of a region for a bid."""
        del wait_s, hosts
        if region in self.cut_off:
            raise errors.Failure("unavailable", f"the bus of region {region} is away")
        return [
            host.bid(request)
            for host in self.by_id.values()
            if host.region == region and not host.away
        ]
