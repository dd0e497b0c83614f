"""What happens to a simulated daemon from outside: its machine, its clock, its operator."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
import trio

from meterd.domain.admission import Late
from meterd.domain.alerts import WATCHABLE, Alert
from meterd.domain.config import Config, EventType, LogLevel, Retention
from meterd.domain.credentials import ALL_SCOPES, ApiKey, hash_of
from meterd.domain.endpoints import Endpoint
from meterd.domain.operations import Operation
from meterd.domain.periods import DAY_MS, HOUR_MS, PeriodType
from tests.simulation.clients import CUSTOMERS, SEASONAL, TYPES
from tests.simulation.disk import Fault
from tests.simulation.exchange import KEY
from tests.simulation.receivers import Mood

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from random import Random

    from tests.simulation.clock import VirtualClock
    from tests.simulation.disk import Disk
    from tests.simulation.receivers import Receivers
    from tests.simulation.trace import Trace

BILLING: Final = Endpoint("billing", "http://billing.test/", ("whsec_of_the_healthy_receiver",))
CRM: Final = Endpoint("crm", "http://crm.test/", ("whsec_of_the_moody_receiver",))
# Few customers, so that some batches are full and others are not.
BULK: Final = Endpoint("bulk", "http://bulk.test/", ("whsec_of_who_takes_many_at_once",), batch=3)
_WEBHOOKS: Final = (
    (BILLING,),
    (BILLING, CRM),
    (BILLING, CRM, BULK),
    (BILLING, BULK),
    (BILLING, CRM, msgspec.structs.replace(BULK, batch=1)),
    (BILLING, msgspec.structs.replace(BULK, batch=2)),
)
_AMOUNTS: Final = tuple(map(Decimal, ("0.2", "3", "50", "1e4", "1e16")))
_STEPS_MS: Final = (1, 40, 1_000, 60_000, HOUR_MS // 2, HOUR_MS, 5 * HOUR_MS, DAY_MS)
GRACES_MS: Final = (300_000, 300_000, 0, 0, 60_000, 1_800_000)
# For how long events are kept: as short as that may be, longer, or for ever.
KEPT_MS: Final = (35 * DAY_MS, 35 * DAY_MS, 150 * DAY_MS, None)

_ALERTS: Final = (
    Alert("daily", "api.calls", PeriodType.DAILY, _AMOUNTS[3:4]),
    Alert("monthly", "storage.bytes", PeriodType.MONTHLY, _AMOUNTS[1:4]),
    Alert("of one", "seats", PeriodType.HOURLY, _AMOUNTS[2:3], "acme"),
)


def first_config(folder: Path, grace_ms: int, kept_ms: int | None = None) -> Config:
    config = Config(
        grace_ms=grace_ms,
        retention=Retention(kept_ms),
        periods=tuple(PeriodType),
        log_level=LogLevel.ERROR,
        events={name: EventType(Operation.SUM) for name in (*TYPES, SEASONAL)},
        webhooks=(BILLING, CRM, BULK),
        alerts=_ALERTS,
        keys=(ApiKey("clients", hash_of(KEY), ALL_SCOPES),),
    )
    storage = msgspec.structs.replace(config.storage, path=str(folder))
    return msgspec.structs.replace(config, storage=storage)


class Machine(Protocol):
    """What weather does to a daemon as a whole."""

    config: Config

    def cut_power(self) -> None: ...

    def stop(self) -> None: ...

    def reconfigure(self, config: Config) -> None: ...


class Weather:
    """Makes it until cancelled; ``clear`` is the end of all of it."""

    def __init__(
        self,
        machine: Machine,
        disk: Disk,
        clock: VirtualClock,
        receivers: Receivers,
        random: Random,
        trace: Trace,
    ) -> None:
        self._machine = machine
        self._disk = disk
        self._clock = clock
        self._receivers = receivers
        self._random = random
        self._trace = trace
        # Called with for how many seconds clients shall come in numbers.
        self.hurry: Callable[[float], None] = lambda _: None
        self._nursery: trio.Nursery
        # How often each comes, in a year.
        self._times_a_year: dict[Callable[[], Awaitable[None]], float] = {
            self._crash: 30,
            self._crash_in_a_transaction: 50,
            self._crash_and_wrong_clock: 30,
            self._failed_commit: 30,
            self._full_disk: 25,
            self._slow_disk: 25,
            self._clock_step: 50,
            self._restart: 30,
            self._reload: 60,
            self._receivers_change: 40,
        }

    async def run(self) -> None:
        happenings = list(self._times_a_year)
        weights = list(self._times_a_year.values())
        mean_s = 365 * 86400 / sum(weights)
        async with trio.open_nursery() as self._nursery:
            while True:
                await trio.sleep(self._random.expovariate(1 / mean_s))
                self._nursery.start_soon(self._random.choices(happenings, weights)[0])

    def clear(self) -> Config:
        """Nothing fails any more; the configuration that has everything to do."""
        self._disk.disarm()
        self._disk.is_full = False
        self._disk.slowest_s = 0.002
        self._receivers.moods = {}
        return msgspec.structs.replace(
            self._machine.config, webhooks=(BILLING, CRM, BULK), periods=tuple(PeriodType)
        )

    def _alerts(self) -> tuple[Alert, ...]:
        """Some others, or those of the start, or none."""
        random = self._random
        if random.random() < 0.5:
            return random.choice((_ALERTS, ()))
        return tuple(
            Alert(
                f"alert {number}",
                random.choice(TYPES),
                random.choice(list(PeriodType)),
                tuple(sorted(random.sample(_AMOUNTS, random.randint(1, 2)))),
                random.choice((None, *CUSTOMERS)),
            )
            for number in range(random.randint(1, 2))
        )

    async def _at_a_bad_moment(self) -> None:
        """Often around the end of an hour, when most is done at once."""
        if self._random.random() < 0.5:
            left_ms = HOUR_MS - self._clock.now_ms() % HOUR_MS
            grace_ms = self._random.choice((0, self._machine.config.grace_ms))
            await trio.sleep((left_ms + grace_ms) / 1000 + self._random.expovariate(20))
        if self._random.random() < 0.4:
            self.hurry(30)
            await trio.sleep(self._random.uniform(0, 30))

    async def _crash(self) -> None:
        await self._at_a_bad_moment()
        self._trace.count("crash")
        self._machine.cut_power()

    async def _crash_in_a_transaction(self) -> None:
        await self._at_a_bad_moment()
        fault = self._random.choice((Fault.POWER_CUT_WITHIN, Fault.POWER_CUT_BEHIND))
        self._disk.arm(fault, self._random.choice((0, 0, 1, 2, 3, 5, 8, 20)))

    async def _crash_and_wrong_clock(self) -> None:
        """Amid a close. The machine comes up with an earlier time, and is put right later."""
        grace_ms = self._machine.config.grace_ms
        left_ms = HOUR_MS - self._clock.now_ms() % HOUR_MS
        await trio.sleep(max(0, left_ms - 60_000) / 1000)
        self.hurry(min(left_ms, 60_000) / 1000)
        await trio.sleep(max(0.0, (min(left_ms, 60_000) + grace_ms) / 1000 - 0.5))
        fault = self._random.choice((Fault.POWER_CUT_WITHIN, Fault.POWER_CUT_BEHIND))
        self._disk.arm(fault, self._random.randrange(1, 6))
        with trio.move_on_after(60) as waiting:
            await self._disk.went_off.park()
        if waiting.cancelled_caught:
            return
        back_ms = grace_ms + self._random.choice((1, 60_000, HOUR_MS // 2, 5 * HOUR_MS))
        self._trace.count("wrong clock behind a crash")
        await self._clock.step(-back_ms)
        self.hurry(100)
        await trio.sleep(self._random.choice((10, 300, 4000)))
        await self._clock.step(back_ms)

    async def _failed_commit(self) -> None:
        await self._at_a_bad_moment()
        fault = self._random.choice((Fault.FAILS_WITHIN, Fault.FAILS_BEHIND))
        self._disk.arm(fault, self._random.choice((0, 0, 1, 2, 3, 5, 8, 20)))

    async def _full_disk(self) -> None:
        await self._at_a_bad_moment()
        self._trace.count("full disk")
        self._disk.is_full = True
        await trio.sleep(self._random.choice((1, 10, 60, 60, 600)) * self._random.random())
        self._disk.is_full = False
        self._trace.add("room again")

    async def _slow_disk(self) -> None:
        self._trace.count("slow disk")
        self._disk.slowest_s = self._random.choice((0.1, 0.5, 5))
        await trio.sleep(self._random.uniform(600, 8000))
        self._disk.slowest_s = 0.002

    async def _clock_step(self) -> None:
        await self._at_a_bad_moment()
        ms = self._random.choice(_STEPS_MS)
        if self._random.random() < 0.6:
            ms = -ms
        self._trace.count("clock step back" if ms < 0 else "clock step forth")
        self._trace.add(f"step {ms}")
        await self._clock.step(ms)

    async def _restart(self) -> None:
        await self._at_a_bad_moment()
        self._trace.count("stop")
        self._machine.stop()

    async def _reload(self) -> None:
        await self._at_a_bad_moment()
        config, random = self._machine.config, self._random
        match random.randrange(10):
            case 0 | 1:
                name = random.choice(list(config.events))
                changed = EventType(random.choice(list(Operation)))
                config = msgspec.structs.replace(config, events={**config.events, name: changed})
            case 2:
                kinds = set(config.periods) ^ {random.choice(list(PeriodType))}
                periods = tuple(kind for kind in PeriodType if kind in kinds)
                config = msgspec.structs.replace(config, periods=periods)
            case 3:
                config = msgspec.structs.replace(config, webhooks=random.choice(_WEBHOOKS))
            case 4:
                events = dict(config.events)
                if events.pop(SEASONAL, None) is None:
                    events[SEASONAL] = EventType(Operation.MAX)
                config = msgspec.structs.replace(config, events=events)
            case 5:
                config = msgspec.structs.replace(config, grace_ms=random.choice(GRACES_MS))
            case 6:
                config = msgspec.structs.replace(config, alerts=self._alerts())
            case 7:
                late = random.choice((Late.REVISE, Late.REVISE, Late.REJECT))
                admission = msgspec.structs.replace(config.admission, late=late)
                config = msgspec.structs.replace(config, admission=admission)
            case 8:
                waits_ms = random.choice((0, 60_000, 60_000, HOUR_MS // 2))
                config = msgspec.structs.replace(config, revise_after_ms=waits_ms)
            case 9:
                kept = Retention(random.choice(KEPT_MS))
                config = msgspec.structs.replace(config, retention=kept)
        # What cannot be watched any more is taken out with it: no file that says so is taken.
        watchable = [name for name, kind in config.events.items() if kind.op in WATCHABLE]
        alerts = tuple(alert for alert in config.alerts if alert.event in watchable)
        config = msgspec.structs.replace(config, alerts=alerts)
        self._trace.count("reload")
        self._machine.reconfigure(config)

    async def _receivers_change(self) -> None:
        mood = self._random.choice((Mood.MOODY, Mood.MOODY, Mood.DOWN, Mood.HEALTHY))
        endpoint_id = self._random.choice((CRM.id, BULK.id))
        self._trace.count(f"receiver {mood.name.lower()}")
        self._receivers.moods[endpoint_id] = mood
        if mood is Mood.DOWN:
            await trio.sleep(self._random.uniform(0, 5) * 86400)
            self._receivers.moods[endpoint_id] = Mood.MOODY
