"""What the image is made of: pinned to the byte, owned by nobody, and what it needs."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parent.parent
PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUNTIME, BUILD, BINARY = (ROOT / f"requirements{name}.lock" for name in ("", "-build", "-binary"))
DOCKERFILE: Final = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
RUNNING: Final = (ROOT / "docs" / "running.md").read_text()
PYTHONS: Final = ("3.11", "3.12", "3.13")
_ENTRY: Final = re.compile(
    r"^(?P<pin>[a-z0-9._-]+==[^ ;\\]+(?: ; [^\\\n]+)?) \\\n"
    r"(?P<hashes>(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)",
    re.MULTILINE,
)
_FIRST_LETTER: Final = re.compile(r"^\S", re.MULTILINE)


def locked(path: Path) -> list[Requirement]:
    """Each is one version, with the hashes of its files; nothing else stands in the file."""
    text = path.read_text()
    entries = list(_ENTRY.finditer(text))
    assert len(entries) == len(_FIRST_LETTER.findall(text)), f"{path.name} has a line without hash"
    return [Requirement(entry["pin"]) for entry in entries]


def applies(requirement: Requirement, python: str) -> bool:
    environment = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    return requirement.marker is None or requirement.marker.evaluate(environment)


def pins(path: Path, python: str) -> dict[str, str]:
    """The versions by name."""
    found: dict[str, str] = {}
    for requirement in locked(path):
        if applies(requirement, python):
            [pin] = requirement.specifier
            assert canonicalize_name(requirement.name) not in found
            found[canonicalize_name(requirement.name)] = pin.version
    return found


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize(
    ("path", "needed"),
    [
        (RUNTIME, PROJECT["project"]["dependencies"]),
        (BUILD, PROJECT["build-system"]["requires"]),
        (BINARY, ["pyinstaller"]),
    ],
    ids=["runtime", "build", "binary"],
)
def test_the_lock_satisfies_the_project(path: Path, needed: list[str], python: str) -> None:
    """Each requirement by one version, and each requirement of these, as far as can be seen here:
    of those that are installed in the version that is locked.
    """
    found = pins(path, python)
    todo = [Requirement(each) for each in needed]
    looked_into = set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if not applies(requirement, python):
            continue
        assert name in found, f"{path.name} lacks {name}: make lock"
        assert found[name] in requirement.specifier, f"{name} {found[name]}: make lock"
        if name not in looked_into:
            looked_into.add(name)
            todo += requirements_of(name, found[name])
    assert looked_into


def requirements_of(name: str, version: str) -> list[Requirement]:
    try:
        installed = distribution(name)
    except PackageNotFoundError:
        return []
    if installed.version != version:
        return []
    return [Requirement(each) for each in installed.requires or ()]


def test_the_lock_names_no_registry() -> None:
    """Hashes say what is right, wherever it comes from."""
    for path in (RUNTIME, BUILD, BINARY):
        text = path.read_text()
        assert "://" not in text
        assert not re.search(
            r"^\s*(-i|--(?:extra-)?index-url|--find-links|-f)\b", text, re.MULTILINE
        )


def test_the_image_installs_what_is_locked() -> None:
    """And nothing by name: each install is from a lock file, or of what was built from here."""
    installs = re.findall(r"pip (?:--python \S+ )?(?:install|wheel) [^&\n]+", DOCKERFILE)
    assert len(installs) == 4
    for install in installs:
        from_lock = re.search(r"--require-hashes .*-r requirements(?:-build)?\.lock", install)
        offline = "--no-deps" in install and re.search(r"--no-index|--no-build-isolation", install)
        assert from_lock or offline, install


def test_the_image_runs_as_nobody() -> None:
    """Uid and gid 65534 from the last USER on, which stands before what is run."""
    last_stage = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
    users = re.findall(r"^USER (.+)$", last_stage, re.MULTILINE)
    assert users == ["65534:65534"]
    assert last_stage.index("USER ") < last_stage.index("ENTRYPOINT ")
    assert "mkdir -m 0700 /data && chown 65534:65534 /data" in last_stage


def test_the_page_gives_the_container_no_more_than_it_needs() -> None:
    """A root that is read only, no capabilities, no way to get any."""
    [command] = re.findall(r"^docker run (.+(?:\\\n.+)*)$", RUNNING, re.MULTILINE)
    words = command.replace("\\\n", " ").split()
    for option in ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"):
        assert option in words
