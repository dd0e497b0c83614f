"""Deliveries in the store: due, in the air, settled, and sent again.

What may be sent (``lines``) stands in ``outbox``, by when it is due, and in ``in_air`` while an
attempt is made. One that fails holds back its customer's later ones and nobody else's.

Claiming begins an attempt on disk before anything is sent. What is in the air when a process ends
has an unknown outcome: the next one, which is the store's only user, puts it back (``recover``).
"""

from __future__ import annotations

from collections import defaultdict
from itertools import islice
from typing import TYPE_CHECKING, Final

import msgspec

from meterd.domain.deliveries import (
    Delivery,
    DeliveryStatus,
    as_batch,
    attempt_interrupted,
    begin_attempt,
    interrupted,
    numbered,
    once_more,
)
from meterd.domain.endpoint_states import EndpointState
from meterd.embedded import attempt_log, batches, keys, lines, records
from meterd.ledger import Claim

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from meterd.domain.deliveries import Attempt
    from meterd.domain.endpoint_states import Change
    from meterd.embedded.transaction import Transaction


# Beyond all instants, with room for what stands in front of them.
_NEVER_MS: Final = 1 << 62
# Begun or settled in one transaction, for which events wait: of batches, all that are in them.
_AT_ONCE: Final = 1000
# How soon deliveries that wait for more of their period are looked at again.
_HELD_BACK_MS: Final = 50


def add(txn: Transaction, made: Delivery) -> None:
    """See ``add_all``."""
    add_all(txn, [made])


def add_all(txn: Transaction, made: Iterable[Delivery]) -> None:
    """New deliveries in this order, in the transaction of the aggregations that they carry.

    None is made before the endpoint's last one, though a clock stepped back: so what was made when
    is found by halving.
    """
    by_endpoint: defaultdict[str, list[Delivery]] = defaultdict(list)
    for one in made:
        by_endpoint[one.endpoint_id].append(one)
    for endpoint_id, theirs in by_endpoint.items():
        first = take_sequences(txn, endpoint_id, len(theirs))
        created_ms = _created_ms(txn, endpoint_id, first - 1)
        for sequence, one in enumerate(theirs, first):
            created_ms = max(one.created_ms, created_ms)
            insert(txn, numbered(msgspec.structs.replace(one, created_ms=created_ms), sequence))


def _created_ms(txn: Transaction, endpoint_id: str, sequence: int) -> int:
    """When that delivery was made; 0 where there is none (any more)."""
    found = txn.get("deliveries", keys.delivery_key(endpoint_id, sequence))
    return 0 if found is None else records.decode_delivery(found).created_ms


def take_sequences(txn: Transaction, endpoint_id: str, count: int) -> int:
    """The first of the endpoint's next ones, so many: no other delivery has them."""
    state = endpoint_state(txn, endpoint_id)
    taken = state.next_sequence
    _put_state(txn, endpoint_id, msgspec.structs.replace(state, next_sequence=taken + count))
    return taken


def insert(txn: Transaction, delivery: Delivery) -> None:
    """A delivery that has its sequence, and is not in the air."""
    _name(txn, delivery)
    _put(txn, delivery)
    match delivery.status:
        case DeliveryStatus.PENDING:
            lines.join(txn, delivery)
        case DeliveryStatus.PARKED:
            txn.put("parked", _key(delivery), b"")


def _name(txn: Transaction, delivery: Delivery) -> None:
    """It is found by its id."""
    name = keys.delivery_name(delivery.id)
    assert name is not None, delivery.id
    txn.put("delivery_ids", name, _key(delivery))


def next_due_ms(
    txn: Transaction,
    endpoint_id: str,
    url: str = "",
    *,
    with_repeats: bool = True,
    now_ms: int = _NEVER_MS,
) -> int | None:
    """When the endpoint's first delivery comes due, if it has any and that URL is not disabled.

    What has not failed was due when it came here: where that lies ahead, the clock was set back.
    """
    dues_ms = []
    for is_repeat in (False, True)[: 1 + with_repeats]:
        first = keys.outbox_key(endpoint_id, 0, 0, is_repeat=is_repeat)
        beyond = keys.outbox_key(endpoint_id, _NEVER_MS, 0, is_repeat=is_repeat)
        key = txn.first_key("outbox", first)
        if key is not None and key < beyond:
            due_ms = keys.due_ms_in(key)
            dues_ms.append(due_ms if is_repeat else min(due_ms, now_ms))
    state = endpoint_state(txn, endpoint_id)
    if not dues_ms or state.is_disabled(url):
        return None
    return max(min(dues_ms), state.pause_end_ms(url))


