"""What commands print of a delivery, and where they look for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from meterd.delivery_history import curl_line, page_with, show_delivery, with_behind
from meterd.domain.errors import MeterdError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Daemon:
    """Answers as the API does, of a delivery with 250 attempts: the first two are not kept."""

    def __init__(self, held: Mapping[str, Any] | None = None) -> None:
        self.asked: list[tuple[str, int]] = []
        self._held = {} if held is None else {"held": held}

    def get(self, path: str, **parameters: str | int | None) -> Any:
        skip = int(parameters.get("skip") or 0)
        self.asked.append((path, skip))
        log = [{"number": number, "curl": f"curl {number}"} for number in range(3, 251)]
        end = max(len(log) - skip, 0)
        page = log[max(end - 100, 0) : end]
        return {"id": path, "attemptLog": page, "attemptsKept": len(log), **self._held}


@pytest.mark.parametrize(("number", "requests"), [(250, 1), (151, 1), (150, 2), (51, 2), (3, 3)])
def test_any_attempt_that_is_kept_has_its_curl_line(number: int, requests: int) -> None:
    """However many were made since; no more is asked for than it takes."""
    daemon = Daemon()
    assert curl_line(page_with(daemon, "/deliveries/x", number), number) == f"curl {number}"
    assert daemon.asked == [("/deliveries/x", 100 * page) for page in range(requests)]


@pytest.mark.parametrize("number", [2, 251])
def test_what_is_not_kept_is_an_error(number: int) -> None:
    with pytest.raises(MeterdError, match=f"attempt {number} is not in the log; there are "):
        curl_line(page_with(Daemon(), "/deliveries/x", number), number)


def test_what_waits_behind_another_is_listed_so() -> None:
    """Only of what nothing else holds it is looked up."""
    behind = {"reason": "behind", "message": "an earlier one goes first", "behind": "msg_1"}
    daemon = Daemon(behind)
    waits = {"id": "msg_2", "status": "pending", "nextAttemptAt": "2026-01-01T00:00:00.000Z"}
    others: list[dict[str, Any]] = [
        {"id": "msg_3", "status": "pending", "held": {"reason": "gone"}},
        {"id": "msg_4", "status": "pending", "attemptBegunAt": "2026-01-01T00:00:00.000Z"},
        {"id": "msg_5", "status": "delivered"},
    ]
    found = [dict(waits), *(dict(one) for one in others)]
    with_behind(daemon, found)
    assert found == [{"id": "msg_2", "status": "pending", "held": behind}, *others]
    assert daemon.asked == [("/deliveries/msg_2", 0)]


def test_an_attempt_with_a_batch_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    """And says where its curl line is: the body was the batch's."""
    with_batch = {"number": 2, "batch": "msg_b", "batchAttempt": 1, "startedAt": "2026-01-01"}
    found = {"id": "msg_1", "body": "{}", "attemptLog": [{"number": 1}, with_batch]}
    with pytest.raises(MeterdError) as caught:
        curl_line(found, 2)
    assert str(caught.value) == "sent with batch msg_b: meterd deliveries show msg_b --curl 1"
    show_delivery(found)
    lines = capsys.readouterr().out.splitlines()
    assert "attempt 1" in lines
    assert "attempt 2, batch msg_b attempt 1" in lines
