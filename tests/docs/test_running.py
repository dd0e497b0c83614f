"""docs/running.md is followed to the letter: under a real systemd, and over TLS.

What it says of the single binary and of the image is run by tests/system/test_binary.py and
test_image.py, nginx by test_proxy.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import pytest

from tests.daemon_process import DaemonProcess, shipped_event_types
from tests.docs.reading import DOCS
from tests.docs.shell import follow, pieces
from tests.edge.encrypted import AUTHORITY, certificate_in
from tests.system.pid_one import PidOne, hindrance

if TYPE_CHECKING:
    from pathlib import Path

INSTALL, _BINARY, _IMAGE, TRUST = pieces(
    DOCS / "running.md", "make binary", "make image", "SSL_CERT_FILE"
)
# A machine on which nothing is installed, and which reaches no registry: what `pip install .` puts
# into a venv is there already, and `python3 -m venv` puts it in its place. It is installed for real
# by tests/system/test_distribution.py. Where the Python of the tests has a library of its own, the
# sandbox keeps it from finding that.
PREPARE: Final = """
mount --bind /units /etc/systemd/system
mkdir -p /run/stand-in /units/meterd.service.d
mv /usr/local/bin/meterd /run/stand-in/installed
cat > /run/stand-in/pip <<'END'
#!/bin/sh -e
[ "$*" = "install ." ] && grep -q '^name = "meterd"' pyproject.toml
cp /run/stand-in/installed "$(dirname "$0")/meterd"
END
cat > /run/stand-in/python3 <<'END'
#!/bin/sh -e
[ "$1 $2" = "-m venv" ]
mkdir -p "$3/bin"
cp /run/stand-in/pip "$3/bin/"
END
chmod 755 /run/stand-in/pip /run/stand-in/python3
cat > /units/meterd.service.d/test.conf <<'END'
[Service]
Environment=LD_LIBRARY_PATH=/opt/python/lib
END
"""
FOLLOW: Final = """
cd /opt/meterd/source
PATH=/run/stand-in:$PATH
{script}
"""
POST: Final = (
    "curl --silent --show-error --output /dev/null --write-out '%{{http_code}}'"
    ' --header \'x-apikey: {key}\' --data \'{{"customerId": "c", "value": 1}}\''
    " http://127.0.0.1:8080/usage/api.calls"
)
BOTH: Final = "meterd.service meterd.socket"


def test_it_is_installed_under_systemd(tmp_path: Path) -> None:
    """Each command, as root; then events are taken with the key that was made, and both units come
    with the machine.
    """
    if why := hindrance():
        pytest.skip(why)
    try:
        machine = PidOne(tmp_path, []).__enter__()
    except OSError as refused:
        pytest.skip(str(refused)[:300])
    try:
        machine.run(PREPARE)
        said = machine.run(FOLLOW.format(script=INSTALL))
        [key] = re.findall(r"mk_[\w-]+", said)
        assert machine.run(POST.format(key=key)) == "201"
        assert machine.run(f"systemctl is-active {BOTH}").split() == ["active"] * 2
        for wanting, unit in (("multi-user", "meterd.service"), ("sockets", "meterd.socket")):
            assert f"/etc/systemd/system/{wanting}.target.wants/{unit} " in said
        assert machine.run("stat -c '%U %a' /var/lib/meterd") == "meterd 700"
        assert machine.run("stat -c '%G %a' /etc/meterd/systemconfig.toml") == "meterd 640"
    finally:
        machine.__exit__()


def test_an_authority_of_ones_own_is_trusted(tmp_path: Path) -> None:
    """By the variable that the page names; not without it."""
    certificate, key = certificate_in(tmp_path)
    AUTHORITY.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    tls = f'tls_certificate = "{certificate}"\ntls_key = "{key}"\n'
    daemon = DaemonProcess(tmp_path, event_types=tls + shipped_event_types())
    environ = {"METERD_API_KEY": daemon.key}
    there = {"https://meterd.example": daemon.url}
    try:
        said = follow(TRUST, tmp_path, there, environ)
        assert re.search(r"^state +ready$", said, re.MULTILINE)
        without = TRUST.replace("SSL_CERT_FILE=authority.pem ", "")
        with pytest.raises(AssertionError, match="certificate"):
            follow(without, tmp_path, there, environ)
    finally:
        daemon.stop()
