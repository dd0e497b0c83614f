"""The units for systemd, by systemd's own tools: every line is known, little is left open."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING, Final

import pytest

from meterd.edge.limits import FILES_MAX
from tests.daemon_process import ROOT
from tests.system.torture.hindered import skip_if

if TYPE_CHECKING:
    from pathlib import Path

PACKAGING: Final = ROOT / "packaging"
UNITS: Final = ("meterd.service", "meterd.socket")
# In tenths, as the tool takes it: 0 is a service that may nothing, 100 one that may everything.
# What is left is network, local sockets and the root folder that all services see.
EXPOSURE_MAX: Final = 17


def tool(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which(name)
    skip_if(None if program else f"{name} is not installed (Debian: systemd)")
    assert program is not None
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60)


def units_in(folder: Path, *more: str) -> list[Path]:
    """The shipped ones, with these lines of [Service], for a machine where meterd is not
    installed.
    """
    for name in UNITS:
        text = (PACKAGING / name).read_text()
        text = text.replace("/usr/local/bin/meterd", sys.executable)
        text = text.replace("[Service]\n", "\n".join(["[Service]", *more, ""]))
        (folder / name).write_text(text)
    return [folder / name for name in UNITS]


def said_of(units: list[Path]) -> str:
    done = tool("systemd-analyze", "verify", "--man=no", *units)
    # Of this machine's own units, and of names that only a running systemd could look up.
    lines = (done.stdout + done.stderr).splitlines()
    return "\n".join(line for line in lines if "meterd" in line)


def test_systemd_knows_every_line(tmp_path: Path) -> None:
    """A word that it does not know, or a value, it would pass over at the start."""
    assert said_of(units_in(tmp_path)) == ""


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("ProtectEverything=yes", "ProtectEverything"),
        ("Type=notify-relaod", "notify-relaod"),
        ("UMask=high", "high"),
    ],
)
def test_systemd_says_what_it_does_not_know(tmp_path: Path, line: str, named: str) -> None:
    """So that the above may be believed."""
    assert named in said_of(units_in(tmp_path, line))


def test_little_is_left_open(tmp_path: Path) -> None:
    """As systemd counts it; without half of the lines it would be more, and is found to be."""
    [service, _] = units_in(tmp_path)
    assess = ("security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE_MAX}")
    assert tool("systemd-analyze", *assess, service).returncode == 0
    open_again = re.sub(r"(?m)^(System|Restrict|Protect|Capability).*\n", "", service.read_text())
    service.write_text(open_again)
    assert tool("systemd-analyze", *assess, service).returncode != 0


def lines(name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (PACKAGING / name).read_text().splitlines():
        if matched := re.match(r"(\w+)=(.*)", line):
            found.setdefault(matched[1], []).append(matched[2])
    return found


def test_what_the_units_have_from_meterd() -> None:
    """The files that it may need, the address that it ships with."""
    service, shipped = lines("meterd.service"), (ROOT / "systemconfig.toml").read_text()
    assert int(service["LimitNOFILE"][0]) >= FILES_MAX
    bind = tomllib.loads(shipped)["server"]["bind"]
    assert lines("meterd.socket")["ListenStream"] == [bind]


def test_the_user_is_made(tmp_path: Path) -> None:
    """Whom the service runs as, at home in the folder that it is given."""
    (tmp_path / "etc").mkdir()
    done = tool("systemd-sysusers", f"--root={tmp_path}", PACKAGING / "meterd.sysusers")
    assert done.returncode == 0, done.stderr
    service = lines("meterd.service")
    made = [line.split(":") for line in (tmp_path / "etc" / "passwd").read_text().splitlines()]
    assert [line[0] for line in made] == service["User"] == service["Group"]
    assert made[0][5] == f"/var/lib/{service['StateDirectory'][0]}"
    assert made[0][6] == "/usr/sbin/nologin"
