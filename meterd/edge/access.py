"""Who may do what: the key that a request presents, against the keys that are let in now."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import trio

from meterd.edge import problems
from meterd.edge.peers import peer_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from meterd.domain.credentials import Keyring, Scope
    from meterd.edge.peers import WrongKeys
    from meterd.edge.problems import Answer


class Access:
    """``keyring`` gives the keys as they are at that moment: a reload may change them."""

    def __init__(
        self,
        keyring: Callable[[], Keyring],
        wrong_keys: WrongKeys,
        now_s: Callable[[], float],
        kept_waiting_s: float = 0.0,
    ) -> None:
        self._keyring = keyring
        self._kept_waiting_s = kept_waiting_s
        self._wrong_keys = wrong_keys
        self._now_s = now_s

    def lets_in(self, scope: Scope, apikey: str | None, authorization: str) -> bool:
        """Whether ``refusal`` would let it in; counts nothing."""
        key = self._keyring().authenticate(_presented(apikey, authorization))
        return key is not None and scope in key.scopes

    def key_id(self, apikey: str | None, authorization: str) -> str | None:
        """Which key was presented, for the log; None for none, or one that is not known."""
        key = self._keyring().authenticate(_presented(apikey, authorization))
        return None if key is None else key.id

    def refusal(
        self, scope: Scope, apikey: str | None, authorization: str, host: str
    ) -> Answer | None:
        """None if the request may go on; ``x-apikey`` counts before ``Authorization: Bearer``.

        A wrong key, or none, is held against the address ``host`` that the request came from.
        """
        presented = _presented(apikey, authorization)
        key = self._keyring().authenticate(presented)
        if key is None:
            wait_s = self._wrong_keys.wait_s(peer_of(host), self._now_s())
            if wait_s:
                return problems.too_many_wrong_keys(wait_s)
            return problems.UNKNOWN_KEY if presented else problems.NO_KEY
        if scope not in key.scopes:
            return problems.forbidden(scope)
        return None

    async def refuse(
        self, scope: Scope, apikey: str | None, authorization: str, host: str
    ) -> Answer | None:
        """As ``refusal``; who has used up its wrong keys is kept waiting for the answer.

        So it asks no more often than it opens connections, and these are bounded for each peer.
        """
        refused = self.refusal(scope, apikey, authorization, host)
        if refused is not None and refused.status == HTTPStatus.TOO_MANY_REQUESTS:
            await trio.sleep(self._kept_waiting_s)
        return refused


def _presented(apikey: str | None, authorization: str) -> str:
    if apikey is not None:
        return apikey
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
