"""Writes meterd/built.py whenever meterd is built or installed: which version, of which commit."""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_BUILT: Final = '''"""Written by the build: which meterd this is."""

from __future__ import annotations

from typing import Final

VERSION: Final = "{version}"
# Empty where it was built of files that no git knows.
COMMIT: Final = "{commit}"
'''
_COMMIT: Final = re.compile(r'^COMMIT: Final = "([0-9a-f]{7,40})"$', re.MULTILINE)


class BuildHook(BuildHookInterface[Any]):
    """The version is hatch-vcs's, out of git's tags."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Before anything is packed; ``version`` is the kind of wheel: "standard", "editable"."""
        file = Path(self.root, "meterd", "built.py")
        commit = self._commit(file)
        text = _BUILT.format(version=self.metadata.version, commit=commit)
        if not file.exists() or file.read_text() != text:  # somebody may be about to import it
            written = file.with_suffix(".new")
            written.write_text(text)
            written.replace(file)  # also where another user installed before
        build_data["artifacts"].append("/meterd/built.py")  # git ignores it

    def _commit(self, file: Path) -> str:
        """Of the checkout; an image is told; a source distribution has it from its own build."""
        if Path(self.root, ".git").exists():
            ask = ["git", "-C", self.root, "rev-parse", "--short=12", "HEAD"]
            with suppress(OSError):  # no git to ask
                told = subprocess.run(ask, capture_output=True, text=True, check=False)
                return told.stdout.strip()
        if commit := os.environ.get("METERD_COMMIT"):
            return commit
        known = _COMMIT.search(file.read_text()) if file.exists() else None
        return known[1] if known else ""
