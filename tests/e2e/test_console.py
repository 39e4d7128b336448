"""A console in a real machine, through a restart of control."""

import subprocess

from godwit.testing.platform import GODWIT, Platform, eventually


def test_a_console_outlives_control_and_leaves_no_machine(platform: Platform, launched) -> None:
    before = {one["id"] for one in platform.machines("hello-reed")}
    console = subprocess.Popen(
        [GODWIT, "console", "--app", "hello-reed", "-C", "sh", "-e", "MOOD=fine"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=platform.environ,
    )
    assert console.stdin is not None
    assert console.stdout is not None
    console.stdin.write(b"id -u; echo $MOOD $FLY_PROCESS_GROUP; test -t 0 || echo piped\n")
    console.stdin.flush()
    said = [console.stdout.readline() for _ in range(3)]
    assert said == [b"0\n", b"fine fly_app_console\n", b"piped\n"]
    platform.kill("control")
    console.stdin.write(b"echo still here; exit 5\n")
    console.stdin.flush()
    stdout, stderr = console.communicate(timeout=400)
    assert (console.returncode, stdout) == (5, b"still here\n"), stderr
    eventually(lambda: {one["id"] for one in platform.machines("hello-reed")} == before)
