"""meterd as its unit has it, with the whole sandbox, under a real systemd."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import pytest

from tests.daemon_process import KEY, ROOT
from tests.system.pid_one import PidOne, hindrance

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGING: Final = ROOT / "packaging"
POST: Final = (
    "curl --silent --output /dev/null --write-out '%{http_code}\\n' --max-time 30"
    f' --header \'x-apikey: {KEY}\' --data \'{{"customerId": "c", "value": 1}}\''
    " http://127.0.0.1:8080/usage/api.calls"
)
# Where the Python of the tests has a library of its own, the sandbox keeps it from finding that.
INSTALL: Final = f"""
systemd-sysusers {{packaging}}/meterd.sysusers
install -d /etc/meterd
install -m 640 -g meterd {{root}}/systemconfig.toml /etc/meterd/
echo METERD_API_KEY={KEY} > /etc/meterd/environment
chmod 600 /etc/meterd/environment
mkdir /units/meterd.service.d
cat > /units/meterd.service.d/test.conf <<'E'
[Service]
Environment=LD_LIBRARY_PATH=/opt/python/lib
StandardOutput=append:/run/meterd.log
StandardError=inherit
E
systemctl daemon-reload
"""
START: Final = "systemctl start meterd.service || { cat /run/meterd.log; exit 1; }"
IMPATIENT: Final = "[Service]\nWatchdogSec=1\nRestartSec=0.1\nTimeoutAbortSec=1\n"
RESTARTED: Final = f"""
(for each in $(seq 150); do {POST}; done) > /run/answers &
clients=$!
systemctl restart meterd
systemctl restart meterd
wait $clients
sort /run/answers | uniq -c
"""
UNTIL_STARTED_AGAIN: Final = """
until [ "$(systemctl show meterd.service --value -p NRestarts)" = 1 ] \\
    && systemctl is-active --quiet meterd.service
do sleep 0.1; done
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PidOne]:
    if why := hindrance():
        pytest.skip(why)
    units = [PACKAGING / "meterd.service", PACKAGING / "meterd.socket"]
    try:
        running = PidOne(tmp_path_factory.mktemp("systemd"), units).__enter__()
    except OSError as refused:
        pytest.skip(str(refused)[:300])
    try:
        source = "/opt/meterd/source"
        running.run(INSTALL.format(packaging=f"{source}/packaging", root=source))
        running.run(START)
        yield running
    finally:
        running.__exit__()


def shown(machine: PidOne, name: str) -> str:
    return machine.run(f"systemctl show meterd.service --value --property {name}")


def test_it_is_started_when_it_serves(machine: PidOne) -> None:
    """And is confined: a user of its own, no way to more, a filter of system calls."""
    assert shown(machine, "ActiveState") == "active"
    assert shown(machine, "StatusText") == "serving http://127.0.0.1:8080"
    assert machine.run(POST) == "201"
    status = machine.run(f"cat /proc/{shown(machine, 'MainPID')}/status")
    user = machine.run("id -u meterd")
    assert re.search(rf"^Uid:(\t{user}){{4}}$", status, re.MULTILINE)
    assert re.search(r"^CapBnd:\t0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
    assert re.search(r"^Seccomp:\t2$", status, re.MULTILINE)


def test_a_reload_says_what_came_of_it(machine: PidOne) -> None:
    """An invalid configuration fails it, and the old one stays in force."""
    machine.run("systemctl reload meterd.service")
    said = "serving http://127.0.0.1:8080; configuration reloaded"
    assert shown(machine, "StatusText") == said
    machine.run(
        "cp -p /etc/meterd/systemconfig.toml /run/; echo '[' >> /etc/meterd/systemconfig.toml"
    )
    refused = machine.run("systemctl reload meterd.service || echo refused")
    assert refused.endswith("refused")
    machine.run("cp -p /run/systemconfig.toml /etc/meterd/")
    assert shown(machine, "ActiveState") == "active"
    assert machine.run(POST) == "201"


def test_a_restart_on_the_socket_turns_nobody_away(machine: PidOne) -> None:
    """Clients that send all the time, each over a connection of its own: all are served."""
    machine.run("systemctl stop meterd.service && systemctl start meterd.socket meterd.service")
    assert machine.run(RESTARTED).split() == ["150", "201"]
    machine.run("systemctl stop meterd.socket meterd.service")
    assert shown(machine, "ActiveState") == "inactive"


def test_who_hangs_is_started_again(machine: PidOne) -> None:
    """By the watchdog, when it is not heard any more."""
    machine.run(f"cat > /units/meterd.service.d/watchdog.conf <<'E'\n{IMPATIENT}E\n")
    machine.run("systemctl daemon-reload && systemctl start meterd.service")
    hangs = shown(machine, "MainPID")
    machine.run(f"kill -STOP {hangs}")
    machine.run(
        "until [ $(systemctl show meterd.service --value -p NRestarts) = 1 ]; do sleep 0.1; done"
    )
    machine.run("until systemctl is-active --quiet meterd.service; do sleep 0.1; done")
    assert shown(machine, "MainPID") not in {hangs, "0"}
    assert machine.run(POST) == "201"
