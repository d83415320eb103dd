"""A chat endpoint that speaks the OpenAI protocol: asked through the `openai` client, resumable, and silent about its key.

Answers are kept in the store under a hash of the question, so a run that was stopped asks only what is missing.  The API key is
read from the environment when a client is made and goes into one request header; it is in no record, message or file.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import SecretStr

from dm_utils.base.errors import ParameterError, check_range
from dm_utils.engine.store import Store

log = logging.getLogger(__name__)

#: Environment variables that may hold the key, in the order in which they are tried.
KEY_VARIABLES = ("DM_OPENAI_API_KEY", "OPENAI_API_KEY")
RETRIES = "x-stainless-retry-count"  # the client's count of tries before this one
#: All that a request says of itself: the client would add what it finds in the environment (organisation, custom headers).
HEADERS = {"host", "accept", "accept-encoding", "connection", "content-type", "content-length", "user-agent", RETRIES}

Answer = TypeVar("Answer")
Message = dict[str, str]


class EndpointError(RuntimeError):
    """The endpoint cannot be used as configured, gave no answer within the retries, or none that can be read."""


class MalformedAnswer(ValueError):
    """An answer came, but not one that the question allows."""


@dataclass(frozen=True)
class EndpointConfig:
    """Where and how to ask; nothing here is secret.

    Attributes
    ----------
    base_url : up to but without ``/chat/completions``, for example ``http://localhost:8000/v1``.
    model : the name under which the endpoint serves its model.
    concurrency : requests in flight at once.
    timeout : seconds to wait for the endpoint to send something.
    max_retries : tries after the first for lost connections, rate limits (429) and server errors (5xx); the client spaces them,
        or waits for as long as the endpoint asks, up to two minutes.
    malformed_retries : further tries when an answer cannot be read.
    malformed_limit : answers in a row, whatever the question, that cannot be read before the run stops.
    """

    base_url: str
    model: str
    concurrency: int = 4
    timeout: float = 60.0
    max_retries: int = 6
    malformed_retries: int = 1
    malformed_limit: int = 40

    def __post_init__(self) -> None:
        url = urlsplit(self.base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ParameterError(
                "the endpoint's base_url must look like 'https://host/v1'; the one given has no http(s) scheme or no host"
            )
        if "@" in url.netloc or url.query:
            raise ParameterError(
                "base_url must not carry a user name, a password or a query: they would be stored and printed; "
                f"put the key into the environment variable {KEY_VARIABLES[0]}"
            )
        if not self.model:
            raise ParameterError("model is empty; give the name under which the endpoint serves it")
        check_range("timeout", self.timeout, 0.001)
        for name, least in {"concurrency": 1, "max_retries": 0, "malformed_retries": 0, "malformed_limit": 1}.items():
            check_range(name, getattr(self, name), least, whole=True)


@dataclass
class Tally:
    """What happened so far; every count is shown in the chapter."""

    answered: int = 0  # valid answers, fresh or stored
    from_store: int = 0  # of these, read from the store
    sent: int = 0  # requests sent, retries included
    retried: int = 0  # of these, sent again after a lost connection, a server error or a rate limit
    rate_limited: int = 0  # rate limits met
    malformed: int = 0  # answers that could not be read
    gave_up: int = 0  # questions left without a valid answer because of that
    prompt_tokens: int = 0  # as reported by the endpoint
    completion_tokens: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, **counts: int) -> None:
        """Add to the counts; safe from any thread."""
        with self._lock:
            for name, n in counts.items():
                setattr(self, name, getattr(self, name) + n)

    def as_dict(self) -> dict[str, int]:
        """The counts, for a table."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}


