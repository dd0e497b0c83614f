"""Speaks to a meterd that runs, over its HTTP API, and to the receiver that a delivery is shown to.

What goes wrong is a MeterdError whose line says what to do. The environment's proxies are not used:
a key is for the meterd that is named, and for nobody between.
"""

from __future__ import annotations

import re
import ssl
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, TypeAlias

import httpx
import msgspec

from meterd import __version__
from meterd.domain.errors import MeterdError, NoAnswerError
from meterd.trust import client_context

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

# A test of a webhook takes its deadline, a minute at most.
_TIMEOUT_S: Final = 90.0
_FORWARD_TIMEOUT_S: Final = 30.0
# Somebody watches: what was repaired meanwhile is to be noticed.
_RETRY_AFTER_MAX_S: Final = 30.0
# What the daemon's errors tell to ask for, as somebody at a shell does.
_COMMANDS: Final = {
    "GET /deliveries": "meterd deliveries list",
    "GET /events": "meterd events",
    "GET /webhooks": "meterd webhooks list",
}
_DONE: Final = (HTTPStatus.OK, HTTPStatus.CREATED)
_OF_THE_KEY: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
# Of a meterd that starts or has more than it can take, or of a proxy in front of none.
_TRANSIENT: Final = (
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
    HTTPStatus.INSUFFICIENT_STORAGE,
)
_SCOPE: Final = re.compile('scope="([a-z]+)"')


# One that is given several times is a sequence; None is left out.
Parameter: TypeAlias = "str | int | Sequence[str] | None"


class Page(NamedTuple):
    """A part of a long answer, as it was sent."""

    content: bytes
    # Of the page that follows; None where there is none.
    cursor: str | None
    # From which moment on all events are there, where some of before are not.
    pruned_until: str | None


class Answered(NamedTuple):
    """What was answered, whatever it is."""

    status: int
    content: bytes


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

    def __init__(self, url: str, key: str | None) -> None:
        """Raises MeterdError for what is no URL or no key. What needs none is asked without."""
        if key is not None and not (key.isascii() and key.isprintable()):
            raise MeterdError("an API key is of visible ASCII characters: look at METERD_API_KEY")
        self.url = url.rstrip("/")
        self.has_key = key is not None
        shown = {} if key is None else {"x-apikey": key}
        self._http = httpx.Client(
            base_url=_http_url(self.url),
            headers={**shown, "User-Agent": f"meterd/{__version__}"},
            timeout=_TIMEOUT_S,
            trust_env=False,
            verify=client_context(),
        )

    def get(self, path: str, **parameters: str | int | None) -> Any:
        """The content of the answer. Parameters that are None are left out."""
        return msgspec.json.decode(self.get_text(path, **parameters))

    def get_text(self, path: str, **parameters: str | int | None) -> bytes:
        """As it was sent."""
        return self._content(self._ask("GET", path, params=_given(parameters)))

    def page(self, path: str, **parameters: Parameter) -> Page:
        """Of a long answer. Parameters that are None are left out."""
        answer = self._ask("GET", path, params=_given(parameters))
        content = self._content(answer)
        following = answer.links.get("next", {}).get("url")
        cursor = None if following is None else httpx.URL(following).params["cursor"]
        return Page(content, cursor, answer.headers.get("Meterd-Pruned-Until"))

    def pages(self, path: str, **parameters: Parameter) -> Iterator[Page]:
        """All of a long answer, from where it is asked for."""
        cursor = parameters.pop("cursor", None)
        while True:
            page = self.page(path, cursor=cursor, **parameters)
            yield page
            if (cursor := page.cursor) is None:
                return

    def look(self, path: str) -> Answered:
        """Whatever is answered."""
        answer = self._ask("GET", path)
        return Answered(answer.status_code, answer.content)

    def send(self, path: str, body: bytes, **headers: str) -> Answered:
        """Whatever is answered to what was sent. Raises MeterdError where the key may not send, and
        NoAnswerError where it is to be sent again.
        """
        answer = self._ask("POST", path, content=body, headers=headers)
        if answer.status_code in (*_OF_THE_KEY, *_TRANSIENT):
            self._content(answer)
        return Answered(answer.status_code, answer.content)

    def post(self, path: str, content: Mapping[str, Any] | None = None) -> Any:
        """The content of the answer."""
        body = b"" if content is None else msgspec.json.encode(content)
        return msgspec.json.decode(self._content(self._ask("POST", path, content=body)))

    def change(self, path: str, content: Mapping[str, Any]) -> Answered:
        """As ``post``, with the status: 201 where it was done now, 200 where it was done before."""
        answer = self._ask("POST", path, content=msgspec.json.encode(content))
        return Answered(answer.status_code, self._content(answer))

    def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **options)
        except httpx.TimeoutException as error:
            raise NoAnswerError(f"{self.url} did not answer in time") from error
        except httpx.HTTPError as error:
            if (why := _mistrust(error)) is not None:
                raise MeterdError(
                    f"the certificate of {self.url} is not trusted ({why}): name the authority's"
                    " file in SSL_CERT_FILE, or with --url the host that it is for"
                ) from error
            raise NoAnswerError(
                f"no meterd answers at {self.url} ({error}): is it running? --url says where"
            ) from error

    def _content(self, answer: httpx.Response) -> bytes:
        if answer.status_code in _DONE:
            return answer.content
        if answer.status_code == HTTPStatus.UNAUTHORIZED:
            raise MeterdError(
                f"{self.url} does not know the key: give another with METERD_API_KEY or --key"
            )
        if answer.status_code == HTTPStatus.FORBIDDEN:
            raise MeterdError(
                f"the key lacks the scope {_scope(answer)}: read is for looking, ingest for sending"
                " events, admin for all else that sends or changes something; meterd keys create"
                " makes another"
            )
        if answer.status_code in _TRANSIENT:
            raise _later(answer)
        raise MeterdError(_error(answer))


