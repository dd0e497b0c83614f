"""Who has a place, and who goes so that another may come."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

import msgspec
import pytest

from meterd.edge.limits import Limits
from meterd.edge.room import SEARCH_EVERY_S, SEARCH_IN_VAIN_EVERY_S, Room

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMITS: Final = Limits(connections_max=6, connections_per_peer_max=3)


class Guest(msgspec.Struct):
    peer: str
    silent_since: float = 0.0
    idle: bool = True
    leaving: bool = False
    went: bool = False

    def give_way(self) -> None:
        self.went = True


class House:
    """A room and its guests, at an instant that each test sets."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.room = Room(limits)
        self.guests: list[Guest] = []
        self.now_s = 100.0
        self.looks = 0

    def comes(self, peer: str, since: float = 0.0, **state: bool) -> Guest | None:
        """The guest, if it is let in. Time goes on, so that it is looked for who may go."""
        self.now_s += SEARCH_EVERY_S
        if not self.room.take(peer, self._looked_at(), self.now_s):
            return None
        self.guests = [guest for guest in self.guests if not guest.went]
        self.guests.append(Guest(peer, since, **state))
        return self.guests[-1]

    def _looked_at(self) -> list[Guest]:
        self.looks += 1
        return self.guests


def test_a_peer_has_so_many_places() -> None:
    """And the others have theirs."""
    house = House()
    assert all(house.comes("a", idle=False) for _ in range(3))
    assert house.comes("a") is None
    assert all(house.comes("b", idle=False) for _ in range(3))
    assert house.comes("c") is None
    assert house.room.made == 0


def test_the_longest_idle_of_the_peer_goes() -> None:
    """Not another peer's, and nobody who is served."""
    house = House()
    guests = [house.comes("a", 3), house.comes("a", 2), house.comes("a", 1, idle=False)]
    other = house.comes("b", 0)
    assert house.comes("a", 9)
    assert [guest and guest.went for guest in (*guests, other)] == [False, True, False, False]
    assert house.comes("a", 9)
    assert [guest and guest.went for guest in (*guests, other)] == [True, True, False, False]
    assert house.room.made == 2


def test_the_longest_idle_of_all_goes_when_all_are_too_many() -> None:
    """Whosever it is."""
    house = House()
    older = [house.comes("a", 5), house.comes("b", 4), house.comes("c", 6)]
    for peer in ("a", "b", "c"):
        house.comes(peer, 7)
    assert house.comes("d", 8)
    assert [guest and guest.went for guest in older] == [False, True, False]


def test_who_was_served_a_moment_ago_stays_for_another_of_its_peer() -> None:
    """Its next request may be on its way; somebody else's newcomer is let in all the same."""
    house = House()
    guests = [house.comes("a", house.now_s) for _ in range(3)]
    assert house.comes("a") is None
    house.now_s += LIMITS.idle_for_own_s
    assert house.comes("a", house.now_s)
    for _ in range(3):
        house.comes("b", house.now_s)
    assert house.comes("c", house.now_s)
    assert [guest and guest.went for guest in guests] == [True, True, False]


def test_who_is_leaving_goes_first() -> None:
    """It has had its answer, and only waits for the client to read it."""
    house = House()
    guests = [house.comes("a", 1), house.comes("a", 5, idle=False, leaving=True)]
    house.comes("a", 2)
    assert house.comes("a", 9)
    assert [guest and guest.went for guest in guests] == [False, True]


def test_who_was_active_meanwhile_stays() -> None:
    """Although it was the longest idle when it was looked for."""
    house = House()
    first, second, third = (house.comes("a", since) for since in (1, 2, 3))
    assert first
    assert second
    assert third
    assert house.comes("a", 9)  # looks, and lets the first go
    assert first.went
    second.silent_since, second.idle = 10.0, True
    assert house.room.take("a", house.guests, house.now_s)
    assert (second.went, third.went) == (False, True)


def test_who_is_served_meanwhile_stays() -> None:
    """Although its first byte has come only now, and nothing was sent to it since."""
    house = House()
    first, second, third = (house.comes("a", since) for since in (1, 2, 3))
    assert first
    assert second
    assert third
    assert house.comes("a", 9)  # looks, and lets the first go
    second.idle = False
    assert house.room.take("a", house.guests, house.now_s)
    assert (second.went, third.went) == (False, True)


def test_a_place_that_is_given_back_is_there() -> None:
    """For the same peer and for others."""
    house = House()
    for _ in range(3):
        house.comes("a", idle=False)
    house.room.give_back("a")
    assert house.comes("a", idle=False)
    assert house.comes("a") is None


def test_a_flood_is_looked_through_seldom() -> None:
    """A thousand that come at one instant cost two looks at who is there, not a thousand."""
    guests = [Guest("a", since) for since in range(512)]

    class Counted(list[Guest]):
        looks = 0

        def __iter__(self) -> Iterator[Guest]:
            Counted.looks += 1
            return super().__iter__()

    held = Counted(guests)
    room = Room(Limits())
    assert all(room.take("a", held, 600.0) for _ in range(512))
    assert Counted.looks == 0
    let_in = sum(room.take("a", held, 600.0) for _ in range(1000))
    assert (let_in, Counted.looks) == (512, 1)
    assert not room.take("a", held, 600.0 + SEARCH_EVERY_S / 2)
    assert [guest.went for guest in guests] == [True] * 512


@pytest.mark.parametrize(
    ("limits", "every_s"),
    [
        (Limits(connections_per_peer_max=3), SEARCH_IN_VAIN_EVERY_S),
        (Limits(connections_max=3, connections_per_peer_max=3), SEARCH_EVERY_S),
    ],
    ids=["its own", "everybody's"],
)
def test_in_vain_a_peer_is_looked_through_more_seldom(limits: Limits, every_s: float) -> None:
    """Whose own may go when they have been idle for a second; where all are full others may."""
    house = House(limits)
    for _ in range(3):
        house.comes("a", idle=False)
    newcomer = "a" if limits.connections_max > 3 else "b"
    assert not house.room.take(newcomer, house.guests, 600.0)
    house.guests[0].idle = True
    assert not house.room.take(newcomer, house.guests, 600.0 + every_s - 0.01)
    assert house.room.take(newcomer, house.guests, 600.0 + every_s)


@pytest.mark.parametrize("seed", range(20))
def test_no_peer_has_more_than_its_places(seed: int) -> None:
    """Whoever comes, goes or falls silent, in any order."""
    chance = random.Random(seed)
    house = House()
    for _ in range(500):
        match chance.randrange(3):
            case 0:
                house.comes(chance.choice("abcd"), house.now_s, idle=chance.random() < 0.5)
            case 1 if house.guests:
                gone = house.guests.pop(chance.randrange(len(house.guests)))
                house.room.give_back(gone.peer)
                gone.silent_since = float("nan")
            case _ if house.guests:
                changed = chance.choice(house.guests)
                changed.idle, changed.silent_since = not changed.idle, house.now_s
            case _:
                pass
        counts = [sum(guest.peer == peer for guest in house.guests) for peer in "abcd"]
        assert max(counts) <= 3
        assert sum(counts) <= 6
