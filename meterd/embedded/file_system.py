"""Which file system the data folder is on: LMDB is for local ones only.

Its readers see what the writer wrote through memory that is mapped from the file, and its locks are
the machine's. Over a network neither holds: a store there is corrupt sooner or later, and nothing
says so at the time. Only Linux tells what is mounted where; elsewhere nothing is refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import structlog

from meterd.domain.errors import StoreError

_MOUNTS: Final = Path("/proc/self/mountinfo")
# Other machines write to these too, or the bytes lie on one.
_NETWORK: Final = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "coda"),
        *("ceph", "lustre", "beegfs", "gfs2", "ocfs2", "gpfs", "orangefs"),
        *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.ceph-fuse", "fuse.s3fs"),
        *(
            "fuse.rclone",
            "fuse.gcsfuse",
            "fuse.goofys",
            "fuse.mount-s3",
            "fuse.davfs",
            "fuse.juicefs",
        ),
    )
)
# A host's folder in a guest, or anything behind FUSE: some keep what they are told to, some do not.
_DOUBTFUL: Final = re.compile(r"9p|virtiofs|vboxsf|prl_fs|drvfs|fuse|fuse\..*")

_log = structlog.get_logger("store")


def require_local(folder: Path) -> None:
    """Raises StoreError where the folder is on a network file system; warns where that is unknown.

    The folder need not be there yet.
    """
    kind = kind_of(folder.resolve(), _mounts())
    if kind in _NETWORK:
        raise StoreError(
            f"{folder} is on a network file system ({kind}), where a store does not survive:"
            " set storage.path to a folder on a disk of this machine"
        )
    if kind is not None and _DOUBTFUL.fullmatch(kind):
        _log.warning(
            "this file system may not keep what it is told to: use one on a local disk",
            data=str(folder),
            file_system=kind,
        )


def kind_of(path: Path, mounts: str) -> str | None:
    """By the text of ``/proc/self/mountinfo`` (proc(5)); None where that does not say."""
    found, longest = None, -1
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        place = Path(_unescaped(before.split(" ")[4]))
        # Of two mounted at one place the later one is seen.
        if path.is_relative_to(place) and len(place.parts) >= longest:
            found, longest = after.split(" ")[0], len(place.parts)
    return found


def _unescaped(text: str) -> str:
    """Spaces and the like are written in octal."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text)


def _mounts() -> str:
    try:
        # Names of files are bytes; what is no UTF-8 is compared as Python keeps it.
        return _MOUNTS.read_text(errors="surrogateescape")
    except OSError:
        return ""