def check_health(url: str, timeout_s: float) -> None:
    """Raises MeterdError unless a meterd answers there in time. Its certificate is not judged."""
    target = _http_url(f"{url.rstrip('/')}/healthz")
    try:
        answer = httpx.get(target, timeout=timeout_s, trust_env=False, verify=_unjudged())
    except httpx.TimeoutException as error:
        raise NoAnswerError(f"{url} did not answer in time") from error
    except httpx.HTTPError as error:
        raise NoAnswerError(f"no meterd answers at {url} ({error})") from error
    if answer.status_code != HTTPStatus.OK:
        raise MeterdError(f"{target}: HTTP {answer.status_code}")


def _unjudged() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _given(parameters: Mapping[str, Parameter]) -> dict[str, str | int | Sequence[str]] | None:
    return {name: value for name, value in parameters.items() if value is not None} or None


def _mistrust(error: BaseException | None) -> str | None:
    """What is wrong with the certificate, if that is what httpx has failed of."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return None if error is None else error.verify_message


def _later(answer: httpx.Response) -> NoAnswerError:
    wait = answer.headers.get("Retry-After", "")
    wait_s = float(wait) if wait.isascii() and wait.isdigit() else 0.0
    return NoAnswerError(_error(answer), min(wait_s, _RETRY_AFTER_MAX_S))


def _http_url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError) as error:
        raise MeterdError(f"--url must be a URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise MeterdError(f"--url must be http:// or https:// and a host, not {text}")
    return url


def error_in(content: bytes) -> str | None:
    """What an answer of meterd's says is wrong."""
    try:
        return str(msgspec.json.decode(content)["error"])
    except (msgspec.DecodeError, UnicodeDecodeError, LookupError, TypeError):
        return None


def _error(answer: httpx.Response) -> str:
    error = error_in(answer.content)
    if error is None:
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
            timeout=_FORWARD_TIMEOUT_S, trust_env=False, verify=client_context()
        )

    def post(self, headers: Mapping[str, str], body: bytes) -> str:
        """What came of it, in a line."""
        try:
            answer = self._http.post(self._url, headers=dict(headers), content=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return f"not received: {str(error) or type(error).__name__}"
        return f"{answer.status_code} {answer.reason_phrase}".rstrip()
