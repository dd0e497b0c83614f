"""Asking again: how long, how often, and what is said meanwhile."""

from __future__ import annotations

import pytest

from meterd.domain.errors import MeterdError, NoAnswerError
from meterd.patience import Patience


class Waiting:
    """A clock that a sleep moves, and what was said."""

    def __init__(self, limit_s: float) -> None:
        self.now_s = 100.0
        self.slept: list[float] = []
        self.said: list[str] = []
        self.patience = Patience(limit_s, self.said.append, self._sleep, lambda: self.now_s)

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds

    def ask(self, failures: int, retry_after_s: float = 0.0) -> str:
        left = [NoAnswerError("refused", retry_after_s)] * failures

        def answer() -> str:
            if left:
                raise left.pop()
            return "answer"

        return self.patience.until_answered(answer)


def test_an_answer_at_once_is_nothing_to_tell() -> None:
    """Nobody waits, and nothing is said."""
    waiting = Waiting(60)
    assert waiting.ask(0) == "answer"
    assert (waiting.slept, waiting.said) == ([], [])


def test_it_is_asked_again_ever_less_often() -> None:
    """From a fifth of a second to five seconds; said once, and that it goes on."""
    waiting = Waiting(60)
    assert waiting.ask(7) == "answer"
    assert waiting.slept == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert waiting.said == ["waiting, 1m at most: refused", "going on"]


def test_as_long_as_it_is_told_to_wait() -> None:
    """Where that is longer."""
    waiting = Waiting(60)
    waiting.ask(2, retry_after_s=30)
    assert waiting.slept == [30, 30]


def test_patience_ends() -> None:
    """Not before its time, and not after; each answer begins it anew."""
    waiting = Waiting(12)
    for _ in range(2):
        assert waiting.ask(4) == "answer"
    with pytest.raises(MeterdError, match=r"^refused \(tried 12s\)$"):
        waiting.ask(100)
    assert sum(waiting.slept[8:]) == pytest.approx(12)
    impatient = Waiting(0)
    with pytest.raises(MeterdError, match="refused"):
        impatient.ask(1)
    assert impatient.slept == []


def test_other_failures_are_nothing_to_wait_for() -> None:
    """A wrong key gets no better."""
    waiting = Waiting(60)

    def refuse() -> str:
        raise MeterdError("does not know the key")

    with pytest.raises(MeterdError, match="does not know the key"):
        waiting.patience.until_answered(refuse)
    assert waiting.slept == []
