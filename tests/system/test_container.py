"""meterd as docs/running.md has it run in a container: as nobody, over a root that is read only,
without any capability.

The same kernel features, without an engine for containers: a mount namespace and ``setpriv``.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.daemon_process import DaemonProcess

NOBODY = 65534
# Everything read only, but for the data; then what the command is.
CONFINED = """
mount --make-rprivate /
mount --bind "$1" "$1"
awk '{print $2}' /proc/mounts | while read -r place; do
    case "$place" in "$1") ;; *) mount -o remount,bind,ro "$place" 2>/dev/null || true ;; esac
done
shift
exec "$@"
"""
AS_NOBODY = shlex.split(
    "setpriv --reuid 65534 --regid 65534 --clear-groups --bounding-set=-all --inh-caps=-all"
    " --no-new-privs"
)


def hindrance() -> str | None:
    if os.geteuid() != 0:
        return "needs root for a mount namespace"
    if not (shutil.which("unshare") and shutil.which("setpriv")):
        return "needs unshare and setpriv (Debian's util-linux)"
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        return "this machine allows no mount namespaces"
    if subprocess.run([*AS_NOBODY, sys.executable, "-c", ""], capture_output=True).returncode:
        return "nobody may not run this Python"
    return None


class ConfinedDaemon(DaemonProcess):
    """Its data folder is the only place that it can write to."""

    def start(self, until: str = "serving") -> None:
        self.data.mkdir(exist_ok=True)
        os.chown(self.data, NOBODY, NOBODY)
        super().start(until)

    def command(self) -> list[str]:
        confined = ["unshare", "--mount", "sh", "-ec", CONFINED, "sh", str(self.data)]
        return [*confined, *AS_NOBODY, *super().command()]


@pytest.mark.skipif(hindrance() is not None, reason=str(hindrance()))
def test_it_needs_nothing_but_its_data(tmp_path: Path) -> None:
    """It serves, stops and starts again; and could not have written elsewhere if it wanted to."""
    for folder in (tmp_path, *tmp_path.parents[:-1]):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(0o711)  # pytest's folders are for their owner only
    daemon = ConfinedDaemon(tmp_path)
    try:
        pid = daemon.process.pid
        status = Path(f"/proc/{pid}/status").read_text()
        assert re.search(rf"^Uid:(\t{NOBODY}){{4}}$", status, re.MULTILINE)
        assert re.search(rf"^Gid:(\t{NOBODY}){{4}}$", status, re.MULTILINE)
        assert re.findall(r"^Cap(?:Prm|Eff|Bnd):\t(\w+)$", status, re.MULTILINE) == ["0" * 16] * 3
        assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
        mounts = Path(f"/proc/{pid}/mounts").read_text().splitlines()
        options = {line.split()[1]: line.split()[3].split(",") for line in mounts}
        assert "ro" in options["/"]
        assert "rw" in options[str(daemon.data)]
        event = {"customerId": "c", "value": 1}
        assert daemon.request("POST", "/usage/api.calls", json=event).status_code == 201
        daemon.restart(signal.SIGKILL)
        assert len(daemon.request("GET", "/events").json()) == 1
        assert daemon.stop() == 0
    finally:
        daemon.process.kill()
    assert {path.stat().st_mode & 0o077 for path in daemon.data.rglob("*")} == {0}
    assert {path.stat().st_uid for path in daemon.data.rglob("*")} == {NOBODY}
