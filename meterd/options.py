"""What the commands have in common.

Answers go to stdout, everything else to stderr; a failure is one line for each fault, and never a
traceback.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import click

from meterd.domain.errors import MeterdError
from meterd.source import ConfigSource, locate


class OneLineErrors(click.Group):
    """Ends with exit code 1 and the failure's own lines.

    2 is for what is wrong on the command line itself, whatever the machine has. What stands at a
    path that is named there, a file instead of a folder say, is found out on the machine: 1.
    """

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MeterdError as error:
            for line in str(error).splitlines():
                click.echo(line, err=True)
            ctx.exit(1)
        except click.MissingParameter:
            raise
        except click.BadParameter as error:
            if error.param is None or not isinstance(error.param.type, click.Path):
                raise
            click.echo(error.message, err=True)
            ctx.exit(1)


config_option: Final = click.option(
    "--config",
    "given",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help=(
        "Default: METERD_CONFIG, else systemconfig.toml or systemconfig.json in this folder."
        " METERD_DATA_DIR wins over its storage.path."
    ),
)
json_option: Final = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, an object a line."
)


def config_source(given: Path | None) -> ConfigSource:
    """The one given, or that of the environment, or of this folder. Raises ConfigError."""
    return locate(given, os.environ.copy(), Path())


def data_folder(given: Path | None) -> Path:
    """The configured one. Raises ConfigError."""
    return Path(config_source(given).configured().storage.path)
