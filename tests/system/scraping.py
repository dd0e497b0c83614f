"""A real daemon as Prometheus sees it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.daemon_process import DaemonProcess

WITHIN_S = 20.0


class Page:
    """What one scrape found."""

    def __init__(self, text: str) -> None:
        self.samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    def has(self, name: str) -> bool:
        return any(sample.name == name for sample in self.samples)

    def value(self, name: str, **labels: str) -> float:
        """The one sample of that name with these labels."""
        [found] = [one.value for one in self.samples if one.name == name and one.labels == labels]
        return found

    def labels(self) -> dict[str, set[str]]:
        """Of each metric, by name."""
        found: dict[str, set[str]] = {}
        for sample in self.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
        return found


def scraped(daemon: DaemonProcess, until: Callable[[Page], bool] = lambda _: True) -> Page:
    """The first page of which that is true."""
    ends_at = time.monotonic() + WITHIN_S
    while True:
        answer = daemon.request("GET", "/metrics")
        assert answer.status_code == 200, answer.text
        page = Page(answer.text)
        if until(page):
            return page
        assert time.monotonic() < ends_at, answer.text
        time.sleep(0.02)
