import contextlib
import io

from godwit.cli.output import Output
from godwit.cli.rollout import progress


def played(kind, *, fails=False):
    stderr = io.StringIO()
    telling = kind(Output(io.StringIO(), stderr))
    with contextlib.suppress(RuntimeError), telling:
        telling.step("Build")
        telling.line("STEP 1")
        telling.step("Update 2 machines")
        telling.machine("a", "a (app) is up for 1s of 10s")
        telling.machine("b", "b (app) is starting")
        telling.machine("a", "a (app) is up for 9s of 10s")
        telling.note("warning: slow")
        telling.machine("a", "a (app) is up")
        if fails:
            raise RuntimeError
    return stderr.getvalue()


def test_where_nobody_watches_each_change_is_a_line_and_counting_is_none():
    assert played(progress.Plain) == (
        "==> Build\n"
        "    STEP 1\n"
        "==> Update 2 machines\n"
        "    a (app) is up for 1s of 10s\n"
        "    b (app) is starting\n"
        "    warning: slow\n"
        "    a (app) is up\n"
    )


def test_at_a_terminal_each_machine_is_left_as_it_ended():
    said = played(progress.Live)
    assert "✓ Build\n" in said
    assert "✓ Update 2 machines\n    a (app) is up\n    b (app) is starting\n" in said
    assert "is up for" not in said.rpartition("✓ Update")[2]


def test_at_a_terminal_what_failed_is_marked():
    assert "✗ Update 2 machines" in played(progress.Live, fails=True)
