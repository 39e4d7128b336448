"""A deploy from the loaded config to the address: one release, every machine in turn.

    image → release → machines of groups that are gone → new machines → updates → release ends

What fails ends the release as failed and leaves the machines not yet touched as they were.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from godwit.appconfig import files, later, machine
from godwit.appconfig.machine import ReleaseMark
from godwit.appconfig.model import Config
from godwit.base import errors
from godwit.cli.rollout import plan, source, watch
from godwit.cli.rollout.progress import Progress
from godwit.cli.session import Session
from godwit.client.api import Api
from godwit.client.records import Machine, Release
from godwit.client.releases import Status

STRATEGIES = ("rolling", "immediate")
_AT_ONCE = 8
_GOODBYE_S = 2.0
_LOG_LINES = 20


@dataclass(frozen=True)
class Request:
    """What a deploy was asked to do.

    Attributes:
        source: Where the image comes from.
        strategy: How machines are replaced; `None` for what the file says.
        wait_timeout_s: How long one machine may take; `None` for what the file says.
        smoke: Whether machines without checks have to stay up for a while.
        detach: Whether to leave before the machines are well.
    """

    source: source.Source
    strategy: str | None = None
    wait_timeout_s: float | None = None
    smoke: bool = True
    detach: bool = False


@dataclass(frozen=True)
class Result:
    """What a deploy did."""

    app: str
    image: str
    release: Release
    machines: tuple[str, ...]
    public: bool


class Deploy:
    """One deploy of one app."""

    def __init__(
        self, session: Session, api: Api, loaded: files.Loaded, app: str, request: Request
    ) -> None:
        self._session = session
        self._api = api
        self._loaded = loaded
        self._config: Config = loaded.checked()
        self._app = app
        self._request = request
        self._strategy = strategy(self._config, request.strategy)
        self._touched: list[str] = []
        self._release: Release | None = None

    async def run(self, progress: Progress) -> Result:
        """Deploy, and return what was done.

        Raises:
            Failure: It failed; the release says so.
        """
        await self._api.apps.get(self._app)
        try:
            with progress:
                return await self._released(progress)
        except watch.NotWell as failure:
            raise await self._explained(failure) from failure

    async def _released(self, progress: Progress) -> Result:
        image = await source.obtain(
            self._api, self._app, self._loaded, self._request.source, progress
        )
        release = self._release = await self._begin(image)
        progress.step(f"Release v{release.version} of {self._app}")
        try:
            await self._machines(image, release, progress)
        except asyncio.CancelledError:
            await self._end(release, "interrupted", progress, "interrupted")
            raise
        except errors.Failure as failure:
            await self._end(release, "failed", progress, failure.message)
            raise
        await self._end(release, "complete", progress)
        return Result(
            app=self._app,
            image=image,
            release=release,
            machines=tuple(self._touched),
            public=bool(self._config.http_service or self._config.services),
        )

    async def _begin(self, image: str) -> Release:
        return await self._api.releases.create(
            self._app,
            image=image,
            strategy=self._strategy,
            config=self._loaded.document,
            description=f"deploy of {image}",
        )

    async def _end(
        self, release: Release, status: Status, progress: Progress, error: str = ""
    ) -> None:
        """Say how the release ended; a platform that does not hear it is only warned about."""
        try:
            async with asyncio.timeout(_GOODBYE_S if status == "interrupted" else None):
                await self._api.releases.finish(self._app, release, status, error=error)
        except (errors.Failure, TimeoutError) as failure:
            progress.note(
                f"warning: release v{release.version} could not be marked {status}: {failure}"
            )

    async def _machines(self, image: str, release: Release, progress: Progress) -> None:
        steps = plan.make(self._config, await self._api.machines.list(self._app))
        mark = ReleaseMark(release.id, release.version)
        for one in steps.destroy:
            progress.step(f'Destroy {one.id}: there is no group "{one.group()}" any more')
            await self._api.machines.destroy(self._app, one.id, force=True)
        for group in steps.create:
            progress.step(f"Create a machine for {group}")
            await self._create(group, self._made(group, image, mark), progress)
        if self._strategy == "immediate":
            await self._update_at_once(steps.update, image, mark, progress)
            return
        for update in steps.update:
            progress.step(f"Update {update.machine.id} ({update.group}, {update.machine.region})")
            await self._update(update, self._made(update.group, image, mark), progress)

    def _made(self, group: str, image: str, mark: ReleaseMark) -> dict[str, Any]:
        return machine.to_machine_config(
            self._config, group, image=image, release=mark, read_file=self._read_file
        )

    def _read_file(self, name: str) -> bytes:
        try:
            return (self._loaded.path.parent / name).read_bytes()
        except OSError as error:
            raise errors.invalid(
                f"{self._loaded.name}: files: cannot read {name}: {error.strerror}"
            ) from error

    async def _create(self, group: str, config: dict[str, Any], progress: Progress) -> None:
        region = self._config.primary_region
        made = await self._api.machines.create(self._app, config, region=region)
        self._touched.append(made.id)
        progress.state(f"{made.id} ({group}, {made.region}) is {made.state}")
        await self._see_well(made, progress)

    async def _update(
        self, update: plan.Update, config: dict[str, Any], progress: Progress | None
    ) -> None:
        old = update.machine
        try:
            new = await self._api.machines.update(
                self._app,
                old.id,
                machine.updated(old.config, config),
                current_version=old.version,
                skip_launch=not update.launch,
            )
        except errors.Failure as failure:
            if failure.code != "conflict":
                raise
            raise errors.Failure(
                "conflict",
                f"machine {old.id} was changed by somebody else meanwhile: {failure.message}",
                hint="look at `godwit releases`, then deploy again",
            ) from failure
        self._touched.append(old.id)
        if progress is not None:
            await self._see_well(new, progress, launched=update.launch)

    async def _update_at_once(
        self,
        updates: tuple[plan.Update, ...],
        image: str,
        mark: ReleaseMark,
        progress: Progress,
    ) -> None:
        """Update every machine without waiting for any; tell of those that refused."""
        if not updates:
            return
        progress.step(f"Update {len(updates)} machines at once")
        room = asyncio.Semaphore(_AT_ONCE)
        refused: list[errors.Failure] = []

        async def one(update: plan.Update) -> None:
            async with room:
                try:
                    await self._update(update, self._made(update.group, image, mark), None)
                except errors.Failure as failure:
                    refused.append(failure)

        async with asyncio.TaskGroup() as group:
            for update in updates:
                group.create_task(one(update))
        if refused:
            raise errors.Failure(
                refused[0].code,
                f"{len(refused)} of {len(updates)} machines were not updated: "
                + "; ".join(failure.message for failure in refused),
                hint=refused[0].hint,
            )

    async def _see_well(self, made: Machine, progress: Progress, *, launched: bool = True) -> None:
        if self._request.detach or self._strategy == "immediate":
            return
        watching = watch.Watch(
            self._api,
            self._app,
            self._session.clock,
            timeout_s=self._request.wait_timeout_s or wait_timeout_s(self._config),
            smoke=self._request.smoke,
        )
        if launched:
            await watching.until_well(made, lambda text: progress.state(f"{made.id} {text}"))
        else:
            await watching.until_settled(made)
            progress.state(f"{made.id} goes on resting, with the new release")

    async def _explained(self, failure: watch.NotWell) -> errors.Failure:
        """Return the failure with what helps: the machine's last lines and what to do."""
        lines = await watch.last_lines(self._api, self._app, failure.machine_id, _LOG_LINES)
        if lines:
            self._session.out.say(f"The last lines of {failure.machine_id}:")
            for line in lines:
                self._session.out.say(f"    {line}")
        number = self._release.version if self._release else 0
        older = number - 1
        back = ""
        if older > 0:
            back = f"; go back with `godwit deploy --image` and the image of v{older}"
        return errors.Failure(
            failure.code,
            f"release v{number} failed: {failure.message}",
            hint=f"see more with `godwit logs --app {self._app} -m {failure.machine_id}`, "
            f"fix it and deploy again{back}",
        )


def strategy(config: Config, named: str | None) -> str:
    """Return how machines are replaced.

    Raises:
        Failure: It is a strategy that this release does not have.
    """
    found = named or (config.deploy.strategy if config.deploy else None) or "rolling"
    if found not in STRATEGIES:
        raise errors.invalid(
            f'the strategy "{found}" is not there yet',
            hint=f"use --strategy {' or --strategy '.join(STRATEGIES)}",
        )
    return found


def wait_timeout_s(config: Config) -> float:
    """Return how long one machine may take, as the file says."""
    named = config.deploy.wait_timeout if config.deploy else None
    return named / 1e9 if named else 300.0


def told_beforehand(session: Session, loaded: files.Loaded) -> None:
    """Warn of what is doubtful in a config and of what has no effect yet."""
    config = loaded.checked()
    for one in [*loaded.warnings(), *later.without_effect(config, tls=session.settings.tls)]:
        session.out.warn(one.told(loaded.name))
