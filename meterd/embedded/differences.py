"""What a check of a store reports: each difference by table, customer, period and event type, and
what stands there against what should.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from meterd.domain.deliveries import BATCH
from meterd.domain.errors import CorruptRecordError
from meterd.domain.event_ids import stamp_of
from meterd.domain.instants import format_instant
from meterd.domain.periods import Period, PeriodType, period_at
from meterd.embedded import keys

if TYPE_CHECKING:
    from meterd.domain.periods import Period

NOTHING: Final = "nothing"
# What is counted, and no difference: a daemon posts it in a few seconds, or a start does.
UNPOSTED: Final = "events not yet in totals"
PRUNED: Final = "pruned events"
# What a year beyond the calendar raises, and bytes that are no text.
NO_INSTANT: Final = (ValueError, OverflowError, OSError)
# What a check meets where a record has the right checksum, and is not what its table holds.
MISTAKES: Final = (
    CorruptRecordError,
    msgspec.MsgspecError,
    ArithmeticError,
    LookupError,
    TypeError,
    *NO_INSTANT,
)


class Difference(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that is not as it should be. Empty strings name nothing.

    Where ``should`` is empty, too, ``stands`` says of ``what`` all there is to say: that it cannot
    be read, say.
    """

    table: str
    what: str
    stands: str
    should: str
    customer_id: str = ""
    period: str = ""
    event_type: str = ""

    def line(self) -> str:
        """For people: ``totals: customer acme, hourly 2026011411, api: count: stands 3, ...``."""
        place = [
            f"customer {self.customer_id}" if self.customer_id else "",
            self.period,
            self.event_type,
        ]
        found = ", ".join(part for part in place if part)
        begin = f"{self.table}: {found}: " if found else f"{self.table}: "
        if not self.should:
            return f"{begin}{self.what} {self.stands}" if self.what else f"{begin}{self.stands}"
        return f"{begin}{self.what}: stands {self.stands}, should be {self.should}"


class Checking(msgspec.Struct):
    """What was looked at so far, by name; ``progress`` hears of it: what, how far, of how much.

    ``store_format`` is that of the store, when its first pages were read. ``left_out`` names what
    could not be counted, or not to its end, because of damage.
    """

    progress: Callable[[str, int, int], None] = lambda *_: None
    counts: Counter[str] = msgspec.field(default_factory=Counter)
    store_format: int = 0
    left_out: list[str] = msgspec.field(default_factory=list)


def period_name(period: Period) -> str:
    return f"{period.type} {period.key}"


def at_key(table: str, key: bytes, what: str, stands: str, should: str) -> Difference:
    """A difference in the record of that key, named as people know it; any key will do."""
    try:
        customer_id, period, event_type, name = _named(table, key)
    except (IndexError, *NO_INSTANT):  # a key that is no key of the table
        customer_id, period, event_type, name = "", "", "", key.hex()
    about = f"{what} {name}" if name else what
    return Difference(table, about, stands, should, customer_id, period, event_type)


def _named(table: str, key: bytes) -> tuple[str, str, str, str]:
    """Customer, period, event type, and what else it is known by."""
    match table:
        case "events":
            return "", "", "", _record_name(key)
        case "records_by_type":
            event_type, record_id = key.split(keys.END, 1)
            return "", "", event_type.decode(), _record_name(record_id)
        case "blocks_by_customer":
            customer, event_type, block_id = key[1:].split(keys.END, 2)
            return customer.decode(), "", event_type.decode(), _record_name(block_id)
        case "blocks_by_hour":
            hour = keys.hour_of_blocks(key)
            customer, event_type, block_id = key[5:].split(keys.END, 2)
            block = _record_name(block_id)
            return customer.decode(), period_name(hour), event_type.decode(), block
        case "totals" | "late":
            return keys.totals_customer(key), period_name(keys.totals_period(key)), "", ""
        case "aggregations":
            period = period_at(tuple(PeriodType)[key[1]], keys.start_of(key[2:6]))
            return key[6:].decode(), period_name(period), "", ""
        case "superseded":
            period = period_at(tuple(PeriodType)[key[1]], keys.start_of(key[2:6]))
            revision = f"revision {int.from_bytes(key[-4:], 'big')}"
            return key[6:-5].decode(), period_name(period), "", revision
        case "published":
            customer, rest = key[1:].split(keys.END, 1)
            return customer.decode(), tuple(PeriodType)[rest[0]], "", ""
        case "customer_periods":
            customer, rest = key[1:].split(keys.END, 1)
            period = period_at(tuple(PeriodType)[rest[0]], keys.start_of(rest[1:5]))
            return customer.decode(), period_name(period), "", ""
        case "customers":
            return key[1:].decode(), "", "", ""
        case "idempotency_keys":
            customer, name = key[1:].split(keys.END, 1)
            return customer.decode(), "", "", name.decode("utf-8", "backslashreplace")
        case "deliveries" | "outbox" | "in_air" | "parked":
            endpoint_id, rest = key.split(keys.END, 1)
            due = f", due {format_instant(keys.due_ms_in(key))}" if len(rest) == 16 else ""
            number = keys.sequence_in(rest)
            one = f"batch {number - BATCH}" if number >= BATCH else str(number)
            return "", "", "", f"{one} to {endpoint_id.decode()}{due}"
        case "outbox_by_customer":
            endpoint_id, customer, rest = key.split(keys.END, 2)
            whose = keys.outbox_customer(customer)
            return whose, "", "", f"to {endpoint_id.decode()}, {rest.hex()}"
        case "reached":
            customer, rest = key[1:].split(keys.END, 1)
            period = period_at(tuple(PeriodType)[rest[0]], keys.hour_in(rest[1:5]))
            event_type, threshold = rest[5:].split(keys.END, 1)
            return customer.decode(), period_name(period), event_type.decode(), threshold.decode()
        case "attempts" | "attempts_by_time" | "delivery_ids":
            return "", "", "", key.hex()
        case _:
            return "", "", "", key.decode()


def _record_name(record_id: bytes) -> str:
    try:
        return f"{record_id.hex()} of {format_instant(stamp_of(record_id).received_ms)}"
    except NO_INSTANT:
        return record_id.hex()
