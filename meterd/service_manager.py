"""Tells a service manager how meterd is doing, as sd_notify(3) has it: systemd, or what speaks so.

Ready is who takes events, and that is behind the recovery, which may take longer than a start is
given: until then the manager is asked for more time, again and again, so that a start that hangs
is noticed all the same. Nothing in here ends meterd: whom nobody listens to still serves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog
import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# What a start is given more from each time it says that it goes on; and how often it says so. A
# loop that does not come round for so long does not recover, it hangs.
EXTENSION_S: Final = 60
EXTENDED_EVERY_S: Final = 10.0
# A manager that does not read what it is told holds up nothing, least of all a stop.
PATIENCE_S: Final = 1.0

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
WATCHDOG: Final = "WATCHDOG=1"
EXTENSION: Final = f"EXTEND_TIMEOUT_USEC={EXTENSION_S * 1_000_000}"

_log = structlog.get_logger("meterd")


class ServiceManager:
    """Whom ``NOTIFY_SOCKET`` names; without it there is none, and nothing is told.

    An actor because only a task of the loop that serves can tell, by being heard no more, that the
    loop hangs: the watchdog is told at half of the time that it allows. Nobody sends to it.
    """

    def __init__(
        self, environ: Mapping[str, str], pid: int, monotonic_ns: Callable[[], int]
    ) -> None:
        """``monotonic_ns`` is CLOCK_MONOTONIC, by which the manager tells reloads apart."""
        self._name = environ.get("NOTIFY_SOCKET", "")
        self._address = address_of(self._name)
        self._beat_s = beat_seconds(environ, pid)
        self._monotonic_ns = monotonic_ns
        self._is_ready = False
        self._was_heard = True
        if self._name and self._address is None:
            self._note_unheard("its address is neither a path nor an abstract name")

    async def run(
        self, started: trio.Event, caught_up: trio.Event, status: Callable[[], str]
    ) -> None:
        """Tells of the start, and the watchdog that the loop comes round, until cancelled.

        ``started`` is when events are taken, ``caught_up`` when no period is overdue; ``status`` is
        for people, and is told anew at both.
        """
        if self._address is None:
            return
        async with trio.open_nursery() as beside:
            if self._beat_s is not None:
                beside.start_soon(self._beat, self._beat_s)
            while not started.is_set():
                await self._tell(EXTENSION, said(status()))
                with trio.move_on_after(EXTENDED_EVERY_S):
                    await started.wait()
            self._is_ready = True
            await self._tell(READY, said(status()))
            await caught_up.wait()
            await self._tell(said(status()))

    async def reloading(self) -> None:
        """Before the configuration is read again, for which there is a signal by now."""
        if self._is_ready:
            await self._tell(*reload_began(self._monotonic_ns()))

    async def reloaded(self, status: str) -> None:
        """Behind that, whatever came of it. A start is ready when it is, not when it reloaded."""
        await self._tell(*((READY,) if self._is_ready else ()), said(status))

    async def stopping(self) -> None:
        """When it was told to stop, before it does."""
        await self._tell(STOPPING, said("stopping"))

    async def _beat(self, every_s: float) -> None:
        while True:
            await self._tell(WATCHDOG)
            await trio.sleep(every_s)

    async def _tell(self, *assignments: str) -> None:
        """One datagram, over a socket of its own: the manager may have begun anew meanwhile."""
        if self._address is None:
            return
        with trio.move_on_after(PATIENCE_S) as patience:
            try:
                with trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_DGRAM) as channel:
                    await channel.connect(self._address)
                    await channel.send("\n".join(assignments).encode())
            except OSError as fault:
                self._note_unheard(str(fault))
        if patience.cancelled_caught:
            self._note_unheard("it does not read")

    def _note_unheard(self, why: str) -> None:
        if self._was_heard:
            self._was_heard = False
            _log.warning(
                "the service manager cannot be told how meterd is doing",
                socket=self._name,
                error=why,
            )


def address_of(text: str) -> str | None:
    """Where ``NOTIFY_SOCKET`` leads; None where it is empty or of no kind that is known here.

    ``@name`` is in Linux's abstract namespace, whose names begin with a zero byte.
    """
    if text.startswith("@") and len(text) > 1:
        return f"\0{text[1:]}"
    return text if text.startswith("/") else None


def beat_seconds(environ: Mapping[str, str], pid: int) -> float | None:
    """How often the watchdog wants to be told, at the latest; None where it watches nobody, or
    another process. See sd_watchdog_enabled(3).
    """
    allowed_us = environ.get("WATCHDOG_USEC", "")
    if not (allowed_us.isascii() and allowed_us.isdigit()) or int(allowed_us) == 0:
        return None
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(allowed_us) / 2 / 1_000_000


def reload_began(monotonic_ns: int) -> tuple[str, str]:
    """Type=notify-reload takes a reload for the one it asked for by this moment."""
    return "RELOADING=1", f"MONOTONIC_USEC={monotonic_ns // 1000}"


def said(status: str) -> str:
    """One line for people, which ends where another assignment would begin."""
    return f"STATUS={' '.join(status.splitlines())}"


def doing(urls: list[str], waits_for: str | None, *, is_started: bool) -> str:
    """What ``systemctl status`` shows; ``waits_for`` is what ``/readyz`` says."""
    what = f"{'serving' if is_started else 'starting'} {', '.join(urls)}"
    return what if waits_for is None else f"{what}; {waits_for}"
