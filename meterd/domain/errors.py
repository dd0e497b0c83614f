"""Every failure of the world that an operator or a caller may meet, by name.

Refusals that a client is meant to meet (a bad field, a duplicate) are values, not exceptions; our
own mistakes are assertions. What stands here is the rest, and each docstring says what it means.
"""

from __future__ import annotations

from meterd.domain.instants import format_instant


class MeterdError(Exception):
    """A failure with a message for whoever runs meterd: what failed, and what to do about it."""


class NoAnswerError(MeterdError):
    """A meterd that was asked did not answer, or said that it cannot yet: what was sent may have
    been stored. It may be asked again, in ``retry_after_s`` where it said so.
    """

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ConfigError(MeterdError):
    """The configuration is not valid; the message names the place and what it takes."""


class StoreError(MeterdError):
    """The data folder cannot be used as it is."""


class CommitFailedError(MeterdError):
    """A transaction could not be made durable.

    Whether it is on disk is unknown until the store is opened again, so the daemon must end.
    """


class StoreGoneError(CommitFailedError):
    """The store's folder was deleted, moved or replaced: what is written has no place any more."""


class DiskFullError(MeterdError):
    """The disk has no room for more, and nothing of it was stored; the caller may come again."""


class OverloadedError(MeterdError):
    """More work is waiting than the limits allow; the caller may try again in a moment."""


class UnavailableError(MeterdError):
    """The ledger stopped before it could answer: the outcome is unknown, repeat the same events."""


class PrunedError(MeterdError):
    """What is asked for needs events that are not there any more; those that were received, or
    happened, from ``until_ms`` on are all there.
    """

    def __init__(self, until_ms: int) -> None:
        self.until_ms = until_ms
        super().__init__(f"events of before {format_instant(until_ms)} were pruned")


class CorruptRecordError(StoreError):
    """A stored record does not match its checksum; restore the folder from a backup."""


class ProofError(MeterdError):
    """What a proof holds does not lead to what it is to prove; the message names its line."""
