"""`godwit completion`."""

from typing import Annotated, Literal

import typer
from typer._completion_shared import get_completion_script

from godwit.cli import program, session, tree

app = tree.single()

_INSTALLED = {
    "bash": 'put `eval "$(godwit completion bash)"` into ~/.bashrc',
    "zsh": 'put `eval "$(godwit completion zsh)"` into ~/.zshrc, after compinit',
    "fish": "`godwit completion fish > ~/.config/fish/completions/godwit.fish`",
}


@app.command(
    epilog=tree.examples(
        'eval "$(godwit completion bash)"', "godwit completion zsh", "godwit completion fish"
    )
)
def completion(
    context: typer.Context,
    shell: Annotated[
        Literal["bash", "zsh", "fish"], typer.Argument(metavar="SHELL", help="bash, zsh or fish.")
    ],
) -> None:
    """Print what makes a shell complete commands and options."""
    here = session.of(context)
    script = get_completion_script(
        prog_name="godwit", complete_var=program.COMPLETION, shell=shell
    )
    here.out.data(script)
    if here.out.lively:
        here.out.hint(f"to have it always: {_INSTALLED[shell]}")
