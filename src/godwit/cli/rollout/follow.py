"""Following a deploy that the platform carries through, from here, for as long as one likes.

Nothing here is needed by the deploy: it goes on when this ends. A platform that does not answer
for a while (it may be starting anew) is asked again.
"""

import asyncio

from godwit.base import errors
from godwit.base.clock import Clock
from godwit.cli.rollout.progress import Progress
from godwit.cli.session import Session
from godwit.client.api import Api
from godwit.client.records import Deploy, DeployEvent

RUNNING = "running"
RELEASE_COMMAND = "fly_app_release_command"
_WAIT_S = 20
_LINES_S = 1
_PAUSE_S = 1.0
_BREATH_S = 0.1
_SILENCE_S = 300.0
_PASSING = frozenset({"unavailable", "deadline_exceeded"})


async def to_its_end(here: Session, api: Api, deploy: Deploy, progress: Progress) -> Deploy:
    """Tell what happens in a deploy, from its beginning, and return it as it ended.

    Raises:
        Failure: The platform cannot be asked; says how to go on looking.
    """
    following = _Following(api, deploy, here.clock, progress)
    try:
        return await following.run()
    except asyncio.CancelledError:
        progress.note(goes_on(deploy))
        raise
    except errors.Failure as failure:
        raise errors.Failure(
            failure.code, f"{failure.message}; {goes_on(deploy)}", hint=failure.hint
        ) from failure


def goes_on(deploy: Deploy) -> str:
    """Return the sentence about a deploy that nobody follows any more."""
    return (
        f"the deploy of v{deploy.release.version} goes on without this terminal: follow it with "
        f"`godwit deploy --follow --app {deploy.app}`, cancel it with "
        f"`godwit deploy --cancel --app {deploy.app}`"
    )


async def running(api: Api, app: str) -> Deploy | None:
    """Return the deploy of an app that is under way, if there is one."""
    found = await api.deploys.list(app, limit=5)
    return next((one for one in found if one.status == RUNNING), None)


class Lines:
    """What one machine prints, from the beginning of this; silence when it cannot be had."""

    def __init__(self, api: Api, app: str, machine_id: str) -> None:
        self._api = api
        self._app = app
        self._machine_id = machine_id
        self._next = ""
        self.told = 0

    async def new(self) -> list[str]:
        """Return the lines since the last call."""
        try:
            page = await self._api.logs.page(
                self._app, instance=self._machine_id, next_token=self._next
            )
        except errors.Failure:
            return []
        self._next = page.next_token or self._next
        self.told += len(page.lines)
        return [one.message for one in page.lines]


class _Following:
    def __init__(self, api: Api, deploy: Deploy, clock: Clock, progress: Progress) -> None:
        self._api = api
        self._deploy = deploy
        self._clock = clock
        self._progress = progress
        self._told = 0
        self._said: set[str] = set()
        self._lines: Lines | None = None

    async def run(self) -> Deploy:
        while True:
            found = await self._asked()
            for event in found.events:
                await self._notice(event)
                self._tell(event)
            await self._stream()
            if found.status != RUNNING and not found.events:
                return found
            if not found.events:
                await self._clock.sleep(_BREATH_S)

    async def _notice(self, event: DeployEvent) -> None:
        """Take notice of the machine of the release command, and of its end."""
        if event.group == RELEASE_COMMAND and event.machine_id and self._lines is None:
            self._lines = Lines(self._api, self._deploy.app, event.machine_id)
        elif event.level == "step" and self._lines is not None:
            await self._stream()
            self._lines = None

    async def _stream(self) -> None:
        """Tell what the release command has printed since."""
        if self._lines is not None:
            for line in await self._lines.new():
                self._progress.line(line)

    async def _asked(self) -> Deploy:
        """Return the deploy with new events, waiting for some."""
        deadline = self._clock.monotonic() + _SILENCE_S
        silent = False
        while True:
            try:
                return await self._api.deploys.get(
                    self._deploy.app,
                    self._deploy.id,
                    after=self._told,
                    wait_s=_WAIT_S if self._lines is None else _LINES_S,
                )
            except errors.Failure as failure:
                if failure.code not in _PASSING or self._clock.monotonic() >= deadline:
                    raise
                if not silent:
                    self._progress.note("the platform does not answer; asking again")
                silent = True
                await self._clock.sleep(_PAUSE_S)

    def _tell(self, event: DeployEvent) -> None:
        self._told = max(self._told, event.number)
        if event.message.startswith(f"Release v{self._deploy.release.version} "):
            return  # how it ended: whoever asked to follow tells that
        about = f"{event.machine_id} ({event.group})" if event.group else event.machine_id
        known = not about or event.machine_id in event.message
        text = event.message if known else f"{about} {event.message}"
        if event.level == "step":
            self._progress.step(event.message)
        elif event.level in ("warning", "error"):
            self._complain(event.level, text)
        elif event.machine_id:
            self._progress.machine(event.machine_id, text)
        else:
            self._progress.line(text)

    def _complain(self, level: str, text: str) -> None:
        """Tell what goes wrong, each thing once."""
        repeated = self._lines is not None and self._lines.told and "last lines of" in text
        if text in self._said or repeated:
            return
        self._said.add(text)
        for number, line in enumerate(text.splitlines()):
            self._progress.note(line if number else f"{level}: {line}")
