"""Reading log files: from the end, after a cursor, over rotations, across machines, bounded."""

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from godwit.agent import logs, system_log
from godwit.base import encoded
from godwit.testing import clock
from godwit.wire import shim


def write(path: Path, times: range | list[int], text: str = "line") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [shim.LogLine(t=t, s="stdout", m=f"{text} {t}").model_dump_json() for t in times]
    path.write_text("".join(f"{line}\n" for line in lines))


def source(directory: Path, machine_id: str = "m1") -> logs.Source:
    return logs.Source(directory, "org_a", "hello", machine_id, "lcl")


async def times(directory: Path, after: int, limit: int) -> list[int]:
    answer = await logs.read([source(directory)], after, limit)
    return [line.t for line in answer.lines]


async def test_without_a_cursor_the_newest_lines_come_oldest_first(tmp_path: Path) -> None:
    write(tmp_path / "current.jsonl", range(1, 11))
    assert await times(tmp_path, 0, 3) == [8, 9, 10]
    assert await times(tmp_path, 0, 100) == list(range(1, 11))


async def test_the_newest_lines_reach_back_over_a_rotation(tmp_path: Path) -> None:
    write(tmp_path / "2.jsonl", range(1, 4))
    write(tmp_path / "1.jsonl", range(4, 7))
    write(tmp_path / "current.jsonl", range(7, 9))
    assert await times(tmp_path, 0, 4) == [5, 6, 7, 8]
    assert await times(tmp_path, 0, 100) == list(range(1, 9))


async def test_after_a_cursor_the_next_lines_come(tmp_path: Path) -> None:
    write(tmp_path / "2.jsonl", range(1, 4))
    write(tmp_path / "1.jsonl", range(4, 7))
    write(tmp_path / "current.jsonl", range(7, 9))
    assert await times(tmp_path, 2, 3) == [3, 4, 5]
    assert await times(tmp_path, 6, 100) == [7, 8]
    assert await times(tmp_path, 8, 100) == []


async def test_no_file_is_no_lines(tmp_path: Path) -> None:
    assert await times(tmp_path / "none", 0, 10) == []
    assert await times(tmp_path / "none", 5, 10) == []


async def test_torn_and_foreign_lines_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "current.jsonl", range(1, 4))
    with (tmp_path / "current.jsonl").open("a") as file:
        file.write("not json\n\n")
        file.write(shim.LogLine(t=9, s="stderr", m="x").model_dump_json() + "\n")
        file.write('{"t": 10, "s": "stdout", "m": "half')
    assert await times(tmp_path, 0, 10) == [1, 2, 3, 9]
    assert await times(tmp_path, 2, 10) == [3, 9]


async def test_large_files_are_searched_not_read(tmp_path: Path) -> None:
    write(tmp_path / "current.jsonl", range(1, 40_001), text="x" * 80)
    assert await times(tmp_path, 39_990, 5) == [39_991, 39_992, 39_993, 39_994, 39_995]
    assert await times(tmp_path, 20_000, 2) == [20_001, 20_002]
    assert await times(tmp_path, 0, 2) == [39_999, 40_000]


async def test_several_machines_are_merged_by_time_and_told_apart(tmp_path: Path) -> None:
    write(tmp_path / "a" / "current.jsonl", [1, 3, 5])
    write(tmp_path / "b" / "current.jsonl", [2, 4, 6])
    both = [source(tmp_path / "a", "a"), source(tmp_path / "b", "b")]
    answer = await logs.read(both, 0, 4)
    assert [(line.t, line.machine_id) for line in answer.lines] == [
        (3, "a"),
        (4, "b"),
        (5, "a"),
        (6, "b"),
    ]
    assert answer.lines[0].org_id == "org_a"


async def test_a_page_never_ends_between_lines_of_one_moment(tmp_path: Path) -> None:
    write(tmp_path / "a" / "current.jsonl", [1, 2, 3])
    write(tmp_path / "b" / "current.jsonl", [1, 2, 3])
    both = [source(tmp_path / "a", "a"), source(tmp_path / "b", "b")]
    answer = await logs.read(both, 1, 1)
    assert [line.t for line in answer.lines] == [2, 2]


