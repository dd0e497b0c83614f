"""Debian in a folder, made by debootstrap from where this machine has its packages from."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# How often at most: a package in hundreds that does not arrive says nothing of meterd.
_MIRROR_ASKED = 3


def hindrance(*programs: str) -> str | None:
    """Why there can be none here, if so."""
    if os.geteuid() != 0:
        return "needs root for debootstrap and chroot"
    missing = [name for name in ("debootstrap", *programs) if shutil.which(name) is None]
    if missing:
        return f"needs {', '.join(missing)}"
    if shutil.which("apt-get") is None or not _mirror():
        return "needs a Debian that says where its packages are from"
    return None


def debian_in(folder: Path, *packages: str) -> Path:
    """A minimal Debian with these packages, made once for each folder, whoever asks first."""
    folder.mkdir(parents=True, exist_ok=True)
    root, name = folder / "root", platform.freedesktop_os_release()["VERSION_CODENAME"]
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            unfinished = folder / "unfinished"
            more = [f"--include={','.join(packages)}"] if packages else []
            make = ["debootstrap", "--variant=minbase", *more, name, str(unfinished), _mirror()]
            asked = 1
            while (made := subprocess.run(make, capture_output=True, text=True)).returncode:
                assert asked < _MIRROR_ASKED, made.stdout[-2000:] + made.stderr[-2000:]
                asked += 1
                shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.rename(root)
    return root


def _mirror() -> str:
    asked = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
    )
    return next(iter(asked.stdout.split()), "")
