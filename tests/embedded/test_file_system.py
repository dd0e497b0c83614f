"""Which file system a data folder is on, by tables of mounts as Linux writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from structlog.testing import capture_logs

from meterd.domain.errors import StoreError
from meterd.embedded import file_system
from meterd.embedded.file_system import kind_of, require_local
from meterd.embedded.store import Store

MOUNTS: Final = """\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 22 0:24 / /tmp rw,nosuid shared:5 - tmpfs tmpfs rw,size=10M
41 22 0:50 /exports /srv/nfs\\040share rw - nfs4 filer:/exports rw,vers=4.2
42 41 8:2 / /srv/nfs\\040share/local rw master:2 - xfs /dev/sdb2 rw
43 22 0:51 / /data rw - ext4 /dev/sdc rw
44 43 0:52 / /data rw - fuse.sshfs me@there:/ rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/var/lib/meterd", "ext4"),
        ("/tmpfile", "ext4"),
        ("/tmp", "tmpfs"),
        ("/tmp/a/b", "tmpfs"),
        ("/srv/nfs share/meterd", "nfs4"),
        ("/srv/nfs share/local/meterd", "xfs"),
        ("/data/meterd", "fuse.sshfs"),
    ],
)
def test_the_nearest_mount_decides(path: str, kind: str) -> None:
    """Of two at one place the later one; names may have spaces."""
    assert kind_of(Path(path), MOUNTS) == kind


def mounted(monkeypatch: pytest.MonkeyPatch, folder: Path, kind: str) -> None:
    table = folder / "mountinfo"
    place = str(folder).replace(" ", "\\040")
    table.write_text(
        f"22 1 254:1 / / rw - ext4 /dev/vda1 rw\n23 22 0:1 / {place} rw - {kind} there rw\n"
    )
    monkeypatch.setattr(file_system, "_MOUNTS", table)


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "ceph", "fuse.sshfs"])
def test_a_network_file_system_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """By its name, before anything is made there: a store would be corrupt some day."""
    mounted(monkeypatch, tmp_path, kind)
    with pytest.raises(StoreError, match=rf"is on a network file system \({kind}\)"):
        Store(tmp_path / "new" / "data")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("kind", "is_doubted"),
    [("ext4", False), ("tmpfs", False), ("overlay", False), ("fuseblk", False)]
    + [(kind, True) for kind in ("9p", "virtiofs", "fuse", "fuse.grpcfuse", "vboxsf")],
)
def test_a_doubtful_one_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, *, is_doubted: bool
) -> None:
    """Containers on a desktop have nothing else; the store opens."""
    mounted(monkeypatch, tmp_path, kind)
    with capture_logs() as logged:
        Store(tmp_path / "data").close()
    assert [entry["file_system"] for entry in logged] == [kind] * is_doubted


def test_where_nothing_is_said_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only Linux has such a table."""
    monkeypatch.setattr(file_system, "_MOUNTS", tmp_path / "missing")
    require_local(tmp_path)


def test_the_table_of_this_machine_is_read(tmp_path: Path) -> None:
    """As Linux writes it."""
    if not file_system._MOUNTS.exists():
        pytest.skip("only Linux says what is mounted where")
    assert kind_of(tmp_path.resolve(), file_system._mounts()) is not None
