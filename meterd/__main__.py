"""``python -m meterd`` is the command ``meterd``."""

from __future__ import annotations

from meterd.cli import main

if __name__ == "__main__":
    main(prog_name="meterd")
