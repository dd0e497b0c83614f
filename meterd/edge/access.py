"""Who may do what: the key that a request presents, against the keys that are let in now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.edge import problems

if TYPE_CHECKING:
    from collections.abc import Callable

    from meterd.domain.credentials import Keyring, Scope
    from meterd.edge.problems import Answer


class Access:
    """``keyring`` gives the keys as they are at that moment: a reload may change them."""

    def __init__(self, keyring: Callable[[], Keyring]) -> None:
        self._keyring = keyring

    def refusal(self, scope: Scope, apikey: str | None, authorization: str) -> Answer | None:
        """None if the request may go on; ``x-apikey`` counts before ``Authorization: Bearer``."""
        key = self._keyring().authenticate(_presented(apikey, authorization))
        if key is None:
            return problems.UNAUTHORIZED
        if scope not in key.scopes:
            return problems.FORBIDDEN
        return None


def _presented(apikey: str | None, authorization: str) -> str:
    if apikey is not None:
        return apikey
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
