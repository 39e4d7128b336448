"""Network policies of the apps that have machines here: kept, resolved and brought about.

Control tells an app's policies with every offer and update, and whenever they change
(`policies.set`); the newest are kept and hold while control is away. What they allow a machine
follows from its id and its metadata as it is now. A change counts at once, without a restart.

Called by the RPC and by `agent.app` with every change of a machine; the network asks
`of_slot` whenever it lets a machine through.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from godwit.agent import judging, ports
from godwit.agent.judging import FREE, Judgement
from godwit.agent.machines import records
from godwit.agent.machines.store import Store
from godwit.base import errors, processes, tasks
from godwit.base.principal import Principal
from godwit.wire.network_policies import AppPolicies

logger = logging.getLogger(__name__)

_KEPT = "network_policies:"


@dataclass(frozen=True)
class _Member:
    """A machine as selectors see it."""

    machine_id: str
    slot: int
    app_id: str
    metadata: Mapping[str, str]


class Policies:
    """The network policies of one host's machines."""

    def __init__(self, network: ports.Network, store: Store, owned: tasks.Tasks) -> None:
        """Take who enforces them, where they are kept, and who owns what is begun."""
        self._network = network
        self._store = store
        self._tasks = owned
        self._known: dict[str, AppPolicies] = {}
        self._members: dict[str, dict[str, _Member]] = {}
        self._by_slot: dict[int, tuple[str, Judgement]] = {}
        self._due: set[int] = set()
        self._keeping = asyncio.Lock()
        network.judge_by(self.of_slot)

    async def load(self) -> None:
        """Take up what is kept; before the network starts, which lets nothing through else."""
        for name, kept in (await self._store.facts(_KEPT)).items():
            try:
                told = AppPolicies.model_validate_json(kept)
            except ValidationError:
                # Only a newer release writes what this one cannot read; control tells it again.
                logger.warning("the kept %s cannot be read", name)
            else:
                self._known[told.app_id] = told

    def of_slot(self, slot: int) -> Judgement:
        """Return what the machine in a slot may begin and what others may begin with it."""
        return self._by_slot.get(slot, ("", FREE))[1]

    def follow(self, machine: records.Machine, metadata: Mapping[str, str]) -> None:
        """Take in a machine as it is now."""
        member = _Member(machine.machine_id, machine.slot, machine.app_id, dict(metadata))
        siblings = self._members.setdefault(machine.app_id, {})
        if machine.state == "destroyed":
            siblings.pop(machine.machine_id, None)
            if not siblings:
                del self._members[machine.app_id]
            if self._by_slot.get(machine.slot, ("", FREE))[0] == machine.machine_id:
                del self._by_slot[machine.slot]
            return
        if siblings.get(machine.machine_id) == member:
            return
        siblings[machine.machine_id] = member
        if self._resolve([member]):
            self._tasks.spawn(self.settle(), name="policies")

    async def keep(self, told: AppPolicies | None, app_id: str) -> None:
        """Keep an app's policies if they are newer than those known, and hold to them.

        Raises:
            Failure: `invalid_argument`: they are another app's.
        """
        if told is None:
            return
        if told.app_id != app_id:
            raise errors.invalid("network policies are those of the machine's own app")
        async with self._keeping:
            known = self._known.get(app_id)
            if known is not None and known.version >= told.version:
                return
            await self._store.set_fact(_KEPT + app_id, told.model_dump_json())
            self._known[app_id] = told
            self._resolve(self._members.get(app_id, {}).values())
        await self.settle()

    async def settle(self) -> None:
        """Have the network hold every machine to what has changed; what fails is tried again."""
        for slot in sorted(self._due):
            self._due.discard(slot)
            try:
                await self._network.judge(slot)
            except (processes.ProgramFailed, OSError) as error:
                self._due.add(slot)
                logger.warning("slot %d is held to its network policies later: %s", slot, error)

    def _resolve(self, members: Iterable[_Member]) -> bool:
        """Decide what these machines are allowed; tell whether that changes anything."""
        changed = False
        for member in members:
            known = self._known.get(member.app_id)
            found = FREE
            if known is not None:
                found = judging.judgement(known.policies, member.machine_id, member.metadata)
            if self._by_slot.get(member.slot, ("", FREE))[1] != found:
                self._due.add(member.slot)
                changed = True
            self._by_slot[member.slot] = (member.machine_id, found)
        return changed

    # -- requests -----------------------------------------------------------------------

    def handlers(self) -> Mapping[str, Any]:
        """Return every verb of `wire.network_policies` and its handler."""
        return {"policies.set": self.set}

    async def set(self, who: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """Hold an app's machines to its policies; returns once they are held.

        Raises:
            Failure: `permission_denied` for all but the platform; `invalid_argument`.
        """
        who.require("hosts:read")
        if who.org_ids is not None:
            raise errors.Failure("permission_denied", "only the platform tells network policies")
        try:
            told = AppPolicies.model_validate(body)
        except ValidationError as error:
            raise errors.invalid(str(error)) from error
        await self.keep(told, told.app_id)
        return {}
