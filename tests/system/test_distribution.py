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


@pytest.fixture(scope="module")
def distributed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel and the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT)
    [wheel], [source] = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return {"wheel": wheel, "source": source}


def test_the_source_distribution_has_what_it_takes(distributed: dict[str, Path]) -> None:
    """To build, to test and to read; and nothing of the machine that it was made on."""
    with tarfile.open(distributed["source"]) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"README.md", "LICENSE", "Makefile", "meterd/built.py", "tests/conftest.py"} <= names
    assert {name for name in names if re.match(r"\.|build/|dist/", name)} <= {".gitignore"}


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", ["wheel", "source"])
def test_what_is_distributed_installs_and_does_its_job(
    distributed: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    """By pip alone, which builds the source distribution where no git is: either knows version and
    commit.
    """
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python, meterd = tmp_path / "venv/bin/python", tmp_path / "venv/bin/meterd"
    run(python, *PIP, "install", distributed[kind], folder=tmp_path)
    told = run(meterd, "--version", folder=tmp_path)
    assert told.startswith("meterd {VERSION} (commit {COMMIT}, ".format(**written()))
    with Receiver() as receiver:
        daemon = InstalledDaemon(tmp_path, meterd, webhooks=webhook_to(receiver))
        try:
            assert daemon.request("GET", "/").json()["version"] == written()["VERSION"]
            does_its_job(daemon, receiver)
            reloads(daemon, receiver)
        finally:
            stops(daemon)
