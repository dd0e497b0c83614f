"""Webhook endpoints: where closed aggregations are sent, by what id, signed with what.

An endpoint's id is part of the ids of its deliveries and shows in logs and metrics, so it must stay
the same between starts and tell no secret. Nothing here resolves a name or opens a connection.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import SplitResult, urlsplit

import msgspec

from meterd.domain.sections import (
    DESCRIPTION,
    Reader,
    Refused,
    Section,
    duration,
    flag,
    identifier,
    kind_of,
    quoted,
    shown,
    string,
    whole_number,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

ENDPOINTS_MAX: Final = 64  # each has up to SLOTS_MAX connections, and one for a test
ENDPOINT_ID_MAX: Final = 64  # as ``identifier`` takes them
NETWORKS_MAX: Final = 32
MASK: Final = "***"
URL_MAX: Final = 2048  # what proxies and servers commonly take
SECRET_MAX: Final = 256  # four times the longest key of Standard Webhooks 1.0.0
# Under this many characters a secret can be guessed from one captured delivery: Standard Webhooks
# asks for 24 bytes. Old receivers have what they have: shorter ones are pointed out, not refused.
SECRET_ADVISED: Final = 16
# How long after a failed attempt the next one follows: ten tries over three days, so that a
# receiver that breaks on a Friday evening is still waited for on Monday.
SCHEDULE_MS: Final = tuple(
    1000 * seconds for seconds in (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
)
SCHEDULE_MAX: Final = 32
_WAIT_MAX_MS: Final = 7 * 86_400_000
# Standard Webhooks 1.0.0 asks senders to wait 15 to 30 s.
DEADLINE_MS: Final = 15_000
_DEADLINE_MIN_MS: Final = 1000
_DEADLINE_MAX_MS: Final = 60_000
# Attempts in the air to one endpoint: few receivers take more.
SLOTS: Final = 4
SLOTS_MAX: Final = 16
# Aggregations in one POST: a megabyte where each has a few event types.
BATCH_MAX: Final = 1000
_HOST_SHOWN_MAX: Final = 40  # leaves an id within its 64 characters
# Tokens in paths have 20 characters or more; names of routes seldom do.
_TOKEN_CHARACTERS: Final = 20
_URL_TEXT: Final = re.compile(r"[!-~]+", re.ASCII)


class Endpoint(msgspec.Struct, frozen=True):
    """One receiver. Every secret signs; ``allow_private`` are the private ranges it may reach.

    ``schedule_ms`` are the waits between attempts, ``deadline_ms`` is what one attempt may take,
    and ``slots`` how many are made at once. ``batch`` aggregations of a period go together, if
    greater than 1.
    """

    id: str
    url: str
    secrets: tuple[str, ...]
    enabled: bool = True
    description: str = ""
    allow_private: tuple[Network, ...] = ()
    schedule_ms: tuple[int, ...] = SCHEDULE_MS
    deadline_ms: int = DEADLINE_MS
    slots: int = SLOTS
    batch: int = 1

    def __repr__(self) -> str:
        """Without the secrets: tracebacks and logs show values by their repr."""
        return f"Endpoint(id={self.id!r}, enabled={self.enabled})"


def configured_endpoints(
    root: Section, environ: Mapping[str, str], *, enabled: bool
) -> tuple[Endpoint, ...]:
    """The ``[[webhooks]]`` of the configuration, in their order; no two with one id.

    ``enabled`` says what a webhook is that does not say it itself.
    """
    found: dict[str, Endpoint] = {}
    for section in root.tables("webhooks", at_most=ENDPOINTS_MAX):
        section.refuse_unknown()
        url = section.required("url", endpoint_url, "")
        endpoint_id = section.option("id", identifier, "") or _derived_id(url, found)
        if endpoint_id in found:
            section.fault(f"{quoted(endpoint_id)} is the id of another endpoint", "id")
        found[endpoint_id] = Endpoint(
            endpoint_id,
            url,
            _secrets(section, environ),
            section.option("enabled", flag, enabled),
            section.option("description", DESCRIPTION, ""),
            section.each("allow_private", network, at_most=NETWORKS_MAX),
            _schedule(section),
            section.option(
                "deadline",
                duration(at_most_ms=_DEADLINE_MAX_MS, at_least_ms=_DEADLINE_MIN_MS),
                DEADLINE_MS,
            ),
            section.option("slots", whole_number(at_least=1, at_most=SLOTS_MAX), SLOTS),
            section.option("batch", whole_number(at_least=1, at_most=BATCH_MAX), 1),
        )
    return tuple(found.values())


def _derived_id(url: str, taken: Mapping[str, Endpoint]) -> str:
    """The URL's own id; a URL that is there twice, with two secrets perhaps, is numbered."""
    derived = id_of_url(url)
    same = sum(endpoint.url == url for endpoint in taken.values())
    return f"{derived}-{same + 1}" if same else derived


def _schedule(section: Section) -> tuple[int, ...]:
    if "schedule" not in section.values:
        return SCHEDULE_MS
    return section.each("schedule", duration(at_most_ms=_WAIT_MAX_MS), at_most=SCHEDULE_MAX)


