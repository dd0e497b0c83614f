"""Fixtures of many tests: a real daemon in a process of its own, over an empty folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.daemon_process import DaemonProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonProcess]:
    """A daemon with the event types and periods that meterd ships with."""
    running = DaemonProcess(tmp_path)
    yield running
    running.stop()


@pytest.fixture
def daemon_without_event_types(tmp_path: Path) -> Iterator[DaemonProcess]:
    running = DaemonProcess(tmp_path, event_types="")
    yield running
    running.stop()
