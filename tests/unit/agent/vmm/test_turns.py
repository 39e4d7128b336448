"""Who may boot now; with real guests it is in tests/vm/test_warm.py."""

import asyncio

from godwit.agent.vmm import turns


async def waits(at_once: turns.Turns, name: str) -> "asyncio.Task[None]":
    task = asyncio.get_running_loop().create_task(at_once.take(name))
    await asyncio.sleep(0)
    return task


async def test_a_few_at_once_and_the_others_in_the_order_in_which_they_came():
    at_once = turns.Turns(2)
    await at_once.take("a")
    await at_once.take("b")
    third, fourth = await waits(at_once, "c"), await waits(at_once, "d")
    assert not third.done()
    at_once.give_back("a")
    await third
    assert not fourth.done()
    at_once.give_back("c")
    await fourth


async def test_taking_twice_is_taking_once_and_so_is_giving_back():
    at_once = turns.Turns(1)
    await at_once.take("a")
    await at_once.take("a")
    at_once.give_back("a")
    at_once.give_back("a")
    await at_once.take("b")
    waiting = await waits(at_once, "c")
    assert not waiting.done()
    waiting.cancel()


async def test_one_who_goes_away_while_waiting_holds_up_nobody():
    at_once = turns.Turns(1)
    await at_once.take("a")
    second, third = await waits(at_once, "b"), await waits(at_once, "c")
    second.cancel()
    at_once.give_back("a")
    await third
    assert at_once.held("b") is None


async def test_a_turn_of_an_earlier_boot_is_not_given_back_for_a_later_one():
    at_once = turns.Turns(1)
    await at_once.take("a")
    earlier = at_once.held("a")
    at_once.give_back("a")
    await at_once.take("a")
    at_once.give_back("a", earlier)
    assert at_once.held("a") is not None
