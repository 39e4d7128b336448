"""Lock files."""

import asyncio
import os

import pytest

from godwit.base.errors import Failure
from godwit.images import locks


def test_one_holds_it_alone(tmp_path):
    held = locks.try_lock(tmp_path / "lock")
    assert held is not None
    assert locks.try_lock(tmp_path / "lock") is None
    assert locks.try_lock(tmp_path / "lock", shared=True) is None
    os.close(held)
    again = locks.try_lock(tmp_path / "lock")
    assert again is not None
    os.close(again)


def test_several_share_it(tmp_path):
    held = [locks.try_lock(tmp_path / "lock", shared=True) for _ in range(3)]
    assert None not in held
    assert locks.try_lock(tmp_path / "lock") is None
    for one in held:
        os.close(one)


async def test_waiting_is_for_whoever_holds_it(tmp_path):
    order = []

    async def work(name):
        async with locks.held(tmp_path / "lock", timeout_s=5, what="x"):
            order.append(f"{name} in")
            await asyncio.sleep(0.01)
            order.append(f"{name} out")

    await asyncio.gather(*(work(n) for n in range(3)))
    assert [o.split()[1] for o in order] == ["in", "out"] * 3


async def test_waiting_ends(tmp_path):
    held = locks.try_lock(tmp_path / "lock")
    with pytest.raises(Failure, match="busy with the image") as caught:
        async with locks.held(tmp_path / "lock", timeout_s=0.1, what="the image"):
            pass
    assert caught.value.code == "deadline_exceeded"
    os.close(held)
