import os
import shutil
import subprocess
import sys

import pytest

SHELLS = {"bash": "complete -o default -F", "zsh": "compdef", "fish": "complete --command godwit"}


@pytest.mark.parametrize(("shell", "said"), SHELLS.items())
def test_a_script_for_each_shell(cli, shell, said):
    done = cli("completion", shell)
    assert done.code == 0
    assert said in done.stdout
    assert done.stderr == ""


def test_at_a_terminal_it_says_where_the_script_goes(cli):
    cli.lively = True
    assert "~/.bashrc" in cli("completion", "bash").stderr


def test_a_shell_nobody_knows(cli):
    assert cli("completion", "ksh").code == 2


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("godwit de", {"deploy"}),
        ("godwit releases s", {"show"}),
        ("godwit deploy --strat", {"--strategy"}),
        ("godwit completion f", {"fish"}),
    ],
)
def test_bash_completes_what_was_begun(tmp_path, typed, expected):
    """In a real bash, with the real program on the path."""
    bash = shutil.which("bash")
    assert bash
    program = tmp_path / "godwit"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m godwit.cmd.cli "$@"\n')
    program.chmod(0o755)
    words = typed.split()
    script = (
        'eval "$(godwit completion bash)"\n'
        f"COMP_WORDS=({typed})\nCOMP_CWORD={len(words) - 1}\n"
        "_godwit_completion godwit\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    done = subprocess.run(
        [bash, "-c", script], env=environ, capture_output=True, text=True, timeout=60, check=True
    )
    assert set(done.stdout.split()) == expected
