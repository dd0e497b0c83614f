"""The Dockerfile, really built and run, on a Debian of our own, for which no registry is needed.

`make image` makes it, as docs/running.md has it, with buildah in the place of docker. What an
engine for containers would make of the page's `docker run` is done here: the image's own user,
environment and command, a root that is read only, no capability, and a volume.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon_process import ROOT, DaemonProcess
from tests.docs.reading import DOCS, blocks_of
from tests.receiver import Receiver
from tests.system.shipped import debian
from tests.system.shipped.job import does_its_job, reloads, stops, webhook_to
from tests.system.torture.hindered import skip_if

if TYPE_CHECKING:
    from collections.abc import Iterator

CERTIFICATES = "/etc/ssl/certs"
# $1 the image's files, $2 the volume, $3 the configuration.
CONTAINED = """
mount --make-rprivate /
mount --bind -o ro "$1" "$1"
mount -o remount,bind,ro "$1"
mount -t proc proc "$1/proc"
mount -t tmpfs -o size=16m tmpfs "$1/dev" && touch "$1/dev/null" "$1/dev/urandom"
mount --bind /dev/null "$1/dev/null" && mount --bind /dev/urandom "$1/dev/urandom"
mount --bind "$2" "$1/data"
mount --bind -o ro "$3" "$1/etc/meterd/systemconfig.toml"
root=$1; shift 3
exec chroot "$root" "$@"
"""
# What setpriv does for an option of `docker run`; that the root is read only is done above.
CONFINED_BY = {
    "--read-only": [],
    "--cap-drop=ALL": ["--bounding-set=-all", "--inh-caps=-all"],
    "--security-opt=no-new-privileges": ["--no-new-privs"],
}
# In the place of docker; $BASE is the base that needs no registry.
DOCKER = f"""#!/bin/sh -e
[ "$1" = build ]
shift
exec buildah build --isolation chroot --network host --format docker \\
    --volume {CERTIFICATES}:{CERTIFICATES}:ro --build-arg "BASE=$BASE" "$@"
"""
[PAGE] = [one.text for one in blocks_of(DOCS / "running.md", "bash") if "docker run" in one.text]
MAKE, RUN = (shlex.split(line) for line in PAGE.replace("\\\n", " ").splitlines())


def buildah(*arguments: str) -> str:
    environ = {**os.environ, "STORAGE_DRIVER": "vfs"}
    done = subprocess.run(
        ["buildah", *arguments], cwd=ROOT, env=environ, capture_output=True, text=True
    )
    assert done.returncode == 0, f"buildah {arguments}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout.strip()


@contextmanager
def container_from(image: str) -> Iterator[str]:
    container = buildah("from", "--pull-never", image)
    try:
        yield container
    finally:
        buildah("rm", container)


def build(base: Path, name: str, folder: Path) -> str:
    """As the page has it; returns what it was told of version and commit. Where the registry is
    reached through somebody whom this machine trusts, the base does, too.
    """
    with container_from("scratch") as made:
        buildah("add", "--quiet", made, str(base), "/")
        if bundle := os.environ.get("PIP_CERT"):
            buildah("config", "--env", f"PIP_CERT={bundle}", made)
        buildah("commit", "--quiet", made, f"localhost/{name}-base")
    stand_in = folder / "stand_in"
    stand_in.mkdir()
    (stand_in / "docker").write_text(DOCKER)
    (stand_in / "docker").chmod(0o755)
    venv = folder / "venv"  # `make image` installs meterd anew, and other tests use theirs
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    (venv / ".run").touch()
    environ = {
        **os.environ,
        "PATH": f"{stand_in}:{os.environ['PATH']}",
        "STORAGE_DRIVER": "vfs",
        "BASE": f"localhost/{name}-base",
        "VENV": str(venv),
        "IMAGE": f"localhost/{name}",
    }
    done = subprocess.run(MAKE, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    say = "from meterd.built import *; print(f'meterd {VERSION} (commit {COMMIT}, ')"
    told = subprocess.run([venv / "bin" / "python", "-c", say], capture_output=True, text=True)
    return told.stdout.rstrip("\n")


def options_of_the_page() -> list[str]:
    return [word for word in RUN if word.startswith("--")]


class Image:
    """One that was built, and its files."""

    def __init__(self, name: str, files: Path, version: str) -> None:
        told = json.loads(buildah("inspect", "--type", "image", f"localhost/{name}"))
        self.config: dict[str, Any] = told["Docker"]["config"]
        self.files = files
        self.version = version

    def contained(self, folder: Path, command: list[str]) -> list[str]:
        """What runs that in a container, with ``folder``'s data and configuration."""
        uid, gid = self.config["User"].split(":")
        run = ["unshare", "--mount", "sh", "-ec", CONTAINED, "sh", str(self.files)]
        places = [str(folder / "data"), str(folder / "systemconfig.toml")]
        confined = [each for option in options_of_the_page() for each in CONFINED_BY[option]]
        nobody = ["setpriv", "--reuid", uid, "--regid", gid, "--clear-groups", *confined]
        return [*run, *places, *nobody, "env", "-i", *self.config["Env"], *command]


