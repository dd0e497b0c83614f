"""Speaks to a meterd that runs, over its HTTP API, and to the receiver that a delivery is shown to.

What goes wrong is a MeterdError whose line says what to do. The environment's proxies are not used:
a key is for the meterd that is named, and for nobody between.
"""

from __future__ import annotations

import re
import ssl
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Self

import httpx
import msgspec

from meterd import __version__
from meterd.domain.errors import MeterdError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

# A test of a webhook takes its deadline, a minute at most.
_TIMEOUT_S: Final = 90.0
_FORWARD_TIMEOUT_S: Final = 30.0
# What the daemon's errors tell to ask for, as somebody at a shell does.
_COMMANDS: Final = {
    "GET /deliveries": "meterd deliveries list",
    "GET /webhooks": "meterd webhooks list",
}
_SCOPE: Final = re.compile('scope="([a-z]+)"')


class _Closing:
    """To be used in a ``with``."""

    _http: httpx.Client

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._http.close()


class Client(_Closing):
    """One meterd."""

    def __init__(self, url: str, key: str) -> None:
        """Raises MeterdError for what is no URL or no key."""
        if not key.isascii() or not key.isprintable():
            raise MeterdError("an API key is of visible ASCII characters: look at METERD_API_KEY")
        self._url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=_http_url(self._url),
            headers={"x-apikey": key, "User-Agent": f"meterd/{__version__}"},
            timeout=_TIMEOUT_S,
            trust_env=False,
            verify=ssl.create_default_context(),
        )

    def get(self, path: str, **parameters: str | int | None) -> Any:
        """The content of the answer. Parameters that are None are left out."""
        return msgspec.json.decode(self.get_text(path, **parameters))

    def get_text(self, path: str, **parameters: str | int | None) -> bytes:
        """As it was sent."""
        given = {name: value for name, value in parameters.items() if value is not None}
        return self._content(self._ask("GET", path, params=given or None))

    def post(self, path: str, content: Mapping[str, Any] | None = None) -> Any:
        """The content of the answer."""
        body = b"" if content is None else msgspec.json.encode(content)
        return msgspec.json.decode(self._content(self._ask("POST", path, content=body)))

    def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **options)
        except httpx.TimeoutException as error:
            raise MeterdError(f"{self._url} did not answer in time") from error
        except httpx.HTTPError as error:
            raise MeterdError(
                f"no meterd answers at {self._url} ({error}): is it running? --url says where"
            ) from error

    def _content(self, answer: httpx.Response) -> bytes:
        if answer.status_code == HTTPStatus.OK:
            return answer.content
        if answer.status_code == HTTPStatus.UNAUTHORIZED:
            raise MeterdError(
                f"{self._url} does not know the key: give another with METERD_API_KEY or --key"
            )
        if answer.status_code == HTTPStatus.FORBIDDEN:
            raise MeterdError(
                f"the key lacks the scope {_scope(answer)}: read is for looking, admin for all that"
                " sends or changes something; meterd keys create makes another"
            )
        raise MeterdError(_error(answer))


def _http_url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError) as error:
        raise MeterdError(f"--url must be a URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise MeterdError(f"--url must be http:// or https:// and a host, not {text}")
    return url


def _error(answer: httpx.Response) -> str:
    try:
        error = str(msgspec.json.decode(answer.content)["error"])
    except (msgspec.DecodeError, UnicodeDecodeError, LookupError, TypeError):
        line = f"HTTP {answer.status_code} {answer.reason_phrase}"
        return f"{line}: {answer.url.host} is no meterd, or an older one"
    for request, command in _COMMANDS.items():
        error = error.replace(f": {request} lists them", f"; {command} shows them")
    return error


def _scope(answer: httpx.Response) -> str:
    named = _SCOPE.search(answer.headers.get("WWW-Authenticate", ""))
    return "that is needed" if named is None else named[1]


class Receiver(_Closing):
    """Where deliveries are forwarded to. Redirects are not followed, as meterd follows none."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._http = httpx.Client(
            timeout=_FORWARD_TIMEOUT_S, trust_env=False, verify=ssl.create_default_context()
        )

    def post(self, headers: Mapping[str, str], body: bytes) -> str:
        """What came of it, in a line."""
        try:
            answer = self._http.post(self._url, headers=dict(headers), content=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return f"not received: {str(error) or type(error).__name__}"
        return f"{answer.status_code} {answer.reason_phrase}".rstrip()
