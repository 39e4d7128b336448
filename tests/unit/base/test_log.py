"""Log lines: one per event, and what each is about."""

import asyncio
import io
import logging
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.base import log
from godwit.base.tasks import Tasks


@pytest.fixture
def lines():
    """Return a logger's lines as a component writes them."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(log.Lines("agent"))
    logger = logging.getLogger("godwit.test.lines")
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel("INFO")
    yield logger, lambda: written.getvalue().splitlines()
    logger.removeHandler(handler)


def test_a_line_begins_as_those_of_the_rust_programs(lines):
    logger, written = lines
    logger.info("ready")
    (line,) = written()
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z agent INFO godwit\.test\.lines: ready", line
    )


def test_what_is_bound_is_at_the_end_and_only_within(lines):
    logger, written = lines
    with log.bound(org_id="org_1", network_id=None, app=""):
        logger.info("one")
        with log.bound(machine_id="m1", org_id="org_2"):
            logger.info("two")
        logger.info("three")
    logger.info("four")
    ends = [line.partition("lines: ")[2] for line in written()]
    assert ends == [
        "one org_id=org_1",
        "two org_id=org_2 machine_id=m1",
        "three org_id=org_1",
        "four",
    ]


def test_what_a_call_binds_in_a_block_ends_with_the_block(lines):
    logger, written = lines
    with log.bound(org_id="org_1"):
        log.bind(org_id="org_2", app="shop")
        logger.info("inside")
    logger.info("outside")
    assert [line.rpartition("lines: ")[2] for line in written()] == [
        "inside org_id=org_2 app=shop",
        "outside",
    ]


async def test_tasks_inherit_and_do_not_disturb_each_other(lines):
    logger, written = lines

    async def work(name):
        log.bind(machine_id=name)
        await asyncio.sleep(0)
        logger.info("works")

    async with Tasks("test") as tasks:
        with log.bound(org_id="org_1"):
            started = [tasks.spawn(work(name), name=name) for name in ("a", "b")]
        await asyncio.gather(*started)
        await asyncio.to_thread(logger.info, "outside")
    ends = {line.rpartition("lines: ")[2] for line in written()}
    assert ends == {
        "works org_id=org_1 machine_id=a",
        "works org_id=org_1 machine_id=b",
        "outside",
    }


async def test_the_failure_of_a_task_says_what_the_task_was_about(caplog):
    async def work():
        log.bind(org_id="org_1")
        raise ValueError("boom")

    seen = []

    class Remember(logging.Handler):
        def emit(self, record):
            seen.append(dict(log.fields()))

    logger = logging.getLogger("godwit.base.tasks")
    handler = Remember()
    logger.addHandler(handler)
    try:
        async with Tasks("test") as tasks:
            await asyncio.wait({tasks.spawn(work(), name="work")})
            await asyncio.sleep(0)
    finally:
        logger.removeHandler(handler)
    assert seen == [{"org_id": "org_1"}]


@given(st.text(max_size=100), st.text(min_size=1, max_size=50))
def test_no_text_makes_a_second_line_that_looks_like_one(message, value):
    record = logging.LogRecord("n", logging.INFO, "", 0, "%s", (message,), None)
    with log.bound(app=value):
        text = log.Lines("agent").format(record)
    first, *rest = text.split("\n")
    assert re.match(r"\d{4}-", first)
    assert all(line.startswith("  ") for line in rest)


def test_a_value_with_spaces_is_quoted(lines):
    logger, written = lines
    with log.bound(app='a "b" org_id=x'):
        logger.info("odd")
    assert written()[0].endswith(r'odd app="a \"b\" org_id=x"')


def test_a_traceback_follows_its_line(lines):
    logger, written = lines
    with log.bound(org_id="org_1"):
        try:
            int("x")
        except ValueError:
            logger.exception("failed")
    first, *rest = written()
    assert first.endswith("failed org_id=org_1")
    assert rest[-1].startswith("ValueError: ")
