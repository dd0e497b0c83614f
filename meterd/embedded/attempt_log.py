"""Every attempt that was made, until it is too old, the log too large, or the delivery's thousand
next ones were made.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from meterd.embedded import keys, records

if TYPE_CHECKING:
    from meterd.domain.deliveries import Attempt
    from meterd.embedded.transaction import Transaction

_PAGE_BYTES: Final = 4096
# A receiver that asks to come back each second is asked 86,400 times a day, and spends nothing.
OF_DELIVERY_MAX: Final = 1000


def write(txn: Transaction, attempt: Attempt) -> None:
    """In the transaction that settles it. One that was made so many before it is forgotten."""
    _forget(txn, attempt.endpoint_id, attempt.sequence, attempt.number - OF_DELIVERY_MAX)
    key = keys.attempt_key(attempt.endpoint_id, attempt.sequence, attempt.number)
    txn.put("attempts", key, records.encode(attempt))
    txn.put("attempts_by_time", attempt.begun_ms.to_bytes(8, "big") + key, b"")


def of_number(txn: Transaction, endpoint_id: str, sequence: int) -> list[Attempt]:
    """Those of that delivery, or batch, that are still there, the earliest first."""
    prefix = keys.delivery_key(endpoint_id, sequence)
    return [
        records.decode_attempt(payload) for _, payload in txn.forward("attempts", prefix, prefix)
    ]


def has_to_forget(txn: Transaction, *, before_ms: int, bytes_max: int) -> bool:
    """Whether ``prune`` would find any."""
    first = txn.first_key("attempts_by_time", b"")
    if first is None:
        return False
    return _begun_ms(first) < before_ms or _size_bytes(txn) > bytes_max


def prune(txn: Transaction, *, before_ms: int, bytes_max: int, limit: int) -> int:
    """Forgets up to ``limit`` attempts begun before then, and of a log that is too large the
    earliest; how many.
    """
    is_too_large = _size_bytes(txn) > bytes_max
    forgotten = 0
    for key in list(islice(txn.keys_forward("attempts_by_time", b"", b""), limit)):
        if not is_too_large and _begun_ms(key) >= before_ms:
            break
        txn.delete("attempts_by_time", key)
        txn.delete("attempts", key[8:])
        forgotten += 1
    return forgotten


def _forget(txn: Transaction, endpoint_id: str, sequence: int, number: int) -> None:
    if number < 1:
        return
    key = keys.attempt_key(endpoint_id, sequence, number)
    if (found := txn.get("attempts", key)) is not None:
        begun_ms = records.decode_attempt(found).begun_ms
        txn.delete("attempts_by_time", begun_ms.to_bytes(8, "big") + key)
        txn.delete("attempts", key)


def _begun_ms(by_time: bytes) -> int:
    return int.from_bytes(by_time[:8], "big")


def _size_bytes(txn: Transaction) -> int:
    return (txn.pages("attempts") + txn.pages("attempts_by_time")) * _PAGE_BYTES
