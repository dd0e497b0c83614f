"""Commands in this process, asking a daemon that runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from click.testing import CliRunner, Result

from meterd.cli import main
from tests.daemon_process import KEY

if TYPE_CHECKING:
    from tests.daemon_process import DaemonProcess


def whole(daemon: DaemonProcess, *arguments: str) -> list[str]:
    return [*arguments, "--config", str(daemon.config), "--url", daemon.url]


def run(daemon: DaemonProcess, *arguments: str, content: bytes | None = None) -> Result:
    environ = {"METERD_API_KEY": KEY}
    result = CliRunner().invoke(main, whole(daemon, *arguments), env=environ, input=content)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result
