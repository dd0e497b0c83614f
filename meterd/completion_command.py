"""The command ``meterd completion``: what a shell needs to complete commands and options."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import get_completion_class

_SHELLS: Final = ("bash", "zsh", "fish")


@click.command(epilog='Example: eval "$(meterd completion bash)"')
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that makes a shell complete meterd's commands and options.

    The example is for this bash alone; it may stand in ~/.bashrc, and with zsh in ~/.zshrc, behind
    compinit. As a file it is read when it is needed: by bash
    ~/.local/share/bash-completion/completions/meterd, by zsh _meterd in a folder of $fpath, by fish
    ~/.config/fish/completions/meterd.fish.

    Exit codes: 0 printed; 2 wrong arguments.
    """
    found = get_completion_class(shell)
    assert found is not None, "click knows all three"
    script = found(ctx.find_root().command, {}, "meterd", "_METERD_COMPLETE").source()
    # click's script for fish ends descriptions and file names at their first comma.
    click.echo(script.replace('string split ","', 'string split --max 1 ","'))
