"""Keeps the tokens fresh that machines have in files (`machines.web_identity`).

A machine that may take an AWS role is given a new token at every start and resume, and again
before the one it has ends. While control is away it keeps what it has, and is asked for again.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from godwit.agent import ports
from godwit.agent.machines import web_identity
from godwit.agent.machines.driver import Driver
from godwit.agent.machines.secrets import Secrets
from godwit.base import clock, errors, log, tasks

logger = logging.getLogger(__name__)

_PUT = ("/proc/1/exe", "put")
_RENEW_S = 240.0
"""A token lives for ten minutes: there is time for three attempts more."""
_AGAIN_S = 1.0
_AGAIN_MOST_S = 60.0
_FETCH_S = 10.0
_PUT_S = 20.0
_UNKNOWN_TO_INIT = 2

Sessions = Callable[[Driver], AbstractAsyncContextManager[ports.ShimSession]]


@dataclass(frozen=True)
class _Followed:
    """One boot of a machine."""

    boot: str
    task: asyncio.Task[None]


class TokenFiles:
    """The token files of all machines here.

    Args:
        sessions: Opens a session with a machine's shim.
        control: Gives tokens.
        secrets: Which may say the role.
        say: Puts a line of the platform's into a machine's log.
        the_clock: Says when.
        owned: Owns the tasks.
    """

    def __init__(
        self,
        sessions: Sessions,
        control: ports.Control,
        secrets: Secrets,
        *,
        say: Callable[[str, str], None],
        the_clock: clock.Clock,
        owned: tasks.Tasks,
    ) -> None:
        self._sessions = sessions
        self._control = control
        self._secrets = secrets
        self._say = say
        self._clock = the_clock
        self._tasks = owned
        self._followed: dict[str, _Followed] = {}

    def follow(self, driver: Driver, boot: str | None) -> None:
        """Keep a machine's token fresh from now on; `boot` is its present start."""
        machine_id = driver.machine.machine_id
        followed = self._followed.get(machine_id)
        if followed is not None and followed.boot == boot:
            return
        if followed is not None:
            del self._followed[machine_id]
            followed.task.cancel()
        if boot is not None:
            task = self._tasks.spawn(self._keep(driver), name=f"token.{machine_id}")
            self._followed[machine_id] = _Followed(boot, task)

    async def _keep(self, driver: Driver) -> None:
        with log.bound(**driver.machine.about):
            try:
                secrets = await self._secrets.opened(driver.machine)
            except errors.Failure as failure:
                logger.warning("its secrets do not open: %s", failure.message)
                secrets = {}
            if web_identity.is_wanted(driver.machine, secrets.keys()):
                await self._renew(driver)

    async def _renew(self, driver: Driver) -> None:
        machine_id, again_s, said = driver.machine.machine_id, _AGAIN_S, ""
        while True:
            try:
                token = await web_identity.fetch(self._control, machine_id, _FETCH_S)
                await self._put(driver, token)
            except errors.Failure as failure:
                # Once for each reason: this may go on for as long as the machine runs.
                if failure.message != said:
                    said = failure.message
                    self._say(machine_id, f"{web_identity.TOKEN_FILE} is not renewed: {said}")
                await self._clock.sleep(again_s)
                again_s = min(again_s * 2, _AGAIN_MOST_S)
            else:
                again_s, said = _AGAIN_S, ""
                await self._clock.sleep(_RENEW_S)

    async def _put(self, driver: Driver, token: str) -> None:
        """Write the token in the machine.

        Raises:
            Failure: It cannot be written.
        """
        async with self._sessions(driver) as session, asyncio.timeout(_PUT_S):
            stream = await session.open_exec((*_PUT, web_identity.TOKEN_FILE), {})
            said = b""
            try:
                await stream.write(token.encode())
                await stream.write_eof()
                while (chunk := await stream.read()) is not None:
                    said += chunk.data
                ended = await stream.wait()
            finally:
                await stream.close()
        if ended.exit_code == _UNKNOWN_TO_INIT:
            raise errors.Failure(
                "failed_precondition",
                "the machine was started by an older release, whose init renews no files",
                hint="restart the machine",
            )
        if ended.exit_code:
            raise errors.Failure("failed_precondition", said.decode(errors="replace").strip())