def claim(
    txn: Transaction,
    endpoint_id: str,
    limit: int,
    now_ms: int,
    batch: int = 1,
    url: str = "",
    repeats_max: int | None = None,
) -> Claim:
    """See ``Ledger.claim``."""
    due_ms = next_due_ms(txn, endpoint_id, url, with_repeats=repeats_max != 0, now_ms=now_ms)
    if due_ms is None or due_ms > now_ms:
        return Claim([], due_ms)
    most = limit if repeats_max is None else min(limit, repeats_max)
    stored, groups = _due(txn, endpoint_id, most, now_ms, batch, is_repeat=True)
    has_all_repeats = repeats_max is not None and len(stored) + len(groups) >= repeats_max
    rest = limit - len(stored) - len(groups)
    others, other_groups = _due(txn, endpoint_id, rest, now_ms, batch, is_repeat=False)
    begun: list[Delivery] = []
    room = _AT_ONCE
    for key in (*stored, *others):
        delivery = get(txn, endpoint_id, keys.sequence_in(key))
        room -= len(delivery.sequences)
        if room < 0 and begun:
            break  # which is due, and claimed next; so are the groups
        txn.delete("outbox", key)
        begun.append(_begin(txn, delivery, now_ms))
    for group in (*groups, *other_groups):
        room -= len(group)
        if room < 0 and begun:
            break
        begun.append(_begin(txn, _form_batch(txn, endpoint_id, group, now_ms), now_ms))
    with_repeats = not has_all_repeats
    due_ms = next_due_ms(txn, endpoint_id, url, with_repeats=with_repeats, now_ms=now_ms)
    if batch > 1 and not begun and due_ms is not None:
        due_ms = max(due_ms, now_ms + _HELD_BACK_MS)
    return Claim(begun, due_ms)


def _begin(txn: Transaction, delivery: Delivery, now_ms: int) -> Delivery:
    """As it is sent."""
    begun = begin_attempt(delivery, now_ms)
    txn.put("in_air", _key(begun), b"")
    _put(txn, begun)
    return batches.with_body(txn, begun) if begun.is_batch else begun


def _due(
    txn: Transaction, endpoint_id: str, limit: int, now_ms: int, batch: int, *, is_repeat: bool
) -> tuple[list[bytes], list[batches.Group]]:
    """So many at most, of those that failed before or of the others: the places of what goes as it
    is, and what is to go in a batch each.

    What is of a period that is being closed waits until there are enough of it, or it is closed.
    What was begun goes again as it was begun.
    """
    if not limit:
        return [], []
    first = keys.outbox_key(endpoint_id, 0, 0, is_repeat=is_repeat)
    until_ms = now_ms + 1 if is_repeat else _NEVER_MS  # see ``next_due_ms``
    later = keys.outbox_key(endpoint_id, until_ms, 0, is_repeat=is_repeat)
    stored: list[bytes] = []
    full: list[batches.Group] = []
    by_period: defaultdict[bytes, batches.Group] = defaultdict(list)
    for key, place in txn.forward("outbox", first, keys.endpoint_prefix(endpoint_id)):
        if key >= later:
            break
        if batch == 1 or not place:
            stored.append(key)
        else:
            group = by_period[place[: keys.PERIOD_BYTES]]
            group.append((key, place))
            if len(group) < batch:
                continue
            full.append(by_period.pop(place[: keys.PERIOD_BYTES]))
        if len(stored) + len(full) == limit or batch * len(full) >= _AT_ONCE:
            break
    rest = [group for period, group in by_period.items() if _is_closed(txn, period)]
    return stored, [*full, *rest][: limit - len(stored)]


def _form_batch(txn: Transaction, endpoint_id: str, group: batches.Group, now_ms: int) -> Delivery:
    state = endpoint_state(txn, endpoint_id)
    number = state.next_batch
    _put_state(txn, endpoint_id, msgspec.structs.replace(state, next_batch=number + 1))
    txn.delete_all("outbox", [key for key, _ in group])
    batch = batches.form(txn, endpoint_id, number, group, now_ms)
    _name(txn, batch)
    return batch


def _is_closed(txn: Transaction, period: bytes) -> bool:
    end_ms, kind = keys.period_in_place(period)
    found = txn.get("meta", keys.closed_key(kind))
    return records.read_number(found) >= end_ms


def settle(
    txn: Transaction,
    deliveries: Iterable[Delivery],
    attempts: Iterable[Attempt] = (),
    changes: Iterable[tuple[str, Change]] = (),
) -> None:
    """See ``Ledger.settle``."""
    for settled in deliveries:
        was_in_air = txn.delete("in_air", _key(settled))
        assert was_in_air, f"{settled.id} is settled, and was not begun"
        _put(txn, settled)
        if settled.status is DeliveryStatus.PARKED:
            for sequence in settled.sequences:
                txn.put("parked", keys.delivery_key(settled.endpoint_id, sequence), b"")
        lines.go_on(txn, settled)
    for attempt in attempts:
        attempt_log.write(txn, attempt)
    for endpoint_id, change in changes:
        change_endpoint(txn, endpoint_id, change)


