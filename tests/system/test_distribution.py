"""What `make dist` makes: a source distribution and the wheel built of it, installed by pip."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon_process import ROOT, DaemonProcess
from tests.receiver import Receiver
from tests.system.shipped.job import does_its_job, reloads, stops, webhook_to

if TYPE_CHECKING:
    from pathlib import Path

PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet")


class InstalledDaemon(DaemonProcess):
    def __init__(self, folder: Path, meterd: Path, **given: Any) -> None:
        self._meterd = meterd
        super().__init__(folder, **given)

    def command(self) -> list[str]:
        return [str(self._meterd), "serve", "--config", str(self.config)]


def run(*command: str | Path, folder: Path = ROOT) -> str:
    done = subprocess.run([*map(str, command)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def written() -> dict[str, str]:
    """What the build has just written: newer, perhaps, than what this process began with."""
    return dict(
        re.findall(r'^(\w+): Final = "(.+)"$', (ROOT / "meterd/built.py").read_text(), re.MULTILINE)
    )


@pytest.mark.timeout(600)
def test_what_is_distributed_installs_and_does_its_job(tmp_path: Path) -> None:
    """The wheel knows the commit, though it was built where no git is."""
    run(sys.executable, "-m", "build", "--outdir", tmp_path, ROOT)
    [wheel], [source] = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"README.md", "LICENSE", "Makefile", "meterd/built.py", "tests/conftest.py"} <= names
    assert {name for name in names if re.match(r"\.|build/|dist/", name)} <= {".gitignore"}

    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python, meterd = tmp_path / "venv/bin/python", tmp_path / "venv/bin/meterd"
    run(python, *PIP, "install", wheel)
    told = run(meterd, "--version", folder=tmp_path)
    assert told.startswith("meterd {VERSION} (commit {COMMIT}, ".format(**written()))
    with Receiver() as receiver:
        daemon = InstalledDaemon(tmp_path, meterd, webhooks=webhook_to(receiver))
        try:
            does_its_job(daemon, receiver)
            reloads(daemon, receiver)
        finally:
            stops(daemon)
