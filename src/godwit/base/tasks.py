"""Owned asyncio tasks: every task has a name, an owner and an end.

`Tasks` is the only place that calls `asyncio.create_task` (ruff bans it elsewhere).
"""

import asyncio
import contextvars
import logging
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Tasks:
    """A group of background tasks with one owner.

    Unlike `asyncio.TaskGroup`, one failing task does not end its siblings: it is logged
    and told to `on_failure`. Leaving the context cancels what still runs and waits for it.

    Args:
        owner: The first part of their names.
        on_failure: Told of every task that failed.
        on_lost: Told of a task that was to run for ever (`keep`) and failed or ended.
        grace_s: How long a cancelled task may take to end.
    """

    def __init__(
        self,
        owner: str,
        *,
        on_failure: Callable[[str, BaseException], None] | None = None,
        on_lost: Callable[[str, BaseException | None], None] | None = None,
        grace_s: float = 10.0,
    ) -> None:
        self._owner = owner
        self._on_failure = on_failure
        self._on_lost = on_lost
        self._grace_s = grace_s
        self._running: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.cancel()

    def spawn(self, coroutine: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Start a task that this group owns."""
        # A context of its own, so that the line about its failure says what it was about.
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        task = loop.create_task(coroutine, name=f"{self._owner}.{name}", context=context)
        self._running.add(task)
        task.add_done_callback(self._ended, context=context)
        return task

    def keep(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> None:
        """Start a task that is to run as long as this group: its end is told to `on_lost`."""
        task = self.spawn(coroutine, name=name)
        task.add_done_callback(self._lost)

    def _lost(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and self._on_lost is not None:
            self._on_lost(task.get_name(), task.exception())

    async def cancel(self) -> None:
        """Cancel every running task and wait, at most the grace time, for all to end."""
        tasks = {task for task in self._running if task is not asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            _, stuck = await asyncio.wait(tasks, timeout=self._grace_s)
            for task in stuck:
                logger.error("task %s did not end within %ss", task.get_name(), self._grace_s)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            logger.error("task %s failed", task.get_name(), exc_info=error)
            if self._on_failure is not None:
                self._on_failure(task.get_name(), error)
