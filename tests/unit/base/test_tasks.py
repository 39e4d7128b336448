"""Owned tasks: who is told of which end."""

import asyncio

from godwit.base import tasks


async def fail() -> None:
    raise KeyError("bug")


async def end() -> None:
    return


async def hang() -> None:
    await asyncio.Event().wait()


async def test_a_task_that_was_to_run_for_ever_is_missed_however_it_ends() -> None:
    failed: list[str] = []
    lost: list[tuple[str, str]] = []
    async with tasks.Tasks(
        "it",
        on_failure=lambda name, _: failed.append(name),
        on_lost=lambda name, error: lost.append((name, repr(error))),
    ) as owned:
        owned.keep(fail(), name="chore")
        owned.keep(end(), name="loop")
        owned.keep(hang(), name="good")
        owned.spawn(fail(), name="errand")
        owned.spawn(end(), name="done")
        async with asyncio.timeout(60):
            while len(lost) < 2 or len(failed) < 2:
                await asyncio.sleep(0)
    assert sorted(lost) == [("it.chore", "KeyError('bug')"), ("it.loop", "None")]
    assert sorted(failed) == ["it.chore", "it.errand"]


async def test_what_ends_with_its_group_is_not_missed() -> None:
    lost: list[str] = []
    async with tasks.Tasks("it", on_lost=lambda name, _: lost.append(name)) as owned:
        owned.keep(hang(), name="good")
        await asyncio.sleep(0)
    assert lost == []
