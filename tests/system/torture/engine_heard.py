"""What clients, receivers and operators of an engine's lives know: all that was said to them."""

from __future__ import annotations

import msgspec


class Listed(msgspec.Struct, frozen=True):
    """An event as it was shown when events were about to be pruned."""

    event_id: bytes
    is_void: bool


class Heard(msgspec.Struct):
    """See above; ``engine_life.Living`` says it. Of what has a number below ``forgotten_below``,
    keys may be forgotten, and it may be pruned if it was listed.
    """

    ready: bool = False
    acknowledged: set[int] = msgspec.field(default_factory=set)
    unknown: set[int] = msgspec.field(default_factory=set)
    refused: set[int] = msgspec.field(default_factory=set)
    voiding: set[int] = msgspec.field(default_factory=set)
    voided: set[int] = msgspec.field(default_factory=set)
    sent: dict[str, int] = msgspec.field(default_factory=dict)
    arrived: set[str] = msgspec.field(default_factory=set)
    delivered: set[str] = msgspec.field(default_factory=set)
    closed: set[tuple[str, int]] = msgspec.field(default_factory=set)
    told: set[str] = msgspec.field(default_factory=set)
    told_again: set[str] = msgspec.field(default_factory=set)
    forgotten_below: int = 0
    pruned_at_ms: int = 0
    listed: dict[int, Listed] = msgspec.field(default_factory=dict)

    def hear(self, said: bytes) -> None:
        """Adds what a child said; half a line was not said."""
        for line in said.decode().split("\n")[:-1]:
            word, *rest = line.split(" ")
            match word:
                case "ready":
                    self.ready = True
                case "acknowledged" | "unknown" | "refused" | "voiding" | "voided":
                    getattr(self, word).update(map(int, rest))
                case "sent" | "arrived":
                    self.sent[rest[0]] = int(rest[1])
                    if word == "arrived":
                        self.arrived.add(rest[0])
                case "delivered":
                    self.delivered.update(rest)
                case "asked":  # for each of these once more, or for all
                    self.delivered.difference_update(rest or self.delivered.copy())
                case "closed":
                    self.closed.add((rest[0], int(rest[1])))
                case "told":
                    self.told_again.update(self.told.intersection(rest))
                    self.told.update(rest)
                case "pruning":
                    self.forgotten_below, self.pruned_at_ms = int(rest[0]), int(rest[1])
                    self.listed.update(map(_listed, rest[2:]))
        self.unknown -= self.acknowledged
        self.refused -= self.acknowledged | self.unknown

    def copy(self) -> Heard:
        return msgspec.convert(msgspec.to_builtins(self), Heard)


def _listed(said: str) -> tuple[int, Listed]:
    number, event_id, is_void = said.split(":")
    return int(number), Listed(bytes.fromhex(event_id), is_void == "1")
