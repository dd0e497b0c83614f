"""A systemd of its own as process 1 of a namespace, over this machine's files, which it cannot
change: what it writes is in memory, and gone with it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from tests.daemon_process import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

PATIENCE_S: Final = 20.0
# Those in which systemd keeps its processes; the others it can do without.
HIERARCHIES: Final = ("", "unified", "systemd")
# $1 is an empty folder; $2 the Python below /opt/python, or empty; $3 and $4 meterd and what it
# needs; then the units. A root that is pivoted to may make user namespaces, one of chroot may not.
BEGIN: Final = """
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
root="$1/root" python="$2" source="$3" needed="$4"
shift 4
mkdir -p "$root/opt/python" "$root/opt/meterd/source" "$root/opt/meterd/needed" "$root/units"
[ -z "$python" ] || mount --bind "$python" "$root/opt/python"
mount --bind "$source" "$root/opt/meterd/source"
mount --bind "$needed" "$root/opt/meterd/needed"
cp "$@" "$root/units"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount --rbind /dev "$root/dev"
mount -t sysfs -o ro sysfs "$root/sys"
if [ -e /sys/fs/cgroup/cgroup.procs ]; then
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
else
    mount -t tmpfs tmpfs "$root/sys/fs/cgroup"
    mkdir "$root/sys/fs/cgroup/unified" "$root/sys/fs/cgroup/systemd"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup/unified"
    mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/systemd"
fi
ip link set lo up
mkdir "$root/.old"
cd "$root"
pivot_root . .old
cd /
umount -l /.old
exec env -i PATH="$PATH" container=test SYSTEMD_UNIT_PATH=/units /lib/systemd/systemd --system \
    --log-target=console --show-status=no --unit=idle.target
"""
METERD: Final = """#!{python}
import sys
sys.path[:0] = ["/opt/meterd/source", "/opt/meterd/needed"]
from meterd.__main__ import main
main()
"""
# Before the namespaces are made, whose root the groups are to be.
JOIN: Final = 'for group in $GROUPS_TO_JOIN; do echo $$ > "$group/cgroup.procs"; done; exec "$@"'
TARGETS: Final = ("idle", "sysinit", "basic")
IDLE: Final = "[Unit]\nDescription=Nothing but what is asked for\n"


def hindrance() -> str | None:
    """Why there can be none here, as far as that can be told without trying."""
    if os.geteuid() != 0:
        return "needs root for namespaces"
    programs = ("systemd-sysusers", "unshare", "nsenter", "pivot_root", "ip", "curl")
    missing = [name for name in programs if shutil.which(name) is None]
    return f"needs {', '.join(missing)}" if missing else None


class PidOne:
    """Runs, with the units, until it is left. Raises OSError where this machine allows none."""

    def __init__(self, folder: Path, units: Sequence[Path]) -> None:
        place = folder / "pid_one"
        place.mkdir()
        targets = [folder / f"{name}.target" for name in TARGETS]
        for target in targets:
            target.write_text(IDLE)
        is_own = Path(sys.base_prefix) != Path("/usr")
        found = [Path("/sys/fs/cgroup") / name for name in HIERARCHIES]
        self._groups = [
            one / f"meterd-test-{os.getpid()}" for one in found if (one / "cgroup.procs").exists()
        ]
        for group in self._groups:
            group.mkdir()
        needed = sysconfig.get_path("purelib")
        python = sys.base_prefix if is_own else ""
        spaces = ["--fork", "--pid", "--mount", "--cgroup", "--ipc", "--uts", "--net"]
        command = [
            "sh",
            "-ec",
            JOIN,
            "sh",
            "unshare",
            *spaces,
            "--kill-child",
            "sh",
            "-ec",
            BEGIN,
            "sh",
        ]
        self._log = (folder / "pid_one.log").open("w+")
        self._process = subprocess.Popen(
            [*command, place, python, ROOT, needed, *units, *targets],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "GROUPS_TO_JOIN": " ".join(map(str, self._groups))},
        )
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.python = f"/opt/python/bin/{version}" if is_own else f"/usr/bin/{version}"

    def __enter__(self) -> Self:
        try:
            self._wait_until_it_runs()
            script = METERD.format(python=self.python)
            self.run(
                f"cat > /usr/local/bin/meterd <<'E'\n{script}E\nchmod 755 /usr/local/bin/meterd"
            )
        except BaseException:
            self.__exit__()
            raise
        return self

    def _wait_until_it_runs(self) -> None:
        ends_at = time.monotonic() + PATIENCE_S
        while self.run("systemctl is-system-running", check=False) not in {"running", "degraded"}:
            if self._process.poll() is not None or time.monotonic() > ends_at:
                self._log.seek(0)
                raise OSError(f"no systemd as process 1 of a namespace: {self._log.read()}")
            time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()
        ends_at = time.monotonic() + PATIENCE_S
        while any(group.exists() for group in self._groups) and time.monotonic() < ends_at:
            for group in self._groups:  # empty when the last of its processes is gone
                for inner, *_rest in os.walk(group, topdown=False):
                    with suppress(OSError):
                        Path(inner).rmdir()
            time.sleep(0.02)

    def run(self, command: str, *, check: bool = True) -> str:
        """What a shell within says, stderr too; it must succeed, unless ``check`` is False."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        first = next(iter(children.read_text().split()), "") if children.exists() else ""
        if not first:
            return ""
        within = ["nsenter", "-t", first, *("-m", "-p", "-u", "-i", "-n", "-C", "-r", "-w")]
        done = subprocess.run(
            [*within, "sh", "-ec", command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0 or not check, done.stdout
        return done.stdout.strip()