class ChatEndpoint:
    """Asks chat questions of an OpenAI-compatible endpoint; safe to use from several threads.

    Parameters
    ----------
    config : EndpointConfig
    store : Store
        Where valid answers are kept.

    Raises
    ------
    EndpointError
        When the key cannot be a header, or would travel in clear: plain http to another machine.
    """

    def __init__(self, config: EndpointConfig, store: Store):
        from openai import DefaultHttpxClient, OpenAI

        self.config, self.store, self.tally = config, store, Tally()
        self._key = key_from_environment()
        self._unreadable = 0  # answers in a row
        url = urlsplit(config.base_url)
        here = _is_this_machine(str(url.hostname))
        if self._key and url.scheme == "http" and not here:
            raise EndpointError(
                f"refusing to send a key over plain http to {url.hostname}: use https, or unset "
                f"{' and '.join(KEY_VARIABLES)} if the endpoint needs none"
            )
        for name in ("openai", "httpcore2", "httpx2"):  # their debug records hold headers as an endpoint sent them
            logging.getLogger(name).setLevel(logging.WARNING)
        transport = DefaultHttpxClient(
            timeout=config.timeout,
            follow_redirects=False,  # a redirect would carry the key to another address
            trust_env=not here,  # a proxy of the environment would see the key of a server on this machine
            event_hooks={"request": [self._before], "response": [self._after]},
        )
        self._client = OpenAI(
            api_key="-", base_url=config.base_url, http_client=transport, max_retries=config.max_retries
        )

    def ask(self, messages: Sequence[Message], parse: Callable[[str], Answer], max_tokens: int) -> Answer | None:
        """The parsed answer, from the store if it was given before; None when every try was malformed.

        Parameters
        ----------
        messages : the conversation, ``{"role": ..., "content": ...}`` each.
        parse : turns the answer's text into what is wanted; raises `MalformedAnswer` when it cannot.
        max_tokens : upper limit on the answer's length.

        Raises
        ------
        EndpointError
            When the endpoint refuses the question or the key, does not answer within the retries, or gives nothing readable.
        """
        body = {"model": self.config.model, "messages": list(messages), "max_tokens": max_tokens, "temperature": 0.0}
        fresh: list[bool] = []

        def fetch() -> tuple[Any, None]:
            fresh.append(True)
            return {"text": self._readable(body, parse)}, None

        try:
            key = {"base_url": self.config.base_url.rstrip("/"), **body}
            data, _ = self.store.kept("chat", key, fetch, sources=())
        except MalformedAnswer as fault:
            log.info("no valid answer after %d tries: %s", self.config.malformed_retries + 1, fault)
            self.tally.add(gave_up=1)
            return None
        self.tally.add(answered=1, from_store=0 if fresh else 1)
        return parse(data["text"])

    def _readable(self, body: dict[str, Any], parse: Callable[[str], Any]) -> str:
        """Ask until an answer parses; the last fault when none does."""
        for tries_left in reversed(range(self.config.malformed_retries + 1)):
            try:
                text = self._answer(body)
                parse(text)
            except MalformedAnswer as fault:
                self._count_unreadable(str(fault))
                if not tries_left:
                    raise
            else:
                break
        self._unreadable = 0
        return text

    def _count_unreadable(self, reason: str) -> None:
        self.tally.add(malformed=1)
        self._unreadable += 1
        if self._unreadable >= self.config.malformed_limit:
            raise EndpointError(
                f"{self._unreadable} answers in a row from {self.config.base_url} could not be read, so nothing more is asked; "
                f"the last: {reason}. Another model may keep to the format that is asked for"
            )

    def _answer(self, body: dict[str, Any]) -> str:
        """The text of the endpoint's answer to one question; the client tries again what may pass."""
        import openai

        try:
            answer = self._client.chat.completions.create(**body)
        except openai.APIStatusError as fault:
            raise self._refusal(fault.status_code, fault.response) from None
        except openai.APIConnectionError as fault:
            raise self._silence(fault.request, type(fault.__cause__).__name__) from None
        except ValueError:
            raise MalformedAnswer("the body is not JSON") from None
        try:
            text, usage = answer.choices[0].message.content, answer.usage
        except (AttributeError, LookupError, TypeError):
            raise MalformedAnswer("the body is not a chat completion") from None
        if not isinstance(text, str):
            raise MalformedAnswer(f"the answer holds {type(text).__name__} instead of text")
        counts = {name: getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")}
        self.tally.add(**{name: n for name, n in counts.items() if isinstance(n, int)})
        return self._clean(text)

    def _refusal(self, status: int, response: Any) -> EndpointError:
        """What a status other than 200 means, and what to do."""
        where = self.config.base_url
        if status in (401, 403):
            state = "the key was refused" if self._key else "no key is set"
            return EndpointError(
                f"{where} answered HTTP {status} and {state}: put a valid key into the environment variable "
                f"{KEY_VARIABLES[0]} (or {KEY_VARIABLES[1]})"
            )
        wait = response.headers.get("Retry-After")
        asks = f" (it asks to wait: {wait})" if wait else ""
        what = self._clean(f"HTTP {status}{asks}: {response.text}")[:200]
        if status < 500 and status not in (408, 409, 429):
            return EndpointError(f"{where} refused the request for model {self.config.model!r}: {what}")
        return self._silence(response.request, what)

    def _silence(self, request: Any, last: str) -> EndpointError:
        tries = 1 + int(request.headers.get(RETRIES, 0))
        return EndpointError(
            f"{self.config.base_url} gave no answer after {tries} tries; the last: {last}. "
            "Answers so far are stored: run again to go on from there"
        )

    def _before(self, request: Any) -> None:
        """Send our key and nothing else of the environment; count."""
        for name in [name for name in request.headers if name.lower() not in HEADERS]:
            del request.headers[name]
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key.get_secret_value()}"
        self.tally.add(sent=1, retried=int(request.headers.get(RETRIES, "0") != "0"))

    def _after(self, response: Any) -> None:
        self.tally.add(rate_limited=int(response.status_code == 429))

    def _clean(self, text: str) -> str:
        """The text without the key, should an endpoint send it back."""
        return text.replace(self._key.get_secret_value(), "[key]") if self._key else text


def key_from_environment() -> SecretStr | None:
    """The key from the first of `KEY_VARIABLES` that is set; its value is never shown, not even in the error."""
    name = next((name for name in KEY_VARIABLES if os.environ.get(name, "").strip()), None)
    if name is None:
        return None
    key = os.environ[name].strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise EndpointError(
            f"the key in {name} holds a character that no key has (a space, line break or accent): set it anew"
        )
    return SecretStr(key)


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