def in_portions(
    deliveries: Iterable[Delivery], attempts: Iterable[Attempt]
) -> Iterator[tuple[list[Delivery], list[Attempt]]]:
    """What is settled in one transaction each, deliveries with their attempts."""
    of_delivery: defaultdict[tuple[str, int], list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        of_delivery[attempt.endpoint_id, attempt.sequence].append(attempt)
    portion: tuple[list[Delivery], list[Attempt]] = [], []
    room = _AT_ONCE
    for settled in deliveries:
        room -= len(settled.sequences)
        if room < 0 and portion[0]:
            yield portion
            portion, room = ([], []), _AT_ONCE - len(settled.sequences)
        portion[0].append(settled)
        portion[1].extend(of_delivery.pop((settled.endpoint_id, settled.sequence), ()))
    assert not of_delivery, f"attempts of what is not settled: {list(of_delivery)}"
    if portion[0]:
        yield portion


def send_again(txn: Transaction, delivery: Delivery, now_ms: int) -> Delivery:
    """The delivery as it is then; see ``Ledger.retry``.

    A batch goes as it was, unless one has left it; then the others do, too.
    """
    is_pending = delivery.status is DeliveryStatus.PENDING
    if delivery.is_batch and not is_pending:
        still_in = batches.still_in(txn, delivery)
        if len(still_in) < len(delivery.members):
            for sequence in still_in:
                one = get(txn, delivery.endpoint_id, sequence)
                send_again(txn, shown(txn, one), now_ms)
            return delivery
    batch = None if delivery.is_batch else batches.batch_of(txn, delivery)
    if batch is not None and is_pending:
        send_again(txn, batch, now_ms)
        return shown(txn, get(txn, delivery.endpoint_id, delivery.sequence))
    again = once_more(delivery, now_ms)
    if again is delivery:
        return delivery
    stood = txn.delete("outbox", lines.outbox_key(delivery))
    _put(txn, again)
    if not is_pending:
        batches.leave(txn, delivery)
        for sequence in delivery.sequences:
            txn.delete("parked", keys.delivery_key(delivery.endpoint_id, sequence))
        lines.join(txn, again)
    elif stood:  # else another goes before it, or is in the air
        lines.enqueue(txn, again)
    return again


def replay(txn: Transaction, delivery: Delivery, now_ms: int) -> None:
    """Sends it again, among all others of its period: what went in a batch goes in that once, with
    the first of it.
    """
    batch = batches.batch_of(txn, delivery)
    if batch is None or not batches.is_in(txn, batch, batch.sequences[0]):
        send_again(txn, delivery, now_ms)
    elif delivery.sequence == batch.sequences[0]:
        send_again(txn, batch, now_ms)


def recover(txn: Transaction, now_ms: int, limit: int) -> int:
    """Puts back so many that were in the air when the last process ended; how many it found."""
    found = list(islice(txn.keys_forward("in_air", b"", b""), limit))
    for key in found:
        payload = txn.get("deliveries", key)
        assert payload is not None, f"what is in the air is not there: {key!r}"
        begun = records.decode_delivery(payload)
        # An early meterd may have had two of a customer's in the air: the first may be queued.
        txn.delete("outbox", lines.outbox_key(begun))
        again = interrupted(begun, now_ms)
        settle(txn, [again], [attempt_interrupted(begun)])
    return len(found)


def get(txn: Transaction, endpoint_id: str, sequence: int) -> Delivery:
    """As it is written; what is in a batch has the state of that."""
    found = txn.get("deliveries", keys.delivery_key(endpoint_id, sequence))
    assert found is not None, f"there is no delivery {sequence} to {endpoint_id}"
    return records.decode_delivery(found)


def shown(txn: Transaction, delivery: Delivery) -> Delivery:
    """What was got, in the state that it has, with its body."""
    if delivery.is_batch:
        return batches.with_body(txn, delivery)
    batch = batches.batch_of(txn, delivery)
    return delivery if batch is None else as_batch(delivery, batch)


def find(txn: Transaction, delivery_id: str) -> Delivery | None:
    """The delivery of that id, in the state that it has."""
    name = keys.delivery_name(delivery_id)
    key = None if name is None else txn.get("delivery_ids", name)
    if key is None:
        return None
    return shown(txn, get(txn, key.split(keys.END, 1)[0].decode(), keys.sequence_in(key)))


def endpoint_state(txn: Transaction, endpoint_id: str) -> EndpointState:
    found = txn.get("endpoints", endpoint_id.encode())
    return EndpointState() if found is None else records.decode_endpoint_state(found)


def change_endpoint(txn: Transaction, endpoint_id: str, change: Change) -> None:
    _put_state(txn, endpoint_id, change(endpoint_state(txn, endpoint_id)))


def _put_state(txn: Transaction, endpoint_id: str, state: EndpointState) -> None:
    txn.put("endpoints", endpoint_id.encode(), records.encode(state))


def _put(txn: Transaction, delivery: Delivery) -> None:
    stored = msgspec.structs.replace(delivery, body=b"") if delivery.is_batch else delivery
    txn.put("deliveries", _key(delivery), records.encode(stored))


def _key(delivery: Delivery) -> bytes:
    return keys.delivery_key(delivery.endpoint_id, delivery.sequence)
