"""packaging/compose.yaml: valid by the Compose Specification, and right about the image and the
example receiver. No engine for containers is needed; tests/system/test_image.py runs the image.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml
from click.testing import CliRunner

from meterd.cli import main
from meterd.domain.durations import parse_duration
from tests.daemon_process import ROOT

if TYPE_CHECKING:
    from pathlib import Path

FOLDER: Final = ROOT / "packaging"
COMPOSE: Final = FOLDER / "compose.yaml"
FOUND: Final[dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())
SERVICES: Final[dict[str, dict[str, Any]]] = FOUND["services"]
METERD, RECEIVER = SERVICES["meterd"], SERVICES["receiver"]
# Its last stage, a line for each instruction.
IMAGE: Final = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").rpartition("\nFROM ")[2]


def instruction(name: str) -> str:
    [found] = re.findall(rf"^{name} (.*)$", IMAGE, re.MULTILINE)
    assert isinstance(found, str)
    return found


def judged(path: Path) -> subprocess.CompletedProcess[str]:
    """By the schema that the Compose Specification publishes, which check-jsonschema brings."""
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    return subprocess.run([*check, str(path)], capture_output=True, text=True)


def test_it_is_valid_by_the_specification() -> None:
    """Names of keys, and what each takes."""
    done = judged(COMPOSE)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("read_only: true", "readonly: true"),
        ("cap_drop: [ALL]", "cap_drop: ALL"),
        ("networks: [metering]", "network: [metering]"),
        ("restart: unless-stopped", "restart: {}"),
    ],
)
def test_what_is_not_is_found(tmp_path: Path, right: str, wrong: str) -> None:
    """Also a key that an engine would take for nothing."""
    text = COMPOSE.read_text()
    assert right in text
    path = tmp_path / "compose.yaml"
    path.write_text(text.replace(right, wrong))
    assert judged(path).returncode == 1


def test_it_names_what_is_there() -> None:
    """Files, and its own volumes and networks, none of which is left over: no schema says so."""
    volumes, networks = set(), set()
    for service in SERVICES.values():
        networks.update(service["networks"])
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (FOLDER / source).exists(), source
            else:
                volumes.add(source)
    assert volumes == set(FOUND["volumes"])
    assert networks == set(FOUND["networks"])
    assert (FOLDER / METERD["build"] / "Dockerfile").exists()


@pytest.mark.parametrize("name", SERVICES)
def test_its_services_are_confined(name: str) -> None:
    """As docs/running.md has it."""
    service = SERVICES[name]
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_meterd_is_run_as_its_image_has_it() -> None:
    """Its port, its data and its configuration are where the image has them, and it is given the
    time that it takes to stop. The command is the image's own, which the command line takes.
    """
    environ = dict(one.split("=", 1) for one in shlex.split(instruction("ENV")))
    [port] = METERD["ports"]
    address, outside, inside = port.rsplit(":", 2)
    assert (address, outside) == ("127.0.0.1", inside), "reached from outside without TLS"
    assert inside == instruction("EXPOSE") == environ["METERD_BIND"].rpartition(":")[2]
    mounted = {one.split(":")[1]: one.split(":")[0] for one in METERD["volumes"]}
    assert mounted[environ["METERD_DATA_DIR"]] in FOUND["volumes"]
    assert environ["METERD_DATA_DIR"] == instruction("VOLUME")
    assert mounted[environ["METERD_CONFIG"]] == "./compose-config.toml"
    assert (parse_duration(METERD["stop_grace_period"]) or 0) >= 2 * 10_000
    assert not {"command", "entrypoint", "environment"} & set(METERD)
    [command] = yaml.safe_load(instruction("CMD"))
    assert CliRunner().invoke(main, [command, "--help"]).exit_code == 0


def test_the_receiver_is_the_example() -> None:
    """It takes the variables that are set, and listens where the configuration sends webhooks: in
    a network of their own.
    """
    [mounted] = RECEIVER["volumes"]
    source, target, mode = mounted.split(":")
    python, unbuffered, script = RECEIVER["command"]
    assert (python, unbuffered, mode) == ("python", "-u", "ro")
    program = FOLDER / source / script.removeprefix(f"{target}/")
    taken = re.findall(r'environ\.get\("(\w+)"\) or "([^"]*)"', program.read_text())
    environ = dict(taken) | RECEIVER["environment"]
    assert set(environ) == {name for name, _ in taken}

    configured = (FOLDER / "compose-config.toml").read_text()
    [network] = FOUND["networks"]["metering"]["ipam"]["config"]
    assert f'allow_private = ["{network["subnet"]}"]' in configured
    assert f'secret = "{environ["WEBHOOK_SECRET"]}"' in configured
    assert f'url = "http://receiver:{environ["PORT"]}/' in configured
    check = ["check", "--config", str(FOLDER / "compose-config.toml")]
    assert CliRunner().invoke(main, check).exit_code == 0