async def test_an_answer_stays_within_its_bytes(tmp_path: Path) -> None:
    write(tmp_path / "current.jsonl", range(1, 101), text="x" * 20_000)
    answer = await logs.read([source(tmp_path)], 0, 1000)
    assert len(answer.model_dump_json()) < 400_000
    assert answer.lines[-1].t == 100
    answer = await logs.read([source(tmp_path)], 50, 1000)
    assert answer.lines[0].t == 51
    assert len(answer.model_dump_json()) < 400_000


def test_the_platforms_own_lines_are_among_the_machines(tmp_path: Path) -> None:
    async def body() -> None:
        write(tmp_path / "m1" / "current.jsonl", [1, 2])
        written = system_log.SystemLog(lambda machine_id: tmp_path / machine_id, clock.FakeClock())
        written.write("m1", "Main child exited normally with code: 0")
        written.write("m1", "restarting in 1 s")
        answer = logs._read([source(tmp_path / "m1")], 0, 10)
        assert [(line.stream, line.message) for line in answer.lines][2:] == [
            ("system", "Main child exited normally with code: 0"),
            ("system", "restarting in 1 s"),
        ]

    clock.run(body())


def test_the_platforms_lines_stay_bounded(tmp_path: Path) -> None:
    async def body() -> None:
        written = system_log.SystemLog(lambda machine_id: tmp_path / machine_id, clock.FakeClock())
        for number in range(3_000):
            written.write("m1", f"{number} " + "x" * 200)
        assert (tmp_path / "m1" / system_log.NAME).stat().st_size < 300_000
        answer = logs._read([source(tmp_path / "m1")], 0, 1)
        assert answer.lines[0].message.startswith("2999 ")

    clock.run(body())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 400), unique=True, max_size=120).map(sorted),
    st.integers(0, 400),
    st.integers(1, 130),
    st.integers(1, 5),
)
def test_paging_after_a_cursor_misses_and_repeats_nothing(
    tmp_path_factory, written: list[int], after: int, limit: int, files: int
) -> None:
    directory = tmp_path_factory.mktemp("logs")
    size = len(written) // files + 1
    parts = [written[at : at + size] for at in range(0, len(written), size)]
    for index, part in enumerate(reversed(parts)):
        write(directory / (f"{index}.jsonl" if index else "current.jsonl"), part)
    got: list[int] = []
    cursor = max(1, after)
    while True:
        page = [line.t for line in logs._read([source(directory)], cursor, limit).lines]
        if not page:
            break
        got += page
        cursor = page[-1]
    assert got == [t for t in written if t > max(1, after)]


async def test_last_words_are_the_last_lines_since_the_start_cut_to_a_bound(
    tmp_path: Path,
) -> None:
    second_ns = 1_000_000_000
    write(tmp_path / "current.jsonl", [n * second_ns for n in range(1, 31)])
    write(tmp_path / system_log.NAME, [31 * second_ns], "the platform's own")
    assert len(await logs.last_words(tmp_path, 0)) == 20
    found = await logs.last_words(tmp_path, 29_000)
    assert found == (f"line {29 * second_ns}", f"line {30 * second_ns}")
    write(tmp_path / "current.jsonl", [second_ns], "x" * 5_000)
    (long,) = await logs.last_words(tmp_path, 0)
    assert len(long) == 400
    assert await logs.last_words(tmp_path / "none", 0) == ()


async def test_lines_that_are_no_plain_text_fit_an_answer_all_the_same(tmp_path: Path) -> None:
    write(tmp_path / "current.jsonl", range(1, 1_001), text="\0" * 250)
    for after in (0, 1):
        answer = await logs.read([source(tmp_path)], after, 1_000)
        assert len(answer.lines) > 100
        assert len(answer.model_dump_json()) < 262_144
    assert answer.lines[0].t == 2


async def test_last_words_are_short_as_json_too(tmp_path: Path) -> None:
    write(tmp_path / "current.jsonl", range(1, 30), text="\1" * 400)
    words = await logs.last_words(tmp_path, 0)
    assert len(words) == 20
    assert all(700 < encoded.size(word) <= 800 for word in words)
