"""What a configuration allows and its writer probably did not mean."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from meterd.domain.endpoints import SECRET_ADVISED
from meterd.domain.reachable import refusal
from meterd.domain.signatures import is_standard

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meterd.domain.config import Config
    from meterd.domain.endpoints import Endpoint

_VERIFIED_WITH: Final = (("secret", "only X-Webhook-Signature"), ("second secret", "nothing"))


def advice(config: Config) -> list[str]:
    """What is allowed and probably not meant, one line each."""
    found = []
    if not config.events:
        found.append("no event types: every event is answered with 503")
    if not config.periods:
        found.append("no periods: nothing is aggregated and no webhook is sent")
    if not config.server.has_tls and not _is_of_this_machine(config.server.host):
        found.append(
            f"address {config.server.bind}: without TLS, keys and events can be read on their way:"
            " set tls_certificate, or let none but a proxy with TLS reach it"
        )
    if config.alerts and not any(endpoint.enabled for endpoint in config.webhooks):
        found.append("alerts, and no enabled webhook: nobody is told")
    found += [
        f"webhook {endpoint.id}: {unreachable}"
        for endpoint in config.webhooks
        if endpoint.enabled and (unreachable := _unreachable(endpoint)) is not None
    ]
    found += [
        f"webhook {endpoint.id}: a secret under {SECRET_ADVISED} characters can be guessed"
        for endpoint in config.webhooks
        if any(len(secret) < SECRET_ADVISED for secret in endpoint.secrets)
    ]
    found += [
        f"webhook {endpoint.id}: {which}: not whsec_ and the base64 of 24 to 64 bytes:"
        f" {what} can be verified with it"
        for endpoint in config.webhooks
        # The first secret alone signs X-Webhook-Signature.
        for secret, (which, what) in zip(endpoint.secrets, _VERIFIED_WITH, strict=False)
        if not is_standard(secret)
    ]
    return found


def no_longer_published(before: Iterable[str], after: Config) -> list[str]:
    """The event types that a configuration takes out, in their order: what was acknowledged of them
    in periods that are open stays counted, and is on no bill unless they are put back in time.
    """
    return [name for name in before if name not in after.events]


def _is_of_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _unreachable(endpoint: Endpoint) -> str | None:
    """Why an endpoint whose address is written out is refused; a name is judged when it is sent."""
    host = urlsplit(endpoint.url).hostname or ""
    try:
        # Both are what most systems say of that name, and one that is refused refuses it.
        texts = ("127.0.0.1", "::1") if host == "localhost" else (host,)
        addresses = [ipaddress.ip_address(text) for text in texts]
    except ValueError:
        return None
    refused = (refusal(address, endpoint, addresses) for address in addresses)
    return next(filter(None, refused), None)