class ContainedDaemon(DaemonProcess):
    """With the image's own entry point and command."""

    def __init__(self, folder: Path, image: Image, **given: Any) -> None:
        self.image = image
        data = folder / "data"
        data.mkdir()
        os.chown(data, *map(int, image.config["User"].split(":")))
        super().__init__(folder, **given)

    def command(self) -> list[str]:
        key, bind = f"METERD_API_KEY={self.key}", "METERD_BIND=127.0.0.1:0"
        own = [*self.image.config["Entrypoint"], *self.image.config["Cmd"]]
        return self.image.contained(self.config.parent, [key, bind, *own])

    def healthcheck(self, url: str) -> subprocess.CompletedProcess[str]:
        """The image's own, as the engine runs it; told where, since the port is the system's."""
        kind, *check = self.image.config["Healthcheck"]["Test"]
        assert kind == "CMD"
        run = self.image.contained(self.config.parent, [*check, "--url", url])
        return subprocess.run(run, capture_output=True, text=True)


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Image]:
    skip_if(debian.hindrance("buildah", "unshare", "setpriv"))
    base = debian.debian_in(tmp_path / "base", "python3", "python3-venv", "ca-certificates")
    name = f"meterd-test-{os.getpid()}"
    version = build(base, name, tmp_path)
    with container_from(f"localhost/{name}") as container:
        yield Image(name, Path(buildah("mount", container)), version)
    buildah("rmi", f"localhost/{name}", f"localhost/{name}-base")


@pytest.mark.timeout(1200)
def test_the_image_does_its_job(image: Image, tmp_path: Path) -> None:
    """As nobody, over a root that is read only; with the same volume after a restart."""
    for folder in (tmp_path, *tmp_path.parents[:-1]):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(0o711)  # pytest's folders are for their owner only
    with Receiver() as receiver:
        daemon = ContainedDaemon(tmp_path, image, webhooks=webhook_to(receiver))
        try:
            assert Path(f"/proc/{daemon.process.pid}/root").readlink() == image.files
            assert daemon.healthcheck(daemon.url).returncode == 0
            does_its_job(daemon, receiver)
            reloads(daemon, receiver)
            stops(daemon)
            assert daemon.healthcheck(daemon.url).returncode == 1
        finally:
            daemon.stop(signal.SIGKILL)
    looks_as_it_should(image)


def looks_as_it_should(image: Image) -> None:
    """What was told of version and commit is in it, and no tool that built it."""
    meterd = ["chroot", str(image.files), *image.config["Entrypoint"]]
    told = subprocess.run([*meterd, "--version"], capture_output=True, text=True, check=True)
    assert len(image.version) > len("meterd  (commit , ")
    assert told.stdout.startswith(image.version)
    assert signal.Signals[image.config["StopSignal"]] == signal.SIGTERM
    # The page runs it with all that confines it, its own port and its own volume.
    assert set(options_of_the_page()) == set(CONFINED_BY)
    port, volume = RUN[RUN.index("-p") + 1], RUN[RUN.index("-v") + 1]
    assert image.config["Volumes"] == {volume.rpartition(":")[2]: {}} == {"/data": {}}
    assert list(image.config["ExposedPorts"]) == [f"{port.rpartition(':')[2]}/tcp"]
    assert not [one for one in image.config["Env"] if one.startswith("PYTHONOPTIMIZE=")]
    installed = {path.name for path in (image.files / "opt/meterd/bin").iterdir()}
    assert "meterd" in installed
    assert not [name for name in installed if name.startswith(("pip", "hatch", "wheel"))]
    assert not (image.files / "opt/build").exists()
    assert not (image.files / "src").exists()
