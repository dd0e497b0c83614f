"""A clock that tests set, also backwards."""

from __future__ import annotations

import datetime as dt

import trio

from meterd.domain.instants import parse_instant


def ms(text: str) -> int:
    """Milliseconds of an instant such as ``2026-01-14T00:00:00Z``."""
    found = parse_instant(text)
    assert found is not None, text
    return found


class FakeClock:
    """Stands still until it is set."""

    def __init__(self, text: str) -> None:
        self._now_ms = ms(text)
        self._waiting = trio.lowlevel.ParkingLot()

    def now_ms(self) -> int:
        return self._now_ms

    async def wait_until(self, instant_ms: int) -> None:
        before_ms = self._now_ms
        while before_ms <= self._now_ms < instant_ms:
            before_ms = self._now_ms
            await self._waiting.park()
        await trio.lowlevel.checkpoint()

    def fault(self) -> None:
        """It is as it should be."""

    def set(self, text: str) -> None:
        self._now_ms = ms(text)
        self._waiting.unpark_all()

    def advance(self, **by: float) -> None:
        self._now_ms += int(dt.timedelta(**by).total_seconds() * 1000)
        self._waiting.unpark_all()