def _secrets(section: Section, environ: Mapping[str, str]) -> tuple[str, ...]:
    match [name for name in ("secret", "secret_env") if name in section.values]:
        case ["secret"]:
            return section.option("secret", endpoint_secrets, ())
        case ["secret_env"]:
            return section.option("secret_env", _secrets_in(environ), ())
        case []:
            section.fault("secret is missing; or name an environment variable in secret_env")
        case _:
            section.fault("must not be given beside secret", "secret_env")
    return ()


def _secrets_in(environ: Mapping[str, str]) -> Reader[tuple[str, ...]]:
    def read(value: Any) -> tuple[str, ...]:
        names = value if isinstance(value, list) else [value]
        for name in names:
            if not isinstance(name, str):
                raise Refused(f"must name an environment variable, not {shown(name)}")
            if not environ.get(name):
                raise Refused(f"the environment variable {quoted(name)} is not set")
        return endpoint_secrets([environ[name] for name in names])

    return read


def endpoint_url(value: Any) -> str:
    """Reads an absolute http or https URL. Its text is never repeated: it may hold a password."""
    url = string(at_most=URL_MAX, secret=True)(value)
    if not _URL_TEXT.fullmatch(url):
        raise Refused(
            "must be ASCII without spaces: percent-encode the path, and write the host as xn--..."
        )
    parts = _split(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise Refused("must be an http:// or https:// URL with a host and a valid port")
    if "\\" in url:
        raise Refused("must not hold a backslash: programs disagree on which host is meant")
    if "@" in parts.netloc:
        raise Refused("must not hold a user name or password: the signature proves who sends")
    if "#" in url:
        raise Refused("must not hold a fragment (#...): it would not be sent")
    return url


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # a broken [IPv6] host, or a port that is no number up to 65535
        return None
    return None if port == 0 else parts


def endpoint_secrets(value: Any) -> tuple[str, ...]:
    """Reads one secret, or both of a rotation. They are never repeated in a message."""
    secrets = value if isinstance(value, list) else [value]
    if not 1 <= len(secrets) <= 2:
        raise Refused("must be one secret, or a list of two during a rotation")
    found = tuple(string(at_most=SECRET_MAX, secret=True)(secret) for secret in secrets)
    if len(set(found)) < len(found):
        raise Refused("must be two different secrets")
    return found


def network(value: Any) -> Network:
    """Reads an address range. That of every address would switch the guard off: it is refused."""
    if not isinstance(value, str):
        raise Refused(f"must be an address range such as 10.0.5.0/24, not {kind_of(value)}")
    try:
        found = ipaddress.ip_network(value)
    except ValueError as error:
        raise Refused(
            f"must be an address range such as 10.0.5.0/24, not {quoted(value)}" + _host_bits(value)
        ) from error
    if found.prefixlen == 0:
        raise Refused(f"must name a range, not every address ({found})")
    return found


def _host_bits(value: str) -> str:
    try:
        meant = ipaddress.ip_network(value, strict=False)
    except ValueError:
        return ""
    return f"; did you mean {meant}?"


def id_of_url(url: str) -> str:
    """``localhost-3000-1f2e3d4c``: the host and 32 bits of the whole URL's SHA-256.

    Adding or moving other endpoints does not change it. Path and query stay out: many receivers
    have their secret there.
    """
    parts = urlsplit(url)
    host = f"{parts.hostname}-{parts.port}" if parts.port else parts.hostname or ""
    shown = re.sub(r"[^a-z0-9.-]+", "-", host)[:_HOST_SHOWN_MAX].strip("-.")
    digest = hashlib.sha256(url.encode()).hexdigest()[:8]
    return f"{shown}-{digest}" if shown else f"endpoint-{digest}"


def masked_secret(secret: str) -> str:
    """``***`` and the last four characters, to tell two apart; of a short one not even those."""
    return MASK + (secret[-4:] if len(secret) >= 8 else "")


def masked_url(url: str) -> str:
    """The URL without what may be a token: values of its query, and long segments of its path."""
    address, mark, query = url.partition("?")
    scheme, _, rest = address.partition("://")
    host, *segments = rest.split("/")
    shown_path = [MASK if len(part) >= _TOKEN_CHARACTERS else part for part in segments]
    masked = f"{scheme}://{'/'.join((host, *shown_path))}"
    return masked + mark + "&".join(_masked_parameter(part) for part in query.split("&") if part)


def hidden_in(url: str) -> list[tuple[str, str]]:
    """What ``masked_url`` hides, each with the name of the parameter whose value it is, or none."""
    address, _, query = url.partition("?")
    _, *segments = address.partition("://")[2].split("/")
    found = [("", part) for part in segments if len(part) >= _TOKEN_CHARACTERS]
    for parameter in query.split("&"):
        name, equals, value = parameter.partition("=")
        found.append((name, value) if equals else ("", name))
    return [(name, part) for name, part in found if part]


def _masked_parameter(parameter: str) -> str:
    name, equals, _ = parameter.partition("=")
    return f"{name}={MASK}" if equals else MASK
